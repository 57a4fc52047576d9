//! A guardian's share of a threshold key.

use std::fmt;

use zeroize::Zeroizing;

use crate::{
    points::{G1, G2, Group},
    scalar::Scalar,
};

/// Guardian i's share of a threshold key: f(i + 1), a number from 1 to r − 1.
/// Erased when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretShare(pub(crate) Scalar);

impl SecretShare {
    /// From 32 bytes, big-endian; none unless they are 1 to r − 1.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        Scalar::from_bytes(bytes).map(Self)
    }

    /// 32 bytes, big-endian.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.to_bytes()
    }

    /// The share's public key for blind signatures, 96 bytes, G2.
    pub fn public_key(&self) -> [u8; 96] {
        G2::generator().mul(&self.0).to_bytes()
    }

    /// The share's public key for decryption, 48 bytes, G1.
    pub fn decryption_key(&self) -> [u8; 48] {
        G1::generator().mul(&self.0).to_bytes()
    }
}

impl fmt::Debug for SecretShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretShare(..)")
    }
}
