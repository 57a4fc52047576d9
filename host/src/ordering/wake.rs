//! Leases: how guardians with nothing to say know that rounds must go on.
//!
//! An idle guardian waits in `get_data`. It cannot be told of new work by a unit,
//! because the unit's maker may be stuck behind units that the idle ones have not
//! made. So whoever has undecided work says so in messages of their own, again and
//! again, and while such a lease is fresh nobody waits. Whose work is decided takes
//! its lease back, or the others would make empty rounds until it ends.

use std::time::{Duration, Instant};

use modmint_core::PeerId;
use parking_lot::Mutex;

/// How long a lease is fresh.
pub(super) const LEASE: Duration = Duration::from_millis(120);
/// How often it is renewed while rounds go on.
pub(super) const RENEWAL: Duration = Duration::from_millis(30);
/// How often at least, when they do not, because too few guardians are there.
pub(super) const SLOWEST_RENEWAL: Duration = Duration::from_millis(500);

/// The latest lease of each guardian.
pub(super) struct Leases {
    latest: Mutex<Vec<Option<(u64, Instant)>>>,
}

impl Leases {
    pub fn new(count: usize) -> Self {
        Self {
            latest: Mutex::new(vec![None; count]),
        }
    }

    /// A guardian has work in a session.
    pub fn renew(&self, peer: PeerId, session: u64) {
        if let Some(latest) = self.latest.lock().get_mut(peer.index()) {
            *latest = Some((session, Instant::now() + LEASE));
        }
    }

    /// All a guardian's work in a session is decided.
    pub fn end(&self, peer: PeerId, session: u64) {
        if let Some(latest) = self.latest.lock().get_mut(peer.index())
            && latest.is_some_and(|(known, _)| known == session)
        {
            *latest = None;
        }
    }

    /// Whether anybody has work in a session that `of` accepts.
    pub fn any_fresh(&self, of: impl Fn(u64) -> bool) -> bool {
        let now = Instant::now();
        self.latest
            .lock()
            .iter()
            .flatten()
            .any(|(session, until)| *until > now && of(*session))
    }
}

/// How long to wait before a lease is renewed, given how long ago a round was
/// last made by anybody.
pub(super) fn renewal(since_progress: Duration) -> Duration {
    (since_progress / 10).clamp(RENEWAL, SLOWEST_RENEWAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_of_one_session_and_one_guardian_and_ends() {
        let leases = Leases::new(4);
        leases.renew(PeerId(2), 7);
        leases.renew(PeerId(9), 8);
        assert!(leases.any_fresh(|session| session == 7));
        assert!(!leases.any_fresh(|session| session == 8));
        leases.renew(PeerId(2), 9);
        assert!(!leases.any_fresh(|session| session == 7));
        leases.end(PeerId(2), 7);
        leases.end(PeerId(1), 9);
        assert!(leases.any_fresh(|session| session == 9));
        leases.end(PeerId(2), 9);
        assert!(!leases.any_fresh(|_| true));
        leases.renew(PeerId(2), 9);
        let last = Instant::now() + LEASE;
        while Instant::now() <= last {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!leases.any_fresh(|_| true));
    }

    #[test]
    fn without_progress_leases_are_renewed_ever_more_rarely_but_for_ever() {
        assert_eq!(renewal(Duration::ZERO), RENEWAL);
        assert_eq!(renewal(Duration::from_secs(1)), Duration::from_millis(100));
        assert_eq!(renewal(Duration::from_secs(3600)), SLOWEST_RENEWAL);
    }
}
