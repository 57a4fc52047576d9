//! Guardians that are away for a while, under the load of everybody else's.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use serde::Serialize;

use super::load::{Exchanges, Load};
use crate::{
    federation::{Federation, Guardian},
    wait_for,
};

/// How long a guardian may need to come level.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What came of it. Transactions are those whose notes became spendable.
#[derive(Debug, Serialize)]
pub struct Absence {
    /// How many were away.
    pub guardians: usize,
    /// From their end to the start of the first.
    pub seconds: f64,
    /// From their end until a wallet said that too few guardians answer; none if none did.
    pub told_after_seconds: Option<f64>,
    /// From the first one's start until a transaction ended.
    pub first_transaction_after_seconds: Option<f64>,
    /// From the first one's start until all are ready and where another guardian is.
    pub level_after_seconds: f64,
    /// The longest time from their end until all are level in which no transaction ended.
    pub longest_gap_ms: f64,
    /// While they were away.
    pub transactions_per_second_while: f64,
    /// While they caught up.
    pub transactions_per_second_behind: f64,
    /// Behind that.
    pub transactions_per_second_after: f64,
}

/// When what happened.
pub(super) struct Times {
    guardians: usize,
    stopped: Instant,
    told: Option<Instant>,
    started: Instant,
    level: Instant,
    over: Instant,
}

/// Has the last `absentees` guardians stopped for so long, starts them, each when the one
/// before is level, and waits for `after` behind that.
pub(super) async fn of(
    federation: &Federation,
    (away, absentees): (Duration, usize),
    after: Duration,
    load: &Load,
    tell: &mut impl FnMut(&str),
) -> Result<Times> {
    let first = federation.size().saturating_sub(absentees).max(1);
    let absent = &federation.guardians[first..];
    let names: Vec<_> = absent.iter().map(Guardian::name).collect();
    let seconds = away.as_secs();
    tell(&format!("{} stopped for {seconds} s", names.join(", ")));
    let stopped = Instant::now();
    try_join_all(absent.iter().map(Guardian::stop)).await?;
    let mut told = None;
    while stopped.elapsed() < away {
        if told.is_none() && load.meets_an_obstacle() {
            told = Some(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let started = Instant::now();
    for (number, guardian) in absent.iter().enumerate() {
        federation.start(first + number)?;
        tell(&format!("{} is back", guardian.name()));
        wait_for("it to be level", PATIENCE, || async {
            let others = federation.guardians[0].status().await?;
            let status = guardian.status().await?;
            ensure!(
                (status.session, status.epoch) >= (others.session, others.epoch),
                "it is behind"
            );
            let problems = guardian.problems().await?;
            ensure!(problems.is_empty(), "{problems:?}");
            Ok(())
        })
        .await?;
    }
    let level = Instant::now();
    tell(&format!("level; {} s more", after.as_secs()));
    tokio::time::sleep(after).await;
    Ok(Times {
        guardians: absent.len(),
        stopped,
        told,
        started,
        level,
        over: Instant::now(),
    })
}

impl Absence {
    pub(super) fn of(times: &Times, exchanges: &Exchanges) -> Self {
        let gap = exchanges.longest_gap(times.stopped, times.level);
        let first = exchanges.first_behind(times.started);
        Self {
            guardians: times.guardians,
            seconds: (times.started - times.stopped).as_secs_f64(),
            told_after_seconds: times.told.map(|told| (told - times.stopped).as_secs_f64()),
            first_transaction_after_seconds: first.map(|f| (f - times.started).as_secs_f64()),
            level_after_seconds: (times.level - times.started).as_secs_f64(),
            longest_gap_ms: gap.as_secs_f64() * 1000.0,
            transactions_per_second_while: exchanges.per_second(times.stopped, times.started),
            transactions_per_second_behind: exchanges.per_second(times.started, times.level),
            transactions_per_second_after: exchanges.per_second(times.level, times.over),
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "guardians away        {} for {:.0} s, level {:.1} s after the first one's start",
            self.guardians, self.seconds, self.level_after_seconds
        )?;
        if let Some(told) = self.told_after_seconds {
            writeln!(f, "wallets said so       {told:.1} s after their end")?;
        }
        if let Some(first) = self.first_transaction_after_seconds {
            writeln!(
                f,
                "first transaction     {first:.1} s after the first one's start"
            )?;
        }
        writeln!(
            f,
            "transactions/s        {:.1} while they were away, {:.1} while they caught up, {:.1} \
             after",
            self.transactions_per_second_while,
            self.transactions_per_second_behind,
            self.transactions_per_second_after
        )?;
        write!(
            f,
            "longest gap           {:.0} ms without a transaction, until all were level",
            self.longest_gap_ms
        )
    }
}
