//! How a call into a module can break, and whose fault each way is.

use wasmtime::Trap as Code;

use crate::HostError;

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
    /// It called itself too deep. Never in metered calls, where fuel ends first.
    #[error("the stack is used up")]
    StackOverflow,
    /// It panicked, handed over malformed data, or did something else that
    /// WebAssembly stops.
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
            Self::StackOverflow => "stack-overflow",
            Self::Broken => "module-trap",
        }
    }
}

/// Whose fault one of wasmtime's codes is: the module's, which is a function of
/// state and item, or this machine's. `None` for a code that nobody has looked at.
fn fault(code: Code, metered: bool) -> Option<Result<Trap, HostError>> {
    let broken = Ok(Trap::Broken);
    let machine = || {
        Err(HostError(format!(
            "{code}, which cannot be in a metered call"
        )))
    };
    Some(match code {
        Code::OutOfFuel => Ok(Trap::OutOfFuel),
        // How deep the native stack reaches depends on the compiler: in a metered
        // call the count of calls ends first, or guardians could differ.
        Code::StackOverflow if metered => machine(),
        Code::StackOverflow => Ok(Trap::StackOverflow),
        // The clock.
        Code::Interrupt if metered => machine(),
        Code::Interrupt => Ok(Trap::OutOfTime),
        // What WebAssembly defines.
        Code::MemoryOutOfBounds
        | Code::TableOutOfBounds
        | Code::IndirectCallToNull
        | Code::BadSignature
        | Code::IntegerOverflow
        | Code::IntegerDivisionByZero
        | Code::BadConversionToInteger
        | Code::UnreachableCodeReached
        | Code::NullReference => broken,
        // What the canonical ABI defines.
        Code::CannotEnterComponent
        | Code::CannotLeaveComponent
        | Code::InvalidChar
        | Code::StringOutOfBounds
        | Code::ListOutOfBounds
        | Code::InvalidDiscriminant
        | Code::UnalignedPointer => broken,
        // Proposals that the engines do not have, async, and assertions of
        // wasmtime's own.
        Code::HeapMisaligned
        | Code::AtomicWaitNonSharedMemory
        | Code::ArrayOutOfBounds
        | Code::AllocationTooLarge
        | Code::CastFailure
        | Code::NoAsyncResult
        | Code::UnhandledTag
        | Code::ContinuationAlreadyConsumed
        | Code::DisabledOpcode
        | Code::AsyncDeadlock
        | Code::CannotBlockSyncTask
        | Code::DebugAssertStringEncodingFinished
        | Code::DebugAssertEqualCodeUnits
        | Code::DebugAssertPointerAligned
        | Code::DebugAssertUpperBitsUnset
        | Code::TaskCancelNotCancelled
        | Code::TaskCancelOrReturnTwice
        | Code::SubtaskCancelAfterTerminal
        | Code::TaskReturnInvalid
        | Code::WaitableSetDropHasWaiters
        | Code::SubtaskDropNotResolved
        | Code::ThreadNewIndirectInvalidType
        | Code::ThreadNewIndirectUninitialized
        | Code::BackpressureOverflow
        | Code::UnsupportedCallbackCode
        | Code::CannotResumeThread
        | Code::ConcurrentFutureStreamOp
        | Code::ReferenceCountOverflow
        | Code::StreamOpTooBig
        | Code::WaitableSyncAndAsync
        | Code::UncaughtException => machine(),
        _ => return None,
    })
}

/// What became of a call that did not return.
///
/// # Errors
/// The cause lies outside state and item.
pub(crate) fn classify(error: wasmtime::Error, metered: bool) -> Result<Trap, HostError> {
    let error = match error.downcast::<Stop>() {
        Ok(Stop::Trap(trap)) => return Ok(trap),
        Ok(Stop::Host(error)) => return Err(error),
        Err(error) => error,
    };
    if let Some(code) = error.downcast_ref::<Code>() {
        return fault(*code, metered).unwrap_or_else(|| {
            Err(HostError(format!(
                "a trap that this version does not know: {code}"
            )))
        });
    }
    if error.is::<wasmtime::OutOfMemory>() || error.is::<wasmtime::WasmtimeBug>() {
        return Err(HostError::new(format!("{error:#}")));
    }
    // What is left comes from reading what the module handed over: text that is no
    // UTF-8, a list outside its memory, more bytes than one call may hand over.
    Ok(Trap::Broken)
}

/// How an import ends a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error(transparent)]
    Trap(#[from] Trap),
    #[error(transparent)]
    Host(#[from] HostError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_this_wasmtime_has_been_looked_at() {
        for code in (0..=u8::MAX).filter_map(Code::from_u8) {
            for metered in [true, false] {
                assert!(fault(code, metered).is_some(), "{code:?}");
            }
        }
    }

    #[test]
    fn what_depends_on_the_machine_is_never_a_modules_fault_in_a_metered_call() {
        for code in [Code::StackOverflow, Code::Interrupt] {
            assert!(matches!(fault(code, true), Some(Err(_))), "{code:?}");
        }
    }
}
