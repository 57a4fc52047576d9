//! The multisig that holds the federation's bitcoin.

use modmint_sdk::{crypto, federation};

use crate::DepositTweak;

/// The label of the guardians' multisig keys.
pub const KEY: &str = "deposit";

const OP_CHECKMULTISIG: u8 = 0xae;
const PUSH_32: u8 = 32;
const PUSH_33: u8 = 33;

/// A number in a script, as Bitcoin Script's shortest push.
fn push_number(script: &mut Vec<u8>, number: usize) {
    match u8::try_from(number) {
        Ok(small @ 1..=16) => script.push(0x50 + small),
        _ => script.extend([1, number as u8]),
    }
}

/// The guardians' keys, tweaked, in the order of the guardians. None if the tweak
/// leads nowhere, which nobody will see happen.
pub fn tweaked_keys(tweak: &[u8; 32]) -> Option<Vec<[u8; 33]>> {
    federation::public_keys(KEY)
        .iter()
        .map(|key| crypto::tweak_public_key(key, tweak))
        .collect()
}

/// What has to be shown to spend what these keys hold: a threshold of them, sorted
/// as in BIP 67.
pub fn multisig(keys: &[[u8; 33]], threshold: usize) -> Vec<u8> {
    let mut sorted: Vec<&[u8; 33]> = keys.iter().collect();
    sorted.sort_unstable();
    let mut script = Vec::with_capacity(5 + 34 * keys.len());
    push_number(&mut script, threshold);
    for key in sorted {
        script.push(PUSH_33);
        script.extend(key);
    }
    push_number(&mut script, keys.len());
    script.push(OP_CHECKMULTISIG);
    script
}

/// The scriptPubKey of a witness script: P2WSH.
pub fn p2wsh(witness_script: &[u8]) -> Vec<u8> {
    [&[0, PUSH_32], &crypto::sha256(witness_script)[..]].concat()
}

impl DepositTweak {
    /// What the guardians' keys are tweaked with.
    pub fn hash(&self) -> [u8; 32] {
        crypto::sha256(&[&self.claim_key[..], &self.nonce.to_be_bytes()].concat())
    }

    /// The scriptPubKey that a deposit pays to. None as in [`tweaked_keys`].
    pub fn script(&self) -> Option<Vec<u8>> {
        let keys = tweaked_keys(&self.hash())?;
        Some(p2wsh(&multisig(&keys, federation::threshold().into())))
    }
}

/// A txid as people write it, its bytes turned round.
pub fn display_txid(txid: &[u8; 32]) -> String {
    let mut bytes = *txid;
    bytes.reverse();
    modmint_sdk::to_hex(&bytes)
}

#[cfg(test)]
mod tests {
    use modmint_sdk::mock::{Bundle, Federation, Phase};

    use super::*;

    #[test]
    fn numbers_are_pushed_as_bitcoin_does() {
        let pushed = |number| {
            let mut script = Vec::new();
            push_number(&mut script, number);
            script
        };
        assert_eq!(pushed(1), [0x51]);
        assert_eq!(pushed(16), [0x60]);
        assert_eq!(pushed(17), [1, 17]);
    }

    #[test]
    fn a_deposit_pays_to_a_threshold_of_tweaked_sorted_keys() {
        let federation = Federation::new(4);
        let wallet = Bundle::federation_module::<crate::Wallet>();
        let instance = federation.found(wallet, Vec::new());
        let tweak = DepositTweak {
            claim_key: [2; 33],
            nonce: 7,
        };
        let other = DepositTweak {
            nonce: 8,
            ..tweak.clone()
        };
        federation.call(instance, Phase::Query, Some(0), || {
            let keys = tweaked_keys(&tweak.hash()).expect("points");
            let script = multisig(&keys, 3);
            assert_eq!(tweak.script(), Some(p2wsh(&script)));
            assert_eq!(script.len(), 3 + 4 * 34);
            assert_eq!((script[0], script[137], script[138]), (0x53, 0x54, 0xae));
            let keys: Vec<_> = script[1..137].chunks(34).map(|push| &push[1..]).collect();
            assert!(keys.is_sorted());
            let own = federation::public_keys(KEY);
            assert!(own.iter().all(|key| !keys.contains(&&key[..])));
            assert_ne!(tweak.script(), other.script());
        });
    }
}
