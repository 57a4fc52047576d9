//! Contract 0.1. Its parameters have no defaults; all else is as in the newest.

use crate::bindings::{
    exports::modmint::module::{client, module_info},
    modmint::module::types,
};

pub(super) use frozen::COMPONENT_TYPE;
use frozen::{
    exports::modmint::module::{client as frozen_client, module_info as frozen_info},
    modmint::module::types as frozen_types,
};

#[allow(
    dead_code,
    missing_docs,
    clippy::all,
    unused_qualifications,
    reason = "generated code, of which the changed types are used"
)]
mod frozen {
    wasmtime::component::bindgen!({
        path: "../wit/0.1",
        world: "ecash-module",
        include_component_type: true,
    });
}

fn kind(kind: frozen_types::ParameterKind) -> types::ParameterKind {
    use frozen_types::ParameterKind as Old;
    match kind {
        Old::Text => types::ParameterKind::Text,
        Old::Number => types::ParameterKind::Number,
        Old::Flag => types::ParameterKind::Flag,
        Old::Bytes => types::ParameterKind::Bytes,
        Old::Amount => types::ParameterKind::Amount,
        Old::Choice(choices) => types::ParameterKind::Choice(choices),
        Old::Texts => types::ParameterKind::Texts,
    }
}

fn parameters(parameters: Vec<frozen_types::Parameter>) -> Vec<types::Parameter> {
    parameters
        .into_iter()
        .map(|parameter| types::Parameter {
            name: parameter.name,
            summary: parameter.summary,
            kind: kind(parameter.kind),
            required: parameter.required,
            default: None,
        })
        .collect()
}

fn endpoints(endpoints: Vec<frozen_info::Endpoint>) -> Vec<module_info::Endpoint> {
    endpoints
        .into_iter()
        .map(|endpoint| module_info::Endpoint {
            name: endpoint.name,
            summary: endpoint.summary,
            parameters: parameters(endpoint.parameters),
        })
        .collect()
}

/// As the newest contract has it.
pub(super) fn description(description: frozen_info::Description) -> module_info::Description {
    module_info::Description {
        kind: description.kind,
        version: description.version,
        summary: description.summary,
        server_storage: description.server_storage,
        client_storage: description.client_storage,
        configuration: parameters(description.configuration),
        queries: endpoints(description.queries),
        commands: endpoints(description.commands),
    }
}

/// As the newest contract has them.
pub(super) fn actions(actions: Vec<frozen_client::Action>) -> Vec<client::Action> {
    actions
        .into_iter()
        .map(|action| client::Action {
            name: action.name,
            summary: action.summary,
            audience: match action.audience {
                frozen_client::Audience::Person => client::Audience::Person,
                frozen_client::Audience::Gateway => client::Audience::Gateway,
                frozen_client::Audience::Background => client::Audience::Background,
            },
            parameters: parameters(action.parameters),
        })
        .collect()
}
