//! Where bitcoin is paid to: scripts, their addresses, and what is too little to be
//! sent there.

use bech32::{Fe32, Hrp, segwit};
use modmint_sdk::Refusal;

const OP_DUP: u8 = 0x76;
const OP_EQUAL: u8 = 0x87;
const OP_EQUALVERIFY: u8 = 0x88;
const OP_HASH160: u8 = 0xa9;
const OP_CHECKSIG: u8 = 0xac;
const OP_1: u8 = 0x51;

/// A scriptPubKey of a kind that every wallet knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pay to public key hash.
    P2pkh,
    /// Pay to script hash.
    P2sh,
    /// Pay to witness public key hash, BIP 141.
    P2wpkh,
    /// Pay to witness script hash, BIP 141.
    P2wsh,
    /// Pay to taproot, BIP 341.
    P2tr,
}

impl Kind {
    /// The kind of a script; none if it is of another.
    pub fn of(script: &[u8]) -> Option<Self> {
        match script {
            [OP_DUP, OP_HASH160, 20, .., OP_EQUALVERIFY, OP_CHECKSIG] if script.len() == 25 => {
                Some(Self::P2pkh)
            }
            [OP_HASH160, 20, .., OP_EQUAL] if script.len() == 23 => Some(Self::P2sh),
            [0, 20, ..] if script.len() == 22 => Some(Self::P2wpkh),
            [0, 32, ..] if script.len() == 34 => Some(Self::P2wsh),
            [OP_1, 32, ..] if script.len() == 34 => Some(Self::P2tr),
            _ => None,
        }
    }

    /// The least that nodes relay to such an output, satoshi: Bitcoin Core's
    /// `GetDustThreshold` at its default of 3 sat/vB.
    pub fn dust(self) -> u64 {
        match self {
            Self::P2pkh => 546,
            Self::P2sh => 540,
            Self::P2wpkh => 294,
            Self::P2wsh | Self::P2tr => 330,
        }
    }
}

/// Addresses' beginnings on one network.
struct Prefixes {
    p2pkh: u8,
    p2sh: u8,
    segwit: &'static str,
}

/// Test networks share most of them.
fn prefixes(network: &str) -> Prefixes {
    let segwit = match network {
        "bitcoin" => {
            return Prefixes {
                p2pkh: 0x00,
                p2sh: 0x05,
                segwit: "bc",
            };
        }
        "testnet4" | "signet" => "tb",
        _ => "bcrt",
    };
    Prefixes {
        p2pkh: 0x6f,
        p2sh: 0xc4,
        segwit,
    }
}

fn unreadable(address: &str, why: &str) -> Refusal {
    Refusal::new(
        "bad-address",
        format!(
            "{address:?} is no bitcoin address ({why}); expected is one of P2PKH, P2SH, P2WPKH, \
             P2WSH or P2TR"
        ),
    )
}

fn wrong_network(address: &str, network: &str) -> Refusal {
    Refusal::new(
        "wrong-network",
        format!("{address} is an address of another network; this federation is on {network}"),
    )
}

/// The scriptPubKey of an address on this network.
///
/// # Errors
/// `bad-address`: it is none, or of a kind that is not known yet; `wrong-network`.
pub fn parse(network: &str, address: &str) -> Result<Vec<u8>, Refusal> {
    let expected = prefixes(network);
    if let Ok((prefix, version, program)) = segwit::decode(address) {
        let known = ["bc", "tb", "bcrt"].map(Hrp::parse_unchecked);
        if !known.contains(&prefix) {
            return Err(unreadable(address, "its prefix is not known"));
        }
        if prefix != Hrp::parse_unchecked(expected.segwit) {
            return Err(wrong_network(address, network));
        }
        let opcode = match version.to_u8() {
            0 => 0,
            version => OP_1 - 1 + version,
        };
        let script = [&[opcode, program.len() as u8], &program[..]].concat();
        return Kind::of(&script)
            .map(|_| script)
            .ok_or_else(|| unreadable(address, "its witness version is not known"));
    }
    let payload = base58ck::decode_check(address)
        .map_err(|_| unreadable(address, "its checksum does not match"))?;
    let [version, hash @ ..] = &payload[..] else {
        return Err(unreadable(address, "it is empty"));
    };
    if hash.len() != 20 {
        return Err(unreadable(address, "its hash is not 20 bytes"));
    }
    let p2pkh = [
        &[OP_DUP, OP_HASH160, 20],
        hash,
        &[OP_EQUALVERIFY, OP_CHECKSIG],
    ]
    .concat();
    let p2sh = [&[OP_HASH160, 20], hash, &[OP_EQUAL]].concat();
    match *version {
        v if v == expected.p2pkh => Ok(p2pkh),
        v if v == expected.p2sh => Ok(p2sh),
        0x00 | 0x05 | 0x6f | 0xc4 => Err(wrong_network(address, network)),
        _ => Err(unreadable(address, "its version is not known")),
    }
}

/// The address of a script on this network; none if it is of a kind that has none.
pub fn text(network: &str, script: &[u8]) -> Option<String> {
    let prefixes = prefixes(network);
    let segwit = |version, program: &[u8]| {
        segwit::encode(Hrp::parse_unchecked(prefixes.segwit), version, program).ok()
    };
    let base58 =
        |version: u8, hash: &[u8]| Some(base58ck::encode_check(&[&[version], hash].concat()));
    match Kind::of(script)? {
        Kind::P2pkh => base58(prefixes.p2pkh, script.get(3..23)?),
        Kind::P2sh => base58(prefixes.p2sh, script.get(2..22)?),
        Kind::P2wpkh | Kind::P2wsh => segwit(Fe32::Q, script.get(2..)?),
        Kind::P2tr => segwit(Fe32::P, script.get(2..)?),
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use bitcoin::{
        Address, Network, PubkeyHash, ScriptBuf, ScriptHash, WPubkeyHash, WScriptHash,
        hashes::Hash, key::TweakedPublicKey,
    };

    use super::*;

    const NETWORKS: [(&str, Network); 4] = [
        ("bitcoin", Network::Bitcoin),
        ("testnet4", Network::Testnet4),
        ("signet", Network::Signet),
        ("regtest", Network::Regtest),
    ];

    /// One of each kind.
    fn scripts() -> [(Kind, ScriptBuf); 5] {
        let key = bitcoin::XOnlyPublicKey::from_slice(&[2; 32]).expect("a point");
        [
            (
                Kind::P2pkh,
                ScriptBuf::new_p2pkh(&PubkeyHash::from_byte_array([1; 20])),
            ),
            (
                Kind::P2sh,
                ScriptBuf::new_p2sh(&ScriptHash::from_byte_array([2; 20])),
            ),
            (
                Kind::P2wpkh,
                ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([3; 20])),
            ),
            (
                Kind::P2wsh,
                ScriptBuf::new_p2wsh(&WScriptHash::from_byte_array([4; 32])),
            ),
            (
                Kind::P2tr,
                ScriptBuf::new_p2tr_tweaked(TweakedPublicKey::dangerous_assume_tweaked(key)),
            ),
        ]
    }

    #[test]
    fn addresses_of_all_kinds_and_networks_are_those_of_another_library() {
        for (name, network) in NETWORKS {
            for (kind, script) in scripts() {
                let address = Address::from_script(&script, network).expect("it has one");
                let written = address.to_string();
                assert_eq!(parse(name, &written), Ok(script.to_bytes()), "{written}");
                assert_eq!(text(name, script.as_bytes()), Some(written));
                assert_eq!(Kind::of(script.as_bytes()), Some(kind));
                assert_eq!(kind.dust(), script.minimal_non_dust().to_sat());
            }
        }
    }

    #[test]
    fn capital_letters_are_the_same_segwit_address() {
        let (_, script) = &scripts()[4];
        let address = Address::from_script(script, Network::Regtest);
        let upper = address.expect("it has one").to_string().to_uppercase();
        assert_eq!(parse("regtest", &upper), Ok(script.to_bytes()));
    }

    #[test]
    fn an_address_of_another_network_is_refused_by_name() {
        for (name, network) in NETWORKS {
            for (_, script) in scripts() {
                let address = Address::from_script(&script, network).expect("it has one");
                let other = if name == "bitcoin" {
                    "regtest"
                } else {
                    "bitcoin"
                };
                let refusal = parse(other, &address.to_string()).expect_err("wrong network");
                assert_eq!(refusal.code, "wrong-network");
                assert!(refusal.message.contains(other), "{}", refusal.message);
            }
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "hello",
            "lnbc1",
            // A wrong letter in a checksum.
            "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt081",
            // Witness version 2, BIP 350.
            "bc1zw508d6qejxtdg4y5r3zarvaryvaxxpcs",
            // Another coin's.
            "ltc1qw508d6qejxtdg4y5r3zarvary0c5xw7kgmn4n9",
            "1BoatSLRHtKNngkdXEeobR76b53LETtpyX",
        ] {
            assert_eq!(
                parse("bitcoin", text).expect_err(text).code,
                "bad-address",
                "{text}"
            );
        }
        assert!(Address::from_str("bc1zw508d6qejxtdg4y5r3zarvaryvaxxpcs").is_ok());
        assert_eq!(Kind::of(&[0x6a, 1, 1]), None);
    }
}
