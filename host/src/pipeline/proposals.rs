//! What this guardian wants ordered: transactions that it was given, its modules'
//! items, its own votes.
//!
//! An item stays here until it has been ordered. One that was put into a unit is
//! not put into another in the same session, unless nothing has come of it for a
//! long time; what a session leaves undecided goes into the next.
//!
//! Votes come first in every unit. Behind them modules' items come first in one unit and
//! transactions in the next, and among modules another begins each time: a module that
//! wants more than fits keeps the others waiting for a unit, and not for ever.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use modmint_core::{InstanceId, MAX_ITEM_BYTES, TxId, consensus::UnitPayload, sha256};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::ordering::PayloadSource;

/// The most transactions that wait to be decided.
const MAX_TRANSACTIONS: usize = 20_000;
/// The most bytes of transactions that wait to be decided.
const MAX_TRANSACTION_BYTES: usize = 64 << 20;
/// The most items that one module may want ordered at a time.
const MAX_MODULE_ITEMS: usize = 1000;
/// After so long an item is proposed again: the unit was lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// The votes of the host, one of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Vote {
    Time,
    FeeRate,
    Blocks,
}

struct Item {
    bytes: Vec<u8>,
    hash: [u8; 32],
    /// When and for which session it was put into a unit.
    taken: Option<(u64, Instant)>,
}

impl Item {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            hash: sha256(&bytes),
            bytes,
            taken: None,
        }
    }

    fn is_free(&self, session: u64) -> bool {
        self.taken
            .is_none_or(|(taken, at)| taken < session || at.elapsed() > PATIENCE)
    }
}

struct Waiting {
    item: Item,
    txid: TxId,
    expires: u64,
}

#[derive(Default)]
struct Queue {
    votes: BTreeMap<Vote, Item>,
    modules: BTreeMap<InstanceId, Vec<Item>>,
    /// By number, in the order in which they came.
    transactions: BTreeMap<u64, Waiting>,
    numbers: HashMap<TxId, u64>,
    next_number: u64,
    transaction_bytes: usize,
    /// How many units have been filled: who comes first goes by it.
    turn: usize,
}

/// A unit that is being filled.
struct Unit {
    session: u64,
    /// In bytes.
    left: usize,
    payload: UnitPayload,
}

impl Unit {
    /// Puts it in if it is free and fits.
    fn offer(&mut self, item: &mut Item) {
        let size = item.bytes.len() + 4;
        if size <= self.left && item.is_free(self.session) {
            self.left -= size;
            item.taken = Some((self.session, Instant::now()));
            self.payload.items.push(item.bytes.clone());
        }
    }
}

impl Queue {
    /// One item of each instance, then the next of each; another instance begins each
    /// second turn, which is when modules come first.
    fn offer_modules(&mut self, unit: &mut Unit) {
        let mut instances: Vec<_> = self.modules.values_mut().map(|i| i.iter_mut()).collect();
        if instances.is_empty() {
            return;
        }
        let first = self.turn / 2 % instances.len();
        instances.rotate_left(first);
        while !instances.is_empty() {
            instances.retain_mut(|items| match items.next() {
                Some(item) => {
                    unit.offer(item);
                    true
                }
                None => false,
            });
        }
    }

    fn offer_transactions(&mut self, unit: &mut Unit) {
        for waiting in self.transactions.values_mut() {
            unit.offer(&mut waiting.item);
        }
    }

    fn items(&mut self) -> impl Iterator<Item = &mut Item> {
        let modules = self.modules.values_mut().flatten();
        let transactions = self.transactions.values_mut().map(|w| &mut w.item);
        self.votes.values_mut().chain(modules).chain(transactions)
    }

    fn is_empty(&self) -> bool {
        self.votes.is_empty() && self.modules.is_empty() && self.transactions.is_empty()
    }

    fn remove_transaction(&mut self, txid: &TxId) {
        if let Some(waiting) = self
            .numbers
            .remove(txid)
            .and_then(|number| self.transactions.remove(&number))
        {
            self.transaction_bytes -= waiting.item.bytes.len();
        }
    }
}

/// More wait than can be kept.
pub(super) struct Full {
    pub pending: usize,
}

/// See the top of this file.
#[derive(Default)]
pub(super) struct Proposals {
    queue: Mutex<Queue>,
    changed: Arc<Notify>,
}

impl Proposals {
    /// Adds a transaction, once.
    pub(super) fn add_transaction(
        &self,
        txid: TxId,
        expires: u64,
        item: Vec<u8>,
    ) -> Result<(), Full> {
        let mut queue = self.queue.lock();
        if queue.numbers.contains_key(&txid) {
            return Ok(());
        }
        let pending = queue.transactions.len();
        if pending >= MAX_TRANSACTIONS
            || queue.transaction_bytes + item.len() > MAX_TRANSACTION_BYTES
        {
            return Err(Full { pending });
        }
        let number = queue.next_number;
        queue.next_number += 1;
        queue.transaction_bytes += item.len();
        queue.numbers.insert(txid, number);
        let item = Item::new(item);
        queue.transactions.insert(
            number,
            Waiting {
                item,
                txid,
                expires,
            },
        );
        drop(queue);
        self.changed.notify_one();
        Ok(())
    }

    pub(super) fn has_transaction(&self, txid: &TxId) -> bool {
        self.queue.lock().numbers.contains_key(txid)
    }

    pub(super) fn pending_transactions(&self) -> usize {
        self.queue.lock().transactions.len()
    }

    /// Drops transactions that can not be decided any more, and says which.
    pub(super) fn drop_expired(&self, now: u64) -> Vec<TxId> {
        let mut queue = self.queue.lock();
        let expired: Vec<_> = queue
            .transactions
            .values()
            .filter(|waiting| waiting.expires <= now)
            .map(|waiting| waiting.txid)
            .collect();
        for txid in &expired {
            queue.remove_transaction(txid);
        }
        expired
    }

    /// From now on this is the vote that this guardian wants to cast, if any.
    pub(super) fn set_vote(&self, vote: Vote, item: Option<Vec<u8>>) {
        let mut queue = self.queue.lock();
        match item {
            None => {
                queue.votes.remove(&vote);
            }
            Some(bytes) => {
                if queue.votes.get(&vote).is_some_and(|v| v.bytes == bytes) {
                    return;
                }
                queue.votes.insert(vote, Item::new(bytes));
                drop(queue);
                self.changed.notify_one();
            }
        }
    }

    /// From now on these are the items that the instance wants ordered. Those that
    /// are on their way already are not sent again.
    pub(super) fn set_module_items(&self, instance: InstanceId, items: Vec<Vec<u8>>) {
        let mut hashes = HashSet::new();
        let mut wanted: Vec<Item> = Vec::new();
        for bytes in items {
            if bytes.len() > MAX_ITEM_BYTES || wanted.len() == MAX_MODULE_ITEMS {
                tracing::warn!(
                    instance = instance.0,
                    bytes = bytes.len(),
                    "a module wants more ordered than fits; the item is left out"
                );
                continue;
            }
            let item = Item::new(bytes);
            if hashes.insert(item.hash) {
                wanted.push(item);
            }
        }
        let mut queue = self.queue.lock();
        let before = queue.modules.remove(&instance).unwrap_or_default();
        let mut before: HashMap<_, _> = before.into_iter().map(|i| (i.hash, i)).collect();
        for item in &mut wanted {
            if let Some(before) = before.remove(&item.hash) {
                *item = before;
            }
        }
        let is_new = wanted.iter().any(|item| item.taken.is_none());
        if !wanted.is_empty() {
            queue.modules.insert(instance, wanted);
        }
        drop(queue);
        if is_new {
            self.changed.notify_one();
        }
    }

    /// These items, by their hashes, and transactions have been ordered, whatever
    /// came of them.
    pub(super) fn ordered(&self, items: &[[u8; 32]], transactions: &[TxId]) {
        let mut queue = self.queue.lock();
        for hash in items {
            queue.votes.retain(|_, item| item.hash != *hash);
            queue.modules.retain(|_, items| {
                items.retain(|item| item.hash != *hash);
                !items.is_empty()
            });
        }
        for txid in transactions {
            queue.remove_transaction(txid);
        }
        let all_decided = queue.is_empty();
        drop(queue);
        if all_decided {
            self.changed.notify_one();
        }
    }
}

impl Proposals {
    /// These items' units had no fuel left for them: they go into others.
    pub(super) fn left_over(&self, items: &[[u8; 32]]) {
        if items.is_empty() {
            return;
        }
        for item in self.queue.lock().items() {
            if items.contains(&item.hash) {
                item.taken = None;
            }
        }
        self.changed.notify_one();
    }
}

impl PayloadSource for Proposals {
    /// Votes first, then by turns modules' items and transactions as they came.
    fn take(&self, session: u64, max_bytes: usize) -> Option<Vec<u8>> {
        let mut unit = Unit {
            session,
            // A list's length and each entry's take four bytes.
            left: max_bytes.checked_sub(4)?,
            payload: UnitPayload::default(),
        };
        let mut queue = self.queue.lock();
        for vote in queue.votes.values_mut() {
            unit.offer(vote);
        }
        if queue.turn.is_multiple_of(2) {
            queue.offer_modules(&mut unit);
            queue.offer_transactions(&mut unit);
        } else {
            queue.offer_transactions(&mut unit);
            queue.offer_modules(&mut unit);
        }
        if unit.payload.items.is_empty() {
            return None;
        }
        queue.turn = queue.turn.wrapping_add(1);
        Some(super::state::encode(&unit.payload))
    }

    fn has_work(&self) -> bool {
        !self.queue.lock().is_empty()
    }

    fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(payload: Option<Vec<u8>>) -> Vec<Vec<u8>> {
        payload.map_or_else(Vec::new, |payload| {
            borsh::from_slice::<UnitPayload>(&payload)
                .expect("it is a payload")
                .items
        })
    }

    fn txid(n: u8) -> TxId {
        TxId([n; 32])
    }

    #[test]
    fn what_is_under_way_is_not_proposed_again_until_the_next_session() {
        let proposals = Proposals::default();
        let add = |n| proposals.add_transaction(txid(n), 100, vec![n; 10]).is_ok();
        assert!(add(1) && add(1) && add(2));
        assert_eq!(items(proposals.take(1, 100)), [vec![1; 10], vec![2; 10]]);
        assert_eq!(proposals.take(1, 100), None);
        assert!(proposals.has_work());
        proposals.ordered(&[], &[txid(1)]);
        assert_eq!(items(proposals.take(2, 100)), [vec![2; 10]]);
        proposals.ordered(&[], &[txid(2)]);
        assert!(!proposals.has_work());
    }

    #[test]
    fn a_unit_is_filled_up_to_its_limit_and_no_further() {
        let proposals = Proposals::default();
        for n in 0..10 {
            assert!(proposals.add_transaction(txid(n), 100, vec![n; 96]).is_ok());
        }
        let payload = proposals.take(1, 304).expect("there is work");
        assert_eq!(payload.len(), 304);
        assert_eq!(items(proposals.take(1, 10_000)).len(), 7);
        assert_eq!(proposals.take(1, 3), None);
    }

    #[test]
    fn a_module_that_names_an_item_again_does_not_have_it_sent_twice() {
        let proposals = Proposals::default();
        let instance = InstanceId(3);
        proposals.set_module_items(instance, vec![vec![1], vec![2], vec![1]]);
        assert_eq!(items(proposals.take(1, 100)), [[1], [2]]);
        proposals.set_module_items(instance, vec![vec![2], vec![3]]);
        assert_eq!(items(proposals.take(1, 100)), [[3]]);
        proposals.ordered(&[sha256(&[2]), sha256(&[3])], &[]);
        assert!(!proposals.has_work());
    }

    #[test]
    fn a_module_that_always_wants_more_than_fits_keeps_nobody_out() {
        let proposals = Proposals::default();
        let (greedy, modest) = (InstanceId(1), InstanceId(2));
        let big = |n: u32| [&n.to_be_bytes()[..], &[0; 16_000]].concat();
        proposals.set_module_items(modest, vec![vec![7; 30_000], vec![8; 10]]);
        assert!(
            proposals
                .add_transaction(txid(1), 100, vec![1; 30_000])
                .is_ok()
        );
        assert!(proposals.add_transaction(txid(2), 100, vec![2; 10]).is_ok());
        let mut others = Vec::new();
        for unit in 0..6 {
            // Others each time, a thousand of them.
            let wanted = (0..1000).map(|n| big(unit * 1000 + n)).collect();
            proposals.set_module_items(greedy, wanted);
            let taken = items(proposals.take(1, 32 << 10)).into_iter();
            others.extend(taken.filter(|item| item.len() != 16_004));
        }
        others.sort();
        let expected = [vec![1; 30_000], vec![2; 10], vec![7; 30_000], vec![8; 10]];
        assert_eq!(others.len(), 4);
        assert!(others == expected);
    }

    #[test]
    fn a_vote_that_is_overtaken_is_not_cast() {
        let proposals = Proposals::default();
        proposals.set_vote(Vote::Time, Some(vec![1]));
        proposals.set_vote(Vote::Time, Some(vec![2]));
        assert_eq!(items(proposals.take(1, 100)), [[2]]);
        proposals.set_vote(Vote::Time, None);
        assert!(!proposals.has_work());
    }

    #[test]
    fn expired_transactions_are_dropped() {
        let proposals = Proposals::default();
        assert!(proposals.add_transaction(txid(1), 100, vec![1]).is_ok());
        assert!(proposals.add_transaction(txid(2), 101, vec![2]).is_ok());
        assert_eq!(proposals.drop_expired(100), [txid(1)]);
        assert_eq!(items(proposals.take(1, 100)), [[2]]);
    }

    #[test]
    fn waiting_transactions_are_bounded() {
        let proposals = Proposals::default();
        let big = vec![0; MAX_ITEM_BYTES];
        let taken = (0..u32::MAX)
            .take_while(|n| {
                let mut txid = [0; 32];
                txid[..4].copy_from_slice(&n.to_be_bytes());
                proposals
                    .add_transaction(TxId(txid), 1, big.clone())
                    .is_ok()
            })
            .count();
        assert_eq!(taken, MAX_TRANSACTION_BYTES / MAX_ITEM_BYTES);
    }
}
