//! The order of things: AlephBFT sessions, from payloads to epochs.
//!
//! Here live the sessions' AlephBFT instances, their unit logs, the filter that
//! reads peers' bytes before AlephBFT does, and the leases that keep rounds going
//! while there is work; and the sequencer of a guardian that is alone. What an
//! epoch's units mean is found out in `pipeline`; who signs a session's header in
//! `sessions`.

mod alone;
mod catch_up;
mod format;
mod instance;
mod keychain;
mod log;
#[cfg(test)]
mod tests;
mod wake;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering as Memory},
    },
    time::{Duration, Instant},
};

use modmint_core::{
    FederationId, PeerId, PublicKey, config::SessionLimits, consensus::OrderedUnit,
};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tracing::warn;
use zeroize::Zeroizing;

use alone::Sequencer;
pub use instance::MAX_SESSION_EPOCHS;
use instance::{Instance, Mode};
use keychain::GuardianKeys;
use log::LogId;
use wake::Leases;

use crate::p2p::{P2p, PeerMessage};

/// The most bytes of payload in one unit.
pub const MAX_PAYLOAD_BYTES: usize = 32 << 10;

/// The most bytes of units in one epoch, encoded; a batch with more becomes several.
///
/// AlephBFT puts no bound on a batch: a guardian that keeps its units back and shows a
/// whole session's at once has them all in one, and no message would hold it.
pub const MAX_EPOCH_BYTES: usize = 4 << 20;

/// One finalised batch, or a part of one that is longer than [`MAX_EPOCH_BYTES`]: the same
/// on every guardian, and again after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// The session that it is of.
    pub session: u64,
    /// Its number in it, from 0.
    pub index: u32,
    /// The units that carry something, in order. Often none.
    pub units: Vec<OrderedUnit>,
}

/// Where payloads for this guardian's units come from.
pub trait PayloadSource: Send + Sync + 'static {
    /// The next unit's payload of at most `max_bytes`, if there is anything to
    /// say in `session`.
    fn take(&self, session: u64, max_bytes: usize) -> Option<Vec<u8>>;
    /// Whether something is queued, or taken and not yet processed.
    fn has_work(&self) -> bool;
    /// Notified when [`Self::has_work`] may have become true.
    fn changed(&self) -> Arc<Notify>;
}

/// What ordering runs on.
pub struct OrderingSetup {
    /// This guardian.
    pub me: PeerId,
    /// All guardians' keys, in the order of their indices.
    pub consensus_keys: Vec<PublicKey>,
    /// This guardian's.
    pub consensus_secret: Zeroizing<[u8; 32]>,
    /// Named in every signature, besides the session.
    pub tag: FederationId,
    /// Where unit logs are kept; made if missing.
    pub directory: PathBuf,
    /// The session to be filled.
    pub first_session: u64,
    /// When sessions end.
    pub limits: SessionLimits,
    /// What this guardian has to say.
    pub payloads: Arc<dyn PayloadSource>,
    /// Where epochs go, in order, those of `first_session` from 0 again after
    /// each start. No units are made while this is full: 64 is a good capacity.
    pub epochs: mpsc::Sender<Epoch>,
    /// Where others' units go as they arrive, before they are final, for whoever can
    /// do some of their work ahead. What does not fit is left out.
    pub arrivals: Option<mpsc::Sender<OrderedUnit>>,
    /// To the other guardians.
    pub p2p: Arc<P2p>,
    /// From the other guardians: `P2pReceivers::ordering`.
    pub incoming: mpsc::Receiver<(PeerId, PeerMessage)>,
    /// Whether this guardian comes back from a backup: it may have made units that it
    /// does not know of, and makes none until [`Ordering::observe_until`] says from
    /// which session on it may.
    pub restored: bool,
    /// Whether `first_session` is alone, so that no next one is kept ready. The
    /// founding ceremony's is.
    pub single: bool,
}

/// Why ordering did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrderingError {
    /// A guardian's key is no point of secp256k1.
    #[error("the consensus key of guardian {0} is not a point of secp256k1")]
    Key(PeerId),
    /// The secret is none, or not that of this guardian's key.
    #[error("the consensus secret is not that of guardian {0}'s key")]
    Secret(PeerId),
    /// The unit logs cannot be read or written.
    #[error("unit logs in {directory}: {source}")]
    UnitLog {
        /// Where.
        directory: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// How many ended sessions go on answering until they are retired.
const MAX_ENDED: u64 = 3;
/// Epochs that wait behind a full channel before this guardian stops making units.
const MAX_BACKLOG: usize = 16;

/// The running sessions.
pub struct Ordering(Order);

/// Who orders.
enum Order {
    Together(Together),
    Alone(Sequencer),
}

/// Several guardians, by AlephBFT.
struct Together {
    context: Arc<Context>,
    sessions: Arc<Mutex<Sessions>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What all sessions share.
struct Context {
    me: PeerId,
    tag: FederationId,
    keys: Arc<GuardianKeys>,
    directory: PathBuf,
    limits: SessionLimits,
    payloads: Arc<dyn PayloadSource>,
    arrivals: Option<mpsc::Sender<OrderedUnit>>,
    p2p: Arc<P2p>,
    /// Sessions may be ended from a thread that is not tokio's.
    runtime: Handle,
    leases: Leases,
    /// Rung when whoever waits in `get_data` should look again.
    bell: Notify,
    /// Notified when there may be a reason to send leases.
    work: Notify,
    delivered: mpsc::UnboundedSender<Epoch>,
    /// How many of the delivered ones wait for room.
    backlog: AtomicUsize,
    /// In sessions up to this one no units are made.
    observed: Mutex<Option<u64>>,
}

/// The instances by session: ended ones, the running one, the parked one.
struct Sessions {
    current: u64,
    single: bool,
    instances: BTreeMap<u64, Instance>,
}

impl Ordering {
    /// Runs `first_session` and keeps the next one ready; to be called within a
    /// tokio runtime. Earlier sessions that were never retired answer peers again.
    ///
    /// # Errors
    /// When a key is none, or the unit logs cannot be read.
    pub fn start(setup: OrderingSetup) -> Result<Arc<Self>, OrderingError> {
        let OrderingSetup {
            me,
            consensus_keys,
            consensus_secret,
            tag,
            directory,
            first_session,
            limits,
            payloads,
            epochs,
            arrivals,
            p2p,
            incoming,
            restored,
            single,
        } = setup;
        let keys = GuardianKeys::new(me, &consensus_secret, &consensus_keys, tag)?;
        let logs = log::sessions(&directory, &tag).map_err(|source| OrderingError::UnitLog {
            directory: directory.clone(),
            source,
        })?;
        if keys.count() == 1 {
            let log = LogId {
                directory,
                tag,
                session: first_session,
                me,
            };
            let sequencer = Sequencer::start(log, &logs, payloads, epochs);
            return Ok(Arc::new(Self(Order::Alone(sequencer))));
        }
        let (delivered, deliveries) = mpsc::unbounded_channel();
        let context = Arc::new(Context {
            me,
            tag,
            leases: Leases::new(keys.count()),
            keys: Arc::new(keys),
            directory,
            limits,
            payloads,
            arrivals,
            p2p,
            runtime: Handle::current(),
            bell: Notify::new(),
            work: Notify::new(),
            delivered,
            backlog: AtomicUsize::new(0),
            observed: Mutex::new(restored.then_some(u64::MAX)),
        });
        let sessions = Sessions::start(&context, first_session, single, &logs);
        let sessions = Arc::new(Mutex::new(sessions));
        let tasks = vec![
            tokio::spawn(forward(context.clone(), deliveries, epochs)),
            tokio::spawn(route(context.clone(), sessions.clone(), incoming)),
            tokio::spawn(greet(context.clone(), sessions.clone())),
            tokio::spawn(keep_awake(context.clone(), sessions.clone())),
        ];
        Ok(Arc::new(Self(Order::Together(Together {
            context,
            sessions,
            tasks: Mutex::new(tasks),
        }))))
    }

    /// The session's last epoch has been processed: later ones are dropped, the
    /// next session goes on, and this one goes on answering those behind.
    pub fn end_session(&self, session: u64) {
        match &self.0 {
            Order::Together(together) => {
                let context = &together.context;
                together.sessions.lock().end(context, session);
                context.look_again();
            }
            Order::Alone(sequencer) => sequencer.go_to(session + 1),
        }
    }

    /// The session's header is signed and durably stored: its instance is stopped
    /// and its unit log deleted.
    pub fn retire(&self, session: u64) {
        match &self.0 {
            Order::Together(together) => {
                together.sessions.lock().retire(&together.context, session);
            }
            Order::Alone(sequencer) => sequencer.retire(session),
        }
    }

    /// The sessions before were taken from signed outcomes: theirs are dropped
    /// and `session` is run.
    pub fn skip_to(&self, session: u64) {
        match &self.0 {
            Order::Together(together) => {
                let context = &together.context;
                together.sessions.lock().skip_to(context, session);
                context.look_again();
            }
            Order::Alone(sequencer) => sequencer.go_to(session),
        }
    }

    /// In sessions up to this one a restored guardian makes no units; later ones it
    /// takes part in. Those that run already stay as they are.
    pub fn observe_until(&self, session: u64) {
        if let Order::Together(together) = &self.0 {
            let mut observed = together.context.observed.lock();
            *observed = observed.map(|_| session);
        }
    }

    /// What is wrong; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        match &self.0 {
            Order::Together(together) => {
                let sessions = together.sessions.lock();
                let instances = sessions.instances.values();
                instances.flat_map(Instance::problems).collect()
            }
            Order::Alone(sequencer) => sequencer.problems(),
        }
    }

    /// The last epoch that came of the unit log, if any, once the current session's
    /// instance has read all of it and makes units.
    ///
    /// # Errors
    /// What it still waits for.
    pub fn replay(&self) -> Result<Option<(u64, u32)>, String> {
        match &self.0 {
            Order::Together(together) => {
                let sessions = together.sessions.lock();
                match sessions.instances.get(&sessions.current) {
                    Some(instance) => instance.replay(),
                    None => Err("no session runs".to_owned()),
                }
            }
            Order::Alone(sequencer) => sequencer.replay(),
        }
    }

    /// How many epochs wait to be processed, beyond those in the channel.
    pub fn backlog(&self) -> usize {
        match &self.0 {
            Order::Together(together) => together.context.backlog.load(Memory::Relaxed),
            // It makes none before the one in the channel is taken.
            Order::Alone(_) => 0,
        }
    }

    /// Stops all instances.
    pub async fn shutdown(&self) {
        match &self.0 {
            Order::Together(together) => together.shutdown().await,
            Order::Alone(sequencer) => sequencer.stop().await,
        }
    }
}

impl Together {
    async fn shutdown(&self) {
        let instances = std::mem::take(&mut self.sessions.lock().instances);
        let stops = instances.into_values().map(|instance| instance.stop(false));
        futures::future::join_all(stops).await;
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

impl Sessions {
    fn start(context: &Arc<Context>, current: u64, single: bool, logs: &[u64]) -> Self {
        let mut sessions = Self {
            current,
            single,
            instances: BTreeMap::new(),
        };
        for &session in logs.iter().filter(|session| **session < current) {
            if session + MAX_ENDED >= current {
                sessions.add(context, session, Mode::Ended);
            } else {
                context.delete_log(session);
            }
        }
        sessions.run_current(context);
        sessions
    }

    fn add(&mut self, context: &Arc<Context>, session: u64, mode: Mode) {
        let instance = Instance::start(context.clone(), session, mode);
        self.instances.insert(session, instance);
    }

    /// Releases the current session and parks the next.
    fn run_current(&mut self, context: &Arc<Context>) {
        match self.instances.get(&self.current) {
            Some(parked) => parked.release(),
            None => self.add(context, self.current, Mode::Running),
        }
        if !self.single && !self.instances.contains_key(&(self.current + 1)) {
            self.add(context, self.current + 1, Mode::Parked);
        }
    }

    fn end(&mut self, context: &Arc<Context>, session: u64) {
        if session != self.current {
            warn!(
                session,
                current = self.current,
                "only the current session can end"
            );
            return;
        }
        if let Some(instance) = self.instances.get(&session) {
            instance.end();
        }
        if self.single {
            return;
        }
        self.current += 1;
        self.run_current(context);
        self.stop_below(context, self.current.saturating_sub(MAX_ENDED), false);
    }

    fn retire(&mut self, context: &Arc<Context>, session: u64) {
        if session > self.current || (session == self.current && !self.single) {
            warn!(
                session,
                current = self.current,
                "a session that goes on cannot be retired"
            );
            return;
        }
        match self.instances.remove(&session) {
            Some(instance) => drop(context.runtime.spawn(instance.stop(true))),
            None => context.delete_log(session),
        }
    }

    fn skip_to(&mut self, context: &Arc<Context>, session: u64) {
        if session <= self.current {
            return;
        }
        self.stop_below(context, session, true);
        self.current = session;
        self.run_current(context);
    }

    fn stop_below(&mut self, context: &Context, session: u64, delete_logs: bool) {
        let kept = self.instances.split_off(&session);
        for instance in std::mem::replace(&mut self.instances, kept).into_values() {
            context.runtime.spawn(instance.stop(delete_logs));
        }
    }

    /// The session that has work to do, if it has.
    fn working(&self, context: &Context) -> Option<(u64, Duration)> {
        let current = self.instances.get(&self.current)?;
        let working = context.payloads.has_work()
            || current.has_undecided()
            // Somebody has ended this session: we are behind.
            || context.leases.any_fresh(|session| session > self.current);
        working.then(|| (self.current, current.since_progress()))
    }
}

impl Context {
    fn deliver(&self, epoch: Epoch) {
        self.backlog.fetch_add(1, Memory::Relaxed);
        // An error: everything is being shut down.
        let _ = self.delivered.send(epoch);
    }

    /// Whether epochs pile up because they are processed too slowly.
    fn is_behind(&self) -> bool {
        self.backlog.load(Memory::Relaxed) > MAX_BACKLOG
    }

    /// Whether no units are to be made in a session.
    fn observes(&self, session: u64) -> bool {
        self.observed.lock().is_some_and(|until| session <= until)
    }

    fn look_again(&self) {
        self.bell.notify_waiters();
        self.work.notify_one();
    }

    fn delete_log(&self, session: u64) {
        let log = LogId {
            directory: self.directory.clone(),
            tag: self.tag,
            session,
            me: self.me,
        };
        log.delete();
    }
}

/// Hands epochs over as fast as they are taken.
async fn forward(
    context: Arc<Context>,
    mut deliveries: mpsc::UnboundedReceiver<Epoch>,
    epochs: mpsc::Sender<Epoch>,
) {
    while let Some(epoch) = deliveries.recv().await {
        if epochs.send(epoch).await.is_err() {
            return;
        }
        if context.backlog.fetch_sub(1, Memory::Relaxed) == MAX_BACKLOG + 1 {
            context.bell.notify_waiters();
        }
    }
}

/// Takes peers' messages to the sessions they are for; those of sessions that do
/// not run here are dropped.
async fn route(
    context: Arc<Context>,
    sessions: Arc<Mutex<Sessions>>,
    mut incoming: mpsc::Receiver<(PeerId, PeerMessage)>,
) {
    while let Some((from, message)) = incoming.recv().await {
        match message {
            PeerMessage::Aleph { session, bytes } => {
                let inbox = sessions.lock().instances.get(&session).map(Instance::inbox);
                if let Some(inbox) = inbox {
                    inbox.receive(from, &bytes).await;
                }
            }
            PeerMessage::Wake { session } => {
                context.leases.renew(from, session);
                context.look_again();
            }
            PeerMessage::Rest { session } => context.leases.end(from, session),
            PeerMessage::RequestUnits {
                session,
                from: at,
                have,
            } => {
                let inbox = sessions.lock().instances.get(&session).map(Instance::inbox);
                if let Some(inbox) = inbox {
                    inbox.serve(from, at, have);
                }
            }
            PeerMessage::Units {
                session,
                next,
                units,
            } => {
                let inbox = sessions.lock().instances.get(&session).map(Instance::inbox);
                if let Some(inbox) = inbox {
                    inbox.take(from, next, units).await;
                }
            }
            _ => {}
        }
    }
}

/// Tells each guardian that connects what it may have missed.
async fn greet(context: Arc<Context>, sessions: Arc<Mutex<Sessions>>) {
    let mut connections = context.p2p.connections();
    let mut known = vec![0; context.keys.count()];
    loop {
        let present = connections.borrow_and_update().clone();
        for (peer, (present, known)) in (0..).map(PeerId).zip(present.iter().zip(&known)) {
            if *present == 0 || present == known {
                continue;
            }
            let sessions = sessions.lock();
            for instance in sessions.instances.values() {
                instance.send_tops(peer);
            }
            if let Some((session, _)) = sessions.working(&context) {
                context.p2p.send(peer, PeerMessage::Wake { session });
            }
        }
        known = present;
        if connections.changed().await.is_err() {
            return;
        }
    }
}

/// Sends leases while there is work, and wakes our own units when it comes.
async fn keep_awake(context: Arc<Context>, sessions: Arc<Mutex<Sessions>>) {
    const FOR_EVER: Duration = Duration::from_secs(3600);
    let changed = context.payloads.changed();
    let mut working_since: Option<Instant> = None;
    let mut sent: Option<(u64, Instant)> = None;
    loop {
        let changed = changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let working = sessions.lock().working(&context);
        let pause = match working {
            Some((session, since_progress)) => {
                let since = working_since.get_or_insert_with(Instant::now).elapsed();
                let every = wake::renewal(since.min(since_progress));
                let renewed = sent.filter(|(known, _)| *known == session);
                let due =
                    renewed.map_or(Duration::ZERO, |(_, at)| every.saturating_sub(at.elapsed()));
                if due.is_zero() {
                    context.p2p.broadcast(&PeerMessage::Wake { session });
                    sent = Some((session, Instant::now()));
                    every
                } else {
                    due
                }
            }
            None => {
                working_since = None;
                if let Some((session, _)) = sent.take() {
                    context.p2p.broadcast(&PeerMessage::Rest { session });
                }
                FOR_EVER
            }
        };
        tokio::select! {
            () = changed => context.bell.notify_waiters(),
            () = context.work.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
