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
