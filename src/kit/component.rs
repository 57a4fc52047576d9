//! A module's bundle, run by the runtime over the SDK's mock host: the same
//! driver, the same imports, another way to run than a native module's.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use modmint_core::{Argument, KeyKind, Parameter, PeerId, Value, config::Network};
use modmint_runtime::{self as runtime, CallError, Context, Instance, wallet};
use modmint_sdk::{
    self as sdk, Approval, OwnChain,
    bindings::exports::modmint::module::{client, module_info},
    mock::{Bundle, Exports, Founded, imports},
};

use super::fuel::Times;

/// A bundle, and the instance that is founded of it. Clones are the same one. Calls are
/// to be made on a thread of [`modmint_runtime::spawn_guest_thread`]: in place, where
/// the mock keeps its call.
///
/// A trap unwinds, with its text as the payload.
#[derive(Clone)]
pub struct Component(Rc<Inner>);

struct Inner {
    bundle: RefCell<Arc<runtime::Bundle>>,
    founded: RefCell<Option<Founded>>,
    instance: RefCell<Option<Arc<Instance>>>,
    host: Arc<dyn runtime::Host>,
    seen: RefCell<Seen>,
    times: RefCell<BTreeMap<&'static str, Times>>,
}

/// What a module has made so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Items, outcomes and answers, by what they are: borsh of [`sdk::Item`].
    pub items: BTreeSet<(Vec<u8>, Vec<u8>)>,
    /// States of machines, each with the effects that it waits for.
    pub states: BTreeMap<Vec<u8>, BTreeSet<u32>>,
    /// What machines were told, by the state that they were in: borsh of [`sdk::Event`].
    pub events: BTreeSet<(Vec<u8>, Vec<u8>)>,
    /// Actions that were begun, and queries that were asked, by their names.
    pub actions: BTreeSet<String>,
    /// As `actions`.
    pub queries: BTreeSet<String>,
}

impl Seen {
    fn add(&mut self, item: &sdk::Item, bytes: &[u8]) {
        let item = borsh::to_vec(item).expect("writing to memory does not fail");
        self.items.insert((item, bytes.to_vec()));
    }

    fn add_state(&mut self, state: &[u8], effects: impl IntoIterator<Item = u32>) {
        let waits = self.states.entry(state.to_vec()).or_default();
        waits.extend(effects);
    }

    /// What machines were told, with the state that each was in.
    pub fn events(&self) -> impl Iterator<Item = (&[u8], sdk::Event)> + '_ {
        self.events.iter().map(|(state, event)| {
            let event = borsh::from_slice(event).expect("written by `advance`");
            (state.as_slice(), event)
        })
    }

    /// The items, as `render` takes them.
    pub fn items(&self) -> impl Iterator<Item = (sdk::Item, Vec<u8>)> + '_ {
        self.items.iter().map(|(item, bytes)| {
            let item = borsh::from_slice(item).expect("written by `add`");
            (item, bytes.clone())
        })
    }
}

impl Component {
    /// For one federation.
    pub fn new(bundle: Arc<runtime::Bundle>) -> Self {
        Self(Rc::new(Inner {
            bundle: RefCell::new(bundle),
            founded: RefCell::default(),
            instance: RefCell::default(),
            host: Arc::new(Mock),
            seen: RefCell::default(),
            times: RefCell::default(),
        }))
    }

    /// To found it.
    pub fn bundle(&self) -> Bundle {
        Bundle::new(self.clone())
    }

    /// What it has made so far.
    pub fn seen(&self) -> Seen {
        self.0.seen.borrow().clone()
    }

    /// How long its calls took so far, but for those of consensus, by the export.
    pub fn times(&self) -> BTreeMap<&'static str, Times> {
        self.0.times.borrow().clone()
    }

    fn timed<T>(&self, export: &'static str, call: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = call();
        let time = began.elapsed();
        let mut times = self.0.times.borrow_mut();
        times.entry(export).or_default().add(time);
        done
    }

    /// Another bundle from now on, with the same storage and the same machines: as
    /// guardians and wallets go on with a newer one.
    pub fn replace(&self, bundle: Arc<runtime::Bundle>) {
        *self.0.bundle.borrow_mut() = bundle;
        self.0.instantiate();
    }

    fn instance(&self) -> Arc<Instance> {
        let instance = self.0.instance.borrow();
        Arc::clone(instance.as_ref().expect("the instance is founded"))
    }

    /// A bundle for wallets alone has nothing to say as a guardian.
    fn has_server(&self) -> bool {
        self.0.bundle.borrow().has_server()
    }

    fn saw(&self, item: &sdk::Item, bytes: &[u8]) {
        self.0.seen.borrow_mut().add(item, bytes);
    }

    /// A transition as the driver takes it.
    fn begun(
        &self,
        transition: Result<wallet::Transition, CallError>,
    ) -> Result<client::Transition, sdk::Refusal> {
        let transition = shapes::to_transition(said(transition)?);
        let effects = transition.effects.iter().map(|effect| effect.id);
        let mut seen = self.0.seen.borrow_mut();
        seen.add_state(&transition.state, effects);
        Ok(transition)
    }
}

impl Inner {
    fn instantiate(&self) {
        let founded = self.founded.borrow();
        let Some(founded) = founded.as_ref() else {
            return;
        };
        let context = Context {
            federation: founded.federation,
            network: Network::Regtest,
            peers: founded.guardians,
            threshold: founded.threshold,
            instance: founded.instance.clone(),
        };
        let instance = Instance::new(self.bundle.borrow().clone(), context);
        *self.instance.borrow_mut() = Some(instance);
    }
}

/// What the module says. Anything else is a trap, which the mock knows as a panic: one
/// that nobody needs to see.
fn said<T>(result: Result<T, CallError>) -> Result<T, sdk::Refusal> {
    match result {
        Ok(value) => Ok(value),
        Err(CallError::Refused(refusal)) => Err(shapes::to_refusal(refusal)),
        Err(other) => std::panic::resume_unwind(Box::new(other.to_string())),
    }
}

impl Exports for Component {
    fn describe(&self) -> sdk::Description {
        shapes::to_description(self.0.bundle.borrow().description())
    }
    fn configure(&self, arguments: Vec<sdk::Argument>) -> Result<module_info::Setup, sdk::Refusal> {
        let setup = said(
            self.0
                .bundle
                .borrow()
                .configure(&shapes::of_arguments(arguments)),
        )?;
        let keys = setup.keys.into_iter().map(|key| sdk::KeySpec {
            label: key.label,
            kind: match key.kind {
                KeyKind::BlindSignature => sdk::KeyKind::BlindSignature,
                KeyKind::Decryption => sdk::KeyKind::Decryption,
                KeyKind::Multisig => sdk::KeyKind::Multisig,
            },
        });
        Ok(module_info::Setup {
            config: setup.config,
            keys: keys.collect(),
        })
    }
    fn render(&self, item: sdk::Item, bytes: Vec<u8>) -> Result<String, sdk::Refusal> {
        let item = match item {
            sdk::Item::Input => runtime::RenderItem::Input,
            sdk::Item::Output => runtime::RenderItem::Output,
            sdk::Item::Outcome => runtime::RenderItem::Outcome,
            sdk::Item::ConsensusItem => runtime::RenderItem::ConsensusItem,
            sdk::Item::Answer(query) => runtime::RenderItem::Answer(query),
        };
        let rendered = self.timed("render", || self.instance().render(item, &bytes));
        said(rendered)
    }

    fn founded(&self, founded: Founded) {
        *self.0.founded.borrow_mut() = Some(founded);
        self.0.instantiate();
    }

    fn init(&self) -> Result<(), sdk::Refusal> {
        if !self.has_server() {
            return Ok(());
        }
        said(self.instance().init(&self.0.host).result)
    }
    fn migrate_server(
        &self,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, sdk::Refusal> {
        let instance = self.instance();
        said(instance.migrate_server(&self.0.host, from, cursor).result)
    }
    fn process_input(&self, input: Vec<u8>) -> Result<sdk::InputEffect, sdk::Refusal> {
        let instance = self.instance();
        let mut item = instance.item(self.0.host.clone());
        let effect = said(item.process_input(&input).result)?;
        self.saw(&sdk::Item::Input, &input);
        Ok(sdk::InputEffect {
            value: effect.value.msat(),
            fee: effect.fee.msat(),
            spend_key: effect.spend_key.0.to_vec(),
        })
    }
    fn process_output(
        &self,
        output: Vec<u8>,
        out_point: sdk::OutPoint,
    ) -> Result<sdk::OutputEffect, sdk::Refusal> {
        let out_point = shapes::of_out_point(out_point);
        let instance = self.instance();
        let mut item = instance.item(self.0.host.clone());
        let effect = said(item.process_output(&output, out_point).result)?;
        self.saw(&sdk::Item::Output, &output);
        Ok(sdk::OutputEffect {
            value: effect.value.msat(),
            fee: effect.fee.msat(),
        })
    }
    fn process_consensus_item(&self, peer: u16, item: Vec<u8>) -> Result<(), sdk::Refusal> {
        let called = self
            .instance()
            .process_consensus_item(&self.0.host, PeerId(peer), &item);
        said(called.result)
    }
    fn propose(&self) -> Vec<Vec<u8>> {
        if !self.has_server() {
            return Vec::new();
        }
        let items = self.timed("propose", || self.instance().propose(&self.0.host));
        let items = said(items).expect("nothing to refuse");
        for item in &items {
            self.saw(&sdk::Item::ConsensusItem, item);
        }
        items
    }
    fn broadcast(&self) -> Vec<Vec<u8>> {
        if !self.has_server() {
            return Vec::new();
        }
        said(self.instance().broadcast(&self.0.host)).expect("nothing to refuse")
    }
    fn outcomes(&self, out_points: Vec<sdk::OutPoint>) -> Vec<Option<Vec<u8>>> {
        let out_points: Vec<_> = out_points.into_iter().map(shapes::of_out_point).collect();
        let ask = || self.instance().outcomes(&self.0.host, &out_points);
        let outcomes = said(self.timed("outcomes", ask)).expect("nothing to refuse");
        for outcome in outcomes.iter().flatten() {
            self.saw(&sdk::Item::Outcome, outcome);
        }
        outcomes
    }
    fn query(
        &self,
        name: String,
        arguments: Vec<sdk::Argument>,
    ) -> Result<sdk::Answer, sdk::Refusal> {
        self.0.seen.borrow_mut().queries.insert(name.clone());
        let arguments = shapes::of_arguments(arguments);
        let ask = || self.instance().query(&self.0.host, &name, &arguments);
        let answer = said(self.timed("query", ask))?;
        Ok(match answer {
            runtime::Answer::Ready(bytes) => {
                self.saw(&sdk::Item::Answer(name), &bytes);
                sdk::Answer::Ready(bytes)
            }
            runtime::Answer::Wait(wakes) => sdk::Answer::Wait(
                wakes
                    .into_iter()
                    .map(|wake| match wake {
                        runtime::Wake::Key(key) => sdk::Wake::Key(key),
                        runtime::Wake::Height(height) => sdk::Wake::Height(height),
                        runtime::Wake::Time(time) => sdk::Wake::Time(time),
                        runtime::Wake::Block => sdk::Wake::Block,
                    })
                    .collect(),
            ),
        })
    }
    fn command(
        &self,
        name: String,
        arguments: Vec<sdk::Argument>,
    ) -> Result<Vec<Vec<u8>>, sdk::Refusal> {
        let arguments = shapes::of_arguments(arguments);
        said(self.instance().command(&self.0.host, &name, &arguments))
    }
    fn audit(&self) -> Vec<sdk::AuditLine> {
        if !self.has_server() {
            return Vec::new();
        }
        let lines = said(self.instance().audit(&self.0.host).result).expect("nothing to refuse");
        lines
            .into_iter()
            .map(|line| sdk::AuditLine {
                name: line.name,
                msat: line.msat,
            })
            .collect()
    }

    fn start(
        &self,
        action: String,
        arguments: Vec<sdk::Argument>,
    ) -> Result<client::Transition, sdk::Refusal> {
        self.0.seen.borrow_mut().actions.insert(action.clone());
        let arguments = shapes::of_arguments(arguments);
        let start = || self.instance().start(&self.0.host, &action, &arguments);
        self.begun(self.timed("start", start))
    }
    fn advance(
        &self,
        state: Vec<u8>,
        event: sdk::Event,
    ) -> Result<client::Transition, sdk::Refusal> {
        let told = borsh::to_vec(&event).expect("writing to memory does not fail");
        self.0
            .seen
            .borrow_mut()
            .events
            .insert((state.clone(), told));
        let event = shapes::of_event(event);
        let advance = || self.instance().advance(&self.0.host, &state, event);
        self.begun(self.timed("advance", advance))
    }
    fn recover(&self, backup: Option<Vec<u8>>) -> Result<client::Transition, sdk::Refusal> {
        let begun = self.instance().recover(&self.0.host, backup.as_deref());
        self.begun(begun)
    }
    fn migrate_client(
        &self,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, sdk::Refusal> {
        said(self.instance().migrate_client(&self.0.host, from, cursor))
    }

    fn is_ecash(&self) -> bool {
        self.0.bundle.borrow().has_ecash()
    }
    fn balance(&self) -> u64 {
        let balance = self.timed("balance", || self.instance().balance(&self.0.host));
        said(balance).expect("nothing to refuse").msat()
    }
    fn complete(&self, inputs: u64, outputs: u64) -> Result<sdk::Completion, sdk::Refusal> {
        let (inputs, outputs) = (modmint_core::Amount(inputs), modmint_core::Amount(outputs));
        let complete = || self.instance().complete(&self.0.host, inputs, outputs);
        let completion = said(self.timed("complete", complete))?;
        let mut seen = self.0.seen.borrow_mut();
        seen.add_state(&completion.machine, [0]);
        Ok(sdk::Completion {
            inputs: completion
                .inputs
                .into_iter()
                .map(shapes::to_input)
                .collect(),
            outputs: completion
                .outputs
                .into_iter()
                .map(shapes::to_output)
                .collect(),
            machine: completion.machine,
        })
    }
}

/// The mock's imports as the runtime calls them. Calls come on the driver's own
/// thread, which is where the mock keeps the call.
struct Mock;

fn fixed<const N: usize>(bytes: impl TryInto<[u8; N], Error: Debug>) -> [u8; N] {
    bytes.try_into().expect("the mock keeps lengths")
}

fn chain_out_point(out_point: &runtime::ChainOutPoint) -> sdk::ChainOutPoint {
    sdk::ChainOutPoint {
        txid: out_point.txid.to_vec(),
        vout: out_point.vout,
    }
}

fn chain_output(output: sdk::ChainOutput) -> runtime::ChainOutput {
    runtime::ChainOutput {
        out_point: runtime::ChainOutPoint {
            txid: fixed(output.out_point.txid),
            vout: output.out_point.vout,
        },
        script: output.script,
        satoshi: output.satoshi,
        height: output.height,
    }
}

/// The runtime has bound the terms of a decryption to federation (32 bytes) and instance
/// (2); the mock does so itself.
fn signable(what: &runtime::Signable) -> sdk::Signable {
    sdk::Signable {
        label: what.label.clone(),
        message: what.message.clone(),
        terms: what.terms.get(34..).unwrap_or_default().to_vec(),
    }
}

impl runtime::Host for Mock {
    fn get(&self, key: &[u8]) -> runtime::HostResult<Option<Vec<u8>>> {
        Ok(imports::storage::get(key))
    }
    fn put(&self, key: &[u8], value: &[u8]) -> runtime::HostResult<()> {
        imports::storage::put(key, value);
        Ok(())
    }
    fn delete(&self, key: &[u8]) -> runtime::HostResult<()> {
        imports::storage::delete(key);
        Ok(())
    }
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        _max_bytes: usize,
    ) -> runtime::HostResult<Vec<(Vec<u8>, Vec<u8>)>> {
        let limit = limit.try_into().unwrap_or(u32::MAX);
        Ok(imports::storage::scan(prefix, after, limit))
    }

    fn block_height(&self) -> runtime::HostResult<u32> {
        Ok(imports::federation::block_height())
    }
    fn block_hash(&self, height: u32) -> runtime::HostResult<Option<[u8; 32]>> {
        Ok(imports::federation::block_hash(height).map(fixed))
    }
    fn chain_output_at(
        &self,
        out_point: &runtime::ChainOutPoint,
    ) -> runtime::HostResult<Option<runtime::ChainOutput>> {
        let output = imports::federation::chain_output_at(&chain_out_point(out_point));
        Ok(output.map(chain_output))
    }
    fn chain_outputs(&self, script: &[u8]) -> runtime::HostResult<Vec<runtime::ChainOutput>> {
        let outputs = imports::federation::chain_outputs(script);
        Ok(outputs.into_iter().map(chain_output).collect())
    }
    fn fee_rate(&self) -> runtime::HostResult<u64> {
        Ok(imports::federation::fee_rate())
    }
    fn unix_time(&self) -> runtime::HostResult<u64> {
        Ok(imports::federation::unix_time())
    }

    fn approve(&self, what: &runtime::Signable) -> runtime::HostResult<runtime::Approval> {
        match imports::signing::approve(&signable(what)) {
            Approval::Approved => Ok(runtime::Approval::Approved),
            Approval::Before => Ok(runtime::Approval::Before),
            Approval::Malformed => panic!("malformed ones never reach the host"),
        }
    }
    fn revoke(&self, what: &runtime::Signable) -> runtime::HostResult<()> {
        imports::signing::revoke(&signable(what));
        Ok(())
    }

    fn claim(
        &self,
        output: &runtime::ChainOutPoint,
    ) -> runtime::HostResult<Option<runtime::ChainOutput>> {
        Ok(imports::treasury::claim(&chain_out_point(output)).map(chain_output))
    }
    fn release(&self, satoshi: u64) -> runtime::HostResult<bool> {
        Ok(imports::treasury::release(satoshi))
    }

    fn whoami(&self) -> runtime::HostResult<PeerId> {
        Ok(PeerId(imports::guardian::whoami()))
    }
    fn shares(&self, what: &[runtime::Signable]) -> runtime::HostResult<Vec<Option<Vec<u8>>>> {
        let what: Vec<_> = what.iter().map(signable).collect();
        Ok(imports::guardian::shares(&what))
    }
    fn chain(&self) -> runtime::HostResult<runtime::OwnChain> {
        Ok(match imports::guardian::chain() {
            OwnChain::Unknown => runtime::OwnChain::Unknown,
            OwnChain::Follows(height) => runtime::OwnChain::Follows(height),
            OwnChain::Differs => runtime::OwnChain::Differs,
        })
    }
    fn missing(
        &self,
        held: &[runtime::ChainOutPoint],
    ) -> runtime::HostResult<Vec<runtime::ChainOutPoint>> {
        let held: Vec<_> = held.iter().map(chain_out_point).collect();
        let missing = imports::guardian::missing(&held);
        let shown = missing.into_iter().map(|output| runtime::ChainOutPoint {
            txid: fixed(output.txid),
            vout: output.vout,
        });
        Ok(shown.collect())
    }
    fn confirmed_at(&self, txid: &[u8; 32]) -> runtime::HostResult<Option<u32>> {
        Ok(imports::guardian::confirmed_at(txid))
    }

    fn derive_secret(&self, path: &[u64]) -> runtime::HostResult<[u8; 32]> {
        Ok(fixed(imports::wallet_host::derive_secret(path)))
    }
    fn random(&self, length: usize) -> runtime::HostResult<Vec<u8>> {
        let length = length.try_into().expect("the runtime bounds lengths");
        Ok(imports::wallet_host::random(length))
    }
    fn device_time(&self) -> runtime::HostResult<u64> {
        Ok(imports::wallet_host::unix_time())
    }
    fn invite(&self) -> runtime::HostResult<String> {
        Ok(imports::wallet_host::invite())
    }
}

/// The contract's records, from the SDK's shapes (`of_…`) and to them (`to_…`).
pub(super) mod shapes {
    use super::*;

    pub fn to_refusal(refusal: modmint_core::Refusal) -> sdk::Refusal {
        sdk::Refusal {
            code: refusal.code,
            message: refusal.message,
        }
    }
    fn of_refusal(refusal: sdk::Refusal) -> modmint_core::Refusal {
        modmint_core::Refusal {
            code: refusal.code,
            message: refusal.message,
        }
    }

    fn to_parameter(parameter: &Parameter) -> sdk::Parameter {
        use modmint_core::ParameterKind as Kind;
        sdk::Parameter {
            name: parameter.name.clone(),
            summary: parameter.summary.clone(),
            kind: match parameter.kind.clone() {
                Kind::Text => sdk::ParameterKind::Text,
                Kind::Number => sdk::ParameterKind::Number,
                Kind::Flag => sdk::ParameterKind::Flag,
                Kind::Bytes => sdk::ParameterKind::Bytes,
                Kind::Amount => sdk::ParameterKind::Amount,
                Kind::Choice(choices) => sdk::ParameterKind::Choice(choices),
                Kind::Texts => sdk::ParameterKind::Texts,
            },
            required: parameter.required,
            default: parameter.default.clone().map(to_value),
        }
    }
    fn to_endpoint(endpoint: &runtime::Endpoint) -> sdk::Endpoint {
        sdk::Endpoint {
            name: endpoint.name.clone(),
            summary: endpoint.summary.clone(),
            parameters: endpoint.parameters.iter().map(to_parameter).collect(),
        }
    }
    pub fn to_description(description: &runtime::Description) -> sdk::Description {
        sdk::Description {
            kind: description.kind.clone(),
            version: description.version.clone(),
            summary: description.summary.clone(),
            server_storage: description.server_storage,
            client_storage: description.client_storage,
            configuration: description.configuration.iter().map(to_parameter).collect(),
            queries: description.queries.iter().map(to_endpoint).collect(),
            commands: description.commands.iter().map(to_endpoint).collect(),
        }
    }

    pub fn of_arguments(arguments: Vec<sdk::Argument>) -> Vec<Argument> {
        let argument = |argument: sdk::Argument| Argument {
            name: argument.name,
            value: match argument.value {
                sdk::Value::Text(text) => Value::Text(text),
                sdk::Value::Number(number) => Value::Number(number),
                sdk::Value::Flag(flag) => Value::Flag(flag),
                sdk::Value::Bytes(bytes) => Value::Bytes(bytes),
                sdk::Value::Amount(msat) => Value::Amount(modmint_core::Amount(msat)),
                sdk::Value::Texts(texts) => Value::Texts(texts),
            },
        };
        arguments.into_iter().map(argument).collect()
    }
    pub fn to_arguments(arguments: Vec<Argument>) -> Vec<sdk::Argument> {
        let argument = |argument: Argument| sdk::Argument {
            name: argument.name,
            value: to_value(argument.value),
        };
        arguments.into_iter().map(argument).collect()
    }
    fn to_value(value: Value) -> sdk::Value {
        match value {
            Value::Text(text) => sdk::Value::Text(text),
            Value::Number(number) => sdk::Value::Number(number),
            Value::Flag(flag) => sdk::Value::Flag(flag),
            Value::Bytes(bytes) => sdk::Value::Bytes(bytes),
            Value::Amount(amount) => sdk::Value::Amount(amount.msat()),
            Value::Texts(texts) => sdk::Value::Texts(texts),
        }
    }

    pub fn of_out_point(out_point: sdk::OutPoint) -> modmint_core::OutPoint {
        modmint_core::OutPoint {
            txid: modmint_core::TxId(fixed(out_point.txid)),
            index: out_point.index,
        }
    }
    fn to_out_point(out_point: modmint_core::OutPoint) -> sdk::OutPoint {
        sdk::OutPoint {
            txid: out_point.txid.0.to_vec(),
            index: out_point.index,
        }
    }

    pub fn to_input(input: wallet::PlannedInput) -> sdk::PlannedInput {
        sdk::PlannedInput {
            input: input.input,
            value: input.value.msat(),
            fee: input.fee.msat(),
            signer: match input.signer {
                wallet::Signer::Path(path) => sdk::Signer::Path(path),
                wallet::Signer::Secret(secret) => sdk::Signer::Secret(secret.to_vec()),
            },
        }
    }
    pub fn to_output(output: wallet::PlannedOutput) -> sdk::PlannedOutput {
        sdk::PlannedOutput {
            output: output.output,
            value: output.value.msat(),
            fee: output.fee.msat(),
        }
    }
    fn to_plan(plan: wallet::Plan) -> sdk::Plan {
        let quote = |quote: wallet::Quote| sdk::Quote {
            summary: quote.summary,
            fees: quote
                .fees
                .into_iter()
                .map(|line| sdk::FeeLine {
                    name: line.name,
                    amount: line.amount.msat(),
                })
                .collect(),
            expires: quote.expires,
        };
        sdk::Plan {
            inputs: plan.inputs.into_iter().map(to_input).collect(),
            outputs: plan.outputs.into_iter().map(to_output).collect(),
            confirm: plan.confirm.map(quote),
        }
    }
    fn to_agreement(agreement: wallet::Agreement) -> sdk::Agreement {
        match agreement {
            wallet::Agreement::Any => sdk::Agreement::Any,
            wallet::Agreement::Same => sdk::Agreement::Same,
            wallet::Agreement::Each => sdk::Agreement::Each,
        }
    }
    fn to_want(want: wallet::Want) -> sdk::Want {
        match want {
            wallet::Want::Submit(plan) => sdk::Want::Submit(to_plan(plan)),
            wallet::Want::Outcomes(request) => sdk::Want::Outcomes(sdk::OutcomeRequest {
                out_points: request.out_points.into_iter().map(to_out_point).collect(),
                agreement: to_agreement(request.agreement),
            }),
            wallet::Want::Query(request) => sdk::Want::Query(sdk::QueryRequest {
                name: request.name,
                arguments: to_arguments(request.arguments),
                agreement: to_agreement(request.agreement),
            }),
            wallet::Want::Http(request) => sdk::Want::Http(sdk::HttpRequest {
                method: request.method,
                url: request.url,
                headers: request.headers,
                body: request.body,
            }),
            wallet::Want::Until(time) => sdk::Want::Until(time),
            wallet::Want::Service(request) => sdk::Want::Service(sdk::ServiceRequest {
                name: request.name,
                request: request.request,
            }),
        }
    }
    pub fn to_transition(transition: wallet::Transition) -> client::Transition {
        let effects = transition.effects.into_iter().map(|effect| sdk::Effect {
            id: effect.id,
            want: to_want(effect.want),
        });
        client::Transition {
            state: transition.state,
            effects: effects.collect(),
            progress: transition.progress.map(|progress| sdk::Progress {
                stage: progress.stage,
                message: progress.message,
                details: progress.details,
            }),
            finished: transition.finished.map(|end| end.map_err(to_refusal)),
        }
    }

    pub fn of_event(event: sdk::Event) -> wallet::Event {
        match event {
            sdk::Event::Done(done) => wallet::Event::Done {
                effect: done.effect,
                outcome: of_outcome(done.outcome),
            },
            sdk::Event::Cancel => wallet::Event::Cancel,
        }
    }
    fn of_outcome(outcome: sdk::EffectResult) -> wallet::EffectResult {
        match outcome {
            sdk::EffectResult::Accepted(acceptance) => wallet::EffectResult::Accepted {
                txid: modmint_core::TxId(fixed(acceptance.txid)),
                outputs: acceptance.outputs,
            },
            sdk::EffectResult::Rejected(rejection) => wallet::EffectResult::Rejected {
                refusal: of_refusal(rejection.refusal),
                input: rejection.input,
                output: rejection.output,
            },
            sdk::EffectResult::Declined => wallet::EffectResult::Declined,
            sdk::EffectResult::Outcomes(outcomes) => {
                let peer = |answer: sdk::PeerOutcomes| wallet::PeerOutcomes {
                    peer: PeerId(answer.peer),
                    outcomes: answer.outcomes,
                };
                wallet::EffectResult::Outcomes(outcomes.into_iter().map(peer).collect())
            }
            sdk::EffectResult::Answers(answers) => {
                let peer = |answer: sdk::PeerAnswer| wallet::PeerAnswer {
                    peer: PeerId(answer.peer),
                    answer: answer.answer.map_err(of_refusal),
                };
                wallet::EffectResult::Answers(answers.into_iter().map(peer).collect())
            }
            sdk::EffectResult::Response(response) => {
                wallet::EffectResult::Response(wallet::HttpResponse {
                    status: response.status,
                    body: response.body,
                })
            }
            sdk::EffectResult::TimeReached => wallet::EffectResult::TimeReached,
            sdk::EffectResult::Served(bytes) => wallet::EffectResult::Served(bytes),
            sdk::EffectResult::Failed(refusal) => wallet::EffectResult::Failed(of_refusal(refusal)),
        }
    }
}
