//! Consensus calls as they were made natively, written down so that somebody else can
//! make them again on the component: with the same storage and the same agreed values
//! the same must come out, and there it can be metered.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_core::KeyKind;

use super::{
    Federation, Phase, Store,
    federation::{Key, State},
};
use crate::{ChainOutput, OutPoint, PeerId, Refusal};

/// The variable that names a folder into which every federation of a process writes
/// the calls made in it, as borsh of a list of [`RecordedCall`].
pub const RECORD: &str = "MODMINT_RECORD";

/// How many calls a process writes down at most.
const MOST: usize = 10_000;

/// A consensus call, and what came of it natively.
#[derive(Clone, Debug, BorshSerialize, BorshDeserialize)]
pub struct RecordedCall {
    /// The module's kind.
    pub kind: String,
    /// The instance.
    pub instance: u16,
    /// What was called.
    pub call: ConsensusCall,
    /// The instance's storage before.
    pub before: Store,
    /// The storage behind it, or the code of the refusal.
    pub after: Result<Store, String>,
    /// What else the call could see.
    pub around: Surroundings,
}

/// An export of the contract's phases `consensus` and `audit`, with its arguments.
#[derive(Clone, Debug, BorshSerialize, BorshDeserialize)]
pub enum ConsensusCall {
    /// `init`
    Init,
    /// `process-input`
    Input(Vec<u8>),
    /// `process-output`
    Output(Vec<u8>, OutPoint),
    /// `process-consensus-item`
    ConsensusItem(PeerId, Vec<u8>),
    /// `audit`
    Audit,
}

impl ConsensusCall {
    /// The export's name in the contract.
    pub fn export(&self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Input(_) => "process-input",
            Self::Output(..) => "process-output",
            Self::ConsensusItem(..) => "process-consensus-item",
            Self::Audit => "audit",
        }
    }
}

/// A key of an instance: label, kind, public keys as `federation.public-keys` has them.
pub type RecordedKey = (String, KeyKind, Vec<Vec<u8>>);

/// What consensus calls see beside their storage.
#[derive(Clone, Debug, BorshSerialize, BorshDeserialize)]
pub struct Surroundings {
    /// The federation's id.
    pub federation: [u8; 32],
    /// n.
    pub peers: u16,
    /// n − f.
    pub threshold: u16,
    /// The instance's config.
    pub config: Vec<u8>,
    /// Its keys.
    pub keys: Vec<RecordedKey>,
    /// Agreed height. The hash of a block is the SHA-256 of its height, big endian.
    pub height: u32,
    /// Agreed time.
    pub time: u64,
    /// Agreed fee rate.
    pub fee_rate: u64,
    /// Agreed outputs of the chain.
    pub chain: Vec<ChainOutput>,
    /// Those that an instance has claimed: transaction and place.
    pub claimed: BTreeSet<([u8; 32], u32)>,
    /// What this instance holds of them, satoshi.
    pub held: u64,
    /// What was approved for this instance: label, message, terms.
    pub approved: BTreeSet<(String, Vec<u8>, Vec<u8>)>,
}

static RECORDED: AtomicUsize = AtomicUsize::new(0);

/// Calls of a federation, from when somebody wants to know.
pub(super) struct Recorder {
    calls: Option<Vec<RecordedCall>>,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self {
            calls: std::env::var_os(RECORD).map(|_| Vec::new()),
        }
    }
}

/// Tests are over when their federation is gone.
impl Drop for Recorder {
    fn drop(&mut self) {
        let (Some(folder), Some(calls)) = (std::env::var_os(RECORD), self.calls.take()) else {
            return;
        };
        if calls.is_empty() {
            return;
        }
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}.calls", std::process::id());
        let bytes = borsh::to_vec(&calls).expect("writing to memory does not fail");
        if let Err(error) = std::fs::write(Path::new(&folder).join(name), bytes) {
            eprintln!("{RECORD}: {error}");
        }
    }
}

impl Federation {
    /// From now on consensus calls are written down.
    pub fn record(&self) {
        self.state.borrow_mut().recorder.calls = Some(Vec::new());
    }

    /// Those that have been.
    pub fn recorded(&self) -> Vec<RecordedCall> {
        let state = self.state.borrow();
        state.recorder.calls.clone().unwrap_or_default()
    }

    /// A consensus call, written down if somebody wants to know.
    pub(super) fn consensus_call<T>(
        &self,
        instance: u16,
        call: ConsensusCall,
        module: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let before = self.before(instance, &call);
        let result = self.consensus(instance, module);
        if let Some(recorded) = before {
            let after = match &result {
                Ok(_) => Ok(self.store(instance)),
                Err(refusal) => Err(refusal.code.clone()),
            };
            self.push(RecordedCall { after, ..recorded });
        }
        result
    }

    /// `audit`, written down if somebody wants to know.
    pub(super) fn audit_call<T>(&self, instance: u16, module: impl FnOnce() -> T) -> T {
        let before = self.before(instance, &ConsensusCall::Audit);
        let result = self.call(instance, Phase::Audit, None, module);
        if let Some(recorded) = before {
            self.push(recorded);
        }
        result
    }

    fn push(&self, call: RecordedCall) {
        if let Some(calls) = &mut self.state.borrow_mut().recorder.calls {
            calls.push(call);
        }
    }

    fn before(&self, instance: u16, call: &ConsensusCall) -> Option<RecordedCall> {
        if self.state.borrow().recorder.calls.is_none()
            || RECORDED.fetch_add(1, Ordering::Relaxed) >= MOST
        {
            return None;
        }
        let bundle = self.bundle(instance);
        let kind = self
            .call(instance, Phase::Pure, None, || bundle.describe())
            .kind;
        let before = self.store(instance);
        Some(RecordedCall {
            kind,
            instance,
            call: call.clone(),
            after: Ok(before.clone()),
            before,
            around: self.state.borrow().around(instance),
        })
    }
}

impl State {
    fn around(&self, instance: u16) -> Surroundings {
        let founded = &self.instances[usize::from(instance)];
        let kind = |key: &Key| match key {
            Key::Multisig { .. } => KeyKind::Multisig,
            key if key.signs_blindly() => KeyKind::BlindSignature,
            Key::Threshold { .. } => KeyKind::Decryption,
        };
        let keys = founded.keys.iter();
        let books = &self.books;
        Surroundings {
            federation: self.id,
            peers: self.guardians.len() as u16,
            threshold: self.threshold() as u16,
            config: founded.config.clone(),
            keys: keys
                .map(|(label, key)| (label.clone(), kind(key), key.public_keys()))
                .collect(),
            height: self.height,
            time: self.time,
            fee_rate: self.fee_rate,
            chain: self.chain.clone(),
            claimed: books.claimed.clone(),
            held: books.treasury.get(&instance).copied().unwrap_or_default(),
            approved: books.approvals.get(&instance).cloned().unwrap_or_default(),
        }
    }
}
