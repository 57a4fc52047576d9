//! From a call into a module to one durable write.
//!
//! A step begins with the operation as it lies in the database, calls the module
//! over an overlay, lets the e-cash module complete the transaction that is
//! wanted, builds and signs it, and writes all of that at once: the machines'
//! states, what they wait for, what the modules wrote, the transaction's bytes.
//! Nothing is sent before. What fails on the way leaves nothing.
//!
//! Steps are synchronous and come one at a time for one federation; the world is
//! reached by `federation` alone, in between.

use std::{collections::BTreeMap, sync::Arc};

use modmint_core::{
    Amount, Argument, FederationId, Input, InstanceId, MAX_ITEM_BYTES, OutPoint, Output, Refusal,
    Transaction, TransactionBody, TxId, complete_arguments,
    config::{FederationConfig, HexBytes},
};
use modmint_crypto::secp;
use modmint_runtime::{
    Audience, CallError, Host,
    wallet::{
        Agreement, Completion, Effect, EffectResult, Event, PeerOutcomes, Plan, PlannedInput,
        PlannedOutput, Quote, Signer, Transition, Want,
    },
};
use parking_lot::RwLock;
use rand::seq::SliceRandom;

use crate::{
    WalletError,
    database::{Batch, Database, Overlay},
    error::NOT_ENOUGH_MONEY,
    guardians::{Contributions, FederationView},
    host::{WalletHost, device_time},
    module::ClientHalf,
    operation::{
        Fate, Machine, Operation, OperationId, Part, Pending, QuoteFee, SpendQuote, Stuck,
        Submission, Wait,
    },
    seed::Seed,
};

/// How long a transaction may be decided, in seconds of agreed time from the
/// moment it is made: long enough for a federation that pauses for a restart,
/// short enough that money in a transaction which nobody takes is back the same
/// day.
pub const EXPIRY_SECONDS: u64 = 3600;

/// How many effects one machine may wait for.
const MAX_EFFECTS: usize = 64;
/// How often a plan is completed until what is left pays the base fee.
const MAX_COMPLETIONS: usize = 8;
/// How many machines one operation may have.
const MAX_MACHINES: usize = 1024;
/// How many calls one step may make before a module is said to go in circles.
const MAX_CALLS: usize = 256;

/// What the person who asks has confirmed beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Nothing: a spend ends in [`WalletError::ConfirmationNeeded`].
    Nothing,
    /// A spend of at most this.
    UpTo(Amount),
    /// Whatever it takes.
    Anything,
}

impl Allowance {
    fn covers(self, takes: Amount) -> bool {
        match self {
            Self::Nothing => takes == Amount::ZERO,
            Self::UpTo(most) => takes <= most,
            Self::Anything => true,
        }
    }
}

/// What the operation that finds a module's money again is shown as.
const RECOVER: &str = "recover";

/// Gives the client half of an instance, loading it when it is first asked for.
pub(crate) type Loader = Box<dyn Fn(InstanceId) -> Result<Arc<dyn ClientHalf>, WalletError> + Send>;

/// What came of telling a machine something.
#[derive(Debug, PartialEq)]
pub(crate) enum Delivered {
    /// It is written.
    Written,
    /// Nobody waits for it any more.
    Stale,
    /// The module refuses; all is as it was.
    Refused(Refusal),
}

/// See the module.
pub(crate) struct Executor {
    pub(crate) database: Arc<Database>,
    pub(crate) seed: Arc<Seed>,
    pub(crate) config: Arc<FederationConfig>,
    pub(crate) federation: FederationId,
    pub(crate) ecash: Option<InstanceId>,
    pub(crate) invite: Arc<str>,
    pub(crate) view: Arc<RwLock<FederationView>>,
    pub(crate) loader: Loader,
    /// Told of each operation right behind the write that changed it, in the
    /// order of the writes.
    pub(crate) written: Box<dyn Fn(&Operation) + Send>,
    loaded: BTreeMap<InstanceId, Arc<dyn ClientHalf>>,
}

pub(crate) fn active_key(federation: &FederationId, id: &OperationId) -> Vec<u8> {
    [b"o", &federation.0[..], &id.0].concat()
}

pub(crate) fn history_key(federation: &FederationId, id: &OperationId) -> Vec<u8> {
    [b"h", &federation.0[..], &id.0].concat()
}

pub(crate) fn view_key(federation: &FederationId) -> Vec<u8> {
    [b"v", &federation.0[..]].concat()
}

pub(crate) fn decode<T: borsh::BorshDeserialize>(bytes: &[u8]) -> Result<T, WalletError> {
    borsh::from_slice(bytes).map_err(|e| WalletError::disk("decoding the wallet's database", e))
}

impl Executor {
    #[allow(clippy::too_many_arguments, reason = "a constructor in one place")]
    pub(crate) fn new(
        database: Arc<Database>,
        seed: Arc<Seed>,
        config: Arc<FederationConfig>,
        federation: FederationId,
        ecash: Option<InstanceId>,
        invite: Arc<str>,
        view: Arc<RwLock<FederationView>>,
        loader: Loader,
        written: Box<dyn Fn(&Operation) + Send>,
    ) -> Self {
        Self {
            database,
            seed,
            config,
            federation,
            ecash,
            invite,
            view,
            loader,
            written,
            loaded: BTreeMap::new(),
        }
    }

    pub(crate) fn module(
        &mut self,
        instance: InstanceId,
    ) -> Result<Arc<dyn ClientHalf>, WalletError> {
        if let Some(module) = self.loaded.get(&instance) {
            return Ok(module.clone());
        }
        let module = (self.loader)(instance)?;
        self.loaded.insert(instance, module.clone());
        Ok(module)
    }

    fn kind(&self, instance: InstanceId) -> &str {
        self.config
            .instance(instance)
            .map_or("unknown", |instance| instance.kind.as_str())
    }

    fn host(&self, overlay: &Arc<Overlay>, instance: InstanceId) -> Arc<dyn Host> {
        Arc::new(WalletHost {
            overlay: overlay.clone(),
            seed: self.seed.clone(),
            federation: self.federation,
            instance,
            kind: self.kind(instance).to_owned(),
            view: *self.view.read(),
            invite: self.invite.clone(),
        })
    }

    fn call_error(&self, instance: InstanceId, error: CallError) -> WalletError {
        match error {
            CallError::Refused(refusal) => WalletError::refused(refusal),
            CallError::Trapped(trap) => WalletError::Module {
                kind: self.kind(instance).to_owned(),
                reason: format!("{trap} ({})", trap.code()),
            },
            CallError::Host(e) => WalletError::disk("running a module", e),
        }
    }

    /// What can be spent now.
    pub(crate) fn balance(&mut self) -> Result<Amount, WalletError> {
        let overlay = Overlay::new(self.database.clone());
        self.balance_over(&overlay)
    }

    fn balance_over(&mut self, overlay: &Arc<Overlay>) -> Result<Amount, WalletError> {
        let Some(ecash) = self.ecash else {
            return Ok(Amount::ZERO);
        };
        let module = self.module(ecash)?;
        module
            .balance(&self.host(overlay, ecash))
            .map_err(|e| self.call_error(ecash, e))
    }

    /// An operation that goes on.
    pub(crate) fn active(&self, id: &OperationId) -> Result<Option<Operation>, WalletError> {
        self.database
            .get(&active_key(&self.federation, id))?
            .map(|bytes| decode(&bytes))
            .transpose()
    }

    /// An operation, whether it goes on or not.
    pub(crate) fn operation(&self, id: &OperationId) -> Result<Option<Operation>, WalletError> {
        if let Some(operation) = self.active(id)? {
            return Ok(Some(operation));
        }
        self.database
            .get(&history_key(&self.federation, id))?
            .map(|bytes| decode(&bytes))
            .transpose()
    }

    fn list(
        &self,
        prefix: &[u8],
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<Operation>, WalletError> {
        let prefix = [prefix, &self.federation.0].concat();
        self.database
            .list(&prefix, newest_first, limit)?
            .iter()
            .map(|(_, bytes)| decode(bytes))
            .collect()
    }

    /// All operations that go on, oldest first.
    pub(crate) fn all_active(&self) -> Result<Vec<Operation>, WalletError> {
        self.list(b"o", false, usize::MAX)
    }

    /// Forgets an operation that is over.
    pub(crate) fn forget(&self, id: &OperationId) -> Result<(), WalletError> {
        if self.active(id)?.is_some() {
            return Err(WalletError::Refused(Refusal::new(
                "operation-goes-on",
                format!("operation {id} is not over; only what is over is forgotten"),
            )));
        }
        let mut batch = Batch::default();
        batch.delete(history_key(&self.federation, id));
        self.database.write(batch)
    }

    /// The newest operations, those that go on first.
    pub(crate) fn newest(&self, limit: usize) -> Result<Vec<Operation>, WalletError> {
        let mut all = self.list(b"o", true, limit)?;
        let more = limit.saturating_sub(all.len());
        all.extend(self.list(b"h", true, more)?);
        Ok(all)
    }

    /// Begins an operation. One that asks for more than is allowed leaves
    /// nothing: it ends with the quote, and is begun again with the allowance.
    pub(crate) fn start(
        &mut self,
        instance: InstanceId,
        action: &str,
        arguments: &[Argument],
        allowance: Allowance,
        id: Option<OperationId>,
    ) -> Result<Operation, WalletError> {
        let module = self.module(instance)?;
        let known = module
            .actions()
            .iter()
            .find(|known| known.name == action)
            .ok_or_else(|| {
                let names: Vec<_> = module
                    .actions()
                    .iter()
                    .filter(|known| known.audience == Audience::Person)
                    .map(|known| known.name.as_str())
                    .collect();
                WalletError::NotFound(format!(
                    "module {} has no action {action:?}; known are: {}",
                    self.kind(instance),
                    names.join(", ")
                ))
            })?;
        complete_arguments(&known.parameters, arguments).map_err(WalletError::refused)?;
        let overlay = Overlay::new(self.database.clone());
        let holds_money = self.ecash == Some(instance);
        let transition = module
            .start(&self.host(&overlay, instance), action, arguments)
            .map_err(|e| self.call_error(instance, e))?;
        if let Some(Err(refusal)) = transition.finished {
            return Err(WalletError::refused(refusal));
        }
        let wants_transaction = transition
            .effects
            .iter()
            .any(|effect| matches!(effect.want, Want::Submit(_)));
        let id = id.unwrap_or_else(|| OperationId::new(device_time()));
        let mut operation = self.new_operation(instance, action, id);
        if holds_money && !wants_transaction {
            // Money that leaves the balance without a transaction, as notes that
            // fit exactly do, is a spend like any other.
            let before = self.balance()?;
            let after = self.balance_over(&overlay)?;
            let takes = before.checked_sub(after).unwrap_or_default();
            if !allowance.covers(takes) {
                return Err(WalletError::ConfirmationNeeded(Box::new(SpendQuote {
                    summary: format!("{} {action}", operation.kind),
                    total: takes,
                    federation_fee: Amount::ZERO,
                    fees: Vec::new(),
                    expires: None,
                })));
            }
            operation.taken = takes;
        }
        let mut step = Step {
            executor: self,
            overlay,
            operation,
            start: Some(allowance),
            patient: true,
        };
        step.apply(0, transition)?;
        step.settle()?;
        step.commit()
    }

    fn new_operation(&self, instance: InstanceId, action: &str, id: OperationId) -> Operation {
        let now = device_time();
        Operation {
            id,
            federation: self.federation,
            instance,
            kind: self.kind(instance).to_owned(),
            action: action.to_owned(),
            created: now,
            updated: now,
            machines: vec![Machine::new(instance)],
            transactions: Vec::new(),
            allowance: Amount::ZERO,
            taken: Amount::ZERO,
            progress: None,
            generation: 0,
        }
    }

    /// Begins to find a module's money again, as the operation `id`. None if there
    /// is nothing to find, or it has begun before.
    pub(crate) fn recover(
        &mut self,
        instance: InstanceId,
        id: OperationId,
    ) -> Result<Option<Operation>, WalletError> {
        let module = self.module(instance)?;
        if !module.has_client() || self.operation(&id)?.is_some() {
            return Ok(None);
        }
        let overlay = Overlay::new(self.database.clone());
        let transition = module
            .recover(&self.host(&overlay, instance))
            .map_err(|e| self.call_error(instance, e))?;
        if transition.finished == Some(Ok(())) && transition.progress.is_none() {
            return Ok(None);
        }
        let operation = self.new_operation(instance, RECOVER, id);
        let mut step = Step {
            executor: self,
            overlay,
            operation,
            start: None,
            patient: true,
        };
        step.apply(0, transition)?;
        step.settle()?;
        step.commit().map(Some)
    }

    /// Tells a machine what came of an effect. `goes_on`: there may be more of it.
    pub(crate) fn deliver(
        &mut self,
        id: &OperationId,
        machine: usize,
        generation: u64,
        outcome: EffectResult,
        goes_on: bool,
    ) -> Result<Delivered, WalletError> {
        let Some(mut step) = self.step(id)? else {
            return Ok(Delivered::Stale);
        };
        let Some(place) = step.operation.machines.get(machine).and_then(|machine| {
            machine
                .effects
                .iter()
                .position(|pending| pending.generation == generation)
                .filter(|_| machine.runs())
        }) else {
            return Ok(Delivered::Stale);
        };
        let effects = &mut step.operation.machines[machine].effects;
        let effect = effects[place].id;
        let pending = (!goes_on).then(|| effects.remove(place));
        let event = Event::Done { effect, outcome };
        match step.advance(machine, event)? {
            Advanced::Applied => {}
            Advanced::Refused(refusal) => return Ok(Delivered::Refused(refusal)),
            // It is carried out again with the next bundle.
            Advanced::Stuck => step.operation.machines[machine].effects.extend(pending),
        }
        step.settle()?;
        step.commit()?;
        Ok(Delivered::Written)
    }

    /// Writes down what has become of a transaction, and tells both machines; and those
    /// that ask for its outputs' outcomes then, what came with its fate.
    pub(crate) fn decided(
        &mut self,
        id: &OperationId,
        transaction: usize,
        fate: Fate,
        contributions: &Contributions,
    ) -> Result<Delivered, WalletError> {
        let Some(mut step) = self.step(id)? else {
            return Ok(Delivered::Stale);
        };
        let operation = &mut step.operation;
        let Some(submission) = operation
            .transactions
            .get_mut(transaction)
            .filter(|submission| submission.fate.is_none())
        else {
            return Ok(Delivered::Stale);
        };
        submission.bytes = Vec::new();
        if matches!(fate, Fate::Rejected { .. }) {
            operation.allowance = operation
                .allowance
                .checked_add(submission.takes)
                .unwrap_or(operation.allowance);
        }
        for part in [&submission.completer, &submission.planner] {
            let event = part.event(submission.txid, &fate);
            if let Some(machine) = operation.machines.get_mut(usize::from(part.machine))
                && machine.finished.is_none()
            {
                machine.inbox.push(event);
            }
        }
        submission.fate = Some(fate);
        let txid = submission.txid;
        step.settle()?;
        step.contribute(&txid, contributions)?;
        step.commit()?;
        Ok(Delivered::Written)
    }

    /// Whether money is on its way, so that there may be more in a moment: in a
    /// transaction that is not decided, or in the change of one that is. False also
    /// where the disk does not tell.
    pub(crate) fn expects_money(&self) -> bool {
        let active = self.all_active().unwrap_or_default();
        active.iter().any(Operation::brings_money)
    }

    /// Tries a plan again for which there was too little money. False if that is
    /// still so; `last`: it is refused then.
    pub(crate) fn plan_again(
        &mut self,
        id: &OperationId,
        machine: usize,
        generation: u64,
        last: bool,
    ) -> Result<bool, WalletError> {
        let Some(mut step) = self.step(id)? else {
            return Ok(true);
        };
        step.patient = !last;
        let Some(waiting) = step.operation.machines.get_mut(machine) else {
            return Ok(true);
        };
        let runs = waiting.runs();
        let place = waiting
            .effects
            .iter()
            .position(|pending| pending.generation == generation)
            .filter(|_| runs);
        let Some(Pending { id, wait, .. }) = place.map(|place| waiting.effects.remove(place))
        else {
            return Ok(true);
        };
        let Wait::Effect(Want::Submit(plan)) = wait else {
            return Ok(true);
        };
        step.submit(machine, id, plan)?;
        let still = |pending: &Pending| {
            pending.id == id && matches!(pending.wait, Wait::Effect(Want::Submit(_)))
        };
        if step.operation.machines[machine].effects.iter().any(still) {
            return Ok(false);
        }
        step.settle()?;
        step.commit()?;
        Ok(true)
    }

    /// Confirms what an operation asks for, up to `allowance`.
    pub(crate) fn confirm(
        &mut self,
        id: &OperationId,
        allowance: Allowance,
    ) -> Result<Operation, WalletError> {
        let (mut step, machine, pending) = self.asked(id)?;
        let Wait::Question { plan, quote } = pending.wait else {
            return Err(nothing_asked(id));
        };
        if quote.expires.is_some_and(|time| time < device_time()) {
            step.operation.machines[machine].inbox.push(Event::Done {
                effect: pending.id,
                outcome: EffectResult::Failed(quote_expired()),
            });
        } else {
            step.start = Some(allowance);
            step.submit(machine, pending.id, plan)?;
            step.start = None;
        }
        step.settle()?;
        step.commit()
    }

    /// Says no to what an operation asks for.
    pub(crate) fn decline(&mut self, id: &OperationId) -> Result<Operation, WalletError> {
        let (mut step, machine, pending) = self.asked(id)?;
        step.operation.machines[machine].inbox.push(Event::Done {
            effect: pending.id,
            outcome: EffectResult::Declined,
        });
        step.settle()?;
        step.commit()
    }

    /// The first question of an operation, taken out of it.
    fn asked(&mut self, id: &OperationId) -> Result<(Step<'_>, usize, Pending), WalletError> {
        let mut step = self.step(id)?.ok_or_else(|| nothing_asked(id))?;
        let mut found = None;
        for (index, machine) in step.operation.machines.iter_mut().enumerate() {
            let place = machine
                .effects
                .iter()
                .position(|pending| matches!(pending.wait, Wait::Question { .. }))
                .filter(|_| machine.runs());
            if let Some(place) = place {
                found = Some((index, machine.effects.remove(place)));
                break;
            }
        }
        let (machine, pending) = found.ok_or_else(|| nothing_asked(id))?;
        Ok((step, machine, pending))
    }

    /// Asks an operation to stop.
    pub(crate) fn cancel(&mut self, id: &OperationId) -> Result<Operation, WalletError> {
        let Some(mut step) = self.step(id)? else {
            return Err(match self.operation(id)? {
                Some(_) => WalletError::Refused(Refusal::new(
                    "operation-over",
                    format!("operation {id} is over"),
                )),
                None => not_found(id),
            });
        };
        if !step.operation.machines.first().is_some_and(Machine::runs) {
            return Err(WalletError::Refused(Refusal::new(
                "operation-over",
                format!("operation {id} has nothing left that could be stopped"),
            )));
        }
        if let Advanced::Refused(refusal) = step.advance(0, Event::Cancel)? {
            return Err(WalletError::refused(refusal));
        }
        step.settle()?;
        step.commit()
    }

    /// Machines that an older bundle left stuck are tried again; what they were
    /// to be told is told. Returns the operation if anything has changed.
    pub(crate) fn unstick(&mut self, id: &OperationId) -> Result<Option<Operation>, WalletError> {
        let Some(operation) = self.active(id)? else {
            return Ok(None);
        };
        let mut freed = operation.clone();
        for machine in &mut freed.machines {
            if let Some(stuck) = &machine.stuck
                && self.module(machine.instance)?.bundle() != stuck.bundle
            {
                machine.stuck = None;
            }
        }
        if freed == operation {
            return Ok(None);
        }
        let overlay = Overlay::new(self.database.clone());
        let mut step = Step {
            executor: self,
            overlay,
            operation: freed,
            start: None,
            patient: true,
        };
        step.settle()?;
        step.commit().map(Some)
    }

    fn step(&mut self, id: &OperationId) -> Result<Option<Step<'_>>, WalletError> {
        let Some(operation) = self.active(id)? else {
            return Ok(None);
        };
        let overlay = Overlay::new(self.database.clone());
        Ok(Some(Step {
            executor: self,
            overlay,
            operation,
            start: None,
            patient: true,
        }))
    }
}

pub(crate) fn not_found(id: &OperationId) -> WalletError {
    WalletError::NotFound(format!("there is no operation {id}"))
}

fn nothing_asked(id: &OperationId) -> WalletError {
    WalletError::Refused(Refusal::new(
        "nothing-to-confirm",
        format!("operation {id} does not ask for anything"),
    ))
}

fn quote_expired() -> Refusal {
    Refusal::new(
        "quote-expired",
        "the quote is over, and nothing was sent for it; ask again",
    )
}

enum Advanced {
    Applied,
    Refused(Refusal),
    Stuck,
}

/// A plan with what the e-cash module added.
struct Completed {
    completion: Completion,
    takes: Amount,
    net_msat: i64,
    federation_fee: Amount,
    /// What inputs leave, fees considered, for the base fee.
    surplus: Amount,
}

/// One operation between two writes.
struct Step<'a> {
    executor: &'a mut Executor,
    overlay: Arc<Overlay>,
    operation: Operation,
    /// What whoever calls has confirmed: when an operation begins or a question
    /// is answered. A question or a lack of money is then the call's error.
    start: Option<Allowance>,
    /// Whether a plan for which there is too little money may wait for some that is
    /// on its way.
    patient: bool,
}

impl Step<'_> {
    /// One call of `advance`.
    fn advance(&mut self, index: usize, event: Event) -> Result<Advanced, WalletError> {
        let machine = &self.operation.machines[index];
        let (instance, state) = (machine.instance, machine.state.clone());
        let module = self.executor.module(instance)?;
        let host = self.executor.host(&self.overlay, instance);
        let savepoint = self.overlay.savepoint();
        match module.advance(&host, &state, event) {
            Ok(transition) => {
                self.apply(index, transition)?;
                Ok(Advanced::Applied)
            }
            Err(CallError::Refused(refusal)) => {
                self.overlay.restore(savepoint);
                Ok(Advanced::Refused(refusal))
            }
            Err(CallError::Trapped(trap)) => {
                self.overlay.restore(savepoint);
                let kind = self.executor.kind(instance);
                tracing::error!(operation = %self.operation.id, %kind, %trap, "a module trapped");
                self.operation.machines[index].stuck = Some(Stuck {
                    bundle: module.bundle(),
                    reason: format!("module {kind} failed: {trap} ({})", trap.code()),
                });
                Ok(Advanced::Stuck)
            }
            Err(e @ CallError::Host(_)) => Err(self.executor.call_error(instance, e)),
        }
    }

    /// Tells machines what lies in their inboxes until nothing does.
    fn settle(&mut self) -> Result<(), WalletError> {
        for _ in 0..MAX_CALLS {
            // The youngest first: e-cash that is given back or received is there
            // before the planner, which is older, asks for more.
            let Some(index) = self
                .operation
                .machines
                .iter()
                .rposition(|machine| machine.runs() && !machine.inbox.is_empty())
            else {
                return Ok(());
            };
            let machine = &mut self.operation.machines[index];
            let event = machine.inbox.remove(0);
            let done = match &event {
                Event::Done { effect, .. } => machine
                    .effects
                    .iter()
                    .position(|pending| pending.id == *effect)
                    .map(|place| machine.effects.remove(place)),
                Event::Cancel => None,
            };
            match self.advance(index, event.clone())? {
                Advanced::Applied => {}
                Advanced::Refused(refusal) => {
                    tracing::warn!(operation = %self.operation.id, %refusal, "a machine refuses what it is told");
                }
                Advanced::Stuck => {
                    let machine = &mut self.operation.machines[index];
                    machine.inbox.insert(0, event);
                    machine.effects.extend(done);
                }
            }
        }
        let place = self
            .operation
            .machines
            .iter()
            .position(|machine| machine.runs() && !machine.inbox.is_empty());
        if let Some(index) = place {
            let instance = self.operation.machines[index].instance;
            let bundle = self.executor.module(instance)?.bundle();
            self.operation.machines[index].stuck = Some(Stuck {
                bundle,
                reason: format!(
                    "module {} goes in circles: {MAX_CALLS} calls without an end",
                    self.executor.kind(instance)
                ),
            });
        }
        Ok(())
    }

    /// Gives machines that ask for outcomes of this transaction's outputs what is known
    /// of them, where n − f guardians' contributions are. Who refuses them goes on
    /// asking.
    fn contribute(&mut self, txid: &TxId, known: &Contributions) -> Result<(), WalletError> {
        let of = |place: &OutPoint, instance: InstanceId, given: &[Option<HexBytes>]| {
            let index = usize::from(place.index);
            let is_its = place.txid == *txid && known.instances.get(index) == Some(&instance);
            let HexBytes(outcome) = given.get(index).filter(|_| is_its)?.clone()?;
            Some(outcome)
        };
        let mut events = Vec::new();
        for (index, machine) in self.operation.machines.iter().enumerate() {
            for pending in machine.effects.iter().filter(|_| machine.runs()) {
                let Wait::Effect(Want::Outcomes(request)) = &pending.wait else {
                    continue;
                };
                let outcomes = known.by.iter().filter_map(|(peer, given)| {
                    let asked = request.out_points.iter();
                    let outcomes = asked.map(|place| of(place, machine.instance, given));
                    Some(PeerOutcomes {
                        peer: *peer,
                        outcomes: outcomes.collect::<Option<_>>()?,
                    })
                });
                let outcomes: Vec<_> = outcomes.collect();
                if request.agreement == Agreement::Each
                    && outcomes.len() >= self.executor.config.threshold()
                {
                    let outcome = EffectResult::Outcomes(outcomes);
                    let effect = pending.id;
                    events.push((index, pending.generation, Event::Done { effect, outcome }));
                }
            }
        }
        for (index, generation, event) in events {
            let machine = &self.operation.machines[index];
            let asks = |pending: &Pending| pending.generation == generation;
            if !machine.runs() || !machine.effects.iter().any(asks) {
                continue;
            }
            if let Advanced::Refused(refusal) = self.advance(index, event)? {
                let operation = self.operation.id;
                tracing::warn!(%operation, %refusal, "a machine refuses what it is told");
            }
            self.settle()?;
        }
        Ok(())
    }

    /// Takes over a transition: state, effects, progress, end.
    fn apply(&mut self, index: usize, transition: Transition) -> Result<(), WalletError> {
        let Transition {
            state,
            effects,
            progress,
            finished,
        } = transition;
        if index == 0 && progress.is_some() {
            self.operation.progress = progress;
        }
        let machine = &mut self.operation.machines[index];
        if finished.is_some() {
            machine.finished = finished;
            machine.state = Vec::new();
            machine.effects = Vec::new();
            machine.inbox = Vec::new();
            return Ok(());
        }
        machine.state = state;
        let mut former = std::mem::take(&mut machine.effects);
        let mut seen = Vec::new();
        for Effect { id, want } in effects.into_iter().take(MAX_EFFECTS) {
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            if let Some(place) = former.iter().position(|pending| pending.id == id) {
                // The same id goes on undisturbed.
                let pending = former.remove(place);
                self.operation.machines[index].effects.push(pending);
                continue;
            }
            match want {
                Want::Submit(plan) => self.submit(index, id, plan)?,
                want => self.wait(index, id, Wait::Effect(want)),
            }
        }
        // A transaction cannot be given up.
        former.retain(|pending| matches!(pending.wait, Wait::Fate(_)));
        self.operation.machines[index].effects.extend(former);
        Ok(())
    }

    fn wait(&mut self, index: usize, id: u32, wait: Wait) {
        self.operation.generation += 1;
        let generation = self.operation.generation;
        self.operation.machines[index].effects.push(Pending {
            id,
            generation,
            wait,
        });
    }

    fn fail(&mut self, index: usize, effect: u32, refusal: Refusal) -> Result<(), WalletError> {
        if self.start.is_some() {
            return Err(WalletError::refused(refusal));
        }
        self.operation.machines[index].inbox.push(Event::Done {
            effect,
            outcome: EffectResult::Failed(refusal),
        });
        Ok(())
    }

    /// Makes a plan a transaction, or a question, or a failure.
    fn submit(&mut self, index: usize, effect: u32, plan: Plan) -> Result<(), WalletError> {
        let savepoint = self.overlay.savepoint();
        let completed = match self.complete(&plan)? {
            Ok(completed) => completed,
            Err(refusal) => {
                self.overlay.restore(savepoint);
                if self.start.is_none()
                    && self.patient
                    && refusal.code == NOT_ENOUGH_MONEY
                    && self.executor.expects_money()
                {
                    self.wait(index, effect, Wait::Effect(Want::Submit(plan)));
                    return Ok(());
                }
                return self.fail(index, effect, refusal);
            }
        };
        let takes = completed.takes;
        if let Some(confirm) = &plan.confirm {
            if self.start.is_some_and(|allowance| allowance.covers(takes)) {
                self.operation.allowance =
                    self.operation.allowance.checked_add(takes).unwrap_or(takes);
            } else {
                self.overlay.restore(savepoint);
                let quote = spend_quote(confirm, &completed);
                if self.start.is_some() {
                    return Err(WalletError::ConfirmationNeeded(Box::new(quote)));
                }
                self.wait(index, effect, Wait::Question { plan, quote });
                return Ok(());
            }
        }
        let Some(rest) = self.operation.allowance.checked_sub(takes) else {
            self.overlay.restore(savepoint);
            let refusal = Refusal::new(
                "not-confirmed",
                format!(
                    "the module's plan takes {takes} from the balance and does not ask; {} of what was confirmed is left",
                    self.operation.allowance
                ),
            );
            return self.fail(index, effect, refusal);
        };
        match self.build(index, effect, &plan, completed) {
            Ok(()) => {
                self.operation.allowance = rest;
                Ok(())
            }
            Err(refusal) => {
                self.overlay.restore(savepoint);
                self.fail(index, effect, refusal)
            }
        }
    }

    /// Lets the e-cash module make the plan even, over the overlay, with the base fee.
    /// That goes by the transaction's length, which is known when it is complete: if too
    /// little is left for it, it is completed again with as much as was asked.
    fn complete(&mut self, plan: &Plan) -> Result<Result<Completed, Refusal>, WalletError> {
        let base_fee = self.executor.config.base_fee;
        let mut fee = Amount::ZERO;
        for _ in 0..MAX_COMPLETIONS {
            let savepoint = self.overlay.savepoint();
            let completed = match self.complete_with(plan, fee)? {
                Ok(completed) => completed,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let asked = base_fee.of(bytes(plan, &completed.completion));
            if completed.surplus >= asked {
                return Ok(Ok(completed));
            }
            self.overlay.restore(savepoint);
            fee = asked;
        }
        Ok(Err(bad_plan("its base fee grows with each try to pay it")))
    }

    /// Lets the e-cash module make the plan even so that this is left for the base fee.
    fn complete_with(
        &mut self,
        plan: &Plan,
        fee: Amount,
    ) -> Result<Result<Completed, Refusal>, WalletError> {
        let sums = sums(&plan.inputs, &plan.outputs);
        let sums = sums.and_then(|(brought, wanted)| Some((brought, wanted.checked_add(fee)?)));
        let Some((brought, wanted)) = sums else {
            return Ok(Err(bad_plan("its amounts do not add up")));
        };
        let completion = match self.executor.ecash {
            Some(ecash) => {
                let module = self.executor.module(ecash)?;
                let host = self.executor.host(&self.overlay, ecash);
                match module.complete(&host, brought, wanted) {
                    Ok(completion) => completion,
                    Err(CallError::Refused(refusal)) => return Ok(Err(refusal)),
                    Err(CallError::Trapped(trap)) => {
                        return Ok(Err(Refusal::new(
                            "module-failed",
                            format!("the e-cash module failed: {trap}"),
                        )));
                    }
                    Err(e @ CallError::Host(_)) => {
                        return Err(self.executor.call_error(ecash, e));
                    }
                }
            }
            None => Completion {
                inputs: Vec::new(),
                outputs: Vec::new(),
                machine: Vec::new(),
            },
        };
        Ok(evaluate(plan, (brought, wanted), fee, completion))
    }

    /// Builds and signs the transaction, and gives both machines their wait.
    fn build(
        &mut self,
        index: usize,
        effect: u32,
        plan: &Plan,
        completed: Completed,
    ) -> Result<(), Refusal> {
        let Completed {
            completion,
            takes,
            net_msat,
            ..
        } = completed;
        let agreed_time = self.executor.view.read().unix_time;
        if agreed_time == 0 {
            return Err(Refusal::new(
                "federation-unreachable",
                "the federation's time is not known: too few guardians have answered",
            ));
        }
        let mut expires = agreed_time + EXPIRY_SECONDS;
        if let Some(promised) = plan.confirm.as_ref().and_then(|quote| quote.expires) {
            if promised <= agreed_time.max(device_time()) {
                return Err(quote_expired());
            }
            expires = expires.min(promised);
        }
        let instance = self.operation.machines[index].instance;
        let ecash = self.executor.ecash.unwrap_or(instance);
        // Notes that the e-cash module exchanges are the balance's as much as those
        // that complete somebody else's plan; notes that came from others are not.
        let exchanged = plan
            .inputs
            .iter()
            .filter(|input| matches!(input.signer, Signer::Path(_)))
            .filter(|_| self.executor.ecash == Some(instance));
        let net_msat = total(exchanged.map(|input| input.value))
            .and_then(|spent| net_msat.checked_add(i64::try_from(spent.msat()).ok()?))
            .ok_or_else(|| bad_plan("its amounts are larger than all bitcoin"))?;
        let own = |items: usize, more: usize| -> Vec<u16> {
            let mut places: Vec<u16> = (0..items + more)
                .filter_map(|place| u16::try_from(place).ok())
                .collect();
            // Which outputs are the payment's and which are change is nobody's
            // business.
            places.shuffle(&mut rand::thread_rng());
            places
        };
        let (plan_inputs, plan_outputs) = (plan.inputs.len(), plan.outputs.len());
        let in_places = own(plan_inputs, completion.inputs.len());
        let out_places = own(plan_outputs, completion.outputs.len());
        let too_large = |size: usize| {
            Refusal::new(
                "transaction-too-large",
                format!(
                    "the transaction is {size} bytes, the limit is {MAX_ITEM_BYTES}; try a smaller amount"
                ),
            )
        };
        if in_places.len() != plan_inputs + completion.inputs.len()
            || out_places.len() != plan_outputs + completion.outputs.len()
        {
            return Err(too_large(usize::MAX));
        }
        let mut inputs: Vec<(u16, InstanceId, &PlannedInput)> = plan
            .inputs
            .iter()
            .map(|input| (instance, input))
            .chain(completion.inputs.iter().map(|input| (ecash, input)))
            .zip(&in_places)
            .map(|((instance, input), place)| (*place, instance, input))
            .collect();
        inputs.sort_by_key(|(place, ..)| *place);
        let mut outputs: Vec<(u16, InstanceId, &PlannedOutput)> = plan
            .outputs
            .iter()
            .map(|output| (instance, output))
            .chain(completion.outputs.iter().map(|output| (ecash, output)))
            .zip(&out_places)
            .map(|((instance, output), place)| (*place, instance, output))
            .collect();
        outputs.sort_by_key(|(place, ..)| *place);
        let body = TransactionBody {
            expires,
            inputs: inputs
                .iter()
                .map(|(_, instance, input)| Input {
                    instance: *instance,
                    bytes: input.input.clone(),
                })
                .collect(),
            outputs: outputs
                .iter()
                .map(|(_, instance, output)| Output {
                    instance: *instance,
                    bytes: output.output.clone(),
                })
                .collect(),
        };
        let message = body.signature_hash(&self.executor.federation);
        let signatures = inputs
            .iter()
            .map(|(_, instance, input)| {
                let secret = zeroize::Zeroizing::new(match &input.signer {
                    Signer::Path(path) => {
                        self.executor
                            .seed
                            .derive(&self.executor.federation, *instance, path)
                    }
                    Signer::Secret(secret) => *secret,
                });
                sign(&secret, message)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| bad_plan("a secret that should sign is no key of secp256k1"))?;
        let foreign = inputs
            .iter()
            .all(|(.., input)| matches!(input.signer, Signer::Secret(_)));
        let first_output = outputs.first().map(|(_, instance, _)| *instance);
        let transaction = Transaction { body, signatures };
        let txid = transaction.id(&self.executor.federation);
        let bytes = transaction.encode();
        Transaction::decode(&bytes).map_err(|e| match e {
            modmint_core::TransactionError::TooLarge { size, .. } => too_large(size),
            e => bad_plan(&e.to_string()),
        })?;
        let number = u16::try_from(self.operation.transactions.len());
        let planner = u16::try_from(index);
        let completer = u16::try_from(self.operation.machines.len());
        let (Ok(number), Ok(planner), Ok(completer)) = (number, planner, completer) else {
            return Err(bad_plan("the operation has too many parts"));
        };
        if usize::from(completer) >= MAX_MACHINES {
            return Err(bad_plan("the operation has too many parts"));
        }
        self.operation.transactions.push(Submission {
            txid,
            expires: transaction.body.expires,
            bytes,
            first_output,
            planner: Part {
                machine: planner,
                effect,
                inputs: in_places[..plan_inputs].to_vec(),
                outputs: out_places[..plan_outputs].to_vec(),
            },
            completer: Part {
                machine: completer,
                effect: 0,
                inputs: in_places[plan_inputs..].to_vec(),
                outputs: out_places[plan_outputs..].to_vec(),
            },
            takes,
            net_msat,
            foreign,
            fate: None,
        });
        self.wait(index, effect, Wait::Fate(number));
        if self.executor.ecash.is_some() {
            let mut machine = Machine::new(ecash);
            machine.state = completion.machine;
            self.operation.machines.push(machine);
            self.wait(usize::from(completer), 0, Wait::Fate(number));
        }
        Ok(())
    }

    /// Makes the step durable, all of it at once.
    fn commit(self) -> Result<Operation, WalletError> {
        let mut operation = self.operation;
        operation.updated = device_time();
        let executor = self.executor;
        let mut batch = Batch::default();
        batch.modules(self.overlay.take());
        let bytes =
            borsh::to_vec(&operation).map_err(|e| WalletError::disk("encoding an operation", e))?;
        let active = active_key(&executor.federation, &operation.id);
        if operation.is_over() {
            batch.delete(active);
            batch.put(history_key(&executor.federation, &operation.id), bytes);
        } else {
            batch.put(active, bytes);
        }
        let view = *executor.view.read();
        let view =
            borsh::to_vec(&view).map_err(|e| WalletError::disk("encoding what is agreed", e))?;
        batch.put(view_key(&executor.federation), view);
        executor.database.write(batch)?;
        (executor.written)(&operation);
        Ok(operation)
    }
}

fn bad_plan(reason: &str) -> Refusal {
    Refusal::new(
        "bad-value",
        format!("the module's plan cannot be made a transaction: {reason}"),
    )
}

/// What inputs bring and what outputs take, fees considered; none where a sum
/// overflows or a fee is more than the value it is taken from.
fn sums(inputs: &[PlannedInput], outputs: &[PlannedOutput]) -> Option<(Amount, Amount)> {
    let brought = inputs.iter().try_fold(Amount::ZERO, |sum, input| {
        sum.checked_add(input.value.checked_sub(input.fee)?)
    })?;
    let wanted = outputs.iter().try_fold(Amount::ZERO, |sum, output| {
        sum.checked_add(output.value.checked_add(output.fee)?)
    })?;
    Some((brought, wanted))
}

fn total(mut values: impl Iterator<Item = Amount>) -> Option<Amount> {
    values.try_fold(Amount::ZERO, Amount::checked_add)
}

/// What a completed plan takes, or why it does not come out even.
fn evaluate(
    plan: &Plan,
    (brought, wanted): (Amount, Amount),
    fee: Amount,
    completion: Completion,
) -> Result<Completed, Refusal> {
    let uneven = || {
        Refusal::new(
            if completion.inputs.is_empty() && completion.machine.is_empty() {
                NOT_ENOUGH_MONEY
            } else {
                "bad-value"
            },
            format!("the transaction does not come out even: it needs {wanted} and has {brought}"),
        )
    };
    let (more, change) = sums(&completion.inputs, &completion.outputs)
        .ok_or_else(|| bad_plan("the e-cash module's amounts do not add up"))?;
    let inputs = brought.checked_add(more).ok_or_else(uneven)?;
    let outputs = wanted.checked_add(change).ok_or_else(uneven)?;
    let over = inputs.checked_sub(outputs).ok_or_else(uneven)?;
    let surplus = over.checked_add(fee).ok_or_else(uneven)?;
    let spent = total(completion.inputs.iter().map(|input| input.value));
    let back = total(completion.outputs.iter().map(|output| output.value));
    let all_in = total(
        plan.inputs
            .iter()
            .chain(&completion.inputs)
            .map(|i| i.value),
    );
    let all_out = total(
        plan.outputs
            .iter()
            .chain(&completion.outputs)
            .map(|o| o.value),
    );
    let (Some(spent), Some(back), Some(all_in), Some(all_out)) = (spent, back, all_in, all_out)
    else {
        return Err(bad_plan("its amounts do not add up"));
    };
    let signed = |amount: Amount| i64::try_from(amount.msat()).ok();
    let net_msat = signed(spent)
        .zip(signed(back))
        .and_then(|(spent, back)| spent.checked_sub(back))
        .ok_or_else(|| bad_plan("its amounts are larger than all bitcoin"))?;
    Ok(Completed {
        takes: spent.checked_sub(back).unwrap_or_default(),
        net_msat,
        federation_fee: all_in.checked_sub(all_out).unwrap_or_default(),
        surplus,
        completion,
    })
}

/// How long the transaction will be: instances, places and signatures are as long
/// whatever they are.
fn bytes(plan: &Plan, completion: &Completion) -> usize {
    let instance = InstanceId(0);
    let inputs: Vec<Input> = plan
        .inputs
        .iter()
        .chain(&completion.inputs)
        .map(|input| Input {
            instance,
            bytes: input.input.clone(),
        })
        .collect();
    let outputs = plan
        .outputs
        .iter()
        .chain(&completion.outputs)
        .map(|output| Output {
            instance,
            bytes: output.output.clone(),
        })
        .collect();
    let transaction = Transaction {
        signatures: vec![[0; 64]; inputs.len()],
        body: TransactionBody {
            expires: 0,
            inputs,
            outputs,
        },
    };
    transaction.encode().len()
}

fn spend_quote(quote: &Quote, completed: &Completed) -> SpendQuote {
    SpendQuote {
        summary: quote.summary.clone(),
        total: completed.takes,
        federation_fee: completed.federation_fee,
        fees: quote
            .fees
            .iter()
            .take(MAX_EFFECTS)
            .map(|line| QuoteFee {
                name: line.name.clone(),
                amount: line.amount,
            })
            .collect(),
        expires: quote.expires,
    }
}

/// BIP 340; none if `secret` is no key.
fn sign(secret: &[u8; 32], message: [u8; 32]) -> Option<[u8; 64]> {
    secp::valid_secret(secret).then(|| secp::sign_schnorr(secret, &message))
}

#[cfg(test)]
pub(crate) mod tests;
