//! One call into a module: its phase, and what it can reach.

use std::{cell::RefCell, rc::Rc};

use super::{Store, federation::State};

/// The contract's phases: which imports a call can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the contract's table says what they are")]
pub enum Phase {
    Pure,
    Stateless,
    Consensus,
    Audit,
    Propose,
    Query,
    Wallet,
    Look,
}

/// The groups of imports in the contract's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Import {
    StorageRead,
    StorageWrite,
    /// `federation`, id to public-keys.
    Constants,
    /// The rest of `federation`.
    Agreed,
    Crypto,
    Signing,
    Treasury,
    Guardian,
    /// `guardian.missing`.
    Propose,
    WalletHost,
}

impl Phase {
    fn lists(self, import: Import) -> bool {
        use Import::*;
        match self {
            Self::Pure => false,
            Self::Stateless => matches!(import, Constants | Crypto),
            Self::Consensus => !matches!(import, Guardian | Propose | WalletHost),
            Self::Audit => matches!(import, StorageRead | Constants | Agreed | Crypto),
            Self::Propose => {
                matches!(
                    import,
                    StorageRead | Constants | Agreed | Crypto | Guardian | Propose
                )
            }
            Self::Query => {
                matches!(import, StorageRead | Constants | Agreed | Crypto | Guardian)
            }
            Self::Wallet => !matches!(import, Signing | Treasury | Guardian | Propose),
            Self::Look => {
                matches!(
                    import,
                    StorageRead | Constants | Agreed | Crypto | WalletHost
                )
            }
        }
    }
}

/// What a wallet lends a call.
pub(super) struct WalletSide {
    pub seed: [u8; 32],
    /// How many bytes strings have been drawn, on this device and ever.
    pub drawn: u64,
}

pub(super) struct Call {
    pub phase: Phase,
    pub instance: u16,
    pub state: Rc<RefCell<State>>,
    pub storage: Store,
    pub guardian: Option<u16>,
    pub wallet: Option<Rc<RefCell<WalletSide>>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// Ends the call also when the module traps.
struct Ended;

impl Drop for Ended {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(Option::take);
    }
}

/// Runs `module` inside `call`; returns its storage too.
pub(super) fn enter<T>(call: Call, module: impl FnOnce() -> T) -> (T, Store) {
    CURRENT.with_borrow_mut(|current| {
        assert!(current.is_none(), "calls into modules come one at a time");
        *current = Some(call);
    });
    let ended = Ended;
    let result = module();
    let call = CURRENT.with_borrow_mut(Option::take);
    drop(ended);
    (
        result,
        call.expect("nobody ends the call but this function")
            .storage,
    )
}

/// What an import does, if the phase lists it.
pub(super) fn import<T>(import: Import, name: &str, what: impl FnOnce(&mut Call) -> T) -> T {
    CURRENT.with_borrow_mut(|current| {
        let Some(call) = current else {
            panic!("{name} is called outside of any call: use Federation::call or Wallet::call");
        };
        let phase = call.phase;
        assert!(
            phase.lists(import),
            "trap: {name} is not there in the phase {phase:?}"
        );
        what(call)
    })
}

/// How many zero bits the federation's filter wants: 12, unless a test says less.
pub(crate) fn filter_bits() -> u32 {
    CURRENT.with_borrow(|current| {
        current
            .as_ref()
            .map_or(12, |call| call.state.borrow().filter_bits)
    })
}
