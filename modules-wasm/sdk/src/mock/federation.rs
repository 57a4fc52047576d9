//! The guardians: one state, as consensus makes it, and an answer from each.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use modmint_core::{
    BundleHash, FederationId, InstanceId, Transaction,
    config::{HexBytes, InstanceConfig, InstanceKey},
    sha256, tagged_hash, threshold,
};
use modmint_crypto::{
    SecretShare,
    dealing::{Dealer, ThresholdKind, group_keys},
    secp, tbs, tpe,
};

use super::{
    Bundle, Founded, Phase, Store,
    call::{Call, WalletSide, enter},
    record::{ConsensusCall, Recorder},
};
use crate::{
    Answer, Argument, AuditLine, ChainOutPoint, ChainOutput, Item, KeyKind, KeySpec, OutPoint,
    Refusal,
};

/// How a guardian answers wallets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    Honest,
    /// Never.
    Silent,
    /// With something that looks right and is not.
    Lying,
}

/// What a transaction has come to.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// It has taken effect.
    Accepted,
    /// It has not and never will.
    Rejected {
        /// Why.
        refusal: Refusal,
        /// The input refused, by its place in the transaction.
        input: Option<u16>,
        /// The output refused.
        output: Option<u16>,
    },
}

/// A key that the ceremony made, with everybody's share of it.
pub(super) enum Key {
    Threshold {
        kind: KeyKind,
        group: HexBytes,
        share_keys: Vec<HexBytes>,
        shares: Vec<SecretShare>,
    },
    Multisig {
        secrets: Vec<[u8; 32]>,
    },
}

impl Key {
    pub(super) fn public_keys(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Threshold { group, .. } => vec![group.0.clone()],
            Self::Multisig { secrets } => secrets
                .iter()
                .map(|secret| secp::public_key(secret).to_vec())
                .collect(),
        }
    }
    /// As a federation's config has it.
    fn described(&self, label: &str) -> InstanceKey {
        InstanceKey {
            label: label.to_owned(),
            kind: match self {
                Self::Threshold {
                    kind: KeyKind::BlindSignature,
                    ..
                } => modmint_core::KeyKind::BlindSignature,
                Self::Threshold { .. } => modmint_core::KeyKind::Decryption,
                Self::Multisig { .. } => modmint_core::KeyKind::Multisig,
            },
            public_keys: self.public_keys().into_iter().map(HexBytes).collect(),
            share_keys: match self {
                Self::Threshold { share_keys, .. } => share_keys.clone(),
                Self::Multisig { .. } => Vec::new(),
            },
        }
    }
    pub(super) fn group_key(&self) -> &[u8] {
        match self {
            Self::Threshold { group, .. } => &group.0,
            Self::Multisig { .. } => panic!("trap: this label is a multisig's"),
        }
    }
    pub(super) fn threshold_keys(&self) -> (Vec<u8>, Vec<HexBytes>) {
        match self {
            Self::Threshold {
                group, share_keys, ..
            } => (group.0.clone(), share_keys.clone()),
            Self::Multisig { .. } => panic!("trap: this label is a multisig's"),
        }
    }
    pub(super) fn is_multisig(&self) -> bool {
        matches!(self, Self::Multisig { .. })
    }
    pub(super) fn signs_blindly(&self) -> bool {
        matches!(
            self,
            Self::Threshold {
                kind: KeyKind::BlindSignature,
                ..
            }
        )
    }
    pub(super) fn can_sign(&self, message: &[u8], terms: &[u8]) -> bool {
        match self {
            Self::Threshold {
                kind: KeyKind::BlindSignature,
                ..
            } => tbs::valid_blinded_message(message),
            Self::Threshold { group, .. } => tpe::verify(&group.0, message, terms),
            Self::Multisig { .. } => message.len() == 64,
        }
    }
    pub(super) fn share(&self, guardian: u16, message: &[u8], terms: &[u8]) -> Vec<u8> {
        let approved = "consensus approved it";
        let guardian = usize::from(guardian);
        match self {
            Self::Threshold {
                kind: KeyKind::BlindSignature,
                shares,
                ..
            } => tbs::sign_share(&shares[guardian], message)
                .expect(approved)
                .to_vec(),
            Self::Threshold { group, shares, .. } => {
                tpe::decryption_share(&shares[guardian], &group.0, message, terms).expect(approved)
            }
            Self::Multisig { secrets } => {
                let (tweak, hash) = message.split_at(32);
                let (tweak, hash) = (
                    tweak.try_into().expect(approved),
                    hash.try_into().expect(approved),
                );
                secp::sign_ecdsa(&secrets[guardian], tweak, hash)
                    .expect(approved)
                    .to_vec()
            }
        }
    }
}

pub(super) struct Instance {
    pub bundle: Bundle,
    pub config: Vec<u8>,
    pub keys: Arc<BTreeMap<String, Key>>,
}

/// Label, message, terms.
type Approved = (String, Vec<u8>, Vec<u8>);

/// What a transaction changes all or nothing of.
#[derive(Clone, Default)]
pub(super) struct Books {
    pub claimed: BTreeSet<([u8; 32], u32)>,
    /// Satoshi held by instance.
    pub treasury: BTreeMap<u16, u64>,
    /// Millisatoshi paid in less paid out, by instance.
    pub balance: BTreeMap<u16, i128>,
    pub approvals: BTreeMap<u16, BTreeSet<Approved>>,
    pub stores: BTreeMap<u16, Store>,
}

pub(super) struct State {
    pub id: [u8; 32],
    pub guardians: Vec<Behaviour>,
    pub height: u32,
    pub time: u64,
    pub fee_rate: u64,
    pub filter_bits: u32,
    /// What the keys of the next instance are dealt from.
    pub key_seed: Vec<u8>,
    pub chain: Vec<ChainOutput>,
    pub confirmed: BTreeMap<[u8; 32], u32>,
    /// Guardians whose chain is not the agreed one.
    pub elsewhere: BTreeSet<u16>,
    /// Outputs that are not there though they should be.
    pub lost: Vec<ChainOutPoint>,
    pub instances: Vec<Instance>,
    pub books: Books,
    pub statuses: BTreeMap<[u8; 32], Status>,
    pub recorder: Recorder,
}

impl State {
    pub(super) fn threshold(&self) -> usize {
        threshold(self.guardians.len())
    }
    pub(super) fn chain_output(&self, txid: [u8; 32], vout: u32) -> Option<ChainOutput> {
        self.chain
            .iter()
            .find(|output| output.out_point.txid == txid && output.out_point.vout == vout)
            .cloned()
    }
}

impl Call {
    pub(super) fn key<T>(&self, label: &str, what: impl FnOnce(&Key) -> T) -> T {
        let keys = self.state.borrow().instances[usize::from(self.instance)]
            .keys
            .clone();
        match keys.get(label) {
            Some(key) => what(key),
            None => panic!("trap: this instance has no key {label:?}"),
        }
    }
    /// As the host extends them.
    pub(super) fn terms(&self, terms: &[u8]) -> Vec<u8> {
        let id = self.state.borrow().id;
        [&id[..], &self.instance.to_be_bytes(), terms].concat()
    }
    pub(super) fn approvals<T>(&self, what: impl FnOnce(&mut BTreeSet<Approved>) -> T) -> T {
        what(
            self.state
                .borrow_mut()
                .books
                .approvals
                .entry(self.instance)
                .or_default(),
        )
    }
    pub(super) fn guardian(&self) -> u16 {
        self.guardian
            .expect("propose and query are calls of a guardian")
    }
    pub(super) fn wallet<T>(&self, what: impl FnOnce(&mut WalletSide) -> T) -> T {
        let wallet = self.wallet.as_ref().expect("this is a wallet's phase");
        what(&mut wallet.borrow_mut())
    }
}

/// The keys of a federation's instance, made once in a process.
fn make_keys(
    guardians: usize,
    instance: usize,
    seed: &[u8],
    specs: &[KeySpec],
) -> Arc<BTreeMap<String, Key>> {
    type Made = BTreeMap<(usize, Vec<u8>, String), Arc<BTreeMap<String, Key>>>;
    static MADE: Mutex<Made> = Mutex::new(BTreeMap::new());
    let place = [&(instance as u64).to_be_bytes()[..], seed].concat();
    let name = format!("{specs:?}");
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let keys = made
        .entry((guardians, place.clone(), name))
        .or_insert_with(|| Arc::new(deal(guardians, &place, specs)));
    Arc::clone(keys)
}

fn deal(guardians: usize, place: &[u8], specs: &[KeySpec]) -> BTreeMap<String, Key> {
    let kind = |spec: &KeySpec| match spec.kind {
        KeyKind::BlindSignature => Some(ThresholdKind::BlindSignature),
        KeyKind::Decryption => Some(ThresholdKind::Decryption),
        KeyKind::Multisig => None,
    };
    let kinds: Vec<_> = specs.iter().filter_map(kind).collect();
    let seed = tagged_hash("mock/dealer", &[place]);
    let dealer = Dealer::from_seed(&seed, &kinds, threshold(guardians));
    let mut shares: Vec<_> = (0..guardians as u16)
        .map(|guardian| dealer.shares(guardian).into_iter())
        .collect();
    let mut groups = match kinds.is_empty() {
        true => Vec::new(),
        false => group_keys(&[&dealer.dealing()], guardians as u16)
            .expect("an honest dealer's keys are none of them the identity"),
    }
    .into_iter();
    let key = |spec: &KeySpec| {
        let key = if kind(spec).is_some() {
            let group = groups.next().expect("one for each threshold key");
            Key::Threshold {
                kind: spec.kind,
                group: group.public_key,
                share_keys: group.share_keys,
                shares: shares
                    .iter_mut()
                    .map(|shares| shares.next().expect("one for each threshold key"))
                    .collect(),
            }
        } else {
            let secret = |guardian: usize| {
                let guardian = (guardian as u64).to_be_bytes();
                let label = spec.label.as_bytes();
                tagged_hash("mock/multisig", &[place, &guardian, label])
            };
            Key::Multisig {
                secrets: (0..guardians).map(secret).collect(),
            }
        };
        (spec.label.clone(), key)
    };
    specs.iter().map(key).collect()
}

/// A federation. Clones are the same federation.
#[derive(Clone)]
pub struct Federation {
    pub(super) state: Rc<RefCell<State>>,
}

impl Federation {
    /// So many honest guardians, without modules, at height 100.
    pub fn new(guardians: usize) -> Self {
        Self {
            state: Rc::new(RefCell::new(State {
                id: sha256(&(guardians as u64).to_be_bytes()),
                guardians: vec![Behaviour::Honest; guardians],
                height: 100,
                time: 1_800_000_000,
                fee_rate: 1000,
                filter_bits: 3,
                key_seed: Vec::new(),
                chain: Vec::new(),
                confirmed: BTreeMap::new(),
                elsewhere: BTreeSet::new(),
                lost: Vec::new(),
                instances: Vec::new(),
                books: Books::default(),
                statuses: BTreeMap::new(),
                recorder: Recorder::new(),
            })),
        }
    }

    /// The federation's id.
    pub fn id(&self) -> [u8; 32] {
        self.state.borrow().id
    }

    /// Founds an instance; returns its number, counted from 0.
    ///
    /// # Panics
    /// If the module refuses its configuration.
    pub fn found(&self, bundle: Bundle, arguments: Vec<Argument>) -> u16 {
        let instance = self.state.borrow().instances.len() as u16;
        let call = |phase| self.new_call(instance, phase, None, None);
        let (description, _) = enter(call(Phase::Pure), || bundle.describe());
        let kind = description.kind;
        let (setup, _) = enter(call(Phase::Pure), || bundle.configure(arguments));
        let setup = setup.unwrap_or_else(|refusal| panic!("{kind} is not founded: {refusal:?}"));
        let guardians = self.state.borrow().guardians.len();
        let seed = self.state.borrow().key_seed.clone();
        let keys = make_keys(guardians, usize::from(instance), &seed, &setup.keys);
        bundle.founded(Founded {
            federation: FederationId(self.state.borrow().id),
            guardians: guardians as u16,
            threshold: threshold(guardians) as u16,
            instance: InstanceConfig {
                id: InstanceId(instance),
                kind: kind.clone(),
                bundle: BundleHash([0; 32]),
                config: setup.config.clone(),
                keys: keys
                    .iter()
                    .map(|(label, key)| key.described(label))
                    .collect(),
            },
        });
        self.state.borrow_mut().instances.push(Instance {
            bundle: bundle.clone(),
            config: setup.config,
            keys,
        });
        self.consensus_call(instance, ConsensusCall::Init, || bundle.init())
            .unwrap_or_else(|refusal| panic!("{kind} does not begin: {refusal:?}"));
        instance
    }

    /// Makes a guardian answer like this from now on.
    pub fn set_behaviour(&self, guardian: u16, behaviour: Behaviour) {
        self.state.borrow_mut().guardians[usize::from(guardian)] = behaviour;
    }

    /// How many zero bits a script's hash needs; 3 unless told otherwise.
    pub fn set_filter_bits(&self, bits: u32) {
        self.state.borrow_mut().filter_bits = bits;
    }

    /// Instances that are founded from now on have other keys, which follow from these
    /// bytes: the same of them, the same keys. Unless told so every federation of as many
    /// guardians has the same.
    pub fn set_keys(&self, seed: &[u8]) {
        self.state.borrow_mut().key_seed = seed.to_vec();
    }

    /// Agreed fee rate, satoshi per 1000 virtual bytes.
    pub fn set_fee_rate(&self, fee_rate: u64) {
        self.state.borrow_mut().fee_rate = fee_rate;
    }

    /// Lets time pass, for guardians and wallets.
    pub fn pass(&self, seconds: u64) {
        self.state.borrow_mut().time += seconds;
    }

    /// The time, for guardians and wallets, seconds since 1970.
    ///
    /// # Panics
    /// If it is earlier than it was: agreed time never goes back.
    pub fn set_time(&self, unix_time: u64) {
        let now = &mut self.state.borrow_mut().time;
        assert!(unix_time >= *now, "agreed time never goes back");
        *now = unix_time;
    }

    /// The time.
    pub fn time(&self) -> u64 {
        self.state.borrow().time
    }

    /// Agrees on one more block, which pays so many satoshi to these scripts; says
    /// where. Scripts that do not pass the filter are in the block and nobody
    /// votes them.
    pub fn mine(&self, payments: &[(Vec<u8>, u64)]) -> Vec<ChainOutPoint> {
        let mut state = self.state.borrow_mut();
        state.height += 1;
        let height = state.height;
        let pay = |(place, (script, satoshi)): (usize, &(Vec<u8>, u64))| {
            let txid = tagged_hash("mock/txid", &[&height.to_be_bytes(), &[place as u8]]);
            let out_point = ChainOutPoint {
                txid: txid.to_vec(),
                vout: place as u32,
            };
            ChainOutput {
                out_point,
                script: script.clone(),
                satoshi: *satoshi,
                height,
            }
        };
        let outputs: Vec<_> = payments.iter().enumerate().map(pay).collect();
        let bits = state.filter_bits;
        let voted = |output: &&ChainOutput| {
            let hash = sha256(&output.script);
            u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]).leading_zeros() >= bits
        };
        state.chain.extend(outputs.iter().filter(voted).cloned());
        outputs.into_iter().map(|output| output.out_point).collect()
    }

    /// Agrees on so many more blocks, which pay nobody.
    pub fn mine_blocks(&self, blocks: u32) {
        self.state.borrow_mut().height += blocks;
    }

    /// Agrees on blocks up to this height, which pay nobody.
    ///
    /// # Panics
    /// If it is lower than it was: what is agreed stays agreed.
    pub fn set_height(&self, height: u32) {
        let agreed = &mut self.state.borrow_mut().height;
        assert!(height >= *agreed, "the agreed height never goes back");
        *agreed = height;
    }

    /// The agreed height.
    pub fn height(&self) -> u32 {
        self.state.borrow().height
    }

    /// Every guardian sees this bitcoin transaction in the newest agreed block.
    pub fn confirm(&self, txid: [u8; 32]) {
        self.confirm_ahead(txid, 0);
    }

    /// Every guardian sees this bitcoin transaction so many blocks behind the newest
    /// agreed one.
    pub fn confirm_ahead(&self, txid: [u8; 32], blocks: u32) {
        let mut state = self.state.borrow_mut();
        let height = state.height + blocks;
        state.confirmed.insert(txid, height);
    }

    /// Whether this guardian's chain has another block in the agreed one's place.
    pub fn set_elsewhere(&self, guardian: u16, elsewhere: bool) {
        let guardians = &mut self.state.borrow_mut().elsewhere;
        match elsewhere {
            true => guardians.insert(guardian),
            false => guardians.remove(&guardian),
        };
    }

    /// Outputs that no guardian's chain has unspent from now on.
    pub fn lose(&self, outputs: Vec<ChainOutPoint>) {
        self.state.borrow_mut().lost = outputs;
    }

    pub(super) fn new_call(
        &self,
        instance: u16,
        phase: Phase,
        guardian: Option<u16>,
        wallet: Option<(Store, Rc<RefCell<WalletSide>>)>,
    ) -> Call {
        let (storage, wallet) = match wallet {
            Some((storage, wallet)) => (storage, Some(wallet)),
            None => {
                let state = self.state.borrow();
                let storage = state.books.stores.get(&instance).cloned();
                (storage.unwrap_or_default(), None)
            }
        };
        Call {
            phase,
            instance,
            state: Rc::clone(&self.state),
            storage,
            guardian,
            wallet,
        }
    }

    /// A call of a guardian's half in any phase; nothing that it writes is kept.
    /// `guardian` is whose, in `propose` and `query`.
    pub fn call<T>(
        &self,
        instance: u16,
        phase: Phase,
        guardian: Option<u16>,
        module: impl FnOnce() -> T,
    ) -> T {
        enter(self.new_call(instance, phase, guardian, None), module).0
    }

    /// A call in the consensus phase: what it wrote is kept if it is not refused.
    ///
    /// # Errors
    /// The module's refusal.
    pub fn consensus<T>(
        &self,
        instance: u16,
        module: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let before = self.state.borrow().books.clone();
        let (result, store) = enter(
            self.new_call(instance, Phase::Consensus, None, None),
            module,
        );
        let mut state = self.state.borrow_mut();
        match result {
            Ok(_) => {
                state.books.stores.insert(instance, store);
            }
            Err(_) => state.books = before,
        }
        result
    }

    /// Takes the guardians' storage of version `from` to that of the module's bundle, as
    /// guardians do before a newer bundle's first item.
    ///
    /// # Errors
    /// The module's refusal, and nothing has changed.
    ///
    /// # Panics
    /// If it never ends.
    pub fn migrate(&self, instance: u16, from: u32) -> Result<(), Refusal> {
        let bundle = self.bundle(instance);
        let before = self.state.borrow().books.clone();
        let migrated =
            every_step(|cursor| self.consensus(instance, || bundle.migrate_server(from, cursor)));
        if migrated.is_err() {
            self.state.borrow_mut().books = before;
        }
        migrated
    }

    /// Decides a transaction, by the canonical bytes of `modmint_core::Transaction`.
    /// One that was decided stays decided.
    ///
    /// # Panics
    /// If the bytes are no transaction or too many: no wallet may build such.
    pub fn submit(&self, bytes: &[u8]) -> Status {
        let transaction = Transaction::decode(bytes).expect("a wallet builds transactions");
        let federation = FederationId(self.state.borrow().id);
        let txid = transaction.id(&federation).0;
        if let Some(status) = self.state.borrow().statuses.get(&txid) {
            return status.clone();
        }
        let before = self.state.borrow().books.clone();
        let status = match self.apply(&transaction, txid) {
            Ok(()) => Status::Accepted,
            Err(status) => {
                self.state.borrow_mut().books = before;
                status
            }
        };
        self.state
            .borrow_mut()
            .statuses
            .insert(txid, status.clone());
        status
    }

    fn apply(&self, transaction: &Transaction, txid: [u8; 32]) -> Result<(), Status> {
        let rejected = |refusal, input: Option<usize>, output: Option<usize>| Status::Rejected {
            refusal,
            input: input.map(|place| place as u16),
            output: output.map(|place| place as u16),
        };
        let whole = |code, message: &str| rejected(Refusal::new(code, message), None, None);
        let body = &transaction.body;
        if self.state.borrow().time >= body.expires {
            return Err(whole("expired", "the transaction has expired"));
        }
        let federation = FederationId(self.state.borrow().id);
        let hash = body.signature_hash(&federation);
        let (mut inputs, mut outputs) = (0i128, 0i128);
        for (place, (input, signature)) in
            body.inputs.iter().zip(&transaction.signatures).enumerate()
        {
            let refused = |refusal| rejected(refusal, Some(place), None);
            let instance = input.instance.0;
            let bundle = self.bundle(instance);
            let effect = self
                .consensus_call(instance, ConsensusCall::Input(input.bytes.clone()), || {
                    bundle.process_input(input.bytes.clone())
                })
                .map_err(refused)?;
            if !secp::verify_schnorr(&effect.spend_key, &hash, signature) {
                return Err(refused(Refusal::new(
                    "bad-signature",
                    "not by the spend key",
                )));
            }
            let brought = i128::from(effect.value) - i128::from(effect.fee);
            self.move_books(instance, -brought).map_err(refused)?;
            inputs += brought;
        }
        for (place, output) in body.outputs.iter().enumerate() {
            let refused = |refusal| rejected(refusal, None, Some(place));
            let instance = output.instance.0;
            let bundle = self.bundle(instance);
            let out_point = OutPoint {
                txid: txid.to_vec(),
                index: place as u16,
            };
            let call = ConsensusCall::Output(output.bytes.clone(), out_point.clone());
            let effect = self
                .consensus_call(instance, call, || {
                    bundle.process_output(output.bytes.clone(), out_point)
                })
                .map_err(refused)?;
            let taken = i128::from(effect.value) + i128::from(effect.fee);
            self.move_books(instance, taken).map_err(refused)?;
            outputs += taken;
        }
        if inputs < outputs {
            return Err(whole("unbalanced", "inputs do not cover outputs and fees"));
        }
        Ok(())
    }

    /// No instance pays out more than was paid in and claimed.
    fn move_books(&self, instance: u16, msat: i128) -> Result<(), Refusal> {
        let mut state = self.state.borrow_mut();
        let held = state.books.treasury.get(&instance).copied();
        let held = i128::from(held.unwrap_or_default()) * 1000;
        let balance = state.books.balance.entry(instance).or_default();
        *balance += msat;
        if *balance + held < 0 {
            return Err(Refusal::new(
                "books",
                "the instance would pay out more than it has",
            ));
        }
        Ok(())
    }

    /// Orders everything that guardians propose, until nothing more is accepted;
    /// says how many items were.
    pub fn order_proposals(&self) -> usize {
        let mut accepted = 0;
        loop {
            let round = self.order_round();
            if round == 0 {
                return accepted;
            }
            accepted += round;
        }
    }

    fn order_round(&self) -> usize {
        let (guardians, instances) = {
            let state = self.state.borrow();
            (state.guardians.len() as u16, state.instances.len() as u16)
        };
        let mut accepted = 0;
        for guardian in 0..guardians {
            let behaviour = self.state.borrow().guardians[usize::from(guardian)];
            for instance in 0..instances {
                let bundle = self.bundle(instance);
                if behaviour == Behaviour::Silent {
                    continue;
                }
                let propose = || bundle.propose();
                let items = self.call(instance, Phase::Propose, Some(guardian), propose);
                for mut item in items {
                    if behaviour == Behaviour::Lying {
                        item = lie(item);
                    }
                    accepted += usize::from(self.order(guardian, instance, item).is_ok());
                }
            }
        }
        accepted
    }

    /// Orders an item of a module in a guardian's name.
    ///
    /// # Errors
    /// The module's refusal.
    pub fn order(&self, guardian: u16, instance: u16, item: Vec<u8>) -> Result<(), Refusal> {
        let bundle = self.bundle(instance);
        let call = ConsensusCall::ConsensusItem(guardian, item.clone());
        self.consensus_call(instance, call, || {
            bundle.process_consensus_item(guardian, item)
        })
    }

    /// What this instance wants in the mempool now, by guardian 0.
    pub fn broadcast(&self, instance: u16) -> Vec<Vec<u8>> {
        let bundle = self.bundle(instance);
        self.call(instance, Phase::Propose, Some(0), || bundle.broadcast())
    }

    /// A guardian's operator asks for something; the items are ordered.
    ///
    /// # Errors
    /// The command's refusal, or an item's.
    pub fn command(
        &self,
        guardian: u16,
        instance: u16,
        name: &str,
        arguments: Vec<Argument>,
    ) -> Result<(), Refusal> {
        let bundle = self.bundle(instance);
        let items = self.call(instance, Phase::Propose, Some(guardian), || {
            bundle.command(name.to_owned(), arguments)
        })?;
        for item in items {
            self.order(guardian, instance, item)?;
        }
        Ok(())
    }

    /// A guardian's answer to a query; none if it is silent.
    pub fn query(
        &self,
        guardian: u16,
        instance: u16,
        name: &str,
        arguments: Vec<Argument>,
    ) -> Option<Result<Answer, Refusal>> {
        let behaviour = self.state.borrow().guardians[usize::from(guardian)];
        if behaviour == Behaviour::Silent {
            return None;
        }
        let bundle = self.bundle(instance);
        let answer = self.call(instance, Phase::Query, Some(guardian), || {
            bundle.query(name.to_owned(), arguments)
        });
        Some(match answer {
            Ok(Answer::Ready(bytes)) if behaviour == Behaviour::Lying => {
                Ok(Answer::Ready(lie(bytes)))
            }
            answer => answer,
        })
    }

    /// A guardian's contributions to outcomes; none if it is silent or one of them
    /// is not there.
    pub fn outcomes(
        &self,
        guardian: u16,
        instance: u16,
        out_points: Vec<OutPoint>,
    ) -> Option<Vec<Vec<u8>>> {
        let behaviour = self.state.borrow().guardians[usize::from(guardian)];
        if behaviour == Behaviour::Silent {
            return None;
        }
        let bundle = self.bundle(instance);
        let asked = out_points.len();
        let outcomes: Vec<_> = self
            .call(instance, Phase::Query, Some(guardian), || {
                bundle.outcomes(out_points)
            })
            .into_iter()
            .collect::<Option<_>>()?;
        assert_eq!(outcomes.len(), asked, "an outcome for each out-point");
        Some(match behaviour {
            Behaviour::Lying => outcomes.into_iter().map(lie).collect(),
            _ => outcomes,
        })
    }

    /// What the module shows of these bytes.
    ///
    /// # Errors
    /// The module's refusal.
    pub fn render(&self, instance: u16, item: Item, bytes: Vec<u8>) -> Result<String, Refusal> {
        let bundle = self.bundle(instance);
        self.call(instance, Phase::Stateless, None, || {
            bundle.render(item, bytes)
        })
    }

    /// What the instance says it has and owes.
    pub fn audit(&self, instance: u16) -> Vec<AuditLine> {
        let bundle = self.bundle(instance);
        self.audit_call(instance, || bundle.audit())
    }

    /// What the instance has in storage.
    pub fn store(&self, instance: u16) -> Store {
        let stores = &self.state.borrow().books.stores;
        stores.get(&instance).cloned().unwrap_or_default()
    }

    /// The host's books of an instance, millisatoshi: paid in less paid out, and
    /// bitcoin held.
    pub fn books(&self, instance: u16) -> (i128, i128) {
        let books = &self.state.borrow().books;
        let held = books.treasury.get(&instance).copied().unwrap_or_default();
        (
            books.balance.get(&instance).copied().unwrap_or_default(),
            i128::from(held) * 1000,
        )
    }

    pub(super) fn bundle(&self, instance: u16) -> Bundle {
        let state = self.state.borrow();
        state.instances[usize::from(instance)].bundle.clone()
    }

    /// The instance that holds wallets' money.
    pub(super) fn ecash(&self) -> Option<u16> {
        let state = self.state.borrow();
        let mut instances = state.instances.iter();
        let place = instances.position(|instance| instance.bundle.is_ecash())?;
        Some(place as u16)
    }
}

/// Something of the same length that is not it; for a blind signature share
/// another valid point, which only mathematics can tell from the right one.
fn lie(truth: Vec<u8>) -> Vec<u8> {
    if tbs::valid_blinded_message(&truth) {
        return tbs::blind(&truth, &[1; 32]).to_vec();
    }
    let mut lie = truth;
    match lie.last_mut() {
        Some(byte) => *byte ^= 1,
        None => lie.push(0),
    }
    lie
}

/// A migration: begins without a cursor, and goes on with each that it is given.
pub(super) fn every_step(
    mut step: impl FnMut(Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Refusal>,
) -> Result<(), Refusal> {
    let mut cursor = None;
    for _ in 0..100_000 {
        cursor = step(cursor)?;
        if cursor.is_none() {
            return Ok(());
        }
    }
    panic!("a migration that never ends");
}
