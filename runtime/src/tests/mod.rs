//! The runtime on small fixtures.

#![allow(clippy::unwrap_used, reason = "tests")]

mod admission;
mod calls;
pub(crate) mod fixture;
mod hostile;
mod stack;
mod versions;
