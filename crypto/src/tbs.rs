//! Threshold blind signatures on BLS12-381.
//!
//! Messages and signatures are points of G1 (48 bytes), keys points of G2 (96
//! bytes). A wallet hashes a message m to the curve and blinds it with a secret
//! r: b = r·H(m). Guardian i signs s_i·b, where s_i = f(i + 1) and the group's
//! secret key is f(0). The wallet combines a threshold of shares and takes r
//! away: σ = r⁻¹ · Σ λ_i·s_i·b = f(0)·H(m), an ordinary BLS signature, which
//! nobody can connect with b.

use std::{collections::HashMap, sync::Arc};

use modmint_core::config::HexBytes;
use rand::{RngCore, rngs::OsRng};
use rayon::prelude::*;

pub use crate::share::SecretShare;
use crate::{
    pairing::{Prepared, generator, pairing_product_is_one},
    points::{G1, Group, Kept, blinded_message, combine_shares, public_key},
    scalar::{Interpolation, Scalar},
};

/// The domain of messages in RFC 9380's sense.
pub const DOMAIN: &[u8] = b"modmint/tbs/v1 BLS12381G1_XMD:SHA-256_SSWU_RO_";

pub(crate) const BLINDING: &str = "modmint/tbs/blinding";

/// Whether a guardian would sign this: a canonical point of the prime-order
/// subgroup of G1 that is not the identity, 48 bytes.
pub fn valid_blinded_message(bytes: &[u8]) -> bool {
    blinded_message(bytes).is_some()
}

/// The blinded message. `factor` is any 32 secret bytes, a different one for each
/// message; the scalar is a hash of it.
pub fn blind(message: &[u8], factor: &[u8; 32]) -> [u8; 48] {
    blinded(message, &Scalar::hash(BLINDING, &[factor])).to_bytes()
}

fn blinded(message: &[u8], factor: &Scalar) -> G1 {
    own_message(message).mul(factor)
}

/// The point of a message of the wallet's own, which is needed to blind it and again to
/// take the blinding away. A key of secp256k1, as notes have, is kept meanwhile.
fn own_message(message: &[u8]) -> G1 {
    static KEPT: Kept<G1, 33> = Kept::new(1024, |key| Some(G1::hash(key, DOMAIN)));
    KEPT.get(message)
        .unwrap_or_else(|| G1::hash(message, DOMAIN))
}

/// A guardian's share of the signature, in constant time; none unless `blinded`
/// is [`valid_blinded_message`].
pub fn sign_share(share: &SecretShare, blinded: &[u8]) -> Option<[u8; 48]> {
    Some(blinded_message(blinded)?.mul(&share.0).to_bytes())
}

/// A blinded message and what guardians returned for it.
#[derive(Clone, Copy, Debug)]
pub struct SignedBlinding<'a> {
    /// What was blinded.
    pub message: &'a [u8],
    /// What it was blinded with, see [`blind`].
    pub factor: &'a [u8; 32],
    /// The group's key, 96 bytes.
    pub group_key: &'a [u8],
    /// The key of each guardian's share, 96 bytes, in the order of the guardians.
    pub share_keys: &'a [HexBytes],
    /// Shares of the signature, 48 bytes, each with its guardian's index.
    pub shares: &'a [(u16, Vec<u8>)],
    /// How many shares make a signature.
    pub threshold: usize,
}

/// The signatures, 48 bytes each: combines the first `threshold` shares of each,
/// unblinds, and verifies all in one batch.
///
/// # Errors
/// If that fails, every share is checked by itself; the guardians whose shares
/// are bad are named, ascending. Nobody is named where there are fewer shares of
/// different guardians than the threshold, or where the group's key is not the
/// one that belongs to the shares' keys: more shares, or the right config, are
/// what is missing then.
pub fn unblind(items: &[SignedBlinding<'_>]) -> Result<Vec<[u8; 48]>, Vec<u16>> {
    let mut interpolations = HashMap::new();
    let signed: Option<Vec<Decoded>> = items
        .iter()
        .map(|item| {
            Some(Decoded {
                signature: combine(item, &mut interpolations)?,
                key: public_key(item.group_key)?,
                message: own_message(item.message),
            })
        })
        .collect();
    if let Some(signed) = signed
        && all_hold(&signed)
    {
        return Ok(signed
            .iter()
            .map(|item| item.signature.to_bytes())
            .collect());
    }
    let mut bad: Vec<u16> = items.par_iter().flat_map_iter(bad_shares).collect();
    bad.sort_unstable();
    bad.dedup();
    Err(bad)
}

/// The unblinded signature, not verified; none if a share is no point or there
/// are too few.
fn combine(
    item: &SignedBlinding<'_>,
    interpolations: &mut HashMap<Vec<u16>, Interpolation>,
) -> Option<G1> {
    let shares = first_shares(item.shares, item.threshold)?;
    let indices: Vec<u16> = shares.iter().map(|(guardian, _)| *guardian).collect();
    if !interpolations.contains_key(&indices) {
        interpolations.insert(indices.clone(), Interpolation::new(&indices)?);
    }
    let interpolation = interpolations.get(&indices)?;
    let shares: Vec<&[u8]> = shares.iter().map(|(_, share)| share.as_slice()).collect();
    let combined = combine_shares(&shares, interpolation)?;
    let factor = Scalar::hash(BLINDING, &[item.factor]);
    Some(combined.mul(&factor.mul(&interpolation.denominator).invert()))
}

/// The first `threshold` shares of different guardians.
pub(crate) fn first_shares(
    shares: &[(u16, Vec<u8>)],
    threshold: usize,
) -> Option<Vec<&(u16, Vec<u8>)>> {
    let mut chosen: Vec<&(u16, Vec<u8>)> = Vec::with_capacity(threshold.min(shares.len()));
    for share in shares {
        if chosen.len() < threshold && chosen.iter().all(|(guardian, _)| *guardian != share.0) {
            chosen.push(share);
        }
    }
    (threshold > 0 && chosen.len() == threshold).then_some(chosen)
}

/// The guardians whose share of this is not what their share's key says.
fn bad_shares(item: &SignedBlinding<'_>) -> Vec<u16> {
    let message = blinded(item.message, &Scalar::hash(BLINDING, &[item.factor]));
    let valid = |guardian: u16, share: &[u8]| {
        let key = item.share_keys.get(usize::from(guardian))?;
        let (key, share) = (public_key(&key.0)?, G1::from_bytes(share)?);
        signed_by(message, share, &key).then_some(())
    };
    item.shares
        .iter()
        .filter(|(guardian, share)| valid(*guardian, share).is_none())
        .map(|(guardian, _)| *guardian)
        .collect()
}

/// A signature to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TbsCheck<'a> {
    /// The group's key, 96 bytes.
    pub public_key: &'a [u8],
    /// What is signed, any length.
    pub message: &'a [u8],
    /// 48 bytes, or the check fails.
    pub signature: &'a [u8],
}

struct Decoded {
    message: G1,
    signature: G1,
    key: Arc<Prepared>,
}

impl Decoded {
    /// None if the key or the signature is no valid point.
    fn new(check: &TbsCheck<'_>) -> Option<Self> {
        Some(Self {
            signature: G1::from_bytes(check.signature)?,
            key: public_key(check.public_key)?,
            message: G1::hash(check.message, DOMAIN),
        })
    }

    fn verify(&self) -> bool {
        signed_by(self.message, self.signature, &self.key)
    }
}

/// e(σ, g₂) = e(H, key).
fn signed_by(message: G1, signature: G1, key: &Prepared) -> bool {
    pairing_product_is_one(&[(signature.negate(), generator()), (message, &key.lines)])
}

/// Whether the signature is the group's over the message.
pub fn verify(check: &TbsCheck<'_>) -> bool {
    Decoded::new(check).is_some_and(|decoded| decoded.verify())
}

/// [`verify`] for each, much cheaper together: the verdicts are the same but for
/// a chance of 2⁻⁶⁴ a batch, whatever its author tries: who loses has been refused, and
/// can try a thousand times a second for half a million years to have one in 1,000.
///
/// All that decode are checked in one equation,
/// e(Σ r_j σ_j, g₂) = Π_k e(Σ_{j of key k} r_j H(m_j), key_k),
/// with r_0 = 1 and 64-bit r_j from the operating system for the others, drawn here
/// and so after the batch is fixed: whatever the others are chosen to cancel is
/// multiplied by an r_j, and the first alone cannot be cancelled. If it does not hold
/// each is checked by itself. Work is spread over
/// the current rayon pool.
pub fn verify_batch(checks: &[TbsCheck<'_>]) -> Vec<bool> {
    let decoded: Vec<Option<Decoded>> = match checks.len() {
        ..FEW => checks.iter().map(Decoded::new).collect(),
        _ => checks.par_iter().map(Decoded::new).collect(),
    };
    let valid: Vec<&Decoded> = decoded.iter().flatten().collect();
    if valid.len() > 1 && batch_holds(&valid) {
        return decoded.iter().map(Option::is_some).collect();
    }
    let holds = |decoded: &Option<Decoded>| decoded.as_ref().is_some_and(Decoded::verify);
    match checks.len() {
        ..FEW => decoded.iter().map(holds).collect(),
        _ => decoded.par_iter().map(holds).collect(),
    }
}

/// Whether all of these hold, with the same chance to be wrong.
fn all_hold(signed: &[Decoded]) -> bool {
    match signed {
        [] => true,
        [one] => one.verify(),
        _ => batch_holds(&signed.iter().collect::<Vec<_>>()),
    }
}

/// Fewer checks than these are made on one thread: waking others costs more than it
/// saves.
const FEW: usize = 32;

/// Bits and bytes of a coefficient.
const COEFFICIENT_BITS: usize = 64;
const COEFFICIENT_BYTES: usize = COEFFICIENT_BITS / 8;

/// Points to be added up: one as it is and others times a coefficient each.
#[derive(Default)]
struct Weighted<'a> {
    plain: Option<G1>,
    points: Vec<G1>,
    coefficients: Vec<&'a [u8]>,
}

impl<'a> Weighted<'a> {
    fn add(&mut self, point: G1, coefficient: Option<&'a [u8]>) {
        match coefficient {
            None => self.plain = Some(point),
            Some(coefficient) => {
                self.points.push(point);
                self.coefficients.push(coefficient);
            }
        }
    }

    /// None for the identity, also of what is multiplied.
    fn sum(&self) -> Option<G1> {
        if self.points.is_empty() {
            return self.plain;
        }
        let product = G1::combine(&self.points, &self.coefficients, COEFFICIENT_BITS)?;
        match self.plain {
            None => Some(product),
            Some(plain) => G1::sum(&[product, plain]),
        }
    }
}

fn batch_holds(batch: &[&Decoded]) -> bool {
    let mut coefficients = vec![0; batch.len() * COEFFICIENT_BYTES];
    OsRng.fill_bytes(&mut coefficients);
    let coefficients = coefficients.chunks_exact(COEFFICIENT_BYTES).map(Some);
    // The first is taken as it is.
    let coefficients = coefficients.enumerate().map(|(j, r)| r.filter(|_| j > 0));

    let mut signatures = Weighted::default();
    let mut by_key: HashMap<[u8; 96], (&Prepared, Weighted<'_>)> = HashMap::new();
    for (decoded, coefficient) in batch.iter().zip(coefficients) {
        signatures.add(decoded.signature, coefficient);
        let (_, messages) = by_key
            .entry(decoded.key.point.to_bytes())
            .or_insert_with(|| (&decoded.key, Weighted::default()));
        messages.add(decoded.message, coefficient);
    }
    let of_keys: Vec<(&Prepared, Weighted<'_>)> = by_key.into_values().collect();
    let sum = |of_key: &(&Prepared, Weighted<'_>)| of_key.1.sum();
    let (signature, messages) = match batch.len() {
        ..FEW => (signatures.sum(), of_keys.iter().map(sum).collect()),
        _ => rayon::join(
            || signatures.sum(),
            || of_keys.par_iter().map(sum).collect::<Option<Vec<G1>>>(),
        ),
    };
    // A sum that is the identity proves nothing: single checks decide.
    let (Some(signature), Some(messages)) = (signature, messages) else {
        return false;
    };
    let keys = of_keys.iter().map(|(key, _)| &key.lines);
    let pairs = messages.into_iter().zip(keys);
    let pairs: Vec<_> = pairs.chain([(signature.negate(), generator())]).collect();
    pairing_product_is_one(&pairs)
}
