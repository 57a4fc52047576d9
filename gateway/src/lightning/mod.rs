//! What a gateway needs of a Lightning node, whichever it is.
//!
//! [`LightningNode`] says what is promised; [`ldk`] is the node that runs inside the
//! daemon. Nothing here knows of e-cash.

use async_trait::async_trait;
use modmint_core::{Hash32, config::Network};
use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(crate) mod fake;
pub mod ldk;

/// What went wrong at the node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// What was asked makes no sense: an address, a key, a channel that is not there.
    #[error("{0}")]
    Refused(String),
    /// The node cannot do it now, or it is not known whether it did.
    #[error("{0}")]
    Trouble(String),
}

/// Why a payment was not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayError {
    /// The node knows a payment of this hash: it may be under way, or done.
    #[error("the node knows a payment of this hash already")]
    Known,
    /// Nothing was sent: no route within the limits, an invoice that has expired.
    #[error("{0}")]
    NotSent(String),
    /// It is not known whether something was sent.
    #[error("{0}")]
    Trouble(String),
}

/// The node, for people and for wallets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeInfo {
    /// Its key, 33 bytes compressed, hexadecimal.
    pub node_key: String,
    /// Its name.
    pub alias: String,
    /// The chain that it is on.
    pub network: String,
    /// Its best block.
    pub height: u32,
    /// Where peers reach it.
    pub addresses: Vec<String>,
}

/// What the node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeBalance {
    /// On chain, unconfirmed included, satoshi.
    pub onchain_sat: u64,
    /// Of that what may be sent: confirmed, and not kept for the closing of channels.
    pub onchain_spendable_sat: u64,
    /// In channels, and coming back from closed ones, satoshi.
    pub lightning_sat: u64,
    /// What can be paid over usable channels, millisatoshi.
    pub outbound_msat: u64,
    /// What can be received over usable channels, millisatoshi.
    pub inbound_msat: u64,
}

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Channel {
    /// The node's own name for it, 32 hexadecimal digits.
    pub id: String,
    /// The peer's key.
    pub peer: String,
    /// Both sides together, satoshi.
    pub capacity_sat: u64,
    /// What can be paid over it, millisatoshi.
    pub outbound_msat: u64,
    /// What can be received over it, millisatoshi.
    pub inbound_msat: u64,
    /// Confirmed, and both sides say so.
    pub ready: bool,
    /// Ready, and the peer is connected.
    pub usable: bool,
    /// Whether the network is told of it.
    pub announced: bool,
    /// The funding transaction's output, `txid:index`.
    pub funding: Option<String>,
}

/// A channel that is to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenChannel {
    /// The peer's key, 33 bytes compressed, hexadecimal.
    pub peer: String,
    /// Where the peer is, `host:port`.
    pub address: String,
    /// Both sides together, satoshi.
    pub capacity_sat: u64,
    /// What the peer is given of it at the beginning, millisatoshi.
    #[serde(default)]
    pub push_msat: u64,
    /// Whether the network is told of it.
    #[serde(default)]
    pub announced: bool,
}

/// A payment that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayOrder {
    /// BOLT 11, with an amount.
    pub invoice: String,
    /// The most that others on the way may take, millisatoshi.
    pub maximum_fee_msat: u64,
    /// No HTLC of it may expire at a later block.
    pub latest_height: u32,
}

/// What the node's own record says of an outbound payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is under way.
    Pending,
    /// It has arrived.
    Paid {
        /// Of the payment's hash.
        preimage: Hash32,
        /// What others on the way took, millisatoshi.
        fee_msat: u64,
    },
    /// It came to nothing and nothing of it is under way.
    Failed,
}

/// What the node's own record says of an inbound payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// It has not arrived or is held.
    Pending,
    /// It has been settled.
    Settled,
    /// It was given back.
    Failed,
}

/// What the node tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// Somebody pays an invoice of ours; it waits to be settled or failed.
    Held {
        /// The payment's hash.
        payment_hash: Hash32,
        /// What is there, millisatoshi.
        amount_msat: u64,
        /// At this block the node gives it back; it cannot be settled any more.
        deadline: u32,
    },
    /// A held payment has been settled.
    Settled {
        /// The payment's hash.
        payment_hash: Hash32,
    },
    /// A payment of ours has arrived.
    Paid {
        /// The payment's hash.
        payment_hash: Hash32,
        /// Of that hash.
        preimage: Hash32,
        /// What others on the way took, millisatoshi.
        fee_msat: u64,
    },
    /// A payment of ours came to nothing, and nothing of it is under way.
    NotPaid {
        /// The payment's hash.
        payment_hash: Hash32,
        /// Why.
        reason: String,
    },
    /// Something to be logged.
    Other(String),
}

/// A Lightning node.
///
/// Every call may be made again; a crash at any time must leave the node in a state
/// in which making it again is right. Payments are named by their hash: one in, or
/// one out, never both.
#[async_trait]
pub trait LightningNode: Send + Sync + 'static {
    /// Who and where it is.
    fn info(&self) -> NodeInfo;

    /// What it holds.
    fn balance(&self) -> NodeBalance;

    /// Its channels.
    fn channels(&self) -> Vec<Channel>;

    /// Connects to a peer, and again after each restart.
    ///
    /// # Errors
    /// It is not there, or this is no key or address.
    async fn connect(&self, peer: &str, address: &str) -> Result<(), NodeError>;

    /// Opens a channel; returns its id, before anything is confirmed.
    ///
    /// # Errors
    /// Too little on chain, the peer is away or refuses.
    async fn open_channel(&self, order: &OpenChannel) -> Result<String, NodeError>;

    /// Closes a channel: together with the peer, or `force`d, which takes longer and
    /// costs more.
    ///
    /// # Errors
    /// There is none of this id, or the peer is away.
    async fn close_channel(&self, channel: &str, force: bool) -> Result<(), NodeError>;

    /// A new address of the node's own wallet.
    ///
    /// # Errors
    /// The disk fails.
    async fn address(&self) -> Result<String, NodeError>;

    /// Sends from the node's own wallet: so many satoshi, or all that may be sent.
    /// Returns the transaction's id.
    ///
    /// # Errors
    /// Too little there, or no address of this network.
    async fn send_onchain(
        &self,
        address: &str,
        amount_sat: Option<u64>,
        sat_per_vbyte: Option<u64>,
    ) -> Result<String, NodeError>;

    /// An invoice for a hash whose preimage the node does not know: payments of it
    /// are held. To be asked for once for a hash.
    ///
    /// # Errors
    /// The disk fails, or the description is too long.
    async fn invoice(
        &self,
        payment_hash: Hash32,
        amount_msat: u64,
        description: &str,
        expiry_seconds: u32,
    ) -> Result<String, NodeError>;

    /// Settles what is held with the preimage. What is not held any more is left as
    /// it is; [`NodeEvent::Settled`] says that it went well.
    ///
    /// # Errors
    /// The node knows nothing of this hash, or does not run.
    async fn settle(&self, payment_hash: Hash32, preimage: Hash32) -> Result<(), NodeError>;

    /// Gives back what is held. What is not held any more is left as it is.
    ///
    /// # Errors
    /// The node knows nothing of this hash, or does not run.
    async fn fail(&self, payment_hash: Hash32) -> Result<(), NodeError>;

    /// What came of an inbound payment, as far as the node knows; none if there was
    /// no invoice of this hash.
    fn received(&self, payment_hash: Hash32) -> Option<Received>;

    /// Forgets an invoice that nobody has paid and that has ended, or a payment that was
    /// not sent.
    fn forget(&self, payment_hash: Hash32);

    /// Begins a payment; what comes of it are events, and [`LightningNode::sent`].
    ///
    /// # Errors
    /// See [`PayError`]: only [`PayError::NotSent`] says that nothing is under way,
    /// and even that only if no crash came between an earlier call and its record.
    async fn pay(&self, order: &PayOrder) -> Result<(), PayError>;

    /// What came of an outbound payment, as far as the node knows.
    fn sent(&self, payment_hash: Hash32) -> Option<Sent>;

    /// The next event, the same until [`LightningNode::event_handled`]: so what is
    /// made durable in between is never missed.
    async fn next_event(&self) -> NodeEvent;

    /// Whether there is an event that has not been forgotten.
    fn has_event(&self) -> bool;

    /// Forgets the event that was given last.
    ///
    /// # Errors
    /// The disk fails; the event comes again.
    async fn event_handled(&self) -> Result<(), NodeError>;

    /// Ends it; returns when nothing of it runs.
    async fn stop(&self);
}

/// An invoice's contents that a gateway looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    /// The payment's hash.
    pub payment_hash: Hash32,
    /// What it asks for, millisatoshi; none leaves it to the payer.
    pub amount_msat: Option<u64>,
    /// When it ends, seconds since 1970.
    pub expires: u64,
    /// Whose it is, 33 bytes, hexadecimal.
    pub payee: String,
    /// The chain that it is on; none if it is on one that no federation knows.
    pub network: Option<Network>,
}

impl Invoice {
    /// Reads BOLT 11 and checks its signature.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        use ldk_node::lightning_invoice::{Bolt11Invoice, Currency};
        let invoice: Bolt11Invoice = text
            .parse()
            .map_err(|e| format!("this is no invoice of BOLT 11: {e}"))?;
        let hash: &[u8; 32] = invoice.payment_hash().as_ref();
        Ok(Self {
            payment_hash: Hash32(*hash),
            amount_msat: invoice.amount_milli_satoshis(),
            expires: invoice
                .expires_at()
                .map_or(u64::MAX, |since_epoch| since_epoch.as_secs()),
            payee: invoice.get_payee_pub_key().to_string(),
            network: match invoice.currency() {
                Currency::Bitcoin => Some(Network::Bitcoin),
                Currency::BitcoinTestnet => Some(Network::Testnet4),
                Currency::Signet => Some(Network::Signet),
                Currency::Regtest => Some(Network::Regtest),
                Currency::Simnet => None,
            },
        })
    }
}
