//! The node inside the daemon: `ldk-node` on a bitcoind.
//!
//! Its limits that this file knows: the inbound and the outbound record of a hash are
//! one, so a hash goes one way; an invoice for a given hash must be made once; a
//! payment that was begun just before a crash may be under way without a record.

use std::{path::Path, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use ldk_node::{
    Builder, Event, Node, NodeError as LdkError, UserChannelId,
    bitcoin::{Address, FeeRate, secp256k1::PublicKey},
    config::{Config, default_config},
    lightning::{
        ln::{channelmanager::PaymentId, msgs::SocketAddress},
        routing::router::RouteParametersConfig,
    },
    lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description},
    lightning_types::payment::{PaymentHash, PaymentPreimage},
    logger::{LogLevel, LogRecord, LogWriter},
    payment::{PaymentDirection, PaymentKind, PaymentStatus},
};
use modmint_core::{Hash32, config::Network};
use zeroize::Zeroizing;

use super::{
    Channel, LightningNode, NodeBalance, NodeError, NodeEvent, NodeInfo, OpenChannel, PayError,
    PayOrder, Received, Sent,
};

/// What bitcoind is reached by.
#[derive(Clone, Debug)]
pub struct BitcoindRpc {
    /// A host's name or address.
    pub host: String,
    /// The RPC's port.
    pub port: u16,
    /// The user, `__cookie__` where there is a cookie.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

/// How the node is to be.
#[derive(Clone, Debug)]
pub struct LdkSetup<'a> {
    /// Where it keeps everything: one node, one folder, never a copy of an older one.
    pub folder: &'a Path,
    /// What its keys come from.
    pub seed: &'a [u8; 64],
    /// The chain.
    pub network: Network,
    /// At most 32 bytes.
    pub alias: &'a str,
    /// Where it listens to peers, `host:port`; announced to them too.
    pub listen: &'a [String],
    /// Its view of the chain.
    pub bitcoind: BitcoindRpc,
}

/// How often it is looked whether the node has caught up with the chain.
const CATCH_UP: Duration = Duration::from_millis(100);

/// See the module.
pub struct LdkNode {
    node: Arc<Node>,
    alias: String,
    network: Network,
}

impl LdkNode {
    /// Starts the node on the multi-threaded tokio runtime that this is called in;
    /// returns when it has caught up with the chain.
    ///
    /// # Errors
    /// The folder cannot be used, bitcoind does not answer, an address is none.
    pub async fn start(setup: LdkSetup<'_>) -> anyhow::Result<Self> {
        let listen = setup
            .listen
            .iter()
            .map(|address| {
                SocketAddress::from_str(address).map_err(|_| {
                    anyhow::anyhow!("{address:?} is no address; HOST:PORT is expected")
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        std::fs::create_dir_all(setup.folder)?;
        let config = Config {
            // The default lies in the folder of temporary files.
            storage_dir_path: setup.folder.display().to_string(),
            network: match setup.network {
                Network::Bitcoin => ldk_node::bitcoin::Network::Bitcoin,
                Network::Testnet4 => ldk_node::bitcoin::Network::Testnet4,
                Network::Signet => ldk_node::bitcoin::Network::Signet,
                Network::Regtest => ldk_node::bitcoin::Network::Regtest,
            },
            listening_addresses: (!listen.is_empty()).then_some(listen),
            ..default_config()
        };
        let mut builder = Builder::from_config(config);
        builder
            .set_node_alias(setup.alias.to_owned())
            .map_err(|e| anyhow::anyhow!("the alias {:?} cannot be used: {e}", setup.alias))?
            .set_entropy_seed_bytes(*setup.seed)
            .set_chain_source_bitcoind_rpc(
                setup.bitcoind.host,
                setup.bitcoind.port,
                setup.bitcoind.user,
                setup.bitcoind.password.to_string(),
            )
            .set_runtime(tokio::runtime::Handle::current())
            .set_custom_logger(Arc::new(Tracing));
        let started = crate::now();
        // Both block on the chain source.
        let node = tokio::task::spawn_blocking(move || {
            let node = builder.build()?;
            node.start()
                .map_err(|e| anyhow::anyhow!("the Lightning node does not start: {e}"))?;
            Ok::<_, anyhow::Error>(node)
        })
        .await??;
        // Until it has caught up its height is that of a former life, and whatever must
        // happen by a height seems to have more time than it has.
        tracing::info!("the node catches up with the chain; while bitcoind is silent it waits");
        while node.status().latest_lightning_wallet_sync_timestamp <= Some(started) {
            tokio::time::sleep(CATCH_UP).await;
        }
        Ok(Self {
            node: Arc::new(node),
            alias: setup.alias.to_owned(),
            network: setup.network,
        })
    }

    /// A call that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        let node = self.node.clone();
        tokio::task::spawn_blocking(move || call(&node))
            .await
            .map_err(|e| NodeError::Trouble(format!("the Lightning node's call broke: {e}")))
    }
}

/// The node's log, in ours.
struct Tracing;

impl LogWriter for Tracing {
    fn log(&self, record: LogRecord<'_>) {
        let (module, line, text) = (record.module_path, record.line, record.args);
        match record.level {
            LogLevel::Gossip | LogLevel::Trace => {
                tracing::trace!(target: "ldk", %module, line, "{text}");
            }
            LogLevel::Debug => tracing::debug!(target: "ldk", %module, line, "{text}"),
            LogLevel::Info => tracing::info!(target: "ldk", %module, line, "{text}"),
            LogLevel::Warn => tracing::warn!(target: "ldk", %module, line, "{text}"),
            LogLevel::Error => tracing::error!(target: "ldk", %module, line, "{text}"),
        }
    }
}

fn trouble(what: &str) -> impl Fn(LdkError) -> NodeError + '_ {
    move |error| match error {
        LdkError::NotRunning
        | LdkError::PersistenceFailed
        | LdkError::WalletOperationFailed
        | LdkError::WalletOperationTimeout => NodeError::Trouble(format!("{what}: {error}")),
        error => NodeError::Refused(format!("{what}: {error}")),
    }
}

fn key(text: &str) -> Result<PublicKey, NodeError> {
    text.parse().map_err(|_| {
        NodeError::Refused(format!(
            "{text:?} is no node's key; 66 hexadecimal digits are expected"
        ))
    })
}

fn socket(text: &str) -> Result<SocketAddress, NodeError> {
    SocketAddress::from_str(text)
        .map_err(|_| NodeError::Refused(format!("{text:?} is no address; HOST:PORT is expected")))
}

fn channel_id(id: UserChannelId) -> String {
    format!("{:032x}", id.0)
}

#[async_trait]
impl LightningNode for LdkNode {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            node_key: self.node.node_id().to_string(),
            alias: self.alias.clone(),
            network: self.network.name().to_owned(),
            height: self.node.status().current_best_block.height,
            addresses: self
                .node
                .listening_addresses()
                .unwrap_or_default()
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }

    fn balance(&self) -> NodeBalance {
        let balances = self.node.list_balances();
        let channels = self.node.list_channels();
        let usable = channels.iter().filter(|channel| channel.is_usable);
        // What is swept from closed channels is in neither of the other sums.
        let sweeping: u64 = balances
            .pending_balances_from_channel_closures
            .iter()
            .map(swept_sat)
            .sum();
        NodeBalance {
            onchain_sat: balances.total_onchain_balance_sats,
            onchain_spendable_sat: balances.spendable_onchain_balance_sats,
            lightning_sat: balances.total_lightning_balance_sats + sweeping,
            outbound_msat: usable.clone().map(|c| c.outbound_capacity_msat).sum(),
            inbound_msat: usable.map(|c| c.inbound_capacity_msat).sum(),
        }
    }

    fn channels(&self) -> Vec<Channel> {
        let channels = self.node.list_channels().into_iter();
        channels
            .map(|channel| Channel {
                id: channel_id(channel.user_channel_id),
                peer: channel.counterparty_node_id.to_string(),
                capacity_sat: channel.channel_value_sats,
                outbound_msat: channel.outbound_capacity_msat,
                inbound_msat: channel.inbound_capacity_msat,
                ready: channel.is_channel_ready,
                usable: channel.is_usable,
                announced: channel.is_announced,
                funding: channel.funding_txo.map(|out| out.to_string()),
            })
            .collect()
    }

    async fn connect(&self, peer: &str, address: &str) -> Result<(), NodeError> {
        let (peer, address) = (key(peer)?, socket(address)?);
        self.blocking(move |node| node.connect(peer, address, true))
            .await?
            .map_err(trouble("connecting"))
    }

    async fn open_channel(&self, order: &OpenChannel) -> Result<String, NodeError> {
        let (peer, address) = (key(&order.peer)?, socket(&order.address)?);
        let OpenChannel {
            capacity_sat,
            push_msat,
            announced,
            ..
        } = *order;
        let push = (push_msat > 0).then_some(push_msat);
        self.blocking(move |node| match announced {
            true => node.open_announced_channel(peer, address, capacity_sat, push, None),
            false => node.open_channel(peer, address, capacity_sat, push, None),
        })
        .await?
        .map(channel_id)
        .map_err(trouble("opening a channel"))
    }

    async fn close_channel(&self, channel: &str, force: bool) -> Result<(), NodeError> {
        let known = self.node.list_channels();
        let found = known
            .iter()
            .find(|known| channel_id(known.user_channel_id) == channel)
            .ok_or_else(|| NodeError::Refused(format!("there is no channel {channel:?}")))?;
        let (id, peer) = (found.user_channel_id, found.counterparty_node_id);
        self.blocking(move |node| match force {
            true => node.force_close_channel(&id, peer, None),
            false => node.close_channel(&id, peer),
        })
        .await?
        .map_err(trouble("closing a channel"))
    }

    async fn address(&self) -> Result<String, NodeError> {
        self.blocking(|node| node.onchain_payment().new_address())
            .await?
            .map(|address| address.to_string())
            .map_err(trouble("making an address"))
    }

    async fn send_onchain(
        &self,
        address: &str,
        amount_sat: Option<u64>,
        sat_per_vbyte: Option<u64>,
    ) -> Result<String, NodeError> {
        let network = self.node.config().network;
        let refused =
            |e: String| NodeError::Refused(format!("{address:?} is no address of {network}: {e}"));
        let address = Address::from_str(address)
            .map_err(|e| refused(e.to_string()))?
            .require_network(network)
            .map_err(|e| refused(e.to_string()))?;
        let rate = sat_per_vbyte
            .map(|rate| {
                FeeRate::from_sat_per_vb(rate).ok_or_else(|| {
                    NodeError::Refused(format!("{rate} satoshi a virtual byte are too many"))
                })
            })
            .transpose()?;
        self.blocking(move |node| match amount_sat {
            Some(amount) => node
                .onchain_payment()
                .send_to_address(&address, amount, rate),
            None => node
                .onchain_payment()
                .send_all_to_address(&address, true, rate),
        })
        .await?
        .map(|txid| txid.to_string())
        .map_err(trouble("sending on chain"))
    }

    async fn invoice(
        &self,
        payment_hash: Hash32,
        amount_msat: u64,
        description: &str,
        expiry_seconds: u32,
    ) -> Result<String, NodeError> {
        let description = Description::new(description.to_owned())
            .map_err(|e| NodeError::Refused(format!("the description is refused: {e}")))?;
        self.blocking(move |node| {
            node.bolt11_payment().receive_for_hash(
                amount_msat,
                &Bolt11InvoiceDescription::Direct(description),
                expiry_seconds,
                PaymentHash(payment_hash.0),
            )
        })
        .await?
        .map(|invoice| invoice.to_string())
        .map_err(trouble("making an invoice"))
    }

    async fn settle(&self, payment_hash: Hash32, preimage: Hash32) -> Result<(), NodeError> {
        self.blocking(move |node| {
            node.bolt11_payment().claim_for_hash(
                PaymentHash(payment_hash.0),
                // Its own check is against the invoice: the event's amount was checked.
                u64::MAX,
                PaymentPreimage(preimage.0),
            )
        })
        .await?
        .map_err(trouble("settling"))
    }

    async fn fail(&self, payment_hash: Hash32) -> Result<(), NodeError> {
        self.blocking(move |node| {
            node.bolt11_payment()
                .fail_for_hash(PaymentHash(payment_hash.0))
        })
        .await?
        .map_err(trouble("failing"))
    }

    fn received(&self, payment_hash: Hash32) -> Option<Received> {
        let details = self.node.payment(&PaymentId(payment_hash.0))?;
        (details.direction == PaymentDirection::Inbound).then_some(match details.status {
            PaymentStatus::Pending => Received::Pending,
            PaymentStatus::Succeeded => Received::Settled,
            PaymentStatus::Failed => Received::Failed,
        })
    }

    fn forget(&self, payment_hash: Hash32) {
        if let Err(e) = self.node.remove_payment(&PaymentId(payment_hash.0)) {
            tracing::warn!("{payment_hash} stays in the node's records: {e}");
        }
    }

    async fn pay(&self, order: &PayOrder) -> Result<(), PayError> {
        let invoice: Bolt11Invoice = order
            .invoice
            .parse()
            .map_err(|e| PayError::NotSent(format!("this is no invoice of BOLT 11: {e}")))?;
        // An HTLC's expiry is counted from the block after the best one.
        let next = self.node.status().current_best_block.height + 1;
        let limits = RouteParametersConfig {
            max_total_routing_fee_msat: Some(order.maximum_fee_msat),
            max_total_cltv_expiry_delta: order.latest_height.saturating_sub(next),
            ..RouteParametersConfig::default()
        };
        let sent = self
            .blocking(move |node| node.bolt11_payment().send(&invoice, Some(limits)))
            .await
            .map_err(|e| PayError::Trouble(e.to_string()))?;
        match sent {
            Ok(_) => Ok(()),
            Err(LdkError::DuplicatePayment) => Err(PayError::Known),
            Err(e @ (LdkError::PaymentSendingFailed | LdkError::InvalidInvoice)) => Err(
                PayError::NotSent(format!("no route within the limits was found: {e}")),
            ),
            Err(e) => Err(PayError::Trouble(e.to_string())),
        }
    }

    fn sent(&self, payment_hash: Hash32) -> Option<Sent> {
        let details = self.node.payment(&PaymentId(payment_hash.0))?;
        if details.direction != PaymentDirection::Outbound {
            return None;
        }
        Some(match (details.status, details.kind) {
            (
                PaymentStatus::Succeeded,
                PaymentKind::Bolt11 {
                    preimage: Some(preimage),
                    ..
                },
            ) => Sent::Paid {
                preimage: Hash32(preimage.0),
                fee_msat: details.fee_paid_msat.unwrap_or(0),
            },
            (PaymentStatus::Failed, _) => Sent::Failed,
            _ => Sent::Pending,
        })
    }

    async fn next_event(&self) -> NodeEvent {
        match self.node.next_event_async().await {
            Event::PaymentClaimable {
                payment_hash,
                claimable_amount_msat,
                claim_deadline,
                ..
            } => NodeEvent::Held {
                payment_hash: Hash32(payment_hash.0),
                amount_msat: claimable_amount_msat,
                // None only for what older versions than ours have stored.
                deadline: claim_deadline.unwrap_or(0),
            },
            Event::PaymentReceived { payment_hash, .. } => NodeEvent::Settled {
                payment_hash: Hash32(payment_hash.0),
            },
            Event::PaymentSuccessful {
                payment_hash,
                payment_preimage: Some(preimage),
                fee_paid_msat,
                ..
            } => NodeEvent::Paid {
                payment_hash: Hash32(payment_hash.0),
                preimage: Hash32(preimage.0),
                fee_msat: fee_paid_msat.unwrap_or(0),
            },
            Event::PaymentFailed {
                payment_hash: Some(payment_hash),
                reason,
                ..
            } => NodeEvent::NotPaid {
                payment_hash: Hash32(payment_hash.0),
                reason: reason.map_or_else(
                    || "the payment failed".to_owned(),
                    |reason| format!("the payment failed: {reason:?}"),
                ),
            },
            other => NodeEvent::Other(format!("{other:?}")),
        }
    }

    fn has_event(&self) -> bool {
        self.node.next_event().is_some()
    }

    async fn event_handled(&self) -> Result<(), NodeError> {
        self.blocking(Node::event_handled)
            .await?
            .map_err(trouble("forgetting an event"))
    }

    async fn stop(&self) {
        let stopped = self.blocking(Node::stop).await;
        if let Ok(Err(e)) | Err(NodeError::Trouble(e)) =
            stopped.map(|stopped| stopped.map_err(|e| e.to_string()))
        {
            tracing::warn!("the Lightning node did not stop cleanly: {e}");
        }
    }
}

fn swept_sat(pending: &ldk_node::PendingSweepBalance) -> u64 {
    use ldk_node::PendingSweepBalance as Sweep;
    match pending {
        Sweep::PendingBroadcast {
            amount_satoshis, ..
        }
        | Sweep::BroadcastAwaitingConfirmation {
            amount_satoshis, ..
        } => *amount_satoshis,
        // Confirmed: the on-chain wallet counts it.
        Sweep::AwaitingThresholdConfirmations { .. } => 0,
    }
}
