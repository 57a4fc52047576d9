//! The ordered run: epochs one after the other, items one after the other, over
//! an overlay in memory. This run alone counts, and it is the same on every
//! guardian.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use modmint_core::{
    Hash32, InstanceId, MAX_EXPIRY_SECONDS, MAX_ITEM_BYTES, MAX_UNIT_BYTES, PeerId, Transaction,
    TxId,
    consensus::{ConsensusItem, OrderedUnit, UnitPayload},
    sha256,
};

use super::{
    Stop,
    history::Progress,
    hosts::{Checker, Watched},
    items::{Failure, Federation, Halt, Items, MAX_ITEM_WRITES, MAX_TRANSACTION_FUEL, Rejection},
    state::{self, Conviction, Decision, Fault, Rejected},
    votes,
};
use crate::{
    ordering::Epoch,
    storage::{Changes, Overlay, Snapshot},
};

/// So many decisions are forgotten in one epoch at most.
const FORGET_AT_ONCE: usize = 1000;

/// Items of a unit begin while those before have taken less fuel than this; the
/// others stay undecided. A full unit of the stock modules' transactions takes less.
const MAX_UNIT_FUEL: u64 = MAX_TRANSACTION_FUEL;

/// And while those before have written less than this, in bytes: what an epoch changes
/// lies in memory.
const MAX_UNIT_WRITES: u64 = MAX_ITEM_WRITES;

/// The canonical bytes of the items in a unit's payload, and what its maker did wrong
/// where there is something else in its place.
fn decode_unit(payload: &[u8]) -> (Vec<Vec<u8>>, Option<Fault>) {
    if payload.len() > MAX_UNIT_BYTES {
        return (Vec::new(), Some(Fault::TooLarge));
    }
    let Ok(UnitPayload { mut items }) = borsh::from_slice(payload) else {
        return (Vec::new(), Some(Fault::Undecodable));
    };
    let all = items.len();
    items.retain(|item| item.len() <= MAX_ITEM_BYTES);
    let fault = (items.len() < all).then_some(Fault::TooLarge);
    (items, fault)
}

/// The canonical bytes of the items in a unit's payload.
pub(super) fn items_of(payload: &[u8]) -> Vec<Vec<u8>> {
    decode_unit(payload).0
}

/// What the ordered run has made, for the commit.
pub(super) struct Ordered {
    pub changes: Changes,
    pub progress: Progress,
    /// Epochs with units, by session and number.
    pub epochs: Vec<(u64, u32, Vec<OrderedUnit>)>,
    /// Transactions that were ordered, whatever came of them, and what a refusal
    /// says to people.
    pub transactions: Vec<(TxId, Option<String>)>,
    /// Hashes of this guardian's own items that were ordered.
    pub own_items: Vec<[u8; 32]>,
    /// Hashes of those for which their units had no fuel, or no more to write, left.
    pub left_over: Vec<[u8; 32]>,
    /// How many transactions have been accepted, and refused.
    pub decided: (u64, u64),
    /// Guardians that have been convicted.
    pub convicted: Vec<PeerId>,
    /// Whether the session ends behind the last epoch.
    pub ended: bool,
}

/// See the top of this file.
pub(super) struct OrderedRun {
    federation: Arc<Federation>,
    me: PeerId,
    items: Items,
    checks: Arc<Watched>,
    /// What modules have written in all epochs so far, in bytes.
    written: u64,
    progress: Progress,
    epochs: Vec<(u64, u32, Vec<OrderedUnit>)>,
    transactions: Vec<(TxId, Option<String>)>,
    own_items: Vec<[u8; 32]>,
    left_over: Vec<[u8; 32]>,
    decided: (u64, u64),
    convicted: Vec<PeerId>,
}

/// Kinds of votes that a unit has cast: one of each counts.
#[derive(Default)]
struct VotesInUnit {
    time: bool,
    fee_rate: bool,
    blocks: bool,
}

impl VotesInUnit {
    /// Whether this is a vote of a kind that the unit has cast already.
    fn repeats(&mut self, item: &ConsensusItem) -> bool {
        let cast = match item {
            ConsensusItem::Time(_) => &mut self.time,
            ConsensusItem::FeeRate(_) => &mut self.fee_rate,
            ConsensusItem::Blocks(_) => &mut self.blocks,
            ConsensusItem::Transaction(_) | ConsensusItem::Module { .. } => return false,
        };
        std::mem::replace(cast, true)
    }
}

impl OrderedRun {
    pub(super) fn new(
        federation: Arc<Federation>,
        me: PeerId,
        base: Snapshot,
        progress: Progress,
        checker: Arc<dyn Checker>,
    ) -> Self {
        let checks = Arc::new(Watched::new(checker));
        let items = Items::new(
            Arc::clone(&federation),
            Overlay::new(base),
            Arc::clone(&checks) as Arc<dyn Checker>,
        );
        Self {
            federation,
            me,
            items,
            checks,
            written: 0,
            progress,
            epochs: Vec::new(),
            transactions: Vec::new(),
            own_items: Vec::new(),
            left_over: Vec::new(),
            decided: (0, 0),
            convicted: Vec::new(),
        }
    }

    /// What has been made so far.
    pub(super) fn finish(self, base: Snapshot, ended: bool) -> Ordered {
        let overlay = std::mem::replace(&mut *self.items.state.lock(), Overlay::new(base));
        Ordered {
            changes: overlay.into_changes(),
            progress: self.progress,
            epochs: self.epochs,
            transactions: self.transactions,
            own_items: self.own_items,
            left_over: self.left_over,
            decided: self.decided,
            convicted: self.convicted,
            ended,
        }
    }

    /// What modules have written so far, in bytes.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Applies the next epoch.
    pub(super) fn epoch(&mut self, epoch: &Epoch) -> Result<(), Stop> {
        for unit in &epoch.units {
            self.unit(unit)?;
        }
        if !epoch.units.is_empty() {
            self.forget_decisions().map_err(|halt| self.stop(halt))?;
            self.epochs
                .push((epoch.session, epoch.index, epoch.units.clone()));
        }
        self.progress.advance(&epoch.units);
        Ok(())
    }

    /// Founds every instance.
    pub(super) fn found(&mut self) -> Result<(), (InstanceId, Failure)> {
        let config = Arc::clone(&self.federation.config);
        state::set_tip(&mut self.items.state.lock(), config.chain_start);
        for (instance, module) in config.instances.iter().zip(&self.federation.modules) {
            state::set_module(&mut self.items.state.lock(), instance);
            let founded = self.items.paid(module.init(&self.items.host(instance.id)));
            founded.map_err(|error| (instance.id, error.into()))?;
        }
        Ok(())
    }

    /// Whether the session ends behind the epochs applied so far: what is ordered
    /// alone says so.
    pub(super) fn session_is_full(&mut self) -> Result<bool, Stop> {
        let limits = self.federation.config.session;
        let (start, now) = self.session_time().map_err(|halt| self.stop(halt))?;
        Ok(self.progress.epoch >= limits.epochs
            || self.progress.bytes >= limits.bytes
            || now >= start.saturating_add(limits.seconds))
    }

    /// Agreed time at the session's beginning, and now. The first session begins
    /// when time is first agreed on.
    fn session_time(&self) -> Result<(u64, u64), Halt> {
        let mut state = self.items.state.lock();
        let now = state::time(&*state)?;
        let start = state::session_start(&*state)?;
        if start == 0 && now > 0 {
            state::set_session_start(&mut state, now);
            return Ok((now, now));
        }
        if now == 0 {
            // Nothing to measure by.
            return Ok((u64::MAX, 0));
        }
        Ok((start, now))
    }

    /// Holds the modules' own accounts against the host's books, forgets convictions,
    /// and begins the next session's time.
    pub(super) fn end_session(&mut self) -> Result<(), Stop> {
        for id in (0..self.federation.modules.len() as u16).map(InstanceId) {
            self.audit(id).map_err(|halt| self.stop(halt))?;
        }
        let mut state = self.items.state.lock();
        state::forget_convictions(&mut state)?;
        let now = state::time(&*state)?;
        state::set_session_start(&mut state, now);
        Ok(())
    }

    /// A module that says it owes more than was paid in is paused. One that owes
    /// less has earned fees; one whose account breaks is not trusted with an
    /// opinion, the books hold without it.
    fn audit(&mut self, instance: InstanceId) -> Result<(), Halt> {
        let Some(module) = self.federation.module(instance) else {
            return Ok(());
        };
        let audit = self.items.paid(module.audit(&self.items.host(instance)));
        let lines = match audit.map_err(Failure::from) {
            Ok(lines) => lines,
            Err(Failure::Halt(halt)) => return Err(halt),
            Err(failure) => {
                tracing::warn!(instance = instance.0, ?failure, "a module's audit broke");
                return Ok(());
            }
        };
        let owed: i128 = lines.iter().map(|line| -i128::from(line.msat)).sum();
        let balance = state::books(&*self.items.state.lock(), instance)?.balance;
        if owed > balance {
            tracing::error!(
                instance = instance.0,
                owed,
                balance,
                "the module says that it owes more than was paid in"
            );
            self.pause(instance)?;
        }
        Ok(())
    }

    fn unit(&mut self, unit: &OrderedUnit) -> Result<(), Stop> {
        if unit.creator.index() >= self.federation.config.size() {
            return Ok(());
        }
        let (items, fault) = decode_unit(&unit.payload);
        if let Some(fault) = fault {
            self.convict(unit.creator, fault)?;
        }
        let mut votes = VotesInUnit::default();
        self.items.set_fuel(0);
        self.items.set_written(0);
        for item in items {
            let fits = self.items.fuel() < MAX_UNIT_FUEL && self.items.written() < MAX_UNIT_WRITES;
            if fits {
                self.item(unit.creator, &item, &mut votes)?;
            }
            if unit.creator == self.me {
                let ordered = if fits {
                    &mut self.own_items
                } else {
                    &mut self.left_over
                };
                ordered.push(sha256(&item));
            }
        }
        self.written += self.items.written();
        Ok(())
    }

    /// Honest guardians check what they propose. Who has shown that it does not is
    /// not listened to until the session ends: its transactions are ignored.
    fn convict(&mut self, peer: PeerId, fault: Fault) -> Result<(), Stop> {
        let epoch = self.progress.epoch;
        let convicted = {
            let mut state = self.items.state.lock();
            let convicted = state::conviction(&*state, peer);
            if let Ok(None) = convicted {
                state::convict(&mut state, peer, &Conviction { epoch, fault });
            }
            convicted
        };
        if convicted.map_err(Stop::Storage)?.is_none() {
            let session = self.progress.session;
            self.convicted.push(peer);
            tracing::error!(%peer, session, epoch, %fault, "a guardian is convicted: its transactions are ignored until the session ends");
        }
        Ok(())
    }

    /// One item. Should native code break over it, it is tried once more; if that
    /// breaks too, this guardian stops and says which item it was.
    fn item(&mut self, creator: PeerId, item: &[u8], votes: &mut VotesInUnit) -> Result<(), Stop> {
        if self.skipped(item) {
            return Ok(());
        }
        let Ok(decoded) = borsh::from_slice::<ConsensusItem>(item) else {
            return self.convict(creator, Fault::Undecodable);
        };
        if votes.repeats(&decoded) {
            return Ok(());
        }
        let (fuel, written) = (self.items.fuel(), self.items.written());
        for _ in 0..2 {
            self.checks.take_failed();
            let attempt = AssertUnwindSafe(|| self.decoded_item(creator, &decoded));
            match catch_unwind(attempt) {
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(fault))) => return self.convict(creator, fault),
                Ok(Err(Halt::Host(error))) => return Err(self.stopped_by(item, error.to_string())),
                Ok(Err(halt)) => return Err(self.stop(halt)),
                Err(_) => {
                    self.items.state.lock().rollback();
                    self.items.set_fuel(fuel);
                    self.items.set_written(written);
                }
            }
        }
        Err(self.stopped_by(item, "native code broke twice over it".into()))
    }

    fn stopped_by(&self, item: &[u8], cause: String) -> Stop {
        Stop::Item {
            session: self.progress.session,
            epoch: self.progress.epoch,
            item: Hash32(sha256(item)),
            cause,
        }
    }

    /// Whether guardians have agreed to pass over this item.
    fn skipped(&mut self, item: &[u8]) -> bool {
        let session = self.progress.session;
        let skip = &self.federation.skip;
        // Hashing every item for an empty list would be work for nothing.
        let skipped = !skip.is_empty() && skip.skips(session, &sha256(item));
        if skipped {
            let item = Hash32(sha256(item));
            tracing::warn!(session, epoch = self.progress.epoch, %item, "an item is skipped");
        }
        skipped
    }

    /// Says what its maker is to be convicted for, if it is.
    fn decoded_item(
        &mut self,
        creator: PeerId,
        item: &ConsensusItem,
    ) -> Result<Option<Fault>, Halt> {
        match item {
            ConsensusItem::Transaction(transaction) => {
                return self.transaction(creator, transaction);
            }
            ConsensusItem::Module { instance, bytes } => {
                self.module_item(creator, *instance, bytes)?;
            }
            ConsensusItem::Time(_) | ConsensusItem::FeeRate(_) | ConsensusItem::Blocks(_) => {
                self.vote(creator, item)?;
            }
        }
        Ok(None)
    }

    fn vote(&mut self, creator: PeerId, item: &ConsensusItem) -> Result<(), Halt> {
        let config = &self.federation.config;
        let mut state = self.items.state.lock();
        state.push();
        match item {
            ConsensusItem::Time(vote) => votes::vote_time(&mut state, config, creator, *vote)?,
            ConsensusItem::FeeRate(vote) => {
                votes::vote_fee_rate(&mut state, config, creator, *vote)?;
            }
            ConsensusItem::Blocks(vote) => {
                votes::vote_blocks(&mut state, config, creator, vote)?;
            }
            ConsensusItem::Transaction(_) | ConsensusItem::Module { .. } => {}
        }
        state.merge();
        Ok(())
    }

    /// A transaction is decided once, before it expires. What is not decided
    /// leaves nothing. Says what `creator` is to be convicted for, if it is.
    fn transaction(
        &mut self,
        creator: PeerId,
        transaction: &Transaction,
    ) -> Result<Option<Fault>, Halt> {
        if state::conviction(&*self.items.state.lock(), creator)?.is_some() {
            return Ok(None);
        }
        if transaction.check_shape().is_err() {
            return Ok(Some(Fault::Malformed));
        }
        let txid = transaction.id(&self.federation.id);
        let (mut message, mut fault) = (None, None);
        if self.can_be_decided(transaction, &txid)? {
            self.items.state.lock().push();
            let result = self.items.transaction(transaction, txid);
            // What a check says depends on nothing but its own contents, and those
            // follow from the transaction alone: its proposer saw it fail as well.
            let refused = result.is_err();
            fault = (refused && self.checks.take_failed()).then_some(Fault::Signature);
            message = self.decide(txid, transaction.body.expires, result)?;
        }
        self.transactions.push((txid, message));
        Ok(fault)
    }

    fn can_be_decided(&self, transaction: &Transaction, txid: &TxId) -> Result<bool, Halt> {
        let state = self.items.state.lock();
        let now = state::time(&*state)?;
        let expires = transaction.body.expires;
        let in_time = now < expires && expires <= now.saturating_add(MAX_EXPIRY_SECONDS);
        Ok(in_time && state::decision(&*state, txid)?.is_none())
    }

    /// Keeps what the transaction wrote, or throws it away, and writes down what
    /// became of it. Gives a refusal's message.
    fn decide(
        &mut self,
        txid: TxId,
        expires: u64,
        result: Result<(), Failure>,
    ) -> Result<Option<String>, Halt> {
        let rejection = match result {
            Ok(()) => None,
            Err(failure) => {
                self.items.state.lock().rollback();
                match failure {
                    Failure::Rejected(rejection) => Some(rejection),
                    Failure::Unbacked(instance, rejection) => {
                        self.pause(instance)?;
                        Some(rejection)
                    }
                    Failure::Signature(input) => {
                        tracing::debug!(%txid, input, "a signature fails; nothing is decided");
                        return Ok(None);
                    }
                    Failure::Halt(halt) => return Err(halt),
                }
            }
        };
        match rejection {
            None => self.decided.0 += 1,
            Some(_) => self.decided.1 += 1,
        }
        let message = rejection.as_ref().map(|r| r.message.clone());
        let decision = Decision {
            session: self.progress.session,
            epoch: self.progress.epoch,
            rejected: rejection.map(
                |Rejection {
                     code,
                     message: _,
                     input,
                     output,
                 }| Rejected {
                    code,
                    input,
                    output,
                },
            ),
        };
        let mut state = self.items.state.lock();
        state::decide(&mut state, &txid, expires, &decision);
        state.merge();
        Ok(message)
    }

    fn module_item(
        &mut self,
        creator: PeerId,
        instance: InstanceId,
        item: &[u8],
    ) -> Result<(), Halt> {
        self.items.state.lock().push();
        let failure = match self.items.module_item(creator, instance, item) {
            Ok(()) => {
                self.items.state.lock().merge();
                return Ok(());
            }
            Err(failure) => failure,
        };
        self.items.state.lock().rollback();
        match failure {
            Failure::Halt(halt) => Err(halt),
            Failure::Unbacked(instance, _) => self.pause(instance),
            Failure::Rejected(_) | Failure::Signature(_) => {
                tracing::debug!(
                    peer = creator.0,
                    instance = instance.0,
                    ?failure,
                    "item refused"
                );
                Ok(())
            }
        }
    }

    fn pause(&mut self, instance: InstanceId) -> Result<(), Halt> {
        tracing::error!(
            instance = instance.0,
            "module paused: it would have paid out more than it has"
        );
        let mut state = self.items.state.lock();
        let mut books = state::books(&*state, instance)?;
        books.paused = true;
        state::set_books(&mut state, instance, &books);
        Ok(())
    }

    fn forget_decisions(&mut self) -> Result<(), Halt> {
        let mut state = self.items.state.lock();
        let now = state::time(&*state)?;
        Ok(state::forget_decisions(&mut state, now, FORGET_AT_ONCE)?)
    }

    fn stop(&self, halt: Halt) -> Stop {
        match halt {
            Halt::Storage(error) => Stop::Storage(error),
            Halt::Host(source) => Stop::Host {
                session: self.progress.session,
                epoch: self.progress.epoch,
                source,
            },
        }
    }
}
