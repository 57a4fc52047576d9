//! One federation in a wallet: the executor on its thread, the world around it.
//!
//! Calls into modules are jobs of one thread, so they come one at a time. What
//! machines wait for are tasks: each carries one effect out, or brings one
//! transaction to its fate, and hands what came of it to the executor. Tasks are
//! begun and ended by the executor's writes alone, in their order, so that what
//! is on disk is always what is being carried out.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, OnceLock, Weak, mpsc},
    time::{Duration, Instant},
};

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_core::{
    Amount, Argument, FederationId, InstanceId, Refusal,
    config::{FederationConfig, Network},
    tagged_hash,
};
use modmint_runtime::{
    Action, Audience, Context, Instance,
    wallet::{Agreement, EffectResult, Want},
};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::{oneshot, watch};

use crate::{
    Allowance, OperationId, OperationView, WalletError,
    database::{Batch, Database},
    executor::{Delivered, Executor, Loader, active_key, decode, history_key, not_found, view_key},
    guardians::{Contributions, FederationView, Guardians, HealthView, Opinions},
    host::device_time,
    http,
    join::{self, Compiled},
    operation::{Fate, Operation, Submission, Wait},
    seed::Seed,
    service::{Services, no_such_service},
};

/// How old what guardians have told may be when an operation begins…
const FRESH_FOR_START: Duration = Duration::from_secs(10);
/// …and when it goes on.
const FRESH_FOR_STEP: Duration = Duration::from_secs(60);
/// How long a spend waits for money that is on its way: change is there a moment
/// behind the transaction that makes it, a lost connection or two may lie between.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// What waits longer than this for guardians looks whether enough of them answer…
const USUAL: Duration = Duration::from_secs(1);
/// …each within so long…
const PROBE: Duration = Duration::from_millis(1500);
/// …and again after so long: if too few do (nobody more often), if enough do, and at most.
const PROBE_AGAIN: (Duration, Duration, Duration) = (
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(30),
);
/// Pauses between tries of what failed for a cause of this machine's: first, and
/// at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A federation as it lies in the database.
#[derive(Clone, Debug, BorshSerialize, BorshDeserialize)]
pub(crate) struct Record {
    /// The founding config's canonical bytes.
    pub(crate) config: Vec<u8>,
    pub(crate) invite: String,
    pub(crate) ecash: Option<InstanceId>,
    pub(crate) joined: u64,
    /// Whether the seed may have been used before, so that there may be money to
    /// find again.
    pub(crate) recovers: bool,
    /// Whether what begins with joining has begun: recovery, and then the modules'
    /// background actions.
    pub(crate) begun: bool,
}

pub(crate) fn record_key(id: &FederationId) -> Vec<u8> {
    [b"f", &id.0[..]].concat()
}

/// A module, for people and for the CLI's help.
#[derive(Clone, Debug)]
pub struct ModuleView {
    /// Its number.
    pub instance: InstanceId,
    /// Its kind.
    pub kind: String,
    /// The bundle's version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// Whether it has a half for wallets. Without one it is the guardians' alone.
    pub has_client: bool,
    /// What a person can ask of it.
    pub actions: Vec<Action>,
}

/// Those actions that a person can ask for.
pub(crate) fn for_people(actions: &[Action]) -> Vec<Action> {
    let theirs = |action: &&Action| action.audience == Audience::Person;
    actions.iter().filter(theirs).cloned().collect()
}

/// A guardian, for people.
#[derive(Clone, Debug, Serialize)]
pub struct GuardianView {
    /// Its index.
    pub peer: u16,
    /// Its name.
    pub name: String,
    /// Where its API is.
    pub api_url: String,
    /// How it has been doing since this wallet was opened.
    #[serde(flatten)]
    pub health: HealthView,
}

type Job = Box<dyn FnOnce(&mut Executor) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Task {
    Effect {
        operation: OperationId,
        machine: usize,
        generation: u64,
    },
    Transaction {
        operation: OperationId,
        number: usize,
    },
}

impl Task {
    const fn operation(&self) -> OperationId {
        match self {
            Self::Effect { operation, .. } | Self::Transaction { operation, .. } => *operation,
        }
    }
}

struct Inner {
    id: FederationId,
    config: Arc<FederationConfig>,
    record: Mutex<Record>,
    directory: PathBuf,
    database: Arc<Database>,
    guardians: Guardians,
    view: Arc<RwLock<FederationView>>,
    refreshed: tokio::sync::Mutex<Option<Instant>>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    tasks: Mutex<HashMap<Task, tokio::task::JoinHandle<()>>>,
    /// Transactions that guardians refuse to take.
    opinions: Mutex<HashMap<(OperationId, usize), Refusal>>,
    /// That too few guardians answer, while something waits for them.
    obstacle: Mutex<Option<Refusal>>,
    /// When somebody last looked whether they do; held by whoever does.
    probed: tokio::sync::Mutex<Option<Instant>>,
    changed: watch::Sender<u64>,
    services: Offered,
    runtime: tokio::runtime::Handle,
}

/// What the application around the wallet does for modules, once it has said so.
pub(crate) type Offered = Arc<OnceLock<Arc<dyn Services>>>;

/// A federation that this wallet has joined. Cheap to clone.
///
/// Operations that are unfinished go on for as long as the wallet is open.
#[derive(Clone)]
pub struct Federation(Arc<Inner>);

impl std::fmt::Debug for Federation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Federation").field(&self.0.id).finish()
    }
}

impl Federation {
    pub(crate) fn open(
        directory: PathBuf,
        database: Arc<Database>,
        compiled: &Arc<Compiled>,
        seed: Arc<Seed>,
        services: Offered,
        id: FederationId,
        record: Record,
    ) -> Result<Self, WalletError> {
        let config = FederationConfig::decode(&record.config, &id)
            .map_err(|e| WalletError::disk("reading a federation", e))?;
        let config = Arc::new(config);
        let loader = loader(&directory, compiled, &config);
        Self::open_with(
            directory, database, loader, seed, services, id, config, record,
        )
    }

    /// As [`Self::open`], with other modules than those of bundles on disk.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is another part of the wallet"
    )]
    fn open_with(
        directory: PathBuf,
        database: Arc<Database>,
        loader: Loader,
        seed: Arc<Seed>,
        services: Offered,
        id: FederationId,
        config: Arc<FederationConfig>,
        record: Record,
    ) -> Result<Self, WalletError> {
        let guardians = Guardians::new(&config)?;
        let view: FederationView = database
            .get(&view_key(&id))?
            .map(|bytes| decode(&bytes))
            .transpose()?
            .unwrap_or_default();
        let view = Arc::new(RwLock::new(view));
        let (sender, jobs) = mpsc::channel::<Job>();
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|e| WalletError::Usage(format!("a wallet is opened inside tokio: {e}")))?;
        let (changed, _) = watch::channel(0);
        let inner = Arc::new_cyclic(|weak: &Weak<Inner>| {
            let written = {
                let weak = weak.clone();
                Box::new(move |operation: &Operation| {
                    if let Some(inner) = weak.upgrade() {
                        inner.carry_out(operation);
                    }
                })
            };
            let mut executor = Executor::new(
                database.clone(),
                seed,
                config.clone(),
                id,
                record.ecash,
                record.invite.as_str().into(),
                view.clone(),
                loader,
                written,
            );
            let thread = modmint_runtime::spawn_guest_thread("modules", move || {
                while let Ok(job) = jobs.recv() {
                    job(&mut executor);
                }
            });
            Inner {
                id,
                config,
                record: Mutex::new(record),
                directory,
                database,
                guardians,
                view,
                refreshed: tokio::sync::Mutex::default(),
                jobs: Mutex::new(thread.as_ref().ok().map(|_| sender)),
                thread: Mutex::new(thread.ok()),
                tasks: Mutex::default(),
                opinions: Mutex::default(),
                obstacle: Mutex::default(),
                probed: tokio::sync::Mutex::default(),
                changed,
                services,
                runtime,
            }
        });
        if inner.thread.lock().is_none() {
            return Err(WalletError::disk(
                "starting a thread for modules",
                "none was given",
            ));
        }
        Ok(Self(inner))
    }

    /// The federation's id.
    pub fn id(&self) -> FederationId {
        self.0.id
    }

    /// The founding config, verified.
    pub fn config(&self) -> &FederationConfig {
        &self.0.config
    }

    /// What others join by.
    pub fn invite(&self) -> String {
        self.0.record.lock().invite.clone()
    }

    /// Whether there is a module that holds the wallet's money.
    pub fn ecash_instance(&self) -> Option<InstanceId> {
        self.0.ecash()
    }

    /// The guardians, to ask them without a module.
    pub fn guardians(&self) -> &Guardians {
        &self.0.guardians
    }

    /// That too few guardians answer, if something waits for them: it goes on by itself
    /// once they do.
    pub fn obstacle(&self) -> Option<Refusal> {
        self.0.obstacle.lock().clone()
    }

    /// The guardians and how they have been doing.
    pub fn guardian_views(&self) -> Vec<GuardianView> {
        self.0
            .guardians
            .all()
            .iter()
            .zip(&self.0.config.peers)
            .map(|(guardian, known)| GuardianView {
                peer: guardian.peer.0,
                name: known.name.clone(),
                api_url: known.api_url.clone(),
                health: guardian.health.view(),
            })
            .collect()
    }

    /// What the federation has agreed on, as far as this wallet was told.
    pub fn view(&self) -> FederationView {
        *self.0.view.read()
    }

    /// Asks the guardians where the federation stands.
    ///
    /// # Errors
    /// [`WalletError::Unreachable`] if fewer than n − f answer.
    pub async fn refresh(&self) -> Result<FederationView, WalletError> {
        self.0.fresh(Duration::ZERO).await
    }

    /// What can be spent now.
    ///
    /// # Errors
    /// The e-cash module or the disk fails.
    pub async fn balance(&self) -> Result<Amount, WalletError> {
        self.prepare(self.ecash_instance()).await?;
        self.0.call(Executor::balance).await?
    }

    /// The modules and what can be asked of them.
    ///
    /// # Errors
    /// A bundle cannot be had any more.
    pub async fn modules(&self) -> Result<Vec<ModuleView>, WalletError> {
        let mut views = Vec::new();
        for instance in self.0.instances() {
            views.push(self.module(instance).await?);
        }
        Ok(views)
    }

    /// One module and what can be asked of it.
    ///
    /// # Errors
    /// There is none of this number, or its bundle cannot be had any more.
    pub async fn module(&self, instance: InstanceId) -> Result<ModuleView, WalletError> {
        let config = self.0.config.instance(instance).ok_or_else(|| {
            WalletError::NotFound(format!("the federation has no module {instance}"))
        })?;
        self.prepare(Some(instance)).await?;
        let kind = config.kind.clone();
        self.0
            .call(move |executor| {
                let module = executor.module(instance)?;
                let (version, summary) = module.about();
                Ok(ModuleView {
                    instance,
                    kind,
                    version: version.to_owned(),
                    summary: summary.to_owned(),
                    has_client: module.has_client(),
                    actions: for_people(module.actions()),
                })
            })
            .await?
    }

    /// What a module's bundle is able to do, in words, from its imports alone: what a
    /// person looks at before trusting it.
    ///
    /// # Errors
    /// As [`Self::module`].
    pub async fn capabilities(&self, instance: InstanceId) -> Result<Vec<String>, WalletError> {
        self.prepare(Some(instance)).await?;
        self.0
            .call(move |executor| Ok(executor.module(instance)?.capabilities().to_vec()))
            .await?
    }

    /// The instance that a name stands for: `kind`, if there is one of it, or
    /// `kind:instance`.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn instance(&self, name: &str) -> Result<InstanceId, WalletError> {
        let (kind, number) = match name.split_once(':') {
            Some((kind, number)) => (kind, Some(number)),
            None => (name, None),
        };
        let of_kind: Vec<_> = self
            .0
            .config
            .instances
            .iter()
            .filter(|instance| instance.kind == kind)
            .map(|instance| instance.id)
            .collect();
        let names = || {
            let all = &self.0.config.instances;
            let several = |kind: &str| all.iter().filter(|other| other.kind == kind).count() > 1;
            let names: Vec<_> = all
                .iter()
                .map(|instance| {
                    if several(&instance.kind) {
                        format!("{}:{}", instance.kind, instance.id)
                    } else {
                        instance.kind.clone()
                    }
                })
                .collect();
            names.join(", ")
        };
        match (number, of_kind.as_slice()) {
            (None, [only]) => Ok(*only),
            (None, [_, _, ..]) => Err(WalletError::Usage(format!(
                "there are several modules of kind {kind}; name one of: {}",
                names()
            ))),
            (Some(number), all) => all
                .iter()
                .find(|instance| instance.to_string() == number)
                .copied()
                .ok_or_else(|| {
                    WalletError::NotFound(format!(
                        "there is no module {name:?}; there are: {}",
                        names()
                    ))
                }),
            (None, []) => Err(WalletError::NotFound(format!(
                "there is no module {name:?}; there are: {}",
                names()
            ))),
        }
    }

    /// Begins an operation.
    ///
    /// # Errors
    /// [`WalletError::ConfirmationNeeded`] with the quote if it takes more from
    /// the balance than is allowed: nothing has happened then, and it is begun
    /// again with the allowance. What the module refuses has not happened either.
    pub async fn start(
        &self,
        instance: InstanceId,
        action: &str,
        arguments: &[Argument],
        allowance: Allowance,
    ) -> Result<OperationView, WalletError> {
        self.start_as(None, instance, action, arguments, allowance)
            .await
    }

    /// As [`Self::start`], under an id of the caller's: what has begun under it is
    /// not begun again, whoever was killed in between.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_once(
        &self,
        id: OperationId,
        instance: InstanceId,
        action: &str,
        arguments: &[Argument],
        allowance: Allowance,
    ) -> Result<OperationView, WalletError> {
        match self.operation(id).await {
            Err(WalletError::NotFound(_)) => {
                self.start_as(Some(id), instance, action, arguments, allowance)
                    .await
            }
            known => known,
        }
    }

    async fn start_as(
        &self,
        id: Option<OperationId>,
        instance: InstanceId,
        action: &str,
        arguments: &[Argument],
        allowance: Allowance,
    ) -> Result<OperationView, WalletError> {
        self.prepare(Some(instance)).await?;
        self.prepare(self.ecash_instance()).await?;
        self.0.fresh(FRESH_FOR_START).await?;
        if let Some(first) = self.recoveries().await?.first() {
            return Err(WalletError::Refused(Refusal::new(
                "recovering",
                format!(
                    "the wallet is still finding its money again; `wait {}` waits for it",
                    first.operation
                ),
            )));
        }
        let (action, arguments) = (action.to_owned(), arguments.to_vec());
        let operation = self
            .0
            .spend(move |executor| {
                // One that was begun meanwhile, by another call, stays.
                match id.map(|id| executor.operation(&id)).transpose()?.flatten() {
                    Some(begun) => Ok(begun),
                    None => executor.start(instance, &action, &arguments, allowance, id),
                }
            })
            .await?;
        Ok(self.0.show(&operation))
    }

    /// An operation as it stands.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn operation(&self, id: OperationId) -> Result<OperationView, WalletError> {
        let found = self
            .0
            .call(move |executor| executor.operation(&id))
            .await??;
        found
            .map(|operation| self.0.show(&operation))
            .ok_or_else(|| not_found(&id))
    }

    /// The newest operations, those that go on first.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn operations(&self, limit: usize) -> Result<Vec<OperationView>, WalletError> {
        let found = self
            .0
            .call(move |executor| executor.newest(limit))
            .await??;
        Ok(found
            .iter()
            .map(|operation| self.0.show(operation))
            .collect())
    }

    /// At most `limit` operations with ids less than `below`, descending: newest first,
    /// but that what modules begin by themselves with joining comes before all else. An
    /// operation keeps its place whatever becomes of it.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn operations_below(
        &self,
        below: Option<OperationId>,
        limit: usize,
    ) -> Result<Vec<OperationView>, WalletError> {
        let id = self.0.id;
        let of = move |database: &Database, key: fn(&FederationId, &OperationId) -> Vec<u8>| {
            // The greatest id is nobody's.
            let last = key(&id, &below.unwrap_or(OperationId([u8::MAX; 10])));
            let all = key(&id, &OperationId([0; 10]));
            let prefix = &all[..all.len() - 10];
            database
                .list_below(prefix, last, limit)?
                .iter()
                .map(|(_, bytes)| decode(bytes))
                .collect::<Result<Vec<Operation>, _>>()
        };
        let found = self
            .0
            .call(move |executor| {
                let mut all = of(&executor.database, active_key)?;
                all.extend(of(&executor.database, history_key)?);
                Ok::<_, WalletError>(all)
            })
            .await?;
        let mut found = found?;
        found.sort_by_key(|operation| std::cmp::Reverse(operation.id));
        found.truncate(limit);
        Ok(found
            .iter()
            .map(|operation| self.0.show(operation))
            .collect())
    }

    /// All operations that are not over, oldest first.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn unfinished(&self) -> Result<Vec<OperationView>, WalletError> {
        let found = self.0.call(|executor| executor.all_active()).await??;
        Ok(found
            .iter()
            .map(|operation| self.0.show(operation))
            .collect())
    }

    /// Forgets an operation that is over: for programs whose operations strangers
    /// begin. Under its id another may begin ([`Self::start_once`]). What is not there
    /// is forgotten already.
    ///
    /// # Errors
    /// It goes on, or the disk fails.
    pub async fn forget(&self, id: OperationId) -> Result<(), WalletError> {
        self.0.call(move |executor| executor.forget(&id)).await?
    }

    /// Waits until `enough` of an operation has happened. `enough` sees each
    /// state at least once, the present one first.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn wait(
        &self,
        id: OperationId,
        mut enough: impl FnMut(&OperationView) -> bool,
    ) -> Result<OperationView, WalletError> {
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let view = self.operation(id).await?;
            if enough(&view) {
                return Ok(view);
            }
            changed.changed().await.map_err(|_| WalletError::Closed)?;
        }
    }

    /// Confirms what an operation asks for, if it takes no more than is allowed.
    ///
    /// # Errors
    /// [`WalletError::ConfirmationNeeded`] with the quote of today.
    pub async fn confirm(
        &self,
        id: OperationId,
        allowance: Allowance,
    ) -> Result<OperationView, WalletError> {
        self.0.fresh(FRESH_FOR_START).await?;
        self.prepare_for(id).await?;
        let operation = self
            .0
            .spend(move |executor| executor.confirm(&id, allowance))
            .await?;
        Ok(self.0.show(&operation))
    }

    /// Says no to what an operation asks for.
    ///
    /// # Errors
    /// It asks for nothing.
    pub async fn decline(&self, id: OperationId) -> Result<OperationView, WalletError> {
        self.on_operation(id, move |executor| executor.decline(&id))
            .await
    }

    /// Asks an operation to stop.
    ///
    /// # Errors
    /// The module refuses, or the operation is over.
    pub async fn cancel(&self, id: OperationId) -> Result<OperationView, WalletError> {
        self.0.fresh(FRESH_FOR_START).await?;
        self.on_operation(id, move |executor| executor.cancel(&id))
            .await
    }

    async fn on_operation(
        &self,
        id: OperationId,
        job: impl FnOnce(&mut Executor) -> Result<Operation, WalletError> + Send + 'static,
    ) -> Result<OperationView, WalletError> {
        self.prepare_for(id).await?;
        let operation = self.0.call(job).await??;
        Ok(self.0.show(&operation))
    }

    /// All that is unfinished goes on.
    pub(crate) async fn resume(&self) -> Result<(), WalletError> {
        let active = self.0.call(|executor| executor.all_active()).await??;
        for operation in active {
            let id = operation.id;
            if let Err(e) = self.prepare_for(id).await {
                tracing::warn!(operation = %id, "cannot go on now: {e}");
                continue;
            }
            if operation
                .machines
                .iter()
                .any(|machine| machine.stuck.is_some())
            {
                self.0.call(move |executor| executor.unstick(&id)).await??;
            }
            // As it is on disk now, in the order of the writes.
            let inner = self.0.clone();
            self.0
                .call(move |executor| {
                    executor
                        .active(&id)
                        .map(|operation| operation.iter().for_each(|op| inner.carry_out(op)))
                })
                .await??;
        }
        Ok(())
    }

    /// The operations that find the wallet's money again and are not done yet.
    /// Nothing else begins before they are.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn recoveries(&self) -> Result<Vec<OperationView>, WalletError> {
        if !self.0.record.lock().recovers {
            return Ok(Vec::new());
        }
        let ids = self.0.instances().map(|instance| self.recovery(instance));
        let ids: Vec<_> = ids.collect();
        let active = move |executor: &mut Executor| {
            let found = ids.iter().map(|id| executor.active(id));
            found.collect::<Result<Vec<_>, _>>()
        };
        let active = self.0.call(active).await??;
        Ok(active.iter().flatten().map(|op| self.0.show(op)).collect())
    }

    fn recovery(&self, instance: InstanceId) -> OperationId {
        self.id_of("modmint/wallet/recovery", instance, "")
    }

    /// The id of what is begun once, crash or not.
    fn id_of(&self, purpose: &str, instance: InstanceId, action: &str) -> OperationId {
        let parts: [&[u8]; 3] = [&self.0.id.0, &instance.0.to_be_bytes(), action.as_bytes()];
        let mut id = OperationId([0; 10]);
        id.0.copy_from_slice(&tagged_hash(purpose, &parts)[..10]);
        id
    }

    /// Begins what is to begin with joining, once: modules find their money again,
    /// if there may be any; then what they want to have running.
    pub(crate) async fn begin(&self) -> Result<(), WalletError> {
        let (recovers, begun) = {
            let record = self.0.record.lock();
            (record.recovers, record.begun)
        };
        if begun {
            return Ok(());
        }
        if recovers {
            for instance in self.0.instances() {
                self.prepare(Some(instance)).await?;
                let id = self.recovery(instance);
                self.0
                    .call(move |executor| executor.recover(instance, id))
                    .await??;
            }
        }
        if !self.recoveries().await?.is_empty() {
            // Tried again when the wallet is opened next.
            return Ok(());
        }
        for instance in self.0.instances() {
            self.prepare(Some(instance)).await?;
            let this = self.clone();
            self.0
                .call(move |executor| {
                    let module = executor.module(instance)?;
                    for action in module.actions() {
                        if action.audience != Audience::Background {
                            continue;
                        }
                        let id = this.id_of("modmint/wallet/background", instance, &action.name);
                        if executor.operation(&id)?.is_none() {
                            executor.start(
                                instance,
                                &action.name,
                                &[],
                                Allowance::Nothing,
                                Some(id),
                            )?;
                        }
                    }
                    Ok::<_, WalletError>(())
                })
                .await??;
        }
        let mut record = self.0.record.lock().clone();
        record.begun = true;
        let mut batch = Batch::default();
        batch.put(
            record_key(&self.0.id),
            borsh::to_vec(&record).map_err(|e| WalletError::disk("encoding a federation", e))?,
        );
        self.0.database.write(batch)?;
        *self.0.record.lock() = record;
        Ok(())
    }

    /// Has the bundle of an instance on disk before a call loads it.
    async fn prepare(&self, instance: Option<InstanceId>) -> Result<(), WalletError> {
        self.0.prepare(instance).await
    }

    async fn prepare_for(&self, id: OperationId) -> Result<(), WalletError> {
        self.prepare(self.ecash_instance()).await?;
        if let Some(operation) = self.0.call(move |executor| executor.active(&id)).await?? {
            for machine in &operation.machines {
                self.prepare(Some(machine.instance)).await?;
            }
        }
        Ok(())
    }

    /// Ends everything of this federation: no call and no task is left when this
    /// returns.
    pub(crate) async fn close(&self) {
        self.0.jobs.lock().take();
        let tasks: Vec<_> = self.0.tasks.lock().drain().map(|(_, task)| task).collect();
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            // An error is what was asked for.
            let _ = task.await;
        }
        let thread = self.0.thread.lock().take();
        if let Some(thread) = thread {
            // A thread that panicked has said so.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

fn loader(
    directory: &std::path::Path,
    compiled: &Arc<Compiled>,
    config: &Arc<FederationConfig>,
) -> Loader {
    let (directory, compiled, config) = (directory.to_owned(), compiled.clone(), config.clone());
    Box::new(move |id| {
        let instance = config
            .instance(id)
            .ok_or_else(|| WalletError::NotFound(format!("the federation has no module {id}")))?;
        let bytes = join::cached_bundle(&directory, &instance.bundle).ok_or_else(|| {
            WalletError::Untrusted(format!(
                "the bundle of module {} is not on disk",
                instance.kind
            ))
        })?;
        let bundle = compiled.load(instance, &bytes)?;
        let context = Context::new(&config, id)
            .ok_or_else(|| WalletError::NotFound(format!("the federation has no module {id}")))?;
        Ok(Instance::new(bundle, context))
    })
}

impl Inner {
    /// A job for the modules' thread.
    async fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Executor) -> R + Send + 'static,
    ) -> Result<R, WalletError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |executor| {
            // Nobody may wait any more.
            let _ = answer.send(job(executor));
        });
        match &*self.jobs.lock() {
            Some(jobs) => jobs.send(job).map_err(|_| WalletError::Closed)?,
            None => return Err(WalletError::Closed),
        }
        answered.await.map_err(|_| WalletError::Closed)
    }

    /// A job that may take money: done again while there is too little and more is
    /// on its way.
    async fn spend(
        &self,
        job: impl Fn(&mut Executor) -> Result<Operation, WalletError> + Clone + Send + 'static,
    ) -> Result<Operation, WalletError> {
        let mut changed = self.changed.subscribe();
        let patience = tokio::time::sleep(CHANGE_PATIENCE);
        tokio::pin!(patience);
        loop {
            changed.mark_unchanged();
            let job = job.clone();
            let (done, more) = self
                .call(move |executor| {
                    let done = job(executor);
                    let short = matches!(done, Err(WalletError::InsufficientFunds(_)));
                    (done, short && executor.expects_money())
                })
                .await?;
            if !more {
                return done;
            }
            tokio::select! {
                changed = changed.changed() => changed.map_err(|_| WalletError::Closed)?,
                () = &mut patience => return done,
            }
        }
    }

    /// Brings a plan for which there was too little money to its transaction, or to
    /// its refusal.
    async fn plan_again(&self, operation: OperationId, machine: usize, generation: u64) {
        let mut changed = self.changed.subscribe();
        let patience = tokio::time::sleep(CHANGE_PATIENCE);
        tokio::pin!(patience);
        let mut last = false;
        loop {
            changed.mark_unchanged();
            let planned = async {
                self.prepare(self.ecash()).await?;
                self.fresh(FRESH_FOR_STEP).await?;
                self.call(move |executor| {
                    executor.plan_again(&operation, machine, generation, last)
                })
                .await?
            };
            match planned.await {
                Ok(true) | Err(WalletError::Closed) => return,
                Ok(false) => {}
                Err(e) => {
                    tracing::warn!(%operation, "cannot go on now: {e}");
                    tokio::time::sleep(RETRY.0).await;
                }
            }
            tokio::select! {
                told = changed.changed() => if told.is_err() { return },
                () = &mut patience => last = true,
            }
        }
    }

    fn instances(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.config.instances.iter().map(|instance| instance.id)
    }

    fn ecash(&self) -> Option<InstanceId> {
        self.record.lock().ecash
    }

    async fn prepare(&self, instance: Option<InstanceId>) -> Result<(), WalletError> {
        if let Some(config) = instance.and_then(|instance| self.config.instance(instance)) {
            join::bundle_on_disk(&self.directory, &self.guardians, &config.bundle).await?;
        }
        Ok(())
    }

    /// What is agreed, not older than `age`.
    async fn fresh(&self, age: Duration) -> Result<FederationView, WalletError> {
        let mut refreshed = self.refreshed.lock().await;
        if refreshed.is_none_or(|time| time.elapsed() > age) {
            let told = self.guardians.view().await?;
            self.view.write().advance_to(told);
            *refreshed = Some(Instant::now());
        }
        Ok(*self.view.read())
    }

    fn show(&self, operation: &Operation) -> OperationView {
        let opinions = self.opinions.lock();
        let opinion = operation
            .transactions
            .iter()
            .enumerate()
            .filter(|(_, transaction)| transaction.fate.is_none())
            .find_map(|(number, _)| opinions.get(&(operation.id, number)));
        let obstacle = self.obstacle.lock();
        operation.view(device_time(), opinion, obstacle.as_ref())
    }

    fn tell(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What guardians are asked for; that too few of them answer is shown meanwhile.
    async fn of_guardians<T>(&self, asked: impl Future<Output = T>) -> T {
        let answer = tokio::select! {
            answer = asked => answer,
            never = self.look_for_guardians() => match never {},
        };
        self.meets(None);
        answer
    }

    /// Looks whether enough guardians answer, after longer than they usually take: first
    /// often, then less and less.
    async fn look_for_guardians(&self) -> Infallible {
        let begun = Instant::now();
        tokio::time::sleep(USUAL).await;
        loop {
            // One is enough for all that wait.
            if let Ok(mut probed) = self.probed.try_lock()
                && probed.is_none_or(|time| time.elapsed() >= PROBE_AGAIN.0)
            {
                self.guardians.probe(PROBE).await;
                *probed = Some(Instant::now());
                let lack = self.guardians.lack();
                self.meets(lack.map(|lack| Refusal::new("federation-unreachable", lack)));
            }
            let least = match *self.obstacle.lock() {
                Some(_) => PROBE_AGAIN.0,
                None => PROBE_AGAIN.1,
            };
            tokio::time::sleep((begun.elapsed() / 60).clamp(least, PROBE_AGAIN.2)).await;
        }
    }

    fn meets(&self, obstacle: Option<Refusal>) {
        let former = std::mem::replace(&mut *self.obstacle.lock(), obstacle.clone());
        if former != obstacle {
            self.tell();
        }
    }

    /// Begins and ends tasks so that they are what `operation`, just written,
    /// waits for.
    fn carry_out(self: &Arc<Self>, operation: &Operation) {
        let mut wanted: BTreeMap<(usize, u64), &Want> = BTreeMap::new();
        for (machine, state) in operation.machines.iter().enumerate() {
            for pending in state.effects.iter().filter(|_| state.runs()) {
                if let Wait::Effect(want) = &pending.wait {
                    wanted.insert((machine, pending.generation), want);
                }
            }
        }
        let undecided = |number: &usize| {
            operation
                .transactions
                .get(*number)
                .is_some_and(|transaction| transaction.fate.is_none())
        };
        let mut tasks = self.tasks.lock();
        tasks.retain(|task, handle| {
            let keep = task.operation() != operation.id
                || match task {
                    Task::Effect {
                        machine,
                        generation,
                        ..
                    } => wanted.contains_key(&(*machine, *generation)),
                    Task::Transaction { number, .. } => undecided(number),
                };
            if !keep {
                handle.abort();
            }
            keep && !handle.is_finished()
        });
        for ((machine, generation), want) in wanted {
            let task = Task::Effect {
                operation: operation.id,
                machine,
                generation,
            };
            let instance = operation.machines[machine].instance;
            tasks.entry(task).or_insert_with(|| {
                let (inner, want) = (self.clone(), want.clone());
                self.runtime
                    .spawn(inner.effect(operation.id, machine, instance, generation, want))
            });
        }
        for (number, transaction) in operation.transactions.iter().enumerate() {
            if transaction.fate.is_some() {
                self.opinions.lock().remove(&(operation.id, number));
                continue;
            }
            let task = Task::Transaction {
                operation: operation.id,
                number,
            };
            tasks.entry(task).or_insert_with(|| {
                let (inner, transaction) = (self.clone(), transaction.clone());
                self.runtime
                    .spawn(inner.transaction(operation.id, number, transaction))
            });
        }
        drop(tasks);
        self.tell();
    }

    /// Carries one effect out until the machine has taken what came of it.
    async fn effect(
        self: Arc<Self>,
        operation: OperationId,
        machine: usize,
        instance: InstanceId,
        generation: u64,
        want: Want,
    ) {
        let mut pause = RETRY.0;
        loop {
            let deliver = |outcome: EffectResult, goes_on: bool| {
                self.deliver(operation, machine, generation, outcome, goes_on)
            };
            let taken = match &want {
                Want::Outcomes(request) => {
                    let goes_on = request.agreement == Agreement::Each;
                    let asked = self.guardians.outcomes(instance, request, |outcomes| {
                        deliver(EffectResult::Outcomes(outcomes), goes_on)
                    });
                    self.of_guardians(asked).await
                }
                Want::Query(request) => {
                    let goes_on = request.agreement == Agreement::Each;
                    let asked = self.guardians.query(instance, request, |answers| {
                        deliver(EffectResult::Answers(answers), goes_on)
                    });
                    self.of_guardians(asked).await
                }
                Want::Http(request) => {
                    let key = tagged_hash(
                        "modmint/wallet/idempotency",
                        &[
                            &self.id.0,
                            &operation.0,
                            &(machine as u64).to_be_bytes(),
                            &generation.to_be_bytes(),
                        ],
                    );
                    let network: Network = self.config.network;
                    let outcome = match http::request(request, network, &hex::encode(key)).await {
                        Ok(response) => EffectResult::Response(response),
                        Err(refusal) => EffectResult::Failed(refusal),
                    };
                    deliver(outcome, false).await
                }
                Want::Until(time) => {
                    loop {
                        let left = time.saturating_sub(device_time());
                        if left == 0 {
                            break;
                        }
                        // In pieces: a device that slept has a clock that jumps.
                        tokio::time::sleep(Duration::from_secs(left.min(30))).await;
                    }
                    deliver(EffectResult::TimeReached, false).await
                }
                Want::Service(request) => {
                    let served = match self.services.get() {
                        Some(services) => {
                            services
                                .serve(self.id, &request.name, &request.request)
                                .await
                        }
                        None => Err(no_such_service(&request.name)),
                    };
                    let outcome = match served {
                        Ok(answer) => EffectResult::Served(answer),
                        Err(refusal) => EffectResult::Failed(refusal),
                    };
                    deliver(outcome, false).await
                }
                // For money that is on its way; else a plan waits for its
                // transaction's fate.
                Want::Submit(_) => {
                    self.plan_again(operation, machine, generation).await;
                    return;
                }
            };
            if taken {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Hands an outcome to the machine, until it could be written. False if the
    /// machine refuses it: then the effect is carried out again.
    async fn deliver(
        &self,
        operation: OperationId,
        machine: usize,
        generation: u64,
        outcome: EffectResult,
        goes_on: bool,
    ) -> bool {
        let mut pause = RETRY.0;
        loop {
            let told = outcome.clone();
            let delivered = async {
                self.prepare(self.ecash()).await?;
                self.fresh(FRESH_FOR_STEP).await?;
                self.call(move |executor| {
                    executor.deliver(&operation, machine, generation, told, goes_on)
                })
                .await?
            };
            match delivered.await {
                Ok(Delivered::Written | Delivered::Stale) => return true,
                Ok(Delivered::Refused(refusal)) => {
                    tracing::warn!(%operation, %refusal, "a machine refuses what it is told");
                    return false;
                }
                Err(WalletError::Closed) => return true,
                Err(e) => tracing::warn!(%operation, "cannot go on now: {e}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Brings one transaction to its fate.
    async fn transaction(
        self: Arc<Self>,
        operation: OperationId,
        number: usize,
        transaction: Submission,
    ) {
        let (opinions, mut told) = watch::channel(Opinions::default());
        let threshold = self.guardians.threshold();
        // Resolves once a threshold has refused, if nothing of this wallet could
        // be lost by giving up before the expiry.
        let given_up = async {
            loop {
                let opinion = told.borrow_and_update().refused_by(threshold).cloned();
                let refusal = opinion.as_ref().map(|opinion| opinion.refusal.clone());
                let key = (operation, number);
                let former = match &refusal {
                    Some(refusal) => self.opinions.lock().insert(key, refusal.clone()),
                    None => self.opinions.lock().remove(&key),
                };
                if former != refusal {
                    self.tell();
                }
                if let Some(opinion) = opinion.filter(|_| transaction.foreign) {
                    return Fate::Rejected {
                        refusal: opinion.refusal,
                        input: opinion.input,
                        output: opinion.output,
                    };
                }
                if told.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let outputs = transaction.outputs();
        let decided = self.guardians.submit(
            transaction.txid,
            &transaction.bytes,
            transaction.expires,
            &outputs,
            &opinions,
        );
        let (fate, contributions) = tokio::select! {
            decided = self.of_guardians(decided) => decided,
            fate = given_up => (fate, Contributions::default()),
        };
        let mut pause = RETRY.0;
        loop {
            let (fate, contributions) = (fate.clone(), contributions.clone());
            let decided = async {
                self.prepare(self.ecash()).await?;
                self.fresh(FRESH_FOR_STEP).await?;
                self.call(move |executor| {
                    executor.decided(&operation, number, fate, &contributions)
                })
                .await?
            };
            match decided.await {
                Ok(_) | Err(WalletError::Closed) => return,
                Err(e) => tracing::warn!(%operation, "cannot go on now: {e}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    use std::path::Path;

    use modmint_core::Value;

    use super::*;
    use crate::{
        Lock, OperationStatus,
        executor::tests::{MINT, SHOP, config, loader},
        guardians::tests::{ACCEPTED, Set, guardians, honest, silent, soon},
    };

    /// A wallet of one federation, whose guardians are `set` and whose modules are
    /// the executor's tests'.
    fn open(directory: &Path, set: &Set) -> Federation {
        open_as(directory, set, false)
    }

    /// As [`open`]; one that `recovers` has joined just now.
    fn open_as(directory: &Path, set: &Set, recovers: bool) -> Federation {
        let mut config = config();
        config.peers = set.peers.clone();
        let seed_file = directory.join("seed");
        if Seed::load(&seed_file).unwrap().is_none() {
            Seed::create(&seed_file).unwrap();
        }
        for instance in &config.instances {
            join::cache_bundle(directory, &instance.bundle, b"not looked at").unwrap();
        }
        let database = Database::open(directory, Lock::take(directory).unwrap()).unwrap();
        let record = Record {
            config: config.encode(),
            invite: "modmint1test".into(),
            ecash: Some(MINT),
            joined: 0,
            recovers,
            begun: !recovers,
        };
        Federation::open_with(
            directory.to_owned(),
            Arc::new(database),
            loader(2),
            Arc::new(Seed::load(&seed_file).unwrap().unwrap()),
            Offered::default(),
            config.id(),
            Arc::new(config),
            record,
        )
        .unwrap()
    }

    async fn start(
        federation: &Federation,
        instance: InstanceId,
        action: &str,
        value: u64,
    ) -> OperationView {
        let arguments = [Argument {
            name: "amount".into(),
            value: Value::Amount(Amount(value)),
        }];
        federation
            .start(instance, action, &arguments, Allowance::Anything)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn an_operation_goes_on_where_a_closed_wallet_left_it() {
        let directory = tempfile::tempdir().unwrap();
        let set = guardians([honest(), silent(), honest(), honest()]).await;
        let federation = open(directory.path(), &set);
        start(&federation, MINT, "issue", 1000).await;
        let paid = start(&federation, SHOP, "ask", 600).await;
        let id = paid.operation;
        // The query is answered, the question asked.
        let asking = federation.wait(id, |view| view.status == OperationStatus::Asking);
        assert_eq!(
            soon(asking).await.unwrap().question.unwrap().total,
            Amount(601)
        );
        let confirmed = federation.confirm(id, Allowance::UpTo(Amount(601))).await;
        let txid = confirmed.unwrap().transactions[0].txid;
        set.until(|fake| !fake.submitted.is_empty()).await;
        federation.close().await;
        drop(federation);

        let federation = open(directory.path(), &set);
        assert_eq!(federation.balance().await.unwrap(), Amount::ZERO);
        for fake in &set.fakes {
            let mut fake = fake.lock();
            fake.txid = txid;
            fake.status = ACCEPTED;
            fake.outcome = Some(vec![1]);
        }
        federation.resume().await.unwrap();
        let done = federation.wait(id, |view| {
            view.status == OperationStatus::Done && !view.settling
        });
        let done = soon(done).await.unwrap();
        assert_eq!(done.transactions[0].txid, txid, "the same transaction");
        assert_eq!(done.took_msat, 601);
        // The change has been fetched.
        assert_eq!(federation.balance().await.unwrap(), Amount(399));
        assert!(
            federation
                .0
                .tasks
                .lock()
                .values()
                .all(|task| task.is_finished())
        );
        federation.close().await;
    }

    #[tokio::test]
    async fn spends_wait_for_change_that_is_on_its_way() {
        let directory = tempfile::tempdir().unwrap();
        let set = guardians([honest(), honest(), honest(), honest()]).await;
        let federation = open(directory.path(), &set);
        let accept = |view: &OperationView| {
            for fake in &set.fakes {
                let mut fake = fake.lock();
                fake.txid = view.transactions[0].txid;
                fake.status = ACCEPTED;
                fake.outcome = Some(vec![1]);
            }
        };
        start(&federation, MINT, "issue", 1000).await;
        let first = start(&federation, SHOP, "pay", 300).await;
        assert_eq!(federation.balance().await.unwrap(), Amount::ZERO);
        // One is refused nothing while its change is out, nor is one that comes to
        // its price later.
        let second = tokio::spawn({
            let federation = federation.clone();
            async move { start(&federation, SHOP, "pay", 300).await }
        });
        let third = start(&federation, SHOP, "ask", 100).await.operation;
        set.until(|fake| !fake.submitted.is_empty()).await;
        assert!(!second.is_finished());
        accept(&first);
        let asking = federation.wait(third, |view| view.status == OperationStatus::Asking);
        // Whoever of the two comes first takes the note of 699; the other waits on.
        let second = soon(second).await.unwrap();
        assert_eq!(second.transactions.len(), 1);
        accept(&second);
        let asked = soon(asking).await.unwrap();
        assert_eq!(asked.question.unwrap().total, Amount(101));
        let done = federation.wait(second.operation, |view| {
            view.status == OperationStatus::Done && !view.settling
        });
        soon(done).await.unwrap();
        assert_eq!(federation.balance().await.unwrap(), Amount(398));
        federation.close().await;
    }

    #[tokio::test]
    async fn who_waits_for_too_few_guardians_is_told_until_enough_are_back() {
        let directory = tempfile::tempdir().unwrap();
        let set = guardians([honest(), honest(), honest(), honest()]).await;
        let federation = open(directory.path(), &set);
        start(&federation, MINT, "issue", 1000).await;
        let paid = start(&federation, SHOP, "pay", 600).await;
        set.until(|fake| !fake.submitted.is_empty()).await;
        let silence = |silent| {
            for fake in &set.fakes[2..] {
                fake.lock().silent = silent;
            }
        };
        silence(true);
        let begun = Instant::now();
        let met = federation.wait(paid.operation, |view| view.obstacle.is_some());
        let met = soon(met).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(6), "{begun:?}");
        assert_eq!(met.status, OperationStatus::Running);
        let obstacle = met.obstacle.unwrap();
        assert_eq!(obstacle.code, "federation-unreachable");
        for part in ["2 of 4", "3 are needed", "guardian 2 (", "guardian 3 ("] {
            assert!(obstacle.message.contains(part), "{}", obstacle.message);
        }
        assert_eq!(federation.obstacle().unwrap(), obstacle);
        silence(false);
        let goes_on = federation.wait(paid.operation, |view| view.obstacle.is_none());
        soon(goes_on).await.unwrap();
        for fake in &set.fakes {
            let mut fake = fake.lock();
            fake.txid = paid.transactions[0].txid;
            fake.status = ACCEPTED;
            fake.outcome = Some(vec![1]);
        }
        let done = federation.wait(paid.operation, |view| {
            view.status == OperationStatus::Done && !view.settling
        });
        assert_eq!(soon(done).await.unwrap().obstacle, None);
        federation.close().await;
    }

    /// Tells what it is asked, and answers if it is open.
    struct Door {
        asked: tokio::sync::mpsc::UnboundedSender<(String, Vec<u8>)>,
        open: bool,
    }

    #[async_trait::async_trait]
    impl Services for Door {
        async fn serve(
            &self,
            _: FederationId,
            name: &str,
            asked: &[u8],
        ) -> Result<Vec<u8>, Refusal> {
            self.asked.send((name.to_owned(), asked.to_vec())).unwrap();
            if !self.open {
                std::future::pending::<()>().await;
            }
            Ok(b"come in".to_vec())
        }
    }

    #[tokio::test]
    async fn a_service_is_asked_again_after_a_restart_and_answers_once() {
        let directory = tempfile::tempdir().unwrap();
        let set = guardians([honest(), honest(), honest(), honest()]).await;
        let federation = open(directory.path(), &set);
        let refused = start(&federation, SHOP, "serve", 7).await.operation;
        let refused = federation.wait(refused, |view| view.status == OperationStatus::Failed);
        let refused = soon(refused).await.unwrap();
        assert_eq!(refused.error.unwrap().code, "no-such-service");

        let (asked, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let question = ("shop.open".to_owned(), 600_u64.to_be_bytes().to_vec());
        let id = OperationId([3; 10]);
        let arguments = [Argument {
            name: "amount".into(),
            value: Value::Amount(Amount(600)),
        }];
        let once = |federation: Federation| {
            let arguments = arguments.clone();
            async move {
                let begun =
                    federation.start_once(id, SHOP, "serve", &arguments, Allowance::Nothing);
                begun.await.unwrap().operation
            }
        };
        let door = Door {
            asked: asked.clone(),
            open: false,
        };
        assert!(federation.0.services.set(Arc::new(door)).is_ok());
        assert_eq!(once(federation.clone()).await, id);
        assert_eq!(soon(heard.recv()).await.unwrap(), question);
        assert_eq!(once(federation.clone()).await, id);
        federation.close().await;
        drop(federation);
        assert!(heard.is_empty(), "begun once");

        let federation = open(directory.path(), &set);
        let door = Door { asked, open: true };
        assert!(federation.0.services.set(Arc::new(door)).is_ok());
        federation.resume().await.unwrap();
        let done = federation.wait(id, |view| view.status == OperationStatus::Done);
        assert_eq!(soon(done).await.unwrap().message.unwrap(), "come in");
        assert_eq!(soon(heard.recv()).await.unwrap(), question);
        assert_eq!(once(federation.clone()).await, id);
        assert!(heard.is_empty());
        federation.close().await;
    }

    #[tokio::test]
    async fn what_guardians_refuse_to_take_is_said_and_is_not_final() {
        let directory = tempfile::tempdir().unwrap();
        let set = guardians([honest(), honest(), honest(), honest()]).await;
        for fake in &set.fakes {
            fake.lock().refuses = Some("paused");
        }
        let federation = open(directory.path(), &set);
        start(&federation, MINT, "issue", 1000).await;
        let id = start(&federation, SHOP, "pay", 600).await.operation;
        let refused = federation.wait(id, |view| view.error.is_some());
        let refused = soon(refused).await.unwrap();
        assert_eq!(refused.error.unwrap().code, "paused");
        assert_eq!(refused.status, OperationStatus::Running);
        assert_eq!(refused.transactions[0].status, "pending");
        assert_eq!(federation.balance().await.unwrap(), Amount::ZERO);
        federation.close().await;
    }

    #[tokio::test]
    async fn without_a_threshold_of_guardians_nothing_is_begun() {
        let directory = tempfile::tempdir().unwrap();
        let set = guardians([honest(), honest(), None, None]).await;
        let federation = open(directory.path(), &set);
        let begun = federation
            .start(SHOP, "pay", &[], Allowance::Anything)
            .await;
        assert_eq!(begun.unwrap_err().code(), "federation-unreachable");
        assert!(federation.operations(10).await.unwrap().is_empty());
        federation.close().await;
    }

    #[tokio::test]
    async fn a_wallet_of_given_words_finds_its_money_before_anything_else_begins() {
        let directory = tempfile::tempdir().unwrap();
        let set = guardians([honest(), honest(), honest(), honest()]).await;
        let federation = open_as(directory.path(), &set, true);
        federation.begin().await.unwrap();
        let recoveries = federation.recoveries().await.unwrap();
        let [recovery] = recoveries.as_slice() else {
            panic!("{recoveries:?}");
        };
        assert_eq!(
            (recovery.kind.as_str(), recovery.action.as_str()),
            ("mint", "recover")
        );
        let paid = federation
            .start(SHOP, "pay", &[], Allowance::Anything)
            .await;
        assert_eq!(paid.unwrap_err().code(), "recovering");
        federation.close().await;
        drop(federation);

        // A wallet that is closed meanwhile goes on, and does not begin again.
        let federation = open_as(directory.path(), &set, true);
        federation.begin().await.unwrap();
        federation.resume().await.unwrap();
        for fake in &set.fakes {
            fake.lock().outcome = Some(vec![1]);
        }
        let done = federation.wait(recovery.operation, |view| {
            view.status == OperationStatus::Done
        });
        soon(done).await.unwrap();
        assert_eq!(federation.balance().await.unwrap(), Amount(5));
        federation.begin().await.unwrap();
        assert!(federation.recoveries().await.unwrap().is_empty());
        assert_eq!(federation.operations(10).await.unwrap().len(), 1);
        federation.close().await;
    }

    #[tokio::test]
    async fn a_module_is_named_by_its_kind_or_by_kind_and_number() {
        let directory = tempfile::tempdir().unwrap();
        let set = guardians([honest(), honest(), honest(), honest()]).await;
        let federation = open(directory.path(), &set);
        assert_eq!(federation.instance("mint").unwrap(), MINT);
        assert_eq!(federation.instance("shop:1").unwrap(), SHOP);
        for (name, code) in [("bank", "not-found"), ("shop:0", "not-found")] {
            let error = federation.instance(name).unwrap_err();
            assert_eq!(error.code(), code);
            assert!(error.to_string().contains("mint, shop"), "{error}");
        }
        federation.close().await;
    }
}
