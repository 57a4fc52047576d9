//! secp256k1, as the wallet's deposits and all spend keys use it: BIP 340 and
//! ECDSA over 32-byte hashes, and tweaked keys.
//!
//! Whatever others may give (keys, signatures) is bytes of any length and makes
//! a check false or an option none. Secrets are 32 bytes from 1 to the group's
//! order less one, as [`valid_secret`] says; functions that take one panic
//! otherwise, for a secret never comes from anybody else.

use modmint_core::tagged_hash;
use secp256k1::{
    Keypair, Message, PublicKey, SECP256K1, Scalar, SecretKey, ecdsa, schnorr::Signature,
};
use zeroize::Zeroizing;

/// Whether these bytes are a secret key: 1 to the group's order less one. All but
/// one in 2¹²⁷ are.
pub fn valid_secret(secret: &[u8; 32]) -> bool {
    SecretKey::from_slice(secret).is_ok()
}

/// A secret key, for as long as one call takes.
struct Secret(SecretKey);

impl Secret {
    fn new(secret: &[u8; 32]) -> Self {
        Self(SecretKey::from_slice(secret).expect("a secret is 1 to the group's order less one"))
    }

    fn keypair(&self) -> Keypair {
        Keypair::from_secret_key(SECP256K1, &self.0)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

/// The 33-byte compressed public key of a secret.
///
/// # Panics
/// If `secret` is none, see [`valid_secret`].
pub fn public_key(secret: &[u8; 32]) -> [u8; 33] {
    Secret::new(secret).0.public_key(SECP256K1).serialize()
}

/// t, the tagged hash `modmint/tweak` of key ‖ tweak.
fn tweak_scalar(key: &PublicKey, tweak: &[u8; 32]) -> Option<Scalar> {
    Scalar::from_be_bytes(tagged_hash("modmint/tweak", &[&key.serialize(), tweak])).ok()
}

fn decode_key(key: &[u8]) -> Option<PublicKey> {
    let compressed: &[u8; 33] = key.try_into().ok()?;
    PublicKey::from_slice(compressed).ok()
}

/// key + t·G with t = tagged hash `modmint/tweak` of key ‖ tweak: bound to the
/// key, so that no two keys' tweaked forms are related. None if `key` is no
/// compressed point (33 bytes) or the sum is none.
pub fn tweak_public_key(key: &[u8], tweak: &[u8; 32]) -> Option<[u8; 33]> {
    let key = decode_key(key)?;
    let tweaked = key.add_exp_tweak(SECP256K1, &tweak_scalar(&key, tweak)?);
    Some(tweaked.ok()?.serialize())
}

/// The secret of [`tweak_public_key`]; none where that is none.
///
/// # Panics
/// If `secret` is none, see [`valid_secret`].
pub fn tweak_secret(secret: &[u8; 32], tweak: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let secret = Secret::new(secret);
    let tweak = tweak_scalar(&secret.0.public_key(SECP256K1), tweak)?;
    let tweaked = Secret(secret.0.add_tweak(&tweak).ok()?);
    Some(Zeroizing::new(tweaked.0.secret_bytes()))
}

/// An ECDSA signature (64 bytes, low S, RFC 6979) by the tweaked secret; none
/// where [`tweak_public_key`] is none.
///
/// # Panics
/// If `secret` is none, see [`valid_secret`].
pub fn sign_ecdsa(secret: &[u8; 32], tweak: &[u8; 32], hash: &[u8; 32]) -> Option<[u8; 64]> {
    let secret = Secret::new(&*tweak_secret(secret, tweak)?);
    let signature = SECP256K1.sign_ecdsa(&Message::from_digest(*hash), &secret.0);
    Some(signature.serialize_compact())
}

/// Whether `signature` (64 bytes, low S) over `message` is by the compressed key.
pub fn verify_ecdsa(key: &[u8], message: &[u8; 32], signature: &[u8]) -> bool {
    let (Some(key), Ok(signature)) = (decode_key(key), ecdsa::Signature::from_compact(signature))
    else {
        return false;
    };
    SECP256K1
        .verify_ecdsa(&Message::from_digest(*message), &signature, &key)
        .is_ok()
}

/// A BIP 340 signature, 64 bytes. The same arguments give the same signature.
///
/// # Panics
/// If `secret` is none, see [`valid_secret`].
pub fn sign_schnorr(secret: &[u8; 32], message: &[u8; 32]) -> [u8; 64] {
    let mut keypair = Secret::new(secret).keypair();
    let signature = SECP256K1.sign_schnorr_no_aux_rand(&Message::from_digest(*message), &keypair);
    keypair.non_secure_erase();
    signature.serialize()
}

/// Whether `signature` (64 bytes) over `message` is, by BIP 340, by the key whose
/// compressed form (33 bytes) is given, taken as its x coordinate.
pub fn verify_schnorr(key: &[u8], message: &[u8; 32], signature: &[u8]) -> bool {
    let (Some(key), Ok(signature)) = (decode_key(key), Signature::from_slice(signature)) else {
        return false;
    };
    let (key, _) = key.x_only_public_key();
    SECP256K1
        .verify_schnorr(&signature, &Message::from_digest(*message), &key)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    #[test]
    fn a_tweaked_secret_is_the_secret_of_the_tweaked_key() {
        let tweaked = tweak_secret(&SECRET, &[1; 32]).expect("a sum");
        let key = tweak_public_key(&public_key(&SECRET), &[1; 32]).expect("a point");
        assert_eq!(public_key(&tweaked), key);
        assert_ne!(key, public_key(&SECRET));
        let other = tweak_public_key(&public_key(&SECRET), &[2; 32]);
        assert_ne!(other, Some(key));
    }

    #[test]
    fn an_ecdsa_signature_is_by_the_tweaked_key_alone() {
        let (tweak, hash) = ([1; 32], [2; 32]);
        let signature = sign_ecdsa(&SECRET, &tweak, &hash).expect("a signature");
        let key = tweak_public_key(&public_key(&SECRET), &tweak).expect("a point");
        assert!(verify_ecdsa(&key, &hash, &signature));
        assert!(!verify_ecdsa(&key, &[3; 32], &signature));
        assert!(!verify_ecdsa(&public_key(&SECRET), &hash, &signature));
    }

    #[test]
    fn an_ecdsa_signature_with_a_high_s_is_refused() {
        let (tweak, hash) = ([1; 32], [2; 32]);
        let mut signature = sign_ecdsa(&SECRET, &tweak, &hash).expect("a signature");
        let key = tweak_public_key(&public_key(&SECRET), &tweak).expect("a point");
        let s = SecretKey::from_slice(&signature[32..]).expect("s is in range");
        signature[32..].copy_from_slice(&s.negate().secret_bytes());
        assert!(!verify_ecdsa(&key, &hash, &signature));
    }

    #[test]
    fn a_schnorr_signature_holds_for_either_sign_of_the_key_and_nothing_else() {
        let signature = sign_schnorr(&SECRET, &[2; 32]);
        let mut key = public_key(&SECRET);
        assert!(verify_schnorr(&key, &[2; 32], &signature));
        key[0] ^= 1;
        assert!(verify_schnorr(&key, &[2; 32], &signature));
        assert!(!verify_schnorr(&key, &[3; 32], &signature));
    }

    #[test]
    fn malformed_bytes_are_refused_and_nothing_more() {
        let (key, signature) = (public_key(&SECRET), sign_schnorr(&SECRET, &[2; 32]));
        for key in [&key[..32], &[0; 33], &[5; 33], &[0xff; 65], &[]] {
            assert!(!verify_schnorr(key, &[2; 32], &signature));
            assert!(!verify_ecdsa(key, &[2; 32], &signature));
            assert_eq!(tweak_public_key(key, &[0; 32]), None);
        }
        for signature in [&signature[..63], &[0xff; 64], &[0; 64], &[]] {
            assert!(!verify_schnorr(&key, &[2; 32], signature));
            assert!(!verify_ecdsa(&key, &[2; 32], signature));
        }
        assert!(!valid_secret(&[0; 32]));
        assert!(!valid_secret(&[0xff; 32]));
    }
}
