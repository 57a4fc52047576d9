//! The engines.

use std::sync::Arc;

/// The engines could not be set up on this machine.
#[derive(Debug, thiserror::Error)]
#[error("the module runtime cannot start: {0}")]
pub struct EngineError(pub(crate) String);

/// What compiles and runs bundles: an engine for what is metered and agreed upon,
/// and one with time limits for queries and wallets.
#[derive(Debug)]
pub struct Engines {}

impl Engines {
    /// For guardians: both engines.
    ///
    /// # Errors
    /// Says what the machine does not give, memory reservations mostly.
    pub fn new() -> Result<Arc<Self>, EngineError> {
        panic!("not written yet")
    }

    /// For wallets and tools: without the consensus engine, so that bundles
    /// compile once. Consensus calls are host errors.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn wallet() -> Result<Arc<Self>, EngineError> {
        panic!("not written yet")
    }
}

/// A hash of all that can change a metered call's result or price.
pub fn runtime_hash() -> [u8; 32] {
    panic!("not written yet")
}
