//! Invoices for federations' users, and what is done with what is paid to them.
//!
//! A payment in is held by the node, or promised by another payment through this
//! gateway. The module buys the preimage with e-cash, and then asks for
//! `lightning.settle`; or it cannot, and asks for `lightning.fail`.

use modmint_core::{Amount, FederationId, Hash32, Refusal, sha256};
use serde::{Deserialize, Serialize};

use super::{CLAIM_MARGIN, Gateway, RETRY, surviving};
use crate::{
    federations::{BeginError, ReceiveOrder},
    journal::{Incoming, IncomingState},
    lightning::{Invoice, NodeError},
    now,
};

/// An invoice lives at least and at most so long, seconds.
const EXPIRY_SECONDS: (u32, u32) = (60, 24 * 3600);
/// The longest description of an invoice, bytes: BOLT 11.
const MAX_DESCRIPTION_BYTES: usize = 639;
/// So many invoices wait to be paid at most.
const MOST_WAITING: usize = if cfg!(test) { 50 } else { 20_000 };
/// From so many on a new invoice lives for [`CROWDED_SECONDS`] at most, whatever was asked
/// for: at two a second, which is what one client may ask for unless the operator says
/// otherwise, it holds 1200 places then, and never all of them.
const CROWDED: usize = MOST_WAITING / 2;
const CROWDED_SECONDS: u32 = 600;
/// The longest offer, bytes.
const MAX_OFFER_BYTES: usize = 8 << 10;

/// What a wallet asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoiceOrder {
    /// The wallet's federation.
    pub federation: FederationId,
    /// What the invoice is for; the preimage is in the offer, encrypted.
    pub payment_hash: Hash32,
    /// What the module knows of it.
    pub offer: Vec<u8>,
    /// What the payer is to pay, millisatoshi.
    pub amount_msat: u64,
    /// What the offer asks of the gateway, millisatoshi.
    pub contract_msat: u64,
    /// For the payer.
    pub description: String,
    /// From now.
    pub expiry_seconds: u32,
}

/// Why there is no invoice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvoiceError {
    /// The order makes no sense, or asks for what this gateway does not do.
    #[error("{0}")]
    Refused(Refusal),
    /// Not now.
    #[error("{0}")]
    Unavailable(Refusal),
    /// A cause of this machine's.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// How an invoice stands, for whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InvoiceState {
    /// Nobody has paid it.
    Waiting,
    /// Somebody pays, and the federation is about to.
    Held,
    /// The user has been paid.
    Settled,
    /// It was given back.
    Failed,
    /// It has ended.
    Expired,
}

fn refused(code: &str, message: impl Into<String>) -> InvoiceError {
    InvoiceError::Refused(Refusal::new(code, message))
}

impl Gateway {
    /// An invoice for an offer; the same again for the same order.
    ///
    /// # Errors
    /// See [`InvoiceError`].
    pub async fn invoice(&self, mut order: InvoiceOrder) -> Result<String, InvoiceError> {
        let journal = &self.0.journal;
        let hash = order.payment_hash;
        let _one = self.lock(hash).await;
        if let Some(reason) = self.0.ledger.halted_in(journal, &order.federation)? {
            let refusal = Refusal::new("gateway-halted", reason);
            return Err(InvoiceError::Unavailable(refusal));
        }
        let membership = journal.membership(&order.federation)?;
        let Some(membership) = membership.filter(|membership| membership.active) else {
            return Err(refused(
                "unknown-federation",
                format!(
                    "this gateway does not serve federation {}",
                    order.federation
                ),
            ));
        };
        self.check(&order, &membership.terms).await?;
        if let Some(row) = journal.incoming(hash)?.filter(|row| {
            row.federation == order.federation
                && row.offer == order.offer
                && row.amount_msat == order.amount_msat
                && row.contract_msat == order.contract_msat
                && row.state == IncomingState::Waiting
        }) {
            return match row.invoice.is_empty() {
                false => Ok(row.invoice),
                true => self.make(&order).await,
            };
        }
        let waiting = journal.waiting(now(), MOST_WAITING)?;
        if waiting >= CROWDED {
            order.expiry_seconds = order.expiry_seconds.min(CROWDED_SECONDS);
        }
        if waiting == MOST_WAITING {
            return Err(InvoiceError::Unavailable(Refusal::new(
                "too-many-invoices",
                format!(
                    "{MOST_WAITING} invoices of this gateway wait to be paid, which is the most; some end soon"
                ),
            )));
        }
        let row = Incoming {
            number: None,
            federation: order.federation,
            invoice: String::new(),
            amount_msat: order.amount_msat,
            contract_msat: order.contract_msat,
            offer: order.offer.clone(),
            expires: now() + u64::from(order.expiry_seconds),
            swap: false,
            created: now(),
            updated: now(),
            state: IncomingState::Waiting,
        };
        let known = self.0.node.received(hash).is_some() || self.0.node.sent(hash).is_some();
        if known || !journal.begin_incoming(hash, &row)? {
            return Err(refused(
                "hash-used",
                "this gateway has seen this payment hash; each invoice needs a new one",
            ));
        }
        self.make(&order).await
    }

    async fn check(
        &self,
        order: &InvoiceOrder,
        terms: &crate::journal::Terms,
    ) -> Result<(), InvoiceError> {
        let (least, most) = EXPIRY_SECONDS;
        if !(least..=most).contains(&order.expiry_seconds) {
            return Err(refused(
                "bad-expiry",
                format!(
                    "expiry_seconds is {}; from {least} to {most} is accepted",
                    order.expiry_seconds
                ),
            ));
        }
        if order.description.len() > MAX_DESCRIPTION_BYTES {
            return Err(refused(
                "description-too-long",
                format!(
                    "the description has {} bytes; up to {MAX_DESCRIPTION_BYTES} are accepted",
                    order.description.len()
                ),
            ));
        }
        if order.offer.is_empty() || order.offer.len() > MAX_OFFER_BYTES {
            return Err(refused(
                "bad-offer",
                format!(
                    "the offer has {} bytes; from 1 to {MAX_OFFER_BYTES} are accepted",
                    order.offer.len()
                ),
            ));
        }
        let fee = terms.receive_fee(order.contract_msat);
        let least = order.contract_msat.saturating_add(fee);
        if order.contract_msat == 0 || order.amount_msat < least {
            return Err(refused(
                "amount-too-small",
                format!(
                    "the invoice is for {} msat; for a contract of {} msat, more than 0, at least {least} msat are needed, {fee} of them this gateway's fee",
                    order.amount_msat, order.contract_msat
                ),
            ));
        }
        if order.amount_msat > terms.maximum_invoice_msat {
            return Err(refused(
                "amount-too-large",
                format!(
                    "the invoice is for {} msat; up to {} are accepted",
                    order.amount_msat, terms.maximum_invoice_msat
                ),
            ));
        }
        let balance = self.0.federations.balance_msat(&order.federation).await?;
        if balance < order.contract_msat {
            return Err(InvoiceError::Unavailable(Refusal::new(
                "gateway-short-of-ecash",
                format!(
                    "this gateway has not enough of the federation's e-cash to pay {} msat on; a smaller amount or another gateway may do",
                    order.contract_msat
                ),
            )));
        }
        Ok(())
    }

    /// The invoice of an order whose row is written.
    async fn make(&self, order: &InvoiceOrder) -> Result<String, InvoiceError> {
        let made = self.0.node.invoice(
            order.payment_hash,
            order.amount_msat,
            &order.description,
            order.expiry_seconds,
        );
        let text = made.await.map_err(|e| match e {
            NodeError::Refused(reason) => refused("bad-invoice", reason),
            NodeError::Trouble(reason) => InvoiceError::Failed(anyhow::anyhow!(reason)),
        })?;
        let invoice = Invoice::parse(&text).map_err(|e| anyhow::anyhow!(e))?;
        self.0
            .journal
            .put_invoice(order.payment_hash, &text, invoice.expires)?;
        Ok(text)
    }

    /// How an invoice of this gateway's stands; none if there is none of this hash.
    ///
    /// # Errors
    /// The disk fails.
    pub fn invoice_state(&self, hash: Hash32) -> anyhow::Result<Option<InvoiceState>> {
        let row = self.0.journal.incoming(hash)?;
        Ok(row.map(|row| match row.state {
            IncomingState::Waiting if row.expires <= now() => InvoiceState::Expired,
            IncomingState::Waiting => InvoiceState::Waiting,
            IncomingState::Held { .. } | IncomingState::Swap { .. } => InvoiceState::Held,
            IncomingState::Settling { .. }
            | IncomingState::Settled { .. }
            | IncomingState::Lost { .. } => InvoiceState::Settled,
            IncomingState::Failing { .. } | IncomingState::Failed { .. } => InvoiceState::Failed,
        }))
    }

    /// The node holds a payment: the first of an invoice is taken, any other goes back.
    pub(super) async fn held(
        &self,
        hash: Hash32,
        received_msat: u64,
        deadline: u32,
    ) -> anyhow::Result<()> {
        let journal = &self.0.journal;
        let served = match journal.incoming(hash)? {
            Some(row) => journal.membership(&row.federation)?,
            None => None,
        };
        // What comes for a federation that was left goes back.
        let served = served.is_some_and(|served| served.active);
        let row = journal.update_incoming(hash, |row| match row.state {
            IncomingState::Waiting if served => Some(IncomingState::Held {
                received_msat,
                deadline,
            }),
            _ => None,
        })?;
        match row.map(|row| row.state) {
            Some(IncomingState::Held { .. }) => self.drive(hash),
            // The same that is being settled, told again after a crash.
            Some(IncomingState::Settling { .. } | IncomingState::Settled { .. }) => {}
            _ => self.0.node.fail(hash).await?,
        }
        Ok(())
    }

    /// Has the federation buy the preimage, unless somebody is at it.
    pub(super) fn drive(&self, hash: Hash32) {
        if !self.0.driven.lock().insert(hash) {
            return;
        }
        let gateway = self.clone();
        tokio::spawn(async move {
            let mut pause = RETRY.0;
            while let Err(e) = surviving(gateway.buy(hash)).await {
                tracing::error!(%hash, "cannot go on now: {e:#}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
            gateway.0.driven.lock().remove(&hash);
            gateway.tell();
        });
    }

    /// An error is a cause of this machine's, or of guardians that are away: it is tried
    /// again, and until the module has begun nothing is lost by giving up.
    async fn buy(&self, hash: Hash32) -> anyhow::Result<()> {
        let (journal, federations) = (&self.0.journal, &self.0.federations);
        let Some(row) = journal.incoming(hash)? else {
            return Ok(());
        };
        let (received_msat, deadline) = match row.state {
            IncomingState::Held {
                received_msat,
                deadline,
            }
            | IncomingState::Swap {
                received_msat,
                deadline,
                ..
            } => (received_msat, deadline),
            _ => return Ok(()),
        };
        // Of what is there, and not of what the invoice's orderer said that the offer asks:
        // only the module can read that.
        let minimum_fee = match journal.membership(&row.federation)? {
            Some(membership) => received_msat - membership.terms.largest_contract(received_msat),
            None => 0,
        };
        let order = ReceiveOrder {
            federation: row.federation,
            payment_hash: hash,
            offer: row.offer.clone(),
            claim_deadline: deadline,
            received: Amount(received_msat),
            // Never more than was agreed when the invoice was made.
            minimum_fee: Amount(minimum_fee.min(row.amount_msat.saturating_sub(row.contract_msat))),
        };
        if !federations.has_begun(&order).await? {
            let height = self.0.node.info().height;
            if deadline.saturating_sub(height) < CLAIM_MARGIN {
                let reason = format!(
                    "block {height} is too near to {deadline}, at which it goes back by itself"
                );
                return self.refuse(hash, reason).await;
            }
            if let Some(reason) = self.0.ledger.halted_in(journal, &row.federation)? {
                return self.refuse(hash, reason).await;
            }
            match federations.begin_receive(&order).await {
                Ok(()) => {}
                Err(BeginError::Refused(refusal)) => {
                    return self.refuse(hash, refusal.to_string()).await;
                }
                Err(busy @ BeginError::Busy) => return Err(busy.into()),
                Err(BeginError::Trouble(e)) => return Err(e),
            }
        }
        match federations.received(&order).await? {
            Ok(()) => {
                let state = journal.incoming(hash)?.map(|row| row.state);
                if matches!(
                    state,
                    Some(IncomingState::Held { .. } | IncomingState::Swap { .. })
                ) {
                    anyhow::bail!("the module is done and has not said how this payment ends");
                }
                Ok(())
            }
            Err(refusal) => self.refuse(hash, refusal.to_string()).await,
        }
    }

    /// Nothing was bought, and nothing will be.
    async fn refuse(&self, hash: Hash32, reason: String) -> anyhow::Result<()> {
        let row = self
            .0
            .journal
            .update_incoming(hash, |row| match row.state {
                IncomingState::Held { .. } => Some(IncomingState::Failing { reason }),
                // Nothing is to be told to the node: whoever pays sees it here.
                IncomingState::Swap { .. } => Some(IncomingState::Failed { reason }),
                _ => None,
            })?;
        self.tell();
        self.0.over.notify_one();
        match row.map(|row| row.state) {
            Some(IncomingState::Failing { .. }) => self.give_back(hash).await,
            _ => Ok(()),
        }
    }

    /// Tells the node what the journal says: that it goes back.
    pub(super) async fn give_back(&self, hash: Hash32) -> anyhow::Result<()> {
        self.0.node.fail(hash).await?;
        self.0
            .journal
            .update_incoming(hash, |row| match &row.state {
                IncomingState::Failing { reason } => Some(IncomingState::Failed {
                    reason: reason.clone(),
                }),
                _ => None,
            })?;
        self.tell();
        Ok(())
    }

    /// `lightning.settle`: the preimage has been bought.
    ///
    /// # Errors
    /// It is not the preimage, or nothing of this federation is held for this hash.
    pub async fn settle(
        &self,
        federation: FederationId,
        hash: Hash32,
        preimage: Hash32,
    ) -> Result<(), Refusal> {
        if sha256(&preimage.0) != hash.0 {
            return Err(Refusal::new(
                "wrong-preimage",
                format!("{preimage} is not the preimage of {hash}"),
            ));
        }
        let change = |row: &Incoming| match row.state {
            _ if row.federation != federation => None,
            IncomingState::Held { deadline, .. } => {
                Some(IncomingState::Settling { preimage, deadline })
            }
            IncomingState::Swap { .. } => Some(IncomingState::Settled { preimage }),
            _ => None,
        };
        let row = retried(|| self.0.journal.update_incoming(hash, change)).await;
        self.tell();
        self.0.over.notify_one();
        match row.filter(|row| row.federation == federation) {
            Some(Incoming {
                state: IncomingState::Settled { .. } | IncomingState::Lost { .. },
                ..
            }) => Ok(()),
            Some(Incoming {
                state: IncomingState::Settling { .. },
                ..
            }) => {
                // The row is written: what the node cannot do now is done later.
                if let Err(e) = self.0.node.settle(hash, preimage).await {
                    tracing::error!(%hash, "the node does not settle now: {e}");
                }
                Ok(())
            }
            _ => Err(not_held(hash)),
        }
    }

    /// `lightning.fail`: the preimage cannot be bought.
    ///
    /// # Errors
    /// Nothing of this federation is held for this hash, or it has been settled.
    pub async fn fail(&self, federation: FederationId, hash: Hash32) -> Result<(), Refusal> {
        let row = retried(|| self.0.journal.incoming(hash)).await;
        if row.is_none_or(|row| row.federation != federation) {
            return Err(not_held(hash));
        }
        let mut pause = RETRY.0;
        while let Err(e) = self
            .refuse(hash, "the federation did not buy it".to_owned())
            .await
        {
            tracing::error!(%hash, "the node does not give back now: {e:#}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
        let row = retried(|| self.0.journal.incoming(hash)).await;
        match row.map(|row| row.state) {
            Some(IncomingState::Failing { .. } | IncomingState::Failed { .. }) => Ok(()),
            _ => Err(not_held(hash)),
        }
    }
}

fn not_held(hash: Hash32) -> Refusal {
    Refusal::new(
        "not-held",
        format!("no payment of {hash} is held for this federation"),
    )
}

/// The journal's answer, asked for until the disk gives it.
async fn retried<T>(mut ask: impl FnMut() -> anyhow::Result<T>) -> T {
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(e) => tracing::error!("the journal fails: {e:#}"),
        }
        tokio::time::sleep(RETRY.1).await;
    }
}
