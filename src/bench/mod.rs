//! `modmint bench`: how much a federation does, how quickly, and what it costs.
//!
//! Wallets of this process, as [`modmint_client`] makes them, hand notes out and
//! take them in again without pause (`load`). Before and behind that the machine
//! is asked what everybody has used, and the guardians what they have counted
//! (`meters`). Nothing here judges the figures. A guardian may be stopped meanwhile
//! (`absence`). `lightning` has the wallets pay and be paid through a gateway instead.

mod absence;
mod lightning;
mod load;
mod meters;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    federation::{Federation, Options as FederationOptions},
    tour,
};
pub use absence::Absence;
pub use lightning::{Kind, LightningReport, run as run_lightning};
use load::Load;
use meters::{Meters, Used};

/// How long the load runs before anything is measured, at most.
const WARM_UP: Duration = Duration::from_secs(3);

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many wallets.
    pub wallets: usize,
    /// For how long.
    pub time: Duration,
    /// Notes in and notes out of each transaction, 1 to [`MOST_NOTES`].
    pub notes: u32,
    /// The federation's invite; without it one of four guardians is founded here.
    pub invite: Option<String>,
    /// For how long how many of the guardians that are founded here are stopped then.
    pub absent: Option<(Duration, usize)>,
}

/// Above this many notes a transaction would have more than one of a denomination.
pub const MOST_NOTES: u32 = 18;

/// What came of a load. Of a federation that was not founded here only what
/// wallets see is known.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Transactions whose notes were spendable within the time, each second.
    pub transactions_per_second: f64,
    /// Notes that they spent.
    pub notes_in_per_second: f64,
    /// Notes that they issued.
    pub notes_out_per_second: f64,
    /// From submission to spendable notes in the wallet.
    pub latency_ms: Latency,
    /// Processor time, user and system.
    pub cpu_seconds: CpuSeconds,
    /// By the average guardian.
    pub transactions_per_guardian_cpu_second: Option<f64>,
    /// Resident memory at the end.
    pub rss_mb: Guardians<f64>,
    /// By how much the average guardian's files grew, for each transaction.
    pub disk_bytes_per_transaction: Option<f64>,
    /// What a guardian's database has for each transaction since its founding, when all that
    /// is written twice or deleted is gone from it. In a short run founding is in it.
    pub compacted_bytes_per_transaction: Option<f64>,
    /// What the average guardian sent to the others, for each transaction.
    pub p2p_bytes_per_transaction: Option<f64>,
    /// How much of the time in which epochs were processed modules ran.
    pub wasm_share_of_epoch_time: Option<f64>,
    /// What sessions' ends cost, where some ended meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_ends: Option<SessionEnds>,
    /// What came of a guardian's absence, if one was asked for. What stands above was
    /// measured before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absence: Option<Absence>,
}

/// What the ends of sessions cost that fell into the time.
#[derive(Debug, Serialize)]
pub struct SessionEnds {
    /// How many.
    pub number: usize,
    /// The longest time without a transaction from a second before one until two behind.
    pub longest_gap_ms: f64,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Half took no longer.
    pub p50: f64,
    /// 95 of 100 took no longer.
    pub p95: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// None took longer.
    pub max: f64,
}

impl Latency {
    /// Of some, ascending; there is one at least.
    fn of(latencies: &[Duration]) -> Self {
        let percentile = |percent: usize| {
            let place = (latencies.len() * percent).div_ceil(100).max(1) - 1;
            latencies[place].as_secs_f64() * 1000.0
        };
        Self {
            p50: percentile(50),
            p95: percentile(95),
            p99: percentile(99),
            max: percentile(100),
        }
    }
}

/// Seconds of one core.
#[derive(Debug, Serialize)]
pub struct CpuSeconds {
    /// Each guardian's; empty if they were not founded here.
    pub guardians: Vec<f64>,
    /// This process, which the wallets are in.
    pub wallets: f64,
    /// bitcoind's, if it was started here.
    pub bitcoind: Option<f64>,
}

impl CpuSeconds {
    /// How much of what all have used the wallets have, 0 to 1.
    fn wallets_share(&self) -> f64 {
        let others = self.guardians.iter().sum::<f64>() + self.bitcoind.unwrap_or(0.0);
        self.wallets / (self.wallets + others)
    }
}

/// One figure for each guardian; none if they were not founded here.
#[derive(Debug, Serialize)]
pub struct Guardians<T> {
    /// In the order of their indices.
    pub guardians: Vec<T>,
}

/// What guardians use that have nothing to do, in the order of their indices.
#[derive(Debug, Serialize)]
pub struct IdleReport {
    /// Of one core.
    pub cpu_share: Vec<f64>,
    /// Sent to the other guardians.
    pub p2p_bytes_per_second: Vec<f64>,
    /// Written to the disk.
    pub disk_bytes_per_hour: Vec<f64>,
}

/// Runs the load and measures it.
///
/// # Errors
/// The federation does not come up, a wallet fails, or money was lost.
pub async fn run(options: &Options, mut tell: impl FnMut(&str)) -> Result<Report> {
    ensure!(
        (1..=MOST_NOTES).contains(&options.notes) && options.wallets > 0,
        "1 to {MOST_NOTES} notes and at least one wallet are expected"
    );
    ensure!(
        options.absent.is_none() || options.invite.is_none(),
        "only a guardian that is started here can be stopped"
    );
    let folder = tempfile::tempdir()?;
    let own = match &options.invite {
        Some(_) => None,
        None => {
            tell("founding a federation of four");
            Some(found(folder.path()).await?)
        }
    };
    let invite = match (&options.invite, &own) {
        (Some(invite), _) => invite,
        (None, Some(federation)) => &federation.invite,
        (None, None) => anyhow::bail!("there is neither an invite nor a federation"),
    };
    let wallets = tempfile::tempdir_in(memory_or(folder.path()))?;
    tell(&format!("filling {} wallets", options.wallets));
    let mut load = Load::prepare(wallets.path(), invite, own.as_ref(), options, &mut tell).await?;
    let before = load.balance().await?;
    tell(&format!("measuring for {} s", options.time.as_secs()));
    let running = load.start();
    tokio::time::sleep(WARM_UP.min(options.time)).await;
    let meters = Meters::of(own.as_ref());
    let (start, begun) = (meters.read().await?, Instant::now());
    let session_ends = pass(own.as_ref(), options.time).await?;
    let (end, ended) = (meters.read().await?, Instant::now());
    let times = match options.absent.zip(own.as_ref()) {
        Some((absent, own)) => {
            Some(absence::of(own, absent, options.time, &load, &mut tell).await?)
        }
        None => None,
    };
    let exchanges = running.end().await?;
    let latencies = exchanges.latencies(begun, ended);
    ensure!(!latencies.is_empty(), "not one transaction came to its end");

    let after = load.balance().await?;
    ensure!(
        before == after,
        "the wallets had {before} together and have {after}"
    );
    load.close().await;
    let mut compacted_bytes_per_transaction = None;
    if let Some(federation) = own {
        federation.same_state_root().await?;
        tour::balanced(&federation).await?;
        let database = federation.guardians[0].data_folder().join("db");
        federation.stop().await?;
        let bytes = meters::compacted(&database)?;
        compacted_bytes_per_transaction = Some(bytes / exchanges.count() as f64);
    }
    let absence = times.map(|times| Absence::of(&times, &exchanges));
    let second = Duration::from_secs(1);
    let gaps = session_ends
        .iter()
        .map(|end| exchanges.longest_gap(*end - second, *end + 2 * second));
    let session_ends = gaps.max().map(|gap| SessionEnds {
        number: session_ends.len(),
        longest_gap_ms: gap.as_secs_f64() * 1000.0,
    });
    Ok(Report {
        absence,
        session_ends,
        compacted_bytes_per_transaction,
        ..report(options, &latencies, ended - begun, &end.since(&start))
    })
}

/// Lets time pass, and sees when sessions end.
async fn pass(own: Option<&Federation>, time: Duration) -> Result<Vec<Instant>> {
    /// Between two looks.
    const LOOK: Duration = Duration::from_millis(100);
    let over = Instant::now() + time;
    let Some(federation) = own else {
        tokio::time::sleep(time).await;
        return Ok(Vec::new());
    };
    let (mut ends, mut former) = (Vec::new(), None);
    loop {
        let session = federation.guardians[0].status().await?.session;
        if former
            .replace(session)
            .is_some_and(|former| former != session)
        {
            ends.push(Instant::now());
        }
        let left = over.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(ends);
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

/// Measures guardians that have nothing to do.
///
/// # Errors
/// The federation does not come up.
pub async fn run_idle(time: Duration, mut tell: impl FnMut(&str)) -> Result<IdleReport> {
    let folder = tempfile::tempdir()?;
    tell("founding a federation of four");
    let federation = found(folder.path()).await?;
    // What founding leaves behind is over by then.
    tokio::time::sleep(WARM_UP).await;
    tell(&format!("measuring for {} s", time.as_secs()));
    let meters = Meters::of(Some(&federation));
    let (start, begun) = (meters.read().await?, Instant::now());
    tokio::time::sleep(time).await;
    let used = meters.read().await?.since(&start);
    let seconds = begun.elapsed().as_secs_f64();
    federation.stop().await?;
    let each = |figure: fn(&Used) -> f64| used.guardians.iter().map(figure);
    Ok(IdleReport {
        cpu_share: each(|used| used.cpu).map(|cpu| cpu / seconds).collect(),
        p2p_bytes_per_second: each(|used| used.p2p_sent).map(|b| b / seconds).collect(),
        disk_bytes_per_hour: each(|used| used.written)
            .map(|bytes| bytes / seconds * 3600.0)
            .collect(),
    })
}

async fn found(folder: &Path) -> Result<Federation> {
    let folder = folder.join("federation");
    std::fs::create_dir(&folder)?;
    Federation::found(&folder, FederationOptions::standard()?)
        .await
        .context("no federation to measure")
}

/// Wallets have disks of their own in real life: here memory stands for them, so
/// that they do not wait for the guardians' disk, nor those for them.
fn memory_or(folder: &Path) -> PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.to_owned(),
        false => folder.to_owned(),
    }
}

fn report(
    options: &Options,
    latencies: &[Duration],
    time: Duration,
    used: &meters::AllUsed,
) -> Report {
    let transactions = latencies.len() as f64;
    let per_second = transactions / time.as_secs_f64();
    let guardians = &used.guardians;
    let mean = |figure: fn(&Used) -> f64| {
        let sum: f64 = guardians.iter().map(figure).sum();
        (!guardians.is_empty()).then(|| sum / guardians.len() as f64)
    };
    let epochs = mean(|used| used.epochs);
    let modules = mean(|used| used.modules);
    Report {
        transactions_per_second: per_second,
        notes_in_per_second: per_second * f64::from(options.notes),
        notes_out_per_second: per_second * f64::from(options.notes),
        latency_ms: Latency::of(latencies),
        cpu_seconds: CpuSeconds {
            guardians: guardians.iter().map(|used| used.cpu).collect(),
            wallets: used.wallets,
            bitcoind: used.bitcoind,
        },
        transactions_per_guardian_cpu_second: mean(|used| used.cpu).map(|cpu| transactions / cpu),
        rss_mb: Guardians {
            guardians: guardians.iter().map(|used| used.resident / 1e6).collect(),
        },
        disk_bytes_per_transaction: mean(|used| used.grown).map(|bytes| bytes / transactions),
        compacted_bytes_per_transaction: None,
        p2p_bytes_per_transaction: mean(|used| used.p2p_sent).map(|bytes| bytes / transactions),
        wasm_share_of_epoch_time: epochs
            .zip(modules)
            .filter(|(epochs, _)| *epochs > 0.0)
            .map(|(epochs, modules)| modules / epochs),
        session_ends: None,
        absence: None,
    }
}

fn list(figures: &[f64], digits: usize) -> String {
    let figures = figures.iter().map(|figure| format!("{figure:.digits$}"));
    figures.collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |figure: Option<f64>, digits: usize| match figure {
            Some(figure) => format!("{figure:.digits$}"),
            None => "not known".to_owned(),
        };
        writeln!(
            f,
            "transactions/s        {:.1}",
            self.transactions_per_second
        )?;
        writeln!(
            f,
            "notes/s               {:.1} in, {:.1} out",
            self.notes_in_per_second, self.notes_out_per_second
        )?;
        writeln!(
            f,
            "latency               p50 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms, at most {:.0} ms, to \
             spendable notes",
            self.latency_ms.p50, self.latency_ms.p95, self.latency_ms.p99, self.latency_ms.max
        )?;
        writeln!(
            f,
            "CPU                   guardians {} s; wallets {:.1} s, {:.0} % of all; bitcoind {} s",
            list(&self.cpu_seconds.guardians, 1),
            self.cpu_seconds.wallets,
            self.cpu_seconds.wallets_share() * 100.0,
            known(self.cpu_seconds.bitcoind, 1)
        )?;
        writeln!(
            f,
            "transactions per second of a guardian's CPU  {}",
            known(self.transactions_per_guardian_cpu_second, 0)
        )?;
        writeln!(
            f,
            "memory of guardians   {} MB",
            list(&self.rss_mb.guardians, 0)
        )?;
        writeln!(
            f,
            "for each transaction  {} bytes on a guardian's disk, {} in its database when compacted, \
             {} bytes sent to other guardians",
            known(self.disk_bytes_per_transaction, 0),
            known(self.compacted_bytes_per_transaction, 0),
            known(self.p2p_bytes_per_transaction, 0)
        )?;
        write!(
            f,
            "modules' share of the time of epochs  {}",
            known(self.wasm_share_of_epoch_time, 2)
        )?;
        if let Some(ends) = &self.session_ends {
            write!(
                f,
                "\nsessions' ends        {}, at most {:.0} ms without a transaction around them",
                ends.number, ends.longest_gap_ms
            )?;
        }
        match &self.absence {
            Some(absence) => write!(f, "\n{absence}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent: Vec<_> = self.cpu_share.iter().map(|share| share * 100.0).collect();
        writeln!(f, "each guardian, idle:")?;
        writeln!(f, "CPU      {} % of a core", list(&percent, 2))?;
        writeln!(
            f,
            "network  {} bytes/s sent to other guardians",
            list(&self.p2p_bytes_per_second, 0)
        )?;
        write!(
            f,
            "disk     {} bytes/h written",
            list(&self.disk_bytes_per_hour, 0)
        )
    }
}
