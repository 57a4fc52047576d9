//! What of the federation never changes while this guardian runs.

use std::sync::Arc;

use modmint_core::{
    PeerId,
    config::{FederationConfig, HexBytes, Invite},
    rest::{EndpointResponse, FederationResponse, GuardianResponse, ModuleResponse},
};
use modmint_runtime::Instance;

/// The founding config, for wallets that join.
pub(super) fn federation(
    config: &FederationConfig,
    signatures: Vec<(PeerId, HexBytes)>,
) -> FederationResponse {
    let invite = Invite {
        federation: config.id(),
        api_urls: config.peers.iter().map(|p| p.api_url.clone()).collect(),
    };
    let guardians = config.peer_ids().zip(&config.peers);
    FederationResponse {
        id: config.id(),
        name: config.name.clone(),
        network: config.network.name().to_owned(),
        config: HexBytes(config.encode()),
        signatures,
        invite: invite.to_string(),
        // There are at most as many guardians as a `PeerId` can name.
        threshold: config.threshold() as u16,
        guardians: guardians
            .map(|(peer, config)| GuardianResponse {
                peer,
                name: config.name.clone(),
                api_url: config.api_url.clone(),
            })
            .collect(),
    }
}

/// The modules, none of them paused.
pub(super) fn modules(instances: &[Arc<Instance>]) -> Vec<ModuleResponse> {
    let module = |instance: &Arc<Instance>| {
        let (bundle, config) = (instance.bundle(), &instance.context().instance);
        let description = bundle.description();
        ModuleResponse {
            instance: config.id,
            kind: config.kind.clone(),
            version: description.version.clone(),
            summary: description.summary.clone(),
            bundle: config.bundle,
            paused: false,
            capabilities: bundle.capabilities().to_vec(),
            queries: description
                .queries
                .iter()
                .map(|query| EndpointResponse {
                    name: query.name.clone(),
                    summary: query.summary.clone(),
                    parameters: query.parameters.clone(),
                })
                .collect(),
        }
    };
    instances.iter().map(module).collect()
}
