//! Loads a module's bundle and calls it.
//!
//! From bytes to results: [`admit`] decides whether a bundle may be run at all;
//! [`Engines`] compile it; a [`Bundle`] says what it is; an [`Instance`] is a
//! bundle in a federation, with one method for each export of the contract. Each
//! call has a fresh store, a phase that says which imports it may use, a price for
//! everything, and limits that are the same on every guardian. All of that hashes
//! to [`runtime_hash`].
//!
//! What a call reaches beyond itself is a [`Host`]: storage, agreed values,
//! secrets. The guardian's pipeline, its API and the wallet each bring one. What is
//! done with a call's writes, refusals and traps is theirs too.

// So that the fixtures, which benchmarks use as well, find it by its name.
#[cfg(test)]
extern crate self as modmint_runtime;

mod admit;
mod bindings;
mod bundle;
mod cache;
mod call;
mod check;
mod contract;
mod convert;
mod depth;
mod describe;
mod engine;
mod host;
mod imports;
mod instance;
pub mod limits;
mod module;
mod prices;
#[cfg(test)]
mod tests;
mod thread;
mod trap;
pub mod wallet;

pub use admit::{Admission, AdmitError, admit, examine};
pub use bundle::{Bundle, LoadError};
pub use call::module_time;
pub use check::verify_checks;
pub use contract::ContractVersion;
pub use engine::{EngineError, Engines, runtime_hash};
pub use host::*;
pub use instance::{Instance, ItemCalls};
pub use module::{
    Action, Answer, Audience, CallError, Called, Context, Description, Endpoint, InputEffect,
    KeySpec, OutputEffect, RenderItem, Setup, Wake,
};
pub use thread::{
    GUEST_THREAD_BYTES, become_guest_thread, guest_pool, is_guest_thread, spawn_guest_thread,
};
pub use trap::Trap;
