//! The one admission check.

/// What the static check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// It exports what guardians load.
    pub has_server: bool,
    /// It exports what wallets load.
    pub has_client: bool,
    /// It holds the wallet's money.
    pub has_ecash: bool,
    /// What the component is able to do, in words, from its imports alone.
    pub capabilities: Vec<String>,
}

/// Why a bundle is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// More bytes than a bundle may have.
    #[error("the bundle has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// What was given, in bytes.
        size: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
}

/// Checks a bundle without running it.
///
/// # Errors
/// Names the import, export, function, size or field that is wrong.
pub fn admit(_bytes: &[u8]) -> Result<Admission, AdmitError> {
    panic!("not written yet")
}
