//! A module as the driver calls it.

use std::{marker::PhantomData, ops::Deref, rc::Rc};

use modmint_core::{FederationId, config::InstanceConfig};

use crate::{
    Answer, Argument, AuditLine, Client, Completion, Component, Description, Ecash, Endpoint,
    Event, InputEffect, Item, OutPoint, OutputEffect, Parameter, PeerId, Refusal, Server,
    bindings::exports::modmint::module::{client, ecash, module_info, server},
};

/// An instance of a module, where it was founded.
#[derive(Clone, Debug)]
pub struct Founded {
    /// The federation.
    pub federation: FederationId,
    /// n.
    pub guardians: u16,
    /// n - f.
    pub threshold: u16,
    /// The instance, with the keys that the ceremony made for it.
    pub instance: InstanceConfig,
}

/// The contract's exports. The driver calls each inside a call of its phase, so
/// that what it imports is the mock's ([`super::imports`]); it panics where it
/// traps.
#[allow(missing_docs, reason = "the contract says what they are")]
pub trait Exports {
    fn describe(&self) -> Description;
    fn configure(&self, arguments: Vec<Argument>) -> Result<module_info::Setup, Refusal>;
    fn render(&self, item: Item, bytes: Vec<u8>) -> Result<String, Refusal>;

    /// Told once, before `init`: for modules that do not learn it by imports alone.
    fn founded(&self, _founded: Founded) {}

    fn init(&self) -> Result<(), Refusal>;
    fn migrate_server(
        &self,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Refusal>;
    fn process_input(&self, input: Vec<u8>) -> Result<InputEffect, Refusal>;
    fn process_output(&self, output: Vec<u8>, out_point: OutPoint)
    -> Result<OutputEffect, Refusal>;
    fn process_consensus_item(&self, peer: PeerId, item: Vec<u8>) -> Result<(), Refusal>;
    fn propose(&self) -> Vec<Vec<u8>>;
    fn broadcast(&self) -> Vec<Vec<u8>>;
    fn outcomes(&self, out_points: Vec<OutPoint>) -> Vec<Option<Vec<u8>>>;
    fn query(&self, name: String, arguments: Vec<Argument>) -> Result<Answer, Refusal>;
    fn command(&self, name: String, arguments: Vec<Argument>) -> Result<Vec<Vec<u8>>, Refusal>;
    fn audit(&self) -> Vec<AuditLine>;

    fn start(
        &self,
        action: String,
        arguments: Vec<Argument>,
    ) -> Result<client::Transition, Refusal>;
    fn advance(&self, state: Vec<u8>, event: Event) -> Result<client::Transition, Refusal>;
    fn recover(&self, backup: Option<Vec<u8>>) -> Result<client::Transition, Refusal>;
    fn migrate_client(
        &self,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Refusal>;

    /// Whether it holds the wallet's money: the rest is called of such alone.
    fn is_ecash(&self) -> bool;
    fn balance(&self) -> u64;
    fn complete(&self, inputs: u64, outputs: u64) -> Result<Completion, Refusal>;
}

/// A module to found instances of. Clones are the same module.
#[derive(Clone)]
pub struct Bundle(Rc<dyn Exports>);

impl Bundle {
    /// A module that runs in whatever way.
    pub fn new(exports: impl Exports + 'static) -> Self {
        Self(Rc::new(exports))
    }

    /// A module with both halves, run natively.
    pub fn federation_module<M: Server + Client>() -> Self {
        Self::new(Native::<M> {
            ecash: None,
            module: PhantomData,
        })
    }

    /// A module that holds the wallet's money too, run natively.
    pub fn ecash_module<M: Server + Ecash>() -> Self {
        Self::new(Native::<M> {
            ecash: Some(EcashHalf {
                balance: <Component<M> as ecash::Guest>::balance,
                complete: <Component<M> as ecash::Guest>::complete,
            }),
            module: PhantomData,
        })
    }
}

impl Deref for Bundle {
    type Target = dyn Exports;
    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// The half that a module may lack.
struct EcashHalf {
    balance: fn() -> u64,
    complete: fn(u64, u64) -> Result<Completion, Refusal>,
}

/// With the defaults of what was not given, as a host passes them.
fn complete(declared: &[Parameter], mut arguments: Vec<Argument>) -> Vec<Argument> {
    for parameter in declared {
        if arguments.iter().any(|given| given.name == parameter.name) {
            continue;
        }
        arguments.extend(parameter.default.clone().map(|value| Argument {
            name: parameter.name.clone(),
            value,
        }));
    }
    arguments
}

/// The same, for the endpoint of this name.
fn of_endpoint(declared: Vec<Endpoint>, name: &str, arguments: Vec<Argument>) -> Vec<Argument> {
    let declared = declared.into_iter().find(|known| known.name == name);
    let declared = declared.map(|endpoint| endpoint.parameters);
    complete(&declared.unwrap_or_default(), arguments)
}

struct Native<M> {
    ecash: Option<EcashHalf>,
    module: PhantomData<M>,
}

impl<M> Native<M> {
    fn ecash(&self) -> &EcashHalf {
        let ecash = self.ecash.as_ref();
        ecash.expect("asked for its e-cash, a module holds the wallet's money")
    }
}

impl<M: Server + Client> Exports for Native<M> {
    fn describe(&self) -> Description {
        <Component<M> as module_info::Guest>::describe()
    }
    fn configure(&self, arguments: Vec<Argument>) -> Result<module_info::Setup, Refusal> {
        let declared = self.describe().configuration;
        <Component<M> as module_info::Guest>::configure(complete(&declared, arguments))
    }
    fn render(&self, item: Item, bytes: Vec<u8>) -> Result<String, Refusal> {
        <Component<M> as module_info::Guest>::render(item, bytes)
    }

    fn init(&self) -> Result<(), Refusal> {
        <Component<M> as server::Guest>::init()
    }
    fn migrate_server(
        &self,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        <Component<M> as server::Guest>::migrate(from, cursor)
    }
    fn process_input(&self, input: Vec<u8>) -> Result<InputEffect, Refusal> {
        <Component<M> as server::Guest>::process_input(input)
    }
    fn process_output(
        &self,
        output: Vec<u8>,
        out_point: OutPoint,
    ) -> Result<OutputEffect, Refusal> {
        <Component<M> as server::Guest>::process_output(output, out_point)
    }
    fn process_consensus_item(&self, peer: PeerId, item: Vec<u8>) -> Result<(), Refusal> {
        <Component<M> as server::Guest>::process_consensus_item(peer, item)
    }
    fn propose(&self) -> Vec<Vec<u8>> {
        <Component<M> as server::Guest>::propose()
    }
    fn broadcast(&self) -> Vec<Vec<u8>> {
        <Component<M> as server::Guest>::broadcast()
    }
    fn outcomes(&self, out_points: Vec<OutPoint>) -> Vec<Option<Vec<u8>>> {
        <Component<M> as server::Guest>::outcomes(out_points)
    }
    fn query(&self, name: String, arguments: Vec<Argument>) -> Result<Answer, Refusal> {
        let arguments = of_endpoint(self.describe().queries, &name, arguments);
        <Component<M> as server::Guest>::query(name, arguments)
    }
    fn command(&self, name: String, arguments: Vec<Argument>) -> Result<Vec<Vec<u8>>, Refusal> {
        let arguments = of_endpoint(self.describe().commands, &name, arguments);
        <Component<M> as server::Guest>::command(name, arguments)
    }
    fn audit(&self) -> Vec<AuditLine> {
        <Component<M> as server::Guest>::audit()
    }

    fn start(
        &self,
        action: String,
        arguments: Vec<Argument>,
    ) -> Result<client::Transition, Refusal> {
        let actions = <Component<M> as client::Guest>::actions();
        let declared = actions.into_iter().find(|known| known.name == action);
        let declared = declared.map(|action| action.parameters).unwrap_or_default();
        <Component<M> as client::Guest>::start(action, complete(&declared, arguments))
    }
    fn advance(&self, state: Vec<u8>, event: Event) -> Result<client::Transition, Refusal> {
        <Component<M> as client::Guest>::advance(state, event)
    }
    fn recover(&self, backup: Option<Vec<u8>>) -> Result<client::Transition, Refusal> {
        <Component<M> as client::Guest>::recover(backup)
    }
    fn migrate_client(
        &self,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        <Component<M> as client::Guest>::migrate(from, cursor)
    }

    fn is_ecash(&self) -> bool {
        self.ecash.is_some()
    }
    fn balance(&self) -> u64 {
        (self.ecash().balance)()
    }
    fn complete(&self, inputs: u64, outputs: u64) -> Result<Completion, Refusal> {
        (self.ecash().complete)(inputs, outputs)
    }
}
