//! All guardians of a federation, and when answers are believed.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use borsh::{BorshDeserialize, BorshSerialize};
use futures::{StreamExt, stream::FuturesUnordered};
use modmint_core::{
    Argument, BundleHash, Hash32, InstanceId, OutPoint, PeerId, Refusal,
    config::{FederationConfig, HexBytes},
    rest::{QueryResponse, StatusResponse},
};
use modmint_runtime::wallet::{
    Agreement, OutcomeRequest, PeerAnswer, PeerOutcomes, QueryRequest as Query,
};
use rand::seq::SliceRandom;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{AskError, Guardian, Health, guardian::http_client};
use crate::WalletError;

/// How long guardians are asked to wait for what is not there yet.
pub(super) const LONG_POLL: Duration = Duration::from_secs(25);
/// Between two requests to one guardian that both said "not yet" at once.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// Between two rounds of `same` that found no agreement: first, and at most.
const ROUND_PAUSE: (Duration, Duration) = (Duration::from_millis(150), Duration::from_secs(5));
/// When `any` asks one guardian more, and when those are asked whose answers are not
/// needed if the others give theirs.
const STAGGER: Duration = Duration::from_millis(400);
/// How long a threshold may take to say where the federation stands.
const VIEW_PATIENCE: Duration = Duration::from_secs(12);
/// How often each guardian is asked meanwhile, before it counts as gone.
const VIEW_TRIES: usize = 4;

/// What the federation has agreed on, as far as f + 1 guardians have told.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize,
)]
pub struct FederationView {
    /// Agreed block height.
    pub block_height: u32,
    /// The block at that height, internal byte order, where f + 1 guardians name
    /// the same.
    pub block_hash: Option<Hash32>,
    /// Agreed time, seconds since 1970.
    pub unix_time: u64,
    /// Agreed fee rate, satoshi per 1000 virtual bytes.
    pub fee_rate: u64,
}

impl FederationView {
    /// The newest that `enough` = f + 1 of these guardians have reached: one of
    /// them is honest, so it is no higher than the truth, and liars alone do not
    /// hold it back once n − f have answered.
    fn of(answers: &[StatusResponse], enough: usize) -> Self {
        fn reached<T: Ord + Copy + Default>(mut values: Vec<T>, enough: usize) -> T {
            values.sort_unstable();
            values
                .len()
                .checked_sub(enough)
                .and_then(|at| values.get(at))
                .copied()
                .unwrap_or_default()
        }
        let block_height = reached(answers.iter().map(|a| a.block_height).collect(), enough);
        let mut hashes: BTreeMap<Hash32, usize> = BTreeMap::new();
        for answer in answers.iter().filter(|a| a.block_height == block_height) {
            *hashes.entry(answer.block_hash).or_default() += 1;
        }
        Self {
            block_height,
            block_hash: hashes
                .into_iter()
                .find_map(|(hash, count)| (count >= enough).then_some(hash)),
            unix_time: reached(answers.iter().map(|a| a.unix_time).collect(), enough),
            fee_rate: reached(answers.iter().map(|a| a.fee_rate).collect(), enough),
        }
    }

    /// Height and time never go back, whoever answers next.
    pub(crate) fn advance_to(&mut self, newer: Self) {
        if newer.block_height >= self.block_height {
            // The hash of this height may be known from before.
            if newer.block_height > self.block_height || newer.block_hash.is_some() {
                self.block_hash = newer.block_hash;
            }
            self.block_height = newer.block_height;
        }
        self.unix_time = self.unix_time.max(newer.unix_time);
        self.fee_rate = newer.fee_rate;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Guardians {
    all: Vec<Arc<Guardian>>,
    threshold: usize,
    faulty: usize,
}

impl Guardians {
    /// The guardians of a federation.
    ///
    /// # Errors
    /// A guardian's address is none.
    pub fn new(config: &FederationConfig) -> Result<Self, WalletError> {
        let http = http_client().map_err(|e| WalletError::Unreachable(e.to_string()))?;
        let all = config
            .peer_ids()
            .zip(&config.peers)
            .map(|(peer, known)| {
                Guardian::new(peer, &known.api_url, http.clone())
                    .map(Arc::new)
                    .ok_or_else(|| {
                        WalletError::Untrusted(format!(
                            "guardian {peer} has the address {:?}, which is neither http nor https",
                            known.api_url
                        ))
                    })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            all,
            threshold: config.threshold(),
            faulty: config.max_faulty(),
        })
    }

    /// All of them, by index.
    pub fn all(&self) -> &[Arc<Guardian>] {
        &self.all
    }

    /// n − f.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// f + 1: one of as many is honest.
    pub fn proof(&self) -> usize {
        self.faulty + 1
    }

    /// Those that answer before those of whom nothing is known, before those that
    /// failed; in random order within each.
    pub(super) fn by_health(&self) -> Vec<Arc<Guardian>> {
        let mut order = self.all.clone();
        order.shuffle(&mut rand::thread_rng());
        order.sort_by_key(|guardian| (guardian.health.is_bad(), !guardian.health.is_good()));
        order
    }

    /// Everybody, for questions that n − f answer: as many at once, the others when
    /// [`Self::turn`] has waited. Whoever is asked for nothing costs both sides.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = (Arc<Guardian>, Duration)> + use<> {
        let enough = self.threshold;
        let order = self.by_health().into_iter().enumerate();
        order.map(move |(place, guardian)| match place < enough {
            true => (guardian, Duration::ZERO),
            false => (guardian, STAGGER),
        })
    }

    /// Waits until a guardian of [`Self::in_turn`] is to be asked.
    pub(super) async fn turn(wait: Duration) {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Where the federation stands, as soon as n − f guardians have told. A
    /// guardian that is dead costs nothing.
    ///
    /// # Errors
    /// [`WalletError::Unreachable`], naming who did not answer.
    pub async fn view(&self) -> Result<FederationView, WalletError> {
        let begun = Instant::now();
        let asks: FuturesUnordered<_> = self
            .all
            .iter()
            .map(|guardian| async move {
                for _ in 0..VIEW_TRIES {
                    if let Ok(status) = guardian.status().await {
                        return Some(status);
                    }
                    // Behind a connection that was refused or broke, for as long
                    // as the others let us.
                    guardian.health.rest(LEAST_PAUSE).await;
                }
                None
            })
            .collect();
        let mut answers = Vec::new();
        let enough = async {
            let mut asks = asks;
            while answers.len() < self.threshold {
                match asks.next().await {
                    Some(status) => answers.extend(status),
                    None => break,
                }
            }
        };
        let in_time = tokio::time::timeout(VIEW_PATIENCE, enough).await.is_ok();
        if !in_time || answers.len() < self.threshold {
            return Err(self.too_few(answers.len(), begun));
        }
        Ok(FederationView::of(&answers, self.proof()))
    }

    /// Asks every guardian where it stands, for at most `patience`, so that the
    /// health of each is known.
    pub async fn probe(&self, patience: Duration) {
        let asks = self.all.iter().map(|guardian| async move {
            match tokio::time::timeout(patience, guardian.status()).await {
                // Either way it is in the guardian's health.
                Ok(_) => {}
                Err(_) => guardian
                    .health
                    .failed(&format!("no answer within {} s", patience.as_secs_f32())),
            }
        });
        futures::future::join_all(asks).await;
    }

    fn too_few(&self, answered: usize, begun: Instant) -> WalletError {
        WalletError::Unreachable(format!(
            "{answered} of {} guardians answered within {} s, {} are needed; missing: {}",
            self.all.len(),
            begun.elapsed().as_secs(),
            self.threshold,
            self.named(|health| !health.is_good())
        ))
    }

    /// That too few guardians answer, and who does not, if so many have failed since they
    /// last did.
    pub(crate) fn lack(&self) -> Option<String> {
        let failing = self.all.iter().filter(|guardian| guardian.health.is_bad());
        let answer = self.all.len() - failing.count();
        (answer < self.threshold).then(|| {
            format!(
                "{answer} of {} guardians answer, {} are needed; missing: {}",
                self.all.len(),
                self.threshold,
                self.named(Health::is_bad)
            )
        })
    }

    /// Those of whose health this is true, with their last error.
    fn named(&self, which: impl Fn(&Health) -> bool) -> String {
        let named = self.all.iter().filter(|guardian| which(&guardian.health));
        let named: Vec<String> = named
            .map(|guardian| {
                let health = guardian.health.view();
                let error = health.last_error.unwrap_or_else(|| "no answer".to_owned());
                format!("guardian {} ({error})", guardian.peer)
            })
            .collect();
        named.join(", ")
    }

    /// A bundle from whoever has it.
    ///
    /// # Errors
    /// [`WalletError::Unreachable`] if nobody does.
    pub async fn bundle(&self, hash: &BundleHash) -> Result<Vec<u8>, WalletError> {
        let mut reasons = Vec::new();
        for guardian in self.by_health() {
            match guardian.bundle(hash).await {
                Ok(bytes) => return Ok(bytes),
                Err(e) => reasons.push(format!("guardian {}: {e}", guardian.peer)),
            }
        }
        Err(WalletError::Unreachable(format!(
            "no guardian gives bundle {hash}: {}",
            reasons.join("; ")
        )))
    }

    /// Asks for outcomes until the agreement asked for is there, and gives it to
    /// `deliver`; with `each`, again for every guardian more. Never gives up by
    /// itself. Returns what `deliver` said of an agreement, true behind `each`.
    pub async fn outcomes<F>(
        &self,
        instance: InstanceId,
        request: &OutcomeRequest,
        mut deliver: impl FnMut(Vec<PeerOutcomes>) -> F,
    ) -> bool
    where
        F: Future<Output = bool>,
    {
        let ask = |guardian: Arc<Guardian>| async move {
            let out_points: &[OutPoint] = &request.out_points;
            let outcomes = guardian.outcomes(instance, out_points, LONG_POLL).await?;
            let all: Option<Vec<Vec<u8>>> = outcomes
                .into_iter()
                .map(|outcome| outcome.map(|HexBytes(bytes)| bytes))
                .collect();
            Ok(all.map(Ok))
        };
        self.agree(request.agreement, ask, |answers| {
            let outcomes = answers
                .into_iter()
                .filter_map(|(peer, answer)| {
                    let outcomes = answer.ok()?;
                    Some(PeerOutcomes { peer, outcomes })
                })
                .collect();
            deliver(outcomes)
        })
        .await
    }

    /// As [`Guardians::outcomes`], for a query; queries that wait are waited for.
    pub async fn query<F>(
        &self,
        instance: InstanceId,
        request: &Query,
        mut deliver: impl FnMut(Vec<PeerAnswer>) -> F,
    ) -> bool
    where
        F: Future<Output = bool>,
    {
        let ask = |guardian: Arc<Guardian>| async move {
            let arguments: &[Argument] = &request.arguments;
            let answer = guardian
                .query(instance, &request.name, arguments, LONG_POLL)
                .await?;
            Ok(match answer {
                QueryResponse::Ready { bytes, .. } => Some(Ok(bytes.0)),
                QueryResponse::Refused(refusal) => Some(Err(refusal)),
                QueryResponse::Waiting => None,
            })
        };
        self.agree(request.agreement, ask, |answers| {
            let answers = answers
                .into_iter()
                .map(|(peer, answer)| PeerAnswer { peer, answer })
                .collect();
            deliver(answers)
        })
        .await
    }

    /// One guardian, asked until it has something to say.
    async fn until_answered<T, F>(
        guardian: Arc<Guardian>,
        ask: &impl Fn(Arc<Guardian>) -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<Option<Result<T, Refusal>>, AskError>>,
    {
        loop {
            let begun = Instant::now();
            match ask(guardian.clone()).await {
                Ok(Some(answer)) => return answer,
                // The API's refusal: there is no such query, say. An opinion
                // like the module's own.
                Err(AskError::Refused(problem)) => {
                    return Err(Refusal::new(problem.code, problem.detail));
                }
                Ok(None) => {
                    // It waited as asked, or else it is kept from a busy loop.
                    if begun.elapsed() < LEAST_PAUSE {
                        tokio::time::sleep(LEAST_PAUSE * 3).await;
                    }
                }
                Err(_) => guardian.health.rest(LEAST_PAUSE).await,
            }
        }
    }

    async fn agree<T, A, D>(
        &self,
        agreement: Agreement,
        ask: impl Fn(Arc<Guardian>) -> A,
        mut deliver: impl FnMut(Vec<(PeerId, Result<T, Refusal>)>) -> D,
    ) -> bool
    where
        T: Clone + PartialEq,
        A: Future<Output = Result<Option<Result<T, Refusal>>, AskError>>,
        D: Future<Output = bool>,
    {
        match agreement {
            Agreement::Any => {
                // One by one, the next as soon as one refuses or takes its time.
                let (wake, mut woken) = mpsc::unbounded_channel::<()>();
                let mut waiting = self.by_health().into_iter();
                let mut asked = FuturesUnordered::new();
                let mut refusals = Vec::new();
                loop {
                    if let Some(guardian) = waiting.next() {
                        let ask = &ask;
                        asked.push(async move {
                            let peer = guardian.peer;
                            (peer, Self::until_answered(guardian, ask).await)
                        });
                    }
                    let more = async {
                        if waiting.len() == 0 {
                            std::future::pending::<()>().await;
                        }
                        tokio::select! {
                            () = tokio::time::sleep(STAGGER) => {}
                            _ = woken.recv() => {}
                        }
                    };
                    tokio::select! {
                        Some((peer, answer)) = asked.next() => match answer {
                            Ok(answer) => {
                                return deliver(vec![(peer, Ok(answer))]).await;
                            }
                            Err(refusal) => {
                                // f of them may refuse what the others give.
                                refusals.push((peer, Err(refusal)));
                                if refusals.len() >= self.threshold {
                                    refusals.truncate(1);
                                    return deliver(refusals).await;
                                }
                                // Its sender is held here: this cannot fail.
                                let _ = wake.send(());
                            }
                        },
                        () = more => {}
                    }
                }
            }
            Agreement::Each => {
                let ask = &ask;
                let mut asked: FuturesUnordered<_> = self
                    .in_turn()
                    .map(|(guardian, wait)| async move {
                        Self::turn(wait).await;
                        let peer = guardian.peer;
                        (peer, Self::until_answered(guardian, ask).await)
                    })
                    .collect();
                let mut answers = BTreeMap::new();
                while let Some((peer, answer)) = asked.next().await {
                    answers.insert(peer, answer);
                    if answers.len() >= self.threshold {
                        // A machine that does not like these may like more.
                        deliver(answers.clone().into_iter().collect()).await;
                    }
                }
                true
            }
            Agreement::Same => {
                let (tell, mut told) = mpsc::unbounded_channel();
                let asks = self.all.iter().map(|guardian| {
                    let (ask, tell) = (&ask, tell.clone());
                    async move {
                        let mut pause = ROUND_PAUSE.0;
                        loop {
                            let answer = Self::until_answered(guardian.clone(), ask).await;
                            if tell.send((guardian.peer, answer)).is_err() {
                                return;
                            }
                            // Answers that differ come from different epochs, or
                            // from liars: ask again.
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(ROUND_PAUSE.1);
                        }
                    }
                });
                let agreed = async {
                    let mut newest: BTreeMap<PeerId, Result<T, Refusal>> = BTreeMap::new();
                    while let Some((peer, answer)) = told.recv().await {
                        newest.insert(peer, answer.clone());
                        let equal = newest.values().filter(|other| same(other, &answer)).count();
                        if equal >= self.threshold {
                            return deliver(vec![(peer, answer)]).await;
                        }
                    }
                    true
                };
                tokio::select! {
                    taken = agreed => taken,
                    _ = futures::future::join_all(asks) => true,
                }
            }
        }
    }
}

/// Refusals agree by their code; the message is for people.
fn same<T: PartialEq>(a: &Result<T, Refusal>, b: &Result<T, Refusal>) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => a == b,
        (Err(a), Err(b)) => a.code == b.code,
        _ => false,
    }
}
