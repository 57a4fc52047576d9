//! Payments: out (`pay`), in (`receive`), and what a node tells of both.
//!
//! The module's halves of a payment are operations of the wallet; the node's halves
//! are rows of the journal. Each can be asked for again at any time and finds out
//! where it stands, so a crash needs no handling of its own: a start does what is
//! unfinished once more.

mod pay;
mod receive;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use futures::FutureExt as _;
use modmint_client::{Services, no_such_service};
use modmint_core::{FederationId, Hash32, Refusal, config::Network};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Notify, OwnedMutexGuard, watch};

use crate::{
    federations::Federations,
    journal::{Incoming, IncomingState, Journal, OutgoingState},
    ledger::{Held, Ledger},
    lightning::{LightningNode, NodeEvent, Received},
    now,
};

pub use pay::{PayAnswer, PayRequest};
pub use receive::{InvoiceError, InvoiceOrder, InvoiceState};

/// The code of a refusal that is final: nothing is under way for this contract, and
/// nothing will be.
pub const PAYMENT_FAILED: &str = "payment-failed";
/// A held payment that must be given back in fewer blocks than this is not bought.
pub const CLAIM_MARGIN: u32 = 2;
/// So many blocks a payment through this gateway alone must leave its payer's contract.
pub const SWAP_MARGIN: u32 = 10;
/// So many blocks before a contract may be refunded the last HTLC that pays for it ends:
/// what the node's library wants between what a node is paid by and what it pays (LDK's
/// `MIN_CLTV_EXPIRY_DELTA`). The module counts with the same number and says where each
/// block of it comes from. Wallets are asked for contracts that last for so much more than
/// a payment over Lightning may take.
pub const TIMELOCK_MARGIN: u32 = 48;
/// So many blocks behind its last height an HTLC has been resolved on chain: the library
/// reckons with 45, and behind these the payer may have the contract back in any case.
const RESOLVED_BLOCKS: u32 = TIMELOCK_MARGIN;
/// Pauses between tries: first, and at most.
const RETRY: (Duration, Duration) = match cfg!(test) {
    false => (Duration::from_millis(200), Duration::from_secs(30)),
    true => (Duration::from_millis(5), Duration::from_millis(20)),
};
/// How often the node's records are looked at while waiting for its events.
const LOOK: Duration = match cfg!(test) {
    false => Duration::from_secs(1),
    true => Duration::from_millis(10),
};
/// So long after a start the node's library has told its wrapper what it had to tell.
const QUIET: Duration = match cfg!(test) {
    false => Duration::from_secs(2),
    true => Duration::ZERO,
};
/// How often it is looked what is unfinished.
const LOOK_AFTER: Duration = match cfg!(test) {
    false => Duration::from_secs(10),
    true => Duration::from_millis(50),
};
/// How often what there is is counted, beside after each payment.
const COUNT_AFTER: Duration = match cfg!(test) {
    false => Duration::from_secs(10),
    // A test that sees a count sees that of a payment.
    true => Duration::from_secs(3600),
};
/// So long after its end an invoice that nobody has paid is forgotten.
const FORGET_SECONDS: u64 = 24 * 3600;

/// See the module. Cheap to clone, and every clone is the same gateway.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    network: Network,
    node: Arc<dyn LightningNode>,
    journal: Arc<Journal>,
    federations: Arc<dyn Federations>,
    ledger: Ledger,
    /// One at a time for a hash.
    locks: Mutex<HashMap<Hash32, Weak<tokio::sync::Mutex<()>>>>,
    /// Payments out begin one after the other: each counts those before it.
    beginning: tokio::sync::Mutex<()>,
    /// Payments in that somebody is at.
    driven: Mutex<HashSet<Hash32>>,
    changed: watch::Sender<u64>,
    /// A payment is over: what there is is counted.
    over: Notify,
}

impl Gateway {
    /// A gateway of these parts; nothing goes on before [`Self::begin`].
    pub fn new(
        network: Network,
        node: Arc<dyn LightningNode>,
        journal: Arc<Journal>,
        federations: Arc<dyn Federations>,
        ledger: Ledger,
    ) -> Self {
        Self(Arc::new(Inner {
            network,
            node,
            journal,
            federations,
            ledger,
            locks: Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
            driven: Mutex::default(),
            changed: watch::channel(0).0,
            over: Notify::new(),
        }))
    }

    /// The node.
    pub fn node(&self) -> &Arc<dyn LightningNode> {
        &self.0.node
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// The solvency ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// What modules ask this gateway, for as long as it is there.
    pub fn services(&self) -> Arc<dyn Services> {
        Arc::new(Lightning(Arc::downgrade(&self.0)))
    }

    /// Finds out where a former life ended, before modules ask again. To be called once,
    /// before the wallet resumes.
    ///
    /// # Errors
    /// The disk fails.
    pub fn begin(&self) -> anyhow::Result<()> {
        for (hash, row) in self.0.journal.unfinished_outgoing()? {
            // Begun, and the node has no record: it may have come between the two.
            if row.state == (OutgoingState::Started { uncertain: false })
                && self.0.node.sent(hash).is_none()
            {
                let uncertain = OutgoingState::Started { uncertain: true };
                self.0.journal.update_outgoing(hash, uncertain)?;
            }
        }
        Ok(())
    }

    /// Takes the node's events and brings to an end what is unfinished, until it is
    /// dropped. To be run after the wallet has resumed.
    pub async fn run(&self) {
        tokio::join!(self.take_events(), self.look_after(), self.keep_count());
    }

    /// The only one who takes events. What one brings is durable before it is forgotten.
    async fn take_events(&self) {
        let mut pause = RETRY.0;
        loop {
            let event = self.0.node.next_event().await;
            match surviving(self.event(&event)).await {
                Ok(()) => pause = RETRY.0,
                Err(e) => {
                    tracing::error!("the node's event waits: {e:#}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                    continue;
                }
            }
            if let Err(e) = self.0.node.event_handled().await {
                tracing::error!("the node's event comes again: {e}");
                tokio::time::sleep(pause).await;
            }
        }
    }

    async fn event(&self, event: &NodeEvent) -> anyhow::Result<()> {
        let journal = &self.0.journal;
        match event {
            NodeEvent::Held {
                payment_hash,
                amount_msat,
                deadline,
            } => self.held(*payment_hash, *amount_msat, *deadline).await?,
            NodeEvent::Settled { payment_hash } => {
                journal.update_incoming(*payment_hash, |row| settled(&row.state))?;
                self.0.over.notify_one();
            }
            NodeEvent::Paid {
                payment_hash,
                preimage,
                fee_msat,
            } => {
                if journal.outgoing(*payment_hash)?.is_some() {
                    let row = journal.pay_outgoing(*payment_hash, *preimage, *fee_msat)?;
                    if let OutgoingState::Lost { .. } = row.state {
                        tracing::error!(
                            %payment_hash, federation = %row.federation, contract = %row.contract,
                            msat = row.amount_msat.saturating_add(*fee_msat),
                            "what had failed has arrived: it was paid, and its payer has been told to take the money back"
                        );
                        self.0.over.notify_one();
                    }
                } else {
                    tracing::warn!(%payment_hash, "the node paid what this gateway did not ask for");
                }
            }
            NodeEvent::NotPaid {
                payment_hash,
                reason,
            } => {
                if journal.outgoing(*payment_hash)?.is_some() {
                    let row = journal.fail_outgoing(*payment_hash, reason)?;
                    if row.state == OutgoingState::Again {
                        tracing::warn!(%payment_hash, "a try failed, and it is not known which: {reason}");
                    }
                }
            }
            NodeEvent::Other(text) => tracing::info!("the Lightning node: {text}"),
        }
        self.tell();
        Ok(())
    }

    /// What no event and no module begins: what a former life left, and time.
    async fn look_after(&self) {
        loop {
            if let Err(e) = surviving(self.look_once()).await {
                tracing::error!("what is unfinished cannot be looked at: {e:#}");
            }
            tokio::time::sleep(LOOK_AFTER).await;
        }
    }

    async fn look_once(&self) -> anyhow::Result<()> {
        for (hash, row) in self.0.journal.unfinished_incoming()? {
            match row.state {
                IncomingState::Held { .. } | IncomingState::Swap { .. } => self.drive(hash),
                IncomingState::Settling { preimage, deadline } => {
                    self.settle_again(hash, preimage, deadline).await?;
                }
                IncomingState::Failing { .. } => self.give_back(hash).await?,
                _ => {}
            }
        }
        let before = now().saturating_sub(FORGET_SECONDS);
        for hash in self.0.journal.prune(before)? {
            self.0.node.forget(hash);
        }
        Ok(())
    }

    /// Counts what there is after each payment, and now and then.
    async fn keep_count(&self) {
        loop {
            if let Err(e) = surviving(self.check_ledger()).await {
                tracing::error!("what there is cannot be counted: {e:#}");
            }
            let _ = tokio::time::timeout(COUNT_AFTER, self.0.over.notified()).await;
        }
    }

    async fn settle_again(
        &self,
        hash: Hash32,
        preimage: Hash32,
        deadline: u32,
    ) -> anyhow::Result<()> {
        let node = &self.0.node;
        if node.received(hash) == Some(Received::Settled) {
            self.0
                .journal
                .update_incoming(hash, |row| settled(&row.state))?;
        } else if node.info().height > deadline.saturating_add(RESOLVED_BLOCKS) {
            tracing::error!(%hash, "a payment was bought and could not be settled in time");
            let lost = |row: &Incoming| match row.state {
                IncomingState::Settling { preimage, .. } => Some(IncomingState::Lost { preimage }),
                _ => None,
            };
            self.0.journal.update_incoming(hash, lost)?;
            self.0.over.notify_one();
        } else {
            node.settle(hash, preimage).await?;
        }
        self.tell();
        Ok(())
    }

    /// Counts what there is; see [`Ledger::check`].
    ///
    /// # Errors
    /// The disk fails.
    pub async fn check_ledger(&self) -> anyhow::Result<()> {
        let held = Held {
            before: self.0.journal.books()?,
            ecash: self.0.federations.ecash_msat().await,
            node: self.0.node.balance(),
        };
        self.0.ledger.check(&self.0.journal, held)?;
        Ok(())
    }

    fn tell(&self) {
        self.0
            .changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits for something to have changed since `seen`, but not for long.
    async fn changed(seen: &mut watch::Receiver<u64>) {
        // The sender is in the gateway.
        let _ = tokio::time::timeout(LOOK, seen.changed()).await;
    }

    async fn lock(&self, hash: Hash32) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.locks.lock();
            if locks.len() > 1000 {
                locks.retain(|_, lock| lock.strong_count() > 0);
            }
            match locks.get(&hash).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(tokio::sync::Mutex::default());
                    locks.insert(hash, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

/// A panic is a bug; to whoever waits for a payment it is one more error, after which
/// it is tried again.
async fn surviving<T>(what: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // Nothing is left half done in memory: what is true is in the journal, which is
    // written whole or not at all.
    let ended = AssertUnwindSafe(what).catch_unwind().await;
    ended.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow::anyhow!(
            "panicked: {}",
            text.unwrap_or("without a word")
        ))
    })
}

fn settled(state: &IncomingState) -> Option<IncomingState> {
    match state {
        IncomingState::Settling { preimage, .. } | IncomingState::Lost { preimage } => {
            Some(IncomingState::Settled {
                preimage: *preimage,
            })
        }
        _ => None,
    }
}

/// What modules ask for: `lightning.pay`, `lightning.settle`, `lightning.fail`, each
/// JSON in and out.
struct Lightning(Weak<Inner>);

#[derive(serde::Deserialize)]
struct SettleRequest {
    payment_hash: Hash32,
    preimage: Hash32,
}

#[derive(serde::Deserialize)]
struct FailRequest {
    payment_hash: Hash32,
}

/// An answer without contents.
#[derive(Serialize)]
struct Nothing {}

#[async_trait]
impl Services for Lightning {
    async fn serve(
        &self,
        federation: FederationId,
        name: &str,
        request: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let gateway = Gateway(self.0.upgrade().ok_or_else(|| {
            Refusal::new("closed", "the gateway is ending; ask again when it is back")
        })?);
        let served = surviving(async { Ok(gateway.serve(federation, name, request).await) });
        // Not final: the module asks again.
        served
            .await
            .unwrap_or_else(|e| Err(Refusal::new("internal", format!("{e:#}"))))
    }
}

impl Gateway {
    async fn serve(
        &self,
        federation: FederationId,
        name: &str,
        request: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        match name {
            "lightning.pay" => {
                let answer = self.pay(federation, read(request)?).await?;
                write(&answer)
            }
            "lightning.settle" => {
                let SettleRequest {
                    payment_hash,
                    preimage,
                } = read(request)?;
                self.settle(federation, payment_hash, preimage).await?;
                write(&Nothing {})
            }
            "lightning.fail" => {
                let FailRequest { payment_hash } = read(request)?;
                self.fail(federation, payment_hash).await?;
                write(&Nothing {})
            }
            _ => Err(no_such_service(name)),
        }
    }
}

fn read<T: DeserializeOwned>(request: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(request).map_err(|e| {
        Refusal::new(
            "malformed-request",
            format!("the module's request is not what this service takes: {e}"),
        )
    })
}

fn write(answer: &impl Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(answer).map_err(|e| Refusal::new("internal", e.to_string()))
}
