//! What wallets and people ask: everything is read from the state at the end of
//! an epoch, and the answer says of which.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use modmint_core::{
    Argument, Hash32, InstanceId, MAX_EXPIRY_SECONDS, MAX_ITEM_BYTES, OutPoint, PeerId, Refusal,
    Transaction, TransactionError, TxId, complete_arguments,
    config::HexBytes,
    consensus::{ConsensusItem, TransactionStatus},
    rest::{
        AuditResponse, ChainOutputResponse, ConvictionResponse, InstanceAudit, QueryResponse,
        StatusResponse, SubmitResponse, TransactionResponse,
    },
    sha256,
};
use modmint_runtime::{Answer, CallError, ChainOutPoint, ChainOutput, Host, Wake};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Pipeline, QueryError, SubmitError,
    commit::View,
    hosts::LocalHost,
    items::{Failure, Halt, MAX_STORED_BYTES, Rejection},
    module::Module,
    proposals::Full,
    state::{self, Conviction, encode},
    waiters::Event,
};
use crate::storage::StorageError;

/// Outcomes that may be asked for at once.
const MAX_OUT_POINTS: usize = 1000;

/// While so many transactions are undecided, what is handed in waits for so long that its
/// signatures can be checked together with others': they wait for each other anyway.
const BUSY: usize = 6;
const PATIENCE: Duration = Duration::from_millis(15);

/// What refusals said to people, for a while: consensus keeps the codes alone.
#[derive(Default)]
pub(super) struct Messages(Mutex<(HashMap<TxId, String>, VecDeque<TxId>)>);

impl Messages {
    const MAX: usize = 10_000;

    pub(super) fn remember(&self, transactions: Vec<(TxId, Option<String>)>) {
        let (messages, order) = &mut *self.0.lock();
        for (txid, message) in transactions {
            let Some(message) = message else { continue };
            if messages.insert(txid, message).is_none() {
                order.push_back(txid);
            }
            if order.len() > Self::MAX
                && let Some(oldest) = order.pop_front()
            {
                messages.remove(&oldest);
            }
        }
    }

    fn get(&self, txid: &TxId) -> Option<String> {
        self.0.lock().0.get(txid).cloned()
    }
}

impl From<Full> for SubmitError {
    fn from(full: Full) -> Self {
        Self::Busy {
            pending: full.pending,
        }
    }
}

impl From<StorageError> for SubmitError {
    fn from(error: StorageError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<StorageError> for QueryError {
    fn from(error: StorageError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What a guardian thinks of a transaction that has not been decided.
impl From<Failure> for SubmitError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Rejected(rejection) | Failure::Unbacked(_, rejection) => {
                let Rejection {
                    code,
                    message,
                    input,
                    output,
                } = rejection;
                Self::Refused {
                    refusal: Refusal::new(code, message),
                    input,
                    output,
                }
            }
            Failure::Signature(input) => Self::Refused {
                refusal: Refusal::new(
                    "bad-signature",
                    "the signature is not by the input's spend key over this transaction",
                ),
                input: Some(input),
                output: None,
            },
            Failure::Halt(Halt::Storage(error)) => Self::Failed(error.to_string()),
            Failure::Halt(Halt::Host(error)) => Self::Failed(error.to_string()),
        }
    }
}

// Transactions.

impl Pipeline {
    /// Takes a transaction to be proposed, unless it can never be accepted or
    /// would not be as things stand; one that is known already is answered with
    /// where it stands. Blocks for as long as its checks take, some milliseconds.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn submit(&self, bytes: &[u8]) -> Result<SubmitResponse, SubmitError> {
        let transaction = Transaction::decode(bytes)?;
        let txid = transaction.id(&self.federation.id);
        let view = self.view();
        let status = self.status_of(&view, &txid)?;
        if status != TransactionStatus::Unknown {
            return Ok(SubmitResponse { txid, status });
        }
        let expires = transaction.body.expires;
        check_expiry(expires, view.time, self.time_to_propose(&view))?;
        let item = encode(&ConsensusItem::Transaction(transaction.clone()));
        if item.len() > MAX_ITEM_BYTES {
            return Err(SubmitError::Malformed(TransactionError::TooLarge {
                size: item.len(),
                limit: MAX_ITEM_BYTES,
            }));
        }
        if self.federation.skip.names(&sha256(&item)) {
            let message = "the guardians have agreed to skip this transaction";
            return Err(SubmitError::Refused {
                refusal: Refusal::new("skipped", message),
                input: None,
                output: None,
            });
        }
        catch_unwind(AssertUnwindSafe(|| {
            let patience = match self.proposals.pending_transactions() {
                ..BUSY => Duration::ZERO,
                _ => PATIENCE,
            };
            self.ahead
                .try_transaction(&view.state, &item, &transaction, patience)
        }))
        .map_err(|_| SubmitError::Failed("native code broke over it".into()))??;
        self.proposals.add_transaction(txid, expires, item)?;
        Ok(SubmitResponse {
            txid,
            status: TransactionStatus::Pending,
        })
    }

    fn status_of(&self, view: &View, txid: &TxId) -> Result<TransactionStatus, StorageError> {
        Ok(match state::decision(&view.state, txid)? {
            Some(decision) => decision.into(),
            None if self.proposals.has_transaction(txid) => TransactionStatus::Pending,
            None => TransactionStatus::Unknown,
        })
    }

    /// Where a transaction stands.
    pub fn transaction(&self, txid: &TxId) -> TransactionResponse {
        // In this order: what is decided between the two is seen as pending.
        let pending = self.proposals.has_transaction(txid);
        let view = self.view();
        let status = match state::decision(&view.state, txid) {
            Ok(Some(decision)) => decision.into(),
            Ok(None) if pending => TransactionStatus::Pending,
            Ok(None) => TransactionStatus::Unknown,
            Err(error) => {
                tracing::error!(%error, "a transaction's status cannot be read");
                TransactionStatus::Unknown
            }
        };
        TransactionResponse {
            txid: *txid,
            status,
            message: self.messages.get(txid),
            as_of: (view.session, view.epoch),
            outcomes: Vec::new(),
        }
    }

    /// Where a transaction stands once that is final, or when patience ends.
    pub async fn wait_transaction(&self, txid: &TxId, wait: Duration) -> TransactionResponse {
        let deadline = Instant::now() + wait;
        loop {
            let waiter = self.waiters.wait_for(vec![Event::Transaction(*txid)]);
            let response = self.transaction(txid);
            let Some(waiter) = waiter.filter(|_| !response.status.is_final()) else {
                return response;
            };
            let woken = tokio::time::timeout_at(deadline, waiter.woken()).await;
            if woken.is_err() {
                return self.transaction(txid);
            }
        }
    }
}

fn conviction((peer, conviction): &(PeerId, Conviction)) -> ConvictionResponse {
    ConvictionResponse {
        peer: *peer,
        epoch: conviction.epoch,
        fault: conviction.fault.to_string(),
    }
}

fn convictions(view: &View) -> Vec<String> {
    let problem = |(peer, Conviction { fault, .. }): &(PeerId, Conviction)| {
        format!(
            "guardian {peer} is convicted until session {} ends ({fault}): its transactions are \
             ignored",
            view.session
        )
    };
    view.convicted.iter().map(problem).collect()
}

fn check_expiry(expires: u64, agreed: u64, own: u64) -> Result<(), SubmitError> {
    let latest = agreed.saturating_add(MAX_EXPIRY_SECONDS);
    if expires <= own {
        return Err(SubmitError::Expired { expires, now: own });
    }
    if expires > latest {
        return Err(SubmitError::ExpiresTooLate { expires, latest });
    }
    Ok(())
}

// Modules' answers.

impl Pipeline {
    /// What calls into an instance reach that only read.
    pub(super) fn local_host(&self, instance: InstanceId, view: &View) -> Arc<dyn Host> {
        Arc::new(LocalHost {
            instance,
            config: Arc::clone(&self.federation.config),
            state: view.state.clone(),
            me: self.me,
            chain: Arc::clone(&self.chain),
            shares: Arc::clone(&self.shares),
        })
    }

    fn module(&self, id: InstanceId) -> Result<&Arc<dyn Module>, QueryError> {
        self.federation
            .module(id)
            .ok_or(QueryError::UnknownInstance(id))
    }

    /// Asks a module on a thread that may block, each a few times at once.
    async fn ask<T: Send + 'static>(
        &self,
        instance: InstanceId,
        view: &View,
        question: impl FnOnce(&dyn Module, &Arc<dyn Host>) -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        let module = Arc::clone(self.module(instance)?);
        let host = self.local_host(instance, view);
        let places = self.questions.get(usize::from(instance.0));
        let places = places.ok_or(QueryError::UnknownInstance(instance))?;
        let permit = Arc::clone(places).acquire_owned().await;
        let asked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            question(&*module, &host)
        });
        asked
            .await
            .map_err(|_| QueryError::Failed("native code broke over it".into()))
    }

    /// This guardian's contributions to outputs' outcomes, once all are there, or
    /// can not come any more, or when patience ends; at most 1000.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn outcomes(
        &self,
        instance: InstanceId,
        out_points: &[OutPoint],
        wait: Duration,
    ) -> Result<Vec<Option<Vec<u8>>>, QueryError> {
        if out_points.len() > MAX_OUT_POINTS {
            return Err(QueryError::TooMany {
                given: out_points.len(),
                limit: MAX_OUT_POINTS,
            });
        }
        let deadline = Instant::now() + wait;
        loop {
            let view = self.view();
            let asked = out_points.to_vec();
            let outcomes = self
                .ask(instance, &view, move |module, host| {
                    module.outcomes(host, &asked)
                })
                .await?
                .map_err(|error| QueryError::Failed(error.to_string()))?;
            let missing = out_points
                .iter()
                .zip(&outcomes)
                .filter(|(_, o)| o.is_none());
            let events = self.events_of_outcomes(instance, &view, missing.map(|(at, _)| at))?;
            if events.is_empty() || !self.wait_until(deadline, events, &view).await {
                return Ok(outcomes);
            }
        }
    }

    /// What to wait for until these outputs have an outcome.
    fn events_of_outcomes<'a>(
        &self,
        instance: InstanceId,
        view: &View,
        missing: impl Iterator<Item = &'a OutPoint>,
    ) -> Result<Vec<Event>, StorageError> {
        let mut events = Vec::new();
        for out_point in missing {
            let event = match state::decision(&view.state, &out_point.txid)? {
                None => Event::Transaction(out_point.txid),
                Some(decision) if decision.rejected.is_none() => Event::Instance(instance),
                Some(_) => continue,
            };
            if !events.contains(&event) {
                events.push(event);
            }
        }
        Ok(events)
    }

    /// Waits for one of the events, which may have happened since `seen` already.
    /// False when patience has ended.
    async fn wait_until(&self, deadline: Instant, events: Vec<Event>, seen: &View) -> bool {
        if Instant::now() >= deadline {
            return false;
        }
        let Some(waiter) = self.waiters.wait_for(events) else {
            return false;
        };
        self.view().root != seen.root
            || tokio::time::timeout_at(deadline, waiter.woken())
                .await
                .is_ok()
    }

    /// A module's answer, once there is one or when patience ends.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn query(
        &self,
        instance: InstanceId,
        name: &str,
        arguments: &[Argument],
        wait: Duration,
    ) -> Result<QueryResponse, QueryError> {
        self.check_query(instance, name, arguments)?;
        let deadline = Instant::now() + wait;
        loop {
            let mut chain = self.chain.changed();
            chain.mark_unchanged();
            let view = self.view();
            let (asked, given) = (name.to_owned(), arguments.to_vec());
            let answer = self
                .ask(instance, &view, move |module, host| {
                    answer(module, host, &asked, &given)
                })
                .await?;
            let wakes = match answer? {
                Asked::Answered(response) => return Ok(response),
                Asked::Wait(wakes) => wakes,
            };
            let events: Vec<Event> = wakes
                .iter()
                .filter_map(|wake| match wake {
                    Wake::Key(key) => Some(Event::Key(instance, key.clone())),
                    Wake::Height(height) => Some(Event::Height(*height)),
                    Wake::Time(time) => Some(Event::Time(*time)),
                    Wake::Block => None,
                })
                .collect();
            let new_block = async {
                match wakes.contains(&Wake::Block) && chain.changed().await.is_ok() {
                    true => {}
                    false => std::future::pending().await,
                }
            };
            let again = tokio::select! {
                again = self.wait_until(deadline, events, &view) => again,
                () = new_block => true,
            };
            if !again {
                return Ok(QueryResponse::Waiting);
            }
        }
    }

    fn check_query(
        &self,
        instance: InstanceId,
        name: &str,
        arguments: &[Argument],
    ) -> Result<(), QueryError> {
        let queries = self.module(instance)?.queries();
        let Some(query) = queries.iter().find(|query| query.name == name) else {
            let known: Vec<_> = queries.iter().map(|query| query.name.as_str()).collect();
            return Err(QueryError::UnknownQuery {
                name: name.chars().take(80).collect(),
                known: known.join(", "),
            });
        };
        complete_arguments(&query.parameters, arguments)
            .map(drop)
            .map_err(QueryError::Arguments)
    }
}

enum Asked {
    Answered(QueryResponse),
    Wait(Vec<Wake>),
}

fn answer(
    module: &dyn Module,
    host: &Arc<dyn Host>,
    name: &str,
    arguments: &[Argument],
) -> Result<Asked, QueryError> {
    match module.query(host, name, arguments) {
        Ok(Answer::Ready(bytes)) => {
            let json = module
                .render_answer(name, &bytes)
                .ok()
                .and_then(|json| serde_json::from_str(&json).ok())
                .unwrap_or_default();
            let bytes = HexBytes(bytes);
            Ok(Asked::Answered(QueryResponse::Ready { bytes, json }))
        }
        Ok(Answer::Wait(wakes)) => Ok(Asked::Wait(wakes)),
        Err(CallError::Refused(refusal)) => Ok(Asked::Answered(QueryResponse::Refused(refusal))),
        Err(error) => Err(QueryError::Failed(error.to_string())),
    }
}

// Where this guardian stands.

impl Pipeline {
    /// The session that is being filled, from 1, and its next epoch, from 0.
    pub fn position(&self) -> (u64, u32) {
        let view = self.view();
        (view.session, view.epoch)
    }

    /// Where this guardian stands; `peers` is left empty.
    pub fn status(&self) -> StatusResponse {
        let view = self.view();
        StatusResponse {
            peer: self.me,
            session: view.session,
            epoch: view.epoch,
            state_root: view.root,
            block_height: view.tip.height,
            block_hash: view.tip.hash,
            chain_height: self.chain.best_height(),
            unix_time: view.time,
            fee_rate: view.fee_rate,
            peers: Vec::new(),
            convicted: view.convicted.iter().map(conviction).collect(),
            problems: [
                convictions(&view),
                self.paused_instances(),
                self.full_instances(&view),
                self.broken_instances(),
            ]
            .concat(),
        }
    }

    fn paused_instances(&self) -> Vec<String> {
        let instances = self.federation.config.instances.iter();
        instances
            .filter(|instance| self.paused(instance.id))
            .map(|instance| {
                format!(
                    "module instance {} ({}) is paused: its books were not even",
                    instance.id, instance.kind
                )
            })
            .collect()
    }

    /// Those that keep nearly all that one may: more than three quarters.
    fn full_instances(&self, view: &View) -> Vec<String> {
        let instances = self.federation.config.instances.iter();
        instances
            .filter_map(|instance| {
                let stored = logged(state::stored(&view.state, instance.id))?;
                (stored > MAX_STORED_BYTES / 4 * 3).then(|| {
                    format!(
                        "module instance {} ({}) keeps {stored} bytes of the {MAX_STORED_BYTES} \
                         that one may: beyond them its items are refused",
                        instance.id, instance.kind
                    )
                })
            })
            .collect()
    }

    /// Whether the host has paused this instance.
    pub fn paused(&self, instance: InstanceId) -> bool {
        state::books(&self.view().state, instance).is_ok_and(|books| books.paused)
    }

    /// What the federation has and owes, by the host's books and by what the
    /// modules say. Blocks for as long as that takes, once an epoch at most.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn audit(&self) -> Result<AuditResponse, QueryError> {
        let view = self.view();
        let as_of = (view.session, view.epoch);
        let mut kept = self.last_audit.lock();
        if let Some((root, audit)) = kept.as_ref()
            && *root == view.root
        {
            let audit = audit.clone();
            return Ok(AuditResponse { as_of, ..audit });
        }
        let instances = self
            .federation
            .config
            .instances
            .iter()
            .map(|instance| self.audit_instance(&view, instance.id, &instance.kind))
            .collect::<Result<Vec<_>, _>>()?;
        let lines = instances.iter().flat_map(|instance| &instance.lines);
        let net: i128 = lines.map(|line| i128::from(line.msat)).sum();
        let audit = AuditResponse {
            as_of,
            instances,
            net_msat: to_i64(net),
        };
        *kept = Some((view.root, audit.clone()));
        Ok(audit)
    }

    fn audit_instance(
        &self,
        view: &View,
        instance: InstanceId,
        kind: &str,
    ) -> Result<InstanceAudit, QueryError> {
        let books = state::books(&view.state, instance)?;
        let module = self.module(instance)?;
        let host = self.local_host(instance, view);
        let lines = self
            .ahead
            .on_guest_thread(|| module.audit(&host).result)
            .map_err(|error| QueryError::Failed(error.to_string()))?;
        Ok(InstanceAudit {
            instance,
            kind: kind.to_owned(),
            balance_msat: to_i64(books.balance),
            treasury_msat: to_i64(i128::from(books.treasury_satoshi) * 1000),
            lines,
        })
    }

    /// The agreed block's hash at this height, internal byte order.
    pub fn block_hash(&self, height: u32) -> Option<Hash32> {
        logged(state::block_hash(&self.view().state, height)).flatten()
    }

    /// The agreed output at this place; `txid` in internal byte order.
    pub fn chain_output_at(&self, txid: &[u8; 32], index: u32) -> Option<ChainOutputResponse> {
        let at = ChainOutPoint {
            txid: *txid,
            vout: index,
        };
        let output = logged(state::chain_output_at(&self.view().state, &at)).flatten();
        output.map(chain_output_response)
    }

    /// The agreed outputs that pay to `script`, oldest first, at most 100.
    pub fn chain_outputs(&self, script: &[u8]) -> Vec<ChainOutputResponse> {
        let outputs = logged(state::chain_outputs(&self.view().state, script));
        let outputs = outputs.unwrap_or_default().into_iter();
        outputs.map(chain_output_response).collect()
    }
}

fn chain_output_response(output: ChainOutput) -> ChainOutputResponse {
    ChainOutputResponse {
        txid: Hash32(output.out_point.txid),
        index: output.out_point.vout,
        script: HexBytes(output.script),
        satoshi: output.satoshi,
        height: output.height,
    }
}

pub(super) fn logged<T>(result: Result<T, StorageError>) -> Option<T> {
    result
        .inspect_err(|error| tracing::error!(%error, "the database cannot be read"))
        .ok()
}

fn to_i64(msat: i128) -> i64 {
    msat.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}
