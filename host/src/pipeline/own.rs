//! What this guardian itself wants: its votes, and its modules' items and bitcoin
//! transactions.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use modmint_core::{InstanceId, consensus::ConsensusItem};
use parking_lot::{Condvar, Mutex};

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

/// So long an instance is left alone that broke when it was asked, and twice as long each
/// time that it breaks again.
const FIRST_REST: Duration = Duration::from_secs(1);
/// But no longer than this.
const LONGEST_REST: Duration = Duration::from_secs(600);

/// Which instances are being asked what they want, and which have broken over it.
#[derive(Default)]
pub(super) struct Asking {
    instances: Mutex<BTreeMap<InstanceId, Asked>>,
    ended: Condvar,
}

#[derive(Default)]
struct Asked {
    now: bool,
    broken: Option<Broken>,
}

/// How an instance has broken.
struct Broken {
    /// In a row.
    times: u32,
    again: Instant,
    reason: String,
}

impl Asking {
    /// Whether the instance is to be asked now: nobody asks it, and it is not left alone.
    /// If so, [`Self::end`] is owed.
    fn begin(&self, instance: InstanceId, now: Instant) -> bool {
        let mut instances = self.instances.lock();
        let asked = instances.entry(instance).or_default();
        let rests = asked.broken.as_ref().is_some_and(|b| now < b.again);
        !rests && !std::mem::replace(&mut asked.now, true)
    }

    /// The instance was asked, and broke for this reason if it did: says for how long it is
    /// left alone.
    fn end(&self, instance: InstanceId, broke: Option<String>, now: Instant) -> Option<Duration> {
        let mut instances = self.instances.lock();
        let asked = instances.entry(instance).or_default();
        asked.now = false;
        let before = asked.broken.take().map_or(0, |broken| broken.times);
        let mut rest = None;
        asked.broken = broke.map(|reason| {
            let longer = FIRST_REST
                .saturating_mul(1 << before.min(20))
                .min(LONGEST_REST);
            rest = Some(longer);
            Broken {
                times: before + 1,
                again: now + longer,
                reason,
            }
        });
        self.ended.notify_all();
        rest
    }

    /// Until nobody is asked.
    #[cfg(test)]
    pub(super) fn wait(&self) {
        let mut instances = self.instances.lock();
        self.ended
            .wait_while(&mut instances, |i| i.values().any(|asked| asked.now));
    }
}

impl Pipeline {
    /// Votes anew if clock, chain or fee rate moved, and has modules asked what they
    /// want ordered and broadcast, if that may have changed: each on a thread of its own,
    /// and nobody waits for it. To be called once a second, at a new block and when
    /// [`Self::due`] says so. Blocks for as long as a disk takes.
    pub fn tick(self: &Arc<Self>) {
        self.tick_at(clock());
    }

    /// Looks at the clock alone. To be called before anything can be handed in.
    pub fn look_at_clock(&self) {
        self.own_time.store(clock(), Ordering::Relaxed);
    }

    pub(super) fn tick_at(self: &Arc<Self>, now: u64) {
        self.own_time.store(now, Ordering::Relaxed);
        let view = self.view();
        self.drop_expired(&view);
        self.vote(&view, now);
        self.notice_blocks();
        self.ask_modules();
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

    /// Has those asked that may want something else. Who cannot be asked now is due still.
    fn ask_modules(self: &Arc<Self>) {
        // Not in the loop's head, where it would stay locked.
        let due = std::mem::take(&mut *self.due_modules.lock());
        for instance in due {
            if !self.asking.begin(instance, Instant::now()) {
                self.due_modules.lock().insert(instance);
                continue;
            }
            let pipeline = Arc::clone(self);
            let asks = std::thread::Builder::new()
                .name(format!("asks-{instance}"))
                .spawn(move || pipeline.ask_apart(instance));
            if let Err(error) = asks {
                self.asked(instance, Some(format!("no thread: {error}")));
            }
        }
    }

    fn ask_apart(&self, instance: InstanceId) {
        let broke = catch_unwind(AssertUnwindSafe(|| self.ask_module(instance)))
            .unwrap_or_else(|_| Some("native code broke over it".into()));
        self.asked(instance, broke);
    }

    fn asked(&self, instance: InstanceId, broke: Option<String>) {
        if broke.is_some() {
            // What it wants is not known: nothing else need happen for it to be asked again.
            self.due_modules.lock().insert(instance);
        }
        let rest = self.asking.end(instance, broke.clone(), Instant::now());
        match (broke, rest) {
            (Some(reason), Some(rest)) => {
                let seconds = rest.as_secs();
                tracing::warn!(
                    instance = instance.0,
                    %reason,
                    seconds,
                    "a module broke when it was asked what it wants; it is left alone for a while"
                );
            }
            // While it was asked it may have become due.
            _ if self.due_modules.lock().contains(&instance) => self.due.notify_one(),
            _ => {}
        }
    }

    /// Asks an instance what it wants ordered and broadcast: nothing, if it is paused. Says
    /// how it broke, if it did.
    fn ask_module(&self, instance: InstanceId) -> Option<String> {
        let module = self.federation.module(instance)?;
        if self.paused(instance) {
            self.proposals.set_module_items(instance, Vec::new());
            self.chain.set_broadcast(instance, Vec::new());
            return None;
        }
        let host = self.local_host(instance, &self.view());
        let mut broke = None;
        match module.propose(&host) {
            Ok(items) => {
                let items = items
                    .into_iter()
                    .map(|bytes| encode(&ConsensusItem::Module { instance, bytes }));
                self.proposals.set_module_items(instance, items.collect());
            }
            Err(error) => broke = Some(format!("it proposes nothing: {error}")),
        }
        match module.broadcast(&host) {
            Ok(transactions) => self.chain.set_broadcast(instance, transactions),
            Err(error) => {
                broke.get_or_insert_with(|| format!("it broadcasts nothing: {error}"));
            }
        }
        broke
    }

    /// Instances that broke when they were asked last, for people.
    pub(super) fn broken_instances(&self) -> Vec<String> {
        let instances = self.asking.instances.lock();
        let broken = instances
            .iter()
            .filter_map(|(id, asked)| Some((id, asked.broken.as_ref()?)));
        broken
            .map(|(id, Broken { again, reason, .. })| {
                let config = self.federation.config.instance(*id);
                let kind = config.map_or("", |instance| instance.kind.as_str());
                let seconds = again.saturating_duration_since(Instant::now()).as_secs();
                format!(
                    "module instance {id} ({kind}) broke when it was asked what it wants \
                     ({reason}); it is asked again in {seconds} s"
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_breaks_is_left_alone_twice_as_long_each_time_and_not_for_ever() {
        let asking = Asking::default();
        let instance = InstanceId(3);
        let mut now = Instant::now();
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
            assert!(asking.begin(instance, now));
            assert!(!asking.begin(instance, now), "it is being asked");
            let rest = asking.end(instance, Some("it broke".into()), now);
            assert_eq!(rest, Some(Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
            assert!(!asking.begin(instance, now - Duration::from_millis(1)));
            assert!(asking.begin(InstanceId(4), now), "nobody else is");
            asking.end(InstanceId(4), None, now);
        }
        assert!(asking.begin(instance, now));
        assert_eq!(asking.end(instance, None, now), None);
        assert!(asking.begin(instance, now));
        let rest = asking.end(instance, Some("it broke".into()), now);
        assert_eq!(rest, Some(FIRST_REST));
    }
}
