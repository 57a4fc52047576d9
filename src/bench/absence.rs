//! A guardian that is away for a while, under the load of everybody else's.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::load::Exchanges;
use crate::{federation::Federation, wait_for};

/// How long a guardian may need to come level.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What came of it. Transactions are those whose notes became spendable.
#[derive(Debug, Serialize)]
pub struct Absence {
    /// From the guardian's end to its start.
    pub seconds: f64,
    /// From its start until it is ready and where another guardian is.
    pub level_after_seconds: f64,
    /// The longest time from its end until it is level in which no transaction ended.
    pub longest_gap_ms: f64,
    /// While it was away.
    pub transactions_per_second_while: f64,
    /// While it caught up.
    pub transactions_per_second_behind: f64,
    /// Behind that.
    pub transactions_per_second_after: f64,
}

/// When what happened.
pub(super) struct Times {
    stopped: Instant,
    started: Instant,
    level: Instant,
    over: Instant,
}

/// Has the last guardian stopped for so long and waits until it is level, and `after`
/// that.
pub(super) async fn of(
    federation: &Federation,
    away: Duration,
    after: Duration,
    tell: &mut impl FnMut(&str),
) -> Result<Times> {
    let number = federation.size() - 1;
    let guardian = &federation.guardians[number];
    tell(&format!(
        "{} is stopped for {} s",
        guardian.name(),
        away.as_secs()
    ));
    let stopped = Instant::now();
    guardian.stop().await?;
    tokio::time::sleep(away).await;
    let started = Instant::now();
    federation.start(number)?;
    tell("it is back");
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
    let level = Instant::now();
    tell(&format!("it is level; {} s more", after.as_secs()));
    tokio::time::sleep(after).await;
    Ok(Times {
        stopped,
        started,
        level,
        over: Instant::now(),
    })
}

impl Absence {
    pub(super) fn of(times: &Times, exchanges: &Exchanges) -> Self {
        let gap = exchanges.longest_gap(times.stopped, times.level);
        Self {
            seconds: (times.started - times.stopped).as_secs_f64(),
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
            "a guardian away       for {:.0} s, level {:.1} s after its start",
            self.seconds, self.level_after_seconds
        )?;
        writeln!(
            f,
            "transactions/s        {:.1} while it was away, {:.1} while it caught up, {:.1} after",
            self.transactions_per_second_while,
            self.transactions_per_second_behind,
            self.transactions_per_second_after
        )?;
        write!(
            f,
            "longest gap           {:.0} ms without a transaction, until it was level",
            self.longest_gap_ms
        )
    }
}
