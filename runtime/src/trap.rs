//! How a call into a module can break.

/// Why a module was stopped. Codes are stable; they may stand in consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Trap {
    /// It used up its fuel.
    #[error("out of fuel")]
    OutOfFuel,
    /// It used up its time. Never in metered calls.
    #[error("out of time")]
    OutOfTime,
    /// It called an import that its phase does not have.
    #[error("an import was called out of phase")]
    OutOfPhase,
    /// It broke a rule of an import: an unknown key label, a storage key or value
    /// too long, a hash of the wrong length.
    #[error("an import was called with what the contract does not allow")]
    BadArgument,
    /// It handed over more bytes or handles than one call may.
    #[error("more data than one call may hand over")]
    TooMuchData,
    /// It called itself too deep. Never in metered calls, where fuel ends first.
    #[error("the stack is used up")]
    StackOverflow,
    /// It panicked, or did something else that WebAssembly stops.
    #[error("the module's own code broke")]
    Broken,
}

impl Trap {
    /// Stable, kebab-case.
    pub const fn code(self) -> &'static str {
        match self {
            Self::OutOfFuel => "out-of-fuel",
            Self::OutOfTime => "out-of-time",
            Self::OutOfPhase => "out-of-phase",
            Self::BadArgument => "bad-import-argument",
            Self::TooMuchData => "too-much-data",
            Self::StackOverflow => "stack-overflow",
            Self::Broken => "module-trap",
        }
    }
}
