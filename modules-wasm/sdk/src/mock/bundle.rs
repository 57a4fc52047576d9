//! A module as the driver calls it: the contract's functions as pointers.

use crate::{
    Answer, Argument, AuditLine, Client, Completion, Component, Description, Ecash, Event,
    InputEffect, Item, OutPoint, OutputEffect, PeerId, Refusal, Server,
    bindings::exports::modmint::module::{client, ecash, module_info, server},
};

/// The halves that a module may lack are none.
#[derive(Clone, Copy)]
pub struct Bundle {
    pub(super) describe: fn() -> Description,
    pub(super) configure: fn(Vec<Argument>) -> Result<module_info::Setup, Refusal>,
    pub(super) render: fn(Item, Vec<u8>) -> Result<String, Refusal>,
    pub(super) server: ServerHalf,
    pub(super) client: ClientHalf,
    pub(super) ecash: Option<EcashHalf>,
}

type Bytes = Vec<u8>;

#[derive(Clone, Copy)]
pub(super) struct ServerHalf {
    pub init: fn() -> Result<(), Refusal>,
    pub process_input: fn(Vec<u8>) -> Result<InputEffect, Refusal>,
    pub process_output: fn(Vec<u8>, OutPoint) -> Result<OutputEffect, Refusal>,
    pub process_consensus_item: fn(PeerId, Vec<u8>) -> Result<(), Refusal>,
    pub propose: fn() -> Vec<Vec<u8>>,
    pub broadcast: fn() -> Vec<Vec<u8>>,
    pub outcomes: fn(Vec<OutPoint>) -> Vec<Option<Vec<u8>>>,
    pub query: fn(String, Vec<Argument>) -> Result<Answer, Refusal>,
    pub command: fn(String, Vec<Argument>) -> Result<Vec<Bytes>, Refusal>,
    pub audit: fn() -> Vec<AuditLine>,
}

#[derive(Clone, Copy)]
pub(super) struct ClientHalf {
    pub start: fn(String, Vec<Argument>) -> Result<client::Transition, Refusal>,
    pub advance: fn(Vec<u8>, Event) -> Result<client::Transition, Refusal>,
}

#[derive(Clone, Copy)]
pub(super) struct EcashHalf {
    pub balance: fn() -> u64,
    pub complete: fn(u64, u64) -> Result<Completion, Refusal>,
}

impl Bundle {
    /// A module with both halves.
    pub fn federation_module<M: Server + Client>() -> Self {
        Self {
            describe: <Component<M> as module_info::Guest>::describe,
            configure: <Component<M> as module_info::Guest>::configure,
            render: <Component<M> as module_info::Guest>::render,
            server: ServerHalf {
                init: <Component<M> as server::Guest>::init,
                process_input: <Component<M> as server::Guest>::process_input,
                process_output: <Component<M> as server::Guest>::process_output,
                process_consensus_item: <Component<M> as server::Guest>::process_consensus_item,
                propose: <Component<M> as server::Guest>::propose,
                broadcast: <Component<M> as server::Guest>::broadcast,
                outcomes: <Component<M> as server::Guest>::outcomes,
                query: <Component<M> as server::Guest>::query,
                command: <Component<M> as server::Guest>::command,
                audit: <Component<M> as server::Guest>::audit,
            },
            client: ClientHalf {
                start: <Component<M> as client::Guest>::start,
                advance: <Component<M> as client::Guest>::advance,
            },
            ecash: None,
        }
    }

    /// A module that holds the wallet's money too.
    pub fn ecash_module<M: Server + Ecash>() -> Self {
        Self {
            ecash: Some(EcashHalf {
                balance: <Component<M> as ecash::Guest>::balance,
                complete: <Component<M> as ecash::Guest>::complete,
            }),
            ..Self::federation_module::<M>()
        }
    }
}
