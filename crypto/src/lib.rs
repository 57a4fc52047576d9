//! The mathematics of notes and keys: threshold blind signatures, threshold
//! encryption, the ceremony that makes keys, secp256k1 helpers, secrets at rest.
//!
//! There is no I/O here and no protocol: bytes go in, bytes and verdicts come
//! out. Whose turn it is to send what is `modmint-host`'s.
//!
//! Two implementations of BLS12-381 are at hand. `blst` alone decides, in
//! consensus and in native wallets. [`portable`], on the pure Rust crate
//! `bls12_381`, is what wallets use where no C or assembly can be compiled, and
//! the oracle of this crate's tests: both give the same verdict on every bytes.

pub mod at_rest;
pub mod dealing;
mod pairing;
mod points;
pub mod portable;
mod scalar;
pub mod secp;
mod share;
pub mod tbs;
pub mod tpe;

pub use share::SecretShare;
