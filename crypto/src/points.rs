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
    sync::{Arc, LazyLock, PoisonError, RwLock},
};

use blst::*;

use crate::{
    pairing::Prepared,
    scalar::{Interpolation, Scalar, Sign},
};

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

            /// As blst has it.
            pub fn as_affine(&self) -> &$affine {
                &self.0
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

impl G1 {
    /// A point of the curve other than the identity in its canonical encoding, which may
    /// lie outside of the subgroup: not to leave this file.
    #[allow(
        unsafe_code,
        reason = "pointers from an array of 48 bytes and a local that outlive the calls"
    )]
    fn on_curve(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 48] = bytes.try_into().ok()?;
        let mut point = blst_p1_affine::default();
        let decoded = unsafe { blst_p1_uncompress(&mut point, bytes.as_ptr()) };
        (decoded == BLST_ERROR::BLST_SUCCESS && !unsafe { blst_p1_affine_is_inf(&point) })
            .then_some(Self(point))
    }

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

/// Σ n_i · share_i: the shares' common secret times the interpolation's denominator.
/// None if a share is no point of the curve, or the sum is not of the subgroup or the
/// identity.
///
/// The sum alone is held against the subgroup: whoever finds none, or one that does not
/// verify, decodes every share by [`Group::from_bytes`] to say which is bad.
#[allow(
    unsafe_code,
    reason = "pointers from arrays of 48 bytes and references that outlive the calls"
)]
pub(crate) fn combine_shares(shares: &[&[u8]], interpolation: &Interpolation) -> Option<G1> {
    let signs = interpolation.numerators().iter().map(|(sign, _)| *sign);
    let points: Vec<G1> = shares
        .iter()
        .zip(signs)
        .map(|(share, sign)| {
            let point = G1::on_curve(share)?;
            Some(match sign {
                Sign::Plus => point,
                Sign::Minus => point.negate(),
            })
        })
        .collect::<Option<_>>()?;
    let sizes = interpolation.numerators().iter();
    let sizes: Vec<&[u8]> = sizes.map(|(_, size)| &size.little_endian()[..]).collect();
    let sum = G1::combine(&points, &sizes, interpolation.bits())?;
    unsafe { blst_p1_affine_in_g1(&sum.0) }.then_some(sum)
}

/// How many decoded keys are kept, 20 kB each; a mint has 42.
const MAX_KEPT_KEYS: usize = 512;
/// How many decoded messages are kept: those of some seconds at full load.
const MAX_KEPT_MESSAGES: usize = 8192;

static KEPT_KEYS: Kept<Arc<Prepared>, 96> = Kept::new(MAX_KEPT_KEYS, |bytes| {
    Prepared::from_bytes(bytes).map(Arc::new)
});
static KEPT_MESSAGES: Kept<G1, 48> = Kept::new(MAX_KEPT_MESSAGES, |bytes| G1::from_bytes(bytes));

/// [`Group::from_bytes`] for public keys, which come again and again: decoded and
/// prepared once, then kept.
pub(crate) fn public_key(bytes: &[u8]) -> Option<Arc<Prepared>> {
    KEPT_KEYS.get(bytes)
}

/// [`Group::from_bytes`] for blinded messages, which are looked at when they arrive,
/// when they are ordered and when they are signed.
pub(crate) fn blinded_message(bytes: &[u8]) -> Option<G1> {
    KEPT_MESSAGES.get(bytes)
}

/// What was computed of some bytes a short while ago. Only what is valid is kept: what
/// is none stays none, and whoever sends it gains nothing.
pub(crate) struct Kept<T, const N: usize> {
    size: usize,
    decode: fn(&[u8; N]) -> Option<T>,
    kept: LazyLock<RwLock<HashMap<[u8; N], T>>>,
}

impl<T: Clone, const N: usize> Kept<T, N> {
    pub const fn new(size: usize, decode: fn(&[u8; N]) -> Option<T>) -> Self {
        Self {
            size,
            decode,
            kept: LazyLock::new(RwLock::default),
        }
    }

    /// What these bytes are; none if they are nothing, or of another length.
    pub fn get(&self, bytes: &[u8]) -> Option<T> {
        let bytes: [u8; N] = bytes.try_into().ok()?;
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(&bytes) {
            return Some(known.clone());
        }
        drop(kept);
        let decoded = (self.decode)(&bytes)?;
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.size {
            kept.clear();
        }
        kept.insert(bytes, decoded.clone());
        Some(decoded)
    }
}

#[cfg(test)]
mod tests {
    use bls12_381::{G1Affine, G2Affine};

    use super::*;
    use crate::portable;

    /// RFC 9380, appendix J.9.1 and J.10.1: the message, the point of G1 (x, y),
    /// and the point of G2 (imaginary part of x, real part, the same of y).
    fn vectors() -> [(Vec<u8>, &'static str, &'static str); 5] {
        let long = |start: &str, letter: &str, count: usize| {
            [start.as_bytes(), letter.repeat(count).as_bytes()].concat()
        };
        [
            (
                b"".to_vec(),
                "052926add2207b76ca4fa57a8734416c8dc95e24501772c814278700eed6d1e4e8cf62d9c09db0fac349612b759e79a1\
                 08ba738453bfed09cb546dbb0783dbb3a5f1f566ed67bb6be0e8c67e2e81a4cc68ee29813bb7994998f3eae0c9c6a265",
                "05cb8437535e20ecffaef7752baddf98034139c38452458baeefab379ba13dff5bf5dd71b72418717047f5b0f37da03d\
                 0141ebfbdca40eb85b87142e130ab689c673cf60f1a3e98d69335266f30d9b8d4ac44c1038e9dcdd5393faf5c41fb78a\
                 12424ac32561493f3fe3c260708a12b7c620e7be00099a974e259ddc7d1f6395c3c811cdd19f1e8dbf3e9ecfdcbab8d6\
                 0503921d7f6a12805e72940b963c0cf3471c7b2a524950ca195d11062ee75ec076daf2d4bc358c4b190c0c98064fdd92",
            ),
            (
                b"abc".to_vec(),
                "03567bc5ef9c690c2ab2ecdf6a96ef1c139cc0b2f284dca0a9a7943388a49a3aee664ba5379a7655d3c68900be2f6903\
                 0b9c15f3fe6e5cf4211f346271d7b01c8f3b28be689c8429c85b67af215533311f0b8dfaaa154fa6b88176c229f2885d",
                "139cddbccdc5e91b9623efd38c49f81a6f83f175e80b06fc374de9eb4b41dfe4ca3a230ed250fbe3a2acf73a41177fd8\
                 02c2d18e033b960562aae3cab37a27ce00d80ccd5ba4b7fe0e7a210245129dbec7780ccc7954725f4168aff2787776e6\
                 00aa65dae3c8d732d10ecd2c50f8a1baf3001578f71c694e03866e9f3d49ac1e1ce70dd94a733534f106d4cec0eddd16\
                 1787327b68159716a37440985269cf584bcb1e621d3a7202be6ea05c4cfe244aeb197642555a0645fb87bf7466b2ba48",
            ),
            (
                b"abcdef0123456789".to_vec(),
                "11e0b079dea29a68f0383ee94fed1b940995272407e3bb916bbf268c263ddd57a6a27200a784cbc248e84f357ce82d98\
                 03a87ae2caf14e8ee52e51fa2ed8eefe80f02457004ba4d486d6aa1f517c0889501dc7413753f9599b099ebcbbd2d709",
                "190d119345b94fbd15497bcba94ecf7db2cbfd1e1fe7da034d26cbba169fb3968288b3fafb265f9ebd380512a71c3f2c\
                 121982811d2491fde9ba7ed31ef9ca474f0e1501297f68c298e9f4c0028add35aea8bb83d53c08cfc007c1e005723cd0\
                 0bb5e7572275c567462d91807de765611490205a941a5a6af3b1691bfe596c31225d3aabdf15faff860cb4ef17c7c3be\
                 05571a0f8d3c08d094576981f4a3b8eda0a8e771fcdcc8ecceaf1356a6acf17574518acb506e435b639353c2e14827c8",
            ),
            (
                long("q128_", "q", 128),
                "15f68eaa693b95ccb85215dc65fa81038d69629f70aeee0d0f677cf22285e7bf58d7cb86eefe8f2e9bc3f8cb84fac488\
                 1807a1d50c29f430b8cafc4f8638dfeeadf51211e1602a5f184443076715f91bb90a48ba1e370edce6ae1062f5e6dd38",
                "0934aba516a52d8ae479939a91998299c76d39cc0c035cd18813bec433f587e2d7a4fef038260eef0cef4d02aae3eb91\
                 19a84dd7248a1066f737cc34502ee5555bd3c19f2ecdb3c7d9e24dc65d4e25e50d83f0f77105e955d78f4762d33c17da\
                 09bcccfa036b4847c9950780733633f13619994394c23ff0b32fa6b795844f4a0673e20282d07bc69641cee04f5e5662\
                 14f81cd421617428bc3b9fe25afbb751d934a00493524bc4e065635b0555084dd54679df1536101b2c979c0152d09192",
            ),
            (
                long("a512_", "a", 512),
                "082aabae8b7dedb0e78aeb619ad3bfd9277a2f77ba7fad20ef6aabdc6c31d19ba5a6d12283553294c1825c4b3ca2dcfe\
                 05b84ae5a942248eea39e1d91030458c40153f3b654ab7872d779ad1e942856a20c438e8d99bc8abfbf74729ce1f7ac8",
                "11fca2ff525572795a801eed17eb12785887c7b63fb77a42be46ce4a34131d71f7a73e95fee3f812aea3de78b4d01569\
                 01a6ba2f9a11fa5598b2d8ace0fbe0a0eacb65deceb476fbbcb64fd24557c2f4b18ecfc5663e54ae16a84f5ab7f62534\
                 03a47f8e6d1763ba0cad63d6114c0accbef65707825a511b251a660a9b3994249ae4e63fac38b23da0c398689ee2ab52\
                 0b6798718c8aed24bc19cb27f866f1c9effcdbf92397ad6448b5c9db90d2b9da6cbabf48adc1adf59a1a28344e79d57e",
            ),
        ]
    }

    fn uncompressed<const N: usize>(hex: &str) -> [u8; N] {
        let bytes = hex::decode(hex).expect("hexadecimal");
        bytes.try_into().expect("two coordinates")
    }

    #[test]
    fn messages_hash_to_the_points_of_rfc_9380() {
        let (g1, g2) = (
            b"QUUX-V01-CS02-with-BLS12381G1_XMD:SHA-256_SSWU_RO_",
            b"QUUX-V01-CS02-with-BLS12381G2_XMD:SHA-256_SSWU_RO_",
        );
        for (message, in_g1, in_g2) in vectors() {
            let expected = G1Affine::from_uncompressed(&uncompressed(in_g1)).expect("a point");
            assert_eq!(G1::hash(&message, g1).to_bytes(), expected.to_compressed());
            assert_eq!(portable::hash_to_g1(&message, g1), expected);
            let expected = G2Affine::from_uncompressed(&uncompressed(in_g2)).expect("a point");
            assert_eq!(G2::hash(&message, g2).to_bytes(), expected.to_compressed());
        }
    }

    #[test]
    fn what_is_kept_is_what_was_decoded_and_never_more_than_so_many() {
        let kept = Kept::<G1, 48>::new(3, |bytes| G1::from_bytes(bytes));
        let points: Vec<_> = (1..=8)
            .map(|i| G1::generator().mul(&Scalar::from_index(i)))
            .collect();
        for point in points.iter().chain(&points) {
            let bytes = point.to_bytes();
            assert_eq!(kept.get(&bytes).map(G1::to_bytes), Some(bytes));
            assert!(kept.kept.read().expect("nobody panics").len() <= 3);
        }
        for junk in [&[0xff; 48][..], &[0; 48], &[1; 47], &[]] {
            for _ in 0..2 {
                assert!(kept.get(junk).is_none());
            }
        }
    }

    #[test]
    fn sums_agree_with_single_multiplications() {
        let scalars: Vec<_> = (0u8..5).map(|i| Scalar::hash("test", &[&[i]])).collect();
        let points: Vec<_> = (1..=5)
            .map(|i| G2::generator().mul(&Scalar::from_index(i)))
            .collect();
        for count in 1..=5 {
            let products: Vec<_> = points.iter().zip(&scalars).map(|(p, s)| p.mul(s)).collect();
            let combined = G2::combine_scalars(&points[..count], &scalars[..count]);
            assert_eq!(
                combined.map(G2::to_bytes),
                G2::sum(&products[..count]).map(G2::to_bytes)
            );
        }
        assert!(G2::combine_scalars(&[], &[]).is_none());
        assert!(G1::sum(&[G1::generator(), G1::generator().negate()]).is_none());
    }
}
