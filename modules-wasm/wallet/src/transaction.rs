//! Bitcoin transactions that spend the federation's outputs: bytes, ids, what is
//! signed, and how large they become. The formats are those of BIP 141, 143 and 144.

use std::ops::Range;

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::crypto::sha256;

use crate::script::multisig;

/// An output of the chain that the guardians hold together.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Coin {
    /// The bitcoin transaction, internal byte order.
    pub txid: [u8; 32],
    /// Its place there.
    pub vout: u32,
    /// What it is worth.
    pub satoshi: u64,
    /// What the guardians' keys are tweaked with.
    pub tweak: [u8; 32],
    /// The tweaked keys, in the order of the guardians.
    pub keys: Vec<[u8; 33]>,
}

/// An output of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Payment {
    /// The scriptPubKey.
    pub script: Vec<u8>,
    /// How much.
    pub satoshi: u64,
}

/// A transaction without signatures. It can be replaced, BIP 125.
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    /// What it spends.
    pub inputs: &'a [Coin],
    /// Where to.
    pub outputs: &'a [Payment],
    /// How many of the guardians have to sign.
    pub threshold: usize,
}

const VERSION: [u8; 4] = 2u32.to_le_bytes();
const LOCK_TIME: [u8; 4] = [0; 4];
/// Replaceable, BIP 125; no relative lock time.
const SEQUENCE: [u8; 4] = 0xffff_fffdu32.to_le_bytes();
const SIGHASH_ALL: u8 = 1;
/// An ECDSA signature with a low S in DER is at most 71 bytes, and its kind is one.
const SIGNATURE_BYTES: usize = 72;

fn sha256d(data: &[u8]) -> [u8; 32] {
    sha256(&sha256(data))
}

/// Bitcoin's variable-length number.
fn compact(bytes: &mut Vec<u8>, number: usize) {
    match number {
        0..=0xfc => bytes.push(number as u8),
        0xfd..=0xffff => {
            bytes.push(0xfd);
            bytes.extend_from_slice(&(number as u16).to_le_bytes());
        }
        _ => {
            bytes.push(0xfe);
            bytes.extend_from_slice(&(number as u32).to_le_bytes());
        }
    }
}

fn compact_size(number: usize) -> usize {
    match number {
        0..=0xfc => 1,
        0xfd..=0xffff => 3,
        _ => 5,
    }
}

fn prefixed(bytes: &mut Vec<u8>, data: &[u8]) {
    compact(bytes, data.len());
    bytes.extend_from_slice(data);
}

impl Coin {
    fn out_point(&self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..32].copy_from_slice(&self.txid);
        bytes[32..].copy_from_slice(&self.vout.to_le_bytes());
        bytes
    }
}

impl Payment {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.satoshi.to_le_bytes());
        prefixed(bytes, &self.script);
    }
}

impl Transaction<'_> {
    fn write_inputs(&self, bytes: &mut Vec<u8>) {
        compact(bytes, self.inputs.len());
        for input in self.inputs {
            bytes.extend_from_slice(&input.out_point());
            bytes.push(0);
            bytes.extend_from_slice(&SEQUENCE);
        }
    }

    fn write_outputs(&self, bytes: &mut Vec<u8>) {
        compact(bytes, self.outputs.len());
        for output in self.outputs {
            output.write(bytes);
        }
    }

    /// The id, internal byte order. Signatures are no part of it.
    pub fn txid(&self) -> [u8; 32] {
        let mut bytes = VERSION.to_vec();
        self.write_inputs(&mut bytes);
        self.write_outputs(&mut bytes);
        bytes.extend_from_slice(&LOCK_TIME);
        sha256d(&bytes)
    }

    /// What is signed for each of these inputs: BIP 143, all inputs and outputs.
    pub fn signature_hashes(&self, inputs: Range<usize>) -> Vec<[u8; 32]> {
        let mut out_points = Vec::with_capacity(36 * self.inputs.len());
        for input in self.inputs {
            out_points.extend_from_slice(&input.out_point());
        }
        let sequences = SEQUENCE.repeat(self.inputs.len());
        let mut outputs = Vec::new();
        self.outputs.iter().for_each(|o| o.write(&mut outputs));
        let before = [&VERSION[..], &sha256d(&out_points), &sha256d(&sequences)].concat();
        let after = [
            &sha256d(&outputs)[..],
            &LOCK_TIME,
            &u32::from(SIGHASH_ALL).to_le_bytes(),
        ]
        .concat();
        self.inputs[inputs]
            .iter()
            .map(|input| {
                let mut bytes = before.clone();
                bytes.extend_from_slice(&input.out_point());
                prefixed(&mut bytes, &multisig(&input.keys, self.threshold));
                bytes.extend_from_slice(&input.satoshi.to_le_bytes());
                bytes.extend_from_slice(&SEQUENCE);
                bytes.extend_from_slice(&after);
                sha256d(&bytes)
            })
            .collect()
    }

    /// The transaction as it goes to the network, signed by as many guardians as
    /// have to: of each its index and its signature (64 bytes) for every input.
    pub fn signed(&self, signers: &[(usize, Vec<[u8; 64]>)]) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        // BIP 144: a marker and a flag say that there are witnesses.
        bytes.extend([0, 1]);
        self.write_inputs(&mut bytes);
        self.write_outputs(&mut bytes);
        for (place, input) in self.inputs.iter().enumerate() {
            let mut signatures: Vec<_> = signers
                .iter()
                .map(|(guardian, signatures)| (&input.keys[*guardian], &signatures[place]))
                .collect();
            // In the order of the keys in the script.
            signatures.sort_unstable();
            compact(&mut bytes, signatures.len() + 2);
            // OP_CHECKMULTISIG takes one element too many.
            prefixed(&mut bytes, &[]);
            for (_, signature) in signatures {
                let mut der = der(signature);
                der.push(SIGHASH_ALL);
                prefixed(&mut bytes, &der);
            }
            prefixed(&mut bytes, &multisig(&input.keys, self.threshold));
        }
        bytes.extend_from_slice(&LOCK_TIME);
        bytes
    }
}

/// r and s (32 bytes each) as DER.
fn der(signature: &[u8; 64]) -> Vec<u8> {
    let mut numbers = Vec::with_capacity(70);
    for number in signature.chunks(32) {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros.min(31)..];
        let sign = number[0] >> 7;
        numbers.extend([2, number.len() as u8 + sign]);
        numbers.extend((sign == 1).then_some(0));
        numbers.extend(number);
    }
    [&[0x30, numbers.len() as u8], &numbers[..]].concat()
}

/// How large a transaction's outputs are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outputs {
    number: usize,
    bytes: usize,
}

impl Outputs {
    /// With one more, that pays to a script of this length.
    pub fn with(self, script: usize) -> Self {
        Self {
            number: self.number + 1,
            bytes: self.bytes + 8 + compact_size(script) + script,
        }
    }
}

/// The virtual size, in bytes and at most, of a transaction with so many inputs and
/// these outputs, in a federation of so many guardians.
pub fn virtual_size(inputs: usize, outputs: Outputs, guardians: usize, threshold: usize) -> u64 {
    let number = |n| if n > 16 { 2 } else { 1 };
    let script = number(threshold) + 34 * guardians + number(guardians) + 1;
    let witness = compact_size(threshold + 2)
        + 1
        + threshold * (1 + SIGNATURE_BYTES)
        + compact_size(script)
        + script;
    let base =
        4 + compact_size(inputs) + inputs * 41 + compact_size(outputs.number) + outputs.bytes + 4;
    // BIP 141: a byte of the witness weighs a quarter. Marker and flag are two.
    let weight = 4 * base + 2 + inputs * witness;
    weight.div_ceil(4) as u64
}

#[cfg(test)]
mod tests {
    use bitcoin::{
        Amount, EcdsaSighashType, ScriptBuf, consensus::encode, hashes::Hash, sighash::SighashCache,
    };
    use modmint_crypto::secp;
    use modmint_sdk::mock::{Federation, Phase};
    use proptest::prelude::*;

    use super::*;

    fn secret(guardian: usize, coin: usize) -> [u8; 32] {
        modmint_core::sha256(&[guardian as u8, coin as u8])
    }

    fn coins(number: usize, guardians: usize) -> Vec<Coin> {
        (0..number)
            .map(|coin| Coin {
                txid: modmint_core::sha256(&[coin as u8]),
                vout: coin as u32 * 1000,
                satoshi: 10_000 + coin as u64,
                tweak: [coin as u8; 32],
                // Signed without the tweak: what is tested is the format.
                keys: (0..guardians)
                    .map(|guardian| secp::public_key(&secret(guardian, coin)))
                    .collect(),
            })
            .collect()
    }

    /// Without a module around it: hashes are the host's.
    fn call<T>(what: impl FnOnce() -> T) -> T {
        let federation = Federation::new(1);
        let instance = federation.found(
            modmint_sdk::mock::Bundle::federation_module::<crate::Wallet>(),
            Vec::new(),
        );
        federation.call(instance, Phase::Query, Some(0), what)
    }

    /// An untweaked ECDSA signature with the library that the host uses.
    fn sign(secret: &[u8; 32], hash: [u8; 32]) -> [u8; 64] {
        use bitcoin::secp256k1::{Message, SECP256K1, SecretKey};
        let secret = SecretKey::from_slice(secret).expect("a secret");
        let message = Message::from_digest(hash);
        SECP256K1.sign_ecdsa(&message, &secret).serialize_compact()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        /// Another library reads what is written here, finds the same id and the same
        /// hashes to sign, and the size is never more than was reckoned with.
        #[test]
        fn a_transaction_is_what_another_library_reads(
            inputs in 1usize..4,
            scripts in proptest::collection::vec(22usize..35, 1..5),
            guardians in proptest::sample::select(vec![1usize, 4, 7, 19]),
        ) {
            let threshold = modmint_core::threshold(guardians);
            let coins = coins(inputs, guardians);
            let outputs: Vec<Payment> = scripts
                .iter()
                .map(|length| Payment { script: vec![7; *length], satoshi: *length as u64 * 1_000_000 })
                .collect();
            let transaction = Transaction { inputs: &coins, outputs: &outputs, threshold };
            let (txid, hashes) = call(|| (transaction.txid(), transaction.signature_hashes(0..inputs)));
            let signers: Vec<(usize, Vec<[u8; 64]>)> = (guardians - threshold..guardians)
                .map(|guardian| {
                    let sign_input = |(coin, hash): (usize, &[u8; 32])| sign(&secret(guardian, coin), *hash);
                    (guardian, hashes.iter().enumerate().map(sign_input).collect())
                })
                .collect();
            let bytes = call(|| transaction.signed(&signers));

            let read: bitcoin::Transaction = encode::deserialize(&bytes).expect("a transaction");
            prop_assert_eq!(read.compute_txid().to_byte_array(), txid);
            prop_assert!(read.is_explicitly_rbf());
            prop_assert_eq!(read.output.len(), outputs.len());
            let sizes = scripts.iter().fold(Outputs::default(), |sizes, script| sizes.with(*script));
            let size = virtual_size(inputs, sizes, guardians, threshold);
            let real = read.vsize() as u64;
            prop_assert!(real <= size && size <= real + (inputs * threshold) as u64, "{} {}", real, size);

            let mut cache = SighashCache::new(&read);
            for (place, coin) in coins.iter().enumerate() {
                let witness = &read.input[place].witness;
                let script = ScriptBuf::from_bytes(witness.last().expect("a script").to_vec());
                // The library knows the shape up to 16 keys, the largest number with an
                // opcode of its own; consensus takes 20.
                prop_assert!(script.is_multisig() || guardians > 16);
                prop_assert_eq!(script.as_bytes().last(), Some(&bitcoin::opcodes::all::OP_CHECKMULTISIG.to_u8()));
                let hash = cache
                    .p2wsh_signature_hash(place, &script, Amount::from_sat(coin.satoshi), EcdsaSighashType::All)
                    .expect("a hash");
                prop_assert_eq!(hash.to_byte_array(), hashes[place]);
                // OP_CHECKMULTISIG walks through keys and signatures once.
                let mut keys = script.instructions().filter_map(|i| i.ok()?.push_bytes().map(|p| p.as_bytes().to_vec())).filter(|p| p.len() == 33);
                for signature in witness.iter().skip(1).take(threshold) {
                    let signature = bitcoin::ecdsa::Signature::from_slice(signature).expect("DER");
                    let compact = signature.signature.serialize_compact();
                    prop_assert!(keys.any(|key| secp::verify_ecdsa(&key, &hashes[place], &compact)));
                }
            }
        }
    }

    #[test]
    fn short_numbers_are_written_short() {
        let mut signature = [0; 64];
        signature[31] = 1;
        signature[63] = 0x80;
        assert_eq!(der(&signature), [0x30, 7, 2, 1, 1, 2, 2, 0, 0x80]);
    }
}
