//! What every bundle must be able to do, whatever language it came from.
//!
//! The bundle runs in the real runtime, over the SDK's mock federation: its guardians
//! share one state, its wallets can be killed behind each of their writes, and its keys
//! are real. A [`Scenario`] shows what it is for; without one, only what needs no
//! understanding of the module is checked.

mod outside;
mod scenario;
mod world;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use modmint_core::{Argument, Parameter, ParameterKind, Value};
use modmint_runtime::{Bundle, Engines, spawn_guest_thread};
use modmint_sdk::{
    Acceptance, EffectDone, EffectResult, Event, HttpResponse, OutPoint, PeerAnswer, PeerOutcomes,
    Refusal, Rejection,
    mock::{Kill, Phase, RecordedCall},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use self::world::{Death, End, World, caught};
use super::{
    Subject,
    component::{Seen, shapes},
    fuel,
};

pub use scenario::{FILE, Invoice, Scenario, Step, Typed};

/// Run the suite that any bundle must pass
#[derive(Debug, Args)]
pub struct Test {
    /// A component, or a module's folder, which is built
    #[arg(default_value = ".")]
    module: PathBuf,
    /// What the module is for, as a file [default: conformance.toml beside the module]
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// An older bundle of the same kind: what it left must be taken
    #[arg(long, value_name = "FILE")]
    older: Option<PathBuf>,
    /// How many malformed things of each sort are tried
    #[arg(long, default_value_t = 300)]
    cases: u32,
    /// For the malformed things: a report names it
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Test {
    pub(super) fn report(self) -> Result<bool> {
        let subject = Subject::read(&self.module)?;
        let scenario = match &self.scenario {
            Some(file) => Some(Scenario::read(file)?),
            None => scenario_beside(&self.module)?,
        };
        let older = self.older.as_deref().map(std::fs::read).transpose()?;
        let suite = Suite {
            component: subject.bytes,
            scenario,
            older,
            cases: self.cases,
            seed: self.seed,
        };
        let report = suite.run()?;
        println!("{report}");
        Ok(report.passed())
    }
}

/// What is checked.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The bundle.
    pub component: Vec<u8>,
    /// What it is for.
    pub scenario: Option<Scenario>,
    /// An older bundle of its kind.
    pub older: Option<Vec<u8>>,
    /// How many malformed things of each sort are tried.
    pub cases: u32,
    /// What they are drawn from.
    pub seed: u64,
}

/// What was checked of a bundle, and what was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Kind and version.
    pub bundle: String,
    /// In order: what must hold, and what was seen of it or what is wrong.
    pub checks: Vec<(&'static str, Result<String, String>)>,
    /// What its calls cost.
    pub fuel: Option<fuel::Report>,
}

impl Report {
    /// Whether all of it holds.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|(_, found)| found.is_ok())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.bundle)?;
        for (check, found) in &self.checks {
            match found {
                Ok(seen) => writeln!(f, "  ok      {check}: {seen}")?,
                Err(wrong) => writeln!(f, "  FAILED  {check}: {wrong}")?,
            }
        }
        match &self.fuel {
            Some(fuel) => write!(f, "\n{fuel}"),
            None => write!(
                f,
                "\nNothing of its own was played: a {FILE} says what it is for."
            ),
        }
    }
}

impl Suite {
    /// All checks.
    ///
    /// # Errors
    /// The bundle is not admitted, the scenario fits no module, or this machine cannot
    /// run it. What a check finds is in the report.
    pub fn run(self) -> Result<Report> {
        let run = move || self.on_this_thread();
        let thread = spawn_guest_thread("conformance", run)?;
        thread
            .join()
            .map_err(|_| anyhow!("the suite itself broke"))?
    }

    fn on_this_thread(&self) -> Result<Report> {
        let engines = Engines::new()?;
        let load = |bytes: &[u8]| Bundle::load(&engines, bytes);
        let bundle = load(&self.component).context("the bundle is refused")?;
        ensure!(
            bundle.has_server() && bundle.has_client(),
            "the suite plays guardians and wallets: a bundle with both halves is expected"
        );
        let description = bundle.description();
        let scenario = self.scenario.clone().unwrap_or_default();
        let mut beside = Vec::new();
        for kind in &scenario.beside {
            beside.push(load(&std::fs::read(crate::programs::bundle(kind)?)?)?);
        }
        let older = self.older.as_deref().map(load).transpose()?;
        let ground = Ground {
            suite: self,
            scenario: &scenario,
            bundle: &bundle,
            beside: &beside,
        };
        let mut report = Report {
            bundle: format!("{} {}", description.kind, description.version),
            ..Report::default()
        };
        let mut check = |name, found: Result<String>| {
            let found = found.map_err(|error| format!("{error:#}"));
            let fine = found.is_ok();
            report.checks.push((name, found));
            fine
        };

        let played = ground.plays();
        let played = match played {
            Ok(played) => {
                let operations = played.end.operations.len();
                let steps = scenario.steps.len();
                check(
                    "does what it is for, with even books behind each step",
                    Ok(format!("{steps} steps, {operations} operations")),
                );
                played
            }
            Err(error) => {
                check(
                    "does what it is for, with even books behind each step",
                    Err(error),
                );
                return Ok(report);
            }
        };
        let mut times = played.times.clone();
        check(
            "shows whatever it makes",
            ground.renders(&played.seen).map(|(told, renders)| {
                times.extend(renders);
                told
            }),
        );
        let mut costs = None;
        check(
            "does the same again, with the same fuel",
            ground.repeats(&played.recorded).map(|(told, report)| {
                costs = Some(report);
                told
            }),
        );
        check(
            "goes on wherever a wallet is killed",
            ground.survives(&played, None),
        );
        if let Some(older) = &older {
            let before = Ground {
                bundle: older,
                ..ground
            };
            check(
                "goes on from whatever the older bundle left",
                before
                    .plays()
                    .context("the older bundle itself")
                    .and_then(|played| before.survives(&played, Some(&bundle))),
            );
        }
        check(
            "takes every event in every state",
            ground.takes_events(&played.seen),
        );
        check(
            "never traps on malformed items, and refuses without a trace",
            ground.takes_junk(),
        );
        check("never traps on any arguments", ground.takes_arguments());
        report.fuel = costs
            .filter(|_| self.scenario.is_some())
            .map(|costs| fuel::Report {
                unmetered: times,
                ..costs
            });
        Ok(report)
    }
}

/// What checks are made with.
#[derive(Clone, Copy)]
struct Ground<'a> {
    suite: &'a Suite,
    scenario: &'a Scenario,
    bundle: &'a Arc<Bundle>,
    beside: &'a [Arc<Bundle>],
}

/// What came of the scenario as it is.
struct Played {
    end: End,
    writes: Vec<(String, u64)>,
    seen: Seen,
    recorded: Vec<RecordedCall>,
    times: BTreeMap<&'static str, fuel::Times>,
}

impl<'a> Ground<'a> {
    fn found(&self) -> Result<World<'a>> {
        World::found(self.scenario, self.bundle, self.beside, false)
    }

    /// A world in which everything has been played.
    fn over(&self) -> Result<World<'a>> {
        let mut world = self.found()?;
        world.play(None)?;
        Ok(world)
    }

    fn random(&self) -> StdRng {
        StdRng::seed_from_u64(self.suite.seed)
    }

    fn plays(&self) -> Result<Played> {
        caught(|| {
            let mut world = World::found(self.scenario, self.bundle, self.beside, true)?;
            let end = world.play(None)?;
            Ok(Played {
                end,
                writes: world.writes().into_iter().collect(),
                seen: world.component.seen(),
                recorded: world.recorded(),
                times: world.component.times(),
            })
        })
    }

    /// Items of the guardians' half, and what else people are shown.
    fn renders(&self, seen: &Seen) -> Result<(String, BTreeMap<&'static str, fuel::Times>)> {
        let world = self.found()?;
        let mut shown = 0;
        for (item, bytes) in seen.items() {
            let told = format!("{item:?} {}", modmint_sdk::to_hex(&bytes));
            let rendered = caught(|| Ok(world.federation.render(world.instance, item, bytes)));
            match rendered.with_context(|| told.clone())? {
                Ok(text) => {
                    serde_json::from_str::<serde_json::Value>(&text)
                        .with_context(|| format!("{told} is shown as something that is no JSON"))?;
                }
                Err(refusal) => bail!("{told}: {} ({})", refusal.message, refusal.code),
            }
            shown += 1;
        }
        let mut times = world.component.times();
        times.retain(|export, _| *export == "render");
        Ok((format!("{shown} items, outcomes and answers"), times))
    }

    /// Twice more, each in a store of its own.
    fn repeats(&self, recorded: &[RecordedCall]) -> Result<(String, fuel::Report)> {
        let first = fuel::measure(&self.suite.component, recorded)?;
        let second = fuel::measure(&self.suite.component, recorded)?;
        let different = first.differences.iter().chain(&second.differences).next();
        if let Some(different) = different {
            bail!("{different} (native: the first time)");
        }
        for (export, cost) in &first.exports {
            let again = second.exports.get(export).map(|cost| cost.sum);
            ensure!(
                again == Some(cost.sum),
                "{export} costs {} fuel, and the next time {again:?}",
                cost.sum
            );
        }
        let calls: u64 = first.exports.values().map(|cost| cost.calls).sum();
        Ok((format!("{calls} consensus calls"), first))
    }

    /// Behind every write, with what it promised sent or not. The end is the same.
    fn survives(&self, played: &Played, next: Option<&Arc<Bundle>>) -> Result<String> {
        let mut deaths = 0;
        for (wallet, writes) in &played.writes {
            for after in 1..=*writes {
                for sent in [false, true] {
                    let kill = Kill { after, sent };
                    let death = Death { wallet, kill, next };
                    let end = caught(|| self.found()?.play(Some(death)));
                    let when = || {
                        let sent = if sent { "sent" } else { "not sent" };
                        format!(
                            "{wallet} killed behind its write {after} of {writes}, what it \
                             promised {sent}"
                        )
                    };
                    let end = end.with_context(when)?;
                    ensure!(
                        end == played.end,
                        "{}: {end:?} instead of {:?}",
                        when(),
                        played.end
                    );
                    deaths += 1;
                }
            }
        }
        Ok(format!("{deaths} deaths"))
    }

    /// A refusal is fine, a trap is not. States are the module's own: one that it cannot
    /// read is to trap, and is kept for a bundle that can.
    fn takes_events(&self, seen: &Seen) -> Result<String> {
        let mut world = self.over()?;
        let wallet = any_wallet(&mut world);
        let bundle = world.component.bundle();
        let mut random = self.random();
        let mut taken = 0;
        // Many states differ in numbers alone.
        let mut states: Vec<_> = seen.states.iter().collect();
        states.shuffle(&mut random);
        for state in states.into_iter().take(64) {
            for event in events(&mut random) {
                let told = format!("{event:?} in state {}", modmint_sdk::to_hex(state));
                let advanced = caught(|| {
                    let advance = || bundle.advance(state.clone(), event);
                    Ok(world.wallets[&wallet].call(world.instance, Phase::Wallet, advance))
                });
                drop(advanced.with_context(|| told)?);
                taken += 1;
            }
        }
        Ok(format!("{taken} events"))
    }

    fn takes_junk(&self) -> Result<String> {
        let mut world = self.over()?;
        let wallet = any_wallet(&mut world);
        let (federation, instance) = (world.federation.clone(), world.instance);
        let bundle = world.component.bundle();
        let mut random = self.random();
        let seen = world.component.seen();
        let mut known: Vec<Vec<u8>> = seen.items.iter().map(|(_, bytes)| bytes.clone()).collect();
        known.extend(seen.states.iter().cloned());
        known.push(Vec::new());
        let mut refused = 0;
        for _ in 0..self.suite.cases {
            let real = known.choose(&mut random).cloned().unwrap_or_default();
            let bytes = match random.gen_bool(0.1) {
                true => real,
                false => junk(&mut random, &real),
            };
            let told = || format!("{} (seed {})", modmint_sdk::to_hex(&bytes), self.suite.seed);
            let place = OutPoint {
                txid: random.r#gen::<[u8; 32]>().to_vec(),
                index: random.gen_range(0..3),
            };
            let peer = random.gen_range(0..self.scenario.guardians);
            for export in ["process-input", "process-output", "process-consensus-item"] {
                let call = || match export {
                    "process-input" => bundle.process_input(bytes.clone()).map(drop),
                    "process-output" => {
                        let done = bundle.process_output(bytes.clone(), place.clone());
                        done.map(drop)
                    }
                    _ => bundle.process_consensus_item(peer, bytes.clone()),
                };
                let before = federation.store(instance);
                let done = caught(|| Ok(federation.consensus(instance, call)));
                if done
                    .with_context(|| format!("{export} of {}", told()))?
                    .is_err()
                {
                    refused += 1;
                    ensure!(
                        federation.store(instance) == before,
                        "{export} refuses {} and leaves something behind",
                        told()
                    );
                }
            }
            for item in items(self.bundle) {
                let rendered = caught(|| Ok(federation.render(instance, item, bytes.clone())));
                drop(rendered.with_context(|| format!("render of {}", told()))?);
            }
            let recovered = caught(|| {
                let recover = || bundle.recover(Some(bytes.clone()));
                Ok(world.wallets[&wallet].call(instance, Phase::Wallet, recover))
            });
            drop(recovered.with_context(|| format!("recover of {}", told()))?);
            let outcomes = caught(|| {
                federation.outcomes(peer, instance, vec![place.clone()]);
                Ok(())
            });
            outcomes.context("outcomes of an output that is not there")?;
        }
        let tried = self.suite.cases;
        Ok(format!("{tried} of each sort, {refused} refused"))
    }

    /// Of the kinds that the module declares: the host lets no others through.
    fn takes_arguments(&self) -> Result<String> {
        let mut world = self.over()?;
        let wallet = any_wallet(&mut world);
        let (federation, instance) = (world.federation.clone(), world.instance);
        let bundle = world.component.bundle();
        let mut random = self.random();
        let description = self.bundle.description();
        let cases = self.suite.cases / 10 + 1;
        for _ in 0..cases {
            for query in &description.queries {
                let arguments = drawn(&mut random, &query.parameters);
                let told = format!("query {} with {arguments:?}", query.name);
                let asked = caught(|| {
                    let arguments = shapes::to_arguments(arguments);
                    Ok(federation.query(0, instance, &query.name, arguments))
                });
                drop(asked.with_context(|| told)?);
            }
            for action in self.bundle.actions() {
                let arguments = drawn(&mut random, &action.parameters);
                let told = format!("action {} with {arguments:?}", action.name);
                let begun = caught(|| {
                    let arguments = shapes::to_arguments(arguments);
                    let start = || bundle.start(action.name.clone(), arguments);
                    Ok(world.wallets[&wallet].call(instance, Phase::Wallet, start))
                });
                drop(begun.with_context(|| told)?);
            }
            let arguments = drawn(&mut random, &description.configuration);
            let told = format!("configure with {arguments:?}");
            let configured = caught(|| {
                let arguments = shapes::to_arguments(arguments);
                Ok(federation.call(instance, Phase::Pure, None, || bundle.configure(arguments)))
            });
            drop(configured.with_context(|| told)?);
        }
        let (queries, actions) = (description.queries.len(), self.bundle.actions().len());
        Ok(format!(
            "{cases} of each of {queries} queries and {actions} actions"
        ))
    }
}

/// One that there is, or a new one.
fn any_wallet(world: &mut World<'_>) -> String {
    if let Some(name) = world.wallets.keys().next() {
        return name.clone();
    }
    let wallet = modmint_sdk::mock::Wallet::new(&world.federation, "anybody");
    world.wallets.insert("anybody".to_owned(), wallet);
    "anybody".to_owned()
}

/// What `render` may be asked about.
fn items(bundle: &Bundle) -> Vec<modmint_sdk::Item> {
    use modmint_sdk::Item;
    let mut items = vec![
        Item::Input,
        Item::Output,
        Item::Outcome,
        Item::ConsensusItem,
    ];
    let queries = bundle.description().queries.iter();
    items.extend(queries.map(|query| Item::Answer(query.name.clone())));
    items
}

/// Bytes that are nearly, or not at all, what they were.
fn junk(random: &mut StdRng, bytes: &[u8]) -> Vec<u8> {
    let mut junk = bytes.to_vec();
    match random.gen_range(0..5) {
        0 => junk.truncate(random.gen_range(0..=bytes.len())),
        1 => junk.extend((0..random.gen_range(1..40)).map(|_| random.r#gen::<u8>())),
        2 | 3 => match junk.choose_mut(random) {
            Some(byte) => *byte ^= 1 << random.gen_range(0..8),
            None => junk.push(0),
        },
        _ => {
            let length = random.gen_range(0..300);
            junk = (0..length).map(|_| random.r#gen()).collect();
        }
    }
    junk
}

/// One of each sort, as a host or a liar may bring them.
fn events(random: &mut StdRng) -> Vec<Event> {
    let effect = *[0, 1, 2, 7, u32::MAX].choose(random).unwrap_or(&0);
    let bytes = |random: &mut StdRng| junk(random, &[0; 40]);
    let refusal = || Refusal {
        code: "no".into(),
        message: "no".into(),
    };
    let done = |outcome| Event::Done(EffectDone { effect, outcome });
    let index = random.gen_range(0..4);
    vec![
        Event::Cancel,
        done(EffectResult::Accepted(Acceptance {
            txid: random.r#gen::<[u8; 32]>().to_vec(),
            outputs: (0..index).collect(),
        })),
        done(EffectResult::Rejected(Rejection {
            refusal: refusal(),
            input: random.gen_bool(0.5).then_some(index),
            output: random.gen_bool(0.5).then_some(index),
        })),
        done(EffectResult::Declined),
        done(EffectResult::Outcomes(vec![PeerOutcomes {
            peer: index,
            outcomes: vec![bytes(random)],
        }])),
        done(EffectResult::Outcomes(Vec::new())),
        done(EffectResult::Answers(vec![
            PeerAnswer {
                peer: 0,
                answer: Ok(bytes(random)),
            },
            PeerAnswer {
                peer: 1,
                answer: Err(refusal()),
            },
        ])),
        done(EffectResult::Answers(Vec::new())),
        done(EffectResult::Response(HttpResponse {
            status: 500,
            body: bytes(random),
        })),
        done(EffectResult::TimeReached),
        done(EffectResult::Served(bytes(random))),
        done(EffectResult::Failed(refusal())),
    ]
}

/// Arguments that the host lets through; required ones are there.
fn drawn(random: &mut StdRng, parameters: &[Parameter]) -> Vec<Argument> {
    let mut arguments = Vec::new();
    for parameter in parameters {
        if parameter.required || random.gen_bool(0.5) {
            arguments.push(Argument {
                name: parameter.name.clone(),
                value: value(random, &parameter.kind),
            });
        }
    }
    arguments
}

fn value(random: &mut StdRng, kind: &ParameterKind) -> Value {
    const TEXTS: [&str; 6] = ["", "a", "0", "nonsense 🙂", "lnbc1", "\u{202e}x"];
    let numbers = [
        0,
        1,
        2,
        1000,
        u64::from(u32::MAX),
        i64::MAX as u64,
        u64::MAX,
    ];
    let number = *numbers.choose(random).unwrap_or(&0);
    let text = |random: &mut StdRng| (*TEXTS.choose(random).unwrap_or(&"")).to_owned();
    match kind {
        ParameterKind::Text => Value::Text(text(random)),
        ParameterKind::Number => Value::Number(number),
        ParameterKind::Flag => Value::Flag(random.r#gen()),
        ParameterKind::Bytes => {
            let length = *[0, 1, 32, 33, 64, 65, 500].choose(random).unwrap_or(&0);
            Value::Bytes((0..length).map(|_| random.r#gen()).collect())
        }
        ParameterKind::Amount => Value::Amount(modmint_core::Amount(number)),
        ParameterKind::Choice(choices) => {
            Value::Text(choices.choose(random).cloned().unwrap_or_default())
        }
        ParameterKind::Texts => {
            let count = random.gen_range(0..3);
            Value::Texts((0..count).map(|_| text(random)).collect())
        }
    }
}

/// The scenario in a module's folder, if there is one.
///
/// # Errors
/// It is not well-formed.
pub fn scenario_beside(folder: &Path) -> Result<Option<Scenario>> {
    let file = folder.join(FILE);
    file.is_file().then(|| Scenario::read(&file)).transpose()
}
