//! Checks of public mathematics, made natively.

use modmint_core::tagged_hash;
use modmint_crypto::{secp, tbs, tpe};
use rayon::prelude::*;

use crate::Check;

impl Check {
    /// The verdict. On this thread alone, so it may be asked for in the middle of a
    /// consensus call.
    pub fn verify(&self) -> bool {
        match self {
            Self::Schnorr {
                key,
                message,
                signature,
            } => secp::verify_schnorr(&key.0, message, signature),
            Self::Ecdsa {
                key,
                message,
                signature,
            } => secp::verify_ecdsa(&key.0, message, signature),
            Self::Tbs { .. } => self.tbs().is_some_and(|check| tbs::verify(&check)),
            Self::Tpe {
                public_key,
                ciphertext,
                terms,
            } => tpe::verify(public_key, ciphertext, terms),
        }
    }

    /// A digest of the check's full contents: what its verdict may be kept under.
    pub fn digest(&self) -> [u8; 32] {
        let check = borsh::to_vec(self).expect("writing to memory does not fail");
        tagged_hash("modmint/check", &[&check])
    }

    fn tbs(&self) -> Option<tbs::TbsCheck<'_>> {
        match self {
            Self::Tbs {
                public_key,
                message,
                signature,
            } => Some(tbs::TbsCheck {
                public_key,
                message,
                signature,
            }),
            Self::Schnorr { .. } | Self::Ecdsa { .. } | Self::Tpe { .. } => None,
        }
    }
}

/// Fewer checks than these are made on one thread.
const FEW: usize = 64;

/// The verdicts, in order: blind signatures in one batch, the others one by one on
/// all cores.
pub fn verify_checks(checks: &[Check]) -> Vec<bool> {
    let batch: Vec<_> = checks.iter().filter_map(Check::tbs).collect();
    let mut signatures = tbs::verify_batch(&batch).into_iter();
    let single = |check: &Check| !matches!(check, Check::Tbs { .. }) && check.verify();
    let mut verdicts: Vec<bool> = match checks.len() {
        // Waking other threads costs more than it saves.
        ..FEW => checks.iter().map(single).collect(),
        _ => checks.par_iter().map(single).collect(),
    };
    for (check, verdict) in checks.iter().zip(&mut verdicts) {
        if matches!(check, Check::Tbs { .. }) {
            *verdict = signatures.next().unwrap_or(false);
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use modmint_core::PublicKey;

    use super::*;

    #[test]
    fn verdicts_come_in_the_order_of_the_checks() {
        let secret = [7; 32];
        let key = PublicKey(secp::public_key(&secret));
        let good = Check::Schnorr {
            key,
            message: [1; 32],
            signature: secp::sign_schnorr(&secret, &[1; 32]).to_vec(),
        };
        let bad = Check::Schnorr {
            key,
            message: [2; 32],
            signature: secp::sign_schnorr(&secret, &[1; 32]).to_vec(),
        };
        let junk = Check::Tbs {
            public_key: vec![0; 96],
            message: vec![],
            signature: vec![0; 48],
        };
        let verdicts =
            verify_checks(&[junk.clone(), good.clone(), junk, bad.clone(), good.clone()]);
        assert_eq!(verdicts, [false, true, false, false, true]);
        assert!(good.verify());
        assert_ne!(good.digest(), bad.digest());
    }
}
