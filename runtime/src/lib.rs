//! Loads a module's bundle and calls it.

mod host;
pub use host::*;
