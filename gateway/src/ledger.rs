//! Whether nothing is lost.
//!
//! The ledger knows the most that there ever was and holds what there is against it:
//! what the node has on chain and in channels, e-cash, and what is under way. A
//! payment under way counts in full, and for a while after, because its e-cash comes
//! a little later: the ledger sees a loss late rather than one that is none.

use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    journal::{IncomingState, Journal, Logged, Mark, OutgoingState},
    lightning::NodeBalance,
    now,
};

/// So long a payment out that has arrived counts as under way: its contract is being
/// claimed.
const CLAIM_SECONDS: u64 = 600;
/// How many lines of the log are looked at for these.
const RECENT: usize = 2_000;

/// When the ledger speaks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// A smaller loss is none: fees of channels and of the federation, millisatoshi.
    pub grace_msat: u64,
    /// It warns from this part on, millionths of the most there was.
    pub warn_parts_per_million: u64,
    /// It halts from this part on, millionths.
    pub halt_parts_per_million: u64,
    /// So long it must last: e-cash that is change is on its way for a moment.
    pub patience_seconds: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            grace_msat: 50_000_000,
            warn_parts_per_million: 20_000,
            halt_parts_per_million: 100_000,
            patience_seconds: 60,
        }
    }
}

/// What was counted last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Solvency {
    /// `ok`, `warning` or `halted`.
    pub status: String,
    /// On chain, millisatoshi.
    pub onchain_msat: u64,
    /// In channels, millisatoshi.
    pub lightning_msat: u64,
    /// E-cash of all federations, millisatoshi.
    pub ecash_msat: u64,
    /// Under way, millisatoshi.
    pub under_way_msat: u64,
    /// All of it.
    pub total_msat: u64,
    /// The most that was ever there since the operator last looked, less what was taken
    /// out, millisatoshi.
    pub highest_msat: u64,
    /// What is missing of it, millisatoshi.
    pub missing_msat: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    thresholds: Thresholds,
    last: Mutex<Solvency>,
    /// Since when more is missing than there may.
    missing: Mutex<Option<Instant>>,
    /// The mark is read and written back: one at a time.
    marking: Mutex<()>,
}

impl Ledger {
    /// A ledger that speaks up at these thresholds.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            last: Mutex::default(),
            missing: Mutex::default(),
            marking: Mutex::default(),
        }
    }

    /// What was counted last.
    pub fn last(&self) -> Solvency {
        self.last.lock().clone()
    }

    /// Why nothing new is begun, if the gateway has halted.
    ///
    /// # Errors
    /// The disk fails.
    pub fn halted(&self, journal: &Journal) -> Result<Option<String>> {
        Ok(journal.mark()?.halted.then(|| {
            "this gateway has halted because money is missing; its operator is to look".to_owned()
        }))
    }

    /// Counts, warns, halts.
    ///
    /// # Errors
    /// The disk fails.
    pub fn check(
        &self,
        journal: &Journal,
        node: &NodeBalance,
        ecash_msat: u64,
    ) -> Result<Solvency> {
        let _one = self.marking.lock();
        let under_way_msat = under_way(journal)?;
        let onchain_msat = node.onchain_sat.saturating_mul(1000);
        let lightning_msat = node.lightning_sat.saturating_mul(1000);
        let certain = onchain_msat
            .saturating_add(lightning_msat)
            .saturating_add(ecash_msat);
        let total_msat = certain.saturating_add(under_way_msat);
        let before = journal.mark()?;
        let mut mark = Mark {
            highest_msat: before.highest_msat.max(certain),
            ..before
        };
        let missing_msat = mark.highest_msat.saturating_sub(total_msat);
        let parts = |parts: u64| {
            let limit = u128::from(mark.highest_msat) * u128::from(parts) / 1_000_000;
            u64::try_from(limit)
                .unwrap_or(u64::MAX)
                .max(self.thresholds.grace_msat)
        };
        let warns = missing_msat > parts(self.thresholds.warn_parts_per_million);
        let lasting = {
            let mut since = self.missing.lock();
            match warns {
                true => Some(since.get_or_insert_with(Instant::now).elapsed()),
                false => {
                    *since = None;
                    None
                }
            }
        };
        let patience = Duration::from_secs(self.thresholds.patience_seconds);
        let warns = lasting.is_some_and(|lasting| lasting >= patience);
        if warns && missing_msat > parts(self.thresholds.halt_parts_per_million) {
            mark.halted = true;
        }
        if mark != before {
            journal.put_mark(&mark)?;
        }
        let solvency = Solvency {
            status: match (mark.halted, warns) {
                (true, _) => "halted",
                (false, true) => "warning",
                (false, false) => "ok",
            }
            .to_owned(),
            onchain_msat,
            lightning_msat,
            ecash_msat,
            under_way_msat,
            total_msat,
            highest_msat: mark.highest_msat,
            missing_msat,
        };
        if mark.halted && !before.halted {
            tracing::error!(missing_msat, "money is missing: the gateway halts");
        } else if warns {
            tracing::warn!(missing_msat, "money is missing");
        }
        *self.last.lock() = solvency.clone();
        Ok(solvency)
    }

    /// The operator has taken something out.
    ///
    /// # Errors
    /// The disk fails.
    pub fn taken_out(&self, journal: &Journal, msat: u64) -> Result<()> {
        let _one = self.marking.lock();
        let mark = journal.mark()?;
        journal.put_mark(&Mark {
            highest_msat: mark.highest_msat.saturating_sub(msat),
            ..mark
        })
    }

    /// The operator has looked: what is there now is the most there was, no federation
    /// owes anything, and the gateway goes on.
    ///
    /// # Errors
    /// The disk fails.
    pub fn accept(&self, journal: &Journal) -> Result<()> {
        let _one = self.marking.lock();
        *self.missing.lock() = None;
        journal.accept()
    }
}

/// What payments under way are worth at most, millisatoshi.
fn under_way(journal: &Journal) -> Result<u64> {
    let out = journal.unfinished_outgoing()?;
    let out = out
        .iter()
        .map(|(_, row)| row.amount_msat.saturating_add(row.maximum_fee_msat));
    let incoming = journal.unfinished_incoming()?;
    let incoming = incoming.iter().map(|(_, row)| match row.state {
        IncomingState::Held { received_msat, .. } | IncomingState::Swap { received_msat, .. } => {
            received_msat
        }
        _ => row.amount_msat,
    });
    let since = now().saturating_sub(CLAIM_SECONDS);
    let recent = journal.log(None, RECENT)?;
    let claimed = recent.iter().map(|logged| match logged {
        Logged::Outgoing(_, row)
            if row.updated >= since && matches!(row.state, OutgoingState::Paid { .. }) =>
        {
            row.amount_msat.saturating_add(row.maximum_fee_msat)
        }
        _ => 0,
    });
    Ok(out
        .chain(incoming)
        .chain(claimed)
        .fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    use super::*;

    fn holds(sat: u64) -> NodeBalance {
        NodeBalance {
            lightning_sat: sat,
            ..NodeBalance::default()
        }
    }

    fn ledger(patience_seconds: u64) -> Ledger {
        Ledger::new(Thresholds {
            grace_msat: 1_000,
            patience_seconds,
            ..Thresholds::default()
        })
    }

    #[test]
    fn it_warns_then_halts_and_goes_on_when_the_operator_has_looked() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let ledger = ledger(0);
        let status = |sat, ecash| ledger.check(&journal, &holds(sat), ecash).unwrap().status;
        assert_eq!(status(1_000, 500_000), "ok");
        // From here to there and back: nothing is missing.
        assert_eq!(status(500, 1_000_000), "ok");
        assert_eq!(status(500, 980_000), "ok");
        assert_eq!(status(500, 960_000), "warning");
        assert_eq!(status(500, 990_000), "ok");
        assert!(ledger.halted(&journal).unwrap().is_none());
        assert_eq!(status(500, 800_000), "halted");
        // It does not go on by itself.
        assert_eq!(status(1_000, 1_000_000), "halted");
        assert!(ledger.halted(&journal).unwrap().is_some());
        ledger.accept(&journal).unwrap();
        assert_eq!(status(500, 800_000), "ok");
        ledger.taken_out(&journal, 800_000).unwrap();
        assert_eq!(status(500, 0), "ok");
    }

    #[test]
    fn what_is_missing_for_a_moment_is_not_missing() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let ledger = ledger(3_600);
        for (sat, ecash) in [(1_000, 1_000_000), (0, 0), (1_000, 1_000_000)] {
            let solvency = ledger.check(&journal, &holds(sat), ecash).unwrap();
            assert_eq!(solvency.status, "ok");
        }
        assert!(ledger.halted(&journal).unwrap().is_none());
    }
}
