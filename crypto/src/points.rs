//! The one place where bytes become points of BLS12-381.
//!
//! A point that a peer, a wallet or a module gives must be in its canonical
//! compressed encoding, on the curve, in the subgroup of prime order, and not the
//! identity. Without the subgroup check a blinded message of small order would
//! leak a key share modulo that order (the cofactor of G1 has 64 bits of small
//! prime factors), and a signature with a small-order component would satisfy a
//! pairing and not a decoder, so guardians could disagree.
//!
//! [`G1`] and [`G2`] hold only such points. Operations that could give the
//! identity return none for it.

use std::{
    collections::HashMap,
    ptr,
    sync::{LazyLock, PoisonError, RwLock},
};

use blst::*;
use rayon::prelude::*;

use crate::scalar::Scalar;

/// What the two groups have in common.
pub(crate) trait Group: Copy + Eq + Send + Sync + Sized {
    /// The length of an encoded point.
    const LENGTH: usize;
    /// The strict decoder.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
    /// The canonical compressed encoding.
    fn to_vec(&self) -> Vec<u8>;
    /// The standard's generator.
    fn generator() -> Self;
    /// RFC 9380, the random-oracle suite with SHA-256 and SSWU.
    fn hash(message: &[u8], domain: &[u8]) -> Self;
    /// In constant time: fit for secrets.
    fn mul(&self, scalar: &Scalar) -> Self;
    /// Σ scalar · point, the scalars little-endian with `bits` bits each. Not in
    /// constant time. None for nothing at all, lengths that differ, or the identity.
    fn combine(points: &[Self], scalars: &[&[u8]], bits: usize) -> Option<Self>;
    /// The sum. None for nothing at all, or the identity.
    fn sum(points: &[Self]) -> Option<Self>;

    /// [`Self::combine`] with full scalars.
    fn combine_scalars(points: &[Self], scalars: &[Scalar]) -> Option<Self> {
        let scalars: Vec<&[u8]> = scalars.iter().map(|s| &s.little_endian()[..]).collect();
        Self::combine(points, &scalars, 255)
    }
}

macro_rules! group {
    (
        $(#[$doc:meta])*
        $name:ident, $length:literal, $affine:ident, $projective:ident, $uncompress:ident,
        $is_inf:ident, $in_group:ident, $compress:ident, $generator:ident, $hash:ident,
        $from_affine:ident, $to_affine:ident, $projective_is_inf:ident, $mult:ident,
        $add:ident, $pippenger:ident, $scratch:ident
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $name($affine);

        #[allow(
            unsafe_code,
            reason = "blst's functions on points have no safe form. Every pointer below comes \
                      from a reference, an array or a vector that outlives the call and is as \
                      long as the function reads or writes; lists of pointers have one entry \
                      for each point; blst keeps none of them"
        )]
        impl $name {
            /// The canonical compressed encoding.
            pub fn to_bytes(self) -> [u8; $length] {
                let mut bytes = [0; $length];
                unsafe { $compress(bytes.as_mut_ptr(), &self.0) };
                bytes
            }

            fn projective(&self) -> $projective {
                let mut projective = $projective::default();
                unsafe { $from_affine(&mut projective, &self.0) };
                projective
            }

            /// None for the identity.
            fn affine(projective: &$projective) -> Option<Self> {
                if unsafe { $projective_is_inf(projective) } {
                    return None;
                }
                let mut affine = $affine::default();
                unsafe { $to_affine(&mut affine, projective) };
                Some(Self(affine))
            }
        }

        #[allow(
            unsafe_code,
            reason = "as above"
        )]
        impl Group for $name {
            const LENGTH: usize = $length;

            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                let bytes: &[u8; $length] = bytes.try_into().ok()?;
                let mut point = $affine::default();
                let decoded = unsafe { $uncompress(&mut point, bytes.as_ptr()) };
                (decoded == BLST_ERROR::BLST_SUCCESS
                    && !unsafe { $is_inf(&point) }
                    && unsafe { $in_group(&point) })
                .then_some(Self(point))
            }

            fn to_vec(&self) -> Vec<u8> {
                self.to_bytes().to_vec()
            }

            fn generator() -> Self {
                Self(unsafe { *$generator() })
            }

            fn hash(message: &[u8], domain: &[u8]) -> Self {
                let mut point = $projective::default();
                unsafe {
                    $hash(
                        &mut point,
                        message.as_ptr(),
                        message.len(),
                        domain.as_ptr(),
                        domain.len(),
                        ptr::null(),
                        0,
                    )
                };
                Self::affine(&point).expect("a hash is the identity once in 2^255 times")
            }

            fn mul(&self, scalar: &Scalar) -> Self {
                let mut product = $projective::default();
                unsafe {
                    $mult(
                        &mut product,
                        &self.projective(),
                        scalar.little_endian().as_ptr(),
                        255,
                    )
                };
                Self::affine(&product)
                    .expect("neither factor is zero and the group's order is prime")
            }

            fn combine(points: &[Self], scalars: &[&[u8]], bits: usize) -> Option<Self> {
                let long_enough = |scalar: &&[u8]| scalar.len() * 8 >= bits;
                if points.is_empty()
                    || points.len() != scalars.len()
                    || !scalars.iter().all(long_enough)
                {
                    return None;
                }
                let mut sum = $projective::default();
                if let ([point], [scalar]) = (points, scalars) {
                    unsafe { $mult(&mut sum, &point.projective(), scalar.as_ptr(), bits) };
                } else {
                    let points: Vec<*const $affine> =
                        points.iter().map(|p| ptr::from_ref(&p.0)).collect();
                    let scalars: Vec<*const u8> = scalars.iter().map(|s| s.as_ptr()).collect();
                    let scratch = unsafe { $scratch(points.len()) };
                    let mut scratch = vec![0u64; scratch.div_ceil(size_of::<u64>())];
                    unsafe {
                        $pippenger(
                            &mut sum,
                            points.as_ptr(),
                            points.len(),
                            scalars.as_ptr(),
                            bits,
                            scratch.as_mut_ptr(),
                        )
                    };
                }
                Self::affine(&sum)
            }

            fn sum(points: &[Self]) -> Option<Self> {
                let (first, rest) = points.split_first()?;
                let mut sum = first.projective();
                for point in rest {
                    let before = sum;
                    unsafe { $add(&mut sum, &before, &point.0) };
                }
                Self::affine(&sum)
            }
        }
    };
}

group!(
    /// A point of G1: messages, signatures, decryption keys.
    G1,
    48,
    blst_p1_affine,
    blst_p1,
    blst_p1_uncompress,
    blst_p1_affine_is_inf,
    blst_p1_affine_in_g1,
    blst_p1_affine_compress,
    blst_p1_affine_generator,
    blst_hash_to_g1,
    blst_p1_from_affine,
    blst_p1_to_affine,
    blst_p1_is_inf,
    blst_p1_mult,
    blst_p1_add_or_double_affine,
    blst_p1s_mult_pippenger,
    blst_p1s_mult_pippenger_scratch_sizeof
);

group!(
    /// A point of G2: the keys of blind signatures.
    G2,
    96,
    blst_p2_affine,
    blst_p2,
    blst_p2_uncompress,
    blst_p2_affine_is_inf,
    blst_p2_affine_in_g2,
    blst_p2_affine_compress,
    blst_p2_affine_generator,
    blst_hash_to_g2,
    blst_p2_from_affine,
    blst_p2_to_affine,
    blst_p2_is_inf,
    blst_p2_mult,
    blst_p2_add_or_double_affine,
    blst_p2s_mult_pippenger,
    blst_p2s_mult_pippenger_scratch_sizeof
);

/// How many pairs one Miller loop takes at a time; blst splits longer lists at
/// the same length.
const PAIRS_AT_A_TIME: usize = 16;

impl G1 {
    /// −self.
    #[allow(
        unsafe_code,
        reason = "one pointer, from a local that outlives the call"
    )]
    pub fn negate(self) -> Self {
        let mut point = self.projective();
        unsafe { blst_p1_cneg(&mut point, true) };
        Self::affine(&point).expect("the negative of what is not the identity is not either")
    }
}

/// Whether Π e(p, q) = 1: Miller loops over everything, one final exponentiation.
#[allow(
    unsafe_code,
    reason = "both lists of pointers have `pairs.len()` entries, each from a reference that \
              outlives the call"
)]
pub(crate) fn pairing_product_is_one(pairs: &[(G1, G2)]) -> bool {
    let miller_loop = |pairs: &[(G1, G2)]| {
        let p: Vec<*const blst_p1_affine> =
            pairs.iter().map(|(p, _)| ptr::from_ref(&p.0)).collect();
        let q: Vec<*const blst_p2_affine> =
            pairs.iter().map(|(_, q)| ptr::from_ref(&q.0)).collect();
        let mut product = blst_fp12::default();
        unsafe { blst_miller_loop_n(&mut product, q.as_ptr(), p.as_ptr(), pairs.len()) };
        product
    };
    pairs
        .par_chunks(PAIRS_AT_A_TIME)
        .map(miller_loop)
        .reduce(blst_fp12::default, |a, b| a * b)
        .final_exp()
        == blst_fp12::default()
}

/// How many decoded keys are kept; a federation has about a hundred.
const MAX_KEPT_KEYS: usize = 4096;

static KEPT_KEYS: LazyLock<RwLock<HashMap<[u8; 96], G2>>> = LazyLock::new(Default::default);

/// [`Group::from_bytes`] for public keys, which come again and again: decoded
/// once, then kept.
pub(crate) fn public_key(bytes: &[u8]) -> Option<G2> {
    let bytes: [u8; 96] = bytes.try_into().ok()?;
    let kept = KEPT_KEYS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(key) = kept.get(&bytes) {
        return Some(*key);
    }
    drop(kept);
    let key = G2::from_bytes(&bytes)?;
    let mut kept = KEPT_KEYS.write().unwrap_or_else(PoisonError::into_inner);
    if kept.len() >= MAX_KEPT_KEYS {
        kept.clear();
    }
    kept.insert(bytes, key);
    Some(key)
}
