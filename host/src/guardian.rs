//! One guardian, put together: its folder, its founding, its long tasks.
//!
//! What each part does is in its own module; here they are started in order,
//! connected, and ended together. There are three long tasks (API, ordering,
//! consensus) beside the peer-to-peer network and the chain's monitor.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use modmint_core::{
    BundleHash, FederationId, InstanceId, PeerId,
    config::{FederationConfig, FoundingPlan, HexBytes, PeerConfig},
    consensus::OrderedUnit,
    rest::FederationResponse,
    sha256,
};
use modmint_runtime::{Bundle, Context, Engines, Instance, Setup};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

use crate::{
    api,
    ceremony::{self, CeremonySetup, PayloadQueue},
    chain::{Bitcoind, BitcoindAuth, BitcoindSetup, ChainView},
    health::Health,
    identity::Identity,
    keys::Secrets,
    metrics,
    ordering::{Epoch, MAX_SESSION_EPOCHS, Ordering, OrderingSetup},
    p2p::{P2p, P2pReceivers, P2pSetup, PeerMessage},
    pipeline::{Pipeline, PipelineSetup, SkipList},
    sessions::{Sessions, SessionsSetup},
    storage::Database,
};

/// A guardian's folder.
pub struct DataDir(PathBuf);

/// `guardian.json`: what is public and this machine's own.
#[derive(Debug, Serialize, Deserialize)]
pub struct GuardianFile {
    /// Where the REST API listens.
    pub api_listen: SocketAddr,
    /// Where other guardians are listened to.
    pub p2p_listen: SocketAddr,
    /// What the others know of this guardian: its set-up code.
    pub peer: PeerConfig,
    /// Items that guardians have agreed to pass over.
    #[serde(default, skip_serializing_if = "SkipList::is_empty")]
    pub skip: SkipList,
}

impl DataDir {
    /// A folder that may not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn guardian_file(&self) -> PathBuf {
        self.0.join("guardian.json")
    }

    fn secrets(&self) -> PathBuf {
        self.0.join("secrets.sealed")
    }

    fn plan(&self) -> PathBuf {
        self.0.join("plan.json")
    }

    fn config(&self) -> PathBuf {
        self.0.join("config.borsh")
    }

    fn bundles(&self) -> PathBuf {
        self.0.join("bundles")
    }

    fn bundle(&self, hash: &BundleHash) -> PathBuf {
        self.bundles().join(format!("{hash}.wasm"))
    }

    /// Compiled code, see `Engines::keep_code_in`.
    fn code(&self) -> PathBuf {
        self.0.join("code")
    }

    fn units(&self) -> PathBuf {
        self.0.join("units")
    }

    /// Is there while this guardian comes back from a backup.
    fn restored(&self) -> PathBuf {
        self.0.join("restored")
    }

    /// The RocksDB folder.
    pub fn database(&self) -> PathBuf {
        self.0.join("db")
    }

    fn read_guardian(&self) -> anyhow::Result<GuardianFile> {
        let path = self.guardian_file();
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "{} cannot be read; run `modmintd setup` first",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }
}

/// Makes a guardian's identity and writes its folder; answers with its set-up code.
///
/// # Errors
/// When the folder holds a guardian already, or cannot be written.
pub fn setup(
    data_dir: &DataDir,
    password: &str,
    name: String,
    api_url: String,
    p2p_address: String,
    file: impl FnOnce(PeerConfig) -> GuardianFile,
) -> anyhow::Result<PeerConfig> {
    ensure!(
        !data_dir.guardian_file().exists(),
        "{} holds a guardian already; a guardian is never overwritten: give another --data-dir",
        data_dir.0.display()
    );
    ensure!(
        !name.is_empty() && name.len() <= 64 && !name.chars().any(char::is_control),
        "a guardian's name is 1 to 64 bytes without control characters"
    );
    let url = url::Url::parse(&api_url)
        .with_context(|| format!("{api_url:?} is no URL; http://127.0.0.1:8174 would be one"))?;
    ensure!(
        matches!(url.scheme(), "http" | "https"),
        "{api_url:?} is neither http nor https"
    );
    fs::create_dir_all(data_dir.bundles())?;
    fs::create_dir_all(data_dir.units())?;
    let identity = Identity::generate()?;
    let peer = PeerConfig {
        name,
        api_url: api_url.trim_end_matches('/').to_owned(),
        p2p_address,
        certificate: identity.certificate.clone(),
        consensus_key: identity.consensus_key(),
    };
    Secrets::new(identity).save(&data_dir.secrets(), password)?;
    let file = file(peer);
    write_atomically(
        &data_dir.guardian_file(),
        serde_json::to_string_pretty(&file)?.as_bytes(),
    )?;
    Ok(file.peer)
}

/// Says that the folder comes from a backup and may be older than what this guardian
/// has said: it observes until that can do no harm.
///
/// # Errors
/// When there is no guardian, or its folder cannot be written.
pub fn mark_restored(data_dir: &DataDir) -> anyhow::Result<()> {
    data_dir.read_guardian()?;
    write_atomically(&data_dir.restored(), b"")?;
    Ok(())
}

/// Keeps the founding plan and the bundles that it names, once all is seen to fit.
///
/// # Errors
/// Says what of the plan does not fit this guardian or the bundles.
pub fn store_plan(
    data_dir: &DataDir,
    plan: &FoundingPlan,
    bundles: &[Vec<u8>],
) -> anyhow::Result<()> {
    let guardian = data_dir.read_guardian()?;
    ensure!(
        !data_dir.config().exists(),
        "this guardian belongs to a federation already; found another one in another --data-dir"
    );
    check_plan(plan)?;
    ensure!(
        plan.peers.contains(&guardian.peer),
        "the plan does not hold this guardian's set-up code as `modmintd setup` printed it"
    );
    for bytes in bundles {
        let hash = BundleHash(sha256(bytes));
        ensure!(
            plan.modules.iter().any(|m| m.bundle == hash),
            "the bundle {hash} is given, but the plan does not name it"
        );
        write_atomically(&data_dir.bundle(&hash), bytes)?;
    }
    load_plan(&Bundles::new(data_dir)?, data_dir, plan)?;
    write_atomically(
        &data_dir.plan(),
        serde_json::to_string_pretty(plan)?.as_bytes(),
    )?;
    Ok(())
}

fn check_plan(plan: &FoundingPlan) -> anyhow::Result<()> {
    let n = plan.peers.len();
    ensure!(
        n % 3 == 1,
        "{n} guardians: a federation has 3f + 1 of them: 1, 4, 7, 10, …"
    );
    ensure!(n <= 64, "{n} guardians: 64 are the most");
    ensure!(
        !plan.name.is_empty() && plan.name.len() <= 64,
        "the federation's name is 1 to 64 bytes"
    );
    for (index, peer) in plan.peers.iter().enumerate() {
        let again = plan.peers[..index].iter().any(|p| {
            p.consensus_key == peer.consensus_key
                || p.certificate == peer.certificate
                || p.p2p_address == peer.p2p_address
        });
        ensure!(!again, "the plan holds guardian {:?} twice", peer.name);
    }
    ensure!(
        (1..=MAX_SESSION_EPOCHS).contains(&plan.session.epochs),
        "session.epochs is {}, 1 to {MAX_SESSION_EPOCHS} are accepted: what a guardian makes in a \
         session has to fit into one message",
        plan.session.epochs
    );
    ensure!(
        plan.session.bytes > 0 && plan.session.seconds > 0,
        "session.bytes and session.seconds are at least 1"
    );
    ensure!(plan.modules.len() <= 256, "256 modules are the most");
    Ok(())
}

/// The plan's bundles, and what their `configure` makes of the plan's arguments.
fn load_plan(
    bundles: &Bundles,
    data_dir: &DataDir,
    plan: &FoundingPlan,
) -> anyhow::Result<Vec<(InstanceId, Setup)>> {
    let mut ecash = 0;
    let mut setups = Vec::new();
    for (id, module) in (0..).map(InstanceId).zip(&plan.modules) {
        let bundle = bundles.load(data_dir, &module.bundle)?;
        ensure!(
            bundle.description().kind == module.kind,
            "the plan calls instance {id} {:?}, its bundle is of kind {:?}",
            module.kind,
            bundle.description().kind
        );
        ensure!(
            bundle.has_server(),
            "the bundle of instance {id} ({}) has no guardians' half",
            module.kind
        );
        ecash += u32::from(bundle.has_ecash());
        let setup = bundle.configure(&module.arguments).with_context(|| {
            format!(
                "the arguments of instance {id} ({}) are refused",
                module.kind
            )
        })?;
        setups.push((id, setup));
    }
    ensure!(
        ecash <= 1,
        "{ecash} modules hold e-cash; a federation has one at most"
    );
    Ok(setups)
}

/// The bundles in a guardian's folder, each compiled once.
struct Bundles {
    engines: Arc<Engines>,
    loaded: Mutex<BTreeMap<BundleHash, Arc<Bundle>>>,
}

impl Bundles {
    fn new(data_dir: &DataDir) -> anyhow::Result<Self> {
        let engines = Engines::new()?;
        if let Err(error) = engines.keep_code_in(&data_dir.code()) {
            tracing::warn!(%error, "compiled code is not kept: every start compiles the modules");
        }
        Ok(Self {
            engines,
            loaded: Mutex::default(),
        })
    }

    fn load(&self, data_dir: &DataDir, hash: &BundleHash) -> anyhow::Result<Arc<Bundle>> {
        let mut loaded = self.loaded.lock();
        if let Some(bundle) = loaded.get(hash) {
            return Ok(Arc::clone(bundle));
        }
        let path = data_dir.bundle(hash);
        let bytes = fs::read(&path).with_context(|| {
            format!("the bundle {hash} is not here; give it to `modmintd found --bundle`")
        })?;
        ensure!(
            sha256(&bytes) == hash.0,
            "{} does not hash to its name: it is damaged or has been changed",
            path.display()
        );
        let bundle = Bundle::load(&self.engines, &bytes)
            .with_context(|| format!("the bundle {hash} is refused"))?;
        loaded.insert(*hash, Arc::clone(&bundle));
        Ok(bundle)
    }

    fn instances(
        &self,
        data_dir: &DataDir,
        config: &FederationConfig,
    ) -> anyhow::Result<Vec<Arc<Instance>>> {
        config
            .instances
            .iter()
            .map(|instance| {
                let bundle = self.load(data_dir, &instance.bundle)?;
                let context = Context::new(config, instance.id)
                    .context("the config's instances are not in the order of their ids")?;
                Ok(Instance::new(bundle, context))
            })
            .collect()
    }
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(parent) = path.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// What `modmintd run` needs.
pub struct RunSetup {
    /// The guardian's folder.
    pub data_dir: DataDir,
    /// For its secrets.
    pub password: Zeroizing<String>,
    /// bitcoind's RPC.
    pub bitcoind_url: String,
    /// How to be let in there.
    pub bitcoind_auth: BitcoindAuth,
    /// Where Prometheus reads metrics, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Requests a second that one client may make in the long run; 0 for any number.
    pub requests_per_second: u32,
}

/// How long clients have to be answered when the guardian ends.
const API_GRACE: Duration = Duration::from_secs(5);
/// How long what this guardian was given has to be decided then.
const WORK_GRACE: Duration = Duration::from_secs(5);

/// What the founding left in `config.borsh`.
#[derive(borsh::BorshSerialize, borsh::BorshDeserialize)]
struct Founded {
    config: FederationConfig,
    signatures: Vec<(PeerId, HexBytes)>,
}

/// Founds the federation if that has not been done, then serves until SIGTERM or
/// SIGINT.
///
/// # Errors
/// Whatever stops a guardian, in words for its operator.
pub async fn run(setup: RunSetup) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        modmint_rest::program::told_to_end().await;
        tracing::info!("ending");
        stop.send_replace(true);
    });
    let guardian = setup.data_dir.read_guardian()?;
    let bundles = Bundles::new(&setup.data_dir)?;
    let secrets = Secrets::load(&setup.data_dir.secrets(), &setup.password)?;
    let (founded, secrets) = match read_founded(&setup.data_dir)? {
        Some(founded) => (founded, secrets),
        None => {
            let mut stopped = stopped.clone();
            tokio::select! {
                founded = found(&setup, &bundles, &guardian, secrets) => founded?,
                _ = stopped.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    };
    serve(&setup, &bundles, &guardian, founded, secrets, stopped).await
}

fn read_founded(data_dir: &DataDir) -> anyhow::Result<Option<Founded>> {
    match fs::read(data_dir.config()) {
        Ok(bytes) => Ok(Some(borsh::from_slice(&bytes).with_context(|| {
            format!("{} is damaged", data_dir.config().display())
        })?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("{} cannot be read", data_dir.config().display()))
        }
    }
}

/// Holds the founding ceremony: session 0, without modules.
async fn found(
    setup: &RunSetup,
    bundles: &Bundles,
    guardian: &GuardianFile,
    secrets: Secrets,
) -> anyhow::Result<(Founded, Secrets)> {
    let data_dir = &setup.data_dir;
    let text = fs::read_to_string(data_dir.plan()).with_context(|| {
        format!(
            "{} cannot be read; run `modmintd found` first",
            data_dir.plan().display()
        )
    })?;
    let plan: FoundingPlan = serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged", data_dir.plan().display()))?;
    let me = plan
        .peers
        .iter()
        .position(|peer| *peer == guardian.peer)
        .map(|index| PeerId(index as u16))
        .context("the plan does not hold this guardian's set-up code")?;
    let specs = load_plan(bundles, data_dir, &plan)?;
    let tag = plan.id();
    tracing::info!(plan = %tag, %me, "founding");
    let (p2p, receivers) = start_p2p(&secrets.identity, guardian, &plan.peers, me, tag)?;
    let P2pReceivers {
        ordering: incoming,
        ceremony: messages,
        ..
    } = receivers;
    let payloads = PayloadQueue::new();
    let (epochs, ordered) = mpsc::channel(64);
    let units = data_dir.units().join(format!("ceremony-{tag}"));
    let ordering = Ordering::start(OrderingSetup {
        me,
        consensus_keys: plan.peers.iter().map(|p| p.consensus_key).collect(),
        consensus_secret: secrets.identity.consensus_secret.clone(),
        tag,
        directory: units.clone(),
        first_session: 0,
        limits: plan.session,
        payloads: payloads.clone(),
        epochs,
        arrivals: None,
        p2p: Arc::clone(&p2p),
        incoming,
        // What it deals follows from what it has written down, and the others name
        // whoever contradicts itself.
        restored: false,
        single: true,
    })?;
    let (ending, messages) = hear_of_the_end(messages, &plan, me);
    let outcome = ceremony::found(CeremonySetup {
        plan,
        me,
        secrets,
        secrets_path: data_dir.secrets(),
        password: setup.password.clone(),
        specs,
        p2p: Arc::clone(&p2p),
        messages,
        payloads,
        ordered,
    })
    .await;
    ending.abort();
    let outcome = outcome?;
    write_atomically(
        &data_dir.config(),
        &borsh::to_vec(&Founded {
            config: outcome.config.clone(),
            signatures: outcome.signatures.clone(),
        })?,
    )?;
    tracing::info!(federation = %outcome.config.id(), "founded");
    // The others may still need this guardian's last units.
    tokio::time::sleep(Duration::from_secs(2)).await;
    ordering.shutdown().await;
    p2p.shutdown().await;
    if let Err(error) = fs::remove_dir_all(&units) {
        tracing::warn!(%error, "the ceremony's unit log could not be removed");
    }
    Ok((
        Founded {
            config: outcome.config,
            signatures: outcome.signatures,
        },
        outcome.secrets,
    ))
}

/// Passes the ceremony's messages on, and among them what guardians that are done and
/// serve already have to say by REST: they no longer listen to a ceremony.
fn hear_of_the_end(
    mut messages: mpsc::Receiver<(PeerId, PeerMessage)>,
    plan: &FoundingPlan,
    me: PeerId,
) -> (
    tokio::task::JoinHandle<()>,
    mpsc::Receiver<(PeerId, PeerMessage)>,
) {
    let (passed_on, all) = mpsc::channel(64);
    let urls: Vec<(PeerId, String)> = (0..)
        .map(PeerId)
        .zip(&plan.peers)
        .filter(|(peer, _)| *peer != me)
        .map(|(peer, config)| (peer, format!("{}/v1/federation", config.api_url)))
        .collect();
    let task = tokio::spawn(async move {
        let http = reqwest::Client::new();
        let mut ask = tokio::time::interval(Duration::from_secs(5));
        ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let heard = tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => vec![message],
                    None => return,
                },
                _ = ask.tick() => ask_for_signatures(&http, &urls).await,
            };
            for message in heard {
                if passed_on.send(message).await.is_err() {
                    return;
                }
            }
        }
    });
    (task, all)
}

async fn ask_for_signatures(
    http: &reqwest::Client,
    urls: &[(PeerId, String)],
) -> Vec<(PeerId, PeerMessage)> {
    let answers = urls.iter().map(|(peer, url)| async move {
        let request = http.get(url).timeout(Duration::from_secs(2));
        let body = bounded_body(request.send().await.ok()?).await?;
        let answer: FederationResponse = serde_json::from_slice(&body).ok()?;
        Some((*peer, ceremony::founded_message(&answer.signatures)?))
    });
    futures::future::join_all(answers)
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// An answer's body, if it is not longer than any federation's config.
async fn bounded_body(mut answer: reqwest::Response) -> Option<Vec<u8>> {
    const MAX_BYTES: usize = 16 << 20;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        if body.len() + chunk.len() > MAX_BYTES {
            tracing::warn!(url = %answer.url(), "an answer that does not end is left unread");
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

fn start_p2p(
    identity: &Identity,
    guardian: &GuardianFile,
    peers: &[PeerConfig],
    me: PeerId,
    tag: FederationId,
) -> anyhow::Result<(Arc<P2p>, P2pReceivers)> {
    Ok(P2p::start(P2pSetup {
        me,
        peers: peers.to_vec(),
        certificate: identity.certificate.clone(),
        tls_key: identity.tls_key.clone(),
        listen: guardian.p2p_listen,
        tag: tag.0,
        runtime_hash: modmint_runtime::runtime_hash(),
    })?)
}

async fn serve(
    setup: &RunSetup,
    bundles: &Bundles,
    guardian: &GuardianFile,
    founded: Founded,
    secrets: Secrets,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let data_dir = &setup.data_dir;
    let config = Arc::new(founded.config);
    let id = config.id();
    let me = config
        .peer_ids()
        .find(|peer| config.peers[peer.index()].consensus_key == secrets.identity.consensus_key())
        .context("the federation's config does not hold this guardian")?;
    tracing::info!(federation = %id, %me, name = config.name, "serving");

    let chain = Bitcoind::start(BitcoindSetup {
        url: setup.bitcoind_url.clone(),
        auth: setup.bitcoind_auth.clone(),
        network: config.network,
        chain_start: config.chain_start,
    })
    .await?;
    let instances = bundles.instances(data_dir, &config)?;
    let database = Database::open(&data_dir.database(), &config)?;
    let pipeline = Pipeline::open(PipelineSetup {
        database,
        config: Arc::clone(&config),
        me,
        instances: instances.clone(),
        keys: Arc::new(secrets.shares.clone()),
        chain: Arc::clone(&chain) as Arc<dyn ChainView>,
        skip: guardian.skip.clone(),
    })?;
    pipeline.look_at_clock();

    // Who is alone has nobody to contradict itself to.
    let restored = (config.size() > 1 && data_dir.restored().exists()).then(|| data_dir.restored());
    let (p2p, receivers) = start_p2p(&secrets.identity, guardian, &config.peers, me, id)?;
    let (epochs, ordered) = mpsc::channel(64);
    let ordering = Ordering::start(OrderingSetup {
        me,
        consensus_keys: config.peers.iter().map(|p| p.consensus_key).collect(),
        consensus_secret: secrets.identity.consensus_secret.clone(),
        tag: id,
        directory: data_dir.units(),
        first_session: pipeline.position().0,
        limits: config.session,
        payloads: pipeline.proposals(),
        epochs: epochs.clone(),
        arrivals: Some(look_ahead(&pipeline)?),
        p2p: Arc::clone(&p2p),
        incoming: receivers.ordering,
        restored: restored.is_some(),
        single: false,
    })?;
    retire_signed(&pipeline, &ordering);
    let sessions = Sessions::new(SessionsSetup {
        me,
        config: Arc::clone(&config),
        consensus_secret: secrets.identity.consensus_secret.clone(),
        pipeline: Arc::clone(&pipeline),
        ordering: Arc::clone(&ordering),
        p2p: Arc::clone(&p2p),
        epochs,
        directory: data_dir.units(),
        restored,
    });
    tokio::spawn(Arc::clone(&sessions).run(receivers.sessions));
    let mut consensus = start_consensus(ordered, &pipeline, &ordering, &sessions)?;
    tokio::spawn(tick(Arc::clone(&pipeline), chain.changed()));

    let listener = listen(guardian.api_listen, "the REST API").await?;
    let health = Arc::new(Health {
        me,
        config: Arc::clone(&config),
        p2p: Arc::clone(&p2p),
        ordering: Arc::clone(&ordering),
        sessions,
        pipeline: Arc::clone(&pipeline),
        chain,
        was_level: AtomicBool::new(false),
    });
    let mut registry = metrics::registry(Arc::clone(&health));
    let requests = api::Requests::new(&mut registry);
    if let Some(address) = setup.metrics_listen {
        let listener = listen(address, "metrics").await?;
        tokio::spawn(api::serve_metrics(listener, registry, stopped.clone()));
    }
    let api = tokio::spawn(api::serve(api::ApiSetup {
        listener,
        pipeline: Arc::clone(&pipeline),
        config: Arc::clone(&config),
        config_signatures: founded.signatures,
        instances,
        bundle_dir: data_dir.bundles(),
        p2p: Arc::clone(&p2p),
        health,
        requests,
        requests_per_second: setup.requests_per_second,
        stopped: stopped.clone(),
    }));
    tracing::info!(api = %guardian.api_listen, p2p = %guardian.p2p_listen, "serving");

    let outcome = tokio::select! {
        _ = stopped.wait_for(|stop| *stop) => Ok(()),
        stop = &mut consensus => match stop {
            Ok(error) => Err(error),
            Err(_) => Err(anyhow::anyhow!("the consensus thread has panicked")),
        },
    };
    if outcome.is_ok() {
        // It ends by itself; its clients may still be told what was decided.
        let _ = tokio::time::timeout(API_GRACE, api).await;
        finish_own_work(&pipeline).await;
    }
    ordering.shutdown().await;
    p2p.shutdown().await;
    outcome
}

async fn listen(address: SocketAddr, what: &str) -> anyhow::Result<tokio::net::TcpListener> {
    let listener = tokio::net::TcpListener::bind(address).await;
    listener.with_context(|| format!("{what} cannot listen at {address}"))
}

/// Waits until nothing is left undecided that this guardian was given, or for a
/// few seconds: nobody else may know of it.
async fn finish_own_work(pipeline: &Pipeline) {
    let idle = async {
        while pipeline.pending_transactions() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(WORK_GRACE, idle).await.is_err() {
        let pending = pipeline.pending_transactions();
        tracing::warn!(
            pending,
            "ending although transactions are undecided; wallets give them to others"
        );
    }
}

/// So long units are gathered that arrive: their signatures are checked together, which
/// costs much less than one by one, and none is final before some rounds have passed.
const GATHER: Duration = Duration::from_millis(15);

/// The thread that looks at units as they arrive.
fn look_ahead(pipeline: &Arc<Pipeline>) -> anyhow::Result<mpsc::Sender<OrderedUnit>> {
    let (arrivals, mut arrived) = mpsc::channel::<OrderedUnit>(256);
    let pipeline = Arc::clone(pipeline);
    modmint_runtime::spawn_guest_thread("look-ahead", move || {
        while let Some(first) = arrived.blocking_recv() {
            pipeline.arrive(|| {
                std::thread::sleep(GATHER);
                let mut units = vec![first];
                while let Ok(next) = arrived.try_recv() {
                    units.push(next);
                }
                units
            });
        }
    })?;
    Ok(arrivals)
}

/// Sessions that ended before the last stop run again, to answer peers; those whose
/// headers are signed need not.
fn retire_signed(pipeline: &Pipeline, ordering: &Ordering) {
    let (current, _) = pipeline.position();
    for session in current.saturating_sub(4)..current {
        if pipeline.signed_header(session).is_some() {
            ordering.retire(session);
        }
    }
}

/// The thread on which epochs are applied. The receiver gets what stopped it, if
/// anything does.
fn start_consensus(
    mut ordered: mpsc::Receiver<Epoch>,
    pipeline: &Arc<Pipeline>,
    ordering: &Arc<Ordering>,
    sessions: &Arc<Sessions>,
) -> anyhow::Result<tokio::sync::oneshot::Receiver<anyhow::Error>> {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (pipeline, ordering, sessions) = (
        Arc::clone(pipeline),
        Arc::clone(ordering),
        Arc::clone(sessions),
    );
    let runtime = tokio::runtime::Handle::current();
    modmint_runtime::spawn_guest_thread("consensus", move || {
        let _inside = runtime.enter();
        while let Some(first) = ordered.blocking_recv() {
            let mut epochs = vec![first];
            while let Ok(next) = ordered.try_recv() {
                epochs.push(next);
            }
            while !epochs.is_empty() {
                match pipeline.process(&epochs) {
                    Ok(processed) => {
                        epochs.drain(..processed.consumed);
                        if let Some(header) = processed.ended {
                            ordering.end_session(header.session);
                            sessions.ended(&header);
                        }
                    }
                    Err(error) => {
                        let _ = stop.send(anyhow::Error::new(error).context("consensus stops"));
                        return;
                    }
                }
            }
        }
    })?;
    Ok(stopped)
}

/// Lets the host and the modules look at the clock and the chain: once a second, at
/// every new block, and when an epoch has changed what they go by.
async fn tick(pipeline: Arc<Pipeline>, mut chain: watch::Receiver<u64>) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let due = pipeline.due();
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = due.notified() => {}
            changed = chain.changed() => if changed.is_err() { return; },
        }
        let pipeline = Arc::clone(&pipeline);
        if tokio::task::spawn_blocking(move || pipeline.tick())
            .await
            .is_err()
        {
            tracing::error!("looking at clock and chain has panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that breaks says so")]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A server that answers with a body of this many megabytes.
    async fn serve_megabytes(count: usize) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            for _ in 0..count {
                if stream.write_all(&vec![b' '; 1 << 20]).await.is_err() {
                    return;
                }
            }
        });
        url
    }

    #[tokio::test]
    async fn an_answer_is_read_only_as_far_as_a_config_can_be_long() {
        let fits = reqwest::get(serve_megabytes(2).await).await.unwrap();
        assert_eq!(bounded_body(fits).await.unwrap().len(), 2 << 20);
        let endless = reqwest::get(serve_megabytes(1 << 20).await).await.unwrap();
        assert!(bounded_body(endless).await.is_none());
    }
}
