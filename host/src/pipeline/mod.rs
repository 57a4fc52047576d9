//! Epochs, from AlephBFT's finalised batches to a durable write, and what
//! everybody may read of the result.
//!
//! [`Pipeline::process`] has three steps. On *arrival* items are decoded and run
//! once ahead, so that their signature checks can be made natively, in batches
//! and in parallel. In *order* they run again, one after the other, over an
//! overlay in memory: this run alone counts. The *commit* writes what came of
//! them, the new state root and how far this guardian has got, in one batch, and
//! wakes who waits for any of it.
//!
//! Who agrees on the order of items is `ordering`'s business; what an item means
//! to a module happens inside the sandbox, behind `modmint-runtime`.

mod ahead;
mod commit;
mod history;
mod hosts;
mod items;
mod metrics;
mod module;
mod order;
mod own;
mod proposals;
mod reads;
mod skip;
mod state;
#[cfg(test)]
mod tests;
mod votes;
mod waiters;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU64},
};

use modmint_core::{
    Hash32, InstanceId, PeerId, Refusal, TransactionError,
    config::FederationConfig,
    consensus::{OrderedUnit, SessionHeader, SignedHeader},
    rest::AuditResponse,
};
use modmint_runtime::{HostError, Instance, Signable, limits};
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, Semaphore};

use crate::{
    chain::ChainView,
    ordering::{Epoch, PayloadSource},
    storage::{Database, StorageError},
};
use ahead::Ahead;
use commit::{HeaderParts, View};
use history::{History as _, Progress};
use hosts::CachedShares;
use items::{Failure, Federation, Halt};
use metrics::Metrics;
use module::Module;
use order::{Ordered, OrderedRun};
use own::Asking;
use proposals::Proposals;
use reads::Messages;
use waiters::Waiters;

pub use skip::{ParseSkipError, SkipList};

/// So many bytes of payload are applied in one go, and an epoch more: what they
/// change lies in memory until then.
const MAX_BYTES_AT_ONCE: u64 = 8 << 20;
/// Or so many bytes that modules have written, and an epoch more.
const MAX_WRITES_AT_ONCE: u64 = 64 << 20;

/// This guardian's secrets, and all that is ever done with them.
pub trait Shares: Send + Sync + 'static {
    /// This guardian's share of what consensus has approved: a blind-signature
    /// share, a decryption share, or an ECDSA signature, by the kind of the key.
    /// None where it has no such key or the message is malformed.
    fn share(&self, instance: InstanceId, what: &Signable) -> Option<Vec<u8>>;
}

/// What a pipeline is made of.
pub struct PipelineSetup {
    /// Where everything is kept.
    pub database: Arc<Database>,
    /// The federation.
    pub config: Arc<FederationConfig>,
    /// This guardian.
    pub me: PeerId,
    /// All instances, in the order of their ids.
    pub instances: Vec<Arc<Instance>>,
    /// This guardian's key shares.
    pub keys: Arc<dyn Shares>,
    /// This guardian's view of the bitcoin chain.
    pub chain: Arc<dyn ChainView>,
    /// Items that guardians have agreed to pass over.
    pub skip: SkipList,
}

/// Why a pipeline cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The setup's instances are not the config's.
    #[error("{given} module instances were loaded, the federation has {expected}")]
    Instances {
        /// How many there are.
        given: usize,
        /// How many are needed.
        expected: usize,
    },
    /// A module does not begin.
    #[error("module instance {instance} cannot be founded: {reason}")]
    Init {
        /// Which.
        instance: InstanceId,
        /// What it says.
        reason: String,
    },
    /// The machine gives no threads.
    #[error("threads for module calls cannot be started: {0}")]
    Threads(String),
}

/// Why this guardian cannot go on. Never something that an item alone can cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Stop {
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A module could not be run, for a cause outside state and item.
    #[error("session {session}, epoch {epoch}: {source}")]
    Host {
        /// The session.
        session: u64,
        /// The epoch.
        epoch: u32,
        /// The cause.
        source: HostError,
    },
    /// An item breaks this program, or a cause outside shows itself over one.
    #[error(
        "session {session}, epoch {epoch}: this guardian cannot go on with the item with SHA-256 \
         {item}: {cause}. If it stops the other guardians too, report it; n - f of them can agree \
         to skip it by the line \"{session}:{item}\" under \"skip\" in guardian.json"
    )]
    Item {
        /// The session.
        session: u64,
        /// The epoch.
        epoch: u32,
        /// The item's hash.
        item: Hash32,
        /// What happens.
        cause: String,
    },
    /// An epoch that does not follow the last one.
    #[error(
        "epoch {epoch} of session {session} came where epoch {expected_epoch} of session \
         {expected_session} was expected"
    )]
    Gap {
        /// What came.
        session: u64,
        /// What came.
        epoch: u32,
        /// What was expected.
        expected_session: u64,
        /// What was expected.
        expected_epoch: u32,
    },
}

/// What [`Pipeline::process`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processed {
    /// The header of the session that has ended, if one has.
    pub ended: Option<SessionHeader>,
    /// How many of the epochs given are done with; the others are to be given
    /// again.
    pub consumed: usize,
}

/// Why a transaction was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// No transaction.
    #[error(transparent)]
    Malformed(#[from] TransactionError),
    /// It can never be decided.
    #[error("the transaction expired at {expires}, and it is {now}: seconds since 1970")]
    Expired {
        /// The transaction's expiry.
        expires: u64,
        /// Agreed time, or this guardian's own where that is later.
        now: u64,
    },
    /// It could lie in wait for too long.
    #[error("the transaction expires at {expires}, the latest that is taken now is {latest}")]
    ExpiresTooLate {
        /// The transaction's expiry.
        expires: u64,
        /// What would be accepted.
        latest: u64,
    },
    /// As things stand consensus would reject it. This is one guardian's opinion;
    /// nothing has been decided.
    #[error("{refusal}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// The input that is refused, if it is one.
        input: Option<u16>,
        /// The output that is refused, if it is one.
        output: Option<u16>,
    },
    /// Too many wait already.
    #[error("this guardian has {pending} transactions waiting; try another, or later")]
    Busy {
        /// How many wait.
        pending: usize,
    },
    /// This guardian has been started and is not where the others are yet.
    #[error("this guardian is catching up: {0}; try another, or later")]
    CatchingUp(String),
    /// This guardian itself is in trouble.
    #[error("this guardian could not look at the transaction: {0}")]
    Failed(String),
}

impl SubmitError {
    /// Stable, kebab-case.
    pub fn code(&self) -> &str {
        match self {
            Self::Malformed(TransactionError::TooLarge { .. }) => "transaction-too-large",
            Self::Malformed(_) => "malformed-transaction",
            Self::Expired { .. } => "transaction-expired",
            Self::ExpiresTooLate { .. } => "expires-too-late",
            Self::Refused { refusal, .. } => &refusal.code,
            Self::Busy { .. } => "busy",
            Self::CatchingUp(_) => "catching-up",
            Self::Failed(_) => "internal",
        }
    }
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// No such instance.
    #[error("there is no module instance {0}")]
    UnknownInstance(InstanceId),
    /// No such query.
    #[error("there is no query {name:?}; known are: {known}")]
    UnknownQuery {
        /// What was asked for.
        name: String,
        /// What could be.
        known: String,
    },
    /// Arguments that the query does not take.
    #[error(transparent)]
    Arguments(Refusal),
    /// More at once than is answered.
    #[error("{given} were asked for at once, the limit is {limit}")]
    TooMany {
        /// How many were asked for.
        given: usize,
        /// How many may be.
        limit: usize,
    },
    /// The module broke, or this guardian is in trouble.
    #[error("the question could not be answered: {0}")]
    Failed(String),
}

impl QueryError {
    /// Stable, kebab-case.
    pub fn code(&self) -> &str {
        match self {
            Self::UnknownInstance(_) => "unknown-instance",
            Self::UnknownQuery { .. } => "unknown-query",
            Self::Arguments(refusal) => &refusal.code,
            Self::TooMany { .. } => "too-many",
            Self::Failed(_) => "internal",
        }
    }
}

/// Applies epochs, and answers from what they made.
pub struct Pipeline {
    database: Arc<Database>,
    federation: Arc<Federation>,
    me: PeerId,
    shares: Arc<CachedShares>,
    chain: Arc<dyn ChainView>,
    header_parts: HeaderParts,
    ahead: Ahead,
    /// Held while epochs are processed.
    progress: Mutex<Progress>,
    view: RwLock<Arc<View>>,
    proposals: Arc<Proposals>,
    waiters: Waiters,
    messages: Messages,
    /// Queries of each instance that run at the same time: one that does not answer keeps
    /// none of another's waiting.
    questions: Vec<Arc<Semaphore>>,
    due: Arc<Notify>,
    due_modules: Mutex<BTreeSet<InstanceId>>,
    asking: Asking,
    last_chain_change: Mutex<u64>,
    /// This guardian's own time at its last tick, seconds since 1970.
    own_time: AtomicU64,
    last_audit: Mutex<Option<(Hash32, AuditResponse)>>,
    metrics: Metrics,
}

/// A pipeline's parts, with the modules as the pipeline calls them.
struct Parts {
    database: Arc<Database>,
    config: Arc<FederationConfig>,
    me: PeerId,
    modules: Vec<Arc<dyn Module>>,
    keys: Arc<dyn Shares>,
    chain: Arc<dyn ChainView>,
    skip: SkipList,
    runtime_hash: Hash32,
}

impl Pipeline {
    /// Opens what is there, or founds all instances.
    ///
    /// # Errors
    /// If the database fails, or an instance refuses to begin.
    pub fn open(setup: PipelineSetup) -> Result<Arc<Self>, PipelineError> {
        let PipelineSetup {
            database,
            config,
            me,
            instances,
            keys,
            chain,
            skip,
        } = setup;
        let modules = instances.into_iter().map(|i| i as Arc<dyn Module>);
        Self::assemble(Parts {
            database,
            config,
            me,
            modules: modules.collect(),
            keys,
            chain,
            skip,
            runtime_hash: Hash32(modmint_runtime::runtime_hash()),
        })
    }

    fn assemble(parts: Parts) -> Result<Arc<Self>, PipelineError> {
        let (given, expected) = (parts.modules.len(), parts.config.instances.len());
        if given != expected {
            return Err(PipelineError::Instances { given, expected });
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = modmint_runtime::guest_pool(threads)
            .map_err(|error| PipelineError::Threads(error.to_string()))?;
        let federation = Arc::new(Federation {
            id: parts.config.id(),
            config: parts.config,
            modules: parts.modules,
            skip: parts.skip,
        });
        let ahead = Ahead::new(Arc::clone(&federation), pool);
        let progress = match parts.database.progress()? {
            Some(progress) => progress,
            None => found(&parts.database, &federation, parts.me, &ahead)?,
        };
        let view = View::of(&parts.database, &progress)?;
        let all: Vec<_> = federation.config.instances.iter().map(|i| i.id).collect();
        let at_once = questions_at_once(threads, all.len());
        let pipeline = Self {
            database: parts.database,
            me: parts.me,
            shares: Arc::new(CachedShares::new(parts.keys)),
            chain: parts.chain,
            header_parts: HeaderParts {
                module_registry: commit::module_registry(&federation.config),
                runtime_hash: parts.runtime_hash,
            },
            metrics: Metrics::new(federation.config.peer_ids()),
            federation,
            ahead,
            progress: Mutex::new(progress),
            view: RwLock::new(Arc::new(view)),
            proposals: Arc::default(),
            waiters: Waiters::default(),
            messages: Messages::default(),
            questions: std::iter::repeat_with(|| Arc::new(Semaphore::new(at_once)))
                .take(all.len())
                .collect(),
            due: Arc::default(),
            due_modules: Mutex::default(),
            asking: Asking::default(),
            last_chain_change: Mutex::default(),
            own_time: AtomicU64::default(),
            last_audit: Mutex::default(),
        };
        pipeline.wake_modules(&all);
        Ok(Arc::new(pipeline))
    }

    /// Applies epochs, in order; those applied before are passed over. Ends with
    /// a session's end. To be called on a guest thread, by one at a time.
    ///
    /// # Errors
    /// When this guardian cannot go on. Nothing of the epochs is kept then.
    pub fn process(&self, epochs: &[Epoch]) -> Result<Processed, Stop> {
        let mut progress = self.progress.lock();
        let (passed, fresh) = pass_over(&progress, epochs)?;
        let watch = metrics::Stopwatch::start();
        self.look_at(fresh);
        let (ordered, applied) = self.order(&progress, fresh)?;
        let processed = self.commit(&mut progress, ordered, passed + applied)?;
        self.metrics.processed(applied, watch);
        Ok(processed)
    }

    /// Arrival: makes the checks of what has not arrived before.
    fn look_at(&self, epochs: &[Epoch]) {
        self.look_at_units(epochs.iter().flat_map(|epoch| &epoch.units));
    }

    fn look_at_units<'a>(&self, units: impl Iterator<Item = &'a OrderedUnit>) {
        let view = self.view();
        let units: Vec<_> = units
            .filter(|unit| !view.is_convicted(unit.creator))
            .map(|unit| (unit.creator, order::items_of(&unit.payload)))
            .collect();
        let items = units
            .iter()
            .flat_map(|(peer, items)| items.iter().map(|item| (*peer, item.as_slice())));
        self.ahead.look_at(&view.state, items);
    }

    /// Order: applies epochs one after the other, up to the session's end or as
    /// many as go into one write. Also says how many.
    fn order(&self, progress: &Progress, epochs: &[Epoch]) -> Result<(Ordered, usize), Stop> {
        let base = self.view().state.clone();
        let mut run = OrderedRun::new(
            Arc::clone(&self.federation),
            self.me,
            base.clone(),
            progress.clone(),
            self.ahead.verdicts(),
        );
        let (mut applied, mut bytes, mut ended) = (0, 0, false);
        for epoch in epochs {
            run.epoch(epoch)?;
            applied += 1;
            if run.session_is_full()? {
                run.end_session()?;
                ended = true;
                break;
            }
            bytes += epoch
                .units
                .iter()
                .map(|u| u.payload.len() as u64)
                .sum::<u64>();
            if bytes > MAX_BYTES_AT_ONCE || run.written() > MAX_WRITES_AT_ONCE {
                break;
            }
        }
        Ok((run.finish(base, ended), applied))
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Looks at peers' units before they are final: what is checked now need not be
    /// checked later, and what is handed in while they are gathered is checked with
    /// them. Blocks; costs little for what has been seen before. On a guest thread.
    pub fn arrive(&self, gather: impl FnOnce() -> Vec<OrderedUnit>) {
        self.ahead.gather(|| self.look_at_units(gather().iter()));
    }

    /// Adds what is counted here.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// How many transactions wait to be decided that this guardian has taken.
    pub fn pending_transactions(&self) -> usize {
        self.proposals.pending_transactions()
    }

    /// What this guardian wants ordered.
    pub fn proposals(&self) -> Arc<dyn PayloadSource> {
        Arc::clone(&self.proposals) as Arc<dyn PayloadSource>
    }

    /// Notified when a module may want something ordered or broadcast: call
    /// [`Self::tick`] then.
    pub fn due(&self) -> Arc<Notify> {
        Arc::clone(&self.due)
    }

    /// The header of the oldest session that ended here without having been
    /// signed by n − f.
    pub fn pending_header(&self) -> Option<SessionHeader> {
        let next = self.latest_signed_session().unwrap_or(0) + 1;
        let header = reads::logged(self.database.own_header(next)).flatten();
        header.map(|(header, _)| header)
    }

    /// Keeps a header that n − f guardians have signed; the caller has verified
    /// them. What was applied before is on the disk afterwards.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn store_signed_header(&self, signed: SignedHeader) -> Result<(), StorageError> {
        self.database.store_signed_header(&signed)
    }

    /// The session's header, if n − f signatures of it are kept.
    pub fn signed_header(&self, session: u64) -> Option<SignedHeader> {
        reads::logged(self.database.signed_header(session)).flatten()
    }

    /// The latest session with a signed header.
    pub fn latest_signed_session(&self) -> Option<u64> {
        reads::logged(self.database.latest_signed_session()).flatten()
    }

    /// The units of a session's epochs from `from_epoch` on, as far as this
    /// guardian has applied them, about `max_bytes` of them and at least one
    /// epoch.
    ///
    /// # Errors
    /// If the disk fails, or the session is not kept any more.
    pub fn session_epochs(
        &self,
        session: u64,
        from_epoch: u32,
        max_bytes: usize,
    ) -> Result<Vec<Vec<OrderedUnit>>, StorageError> {
        let mut epochs = Vec::new();
        let mut bytes = 0;
        for epoch in from_epoch..self.known_epochs(session)? {
            let units = self.database.units(session, epoch)?;
            // Encoded, an epoch and a unit have some bytes of their own.
            bytes += 4 + units.iter().map(|u| u.payload.len() + 6).sum::<usize>();
            if bytes > max_bytes && !epochs.is_empty() {
                break;
            }
            epochs.push(units);
        }
        Ok(epochs)
    }

    /// The items root of a session over its epochs before `epoch`.
    ///
    /// # Errors
    /// As [`Self::session_epochs`], and if there are not as many epochs.
    pub fn items_root(&self, session: u64, epoch: u32) -> Result<Hash32, StorageError> {
        if epoch > self.known_epochs(session)? {
            return Err(StorageError::NotKept(format!(
                "epoch {epoch} of session {session}"
            )));
        }
        let mut progress = Progress::begin(session, Hash32([0; 32]));
        for index in 0..epoch {
            progress.advance(&self.database.units(session, index)?);
        }
        Ok(progress.items_root)
    }

    /// How many epochs of a session this guardian has applied.
    fn known_epochs(&self, session: u64) -> Result<u32, StorageError> {
        let (current, epoch) = self.position();
        if session == current {
            return Ok(epoch);
        }
        if session < self.database.units_from()? {
            return Err(StorageError::NotKept(format!("session {session}")));
        }
        let header = self.database.own_header(session)?;
        Ok(header.map_or(0, |(header, _)| header.epochs))
    }
}

/// How many questions one of so many instances is asked at the same time, beside what it
/// wants: all together leave some of the engine's places, or they would wait for each
/// other there.
fn questions_at_once(threads: usize, instances: usize) -> usize {
    let share = limits::MAX_QUERIES as usize / (instances + 1);
    threads.clamp(1, share.saturating_sub(1).max(1))
}

/// Leaves out the epochs that have been applied before, and says how many they
/// are. What is left follows on, one after the other; what comes behind a gap or
/// a repetition is left for the next time.
fn pass_over<'a>(progress: &Progress, epochs: &'a [Epoch]) -> Result<(usize, &'a [Epoch]), Stop> {
    let (session, next) = (progress.session, progress.epoch);
    let is_old = |epoch: &&Epoch| (epoch.session, epoch.index) < (session, next);
    let passed = epochs.iter().take_while(is_old).count();
    let rest = &epochs[passed..];
    let follows =
        |(expected, epoch): &(u32, &Epoch)| (epoch.session, epoch.index) == (session, *expected);
    let fresh = (next..).zip(rest).take_while(follows).count();
    match rest.first() {
        Some(epoch) if fresh == 0 => Err(Stop::Gap {
            session: epoch.session,
            epoch: epoch.index,
            expected_session: session,
            expected_epoch: next,
        }),
        _ => Ok((passed, &rest[..fresh])),
    }
}

/// Begins the federation: every instance is founded, in one write.
fn found(
    database: &Arc<Database>,
    federation: &Arc<Federation>,
    me: PeerId,
    ahead: &Ahead,
) -> Result<Progress, PipelineError> {
    let (base, progress) = (database.snapshot(), Progress::genesis());
    let mut run = OrderedRun::new(
        Arc::clone(federation),
        me,
        base.clone(),
        progress.clone(),
        ahead.verdicts(),
    );
    ahead
        .on_guest_thread(|| run.found())
        .map_err(|(instance, failure)| PipelineError::Init {
            instance,
            reason: match failure {
                Failure::Rejected(rejection) | Failure::Unbacked(_, rejection) => rejection.message,
                Failure::Signature(_) => "a signature fails".into(),
                Failure::Halt(Halt::Storage(error)) => error.to_string(),
                Failure::Halt(Halt::Host(error)) => error.to_string(),
            },
        })?;
    let staged = database.stage(run.finish(base, false).changes)?;
    let mut local = crate::storage::LocalChanges::default();
    history::add_progress(&mut local, &progress);
    database.commit(staged, local, crate::storage::Durability::Disk)?;
    Ok(progress)
}
