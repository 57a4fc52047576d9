//! Secrets on disk: argon2id over a password, then XChaCha20-Poly1305.
//!
//! A sealed file is magic (8 bytes, the last one the version) ‖ memory in KiB,
//! passes, lanes (4 bytes each, little-endian) ‖ salt (16) ‖ nonce (24) ‖
//! ciphertext and tag. What stands before the ciphertext is authenticated too.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use rand::{RngCore, rngs::OsRng};
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"modmint\x01";
const SALT: std::ops::Range<usize> = 20..36;
const NONCE: std::ops::Range<usize> = 36..60;
const HEADER_BYTES: usize = 60;

/// What a new file costs to open: RFC 9106's second recommendation, in one lane.
const COST: Cost = Cost {
    memory_kib: 64 << 10,
    passes: 3,
    lanes: 1,
};
/// What a file on disk may ask of us, so that a damaged one cannot take all the
/// memory there is.
const MOST: Cost = Cost {
    memory_kib: 1 << 20,
    passes: 16,
    lanes: 16,
};

#[derive(Clone, Copy)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// Why sealed bytes could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Something else, or a version that this program does not know.
    #[error("this is no sealed file of version 1")]
    NotSealed,
    /// The cost stands outside of what this program would spend.
    #[error("the sealed file's header is damaged: it asks for an absurd amount of work")]
    Cost,
    /// The password is another one, or bytes have changed.
    #[error("wrong password, or the sealed file is damaged")]
    Password,
}

/// `plaintext` under a password, with a fresh salt and nonce. Takes about 100 ms
/// and 64 MiB.
pub fn seal(password: &str, plaintext: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES + plaintext.len() + 16);
    header.extend_from_slice(MAGIC);
    for number in [COST.memory_kib, COST.passes, COST.lanes] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.resize(HEADER_BYTES, 0);
    OsRng.fill_bytes(&mut header[SALT.start..NONCE.end]);
    let cipher = cipher(password, &header[SALT], COST).expect("the cost is a valid constant");
    let sealed = cipher
        .encrypt(
            XNonce::from_slice(&header[NONCE]),
            Payload {
                msg: plaintext,
                aad: &header,
            },
        )
        .expect("fewer than 2^38 bytes");
    header.extend_from_slice(&sealed);
    header
}

/// What was sealed.
///
/// # Errors
/// [`OpenError`]: no sealed bytes, a damaged header, or another password.
pub fn open(password: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (header, ciphertext) = sealed
        .split_at_checked(HEADER_BYTES)
        .filter(|(header, _)| header.starts_with(MAGIC))
        .ok_or(OpenError::NotSealed)?;
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let cost = Cost {
        memory_kib: number(8),
        passes: number(12),
        lanes: number(16),
    };
    if cost.memory_kib > MOST.memory_kib || cost.passes > MOST.passes || cost.lanes > MOST.lanes {
        return Err(OpenError::Cost);
    }
    cipher(password, &header[SALT], cost)
        .ok_or(OpenError::Cost)?
        .decrypt(
            XNonce::from_slice(&header[NONCE]),
            Payload {
                msg: ciphertext,
                aad: header,
            },
        )
        .map(Zeroizing::new)
        .map_err(|_| OpenError::Password)
}

fn cipher(password: &str, salt: &[u8], cost: Cost) -> Option<XChaCha20Poly1305> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), salt, &mut *key)
        .ok()?;
    Some(XChaCha20Poly1305::new((&*key).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_by_its_password_alone() {
        let sealed = seal("correct horse", b"secret");
        let opened = open("correct horse", &sealed).expect("the right password");
        assert_eq!(&opened[..], b"secret");
        assert_eq!(open("battery", &sealed), Err(OpenError::Password));
        assert_ne!(seal("correct horse", b"secret"), sealed);
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let sealed = seal("password", b"secret");
        for at in [
            0,
            7,
            SALT.start,
            NONCE.start,
            HEADER_BYTES,
            sealed.len() - 1,
        ] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open("password", &changed).is_err(), "byte {at}");
        }
        assert_eq!(open("password", &sealed[..40]), Err(OpenError::NotSealed));
    }

    #[test]
    fn a_damaged_header_cannot_take_all_memory() {
        let mut sealed = seal("password", b"secret");
        sealed[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(open("password", &sealed), Err(OpenError::Cost));
    }
}
