//! A bundle: admitted, compiled, described.

use std::sync::Arc;

use modmint_core::{Argument, BundleHash, Refusal, check_arguments, sha256};
use wasmtime::{
    Store,
    component::{self, Component, InstancePre},
};

use crate::{
    Action, Admission, AdmitError, CallError, Called, Context, Description, Engines, Host,
    HostError, Setup, admit,
    bindings::exports::modmint::module::{client, ecash, module_info, server},
    call::{Call, LogGate, Place, Request, call},
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
        let description = compiled
            .pure(Phase::Pure, None, |info: &module_info::Guest, store| {
                info.call_describe(store).map(convert::description)
            })
            .map_err(LoadError::Describe)?;
        check_description(&description)?;
        let actions = compiled.actions().map_err(LoadError::Describe)?;
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
        check_arguments(&self.description.configuration, arguments)?;
        let arguments = convert::to_arguments(arguments);
        let setup = self
            .compiled
            .pure(Phase::Pure, None, |info: &module_info::Guest, store| {
                let setup = info.call_configure(store, &arguments)?;
                Ok(setup.map_err(convert::refusal).and_then(convert::setup))
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

/// A component's code on one engine, and where its exports are.
pub(crate) struct Code {
    pre: InstancePre<Call>,
    info: module_info::GuestIndices,
    pub(crate) server: Option<server::GuestIndices>,
    pub(crate) client: Option<client::GuestIndices>,
    pub(crate) ecash: Option<ecash::GuestIndices>,
}

impl Code {
    fn new(
        machine: &Machine,
        component: &Component,
        admission: &Admission,
    ) -> wasmtime::Result<Self> {
        let pre = machine.linker.instantiate_pre(component)?;
        Ok(Self {
            info: module_info::GuestIndices::new(&pre)?,
            server: admission
                .has_server
                .then(|| server::GuestIndices::new(&pre))
                .transpose()?,
            client: admission
                .has_client
                .then(|| client::GuestIndices::new(&pre))
                .transpose()?,
            ecash: admission
                .has_ecash
                .then(|| ecash::GuestIndices::new(&pre))
                .transpose()?,
            pre,
        })
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

/// One of the interfaces that a bundle exports.
pub(crate) trait Exports: Sized + Send {
    /// Its name, for people.
    const NAME: &str;
    /// Finds it in an instance; none if the bundle does not export it.
    fn load(
        code: &Code,
        store: &mut Store<Call>,
        instance: &component::Instance,
    ) -> Option<wasmtime::Result<Self>>;
}

macro_rules! exports {
    ($($interface:ident = $name:literal, |$code:ident| $indices:expr;)*) => {
        $(impl Exports for $interface::Guest {
            const NAME: &str = $name;
            fn load(
                $code: &Code,
                store: &mut Store<Call>,
                instance: &component::Instance,
            ) -> Option<wasmtime::Result<Self>> {
                Some($indices?.load(store, instance))
            }
        })*
    };
}

exports! {
    module_info = "module-info", |code| Some(&code.info);
    server = "server", |code| code.server.as_ref();
    client = "client", |code| code.client.as_ref();
    ecash = "ecash", |code| code.ecash.as_ref();
}

impl Compiled {
    fn new(
        engines: &Arc<Engines>,
        hash: BundleHash,
        bytes: &[u8],
        admission: &Admission,
    ) -> Result<Self, String> {
        let compile = |machine: &Machine| {
            let component = engines.component(machine, hash, bytes)?;
            Code::new(machine, &component, admission).map_err(|error| format!("{error:#}"))
        };
        Ok(Self {
            engines: engines.clone(),
            query: compile(&engines.query)?,
            consensus: engines.consensus.as_ref().map(compile).transpose()?,
            log: Arc::new(LogGate::new()),
        })
    }

    /// A metered call that reaches no host.
    pub(crate) fn pure<G: Exports, T: Send>(
        &self,
        phase: Phase,
        context: Option<Arc<Context>>,
        f: impl FnOnce(&G, &mut Store<Call>) -> wasmtime::Result<T> + Send,
    ) -> Result<T, CallError> {
        let request = Request {
            phase,
            host: Arc::new(Nobody),
            context,
            log: self.log.clone(),
            fuel: Some(limits::MAX_FUEL),
            time: limits::CALL_TIME,
        };
        self.timed(request, f)
    }

    fn actions(&self) -> Result<Vec<Action>, CallError> {
        if self.query.client.is_none() {
            return Ok(Vec::new());
        }
        self.pure(Phase::Pure, None, |client: &client::Guest, store| {
            client.call_actions(store).map(convert::actions)
        })
    }

    /// A call that is metered and agreed upon, in `place`.
    pub(crate) fn metered<G: Exports, T: Send>(
        &self,
        place: &mut Option<Place<Option<G>>>,
        request: Request,
        f: impl FnOnce(&G, &mut Store<Call>) -> wasmtime::Result<T> + Send,
    ) -> Called<T> {
        match (&self.engines.consensus, &self.consensus) {
            (Some(machine), Some(code)) => on(machine, code, place, request, f),
            _ => Called {
                result: Err(HostError("these engines are a wallet's".into()).into()),
                fuel: 0,
            },
        }
    }

    /// A call that the clock ends.
    pub(crate) fn timed<G: Exports, T: Send>(
        &self,
        request: Request,
        f: impl FnOnce(&G, &mut Store<Call>) -> wasmtime::Result<T> + Send,
    ) -> Result<T, CallError> {
        on(&self.engines.query, &self.query, &mut None, request, f).result
    }
}

/// The call, or the refusal `no-such-half` where the bundle does not export `G`.
fn on<G: Exports, T: Send>(
    machine: &Machine,
    code: &Code,
    place: &mut Option<Place<Option<G>>>,
    request: Request,
    f: impl FnOnce(&G, &mut Store<Call>) -> wasmtime::Result<T> + Send,
) -> Called<T> {
    let called = call(
        machine,
        &code.pre,
        place,
        request,
        |store, instance| G::load(code, store, instance).transpose(),
        |exports, store| {
            exports
                .as_ref()
                .map(|exports| f(exports, store))
                .transpose()
        },
    );
    Called {
        result: called.result.and_then(|value| {
            value.ok_or_else(|| {
                let message = format!("this bundle does not export {}", G::NAME);
                Refusal::new("no-such-half", message).into()
            })
        }),
        fuel: called.fuel,
    }
}
