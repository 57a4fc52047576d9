//! The script that a deposit pays to, and its address.

use bech32::{Fe32, Hrp, segwit};
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

impl DepositTweak {
    /// What the guardians' keys are tweaked with.
    pub fn hash(&self) -> [u8; 32] {
        crypto::sha256(&[&self.claim_key[..], &self.nonce.to_be_bytes()].concat())
    }

    /// What has to be shown to spend the deposit: a threshold of the guardians'
    /// tweaked keys, sorted as in BIP 67. None if a tweak leads nowhere, which
    /// nobody will see happen.
    pub fn witness_script(&self) -> Option<Vec<u8>> {
        let tweak = self.hash();
        let mut keys = federation::public_keys(KEY)
            .iter()
            .map(|key| crypto::tweak_public_key(key, &tweak))
            .collect::<Option<Vec<_>>>()?;
        keys.sort_unstable();
        let mut script = Vec::with_capacity(3 + 34 * keys.len());
        push_number(&mut script, federation::threshold().into());
        for key in &keys {
            script.push(PUSH_33);
            script.extend(key);
        }
        push_number(&mut script, keys.len());
        script.push(OP_CHECKMULTISIG);
        Some(script)
    }

    /// The scriptPubKey that a deposit pays to: P2WSH of the witness script.
    pub fn script(&self) -> Option<Vec<u8>> {
        let program = crypto::sha256(&self.witness_script()?);
        Some([&[0, PUSH_32], &program[..]].concat())
    }
}

/// The address of a P2WSH script on this network.
pub fn address(network: &str, script: &[u8]) -> Option<String> {
    let prefix = match network {
        "bitcoin" => "bc",
        "testnet4" | "signet" => "tb",
        _ => "bcrt",
    };
    segwit::encode(Hrp::parse_unchecked(prefix), Fe32::Q, script.get(2..)?).ok()
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

    /// The program of BIP 173's P2WSH example.
    const PROGRAM: [u8; 32] = [
        0x18, 0x63, 0x14, 0x3c, 0x14, 0xc5, 0x16, 0x68, 0x04, 0xbd, 0x19, 0x20, 0x33, 0x56, 0xda,
        0x13, 0x6c, 0x98, 0x56, 0x78, 0xcd, 0x4d, 0x27, 0xa1, 0xb8, 0xc6, 0x32, 0x96, 0x04, 0x90,
        0x32, 0x62,
    ];

    #[test]
    fn addresses_are_those_of_bip_173() {
        let script = [&[0, 32], &PROGRAM[..]].concat();
        for (network, expected) in [
            (
                "bitcoin",
                "bc1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3qccfmv3",
            ),
            (
                "signet",
                "tb1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3q0sl5k7",
            ),
        ] {
            assert_eq!(address(network, &script).as_deref(), Some(expected));
        }
    }

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
            let script = tweak.witness_script().expect("a point");
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
