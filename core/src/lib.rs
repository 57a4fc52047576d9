//! The words that guardians, wallets and gateways share: amounts, ids,
//! transactions, configs, and the JSON that their REST APIs speak.
//!
//! Everything here is plain data with one canonical encoding (borsh) and, where
//! people or HTTP see it, one JSON form. There is no I/O, no cryptography beyond
//! hashing, and nothing that knows what a module is made of.

mod amount;
pub mod config;
pub mod consensus;
mod ids;
mod module;
pub mod rest;
mod transaction;

pub use amount::{Amount, ParseAmountError};
pub use ids::{
    BundleHash, FederationId, Hash32, InstanceId, OutPoint, ParseIdError, PeerId, PublicKey, TxId,
    decode_hex, sha256, tagged_hash,
};
pub use module::{Argument, KeyKind, Parameter, ParameterKind, Refusal, Value, complete_arguments};
pub use transaction::{Input, Output, Transaction, TransactionBody, TransactionError};

/// The longest `ConsensusItem` that a guardian accepts or proposes, in bytes.
pub const MAX_ITEM_BYTES: usize = 30 * 1024;

/// The longest payload of one AlephBFT unit, in bytes.
pub const MAX_UNIT_BYTES: usize = 32 * 1024;

/// How far ahead of agreed time a transaction may expire, in seconds: one day,
/// and an hour for clocks that are off.
pub const MAX_EXPIRY_SECONDS: u64 = 25 * 60 * 60;

/// How many guardians of `n` may be faulty: f = ⌊(n − 1) / 3⌋.
pub const fn max_faulty(n: usize) -> usize {
    n.saturating_sub(1) / 3
}

/// How many guardians must agree: n − f. A single guardian agrees with itself.
pub const fn threshold(n: usize) -> usize {
    n - max_faulty(n)
}
