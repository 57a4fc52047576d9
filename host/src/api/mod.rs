//! The REST API: what wallets, operators and other guardians' operators ask this
//! guardian over HTTP.
//!
//! Routes are in [`routes`], each a few lines that ask a [`Backend`]; what is
//! answered is decided behind it. Everything about HTTP itself is here: bounds on
//! connections, bodies, time and waiting, and one shape for every error
//! ([`problem`]). The JSON is `modmint_core::rest`.

mod backend;
mod description;
mod problem;
mod routes;
mod server;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use modmint_core::{
    PeerId,
    config::{FederationConfig, HexBytes},
};
use modmint_runtime::Instance;
use tokio::{net::TcpListener, sync::watch};

use crate::{p2p::P2p, pipeline::Pipeline};

/// Sentences about what is wrong at the moment.
pub type Problems = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

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
    /// This guardian.
    pub me: PeerId,
    /// The federation's modules, in the order of their ids.
    pub instances: Vec<Arc<Instance>>,
    /// Holds `<hash>.wasm` of every bundle that wallets may fetch.
    pub bundle_dir: PathBuf,
    /// Knows which guardians are connected.
    pub p2p: Arc<P2p>,
    /// Why this guardian cannot serve, beyond what the connections tell; it is not
    /// ready while there is any.
    pub problems: Problems,
    /// What its operator should know although it serves: bitcoind is away.
    pub warnings: Problems,
    /// Becomes true when the guardian ends.
    pub stopped: watch::Receiver<bool>,
}

/// Serves until `stopped` becomes true, then lets requests under way end, for a
/// few seconds.
pub async fn serve(setup: ApiSetup) {
    let ApiSetup {
        listener,
        pipeline,
        config,
        config_signatures,
        me,
        instances,
        bundle_dir,
        p2p,
        problems,
        warnings,
        stopped,
    } = setup;
    let description = description::federation(&config, config_signatures);
    let modules = description::modules(&instances);
    let backend = backend::Live {
        pipeline,
        p2p,
        me,
        threshold: config.threshold(),
        problems,
        warnings,
    };
    let state = routes::Api::new(Arc::new(backend), description, modules, bundle_dir);
    server::serve(listener, routes::router(state), stopped).await;
}
