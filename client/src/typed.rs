//! Conveniences for programs that use the stock modules: arguments and results as
//! types. They say nothing that the CLI could not say in words; what lies in a
//! transaction only the module knows.

use modmint_core::{Amount, Argument, InstanceId, Refusal, Value};

use crate::{Allowance, Federation, OperationId, OperationStatus, OperationView, WalletError};

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
        let amount = Argument {
            name: "amount".to_owned(),
            value: Value::Amount(amount),
        };
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
        let notes = Argument {
            name: "notes".to_owned(),
            value: Value::Text(notes.to_owned()),
        };
        let begun = self
            .federation
            .start(self.instance, "receive", &[notes], Allowance::Nothing)
            .await?;
        let view = self
            .federation
            .wait(begun.operation, |view| {
                view.status != OperationStatus::Running && !view.settling
            })
            .await?;
        match view.status {
            OperationStatus::Done => Ok(view),
            _ => Err(failure(&view)),
        }
    }
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
