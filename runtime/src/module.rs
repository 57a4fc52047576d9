//! What a module says of itself, and what calls into it give: the shapes of
//! `interface module-info` and `interface server` in the contract.

use modmint_core::{
    Amount, FederationId, InstanceId, KeyKind, Parameter, PublicKey, Refusal,
    config::{FederationConfig, InstanceConfig, Network},
};

use crate::{HostError, Trap};

/// What a module is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// `[a-z][a-z0-9-]*`, at most 32 bytes.
    pub kind: String,
    /// Semantic version of the bundle, for people.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// Version of what lies in guardians' storage.
    pub server_storage: u32,
    /// Version of what lies in wallets' storage.
    pub client_storage: u32,
    /// What is asked for when an instance is founded.
    pub configuration: Vec<Parameter>,
    /// What anybody may ask guardians.
    pub queries: Vec<Endpoint>,
    /// What a guardian's operator may ask for.
    pub commands: Vec<Endpoint>,
}

/// A query or a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Kebab-case.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// What it takes.
    pub parameters: Vec<Parameter>,
}

/// Who starts an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Offered to people.
    Person,
    /// Called by a gateway's daemon.
    Gateway,
    /// Started by the wallet, once, when it has joined.
    Background,
}

/// What the wallets' half can be asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Kebab-case.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// Who starts it.
    pub audience: Audience,
    /// What it takes.
    pub parameters: Vec<Parameter>,
}

/// A key that the ceremony makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Unique in the instance.
    pub label: String,
    /// What it can do.
    pub kind: KeyKind,
}

/// What a new instance is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// What `federation.config` returns.
    pub config: Vec<u8>,
    /// The keys that the instance needs.
    pub keys: Vec<KeySpec>,
}

/// The federation as one of its instances sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The federation.
    pub federation: FederationId,
    /// Whose coins it holds.
    pub network: Network,
    /// n.
    pub peers: u16,
    /// n − f.
    pub threshold: u16,
    /// The instance.
    pub instance: InstanceConfig,
}

impl Context {
    /// Of the instance of this number; none if there is no such instance.
    pub fn new(config: &FederationConfig, instance: InstanceId) -> Option<Self> {
        Some(Self {
            federation: config.id(),
            network: config.network,
            peers: config.size().try_into().ok()?,
            threshold: config.threshold().try_into().ok()?,
            instance: config.instance(instance)?.clone(),
        })
    }
}

/// What `render` is to make JSON of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenderItem {
    /// A transaction's input.
    Input,
    /// A transaction's output.
    Output,
    /// One guardian's contribution to an output's outcome.
    Outcome,
    /// A consensus item.
    ConsensusItem,
    /// The answer of the query of this name.
    Answer(String),
}

/// The input brings `value - fee` into the transaction, which must be signed by
/// `spend_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputEffect {
    /// What it is worth.
    pub value: Amount,
    /// What the module keeps.
    pub fee: Amount,
    /// Who must sign.
    pub spend_key: PublicKey,
}

/// The output takes `value + fee` out of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputEffect {
    /// What it is worth.
    pub value: Amount,
    /// What the module keeps.
    pub fee: Amount,
}

/// What to wait for before a query is asked again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wake {
    /// This key of the instance's storage is written or deleted.
    Key(Vec<u8>),
    /// The agreed block height reaches this.
    Height(u32),
    /// The agreed time reaches this.
    Time(u64),
    /// This guardian's chain has a new block.
    Block,
}

/// A query's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There it is.
    Ready(Vec<u8>),
    /// Nothing to say until one of these happens.
    Wait(Vec<Wake>),
}

/// A metered call's result and its price.
#[derive(Debug)]
pub struct Called<T> {
    /// What came of it.
    pub result: Result<T, CallError>,
    /// What it cost. A call that trapped costs all that it was given, because
    /// fuel is not exact after a trap.
    pub fuel: u64,
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The module refuses, or returned what the contract does not allow
    /// (`bad-value`). A function of state and item.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A bug in the module, or a limit. In metered calls a function of state and
    /// item.
    #[error("the module trapped: {0}")]
    Trapped(#[from] Trap),
    /// A cause outside state and item: the guardian stops, the wallet tries again.
    #[error("the module could not be run: {0}")]
    Host(#[from] HostError),
}
