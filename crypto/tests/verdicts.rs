//! Single and batch, `blst` and `bls12_381`: one verdict for every bytes.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use bls12_381::{G1Affine, G1Projective};
use modmint_core::config::HexBytes;
use modmint_crypto::{
    portable,
    tbs::{self, SecretShare, TbsCheck},
};
use proptest::prelude::*;

/// r, big-endian.
const ORDER: &str = "73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001";

fn share(number: u8) -> SecretShare {
    let mut bytes = [number; 32];
    bytes[0] = 1;
    SecretShare::from_bytes(&bytes).unwrap()
}

/// A signature as a wallet gets it, of a group of one.
fn signature(share: &SecretShare, message: &[u8]) -> [u8; 48] {
    let factor = [9; 32];
    let signed = tbs::sign_share(share, &tbs::blind(message, &factor)).unwrap();
    portable::unblind(&factor, &[(0, signed.to_vec())], 1).unwrap()
}

/// Any point of the curve, from an x coordinate tried upwards from `start`; almost
/// none is of prime order.
fn curve_point(start: [u8; 32]) -> G1Affine {
    let mut bytes = [0; 48];
    bytes[16..].copy_from_slice(&start);
    bytes[0] |= 0x80;
    loop {
        if let Some(point) = Option::from(G1Affine::from_compressed_unchecked(&bytes)) {
            return point;
        }
        bytes[47] = bytes[47].wrapping_add(1);
    }
}

/// r·point: of an order that divides the cofactor.
fn without_prime_order_part(point: G1Affine) -> G1Projective {
    let mut product = G1Projective::identity();
    for byte in hex::decode(ORDER).unwrap() {
        for bit in (0..8).rev() {
            product = product.double();
            if byte >> bit & 1 == 1 {
                product += point;
            }
        }
    }
    product
}

/// (0, 2), of order 3.
fn of_order_three() -> G1Affine {
    let mut bytes = [0; 48];
    bytes[0] = 0x80;
    let point = G1Affine::from_compressed_unchecked(&bytes).unwrap();
    assert_eq!(
        G1Projective::from(point).double(),
        -G1Projective::from(point)
    );
    point
}

/// The verdict on these bytes as a signature, asserted to be the same from all.
fn verdict(key: &[u8], message: &[u8], candidate: &[u8]) -> bool {
    let check = TbsCheck {
        public_key: key,
        message,
        signature: candidate,
    };
    let single = tbs::verify(&check);
    assert_eq!(portable::verify(&check), single, "bls12_381");

    let other = share(77);
    let (other_key, other_signature) = (other.public_key(), signature(&other, b"other"));
    let good = TbsCheck {
        public_key: &other_key,
        message: b"other",
        signature: &other_signature,
    };
    assert_eq!(
        tbs::verify_batch(&[good, check, good]),
        [true, single, true],
        "batch"
    );
    assert_eq!(tbs::verify_batch(&[check]), [single], "batch of one");
    assert_eq!(
        tbs::valid_blinded_message(candidate),
        portable::valid_blinded_message(candidate),
        "as a blinded message"
    );
    assert_eq!(
        tbs::sign_share(&share(5), candidate).is_some(),
        tbs::valid_blinded_message(candidate)
    );
    single
}

fn candidates(valid: [u8; 48], point: G1Affine) -> Vec<(Vec<u8>, bool)> {
    let of_signature = G1Projective::from(portable::g1_from_bytes(&valid).unwrap());
    let small = without_prime_order_part(point);
    let encode = |point: G1Projective| G1Affine::from(point).to_compressed().to_vec();
    let flip = |byte: usize, bits: u8| {
        let mut bytes = valid;
        bytes[byte] ^= bits;
        bytes.to_vec()
    };
    vec![
        (valid.to_vec(), true),
        (encode(of_signature + small), false),
        (encode(of_signature + of_order_three()), false),
        (encode(small), false),
        (encode(of_order_three().into()), false),
        (point.to_compressed().to_vec(), false),
        (encode(-of_signature), false),
        (encode(of_signature.double()), false),
        (encode(G1Projective::identity()), false),
        (encode(of_signature.clear_cofactor()), false),
        (flip(0, 0x80), false),
        (flip(0, 0x40), false),
        (flip(0, 0x20), false),
        (flip(47, 1), false),
        (valid[..47].to_vec(), false),
        ([&valid[..], &[0]].concat(), false),
        (Vec::new(), false),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_point_and_small_order_addition_gets_one_verdict(
        number in 1u8..70,
        message: Vec<u8>,
        x: [u8; 32],
    ) {
        let share = share(number);
        let key = share.public_key();
        let valid = signature(&share, &message);
        for (candidate, expected) in candidates(valid, curve_point(x)) {
            prop_assert_eq!(verdict(&key, &message, &candidate), expected, "{}", hex::encode(candidate));
        }
    }

    #[test]
    fn random_bytes_get_one_verdict(bytes: [u8; 48], flags in 0u8..8) {
        let mut bytes = bytes;
        bytes[0] = bytes[0] & 0x1f | flags << 5;
        prop_assert!(!verdict(&share(1).public_key(), b"message", &bytes));
    }

    #[test]
    fn both_implementations_make_the_same_bytes(message: Vec<u8>, factor: [u8; 32], number in 1u8..70) {
        let blinded = tbs::blind(&message, &factor);
        prop_assert_eq!(portable::blind(&message, &factor), blinded);

        let share = share(number);
        let key = share.public_key();
        let shares = [(0, tbs::sign_share(&share, &blinded).unwrap().to_vec())];
        let unblinded = tbs::unblind(&[tbs::SignedBlinding {
            message: &message,
            factor: &factor,
            group_key: &key,
            share_keys: &[HexBytes(key.to_vec())],
            shares: &shares,
            threshold: 1,
        }]);
        prop_assert_eq!(unblinded, Ok(vec![portable::unblind(&factor, &shares, 1).unwrap()]));
    }
}

/// The field's modulus plus x, for an x small enough: the same number, not its
/// canonical encoding.
#[test]
fn a_point_has_one_encoding() {
    let modulus = hex::decode(
        "1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab",
    )
    .unwrap();
    let mut bytes: [u8; 48] = modulus.try_into().unwrap();
    // x = 0 is on the curve; x = p is the same point, written differently.
    bytes[0] |= 0x80;
    let canonical = of_order_three().to_compressed();
    assert!(bool::from(
        G1Affine::from_compressed_unchecked(&canonical).is_some()
    ));
    assert!(!verdict(&share(1).public_key(), b"message", &bytes));
    assert!(!tbs::valid_blinded_message(&bytes));
}

#[test]
fn a_key_that_is_no_valid_point_verifies_nothing() {
    let share = share(1);
    let signature = signature(&share, b"message");
    let mut identity = [0; 96];
    identity[0] = 0xc0;
    let mut damaged = share.public_key();
    damaged[95] ^= 1;
    for key in [&identity[..], &damaged, &share.public_key()[..95], &[]] {
        assert!(!verdict(key, b"message", &signature));
    }
}

#[test]
fn an_identity_signature_does_not_pass_under_an_identity_key() {
    let (mut key, mut signature) = ([0; 96], [0; 48]);
    key[0] = 0xc0;
    signature[0] = 0xc0;
    assert!(!verdict(&key, b"message", &signature));
}

#[test]
fn one_bad_note_among_many_is_found_and_the_others_pass() {
    let shares: Vec<_> = (1..=10).map(share).collect();
    let keys: Vec<_> = shares.iter().map(SecretShare::public_key).collect();
    let messages: Vec<_> = (0u8..50).map(|number| [number; 40]).collect();
    let mut signatures: Vec<_> = messages
        .iter()
        .enumerate()
        .map(|(number, message)| signature(&shares[number % 10], message))
        .collect();
    // Two wrong ones that cancel each other in a sum without coefficients.
    signatures.swap(20, 30);
    let checks: Vec<_> = messages
        .iter()
        .enumerate()
        .map(|(number, message)| TbsCheck {
            public_key: &keys[number % 10],
            message,
            signature: &signatures[number],
        })
        .collect();
    let expected: Vec<_> = (0..50).map(|number| number != 20 && number != 30).collect();
    assert_eq!(tbs::verify_batch(&checks), expected);
    assert_eq!(tbs::verify_batch(&[]), Vec::<bool>::new());
}

#[test]
fn notes_that_cancel_each_other_are_found_in_every_place() {
    let share = share(1);
    let key = share.public_key();
    let messages = [[1; 40], [2; 40], [3; 40]];
    for count in 2..=messages.len() {
        for (one, other) in [(0, 1), (0, count - 1), (count - 2, count - 1)] {
            let mut signatures: Vec<_> = messages[..count]
                .iter()
                .map(|message| signature(&share, message))
                .collect();
            signatures.swap(one, other);
            let checks: Vec<_> = messages[..count]
                .iter()
                .zip(&signatures)
                .map(|(message, signature)| TbsCheck {
                    public_key: &key,
                    message,
                    signature,
                })
                .collect();
            let expected: Vec<_> = (0..count).map(|n| n != one && n != other).collect();
            assert_eq!(
                tbs::verify_batch(&checks),
                expected,
                "{count} {one} {other}"
            );
        }
    }
}
