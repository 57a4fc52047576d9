//! The executor with modules that are made for it: a mint whose notes are
//! numbers, and a module that pays.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::{Path, PathBuf};

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_core::{
    BundleHash, Hash32, Parameter, ParameterKind, PeerId, TxId, Value,
    config::{BaseFee, BlockId, InstanceConfig, Network, PeerConfig, SessionLimits},
};
use modmint_runtime::{
    Action, HostResult, Trap,
    wallet::{
        Agreement, FeeLine, OutcomeRequest, PeerAnswer, PeerOutcomes, Progress, QueryRequest,
        ServiceRequest,
    },
};
use proptest::prelude::*;

use super::*;
use crate::database::Lock;

pub(crate) const MINT: InstanceId = InstanceId(0);
pub(crate) const SHOP: InstanceId = InstanceId(1);
const FEE: Amount = Amount(1);

fn action(name: &str, parameters: Vec<Parameter>) -> Action {
    Action {
        name: name.into(),
        summary: String::new(),
        audience: Audience::Person,
        parameters,
    }
}

fn amount_parameter() -> Parameter {
    Parameter {
        name: "amount".into(),
        summary: String::new(),
        kind: ParameterKind::Amount,
        required: true,
        default: None,
    }
}

fn to(state: impl BorshSerialize, effects: Vec<Effect>) -> Transition {
    Transition {
        state: borsh::to_vec(&state).unwrap(),
        effects,
        progress: None,
        finished: None,
    }
}

fn finished(result: Result<(), Refusal>) -> Transition {
    Transition {
        state: vec![],
        effects: vec![],
        progress: None,
        finished: Some(result),
    }
}

/// Notes are storage entries `n` ‖ number → msat.
struct Mint {
    actions: Vec<Action>,
}

#[derive(BorshSerialize, BorshDeserialize)]
struct Change {
    chosen: Vec<(Vec<u8>, Vec<u8>)>,
    change: u64,
    accepted: bool,
}

fn notes(host: &Arc<dyn Host>) -> HostResult<Vec<(Vec<u8>, Vec<u8>)>> {
    host.scan(b"n", None, 1000, 1 << 20)
}

fn msat(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.try_into().unwrap())
}

fn issue(host: &Arc<dyn Host>, value: u64) -> HostResult<()> {
    let number = host.random(8)?;
    host.put(&[b"n", number.as_slice()].concat(), &value.to_be_bytes())
}

impl ClientHalf for Mint {
    fn bundle(&self) -> BundleHash {
        BundleHash([1; 32])
    }
    fn about(&self) -> (&str, &str) {
        ("1.0.0", "")
    }
    fn has_client(&self) -> bool {
        true
    }
    fn actions(&self) -> &[Action] {
        &self.actions
    }
    fn is_ecash(&self) -> bool {
        true
    }
    fn start(
        &self,
        host: &Arc<dyn Host>,
        action: &str,
        arguments: &[Argument],
    ) -> Result<Transition, CallError> {
        match action {
            // Money from nowhere, for tests.
            "issue" => {
                let Some(Value::Amount(value)) = arguments.first().map(|a| &a.value) else {
                    return Err(Refusal::new("bad-argument", "no amount").into());
                };
                issue(host, value.msat())?;
            }
            // One note, for what the e-cash module makes of it itself.
            "exchange" => {
                let Some((key, value)) = notes(host)?.into_iter().next() else {
                    return Err(Refusal::new(NOT_ENOUGH_MONEY, "no note").into());
                };
                host.delete(&key)?;
                let plan = Plan {
                    inputs: vec![PlannedInput {
                        input: key.clone(),
                        value: Amount(msat(&value)),
                        fee: FEE,
                        signer: Signer::Path(vec![1]),
                    }],
                    outputs: vec![],
                    confirm: None,
                };
                let effect = Effect {
                    id: 0,
                    want: Want::Submit(plan),
                };
                let state = Change {
                    chosen: vec![(key, value)],
                    change: 0,
                    accepted: false,
                };
                return Ok(to(state, vec![effect]));
            }
            // Takes one note out of the balance without a transaction.
            _ => {
                let Some((key, _)) = notes(host)?.into_iter().next() else {
                    return Err(Refusal::new(NOT_ENOUGH_MONEY, "no note").into());
                };
                host.delete(&key)?;
            }
        }
        Ok(finished(Ok(())))
    }
    fn advance(
        &self,
        host: &Arc<dyn Host>,
        state: &[u8],
        event: Event,
    ) -> Result<Transition, CallError> {
        let mut state: Change = borsh::from_slice(state).unwrap();
        let Event::Done { effect, outcome } = event else {
            return Err(Refusal::new("busy", "a transaction is on its way").into());
        };
        match (effect, outcome, state.accepted) {
            (0, EffectResult::Accepted { txid, outputs }, false) => {
                if state.change == 0 {
                    return Ok(finished(Ok(())));
                }
                state.accepted = true;
                let request = OutcomeRequest {
                    out_points: outputs
                        .into_iter()
                        .map(|index| OutPoint { txid, index })
                        .collect(),
                    agreement: Agreement::Each,
                };
                let effect = Effect {
                    id: 1,
                    want: Want::Outcomes(request),
                };
                Ok(to(state, vec![effect]))
            }
            (0, EffectResult::Rejected { .. }, false) => {
                for (key, value) in &state.chosen {
                    host.put(key, value)?;
                }
                Ok(finished(Ok(())))
            }
            (1, EffectResult::Outcomes(_), true) => {
                issue(host, state.change)?;
                Ok(finished(Ok(())))
            }
            (effect, outcome, _) => panic!("told {effect} {outcome:?}"),
        }
    }
    /// Five, once their outcome is there.
    fn recover(&self, _: &Arc<dyn Host>) -> Result<Transition, CallError> {
        let request = OutcomeRequest {
            out_points: vec![OutPoint {
                txid: TxId([5; 32]),
                index: 0,
            }],
            agreement: Agreement::Each,
        };
        let state = Change {
            chosen: Vec::new(),
            change: 5,
            accepted: true,
        };
        let effect = Effect {
            id: 1,
            want: Want::Outcomes(request),
        };
        Ok(to(state, vec![effect]))
    }
    fn balance(&self, host: &Arc<dyn Host>) -> Result<Amount, CallError> {
        Ok(notes(host)?
            .iter()
            .map(|(_, value)| Amount(msat(value)))
            .sum())
    }
    fn complete(
        &self,
        host: &Arc<dyn Host>,
        inputs: Amount,
        outputs: Amount,
    ) -> Result<Completion, CallError> {
        let mut chosen = Vec::new();
        let mut have = inputs.msat();
        let mut all = notes(host)?.into_iter();
        while have < outputs.msat() {
            let Some((key, value)) = all.next() else {
                return Err(Refusal::new(NOT_ENOUGH_MONEY, "not enough").into());
            };
            have += msat(&value) - FEE.msat();
            host.delete(&key)?;
            chosen.push((key, value));
        }
        let change = have - outputs.msat();
        Ok(Completion {
            inputs: chosen
                .iter()
                .map(|(key, value)| PlannedInput {
                    input: key.clone(),
                    value: Amount(msat(value)),
                    fee: FEE,
                    signer: Signer::Path(vec![1]),
                })
                .collect(),
            outputs: (change > 0)
                .then(|| PlannedOutput {
                    output: change.to_be_bytes().to_vec(),
                    value: Amount(change),
                    fee: Amount::ZERO,
                })
                .into_iter()
                .collect(),
            machine: borsh::to_vec(&Change {
                chosen,
                change,
                accepted: false,
            })
            .unwrap(),
        })
    }
}

/// Pays, after asking guardians for the price or not.
struct Shop {
    actions: Vec<Action>,
    bundle: u8,
}

#[derive(BorshSerialize, BorshDeserialize, Clone)]
enum Till {
    Asks(u64),
    Pays(u64),
    /// Pays once more without asking, when it is refused.
    PaysTwice(u64),
    Breaks,
    /// Shows what it is served.
    Served,
}

fn pay(value: u64, confirm: bool) -> Effect {
    Effect {
        id: 7,
        want: Want::Submit(Plan {
            inputs: vec![],
            outputs: vec![PlannedOutput {
                output: b"goods".to_vec(),
                value: Amount(value),
                fee: Amount::ZERO,
            }],
            confirm: confirm.then(|| Quote {
                summary: "goods".into(),
                fees: vec![FeeLine {
                    name: "postage".into(),
                    amount: Amount(3),
                }],
                expires: None,
            }),
        }),
    }
}

fn price(id: u32) -> Effect {
    Effect {
        id,
        want: Want::Query(QueryRequest {
            name: "price".into(),
            arguments: vec![],
            agreement: Agreement::Same,
        }),
    }
}

impl ClientHalf for Shop {
    fn bundle(&self) -> BundleHash {
        BundleHash([self.bundle; 32])
    }
    fn about(&self) -> (&str, &str) {
        ("1.0.0", "")
    }
    fn has_client(&self) -> bool {
        true
    }
    fn actions(&self) -> &[Action] {
        &self.actions
    }
    fn is_ecash(&self) -> bool {
        false
    }
    fn start(
        &self,
        host: &Arc<dyn Host>,
        action: &str,
        arguments: &[Argument],
    ) -> Result<Transition, CallError> {
        let Some(Value::Amount(Amount(value))) = arguments.first().map(|a| a.value.clone()) else {
            return Err(Refusal::new("bad-argument", "no amount").into());
        };
        host.put(b"begun", &value.to_be_bytes())?;
        Ok(match action {
            "pay" => to(Till::Pays(value), vec![pay(value, true)]),
            "pay-twice" => to(Till::PaysTwice(value), vec![pay(value, true)]),
            // 600, for a price that is good until second `value`.
            "pay-until" => {
                let mut effect = pay(600, true);
                if let Want::Submit(plan) = &mut effect.want {
                    plan.confirm.as_mut().unwrap().expires = Some(value);
                }
                to(Till::Pays(600), vec![effect])
            }
            "sneak" => to(Till::Pays(value), vec![pay(value, false)]),
            "break" => to(Till::Breaks, vec![price(1)]),
            "serve" => to(
                Till::Served,
                vec![Effect {
                    id: 2,
                    want: Want::Service(ServiceRequest {
                        name: "shop.open".into(),
                        request: value.to_be_bytes().to_vec(),
                    }),
                }],
            ),
            _ => to(Till::Asks(value), vec![price(1)]),
        })
    }
    fn advance(
        &self,
        host: &Arc<dyn Host>,
        state: &[u8],
        event: Event,
    ) -> Result<Transition, CallError> {
        let state: Till = borsh::from_slice(state).unwrap();
        if let Event::Cancel = event {
            return match state {
                Till::Asks(_) => Ok(finished(Err(Refusal::new("cancelled", "as you wish")))),
                _ => Err(Refusal::new("paid", "it is paid").into()),
            };
        }
        let Event::Done { outcome, .. } = event else {
            unreachable!("cancel is above");
        };
        match (state, outcome) {
            (Till::Breaks, _) if self.bundle == 2 => {
                host.put(b"half", b"written")?;
                Err(CallError::Trapped(Trap::Broken))
            }
            (Till::Breaks, _) => Ok(finished(Ok(()))),
            (Till::Served, EffectResult::Served(answer)) => Ok(Transition {
                progress: Some(Progress {
                    stage: "served".into(),
                    message: String::from_utf8(answer).unwrap(),
                    details: String::new(),
                }),
                ..finished(Ok(()))
            }),
            (Till::Asks(value), EffectResult::Answers(_)) => {
                Ok(to(Till::Pays(value), vec![pay(value, true)]))
            }
            (_, EffectResult::Accepted { outputs, .. }) => Ok(Transition {
                progress: Some(Progress {
                    stage: "paid".into(),
                    message: "paid".into(),
                    details: format!("{{\"output\":{}}}", outputs[0]),
                }),
                ..finished(Ok(()))
            }),
            (Till::PaysTwice(value), EffectResult::Rejected { .. }) => {
                Ok(to(Till::Pays(value), vec![pay(value, false)]))
            }
            (_, EffectResult::Rejected { refusal, .. } | EffectResult::Failed(refusal)) => {
                Ok(finished(Err(refusal)))
            }
            (_, EffectResult::Declined) => {
                Ok(finished(Err(Refusal::new("declined", "not bought"))))
            }
            (_, outcome) => panic!("told {outcome:?}"),
        }
    }
    fn recover(&self, _: &Arc<dyn Host>) -> Result<Transition, CallError> {
        Ok(finished(Ok(())))
    }
    fn balance(&self, _: &Arc<dyn Host>) -> Result<Amount, CallError> {
        unreachable!("not the e-cash module")
    }
    fn complete(&self, _: &Arc<dyn Host>, _: Amount, _: Amount) -> Result<Completion, CallError> {
        unreachable!("not the e-cash module")
    }
}

pub(crate) fn config() -> FederationConfig {
    let instance = |id: u16, kind: &str| InstanceConfig {
        id: InstanceId(id),
        kind: kind.into(),
        bundle: BundleHash([id as u8 + 1; 32]),
        config: vec![],
        keys: vec![],
    };
    let peer = PeerConfig {
        name: "only".into(),
        api_url: "http://127.0.0.1:1".into(),
        p2p_address: "127.0.0.1:2".into(),
        certificate: vec![],
        consensus_key: modmint_core::PublicKey([2; 33]),
    };
    FederationConfig {
        name: "test".into(),
        network: Network::Regtest,
        peers: vec![peer; 4],
        chain_start: BlockId {
            height: 0,
            hash: Hash32([0; 32]),
        },
        finality_depth: 1,
        session: SessionLimits::default(),
        base_fee: BaseFee::default(),
        instances: vec![instance(0, "mint"), instance(1, "shop")],
    }
}

/// A wallet that can be closed and opened again at any time.
struct Bench {
    directory: tempfile::TempDir,
    executor: Option<Executor>,
    shop_bundle: u8,
}

/// The modules of these tests; the shop's bundle breaks if it is 2.
pub(crate) fn loader(shop_bundle: u8) -> Loader {
    Box::new(move |instance| {
        let amount = || vec![amount_parameter()];
        Ok(match instance {
            MINT => Arc::new(Mint {
                actions: vec![
                    action("issue", amount()),
                    action("take", vec![]),
                    action("exchange", amount()),
                ],
            }),
            _ => Arc::new(Shop {
                actions: [
                    "pay",
                    "pay-until",
                    "pay-twice",
                    "sneak",
                    "ask",
                    "break",
                    "serve",
                ]
                .map(|name| action(name, amount()))
                .to_vec(),
                bundle: shop_bundle,
            }),
        })
    })
}

fn open(path: &Path, seed: &Path, shop_bundle: u8) -> Executor {
    let database = Database::open(path, Lock::take(path).unwrap()).unwrap();
    let seed = Seed::load(seed).unwrap().unwrap();
    let config = config();
    let id = config.id();
    let view = FederationView {
        unix_time: 1_700_000_000,
        ..FederationView::default()
    };
    Executor::new(
        Arc::new(database),
        Arc::new(seed),
        Arc::new(config),
        id,
        Some(MINT),
        "modmint1test".into(),
        Arc::new(RwLock::new(view)),
        loader(shop_bundle),
        Box::new(|_| {}),
    )
}

impl Bench {
    fn new(notes: &[u64]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Seed::create(&directory.path().join("seed")).unwrap();
        let mut bench = Self {
            directory,
            executor: None,
            shop_bundle: 2,
        };
        for note in notes {
            bench
                .start(MINT, "issue", *note, Allowance::Nothing)
                .unwrap();
        }
        bench
    }

    fn seed(&self) -> PathBuf {
        self.directory.path().join("seed")
    }

    fn executor(&mut self) -> &mut Executor {
        if self.executor.is_none() {
            let (path, seed) = (self.directory.path().to_owned(), self.seed());
            self.executor = Some(open(&path, &seed, self.shop_bundle));
        }
        self.executor.as_mut().unwrap()
    }

    /// As a crash: all that is not on disk is gone.
    fn reopen(&mut self) {
        self.executor = None;
    }

    fn start(
        &mut self,
        instance: InstanceId,
        action: &str,
        value: u64,
        allowance: Allowance,
    ) -> Result<Operation, WalletError> {
        let arguments = [Argument {
            name: "amount".into(),
            value: Value::Amount(Amount(value)),
        }];
        let arguments: &[Argument] = if action == "take" { &[] } else { &arguments };
        self.executor()
            .start(instance, action, arguments, allowance, None)
    }

    fn balance(&mut self) -> u64 {
        self.executor().balance().unwrap().msat()
    }

    fn operation(&mut self, id: &OperationId) -> Operation {
        self.executor().operation(id).unwrap().unwrap()
    }
}

/// One thing that the world could do next for an operation.
#[derive(Clone, Debug)]
enum Next {
    Effect(usize, u64, Want),
    Fate(usize),
}

fn nexts(operation: &Operation) -> Vec<Next> {
    let effects = operation
        .machines
        .iter()
        .enumerate()
        .filter(|(_, machine)| machine.runs())
        .flat_map(|(index, machine)| {
            machine
                .effects
                .iter()
                .filter_map(move |pending| match &pending.wait {
                    Wait::Effect(want) => {
                        Some(Next::Effect(index, pending.generation, want.clone()))
                    }
                    _ => None,
                })
        });
    let fates = operation
        .transactions
        .iter()
        .enumerate()
        .filter(|(_, transaction)| transaction.fate.is_none())
        .map(|(number, _)| Next::Fate(number));
    effects.chain(fates).collect()
}

fn answer(want: &Want) -> (EffectResult, bool) {
    match want {
        Want::Query(_) => (
            EffectResult::Answers(vec![PeerAnswer {
                peer: PeerId(0),
                answer: Ok(vec![]),
            }]),
            false,
        ),
        Want::Outcomes(request) => (
            EffectResult::Outcomes(vec![PeerOutcomes {
                peer: PeerId(0),
                outcomes: vec![vec![]; request.out_points.len()],
            }]),
            true,
        ),
        want => panic!("{want:?}"),
    }
}

/// What so many guardians contribute to the outcomes of a transaction's outputs.
fn contributed(submission: &Submission, guardians: u16) -> Contributions {
    let each = vec![Some(HexBytes(Vec::new())); submission.outputs().len()];
    Contributions {
        instances: submission.outputs(),
        by: (0..guardians)
            .map(|peer| (PeerId(peer), each.clone()))
            .collect(),
    }
}

fn rejected() -> Fate {
    Fate::Rejected {
        refusal: Refusal::new("paused", "not now"),
        input: None,
        output: None,
    }
}

#[test]
fn a_spend_that_nobody_confirmed_leaves_nothing_but_its_quote() {
    let mut bench = Bench::new(&[1000]);
    let error = bench
        .start(SHOP, "pay", 600, Allowance::Nothing)
        .unwrap_err();
    let WalletError::ConfirmationNeeded(quote) = error else {
        panic!("{error}");
    };
    assert_eq!(quote.total, Amount(601), "with the federation's fee");
    assert_eq!(quote.federation_fee, FEE);
    assert_eq!(quote.fees[0].name, "postage");
    assert_eq!(bench.balance(), 1000);
    assert_eq!(bench.executor().all_active().unwrap(), []);
    // One less than it takes does not suffice.
    let short = bench.start(SHOP, "pay", 600, Allowance::UpTo(Amount(600)));
    assert_eq!(short.unwrap_err().code(), "confirmation-needed");
    let begun = bench.start(SHOP, "pay", 600, Allowance::UpTo(Amount(601)));
    assert_eq!(begun.unwrap().allowance, Amount::ZERO);
    assert_eq!(bench.balance(), 0, "the note is in the transaction");
}

#[test]
fn more_than_there_is_is_refused_and_nothing_is_left() {
    let mut bench = Bench::new(&[1000]);
    let error = bench
        .start(SHOP, "pay", 1000, Allowance::Anything)
        .unwrap_err();
    assert_eq!(error.code(), NOT_ENOUGH_MONEY);
    assert_eq!(bench.balance(), 1000);
    assert_eq!(bench.executor().newest(10).unwrap().len(), 1, "issue alone");
}

#[test]
fn a_plan_pays_the_base_fee_of_the_length_that_it_comes_to() {
    // With change for the fee, with less change than that, with another note for it.
    for (price, notes) in [(600, 1), (850, 1), (900, 2)] {
        let mut bench = Bench::new(&[1000, 1000]);
        let config = Arc::make_mut(&mut bench.executor().config);
        config.base_fee = BaseFee {
            msat_per_kilobyte: 1000,
        };
        let error = bench
            .start(SHOP, "pay", price, Allowance::Nothing)
            .unwrap_err();
        let WalletError::ConfirmationNeeded(quote) = error else {
            panic!("{error}");
        };
        let begun = bench.start(SHOP, "pay", price, Allowance::UpTo(quote.total));
        let bytes = &begun.unwrap().transactions[0].bytes;
        let transaction = Transaction::decode(bytes).unwrap();
        assert_eq!(transaction.body.inputs.len(), notes);
        // A millisatoshi for each byte, and for each note.
        let fee = (bytes.len() + notes) as u64;
        assert_eq!(quote.federation_fee, Amount(fee));
        assert_eq!(quote.total, Amount(price + fee));
    }
    let mut bench = Bench::new(&[1000]);
    let config = Arc::make_mut(&mut bench.executor().config);
    config.base_fee = BaseFee {
        msat_per_kilobyte: 1000,
    };
    let short = bench.start(SHOP, "pay", 950, Allowance::Anything);
    assert_eq!(short.unwrap_err().code(), NOT_ENOUGH_MONEY);
    assert_eq!(bench.balance(), 1000);
}

#[test]
fn a_plan_that_is_short_waits_for_change_and_is_refused_if_it_does_not_suffice() {
    let mut bench = Bench::new(&[1000]);
    let paid = bench.start(SHOP, "pay", 600, Allowance::Anything).unwrap();
    let asks = bench.start(SHOP, "ask", 600, Allowance::Nothing).unwrap();
    let price = asks.machines[0].effects[0].generation;
    let answers = EffectResult::Answers(Vec::new());
    let told = bench.executor().deliver(&asks.id, 0, price, answers, false);
    assert_eq!(told.unwrap(), Delivered::Written);
    let waiting = bench.executor().active(&asks.id).unwrap().unwrap();
    let [pending] = &waiting.machines[0].effects[..] else {
        panic!("{waiting:?}");
    };
    assert!(matches!(pending.wait, Wait::Effect(Want::Submit(_))));
    let generation = pending.generation;
    let again = |bench: &mut Bench, last| {
        let executor = bench.executor();
        executor.plan_again(&asks.id, 0, generation, last).unwrap()
    };
    assert!(!again(&mut bench, false));
    assert_eq!(bench.executor().active(&asks.id).unwrap().unwrap(), waiting);
    // The change is 399: that is not enough either.
    let accepted = bench
        .executor()
        .decided(&paid.id, 0, Fate::Accepted, &Contributions::default());
    assert_eq!(accepted.unwrap(), Delivered::Written);
    assert!(!again(&mut bench, false));
    assert!(again(&mut bench, true));
    let failed = bench.executor().operation(&asks.id).unwrap().unwrap();
    let code = failed.machines[0]
        .finished
        .clone()
        .unwrap()
        .unwrap_err()
        .code;
    assert_eq!(code, NOT_ENOUGH_MONEY);
    assert!(again(&mut bench, true), "nobody waits any more");
}

#[test]
fn contributions_that_come_with_the_fate_are_not_asked_for() {
    type Change = fn(&mut Contributions);
    let cases: [(Change, u64); 5] = [
        (|_| {}, 399),
        (|known| drop(known.by.pop()), 0),
        (|known| known.by[1].1.fill(None), 0),
        (|known| known.by[1].1.clear(), 0),
        // Another module's output is nothing that the mint is told of.
        (|known| known.instances.fill(SHOP), 0),
    ];
    for (change, balance) in cases {
        let mut bench = Bench::new(&[1000]);
        let paid = bench.start(SHOP, "pay", 600, Allowance::Anything).unwrap();
        let mut known = contributed(&paid.transactions[0], 3);
        assert_eq!(known.instances.len(), 2);
        change(&mut known);
        let told = bench
            .executor()
            .decided(&paid.id, 0, Fate::Accepted, &known);
        assert_eq!(told.unwrap(), Delivered::Written);
        assert_eq!(bench.balance(), balance, "{known:?}");
        let operation = bench.operation(&paid.id);
        assert_eq!(operation.is_over(), balance > 0);
        for next in nexts(&operation) {
            let Next::Effect(machine, generation, want) = next else {
                panic!("{operation:?}");
            };
            let (outcome, goes_on) = answer(&want);
            let executor = bench.executor();
            executor
                .deliver(&paid.id, machine, generation, outcome, goes_on)
                .unwrap();
        }
        assert_eq!(bench.balance(), 399);
        assert!(bench.operation(&paid.id).is_over());
    }
}

#[test]
fn money_that_leaves_without_a_transaction_is_a_spend_too() {
    let mut bench = Bench::new(&[1000]);
    let error = bench
        .start(MINT, "take", 0, Allowance::Nothing)
        .unwrap_err();
    assert_eq!(error.needs_confirmation_of(), Some(Amount(1000)));
    assert_eq!(bench.balance(), 1000);
    bench
        .start(MINT, "take", 0, Allowance::UpTo(Amount(1000)))
        .unwrap();
    assert_eq!(bench.balance(), 0);
}

#[test]
fn what_the_ecash_module_exchanges_of_its_own_costs_its_fee_and_brings_nothing() {
    for fate in [Fate::Accepted, rejected()] {
        let mut bench = Bench::new(&[1000]);
        let begun = bench
            .start(MINT, "exchange", 0, Allowance::Nothing)
            .unwrap();
        let took = |bench: &mut Bench| bench.operation(&begun.id).view(0, None, None).took_msat;
        assert_eq!(took(&mut bench), FEE.msat() as i64);
        let accepted = fate == Fate::Accepted;
        bench
            .executor()
            .decided(&begun.id, 0, fate, &Contributions::default())
            .unwrap();
        let fee = if accepted { FEE.msat() } else { 0 };
        assert_eq!(took(&mut bench), fee as i64);
    }
}

#[test]
fn a_plan_that_does_not_ask_takes_nothing_from_the_balance() {
    let mut bench = Bench::new(&[1000]);
    let error = bench
        .start(SHOP, "sneak", 10, Allowance::Anything)
        .unwrap_err();
    assert_eq!(error.code(), "not-confirmed");
    assert_eq!(bench.balance(), 1000);
}

#[test]
fn a_transaction_is_signed_for_this_federation_and_the_same_bytes_after_a_crash() {
    let mut bench = Bench::new(&[1000]);
    let begun = bench.start(SHOP, "pay", 600, Allowance::Anything).unwrap();
    let sent = begun.transactions[0].clone();
    bench.reopen();
    let again = bench.operation(&begun.id).transactions[0].clone();
    assert_eq!(again, sent);
    let transaction = Transaction::decode(&sent.bytes).unwrap();
    let federation = config().id();
    assert_eq!(transaction.id(&federation), sent.txid);
    assert_eq!(transaction.body.expires, 1_700_000_000 + EXPIRY_SECONDS);
    let key = bench.executor().seed.derive(&federation, MINT, &[1]);
    let hash = transaction.body.signature_hash(&federation);
    let key = secp::public_key(&key);
    for signature in &transaction.signatures {
        assert!(secp::verify_schnorr(&key, &hash, signature));
    }
    // The plan's output is where the module is told that it is.
    let place = usize::from(sent.planner.outputs[0]);
    assert_eq!(transaction.body.outputs[place].bytes, b"goods");
    assert_eq!(transaction.body.outputs[place].instance, SHOP);
}

#[test]
fn a_transaction_is_over_when_its_quote_is_and_none_is_made_later() {
    let mut bench = Bench::new(&[1000]);
    let now = device_time();
    bench.executor().view.write().unix_time = now;
    for late in [now - 1, now] {
        let error = bench
            .start(SHOP, "pay-until", late, Allowance::Anything)
            .unwrap_err();
        assert_eq!(error.code(), "quote-expired");
        assert_eq!(bench.balance(), 1000);
    }
    let begun = bench
        .start(SHOP, "pay-until", now + 60, Allowance::Anything)
        .unwrap();
    let sent = &begun.transactions[0];
    let transaction = Transaction::decode(&sent.bytes).unwrap();
    assert_eq!(
        (sent.expires, transaction.body.expires),
        (now + 60, now + 60)
    );
}

#[test]
fn a_refused_transaction_gives_its_notes_back_before_the_planner_asks_for_more() {
    let mut bench = Bench::new(&[1000]);
    let begun = bench
        .start(SHOP, "pay-twice", 600, Allowance::UpTo(Amount(601)))
        .unwrap();
    bench
        .executor()
        .decided(&begun.id, 0, rejected(), &Contributions::default())
        .unwrap();
    // It was confirmed and not spent: the second plan need not ask.
    let again = bench.operation(&begun.id);
    assert_eq!(again.transactions.len(), 2);
    assert_eq!(again.allowance, Amount::ZERO);
    assert_eq!(bench.balance(), 0);
    bench
        .executor()
        .decided(&begun.id, 1, rejected(), &Contributions::default())
        .unwrap();
    let over = bench.operation(&begun.id);
    assert_eq!(bench.balance(), 1000);
    assert!(over.is_over());
    let view = over.view(0, None, None);
    assert_eq!(view.status, crate::OperationStatus::Failed);
    assert_eq!(view.took_msat, 0);
    assert_eq!(view.error.unwrap().code, "paused");
}

#[test]
fn a_fate_is_told_once() {
    let mut bench = Bench::new(&[1000]);
    let begun = bench.start(SHOP, "pay", 600, Allowance::Anything).unwrap();
    let executor = bench.executor();
    assert_eq!(
        executor
            .decided(&begun.id, 0, Fate::Accepted, &Contributions::default())
            .unwrap(),
        Delivered::Written
    );
    assert_eq!(
        executor
            .decided(&begun.id, 0, rejected(), &Contributions::default())
            .unwrap(),
        Delivered::Stale
    );
    assert_eq!(bench.balance(), 0);
}

#[test]
fn a_question_in_the_middle_waits_over_a_crash_and_can_be_answered_either_way() {
    for yes in [true, false] {
        let mut bench = Bench::new(&[1000]);
        let begun = bench.start(SHOP, "ask", 600, Allowance::Nothing).unwrap();
        let generation = begun.machines[0].effects[0].generation;
        let (answered, _) = answer(&price(1).want);
        bench
            .executor()
            .deliver(&begun.id, 0, generation, answered.clone(), false)
            .unwrap();
        bench.reopen();
        let asking = bench.operation(&begun.id);
        assert_eq!(
            asking.view(0, None, None).status,
            crate::OperationStatus::Asking
        );
        assert_eq!(asking.question().unwrap().total, Amount(601));
        assert_eq!(bench.balance(), 1000, "nothing is taken before the answer");
        let executor = bench.executor();
        let stale = executor.deliver(&begun.id, 0, generation, answered, false);
        assert_eq!(stale.unwrap(), Delivered::Stale);
        if yes {
            let short = executor.confirm(&begun.id, Allowance::UpTo(Amount(600)));
            assert_eq!(short.unwrap_err().code(), "confirmation-needed");
            executor
                .confirm(&begun.id, Allowance::UpTo(Amount(601)))
                .unwrap();
            executor
                .decided(&begun.id, 0, Fate::Accepted, &Contributions::default())
                .unwrap();
            let view = bench.operation(&begun.id).view(0, None, None);
            assert_eq!(view.status, crate::OperationStatus::Done);
            assert_eq!(view.took_msat, 601);
            assert!(view.details.unwrap()["output"].is_u64());
        } else {
            let over = executor.decline(&begun.id).unwrap();
            assert!(over.is_over());
            assert_eq!(bench.balance(), 1000);
        }
    }
}

#[test]
fn a_machine_that_traps_is_kept_and_goes_on_with_the_next_bundle() {
    let mut bench = Bench::new(&[]);
    let begun = bench.start(SHOP, "break", 1, Allowance::Nothing).unwrap();
    let generation = begun.machines[0].effects[0].generation;
    let (answered, _) = answer(&price(1).want);
    bench
        .executor()
        .deliver(&begun.id, 0, generation, answered.clone(), false)
        .unwrap();
    let stuck = bench.operation(&begun.id);
    assert_eq!(
        stuck.view(0, None, None).status,
        crate::OperationStatus::Stuck
    );
    assert_eq!(stuck.machines[0].state, begun.machines[0].state);
    assert_eq!(stuck.machines[0].effects, begun.machines[0].effects);
    let overlay = Overlay::new(bench.executor().database.clone());
    let host = bench.executor().host(&overlay, SHOP);
    assert_eq!(host.get(b"half").unwrap(), None, "a trap writes nothing");
    drop((overlay, host));
    bench.reopen();
    assert_eq!(bench.executor().unstick(&begun.id).unwrap(), None);
    bench.reopen();
    bench.shop_bundle = 3;
    assert!(bench.executor().unstick(&begun.id).unwrap().is_some());
    bench
        .executor()
        .deliver(&begun.id, 0, generation, answered, false)
        .unwrap();
    assert!(bench.operation(&begun.id).is_over());
}

#[test]
fn an_operation_can_be_stopped_where_its_module_says_so() {
    let mut bench = Bench::new(&[1000]);
    let asks = bench.start(SHOP, "ask", 1, Allowance::Nothing).unwrap();
    assert!(bench.executor().cancel(&asks.id).unwrap().is_over());
    let again = bench.executor().cancel(&asks.id).unwrap_err();
    assert_eq!(again.code(), "operation-over");
    let paid = bench.start(SHOP, "pay", 1, Allowance::Anything).unwrap();
    let refused = bench.executor().cancel(&paid.id).unwrap_err();
    assert_eq!(refused.code(), "paid");
    assert_eq!(bench.operation(&paid.id), paid);
}

#[test]
fn what_is_over_can_be_forgotten_and_what_goes_on_cannot() {
    let mut bench = Bench::new(&[1000]);
    let asks = bench.start(SHOP, "ask", 1, Allowance::Nothing).unwrap();
    let refused = bench.executor().forget(&asks.id).unwrap_err();
    assert_eq!(refused.code(), "operation-goes-on");
    bench.executor().cancel(&asks.id).unwrap();
    assert!(bench.operation(&asks.id).is_over());
    // However often.
    for _ in 0..2 {
        bench.executor().forget(&asks.id).unwrap();
        assert_eq!(bench.executor().operation(&asks.id).unwrap(), None);
    }
}

#[test]
fn two_operations_at_once_never_take_the_same_note() {
    let mut bench = Bench::new(&[1000, 1000]);
    let first = bench.start(SHOP, "pay", 900, Allowance::Anything).unwrap();
    let second = bench.start(SHOP, "pay", 900, Allowance::Anything).unwrap();
    let notes = |operation: &Operation| {
        let bytes = &operation.transactions[0].bytes;
        let transaction = Transaction::decode(bytes).unwrap();
        transaction.body.inputs
    };
    assert!(
        notes(&first)
            .iter()
            .all(|note| !notes(&second).contains(note))
    );
    let third = bench.start(SHOP, "pay", 900, Allowance::Anything);
    assert_eq!(third.unwrap_err().code(), NOT_ENOUGH_MONEY);
}

#[test]
fn an_effect_named_again_goes_on_and_one_left_out_is_given_up() {
    let mut bench = Bench::new(&[]);
    let begun = bench.start(SHOP, "ask", 1, Allowance::Nothing).unwrap();
    let executor = bench.executor();
    let mut step = executor.step(&begun.id).unwrap().unwrap();
    let transition = to(Till::Asks(1), vec![price(1), price(2)]);
    step.apply(0, transition).unwrap();
    let [first, second] = &step.operation.machines[0].effects[..] else {
        panic!("two effects");
    };
    assert_eq!(first, &begun.machines[0].effects[0]);
    assert!(second.generation > first.generation);
    let kept = second.generation;
    step.apply(0, to(Till::Asks(1), vec![price(2)])).unwrap();
    let left: Vec<_> = step.operation.machines[0]
        .effects
        .iter()
        .map(|pending| pending.generation)
        .collect();
    assert_eq!(left, [kept]);
}

#[test]
fn a_plan_whose_amounts_do_not_add_up_is_a_refusal() {
    let input = |value, fee| PlannedInput {
        input: vec![],
        value: Amount(value),
        fee: Amount(fee),
        signer: Signer::Path(vec![]),
    };
    assert_eq!(sums(&[input(1, 2)], &[]), None, "a fee above the value");
    assert_eq!(sums(&[input(u64::MAX, 0), input(1, 0)], &[]), None);
    assert_eq!(sums(&[input(5, 2)], &[]), Some((Amount(3), Amount::ZERO)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever order the world answers in, whatever it decides, and wherever the
    /// wallet is killed: every operation comes to its end and no money is lost or
    /// made.
    #[test]
    fn operations_resume_from_every_persisted_state(
        notes in prop::collection::vec(200u64..3000, 1..6),
        payments in prop::collection::vec((0usize..3, 1u64..2500), 1..5),
        script in prop::collection::vec((any::<u16>(), prop::bool::weighted(0.3), any::<bool>()), 80),
    ) {
        let mut bench = Bench::new(&notes);
        let mut expected: u64 = notes.iter().sum();
        let mut running = Vec::new();
        for (action, value) in payments {
            let action = ["pay", "pay-twice", "ask"][action];
            match bench.start(SHOP, action, value, Allowance::Anything) {
                Ok(operation) => running.push(operation.id),
                Err(e) => prop_assert_eq!(e.code(), NOT_ENOUGH_MONEY),
            }
        }
        for (choice, crash, accept) in script {
            if crash {
                bench.reopen();
            }
            let mut all = Vec::new();
            for id in &running {
                let operation = bench.operation(id);
                if operation.question().is_some() {
                    match bench.executor().confirm(id, Allowance::Anything) {
                        Ok(_) => {}
                        Err(e) => {
                            // Others have spent it meanwhile.
                            prop_assert_eq!(e.code(), NOT_ENOUGH_MONEY);
                            bench.executor().decline(id).unwrap();
                        }
                    }
                }
                let operation = bench.operation(id);
                all.extend(nexts(&operation).into_iter().map(|next| (*id, next)));
            }
            if all.is_empty() {
                break;
            }
            let (id, next) = all[usize::from(choice) % all.len()].clone();
            match next {
                Next::Effect(machine, generation, Want::Submit(_)) => {
                    let last = accept || all.len() == 1;
                    bench.executor().plan_again(&id, machine, generation, last).unwrap();
                }
                Next::Effect(machine, generation, want) => {
                    let (outcome, goes_on) = answer(&want);
                    bench.executor().deliver(&id, machine, generation, outcome, goes_on).unwrap();
                }
                Next::Fate(number) => {
                    let net = bench.operation(&id).transactions[number].net_msat;
                    let fate = if accept {
                        expected -= u64::try_from(net).unwrap();
                        Fate::Accepted
                    } else {
                        rejected()
                    };
                    // What guardians contribute comes with it, or is asked for.
                    let known = match choice.is_multiple_of(2) {
                        true => contributed(&bench.operation(&id).transactions[number], 3),
                        false => Contributions::default(),
                    };
                    bench.executor().decided(&id, number, fate, &known).unwrap();
                }
            }
        }
        for id in &running {
            let operation = bench.operation(id);
            prop_assert!(operation.is_over(), "{:?}", operation);
        }
        prop_assert_eq!(bench.executor().all_active().unwrap(), vec![]);
        prop_assert_eq!(bench.balance(), expected);
    }
}

#[test]
fn what_is_refused_is_named_by_its_place_in_the_machines_own_plan() {
    let part = Part {
        machine: 0,
        effect: 7,
        inputs: vec![4, 2],
        outputs: vec![1],
    };
    let told = |input, output| {
        let fate = Fate::Rejected {
            refusal: Refusal::new("spent", ""),
            input,
            output,
        };
        match part.event(TxId([0; 32]), &fate) {
            Event::Done {
                outcome: EffectResult::Rejected { input, output, .. },
                ..
            } => (input, output),
            event => panic!("{event:?}"),
        }
    };
    assert_eq!(told(Some(2), None), (Some(1), None));
    assert_eq!(told(Some(0), None), (None, None), "another machine's");
    assert_eq!(told(None, Some(1)), (None, Some(0)));
}
