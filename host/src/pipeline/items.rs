//! What one item does: the rules for transactions, for modules' items, and the
//! books that the host keeps of every instance.
//!
//! The same code runs ahead and in order; only the overlay and who answers for
//! signature checks differ.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use modmint_core::{
    Amount, FederationId, Input, InstanceId, OutPoint, Output, PeerId, Transaction, TxId,
    config::{BaseFee, FederationConfig},
};
use modmint_runtime::{CallError, Called, Check, Host, HostError, limits};
use parking_lot::Mutex;

use super::{
    hosts::{Checker, ConsensusHost},
    module::{Module, Parts},
    skip::SkipList,
    state::{self, Books},
};
use crate::storage::{Overlay, StorageError};

/// What one transaction may take, in fuel: more than inputs and outputs of the stock
/// modules can that fit into an item. What takes more is refused.
pub(super) const MAX_TRANSACTION_FUEL: u64 = 200_000_000;

/// What one transaction or module's item may write, in bytes of keys and values. What
/// stock modules write of one is a hundredth of it.
pub(super) const MAX_ITEM_WRITES: u64 = 4 << 20;

/// See [`limits::MAX_STORED_BYTES`].
pub(super) const MAX_STORED_BYTES: u64 = match cfg!(test) {
    true => 1 << 20,
    false => limits::MAX_STORED_BYTES,
};

/// What checking the signature of an input counts, in fuel, as much as a module pays
/// for one.
const SIGNATURE_FUEL: u64 = 80_000;

/// The federation and its modules.
pub(super) struct Federation {
    pub config: Arc<FederationConfig>,
    pub id: FederationId,
    /// In the order of their ids.
    pub modules: Vec<Arc<dyn Module>>,
    pub skip: SkipList,
}

impl Federation {
    pub(super) fn module(&self, id: InstanceId) -> Option<&Arc<dyn Module>> {
        self.modules.get(usize::from(id.0))
    }
}

/// Why a transaction takes no effect, and which part of it is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub code: String,
    pub message: String,
    pub input: Option<u16>,
    pub output: Option<u16>,
}

impl Rejection {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            input: None,
            output: None,
        }
    }
}

/// What comes of an item that takes no effect.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is refused.
    Rejected(Rejection),
    /// It is refused, and the instance that would have paid out more than it has
    /// is paused.
    Unbacked(InstanceId, Rejection),
    /// The input's signature is not by its spend key. Signatures are no part of a
    /// transaction's id: this decides nothing, or anybody could have another's
    /// transaction rejected by putting junk in their place.
    Signature(u16),
    /// A cause outside state and item.
    Halt(Halt),
}

/// Why this guardian cannot go on.
#[derive(Debug)]
pub(super) enum Halt {
    Storage(StorageError),
    Host(HostError),
}

impl From<StorageError> for Halt {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Halt(error.into())
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// A trap's own code is for people: which limit a broken module hits first may
/// change with its bundle, that it is broken does not.
impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => {
                Rejection::new(&refusal.code, refusal.message.clone()).into()
            }
            CallError::Trapped(trap) => {
                Rejection::new("module-trapped", format!("the module broke: {trap}")).into()
            }
            CallError::Host(error) => Self::Halt(Halt::Host(error)),
        }
    }
}

impl Failure {
    fn at_input(self, index: u16) -> Self {
        match self {
            Self::Rejected(rejection) => Self::Rejected(Rejection {
                input: Some(index),
                ..rejection
            }),
            other => other,
        }
    }

    fn at_output(self, index: u16) -> Self {
        match self {
            Self::Rejected(rejection) => Self::Rejected(Rejection {
                output: Some(index),
                ..rejection
            }),
            other => other,
        }
    }
}

/// What a transaction moves.
#[derive(Default)]
struct Flows {
    /// Inputs' values less their fees.
    inputs: u128,
    /// Outputs' values and their fees.
    outputs: u128,
    /// What each instance it touches gains.
    gains: BTreeMap<InstanceId, i128>,
}

impl Flows {
    fn take_in(&mut self, instance: InstanceId, value: Amount, fee: Amount) -> Result<(), Failure> {
        let Some(net) = value.checked_sub(fee) else {
            let message = format!("the input's fee of {fee} is more than its value of {value}");
            return Err(Rejection::new("fee-above-value", message).into());
        };
        self.inputs += u128::from(net.msat());
        *self.gains.entry(instance).or_default() -= i128::from(net.msat());
        Ok(())
    }

    fn give_out(&mut self, instance: InstanceId, value: Amount, fee: Amount) {
        let gross = u128::from(value.msat()) + u128::from(fee.msat());
        self.outputs += gross;
        *self.gains.entry(instance).or_default() +=
            i128::from(value.msat()) + i128::from(fee.msat());
    }

    /// What is left over; it stays with the federation.
    fn surplus(&self) -> Result<u128, Failure> {
        self.inputs.checked_sub(self.outputs).ok_or_else(|| {
            let message = format!(
                "inputs bring {} msat after fees, outputs and their fees take {} msat",
                self.inputs, self.outputs
            );
            Rejection::new("unbalanced", message).into()
        })
    }
}

/// The instance at work on a transaction, and the calls into it.
#[derive(Default)]
struct Calls<'a>(Option<(InstanceId, Box<dyn Parts + 'a>)>);

/// Applies items over one overlay.
pub(super) struct Items {
    federation: Arc<Federation>,
    pub state: Arc<Mutex<Overlay>>,
    checker: Arc<dyn Checker>,
    /// What items have taken, the same on every guardian in the ordered run.
    fuel: AtomicU64,
    /// What they have written, in bytes, whether it was kept or not. As `fuel`.
    written: Arc<AtomicU64>,
}

impl Items {
    pub(super) fn new(
        federation: Arc<Federation>,
        state: Overlay,
        checker: Arc<dyn Checker>,
    ) -> Self {
        Self {
            federation,
            state: Arc::new(Mutex::new(state)),
            checker,
            fuel: AtomicU64::new(0),
            written: Arc::default(),
        }
    }

    /// What items have taken.
    pub(super) fn fuel(&self) -> u64 {
        self.fuel.load(Ordering::Relaxed)
    }

    /// Counts from here.
    pub(super) fn set_fuel(&self, fuel: u64) {
        self.fuel.store(fuel, Ordering::Relaxed);
    }

    /// What items have written.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Counts from here.
    pub(super) fn set_written(&self, bytes: u64) {
        self.written.store(bytes, Ordering::Relaxed);
    }

    /// Whether an item has written too much so far.
    fn check_written(&self, before: u64) -> Result<(), Failure> {
        if self.written() - before > MAX_ITEM_WRITES {
            let message =
                format!("the item writes more than the {MAX_ITEM_WRITES} bytes that one may");
            return Err(Rejection::new("too-much-written", message).into());
        }
        Ok(())
    }

    /// The result of a call that is paid for.
    pub(super) fn paid<T>(&self, called: Called<T>) -> Result<T, CallError> {
        self.set_fuel(self.fuel().saturating_add(called.fuel));
        called.result
    }

    /// Whether a transaction has taken too much so far.
    fn check_fuel(&self, before: u64) -> Result<u64, Failure> {
        let fuel = self.fuel() - before;
        if fuel > MAX_TRANSACTION_FUEL {
            let message = format!(
                "the transaction takes more fuel than the {MAX_TRANSACTION_FUEL} that one may"
            );
            return Err(Rejection::new("too-much-fuel", message).into());
        }
        Ok(fuel)
    }

    /// What calls into this instance reach.
    pub(super) fn host(&self, instance: InstanceId) -> Arc<dyn Host> {
        Arc::new(ConsensusHost {
            instance,
            config: Arc::clone(&self.federation.config),
            state: Arc::clone(&self.state),
            checker: Arc::clone(&self.checker),
            written: Arc::clone(&self.written),
        })
    }

    /// Inputs, outputs, balance, books. What it writes is to be thrown away if it
    /// fails.
    pub(super) fn transaction(&self, transaction: &Transaction, txid: TxId) -> Result<(), Failure> {
        let body = &transaction.body;
        let message = body.signature_hash(&self.federation.id);
        let (before, written) = (self.fuel(), self.written());
        let mut flows = Flows::default();
        let mut calls = Calls::default();
        for (index, (input, signature)) in
            (0..).zip(body.inputs.iter().zip(&transaction.signatures))
        {
            let spend_key = self
                .input(input, &mut calls, &mut flows)
                .map_err(|failure| failure.at_input(index))?;
            self.set_fuel(self.fuel().saturating_add(SIGNATURE_FUEL));
            self.check_fuel(before)?;
            self.check_written(written)?;
            let signed = self.checker.check(&Check::Schnorr {
                key: spend_key,
                message,
                signature: signature.to_vec(),
            });
            if !signed {
                return Err(Failure::Signature(index));
            }
        }
        for (index, output) in (0..).zip(&body.outputs) {
            let at = OutPoint { txid, index };
            self.output(output, at, &mut calls, &mut flows)
                .map_err(|failure| failure.at_output(index))?;
            self.check_fuel(before)?;
            self.check_written(written)?;
        }
        let surplus = flows.surplus()?;
        self.check_base_fee(transaction, surplus)?;
        state::add_surplus(&mut self.state.lock(), surplus)?;
        for (instance, gain) in flows.gains {
            self.settle(instance, gain)?;
        }
        Ok(())
    }

    fn check_base_fee(&self, transaction: &Transaction, surplus: u128) -> Result<(), Failure> {
        let base_fee = self.federation.config.base_fee;
        if base_fee == BaseFee::default() {
            return Ok(());
        }
        let bytes = transaction.encode().len();
        let asked = base_fee.of(bytes);
        if surplus < u128::from(asked.msat()) {
            let message = format!(
                "the base fee of a transaction of {bytes} bytes is {} msat, inputs leave \
                 {surplus} msat",
                asked.msat()
            );
            return Err(Rejection::new("fee-too-low", message).into());
        }
        Ok(())
    }

    fn input<'a>(
        &'a self,
        input: &Input,
        calls: &mut Calls<'a>,
        flows: &mut Flows,
    ) -> Result<modmint_core::PublicKey, Failure> {
        let calls = self.calls(calls, input.instance)?;
        let effect = self.paid(calls.process_input(&input.bytes))?;
        flows.take_in(input.instance, effect.value, effect.fee)?;
        Ok(effect.spend_key)
    }

    fn output<'a>(
        &'a self,
        output: &Output,
        at: OutPoint,
        calls: &mut Calls<'a>,
        flows: &mut Flows,
    ) -> Result<(), Failure> {
        let calls = self.calls(calls, output.instance)?;
        let effect = self.paid(calls.process_output(&output.bytes, at))?;
        flows.give_out(output.instance, effect.value, effect.fee);
        Ok(())
    }

    /// What calls go through that follow each other in one instance: each has one
    /// store, the former one's is gone.
    fn calls<'a, 'b>(
        &'a self,
        calls: &'b mut Calls<'a>,
        instance: InstanceId,
    ) -> Result<&'b mut (dyn Parts + 'a), Failure> {
        let module = self.open_module(instance)?;
        let kept = calls.0.take().filter(|(known, _)| *known == instance);
        let (_, parts) = calls
            .0
            .insert(kept.unwrap_or_else(|| (instance, module.transaction(self.host(instance)))));
        Ok(&mut **parts)
    }

    fn open_module(&self, id: InstanceId) -> Result<&Arc<dyn Module>, Failure> {
        let module = self.federation.module(id).ok_or_else(|| {
            Rejection::new(
                "unknown-instance",
                format!("the federation has no module instance {id}"),
            )
        })?;
        if state::books(&*self.state.lock(), id)?.paused {
            let message = format!("module instance {id} is paused: its books were not even");
            return Err(Rejection::new("instance-paused", message).into());
        }
        Ok(module)
    }

    /// A module's item in the name of `peer`. What it writes is to be thrown away
    /// if it fails.
    pub(super) fn module_item(
        &self,
        peer: PeerId,
        instance: InstanceId,
        item: &[u8],
    ) -> Result<(), Failure> {
        let module = self.open_module(instance)?;
        let written = self.written();
        self.paid(module.process_item(&self.host(instance), peer, item))?;
        self.check_written(written)?;
        self.settle(instance, 0)
    }

    /// Enters a gain in an instance's books, which must not go below zero,
    /// whatever the instance says; nor may it keep more than there is room for.
    fn settle(&self, instance: InstanceId, gain: i128) -> Result<(), Failure> {
        let mut state = self.state.lock();
        let stored = state::stored(&*state, instance)?;
        if stored > MAX_STORED_BYTES {
            let message = format!(
                "module instance {instance} would keep {stored} bytes, and {MAX_STORED_BYTES} are \
                 what one may; what leaves it fewer is accepted"
            );
            return Err(Rejection::new("storage-full", message).into());
        }
        let before = state::books(&*state, instance)?;
        let after = Books {
            balance: before.balance.saturating_add(gain),
            ..before
        };
        if !after.is_backed() {
            let message = format!(
                "module instance {instance} would pay out more than was ever paid in and claimed"
            );
            return Err(Failure::Unbacked(
                instance,
                Rejection::new("unbacked", message),
            ));
        }
        if after != before {
            state::set_books(&mut state, instance, &after);
        }
        Ok(())
    }
}
