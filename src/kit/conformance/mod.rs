//! What every bundle must be able to do, whatever language it came from.
//!
//! The bundle runs in the real runtime, over the SDK's mock federation: its guardians
//! share one state, its wallets can be killed behind each of their writes, and its keys
//! are real. A [`Scenario`] shows what it is for; without one, only what needs no
//! understanding of the module is checked, and that is no pass.

mod junk;
mod outside;
mod report;
mod scenario;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use modmint_core::Argument;
use modmint_runtime::{Bundle, Endpoint, Engines, spawn_guest_thread};
use modmint_sdk::{
    Item, OutPoint,
    mock::{Federation, Kill, Phase, RecordedCall, Wallet},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use self::world::{Death, End, World, caught};
use super::{
    Subject,
    component::{Seen, shapes},
    fuel,
};

pub use report::{Found, Report};
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
        let older = self.older.as_deref().map(std::fs::read).transpose()?;
        let suite = Suite {
            component: subject.bytes,
            scenario: scenario_of(&self.module, self.scenario.as_deref())?,
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

const PLAYS: &str = "does what it is for, with even books behind each step";
const SHOWS: &str = "shows whatever it makes";
const REPEATS: &str = "does the same again, with the same fuel";
const TOGETHER: &str = "does the same where the calls of an item share a store";
const BUDGETS: &str = "costs no more than its budgets";
const SURVIVES: &str = "goes on wherever a wallet is killed";
const OLDER: &str = "goes on from whatever the older bundle left";
const ARGUMENTS: &str = "never traps on any arguments";
const EVENTS: &str = "takes every event in every state";
const JUNK: &str = "never traps on malformed items";

/// How many of a thing were looked at, and what they are called.
type Looked = Result<(usize, String)>;

fn looked(count: usize, what: &str) -> (usize, String) {
    (count, format!("{count} {what}"))
}

/// What came of a check. One of nothing says nothing.
fn found(looked: Looked) -> Found {
    match looked {
        Ok((0, what)) => Found::PassedOver(what),
        Ok((_, what)) => Found::Holds(what),
        Err(error) => Found::Fails(format!("{error:#}")),
    }
}

impl Suite {
    /// All checks that apply to the halves that are there.
    ///
    /// # Errors
    /// The bundle is not admitted, the scenario fits no module, or this machine cannot
    /// run it. What a check finds is in the report.
    pub fn run(self) -> Result<Report> {
        on_guest_thread(move || self.on_this_thread())
    }

    fn on_this_thread(&self) -> Result<Report> {
        let engines = Engines::new()?;
        let load = |bytes: &[u8]| Bundle::load(&engines, bytes);
        let bundle = load(&self.component).context("the bundle is refused")?;
        let (server, client) = (bundle.has_server(), bundle.has_client());
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

        let played = match ground.plays() {
            Ok(played) => played,
            Err(error) => {
                report.add(PLAYS, found(Err(error)));
                return Ok(report);
            }
        };
        // What follows from what is played.
        let lacks = |half: &str| Found::PassedOver(format!("the bundle has no {half}' half"));
        let of = |half: Option<(bool, &str)>, look: &mut dyn FnMut() -> Looked| match half {
            Some((false, half)) => lacks(half),
            _ if self.scenario.is_some() => found(look()),
            _ if !server => lacks("guardians"),
            _ if !client => lacks("wallets"),
            _ => Found::NotChecked,
        };
        let guardians = Some((server, "guardians"));
        let wallets = Some((client, "wallets"));
        let (mut times, mut costs) = (played.times.clone(), None);
        let steps = scenario.steps.len();
        let operations = played.end.operations.len();
        let steps = format!("{steps} steps, {operations} operations");
        report.add(
            PLAYS,
            of(None, &mut || {
                ensure!(
                    !client || !played.seen.actions.is_empty(),
                    "the scenario begins nothing: a step with an `action` of it is expected"
                );
                Ok((operations.max(1), steps.clone()))
            }),
        );
        report.add(
            SHOWS,
            of(None, &mut || {
                let (told, renders) = ground.renders(&played.seen)?;
                times.extend(renders);
                Ok(told)
            }),
        );
        report.add(
            REPEATS,
            of(guardians, &mut || {
                let (told, metered) = ground.repeats(&played.recorded)?;
                costs = Some(metered);
                Ok(told)
            }),
        );
        report.add(
            TOGETHER,
            of(guardians, &mut || ground.together(&played.recorded)),
        );
        if !scenario.fuel.is_empty() {
            let over = costs.as_ref().map(|costs| costs.over(&scenario.fuel));
            let held = looked(scenario.fuel.len(), "budgets");
            let kept = match over.as_deref() {
                None => Err(anyhow!("the calls could not be metered, see above")),
                Some([]) => Ok(held),
                Some(over) => Err(anyhow!("{}", over.join("; "))),
            };
            report.add(BUDGETS, found(kept));
        }
        report.add(
            SURVIVES,
            of(wallets, &mut || ground.survives(&played, None)),
        );
        if let Some(older) = &older {
            let before = Ground {
                bundle: older,
                ..ground
            };
            let goes_on = &mut || {
                let played = before.plays().context("the older bundle itself")?;
                before.survives(&played, Some(&bundle))
            };
            report.add(OLDER, of(wallets, goes_on));
        }

        // What needs no understanding of the module. States that arguments lead to are
        // states, too.
        let mut states = played.seen.clone();
        let drawn = ground.takes_arguments(&mut states);
        report.add(ARGUMENTS, found(drawn.with_context(|| self.again())));
        let told = match client {
            true => found(ground.takes_events(&states).with_context(|| self.again())),
            false => lacks("wallets"),
        };
        report.add(EVENTS, told);
        let junk = ground.takes_junk().with_context(|| self.again());
        report.add(JUNK, found(junk));
        if self.scenario.is_some() {
            report.untouched = untouched(&bundle, &played.seen);
        }
        report.fuel = costs.map(|costs| fuel::Report {
            unmetered: times,
            ..costs
        });
        Ok(report)
    }

    /// How the same malformed things are had again.
    fn again(&self) -> String {
        format!("with --seed {} --cases {}", self.seed, self.cases)
    }
}

/// What a module shows of its items, and what its calls cost.
pub(super) struct Look {
    /// Each sort of item, with the JSON that people are shown of one.
    pub(super) items: Vec<(Item, serde_json::Value)>,
    /// Its consensus calls.
    pub(super) fuel: fuel::Report,
}

/// Plays a scenario to see it.
///
/// # Errors
/// It does not play, or what comes of it cannot be shown.
pub(super) fn look(component: Vec<u8>, scenario: Scenario) -> Result<Look> {
    on_guest_thread(move || {
        let engines = Engines::new()?;
        let load = |bytes: &[u8]| Bundle::load(&engines, bytes);
        let mut beside = Vec::new();
        for kind in &scenario.beside {
            beside.push(load(&std::fs::read(crate::programs::bundle(kind)?)?)?);
        }
        let bundle = load(&component)?;
        let suite = Suite {
            component,
            scenario: None,
            older: None,
            cases: 0,
            seed: 0,
        };
        let ground = Ground {
            suite: &suite,
            scenario: &scenario,
            bundle: &bundle,
            beside: &beside,
        };
        let played = ground.plays()?;
        let world = ground.found()?;
        let mut items: Vec<(Item, serde_json::Value)> = Vec::new();
        for (item, bytes) in played.seen.items() {
            let shown = world.show(item.clone(), bytes)?;
            if !items
                .iter()
                .any(|(known, json)| *known == item && alike(json, &shown))
            {
                items.push((item, shown));
            }
        }
        let (_, fuel) = ground.repeats(&played.recorded)?;
        Ok(Look { items, fuel })
    })
}

/// Whether two items are of one sort, as far as people can tell: the same members, and the
/// same type where they have one.
fn alike(one: &serde_json::Value, other: &serde_json::Value) -> bool {
    let members = |json: &serde_json::Value| -> Vec<String> {
        let object = json.as_object().into_iter();
        object.flat_map(|object| object.keys().cloned()).collect()
    };
    members(one) == members(other) && one.get("type") == other.get("type")
}

/// Guests run in place there.
fn on_guest_thread<T: Send + 'static>(
    run: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let thread = spawn_guest_thread("conformance", run)?;
    thread
        .join()
        .map_err(|_| anyhow!("the suite itself broke"))?
}

/// What a scenario leaves out, in words.
fn untouched(bundle: &Bundle, seen: &Seen) -> Vec<String> {
    let missing = |sort: &str, all: Vec<&String>, seen: &BTreeSet<String>| -> Vec<String> {
        all.into_iter()
            .filter(|name| !seen.contains(*name))
            .map(|name| format!("{sort} {name}"))
            .collect()
    };
    let actions = bundle.actions().iter().map(|action| &action.name);
    let queries = &bundle.description().queries;
    let queries = queries.iter().map(|query| &query.name);
    let mut untouched = missing("action", actions.collect(), &seen.actions);
    untouched.extend(missing("query", queries.collect(), &seen.queries));
    let proposed = seen.items().any(|(item, _)| item == Item::ConsensusItem);
    if bundle.has_server() && !proposed {
        untouched.push("consensus items, if the module has any".to_owned());
    }
    untouched
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
    times: CallTimes,
}

/// How long calls took, by the export.
type CallTimes = BTreeMap<&'static str, fuel::Times>;

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
    fn renders(&self, seen: &Seen) -> Result<((usize, String), CallTimes)> {
        let world = self.found()?;
        let mut shown = 0;
        for (item, bytes) in seen.items() {
            world.show(item, bytes)?;
            shown += 1;
        }
        let mut times = world.component.times();
        times.retain(|export, _| *export == "render");
        Ok((looked(shown, "items, outcomes and answers"), times))
    }

    /// Twice more, each in a store of its own.
    fn repeats(&self, recorded: &[RecordedCall]) -> Result<((usize, String), fuel::Report)> {
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
        let calls = usize::try_from(calls)?;
        Ok((looked(calls, "consensus calls"), first))
    }

    /// In one store, as guardians make the calls of one transaction.
    fn together(&self, recorded: &[RecordedCall]) -> Looked {
        let (pairs, differences) = fuel::together(&self.suite.component, recorded)?;
        if let Some(different) = differences.first() {
            bail!("{different}");
        }
        Ok(looked(pairs, "pairs of inputs and outputs"))
    }

    /// Behind every write, with what it promised sent or not. The end is the same.
    fn survives(&self, played: &Played, next: Option<&Arc<Bundle>>) -> Looked {
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
        Ok(looked(deaths, "deaths"))
    }

    /// A refusal is fine, a trap is not. States are the module's own: one that it cannot
    /// read is to trap, and is kept for a bundle that can.
    fn takes_events(&self, seen: &Seen) -> Looked {
        let mut world = self.over()?;
        let wallet = any_wallet(&mut world);
        let bundle = world.component.bundle();
        let mut random = self.random();
        let mut told = BTreeMap::<_, Vec<_>>::new();
        for (state, event) in seen.events() {
            told.entry(state).or_default().push(event);
        }
        let mut taken = 0;
        // Many states differ in numbers alone.
        let mut states: Vec<_> = seen.states.iter().collect();
        states.shuffle(&mut random);
        for (state, waits) in states.into_iter().take(64) {
            // Every effect that it waits for, and one that it may know from earlier or not.
            let stray = *[0, 1, 2, 7, u32::MAX].choose(&mut random).unwrap_or(&0);
            let effects = waits.iter().copied().chain([stray]);
            let mut events: Vec<_> = effects
                .flat_map(|effect| junk::events(&mut random, effect))
                .collect();
            // What it was told indeed, not quite as it was said.
            for event in told.get(state.as_slice()).into_iter().flatten() {
                let turns = 0..self.suite.cases as usize / 2;
                events.extend(turns.map(|turn| junk::misheard(&mut random, event, turn)));
            }
            for event in events {
                let what = format!("{event:?} in state {}", modmint_sdk::to_hex(state));
                let advanced = caught(|| {
                    let advance = || bundle.advance(state.clone(), event);
                    Ok(world.wallets[&wallet].call(world.instance, Phase::Wallet, advance))
                });
                drop(advanced.with_context(|| what)?);
                taken += 1;
            }
        }
        Ok(looked(taken, "events"))
    }

    /// Items, outcomes, backups and sums of nobody, and storage of versions that never were.
    /// That a refused item leaves nothing behind is the host's doing, whatever the module
    /// wrote before: nothing is to be seen of it here.
    fn takes_junk(&self) -> Looked {
        let mut world = self.over()?;
        let wallet = any_wallet(&mut world);
        let mut random = self.random();
        let seen = world.component.seen();
        let mut known: Vec<Vec<u8>> = seen.items.iter().map(|(_, bytes)| bytes.clone()).collect();
        known.extend(seen.states.keys().cloned());
        known.push(Vec::new());
        let at = Place {
            world: &world,
            wallet: &world.wallets[&wallet],
        };
        let cases = self.suite.cases;
        for _ in 0..cases {
            let real = known.choose(&mut random).cloned().unwrap_or_default();
            let bytes = match random.gen_bool(0.1) {
                true => real,
                false => junk::bytes(&mut random, &real),
            };
            if self.bundle.has_server() {
                self.takes_items(&at, &mut random, &bytes)?;
            }
            for item in items(self.bundle) {
                at.render(item, &bytes)?;
            }
            if self.bundle.has_client() {
                at.recover(&bytes)?;
            }
            if self.bundle.has_ecash() {
                let sums = (junk::number(&mut random), junk::number(&mut random));
                at.complete(sums)?;
            }
        }
        self.takes_versions()?;
        Ok((cases as usize, format!("{cases} of each sort")))
    }

    fn takes_items(&self, at: &Place<'_>, random: &mut StdRng, bytes: &[u8]) -> Result<()> {
        let Place { world, .. } = at;
        let bundle = world.component.bundle();
        let place = OutPoint {
            txid: random.r#gen::<[u8; 32]>().to_vec(),
            index: random.gen_range(0..3),
        };
        let peer = random.gen_range(0..self.scenario.guardians);
        for export in ["process-input", "process-output", "process-consensus-item"] {
            let bytes = bytes.to_vec();
            let told = format!("{export} of {}", modmint_sdk::to_hex(&bytes));
            let call = || match export {
                "process-input" => bundle.process_input(bytes).map(drop),
                "process-output" => bundle.process_output(bytes, place.clone()).map(drop),
                _ => bundle.process_consensus_item(peer, bytes),
            };
            let done = caught(|| Ok(world.federation.consensus(world.instance, call)));
            drop(done.with_context(|| told)?);
        }
        let outcomes = caught(|| {
            world.federation.outcomes(peer, world.instance, vec![place]);
            Ok(())
        });
        outcomes.context("outcomes of an output that is not there")
    }

    /// Of versions that never were, `migrate` refuses storage; of older ones it may take
    /// what is empty. What is in storage of another version is the module's own.
    fn takes_versions(&self) -> Result<()> {
        let description = self.bundle.description();
        let mut world = self.found()?;
        let wallet = any_wallet(&mut world);
        let bundle = world.component.bundle();
        let (federation, instance) = (&world.federation, world.instance);
        let versions = |now: u32| {
            [
                0,
                1,
                now.saturating_sub(1),
                now,
                now.saturating_add(1),
                u32::MAX,
            ]
        };
        if self.bundle.has_server() {
            let now = description.server_storage;
            let empty = federation.store(instance).is_empty();
            for from in versions(now)
                .into_iter()
                .filter(|from| empty || *from >= now)
            {
                let migrate = || bundle.migrate_server(from, None).map(drop);
                let done = caught(|| Ok(federation.consensus(instance, migrate)));
                drop(done.with_context(|| format!("server.migrate from version {from}"))?);
            }
        }
        if self.bundle.has_client() {
            for from in versions(description.client_storage) {
                let migrate = || bundle.migrate_client(from, None);
                let wallet = &world.wallets[&wallet];
                let done = caught(|| Ok(wallet.call(instance, Phase::Wallet, migrate)));
                drop(done.with_context(|| format!("client.migrate from version {from}"))?);
            }
        }
        Ok(())
    }

    /// Of the kinds that the module declares: the host lets no others through. What
    /// actions begin is added to what was seen.
    fn takes_arguments(&self, seen: &mut Seen) -> Looked {
        let mut world = self.over()?;
        let wallet = any_wallet(&mut world);
        let at = Place {
            world: &world,
            wallet: &world.wallets[&wallet],
        };
        let mut random = self.random();
        let description = self.bundle.description();
        let (queries, commands, actions) = (
            &description.queries,
            &description.commands,
            self.bundle.actions(),
        );
        let cases = self.suite.cases / 5 + 1;
        for _ in 0..cases {
            for query in queries {
                at.query(query, junk::arguments(&mut random, &query.parameters))?;
            }
            for command in commands {
                at.command(command, junk::arguments(&mut random, &command.parameters))?;
            }
            for action in actions {
                let arguments = junk::arguments(&mut random, &action.parameters);
                at.start(&action.name, arguments)?;
            }
            at.configure(junk::arguments(&mut random, &description.configuration))?;
        }
        let begun = world.component.seen().states;
        for (state, effects) in begun {
            seen.states.entry(state).or_default().extend(effects);
        }
        let (queries, commands, actions) = (queries.len(), commands.len(), actions.len());
        let told = format!(
            "{cases} of each of {queries} queries, {commands} commands and {actions} actions"
        );
        Ok((cases as usize, told))
    }
}

/// Where calls are made that may trap.
struct Place<'a> {
    world: &'a World<'a>,
    wallet: &'a Wallet,
}

impl Place<'_> {
    fn render(&self, item: Item, bytes: &[u8]) -> Result<()> {
        let World {
            federation,
            instance,
            ..
        } = self.world;
        let rendered = caught(|| Ok(federation.render(*instance, item, bytes.to_vec())));
        let told = || format!("render of {}", modmint_sdk::to_hex(bytes));
        rendered.with_context(told).map(drop)
    }

    /// A call of the wallets' half.
    fn of_wallet<T>(&self, call: impl FnOnce() -> T, told: impl FnOnce() -> String) -> Result<()> {
        let called = caught(|| Ok(self.wallet.call(self.world.instance, Phase::Wallet, call)));
        called.with_context(told).map(drop)
    }

    fn recover(&self, bytes: &[u8]) -> Result<()> {
        let bundle = self.world.component.bundle();
        self.of_wallet(
            || bundle.recover(Some(bytes.to_vec())),
            || format!("recover of {}", modmint_sdk::to_hex(bytes)),
        )
    }

    fn complete(&self, (inputs, outputs): (u64, u64)) -> Result<()> {
        let bundle = self.world.component.bundle();
        self.of_wallet(
            || bundle.complete(inputs, outputs),
            || format!("complete of {inputs} msat in and {outputs} msat out"),
        )
    }

    fn start(&self, action: &str, arguments: Vec<Argument>) -> Result<()> {
        let told = format!("action {action} with {arguments:?}");
        let bundle = self.world.component.bundle();
        let arguments = shapes::to_arguments(arguments);
        self.of_wallet(|| bundle.start(action.to_owned(), arguments), || told)
    }

    /// A call of the guardians' half or of none.
    fn of_guardian<T>(&self, told: String, call: impl FnOnce(&Federation, u16) -> T) -> Result<()> {
        let called = caught(|| Ok(call(&self.world.federation, self.world.instance)));
        called.context(told).map(drop)
    }

    fn query(&self, query: &Endpoint, arguments: Vec<Argument>) -> Result<()> {
        let told = format!("query {} with {arguments:?}", query.name);
        let arguments = shapes::to_arguments(arguments);
        self.of_guardian(told, |federation, instance| {
            federation.query(0, instance, &query.name, arguments)
        })
    }

    fn command(&self, command: &Endpoint, arguments: Vec<Argument>) -> Result<()> {
        let told = format!("command {} with {arguments:?}", command.name);
        let arguments = shapes::to_arguments(arguments);
        self.of_guardian(told, |federation, instance| {
            federation.command(0, instance, &command.name, arguments)
        })
    }

    fn configure(&self, arguments: Vec<Argument>) -> Result<()> {
        let told = format!("configure with {arguments:?}");
        let arguments = shapes::to_arguments(arguments);
        let bundle = self.world.component.bundle();
        self.of_guardian(told, |federation, instance| {
            federation.call(instance, Phase::Pure, None, || bundle.configure(arguments))
        })
    }
}

/// One that there is, or a new one.
fn any_wallet(world: &mut World<'_>) -> String {
    if let Some(name) = world.wallets.keys().next() {
        return name.clone();
    }
    let wallet = Wallet::new(&world.federation, "anybody");
    world.wallets.insert("anybody".to_owned(), wallet);
    "anybody".to_owned()
}

/// What `render` may be asked about.
fn items(bundle: &Bundle) -> Vec<Item> {
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

/// The scenario beside a module: in its folder, or in the folder that the component is in.
///
/// # Errors
/// It is not well-formed.
pub fn scenario_beside(module: &Path) -> Result<Option<Scenario>> {
    let folder = match module.is_dir() {
        true => module,
        false => module.parent().unwrap_or(Path::new("")),
    };
    let file = folder.join(FILE);
    file.is_file().then(|| Scenario::read(&file)).transpose()
}

/// The scenario in the file that is named, or the one beside the module.
pub(super) fn scenario_of(module: &Path, named: Option<&Path>) -> Result<Option<Scenario>> {
    match named {
        Some(file) => Scenario::read(file).map(Some),
        None => scenario_beside(module),
    }
}
