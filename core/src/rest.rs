//! The JSON that guardians' REST API speaks, for servers and clients alike.
//!
//! Routes, all below `/v1` but for the last two lines:
//!
//! | route | answer |
//! |---|---|
//! | `GET /info` | [`InfoResponse`] |
//! | `GET /federation` | [`FederationResponse`] |
//! | `GET /status` | [`StatusResponse`] |
//! | `GET /modules` | list of [`ModuleResponse`] |
//! | `GET /bundles/{hash}` | `application/wasm` |
//! | `POST /transactions` with [`SubmitRequest`] | 202 [`SubmitResponse`] |
//! | `GET /transactions/{txid}?wait=SECONDS&outputs=INSTANCE,…` | [`TransactionResponse`], at once when final |
//! | `POST /modules/{instance}/outcomes` with [`OutcomesRequest`] | [`OutcomesResponse`] |
//! | `POST /modules/{instance}/queries/{name}` with [`QueryRequest`] | [`QueryResponse`] |
//! | `GET /sessions/{index}`, `GET /sessions/latest` | [`crate::consensus::SignedHeader`] |
//! | `GET /block-hashes/{height}` | a hash, in internal byte order |
//! | `GET /chain-outputs?script=HEX` or `?out_point=TXID:INDEX` | list of [`ChainOutputResponse`] |
//! | `GET /audit` | [`AuditResponse`] |
//! | `GET /livez`, `GET /readyz` | [`HealthResponse`] |
//! | `GET /openapi.json`, `GET /docs` | the description of all this |
//!
//! Errors are [`Problem`] with content type `application/problem+json`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Argument, BundleHash, FederationId, Hash32, InstanceId, OutPoint, Parameter, PeerId, Refusal,
    TxId, config::HexBytes, consensus::TransactionStatus,
};

/// RFC 9457. `code` is stable; the rest is for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail} ({code})")]
pub struct Problem {
    /// `about:blank#<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status' name.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was refused, why, and what would be accepted.
    pub detail: String,
    /// Stable, kebab-case.
    pub code: String,
    /// The transaction's input that is refused, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<u16>,
    /// The transaction's output that is refused, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<u16>,
}

/// The founding config and who signed it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FederationResponse {
    /// SHA-256 of `config`.
    pub id: FederationId,
    /// The federation's name.
    pub name: String,
    /// `bitcoin`, `testnet4`, `signet` or `regtest`.
    pub network: String,
    /// The founding config's canonical bytes.
    pub config: HexBytes,
    /// BIP 340 signatures by the guardians' consensus keys.
    pub signatures: Vec<(PeerId, HexBytes)>,
    /// For wallets to join by.
    pub invite: String,
    /// n − f.
    pub threshold: u16,
    /// All guardians.
    pub guardians: Vec<GuardianResponse>,
}

/// One guardian.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct GuardianResponse {
    /// Its index.
    pub peer: PeerId,
    /// Its name.
    pub name: String,
    /// Where its REST API is.
    pub api_url: String,
}

/// What a guardian runs, and how much one client may ask of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InfoResponse {
    /// The program's version.
    pub version: String,
    /// A hash of all that can change a result: guardians of a federation have the
    /// same.
    pub runtime_hash: Hash32,
    /// What is refused beyond.
    pub limits: Limits,
}

/// How much one client may ask for: an address, or a network of IPv6 (/64).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Requests a second in the long run, beyond which 429 `too-many-requests`; 0
    /// where there is no limit. `/livez` and `/readyz` do not count.
    pub requests_per_second: u32,
    /// How many of them may come at once.
    pub requests_at_once: u32,
    /// Connections at a time; others are hung up on.
    pub connections: u32,
    /// A request's body, beyond which 413 `body-too-large`.
    pub body_bytes: u32,
    /// A transaction, beyond which 400 `transaction-too-large`.
    pub transaction_bytes: u32,
    /// The longest wait; a longer one is taken for that.
    pub wait_seconds: u32,
    /// Requests of all clients that wait at a time, beyond which 429
    /// `too-many-waiting`.
    pub waiting: u32,
}

/// Where this guardian stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusResponse {
    /// Who answers.
    pub peer: PeerId,
    /// The session that is being filled.
    pub session: u64,
    /// How many epochs of it have been processed.
    pub epoch: u32,
    /// The state root behind the last of them.
    pub state_root: Hash32,
    /// Agreed block height.
    pub block_height: u32,
    /// The agreed block.
    pub block_hash: Hash32,
    /// The height of this guardian's own chain; none while bitcoind is away.
    pub chain_height: Option<u32>,
    /// Agreed time, seconds since 1970.
    pub unix_time: u64,
    /// Agreed fee rate, satoshi per 1000 virtual bytes.
    pub fee_rate: u64,
    /// The other guardians as this one sees them.
    pub peers: Vec<PeerStatus>,
    /// Guardians whose transactions are ignored until the session ends.
    #[serde(default)]
    pub convicted: Vec<ConvictionResponse>,
    /// What is wrong; empty when all is well.
    pub problems: Vec<String>,
}

/// A guardian that has proposed what no honest one proposes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConvictionResponse {
    /// Which.
    pub peer: PeerId,
    /// Since this epoch of the session.
    pub epoch: u32,
    /// What it did.
    pub fault: String,
}

/// A guardian as another sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerStatus {
    /// Which.
    pub peer: PeerId,
    /// Whether a connection to it stands.
    pub connected: bool,
    /// The session and epoch it last reported.
    pub position: Option<(u64, u32)>,
    /// How often this guardian has dropped its connection for what it did; it may
    /// connect again each time.
    #[serde(default)]
    pub drops: u32,
    /// What it did the last time.
    #[serde(default)]
    pub last_drop: Option<String>,
}

/// A module instance.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModuleResponse {
    /// Its number.
    pub instance: InstanceId,
    /// Its kind.
    pub kind: String,
    /// The bundle's version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// The bundle.
    pub bundle: BundleHash,
    /// Whether it is paused: the host refused to let it pay out more than it has.
    pub paused: bool,
    /// What the bundle is able to do, from its imports.
    pub capabilities: Vec<String>,
    /// Its queries.
    pub queries: Vec<EndpointResponse>,
}

/// A query or a command of a module.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EndpointResponse {
    /// Its name.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// What it takes.
    pub parameters: Vec<Parameter>,
}

/// A transaction to be decided.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SubmitRequest {
    /// The canonical bytes of a [`crate::Transaction`].
    pub transaction: HexBytes,
}

/// A transaction that this guardian has taken.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SubmitResponse {
    /// Its id.
    pub txid: TxId,
    /// Where it stands; one that was decided before says so.
    #[serde(flatten)]
    pub status: TransactionStatus,
}

/// A transaction's fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransactionResponse {
    /// Its id.
    pub txid: TxId,
    /// Where it stands.
    #[serde(flatten)]
    pub status: TransactionStatus,
    /// For people, where this guardian knows more than the status' code.
    pub message: Option<String>,
    /// The session and epoch as of which this is true.
    pub as_of: (u64, u32),
    /// Where it is accepted, and the instances of its outputs were given: this
    /// guardian's contribution to the outcome of each, in their order; null where there
    /// is none yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<Option<HexBytes>>,
}

/// Which outputs' outcomes are asked for: of one instance, at most 1000.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OutcomesRequest {
    /// Which.
    #[schema(max_items = 1000)]
    pub out_points: Vec<OutPoint>,
    /// How long to wait until all are there, in seconds; more than 60 is taken for
    /// that.
    #[serde(default)]
    #[schema(maximum = 4294967295u32)]
    pub wait: u32,
}

/// This guardian's contributions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutcomesResponse {
    /// In the order asked for; none where there is no such output (yet).
    pub outcomes: Vec<Option<HexBytes>>,
}

/// A question to a module's guardian half.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct QueryRequest {
    /// By name.
    #[serde(default)]
    pub arguments: Vec<Argument>,
    /// How long to wait for an answer that is not there yet, in seconds; more than 60
    /// is taken for that.
    #[serde(default)]
    #[schema(maximum = 4294967295u32)]
    pub wait: u32,
}

/// A module's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum QueryResponse {
    /// There it is.
    Ready {
        /// In the module's canonical encoding.
        bytes: HexBytes,
        /// What the module makes of it for people.
        #[schema(value_type = Object)]
        json: serde_json::Value,
    },
    /// There is none yet, and patience has ended.
    Waiting,
    /// The module refuses.
    Refused(Refusal),
}

/// An agreed output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChainOutputResponse {
    /// Its transaction, internal byte order.
    pub txid: Hash32,
    /// Its place in it.
    pub index: u32,
    /// Its scriptPubKey.
    pub script: HexBytes,
    /// Its value.
    pub satoshi: u64,
    /// The block's height.
    pub height: u32,
}

/// What the federation has and owes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditResponse {
    /// The session and epoch as of which this is true.
    pub as_of: (u64, u32),
    /// One for each instance.
    pub instances: Vec<InstanceAudit>,
    /// Assets less liabilities, over all instances.
    pub net_msat: i64,
}

/// One instance's books.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceAudit {
    /// Which.
    pub instance: InstanceId,
    /// Its kind.
    pub kind: String,
    /// What came into the instance by transactions' outputs less what its inputs
    /// took out, by the host's books.
    pub balance_msat: i64,
    /// Bitcoin that the instance holds for the federation, by the host's books.
    pub treasury_msat: i64,
    /// What the module itself says.
    pub lines: Vec<AuditLine>,
}

/// One line of a module's audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditLine {
    /// For people.
    pub name: String,
    /// Positive: what the federation has; negative: what it owes.
    pub msat: i64,
}

/// Whether a guardian lives or can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthResponse {
    /// `ok` or `not-ready`.
    pub status: String,
    /// Why not: the problems of the required checks.
    pub problems: Vec<String>,
    /// What was looked at; `/livez` has none.
    #[serde(default)]
    pub checks: Vec<CheckResponse>,
}

/// One thing that a guardian looks at to say whether it can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckResponse {
    /// Stable, kebab-case: `peers`, `replay`, `ordering`, `position`, `state`,
    /// `bitcoind`, `ending`.
    pub name: String,
    /// Whether there is nothing wrong.
    pub ok: bool,
    /// Whether the guardian cannot serve without.
    pub required: bool,
    /// What is wrong.
    pub problems: Vec<String>,
}
