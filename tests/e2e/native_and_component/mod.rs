//! A module is compiled twice: natively, for its own tests, and to the component
//! that guardians and wallets run. Both do the same.
//!
//! Two federations are played on the SDK's mock host, one with native modules, one
//! with the bundles through `modmint-runtime`. Both see the same sequences of
//! deposits, notes, refusals, lies and junk; whatever can be seen of them is the
//! same after each step.

mod lightning;

use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc};

use modmint::{kit::Component, programs};
use modmint_core::{
    FederationId, Input, InstanceId, MAX_ITEM_BYTES, Output, Transaction, TransactionBody,
};
use modmint_mint::{Mint, Receive, Send, SpentQuery};
use modmint_runtime::Engines;
use modmint_sdk::{
    Amount, Argument, Item, OutPoint, Refusal,
    mock::{Behaviour, Bundle, Federation, Store, Wallet},
};
use modmint_wallet::{DepositQuery, Wallet as WalletModule};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

const WALLET: u16 = 0;
const MINT: u16 = 1;
const GUARDIANS: u16 = 4;

fn load(engines: &Arc<Engines>, path: &Path) -> Arc<modmint_runtime::Bundle> {
    let bytes = std::fs::read(path).expect("the bundle is readable");
    modmint_runtime::Bundle::load(engines, &bytes).expect("the bundle is admitted")
}

/// What the test does on a guest's thread; a trap there fails it, by its text.
fn on_guest_thread<T: std::marker::Send + 'static>(
    what: impl FnOnce() -> T + std::marker::Send + 'static,
) -> T {
    let thread = modmint_runtime::spawn_guest_thread("both", what).expect("a thread");
    thread.join().unwrap_or_else(|payload| {
        let trap = payload.downcast_ref::<String>();
        panic!("{}", trap.map_or("both do the same", String::as_str))
    })
}

/// Something that happens to a federation and its two wallets.
#[derive(Clone, Debug)]
enum Step {
    /// A person begins something.
    Begin(usize, u16, &'static str, Vec<Argument>),
    /// A person asks an operation to stop.
    Stop(usize, usize),
    /// Bitcoin is paid to a script.
    Pay(Vec<u8>, u64),
    /// Somebody submits a transaction.
    Submit(Vec<u8>),
    /// A guardian has an item ordered.
    Item(u16, u16, Vec<u8>),
    /// Guardians propose.
    Propose,
    /// Somebody asks.
    Query(u16, u16, &'static str, Vec<Argument>),
    Outcomes(u16, u16, Vec<OutPoint>),
    Render(u16, Item, Vec<u8>),
    /// The world changes.
    Behave(u16, Behaviour),
    Pass(u64),
    FeeRate(u64),
}

/// A federation with two wallets, and what has been seen of it.
struct World {
    federation: Federation,
    wallets: [Wallet; 2],
    /// Transactions on their way, by the bytes in which they were sent.
    seen: Vec<Vec<u8>>,
}

/// All that can be seen of a world.
#[derive(Debug, PartialEq)]
struct View {
    stores: Vec<Store>,
    books: Vec<(i128, i128)>,
    audit: Vec<String>,
    balances: Vec<u64>,
    wallets: Vec<Store>,
    operations: Vec<String>,
}

impl World {
    fn new(wallet: Bundle, mint: Bundle) -> Self {
        let federation = Federation::new(GUARDIANS.into());
        // A component cannot be told that a test has no time to look for addresses.
        federation.set_filter_bits(12);
        assert_eq!(federation.found(wallet, Vec::new()), WALLET);
        assert_eq!(federation.found(mint, Vec::new()), MINT);
        let wallets = ["alice", "bob"].map(|name| Wallet::new(&federation, name));
        Self {
            federation,
            wallets,
            seen: Vec::new(),
        }
    }

    /// What came of it, for the eye and for comparison.
    fn take(&mut self, step: Step) -> String {
        let federation = &self.federation;
        let result = match step {
            Step::Begin(wallet, instance, action, arguments) => {
                let begun = self.wallets[wallet].start(instance, action, arguments);
                self.seen.extend(self.wallets[wallet].pending());
                format!("{begun:?}")
            }
            Step::Stop(wallet, operation) => {
                format!("{:?}", self.wallets[wallet].cancel(operation))
            }
            Step::Pay(script, satoshi) => format!("{:?}", federation.mine(&[(script, satoshi)])),
            Step::Submit(bytes) => format!("{:?}", federation.submit(&bytes)),
            Step::Item(guardian, instance, bytes) => {
                format!("{:?}", federation.order(guardian, instance, bytes))
            }
            Step::Propose => {
                let accepted = federation.order_proposals();
                let sent = [WALLET, MINT].map(|instance| federation.broadcast(instance));
                format!("{accepted} {sent:?}")
            }
            Step::Query(guardian, instance, name, arguments) => {
                let answer = federation.query(guardian, instance, name, arguments);
                format!("{answer:?}")
            }
            Step::Outcomes(guardian, instance, out_points) => {
                let outcomes = federation.outcomes(guardian, instance, out_points);
                format!("{outcomes:?}")
            }
            Step::Render(instance, item, bytes) => {
                format!("{:?}", federation.render(instance, item, bytes))
            }
            Step::Behave(guardian, behaviour) => {
                federation.set_behaviour(guardian, behaviour);
                String::new()
            }
            Step::Pass(seconds) => {
                federation.pass(seconds);
                String::new()
            }
            Step::FeeRate(rate) => {
                federation.set_fee_rate(rate);
                String::new()
            }
        };
        for wallet in &mut self.wallets {
            while wallet.step() {
                self.seen.extend(wallet.pending());
            }
        }
        self.seen.dedup();
        result
    }

    fn view(&self) -> View {
        let instances = [WALLET, MINT];
        let wallets = self.wallets.iter();
        View {
            stores: instances.map(|i| self.federation.store(i)).to_vec(),
            books: instances.map(|i| self.federation.books(i)).to_vec(),
            audit: instances
                .map(|i| format!("{:?}", self.federation.audit(i)))
                .to_vec(),
            balances: wallets.clone().map(Wallet::balance).collect(),
            wallets: wallets
                .clone()
                .flat_map(|wallet| instances.map(|i| wallet.store(i)))
                .collect(),
            operations: wallets
                .flat_map(|wallet| wallet.operations())
                .map(|operation| format!("{:?} {:?}", operation.history, operation.finished()))
                .collect(),
        }
    }
}

/// Draws what happens next, from what a world has seen so far.
struct Fate {
    random: StdRng,
    /// So many deposits are begun: an address takes a second to find.
    deposits: usize,
}

impl Fate {
    fn next(&mut self, world: &World) -> Step {
        let wallet = self.random.gen_range(0..2);
        let guardian = self.random.gen_range(0..GUARDIANS);
        let instance = self.random.gen_range(0..2);
        let addresses = details(world, "address", script_of);
        let texts = details(world, "notes", str::to_owned);
        if self.deposits > 0 && addresses.len() < 2 {
            self.deposits -= 1;
            return Step::Begin(wallet, WALLET, "deposit", Vec::new());
        }
        match self.random.gen_range(0..28) {
            0..4 => {
                let satoshi = *self
                    .pick(&[9_999, 10_000, 77_777, 1_000_000])
                    .expect("some");
                let script = self.pick(&addresses).cloned();
                Step::Pay(script.unwrap_or_else(|| vec![0; 34]), satoshi)
            }
            4..8 => {
                let send = Send {
                    amount: Amount(*self.pick(&[0, 1, 1_000, 65_535, 9_000_000]).expect("some")),
                    reclaim_after: *self.pick(&[60, 604_800]).expect("some"),
                    invite: self.random.r#gen(),
                };
                Step::Begin(wallet, MINT, "send", send.arguments())
            }
            8..11 => {
                let text = self.pick(&texts).cloned().unwrap_or_default();
                let text = match self.random.gen_bool(0.2) {
                    true => String::from_utf8_lossy(&self.junk(text.as_bytes())).into_owned(),
                    false => text,
                };
                let action = *self.pick(&["receive", "cancel"]).expect("some");
                let receive = Receive { notes: text };
                Step::Begin(wallet, MINT, action, receive.arguments())
            }
            11 => Step::Begin(wallet, MINT, "split", Vec::new()),
            12 => Step::Begin(wallet, MINT, "consolidate", Vec::new()),
            13 => Step::Begin(wallet, WALLET, "recheck", Vec::new()),
            14 => match world.wallets[wallet].operations().len() {
                0 => Step::Propose,
                operations => Step::Stop(wallet, self.random.gen_range(0..operations)),
            },
            15..19 => self.transaction(world),
            19 => {
                let bytes = self.junk(&[]);
                Step::Item(guardian, instance, bytes)
            }
            20 => Step::Propose,
            21 => {
                let nonces = self.nonces(world);
                Step::Query(guardian, MINT, "spent", SpentQuery { nonces }.arguments())
            }
            22 => {
                let query = DepositQuery {
                    script: self.pick(&addresses).cloned().unwrap_or_default(),
                    number: self.random.gen_range(0..3),
                    small: self.random.gen_range(0..3),
                    wait: self.random.r#gen(),
                };
                Step::Query(guardian, WALLET, "deposit", query.arguments())
            }
            23 => {
                let mut out_points = out_points(world);
                out_points.shuffle(&mut self.random);
                out_points.truncate(self.random.gen_range(0..4));
                Step::Outcomes(guardian, instance, out_points)
            }
            24 | 25 => self.render(world, instance),
            26 => {
                // One at a time, or nobody agrees on anything any more.
                let behaviours = [Behaviour::Honest, Behaviour::Silent, Behaviour::Lying];
                Step::Behave(3, *self.pick(&behaviours).expect("some"))
            }
            _ => match self.random.r#gen() {
                true => Step::Pass(self.random.gen_range(0..4000)),
                false => Step::FeeRate(self.random.gen_range(1000..100_000)),
            },
        }
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.choose(&mut self.random)
    }

    /// Bytes that are nearly, or not at all, what they were.
    fn junk(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut junk = bytes.to_vec();
        match self.random.gen_range(0..4) {
            0 => junk.truncate(self.random.gen_range(0..=bytes.len())),
            1 => junk.push(self.random.r#gen()),
            2 => match junk.choose_mut(&mut self.random) {
                Some(byte) => *byte ^= 1 << self.random.gen_range(0..8),
                None => junk.push(0),
            },
            _ => {
                let length = self.random.gen_range(0..200);
                junk = (0..length).map(|_| self.random.r#gen()).collect();
            }
        }
        junk
    }

    /// One that was seen before, or another made of its parts.
    fn transaction(&mut self, world: &World) -> Step {
        let Some(bytes) = self.pick(&world.seen).cloned() else {
            return Step::Propose;
        };
        let mut transaction = Transaction::decode(&bytes).expect("wallets send transactions");
        let TransactionBody {
            expires,
            inputs,
            outputs,
        } = &mut transaction.body;
        match self.random.gen_range(0..4) {
            // Again.
            0 => {}
            // Too late.
            1 => *expires = 0,
            // An input that is none, or another instance's.
            2 => {
                if let Some(Input { instance, bytes }) = inputs.choose_mut(&mut self.random) {
                    if self.random.gen_bool(0.3) {
                        *instance = InstanceId(1 - instance.0);
                    } else {
                        *bytes = self.junk(&bytes.clone());
                    }
                }
            }
            // Outputs alone, so that they are looked at before any signature.
            _ => {
                inputs.clear();
                transaction.signatures.clear();
                if let Some(Output { instance, bytes }) = outputs.choose_mut(&mut self.random) {
                    if self.random.gen_bool(0.3) {
                        *instance = InstanceId(1 - instance.0);
                    } else {
                        *bytes = self.junk(&bytes.clone());
                    }
                }
                if outputs.is_empty() {
                    return Step::Propose;
                }
            }
        }
        let bytes = transaction.encode();
        assert!(bytes.len() <= MAX_ITEM_BYTES);
        Step::Submit(bytes)
    }

    fn render(&mut self, world: &World, instance: u16) -> Step {
        let mut known: Vec<(u16, Item, Vec<u8>)> = Vec::new();
        for body in bodies(world) {
            let inputs = body.inputs.into_iter();
            known.extend(inputs.map(|input| (input.instance.0, Item::Input, input.bytes)));
            let outputs = body.outputs.into_iter();
            known.extend(outputs.map(|output| (output.instance.0, Item::Output, output.bytes)));
        }
        let others = [
            Item::Outcome,
            Item::ConsensusItem,
            Item::Answer("spent".into()),
            Item::Answer("deposit".into()),
            Item::Answer("nothing".into()),
        ];
        known.extend(others.map(|item| (instance, item, vec![0])));
        let (instance, item, bytes) = self.pick(&known).cloned().expect("some");
        let bytes = match self.random.gen_bool(0.3) {
            true => self.junk(&bytes),
            false => bytes,
        };
        Step::Render(instance, item, bytes)
    }

    /// Of notes that were spent, and of some that never were there.
    fn nonces(&mut self, world: &World) -> Vec<u8> {
        let store = world.federation.store(MINT);
        let spent = store.keys().filter(|key| key[0] == b's');
        let mut nonces: Vec<u8> = spent.take(3).flat_map(|key| key[1..].to_vec()).collect();
        nonces.extend([2; 33]);
        match self.random.gen_bool(0.2) {
            true => self.junk(&nonces),
            false => nonces,
        }
    }
}

/// The texts of this name that operations have shown.
fn details<T>(world: &World, name: &str, of: impl Fn(&str) -> T) -> Vec<T> {
    let operations = world.wallets.iter().flat_map(|wallet| wallet.operations());
    operations
        .filter_map(|operation| operation.detail(name))
        .map(|text| of(&text))
        .collect()
}

fn script_of(address: &str) -> Vec<u8> {
    let (_, _, program) = bech32::segwit::decode(address).expect("an address");
    [&[0, 32], &program[..]].concat()
}

fn bodies(world: &World) -> Vec<TransactionBody> {
    let decode = |bytes: &Vec<u8>| Transaction::decode(bytes).expect("wallets send transactions");
    world.seen.iter().map(|bytes| decode(bytes).body).collect()
}

fn out_points(world: &World) -> Vec<OutPoint> {
    let federation = FederationId(world.federation.id());
    bodies(world)
        .into_iter()
        .flat_map(|body| {
            let txid = body.id(&federation);
            // One more than there are.
            let indices: Range<u16> = 0..body.outputs.len() as u16 + 1;
            indices.map(move |index| OutPoint {
                txid: txid.0.to_vec(),
                index,
            })
        })
        .collect()
}

/// Results that the steps must have come to, or they have compared nothing.
const KINDS: [&str; 6] = ["Ok", "Err", "Accepted", "Rejected", "Ready", "Wait"];

/// What both worlds do in so many steps from this seed, by the kind of what came
/// of them.
fn compare(worlds: [World; 2], seed: u64, steps: usize) -> BTreeMap<&'static str, usize> {
    let [mut native, mut component] = worlds;
    let mut fate = Fate {
        random: StdRng::seed_from_u64(seed),
        deposits: 3,
    };
    let mut kinds = BTreeMap::new();
    for number in 0..steps {
        let step = fate.next(&native);
        let results = [native.take(step.clone()), component.take(step.clone())];
        assert_eq!(
            results[0], results[1],
            "seed {seed}, step {number}: {step:?}"
        );
        assert_eq!(
            native.view(),
            component.view(),
            "seed {seed}, behind step {number}: {step:?}"
        );
        for kind in KINDS {
            if results[0].contains(kind) {
                *kinds.entry(kind).or_default() += 1;
            }
        }
    }
    assert_eq!(native.seen, component.seen, "seed {seed}");
    kinds
}

#[test]
fn modules_do_the_same_natively_and_as_components() {
    let compared = || {
        let engines = Engines::new().expect("engines");
        let [wallet, mint] = ["wallet", "mint"].map(|kind| {
            let path = programs::bundle(kind).expect("the build script makes the bundles");
            load(&engines, &path)
        });
        let worlds = || {
            let native = [
                Bundle::federation_module::<WalletModule>(),
                Bundle::ecash_module::<Mint>(),
            ];
            let components = [&wallet, &mint].map(|bundle| Component::new(bundle.clone()).bundle());
            for (native, component) in native.iter().zip(&components) {
                assert_eq!(native.describe(), component.describe());
            }
            [native, components].map(|[wallet, mint]| World::new(wallet, mint))
        };
        let mut kinds = BTreeMap::new();
        for seed in 0..3 {
            for (kind, count) in compare(worlds(), seed, 80) {
                *kinds.entry(kind).or_insert(0) += count;
            }
        }
        kinds
    };
    // Where calls of both engines run in place: on the thread of the mock's call.
    let kinds = on_guest_thread(compared);
    println!("{kinds:?}");
    for kind in KINDS {
        assert!(
            kinds.contains_key(kind),
            "nothing came to {kind}: {kinds:?}"
        );
    }
}

#[test]
fn arguments_that_no_module_accepts_are_refused_by_both() {
    let refused = || {
        let engines = Engines::new().expect("engines");
        let path = programs::bundle("mint").expect("the build script makes the bundles");
        let mint = load(&engines, &path);
        let fee = modmint_mint::Configuration {
            note_fee: Amount(2_000_000),
        };
        let both: [Bundle; 2] = [
            Bundle::ecash_module::<Mint>(),
            Component::new(mint).bundle(),
        ];
        both.map(|bundle| bundle.configure(fee.clone().arguments()).map(|_| ()))
    };
    let [native, component]: [Result<(), Refusal>; 2] = on_guest_thread(refused);
    assert_eq!(native, component);
    assert_eq!(native.expect_err("too much").code, "bad-argument");
}
