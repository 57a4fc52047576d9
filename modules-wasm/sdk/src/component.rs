//! A module behind the contract: types become bytes, and `export!` puts the
//! contract's functions into the component.

use core::marker::PhantomData;

use crate::{
    Action, Answer, Argument, AuditLine, Client, Completion, Description, Ecash, Event,
    InputEffect, Item, Module, OutPoint, OutputEffect, PeerId, Refusal, Server, Transition,
    bindings::exports::modmint::module::{client, ecash, module_info, server},
    encoding::{decode, decode_own, encode},
};

/// The contract's exports over a module.
pub struct Component<M>(PhantomData<M>);

impl<M: Module> module_info::Guest for Component<M> {
    fn describe() -> Description {
        M::describe()
    }
    fn configure(arguments: Vec<Argument>) -> Result<module_info::Setup, Refusal> {
        let setup = M::configure(arguments.into())?;
        Ok(module_info::Setup {
            config: encode(&setup.config),
            keys: setup.keys,
        })
    }
    fn render(item: Item, bytes: Vec<u8>) -> Result<String, Refusal> {
        M::render(item, &bytes).map(|json| json.to_string())
    }
}

impl<M: Server> server::Guest for Component<M> {
    fn init() -> Result<(), Refusal> {
        M::init()
    }
    fn migrate(from: u32, cursor: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Refusal> {
        <M as Server>::migrate(from, cursor)
    }
    fn process_input(input: Vec<u8>) -> Result<InputEffect, Refusal> {
        M::process_input(decode("input", &input)?)
    }
    fn process_output(output: Vec<u8>, out_point: OutPoint) -> Result<OutputEffect, Refusal> {
        M::process_output(decode("output", &output)?, out_point)
    }
    fn process_consensus_item(peer: PeerId, item: Vec<u8>) -> Result<(), Refusal> {
        M::process_consensus_item(peer, decode("consensus item", &item)?)
    }
    fn propose() -> Vec<Vec<u8>> {
        M::propose().iter().map(encode).collect()
    }
    fn broadcast() -> Vec<Vec<u8>> {
        M::broadcast()
    }
    fn outcomes(out_points: Vec<OutPoint>) -> Vec<Option<Vec<u8>>> {
        M::outcomes(out_points)
    }
    fn query(name: String, arguments: Vec<Argument>) -> Result<Answer, Refusal> {
        M::query(&name, arguments.into())
    }
    fn command(name: String, arguments: Vec<Argument>) -> Result<Vec<Vec<u8>>, Refusal> {
        let items = M::command(&name, arguments.into())?;
        Ok(items.iter().map(encode).collect())
    }
    fn audit() -> Vec<AuditLine> {
        M::audit()
    }
}

fn transition<S: borsh::BorshSerialize>(transition: Transition<S>) -> client::Transition {
    let Transition {
        state,
        effects,
        progress,
        finished,
    } = transition;
    client::Transition {
        state: encode(&state),
        effects,
        progress,
        finished,
    }
}

impl<M: Client> client::Guest for Component<M> {
    fn actions() -> Vec<Action> {
        M::actions()
    }
    fn start(action: String, arguments: Vec<Argument>) -> Result<client::Transition, Refusal> {
        M::start(&action, arguments.into()).map(transition)
    }
    fn advance(state: Vec<u8>, event: Event) -> Result<client::Transition, Refusal> {
        M::advance(decode_own("the machine's state", &state), event).map(transition)
    }
    fn backup() -> Vec<u8> {
        M::backup()
    }
    fn recover(backup: Option<Vec<u8>>) -> Result<client::Transition, Refusal> {
        Ok(match M::recover(backup)? {
            Some(begun) => transition(begun),
            None => client::Transition {
                state: Vec::new(),
                effects: Vec::new(),
                progress: None,
                finished: Some(Ok(())),
            },
        })
    }
    fn migrate(from: u32, cursor: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Refusal> {
        <M as Client>::migrate(from, cursor)
    }
}

impl<M: Ecash> ecash::Guest for Component<M> {
    fn balance() -> u64 {
        M::balance()
    }
    fn complete(inputs: u64, outputs: u64) -> Result<Completion, Refusal> {
        M::complete(inputs, outputs)
    }
}

/// Exports a module from its component, once in a crate.
///
/// `export!(MyModule: federation-module)`, or `ecash-module`, `server-half`,
/// `client-half`: the contract's world that the type implements. Does nothing in
/// a native build.
#[macro_export]
macro_rules! export {
    ($module:ty: server-half) => {
        $crate::export!(@component $module, SERVER_HALF, "server-half", module_info server);
    };
    ($module:ty: client-half) => {
        $crate::export!(@component $module, CLIENT_HALF, "client-half", module_info client);
    };
    ($module:ty: federation-module) => {
        $crate::export!(@component $module, FEDERATION_MODULE, "federation-module",
            module_info server client);
    };
    ($module:ty: ecash-module) => {
        $crate::export!(@component $module, ECASH_MODULE, "ecash-module",
            module_info server client ecash);
    };
    (@component $module:ty, $world:ident, $name:literal, $($interface:ident)*) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "the component's exports: raw functions over Component<M>")]
        mod __component {
            #[allow(unused_imports, reason = "the module may be named by a path")]
            use super::*;

            type Exported = $crate::Component<$module>;
            $($crate::export!(@interface $interface);)*

            #[unsafe(link_section = concat!("component-type:modmint-sdk:", $name))]
            #[used]
            static WORLD: [u8; $crate::bindings::worlds::$world.len()] =
                $crate::bindings::worlds::$world;
        }
    };
    (@interface module_info) => {
        $crate::bindings::exports::modmint::module::module_info::__export_modmint_module_module_info_0_2_0_cabi!(
            Exported with_types_in $crate::bindings::exports::modmint::module::module_info);
    };
    (@interface server) => {
        $crate::bindings::exports::modmint::module::server::__export_modmint_module_server_0_2_0_cabi!(
            Exported with_types_in $crate::bindings::exports::modmint::module::server);
    };
    (@interface client) => {
        $crate::bindings::exports::modmint::module::client::__export_modmint_module_client_0_2_0_cabi!(
            Exported with_types_in $crate::bindings::exports::modmint::module::client);
    };
    (@interface ecash) => {
        $crate::bindings::exports::modmint::module::ecash::__export_modmint_module_ecash_0_2_0_cabi!(
            Exported with_types_in $crate::bindings::exports::modmint::module::ecash);
    };
}
