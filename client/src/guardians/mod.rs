//! Asking guardians over REST.
//!
//! One guardian may be dead, slow or lie; f of them together must not matter.
//! [`Guardian`] is one of them with its health, [`Guardians`] all of them with
//! the rules by which answers are believed: f + 1 equal answers prove a final
//! fact, `same` and absence need n − f, the newest value is the one that f + 1
//! have reached.
//!
//! What answers mean to modules is not known here.

mod guardian;
mod health;
mod quorum;
mod submit;

pub use guardian::{AskError, Guardian};
pub(crate) use guardian::{bounded_body, describe, http_client};
pub use health::{Health, HealthView};
pub use quorum::{FederationView, Guardians};
pub(crate) use submit::Contributions;
pub use submit::{Opinion, Opinions};

#[cfg(test)]
pub(crate) mod tests;
