//! A bundle in a federation, and the calls into it.
//!
//! Calls of one item into one instance share a store ([`ItemCalls`]); every other
//! call has one of its own. What a module writes goes to the [`Host`] that the call
//! was given; whether it is kept is the host's business: of a call that gives an
//! error nothing is.

use std::{sync::Arc, time::Duration};

use modmint_core::{
    Amount, Argument, OutPoint, Parameter, PeerId, Refusal, complete_arguments, rest::AuditLine,
};
use wasmtime::Store;

use crate::{
    Answer, Bundle, CallError, Called, Context, Host, InputEffect, OutputEffect, RenderItem,
    bundle::Interface,
    call::{Call, LogGate, Place, Request},
    contract::Exported,
    convert::{self, Checked},
    limits,
    prices::Phase,
    wallet::{Completion, Event, Transition},
};

/// A bundle in a federation.
///
/// A call of a half that the bundle does not have is refused with `no-such-half`.
pub struct Instance {
    bundle: Arc<Bundle>,
    context: Arc<Context>,
    log: Arc<LogGate>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("bundle", &self.bundle)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

type Returned<T> = wasmtime::Result<T>;

impl Instance {
    /// The bundle as the instance that `context` names.
    pub fn new(bundle: Arc<Bundle>, context: Context) -> Arc<Self> {
        Arc::new(Self {
            bundle,
            context: Arc::new(context),
            log: Arc::new(LogGate::new()),
        })
    }

    /// What runs.
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// As what it runs.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// JSON for people. Metered; from any thread.
    ///
    /// # Errors
    /// The module refuses bytes that it did not produce.
    pub fn render(&self, item: RenderItem, bytes: &[u8]) -> Result<String, CallError> {
        let item = convert::to_item(item);
        let text = self.bundle.compiled.pure(
            Interface::ModuleInfo,
            Phase::Stateless,
            Some(self.context.clone()),
            |info, store| {
                let text = info.ask(store, "render", (&item, bytes))?;
                Ok(text.and_then(convert::rendered))
            },
        )?;
        Ok(text?)
    }
}

/// Consensus. Metered with fuel on the consensus engine: results, refusals and
/// traps are the same on every guardian. In place on a thread of
/// [`crate::spawn_guest_thread`] or [`crate::guest_pool`], on a thread made for the
/// call anywhere else.
impl Instance {
    /// Once, when the instance is founded.
    pub fn init(&self, host: &Arc<dyn Host>) -> Called<()> {
        self.consensus(host, Phase::Consensus, |server, store| {
            server.ask(store, "init", ())
        })
    }

    /// Begins an item, a transaction with inputs or outputs of this instance.
    pub fn item(&self, host: Arc<dyn Host>) -> ItemCalls<'_> {
        ItemCalls {
            instance: self,
            host,
            place: None,
        }
    }

    /// A consensus item in the name of `peer`.
    pub fn process_consensus_item(
        &self,
        host: &Arc<dyn Host>,
        peer: PeerId,
        item: &[u8],
    ) -> Called<()> {
        self.consensus(host, Phase::Consensus, |server, store| {
            server.ask(store, "process-consensus-item", (peer.0, item))
        })
    }

    /// One step from the storage of version `from`; again with each cursor that it
    /// returns.
    pub fn migrate_server(
        &self,
        host: &Arc<dyn Host>,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Called<Option<Vec<u8>>> {
        self.consensus(host, Phase::Consensus, |server, store| {
            server.ask(store, "migrate", (from, cursor.as_deref()))
        })
    }

    /// The module's own books.
    pub fn audit(&self, host: &Arc<dyn Host>) -> Called<Vec<AuditLine>> {
        self.consensus(host, Phase::Audit, |server, store| {
            server.call(store, "audit", ()).map(convert::audit)
        })
    }
}

/// Consensus calls that follow each other in one item: they share a store until one
/// of them fails, so that the module's memory lasts from one to the next.
///
/// Holds one of the pool's places: on one thread no other call is made meanwhile.
pub struct ItemCalls<'a> {
    instance: &'a Instance,
    host: Arc<dyn Host>,
    place: Option<Place<Option<Exported>>>,
}

impl ItemCalls<'_> {
    /// An input of a transaction.
    pub fn process_input(&mut self, input: &[u8]) -> Called<InputEffect> {
        self.call(|server, store| {
            let effect = server.ask(store, "process-input", (input,))?;
            Ok(effect.and_then(|effect| convert::input_effect(&effect)))
        })
    }

    /// An output of a transaction.
    pub fn process_output(&mut self, output: &[u8], out_point: OutPoint) -> Called<OutputEffect> {
        let out_point = convert::to_out_point(&out_point);
        self.call(|server, store| {
            let effect = server.ask(store, "process-output", (output, &out_point))?;
            Ok(effect.and_then(|effect| convert::output_effect(&effect)))
        })
    }

    fn call<T: Send>(
        &mut self,
        f: impl FnOnce(&Exported, &mut Store<Call>) -> Returned<Checked<T>> + Send,
    ) -> Called<T> {
        let (instance, phase) = (self.instance, Phase::Consensus);
        let called = instance.consensus_in(&mut self.place, &self.host, phase, f);
        if called.result.is_err() {
            self.place = None;
        }
        called
    }
}

/// A guardian's own calls, with a time limit. From any thread with a stack of
/// 2 MiB.
///
/// # Errors
/// As [`CallError`] says; `Refused` with `no-such-…` or `bad-argument` before the
/// module sees names and arguments that it has not declared.
#[allow(clippy::missing_errors_doc, reason = "said above for all of them")]
impl Instance {
    /// All the items that this guardian wants ordered now.
    pub fn propose(&self, host: &Arc<dyn Host>) -> Result<Vec<Vec<u8>>, CallError> {
        self.guardian(host, Phase::Propose, |server, store| {
            server.call(store, "propose", ()).map(Ok)
        })
    }

    /// All the bitcoin transactions that should be in the mempool now.
    pub fn broadcast(&self, host: &Arc<dyn Host>) -> Result<Vec<Vec<u8>>, CallError> {
        self.guardian(host, Phase::Propose, |server, store| {
            server.call(store, "broadcast", ()).map(Ok)
        })
    }

    /// What this guardian's operator asks for, as items to be ordered.
    pub fn command(
        &self,
        host: &Arc<dyn Host>,
        name: &str,
        arguments: &[Argument],
    ) -> Result<Vec<Vec<u8>>, CallError> {
        let declared = self.bundle.description().commands.iter();
        let declared = declared.map(|command| (command.name.as_str(), &command.parameters));
        let arguments = check("command", declared, name, arguments)?;
        let arguments = convert::to_arguments(arguments);
        self.guardian(host, Phase::Propose, |server, store| {
            server.ask(store, "command", (name, arguments.as_slice()))
        })
    }

    /// This guardian's contributions to the outcomes of these outputs, in order.
    pub fn outcomes(
        &self,
        host: &Arc<dyn Host>,
        out_points: &[OutPoint],
    ) -> Result<Vec<Option<Vec<u8>>>, CallError> {
        let asked: Vec<_> = out_points.iter().map(convert::to_out_point).collect();
        self.guardian(host, Phase::Query, |server, store| {
            let outcomes = server.call(store, "outcomes", (asked.as_slice(),))?;
            Ok(convert::outcomes(asked.len(), outcomes))
        })
    }

    /// What anybody may ask.
    pub fn query(
        &self,
        host: &Arc<dyn Host>,
        name: &str,
        arguments: &[Argument],
    ) -> Result<Answer, CallError> {
        let declared = self.bundle.description().queries.iter();
        let declared = declared.map(|query| (query.name.as_str(), &query.parameters));
        let arguments = check("query", declared, name, arguments)?;
        let arguments = convert::to_arguments(arguments);
        self.guardian(host, Phase::Query, |server, store| {
            let answer = server.ask(store, "query", (name, arguments.as_slice()))?;
            Ok(answer.and_then(convert::answer))
        })
    }
}

/// A wallet's calls, with a time limit. From any thread with a stack of 2 MiB.
///
/// # Errors
/// As [`CallError`] says; `Refused` with `no-such-action` or `bad-argument` before
/// the module sees names and arguments that it has not declared.
#[allow(clippy::missing_errors_doc, reason = "said above for all of them")]
impl Instance {
    /// Begins an operation.
    pub fn start(
        &self,
        host: &Arc<dyn Host>,
        action: &str,
        arguments: &[Argument],
    ) -> Result<Transition, CallError> {
        let declared = self.bundle.actions().iter();
        let declared = declared.map(|action| (action.name.as_str(), &action.parameters));
        let arguments = check("action", declared, action, arguments)?;
        let arguments = convert::to_arguments(arguments);
        self.wallet(host, Phase::Wallet, |client, store| {
            let transition = client.ask(store, "start", (action, arguments.as_slice()))?;
            Ok(transition.and_then(convert::transition))
        })
    }

    /// Tells a machine what has happened.
    pub fn advance(
        &self,
        host: &Arc<dyn Host>,
        state: &[u8],
        event: Event,
    ) -> Result<Transition, CallError> {
        let event = convert::to_event(event);
        self.wallet(host, Phase::Wallet, |client, store| {
            let transition = client.ask(store, "advance", (state, &event))?;
            Ok(transition.and_then(convert::transition))
        })
    }

    /// The machine that finds this module's money again.
    pub fn recover(
        &self,
        host: &Arc<dyn Host>,
        backup: Option<&[u8]>,
    ) -> Result<Transition, CallError> {
        self.wallet(host, Phase::Wallet, |client, store| {
            let transition = client.ask(store, "recover", (backup,))?;
            Ok(transition.and_then(convert::transition))
        })
    }

    /// What `recover` needs beside the seed, at most 65536 bytes.
    pub fn backup(&self, host: &Arc<dyn Host>) -> Result<Vec<u8>, CallError> {
        self.wallet(host, Phase::Look, |client, store| {
            client.call(store, "backup", ()).map(convert::backup)
        })
    }

    /// One step from the wallet's storage of version `from`; again with each cursor
    /// that it returns.
    pub fn migrate_client(
        &self,
        host: &Arc<dyn Host>,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, CallError> {
        self.wallet(host, Phase::Wallet, |client, store| {
            client.ask(store, "migrate", (from, cursor.as_deref()))
        })
    }

    /// What the e-cash module can spend now.
    pub fn balance(&self, host: &Arc<dyn Host>) -> Result<Amount, CallError> {
        self.ecash(host, Phase::Look, |ecash, store| {
            let msat = ecash.call(store, "balance", ())?;
            Ok(Ok(Amount(msat)))
        })
    }

    /// Makes a transaction even.
    pub fn complete(
        &self,
        host: &Arc<dyn Host>,
        inputs: Amount,
        outputs: Amount,
    ) -> Result<Completion, CallError> {
        self.ecash(host, Phase::Wallet, |ecash, store| {
            let completion = ecash.ask(store, "complete", (inputs.msat(), outputs.msat()))?;
            Ok(completion.and_then(convert::completion))
        })
    }
}

/// The arguments as `name` is declared to take them, with its defaults.
fn check<'a>(
    what: &str,
    mut declared: impl Iterator<Item = (&'a str, &'a Vec<Parameter>)>,
    name: &str,
    arguments: &[Argument],
) -> Result<Vec<Argument>, Refusal> {
    let Some((_, parameters)) = declared.find(|(declared, _)| *declared == name) else {
        let shown: String = name.chars().take(80).collect();
        return Err(Refusal::new(
            format!("no-such-{what}"),
            format!("this module has no {what} {shown:?}"),
        ));
    };
    complete_arguments(parameters, arguments)
}

impl Instance {
    fn request(&self, host: &Arc<dyn Host>, phase: Phase, time: Duration) -> Request {
        Request {
            phase,
            host: host.clone(),
            context: Some(self.context.clone()),
            log: self.log.clone(),
            fuel: None,
            time,
        }
    }

    fn consensus<T: Send>(
        &self,
        host: &Arc<dyn Host>,
        phase: Phase,
        f: impl FnOnce(&Exported, &mut Store<Call>) -> Returned<Checked<T>> + Send,
    ) -> Called<T> {
        self.consensus_in(&mut None, host, phase, f)
    }

    fn consensus_in<T: Send>(
        &self,
        place: &mut Option<Place<Option<Exported>>>,
        host: &Arc<dyn Host>,
        phase: Phase,
        f: impl FnOnce(&Exported, &mut Store<Call>) -> Returned<Checked<T>> + Send,
    ) -> Called<T> {
        let mut request = self.request(host, phase, Duration::MAX);
        request.fuel = Some(limits::MAX_FUEL);
        let compiled = &self.bundle.compiled;
        let called = compiled.metered(Interface::Server, place, request, f);
        Called {
            result: flat(called.result),
            fuel: called.fuel,
        }
    }

    fn guardian<T: Send>(
        &self,
        host: &Arc<dyn Host>,
        phase: Phase,
        f: impl FnOnce(&Exported, &mut Store<Call>) -> Returned<Checked<T>> + Send,
    ) -> Result<T, CallError> {
        let time = match phase {
            Phase::Query => limits::QUERY_TIME,
            _ => limits::CALL_TIME,
        };
        let request = self.request(host, phase, time);
        flat(self.bundle.compiled.timed(Interface::Server, request, f))
    }

    fn wallet<T: Send>(
        &self,
        host: &Arc<dyn Host>,
        phase: Phase,
        f: impl FnOnce(&Exported, &mut Store<Call>) -> Returned<Checked<T>> + Send,
    ) -> Result<T, CallError> {
        let request = self.request(host, phase, limits::CALL_TIME);
        flat(self.bundle.compiled.timed(Interface::Client, request, f))
    }

    fn ecash<T: Send>(
        &self,
        host: &Arc<dyn Host>,
        phase: Phase,
        f: impl FnOnce(&Exported, &mut Store<Call>) -> Returned<Checked<T>> + Send,
    ) -> Result<T, CallError> {
        let request = self.request(host, phase, limits::CALL_TIME);
        flat(self.bundle.compiled.timed(Interface::Ecash, request, f))
    }
}

/// A module's refusal is a call's error.
fn flat<T>(result: Result<Checked<T>, CallError>) -> Result<T, CallError> {
    Ok(result??)
}
