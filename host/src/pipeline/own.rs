//! What this guardian itself wants: its votes, and its modules' items and bitcoin
//! transactions.

use std::{sync::atomic::Ordering, time::SystemTime};

use modmint_core::{InstanceId, consensus::ConsensusItem};

use super::{
    Pipeline,
    commit::View,
    proposals::Vote,
    state::encode,
    votes::{self, OwnVotes},
    waiters::Event,
};

/// So many seconds this guardian's clock may be from agreed time, which is in whole minutes
/// and moves once all but f guardians have voted.
const CLOCK_TOLERANCE: u64 = 300;

/// Seconds since 1970.
fn clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

impl Pipeline {
    /// Votes anew if clock, chain or fee rate moved, and asks modules what they
    /// want ordered and broadcast, if that may have changed. To be called once a
    /// second, at a new block and when [`Self::due`] says so. Blocks.
    pub fn tick(&self) {
        self.tick_at(clock());
    }

    /// Looks at the clock alone. To be called before anything can be handed in.
    pub fn look_at_clock(&self) {
        self.own_time.store(clock(), Ordering::Relaxed);
    }

    pub(super) fn tick_at(&self, now: u64) {
        self.own_time.store(now, Ordering::Relaxed);
        let view = self.view();
        self.drop_expired(&view);
        self.vote(&view, now);
        self.notice_blocks();
        for instance in std::mem::take(&mut *self.due_modules.lock()) {
            self.ask_module(&view, instance);
        }
    }

    /// What expires by then this guardian does not propose: agreed time, or its own.
    /// Agreed time stands still while the federation does, and what expired meanwhile
    /// must not be accepted when it goes on.
    pub(super) fn time_to_propose(&self, view: &View) -> u64 {
        view.time.max(self.own_time.load(Ordering::Relaxed))
    }

    /// What is wrong with this guardian's clock, by the time that is agreed.
    pub fn clock_problem(&self) -> Option<String> {
        let (agreed, own) = (self.view().time, self.own_time.load(Ordering::Relaxed));
        let apart = own.abs_diff(agreed);
        let side = match own > agreed {
            true => "ahead of",
            false => "behind",
        };
        (own > 0 && agreed > 0 && apart > CLOCK_TOLERANCE).then(|| {
            format!(
                "this guardian's clock is {apart} s {side} the time that guardians have agreed \
                 on; it refuses what is over by either"
            )
        })
    }

    fn drop_expired(&self, view: &View) {
        for txid in self.proposals.drop_expired(self.time_to_propose(view)) {
            self.waiters.wake(&Event::Transaction(txid));
        }
    }

    fn vote(&self, view: &View, now: u64) {
        let config = &self.federation.config;
        let votes = votes::own_votes(&view.state, config, self.me, &*self.chain, now);
        let Some(OwnVotes {
            time,
            fee_rate,
            blocks,
        }) = super::reads::logged(votes)
        else {
            return;
        };
        let set = |vote, item: Option<ConsensusItem>| {
            self.proposals.set_vote(vote, item.as_ref().map(encode));
        };
        set(Vote::Time, time);
        set(Vote::FeeRate, fee_rate);
        set(Vote::Blocks, blocks);
    }

    /// All modules may want something else behind a new block.
    fn notice_blocks(&self) {
        let tick = *self.chain.changed().borrow();
        if std::mem::replace(&mut *self.last_chain_change.lock(), tick) != tick {
            let all = self.federation.config.instances.iter().map(|i| i.id);
            self.due_modules.lock().extend(all);
        }
    }

    fn ask_module(&self, view: &View, instance: InstanceId) {
        let Some(module) = self.federation.module(instance) else {
            return;
        };
        let host = self.local_host(instance, view);
        match module.propose(&host) {
            Ok(items) => {
                let items = items
                    .into_iter()
                    .map(|bytes| encode(&ConsensusItem::Module { instance, bytes }));
                self.proposals.set_module_items(instance, items.collect());
            }
            Err(error) => {
                tracing::warn!(instance = instance.0, %error, "a module proposes nothing");
            }
        }
        match module.broadcast(&host) {
            Ok(transactions) => self.chain.set_broadcast(instance, transactions),
            Err(error) => {
                tracing::warn!(instance = instance.0, %error, "a module broadcasts nothing");
            }
        }
    }
}
