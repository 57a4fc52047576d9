//! Threshold encryption of 32 bytes, bound to terms.
//!
//! The group's key is P = f(0)·g₁ in G1. Whoever encrypts draws a secret r and
//! publishes R = r·g₁, the plaintext masked by a hash of K = r·P, and S = r·Q
//! with Q = H(P, R, masked, terms) in G2. S shows knowledge of r for exactly
//! these terms and this key: e(R, Q) = e(g₁, S). A ciphertext copied under other
//! terms is invalid, so nobody gets it decrypted by offering it as his own.
//!
//! A decryption share is s_i·R; a threshold of them combines to f(0)·R = K.
//! Shares and K can be checked by anybody: e(s_i·R, Q) = e(s_i·g₁, S).
//!
//! A ciphertext is masked (32 bytes) ‖ R (48) ‖ S (96).

use modmint_core::{config::HexBytes, tagged_hash};

pub use crate::share::SecretShare;
use crate::{
    pairing::{Lines, pairing_product_is_one},
    points::{G1, G2, Group, combine_shares},
    scalar::{Interpolation, Scalar},
    tbs::first_shares,
};

/// The length of a ciphertext, in bytes.
pub const CIPHERTEXT_BYTES: usize = 32 + 48 + 96;

const DOMAIN: &[u8] = b"modmint/tpe/v1 BLS12381G2_XMD:SHA-256_SSWU_RO_";

/// A ciphertext that has been found valid for a key and terms.
struct Ciphertext {
    masked: [u8; 32],
    ephemeral: G1,
    proof: Lines,
    challenge: Lines,
}

impl Ciphertext {
    fn valid(public_key: &[u8], ciphertext: &[u8], terms: &[u8]) -> Option<Self> {
        let key = G1::from_bytes(public_key)?;
        let (masked, rest) = ciphertext.split_first_chunk::<32>()?;
        let (ephemeral, proof) = rest.split_at_checked(48)?;
        let ephemeral = G1::from_bytes(ephemeral)?;
        let found = Self {
            masked: *masked,
            ephemeral,
            proof: Lines::of(&G2::from_bytes(proof)?),
            challenge: Lines::of(&challenge(key, ephemeral, masked, terms)),
        };
        found
            .belong_together(found.ephemeral, G1::generator())
            .then_some(found)
    }

    /// Whether e(point, Q) = e(base, S): point is r·base.
    fn belong_together(&self, point: G1, base: G1) -> bool {
        pairing_product_is_one(&[(point.negate(), &self.challenge), (base, &self.proof)])
    }
}

fn challenge(key: G1, ephemeral: G1, masked: &[u8; 32], terms: &[u8]) -> G2 {
    let mut message = Vec::with_capacity(128 + terms.len());
    message.extend_from_slice(&key.to_bytes());
    message.extend_from_slice(&ephemeral.to_bytes());
    message.extend_from_slice(masked);
    message.extend_from_slice(terms);
    G2::hash(&message, DOMAIN)
}

fn mask(shared: G1, text: &[u8; 32]) -> [u8; 32] {
    let pad = tagged_hash("modmint/tpe/mask", &[&shared.to_bytes()]);
    std::array::from_fn(|i| text[i] ^ pad[i])
}

/// Whether `ciphertext` was made with knowledge of what is in it, for this group
/// key (48 bytes) and exactly these terms.
pub fn verify(public_key: &[u8], ciphertext: &[u8], terms: &[u8]) -> bool {
    Ciphertext::valid(public_key, ciphertext, terms).is_some()
}

/// `plaintext` encrypted to the group, [`CIPHERTEXT_BYTES`] long. The same
/// arguments give the same bytes; `seed` is 32 secret bytes. None if `public_key`
/// is no valid point of 48 bytes.
pub fn encrypt(
    public_key: &[u8],
    plaintext: &[u8; 32],
    terms: &[u8],
    seed: &[u8; 32],
) -> Option<Vec<u8>> {
    let key = G1::from_bytes(public_key)?;
    // Whatever differs, r differs: a seed used twice gives nothing away.
    let secret = Scalar::hash(
        "modmint/tpe/ephemeral",
        &[seed, &key.to_bytes(), plaintext, terms],
    );
    let ephemeral = G1::generator().mul(&secret);
    let masked = mask(key.mul(&secret), plaintext);
    let proof = challenge(key, ephemeral, &masked, terms).mul(&secret);
    Some([&masked[..], &ephemeral.to_bytes(), &proof.to_bytes()].concat())
}

/// A guardian's share of the decryption key, 48 bytes, in constant time; none
/// unless [`verify`] accepts the ciphertext for this key and these terms.
pub fn decryption_share(
    share: &SecretShare,
    public_key: &[u8],
    ciphertext: &[u8],
    terms: &[u8],
) -> Option<Vec<u8>> {
    let ciphertext = Ciphertext::valid(public_key, ciphertext, terms)?;
    Some(ciphertext.ephemeral.mul(&share.0).to_vec())
}

/// A ciphertext and the decryption shares that guardians returned for it.
#[derive(Clone, Copy, Debug)]
pub struct Combination<'a> {
    /// The group's key, 48 bytes.
    pub public_key: &'a [u8],
    /// The key of each guardian's share, 48 bytes, in the order of the guardians.
    pub share_keys: &'a [HexBytes],
    /// See [`encrypt`].
    pub ciphertext: &'a [u8],
    /// What it was encrypted for.
    pub terms: &'a [u8],
    /// Decryption shares, 48 bytes, each with its guardian's index.
    pub shares: &'a [(u16, Vec<u8>)],
    /// How many shares make the key.
    pub threshold: usize,
}

/// The decryption key, 48 bytes, for [`decrypt`]: the first `threshold` shares
/// combined, then verified.
///
/// # Errors
/// The guardians whose share is bad, ascending. Nobody is named where there are
/// fewer shares of different guardians than the threshold, or where the
/// ciphertext or the keys are not what they should be.
pub fn combine(what: &Combination<'_>) -> Result<Vec<u8>, Vec<u16>> {
    let Some(ciphertext) = Ciphertext::valid(what.public_key, what.ciphertext, what.terms) else {
        return Err(Vec::new());
    };
    if let Some(key) = combined(what)
        && G1::from_bytes(what.public_key)
            .is_some_and(|public| ciphertext.belong_together(key, public))
    {
        return Ok(key.to_vec());
    }
    let valid = |guardian: u16, share: &[u8]| {
        let public = G1::from_bytes(&what.share_keys.get(usize::from(guardian))?.0)?;
        let share = G1::from_bytes(share)?;
        ciphertext.belong_together(share, public).then_some(())
    };
    let mut bad: Vec<u16> = what
        .shares
        .iter()
        .filter(|(guardian, share)| valid(*guardian, share).is_none())
        .map(|(guardian, _)| *guardian)
        .collect();
    bad.sort_unstable();
    bad.dedup();
    Err(bad)
}

fn combined(what: &Combination<'_>) -> Option<G1> {
    let shares = first_shares(what.shares, what.threshold)?;
    let indices: Vec<u16> = shares.iter().map(|(guardian, _)| *guardian).collect();
    let interpolation = Interpolation::new(&indices)?;
    let shares: Vec<&[u8]> = shares.iter().map(|(_, share)| share.as_slice()).collect();
    let combined = combine_shares(&shares, &interpolation)?;
    Some(combined.mul(&interpolation.denominator.invert()))
}

/// What is in the ciphertext; none unless it is valid for this key and these
/// terms, and `decryption_key` is the one that the guardians' shares combine to.
pub fn decrypt(
    public_key: &[u8],
    ciphertext: &[u8],
    terms: &[u8],
    decryption_key: &[u8],
) -> Option<[u8; 32]> {
    let ciphertext = Ciphertext::valid(public_key, ciphertext, terms)?;
    let (public, key) = (G1::from_bytes(public_key)?, G1::from_bytes(decryption_key)?);
    ciphertext
        .belong_together(key, public)
        .then(|| mask(key, &ciphertext.masked))
}
