//! Exit codes: stable, named, documented in `--help`.

use std::process::ExitCode;

use modmint_client::{NOT_ENOUGH_MONEY, WalletError};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Success = 0,
    Error = 1,
    Usage = 2,
    NotFound = 3,
    InsufficientFunds = 4,
    Refused = 5,
    Pending = 6,
    Unreachable = 7,
    ConfirmationNeeded = 8,
    Held = 9,
    Declined = 10,
    Untrusted = 11,
}

/// For `--help`.
pub const HELP: &str = "\
Exit codes:
   0  success
   1  error: disk, a module that broke, a bug
   2  usage: wrong arguments
   3  not-found: no such federation, module, action or operation
   4  insufficient-funds
   5  refused: by a module or by the federation; a result may say that it is not final
   6  pending: the operation goes on whenever the wallet is open; wait with `wait <ID>`
   7  federation-unreachable: too few guardians answer
   8  confirmation-needed: the quote is on standard output; --yes confirms it
   9  wallet-held: another process has the wallet open
  10  declined: the question was answered with no
  11  untrusted: an invite, config or bundle does not hold

Environment:
  MODMINT_WALLET_DIR          the wallet's folder
  MODMINT_CRASH_AFTER_WRITE   for tests: end the process behind the n-th durable write
  RUST_LOG                    what is logged to standard error [default: warn, of serve: info]";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&WalletError> for Exit {
    fn from(error: &WalletError) -> Self {
        match error {
            WalletError::Held { .. } => Self::Held,
            WalletError::NotFound(_) => Self::NotFound,
            WalletError::Usage(_) => Self::Usage,
            WalletError::InsufficientFunds(_) => Self::InsufficientFunds,
            WalletError::Refused(refusal) => Self::of_refusal(&refusal.code),
            WalletError::ConfirmationNeeded(_) => Self::ConfirmationNeeded,
            WalletError::Unreachable(_) => Self::Unreachable,
            WalletError::Untrusted(_) => Self::Untrusted,
            _ => Self::Error,
        }
    }
}

impl Exit {
    /// Of an operation that failed for this reason.
    pub fn of_refusal(code: &str) -> Self {
        match code {
            NOT_ENOUGH_MONEY => Self::InsufficientFunds,
            "federation-unreachable" => Self::Unreachable,
            "module-failed" => Self::Error,
            "bad-argument" => Self::Usage,
            _ => Self::Refused,
        }
    }
}
