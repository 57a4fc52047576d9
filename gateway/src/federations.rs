//! The gateway's side in federations: a wallet, and the actions of its module `ln`.
//!
//! What the wallet does under an id of the gateway's is begun once. What it asks to be
//! confirmed is confirmed here, within limits: never more than a payment brings, and
//! little for anything else.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use anyhow::Context as _;
use async_trait::async_trait;
use modmint_client::{
    Allowance, Deposit, Federation, OperationId, OperationStatus, OperationView, Wallet,
    WalletClient, WalletError,
};
use modmint_core::{
    Amount, Argument, FederationId, Hash32, Refusal, Value,
    config::{FederationConfig, Invite},
    sha256, tagged_hash,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    api::types::PaymentRequest,
    gateway::CLAIM_MARGIN,
    journal::{Journal, Membership, TRANSACTION_BYTES, Terms},
    lightning::{Invoice, LightningNode},
    now,
};

/// The kind of the module that gateways use.
const LN: &str = "ln";
/// What anything but buying a preimage may take from the balance: fees, and the base fee
/// of a transaction on top.
const INCIDENTALS: Amount = Amount(100_000);
/// A federation that could not be told of the gateway is told again after so long.
const ANNOUNCE_AGAIN_SECONDS: u64 = 300;
/// How often it is looked what is to be done.
const LOOK: Duration = Duration::from_secs(5);
/// How long a federation may take to be told of the gateway, before others' turns come
/// again.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many payments out are under way in a federation at most. Whoever asks for one may
/// name a contract that is not there; it counts until guardians have been asked.
const MOST_PAYMENTS: usize = 500;

/// How long somebody who asks for a payment waits to hear that it makes no sense.
const LOOKED: Duration = Duration::from_secs(2);
/// The module's code for a contract that guardians do not know: it may come yet.
const NO_CONTRACT: &str = "no-such-contract";

fn incidentals(federation: &Federation) -> Amount {
    Amount(INCIDENTALS.msat().saturating_add(base_fee(federation)))
}

/// What a transaction of the gateway's costs, millisatoshi.
fn base_fee(federation: &Federation) -> u64 {
    federation.config().base_fee.of(TRANSACTION_BYTES).msat()
}

/// A preimage that a federation is to sell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveOrder {
    /// Whose user is paid.
    pub federation: FederationId,
    /// The payment's hash.
    pub payment_hash: Hash32,
    /// What the module knows of it.
    pub offer: Vec<u8>,
    /// At this block the payer's money goes back.
    pub claim_deadline: u32,
    /// What the payer's money is.
    pub received: Amount,
    /// What of it the gateway keeps at least.
    pub minimum_fee: Amount,
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// It will not be: the module or the balance says no.
    #[error("{0}")]
    Refused(Refusal),
    /// There is too much under way; the asker is to come again.
    #[error("{MOST_PAYMENTS} payments are under way in this federation, which is the most")]
    Busy,
    /// It is tried again.
    #[error("{0:#}")]
    Trouble(anyhow::Error),
}

/// What payments need of the wallet.
#[async_trait]
pub trait Federations: Send + Sync + 'static {
    /// E-cash of one federation that can be spent, millisatoshi; 0 if it was never
    /// joined.
    ///
    /// # Errors
    /// The disk fails.
    async fn balance_msat(&self, federation: &FederationId) -> anyhow::Result<u64>;

    /// E-cash of each federation, those that were left included, millisatoshi; or why a
    /// federation's module does not say.
    async fn ecash_msat(&self) -> Vec<(FederationId, anyhow::Result<u64>)>;

    /// Whether buying has begun, in whatever life.
    ///
    /// # Errors
    /// The disk fails.
    async fn has_begun(&self, order: &ReceiveOrder) -> anyhow::Result<bool>;

    /// Begins to buy a preimage, once for a federation and hash.
    ///
    /// # Errors
    /// See [`BeginError`]; nothing has been begun then.
    async fn begin_receive(&self, order: &ReceiveOrder) -> Result<(), BeginError>;

    /// Waits until what was begun is over: the module has settled or failed it, or has
    /// refused and nothing was bought.
    ///
    /// # Errors
    /// The wallet cannot go on; it is to be asked again.
    async fn received(&self, order: &ReceiveOrder) -> anyhow::Result<Result<(), Refusal>>;
}

/// Whether an operation has failed before it did anything that others could see.
fn came_to_nothing(view: &OperationView) -> bool {
    view.status == OperationStatus::Failed && view.transactions.is_empty()
}

/// An operation is seen to for as long as this is there.
struct SeenTo(Arc<WalletFederations>, (FederationId, OperationId));

impl Drop for SeenTo {
    fn drop(&mut self) {
        self.0.seen_to.lock().remove(&self.1);
    }
}

/// [`Federations`] of a wallet.
pub struct WalletFederations {
    wallet: Wallet,
    journal: Arc<Journal>,
    node: Arc<dyn LightningNode>,
    /// Where users reach the gateway.
    api_url: String,
    announce_lifetime_seconds: u64,
    /// Operations that somebody sees to.
    seen_to: Mutex<HashSet<(FederationId, OperationId)>>,
}

/// What is the gateway's in a federation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Left {
    /// E-cash that can be spent; none if the federation's module does not say.
    pub balance_msat: Option<u64>,
    /// Payments out that are not over, and contracts that are being claimed.
    pub payments_out: usize,
    /// Payments in that are not over, and preimages that are being bought.
    pub payments_in: usize,
    /// Withdrawals that are on their way.
    pub withdrawals: usize,
    /// Invoices that somebody may still pay; they go back once the federation is left.
    pub invoices: usize,
}

impl Left {
    /// Whether nothing is lost or broken off by leaving: less than a satoshi cannot be
    /// withdrawn.
    pub fn is_nothing(&self) -> bool {
        self.balance_msat.is_some_and(|msat| msat < 1000)
            && self.payments_out == 0
            && self.payments_in == 0
            && self.withdrawals == 0
            && self.invoices == 0
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.balance_msat {
            Some(msat) => write!(f, "{msat} msat of e-cash")?,
            None => write!(
                f,
                "e-cash of which the federation's module does not say how much"
            )?,
        }
        write!(
            f,
            ", {} payments out, {} payments in and {} withdrawals under way, {} invoices that may be paid",
            self.payments_out, self.payments_in, self.withdrawals, self.invoices
        )
    }
}

fn argument(name: &str, value: Value) -> Argument {
    Argument {
        name: name.to_owned(),
        value,
    }
}

fn id_of(purpose: &str, parts: &[&[u8]]) -> OperationId {
    let mut id = OperationId([0; 10]);
    id.0.copy_from_slice(&tagged_hash(purpose, parts)[..10]);
    id
}

fn receive_id(order: &ReceiveOrder) -> OperationId {
    let parts: [&[u8]; 2] = [&order.federation.0, &order.payment_hash.0];
    id_of("modmint/gateway/receive", &parts)
}

/// Of all that is asked for, so that nobody who asks for something else is in its way.
fn pay_id(federation: &FederationId, request: &PaymentRequest) -> OperationId {
    let invoice = sha256(request.invoice.as_bytes());
    let parts: [&[u8]; 4] = [
        &federation.0,
        &request.contract.0,
        &invoice,
        &request.signature.0,
    ];
    id_of("modmint/gateway/pay", &parts)
}

/// Whether an action that the wallet refuses to begin may be begun later.
fn begin_error(error: WalletError) -> BeginError {
    match error {
        WalletError::Refused(refusal) | WalletError::InsufficientFunds(refusal)
            if refusal.code != "recovering" =>
        {
            BeginError::Refused(refusal)
        }
        WalletError::Usage(_)
        | WalletError::NotFound(_)
        | WalletError::ConfirmationNeeded(_)
        | WalletError::Module { .. } => {
            BeginError::Refused(Refusal::new(error.code(), error.to_string()))
        }
        error => BeginError::Trouble(error.into()),
    }
}

impl WalletFederations {
    /// Of this wallet; `api_url` is what federations are told.
    pub fn new(
        wallet: Wallet,
        journal: Arc<Journal>,
        node: Arc<dyn LightningNode>,
        api_url: String,
        announce_lifetime_seconds: u64,
    ) -> Self {
        Self {
            wallet,
            journal,
            node,
            api_url,
            announce_lifetime_seconds,
            seen_to: Mutex::default(),
        }
    }

    /// The wallet.
    pub fn wallet(&self) -> &Wallet {
        &self.wallet
    }

    /// A federation that was joined.
    pub fn federation(&self, id: &FederationId) -> Option<Federation> {
        let all = self.wallet.federations();
        all.into_iter().find(|federation| federation.id() == *id)
    }

    fn joined(&self, id: &FederationId) -> anyhow::Result<Federation> {
        self.federation(id)
            .with_context(|| format!("federation {id} was never joined"))
    }

    /// Joins a federation, or serves one again that was left; one that was never served
    /// is on these terms.
    ///
    /// # Errors
    /// See [`Wallet::join`]; also where it has no module `ln`.
    pub async fn join(
        &self,
        invite: &Invite,
        terms: impl FnOnce(&FederationConfig) -> Terms,
    ) -> Result<Federation, WalletError> {
        let federation = self.wallet.join(invite).await?;
        let disk = |e: anyhow::Error| WalletError::Disk {
            what: "writing the journal".to_owned(),
            reason: format!("{e:#}"),
        };
        federation.instance(LN)?;
        let known = self.journal.membership(&federation.id()).map_err(disk)?;
        let row = Membership {
            active: true,
            announce_at: 0,
            ..known.unwrap_or_else(|| Membership {
                active: true,
                terms: terms(federation.config()),
                gateway_key: None,
                announce_at: 0,
            })
        };
        self.journal
            .put_membership(&federation.id(), &row)
            .map_err(disk)?;
        if let Err(e) = self.learn_key(&federation).await {
            tracing::warn!(federation = %federation.id(), "the module has not told its key yet: {e:#}");
        }
        Ok(federation)
    }

    async fn learn_key(&self, federation: &Federation) -> anyhow::Result<()> {
        let instance = federation.instance(LN)?;
        let begun = federation
            .start(instance, "gateway-key", &[], Allowance::Nothing)
            .await?;
        let view = federation
            .wait(begun.operation, |view| {
                view.status != OperationStatus::Running
            })
            .await?;
        let details = view.details.unwrap_or_default();
        let key = details["gateway_key"]
            .as_str()
            .context("gateway-key ended without a key")?;
        self.change(&federation.id(), |row| {
            row.gateway_key = Some(key.to_owned())
        })
    }

    fn change(
        &self,
        federation: &FederationId,
        change: impl FnOnce(&mut Membership),
    ) -> anyhow::Result<()> {
        let mut row = self
            .journal
            .membership(federation)?
            .with_context(|| format!("federation {federation} was never joined"))?;
        change(&mut row);
        self.journal.put_membership(federation, &row)
    }

    /// Changes what the gateway takes and risks in a federation, and tells it.
    ///
    /// # Errors
    /// It was never joined, or the disk fails.
    pub fn set_terms(&self, federation: &FederationId, terms: Terms) -> anyhow::Result<()> {
        self.change(federation, |row| {
            row.terms = terms;
            row.announce_at = 0;
        })
    }

    /// Serves a federation no longer: nothing new is begun, what is under way goes on.
    /// Its e-cash stays in the wallet, and joining again brings it back.
    ///
    /// # Errors
    /// It was never joined, or the disk fails.
    pub fn leave(&self, federation: &FederationId) -> anyhow::Result<()> {
        self.change(federation, |row| row.active = false)
    }

    /// What is the gateway's in a federation.
    ///
    /// # Errors
    /// It was never joined, or the disk fails.
    pub async fn left(&self, id: &FederationId) -> anyhow::Result<Left> {
        let federation = self.joined(id)?;
        let unfinished = federation.unfinished().await?;
        // A payment that is over for the journal may still be claimed, and the other way
        // round: neither is over before both are.
        let operations = |action: &str| {
            let of = unfinished.iter().filter(|view| view.action == action);
            of.count()
        };
        let out = self.journal.unfinished_outgoing()?;
        let out = out.iter().filter(|(_, row)| row.federation == *id).count();
        let incoming = self.journal.unfinished_incoming()?;
        let incoming = incoming.iter().filter(|(_, row)| row.federation == *id);
        Ok(Left {
            balance_msat: match federation.balance().await {
                Ok(balance) => Some(balance.msat()),
                Err(e) => {
                    tracing::error!(federation = %id, "its e-cash cannot be counted: {e}");
                    None
                }
            },
            payments_out: out.max(operations("gateway-pay")),
            payments_in: incoming.count().max(operations("gateway-receive")),
            withdrawals: operations("withdraw"),
            invoices: self.journal.waiting_of(id, now())?,
        })
    }

    /// Has the module find the contract that pays an invoice, pay it, and claim. What has
    /// begun for a request is not begun again, unless it never came to pay. Returns when
    /// guardians have shown the contract and the module has looked at it, or soon.
    ///
    /// # Errors
    /// What the wallet says; nothing has been begun then.
    pub async fn pay(
        self: &Arc<Self>,
        id: &FederationId,
        request: &PaymentRequest,
        invoice: &Invoice,
        terms: &Terms,
    ) -> anyhow::Result<Result<OperationView, BeginError>> {
        let federation = self.joined(id)?;
        let instance = federation.instance(LN)?;
        let operation = pay_id(id, request);
        if let Ok(former) = federation.operation(operation).await {
            let row = self.journal.outgoing(invoice.payment_hash)?;
            let paid_for = row.is_some_and(|row| row.contract == request.contract);
            if former.status != OperationStatus::Failed || paid_for {
                return Ok(Ok(former));
            }
            // Somebody else may be at the same, and have begun it by now: it stays.
            match federation.forget(operation).await {
                Ok(()) | Err(WalletError::Refused(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if self.payments(id) >= MOST_PAYMENTS {
            return Ok(Err(BeginError::Busy));
        }
        // What others on the way take comes out of the gateway's fee, and what is left has
        // to pay for the claim.
        let fee = terms.pay_fee(invoice.amount_msat.unwrap_or(0));
        let routing = fee.saturating_sub(base_fee(&federation));
        let arguments = [
            argument("invoice", Value::Text(request.invoice.clone())),
            argument("contract", Value::Bytes(request.contract.0.to_vec())),
            argument("signature", Value::Bytes(request.signature.0.clone())),
            argument("maximum-routing-fee", Value::Amount(Amount(routing))),
            argument("minimum-fee", Value::Amount(Amount(fee))),
        ];
        let place = self.place(&federation, operation);
        let begun = federation
            .start_once(
                operation,
                instance,
                "gateway-pay",
                &arguments,
                Allowance::UpTo(incidentals(&federation)),
            )
            .await;
        let mut view = match begun {
            Ok(view) => view,
            Err(e) => return Ok(Err(begin_error(e))),
        };
        // What makes no sense is refused while its asker is there.
        let looked = federation.wait(operation, |view| {
            view.status != OperationStatus::Running || view.stage.is_some()
        });
        if let Ok(Ok(looked)) = tokio::time::timeout(LOOKED, looked).await {
            view = looked;
        }
        if let Some(place) = place {
            self.see_to_it(&federation, operation, place);
        }
        Ok(match (came_to_nothing(&view), view.error.clone()) {
            (true, Some(refusal)) if refusal.code != NO_CONTRACT => {
                Err(BeginError::Refused(refusal))
            }
            _ => Ok(view),
        })
    }

    /// How many operations are seen to in a federation.
    fn payments(&self, id: &FederationId) -> usize {
        let seen_to = self.seen_to.lock();
        seen_to.iter().filter(|(of, _)| of == id).count()
    }

    /// Confirms what an operation asks for, in the background, until it is over; once,
    /// however often it is asked for. What came to nothing is forgotten then: strangers
    /// begin these, and may make up what they are about.
    fn see_to(self: &Arc<Self>, federation: &Federation, operation: OperationId) {
        if let Some(place) = self.place(federation, operation) {
            self.see_to_it(federation, operation, place);
        }
    }

    /// The place of whoever sees to an operation; none if somebody does.
    fn place(self: &Arc<Self>, federation: &Federation, operation: OperationId) -> Option<SeenTo> {
        let name = (federation.id(), operation);
        let free = self.seen_to.lock().insert(name);
        free.then(|| SeenTo(self.clone(), name))
    }

    fn see_to_it(self: &Arc<Self>, federation: &Federation, operation: OperationId, this: SeenTo) {
        let federation = federation.clone();
        tokio::spawn(async move {
            // Whatever becomes of this task, the next look begins another.
            let over = this
                .0
                .over(&federation, operation, || incidentals(&federation))
                .await;
            let forgotten = match over {
                Ok(view) if came_to_nothing(&view) => federation.forget(operation).await,
                Ok(_) => Ok(()),
                Err(e) => Err(e),
            };
            if let Err(e) = forgotten {
                tracing::debug!(%operation, "seen to later: {e}");
            }
        });
    }

    /// Waits until an operation is over. What it asks for is confirmed up to `limit`,
    /// which is looked at when it asks.
    ///
    /// # Errors
    /// The wallet cannot go on.
    async fn over(
        &self,
        federation: &Federation,
        operation: OperationId,
        limit: impl Fn() -> Amount + Send,
    ) -> Result<OperationView, WalletError> {
        loop {
            let view = federation
                .wait(operation, |view| view.status != OperationStatus::Running)
                .await?;
            if view.status != OperationStatus::Asking {
                return Ok(view);
            }
            let limit = limit();
            let confirmed = federation.confirm(operation, Allowance::UpTo(limit)).await;
            let refused = match confirmed {
                Ok(_) => continue,
                Err(
                    e @ (WalletError::ConfirmationNeeded(_) | WalletError::InsufficientFunds(_)),
                ) => e,
                // It asks no longer.
                Err(WalletError::Refused(_)) => continue,
                Err(e) => return Err(e),
            };
            tracing::warn!(%operation, "{} is not confirmed: {refused}; the limit is {limit}", view.action);
            match federation.decline(operation).await {
                Ok(_) | Err(WalletError::Refused(_)) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Where bitcoin becomes e-cash of the gateway.
    ///
    /// # Errors
    /// The federation was never joined, has no module `wallet`, or does not answer.
    pub async fn deposit(&self, id: &FederationId) -> Result<Deposit, WalletError> {
        let federation = self.known(id)?;
        WalletClient::new(federation)?.deposit().await
    }

    fn known(&self, id: &FederationId) -> Result<Federation, WalletError> {
        self.federation(id)
            .ok_or_else(|| WalletError::NotFound(format!("federation {id} was never joined")))
    }

    /// E-cash of the gateway becomes bitcoin at an address. Returns what it takes, all
    /// included, with the operation, once it is on its way.
    ///
    /// # Errors
    /// The balance does not suffice, the address is none, the federation does not
    /// answer.
    pub async fn withdraw(
        &self,
        id: &FederationId,
        address: &str,
        amount: Amount,
        maximum: Amount,
    ) -> Result<OperationView, WalletError> {
        let federation = self.known(id)?;
        let instance = federation.instance("wallet")?;
        let arguments = [
            argument("address", Value::Text(address.to_owned())),
            argument("amount", Value::Amount(amount)),
        ];
        let begun = federation
            .start(instance, "withdraw", &arguments, Allowance::UpTo(maximum))
            .await?;
        loop {
            let view = federation
                .wait(begun.operation, |view| {
                    view.status != OperationStatus::Running || !view.transactions.is_empty()
                })
                .await?;
            match &view.question {
                Some(quote) if view.status == OperationStatus::Asking => {
                    if quote.total > maximum {
                        federation.decline(begun.operation).await?;
                        return Err(WalletError::ConfirmationNeeded(Box::new(quote.clone())));
                    }
                    federation
                        .confirm(begun.operation, Allowance::UpTo(maximum))
                        .await?;
                }
                _ => return Ok(view),
            }
        }
    }

    /// Tells federations of the gateway, and sees to what a former life left asking;
    /// until it is dropped.
    pub async fn run(self: &Arc<Self>) {
        loop {
            // None waits for another that does not answer.
            let looks = self
                .wallet
                .federations()
                .into_iter()
                .map(async |federation| {
                    let looked = tokio::time::timeout(PATIENCE, self.look(&federation)).await;
                    let looked =
                        looked.unwrap_or_else(|_| Err(anyhow::anyhow!("it takes too long")));
                    if let Err(e) = looked {
                        tracing::warn!(federation = %federation.id(), "tried again soon: {e:#}");
                    }
                });
            futures::future::join_all(looks).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(self: &Arc<Self>, federation: &Federation) -> anyhow::Result<()> {
        let id = federation.id();
        let Some(membership) = self.journal.membership(&id)? else {
            return Ok(());
        };
        for view in federation.unfinished().await? {
            // Whoever has a payment in bought confirms that itself, up to what it brings.
            let ours = view.kind == LN && view.action.starts_with("gateway-");
            if ours && view.action != "gateway-receive" {
                self.see_to(federation, view.operation);
            }
        }
        if !membership.active {
            return Ok(());
        }
        if membership.gateway_key.is_none() {
            self.learn_key(federation).await?;
        }
        // It costs a fee.
        if membership.announce_at <= now() && federation.balance().await? > Amount::ZERO {
            self.change(&id, |row| row.announce_at = now() + ANNOUNCE_AGAIN_SECONDS)?;
            self.announce(federation, &membership.terms).await?;
            let half = self.announce_lifetime_seconds / 2;
            self.change(&id, |row| row.announce_at = now() + half)?;
        }
        Ok(())
    }

    async fn announce(&self, federation: &Federation, terms: &Terms) -> anyhow::Result<()> {
        let node = self.node.info();
        let number = |name, value| argument(name, Value::Number(value));
        let arguments = [
            argument("api", Value::Text(self.api_url.clone())),
            argument("node-key", Value::Bytes(hex::decode(&node.node_key)?)),
            argument("alias", Value::Text(node.alias)),
            number("pay-base-msat", terms.pay_base_msat),
            number("pay-parts-per-million", terms.pay_parts_per_million),
            number("receive-base-msat", terms.receive_base_msat),
            number("receive-parts-per-million", terms.receive_parts_per_million),
            number("lifetime-seconds", self.announce_lifetime_seconds),
        ];
        let begun = federation
            .start(
                federation.instance(LN)?,
                "gateway-announce",
                &arguments,
                Allowance::UpTo(incidentals(federation)),
            )
            .await?;
        let view = self
            .over(federation, begun.operation, || incidentals(federation))
            .await?;
        match view.error {
            None => {
                tracing::info!(federation = %federation.id(), "the federation knows of this gateway");
                Ok(())
            }
            Some(refusal) => {
                if view.transactions.is_empty() {
                    federation.forget(view.operation).await?;
                }
                tracing::warn!(federation = %federation.id(), %refusal, "not announced");
                Err(refusal.into())
            }
        }
    }

    /// Ends the wallet; nothing of it goes on when this returns.
    pub async fn close(self) {
        self.wallet.close().await;
    }
}

#[async_trait]
impl Federations for WalletFederations {
    async fn balance_msat(&self, id: &FederationId) -> anyhow::Result<u64> {
        match self.federation(id) {
            Some(federation) => Ok(federation.balance().await?.msat()),
            None => Ok(0),
        }
    }

    async fn ecash_msat(&self) -> Vec<(FederationId, anyhow::Result<u64>)> {
        let ask = |federation: Federation| async move {
            let balance = federation.balance().await;
            let balance = balance.map(Amount::msat).map_err(anyhow::Error::from);
            (federation.id(), balance)
        };
        // None waits for another.
        futures::future::join_all(self.wallet.federations().into_iter().map(ask)).await
    }

    async fn has_begun(&self, order: &ReceiveOrder) -> anyhow::Result<bool> {
        let federation = self.joined(&order.federation)?;
        match federation.operation(receive_id(order)).await {
            Ok(_) => Ok(true),
            Err(WalletError::NotFound(_)) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    async fn begin_receive(&self, order: &ReceiveOrder) -> Result<(), BeginError> {
        let federation = self
            .joined(&order.federation)
            .map_err(BeginError::Trouble)?;
        let instance = federation.instance(LN).map_err(begin_error)?;
        let arguments = [
            argument("offer", Value::Bytes(order.offer.clone())),
            argument("claim-deadline", Value::Number(order.claim_deadline.into())),
            argument("received", Value::Amount(order.received)),
            argument("minimum-fee", Value::Amount(order.minimum_fee)),
        ];
        federation
            .start_once(
                receive_id(order),
                instance,
                "gateway-receive",
                &arguments,
                Allowance::UpTo(order.received),
            )
            .await
            .map(|_| ())
            .map_err(begin_error)
    }

    async fn received(&self, order: &ReceiveOrder) -> anyhow::Result<Result<(), Refusal>> {
        let federation = self.joined(&order.federation)?;
        let height = || self.node.info().height;
        // What has waited for long is not bought any more when it goes back soon.
        let limit = || match order.claim_deadline.saturating_sub(height()) < CLAIM_MARGIN {
            true => Amount::ZERO,
            false => order.received,
        };
        let view = self.over(&federation, receive_id(order), limit).await?;
        match view.status {
            OperationStatus::Done => Ok(Ok(())),
            OperationStatus::Failed => Ok(Err(view
                .error
                .unwrap_or_else(|| Refusal::new("refused", "the module refused")))),
            _ => anyhow::bail!("the module is stuck: {:?}", view.error),
        }
    }
}
