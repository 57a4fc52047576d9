//! What a note costs to check, and a share to sign.
//!
//! `verify` checks notes over 40 keys in one batch, decoding and hashing
//! included, against two separate `bls12_381` pairings a note, decoding and
//! hashing included too; keys are decoded beforehand on both sides, as they come
//! again and again. Everything runs on one thread. Times are for all notes:
//! divide by their number.
//!
//! `sign` signs one share (strict decoding, multiplication, encoding), against
//! the same with `bls12_381`; and decoding alone and `bls12_381`'s multiplication
//! alone, so that multiplications can be compared with each other.

#![allow(missing_docs, reason = "criterion's macro makes a public function")]

use std::{hint::black_box, time::Duration};

use bls12_381::{G1Affine, G1Projective, G2Affine, Scalar};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use modmint_crypto::{
    portable,
    tbs::{self, SecretShare, TbsCheck},
};

const KEYS: usize = 40;

struct Note {
    key: [u8; 96],
    message: [u8; 33],
    signature: [u8; 48],
}

fn share(number: usize) -> SecretShare {
    let mut bytes = [7; 32];
    bytes[31] = number as u8;
    SecretShare::from_bytes(&bytes).expect("less than r")
}

fn notes(count: usize) -> Vec<Note> {
    let note = |number: usize| {
        let share = share(number % KEYS);
        let mut message = [2; 33];
        message[1..9].copy_from_slice(&number.to_be_bytes());
        // Blinding with a factor and taking it away again is what a wallet does.
        let factor = [number as u8; 32];
        let signed = tbs::sign_share(&share, &tbs::blind(&message, &factor)).expect("a point");
        let signature = portable::unblind(&factor, &[(0, signed.to_vec())], 1).expect("a point");
        Note {
            key: share.public_key(),
            message,
            signature,
        }
    };
    (0..count).map(note).collect()
}

fn checks(notes: &[Note]) -> Vec<TbsCheck<'_>> {
    notes
        .iter()
        .map(|note| TbsCheck {
            public_key: &note.key,
            message: &note.message,
            signature: &note.signature,
        })
        .collect()
}

fn verify(criterion: &mut Criterion) {
    let one_thread = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread");
    let mut group = criterion.benchmark_group("verify");
    for count in [2, 16, 64, 256] {
        let notes = notes(count);
        let checks = checks(&notes);
        assert!(tbs::verify_batch(&checks).into_iter().all(|valid| valid));
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("batch", count), |bencher| {
            one_thread.install(|| bencher.iter(|| tbs::verify_batch(black_box(&checks))));
        });
        let keys: Vec<G2Affine> = notes
            .iter()
            .map(|note| portable::g2_from_bytes(&note.key).expect("a key"))
            .collect();
        group.bench_function(BenchmarkId::new("two-pairings", count), |bencher| {
            bencher.iter(|| {
                let mut pairs = keys.iter().zip(black_box(&checks));
                assert!(pairs.all(|(key, check)| portable::verify_with(key, check)));
            });
        });
    }
    group.finish();
}

fn sign(criterion: &mut Criterion) {
    let share = share(1);
    let blinded = tbs::blind(b"message", &[3; 32]);
    let mut little_endian = *share.to_bytes();
    little_endian.reverse();
    let scalar: Scalar = Option::from(Scalar::from_bytes(&little_endian)).expect("less than r");
    let point = G1Projective::from(portable::g1_from_bytes(&blinded).expect("a point"));

    let mut group = criterion.benchmark_group("sign");
    group.bench_function("share", |bencher| {
        bencher.iter(|| tbs::sign_share(black_box(&share), black_box(&blinded)));
    });
    group.bench_function("decoding-alone", |bencher| {
        bencher.iter(|| tbs::valid_blinded_message(black_box(&blinded)));
    });
    group.bench_function("bls12_381-share", |bencher| {
        bencher.iter(|| {
            let point = portable::g1_from_bytes(black_box(&blinded)).expect("a point");
            G1Affine::from(point * black_box(scalar)).to_compressed()
        });
    });
    group.bench_function("bls12_381-multiplication", |bencher| {
        bencher.iter(|| black_box(point) * black_box(scalar));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = verify, sign
}
criterion_main!(benches);
