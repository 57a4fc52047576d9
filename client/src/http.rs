//! The `http` effect: a module's request to the world.
//!
//! Public hosts and https alone, but on regtest, where everything is on one
//! machine; no redirects; what comes back and how long it takes is bounded.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use modmint_core::{Refusal, config::Network};
use modmint_runtime::wallet::{HttpRequest, HttpResponse};
use url::{Host, Url};

use crate::guardians::{bounded_body, describe};

const MAX_BODY_BYTES: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Pauses between tries.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(8),
    Duration::from_secs(20),
];

/// Carries a request out; `key` is the same each time for the same effect.
///
/// # Errors
/// What the machine is told if it cannot be had.
pub(crate) async fn request(
    request: &HttpRequest,
    network: Network,
    key: &str,
) -> Result<HttpResponse, Refusal> {
    let mut pauses = PAUSES.iter();
    loop {
        match once(request, network, key).await {
            Ok(response) => return Ok(response),
            Err(Failure::Never(refusal)) => return Err(refusal),
            Err(Failure::Now(reason)) => match pauses.next() {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Err(Refusal::new("http-failed", reason)),
            },
        }
    }
}

enum Failure {
    Never(Refusal),
    Now(String),
}

async fn once(request: &HttpRequest, network: Network, key: &str) -> Result<HttpResponse, Failure> {
    let never = |reason: String| Failure::Never(Refusal::new("http-not-allowed", reason));
    let anything_goes = network == Network::Regtest;
    let url: Url = request
        .url
        .parse()
        .map_err(|e| never(format!("{:?} is no address: {e}", request.url)))?;
    if url.scheme() != "https" && !(anything_goes && url.scheme() == "http") {
        return Err(never(format!("{url} is not https")));
    }
    let port = url.port_or_known_default().unwrap_or(443);
    let (name, addresses): (Option<&str>, Vec<SocketAddr>) = match url.host() {
        Some(Host::Domain(name)) => {
            let found = tokio::net::lookup_host((name, port))
                .await
                .map_err(|e| Failure::Now(format!("{name} is not found: {e}")))?;
            (Some(name), found.collect())
        }
        Some(Host::Ipv4(ip)) => (None, vec![(ip, port).into()]),
        Some(Host::Ipv6(ip)) => (None, vec![(ip, port).into()]),
        None => return Err(never(format!("{url} names no host"))),
    };
    if addresses.is_empty() {
        return Err(Failure::Now(format!("{url} has no address")));
    }
    if !anything_goes && !addresses.iter().all(|address| is_public(address.ip())) {
        return Err(never(format!("{url} is in a private network")));
    }
    let method = reqwest::Method::from_bytes(request.method.as_bytes())
        .map_err(|_| never(format!("{:?} is no method of HTTP", request.method)))?;
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(TIMEOUT);
    if let Some(name) = name {
        // What was checked is what is connected to.
        builder = builder.resolve_to_addrs(name, &addresses);
    }
    let client = builder.build().map_err(|e| Failure::Now(describe(&e)))?;
    let mut sent = client
        .request(method, url)
        .header("idempotency-key", key)
        .body(request.body.clone());
    for (header, value) in &request.headers {
        sent = sent.header(header, value);
    }
    let response = sent.send().await.map_err(|e| {
        if e.is_builder() {
            never(describe(&e))
        } else {
            Failure::Now(describe(&e))
        }
    })?;
    let status = response.status().as_u16();
    let body = bounded_body(response, MAX_BODY_BYTES)
        .await
        .map_err(|e| Failure::Now(e.to_string()))?;
    Ok(HttpResponse { status, body })
}

/// Whether an address is one of the public internet.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => is_public_v4(ip),
            None => is_public_v6(ip),
        },
    }
}

/// Not in IANA's registry of special-purpose addresses.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.is_multicast()
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240)
}

/// In 2000::/3, global unicast, but for documentation, and what only wraps an
/// IPv4 address (6to4, Teredo).
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    a & 0xe000 == 0x2000
        && !(a == 0x2001 && (b == 0xdb8 || b < 0x200))
        && a != 0x2002
        && !(a == 0x3fff && b < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for public in ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(is_public(public.parse().expect(public)), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
        ] {
            assert!(!is_public(private.parse().expect(private)), "{private}");
        }
    }

    #[tokio::test]
    async fn a_module_cannot_aim_a_wallet_at_its_own_machine() {
        for url in [
            "https://127.0.0.1/",
            "https://localhost/",
            "https://[::1]/",
            "http://example.com/",
            "file:///etc/passwd",
        ] {
            let wanted = HttpRequest {
                method: "GET".into(),
                url: url.into(),
                headers: vec![],
                body: vec![],
            };
            let refusal = request(&wanted, Network::Bitcoin, "key")
                .await
                .expect_err(url);
            assert_eq!(refusal.code, "http-not-allowed", "{url}: {refusal}");
        }
    }
}
