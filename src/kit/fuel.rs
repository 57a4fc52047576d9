//! What a module's consensus calls cost.
//!
//! Native tests cannot meter: fuel is what the component's instructions cost. So the
//! SDK's mock host writes down the calls that tests make, with all that they could see,
//! and here they are made again on the component. That what comes out is the same is
//! checked on the way.
//!
//! Fuel is the same on any machine, and the time is this one's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use modmint_core::{
    FederationId, InstanceId, OutPoint, PeerId, TxId,
    config::{HexBytes, InstanceConfig, InstanceKey, Network},
    sha256,
};
use modmint_runtime::{
    Approval, Bundle, CallError, Called, ChainOutPoint, ChainOutput, Context, Engines, Host,
    HostError, HostResult, InputEffect, Instance, ItemCalls, OutputEffect, Signable, limits,
};
use modmint_sdk::mock::{ConsensusCall, RECORD, RecordedCall, Store, Surroundings};

use super::{
    Subject,
    build::{Project, is_c, tool},
};

/// Meter the calls that a module's tests make, on its component
#[derive(Debug, Args)]
pub struct Fuel {
    /// The module's folder
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// For `cargo test`, which is run
    #[arg(last = true)]
    cargo: Vec<String>,
}

impl Fuel {
    pub(super) fn report(self) -> Result<bool> {
        ensure!(
            !is_c(&self.folder),
            "{} is a module in C, which has no tests of its own to meter: `modmint module test` \
             meters its scenario, against the budgets under [fuel] in conformance.toml",
            self.folder.display()
        );
        let project = Project::at(&self.folder)?;
        let budgets = budgets(&project.package.metadata)?;
        let subject = Subject::read(&self.folder)?;
        let recorded = tempfile::tempdir()?;
        let status = Command::new(tool("CARGO", "cargo"))
            .arg("test")
            .args(["--package", &project.package.name])
            .args(&self.cargo)
            .current_dir(&self.folder)
            .env(RECORD, recorded.path())
            .stdout(std::process::Stdio::null())
            .status()
            .context("cargo cannot be started")?;
        ensure!(status.success(), "the module's tests fail: cargo test");
        let report = measure(&subject.bytes, &read(recorded.path())?)?;
        println!("{report}");
        let over = report.over(&budgets);
        for line in report.differences.iter().chain(&over) {
            println!("{line}");
        }
        Ok(report.differences.is_empty() && over.is_empty())
    }
}

/// The most that a call of each export may cost.
pub type Budgets = BTreeMap<String, u64>;

/// The exports that are metered and can have a budget.
pub const METERED: [&str; 5] = [
    "init",
    "process-input",
    "process-output",
    "process-consensus-item",
    "audit",
];

/// `[package.metadata.modmint.fuel]` of a Cargo.toml.
fn budgets(metadata: &serde_json::Value) -> Result<Budgets> {
    match &metadata["modmint"]["fuel"] {
        serde_json::Value::Null => Ok(Budgets::new()),
        budgets => serde_json::from_value(budgets.clone())
            .context("[package.metadata.modmint.fuel]: export = fuel is expected"),
    }
}

fn read(folder: &Path) -> Result<Vec<RecordedCall>> {
    let mut calls = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let bytes = std::fs::read(entry?.path())?;
        let more: Vec<RecordedCall> = borsh::from_slice(&bytes)
            .context("the module is tested with another version of the SDK than this program's")?;
        calls.extend(more);
    }
    Ok(calls)
}

/// What the calls of one export cost.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// How many there were.
    pub calls: u64,
    /// How many of them were refused.
    pub refused: u64,
    /// The dearest.
    pub most: u64,
    /// All of them.
    pub sum: u64,
    /// How long they took.
    pub times: Times,
}

/// How long calls took, each with the making of its sandbox.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }
}

/// The median and the longest, in two columns.
impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        let (median, most) = (ms(sorted.get(sorted.len() / 2)), ms(sorted.last()));
        write!(f, "{median:>11.3}{most:>10.3}")
    }
}

/// What all calls cost.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By the export's name.
    pub exports: BTreeMap<String, Cost>,
    /// How long calls took that are not metered: what wallets call, and what a guardian
    /// calls for itself alone.
    pub unmetered: BTreeMap<&'static str, Times>,
    /// Where the component does something else than the native module.
    pub differences: Vec<String>,
}

impl Report {
    /// What is dearer than its budget, and the budgets that hold nothing back, in words:
    /// those of no export, and of one that is never called.
    pub fn over(&self, budgets: &Budgets) -> Vec<String> {
        let over = |(export, budget): (&String, &u64)| match self.exports.get(export) {
            Some(Cost { most, .. }) => (most > budget)
                .then(|| format!("{export} costs {most} fuel, its budget is {budget}")),
            None if METERED.contains(&export.as_str()) => Some(format!(
                "{export} has a budget and is never called: call it, or leave the budget out"
            )),
            None => Some(format!(
                "{export:?} has a budget and is no call that is metered; one of these is \
                 expected: {}",
                METERED.join(", ")
            )),
        };
        budgets.iter().filter_map(over).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<24}{:>8}{:>9}{:>12}{:>12}{:>10}{:>11}{:>10}",
            "export",
            "calls",
            "refused",
            "mean fuel",
            "most fuel",
            "of limit",
            "median ms",
            "most ms"
        )?;
        for (export, cost) in &self.exports {
            let mean = cost.sum / cost.calls.max(1);
            let share = cost.most as f64 / limits::MAX_FUEL as f64 * 100.0;
            write!(
                f,
                "\n{export:<24}{:>8}{:>9}{mean:>12}{:>12}{share:>9.2}%{}",
                cost.calls, cost.refused, cost.most, cost.times
            )?;
        }
        for (export, times) in &self.unmetered {
            let calls = times.0.len();
            write!(f, "\n{export:<24}{calls:>8}{:>43}{times}", "")?;
        }
        Ok(())
    }
}

/// Makes recorded calls of this bundle's kind again, on the component.
///
/// # Errors
/// The bundle is refused, there is no call of its kind, or this machine cannot run it.
pub fn measure(component: &[u8], calls: &[RecordedCall]) -> Result<Report> {
    let bundle = Bundle::load(&Engines::new()?, component)?;
    let kind = &bundle.description().kind;
    let mut report = Report::default();
    for call in calls.iter().filter(|call| &call.kind == kind) {
        let (called, after, time) = replay(&bundle, call);
        let cost = report
            .exports
            .entry(call.call.export().to_owned())
            .or_default();
        cost.calls += 1;
        cost.refused += u64::from(call.after.is_err());
        cost.most = cost.most.max(called.fuel);
        cost.sum += called.fuel;
        cost.times.add(time);
        let component = match called.result {
            Ok(()) => Ok(after),
            Err(CallError::Refused(refusal)) => Err(refusal.code),
            Err(CallError::Trapped(trap)) => Err(format!("a trap: {trap}")),
            Err(CallError::Host(error)) => bail!("{error}"),
        };
        if component != call.after {
            let told = |result: &Result<Store, String>| match result {
                Ok(_) => "takes it".to_owned(),
                Err(code) => format!("says {code}"),
            };
            report.differences.push(format!(
                "{}: the native module {}, the component {}{}",
                call.call.export(),
                told(&call.after),
                told(&component),
                match component.is_ok() && call.after.is_ok() {
                    true => " and writes something else",
                    false => "",
                }
            ));
        }
    }
    ensure!(
        !report.exports.is_empty(),
        "no test calls a module of the kind {kind:?} in a modmint_sdk::mock::Federation"
    );
    Ok(report)
}

/// What came of a call on the component, the storage behind it, and how long it took.
fn replay(bundle: &Arc<Bundle>, call: &RecordedCall) -> (Called<()>, Store, Duration) {
    let (instance, replay) = ground(bundle, call);
    let host: Arc<dyn Host> = replay.clone();
    let began = Instant::now();
    let called = match &call.call {
        ConsensusCall::Init => instance.init(&host),
        ConsensusCall::ConsensusItem(peer, bytes) => {
            instance.process_consensus_item(&host, PeerId(*peer), bytes)
        }
        ConsensusCall::Audit => nothing(instance.audit(&host)),
        ConsensusCall::Input(_) | ConsensusCall::Output(..) => {
            nothing(of_item(&mut instance.item(host), &call.call))
        }
    };
    let time = began.elapsed();
    let storage = replay.lock().storage.clone();
    (called, storage, time)
}

/// The instance, and the federation around it, as they were before a call.
fn ground(bundle: &Arc<Bundle>, call: &RecordedCall) -> (Arc<Instance>, Arc<Replay>) {
    let around = &call.around;
    let key = |(label, kind, public_keys): &modmint_sdk::mock::RecordedKey| InstanceKey {
        label: label.clone(),
        kind: *kind,
        public_keys: public_keys.iter().cloned().map(HexBytes).collect(),
        share_keys: Vec::new(),
    };
    let context = Context {
        federation: FederationId(around.federation),
        network: Network::Regtest,
        peers: around.peers,
        threshold: around.threshold,
        instance: InstanceConfig {
            id: InstanceId(call.instance),
            kind: call.kind.clone(),
            bundle: bundle.hash(),
            config: around.config.clone(),
            keys: around.keys.iter().map(key).collect(),
        },
    };
    let replay = Replay {
        around: around.clone(),
        state: Mutex::new(State {
            storage: call.before.clone(),
            claimed: around.claimed.clone(),
            held: around.held,
            approved: around.approved.clone(),
        }),
    };
    (Instance::new(Arc::clone(bundle), context), Arc::new(replay))
}

/// What an input or an output came to: value, fee and, of an input, whose key signs.
type Effect = (u64, u64, Option<Vec<u8>>);

fn of_item(item: &mut ItemCalls<'_>, call: &ConsensusCall) -> Called<Effect> {
    match call {
        ConsensusCall::Input(bytes) => {
            let Called { result, fuel } = item.process_input(bytes);
            let effect =
                |e: InputEffect| (e.value.msat(), e.fee.msat(), Some(e.spend_key.0.to_vec()));
            Called {
                result: result.map(effect),
                fuel,
            }
        }
        ConsensusCall::Output(bytes, place) => {
            let txid = place.txid.as_slice().try_into().unwrap_or_default();
            let place = OutPoint {
                txid: TxId(txid),
                index: place.index,
            };
            let Called { result, fuel } = item.process_output(bytes, place);
            let effect = |e: OutputEffect| (e.value.msat(), e.fee.msat(), None);
            Called {
                result: result.map(effect),
                fuel,
            }
        }
        _ => unreachable!("inputs and outputs alone share an item"),
    }
}

fn nothing<T>(called: Called<T>) -> Called<()> {
    Called {
        result: called.result.map(drop),
        fuel: called.fuel,
    }
}

/// How far apart in a record the calls of a pair may be: what comes later seldom fits.
const NEAR: usize = 8;

/// What is different where two calls of one item share a store, as those of a transaction
/// do on guardians, from where each has one of its own; and how many pairs were tried. The
/// module's memory lasts from the first to the second: what it keeps there must not show.
///
/// # Errors
/// The bundle is refused, or this machine cannot run it.
pub fn together(component: &[u8], calls: &[RecordedCall]) -> Result<(usize, Vec<String>)> {
    let bundle = Bundle::load(&Engines::new()?, component)?;
    let kind = &bundle.description().kind;
    let items: Vec<_> = calls
        .iter()
        .filter(|call| &call.kind == kind)
        .filter(|call| {
            matches!(
                call.call,
                ConsensusCall::Input(_) | ConsensusCall::Output(..)
            )
        })
        .collect();
    let (mut pairs, mut differences) = (0, Vec::new());
    for (place, first) in items.iter().enumerate() {
        // Itself, too: a transaction may have anything in it twice.
        for second in items[place..].iter().take(NEAR) {
            let Some(apart) = pair(&bundle, first, second, false)? else {
                break;
            };
            pairs += 1;
            let one = pair(&bundle, first, second, true)?;
            if one.as_ref() != Some(&apart) {
                differences.push(format!(
                    "{} behind {} in one store: {}; in a store of its own: {}",
                    second.call.export(),
                    first.call.export(),
                    one.map_or("the first is refused".to_owned(), |one| one.told()),
                    apart.told()
                ));
            }
        }
    }
    Ok((pairs, differences))
}

/// What came of the second of two calls.
#[derive(PartialEq, Eq)]
enum Second {
    /// It has taken effect; the storage behind it.
    Taken(Effect, Store),
    /// The code.
    Refused(String),
    Trapped,
}

impl Second {
    fn told(&self) -> String {
        match self {
            Self::Taken((value, fee, _), storage) => format!(
                "worth {value} msat at a fee of {fee}, with {} entries stored",
                storage.len()
            ),
            Self::Refused(code) => format!("refused, {code}"),
            Self::Trapped => "a trap".to_owned(),
        }
    }
}

/// Two calls, one behind the other; none where the first is refused: then nothing follows.
fn pair(
    bundle: &Arc<Bundle>,
    first: &RecordedCall,
    second: &RecordedCall,
    in_one_store: bool,
) -> Result<Option<Second>> {
    let (instance, replay) = ground(bundle, first);
    let host: Arc<dyn Host> = replay.clone();
    let mut item = instance.item(Arc::clone(&host));
    match of_item(&mut item, &first.call).result {
        Ok(_) => {}
        Err(CallError::Host(error)) => bail!("{error}"),
        Err(_) => return Ok(None),
    }
    if !in_one_store {
        // The first store's place is given back before another is taken.
        drop(item);
        item = instance.item(host);
    }
    Ok(Some(match of_item(&mut item, &second.call).result {
        Ok(effect) => Second::Taken(effect, replay.lock().storage.clone()),
        Err(CallError::Refused(refusal)) => Second::Refused(refusal.code),
        Err(CallError::Trapped(_)) => Second::Trapped,
        Err(CallError::Host(error)) => bail!("{error}"),
    }))
}

/// The mock federation as it was at a call.
struct Replay {
    around: Surroundings,
    state: Mutex<State>,
}

struct State {
    storage: Store,
    claimed: BTreeSet<([u8; 32], u32)>,
    held: u64,
    approved: BTreeSet<(String, Vec<u8>, Vec<u8>)>,
}

impl Replay {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn chain_output(output: &modmint_sdk::ChainOutput) -> HostResult<ChainOutput> {
    let txid = output.out_point.txid.as_slice().try_into();
    Ok(ChainOutput {
        out_point: ChainOutPoint {
            txid: txid.map_err(HostError::new)?,
            vout: output.out_point.vout,
        },
        script: output.script.clone(),
        satoshi: output.satoshi,
        height: output.height,
    })
}

impl Host for Replay {
    fn get(&self, key: &[u8]) -> HostResult<Option<Vec<u8>>> {
        Ok(self.lock().storage.get(key).cloned())
    }
    fn put(&self, key: &[u8], value: &[u8]) -> HostResult<()> {
        self.lock().storage.insert(key.to_vec(), value.to_vec());
        Ok(())
    }
    fn delete(&self, key: &[u8]) -> HostResult<()> {
        self.lock().storage.remove(key);
        Ok(())
    }
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> HostResult<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut bytes = 0;
        let state = self.lock();
        let entries = state.storage.iter();
        Ok(entries
            .filter(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| after.is_none_or(|after| key.as_slice() > after))
            .take(limit)
            .take_while(|(key, value)| {
                bytes += key.len() + value.len();
                bytes <= max_bytes
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
    fn block_height(&self) -> HostResult<u32> {
        Ok(self.around.height)
    }
    fn block_hash(&self, height: u32) -> HostResult<Option<[u8; 32]>> {
        Ok((height <= self.around.height).then(|| sha256(&height.to_be_bytes())))
    }
    fn chain_output_at(&self, place: &ChainOutPoint) -> HostResult<Option<ChainOutput>> {
        let mut chain = self.around.chain.iter();
        chain
            .find(|output| {
                output.out_point.txid == place.txid && output.out_point.vout == place.vout
            })
            .map(chain_output)
            .transpose()
    }
    fn chain_outputs(&self, script: &[u8]) -> HostResult<Vec<ChainOutput>> {
        let chain = self.around.chain.iter();
        chain
            .filter(|output| output.script == script)
            .take(100)
            .map(chain_output)
            .collect()
    }
    fn fee_rate(&self) -> HostResult<u64> {
        Ok(self.around.fee_rate)
    }
    fn unix_time(&self) -> HostResult<u64> {
        Ok(self.around.time)
    }
    fn approve(&self, what: &Signable) -> HostResult<Approval> {
        let what = (what.label.clone(), what.message.clone(), what.terms.clone());
        Ok(match self.lock().approved.insert(what) {
            true => Approval::Approved,
            false => Approval::Before,
        })
    }
    fn revoke(&self, what: &Signable) -> HostResult<()> {
        let what = (what.label.clone(), what.message.clone(), what.terms.clone());
        self.lock().approved.remove(&what);
        Ok(())
    }
    fn claim(&self, place: &ChainOutPoint) -> HostResult<Option<ChainOutput>> {
        let Some(output) = self.chain_output_at(place)? else {
            return Ok(None);
        };
        let mut state = self.lock();
        if !state.claimed.insert((place.txid, place.vout)) {
            return Ok(None);
        }
        state.held += output.satoshi;
        Ok(Some(output))
    }
    fn release(&self, satoshi: u64) -> HostResult<bool> {
        let mut state = self.lock();
        let left = state.held.checked_sub(satoshi);
        state.held = left.unwrap_or(state.held);
        Ok(left.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_holds_nothing_back_is_refused() {
        let mut report = Report::default();
        let cost = Cost {
            most: 100,
            ..Cost::default()
        };
        report.exports.insert("process-input".into(), cost);
        let over = |export: &str, most| report.over(&[(export.to_owned(), most)].into());
        assert_eq!(over("process-input", 100), Vec::<String>::new());
        for (export, most, told) in [
            ("process-input", 99, "costs 100 fuel, its budget is 99"),
            ("audit", 100, "never called"),
            ("process_input", 100, "process-input, process-output"),
        ] {
            let over = over(export, most);
            assert!(over.len() == 1 && over[0].contains(told), "{over:?}");
        }
    }
}
