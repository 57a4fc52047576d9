//! A node that does what a real one cannot be made to do.

#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use async_trait::async_trait;
use ldk_node::{
    bitcoin::{
        hashes::{Hash as _, sha256},
        secp256k1::{Secp256k1, SecretKey},
    },
    lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret},
};
use modmint_core::Hash32;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Channel, LightningNode, NodeBalance, NodeError, NodeEvent, NodeInfo, OpenChannel, PayError,
    PayOrder, Received, Sent,
};

/// What becomes of a payment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// It arrives.
    Arrives(Hash32),
    /// It comes back.
    Comes,
    /// It stays under way.
    Stays,
    /// There is no route.
    NoRoute,
    /// It is under way, the node has no record, and whoever asked never hears.
    Vanishes,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) height: u32,
    pub(crate) fates: HashMap<Hash32, Fate>,
    pub(crate) sent: HashMap<Hash32, Sent>,
    pub(crate) received: HashMap<Hash32, Received>,
    /// How often something really left for this hash.
    pub(crate) left: HashMap<Hash32, u32>,
    /// What the library knows as under way, with a record or without one.
    pub(crate) known: HashSet<Hash32>,
    /// What is in channels, satoshi.
    pub(crate) lightning_sat: u64,
    pub(crate) settled: HashMap<Hash32, Hash32>,
    pub(crate) failed: Vec<Hash32>,
    pub(crate) events: VecDeque<NodeEvent>,
}

#[derive(Default)]
pub(crate) struct FakeNode {
    pub(crate) state: Mutex<State>,
    told: Notify,
}

/// An invoice of somebody's.
pub(crate) fn invoice_of(
    key: u8,
    hash: Hash32,
    amount_msat: Option<u64>,
    expiry_seconds: u64,
) -> String {
    let key = SecretKey::from_slice(&[key; 32]).unwrap();
    let builder = InvoiceBuilder::new(Currency::Regtest)
        .description("test".into())
        .payment_hash(sha256::Hash::from_byte_array(hash.0))
        .payment_secret(PaymentSecret([1; 32]))
        .current_timestamp()
        .expiry_time(Duration::from_secs(expiry_seconds))
        .min_final_cltv_expiry_delta(18);
    let sign = |digest: &_| Secp256k1::new().sign_ecdsa_recoverable(digest, &key);
    let signed = match amount_msat {
        Some(amount) => builder.amount_milli_satoshis(amount).build_signed(sign),
        None => builder.build_signed(sign),
    };
    signed.unwrap().to_string()
}

impl FakeNode {
    pub(crate) fn at(height: u32) -> Self {
        let node = Self::default();
        node.state.lock().height = height;
        node
    }

    pub(crate) fn tell(&self, event: NodeEvent) {
        self.state.lock().events.push_back(event);
        self.told.notify_one();
    }

    /// What vanished, or stayed, arrives after all.
    pub(crate) fn arrives(&self, payment_hash: Hash32, preimage: Hash32) {
        let paid = Sent::Paid {
            preimage,
            fee_msat: 3,
        };
        {
            let mut state = self.state.lock();
            state.known.remove(&payment_hash);
            // Without a record there is nothing to change.
            if let Some(sent) = state.sent.get_mut(&payment_hash) {
                *sent = paid;
            }
        }
        self.tell(NodeEvent::Paid {
            payment_hash,
            preimage,
            fee_msat: 3,
        });
    }

    /// What vanished, or stayed, comes back: as the real one, the library forgets at once
    /// that there was something of this hash, and tells of it later.
    pub(crate) fn comes_back(&self, payment_hash: Hash32) {
        let mut state = self.state.lock();
        state.known.remove(&payment_hash);
        if let Some(sent) = state.sent.get_mut(&payment_hash) {
            *sent = Sent::Failed;
        }
    }

    /// The library tells that something of this hash came back.
    pub(crate) fn tells_of_failure(&self, payment_hash: Hash32) {
        self.tell(NodeEvent::NotPaid {
            payment_hash,
            reason: "it came back".into(),
        });
    }
}

#[async_trait]
impl LightningNode for FakeNode {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            node_key: "02".repeat(33),
            alias: "fake".into(),
            network: "regtest".into(),
            height: self.state.lock().height,
            addresses: Vec::new(),
        }
    }

    fn balance(&self) -> NodeBalance {
        NodeBalance {
            lightning_sat: self.state.lock().lightning_sat,
            ..NodeBalance::default()
        }
    }

    fn channels(&self) -> Vec<Channel> {
        Vec::new()
    }

    async fn connect(&self, _: &str, _: &str) -> Result<(), NodeError> {
        Ok(())
    }

    async fn open_channel(&self, _: &OpenChannel) -> Result<String, NodeError> {
        Err(NodeError::Refused("a fake has no channels".into()))
    }

    async fn close_channel(&self, _: &str, _: bool) -> Result<(), NodeError> {
        Err(NodeError::Refused("a fake has no channels".into()))
    }

    async fn address(&self) -> Result<String, NodeError> {
        Err(NodeError::Refused("a fake has no coins".into()))
    }

    async fn send_onchain(
        &self,
        _: &str,
        _: Option<u64>,
        _: Option<u64>,
    ) -> Result<String, NodeError> {
        Err(NodeError::Refused("a fake has no coins".into()))
    }

    async fn invoice(
        &self,
        payment_hash: Hash32,
        amount_msat: u64,
        _: &str,
        expiry_seconds: u32,
    ) -> Result<String, NodeError> {
        let mut state = self.state.lock();
        state.received.insert(payment_hash, Received::Pending);
        Ok(invoice_of(
            1,
            payment_hash,
            Some(amount_msat),
            expiry_seconds.into(),
        ))
    }

    async fn settle(&self, payment_hash: Hash32, preimage: Hash32) -> Result<(), NodeError> {
        let mut state = self.state.lock();
        if state.settled.insert(payment_hash, preimage).is_none() {
            state.received.insert(payment_hash, Received::Settled);
            state.events.push_back(NodeEvent::Settled { payment_hash });
            self.told.notify_one();
        }
        Ok(())
    }

    async fn fail(&self, payment_hash: Hash32) -> Result<(), NodeError> {
        self.state.lock().failed.push(payment_hash);
        Ok(())
    }

    fn received(&self, payment_hash: Hash32) -> Option<Received> {
        self.state.lock().received.get(&payment_hash).copied()
    }

    fn forget(&self, payment_hash: Hash32) {
        let mut state = self.state.lock();
        state.received.remove(&payment_hash);
        state.sent.remove(&payment_hash);
    }

    async fn pay(&self, order: &PayOrder) -> Result<(), PayError> {
        let hash = super::Invoice::parse(&order.invoice).unwrap().payment_hash;
        let fate = {
            let mut state = self.state.lock();
            let fate = state.fates.get(&hash).copied().unwrap_or(Fate::Stays);
            if let Fate::NoRoute = fate {
                // As the real one: the route is looked for first.
                state.sent.insert(hash, Sent::Failed);
                return Err(PayError::NotSent("no route".into()));
            }
            let recorded = match state.sent.get(&hash) {
                None | Some(Sent::Failed) => false,
                Some(Sent::Pending | Sent::Paid { .. }) => true,
            };
            if recorded || !state.known.insert(hash) {
                return Err(PayError::Known);
            }
            *state.left.entry(hash).or_default() += 1;
            if !matches!(fate, Fate::Vanishes) {
                state.sent.insert(hash, Sent::Pending);
            }
            fate
        };
        match fate {
            Fate::Arrives(preimage) => self.arrives(hash, preimage),
            Fate::Comes => {
                self.comes_back(hash);
                self.tells_of_failure(hash);
            }
            Fate::Vanishes => std::future::pending::<()>().await,
            _ => {}
        }
        Ok(())
    }

    fn sent(&self, payment_hash: Hash32) -> Option<Sent> {
        self.state.lock().sent.get(&payment_hash).copied()
    }

    async fn next_event(&self) -> NodeEvent {
        loop {
            if let Some(event) = self.state.lock().events.front() {
                return event.clone();
            }
            self.told.notified().await;
        }
    }

    fn has_event(&self) -> bool {
        !self.state.lock().events.is_empty()
    }

    async fn event_handled(&self) -> Result<(), NodeError> {
        self.state.lock().events.pop_front();
        Ok(())
    }

    async fn stop(&self) {}
}
