//! Blind signatures in pure Rust, on the crate `bls12_381`: the same bytes and
//! the same verdicts as [`crate::tbs`], several times slower, for wallets where no
//! C or assembly can be compiled, and as the oracle of tests. Nothing in consensus
//! decides by it.

use bls12_381::{
    G1Affine, G1Projective, G2Affine, Scalar,
    hash_to_curve::{ExpandMsgXmd, HashToCurve},
    pairing,
};
use sha2_09::Sha256;

use crate::{
    scalar::wide_hash,
    tbs::{BLINDING, DOMAIN, TbsCheck, first_shares},
};

/// The strict decoder: canonical, on the curve, of prime order, not the identity.
pub fn g1_from_bytes(bytes: &[u8]) -> Option<G1Affine> {
    let bytes: &[u8; 48] = bytes.try_into().ok()?;
    Option::from(G1Affine::from_compressed(bytes))
        .filter(|p: &G1Affine| !bool::from(p.is_identity()))
}

/// As [`g1_from_bytes`], for keys.
pub fn g2_from_bytes(bytes: &[u8]) -> Option<G2Affine> {
    let bytes: &[u8; 96] = bytes.try_into().ok()?;
    Option::from(G2Affine::from_compressed(bytes))
        .filter(|p: &G2Affine| !bool::from(p.is_identity()))
}

/// RFC 9380, suite BLS12381G1_XMD:SHA-256_SSWU_RO_.
pub fn hash_to_g1(message: &[u8], domain: &[u8]) -> G1Affine {
    <G1Projective as HashToCurve<ExpandMsgXmd<Sha256>>>::hash_to_curve(message, domain).into()
}

fn factor_scalar(factor: &[u8; 32]) -> Scalar {
    let mut wide = wide_hash(BLINDING, &[factor]);
    wide.reverse();
    Scalar::from_bytes_wide(&wide)
}

/// As [`crate::tbs::valid_blinded_message`].
pub fn valid_blinded_message(bytes: &[u8]) -> bool {
    g1_from_bytes(bytes).is_some()
}

/// As [`crate::tbs::blind`].
pub fn blind(message: &[u8], factor: &[u8; 32]) -> [u8; 48] {
    G1Affine::from(hash_to_g1(message, DOMAIN) * factor_scalar(factor)).to_compressed()
}

/// The unblinded signature from the first `threshold` shares of different
/// guardians, to be checked by [`verify`]; none if there are fewer, or one of them
/// is no valid point.
pub fn unblind(factor: &[u8; 32], shares: &[(u16, Vec<u8>)], threshold: usize) -> Option<[u8; 48]> {
    let shares = first_shares(shares, threshold)?;
    let point_of = |guardian: u16| Scalar::from(u64::from(guardian) + 1);
    let mut sum = G1Projective::identity();
    for (guardian, share) in &shares {
        let mut coefficient = Scalar::one();
        for (other, _) in shares.iter().filter(|(other, _)| other != guardian) {
            let difference = point_of(*other) - point_of(*guardian);
            coefficient *= point_of(*other) * Option::<Scalar>::from(difference.invert())?;
        }
        sum += g1_from_bytes(share)? * coefficient;
    }
    let unblinded = sum * Option::<Scalar>::from(factor_scalar(factor).invert())?;
    Some(G1Affine::from(unblinded).to_compressed())
}

/// As [`crate::tbs::verify`], by two separate pairings.
pub fn verify(check: &TbsCheck<'_>) -> bool {
    g2_from_bytes(check.public_key).is_some_and(|key| verify_with(&key, check))
}

/// As [`verify`], with a key that is decoded already.
pub fn verify_with(key: &G2Affine, check: &TbsCheck<'_>) -> bool {
    g1_from_bytes(check.signature).is_some_and(|signature| {
        let message = hash_to_g1(check.message, DOMAIN);
        pairing(&signature, &G2Affine::generator()) == pairing(&message, key)
    })
}
