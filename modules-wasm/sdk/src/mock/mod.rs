//! The mock host, for native tests: one call in any phase, or a whole federation
//! and its wallets, driven without network, process or clock.
//!
//! [`Federation`] plays the guardians. They share one state, as consensus makes
//! them do, and differ in what they answer: some are silent, some lie. Keys and
//! signatures are real. [`Wallet`] plays a wallet: it makes every transition
//! durable in one write, can be killed after any of them, and goes on.
//!
//! The mock traps (panics) where the real host traps: an import out of its phase,
//! a value too long, an effect given up that cannot be. It does not meter fuel: it
//! writes consensus calls down ([`Federation::record`]), and `modmint module fuel`
//! makes them again on the component, where fuel is.
//!
//! A [`Bundle`] runs natively or in any other way ([`Exports`]) over the same
//! [`imports`]: what a component does can be held against it.
//!
//! Money is the real e-cash or, in tests that are not about it, [`Cash`].
//!
//! | to set | how |
//! |---|---|
//! | height, chain | [`Federation::set_height`], [`Federation::mine_blocks`], [`Federation::mine`], [`Federation::confirm`] |
//! | time | [`Federation::set_time`], [`Federation::pass`] |
//! | fee rate | [`Federation::set_fee_rate`] |
//! | guardians | [`Federation::new`], [`Federation::set_behaviour`] |
//! | keys of instances | [`Federation::set_keys`], before [`Federation::found`] |
//! | a wallet's keys | its name: [`Wallet::new`] |
//! | a wallet's money | [`Wallet::endow`] |
//! | what the person says | [`Wallet::set_confirms`] |
//! | the application around it | [`Wallet::offer_service`] |
//! | the web | [`Wallet::offer_web`] |
//! | a crash | [`Wallet::kill_at`], [`Wallet::resume`] |

mod bundle;
mod call;
mod cash;
mod federation;
pub mod imports;
mod record;
mod wallet;

pub use bundle::{Bundle, Exports, Founded};
pub use call::Phase;
pub(crate) use call::filter_bits;
pub use cash::{Cash, CashInput, CashState, Coin};
pub use federation::{Behaviour, Federation, Status};
pub use record::{ConsensusCall, RECORD, RecordedCall, RecordedKey, Surroundings};
pub use wallet::{Kill, Operation, OperationId, Wallet};

/// A module's storage.
pub type Store = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;
