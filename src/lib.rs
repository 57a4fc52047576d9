//! A whole federation on one machine: a real bitcoind on regtest, guardians and
//! wallets, each a process of its own, as `modmint dev`, the tour and the
//! end-to-end tests use them, and what measures it.
//!
//! Nothing here takes part in consensus or knows how a note is made: guardians
//! are `modmintd`, wallets are `modmint-cli`, and this library only starts them,
//! speaks to them as anybody could, and ends them. [`bench`] alone has wallets in
//! this process, many of them, as the wallet's library makes them. `kit` is for
//! whoever writes a module: a new one, its component, what it is and costs, and a
//! federation with it.

pub mod bench;
pub mod bitcoind;
mod code;
pub mod dev;
pub mod federation;
pub mod kit;
pub mod lightning;
pub mod process;
pub mod programs;
pub mod tour;
pub mod wallet;

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Asks every 50 ms until there is an answer; after `patience` an error that
/// says what was waited for and what stood in the way last.
///
/// # Errors
/// Nothing within `patience`.
pub async fn wait_for<T, F>(what: &str, patience: Duration, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() >= patience => {
                return Err(anyhow!(
                    "waited {} s for {what}: {error:#}",
                    patience.as_secs()
                ));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
