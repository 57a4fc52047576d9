//! The wallet: a library, and the program `modmint-cli` on top of it.
//!
//! A wallet knows no module. It fetches bundles by the hashes in a federation's
//! config, runs their client halves as machines without I/O, makes each step
//! durable in one write, and only then carries out what the machines want:
//! transactions, outcomes, queries, HTTP, waiting.
//!
//! - [`seed`]: twelve words and what is derived from them
//! - `database`: RocksDB, its lock, its crash points
//! - `deletions`: how RocksDB gets rid of what was deleted
//! - [`guardians`]: asking guardians over REST so that f liars and the dead do
//!   not matter
//! - [`module`], `executor`, `host`: calls into modules, one at a time, each one
//!   write
//! - [`Federation`]: the thread that calls modules, and the tasks that carry out
//!   what they want
//! - `join`: from an invite to bundles that can be trusted; [`Wallet`]: all of it
//! - [`Services`]: what a program around the wallet does for modules, a gateway's
//!   Lightning for example
//! - [`daemon`]: the wallet as a process that others ask over REST
//! - [`WalletClient`], [`MintClient`], [`LnClient`]: typed conveniences for the stock modules
//!
//! What a module's bytes mean is not known here, nor is anything of consensus
//! beyond what a wallet can check: hashes, signatures, equal answers.

pub mod daemon;
mod database;
pub mod deletions;
mod error;
mod executor;
mod federation;
pub mod guardians;
mod host;
mod http;
mod join;
pub mod module;
mod operation;
pub mod seed;
mod service;
mod typed;
mod wallet;

pub use database::{CRASH_VARIABLE, Lock};
pub use error::{NOT_ENOUGH_MONEY, WalletError};
pub use executor::{Allowance, EXPIRY_SECONDS};
pub use federation::{Federation, GuardianView, ModuleView};
pub use operation::{
    Fate, OperationId, OperationStatus, OperationView, QuoteFee, SpendQuote, TransactionView,
};
pub use service::{Services, no_such_service};
pub use typed::{
    Deposit, GatewayView, Invoiced, LnClient, MintClient, Paid, Quoted, Sent, WalletClient,
};
pub use wallet::{Preview, Wallet};
