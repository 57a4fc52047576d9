//! The wallet as a process that other programs ask over REST: `modmint-cli serve`.
//!
//! - `api`: who may ask, health, the description; `federations` and `operations`: the
//!   routes; `arguments`: JSON as a module's parameters declare it; `error`: why a route
//!   does not answer
//! - [`types`]: the JSON
//! - `key`: the one key that opens all of it
//!
//! Everything about HTTP itself is in `modmint_rest`, everything about money behind
//! [`Wallet`]. Nothing here knows a module.

mod api;
mod arguments;
mod error;
mod federations;
mod key;
mod operations;
pub mod types;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use modmint_rest::{Process, Requests, program};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch};

use crate::{Wallet, WalletError};

/// How long the wallet may take to close; what counts is on the disk.
const CLOSING: Duration = Duration::from_secs(2);

/// What a run is given.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where the REST API listens; port 0 for any.
    pub listen: SocketAddr,
    /// Whether that may be beyond this machine.
    pub allow_remote: bool,
    /// Where Prometheus reads metrics, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
}

/// What whoever starts it needs to know to ask it.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where the key lies.
    pub key_file: PathBuf,
}

/// Serves a wallet until SIGTERM or SIGINT, and closes it. Unfinished operations go on
/// all the while. `announce` is called once it answers.
///
/// # Errors
/// The wallet has no seed, nobody may listen there, or the disk fails.
pub async fn serve(
    wallet: Arc<Wallet>,
    setup: Setup,
    announce: impl FnOnce(&Serving),
) -> Result<(), WalletError> {
    let Setup {
        listen,
        allow_remote,
        metrics_listen,
    } = setup;
    if !listen.ip().is_loopback() && !allow_remote {
        return Err(WalletError::Usage(format!(
            "{listen} is beyond this machine, and the key and e-cash would cross the network in the clear; listen on 127.0.0.1 behind a reverse proxy that speaks TLS, or say --allow-remote"
        )));
    }
    if !wallet.has_seed() {
        return Err(no_seed(wallet.directory()));
    }
    let key_file = wallet.directory().join("api.key");
    let key = key::Key::at(&key_file)?;
    let listener = bind(listen).await?;
    let address = listener
        .local_addr()
        .map_err(|e| cannot_listen(listen, &e))?;
    let metrics = match metrics_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    wallet.resume().await?;
    for federation in wallet.federations() {
        tokio::spawn(federations::begin_once_found(federation));
    }

    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        program::told_to_end().await;
        // Whoever listens ends; nobody may.
        let _ = stop.send(true);
    });
    let mut registry = Registry::with_prefix("modmint_wallet");
    registry.register_collector(Box::new(Process));
    let requests = Requests::new(&mut registry);
    if let Some(listener) = metrics {
        let stopped = stopped.clone();
        tokio::spawn(modmint_rest::serve_metrics(listener, registry, stopped));
    }
    let router = api::router(wallet.clone(), key, stopped.clone(), requests);
    tracing::info!(%address, key = %key_file.display(), "serving");
    announce(&Serving { address, key_file });
    modmint_rest::serve(listener, router, stopped).await;
    tracing::info!("ending");
    // What is under way goes on at the next start.
    let closed = async {
        for federation in wallet.federations() {
            federation.close().await;
        }
    };
    let _ = tokio::time::timeout(CLOSING, closed).await;
    Ok(())
}

fn no_seed(directory: &Path) -> WalletError {
    WalletError::Usage(format!(
        "the wallet in {} has no seed yet; `modmint-cli init` makes one and shows its words, once",
        directory.display()
    ))
}

fn cannot_listen(address: SocketAddr, reason: &std::io::Error) -> WalletError {
    WalletError::Usage(format!(
        "nobody can listen at {address}: {reason}; another address is expected"
    ))
}

async fn bind(address: SocketAddr) -> Result<TcpListener, WalletError> {
    TcpListener::bind(address)
        .await
        .map_err(|e| cannot_listen(address, &e))
}
