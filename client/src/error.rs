//! What can go wrong with a wallet, with stable codes.

use std::path::PathBuf;

use modmint_core::{Amount, Refusal};

use crate::operation::SpendQuote;

/// Why the wallet did not do what was asked.
///
/// [`WalletError::code`] is stable; the text is for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalletError {
    /// Another process holds the wallet.
    #[error(
        "the wallet in {directory} is held by {holder}; end that process or name another --data-dir"
    )]
    Held {
        /// The wallet's directory.
        directory: PathBuf,
        /// What is known of the holder.
        holder: String,
    },
    /// There is no such federation, operation, module or action.
    #[error("{0}")]
    NotFound(String),
    /// What was given cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The balance does not suffice.
    #[error("{0}")]
    InsufficientFunds(Refusal),
    /// A module or the federation refuses.
    #[error("{0}")]
    Refused(Refusal),
    /// A spend has to be confirmed first.
    #[error("this takes {} from the balance and was not confirmed", .0.total)]
    ConfirmationNeeded(Box<SpendQuote>),
    /// Too few guardians answer.
    #[error("{0}")]
    Unreachable(String),
    /// What a guardian or an invite gave does not hold: hashes, signatures,
    /// encodings.
    #[error("{0}")]
    Untrusted(String),
    /// A module's bundle trapped, which is a bug in it.
    #[error("module {kind} failed: {reason}")]
    Module {
        /// The module.
        kind: String,
        /// What happened.
        reason: String,
    },
    /// Disk or database.
    #[error("{what}: {reason}")]
    Disk {
        /// What was being done.
        what: String,
        /// What the system says.
        reason: String,
    },
    /// The wallet has been closed.
    #[error("the wallet has been closed")]
    Closed,
}

impl WalletError {
    /// Stable, kebab-case.
    pub fn code(&self) -> &str {
        match self {
            Self::Held { .. } => "wallet-held",
            Self::NotFound(_) => "not-found",
            Self::Usage(_) => "bad-argument",
            Self::InsufficientFunds(refusal) | Self::Refused(refusal) => &refusal.code,
            Self::ConfirmationNeeded(_) => "confirmation-needed",
            Self::Unreachable(_) => "federation-unreachable",
            Self::Untrusted(_) => "untrusted",
            Self::Module { .. } => "module-failed",
            Self::Disk { .. } => "disk",
            Self::Closed => "closed",
        }
    }

    /// What the quote takes, if this error asks for a confirmation.
    pub fn needs_confirmation_of(&self) -> Option<Amount> {
        match self {
            Self::ConfirmationNeeded(quote) => Some(quote.total),
            _ => None,
        }
    }

    pub(crate) fn disk(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Disk {
            what: what.into(),
            reason: reason.to_string(),
        }
    }

    /// A refusal of an action: not enough money has an error of its own.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        if refusal.code == NOT_ENOUGH_MONEY {
            Self::InsufficientFunds(refusal)
        } else if refusal.code == "bad-argument" {
            Self::Usage(refusal.message)
        } else {
            Self::Refused(refusal)
        }
    }
}

/// The code by which the e-cash module says that the balance does not suffice.
pub const NOT_ENOUGH_MONEY: &str = "not-enough-money";
