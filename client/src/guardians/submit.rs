//! A transaction's way into consensus, and its fate.
//!
//! It is given to one guardian at random, undecided after a second to f more, and
//! at last to all; a guardian that refuses it has an opinion, no more. What is
//! final is told by f + 1 guardians, and each tells with it what it contributes to the
//! outputs' outcomes. Past its expiry an undecided transaction is
//! dead: guardians whose agreed time is past it can never decide it any more, and
//! if n − f of those know neither a decision nor an outcome of its first output,
//! nobody does. (Decisions may be forgotten after the expiry; outcomes are not.)

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use modmint_core::{
    InstanceId, OutPoint, PeerId, Refusal, TxId, config::HexBytes, consensus::TransactionStatus,
};
use tokio::sync::{mpsc, watch};

use super::{AskError, Guardian, Guardians, quorum::LONG_POLL};
use crate::{host::device_time, operation::Fate};

/// When f more guardians are given an undecided transaction.
const SECOND_ROUND: Duration = Duration::from_secs(1);
/// When all are, and again: a guardian that was restarted has forgotten it.
const LATER_ROUNDS: Duration = Duration::from_secs(5);
/// Between two looks at one guardian that answered at once: first, and at most.
const LEAST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long contributions of n − f guardians are waited for once the fate is known:
/// who has none then can be asked for them.
const CONTRIBUTIONS: Duration = Duration::from_millis(150);
/// How often a guardian is asked whether the expiry is past, whatever this
/// device's clock says.
const PAST_ROUNDS: Duration = Duration::from_secs(20);

/// Why one guardian did not take a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Why.
    pub refusal: Refusal,
    /// The transaction's input that is refused, if it is one.
    pub input: Option<u16>,
    /// The transaction's output that is refused, if it is one.
    pub output: Option<u16>,
}

/// What guardians said when they were given a transaction that they did not
/// take. It is not final: the reason may go away until the transaction expires.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opinions {
    /// By guardian.
    pub refusals: BTreeMap<PeerId, Opinion>,
    /// Guardians that took it.
    pub taken: BTreeSet<PeerId>,
}

impl Opinions {
    /// The refusal, if `threshold` guardians refused and none took it: that of
    /// the code that most of them gave.
    pub fn refused_by(&self, threshold: usize) -> Option<&Opinion> {
        if self.refusals.len() < threshold || !self.taken.is_empty() {
            return None;
        }
        let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
        for opinion in self.refusals.values() {
            *codes.entry(&opinion.refusal.code).or_default() += 1;
        }
        let (code, _) = codes.into_iter().max_by_key(|(_, count)| *count)?;
        self.refusals
            .values()
            .find(|opinion| opinion.refusal.code == code)
    }
}

/// What guardians contribute to the outcomes of one transaction's outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contributions {
    /// The outputs' instances, in their order.
    pub instances: Vec<InstanceId>,
    /// Each guardian's, one for each output; none where it had none yet.
    pub by: Vec<(PeerId, Vec<Option<HexBytes>>)>,
}

/// What one guardian knows.
enum Known {
    /// A final status, its text, and the guardian's contributions to outcomes.
    Decided(TransactionStatus, Option<String>, Vec<Option<HexBytes>>),
    /// Past the expiry: whether its first output has an outcome.
    Past { outcome: bool },
}

impl Guardians {
    /// Brings a transaction into consensus and learns its fate. Never gives up by
    /// itself. `outputs` are the instances of its outputs; `opinions` is told what
    /// guardians say that do not take it.
    pub(crate) async fn submit(
        &self,
        txid: TxId,
        bytes: &[u8],
        expires: u64,
        outputs: &[InstanceId],
        opinions: &watch::Sender<Opinions>,
    ) -> (Fate, Contributions) {
        let (tell, mut told) = mpsc::unbounded_channel();
        let look = self.in_turn().map(|(guardian, wait)| {
            let tell = tell.clone();
            async move {
                Self::turn(wait).await;
                loop {
                    let known = look(&guardian, &txid, expires, outputs).await;
                    let is_final = matches!(known, Known::Decided(..));
                    if tell.send((guardian.peer, known)).is_err() || is_final {
                        return;
                    }
                    tokio::time::sleep(LONGEST_PAUSE).await;
                }
            }
        });
        let looking = async {
            futures::future::join_all(look).await;
            std::future::pending::<Infallible>().await
        };
        let judging = async {
            let mut known = BTreeMap::new();
            let fate = loop {
                let (peer, news) = heard(&mut told).await;
                known.insert(peer, news);
                if let Some(fate) = self.judge(&known) {
                    break fate;
                }
            };
            if fate == Fate::Accepted && !outputs.is_empty() {
                let enough = async {
                    while contributions(&known, outputs).count() < self.threshold() {
                        let (peer, news) = heard(&mut told).await;
                        known.insert(peer, news);
                    }
                };
                // With fewer the others are asked for theirs.
                let _ = tokio::time::timeout(CONTRIBUTIONS, enough).await;
            }
            let by = contributions(&known, outputs).collect();
            let instances = outputs.to_vec();
            (fate, Contributions { instances, by })
        };
        tokio::select! {
            decided = judging => decided,
            never = looking => match never {},
            never = self.give(bytes, opinions) => match never {},
        }
    }

    /// Gives the transaction to guardians, for ever.
    async fn give(&self, bytes: &[u8], opinions: &watch::Sender<Opinions>) -> Infallible {
        let mut order = self.by_health().into_iter();
        let give = |guardian: Arc<Guardian>| async move {
            match guardian.submit(bytes).await {
                Ok(_) => {
                    opinions.send_modify(|opinions| {
                        opinions.refusals.remove(&guardian.peer);
                        opinions.taken.insert(guardian.peer);
                    });
                    true
                }
                Err(AskError::Refused(problem)) => {
                    let opinion = Opinion {
                        refusal: Refusal::new(problem.code, problem.detail),
                        input: problem.input,
                        output: problem.output,
                    };
                    opinions.send_if_modified(|opinions| {
                        opinions.refusals.insert(guardian.peer, opinion.clone()) != Some(opinion)
                    });
                    false
                }
                Err(_) => false,
            }
        };
        // To one, and while nobody has it to the next; a second later to f more.
        for (more, pause) in [(1, SECOND_ROUND), (self.proof() - 1, LATER_ROUNDS)] {
            let begun = Instant::now();
            let mut giving: FuturesUnordered<_> = order.by_ref().take(more).map(&give).collect();
            let round = async {
                while let Some(took) = giving.next().await {
                    if !took && let Some(next) = order.next() {
                        giving.push(give(next));
                    }
                }
            };
            // Who does not answer within the round holds up nobody.
            if tokio::time::timeout(pause, round).await.is_ok() {
                let refused = opinions.borrow().taken.is_empty();
                if !refused {
                    tokio::time::sleep(pause.saturating_sub(begun.elapsed())).await;
                }
            }
        }
        loop {
            let begun = Instant::now();
            let all: FuturesUnordered<_> = self
                .all()
                .iter()
                .filter(|guardian| guardian.health.pause().is_zero())
                .cloned()
                .map(&give)
                .collect();
            let round = all.for_each(|_| std::future::ready(()));
            // Time out or not: it goes on.
            let _ = tokio::time::timeout(LATER_ROUNDS * 2, round).await;
            tokio::time::sleep(
                LATER_ROUNDS
                    .saturating_sub(begun.elapsed())
                    .max(LONGEST_PAUSE),
            )
            .await;
        }
    }

    fn judge(&self, known: &BTreeMap<PeerId, Known>) -> Option<Fate> {
        // A fact is proven by f + 1 equal answers.
        for news in known.values() {
            let Known::Decided(status, message, _) = news else {
                continue;
            };
            let equal = known
                .values()
                .filter(|other| matches!(other, Known::Decided(other, ..) if other == status))
                .count();
            if equal >= self.proof() {
                return Fate::of(status, message.as_deref());
            }
        }
        let count = |wanted: bool| {
            known
                .values()
                .filter(|news| matches!(news, Known::Past { outcome } if *outcome == wanted))
                .count()
        };
        let accepted = known
            .values()
            .filter(|news| {
                matches!(
                    news,
                    Known::Past { outcome: true }
                        | Known::Decided(TransactionStatus::Accepted { .. }, ..)
                )
            })
            .count();
        if accepted >= self.proof() {
            return Some(Fate::Accepted);
        }
        (count(false) >= self.threshold()).then(|| Fate::Rejected {
            refusal: Refusal::new(
                "expired",
                "the federation did not decide the transaction before it expired; try again",
            ),
            input: None,
            output: None,
        })
    }
}

type Told = mpsc::UnboundedReceiver<(PeerId, Known)>;

/// What comes next. Whoever hears holds a sender, so there is no end.
async fn heard(told: &mut Told) -> (PeerId, Known) {
    match told.recv().await {
        Some(news) => news,
        None => std::future::pending().await,
    }
}

/// The contributions of those who gave one for each output.
fn contributions(
    known: &BTreeMap<PeerId, Known>,
    outputs: &[InstanceId],
) -> impl Iterator<Item = (PeerId, Vec<Option<HexBytes>>)> {
    known.iter().filter_map(|(peer, news)| match news {
        Known::Decided(TransactionStatus::Accepted { .. }, _, given)
            if given.len() == outputs.len() =>
        {
            Some((*peer, given.clone()))
        }
        _ => None,
    })
}

/// One guardian, asked until it knows something.
async fn look(guardian: &Guardian, txid: &TxId, expires: u64, outputs: &[InstanceId]) -> Known {
    let mut pause = LEAST_PAUSE;
    let mut next_past = Instant::now() + PAST_ROUNDS;
    loop {
        let begun = Instant::now();
        if let Ok(response) = guardian.transaction(txid, outputs, LONG_POLL).await
            && response.txid == *txid
            && response.status.is_final()
        {
            return Known::Decided(response.status, response.message, response.outcomes);
        }
        // This device's clock is a hint and no more: whether the transaction is
        // past its expiry the guardian says.
        if device_time() >= expires || Instant::now() >= next_past {
            if let Some(known) = past(guardian, txid, expires, outputs).await {
                return known;
            }
            next_past = Instant::now() + PAST_ROUNDS;
        }
        // A guardian that waits as asked is asked again at once.
        if begun.elapsed() < LONG_POLL / 2 {
            guardian.health.rest(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What the guardian knows of the transaction behind its expiry, if its agreed
/// time is past that. Agreed time is asked first: what is undecided then stays
/// so.
async fn past(
    guardian: &Guardian,
    txid: &TxId,
    expires: u64,
    outputs: &[InstanceId],
) -> Option<Known> {
    if guardian.status().await.ok()?.unix_time < expires {
        return None;
    }
    let response = guardian.transaction(txid, outputs, Duration::ZERO).await;
    let response = response.ok()?;
    if response.txid == *txid && response.status.is_final() {
        return Some(Known::Decided(
            response.status,
            response.message,
            response.outcomes,
        ));
    }
    let outcome = match outputs.first() {
        None => false,
        Some(instance) => {
            let first = OutPoint {
                txid: *txid,
                index: 0,
            };
            let outcomes = guardian
                .outcomes(*instance, &[first], Duration::ZERO)
                .await
                .ok()?;
            outcomes.first()?.is_some()
        }
    };
    Some(Known::Past { outcome })
}
