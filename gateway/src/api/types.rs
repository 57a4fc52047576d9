//! The JSON of the gateway's REST API, for the daemon and for whoever asks it.
//!
//! Amounts have their unit in the name; times are seconds since 1970.

use modmint_core::{FederationId, Hash32, config::HexBytes};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    gateway::InvoiceState,
    journal::Terms,
    ledger::Solvency,
    lightning::{NodeBalance, NodeInfo},
};

/// What a wallet needs before it locks money for this gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoutingResponse {
    /// The key that contracts name the gateway by, 33 bytes compressed, hexadecimal.
    pub gateway_key: String,
    /// The node's key, 33 bytes compressed, hexadecimal.
    pub node_key: String,
    /// The gateway's name.
    pub alias: String,
    /// The chain.
    pub network: String,
    /// For each payment out.
    pub pay_base_msat: u64,
    /// Of each payment out, millionths, rounded up. Others on the way are paid out of
    /// it.
    pub pay_parts_per_million: u64,
    /// For each payment in.
    pub receive_base_msat: u64,
    /// Of each contract in, millionths, rounded up.
    pub receive_parts_per_million: u64,
    /// An outgoing contract's timelock is to be at least so far ahead, blocks.
    pub minimum_timelock_blocks: u32,
    /// The largest invoice.
    pub maximum_invoice_msat: u64,
}

/// A contract that is there and is to be paid for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PaymentRequest {
    /// BOLT 11.
    pub invoice: String,
    /// The outgoing contract's id.
    pub contract: Hash32,
    /// Its payer's, over both, as the module makes it, hexadecimal.
    pub signature: HexBytes,
}

/// How paying stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PaymentResponse {
    /// The invoice's.
    pub payment_hash: Hash32,
    /// `pending`, `paid` or `failed`. What is true is in the federation.
    pub state: String,
    /// Once it is paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preimage: Option<Hash32>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An offer for which an invoice is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvoiceRequest {
    /// As the module made it, hexadecimal.
    pub offer: HexBytes,
    /// The offer's payment hash.
    pub payment_hash: Hash32,
    /// What the payer is to pay.
    pub amount_msat: u64,
    /// What the offer asks for.
    pub contract_msat: u64,
    /// For the payer, at most 639 bytes.
    #[serde(default)]
    pub description: String,
    /// From now; 60 to 86400.
    pub expiry_seconds: u32,
}

/// The invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvoiceResponse {
    /// BOLT 11.
    pub invoice: String,
}

/// How an invoice stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvoiceStateResponse {
    /// See the schema.
    pub state: InvoiceState,
}

/// What runs here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewayInfoResponse {
    /// The gateway's version.
    pub version: String,
    /// The node.
    pub node: NodeInfo,
    /// How many federations are served.
    pub federations: usize,
    /// Whether nothing new is begun, see the solvency ledger.
    pub halted: bool,
}

/// A federation, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MembershipResponse {
    /// Its id.
    pub id: FederationId,
    /// Its name.
    pub name: String,
    /// Whether it is served; false once it was left.
    pub active: bool,
    /// E-cash that can be spent; none if the federation's module does not say.
    pub balance_msat: Option<u64>,
    /// What would be lost with the federation: e-cash and payments under way for it.
    pub exposure_msat: u64,
    /// The key that its contracts name the gateway by.
    pub gateway_key: Option<String>,
    /// Fees and limits.
    pub terms: Terms,
    /// What others join it by.
    pub invite: String,
}

/// A federation to be joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// It begins with modmint1.
    pub invite: String,
    /// Without them those of the configuration, dearer by the base fee of the gateway's own
    /// transactions.
    #[serde(default)]
    pub terms: Option<Terms>,
}

/// Some of the terms, to be changed; the others stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TermsChange {
    /// For each payment out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pay_base_msat: Option<u64>,
    /// Of each payment out, millionths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pay_parts_per_million: Option<u64>,
    /// For each payment in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_base_msat: Option<u64>,
    /// Of each payment in, millionths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_parts_per_million: Option<u64>,
    /// The largest invoice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_invoice_msat: Option<u64>,
    /// The most that is risked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_exposure_msat: Option<u64>,
}

impl TermsChange {
    /// The terms as they are then.
    pub fn over(&self, terms: &Terms) -> Terms {
        Terms {
            pay_base_msat: self.pay_base_msat.unwrap_or(terms.pay_base_msat),
            pay_parts_per_million: self
                .pay_parts_per_million
                .unwrap_or(terms.pay_parts_per_million),
            receive_base_msat: self.receive_base_msat.unwrap_or(terms.receive_base_msat),
            receive_parts_per_million: self
                .receive_parts_per_million
                .unwrap_or(terms.receive_parts_per_million),
            maximum_invoice_msat: self
                .maximum_invoice_msat
                .unwrap_or(terms.maximum_invoice_msat),
            maximum_exposure_msat: self
                .maximum_exposure_msat
                .unwrap_or(terms.maximum_exposure_msat),
        }
    }
}

/// All that the gateway holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalancesResponse {
    /// On chain and in channels.
    pub node: NodeBalance,
    /// E-cash.
    pub federations: Vec<FederationBalance>,
    /// Counted together, against what there was.
    pub solvency: Solvency,
}

/// E-cash of one federation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FederationBalance {
    /// The federation.
    pub id: FederationId,
    /// Its name.
    pub name: String,
    /// What can be spent; none if the federation's module does not say.
    pub balance_msat: Option<u64>,
}

/// An address, on chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddressResponse {
    /// To pay to.
    pub address: String,
}

/// E-cash that is to become bitcoin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WithdrawRequest {
    /// Where to.
    pub address: String,
    /// What is to arrive.
    pub amount_sat: u64,
    /// The most that it may take from the balance on top.
    pub maximum_fee_sat: u64,
}

/// A withdrawal that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WithdrawResponse {
    /// The wallet's operation.
    pub operation: String,
    /// What it takes from the balance.
    pub took_msat: i64,
}

/// A peer to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectRequest {
    /// Its key, 33 bytes compressed, hexadecimal.
    pub peer: String,
    /// Where it is, `host:port`.
    pub address: String,
}

/// A channel that is being opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChannelResponse {
    /// Its id.
    pub id: String,
}

/// Bitcoin of the node's own wallet to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    /// Where to.
    pub address: String,
    /// How much; null for all that may be sent.
    pub amount_sat: Option<u64>,
    /// The fee rate; the node's own estimate without one.
    #[serde(default)]
    pub sat_per_vbyte: Option<u64>,
}

/// A transaction that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SendResponse {
    /// Its id.
    pub txid: String,
}

/// One line of the payment log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoggedPayment {
    /// Its place in the log, which begins with 1.
    pub number: u64,
    /// `out` or `in`.
    pub direction: String,
    /// Whose user pays or is paid.
    pub federation: FederationId,
    /// The payment's hash.
    pub payment_hash: Hash32,
    /// `pending`, `paid`, `failed` or `lost`: given, and not had back.
    pub state: String,
    /// Whether it went through this gateway alone.
    pub swap: bool,
    /// What the invoice is for.
    pub amount_msat: u64,
    /// What the gateway takes of it, less what others on the way took; of what is paid
    /// alone.
    pub earned_msat: i64,
    /// What others on the way took.
    pub routing_fee_msat: u64,
    /// When it began.
    pub created: u64,
    /// When it last changed.
    pub updated: u64,
    /// BOLT 11.
    pub invoice: String,
    /// Once it is paid.
    pub preimage: Option<Hash32>,
    /// Why it failed.
    pub reason: Option<String>,
    /// While a payment in is pending: the block at which it goes back by itself.
    pub deadline: Option<u32>,
}

/// A page of the payment log, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PaymentsResponse {
    /// The lines.
    pub items: Vec<LoggedPayment>,
    /// For the next page; none on the last.
    pub next_cursor: Option<u64>,
}

/// What happened in a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SummaryResponse {
    /// From then.
    pub since: u64,
    /// Until then.
    pub until: u64,
    /// Payments out.
    pub out: SummaryLine,
    /// Payments in.
    pub incoming: SummaryLine,
}

/// Payments one way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SummaryLine {
    /// How many arrived.
    pub paid: u64,
    /// How many came to nothing.
    pub failed: u64,
    /// How many are under way.
    pub pending: u64,
    /// What arrived.
    pub amount_msat: u64,
    /// What the gateway earned with it.
    pub earned_msat: i64,
    /// Half of those that arrived took no longer, from the beginning to the last change.
    pub median_seconds: Option<u64>,
}
