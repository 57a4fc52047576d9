//! The mock host, for native tests: one call in any phase, or a whole federation
//! and its wallets, driven without network, process or clock.
//!
//! [`Federation`] plays the guardians. They share one state, as consensus makes
//! them do, and differ in what they answer: some are silent, some lie. Keys and
//! signatures are real. [`Wallet`] plays a wallet: it makes every transition
//! durable in one write, can be killed after any of them, and goes on.
//!
//! The mock traps (panics) where the real host traps: an import out of its phase,
//! a value too long, an effect given up that cannot be. It does not meter fuel.
//!
//! A [`Bundle`] runs natively or in any other way ([`Exports`]) over the same
//! [`imports`]: what a component does can be held against it.

mod bundle;
mod call;
mod federation;
pub mod imports;
mod wallet;

pub use bundle::{Bundle, Exports, Founded};
pub use call::Phase;
pub(crate) use call::filter_bits;
pub use federation::{Behaviour, Federation, Status};
pub use wallet::{Kill, Operation, OperationId, Wallet};

/// A module's storage.
pub type Store = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;
