//! A bundle: admitted, compiled, described.

use std::sync::Arc;

use modmint_core::{Argument, BundleHash, Refusal, complete_arguments, sha256};
use wasmtime::{
    Store,
    component::{self, Component, ComponentExportIndex, InstancePre},
};

use crate::{
    Action, Admission, AdmitError, CallError, Called, Context, ContractVersion, Description,
    Engines, Host, HostError, Setup, admit,
    call::{Call, LogGate, Place, Request, call},
    contract::Exported,
    convert,
    describe::{check_actions, check_description},
    engine::Machine,
    limits,
    prices::Phase,
};

/// Why a bundle cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The admission check refuses it.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// It does not compile.
    #[error("the bundle does not compile: {0}")]
    Compile(String),
    /// It does not say what it is.
    #[error("the bundle does not describe itself: {0}")]
    Describe(#[source] CallError),
}

/// A module's component: admitted, compiled, described.
#[derive(Debug)]
pub struct Bundle {
    hash: BundleHash,
    bytes_len: usize,
    admission: Admission,
    description: Description,
    actions: Vec<Action>,
    pub(crate) compiled: Compiled,
}

impl Bundle {
    /// Admits, compiles and describes a bundle.
    ///
    /// # Errors
    /// Names what is wrong.
    pub fn load(engines: &Arc<Engines>, bytes: &[u8]) -> Result<Arc<Self>, LoadError> {
        let admission = admit(bytes)?;
        let hash = BundleHash(sha256(bytes));
        let compiled =
            Compiled::new(engines, hash, bytes, &admission).map_err(LoadError::Compile)?;
        let contract = admission.contract;
        let description = compiled
            .pure(Interface::ModuleInfo, Phase::Pure, None, |info, store| {
                contract.describe(info, store)
            })
            .map_err(LoadError::Describe)?;
        let description = convert::description(description);
        check_description(&description)?;
        let actions = match admission.has_client {
            false => Vec::new(),
            true => compiled
                .pure(Interface::Client, Phase::Pure, None, |client, store| {
                    contract.actions(client, store)
                })
                .map_err(LoadError::Describe)?,
        };
        let actions = convert::actions(actions);
        check_actions(&actions)?;
        Ok(Arc::new(Self {
            hash,
            bytes_len: bytes.len(),
            admission,
            description,
            actions,
            compiled,
        }))
    }

    /// A bundle that cannot say itself what it is.
    #[cfg(test)]
    pub(crate) fn described(
        engines: &Arc<Engines>,
        bytes: &[u8],
        description: Description,
        actions: Vec<Action>,
    ) -> Result<Arc<Self>, LoadError> {
        let admission = admit(bytes)?;
        let hash = BundleHash(sha256(bytes));
        let compiled =
            Compiled::new(engines, hash, bytes, &admission).map_err(LoadError::Compile)?;
        Ok(Arc::new(Self {
            hash,
            bytes_len: bytes.len(),
            admission,
            description,
            actions,
            compiled,
        }))
    }

    /// SHA-256 of its bytes.
    pub fn hash(&self) -> BundleHash {
        self.hash
    }

    /// How many bytes it has.
    pub fn bytes_len(&self) -> usize {
        self.bytes_len
    }

    /// What it says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// What its wallets' half can be asked to do; empty without one.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// What it is able to do, in words, from its imports alone.
    pub fn capabilities(&self) -> &[String] {
        &self.admission.capabilities
    }

    /// The version of the contract that it was built against.
    pub fn contract(&self) -> ContractVersion {
        self.admission.contract
    }

    /// Whether guardians can load it.
    pub fn has_server(&self) -> bool {
        self.admission.has_server
    }

    /// Whether wallets can load it.
    pub fn has_client(&self) -> bool {
        self.admission.has_client
    }

    /// Whether it holds the wallet's money.
    pub fn has_ecash(&self) -> bool {
        self.admission.has_ecash
    }

    /// Checks the arguments for a new instance. From any thread.
    ///
    /// # Errors
    /// `Refused` with `bad-argument` before the module sees arguments of the wrong
    /// kinds; what the module says otherwise.
    pub fn configure(&self, arguments: &[Argument]) -> Result<Setup, CallError> {
        let arguments = complete_arguments(&self.description.configuration, arguments)?;
        let arguments = convert::to_arguments(arguments);
        let setup =
            self.compiled
                .pure(Interface::ModuleInfo, Phase::Pure, None, |info, store| {
                    let setup = info.ask(store, "configure", (arguments.as_slice(),))?;
                    Ok(setup.and_then(convert::setup))
                })?;
        Ok(setup?)
    }
}

/// A component's code on every engine there is.
pub(crate) struct Compiled {
    engines: Arc<Engines>,
    consensus: Option<Code>,
    query: Code,
    log: Arc<LogGate>,
}

/// What bundles export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    ModuleInfo,
    Server,
    Client,
    Ecash,
}

impl Interface {
    const ALL: [Self; 4] = [Self::ModuleInfo, Self::Server, Self::Client, Self::Ecash];

    /// As the contract calls it.
    const fn name(self) -> &'static str {
        match self {
            Self::ModuleInfo => "module-info",
            Self::Server => "server",
            Self::Client => "client",
            Self::Ecash => "ecash",
        }
    }
}

/// A component's code on one engine, and where its exports are.
pub(crate) struct Code {
    pre: InstancePre<Call>,
    /// In the order of [`Interface::ALL`].
    exports: [Option<ComponentExportIndex>; 4],
}

impl Code {
    fn new(
        machine: &Machine,
        component: &Component,
        contract: ContractVersion,
    ) -> wasmtime::Result<Self> {
        Ok(Self {
            pre: machine.linker.instantiate_pre(component)?,
            exports: Interface::ALL.map(|interface| {
                component.get_export_index(None, contract.interface(interface.name()))
            }),
        })
    }

    /// The interface in an instance; none if the bundle does not export it.
    fn exported(&self, interface: Interface, instance: &component::Instance) -> Option<Exported> {
        let index = self.exports[interface as usize]?;
        Some(Exported::new(*instance, index))
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").finish_non_exhaustive()
    }
}

/// Nobody: what calls have that reach no host.
struct Nobody;

impl Host for Nobody {}

impl Compiled {
    fn new(
        engines: &Arc<Engines>,
        hash: BundleHash,
        bytes: &[u8],
        admission: &Admission,
    ) -> Result<Self, String> {
        let compile = |machine: &Machine| {
            let component = engines.component(machine, hash, bytes)?;
            Code::new(machine, &component, admission.contract).map_err(|error| format!("{error:#}"))
        };
        Ok(Self {
            engines: engines.clone(),
            query: compile(&engines.query)?,
            consensus: engines.consensus.as_ref().map(compile).transpose()?,
            log: Arc::new(LogGate::new()),
        })
    }

    /// A metered call that reaches no host.
    pub(crate) fn pure<T: Send>(
        &self,
        interface: Interface,
        phase: Phase,
        context: Option<Arc<Context>>,
        f: impl FnOnce(&Exported, &mut Store<Call>) -> wasmtime::Result<T> + Send,
    ) -> Result<T, CallError> {
        let request = Request {
            phase,
            host: Arc::new(Nobody),
            context,
            log: self.log.clone(),
            fuel: Some(limits::MAX_FUEL),
            time: limits::CALL_TIME,
        };
        self.timed(interface, request, f)
    }

    /// A call that is metered and agreed upon, in `place`.
    pub(crate) fn metered<T: Send>(
        &self,
        interface: Interface,
        place: &mut Option<Place<Option<Exported>>>,
        request: Request,
        f: impl FnOnce(&Exported, &mut Store<Call>) -> wasmtime::Result<T> + Send,
    ) -> Called<T> {
        match (&self.engines.consensus, &self.consensus) {
            (Some(machine), Some(code)) => on(machine, code, interface, place, request, f),
            _ => Called {
                result: Err(HostError("these engines are a wallet's".into()).into()),
                fuel: 0,
            },
        }
    }

    /// A call that the clock ends.
    pub(crate) fn timed<T: Send>(
        &self,
        interface: Interface,
        request: Request,
        f: impl FnOnce(&Exported, &mut Store<Call>) -> wasmtime::Result<T> + Send,
    ) -> Result<T, CallError> {
        let (machine, code) = (&self.engines.query, &self.query);
        on(machine, code, interface, &mut None, request, f).result
    }
}

/// The call, or the refusal `no-such-half` where the bundle does not export the
/// interface.
fn on<T: Send>(
    machine: &Machine,
    code: &Code,
    interface: Interface,
    place: &mut Option<Place<Option<Exported>>>,
    request: Request,
    f: impl FnOnce(&Exported, &mut Store<Call>) -> wasmtime::Result<T> + Send,
) -> Called<T> {
    let called = call(
        machine,
        &code.pre,
        place,
        request,
        |instance| code.exported(interface, instance),
        |exported, store| {
            exported
                .as_ref()
                .map(|exported| f(exported, store))
                .transpose()
        },
    );
    Called {
        result: called.result.and_then(|value| {
            value.ok_or_else(|| {
                let message = format!("this bundle does not export {}", interface.name());
                Refusal::new("no-such-half", message).into()
            })
        }),
        fuel: called.fuel,
    }
}
