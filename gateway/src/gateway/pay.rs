//! `lightning.pay`: somebody's invoice, for a federation's user.
//!
//! The row is in the journal before the node hears of the payment. An answer, the
//! preimage or that nothing is under way, is given when it is certain, however long
//! that takes; until then the payer's contract stays.

use std::time::Instant;

use modmint_core::{FederationId, Hash32, Refusal};
use serde::{Deserialize, Serialize};

use super::{Gateway, PAYMENT_FAILED, QUIET, RESOLVED_BLOCKS, RETRY, SWAP_MARGIN, surviving};
use crate::{
    journal::{Incoming, IncomingState, Outgoing, OutgoingState},
    lightning::{Invoice, PayError, PayOrder, Sent},
    now,
};

/// No HTLC is locked for longer, whatever a contract would allow, blocks: a week, which is
/// also the node's library's own limit.
const LONGEST_LOCK: u32 = 1008;
/// An invoice that ends sooner is not paid any more.
const LEAST_LIFETIME_SECONDS: u64 = 10;

/// What a module asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayRequest {
    /// The payment's hash.
    pub payment_hash: Hash32,
    /// The outgoing contract that pays for it.
    pub contract: Hash32,
    /// BOLT 11.
    pub invoice: String,
    /// The most that others on the way may take, millisatoshi.
    pub maximum_fee_msat: u64,
    /// No HTLC may expire later.
    pub latest_height: u32,
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayAnswer {
    /// Of the payment's hash.
    pub preimage: Hash32,
    /// What others on the way took, millisatoshi.
    pub fee_msat: u64,
}

fn failed(message: impl Into<String>) -> Refusal {
    Refusal::new(PAYMENT_FAILED, message)
}

impl Gateway {
    /// Pays, once for a hash, for the contract that asked first.
    ///
    /// # Errors
    /// [`PAYMENT_FAILED`] where nothing is under way and nothing will be.
    pub async fn pay(
        &self,
        federation: FederationId,
        request: PayRequest,
    ) -> Result<PayAnswer, Refusal> {
        let _one = self.lock(request.payment_hash).await;
        let mut pause = RETRY.0;
        loop {
            match surviving(self.try_pay(federation, &request)).await {
                Ok(answer) => {
                    self.tell();
                    self.0.over.notify_one();
                    return answer;
                }
                Err(e) => tracing::error!(hash = %request.payment_hash, "cannot go on now: {e:#}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// An error is a cause of this machine's; it is tried again.
    async fn try_pay(
        &self,
        federation: FederationId,
        request: &PayRequest,
    ) -> anyhow::Result<Result<PayAnswer, Refusal>> {
        let hash = request.payment_hash;
        let row = match self.0.journal.outgoing(hash)? {
            Some(row) if row.federation == federation && row.contract == request.contract => row,
            Some(row) if !row.is_unsent() => {
                return Ok(Err(failed(
                    "another contract has had this gateway pay this invoice, or try to; ask for a new invoice",
                )));
            }
            former => match self.begin_pay(federation, request, former).await? {
                Ok(row) => row,
                Err(refusal) => return Ok(Err(refusal)),
            },
        };
        let row = match row.state {
            OutgoingState::Started { .. } | OutgoingState::Again => self.send(hash, row).await?,
            OutgoingState::Swap => self.swap(hash, row).await?,
            _ => row,
        };
        match row.state {
            // Of what is as good as lost the contract may still be there.
            OutgoingState::Paid { preimage, fee_msat }
            | OutgoingState::Lost { preimage, fee_msat } => {
                Ok(Ok(PayAnswer { preimage, fee_msat }))
            }
            OutgoingState::Failed { reason, .. } => Ok(Err(failed(reason))),
            state => anyhow::bail!("a payment is not over: {state:?}"),
        }
    }

    /// All that is checked before anything is promised; then the row, in the place of
    /// a `former` one for which nothing was sent.
    async fn begin_pay(
        &self,
        federation: FederationId,
        request: &PayRequest,
        former: Option<Outgoing>,
    ) -> anyhow::Result<Result<Outgoing, Refusal>> {
        let (journal, node) = (&self.0.journal, &self.0.node);
        let hash = request.payment_hash;
        let refuse = |message: String| Ok(Err(failed(message)));
        if let Some(reason) = self.0.ledger.halted_in(journal, &federation)? {
            return refuse(reason);
        }
        let invoice = match Invoice::parse(&request.invoice) {
            Ok(invoice) => invoice,
            Err(reason) => return refuse(reason),
        };
        let Some(amount_msat) = invoice.amount_msat.filter(|amount| *amount > 0) else {
            return refuse(
                "the invoice names no amount, and this gateway pays none of these".into(),
            );
        };
        if invoice.payment_hash != hash {
            return refuse(format!(
                "the invoice is for {}, not {hash}",
                invoice.payment_hash
            ));
        }
        if invoice.network != Some(self.0.network) {
            return refuse(format!("the invoice is not of {}", self.0.network));
        }
        if invoice.expires < now() + LEAST_LIFETIME_SECONDS {
            return refuse("the invoice has ended".into());
        }
        let membership = journal.membership(&federation)?;
        let Some(membership) = membership.filter(|membership| membership.active) else {
            return refuse("this gateway does not serve this federation".into());
        };
        let terms = membership.terms;
        if amount_msat > terms.maximum_invoice_msat {
            return refuse(format!(
                "the invoice is for {amount_msat} msat; this gateway pays up to {}",
                terms.maximum_invoice_msat
            ));
        }
        let _one = self.0.beginning.lock().await;
        let worst = amount_msat.saturating_add(request.maximum_fee_msat);
        let exposure = match self.exposure_msat(&federation).await {
            Ok(exposure) => exposure,
            Err(e) => {
                return refuse(format!(
                    "what this gateway has in this federation cannot be counted: {e:#}"
                ));
            }
        };
        if exposure.saturating_add(worst) > terms.maximum_exposure_msat {
            return refuse(format!(
                "this gateway holds {exposure} msat of this federation's e-cash, and at most {} msat",
                terms.maximum_exposure_msat
            ));
        }
        let row = Outgoing {
            number: 0,
            federation,
            contract: request.contract,
            invoice: request.invoice.clone(),
            amount_msat,
            maximum_fee_msat: request.maximum_fee_msat,
            latest_height: request
                .latest_height
                .min(node.info().height.saturating_add(LONGEST_LOCK)),
            swap: false,
            created: now(),
            updated: now(),
            state: OutgoingState::Started { uncertain: false },
        };
        if former.is_some() {
            // What the node remembers of a try that sent nothing would be taken for the
            // end of this one.
            node.forget(hash);
        }
        match journal.incoming(hash)? {
            Some(own) => match self.swap_of(&own, &row)? {
                Ok(swap) => {
                    let row = Outgoing {
                        swap: true,
                        state: OutgoingState::Swap,
                        ..row
                    };
                    Ok(Ok(journal.begin_outgoing(hash, row, Some(swap))?))
                }
                Err(reason) => refuse(reason),
            },
            None if node.received(hash).is_some() || node.sent(hash).is_some() => {
                refuse("the node has used this hash for something else".into())
            }
            None => Ok(Ok(journal.begin_outgoing(hash, row, None)?)),
        }
    }

    /// The invoice's row as it is once this payment pays it, if it can.
    fn swap_of(
        &self,
        own: &Incoming,
        payment: &Outgoing,
    ) -> anyhow::Result<Result<Incoming, String>> {
        if !own.invoice.eq_ignore_ascii_case(&payment.invoice) {
            return Ok(Err(
                "another invoice of this hash is this gateway's own".into()
            ));
        }
        if own.state != IncomingState::Waiting {
            return Ok(Err(
                "the invoice has been paid, or somebody is paying it".into()
            ));
        }
        let served = self.0.journal.membership(&own.federation)?;
        if !served.is_some_and(|served| served.active) {
            return Ok(Err("the payee's federation is not served any more".into()));
        }
        let height = self.0.node.info().height;
        if payment.latest_height < height.saturating_add(SWAP_MARGIN) {
            return Ok(Err(format!(
                "the contract may be refunded at block {}, and it is {height}: {SWAP_MARGIN} blocks at least are needed",
                payment.latest_height
            )));
        }
        Ok(Ok(Incoming {
            swap: true,
            updated: now(),
            state: IncomingState::Swap {
                payer: payment.federation,
                received_msat: payment.amount_msat,
                deadline: payment.latest_height,
            },
            ..own.clone()
        }))
    }

    /// Has the node pay, and waits until it is over.
    async fn send(&self, hash: Hash32, mut row: Outgoing) -> anyhow::Result<Outgoing> {
        let (journal, node) = (&self.0.journal, &self.0.node);
        let mut seen = self.0.changed.subscribe();
        // When the node is asked; never again once it has taken the payment.
        let mut ask_at = Some(Instant::now());
        let mut pause = RETRY.0;
        let quiet = Instant::now() + QUIET;
        while !row.is_over() {
            let uncertain = match row.state {
                OutgoingState::Started { uncertain } => uncertain,
                OutgoingState::Again => true,
                ref state => anyhow::bail!("a payment is not the node's: {state:?}"),
            };
            // What became of it in a former life is in the journal by then.
            let told = Instant::now() >= quiet && !node.has_event();
            let resolved = row.latest_height.saturating_add(RESOLVED_BLOCKS);
            let over = match node.sent(hash) {
                Some(Sent::Paid { preimage, fee_msat }) => {
                    Some(OutgoingState::Paid { preimage, fee_msat })
                }
                Some(Sent::Failed) if !uncertain => Some(OutgoingState::Failed {
                    reason: "the payment found no way".into(),
                    unsent: false,
                }),
                // Whatever the node's record says: a crash may have come between that and
                // the library's own, which sent nothing then and tells nothing.
                _ if told && node.info().height > resolved => Some(OutgoingState::Failed {
                    reason: "whatever was sent has timed out".into(),
                    unsent: false,
                }),
                Some(Sent::Pending) => None,
                None | Some(Sent::Failed) if ask_at.is_none_or(|at| Instant::now() < at) => None,
                None | Some(Sent::Failed) if uncertain && !told => None,
                None | Some(Sent::Failed) => {
                    let before = row.state.clone();
                    if uncertain {
                        // Behind this no failure that the node tells of ends it.
                        row = journal.update_outgoing(hash, OutgoingState::Again)?;
                        if row.is_over() {
                            break;
                        }
                    }
                    let order = PayOrder {
                        invoice: row.invoice.clone(),
                        maximum_fee_msat: row.maximum_fee_msat,
                        latest_height: row.latest_height,
                    };
                    ask_at = None;
                    match node.pay(&order).await {
                        Ok(()) => None,
                        // What there was before is all there is.
                        Err(PayError::Known) => uncertain.then_some(before),
                        // The row was there before the node knew of the hash, and the node
                        // has not taken it: nothing ever left, and no event will come.
                        Err(PayError::NotSent(reason)) if !uncertain => {
                            Some(OutgoingState::Failed {
                                reason,
                                unsent: true,
                            })
                        }
                        Err(PayError::NotSent(reason)) => {
                            tracing::warn!(%hash, "not sent again, and perhaps before: {reason}");
                            // The node may have no peer yet. It takes a payment once, so it
                            // can be asked as often as there is time.
                            ask_at = Some(Instant::now() + pause);
                            pause = (pause * 2).min(RETRY.1);
                            Some(before)
                        }
                        Err(PayError::Trouble(reason)) => {
                            tracing::error!(%hash, "perhaps sent: {reason}");
                            // What the next try says proves nothing then.
                            ask_at = Some(Instant::now() + RETRY.1);
                            (!uncertain).then_some(OutgoingState::Started { uncertain: true })
                        }
                    }
                }
            };
            row = match over {
                Some(state) => journal.update_outgoing(hash, state)?,
                None => {
                    Self::changed(&mut seen).await;
                    journal
                        .outgoing(hash)?
                        .ok_or_else(|| anyhow::anyhow!("a row is gone"))?
                }
            };
        }
        Ok(row)
    }

    /// Has the payee's federation pay, and waits until that is over.
    async fn swap(&self, hash: Hash32, row: Outgoing) -> anyhow::Result<Outgoing> {
        let journal = &self.0.journal;
        let mut seen = self.0.changed.subscribe();
        loop {
            self.drive(hash);
            let state = journal
                .incoming(hash)?
                .ok_or_else(|| anyhow::anyhow!("the row of our own invoice is gone"))?
                .state;
            let over = match state {
                IncomingState::Settled { preimage } => OutgoingState::Paid {
                    preimage,
                    fee_msat: 0,
                },
                IncomingState::Failed { reason } => OutgoingState::Failed {
                    reason,
                    unsent: false,
                },
                IncomingState::Swap { .. } => {
                    Self::changed(&mut seen).await;
                    continue;
                }
                state => anyhow::bail!("our own invoice is no swap of {}: {state:?}", row.number),
            };
            return journal.update_outgoing(hash, over);
        }
    }

    /// What would be lost with a federation: what it owes, and what is being paid for
    /// it. It owes the e-cash that the wallet has, or what the gateway has given for its
    /// users, whichever is more: a federation, or a module of it, that hides the e-cash
    /// it owes does not get more by that.
    ///
    /// # Errors
    /// The disk fails, or the wallet cannot say what it holds.
    pub async fn exposure_msat(&self, federation: &FederationId) -> anyhow::Result<u64> {
        let ecash = self.0.federations.balance_msat(federation).await?;
        self.exposure_with(federation, ecash)
    }

    /// The same, where the wallet has so much e-cash of the federation.
    ///
    /// # Errors
    /// The disk fails.
    pub fn exposure_with(&self, federation: &FederationId, ecash: u64) -> anyhow::Result<u64> {
        let under_way = self.0.journal.unfinished_outgoing()?;
        let under_way = under_way
            .iter()
            .filter(|(_, row)| row.federation == *federation)
            .map(|(_, row)| row.amount_msat.saturating_add(row.maximum_fee_msat));
        let owed = ecash.max(self.0.journal.given_msat(federation)?);
        Ok(under_way.fold(owed, u64::saturating_add))
    }
}
