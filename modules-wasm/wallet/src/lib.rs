//! The federation's bitcoin: deposits become value in transactions.

mod messages;

pub use messages::{Deposit, DepositTweak, PegInProof, WalletConfig};
