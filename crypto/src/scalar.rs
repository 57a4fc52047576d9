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

    /// −self.
    pub fn negate(&self) -> Self {
        let mut negative = blst_scalar::default();
        let zero = blst_scalar::default();
        let not_zero = unsafe { blst_sk_sub_n_check(&mut negative, &zero, &self.0) };
        assert!(not_zero, "the negative of what is not zero is not either");
        Self(negative)
    }

    /// How many bits it has, 1 to 255.
    pub fn bits(&self) -> usize {
        let bytes = self.little_endian();
        let top = bytes.iter().rposition(|byte| *byte > 0).unwrap_or(0);
        8 * top + bytes[top].checked_ilog2().map_or(0, |bit| bit as usize + 1)
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

/// What takes a polynomial's values at guardian index + 1 to its value at zero:
/// Σ n_i·value_i = d·value(0), with whole numbers n_i that have few bits where there are
/// few guardians.
///
/// d is the factorial of the largest index + 1, and n_i/d are Lagrange's coefficients:
/// V. Shoup, Practical Threshold Signatures, EUROCRYPT 2000, equation (1).
#[derive(Clone)]
pub(crate) struct Interpolation {
    numerators: Vec<(Sign, Scalar)>,
    /// d.
    pub denominator: Scalar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    Plus,
    Minus,
}

impl Interpolation {
    /// Indices must differ.
    pub fn new(indices: &[u16]) -> Option<Self> {
        let largest = u64::from(*indices.iter().max()?) + 1;
        let factors = (1..=largest).map(Scalar::from_index);
        let denominator = factors.fold(Scalar::from_index(1), |all, one| all.mul(&one));
        let points: Vec<_> = indices.iter().map(|i| point_of(*i)).collect();
        let numerator = |(i, x_i): (usize, &Scalar)| {
            // Π over the others of x_j / (x_j − x_i).
            let (mut above, mut below) = (denominator.clone(), Scalar::from_index(1));
            for (_, x_j) in points.iter().enumerate().filter(|(j, _)| *j != i) {
                above = above.mul(x_j);
                below = below.mul(&x_j.sub(x_i)?);
            }
            let number = above.mul(&below.invert());
            let negative = number.negate();
            Some(match negative.bits() < number.bits() {
                true => (Sign::Minus, negative),
                false => (Sign::Plus, number),
            })
        };
        Some(Self {
            numerators: points
                .iter()
                .enumerate()
                .map(numerator)
                .collect::<Option<_>>()?,
            denominator,
        })
    }

    /// n_i by sign and size, in the order of the indices.
    pub fn numerators(&self) -> &[(Sign, Scalar)] {
        &self.numerators
    }

    /// How many bits the longest of them has.
    pub fn bits(&self) -> usize {
        let bits = self.numerators.iter().map(|(_, size)| size.bits());
        bits.max().unwrap_or(0)
    }
}

/// Where guardian `index`'s share lies on a polynomial: at index + 1.
pub(crate) fn point_of(index: u16) -> Scalar {
    Scalar::from_index(u64::from(index) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_polynomial_is_taken_to_its_value_at_zero_by_small_numbers() {
        // 5 + 7x + 11x², and of nineteen guardians a sum of powers.
        let value = |index: u16, degree: u32| {
            let x = point_of(index);
            (0..=degree)
                .rev()
                .map(|power| Scalar::from_index(u64::from(2 * power + 5)))
                .reduce(|value, coefficient| value.mul(&x).add(&coefficient).expect("small"))
                .expect("one coefficient at least")
        };
        for (indices, bits) in [
            (&[0, 1, 2][..], 7),
            (&[3, 1, 2], 8),
            (&[0, 3, 2], 6),
            (&[18, 1, 2, 3, 5, 6, 7, 9, 11, 12, 14, 16, 17], 80),
        ] {
            let degree = indices.len() as u32 - 1;
            let interpolation = Interpolation::new(indices).expect("they differ");
            let sum = indices
                .iter()
                .zip(interpolation.numerators())
                .map(|(index, (sign, size))| {
                    let product = value(*index, degree).mul(size);
                    match sign {
                        Sign::Plus => product,
                        Sign::Minus => product.negate(),
                    }
                })
                .reduce(|sum, one| sum.add(&one).expect("not zero"))
                .expect("there are some");
            let at_zero = sum.mul(&interpolation.denominator.invert());
            assert!(at_zero == Scalar::from_index(5), "{indices:?}");
            assert!(interpolation.bits() <= bits, "{}", interpolation.bits());
        }
        assert!(Interpolation::new(&[1, 2, 1]).is_none());
        assert!(Interpolation::new(&[]).is_none());
    }
}
