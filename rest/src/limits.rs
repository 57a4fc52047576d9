//! How much one client may ask for.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    middleware::Next,
    response::Response,
};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};

use crate::problem::Failure;

/// Clients that are remembered before those that have rested are forgotten.
const MAX_REMEMBERED: usize = 10_000;
/// So many seconds' worth of requests may come at once.
pub const BURST_SECONDS: u32 = 10;

/// Counts requests by client. Clones count together.
#[derive(Clone)]
pub struct Rate(Option<Arc<DefaultKeyedRateLimiter<IpAddr>>>);

impl Rate {
    /// So many requests a second and client in the long run, 0 for any number.
    pub fn new(per_second: u32) -> Self {
        let quota = NonZeroU32::new(per_second).map(|rate| {
            let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1));
            Quota::per_second(rate).allow_burst(burst)
        });
        Self(quota.map(|quota| Arc::new(RateLimiter::keyed(quota))))
    }

    /// Takes one request of a client's, or says how long it should wait.
    fn take(&self, client: IpAddr) -> Result<(), Duration> {
        let Some(limiter) = &self.0 else {
            return Ok(());
        };
        if limiter.len() > MAX_REMEMBERED {
            limiter.retain_recent();
        }
        let now = DefaultClock::default().now();
        limiter
            .check_key(&client)
            .map_err(|until| until.wait_time_from(now))
    }
}

/// The address at the other end of a connection.
#[derive(Clone, Copy)]
pub struct Address(pub IpAddr);

/// Who asks; none for this machine itself, which is not limited. A reverse proxy on
/// this machine names its client last in `X-Forwarded-For`; from anywhere else that
/// header could say anything.
fn client(address: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
    let address = address.to_canonical();
    if !address.is_loopback() {
        return Some(network(address));
    }
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back()?;
    let last = forwarded.to_str().ok()?.rsplit(',').next()?;
    let named: IpAddr = last.trim().parse().ok()?;
    Some(network(named))
}

/// Whom an address counts as: itself, or its network of IPv6 (/64), since whoever has one
/// address of that has 2^64 of them.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Refuses what comes too fast.
pub async fn bound_rate(
    State(rate): State<Rate>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let address = request.extensions().get::<Address>();
    let client = address.and_then(|address| client(address.0, request.headers()));
    if let Some(Err(wait)) = client.map(|client| rate.take(client)) {
        return Err(Failure::after(
            wait,
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-requests",
            "this client asks faster than it may; wait as long as Retry-After says",
        ));
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use axum::http::HeaderValue;

    use super::*;

    fn forwarded(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_proxy_of_this_machine_is_believed_and_nobody_else() {
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        let far: IpAddr = "192.0.2.1".parse().unwrap();
        let named: IpAddr = "198.51.100.7".parse().unwrap();
        for headers in [["198.51.100.7"], ["10.0.0.1, 198.51.100.7"]] {
            assert_eq!(client(local, &forwarded(&headers)), Some(named));
            assert_eq!(client(far, &forwarded(&headers)), Some(far));
        }
        let twice = forwarded(&["10.0.0.1", "198.51.100.7"]);
        assert_eq!(client(local, &twice), Some(named));
        assert_eq!(client(local, &forwarded(&[])), None);
        assert_eq!(client(local, &forwarded(&["unknown"])), None);
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let none = HeaderMap::new();
        let client = |text: &str| client(text.parse().unwrap(), &none);
        assert_eq!(client("2001:db8::1"), client("2001:db8::2:3"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }

    #[test]
    fn a_client_that_asks_too_fast_is_told_how_long_to_wait_and_others_are_served() {
        let rate = Rate::new(2);
        let (one, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let taken = (0..1000).take_while(|_| rate.take(one).is_ok()).count();
        assert!((20..30).contains(&taken), "{taken}");
        let wait = rate.take(one).unwrap_err();
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        assert!(rate.take(other).is_ok());
        let unlimited = Rate::new(0);
        assert!((0..10_000).all(|_| unlimited.take(one).is_ok()));
    }
}
