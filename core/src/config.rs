//! What a federation is: the plan that its guardians found it by, the config that
//! the founding ceremony makes of it, and the invite that leads wallets to it.

use std::{fmt, str::FromStr};

use bech32::{Bech32m, Hrp};
use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{
    Amount, Argument, BundleHash, FederationId, Hash32, InstanceId, KeyKind, PeerId, PublicKey,
    max_faulty, sha256, tagged_hash, threshold,
};

/// The Bitcoin network whose coins a federation holds.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Mainnet.
    Bitcoin,
    /// BIP 94.
    Testnet4,
    /// BIP 325, the default signet.
    Signet,
    /// A private chain.
    Regtest,
}

impl Network {
    /// As the module contract names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bitcoin => "bitcoin",
            Self::Testnet4 => "testnet4",
            Self::Signet => "signet",
            Self::Regtest => "regtest",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One guardian, as all the others and the wallets know it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct PeerConfig {
    /// For people, at most 64 bytes.
    pub name: String,
    /// Where its REST API is, for example `http://127.0.0.1:8174`.
    pub api_url: String,
    /// Where other guardians reach it, `host:port`.
    pub p2p_address: String,
    /// Its TLS certificate, DER: the key that other guardians pin.
    #[serde(with = "hex::serde")]
    pub certificate: Vec<u8>,
    /// The key by which it signs units, headers and acks (BIP 340).
    pub consensus_key: PublicKey,
}

/// When a session ends: with the first epoch at which one of these is reached.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct SessionLimits {
    /// Epochs, the number of AlephBFT batches.
    pub epochs: u32,
    /// Bytes of ordered unit payloads.
    pub bytes: u64,
    /// Seconds of agreed time.
    pub seconds: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            epochs: 2000,
            bytes: 64 << 20,
            seconds: 600,
        }
    }
}

/// What every transaction pays to the federation, beside the modules' fees: for what
/// it costs all guardians to order and keep it.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct BaseFee {
    /// Millisatoshi for 1000 bytes of the encoded transaction.
    pub msat_per_kilobyte: u64,
}

impl BaseFee {
    /// What a transaction of so many bytes pays, rounded up.
    pub fn of(&self, bytes: usize) -> Amount {
        let msat = (u128::from(self.msat_per_kilobyte) * bytes as u128).div_ceil(1000);
        Amount(u64::try_from(msat).unwrap_or(u64::MAX))
    }
}

/// A block.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct BlockId {
    /// Its height.
    pub height: u32,
    /// Its hash, internal byte order.
    pub hash: Hash32,
}

/// A module that the federation begins with.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedModule {
    /// The bundle's kind.
    pub kind: String,
    /// The bundle.
    pub bundle: BundleHash,
    /// For the bundle's `configure`.
    pub arguments: Vec<Argument>,
}

/// What guardians agree upon before the ceremony; everyone must hold the same.
/// Instances are numbered in the order of `modules`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundingPlan {
    /// The federation's name, at most 64 bytes.
    pub name: String,
    /// Whose coins it holds.
    pub network: Network,
    /// In the order of their indices.
    pub peers: Vec<PeerConfig>,
    /// The agreed chain begins behind this block.
    pub chain_start: BlockId,
    /// A block is voted once so many blocks lie on top of it.
    pub finality_depth: u32,
    /// When sessions end.
    pub session: SessionLimits,
    /// What transactions pay; nothing if the plan does not say.
    #[serde(default)]
    pub base_fee: BaseFee,
    /// The modules it begins with.
    pub modules: Vec<PlannedModule>,
}

impl FoundingPlan {
    /// Names the ceremony, 32 bytes; guardians with other plans do not talk.
    pub fn id(&self) -> FederationId {
        let plan = borsh::to_vec(self).expect("writing to memory does not fail");
        FederationId(tagged_hash("modmint/founding-plan", &[&plan]))
    }
}

/// The public part of a key that the ceremony made for an instance.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct InstanceKey {
    /// Unique in the instance.
    pub label: String,
    /// What it can do.
    pub kind: KeyKind,
    /// `blind-signature`: the group key, 96 bytes. `decryption`: the group key,
    /// 48 bytes. `multisig`: 33 bytes for each guardian.
    pub public_keys: Vec<HexBytes>,
    /// For threshold keys the public key of each guardian's share, of the same
    /// length as the group key; empty for `multisig`.
    pub share_keys: Vec<HexBytes>,
}

/// Bytes that are hexadecimal text in JSON.
#[derive(
    Clone,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
#[serde(transparent)]
pub struct HexBytes(#[serde(with = "hex::serde")] pub Vec<u8>);

impl fmt::Debug for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl utoipa::PartialSchema for HexBytes {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^([0-9a-f]{2})*$"))
            .description(Some("bytes in hexadecimal"))
            .build()
            .into()
    }
}

impl utoipa::ToSchema for HexBytes {}

/// One module in the federation.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct InstanceConfig {
    /// Its number, and its place in the config.
    pub id: InstanceId,
    /// The bundle's kind.
    pub kind: String,
    /// The bundle that guardians, wallets and gateways load.
    pub bundle: BundleHash,
    /// What the bundle's `configure` returned.
    #[serde(with = "hex::serde")]
    pub config: Vec<u8>,
    /// The keys it asked for.
    pub keys: Vec<InstanceKey>,
}

/// What the founding ceremony ends with. Its SHA-256 is the federation's id.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct FederationConfig {
    /// The federation's name.
    pub name: String,
    /// Whose coins it holds.
    pub network: Network,
    /// In the order of their indices.
    pub peers: Vec<PeerConfig>,
    /// The agreed chain begins behind this block.
    pub chain_start: BlockId,
    /// A block is voted once so many blocks lie on top of it.
    pub finality_depth: u32,
    /// When sessions end.
    pub session: SessionLimits,
    /// What transactions pay.
    pub base_fee: BaseFee,
    /// The modules, in the order of their ids.
    pub instances: Vec<InstanceConfig>,
}

impl FederationConfig {
    /// The canonical bytes, whose SHA-256 is the federation's id.
    pub fn encode(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("writing to memory does not fail")
    }

    /// SHA-256 of [`Self::encode`].
    pub fn id(&self) -> FederationId {
        FederationId(sha256(&self.encode()))
    }

    /// The config that these bytes hold, if they are those of federation `id`.
    ///
    /// # Errors
    /// Says that the hash differs, or that the encoding is none.
    pub fn decode(bytes: &[u8], id: &FederationId) -> Result<Self, ConfigError> {
        let found = FederationId(sha256(bytes));
        if found != *id {
            return Err(ConfigError::WrongFederation {
                found,
                expected: *id,
            });
        }
        borsh::from_slice(bytes).map_err(|e| ConfigError::Encoding(e.to_string()))
    }

    /// n.
    pub fn size(&self) -> usize {
        self.peers.len()
    }

    /// n − f.
    pub fn threshold(&self) -> usize {
        threshold(self.peers.len())
    }

    /// f.
    pub fn max_faulty(&self) -> usize {
        max_faulty(self.peers.len())
    }

    /// All guardians, ascending.
    pub fn peer_ids(&self) -> impl Iterator<Item = PeerId> + use<> {
        (0..self.peers.len() as u16).map(PeerId)
    }

    /// The instance of this number.
    pub fn instance(&self, id: InstanceId) -> Option<&InstanceConfig> {
        self.instances.get(id.0 as usize)
    }

    /// What every guardian signs (BIP 340, by its consensus key) of a config:
    /// a tagged hash of the federation's id.
    pub fn signature_hash(&self) -> [u8; 32] {
        tagged_hash("modmint/config", &[&self.id().0])
    }
}

/// Why bytes are not the config that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// They hash to something else.
    #[error("this is the config of federation {found}, the invite names {expected}")]
    WrongFederation {
        /// What the bytes hash to.
        found: FederationId,
        /// What was asked for.
        expected: FederationId,
    },
    /// No borsh encoding of a config.
    #[error("the config cannot be decoded: {0}")]
    Encoding(String),
}

/// Leads a wallet to a federation: its id and some guardians' addresses. As text
/// bech32m with the prefix `modmint`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Invite {
    /// The SHA-256 of the founding config: whoever has the invite need trust
    /// nobody for the config.
    pub federation: FederationId,
    /// Guardians' REST addresses; f + 1 of them always include an honest one.
    pub api_urls: Vec<String>,
}

/// Text that is no invite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no invite ({reason}); an invite begins with modmint1")]
pub struct ParseInviteError {
    reason: String,
}

const INVITE_PREFIX: Hrp = Hrp::parse_unchecked("modmint");
const MAX_INVITE_CHARS: usize = 4096;

/// bech32m's checksum without BIP 173's limit of 90 characters: invites carry
/// addresses of any length.
enum LongBech32m {}

impl bech32::Checksum for LongBech32m {
    type MidstateRepr = <Bech32m as bech32::Checksum>::MidstateRepr;
    const CODE_LENGTH: usize = MAX_INVITE_CHARS;
    const CHECKSUM_LENGTH: usize = Bech32m::CHECKSUM_LENGTH;
    const GENERATOR_SH: [Self::MidstateRepr; 5] = Bech32m::GENERATOR_SH;
    const TARGET_RESIDUE: Self::MidstateRepr = Bech32m::TARGET_RESIDUE;
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = borsh::to_vec(self).map_err(|_| fmt::Error)?;
        f.write_str(&bech32::encode::<LongBech32m>(INVITE_PREFIX, &bytes).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Invite {
    type Err = ParseInviteError;
    fn from_str(text: &str) -> Result<Self, ParseInviteError> {
        let wrong = |reason: String| ParseInviteError { reason };
        let text = text.trim();
        let checked = bech32::primitives::decode::CheckedHrpstring::new::<LongBech32m>(text)
            .map_err(|e| wrong(e.to_string()))?;
        if checked.hrp() != INVITE_PREFIX {
            return Err(wrong(format!("it begins with {}", checked.hrp())));
        }
        let bytes: Vec<u8> = checked.byte_iter().collect();
        borsh::from_slice(&bytes).map_err(|e| wrong(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_that_is_none_of_this_version_is_refused_and_not_passed_over() {
        let plan = r#"{ "msat_per_kilobyte": 1, "msat_per_million_fuel": 1 }"#;
        let error = serde_json::from_str::<BaseFee>(plan).expect_err("fuel has no price");
        assert!(error.to_string().contains("unknown field"), "{error}");
    }

    #[test]
    fn the_base_fee_is_rounded_up_and_never_overflows() {
        let fee = BaseFee {
            msat_per_kilobyte: 10,
        };
        assert_eq!(fee.of(0), Amount(0));
        assert_eq!(fee.of(1), Amount(1));
        assert_eq!(fee.of(100), Amount(1));
        assert_eq!(fee.of(1500), Amount(15));
        assert_eq!(fee.of(1501), Amount(16));
        let most = BaseFee {
            msat_per_kilobyte: u64::MAX,
        };
        assert_eq!(most.of(usize::MAX), Amount(u64::MAX));
    }

    #[test]
    fn an_invite_survives_being_text_and_a_changed_character_does_not() {
        let invite = Invite {
            federation: FederationId([7; 32]),
            api_urls: vec![
                "http://127.0.0.1:18174".into(),
                "https://guardian.example".into(),
            ],
        };
        let text = invite.to_string();
        assert!(text.starts_with("modmint1"), "{text}");
        assert_eq!(text.parse(), Ok(invite));
        let mut wrong = text.into_bytes();
        wrong[40] = if wrong[40] == b'q' { b'p' } else { b'q' };
        let wrong = String::from_utf8(wrong).expect("still ascii");
        assert!(wrong.parse::<Invite>().is_err());
    }
}
