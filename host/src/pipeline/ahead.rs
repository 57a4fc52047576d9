//! Arrival: items run once ahead of their order, so that their checks can be made
//! in batches.
//!
//! Each runs on a snapshot with an overlay that is thrown away. Every check is
//! answered yes and written down; what was written down is then verified
//! natively, all at once, and the verdicts are kept. Nothing else of such a run
//! counts: not its result, not a trap, not what it cost.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use modmint_core::{PeerId, consensus::ConsensusItem, sha256};
use modmint_runtime::{Check, verify_checks};
use parking_lot::Mutex;
use rayon::prelude::*;

use super::{
    hosts::Checker,
    items::{Failure, Federation, Items},
};
use crate::storage::{Overlay, Snapshot};

/// A map that forgets what has not been added for a while, so that it never holds
/// more than twice its size.
struct Recent<K, V> {
    size: usize,
    new: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq, V: Copy> Recent<K, V> {
    fn new(size: usize) -> Self {
        Self {
            size,
            new: HashMap::new(),
            old: HashMap::new(),
        }
    }

    fn get(&self, key: &K) -> Option<V> {
        self.new.get(key).or_else(|| self.old.get(key)).copied()
    }

    fn insert(&mut self, key: K, value: V) {
        if self.new.len() >= self.size {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(key, value);
    }
}

/// Verdicts on checks, by all that they depend on. A check that is not here is
/// made on the spot.
pub(super) struct Verdicts(Mutex<Recent<[u8; 32], bool>>);

impl Verdicts {
    /// About 40 bytes each, twice.
    const SIZE: usize = 200_000;

    /// Makes the checks that were not made before, all at once.
    fn verify(&self, checks: Vec<Check>) {
        let mut digests = HashSet::new();
        let fresh: Vec<Check> = {
            let kept = self.0.lock();
            let is_fresh = |check: &Check| {
                let digest = check.digest();
                kept.get(&digest).is_none() && digests.insert(digest)
            };
            checks.into_iter().filter(is_fresh).collect()
        };
        let verdicts = verify_checks(&fresh);
        let mut kept = self.0.lock();
        for (check, verdict) in fresh.iter().zip(verdicts) {
            kept.insert(check.digest(), verdict);
        }
    }
}

impl Checker for Verdicts {
    fn check(&self, check: &Check) -> bool {
        let digest = check.digest();
        if let Some(verdict) = self.0.lock().get(&digest) {
            return verdict;
        }
        let verdict = check.verify();
        self.0.lock().insert(digest, verdict);
        verdict
    }
}

/// Says yes, and writes down.
#[derive(Default)]
struct WriteDown(Mutex<Vec<Check>>);

impl Checker for WriteDown {
    fn check(&self, check: &Check) -> bool {
        self.0.lock().push(check.clone());
        true
    }
}

/// Runs items ahead of their order.
pub(super) struct Ahead {
    federation: Arc<Federation>,
    verdicts: Arc<Verdicts>,
    /// Items whose checks have been made.
    seen: Mutex<Recent<[u8; 32], ()>>,
    pool: rayon::ThreadPool,
}

impl Ahead {
    const SEEN_ITEMS: usize = 50_000;

    pub(super) fn new(federation: Arc<Federation>, pool: rayon::ThreadPool) -> Self {
        Self {
            federation,
            verdicts: Arc::new(Verdicts(Mutex::new(Recent::new(Verdicts::SIZE)))),
            seen: Mutex::new(Recent::new(Self::SEEN_ITEMS)),
            pool,
        }
    }

    pub(super) fn verdicts(&self) -> Arc<Verdicts> {
        Arc::clone(&self.verdicts)
    }

    /// Runs something on a thread that may call modules.
    pub(super) fn on_guest_thread<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.pool.install(f)
    }

    /// Makes the checks of items, in the names of the guardians that sent them,
    /// that have not been seen before.
    pub(super) fn look_at<'a>(
        &self,
        state: &Snapshot,
        items: impl Iterator<Item = (PeerId, &'a [u8])>,
    ) {
        let fresh: Vec<_> = {
            let mut seen = self.seen.lock();
            items
                .filter(|(_, item)| {
                    let hash = sha256(item);
                    let is_fresh = seen.get(&hash).is_none() && !self.federation.skip.names(&hash);
                    seen.insert(hash, ());
                    is_fresh
                })
                .collect()
        };
        if fresh.is_empty() {
            return;
        }
        let checks = self.pool.install(|| {
            fresh
                .par_iter()
                .flat_map_iter(|(peer, item)| {
                    // What breaks here breaks again in order, where it is dealt with.
                    catch_unwind(AssertUnwindSafe(|| self.write_down(state, *peer, item)))
                        .unwrap_or_default()
                })
                .collect()
        });
        self.verdicts.verify(checks);
    }

    fn write_down(&self, state: &Snapshot, peer: PeerId, item: &[u8]) -> Vec<Check> {
        let checks = Arc::new(WriteDown::default());
        let items = self.items(state, Arc::clone(&checks) as Arc<dyn Checker>);
        // A failure is found again in order.
        let _ = match borsh::from_slice(item) {
            Ok(ConsensusItem::Transaction(transaction)) => {
                let txid = transaction.id(&self.federation.id);
                items.transaction(&transaction, txid)
            }
            Ok(ConsensusItem::Module { instance, bytes }) => {
                items.module_item(peer, instance, &bytes)
            }
            Ok(ConsensusItem::Blocks(_) | ConsensusItem::Time(_) | ConsensusItem::FeeRate(_))
            | Err(_) => Ok(()),
        };
        std::mem::take(&mut *checks.0.lock())
    }

    /// What would come of a transaction if it were next, its checks made.
    pub(super) fn try_transaction(
        &self,
        state: &Snapshot,
        item: &[u8],
        transaction: &modmint_core::Transaction,
    ) -> Result<(), Failure> {
        let me = PeerId(0); // a transaction does the same in everybody's name
        self.look_at(state, std::iter::once((me, item)));
        let items = self.items(state, Arc::clone(&self.verdicts) as Arc<dyn Checker>);
        let txid = transaction.id(&self.federation.id);
        self.pool.install(|| items.transaction(transaction, txid))
    }

    fn items(&self, state: &Snapshot, checker: Arc<dyn Checker>) -> Items {
        Items::new(
            Arc::clone(&self.federation),
            Overlay::new(state.clone()),
            checker,
        )
    }
}
