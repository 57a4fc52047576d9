//! How a guardian has been doing: who is asked first, and who is left alone for a
//! while.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;
use serde::Serialize;
use tokio::sync::Notify;

/// The first pause behind a failure; it doubles with each more.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Latency, failures and backoff of one guardian.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
    /// Notified when it answers behind a failure.
    answered: Notify,
}

#[derive(Debug, Default)]
struct State {
    latency: Option<Duration>,
    failures: u32,
    last_error: Option<String>,
    not_before: Option<Instant>,
}

/// A guardian's health, for people.
#[derive(Clone, Debug, Serialize)]
pub struct HealthView {
    /// Smoothed time of a request, milliseconds; none before the first answer.
    pub latency_ms: Option<u64>,
    /// Failures since the last answer.
    pub failures: u32,
    /// What the last failure was.
    pub last_error: Option<String>,
}

impl Health {
    /// It answered, after `latency` if the request was one that waits for
    /// nothing.
    pub fn succeeded(&self, latency: Option<Duration>) {
        let mut state = self.state.lock();
        if state.failures > 0 {
            self.answered.notify_waiters();
        }
        state.failures = 0;
        state.last_error = None;
        state.not_before = None;
        if let Some(latency) = latency {
            // An exponentially weighted mean, one fifth for the newest.
            state.latency = Some(match state.latency {
                Some(mean) => (mean * 4 + latency) / 5,
                None => latency,
            });
        }
    }

    /// It did not answer, or no sense.
    pub fn failed(&self, error: &str) {
        let mut state = self.state.lock();
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some(error.chars().take(200).collect());
        let doubled = FIRST_PAUSE.saturating_mul(1 << (state.failures - 1).min(10));
        let pause = doubled.min(LONGEST_PAUSE);
        // A quarter of jitter, so that wallets do not come back all at once.
        let pause = pause.mul_f64(rand::thread_rng().gen_range(0.75..1.25));
        state.not_before = Some(Instant::now() + pause);
    }

    /// How long it should be left alone yet.
    pub fn pause(&self) -> Duration {
        self.state.lock().not_before.map_or(Duration::ZERO, |time| {
            time.saturating_duration_since(Instant::now())
        })
    }

    /// Waits until it may be asked again: as long as [`Self::pause`] says or until it has
    /// answered somebody else, but for so long at least.
    pub async fn rest(&self, least: Duration) {
        let answered = self.answered.notified();
        let pause = self.pause();
        tokio::time::sleep(least).await;
        tokio::select! {
            () = answered => {}
            () = tokio::time::sleep(pause.saturating_sub(least)) => {}
        }
    }

    /// Whether it has answered and has not failed since.
    pub fn is_good(&self) -> bool {
        let state = self.state.lock();
        state.failures == 0 && state.latency.is_some()
    }

    /// Whether it has failed since it last answered.
    pub fn is_bad(&self) -> bool {
        self.state.lock().failures > 0
    }

    /// For people.
    pub fn view(&self) -> HealthView {
        let state = self.state.lock();
        HealthView {
            latency_ms: state
                .latency
                .map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
            failures: state.failures,
            last_error: state.last_error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_guardian_that_fails_is_left_alone_for_longer_and_longer_until_it_answers() {
        let health = Health::default();
        assert_eq!(health.pause(), Duration::ZERO);
        health.failed("refused");
        let first = health.pause();
        assert!(first > Duration::ZERO && first < Duration::from_millis(400));
        for _ in 0..40 {
            health.failed("refused");
        }
        assert!(health.pause() > Duration::from_secs(10));
        assert!(health.pause() <= LONGEST_PAUSE.mul_f64(1.25));
        assert!(health.is_bad());
        health.succeeded(Some(Duration::from_millis(5)));
        assert_eq!(health.pause(), Duration::ZERO);
        assert!(health.is_good());
    }

    #[tokio::test]
    async fn who_answers_somebody_is_asked_again_by_all() {
        let health = Health::default();
        for _ in 0..40 {
            health.failed("refused");
        }
        let rest = health.rest(Duration::ZERO).now_or_never();
        assert!(rest.is_none(), "it is left alone");
        let begun = Instant::now();
        let rest = health.rest(Duration::from_millis(20));
        let ((), ()) = tokio::join!(rest, async { health.succeeded(None) });
        assert!(begun.elapsed() >= Duration::from_millis(20));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
