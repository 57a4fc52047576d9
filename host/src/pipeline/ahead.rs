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
    time::Duration,
};

use modmint_core::{PeerId, consensus::ConsensusItem, sha256};
use modmint_runtime::{Check, verify_checks};
use parking_lot::{Condvar, Mutex};
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
pub(super) struct Verdicts {
    kept: Mutex<Recent<[u8; 32], bool>>,
    /// Checks that somebody wants made.
    waiting: Mutex<Vec<Check>>,
    /// Held while checks are made.
    making: Mutex<()>,
    /// How often somebody has begun or ended to gather: odd while somebody does.
    gathering: Mutex<u64>,
    /// Notified when somebody has ended.
    gathered: Condvar,
}

impl Verdicts {
    /// Those of half a minute at full load, about 40 bytes each, twice: what has arrived is
    /// ordered within a second.
    const SIZE: usize = 25_000;

    fn new() -> Self {
        Self {
            kept: Mutex::new(Recent::new(Self::SIZE)),
            waiting: Mutex::default(),
            making: Mutex::default(),
            gathering: Mutex::default(),
            gathered: Condvar::new(),
        }
    }

    /// Runs `gather`, which ends with [`Self::verify`]: what comes to
    /// [`Self::verify_with_the_next`] meanwhile is in its batch.
    fn gather(&self, gather: impl FnOnce()) {
        struct Ended<'a>(&'a Verdicts);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                *self.0.gathering.lock() += 1;
                self.0.gathered.notify_all();
            }
        }
        *self.gathering.lock() += 1;
        let _ended = Ended(self);
        gather();
    }

    /// As [`Self::verify`], but while somebody gathers these are left to them; and to
    /// the next who does, for at most so long, if nobody does now.
    fn verify_with_the_next(&self, checks: Vec<Check>, patience: Duration) -> bool {
        if checks.is_empty() {
            return true;
        }
        self.waiting.lock().extend_from_slice(&checks);
        let mut gathering = self.gathering.lock();
        let now = *gathering;
        // An odd number's gathering has ended with the next, an even one's next with the
        // one behind that.
        let gathered = now + 2 - now % 2;
        let not_yet = |now: &mut u64| *now < gathered;
        match now % 2 {
            1 => self.gathered.wait_while(&mut gathering, not_yet),
            _ => {
                // Either way the checks are made then.
                let _ = self
                    .gathered
                    .wait_while_for(&mut gathering, not_yet, patience);
            }
        }
        drop(gathering);
        self.verify_waiting(&checks)
    }

    /// Makes these checks, and in the same batch those that others want made at the
    /// same time. Whether all of these hold.
    fn verify(&self, checks: Vec<Check>) -> bool {
        if checks.is_empty() {
            return true;
        }
        self.waiting.lock().extend_from_slice(&checks);
        self.verify_waiting(&checks)
    }

    fn verify_waiting(&self, checks: &[Check]) -> bool {
        {
            // Whoever comes next takes what has gathered; the others find theirs made.
            let _one = self.making.lock();
            let waiting = std::mem::take(&mut *self.waiting.lock());
            self.make(waiting);
        }
        checks.iter().all(|check| self.check(check))
    }

    /// Makes the checks that were not made before, all at once.
    fn make(&self, checks: Vec<Check>) {
        let mut digests = HashSet::new();
        let fresh: Vec<Check> = {
            let kept = self.kept.lock();
            let is_fresh = |check: &Check| {
                let digest = check.digest();
                kept.get(&digest).is_none() && digests.insert(digest)
            };
            checks.into_iter().filter(is_fresh).collect()
        };
        let verdicts = verify_checks(&fresh);
        let mut kept = self.kept.lock();
        for (check, verdict) in fresh.iter().zip(verdicts) {
            kept.insert(check.digest(), verdict);
        }
    }
}

impl Checker for Verdicts {
    fn check(&self, check: &Check) -> bool {
        let digest = check.digest();
        if let Some(verdict) = self.kept.lock().get(&digest) {
            return verdict;
        }
        let verdict = check.verify();
        self.kept.lock().insert(digest, verdict);
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
    /// Held while items are looked at, so that who finds an item seen finds its checks
    /// made.
    looking: Mutex<()>,
    pool: rayon::ThreadPool,
}

impl Ahead {
    const SEEN_ITEMS: usize = 10_000;
    /// Fewer items than these are run on one thread: waking others costs more than it
    /// saves.
    const FEW: usize = 16;

    pub(super) fn new(federation: Arc<Federation>, pool: rayon::ThreadPool) -> Self {
        Self {
            federation,
            verdicts: Arc::new(Verdicts::new()),
            seen: Mutex::new(Recent::new(Self::SEEN_ITEMS)),
            looking: Mutex::default(),
            pool,
        }
    }

    pub(super) fn verdicts(&self) -> Arc<Verdicts> {
        Arc::clone(&self.verdicts)
    }

    /// Runs something on a thread that may call modules: here, if it may.
    pub(super) fn on_guest_thread<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        match modmint_runtime::is_guest_thread() {
            true => f(),
            false => self.pool.install(f),
        }
    }

    /// Gathers what [`Self::look_at`] is then given: what is tried meanwhile is checked
    /// together with it.
    pub(super) fn gather(&self, gather: impl FnOnce()) {
        self.verdicts.gather(gather);
    }

    /// Makes the checks of items, in the names of the guardians that sent them,
    /// that have not been seen before. Those that have been are made when this returns.
    pub(super) fn look_at<'a>(
        &self,
        state: &Snapshot,
        items: impl Iterator<Item = (PeerId, &'a [u8])>,
    ) {
        let _one = self.looking.lock();
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
        // What breaks here breaks again in order, where it is dealt with.
        let checks = |(peer, item): &(PeerId, &[u8])| {
            catch_unwind(AssertUnwindSafe(|| self.write_down(state, *peer, item)))
                .unwrap_or_default()
        };
        let checks = match fresh.len() {
            ..Self::FEW => fresh.iter().flat_map(checks).collect(),
            _ => self
                .pool
                .install(|| fresh.par_iter().flat_map_iter(checks).collect()),
        };
        // The ordered run asks for each verdict.
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

    /// What would come of a transaction if it were next, its checks made; with those of
    /// others, if they come within `patience`.
    pub(super) fn try_transaction(
        &self,
        state: &Snapshot,
        item: &[u8],
        transaction: &modmint_core::Transaction,
        patience: Duration,
    ) -> Result<(), Failure> {
        let txid = transaction.id(&self.federation.id);
        let run = |checker| {
            let items = self.items(state, checker);
            self.on_guest_thread(|| items.transaction(transaction, txid))
        };
        let checks = Arc::new(WriteDown::default());
        let result = run(Arc::clone(&checks) as Arc<dyn Checker>);
        let checks = std::mem::take(&mut *checks.0.lock());
        let all_hold = self.verdicts.verify_with_the_next(checks, patience);
        self.seen.lock().insert(sha256(item), ());
        match all_hold {
            // As it ran with every check answered yes, so it is.
            true => result,
            false => run(Arc::clone(&self.verdicts) as Arc<dyn Checker>),
        }
    }

    fn items(&self, state: &Snapshot, checker: Arc<dyn Checker>) -> Items {
        Items::new(
            Arc::clone(&self.federation),
            Overlay::new(state.clone()),
            checker,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use modmint_core::PublicKey;
    use modmint_crypto::secp;

    use super::*;

    /// A signature that holds, unless the number is a multiple of three.
    fn check(number: u8) -> Check {
        let secret = [7; 32];
        let signed = match number.is_multiple_of(3) {
            true => [0; 32],
            false => [number; 32],
        };
        Check::Schnorr {
            key: PublicKey(secp::public_key(&secret)),
            message: [number; 32],
            signature: secp::sign_schnorr(&secret, &signed).to_vec(),
        }
    }

    #[test]
    fn what_comes_while_somebody_gathers_is_in_their_batch() {
        let verdicts = Verdicts::new();
        let at_once = Duration::ZERO;
        assert!(
            verdicts.verify_with_the_next(vec![check(1)], at_once),
            "nobody does"
        );
        let made = |number| verdicts.kept.lock().get(&check(number).digest());
        std::thread::scope(|scope| {
            let mut asked = Vec::new();
            verdicts.gather(|| {
                for number in [2, 3] {
                    let verdicts = &verdicts;
                    let ask = move || verdicts.verify_with_the_next(vec![check(number)], at_once);
                    asked.push(scope.spawn(ask));
                }
                while verdicts.waiting.lock().len() < 2 {
                    std::thread::yield_now();
                }
                assert_eq!((made(2), made(3)), (None, None));
                assert!(verdicts.verify(vec![check(4)]));
                assert_eq!((made(2), made(3)), (Some(true), Some(false)));
            });
            let answers: Vec<bool> = asked
                .into_iter()
                .map(|thread| thread.join().expect("it does not panic"))
                .collect();
            assert_eq!(answers, [true, false]);
        });
        // Who gathers nothing in the end leaves what waits to whoever wants it.
        std::thread::scope(|scope| {
            let mut asked = None;
            verdicts.gather(|| {
                let ask = || verdicts.verify_with_the_next(vec![check(5)], at_once);
                asked = Some(scope.spawn(ask));
                while verdicts.waiting.lock().is_empty() {
                    std::thread::yield_now();
                }
            });
            let answer = asked.expect("it was asked").join();
            assert!(answer.expect("it does not panic"));
        });
    }

    #[test]
    fn who_has_patience_waits_for_the_next_who_gathers_and_no_longer() {
        let verdicts = Verdicts::new();
        let begun = Instant::now();
        let short = Duration::from_millis(30);
        assert!(verdicts.verify_with_the_next(vec![check(1)], short));
        assert!(begun.elapsed() >= short, "nobody came");
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let long = Duration::from_secs(600);
                verdicts.verify_with_the_next(vec![check(2)], long)
            });
            while verdicts.waiting.lock().is_empty() {
                std::thread::yield_now();
            }
            let mut together = false;
            while !asked.is_finished() {
                verdicts.gather(|| {
                    let waited = !verdicts.waiting.lock().is_empty();
                    assert!(verdicts.verify(vec![check(4)]));
                    let made = verdicts.kept.lock().get(&check(2).digest());
                    together |= waited && made == Some(true);
                });
            }
            assert!(together);
            assert!(asked.join().expect("it does not panic"));
        });
    }

    #[test]
    fn whoever_asks_at_the_same_time_learns_of_their_own_checks() {
        let verdicts = Verdicts::new();
        let ask = |thread: u8| {
            for number in (1..60).map(|n| n + thread) {
                let both_hold = !number.is_multiple_of(3) && !(number + 1).is_multiple_of(3);
                let checks = vec![check(number), check(number + 1)];
                assert_eq!(verdicts.verify(checks), both_hold, "{number}");
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || ask(thread));
            }
        });
        assert!(verdicts.waiting.lock().is_empty());
        assert!(verdicts.verify(Vec::new()));
    }
}
