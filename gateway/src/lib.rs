//! The gateway between federations and the Lightning network: the daemon
//! `modmint-gatewayd`, its library.
//!
//! A federation's users trust it with nothing: what they pay is locked in contracts
//! that only a preimage opens. The gateway trusts its own node and, up to a limit that
//! its operator sets, each federation.
//!
//! - [`lightning`]: what is needed of a Lightning node, and the node inside the daemon
//! - [`journal`]: what must not be forgotten
//! - [`federations`]: the wallet that holds the gateway's e-cash, and its module `ln`
//! - [`gateway`]: paying and being paid; [`ledger`]: whether nothing is lost
//! - [`keys`]: who may ask for what; [`api`]: what can be asked over HTTP
//! - [`daemon`]: all of it, from a folder
//!
//! What a contract says only the module knows.

pub mod api;
pub mod daemon;
pub mod federations;
pub mod gateway;
pub mod journal;
pub mod keys;
pub mod ledger;
pub mod lightning;

/// Seconds since 1970 by this machine's clock.
pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
