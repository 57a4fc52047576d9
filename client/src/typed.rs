//! Conveniences for programs that use the stock modules: arguments and results as
//! types. They say nothing that the CLI could not say in words; what lies in a
//! transaction only the module knows.

use modmint_core::{Amount, Argument, Hash32, InstanceId, Refusal, Value};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    Allowance, Federation, OperationId, OperationStatus, OperationView, SpendQuote, WalletError,
};

/// What something would take from the balance. Nothing is spent before
/// [`Self::confirm`], or after [`Self::decline`].
#[derive(Clone, Debug)]
pub struct Quoted {
    /// What waits to be confirmed.
    pub operation: OperationId,
    /// What it takes, fees included.
    pub quote: SpendQuote,
    federation: Federation,
}

impl Quoted {
    /// Begins an action that asks guardians, gateways or others what it costs.
    async fn ask(
        federation: &Federation,
        instance: InstanceId,
        action: &str,
        arguments: &[Argument],
    ) -> Result<Self, WalletError> {
        let begun = federation
            .start(instance, action, arguments, Allowance::Nothing)
            .await?;
        let view = federation
            .wait(begun.operation, |view| {
                view.status != OperationStatus::Running
            })
            .await?;
        match (view.status, view.question.clone()) {
            (OperationStatus::Asking, Some(quote)) => Ok(Self {
                operation: view.operation,
                quote,
                federation: federation.clone(),
            }),
            _ => Err(failure(&view)),
        }
    }

    /// Spends it, and no more than the quote says. It goes on by itself then.
    ///
    /// # Errors
    /// [`WalletError::ConfirmationNeeded`] with the quote of today, if that is more:
    /// nothing is spent then.
    pub async fn confirm(self) -> Result<OperationId, WalletError> {
        let most = Allowance::UpTo(self.quote.total);
        self.within(most).await
    }

    /// Gives it up.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn decline(self) -> Result<(), WalletError> {
        self.federation.decline(self.operation).await.map(drop)
    }

    /// As [`Self::confirm`], as long as it takes no more than is allowed.
    async fn within(self, allowance: Allowance) -> Result<OperationId, WalletError> {
        match self.federation.confirm(self.operation, allowance).await {
            Ok(view) => Ok(view.operation),
            Err(error) => {
                // What counts is why it was not confirmed.
                let _ = self.decline().await;
                Err(error)
            }
        }
    }
}

/// The stock `wallet` module: bitcoin into the federation.
#[derive(Clone, Debug)]
pub struct WalletClient {
    federation: Federation,
    instance: InstanceId,
}

/// A deposit that is waited for.
#[derive(Clone, Debug)]
pub struct Deposit {
    /// Waits for it and claims it.
    pub operation: OperationId,
    /// Where bitcoin is to be paid to.
    pub address: String,
}

impl WalletClient {
    /// The federation's `wallet` module.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn new(federation: Federation) -> Result<Self, WalletError> {
        let instance = federation.instance("wallet")?;
        Ok(Self {
            federation,
            instance,
        })
    }

    /// A new address. The operation goes on until something that was paid to it
    /// is e-cash; see [`Federation::wait`].
    ///
    /// # Errors
    /// See [`Federation::start`].
    pub async fn deposit(&self) -> Result<Deposit, WalletError> {
        let begun = self
            .federation
            .start(self.instance, "deposit", &[], Allowance::Nothing)
            .await?;
        let view = self
            .federation
            .wait(begun.operation, |view| {
                text(view, "address").is_some() || view.status != OperationStatus::Running
            })
            .await?;
        let address = result(&view, "address")?;
        Ok(Deposit {
            operation: view.operation,
            address,
        })
    }

    /// What paying `satoshi` to an address on the chain takes.
    ///
    /// # Errors
    /// [`WalletError::Refused`] for what is no address of the federation's network, and
    /// for an amount that cannot be paid.
    pub async fn quote(&self, address: &str, satoshi: u64) -> Result<Quoted, WalletError> {
        let amount = Amount(satoshi.saturating_mul(1000));
        let arguments = [
            argument("address", Value::Text(address.to_owned())),
            argument("amount", Value::Amount(amount)),
        ];
        Quoted::ask(&self.federation, self.instance, "withdraw", &arguments).await
    }

    /// Pays `satoshi` to an address on the chain. Returns the operation when guardians
    /// have accepted it: from then on it is paid whatever happens here, and the
    /// operation goes on until it is buried in the chain.
    ///
    /// # Errors
    /// [`WalletError::ConfirmationNeeded`] where `allowance` does not suffice, and
    /// nothing is spent; as [`Self::quote`] otherwise.
    pub async fn withdraw(
        &self,
        address: &str,
        satoshi: u64,
        allowance: Allowance,
    ) -> Result<OperationView, WalletError> {
        let quoted = self.quote(address, satoshi).await?;
        let operation = quoted.within(allowance).await?;
        let view = self
            .federation
            .wait(operation, |view| {
                let accepted = view.transactions.iter().any(|t| t.status == "accepted");
                accepted || view.status != OperationStatus::Running
            })
            .await?;
        match view.status {
            OperationStatus::Running | OperationStatus::Done => Ok(view),
            _ => Err(failure(&view)),
        }
    }
}

/// The stock `mint` module: e-cash.
#[derive(Clone, Debug)]
pub struct MintClient {
    federation: Federation,
    instance: InstanceId,
}

/// Notes taken out of the balance.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Cancelling it takes back what nobody has taken.
    pub operation: OperationId,
    /// The notes as text.
    pub notes: String,
}

impl MintClient {
    /// The federation's `mint` module.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn new(federation: Federation) -> Result<Self, WalletError> {
        let instance = federation.instance("mint")?;
        Ok(Self {
            federation,
            instance,
        })
    }

    /// Notes worth `amount`, for somebody else.
    ///
    /// # Errors
    /// [`WalletError::ConfirmationNeeded`] where `allowance` does not suffice;
    /// see also [`Federation::start`].
    pub async fn send(&self, amount: Amount, allowance: Allowance) -> Result<Sent, WalletError> {
        let amount = argument("amount", Value::Amount(amount));
        let begun = self
            .federation
            .start(self.instance, "send", &[amount], allowance)
            .await?;
        let view = self
            .federation
            .wait(begun.operation, |view| {
                text(view, "notes").is_some() || view.status != OperationStatus::Running
            })
            .await?;
        let notes = result(&view, "notes")?;
        Ok(Sent {
            operation: view.operation,
            notes,
        })
    }

    /// Takes notes into the balance; returns the operation when they are there.
    ///
    /// # Errors
    /// [`WalletError::Refused`] if the notes are spent or not this federation's.
    pub async fn receive(&self, notes: &str) -> Result<OperationView, WalletError> {
        let notes = argument("notes", Value::Text(notes.to_owned()));
        let begun = self
            .federation
            .start(self.instance, "receive", &[notes], Allowance::Nothing)
            .await?;
        spendable(&self.federation, begun.operation).await
    }
}

/// The stock `ln` module: Lightning, through gateways.
#[derive(Clone, Debug)]
pub struct LnClient {
    federation: Federation,
    instance: InstanceId,
}

/// A gateway as it has announced itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GatewayView {
    /// What it calls itself; nobody has checked that.
    pub alias: String,
    /// Where it is.
    pub api: String,
    /// What it signs with, 33 bytes in hexadecimal.
    pub gateway_key: String,
    /// Its Lightning node's, likewise.
    pub node_key: String,
    /// For each payment out, millisatoshi.
    pub pay_base_msat: u64,
    /// Of each payment out, millionths.
    pub pay_parts_per_million: u64,
    /// For each payment in, millisatoshi.
    pub receive_base_msat: u64,
    /// Of each payment in, millionths.
    pub receive_parts_per_million: u64,
    /// When its announcement ends, seconds since 1970.
    pub expires: u64,
    /// Whether a threshold of guardians' operators know it.
    pub vetted: bool,
}

/// A payment that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paid {
    /// The operation; change may still be on its way.
    pub operation: OperationId,
    /// Of the invoice's payment hash: the receipt.
    pub preimage: Hash32,
    /// What the gateway has had on top of the invoice's amount, routing included.
    pub fee: Amount,
    /// The gateway's name.
    pub gateway: String,
}

/// An invoice for somebody else to pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoiced {
    /// Waits for it to be paid.
    pub operation: OperationId,
    /// BOLT 11.
    pub invoice: String,
    /// What arrives in the balance when it is paid, less the federation's fees.
    pub receives: Amount,
    /// The gateway's name.
    pub gateway: String,
}

impl LnClient {
    /// The federation's `ln` module.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn new(federation: Federation) -> Result<Self, WalletError> {
        let instance = federation.instance("ln")?;
        Ok(Self {
            federation,
            instance,
        })
    }

    /// The gateways that serve the federation.
    ///
    /// # Errors
    /// See [`Federation::start`].
    pub async fn gateways(&self) -> Result<Vec<GatewayView>, WalletError> {
        let begun = self
            .federation
            .start(self.instance, "gateways", &[], Allowance::Nothing)
            .await?;
        let view = over(&self.federation, begun.operation).await?;
        detail(&view, "gateways")
    }

    /// What paying `to` takes through the cheapest gateway that answers: an invoice of
    /// BOLT 11, which has its amount, or a Lightning address or LNURL, which need one.
    ///
    /// # Errors
    /// [`WalletError::Refused`] for an invoice that is not to be paid: of another
    /// network, expired, paid before; or if no gateway does it.
    pub async fn quote(&self, to: &str, amount: Option<Amount>) -> Result<Quoted, WalletError> {
        let to = argument("to", Value::Text(to.to_owned()));
        let amount = amount.map(|amount| argument("amount", Value::Amount(amount)));
        let arguments: Vec<_> = [to].into_iter().chain(amount).collect();
        Quoted::ask(&self.federation, self.instance, "pay", &arguments).await
    }

    /// Pays, see [`Self::quote`]; returns when the payee has the money.
    ///
    /// # Errors
    /// [`WalletError::ConfirmationNeeded`] where `allowance` does not suffice, and
    /// nothing is spent; [`WalletError::Refused`] if the payment came back.
    pub async fn pay(
        &self,
        to: &str,
        amount: Option<Amount>,
        allowance: Allowance,
    ) -> Result<Paid, WalletError> {
        let quoted = self.quote(to, amount).await?;
        self.paid(quoted.within(allowance).await?).await
    }

    /// Waits until a payment, confirmed by [`Quoted::confirm`], has arrived.
    ///
    /// # Errors
    /// [`WalletError::Refused`] if it came back.
    pub async fn paid(&self, operation: OperationId) -> Result<Paid, WalletError> {
        let view = over(&self.federation, operation).await?;
        Ok(Paid {
            operation,
            preimage: detail(&view, "preimage")?,
            fee: detail(&view, "fee_msat")?,
            gateway: detail(&view, "gateway")?,
        })
    }

    /// A new invoice, through the cheapest gateway. The operation goes on until it is
    /// paid or has expired; see [`Self::received`].
    ///
    /// # Errors
    /// [`WalletError::Refused`] if no gateway gives one.
    pub async fn invoice(
        &self,
        amount: Amount,
        description: &str,
    ) -> Result<Invoiced, WalletError> {
        let arguments = [
            argument("amount", Value::Amount(amount)),
            argument("description", Value::Text(description.to_owned())),
        ];
        let begun = self
            .federation
            .start(self.instance, "invoice", &arguments, Allowance::Nothing)
            .await?;
        let view = self
            .federation
            .wait(begun.operation, |view| {
                text(view, "invoice").is_some() || view.status != OperationStatus::Running
            })
            .await?;
        Ok(Invoiced {
            operation: view.operation,
            invoice: result(&view, "invoice")?,
            receives: detail(&view, "receives_msat")?,
            gateway: detail(&view, "gateway")?,
        })
    }

    /// Waits until an invoice of this wallet's has been paid and the money can be
    /// spent.
    ///
    /// # Errors
    /// [`WalletError::Refused`] if nobody has paid it in time.
    pub async fn received(&self, operation: OperationId) -> Result<OperationView, WalletError> {
        spendable(&self.federation, operation).await
    }
}

fn argument(name: &str, value: Value) -> Argument {
    Argument {
        name: name.to_owned(),
        value,
    }
}

/// Waits until there is a result.
async fn over(
    federation: &Federation,
    operation: OperationId,
) -> Result<OperationView, WalletError> {
    let over = |view: &OperationView| view.status != OperationStatus::Running;
    done(federation.wait(operation, over).await?)
}

/// Waits until there is a result and nothing goes on behind it.
async fn spendable(
    federation: &Federation,
    operation: OperationId,
) -> Result<OperationView, WalletError> {
    let over = |view: &OperationView| view.status != OperationStatus::Running && !view.settling;
    done(federation.wait(operation, over).await?)
}

fn done(view: OperationView) -> Result<OperationView, WalletError> {
    match view.status {
        OperationStatus::Done => Ok(view),
        _ => Err(failure(&view)),
    }
}

/// A detail of a result, of whatever type.
fn detail<T: DeserializeOwned>(view: &OperationView, name: &str) -> Result<T, WalletError> {
    let value = view.details.as_ref().and_then(|details| details.get(name));
    serde_json::from_value(value.cloned().unwrap_or_default()).map_err(|e| WalletError::Module {
        kind: view.kind.clone(),
        reason: format!("{} ended with an odd {name:?}: {e}", view.action),
    })
}

fn text(view: &OperationView, name: &str) -> Option<String> {
    view.details
        .as_ref()?
        .get(name)?
        .as_str()
        .map(str::to_owned)
}

fn result(view: &OperationView, name: &str) -> Result<String, WalletError> {
    match view.status {
        OperationStatus::Failed | OperationStatus::Stuck => Err(failure(view)),
        _ => text(view, name).ok_or_else(|| WalletError::Module {
            kind: view.kind.clone(),
            reason: format!("{} ended without {name:?} in its result", view.action),
        }),
    }
}

fn failure(view: &OperationView) -> WalletError {
    WalletError::refused(view.error.clone().unwrap_or_else(|| {
        Refusal::new(
            "unfinished",
            format!(
                "operation {} waits for somebody to confirm it",
                view.operation
            ),
        )
    }))
}
