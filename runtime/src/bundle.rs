//! A bundle: admitted, compiled, described.

use std::sync::Arc;

use modmint_core::{Argument, BundleHash};

use crate::{Action, AdmitError, CallError, Description, Engines, Setup};

/// Why a bundle cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The admission check refuses it.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// It does not compile.
    #[error("the bundle does not compile: {0}")]
    Compile(String),
    /// It does not say what it is.
    #[error("the bundle does not describe itself: {0}")]
    Describe(#[source] CallError),
}

/// A module's component: admitted, compiled, described.
#[derive(Debug)]
pub struct Bundle {}

impl Bundle {
    /// Admits, compiles and describes a bundle.
    ///
    /// # Errors
    /// Names what is wrong.
    pub fn load(_engines: &Arc<Engines>, _bytes: &[u8]) -> Result<Arc<Self>, LoadError> {
        panic!("not written yet")
    }
    /// SHA-256 of its bytes.
    pub fn hash(&self) -> BundleHash {
        panic!("not written yet")
    }
    /// How many bytes it has.
    pub fn bytes_len(&self) -> usize {
        panic!("not written yet")
    }
    /// What it says of itself.
    pub fn description(&self) -> &Description {
        panic!("not written yet")
    }
    /// What its wallets' half can be asked to do; empty without one.
    pub fn actions(&self) -> &[Action] {
        panic!("not written yet")
    }
    /// What it is able to do, in words, from its imports alone.
    pub fn capabilities(&self) -> &[String] {
        panic!("not written yet")
    }
    /// Whether guardians can load it.
    pub fn has_server(&self) -> bool {
        panic!("not written yet")
    }
    /// Whether wallets can load it.
    pub fn has_client(&self) -> bool {
        panic!("not written yet")
    }
    /// Whether it holds the wallet's money.
    pub fn has_ecash(&self) -> bool {
        panic!("not written yet")
    }
    /// Checks the arguments for a new instance. From any thread.
    ///
    /// # Errors
    /// `Refused` with `bad-argument` before the module sees arguments of the wrong
    /// kinds; what the module says otherwise.
    pub fn configure(&self, _arguments: &[Argument]) -> Result<Setup, CallError> {
        panic!("not written yet")
    }
}
