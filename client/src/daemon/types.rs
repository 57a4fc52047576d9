//! The JSON of the wallet's REST API, for the daemon and for whoever asks it.
//!
//! Amounts are numbers of millisatoshi; times are seconds since 1970.

use modmint_core::{
    BundleHash, FederationId, InstanceId, Parameter, ParameterKind,
    config::{FederationConfig, Network},
    rest::Problem,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::arguments::plain;
use crate::{
    GuardianView, ModuleView, OperationId, OperationView, SpendQuote, guardians::FederationView,
};

/// What runs here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InfoResponse {
    /// The program's version.
    pub version: String,
    /// How many federations the wallet has joined.
    pub federations: usize,
}

/// An invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// It begins with `modmint1`.
    pub invite: String,
}

/// A federation that the wallet has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FederationResponse {
    /// Its id.
    pub federation: FederationId,
    /// Its name; others may have the same.
    pub name: String,
    /// Whose coins it holds.
    pub network: Network,
    /// What can be spent there; none if the federation's module does not say.
    pub balance_msat: Option<u64>,
    /// Whether the wallet is still finding its money again; nothing else begins before.
    pub recovering: bool,
    /// For others to join by.
    pub invite: String,
}

/// A federation that the wallet has joined, with its modules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JoinedResponse {
    /// What it is.
    #[serde(flatten)]
    pub federation: FederationResponse,
    /// What it offers.
    pub modules: Vec<ModuleResponse>,
}

/// A federation that one may join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PreviewResponse {
    /// Its id.
    pub federation: FederationId,
    /// Its name; others may have the same.
    pub name: String,
    /// Whose coins it holds.
    pub network: Network,
    /// Who runs it.
    pub guardians: Vec<String>,
    /// How many of them may fail or lie without harm.
    pub faulty: usize,
    /// What a transaction pays for each 1000 of its bytes, beside what modules ask.
    pub base_fee_msat_per_kilobyte: u64,
    /// What it offers.
    pub modules: Vec<ModuleResponse>,
}

/// A module of a federation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModuleResponse {
    /// Its number.
    pub instance: InstanceId,
    /// Its kind.
    pub kind: String,
    /// The bundle's version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// The bundle, the same for guardians and wallets.
    pub bundle: BundleHash,
    /// Whether it holds the wallet's money.
    pub holds_money: bool,
    /// Whether it has a half for wallets; without one there is nothing to ask of it.
    pub wallet_half: bool,
    /// What the bundle is able to do, from its imports alone.
    pub capabilities: Vec<String>,
    /// What can be asked of it.
    pub actions: Vec<ActionResponse>,
}

/// What can be asked of a module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ActionResponse {
    /// Its name.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// What it takes.
    pub parameters: Vec<ParameterResponse>,
}

/// What an action takes. In JSON a `text`, `bytes` (hexadecimal) and `choice` are texts,
/// a `number` is a number, a `flag` true or false, `texts` a list; an `amount` is a number
/// of millisatoshi, or a text with its unit, for example `1000sat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ParameterResponse {
    /// Its name.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// `type`, and `choices` where it is one of several.
    #[serde(flatten)]
    pub kind: ParameterKind,
    /// Whether it must be given.
    pub required: bool,
    /// What the module is passed where nothing is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
}

impl ModuleResponse {
    pub(super) fn of(
        view: &ModuleView,
        capabilities: Vec<String>,
        ecash: Option<InstanceId>,
        config: &FederationConfig,
    ) -> Self {
        let known = config.instance(view.instance);
        let actions = view.actions.iter().map(|action| ActionResponse {
            name: action.name.clone(),
            summary: action.summary.clone(),
            parameters: action
                .parameters
                .iter()
                .map(ParameterResponse::of)
                .collect(),
        });
        Self {
            instance: view.instance,
            kind: view.kind.clone(),
            version: view.version.clone(),
            summary: view.summary.clone(),
            bundle: known.map_or(BundleHash([0; 32]), |known| known.bundle),
            holds_money: ecash == Some(view.instance),
            wallet_half: view.has_client,
            capabilities,
            actions: actions.collect(),
        }
    }
}

impl ParameterResponse {
    fn of(parameter: &Parameter) -> Self {
        let Parameter {
            name,
            summary,
            kind,
            required,
            default,
        } = parameter;
        Self {
            name: name.clone(),
            summary: summary.clone(),
            kind: kind.clone(),
            required: *required,
            default: default.as_ref().map(plain),
        }
    }
}

/// What can be spent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalancesResponse {
    /// In each federation. There is no sum: notes of one are none of another.
    pub federations: Vec<BalanceResponse>,
}

/// What can be spent in one federation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalanceResponse {
    /// Its id.
    pub federation: FederationId,
    /// Its name.
    pub name: String,
    /// Whose coins it holds.
    pub network: Network,
    /// What can be spent now, and change that is on its way comes on top; none if the
    /// federation's module does not say.
    pub balance_msat: Option<u64>,
}

/// A federation's guardians, asked just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuardiansResponse {
    /// Whether as many answer as are needed.
    pub reachable: bool,
    /// How many are needed.
    pub threshold: usize,
    /// What they have agreed on, as far as the wallet was told.
    pub agreed: AgreedResponse,
    /// All of them.
    pub guardians: Vec<GuardianResponse>,
}

/// What a federation has agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgreedResponse {
    /// Block height.
    pub block_height: u32,
    /// Time, seconds since 1970.
    pub unix_time: u64,
    /// Fee rate, satoshi per 1000 virtual bytes.
    pub fee_rate: u64,
}

impl From<FederationView> for AgreedResponse {
    fn from(view: FederationView) -> Self {
        Self {
            block_height: view.block_height,
            unix_time: view.unix_time,
            fee_rate: view.fee_rate,
        }
    }
}

/// One guardian, and how it has been doing since the wallet was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuardianResponse {
    /// Its index.
    pub peer: u16,
    /// Its name.
    pub name: String,
    /// Where its API is.
    pub api_url: String,
    /// Smoothed time of a request; none before the first answer.
    pub latency_ms: Option<u64>,
    /// Failures since the last answer.
    pub failures: u32,
    /// What the last failure was.
    pub last_error: Option<String>,
}

impl From<GuardianView> for GuardianResponse {
    fn from(view: GuardianView) -> Self {
        let GuardianView {
            peer,
            name,
            api_url,
            health,
        } = view;
        Self {
            peer,
            name,
            api_url,
            latency_ms: health.latency_ms,
            failures: health.failures,
            last_error: health.last_error,
        }
    }
}

/// Something to be done by a module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActRequest {
    /// By name, each as the module's parameter declares it.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub arguments: Map<String, Value>,
    /// The most that it may take from the balance, all fees included. Without it a spend
    /// is answered with its quote.
    #[serde(default)]
    pub max_spend_msat: Option<u64>,
    /// How long to wait until there is something to show, in seconds; more than 60 is
    /// taken for that, 10 without it.
    #[serde(default)]
    #[schema(maximum = 4294967295u32)]
    pub wait: Option<u32>,
}

/// A spend to be confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmRequest {
    /// The most that it may take from the balance, all fees included.
    pub max_spend_msat: u64,
}

/// An operation as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationResponse {
    /// What is known of it.
    #[serde(flatten)]
    pub operation: OperationView,
    /// Changes with everything above: for `seen`.
    pub version: String,
}

/// A page of operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationsResponse {
    /// By their ids, descending: the newest first.
    pub items: Vec<OperationResponse>,
    /// For the next page; none on the last.
    pub next_cursor: Option<OperationId>,
}

/// A problem with an action: a spend that nobody has allowed, or an operation that has
/// come to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActionProblem {
    /// As all problems are.
    #[serde(flatten)]
    pub problem: Problem,
    /// What it would take; of `confirmation-needed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<SpendQuote>,
    /// What has begun: with a quote, it waits to be confirmed or declined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
}
