//! Loads a module's bundle and calls it.

mod admit;
mod bindings;
mod bundle;
mod call;
mod check;
mod convert;
mod describe;
mod engine;
mod host;
mod imports;
mod instance;
pub mod limits;
mod module;
mod prices;
mod thread;
mod trap;
pub mod wallet;

pub use admit::{Admission, AdmitError, admit};
pub use bundle::{Bundle, LoadError};
pub use check::verify_checks;
pub use engine::{EngineError, Engines, runtime_hash};
pub use host::*;
pub use instance::Instance;
pub use module::{
    Action, Answer, Audience, CallError, Called, Context, Description, Endpoint, InputEffect,
    KeySpec, OutputEffect, RenderItem, Setup, Wake,
};
pub use thread::{guest_pool, spawn_guest_thread};
pub use trap::Trap;
