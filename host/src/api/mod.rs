//! The REST API: what wallets, operators and other guardians' operators ask this
//! guardian over HTTP.
//!
//! Routes are in [`routes`], each a few lines that ask a [`Backend`]; what is
//! answered is decided behind it. Everything about HTTP itself is in `modmint_rest`:
//! bounds on connections, bodies and time, and one shape for every error. The JSON is
//! `modmint_core::rest`.

mod backend;
mod description;
mod failures;
mod routes;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use modmint_core::{
    PeerId,
    config::{FederationConfig, HexBytes},
};
use modmint_runtime::Instance;
use tokio::{net::TcpListener, sync::watch};

use crate::{health::Health, p2p::P2p, pipeline::Pipeline};

pub use modmint_rest::{Requests, serve_metrics};

/// What the API answers from.
pub struct ApiSetup {
    /// Where it listens.
    pub listener: TcpListener,
    /// Decides, and remembers.
    pub pipeline: Arc<Pipeline>,
    /// The founding config.
    pub config: Arc<FederationConfig>,
    /// BIP 340 signatures of the guardians over the config.
    pub config_signatures: Vec<(PeerId, HexBytes)>,
    /// The federation's modules, in the order of their ids.
    pub instances: Vec<Arc<Instance>>,
    /// Holds `<hash>.wasm` of every bundle that wallets may fetch.
    pub bundle_dir: PathBuf,
    /// Knows which guardians are connected.
    pub p2p: Arc<P2p>,
    /// Whether this guardian can serve.
    pub health: Arc<Health>,
    /// Counts requests.
    pub requests: Requests,
    /// Requests a second that one client may make in the long run; 0 for any number.
    pub requests_per_second: u32,
    /// Becomes true when the guardian ends.
    pub stopped: watch::Receiver<bool>,
}

/// Serves until `stopped` becomes true. Then it takes no more connections, answers
/// those who wait with how things stand, and lets requests under way end, for a few
/// seconds.
pub async fn serve(setup: ApiSetup) {
    let ApiSetup {
        listener,
        pipeline,
        config,
        config_signatures,
        instances,
        bundle_dir,
        p2p,
        health,
        requests,
        requests_per_second,
        stopped,
    } = setup;
    let description = description::federation(&config, config_signatures);
    let modules = description::modules(&instances);
    let backend = backend::Live {
        pipeline,
        p2p,
        health,
    };
    let state = routes::Api::new(routes::Setup {
        backend: Arc::new(backend),
        federation: description,
        modules,
        bundle_dir,
        requests_per_second,
        ending: stopped.clone(),
    });
    modmint_rest::serve(listener, routes::router(state, requests), stopped).await;
}
