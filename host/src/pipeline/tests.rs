//! The pipeline with toy modules: no sandbox, no network, a real database.

#![allow(clippy::unwrap_used, reason = "a test that breaks says so")]

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU32, Ordering as Atomic},
    time::Duration,
};

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_core::{
    Amount, Argument, BundleHash, FederationId, Input, KeyKind, MAX_EXPIRY_SECONDS, OutPoint,
    Output, PublicKey, Transaction, TransactionBody, TxId,
    config::{
        BaseFee, BlockId, HexBytes, InstanceConfig, InstanceKey, Network, PeerConfig, SessionLimits,
    },
    consensus::{
        BlockVote, ConsensusItem, TransactionStatus, UnitPayload, VotedBlock, VotedOutput,
        next_items_root, script_passes_filter,
    },
    rest::{AuditLine, QueryResponse},
};
use modmint_crypto::secp;
use modmint_runtime::{
    Answer, Approval, CallError, ChainOutPoint, Check, Endpoint, Host, InputEffect, OutputEffect,
    OwnChain, Trap, Wake,
};
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{state::encode, *};
const SECRET: [u8; 32] = [7; 32];
const NOW: u64 = 1_700_000_040;
const COINS: InstanceId = InstanceId(0);
const OTHERS: InstanceId = InstanceId(1);

// A toy that keeps coins: each has a value and a key.

#[derive(BorshSerialize, BorshDeserialize)]
enum ToyInput {
    /// A coin that an output made.
    Coin(TxId, u16),
    /// A coin that never was.
    Forged(u64),
    /// An agreed output, claimed.
    Claim([u8; 32], u32),
    /// The module traps.
    Trap,
    /// Native code panics.
    Panic,
    /// Takes so much fuel.
    Work(u64),
    /// A note that is good if its signature is.
    Note([u8; 64]),
    /// Writes so many values of 128 KiB.
    Fill(u8),
}

#[derive(BorshSerialize, BorshDeserialize)]
struct ToyOutput {
    value: u64,
    fee: u64,
    /// Something to be signed blindly.
    approve: Option<Vec<u8>>,
}

#[derive(Default)]
struct Toy {
    /// How many more calls with `Panic` panic.
    panics: AtomicU32,
    /// Who is asked something that takes as long as this is held.
    gate: Mutex<()>,
    /// How often it was asked what it wants, and whether that ends by itself.
    asked: AtomicU32,
    loops: AtomicBool,
}

type Called<T> = Result<T, CallError>;
type Metered<T> = modmint_runtime::Called<T>;

/// What a toy's call takes.
const FUEL: u64 = 1000;

fn metered<T>(result: Called<T>) -> Metered<T> {
    Metered { result, fuel: FUEL }
}

fn refuse<T>(code: &str) -> Called<T> {
    Err(CallError::Refused(Refusal::new(code, "because")))
}

fn signable(message: &[u8]) -> Signable {
    Signable {
        label: "1".into(),
        message: message.to_vec(),
        terms: Vec::new(),
    }
}

/// So many values of 128 KiB, and no more than these.
fn fill(host: &Arc<dyn Host>, count: u8) -> Called<()> {
    for n in 0..64 {
        let key = [b"fill/".as_slice(), &[n]].concat();
        match n < count {
            true => host.put(&key, &vec![n; 128 << 10])?,
            false => host.delete(&key)?,
        }
    }
    Ok(())
}

impl Toy {
    fn input(&self, host: &Arc<dyn Host>, input: ToyInput) -> Called<InputEffect> {
        let value = match input {
            ToyInput::Coin(txid, index) => {
                let key = [&txid.0[..], &index.to_be_bytes()].concat();
                let Some(value) = host.get(&key)? else {
                    return refuse("no-such-coin");
                };
                host.delete(&key)?;
                u64::from_be_bytes(value.try_into().unwrap())
            }
            ToyInput::Forged(value) => value,
            ToyInput::Claim(txid, vout) => match host.claim(&ChainOutPoint { txid, vout })? {
                Some(output) => {
                    host.put(b"claimed", &(output.satoshi * 1000).to_be_bytes())?;
                    output.satoshi * 1000
                }
                None => return refuse("nothing-to-claim"),
            },
            ToyInput::Trap => return Err(CallError::Trapped(Trap::Broken)),
            ToyInput::Panic => {
                let left = self.panics.load(Atomic::SeqCst);
                host.put(b"panicked", b"yes")?;
                if left > 0 {
                    self.panics.store(left - 1, Atomic::SeqCst);
                    panic!("a toy breaks");
                }
                0
            }
            ToyInput::Work(_) => 0,
            ToyInput::Fill(count) => {
                fill(host, count)?;
                0
            }
            ToyInput::Note(signature) => {
                let check = Check::Schnorr {
                    key: PublicKey(secp::public_key(&SECRET)),
                    message: [3; 32],
                    signature: signature.to_vec(),
                };
                if !host.check(&check)? {
                    return refuse("bad-note");
                }
                0
            }
        };
        Ok(InputEffect {
            value: Amount(value),
            fee: Amount(0),
            spend_key: PublicKey(secp::public_key(&SECRET)),
        })
    }

    fn output(&self, host: &Arc<dyn Host>, output: &[u8], at: OutPoint) -> Called<OutputEffect> {
        let output: ToyOutput = borsh::from_slice(output).unwrap();
        let key = [&at.txid.0[..], &at.index.to_be_bytes()].concat();
        host.put(&key, &output.value.to_be_bytes())?;
        if let Some(message) = output.approve
            && host.approve(&signable(&message))? == Approval::Before
        {
            return refuse("approved-before");
        }
        Ok(OutputEffect {
            value: Amount(output.value),
            fee: Amount(output.fee),
        })
    }

    /// Writes a key; the item `release N` takes satoshi out of the treasury.
    fn item(&self, host: &Arc<dyn Host>, peer: PeerId, item: &[u8]) -> Called<()> {
        if let Some(satoshi) = item.strip_prefix(b"release ") {
            let satoshi = String::from_utf8_lossy(satoshi).parse().unwrap();
            return match host.release(satoshi)? {
                true => Ok(()),
                false => refuse("not-enough"),
            };
        }
        if let Some(count) = item.strip_prefix(b"fill ") {
            return fill(host, String::from_utf8_lossy(count).parse().unwrap());
        }
        let key = [b"item/", item].concat();
        if host.get(&key)?.is_some() {
            return refuse("no-change");
        }
        Ok(host.put(&key, &peer.0.to_be_bytes())?)
    }

    fn lines(&self, host: &Arc<dyn Host>) -> Called<Vec<AuditLine>> {
        let lie = host.get(b"item/lie")?.map_or(0, |_| 1_000_000);
        let claimed = host
            .get(b"claimed")?
            .map_or(0, |claimed| u64::from_be_bytes(claimed.try_into().unwrap()));
        let coins = host.scan(&[], None, usize::MAX, usize::MAX)?;
        let owed: u64 = coins
            .iter()
            .filter(|(key, _)| key.len() == 34)
            .map(|(_, value)| u64::from_be_bytes(value.as_slice().try_into().unwrap()))
            .sum();
        Ok(vec![AuditLine {
            name: "coins".into(),
            msat: claimed as i64 - owed as i64 - lie,
        }])
    }
}

struct ToyParts<'a> {
    toy: &'a Toy,
    host: Arc<dyn Host>,
}

impl module::Parts for ToyParts<'_> {
    fn process_input(&mut self, input: &[u8]) -> Metered<InputEffect> {
        let input = borsh::from_slice(input).unwrap();
        let fuel = match input {
            ToyInput::Work(fuel) => fuel,
            _ => FUEL,
        };
        Metered {
            result: self.toy.input(&self.host, input),
            fuel,
        }
    }

    fn process_output(&mut self, output: &[u8], at: OutPoint) -> Metered<OutputEffect> {
        metered(self.toy.output(&self.host, output, at))
    }
}

impl Module for Toy {
    fn init(&self, host: &Arc<dyn Host>) -> Metered<()> {
        metered(host.put(b"born", b"").map_err(CallError::from))
    }

    fn transaction<'a>(&'a self, host: Arc<dyn Host>) -> Box<dyn module::Parts + 'a> {
        Box::new(ToyParts { toy: self, host })
    }

    fn process_item(&self, host: &Arc<dyn Host>, peer: PeerId, item: &[u8]) -> Metered<()> {
        metered(self.item(host, peer, item))
    }

    fn audit(&self, host: &Arc<dyn Host>) -> Metered<Vec<AuditLine>> {
        metered(self.lines(host))
    }

    fn propose(&self, host: &Arc<dyn Host>) -> Called<Vec<Vec<u8>>> {
        self.asked.fetch_add(1, Atomic::SeqCst);
        let _open = self.gate.lock();
        if self.loops.load(Atomic::SeqCst) {
            return Err(CallError::Trapped(Trap::OutOfTime));
        }
        Ok(match host.get(b"item/wanted")? {
            Some(_) => vec![],
            None => vec![b"wanted".to_vec()],
        })
    }

    fn broadcast(&self, _: &Arc<dyn Host>) -> Called<Vec<Vec<u8>>> {
        Ok(vec![vec![1]])
    }

    fn outcomes(&self, host: &Arc<dyn Host>, at: &[OutPoint]) -> Called<Vec<Option<Vec<u8>>>> {
        at.iter()
            .map(|at| Ok(host.get(&[&at.txid.0[..], &at.index.to_be_bytes()].concat())?))
            .collect()
    }

    fn queries(&self) -> &[Endpoint] {
        static QUERIES: std::sync::OnceLock<Vec<Endpoint>> = std::sync::OnceLock::new();
        QUERIES.get_or_init(|| {
            ["item", "share", "height", "slow"]
                .map(|name| Endpoint {
                    name: name.into(),
                    summary: String::new(),
                    parameters: vec![],
                })
                .into()
        })
    }

    fn query(&self, host: &Arc<dyn Host>, name: &str, _: &[Argument]) -> Called<Answer> {
        Ok(match name {
            "height" if host.block_height()? < 8 => Answer::Wait(vec![Wake::Height(8)]),
            "height" => Answer::Ready(vec![8]),
            "slow" => {
                let _open = self.gate.lock();
                Answer::Ready(vec![])
            }
            "share" => match host.shares(&[signable(&[5])])?.remove(0) {
                Some(share) => Answer::Ready(share),
                None => return refuse("not-approved"),
            },
            _ => match host.get(b"item/a")? {
                Some(value) => Answer::Ready(value),
                None => Answer::Wait(vec![Wake::Key(b"item/a".to_vec())]),
            },
        })
    }

    fn render_answer(&self, _: &str, answer: &[u8]) -> Called<String> {
        Ok(format!("{answer:?}"))
    }
}

struct ToyShares;

impl Shares for ToyShares {
    fn share(&self, _: InstanceId, what: &Signable) -> Option<Vec<u8>> {
        Some([&what.message[..], b"signed"].concat())
    }
}

/// A chain of blocks that follow height 0.
struct ToyChain {
    blocks: Mutex<Vec<VotedBlock>>,
    fee_rate: Mutex<Option<u64>>,
    broadcast: Mutex<HashMap<InstanceId, Vec<Vec<u8>>>>,
    changed: tokio::sync::watch::Sender<u64>,
}

impl ChainView for ToyChain {
    fn best_height(&self) -> Option<u32> {
        Some(self.blocks.lock().len() as u32)
    }
    fn blocks_after(&self, parent: BlockId, depth: u32, max: usize) -> Option<Vec<VotedBlock>> {
        let blocks = self.blocks.lock();
        let buried = blocks.len().saturating_sub(depth as usize);
        let after = blocks.get(parent.height as usize..buried)?;
        Some(after.iter().take(max).cloned().collect())
    }
    fn stands(&self, agreed: BlockId) -> OwnChain {
        match self.blocks.lock().len() as u32 {
            best if best < agreed.height => OwnChain::Unknown,
            best => OwnChain::Follows(best),
        }
    }
    fn fee_rate(&self) -> Option<u64> {
        *self.fee_rate.lock()
    }
    fn confirmed_at(&self, _: &[u8; 32]) -> Option<u32> {
        None
    }
    fn set_broadcast(&self, instance: InstanceId, transactions: Vec<Vec<u8>>) {
        self.broadcast.lock().insert(instance, transactions);
    }
    fn missing(&self, _: InstanceId, _: &[ChainOutPoint]) -> Vec<ChainOutPoint> {
        Vec::new()
    }
    fn changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn instance(id: InstanceId) -> InstanceConfig {
    InstanceConfig {
        id,
        kind: "toy".into(),
        bundle: BundleHash([id.0 as u8; 32]),
        config: vec![],
        keys: ["1", "2"]
            .map(|label| InstanceKey {
                label: label.into(),
                kind: KeyKind::BlindSignature,
                public_keys: vec![HexBytes(vec![])],
                share_keys: vec![],
            })
            .into(),
    }
}

fn config(limits: SessionLimits) -> FederationConfig {
    let peer = |n: u8| PeerConfig {
        name: format!("guardian {n}"),
        api_url: String::new(),
        p2p_address: String::new(),
        certificate: vec![],
        consensus_key: PublicKey([n; 33]),
    };
    FederationConfig {
        name: "toys".into(),
        network: Network::Regtest,
        peers: (0..4).map(peer).collect(),
        chain_start: BlockId {
            height: 0,
            hash: Hash32([0; 32]),
        },
        finality_depth: 1,
        session: limits,
        base_fee: BaseFee::default(),
        instances: vec![instance(COINS), instance(OTHERS)],
    }
}

/// A guardian that can be stopped and started.
struct Guardian {
    folder: TempDir,
    config: Arc<FederationConfig>,
    toys: Vec<Arc<Toy>>,
    chain: Arc<ToyChain>,
    skip: SkipList,
    pipeline: Option<Arc<Pipeline>>,
}

impl Guardian {
    fn new() -> Self {
        Self::with(SessionLimits::default())
    }

    fn with(limits: SessionLimits) -> Self {
        let mut guardian = Self {
            folder: tempfile::tempdir().unwrap(),
            config: Arc::new(config(limits)),
            toys: vec![Arc::default(), Arc::default()],
            skip: SkipList::default(),
            chain: Arc::new(ToyChain {
                blocks: Mutex::default(),
                fee_rate: Mutex::default(),
                broadcast: Mutex::default(),
                changed: tokio::sync::watch::Sender::new(0),
            }),
            pipeline: None,
        };
        guardian.restart();
        guardian
    }

    fn restart(&mut self) {
        self.pipeline = None;
        let pipeline = Pipeline::assemble(Parts {
            database: Database::open(self.folder.path(), &self.config).unwrap(),
            config: Arc::clone(&self.config),
            me: PeerId(0),
            modules: self.toys.iter().map(|t| Arc::clone(t) as _).collect(),
            keys: Arc::new(ToyShares),
            chain: Arc::clone(&self.chain) as _,
            skip: self.skip.clone(),
            runtime_hash: Hash32([1; 32]),
        });
        self.pipeline = Some(pipeline.unwrap());
    }

    fn get(&self) -> &Arc<Pipeline> {
        self.pipeline.as_ref().unwrap()
    }

    /// Looks at the clock, and waits until modules have been asked.
    fn tick(&self, now: u64) {
        self.get().tick_at(now);
        self.get().asking.wait();
    }

    /// Applies an epoch with one unit of guardian 0, next in order.
    fn epoch(&self, items: Vec<ConsensusItem>) -> Processed {
        self.epoch_of(vec![unit(0, items)])
    }

    fn epoch_of(&self, units: Vec<OrderedUnit>) -> Processed {
        let (session, index) = self.get().position();
        let epoch = Epoch {
            session,
            index,
            units,
        };
        self.get().process(&[epoch]).unwrap()
    }

    /// Agrees on a time.
    fn agree_on_time(&self, time: u64) {
        let vote = |peer| unit(peer, vec![ConsensusItem::Time(time)]);
        self.epoch_of((0..4).map(vote).collect());
    }

    /// Agrees on a block with these outputs.
    fn agree_on_block(&self, outputs: Vec<VotedOutput>) {
        let tip = self.get().view().tip;
        let block = block(tip.hash, outputs);
        let run = blocks(tip.height + 1, &[block]);
        let vote = |peer| unit(peer, vec![run.clone()]);
        self.epoch_of((0..3).map(vote).collect());
    }

    fn status(&self, txid: &TxId) -> TransactionStatus {
        self.get().transaction(txid).status
    }

    fn code(&self, txid: &TxId) -> String {
        match self.status(txid) {
            TransactionStatus::Rejected { code, .. } => code,
            status => panic!("{status:?} is no rejection"),
        }
    }

    /// Gives the federation so much by a deposit, as coin 0 of the transaction.
    fn deposit(&self, satoshi: u64) -> TxId {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Atomic::SeqCst);
        let mut txid = [0; 32];
        txid[..4].copy_from_slice(&number.to_be_bytes());
        self.agree_on_block(vec![VotedOutput {
            txid: Hash32(txid),
            index: 0,
            satoshi,
            script: passing_script(),
        }]);
        let deposit = self.transaction(
            NOW + 600,
            vec![(OTHERS, ToyInput::Claim(txid, 0))],
            vec![(COINS, coin(satoshi * 1000))],
        );
        let id = deposit.id(&self.id());
        self.epoch(vec![ConsensusItem::Transaction(deposit)]);
        assert!(matches!(
            self.status(&id),
            TransactionStatus::Accepted { .. }
        ));
        id
    }

    fn id(&self) -> FederationId {
        self.config.id()
    }

    fn transaction(
        &self,
        expires: u64,
        inputs: Vec<(InstanceId, ToyInput)>,
        outputs: Vec<(InstanceId, ToyOutput)>,
    ) -> Transaction {
        let input = |(instance, input)| Input {
            instance,
            bytes: encode(&input),
        };
        let output = |(instance, output)| Output {
            instance,
            bytes: encode(&output),
        };
        let body = TransactionBody {
            expires,
            inputs: inputs.into_iter().map(input).collect(),
            outputs: outputs.into_iter().map(output).collect(),
        };
        let signature = secp::sign_schnorr(&SECRET, &body.signature_hash(&self.id()));
        Transaction {
            signatures: vec![signature; body.inputs.len()],
            body,
        }
    }

    /// Spends a coin for another.
    fn spend(&self, coin_of: TxId, outputs: Vec<ToyOutput>) -> Transaction {
        let outputs = outputs.into_iter().map(|o| (COINS, o)).collect();
        self.transaction(
            NOW + 600,
            vec![(COINS, ToyInput::Coin(coin_of, 0))],
            outputs,
        )
    }

    fn is_sound(&self) -> bool {
        let report = self.get().database.check().unwrap();
        report.is_sound() && report.kept == self.get().status().state_root
    }
}

fn coin(value: u64) -> ToyOutput {
    ToyOutput {
        value,
        fee: 0,
        approve: None,
    }
}

fn unit(creator: u16, items: Vec<ConsensusItem>) -> OrderedUnit {
    let items = items.iter().map(encode).collect();
    OrderedUnit {
        creator: PeerId(creator),
        payload: encode(&UnitPayload { items }),
    }
}

fn module_item(instance: InstanceId, bytes: &[u8]) -> ConsensusItem {
    ConsensusItem::Module {
        instance,
        bytes: bytes.to_vec(),
    }
}

fn passing_script() -> Vec<u8> {
    (0_u32..)
        .map(|n| n.to_be_bytes().to_vec())
        .find(|script| script_passes_filter(script))
        .unwrap()
}

fn block(parent: Hash32, outputs: Vec<VotedOutput>) -> VotedBlock {
    let mut header = [0; 80];
    header[4..36].copy_from_slice(&parent.0);
    VotedBlock { header, outputs }
}

fn blocks(height: u32, blocks: &[VotedBlock]) -> ConsensusItem {
    ConsensusItem::Blocks(BlockVote {
        height,
        blocks: blocks.to_vec(),
    })
}

fn epoch(session: u64, index: u32, items: Vec<ConsensusItem>) -> Epoch {
    let units = match items.is_empty() {
        true => vec![],
        false => vec![unit(0, items)],
    };
    Epoch {
        session,
        index,
        units,
    }
}

// Transactions.

#[test]
fn a_coin_is_spent_once_even_within_one_epoch() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let deposit = guardian.deposit(100);
    let first = guardian.spend(deposit, vec![coin(100_000)]);
    let second = guardian.spend(deposit, vec![coin(99_000)]);
    let ids = [&first, &second].map(|t| t.id(&guardian.id()));
    guardian.epoch_of(vec![
        unit(1, vec![ConsensusItem::Transaction(first)]),
        unit(2, vec![ConsensusItem::Transaction(second)]),
    ]);
    assert!(matches!(
        guardian.status(&ids[0]),
        TransactionStatus::Accepted { .. }
    ));
    let response = guardian.get().transaction(&ids[1]);
    assert_eq!(
        response.status,
        TransactionStatus::Rejected {
            session: 1,
            epoch: 3,
            code: "no-such-coin".into(),
            input: Some(0),
            output: None,
        }
    );
    assert_eq!(response.message.as_deref(), Some("because"));
    assert!(guardian.is_sound());
}

#[test]
fn a_refused_transaction_leaves_nothing_but_its_status() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let deposit = guardian.deposit(100);
    let table = |table| {
        let view = guardian.get().view();
        crate::storage::Read::scan(&view.state, table, b"", None, 1000, usize::MAX).unwrap()
    };
    let coins = crate::storage::Table::Instance(COINS);
    let before = (table(coins), table(crate::storage::Table::Host));
    // More than the coin is worth: found out behind inputs and outputs.
    let refused = guardian.spend(deposit, vec![coin(60_000), coin(60_000)]);
    let txid = refused.id(&guardian.id());
    guardian.epoch(vec![ConsensusItem::Transaction(refused)]);
    assert_eq!(guardian.code(&txid), "unbalanced");
    assert_eq!(table(coins), before.0);
    let new: Vec<_> = table(crate::storage::Table::Host)
        .into_iter()
        .filter(|pair| !before.1.contains(pair))
        .map(|(key, _)| String::from_utf8_lossy(&key[..7]).into_owned())
        .collect();
    assert_eq!(new, ["decided", "forget/"]);
    // And the coin is still there.
    let spend = guardian.spend(deposit, vec![coin(100_000)]);
    let txid = spend.id(&guardian.id());
    guardian.epoch(vec![ConsensusItem::Transaction(spend)]);
    assert!(matches!(
        guardian.status(&txid),
        TransactionStatus::Accepted { .. }
    ));
}

#[test]
fn a_decision_is_final_until_it_is_forgotten_and_then_the_transaction_has_expired() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let early = guardian.transaction(
        NOW + 60,
        vec![(COINS, ToyInput::Coin(TxId([9; 32]), 0))],
        vec![],
    );
    let txid = early.id(&guardian.id());
    let item = || vec![ConsensusItem::Transaction(early.clone())];
    guardian.epoch(item());
    let decided = guardian.status(&txid);
    assert_eq!(guardian.code(&txid), "no-such-coin");
    guardian.epoch(item());
    assert_eq!(guardian.status(&txid), decided);
    let forgotten = NOW + 60 + state::KEEP_DECISIONS_SECONDS;
    guardian.agree_on_time(forgotten - 60);
    assert_eq!(guardian.status(&txid), decided);
    guardian.agree_on_time(forgotten);
    assert_eq!(guardian.status(&txid), TransactionStatus::Unknown);
    guardian.epoch(item());
    assert_eq!(guardian.status(&txid), TransactionStatus::Unknown);
    let view = guardian.get().view();
    let left = crate::storage::Read::scan(
        &view.state,
        crate::storage::Table::Host,
        b"forget/",
        None,
        9,
        999,
    );
    assert!(left.unwrap().is_empty());
}

#[test]
fn what_expires_too_late_or_is_badly_signed_decides_nothing() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let deposit = guardian.deposit(100);
    let late = guardian.transaction(
        NOW + MAX_EXPIRY_SECONDS + 1,
        vec![(COINS, ToyInput::Coin(deposit, 0))],
        vec![],
    );
    let mut bad = guardian.spend(deposit, vec![coin(100_000)]);
    let good = bad.clone();
    bad.signatures[0][5] ^= 1;
    let ids = [&late, &bad].map(|t| t.id(&guardian.id()));
    for transaction in [late, bad] {
        guardian.epoch(vec![ConsensusItem::Transaction(transaction)]);
    }
    for txid in &ids {
        assert_eq!(guardian.status(txid), TransactionStatus::Unknown);
    }
    guardian.epoch_of(vec![unit(1, vec![ConsensusItem::Transaction(good)])]);
    assert!(matches!(
        guardian.status(&ids[1]),
        TransactionStatus::Accepted { .. }
    ));
}

#[test]
fn an_unknown_instance_and_a_trap_are_refusals() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let nobody = guardian.transaction(NOW + 60, vec![], vec![(InstanceId(9), coin(0))]);
    let trap = guardian.transaction(NOW + 60, vec![(COINS, ToyInput::Trap)], vec![]);
    let ids = [&nobody, &trap].map(|t| t.id(&guardian.id()));
    guardian.epoch(vec![
        ConsensusItem::Transaction(nobody),
        ConsensusItem::Transaction(trap),
    ]);
    assert_eq!(guardian.code(&ids[0]), "unknown-instance");
    assert_eq!(guardian.code(&ids[1]), "module-trapped");
}

// Caps, fees, convictions.

#[test]
fn what_a_unit_has_no_fuel_for_stays_undecided_and_goes_into_another() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let heavy = items::MAX_TRANSACTION_FUEL - 100_000;
    let work = |expires| {
        let inputs = vec![(COINS, ToyInput::Work(heavy))];
        guardian.transaction(expires, inputs, vec![])
    };
    let transactions = [1, 2, 3].map(|n| work(NOW + 60 * n));
    for transaction in &transactions {
        guardian.get().submit(&transaction.encode()).unwrap();
    }
    let ids = transactions.map(|t| t.id(&guardian.id()));
    let proposals = guardian.get().proposals();
    let mut payload = proposals.take(1, 32 << 10).unwrap();
    // The first takes nearly all that a unit has: the second still begins.
    for decided in [2, 3] {
        let unit = OrderedUnit {
            creator: PeerId(0),
            payload: std::mem::take(&mut payload),
        };
        guardian.epoch_of(vec![unit]);
        for (place, txid) in ids.iter().enumerate() {
            let status = guardian.status(txid);
            let expected = place < decided;
            assert_eq!(status.is_final(), expected, "{place}: {status:?}");
        }
        payload = proposals.take(1, 32 << 10).unwrap_or_default();
        let items = order::items_of(&payload);
        assert_eq!(items.len(), 3 - decided, "what was left over, at once");
    }
    assert!(!proposals.has_work());
    assert!(guardian.get().status().convicted.is_empty());
}

#[test]
fn a_transaction_that_takes_too_much_fuel_is_refused_and_costs_its_unit_what_it_took() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let heavy = |expires| {
        let half = items::MAX_TRANSACTION_FUEL / 2;
        let inputs = [0, 1].map(|_| (COINS, ToyInput::Work(half)));
        guardian.transaction(expires, inputs.into(), vec![])
    };
    let (first, second) = (heavy(NOW + 60), heavy(NOW + 61));
    let refused = guardian.get().submit(&first.encode()).unwrap_err();
    assert_eq!(refused.code(), "too-much-fuel");
    let ids = [&first, &second].map(|t| t.id(&guardian.id()));
    guardian.epoch([first, second].map(ConsensusItem::Transaction).into());
    assert_eq!(guardian.code(&ids[0]), "too-much-fuel");
    assert_eq!(guardian.status(&ids[1]), TransactionStatus::Unknown);
}

#[test]
fn a_transaction_pays_the_base_fee_and_a_refusal_says_what_it_is() {
    let mut guardian = Guardian::new();
    let config = Arc::make_mut(&mut guardian.config);
    config.base_fee = BaseFee {
        msat_per_kilobyte: 10_000,
    };
    guardian.pipeline = None;
    guardian.folder = tempfile::tempdir().unwrap();
    guardian.restart();
    guardian.agree_on_time(NOW);
    guardian.agree_on_block(vec![VotedOutput {
        txid: Hash32([5; 32]),
        index: 0,
        satoshi: 100,
        script: passing_script(),
    }]);
    let claim = |msat| {
        let inputs = vec![(OTHERS, ToyInput::Claim([5; 32], 0))];
        guardian.transaction(NOW + 600, inputs, vec![(COINS, coin(msat))])
    };
    let bytes = claim(100_000).encode().len() as u64;
    let asked = bytes * 10_000 / 1000;
    let stingy = claim(100_000 - asked + 1);
    let refused = guardian.get().submit(&stingy.encode()).unwrap_err();
    assert_eq!(refused.code(), "fee-too-low");
    let said = refused.to_string();
    assert!(said.contains(&format!("is {asked} msat")), "{said}");
    let exact = claim(100_000 - asked);
    let ids = [&stingy, &exact].map(|t| t.id(&guardian.id()));
    guardian.epoch([stingy, exact].map(ConsensusItem::Transaction).into());
    assert_eq!(guardian.code(&ids[0]), "fee-too-low");
    assert!(matches!(
        guardian.status(&ids[1]),
        TransactionStatus::Accepted { .. }
    ));
}

/// A guardian whose sessions have ten epochs, one with a deposit among them.
fn court() -> (Guardian, TxId) {
    let guardian = Guardian::with(SessionLimits {
        epochs: 10,
        ..SessionLimits::default()
    });
    guardian.agree_on_time(NOW);
    let deposit = guardian.deposit(100);
    (guardian, deposit)
}

fn convicted(guardian: &Guardian) -> Vec<(u16, String)> {
    let convicted = guardian.get().status().convicted;
    convicted.into_iter().map(|c| (c.peer.0, c.fault)).collect()
}

#[test]
fn who_proposes_what_cannot_be_right_is_convicted_until_the_session_ends() {
    let (mut guardian, deposit) = court();
    let good = guardian.spend(deposit, vec![coin(100_000)]);
    let txid = good.id(&guardian.id());
    let mut bad = good.clone();
    bad.signatures[0][5] ^= 1;
    guardian.epoch_of(vec![
        unit(2, vec![ConsensusItem::Transaction(bad)]),
        unit(2, vec![ConsensusItem::Transaction(good.clone())]),
    ]);
    assert_eq!(guardian.status(&txid), TransactionStatus::Unknown);
    let expected = (
        2,
        "it proposed a transaction with a signature that does not hold".to_owned(),
    );
    assert_eq!(convicted(&guardian), [expected]);
    let status = guardian.get().status();
    assert_eq!(status.convicted[0].epoch, 3);
    assert!(status.problems[0].contains("guardian 2 is convicted"));
    let mut registry = Registry::default();
    guardian.get().register_metrics(&mut registry);
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry).unwrap();
    for (peer, times) in [(0, 0), (1, 0), (2, 1), (3, 0)] {
        let line = format!("convictions_total{{peer=\"{peer}\"}} {times}\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    // It is so after a restart, whatever else it sends still counts, and others
    // propose the transaction.
    guardian.restart();
    assert_eq!(guardian.get().status().convicted, status.convicted);
    guardian.epoch_of(vec![
        unit(
            2,
            vec![
                module_item(COINS, b"of the convict"),
                ConsensusItem::Transaction(good.clone()),
            ],
        ),
        unit(3, vec![module_item(COINS, b"of another")]),
    ]);
    assert_eq!(guardian.status(&txid), TransactionStatus::Unknown);
    let item = |name: &str| {
        let (view, key) = (guardian.get().view(), format!("item/{name}"));
        let table = crate::storage::Table::Instance(COINS);
        crate::storage::Read::get(&view.state, table, key.as_bytes()).unwrap()
    };
    assert!(item("of the convict").is_some() && item("of another").is_some());
    let mut last = guardian.epoch(vec![]);
    while last.ended.is_none() {
        last = guardian.epoch(vec![]);
    }
    assert_eq!(convicted(&guardian), []);
    guardian.epoch_of(vec![unit(2, vec![ConsensusItem::Transaction(good)])]);
    assert!(matches!(
        guardian.status(&txid),
        TransactionStatus::Accepted { .. }
    ));
    assert!(guardian.is_sound());
}

#[test]
fn every_stateless_fault_convicts_and_no_other_refusal_does() {
    let (guardian, deposit) = court();
    let mut too_few = guardian.spend(deposit, vec![]);
    too_few.signatures.clear();
    let bad_note = guardian.transaction(NOW + 60, vec![(COINS, ToyInput::Note([9; 64]))], vec![]);
    let raw = |creator, items: Vec<Vec<u8>>| OrderedUnit {
        creator: PeerId(creator),
        payload: encode(&UnitPayload { items }),
    };
    let faults = [
        OrderedUnit {
            creator: PeerId(1),
            payload: b"no list of items".to_vec(),
        },
        raw(1, vec![b"no item".to_vec()]),
        raw(1, vec![vec![0; modmint_core::MAX_ITEM_BYTES + 1]]),
        unit(1, vec![ConsensusItem::Transaction(too_few)]),
        unit(1, vec![ConsensusItem::Transaction(bad_note)]),
    ];
    for fault in faults {
        let (guardian, _) = court();
        guardian.epoch_of(vec![fault.clone()]);
        assert_eq!(convicted(&guardian).len(), 1, "{fault:?}");
    }
    // What an honest guardian may have thought good: spent in the meantime, too
    // late, of an instance that has been paused, badly balanced by a fee.
    let spent = guardian.transaction(
        NOW + 60,
        vec![(COINS, ToyInput::Coin(TxId([9; 32]), 0))],
        vec![],
    );
    let late = guardian.transaction(NOW - 60, vec![(COINS, ToyInput::Note([9; 64]))], vec![]);
    let unbalanced = guardian.spend(deposit, vec![coin(200_000)]);
    guardian.epoch_of(vec![unit(
        1,
        vec![
            ConsensusItem::Transaction(spent),
            ConsensusItem::Transaction(late),
            ConsensusItem::Transaction(unbalanced),
            module_item(COINS, b"release 900"),
            ConsensusItem::Time(NOW + 1),
        ],
    )]);
    assert_eq!(convicted(&guardian), []);
}

// The books.

#[test]
fn value_from_nothing_is_refused_and_its_instance_paused() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let deposit = guardian.deposit(100);
    let forged = guardian.transaction(
        NOW + 60,
        vec![(OTHERS, ToyInput::Forged(1))],
        vec![(COINS, coin(1))],
    );
    let again = guardian.transaction(
        NOW + 61,
        vec![(OTHERS, ToyInput::Forged(0))],
        vec![(COINS, coin(0))],
    );
    let spend = guardian.spend(deposit, vec![coin(100_000)]);
    let ids = [&forged, &again, &spend].map(|t| t.id(&guardian.id()));
    guardian.epoch(
        [forged, again, spend]
            .map(ConsensusItem::Transaction)
            .into(),
    );
    assert_eq!(guardian.code(&ids[0]), "unbacked");
    assert_eq!(guardian.code(&ids[1]), "instance-paused");
    assert!(matches!(
        guardian.status(&ids[2]),
        TransactionStatus::Accepted { .. }
    ));
    assert!(guardian.get().paused(OTHERS) && !guardian.get().paused(COINS));
    assert!(guardian.get().status().problems[0].contains("paused"));
}

#[test]
fn a_module_can_pay_out_what_was_paid_in_and_no_more() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    guardian.deposit(100);
    let pay_out = |value, expires| {
        guardian.transaction(
            expires,
            vec![(COINS, ToyInput::Forged(value))],
            vec![(OTHERS, coin(value))],
        )
    };
    let (fits, too_much) = (pay_out(100_000, NOW + 60), pay_out(1, NOW + 61));
    let ids = [&fits, &too_much].map(|t| t.id(&guardian.id()));
    guardian.epoch([fits, too_much].map(ConsensusItem::Transaction).into());
    assert!(matches!(
        guardian.status(&ids[0]),
        TransactionStatus::Accepted { .. }
    ));
    assert_eq!(guardian.code(&ids[1]), "unbacked");
}

#[test]
fn the_treasury_backs_what_was_deposited_and_a_release_may_not_break_that() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    guardian.deposit(100);
    let audit = guardian.get().audit().unwrap();
    assert_eq!(audit.instances[0].balance_msat, 100_000);
    assert_eq!(audit.instances[1].balance_msat, -100_000);
    assert_eq!(audit.instances[1].treasury_msat, 100_000);
    guardian.epoch(vec![module_item(OTHERS, b"release 1")]);
    assert!(guardian.get().paused(OTHERS));
    let audit = guardian.get().audit().unwrap();
    assert_eq!(audit.instances[1].treasury_msat, 100_000);
}

#[test]
fn an_output_of_the_chain_is_claimed_once() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let output = VotedOutput {
        txid: Hash32([8; 32]),
        index: 3,
        satoshi: 50,
        script: passing_script(),
    };
    guardian.agree_on_block(vec![output]);
    let claim = |expires| {
        guardian.transaction(
            expires,
            vec![(OTHERS, ToyInput::Claim([8; 32], 3))],
            vec![(COINS, coin(50_000))],
        )
    };
    let (first, second) = (claim(NOW + 60), claim(NOW + 120));
    let txid = second.id(&guardian.id());
    guardian.epoch([first, second].map(ConsensusItem::Transaction).into());
    assert_eq!(guardian.code(&txid), "nothing-to-claim");
    assert_eq!(guardian.get().chain_outputs(&passing_script()).len(), 1);
    let output = guardian.get().chain_output_at(&[8; 32], 3).unwrap();
    assert_eq!((output.satoshi, output.height), (50, 1));
}

#[test]
fn of_a_script_s_outputs_a_hundred_are_told_in_consensus_and_many_more_in_queries() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    for height in 0..34 {
        let output = |index| VotedOutput {
            txid: Hash32([height; 32]),
            index,
            satoshi: 330,
            script: passing_script(),
        };
        guardian.agree_on_block((0..VotedBlock::MAX_OUTPUTS as u32).map(output).collect());
    }
    let view = guardian.get().view();
    let agreed = state::chain_outputs(&view.state, &passing_script()).unwrap();
    assert_eq!(agreed.len(), 100);
    let host = guardian.get().local_host(COINS, &view);
    let begun = std::time::Instant::now();
    let told = host.chain_outputs(&passing_script()).unwrap();
    println!("{} outputs take {:?}", told.len(), begun.elapsed());
    assert_eq!(told.len(), 10_000);
    assert_eq!(told[..100], agreed);
}

#[test]
fn a_module_that_says_it_owes_more_than_was_paid_in_is_paused_at_the_session_s_end() {
    let guardian = Guardian::with(SessionLimits {
        epochs: 5,
        ..SessionLimits::default()
    });
    guardian.agree_on_time(NOW);
    guardian.deposit(100);
    guardian.epoch(vec![module_item(COINS, b"lie")]);
    assert!(!guardian.get().paused(COINS));
    assert!(guardian.epoch(vec![]).ended.is_some());
    assert!(guardian.get().paused(COINS) && !guardian.get().paused(OTHERS));
    assert!(guardian.is_sound());
}

// Native code that breaks.

#[test]
fn a_panic_is_tried_again_and_what_it_wrote_is_gone() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    // Once ahead, once in order.
    guardian.toys[0].panics.store(2, Atomic::SeqCst);
    let panic = guardian.transaction(NOW + 60, vec![(COINS, ToyInput::Panic)], vec![]);
    let txid = panic.id(&guardian.id());
    guardian.epoch(vec![ConsensusItem::Transaction(panic)]);
    assert!(matches!(
        guardian.status(&txid),
        TransactionStatus::Accepted { .. }
    ));
    assert!(guardian.is_sound());
}

#[test]
fn an_item_that_breaks_twice_stops_the_guardian_and_is_named() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let before = (guardian.get().position(), guardian.get().status());
    guardian.toys[0].panics.store(3, Atomic::SeqCst);
    let panic = guardian.transaction(NOW + 60, vec![(COINS, ToyInput::Panic)], vec![]);
    let item = ConsensusItem::Transaction(panic);
    let hash = Hash32(modmint_core::sha256(&encode(&item)));
    let stop = guardian.get().process(&[epoch(1, 1, vec![item.clone()])]);
    assert!(matches!(stop, Err(Stop::Item { item, .. }) if item == hash));
    assert_eq!(
        (guardian.get().position(), guardian.get().status()),
        before,
        "nothing of it is kept"
    );
    // The cause is gone: the same epoch goes through.
    let processed = guardian.get().process(&[epoch(1, 1, vec![item])]).unwrap();
    assert_eq!(processed.consumed, 1);
}

#[test]
fn an_item_that_guardians_have_agreed_to_skip_stops_nobody_and_the_header_says_so() {
    let limits = SessionLimits {
        epochs: 3,
        ..SessionLimits::default()
    };
    let mut guardian = Guardian::with(limits);
    let other = Guardian::with(limits);
    for one in [&guardian, &other] {
        one.agree_on_time(NOW);
        one.toys[0].panics.store(100, Atomic::SeqCst);
    }
    let panic = guardian.transaction(NOW + 60, vec![(COINS, ToyInput::Panic)], vec![]);
    let bytes = panic.encode();
    let item = ConsensusItem::Transaction(panic);
    let hash = Hash32(modmint_core::sha256(&encode(&item)));
    let epochs = [
        epoch(1, 1, vec![item, module_item(COINS, b"behind it")]),
        epoch(1, 2, vec![]),
    ];
    let stop = guardian.get().process(&epochs).unwrap_err().to_string();
    let line = format!("1:{hash}");
    assert!(stop.contains(&format!("\"{line}\"")), "{stop}");
    guardian.skip = SkipList::try_from(vec![line]).unwrap();
    guardian.restart();
    let header = guardian.get().process(&epochs).unwrap().ended.unwrap();
    let view = guardian.get().view();
    let coins = crate::storage::Table::Instance(COINS);
    let behind = crate::storage::Read::get(&view.state, coins, b"item/behind it");
    assert!(behind.unwrap().is_some());
    let refused = guardian.get().submit(&bytes).unwrap_err();
    assert_eq!(refused.code(), "skipped");
    assert_eq!(
        guardian.toys[0].panics.load(Atomic::SeqCst),
        97,
        "not once more"
    );
    // Who has not agreed makes another header, which finds no n - f signatures.
    other.toys[0].panics.store(0, Atomic::SeqCst);
    let theirs = other.get().process(&epochs).unwrap().ended.unwrap();
    assert_ne!(header.skip_list, theirs.skip_list);
    assert_ne!(header.hash(&guardian.id()), theirs.hash(&other.id()));
    assert!(guardian.is_sound());
}

// Votes.

#[test]
fn blocks_advance_while_three_of_four_agree_and_never_go_back() {
    let guardian = Guardian::new();
    let start = guardian.config.chain_start;
    let first = block(start.hash, vec![]);
    let second = block(votes::hash_of(&first), vec![]);
    let third = block(votes::hash_of(&second), vec![]);
    let fork = VotedBlock {
        header: {
            let mut header = first.header;
            header[79] = 1;
            header
        },
        outputs: vec![],
    };
    let all = [first.clone(), second.clone(), third];
    guardian.epoch_of(vec![
        unit(0, vec![blocks(1, &all)]),
        unit(1, vec![blocks(1, &all[..2])]),
    ]);
    assert_eq!(guardian.get().status().block_height, 0);
    guardian.epoch_of(vec![unit(2, vec![blocks(1, &all[..2])])]);
    assert_eq!(guardian.get().status().block_height, 2);
    assert_eq!(guardian.get().block_hash(1), Some(votes::hash_of(&first)));
    let liars = (0..4).map(|peer| unit(peer, vec![blocks(1, std::slice::from_ref(&fork))]));
    guardian.epoch_of(liars.collect());
    let status = guardian.get().status();
    assert_eq!(status.block_height, 2);
    assert_eq!(status.block_hash, votes::hash_of(&second));
}

#[test]
fn an_output_that_one_of_three_does_not_see_does_not_count() {
    let guardian = Guardian::new();
    let output = |satoshi| VotedOutput {
        txid: Hash32([8; 32]),
        index: 3,
        satoshi,
        script: passing_script(),
    };
    let start = guardian.config.chain_start;
    let vote = |peer, satoshi| {
        let block = block(start.hash, vec![output(satoshi)]);
        unit(peer, vec![blocks(1, &[block])])
    };
    guardian.epoch_of(vec![vote(0, 5), vote(1, 5), vote(2, 500)]);
    assert_eq!(guardian.get().status().block_height, 0);
    guardian.epoch_of(vec![vote(3, 5)]);
    assert_eq!(guardian.get().status().block_height, 1);
    let output = guardian.get().chain_output_at(&[8; 32], 3).unwrap();
    assert_eq!(output.satoshi, 5);
}

#[test]
fn a_guardian_votes_only_when_something_has_moved() {
    let guardian = Guardian::new();
    *guardian.chain.fee_rate.lock() = Some(10_000);
    let wanted = || {
        let payload = guardian.get().proposals().take(1, 30_000);
        let items = payload.map_or_else(Vec::new, |payload| {
            borsh::from_slice::<UnitPayload>(&payload).unwrap().items
        });
        items
            .iter()
            .map(|item| borsh::from_slice(item).unwrap())
            .filter(|item| !matches!(item, ConsensusItem::Module { .. }))
            .collect::<Vec<ConsensusItem>>()
    };
    let tick = |now| guardian.tick(now);
    tick(NOW);
    let votes = wanted();
    assert_eq!(
        votes,
        [
            ConsensusItem::Time(NOW - NOW % 60),
            ConsensusItem::FeeRate(10_000)
        ]
    );
    tick(NOW);
    assert_eq!(wanted(), [], "they are under way");
    guardian.epoch(votes);
    tick(NOW);
    assert_eq!(wanted(), [], "they have been cast");
    *guardian.chain.fee_rate.lock() = Some(10_900);
    tick(NOW);
    assert_eq!(wanted(), [], "not enough has moved");
    *guardian.chain.fee_rate.lock() = Some(12_000);
    let first = block(Hash32([0; 32]), vec![]);
    let second = block(votes::hash_of(&first), vec![]);
    *guardian.chain.blocks.lock() = vec![first.clone(), second];
    tick(NOW + 60);
    assert_eq!(
        wanted(),
        [
            ConsensusItem::Time(NOW - NOW % 60 + 60),
            ConsensusItem::FeeRate(12_000),
            blocks(1, &[first]),
        ],
        "the second block is not buried"
    );
}

// What modules want.

#[test]
fn a_module_is_asked_what_it_wants_when_its_storage_changed_and_at_a_block() {
    let guardian = Guardian::new();
    let pipeline = guardian.get();
    guardian.tick(NOW);
    let taken = pipeline.proposals().take(1, 30_000).unwrap();
    let payload: UnitPayload = borsh::from_slice(&taken).unwrap();
    assert!(
        payload
            .items
            .contains(&encode(&module_item(COINS, b"wanted")))
    );
    assert_eq!(guardian.chain.broadcast.lock()[&COINS], [[1]]);
    guardian.epoch_of(vec![OrderedUnit {
        creator: PeerId(0),
        payload: taken,
    }]);
    guardian.tick(NOW);
    assert!(!pipeline.proposals().has_work(), "it has what it wanted");
    guardian.chain.broadcast.lock().clear();
    guardian.tick(NOW);
    assert!(guardian.chain.broadcast.lock().is_empty());
    guardian.chain.changed.send_modify(|tick| *tick += 1);
    guardian.tick(NOW);
    assert_eq!(guardian.chain.broadcast.lock().len(), 2);
}

#[test]
fn a_module_that_is_slow_to_say_what_it_wants_delays_nobody_s() {
    let guardian = Guardian::new();
    let slow = guardian.toys[1].gate.lock();
    let pipeline = guardian.get();
    pipeline.tick_at(NOW);
    let wanted = || {
        let items = order::items_of(&pipeline.proposals().take(1, 30_000)?);
        Some(
            items
                .iter()
                .map(|i| borsh::from_slice(i).unwrap())
                .collect(),
        )
    };
    let mut items: Vec<ConsensusItem> = wanted().unwrap();
    assert_eq!(items[0], ConsensusItem::Time(NOW - NOW % 60));
    while !items.contains(&module_item(COINS, b"wanted")) {
        items.extend(wanted().unwrap_or_default());
        std::thread::yield_now();
    }
    assert!(!items.contains(&module_item(OTHERS, b"wanted")));
    // Nor is it asked a second time before it has answered.
    pipeline.wake_modules(&[COINS, OTHERS]);
    pipeline.tick_at(NOW);
    while guardian.toys[0].asked.load(Atomic::SeqCst) < 2 {
        std::thread::yield_now();
    }
    assert_eq!(guardian.toys[1].asked.load(Atomic::SeqCst), 1);
    drop(slow);
    pipeline.asking.wait();
    guardian.tick(NOW);
    assert_eq!(guardian.toys[1].asked.load(Atomic::SeqCst), 2);
    assert_eq!(wanted(), Some(vec![module_item(OTHERS, b"wanted")]));
}

#[test]
fn a_module_that_breaks_when_it_is_asked_is_left_alone_for_a_while_and_that_is_told() {
    let guardian = Guardian::new();
    guardian.toys[1].loops.store(true, Atomic::SeqCst);
    guardian.tick(NOW);
    let problems = guardian.get().status().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("module instance 1 (toy) broke"),
        "{problems:?}"
    );
    assert!(problems[0].contains("out of time"), "{problems:?}");
    guardian.get().wake_modules(&[COINS, OTHERS]);
    guardian.tick(NOW);
    let asked = |toy: usize| guardian.toys[toy].asked.load(Atomic::SeqCst);
    assert_eq!((asked(0), asked(1)), (2, 1));
    // What it wants on the bitcoin chain is asked all the same.
    assert_eq!(guardian.chain.broadcast.lock().len(), 2);
}

#[test]
fn a_paused_module_is_not_asked_what_it_wants_and_its_items_are_refused() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    guardian.deposit(100);
    guardian.tick(NOW);
    guardian.epoch(vec![module_item(OTHERS, b"release 1")]);
    assert!(guardian.get().paused(OTHERS));
    guardian.toys[1].asked.store(0, Atomic::SeqCst);
    // What it wanted before is forgotten with the next minute.
    guardian.agree_on_time(NOW + 60);
    guardian.tick(NOW);
    assert_eq!(guardian.toys[1].asked.load(Atomic::SeqCst), 0);
    assert_eq!(
        guardian.chain.broadcast.lock()[&OTHERS],
        Vec::<Vec<u8>>::new()
    );
    let taken = guardian
        .get()
        .proposals()
        .take(2, 30_000)
        .unwrap_or_default();
    let theirs = encode(&module_item(OTHERS, b"wanted"));
    assert!(!order::items_of(&taken).contains(&theirs));
    let root = || guardian.get().status().state_root;
    let before = root();
    guardian.epoch(vec![module_item(OTHERS, b"something")]);
    assert_eq!(root(), before, "nothing is written");
}

// What modules write.

/// What the host has counted, and what is there.
fn kept(guardian: &Guardian, instance: InstanceId) -> (u64, u64) {
    let view = guardian.get().view();
    let table = crate::storage::Table::Instance(instance);
    let read = |table, prefix: &[u8]| {
        let all = crate::storage::Read::scan(&view.state, table, prefix, None, 10_000, usize::MAX);
        all.unwrap()
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum::<u64>()
    };
    let approved = [b"approved/".as_slice(), &instance.0.to_be_bytes()].concat();
    let counted = state::stored(&view.state, instance).unwrap();
    let there = read(table, b"") + read(crate::storage::Table::Host, &approved);
    (counted, there)
}

#[test]
fn a_module_that_fills_the_disk_is_refused_and_nobody_else_is() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let deposit = guardian.deposit(100);
    let fill = |count: u8| {
        let item = format!("fill {count}");
        guardian.epoch(vec![module_item(OTHERS, item.as_bytes())]);
        let (counted, there) = kept(&guardian, OTHERS);
        assert_eq!(counted, there);
        counted
    };
    let approved = ToyOutput {
        approve: Some(vec![1; 48]),
        ..coin(0)
    };
    let approve = guardian.transaction(NOW + 60, vec![], vec![(OTHERS, approved)]);
    guardian.epoch(vec![ConsensusItem::Transaction(approve)]);
    let empty = fill(0);
    let value = (128 << 10) + 6;
    assert_eq!(fill(5), empty + 5 * value);
    assert_eq!(guardian.get().status().problems, Vec::<String>::new());
    // Eight would be beyond the limit, of a megabyte here.
    assert_eq!(fill(7), empty + 7 * value);
    assert_eq!(fill(8), empty + 7 * value, "refused");
    let more = guardian.transaction(NOW + 61, vec![(OTHERS, ToyInput::Fill(8))], vec![]);
    let refused = guardian.get().submit(&more.encode()).unwrap_err();
    assert_eq!(refused.code(), "storage-full");
    let problems = guardian.get().status().problems;
    assert!(
        problems[0].contains("module instance 1 (toy) keeps"),
        "{problems:?}"
    );
    // Whoever else there is goes on, and what leaves less is accepted.
    let spend = guardian.spend(deposit, vec![coin(100_000)]);
    let txid = spend.id(&guardian.id());
    guardian.epoch(vec![ConsensusItem::Transaction(spend)]);
    assert!(matches!(
        guardian.status(&txid),
        TransactionStatus::Accepted { .. }
    ));
    assert_eq!(fill(2), empty + 2 * value);
    assert_eq!(fill(0), empty);
    assert_eq!(kept(&guardian, COINS).0, kept(&guardian, COINS).1);
    assert!(guardian.is_sound());
}

#[test]
fn what_writes_too_much_is_refused_and_a_unit_begins_no_more_then() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let fill = |expires, counts: &[u8]| {
        let inputs = counts.iter().map(|n| (OTHERS, ToyInput::Fill(*n)));
        guardian.transaction(expires, inputs.collect(), vec![])
    };
    // 33 values of 128 KiB are more than 4 MiB, 31 less.
    let transactions = [
        fill(NOW + 60, &[31]),
        fill(NOW + 61, &[31, 2]),
        fill(NOW + 62, &[1]),
    ];
    let ids = [0, 1, 2].map(|n: usize| transactions[n].id(&guardian.id()));
    let refused = guardian.get().submit(&transactions[1].encode());
    assert_eq!(refused.unwrap_err().code(), "too-much-written");
    guardian.epoch(transactions.map(ConsensusItem::Transaction).into());
    assert_eq!(guardian.code(&ids[0]), "storage-full");
    assert_eq!(guardian.code(&ids[1]), "too-much-written");
    assert_eq!(guardian.status(&ids[2]), TransactionStatus::Unknown);
}

#[test]
fn epochs_are_applied_at_once_until_modules_have_written_much() {
    let guardian = Guardian::new();
    // Nearly 8 MiB each, of which nothing is kept.
    let fills = || {
        vec![
            module_item(OTHERS, b"fill 31"),
            module_item(OTHERS, b"fill 31"),
        ]
    };
    let epochs: Vec<_> = (0..12).map(|index| epoch(1, index, fills())).collect();
    assert_eq!(guardian.get().process(&epochs).unwrap().consumed, 9);
    assert_eq!(guardian.get().process(&epochs).unwrap().consumed, 12);
}

// Submission.

#[test]
fn a_submitted_transaction_is_proposed_and_a_second_time_answered_with_its_status() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let deposit = guardian.deposit(100);
    let spend = guardian.spend(deposit, vec![coin(100_000)]);
    let bytes = spend.encode();
    for _ in 0..2 {
        let response = guardian.get().submit(&bytes).unwrap();
        assert_eq!(response.status, TransactionStatus::Pending);
    }
    let txid = spend.id(&guardian.id());
    assert_eq!(guardian.status(&txid), TransactionStatus::Pending);
    let payload = guardian.get().proposals().take(1, 30_000).unwrap();
    guardian.epoch_of(vec![OrderedUnit {
        creator: PeerId(0),
        payload,
    }]);
    assert!(!guardian.get().proposals().has_work());
    let response = guardian.get().submit(&bytes).unwrap();
    assert!(matches!(
        response.status,
        TransactionStatus::Accepted { .. }
    ));
}

#[test]
fn what_cannot_be_accepted_is_refused_at_submission_with_a_code() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let deposit = guardian.deposit(100);
    let code = |bytes: &[u8]| {
        let error = guardian.get().submit(bytes).unwrap_err();
        assert!(!error.to_string().is_empty());
        error.code().to_owned()
    };
    assert_eq!(code(b"nothing"), "malformed-transaction");
    assert_eq!(code(&vec![0; 40_000]), "transaction-too-large");
    let expiring = |expires| guardian.transaction(expires, vec![], vec![(COINS, coin(0))]);
    assert_eq!(code(&expiring(NOW).encode()), "transaction-expired");
    let late = expiring(NOW + MAX_EXPIRY_SECONDS + 1);
    assert_eq!(code(&late.encode()), "expires-too-late");
    let mut bad = guardian.spend(deposit, vec![coin(100_000)]);
    bad.signatures[0][5] ^= 1;
    assert_eq!(code(&bad.encode()), "bad-signature");
    let unknown = guardian.spend(TxId([3; 32]), vec![]);
    assert_eq!(code(&unknown.encode()), "no-such-coin");
    let nobody = guardian.transaction(NOW + 60, vec![], vec![(InstanceId(9), coin(0))]);
    assert_eq!(code(&nobody.encode()), "unknown-instance");
    guardian.toys[0].panics.store(2, Atomic::SeqCst);
    let panic = guardian.transaction(NOW + 60, vec![(COINS, ToyInput::Panic)], vec![]);
    assert_eq!(code(&panic.encode()), "internal");
    assert!(!guardian.get().proposals().has_work());
}

#[test]
fn a_pending_transaction_that_expires_is_dropped() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW - NOW % 60);
    let brief = guardian.transaction(NOW + 60, vec![], vec![(COINS, coin(0))]);
    guardian.get().submit(&brief.encode()).unwrap();
    guardian.agree_on_time(NOW - NOW % 60 + 120);
    guardian.tick(0);
    let txid = brief.id(&guardian.id());
    assert_eq!(guardian.status(&txid), TransactionStatus::Unknown);
}

#[test]
fn what_expires_while_the_federation_stands_still_is_not_proposed_afterwards() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW - NOW % 60);
    let brief = guardian.transaction(NOW + 60, vec![], vec![(COINS, coin(0))]);
    let txid = brief.id(&guardian.id());
    guardian.get().submit(&brief.encode()).unwrap();
    guardian.tick(NOW + 59);
    assert_eq!(guardian.status(&txid), TransactionStatus::Pending);
    guardian.tick(NOW + 60);
    assert_eq!(guardian.status(&txid), TransactionStatus::Unknown);
    let again = guardian.get().submit(&brief.encode()).unwrap_err();
    assert_eq!(again.code(), "transaction-expired");
    // Somebody else's unit may have it all the same: what counts there is agreed time.
    guardian.epoch(vec![ConsensusItem::Transaction(brief)]);
    assert!(guardian.status(&txid).is_final());
}

#[test]
fn a_clock_that_is_far_from_agreed_time_is_told() {
    let guardian = Guardian::new();
    guardian.tick(NOW);
    assert_eq!(
        guardian.get().clock_problem(),
        None,
        "nothing is agreed yet"
    );
    guardian.agree_on_time(NOW - NOW % 60);
    for (now, told) in [
        (NOW, None),
        (NOW + 1000, Some("ahead of")),
        (NOW - 1000, Some("behind")),
    ] {
        guardian.tick(now);
        let problem = guardian.get().clock_problem();
        assert_eq!(problem.is_some(), told.is_some(), "{problem:?}");
        assert!(problem.is_none_or(|problem| problem.contains(told.unwrap())));
    }
}

// Waiting.

#[tokio::test]
async fn who_waits_for_a_transaction_an_outcome_or_a_query_is_woken_by_it() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let deposit = guardian.deposit(100);
    let spend = guardian.spend(deposit, vec![coin(100_000)]);
    let txid = spend.id(&guardian.id());
    let long = Duration::from_secs(600);
    let out_points = [OutPoint { txid, index: 0 }];
    let pipeline = Arc::clone(guardian.get());
    let decided = pipeline.wait_transaction(&txid, long);
    let outcome = pipeline.outcomes(COINS, &out_points, long);
    let key = pipeline.query(COINS, "item", &[], long);
    let height = pipeline.query(COINS, "height", &[], long);
    let happen = async {
        tokio::task::yield_now().await;
        guardian.epoch(vec![
            module_item(COINS, b"a"),
            ConsensusItem::Transaction(spend),
        ]);
        for _ in 0..8 {
            guardian.agree_on_block(vec![]);
        }
    };
    let (decided, outcome, key, height, ()) = tokio::join!(decided, outcome, key, height, happen);
    assert!(decided.status.is_final());
    assert_eq!(outcome.unwrap(), [Some(100_000_u64.to_be_bytes().to_vec())]);
    assert_eq!(
        key.unwrap(),
        QueryResponse::Ready {
            bytes: HexBytes(vec![0, 0]),
            json: serde_json::json!([0, 0]),
        }
    );
    assert!(matches!(height.unwrap(), QueryResponse::Ready { .. }));
}

#[tokio::test(flavor = "multi_thread")]
#[allow(
    clippy::await_holding_lock,
    reason = "who waits for it is on other threads"
)]
async fn a_module_that_does_not_answer_keeps_nobody_from_another_s_outcomes() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let txid = guardian.deposit(100);
    let pipeline = Arc::clone(guardian.get());
    let toy = Arc::clone(&guardian.toys[1]);
    let gate = toy.gate.lock();
    let questions: Vec<_> = (0..100)
        .map(|_| {
            let pipeline = Arc::clone(&pipeline);
            tokio::spawn(async move { pipeline.query(OTHERS, "slow", &[], Duration::ZERO).await })
        })
        .collect();
    // As many as there may be have begun.
    let places = &pipeline.questions[1];
    while places.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let at = [OutPoint { txid, index: 0 }];
    let outcomes = pipeline.outcomes(COINS, &at, Duration::ZERO);
    let outcomes = tokio::time::timeout(Duration::from_secs(60), outcomes).await;
    assert!(outcomes.expect("in time").unwrap()[0].is_some());
    drop(gate);
    for question in questions {
        question.await.unwrap().unwrap();
    }
}

#[test]
fn all_instances_together_are_asked_no_more_than_the_engine_has_places() {
    for threads in [1, 2, 8, 64] {
        for instances in 1..limits::MAX_QUERIES as usize / 2 {
            // One more asks what it wants.
            let at_once = instances * (questions_at_once(threads, instances) + 1);
            assert!(
                at_once < limits::MAX_QUERIES as usize,
                "{threads} {instances}"
            );
        }
    }
}

#[tokio::test]
async fn who_waits_for_nothing_is_told_so_when_patience_ends() {
    let guardian = Guardian::new();
    let pipeline = guardian.get();
    let (none, soon) = (Duration::ZERO, Duration::from_millis(20));
    for wait in [none, soon] {
        let answer = pipeline.query(COINS, "item", &[], wait).await.unwrap();
        assert_eq!(answer, QueryResponse::Waiting);
        let at = OutPoint {
            txid: TxId([0; 32]),
            index: 0,
        };
        let outcomes = pipeline.outcomes(COINS, &[at], wait).await.unwrap();
        assert_eq!(outcomes, [None]);
        let status = pipeline.wait_transaction(&at.txid, wait).await.status;
        assert_eq!(status, TransactionStatus::Unknown);
    }
    let error = pipeline
        .query(COINS, "nothing", &[], none)
        .await
        .unwrap_err();
    assert_eq!(error.code(), "unknown-query");
    assert!(error.to_string().contains("item, share, height"));
    let error = pipeline.query(InstanceId(9), "item", &[], none).await;
    assert_eq!(error.unwrap_err().code(), "unknown-instance");
}

#[tokio::test]
async fn shares_are_given_of_what_was_approved_and_a_message_is_approved_once() {
    let guardian = Guardian::new();
    guardian.agree_on_time(NOW);
    let share = || guardian.get().query(COINS, "share", &[], Duration::ZERO);
    assert!(matches!(
        share().await.unwrap(),
        QueryResponse::Refused(refusal) if refusal.code == "not-approved"
    ));
    let approve = |expires| {
        let output = ToyOutput {
            approve: Some(vec![5]),
            ..coin(0)
        };
        guardian.transaction(expires, vec![], vec![(COINS, output)])
    };
    let (first, second) = (approve(NOW + 60), approve(NOW + 61));
    let txid = second.id(&guardian.id());
    guardian.epoch([first, second].map(ConsensusItem::Transaction).into());
    assert_eq!(guardian.code(&txid), "approved-before");
    assert!(matches!(
        share().await.unwrap(),
        QueryResponse::Ready { bytes, .. } if bytes.0 == b"\x05signed"
    ));
}

// Sessions, restarts, replays.

#[test]
fn a_session_ends_with_epochs_bytes_or_time_and_its_header_follows_the_last() {
    let limits = SessionLimits {
        epochs: 3,
        bytes: 1000,
        seconds: 600,
    };
    let guardian = Guardian::with(limits);
    assert_eq!(guardian.epoch_of(vec![]).ended, None);
    assert_eq!(guardian.epoch_of(vec![]).ended, None);
    let first = guardian.epoch_of(vec![]).ended.unwrap();
    assert_eq!((first.session, first.epochs), (1, 3));
    assert_eq!(first.previous, Hash32([0; 32]));
    let root = (0..3).fold(Hash32([0; 32]), |root, _| next_items_root(&root, &[]));
    assert_eq!(first.items_root, root);
    assert_eq!(guardian.get().position(), (2, 0));

    let big = OrderedUnit {
        creator: PeerId(3),
        payload: vec![0xff; 1000],
    };
    let second = guardian.epoch_of(vec![big]).ended.unwrap();
    assert_eq!((second.session, second.epochs), (2, 1));
    assert_eq!(second.previous, first.hash(&guardian.id()));

    // Time begins to count when it is first agreed on.
    guardian.agree_on_time(NOW);
    assert_eq!(guardian.get().position(), (3, 1));
    guardian.agree_on_time(NOW + 600);
    assert_eq!(guardian.get().position(), (4, 0));
    let third = guardian.get();
    assert_eq!(third.pending_header().unwrap(), first);
    let signed = |header| SignedHeader {
        header,
        signatures: vec![],
    };
    third.store_signed_header(signed(first.clone())).unwrap();
    assert_eq!(third.pending_header().unwrap(), second);
    third.store_signed_header(signed(second)).unwrap();
    assert_eq!(third.latest_signed_session(), Some(2));
    assert_eq!(third.signed_header(1).unwrap().header, first);
    assert_eq!(third.pending_header().unwrap().session, 3);
    assert!(guardian.is_sound());
}

#[test]
fn processing_stops_at_a_session_s_end_and_what_was_finalised_behind_it_is_passed_over() {
    let guardian = Guardian::with(SessionLimits {
        epochs: 2,
        ..SessionLimits::default()
    });
    let item = |n| vec![module_item(COINS, &[n])];
    let epochs = [
        epoch(1, 0, item(0)),
        epoch(1, 1, item(1)),
        epoch(1, 2, item(2)),
        epoch(2, 0, item(3)),
        epoch(2, 0, item(3)),
    ];
    let pipeline = guardian.get();
    let processed = pipeline.process(&epochs).unwrap();
    assert_eq!((processed.consumed, processed.ended.is_some()), (2, true));
    let processed = pipeline.process(&epochs[2..]).unwrap();
    assert_eq!((processed.consumed, processed.ended.is_some()), (2, false));
    let processed = pipeline.process(&epochs[4..]).unwrap();
    assert_eq!((processed.consumed, pipeline.position()), (1, (2, 1)));
    assert!(matches!(
        pipeline.process(&[epoch(2, 2, vec![])]),
        Err(Stop::Gap {
            epoch: 2,
            expected_epoch: 1,
            ..
        })
    ));
    let item = |n: u8| {
        let state = &pipeline.view().state;
        let key = [b"item/".as_slice(), &[n]].concat();
        crate::storage::Read::get(state, crate::storage::Table::Instance(COINS), &key)
            .unwrap()
            .is_some()
    };
    assert_eq!([0, 1, 2, 3].map(item), [true, true, false, true]);
}

#[test]
fn what_a_peer_needs_to_follow_is_kept() {
    let guardian = Guardian::with(SessionLimits {
        epochs: 4,
        ..SessionLimits::default()
    });
    let item = |n| vec![module_item(COINS, &[n])];
    guardian.epoch(item(0));
    guardian.epoch_of(vec![]);
    guardian.epoch(item(1));
    let pipeline = guardian.get();
    let epochs = pipeline.session_epochs(1, 0, usize::MAX).unwrap();
    assert_eq!(
        epochs,
        [vec![unit(0, item(0))], vec![], vec![unit(0, item(1))]]
    );
    assert_eq!(pipeline.session_epochs(1, 2, 0).unwrap().len(), 1);
    let header = guardian.epoch_of(vec![]).ended.unwrap();
    assert_eq!(pipeline.session_epochs(1, 0, usize::MAX).unwrap().len(), 4);
    assert_eq!(pipeline.items_root(1, 4).unwrap(), header.items_root);
    assert!(pipeline.items_root(1, 5).is_err());

    // A guardian that was away comes to the same state by them.
    let late = Guardian::with(SessionLimits {
        epochs: 4,
        ..SessionLimits::default()
    });
    let epochs = pipeline.session_epochs(1, 0, usize::MAX).unwrap();
    let epochs: Vec<_> = (0..)
        .zip(epochs)
        .map(|(index, units)| Epoch {
            session: 1,
            index,
            units,
        })
        .collect();
    assert_eq!(late.get().process(&epochs).unwrap().ended, Some(header));
}

/// Something for an epoch to do, drawn by proptest.
fn any_items() -> impl Strategy<Value = Vec<ConsensusItem>> {
    let module = (0..3_u16, prop::collection::vec(0..4_u8, 1..3))
        .prop_map(|(instance, bytes)| module_item(InstanceId(instance), &bytes));
    let time = (0..40_u64).prop_map(|n| ConsensusItem::Time(n * 60));
    let fee = (0..3000_u64).prop_map(ConsensusItem::FeeRate);
    let coins = (0..40_u64, any::<bool>(), 0..5_u64).prop_map(|(expires, forged, value)| {
        let guardian_independent = config(SessionLimits::default()).id();
        let body = TransactionBody {
            expires: expires * 60,
            inputs: vec![Input {
                instance: COINS,
                bytes: encode(&match forged {
                    true => ToyInput::Forged(value),
                    false => ToyInput::Forged(0),
                }),
            }],
            outputs: vec![Output {
                instance: COINS,
                bytes: encode(&coin(value)),
            }],
        };
        let hash = body.signature_hash(&guardian_independent);
        ConsensusItem::Transaction(Transaction {
            signatures: vec![secp::sign_schnorr(&SECRET, &hash)],
            body,
        })
    });
    let item = prop_oneof![module, time, fee, coins];
    prop::collection::vec(item, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// One guardian applies epochs one by one, another several at a time and is
    /// stopped and started at arbitrary places, after which everything is replayed
    /// from the beginning of the session, as AlephBFT does.
    #[test]
    fn guardians_come_to_the_same_state_however_epochs_are_cut_and_whatever_is_replayed(
        epochs in prop::collection::vec(any_items(), 1..12),
        cuts in prop::collection::vec((1..5_usize, any::<bool>()), 1..12),
    ) {
        // Ended by epochs alone: votes on time may jump by more than a session's length.
        let limits = SessionLimits { epochs: 7, seconds: 1 << 40, ..SessionLimits::default() };
        let (steady, mut shaken) = (Guardian::with(limits), Guardian::with(limits));
        let mut creators = (0..4).cycle();
        let mut units = Vec::new();
        for items in epochs {
            let of_epoch = match items.is_empty() {
                true => vec![],
                false => vec![unit(creators.next().unwrap(), items)],
            };
            steady.epoch_of(of_epoch.clone());
            units.push(of_epoch);
        }
        let place = |index: usize| (1 + index as u64 / 7, index as u32 % 7);
        let all: Vec<_> = units
            .into_iter()
            .enumerate()
            .map(|(index, units)| {
                let (session, index) = place(index);
                Epoch { session, index, units }
            })
            .collect();
        // Everything from the beginning of the session that is being filled.
        let replay = |shaken: &Guardian, upto: usize| {
            let (session, _) = shaken.get().position();
            let mut given = &all[(session as usize - 1) * 7..upto];
            while !given.is_empty() {
                let processed = shaken.get().process(given).unwrap();
                given = &given[processed.consumed..];
            }
        };
        let mut upto = 0;
        for (count, crash) in cuts {
            upto = (upto + count).min(all.len());
            replay(&shaken, upto);
            if crash {
                shaken.restart();
            }
        }
        replay(&shaken, all.len());
        prop_assert_eq!(steady.get().status(), shaken.get().status());
        prop_assert_eq!(steady.get().pending_header(), shaken.get().pending_header());
        prop_assert!(steady.is_sound() && shaken.is_sound());
    }
}
