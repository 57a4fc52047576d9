//! The guardian: consensus, storage, peer-to-peer, REST, keys.
//!
//! A module's logic is not here but behind `modmint-runtime`; the maths of keys
//! and notes is in `modmint-crypto`.

pub mod api;
pub mod ceremony;
pub mod chain;
pub mod guardian;
pub mod health;
pub mod identity;
pub mod keys;
#[cfg(test)]
mod loopback;
pub mod metrics;
pub mod ordering;
pub mod p2p;
pub mod pipeline;
pub mod sessions;
pub mod storage;
