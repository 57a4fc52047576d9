//! Keys dealt by four guardians, and what is done with them.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use modmint_core::config::HexBytes;
use modmint_crypto::{
    SecretShare,
    dealing::{
        Dealer, Dealing, GroupKey, PinError, Posting, ThresholdKind, ack_hash, group_keys,
        sum_shares,
    },
    secp,
    tbs::{self, SignedBlinding, TbsCheck},
    tpe::{self, Combination},
};

const GUARDIANS: u16 = 4;
const THRESHOLD: usize = 3;
const KINDS: [ThresholdKind; 3] = [
    ThresholdKind::BlindSignature,
    ThresholdKind::Decryption,
    ThresholdKind::BlindSignature,
];

fn dealers() -> Vec<Dealer> {
    (0..GUARDIANS)
        .map(|dealer| Dealer::from_seed(&[dealer as u8 + 1; 32], &KINDS, THRESHOLD))
        .collect()
}

/// The public keys, and for each guardian its shares of them.
fn dealt() -> (Vec<GroupKey>, Vec<Vec<SecretShare>>) {
    let dealers = dealers();
    let dealings: Vec<_> = dealers.iter().map(Dealer::dealing).collect();
    let keys = group_keys(&dealings.iter().collect::<Vec<_>>(), GUARDIANS).unwrap();
    let shares = (0..GUARDIANS)
        .map(|guardian| {
            let dealt: Vec<_> = dealers
                .iter()
                .map(|dealer| dealer.shares(guardian))
                .collect();
            sum_shares(&dealt).unwrap()
        })
        .collect();
    (keys, shares)
}

#[test]
fn every_share_fits_its_commitments_and_its_public_key() {
    let dealers = dealers();
    for dealer in &dealers {
        let dealing = Dealing::decode(&dealer.dealing().encode(), &KINDS, THRESHOLD).unwrap();
        for guardian in 0..GUARDIANS {
            assert!(dealing.accepts(guardian, &dealer.shares(guardian)));
            assert!(!dealing.accepts(guardian, &dealer.shares(guardian + 1)));
            assert!(!dealing.accepts(guardian, &dealer.shares(guardian)[..2]));
        }
        assert!(!dealing.accepts(
            0,
            &Dealer::from_seed(&[99; 32], &KINDS, THRESHOLD).shares(0)
        ));
    }
    let (keys, shares) = dealt();
    for (guardian, shares) in shares.iter().enumerate() {
        assert_eq!(keys[0].share_keys[guardian].0, shares[0].public_key());
        assert_eq!(keys[1].share_keys[guardian].0, shares[1].decryption_key());
        assert_eq!(keys[2].share_keys[guardian].0, shares[2].public_key());
    }
    assert_ne!(keys[0].public_key, keys[2].public_key);
}

#[test]
fn damaged_commitments_are_refused() {
    let bytes = dealers()[0].dealing().encode();
    assert_eq!(bytes.len(), Dealing::encoded_len(&KINDS, THRESHOLD));
    assert!(Dealing::decode(&bytes, &KINDS, THRESHOLD).is_some());
    assert!(Dealing::decode(&bytes, &KINDS, THRESHOLD + 1).is_none());
    assert!(Dealing::decode(&bytes[1..], &KINDS, THRESHOLD).is_none());
    assert!(Dealing::decode(&[], &KINDS, 0).is_none());
    let mut identity = bytes.clone();
    identity[..96].fill(0);
    identity[0] = 0xc0;
    assert!(Dealing::decode(&identity, &KINDS, THRESHOLD).is_none());
}

#[test]
fn a_dealing_is_pinned_by_an_ack_or_a_reveal_for_each_guardian() {
    let dealer = &dealers()[0];
    let dealing = dealer.dealing();
    let (ceremony, public) = ([1; 32], [2; 32]);
    let secrets: Vec<[u8; 32]> = (1..=4).map(|byte| [byte; 32]).collect();
    let keys: Vec<_> = secrets.iter().map(secp::public_key).collect();
    let hash = ack_hash(&ceremony, 0, &public);
    let acks: Vec<_> = (0u16..)
        .zip(&secrets)
        .map(|(guardian, secret)| (guardian, secp::sign_schnorr(secret, &hash)))
        .collect();
    let check = |acks: &[(u16, [u8; 64])], reveals: &[(u16, Vec<SecretShare>)], most| {
        Posting {
            ceremony: &ceremony,
            dealer: 0,
            public: &public,
            dealing: &dealing,
            acks,
            reveals,
        }
        .check(&keys, most)
    };
    assert_eq!(check(&acks, &[], 0), Ok(()));
    assert_eq!(check(&acks[..3], &[], 0), Err(PinError::Missing(3)));
    assert_eq!(check(&acks[..3], &[(3, dealer.shares(3))], 1), Ok(()));
    assert_eq!(
        check(&acks[..3], &[(3, dealer.shares(2))], 1),
        Err(PinError::Reveal(3))
    );
    assert_eq!(
        check(&acks[..3], &[(3, dealer.shares(3))], 0),
        Err(PinError::TooManyReveals { found: 1, most: 0 })
    );
    let swapped = [(0, acks[1].1), (1, acks[0].1), acks[2], acks[3]];
    assert_eq!(check(&swapped, &[], 0), Err(PinError::Ack(0)));
    let other = ack_hash(&ceremony, 1, &public);
    assert_ne!(other, hash);
}

#[test]
fn any_threshold_of_guardians_signs_under_the_group_key() {
    let (keys, shares) = dealt();
    for key in [0, 2] {
        let (message, factor) = (b"a note", [8; 32]);
        let blinded = tbs::blind(message, &factor);
        let mut found = Vec::new();
        for absent in 0..GUARDIANS {
            let signed: Vec<_> = (0..GUARDIANS)
                .rev()
                .filter(|guardian| *guardian != absent)
                .map(|guardian| {
                    let share = &shares[usize::from(guardian)][key];
                    (guardian, tbs::sign_share(share, &blinded).unwrap().to_vec())
                })
                .collect();
            let item = SignedBlinding {
                message,
                factor: &factor,
                group_key: &keys[key].public_key.0,
                share_keys: &keys[key].share_keys,
                shares: &signed,
                threshold: THRESHOLD,
            };
            let signature = tbs::unblind(&[item]).unwrap()[0];
            assert!(tbs::verify(&TbsCheck {
                public_key: &keys[key].public_key.0,
                message,
                signature: &signature,
            }));
            found.push(signature);
            let two = SignedBlinding {
                shares: &signed[..2],
                ..item
            };
            assert_eq!(tbs::unblind(&[two]), Err(vec![]));
        }
        assert!(found.iter().all(|signature| *signature == found[0]));
    }
}

#[test]
fn guardians_with_bad_shares_are_named_and_nobody_else() {
    let (keys, shares) = dealt();
    let message = b"a note";
    let factors: Vec<[u8; 32]> = (1..=3).map(|byte| [byte; 32]).collect();
    let mut signed: Vec<Vec<(u16, Vec<u8>)>> = factors
        .iter()
        .map(|factor| {
            let blinded = tbs::blind(message, factor);
            (0..GUARDIANS)
                .map(|guardian| {
                    let share = &shares[usize::from(guardian)][0];
                    (guardian, tbs::sign_share(share, &blinded).unwrap().to_vec())
                })
                .collect()
        })
        .collect();
    let wrong = signed[0][1].1.clone();
    signed[1][1].1 = wrong;
    signed[2][3].1 = vec![0; 48];
    let of_nobody = (9, signed[0][0].1.clone());
    signed[2].insert(0, of_nobody);
    let items: Vec<_> = factors
        .iter()
        .zip(&signed)
        .map(|(factor, shares)| SignedBlinding {
            message,
            factor,
            group_key: &keys[0].public_key.0,
            share_keys: &keys[0].share_keys,
            shares,
            threshold: THRESHOLD,
        })
        .collect();
    assert_eq!(tbs::unblind(&items), Err(vec![1, 3, 9]));
    assert!(tbs::unblind(&items[..1]).is_ok());
}

#[test]
fn a_share_of_small_order_is_caught_before_it_makes_a_note_that_cannot_be_spent() {
    let (keys, shares) = dealt();
    let (message, factor) = (b"a note", [8; 32]);
    let blinded = tbs::blind(message, &factor);
    let unblind = |guardians: [u16; 3]| {
        let mut signed = guardians.map(|guardian| {
            let share = &shares[usize::from(guardian)][0];
            (guardian, tbs::sign_share(share, &blinded).unwrap())
        });
        // σ + (0, 2): a pairing would not notice.
        let mut of_order_three = [0; 48];
        of_order_three[0] = 0x80;
        let small = bls12_381::G1Affine::from_compressed_unchecked(&of_order_three).unwrap();
        let honest = bls12_381::G1Affine::from_compressed(&signed[2].1).unwrap();
        let sum = bls12_381::G1Affine::from(bls12_381::G1Projective::from(honest) + small);
        signed[2].1 = sum.to_compressed();
        tbs::unblind(&[SignedBlinding {
            message,
            factor: &factor,
            group_key: &keys[0].public_key.0,
            share_keys: &keys[0].share_keys,
            shares: &signed.map(|(guardian, share)| (guardian, share.to_vec())),
            threshold: THRESHOLD,
        }])
    };
    // The third share is taken eight times here, which leaves two of the small point,
    assert_eq!(unblind([0, 1, 3]), Err(vec![3]));
    // and six times here, which leaves none: the note is as good as any.
    let note = unblind([0, 1, 2]).unwrap();
    assert!(tbs::verify(&TbsCheck {
        public_key: &keys[0].public_key.0,
        message,
        signature: &note[0],
    }));
}

#[test]
fn a_threshold_decrypts_what_was_encrypted_for_these_terms_alone() {
    let (keys, shares) = dealt();
    let public_key = &keys[1].public_key.0;
    let (terms, plaintext) = (b"pay 1000 sat".as_slice(), [42; 32]);
    let ciphertext = tpe::encrypt(public_key, &plaintext, terms, &[5; 32]).unwrap();
    assert_eq!(ciphertext.len(), tpe::CIPHERTEXT_BYTES);
    assert_eq!(
        tpe::encrypt(public_key, &plaintext, terms, &[5; 32]),
        Some(ciphertext.clone())
    );

    assert!(tpe::verify(public_key, &ciphertext, terms));
    assert!(!tpe::verify(public_key, &ciphertext, b"pay 1 msat"));
    assert!(!tpe::verify(
        &shares[0][1].decryption_key(),
        &ciphertext,
        terms
    ));
    for byte in [0, 31, 40, 100, 175] {
        let mut changed = ciphertext.clone();
        changed[byte] ^= 1;
        assert!(!tpe::verify(public_key, &changed, terms), "byte {byte}");
    }
    assert!(!tpe::verify(public_key, &ciphertext[..175], terms));
    assert!(!tpe::verify(public_key, &[], terms));

    let share_of = |guardian: u16, terms: &[u8]| {
        let share = &shares[usize::from(guardian)][1];
        tpe::decryption_share(share, public_key, &ciphertext, terms)
    };
    assert_eq!(share_of(0, b"pay 1 msat"), None);
    let mut given: Vec<(u16, Vec<u8>)> = [3, 0, 2]
        .into_iter()
        .map(|guardian| (guardian, share_of(guardian, terms).unwrap()))
        .collect();
    let combination = |given: &[(u16, Vec<u8>)]| {
        tpe::combine(&Combination {
            public_key,
            share_keys: &keys[1].share_keys,
            ciphertext: &ciphertext,
            terms,
            shares: given,
            threshold: THRESHOLD,
        })
    };
    let key = combination(&given).unwrap();
    assert_eq!(
        tpe::decrypt(public_key, &ciphertext, terms, &key),
        Some(plaintext)
    );
    assert_eq!(
        tpe::decrypt(public_key, &ciphertext, b"pay 1 msat", &key),
        None
    );
    assert_eq!(
        tpe::decrypt(public_key, &ciphertext, terms, &given[0].1),
        None
    );
    assert_eq!(combination(&given[..2]), Err(vec![]));
    given[1].1 = given[0].1.clone();
    assert_eq!(combination(&given), Err(vec![0]));
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let share = SecretShare::from_bytes(&[7; 32]).unwrap();
    assert_eq!(format!("{share:?}"), "SecretShare(..)");
    assert!(SecretShare::from_bytes(&[0; 32]).is_none());
    assert!(SecretShare::from_bytes(&[0xff; 32]).is_none());
    assert_eq!(*share.to_bytes(), [7; 32]);
}

#[test]
fn dealings_that_do_not_match_make_no_key() {
    let dealing = dealers()[0].dealing();
    let other = Dealer::from_seed(&[1; 32], &KINDS[..1], THRESHOLD).dealing();
    let longer = Dealer::from_seed(&[1; 32], &KINDS, THRESHOLD + 1).dealing();
    assert!(group_keys(&[&dealing, &other], GUARDIANS).is_none());
    assert!(group_keys(&[&dealing, &longer], GUARDIANS).is_none());
    assert!(group_keys(&[], GUARDIANS).is_none());
    assert!(sum_shares(&[]).is_none());
    let _: Vec<HexBytes> = group_keys(&[&dealing], 1).unwrap()[0].share_keys.clone();
}
