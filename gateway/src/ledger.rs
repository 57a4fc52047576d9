//! Whether nothing is lost.
//!
//! There is a book of the gateway's own money, and one for each federation. In the
//! gateway's own counts what the node has on chain and in channels, and what it has given
//! for federations' users and not had back, as the journal says: a federation's word is
//! not needed for it. In a federation's own book counts its e-cash, less what was given
//! for it. So a federation whose module says what is not true, or nothing, spoils its own
//! book, and nobody else's.
//!
//! Each book knows the most that there ever was and holds what there is against it. A
//! payment under way counts in full, and for a while after, because its e-cash comes a
//! little later: the ledger sees a loss late rather than one that is none.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use anyhow::Result;
use modmint_core::FederationId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    journal::{Book, IncomingState, Journal, Logged, OutgoingState},
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
    /// `ok`; `warning`, also where it is of one federation alone; `halted`, the whole
    /// gateway.
    pub status: String,
    /// On chain, millisatoshi.
    pub onchain_msat: u64,
    /// In channels, millisatoshi.
    pub lightning_msat: u64,
    /// E-cash of all federations that can say how much it is, millisatoshi.
    pub ecash_msat: u64,
    /// Under way, millisatoshi.
    pub under_way_msat: u64,
    /// All of it.
    pub total_msat: u64,
    /// The most that was ever there since the operator last looked, less what was taken
    /// out, in all books together, millisatoshi.
    pub highest_msat: u64,
    /// What is missing of it, millisatoshi.
    pub missing_msat: u64,
    /// Each federation's own book.
    pub federations: Vec<FederationSolvency>,
}

/// What was counted last in one federation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FederationSolvency {
    /// Which.
    pub id: FederationId,
    /// `ok`, `warning`, or `halted`: nothing new is begun in it.
    pub status: String,
    /// Its e-cash, millisatoshi; none if it cannot say.
    pub ecash_msat: Option<u64>,
    /// What is missing of the most there was, millisatoshi.
    pub missing_msat: u64,
    /// Why it has halted.
    pub problem: Option<String>,
}

/// What there is, to be counted.
pub struct Held {
    /// The federations' books as they were before anything else was asked: what moves
    /// meanwhile is counted where it does not make more of it.
    pub before: BTreeMap<FederationId, Book>,
    /// The node's.
    pub node: NodeBalance,
    /// Of each federation, millisatoshi, or why it cannot be said.
    pub ecash: Vec<(FederationId, Result<u64>)>,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    thresholds: Thresholds,
    last: Mutex<Solvency>,
    /// Since when more is missing than there may, of a federation or of the gateway's own.
    missing: Mutex<HashMap<Option<FederationId>, Instant>>,
    /// What federations cannot say what e-cash there is, and why.
    silent: Mutex<HashMap<FederationId, String>>,
    /// Counted one at a time.
    counting: Mutex<()>,
}

impl Ledger {
    /// A ledger that speaks up at these thresholds.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            last: Mutex::default(),
            missing: Mutex::default(),
            silent: Mutex::default(),
            counting: Mutex::default(),
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
        Ok(journal.book(None)?.halted.then(|| {
            "this gateway has halted because money is missing; its operator is to look".to_owned()
        }))
    }

    /// Why nothing new is begun in a federation, if that or the gateway has halted.
    ///
    /// # Errors
    /// The disk fails.
    pub fn halted_in(
        &self,
        journal: &Journal,
        federation: &FederationId,
    ) -> Result<Option<String>> {
        if let Some(reason) = self.halted(journal)? {
            return Ok(Some(reason));
        }
        if let Some(reason) = self.silent.lock().get(federation) {
            return Ok(Some(format!(
                "this gateway does nothing new in this federation while it cannot count its e-cash there: {reason}"
            )));
        }
        Ok(journal.book(Some(federation))?.halted.then(|| {
            "this gateway has halted in this federation because money is missing there; its operator is to look".to_owned()
        }))
    }

    /// Counts, warns, halts.
    ///
    /// # Errors
    /// The disk fails.
    pub fn check(&self, journal: &Journal, held: Held) -> Result<Solvency> {
        let _one = self.counting.lock();
        let Held {
            before,
            node,
            ecash,
        } = held;
        let way = UnderWay::of(journal)?;
        let after = journal.books()?;
        let net = |books: &BTreeMap<FederationId, Book>| -> i128 {
            books.values().map(|book| book.net_msat).sum()
        };
        let onchain_msat = node.onchain_sat.saturating_mul(1000);
        let lightning_msat = node.lightning_sat.saturating_mul(1000);
        let given = net(&before).min(net(&after));
        // What is being settled may be in the channel already, and has not come back yet
        // by the journal.
        let own = i128::from(onchain_msat) + i128::from(lightning_msat) + given - way.settling;
        let own = self.weigh(journal, None, own, way.out + way.settling, given)?;
        let mut solvency = Solvency {
            status: own.status.to_owned(),
            onchain_msat,
            lightning_msat,
            under_way_msat: unsigned(way.all()),
            ..Solvency::default()
        };
        let (mut highest, mut missing) = (own.highest, own.missing);
        let mut silent = HashMap::new();
        for (id, ecash) in ecash {
            let ecash = match ecash {
                Ok(ecash) => ecash,
                Err(e) => {
                    tracing::error!(federation = %id, "its e-cash cannot be counted: {e:#}");
                    silent.insert(id, format!("{e:#}"));
                    continue;
                }
            };
            solvency.ecash_msat = solvency.ecash_msat.saturating_add(ecash);
            let net = |books: &BTreeMap<FederationId, Book>| {
                books.get(&id).map_or(0, |book| book.net_msat)
            };
            let given = net(&before).max(net(&after));
            let highest_in = |books: &BTreeMap<FederationId, Book>| {
                books.get(&id).and_then(|book| book.highest_msat)
            };
            let there = i128::from(ecash) - given;
            // What the operator has taken out since it was counted is not there any more.
            let there = match (highest_in(&before), highest_in(&after)) {
                (Some(then), Some(most)) if most < then => there.min(most),
                _ => there,
            };
            let book = self.weigh(journal, Some(&id), there, way.in_federation(&id), -given)?;
            highest += book.highest;
            missing += book.missing;
            solvency.federations.push(FederationSolvency {
                id,
                status: book.status.to_owned(),
                ecash_msat: Some(ecash),
                missing_msat: unsigned(book.missing),
                problem: (book.status == HALTED).then(|| "money is missing".to_owned()),
            });
        }
        for (id, problem) in &silent {
            solvency.federations.push(FederationSolvency {
                id: *id,
                status: HALTED.to_owned(),
                ecash_msat: None,
                missing_msat: 0,
                problem: Some(problem.clone()),
            });
        }
        *self.silent.lock() = silent;
        let sound = |book: &FederationSolvency| book.status == OK;
        if solvency.status == OK && !solvency.federations.iter().all(sound) {
            solvency.status = WARNING.to_owned();
        }
        solvency.total_msat = onchain_msat
            .saturating_add(lightning_msat)
            .saturating_add(solvency.ecash_msat)
            .saturating_add(solvency.under_way_msat);
        (solvency.highest_msat, solvency.missing_msat) = (unsigned(highest), unsigned(missing));
        *self.last.lock() = solvency.clone();
        Ok(solvency)
    }

    /// Holds what is in one book against the most there was: `there` for certain,
    /// `under_way` perhaps. `elsewhere` of it is not in the book's own hands; what should
    /// be in these is what a loss is measured against.
    fn weigh(
        &self,
        journal: &Journal,
        federation: Option<&FederationId>,
        there: i128,
        under_way: i128,
        elsewhere: i128,
    ) -> Result<Weighed> {
        let before = journal.book(federation)?;
        let highest = before.highest_msat.map_or(there, |most| most.max(there));
        let missing = (highest - there - under_way).max(0);
        let most = highest.max(highest - elsewhere).max(0);
        let parts = |parts: u64| {
            let limit = most.saturating_mul(parts.into()) / 1_000_000;
            limit.max(self.thresholds.grace_msat.into())
        };
        let warns = missing > parts(self.thresholds.warn_parts_per_million);
        let lasting = {
            let mut since = self.missing.lock();
            match warns {
                true => {
                    let since = since.entry(federation.copied());
                    Some(since.or_insert_with(Instant::now).elapsed())
                }
                false => {
                    since.remove(&federation.copied());
                    None
                }
            }
        };
        let patience = Duration::from_secs(self.thresholds.patience_seconds);
        let warns = lasting.is_some_and(|lasting| lasting >= patience);
        let halts = warns && missing > parts(self.thresholds.halt_parts_per_million);
        let book = journal.update_book(federation, |book| {
            // What the operator has taken out meanwhile is not there any more.
            if book.highest_msat == before.highest_msat {
                book.highest_msat = Some(highest);
            }
            book.halted |= halts;
        })?;
        let whose = || federation.map_or("the gateway's own".to_owned(), ToString::to_string);
        if book.halted && !before.halted {
            tracing::error!(book = %whose(), missing, "money is missing: nothing new is begun");
        } else if warns {
            tracing::warn!(book = %whose(), missing, "money is missing");
        }
        Ok(Weighed {
            status: match (book.halted, warns) {
                (true, _) => HALTED,
                (false, true) => WARNING,
                (false, false) => OK,
            },
            highest,
            missing,
        })
    }

    /// The operator has taken something out of the gateway's own.
    ///
    /// # Errors
    /// The disk fails.
    pub fn taken_out(&self, journal: &Journal, msat: u64) -> Result<()> {
        journal.update_book(None, |book| {
            book.highest_msat = book.highest_msat.map(|most| most - i128::from(msat));
        })?;
        Ok(())
    }

    /// The operator has looked: what is there now is the most there was, no federation
    /// owes anything, and the gateway goes on.
    ///
    /// # Errors
    /// The disk fails.
    pub fn accept(&self, journal: &Journal) -> Result<()> {
        let _one = self.counting.lock();
        self.missing.lock().clear();
        journal.accept()
    }
}

const OK: &str = "ok";
const WARNING: &str = "warning";
const HALTED: &str = "halted";

/// How a book stands, millisatoshi.
struct Weighed {
    status: &'static str,
    highest: i128,
    missing: i128,
}

/// For whoever reads: what is less than nothing is nothing.
fn unsigned(msat: i128) -> u64 {
    u64::try_from(msat.max(0)).unwrap_or(u64::MAX)
}

/// What payments under way are worth at most, millisatoshi.
#[derive(Default)]
struct UnderWay {
    /// Of payments out that are not over: the node may have sent it.
    out: i128,
    /// Of payments in that the node is told to settle.
    settling: i128,
    /// What payments in may have cost, and payments out have yet to bring, in each
    /// federation.
    ecash: HashMap<FederationId, i128>,
}

impl UnderWay {
    fn of(journal: &Journal) -> Result<Self> {
        let mut way = Self::default();
        for (_, row) in journal.unfinished_outgoing()? {
            way.out += i128::from(row.amount_msat) + i128::from(row.maximum_fee_msat);
        }
        for (_, row) in journal.unfinished_incoming()? {
            let worth = match row.state {
                IncomingState::Held { received_msat, .. }
                | IncomingState::Swap { received_msat, .. } => received_msat,
                _ => row.amount_msat,
            };
            if let IncomingState::Settling { .. } = row.state {
                way.settling += i128::from(worth);
            }
            *way.ecash.entry(row.federation).or_default() += i128::from(worth);
        }
        let since = now().saturating_sub(CLAIM_SECONDS);
        for logged in journal.log(None, RECENT)? {
            if let Logged::Outgoing(_, row) = logged
                && row.updated >= since
                && matches!(row.state, OutgoingState::Paid { .. })
            {
                let worth = i128::from(row.amount_msat) + i128::from(row.maximum_fee_msat);
                *way.ecash.entry(row.federation).or_default() += worth;
            }
        }
        Ok(way)
    }

    fn in_federation(&self, federation: &FederationId) -> i128 {
        self.ecash.get(federation).copied().unwrap_or(0)
    }

    fn all(&self) -> i128 {
        self.out + self.ecash.values().sum::<i128>()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    use modmint_core::Hash32;

    use super::*;
    use crate::journal::Outgoing;

    const GOOD: FederationId = FederationId([1; 32]);
    const BAD: FederationId = FederationId([2; 32]);

    fn ledger(patience_seconds: u64) -> Ledger {
        Ledger::new(Thresholds {
            grace_msat: 1_000,
            patience_seconds,
            ..Thresholds::default()
        })
    }

    fn check(
        ledger: &Ledger,
        journal: &Journal,
        sat: u64,
        ecash: Vec<(FederationId, Result<u64>)>,
    ) -> Solvency {
        let held = Held {
            before: journal.books().unwrap(),
            node: NodeBalance {
                lightning_sat: sat,
                ..NodeBalance::default()
            },
            ecash,
        };
        ledger.check(journal, held).unwrap()
    }

    /// A payment of the node's for a federation's user, which arrived long ago.
    fn pays(journal: &Journal, federation: FederationId, n: u8, amount_msat: u64) {
        let row = Outgoing {
            number: 0,
            federation,
            contract: Hash32([n; 32]),
            invoice: String::new(),
            amount_msat,
            maximum_fee_msat: 0,
            latest_height: 0,
            swap: false,
            created: 1,
            updated: 1,
            state: OutgoingState::Started { uncertain: false },
        };
        let hash = Hash32([n; 32]);
        journal.begin_outgoing(hash, row, None).unwrap();
        journal.pay_outgoing(hash, hash, 0).unwrap();
    }

    #[test]
    fn it_warns_then_halts_and_goes_on_when_the_operator_has_looked() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let ledger = ledger(0);
        let status = |sat| check(&ledger, &journal, sat, Vec::new()).status;
        assert_eq!(status(1_000), "ok");
        // From here to there: nothing is missing.
        pays(&journal, GOOD, 1, 500_000);
        assert_eq!(status(500), "ok");
        assert_eq!(status(480), "ok");
        assert_eq!(status(470), "warning");
        assert_eq!(status(490), "ok");
        assert!(ledger.halted(&journal).unwrap().is_none());
        assert_eq!(status(300), "halted");
        // It does not go on by itself.
        assert_eq!(status(1_000), "halted");
        assert!(ledger.halted(&journal).unwrap().is_some());
        assert!(ledger.halted_in(&journal, &GOOD).unwrap().is_some());
        ledger.accept(&journal).unwrap();
        assert_eq!(status(300), "ok");
        ledger.taken_out(&journal, 300_000).unwrap();
        assert_eq!(status(0), "ok");
    }

    #[test]
    fn what_is_missing_for_a_moment_is_not_missing() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let ledger = ledger(3_600);
        for (sat, ecash) in [(1_000, 1_000_000), (0, 0), (1_000, 1_000_000)] {
            let solvency = check(&ledger, &journal, sat, vec![(GOOD, Ok(ecash))]);
            assert_eq!(solvency.status, "ok");
        }
        assert!(ledger.halted(&journal).unwrap().is_none());
    }

    #[test]
    fn a_federation_that_says_too_much_or_nothing_halts_itself_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let ledger = ledger(0);
        let says = |bad: Result<u64>| {
            let ecash = vec![(GOOD, Ok(1_000_000)), (BAD, bad)];
            let solvency = check(&ledger, &journal, 1_000, ecash);
            let bad = solvency.federations.iter().find(|book| book.id == BAD);
            let good = solvency.federations.iter().find(|book| book.id == GOOD);
            assert_eq!(good.unwrap().status, "ok");
            assert!(ledger.halted_in(&journal, &GOOD).unwrap().is_none());
            (solvency.status.clone(), bad.unwrap().clone())
        };
        let halted = || ledger.halted_in(&journal, &BAD).unwrap().is_some();
        assert_eq!(says(Ok(5_000)).1.status, "ok");
        // It traps, for as long as it does.
        let (all, bad) = says(Err(anyhow::anyhow!("it traps")));
        assert_eq!((all.as_str(), bad.status.as_str()), ("warning", "halted"));
        assert_eq!(bad.problem.as_deref(), Some("it traps"));
        assert!(halted());
        assert_eq!(says(Ok(5_000)).0, "ok");
        assert!(!halted());
        // As much as there cannot be, and then no more than there is.
        assert_eq!(says(Ok(u64::MAX)).1.status, "ok");
        let (all, bad) = says(Ok(5_000));
        assert_eq!((all.as_str(), bad.status.as_str()), ("warning", "halted"));
        assert!(halted());
        ledger.accept(&journal).unwrap();
        assert_eq!(says(Ok(5_000)).0, "ok");
    }

    #[test]
    fn what_a_federation_keeps_of_what_was_paid_for_its_users_is_missing_there() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let ledger = ledger(0);
        let of = |sat, bad| {
            let ecash = vec![(GOOD, Ok(1_000_000)), (BAD, Ok(bad))];
            let solvency = check(&ledger, &journal, sat, ecash);
            let missing = solvency.federations.iter().map(|book| book.missing_msat);
            (solvency.missing_msat, missing.collect::<Vec<_>>())
        };
        assert_eq!(of(1_000, 500_000), (0, vec![0, 0]));
        pays(&journal, BAD, 1, 200_000);
        // Its contract may be being claimed.
        assert_eq!(of(800, 500_000), (0, vec![0, 0]));
        // And has been, for 1 sat more.
        assert_eq!(of(800, 701_000), (0, vec![0, 0]));
        journal.taken_from(&BAD, 100_000).unwrap();
        assert_eq!(of(800, 601_000), (0, vec![0, 0]));
        // What is claimed counts for a while; the rest is missed at once.
        assert_eq!(of(800, 301_000), (100_000, vec![0, 100_000]));
    }
}
