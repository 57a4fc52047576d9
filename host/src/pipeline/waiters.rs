//! Who waits for what, so that exactly those are woken.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use modmint_core::{InstanceId, TxId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What can be waited for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// The transaction is decided, or never will be.
    Transaction(TxId),
    /// This key of the instance's storage is written or deleted.
    Key(InstanceId, Vec<u8>),
    /// Anything in the instance's storage is.
    Instance(InstanceId),
    /// The agreed height reaches this.
    Height(u32),
    /// The agreed time reaches this.
    Time(u64),
}

type Sleepers = HashMap<u64, Arc<Notify>>;

#[derive(Default)]
struct Inner {
    next: u64,
    waiting: usize,
    by_event: BTreeMap<Event, Sleepers>,
}

/// See the top of this file.
#[derive(Clone, Default)]
pub(super) struct Waiters(Arc<Mutex<Inner>>);

/// Someone who waits for any of some events, from when it was made.
pub(super) struct Waiter {
    waiters: Waiters,
    number: u64,
    events: Vec<Event>,
    notify: Arc<Notify>,
}

impl Waiters {
    /// So many wait at most; who comes later is answered at once.
    const MAX: usize = 20_000;
    /// So many events one may wait for.
    const MAX_EVENTS: usize = 1000;

    /// Waits for any of these from now on; none if too many wait already.
    pub(super) fn wait_for(&self, mut events: Vec<Event>) -> Option<Waiter> {
        events.truncate(Self::MAX_EVENTS);
        let notify = Arc::new(Notify::new());
        let mut inner = self.0.lock();
        if inner.waiting >= Self::MAX {
            return None;
        }
        inner.waiting += 1;
        inner.next += 1;
        let number = inner.next;
        for event in &events {
            let sleepers = inner.by_event.entry(event.clone()).or_default();
            sleepers.insert(number, Arc::clone(&notify));
        }
        Some(Waiter {
            waiters: self.clone(),
            number,
            events,
            notify,
        })
    }

    /// Wakes who waits for this.
    pub(super) fn wake(&self, event: &Event) {
        let inner = self.0.lock();
        for sleeper in inner
            .by_event
            .get(event)
            .into_iter()
            .flat_map(|s| s.values())
        {
            sleeper.notify_one();
        }
    }

    /// Wakes who waits for agreed heights and times up to these.
    pub(super) fn wake_up_to(&self, height: u32, time: u64) {
        let inner = self.0.lock();
        let heights = Event::Height(0)..=Event::Height(height);
        let times = Event::Time(0)..=Event::Time(time);
        let reached = inner
            .by_event
            .range(heights)
            .chain(inner.by_event.range(times));
        for sleeper in reached.flat_map(|(_, sleepers)| sleepers.values()) {
            sleeper.notify_one();
        }
    }

    /// Which keys of an instance anybody waits for: there are fewer of these than
    /// keys written.
    pub(super) fn keys_waited_for(&self, instance: InstanceId) -> Vec<Vec<u8>> {
        let inner = self.0.lock();
        inner
            .by_event
            .range(Event::Key(instance, Vec::new())..)
            .map_while(|(event, _)| match event {
                Event::Key(of, key) if *of == instance => Some(key.clone()),
                _ => None,
            })
            .collect()
    }
}

impl Waiter {
    /// Until one of the events has happened since this was made.
    pub(super) async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut inner = self.waiters.0.lock();
        inner.waiting -= 1;
        for event in &self.events {
            if let Some(sleepers) = inner.by_event.get_mut(event) {
                sleepers.remove(&self.number);
                if sleepers.is_empty() {
                    inner.by_event.remove(event);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn is_woken(waiter: &Waiter) -> bool {
        waiter.woken().now_or_never().is_some()
    }

    #[test]
    fn exactly_those_are_woken_who_wait_for_what_happened() {
        let waiters = Waiters::default();
        let wait = |event| waiters.wait_for(vec![event]).expect("there is room");
        let (a, b) = (TxId([1; 32]), TxId([2; 32]));
        let (for_a, for_b) = (wait(Event::Transaction(a)), wait(Event::Transaction(b)));
        waiters.wake(&Event::Transaction(a));
        assert!(is_woken(&for_a) && !is_woken(&for_b));

        let (ten, eleven) = (wait(Event::Height(10)), wait(Event::Height(11)));
        let (early, late) = (wait(Event::Time(60)), wait(Event::Time(61)));
        waiters.wake_up_to(10, 60);
        assert!(is_woken(&ten) && !is_woken(&eleven));
        assert!(is_woken(&early) && !is_woken(&late));
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let waiters = Waiters::default();
        let key = Event::Key(InstanceId(1), vec![7]);
        let waiter = waiters.wait_for(vec![key, Event::Time(9)]);
        assert_eq!(waiters.keys_waited_for(InstanceId(1)), [[7]]);
        assert!(waiters.keys_waited_for(InstanceId(0)).is_empty());
        drop(waiter);
        let inner = waiters.0.lock();
        assert!(inner.by_event.is_empty() && inner.waiting == 0);
    }
}
