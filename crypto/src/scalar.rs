//! Numbers modulo the group order r of BLS12-381, never zero between calls.

use blst::{
    blst_bendian_from_scalar, blst_scalar, blst_scalar_from_be_bytes, blst_scalar_from_bendian,
    blst_scalar_from_uint64, blst_sk_add_n_check, blst_sk_check, blst_sk_inverse,
    blst_sk_mul_n_check, blst_sk_sub_n_check,
};
use modmint_core::tagged_hash;
use zeroize::{Zeroize, Zeroizing};

/// 1 to r − 1. Erased when dropped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Scalar(blst_scalar);

#[allow(
    unsafe_code,
    reason = "blst's functions on numbers have no safe form. Every pointer below comes from a \
              reference or an array that outlives the call, points to as many bytes as the \
              function reads or writes, and blst keeps none of them"
)]
impl Scalar {
    /// From 32 bytes, big-endian, that are 1 to r − 1.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let mut scalar = blst_scalar::default();
        unsafe { blst_scalar_from_bendian(&mut scalar, bytes.as_ptr()) };
        unsafe { blst_sk_check(&scalar) }.then_some(Self(scalar))
    }

    /// 32 bytes, big-endian.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        unsafe { blst_bendian_from_scalar(bytes.as_mut_ptr(), &self.0) };
        bytes
    }

    /// A small number, at least one.
    pub fn from_index(number: u64) -> Self {
        let mut scalar = blst_scalar::default();
        unsafe { blst_scalar_from_uint64(&mut scalar, [number.max(1), 0, 0, 0].as_ptr()) };
        Self(scalar)
    }

    /// The number that `purpose` and `parts` hash to: 512 bits modulo r, so that
    /// no value is more likely than another.
    pub fn hash(purpose: &str, parts: &[&[u8]]) -> Self {
        let wide = wide_hash(purpose, parts);
        let mut scalar = blst_scalar::default();
        let not_zero = unsafe { blst_scalar_from_be_bytes(&mut scalar, wide.as_ptr(), wide.len()) };
        assert!(not_zero, "a hash is a multiple of r once in 2^255 times");
        Self(scalar)
    }

    /// The sum; none if it is zero.
    pub fn add(&self, other: &Self) -> Option<Self> {
        let mut sum = blst_scalar::default();
        unsafe { blst_sk_add_n_check(&mut sum, &self.0, &other.0) }.then_some(Self(sum))
    }

    /// The difference; none if it is zero.
    pub fn sub(&self, other: &Self) -> Option<Self> {
        let mut difference = blst_scalar::default();
        unsafe { blst_sk_sub_n_check(&mut difference, &self.0, &other.0) }
            .then_some(Self(difference))
    }

    /// The product.
    pub fn mul(&self, other: &Self) -> Self {
        let mut product = blst_scalar::default();
        let not_zero = unsafe { blst_sk_mul_n_check(&mut product, &self.0, &other.0) };
        assert!(
            not_zero,
            "r is prime: no two factors other than zero make zero"
        );
        Self(product)
    }

    /// 1/self.
    pub fn invert(&self) -> Self {
        let mut inverse = blst_scalar::default();
        unsafe { blst_sk_inverse(&mut inverse, &self.0) };
        Self(inverse)
    }

    /// 32 bytes, little-endian, as blst's multiplications read them.
    pub(crate) fn little_endian(&self) -> &[u8; 32] {
        &self.0.b
    }
}

/// 64 bytes, the tagged hashes of 0 ‖ parts and 1 ‖ parts.
pub(crate) fn wide_hash(purpose: &str, parts: &[&[u8]]) -> Zeroizing<[u8; 64]> {
    let mut wide = Zeroizing::new([0; 64]);
    for (counter, half) in (0u8..).zip(wide.chunks_exact_mut(32)) {
        let mut all = vec![std::slice::from_ref(&counter)];
        all.extend_from_slice(parts);
        let mut hash = tagged_hash(purpose, &all);
        half.copy_from_slice(&hash);
        hash.zeroize();
    }
    wide
}

/// Lagrange's coefficients at zero for a polynomial known at guardian index + 1:
/// Π over the others of x_j / (x_j − x_i). Indices must differ.
pub(crate) fn lagrange(indices: &[u16]) -> Option<Vec<Scalar>> {
    let points: Vec<_> = indices.iter().map(|i| point_of(*i)).collect();
    let coefficient = |(i, x_i): (usize, &Scalar)| {
        let (mut numerator, mut denominator) = (Scalar::from_index(1), Scalar::from_index(1));
        for (_, x_j) in points.iter().enumerate().filter(|(j, _)| *j != i) {
            numerator = numerator.mul(x_j);
            denominator = denominator.mul(&x_j.sub(x_i)?);
        }
        Some(numerator.mul(&denominator.invert()))
    };
    points.iter().enumerate().map(coefficient).collect()
}

/// Where guardian `index`'s share lies on a polynomial: at index + 1.
pub(crate) fn point_of(index: u16) -> Scalar {
    Scalar::from_index(u64::from(index) + 1)
}
