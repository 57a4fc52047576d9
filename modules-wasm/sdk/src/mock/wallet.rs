//! A wallet: operations, each made of machines, over one durable state.

use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc};

use modmint_core::{Input, InstanceId, Output, Transaction, TransactionBody, tagged_hash};
use modmint_crypto::secp;

use super::{
    Federation, Phase, Status, Store,
    call::{WalletSide, enter},
    federation::every_step,
};
use crate::{
    Acceptance, Agreement, Answer, Argument, Effect, EffectDone, EffectResult, Event, HttpRequest,
    HttpResponse, PeerAnswer, PeerOutcomes, Plan, PlannedInput, PlannedOutput, Progress,
    QueryRequest, Refusal, Rejection, Signer, Want, bindings::exports::modmint::module::client,
};

/// An operation's number in its wallet.
pub type OperationId = usize;

/// When a wallet dies: right behind its `after`-th write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Counted from 1.
    pub after: u64,
    /// Whether the transactions that the write promised were still sent.
    pub sent: bool,
}

/// Something that a person or a module has begun.
#[derive(Clone)]
pub struct Operation {
    machines: Vec<Machine>,
    /// How it stands; the last one is its result.
    pub progress: Option<Progress>,
    /// Every progress it has shown.
    pub history: Vec<Progress>,
    /// What it may take from the balance without asking again, millisatoshi.
    confirmed: u64,
}

impl Operation {
    /// None while a machine goes on; then the first refusal, if there is one.
    pub fn finished(&self) -> Option<Result<(), Refusal>> {
        let ends: Option<Vec<_>> = self.machines.iter().map(|m| m.finished.clone()).collect();
        Some(ends?.into_iter().collect())
    }

    /// Whether it waits for nothing but a time.
    pub fn rests(&self) -> bool {
        self.machines
            .iter()
            .filter(|machine| machine.finished.is_none())
            .flat_map(|machine| &machine.effects)
            .all(|effect| matches!(effect.want, Want::Until(_)))
    }

    /// The details of the last progress, JSON text.
    pub fn details(&self) -> String {
        self.progress
            .as_ref()
            .map(|progress| progress.details.clone())
            .unwrap_or_default()
    }

    /// A text in the details, by its name.
    pub fn detail(&self, name: &str) -> Option<String> {
        let details = self.details();
        let begin = details.find(&format!("\"{name}\":\""))? + name.len() + 4;
        let length = details[begin..].find('"')?;
        Some(details[begin..begin + length].to_owned())
    }
}

#[derive(Clone)]
struct Machine {
    instance: u16,
    state: Vec<u8>,
    effects: Vec<Effect>,
    /// By effect, from the write that made it durable until the machine is told.
    submissions: BTreeMap<u32, Submission>,
    finished: Option<Result<(), Refusal>>,
    /// Of the e-cash module, made by `complete`: told before the planner.
    completes: bool,
}

#[derive(Clone)]
enum Submission {
    Sent {
        bytes: Vec<u8>,
        txid: [u8; 32],
        /// What the plan takes from the balance.
        taken: u64,
        /// Where in the transaction this machine's items are.
        inputs: Range<u16>,
        outputs: Range<u16>,
    },
    Declined,
    Failed(Refusal),
}

/// What survives a kill.
#[derive(Clone, Default)]
struct Durable {
    stores: BTreeMap<u16, Store>,
    operations: Vec<Operation>,
}

type Service = Box<dyn FnMut(&[u8]) -> Result<Vec<u8>, Refusal>>;
type Web = Box<dyn FnMut(&HttpRequest) -> Result<HttpResponse, Refusal>>;

/// A wallet of a federation.
pub struct Wallet {
    federation: Federation,
    side: Rc<RefCell<WalletSide>>,
    durable: Durable,
    /// How many guardians' answers have been delivered, by operation, machine and
    /// effect. Lost when killed.
    delivered: BTreeMap<(usize, usize, u32), usize>,
    writes: u64,
    kill: Option<Kill>,
    dead: bool,
    kills: u64,
    confirms: bool,
    services: BTreeMap<String, Service>,
    web: Option<Web>,
    /// What the person was asked last: the summary and the total.
    pub asked: Option<(String, u64)>,
}

pub(super) fn derive_secret(
    seed: &[u8; 32],
    federation: &[u8; 32],
    instance: u16,
    path: &[u64],
) -> [u8; 32] {
    let path: Vec<u8> = path.iter().flat_map(|part| part.to_be_bytes()).collect();
    tagged_hash(
        "mock/derive",
        &[seed, federation, &instance.to_be_bytes(), &path],
    )
}

impl Wallet {
    /// A wallet with the seed of this name, that says yes to whatever it is asked.
    pub fn new(federation: &Federation, name: &str) -> Self {
        Self {
            federation: federation.clone(),
            side: Rc::new(RefCell::new(WalletSide {
                seed: tagged_hash("mock/seed", &[name.as_bytes()]),
                drawn: 0,
            })),
            durable: Durable::default(),
            delivered: BTreeMap::new(),
            writes: 0,
            kill: None,
            dead: false,
            kills: 0,
            confirms: true,
            services: BTreeMap::new(),
            web: None,
            asked: None,
        }
    }

    /// A wallet on another device: with the seed of this one, and nothing else of
    /// it.
    pub fn another_device(&self) -> Self {
        let mut other = Self::new(&self.federation, "");
        other.side = Rc::clone(&self.side);
        other
    }

    pub(super) fn federation(&self) -> &Federation {
        &self.federation
    }

    /// What the person says from now on when asked.
    pub fn set_confirms(&mut self, confirms: bool) {
        self.confirms = confirms;
    }

    /// What the application around the wallet can do.
    pub fn offer_service(
        &mut self,
        name: &str,
        service: impl FnMut(&[u8]) -> Result<Vec<u8>, Refusal> + 'static,
    ) {
        self.services.insert(name.to_owned(), Box::new(service));
    }

    /// What the world answers to HTTP requests; without it nobody is reached.
    pub fn offer_web(
        &mut self,
        web: impl FnMut(&HttpRequest) -> Result<HttpResponse, Refusal> + 'static,
    ) {
        self.web = Some(Box::new(web));
    }

    /// How many durable writes there have been.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Kills the wallet then.
    pub fn kill_at(&mut self, kill: Kill) {
        self.kill = Some(kill);
    }

    /// Whether it has been killed.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// How often it has been.
    pub fn kills(&self) -> u64 {
        self.kills
    }

    /// Starts the program again after a kill; what was not durable is gone.
    pub fn resume(&mut self) {
        self.kill = None;
        self.dead = false;
        self.delivered.clear();
    }

    /// What can be spent now, millisatoshi.
    pub fn balance(&self) -> u64 {
        let Some(instance) = self.federation.ecash() else {
            return 0;
        };
        let bundle = self.federation.bundle(instance);
        self.call(instance, Phase::Look, || bundle.balance())
    }

    /// What a module has in this wallet's storage.
    pub fn store(&self, instance: u16) -> Store {
        let stores = &self.durable.stores;
        stores.get(&instance).cloned().unwrap_or_default()
    }

    /// A call of the wallets' half in any phase; nothing that it writes is kept.
    pub fn call<T>(&self, instance: u16, phase: Phase, module: impl FnOnce() -> T) -> T {
        self.enter(&self.durable, instance, phase, module).0
    }

    fn enter<T>(
        &self,
        durable: &Durable,
        instance: u16,
        phase: Phase,
        module: impl FnOnce() -> T,
    ) -> (T, Store) {
        let store = durable.stores.get(&instance).cloned().unwrap_or_default();
        let wallet = Some((store, Rc::clone(&self.side)));
        enter(
            self.federation.new_call(instance, phase, None, wallet),
            module,
        )
    }

    /// Takes the wallet's storage of version `from` to that of the module's bundle, as a
    /// wallet does when it opens with a newer one.
    ///
    /// # Errors
    /// The module's refusal, and nothing has changed.
    ///
    /// # Panics
    /// If it never ends.
    pub fn migrate(&mut self, instance: u16, from: u32) -> Result<(), Refusal> {
        let bundle = self.federation.bundle(instance);
        let mut next = self.durable.clone();
        every_step(|cursor| {
            let step = || bundle.migrate_client(from, cursor);
            let (step, store) = self.enter(&next, instance, Phase::Wallet, step);
            next.stores.insert(instance, store);
            step
        })?;
        self.durable = next;
        Ok(())
    }

    /// Begins an operation and does nothing more yet.
    ///
    /// # Errors
    /// The module's refusal.
    pub fn start(
        &mut self,
        instance: u16,
        action: &str,
        arguments: Vec<Argument>,
    ) -> Result<OperationId, Refusal> {
        let bundle = self.federation.bundle(instance);
        self.begin(instance, || bundle.start(action.to_owned(), arguments))
    }

    /// Begins to find a module's money again and does nothing more yet.
    ///
    /// # Errors
    /// The module's refusal.
    pub fn recover(&mut self, instance: u16) -> Result<OperationId, Refusal> {
        let bundle = self.federation.bundle(instance);
        self.begin(instance, || bundle.recover(None))
    }

    fn begin(
        &mut self,
        instance: u16,
        first: impl FnOnce() -> Result<client::Transition, Refusal>,
    ) -> Result<OperationId, Refusal> {
        let mut next = self.durable.clone();
        let (begun, store) = self.enter(&next, instance, Phase::Wallet, first);
        let begun = begun?;
        next.stores.insert(instance, store);
        next.operations.push(Operation {
            machines: vec![Machine {
                instance,
                state: Vec::new(),
                effects: Vec::new(),
                submissions: BTreeMap::new(),
                finished: None,
                completes: false,
            }],
            progress: None,
            history: Vec::new(),
            confirmed: 0,
        });
        let operation = next.operations.len() - 1;
        self.write(next, operation, 0, begun);
        Ok(operation)
    }

    /// Begins an operation and carries on with everything as far as it goes.
    ///
    /// # Errors
    /// The module's refusal, at the beginning.
    pub fn perform(
        &mut self,
        instance: u16,
        action: &str,
        arguments: Vec<Argument>,
    ) -> Result<OperationId, Refusal> {
        let operation = self.start(instance, action, arguments)?;
        self.run();
        Ok(operation)
    }

    /// How an operation stands.
    pub fn operation(&self, operation: OperationId) -> &Operation {
        &self.durable.operations[operation]
    }

    /// All of them.
    pub fn operations(&self) -> &[Operation] {
        &self.durable.operations
    }

    /// Asks an operation to stop.
    ///
    /// # Errors
    /// It refuses.
    pub fn cancel(&mut self, operation: OperationId) -> Result<(), Refusal> {
        if self.durable.operations[operation].machines[0]
            .finished
            .is_some()
        {
            return Err(Refusal::new("finished", "the operation is over"));
        }
        self.advance(operation, 0, Event::Cancel)
    }

    /// Carries on until there is nothing to do but wait, or the wallet is killed.
    pub fn run(&mut self) {
        while self.step() {}
    }

    /// Carries out one effect whose answer is there; false if there is none.
    pub fn step(&mut self) -> bool {
        if self.dead {
            return false;
        }
        let Some((operation, machine, done)) = self.next_answer() else {
            return false;
        };
        if matches!(
            done.outcome,
            EffectResult::Accepted(_) | EffectResult::Rejected(_)
        ) {
            // Told, in the write that this answer leads to. What was confirmed for
            // a transaction that is refused has not been spent.
            let operation = &mut self.durable.operations[operation];
            let told = operation.machines[machine].submissions.remove(&done.effect);
            if let (Some(Submission::Sent { taken, .. }), EffectResult::Rejected(_)) =
                (told, &done.outcome)
            {
                operation.confirmed += taken;
            }
        }
        self.advance(operation, machine, Event::Done(done))
            .expect("a machine does not refuse an answer that it waits for");
        true
    }

    /// E-cash first: when the planner is told, change is on its way and the notes
    /// of a refused transaction are back.
    fn next_answer(&mut self) -> Option<(usize, usize, EffectDone)> {
        let mut waiting = Vec::new();
        for (operation, o) in self.durable.operations.iter().enumerate() {
            for (machine, m) in o.machines.iter().enumerate() {
                if m.finished.is_none() {
                    waiting.push((!m.completes, operation, machine, m.effects.clone()));
                }
            }
        }
        waiting.sort_by_key(|(planner, ..)| *planner);
        for (_, operation, machine, effects) in waiting {
            for Effect { id, want } in effects {
                if let Some(outcome) = self.answer(operation, machine, id, want) {
                    let effect = EffectDone {
                        effect: id,
                        outcome,
                    };
                    return Some((operation, machine, effect));
                }
            }
        }
        None
    }

    fn answer(
        &mut self,
        operation: usize,
        machine: usize,
        id: u32,
        want: Want,
    ) -> Option<EffectResult> {
        let place = (operation, machine, id);
        let this = &self.durable.operations[operation].machines[machine];
        let instance = this.instance;
        match want {
            Want::Submit(_) => {
                let submission = this.submissions.get(&id)?.clone();
                Some(self.fate(submission))
            }
            Want::Outcomes(request) => {
                let answers: Vec<(u16, Vec<Vec<u8>>)> = self
                    .guardians(place)
                    .filter_map(|guardian| {
                        let answer = self.federation.outcomes(
                            guardian,
                            instance,
                            request.out_points.clone(),
                        );
                        Some((guardian, answer?))
                    })
                    .collect();
                let agreed = self.agree(place, request.agreement, answers)?;
                let peers = agreed
                    .into_iter()
                    .map(|(peer, outcomes)| PeerOutcomes { peer, outcomes });
                Some(EffectResult::Outcomes(peers.collect()))
            }
            Want::Query(QueryRequest {
                name,
                arguments,
                agreement,
            }) => {
                let answers = self
                    .guardians(place)
                    .filter_map(|guardian| {
                        let answer =
                            self.federation
                                .query(guardian, instance, &name, arguments.clone());
                        match answer? {
                            Ok(Answer::Ready(bytes)) => Some((guardian, Ok(bytes))),
                            Ok(Answer::Wait(_)) => None,
                            Err(refusal) => Some((guardian, Err(refusal))),
                        }
                    })
                    .collect();
                let agreed = self.agree(place, agreement, answers)?;
                let peers = agreed
                    .into_iter()
                    .map(|(peer, answer)| PeerAnswer { peer, answer });
                Some(EffectResult::Answers(peers.collect()))
            }
            Want::Until(time) => {
                (self.federation.time() >= time).then_some(EffectResult::TimeReached)
            }
            Want::Http(request) => Some(match self.web.as_mut() {
                None => EffectResult::Failed(Refusal::new(
                    "no-network",
                    "the mock wallet reaches nobody",
                )),
                Some(web) => match web(&request) {
                    Ok(response) => EffectResult::Response(response),
                    Err(refusal) => EffectResult::Failed(refusal),
                },
            }),
            Want::Service(request) => Some(match self.services.get_mut(&request.name) {
                None => EffectResult::Failed(Refusal::new(
                    "no-such-service",
                    format!("{} is not offered here", request.name),
                )),
                Some(service) => match service(&request.request) {
                    Ok(bytes) => EffectResult::Served(bytes),
                    Err(refusal) => EffectResult::Failed(refusal),
                },
            }),
        }
    }

    /// In another order for each effect, so that anybody's answer may come first.
    fn guardians(&self, place: (usize, usize, u32)) -> impl Iterator<Item = u16> + use<> {
        let n = self.federation.state.borrow().guardians.len();
        let first = place.0 + place.1 + place.2 as usize;
        (0..n).map(move |turn| ((first + turn) % n) as u16)
    }

    /// The answers to deliver now, if there is something new.
    fn agree<T: PartialEq + Clone>(
        &mut self,
        place: (usize, usize, u32),
        agreement: Agreement,
        answers: Vec<(u16, T)>,
    ) -> Option<Vec<(u16, T)>> {
        let threshold = self.federation.state.borrow().threshold();
        let delivered = self.delivered.entry(place).or_default();
        match agreement {
            Agreement::Any if *delivered == 0 => {
                let first = answers.into_iter().next()?;
                *delivered = 1;
                Some(vec![first])
            }
            Agreement::Same if *delivered == 0 => {
                let agreed = answers.iter().find(|(_, answer)| {
                    answers.iter().filter(|(_, other)| other == answer).count() >= threshold
                })?;
                *delivered = 1;
                Some(vec![agreed.clone()])
            }
            Agreement::Each => {
                let next = (*delivered + 1).max(threshold);
                if answers.len() < next {
                    return None;
                }
                *delivered = next;
                Some(answers[..next].to_vec())
            }
            Agreement::Any | Agreement::Same => None,
        }
    }

    fn fate(&self, submission: Submission) -> EffectResult {
        let (bytes, txid, inputs, outputs) = match submission {
            Submission::Declined => return EffectResult::Declined,
            Submission::Failed(refusal) => return EffectResult::Failed(refusal),
            Submission::Sent {
                bytes,
                txid,
                inputs,
                outputs,
                ..
            } => (bytes, txid, inputs, outputs),
        };
        match self.federation.submit(&bytes) {
            Status::Accepted => EffectResult::Accepted(Acceptance {
                txid: txid.to_vec(),
                outputs: outputs.collect(),
            }),
            Status::Rejected {
                refusal,
                input,
                output,
            } => {
                let own = |place: Option<u16>, range: &Range<u16>| {
                    let place = place.filter(|place| range.contains(place))?;
                    Some(place - range.start)
                };
                EffectResult::Rejected(Rejection {
                    refusal,
                    input: own(input, &inputs),
                    output: own(output, &outputs),
                })
            }
        }
    }

    fn advance(&mut self, operation: usize, machine: usize, event: Event) -> Result<(), Refusal> {
        let mut next = self.durable.clone();
        let this = &next.operations[operation].machines[machine];
        let (instance, state) = (this.instance, this.state.clone());
        let bundle = self.federation.bundle(instance);
        let (transition, store) = self.enter(&next, instance, Phase::Wallet, || {
            bundle.advance(state, event)
        });
        next.stores.insert(instance, store);
        self.write(next, operation, machine, transition?);
        Ok(())
    }

    /// Makes a transition durable, with the transactions that it wants.
    fn write(
        &mut self,
        mut next: Durable,
        operation: usize,
        machine: usize,
        transition: client::Transition,
    ) {
        let client::Transition {
            state,
            effects,
            progress,
            finished,
        } = transition;
        let this = &mut next.operations[operation].machines[machine];
        let before = std::mem::take(&mut this.effects);
        // What goes on is what it was, whatever is said of it now.
        this.effects.extend(effects.iter().map(|effect| {
            let old = before.iter().find(|old| old.id == effect.id);
            old.unwrap_or(effect).clone()
        }));
        this.state = state;
        this.finished.clone_from(&finished);
        // A submit cannot be given up: it goes on, named again or not.
        let named = |id: u32| effects.iter().any(|effect| effect.id == id);
        for old in &before {
            let sent = this.submissions.get(&old.id);
            if matches!(sent, Some(Submission::Sent { .. })) && !named(old.id) {
                this.effects.push(old.clone());
            }
        }
        let waited: Vec<u32> = this.effects.iter().map(|effect| effect.id).collect();
        this.submissions.retain(|id, _| waited.contains(id));
        if finished.is_some() {
            assert!(
                this.submissions.is_empty(),
                "a machine does not end before its transaction is decided"
            );
            this.effects.clear();
        }
        let same = |effect: &Effect| before.iter().any(|other| other.id == effect.id);
        for effect in &effects {
            if same(effect) {
                continue;
            }
            self.delivered.remove(&(operation, machine, effect.id));
            if let Want::Submit(plan) = &effect.want {
                self.build(&mut next, operation, machine, effect.id, plan);
            }
        }
        if let Some(progress) = progress {
            let operation = &mut next.operations[operation];
            operation.progress = Some(progress.clone());
            operation.history.push(progress);
        }
        self.durable = next;
        self.writes += 1;
        if let Some(kill) = self.kill
            && kill.after == self.writes
        {
            if kill.sent {
                self.send_everything();
            }
            self.dead = true;
            self.kills += 1;
        }
    }

    fn send_everything(&self) {
        for bytes in self.pending() {
            self.federation.submit(&bytes);
        }
    }

    /// The transactions whose fate has not been told, in canonical bytes.
    pub fn pending(&self) -> Vec<Vec<u8>> {
        let machines = self.durable.operations.iter().flat_map(|o| &o.machines);
        machines
            .flat_map(|machine| machine.submissions.values())
            .filter_map(|submission| match submission {
                Submission::Sent { bytes, .. } => Some(bytes.clone()),
                _ => None,
            })
            .collect()
    }

    /// A plan becomes a signed transaction, with e-cash, in the same write.
    fn build(
        &mut self,
        next: &mut Durable,
        operation: usize,
        machine: usize,
        effect: u32,
        plan: &Plan,
    ) {
        let instance = next.operations[operation].machines[machine].instance;
        let mut submissions: Vec<(usize, u32, Submission)> = Vec::new();
        let inputs: u64 = plan.inputs.iter().map(|i| i.value - i.fee).sum();
        let outputs: u64 = plan.outputs.iter().map(|o| o.value + o.fee).sum();
        let taken = outputs.saturating_sub(inputs);
        let confirmed = next.operations[operation].confirmed;
        let quoted_until = plan.confirm.as_ref().and_then(|quote| quote.expires);
        if quoted_until.is_some_and(|end| end <= self.federation.time()) {
            let refusal = Refusal::new("quote-expired", "the quote is over; ask again");
            submissions.push((machine, effect, Submission::Failed(refusal)));
        } else if let Some(quote) = &plan.confirm {
            self.asked = Some((quote.summary.clone(), taken));
            if self.confirms {
                next.operations[operation].confirmed = taken;
            } else {
                submissions.push((machine, effect, Submission::Declined));
            }
        } else if taken > confirmed {
            let refusal = Refusal::new("not-confirmed", "the plan takes more than was confirmed");
            submissions.push((machine, effect, Submission::Failed(refusal)));
        }
        if submissions.is_empty() {
            match self.complete(next, inputs, outputs) {
                Err(refusal) => {
                    submissions.push((machine, effect, Submission::Failed(refusal)));
                }
                Ok((ecash, completion)) => {
                    let o = &mut next.operations[operation];
                    o.confirmed = o.confirmed.saturating_sub(taken);
                    o.machines.push(Machine {
                        instance: ecash,
                        state: completion.machine,
                        effects: vec![Effect {
                            id: 0,
                            want: Want::Submit(Plan {
                                inputs: Vec::new(),
                                outputs: Vec::new(),
                                confirm: None,
                            }),
                        }],
                        submissions: BTreeMap::new(),
                        finished: None,
                        completes: true,
                    });
                    let completing = o.machines.len() - 1;
                    // E-cash first: a plan's items need not stand where a module
                    // might guess.
                    let parts = [
                        (ecash, completion.inputs, completion.outputs),
                        (instance, plan.inputs.clone(), plan.outputs.clone()),
                    ];
                    let [first, second] = self.transaction(parts, [0, taken], quoted_until);
                    submissions.push((completing, 0, first));
                    submissions.push((machine, effect, second));
                }
            }
        }
        for (machine, effect, submission) in submissions {
            let machine = &mut next.operations[operation].machines[machine];
            machine.submissions.insert(effect, submission);
        }
    }

    fn complete(
        &self,
        next: &mut Durable,
        inputs: u64,
        outputs: u64,
    ) -> Result<(u16, crate::Completion), Refusal> {
        let instance = self
            .federation
            .ecash()
            .expect("a federation with money has a module that holds it");
        let bundle = self.federation.bundle(instance);
        let (completion, store) = self.enter(next, instance, Phase::Wallet, || {
            bundle.complete(inputs, outputs)
        });
        let completion = completion?;
        next.stores.insert(instance, store);
        Ok((instance, completion))
    }

    fn transaction(
        &self,
        parts: [(u16, Vec<PlannedInput>, Vec<PlannedOutput>); 2],
        taken: [u64; 2],
        quoted_until: Option<u64>,
    ) -> [Submission; 2] {
        let (mut inputs, mut outputs, mut secrets) = (Vec::new(), Vec::new(), Vec::new());
        let (seed, id) = (self.side.borrow().seed, self.federation.state.borrow().id);
        let ranges = parts.map(|(instance, planned_inputs, planned_outputs)| {
            let (first_input, first_output) = (inputs.len() as u16, outputs.len() as u16);
            for input in planned_inputs {
                secrets.push(match input.signer {
                    Signer::Path(path) => derive_secret(&seed, &id, instance, &path),
                    Signer::Secret(secret) => secret.try_into().expect("a secret key is 32 bytes"),
                });
                inputs.push(Input {
                    instance: InstanceId(instance),
                    bytes: input.input,
                });
            }
            outputs.extend(planned_outputs.into_iter().map(|output| Output {
                instance: InstanceId(instance),
                bytes: output.output,
            }));
            (
                first_input..inputs.len() as u16,
                first_output..outputs.len() as u16,
            )
        });
        let hour = self.federation.time() + 3600;
        let body = TransactionBody {
            expires: quoted_until.map_or(hour, |end| end.min(hour)),
            inputs,
            outputs,
        };
        let federation = modmint_core::FederationId(id);
        let hash = body.signature_hash(&federation);
        let txid = body.id(&federation).0;
        let sign = |secret: &[u8; 32]| secp::sign_schnorr(secret, &hash);
        let signatures = secrets.iter().map(sign).collect();
        let bytes = Transaction { body, signatures }.encode();
        let [first, second] = ranges;
        let [first_taken, second_taken] = taken;
        [(first, first_taken), (second, second_taken)].map(|((inputs, outputs), taken)| {
            Submission::Sent {
                bytes: bytes.clone(),
                txid,
                taken,
                inputs,
                outputs,
            }
        })
    }
}
