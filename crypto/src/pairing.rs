//! Products of pairings of which most have the same few points of G2.
//!
//! Half of the work of a Miller loop is on the point of G2 alone: the lines through
//! its multiples. [`Lines`] are computed once for each key and kept with it; a product
//! over any number of pairs squares once for all of them.

use std::sync::LazyLock;

use blst::{
    blst_fp, blst_fp_add, blst_fp_cneg, blst_fp_mul, blst_fp2, blst_fp6, blst_fp12,
    blst_fp12_mul_by_xy00z0, blst_fp12_sqr, blst_precompute_lines,
};
use rayon::prelude::*;

use crate::points::{G1, G2, Group};

/// The absolute value of the curve's parameter; it is negative.
/// <https://datatracker.ietf.org/doc/html/draft-irtf-cfrg-pairing-friendly-curves-11#section-4.2.1>
const PARAMETER: u64 = 0xd201_0000_0001_0000;
/// A doubling for each bit of [`PARAMETER`] but the first, and an addition for each of
/// these that is set.
const LINES: usize = (PARAMETER.ilog2() + PARAMETER.count_ones() - 1) as usize;
/// So many pairs share their squarings on one thread; further ones are another's.
const PAIRS_AT_A_TIME: usize = 16;

/// The lines of a point of G2, 19,584 bytes.
pub(crate) struct Lines(Box<[blst_fp6; LINES]>);

impl Lines {
    #[allow(
        unsafe_code,
        reason = "blst writes 68 lines, as many as the array is long, and reads one point; both \
                  outlive the call"
    )]
    pub fn of(point: &G2) -> Self {
        let mut lines = Box::new([blst_fp6::default(); LINES]);
        unsafe { blst_precompute_lines(lines.as_mut_ptr(), point.as_affine()) };
        Self(lines)
    }
}

/// A point of G2 that is paired again and again.
pub(crate) struct Prepared {
    pub point: G2,
    pub lines: Lines,
}

impl Prepared {
    pub fn new(point: G2) -> Self {
        let lines = Lines::of(&point);
        Self { point, lines }
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        G2::from_bytes(bytes).map(Self::new)
    }
}

/// The standard's generator of G2, prepared.
pub(crate) fn generator() -> &'static Lines {
    static GENERATOR: LazyLock<Lines> = LazyLock::new(|| Lines::of(&G2::generator()));
    &GENERATOR
}

/// Whether Π e(p, q) = 1: Miller loops over everything, one final exponentiation.
pub(crate) fn pairing_product_is_one(pairs: &[(G1, &Lines)]) -> bool {
    let product = match pairs.len() {
        // One loop: waking other threads costs more than it saves.
        ..=PAIRS_AT_A_TIME => miller_loop(pairs),
        _ => pairs
            .par_chunks(PAIRS_AT_A_TIME)
            .map(miller_loop)
            .reduce(blst_fp12::default, |a, b| a * b),
    };
    product.final_exp() == blst_fp12::default()
}

/// Π f(p, q) before the final exponentiation, for the parameter's absolute value: its
/// conjugate is what the negative one gives, and one is its own.
///
/// The steps and the form of the lines are those of blst's `miller_loop_lines`, which
/// takes one pair.
#[allow(
    unsafe_code,
    reason = "blst's functions on field elements have no safe form. Every pointer comes from a \
              reference that outlives the call, and no two of one call are to the same place"
)]
fn miller_loop(pairs: &[(G1, &Lines)]) -> blst_fp12 {
    let points: Vec<At> = pairs.iter().map(|(p, _)| At::new(p)).collect();
    let multiplied = |mut product: blst_fp12, number: usize| {
        for (point, (_, lines)) in points.iter().zip(pairs) {
            let line = point.of(&lines.0[number]);
            let before = product;
            unsafe { blst_fp12_mul_by_xy00z0(&mut product, &before, &line) };
        }
        product
    };
    let mut product = blst_fp12::default();
    let mut number = 0..LINES;
    let mut next = || number.next().expect("as many as LINES counts");
    for bit in (0..PARAMETER.ilog2()).rev() {
        let before = product;
        unsafe { blst_fp12_sqr(&mut product, &before) };
        product = multiplied(product, next());
        if PARAMETER >> bit & 1 == 1 {
            product = multiplied(product, next());
        }
    }
    product
}

/// Where lines are evaluated: −2x and 2y of a point, as blst has moved these factors
/// out of the lines.
struct At {
    x: blst_fp,
    y: blst_fp,
}

#[allow(unsafe_code, reason = "as above")]
impl At {
    fn new(point: &G1) -> Self {
        let twice = |number: &blst_fp| {
            let mut sum = blst_fp::default();
            unsafe { blst_fp_add(&mut sum, number, number) };
            sum
        };
        let point = point.as_affine();
        let mut x = blst_fp::default();
        unsafe { blst_fp_cneg(&mut x, &twice(&point.x), true) };
        Self {
            x,
            y: twice(&point.y),
        }
    }

    /// A line's value here, its three coefficients of F_p² in blst's order "xy00z0".
    fn of(&self, line: &blst_fp6) -> blst_fp6 {
        let scaled = |coefficient: &blst_fp2, by: &blst_fp| {
            let mut product = blst_fp2::default();
            for (out, part) in product.fp.iter_mut().zip(&coefficient.fp) {
                unsafe { blst_fp_mul(out, part, by) };
            }
            product
        };
        let [constant, by_x, by_y] = &line.fp2;
        blst_fp6 {
            fp2: [*constant, scaled(by_x, &self.x), scaled(by_y, &self.y)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::Scalar;

    #[test]
    fn a_pairing_is_bilinear_over_more_pairs_than_one_loop_takes() {
        let number = Scalar::from_index;
        let (g1, g2) = (G1::generator(), G2::generator());
        let mut pairs: Vec<_> = (1..=40)
            .map(|i| (g1.mul(&number(i)), Lines::of(&g2.mul(&number(41 - i)))))
            .collect();
        let sum = (1..=40).map(|i| i * (41 - i)).sum();
        pairs.push((g1.mul(&number(sum)).negate(), Lines::of(&g2)));
        let holds = |pairs: &[(G1, Lines)]| {
            let pairs: Vec<_> = pairs.iter().map(|(p, lines)| (*p, lines)).collect();
            pairing_product_is_one(&pairs)
        };
        assert!(holds(&pairs));
        pairs[7].0 = g1;
        assert!(!holds(&pairs));
        assert!(holds(&[]));
    }

    #[test]
    fn loops_give_what_blst_and_the_portable_implementation_give() {
        let number = Scalar::from_index;
        let points: Vec<(G1, G2)> = (1..=5)
            .map(|i| {
                let p = G1::generator().mul(&number(i * i + 7));
                (p, G2::generator().mul(&number(3 * i + 1)))
            })
            .collect();
        for count in 1..=points.len() {
            let lines: Vec<_> = points[..count]
                .iter()
                .map(|(p, q)| (*p, Lines::of(q)))
                .collect();
            let pairs: Vec<_> = lines.iter().map(|(p, lines)| (*p, lines)).collect();
            let ours = miller_loop(&pairs).final_exp();
            let theirs = points[..count]
                .iter()
                .map(|(p, q)| blst_fp12::miller_loop(q.as_affine(), p.as_affine()))
                .reduce(|a, b| a * b)
                .expect("one at least");
            // Ours is the conjugate; behind the final exponentiation that is the inverse.
            assert!(ours * theirs.final_exp() == blst_fp12::default());
        }
        let sum: u64 = (1..=5).map(|i| (i * i + 7) * (3 * i + 1)).sum();
        let portable = bls12_381::pairing(
            &(bls12_381::G1Affine::generator() * bls12_381::Scalar::from(sum)).into(),
            &bls12_381::G2Affine::generator(),
        );
        let all = points.iter().map(|(p, q)| {
            let p = bls12_381::G1Affine::from_compressed(&p.to_bytes()).expect("a point");
            let q = bls12_381::G2Affine::from_compressed(&q.to_bytes()).expect("a point");
            bls12_381::pairing(&p, &q)
        });
        assert_eq!(all.reduce(|a, b| a + b), Some(portable));
    }
}
