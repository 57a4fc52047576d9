//! The daemon: a folder, and all that runs from it.

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use modmint_client::Wallet;
use modmint_core::config::Network;
use modmint_rest::{Process, Requests, program};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch};
use zeroize::Zeroizing;

use crate::{
    api,
    federations::WalletFederations,
    gateway::Gateway,
    journal::{Journal, Terms},
    keys::{Keys, Scope, write_secret},
    ledger::{Ledger, Thresholds},
    lightning::{
        LightningNode,
        ldk::{BitcoindRpc, LdkNode, LdkSetup},
    },
};

/// What the node's keys are derived for.
const NODE_SECRET: &str = "lightning node";
/// The name of the key that is made with the folder.
const FIRST_KEY: &str = "admin";

/// What is set once, in `config.json`; unknown names are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `bitcoin`, `testnet4`, `signet` or `regtest`.
    pub network: Network,
    /// The gateway's name, and its node's: at most 32 bytes.
    pub alias: String,
    /// Where the REST API listens.
    pub api_listen: SocketAddr,
    /// Where users' wallets reach it.
    pub api_url: String,
    /// Where the node listens to peers, `host:port` each.
    pub lightning_listen: Vec<String>,
    /// Of federations that are joined without any.
    #[serde(default)]
    pub terms: Terms,
    /// When the solvency ledger speaks up.
    #[serde(default)]
    pub solvency: Thresholds,
    /// For so many blocks a payment over Lightning may be under way. Contracts must last
    /// for 48 blocks more ([`TIMELOCK_MARGIN`](crate::gateway::TIMELOCK_MARGIN)).
    #[serde(default = "default_timelock")]
    pub minimum_timelock_blocks: u32,
    /// For how long federations are told of the gateway; they are told again in time.
    #[serde(default = "default_lifetime")]
    pub announce_lifetime_seconds: u64,
    /// Requests a second that one client may make in the long run, ten times as many at
    /// once; 0 for any number.
    #[serde(default = "default_requests")]
    pub requests_per_second: u32,
    /// Invoices and payments a second that one client may begin; 0 for any number.
    #[serde(default = "default_payments")]
    pub payments_per_second: u32,
}

const fn default_timelock() -> u32 {
    288
}

const fn default_lifetime() -> u64 {
    24 * 3600
}

const fn default_requests() -> u32 {
    50
}

const fn default_payments() -> u32 {
    2
}

/// What the folder holds.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The folder at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }

    fn wallet(&self) -> PathBuf {
        self.0.join("wallet")
    }

    fn node(&self) -> PathBuf {
        self.0.join("node")
    }

    fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// Where the key lies that was made with the folder.
    pub fn admin_key(&self) -> PathBuf {
        self.0.join("admin.key")
    }

    /// The keys of operators.
    pub fn keys(&self) -> Keys {
        Keys::at(self.0.join("keys.json"))
    }

    /// What was set.
    ///
    /// # Errors
    /// There is none, or it has what is not known.
    pub fn read_config(&self) -> Result<Config> {
        let path = self.config();
        let bytes = fs::read(&path).with_context(|| {
            format!(
                "{} cannot be read; `modmint-gatewayd init` makes it",
                path.display()
            )
        })?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no configuration", path.display()))
    }
}

/// Makes a gateway's folder: configuration, seed words, a key for everything. Returns
/// the words, to be shown once.
///
/// # Errors
/// There is a gateway in the folder, the words are none, something of the
/// configuration cannot be used.
pub async fn init(
    data_dir: &DataDir,
    config: &Config,
    words: Option<&str>,
) -> Result<Zeroizing<String>> {
    ensure!(
        !data_dir.config().exists(),
        "{} is there already; a new gateway needs a new folder",
        data_dir.config().display()
    );
    ensure!(
        config.alias.len() <= 32,
        "the alias {:?} has {} bytes; a node's name has at most 32",
        config.alias,
        config.alias.len()
    );
    let url = url::Url::parse(&config.api_url)
        .with_context(|| format!("{:?} is no URL", config.api_url))?;
    ensure!(
        matches!(url.scheme(), "http" | "https"),
        "{:?} is no URL that wallets can reach; https://… is expected",
        config.api_url
    );
    let wallet = Wallet::open(&data_dir.wallet())?;
    let words = wallet.init(words)?;
    wallet.close().await;
    let key = data_dir.keys().add(FIRST_KEY, Scope::Admin)?;
    write_secret(
        &data_dir.admin_key(),
        format!("{}\n", key.as_str()).as_bytes(),
    )?;
    // Last: with it the folder is complete.
    write_secret(&data_dir.config(), &serde_json::to_vec_pretty(config)?)?;
    Ok(words)
}

/// What a run is given.
#[derive(Clone, Debug)]
pub struct RunSetup {
    /// The folder.
    pub data_dir: DataDir,
    /// The node's view of the chain.
    pub bitcoind: BitcoindRpc,
    /// Where Prometheus reads metrics, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
}

/// Serves until SIGTERM or SIGINT. Must be called inside a multi-threaded tokio.
///
/// # Errors
/// Whatever stops a gateway, in words for its operator.
pub async fn run(setup: RunSetup) -> Result<()> {
    let data_dir = setup.data_dir;
    let config = data_dir.read_config()?;
    let wallet = Wallet::open(&data_dir.wallet())?;
    // E-cash of a federation stands for the node's bitcoin.
    wallet.keep_to(config.network);
    let secret = wallet.secret_for(NODE_SECRET).with_context(|| {
        format!(
            "the seed in {} is missing: it is not made anew, because it may hold money",
            data_dir.wallet().display()
        )
    })?;
    let journal = Arc::new(Journal::open(&data_dir.journal())?);
    // Taken before the node says where it is.
    let listener = TcpListener::bind(config.api_listen)
        .await
        .with_context(|| format!("the API cannot listen at {}", config.api_listen))?;
    tracing::info!("the Lightning node starts");
    let node: Arc<dyn LightningNode> = Arc::new(
        LdkNode::start(LdkSetup {
            folder: &data_dir.node(),
            seed: &secret,
            network: config.network,
            alias: &config.alias,
            listen: &config.lightning_listen,
            bitcoind: setup.bitcoind,
        })
        .await?,
    );
    let federations = Arc::new(WalletFederations::new(
        wallet,
        journal.clone(),
        node.clone(),
        config.api_url.clone(),
        config.announce_lifetime_seconds,
    ));
    let gateway = Gateway::new(
        config.network,
        node.clone(),
        journal,
        federations.clone(),
        Ledger::new(config.solvency),
    );
    gateway.begin()?;
    federations.wallet().offer(gateway.services());
    federations.wallet().resume().await?;

    let (stop, mut stopped) = watch::channel(false);
    tokio::spawn(async move {
        program::told_to_end().await;
        // Whoever listens ends; nobody may.
        let _ = stop.send(true);
    });
    let mut registry = Registry::with_prefix("modmint_gateway");
    registry.register_collector(Box::new(Process));
    registry.register_collector(Box::new(Standing(gateway.clone())));
    let requests = Requests::new(&mut registry);
    if let Some(address) = setup.metrics_listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("metrics cannot listen at {address}"))?;
        tokio::spawn(modmint_rest::serve_metrics(
            listener,
            registry,
            stopped.clone(),
        ));
    }
    let router = api::router(
        api::Setup {
            gateway: gateway.clone(),
            federations: federations.clone(),
            keys: data_dir.keys(),
            default_terms: config.terms,
            minimum_timelock_blocks: config.minimum_timelock_blocks,
            requests_per_second: config.requests_per_second,
            payments_per_second: config.payments_per_second,
            ending: stopped.clone(),
        },
        requests,
    );
    let api = tokio::spawn(modmint_rest::serve(listener, router, stopped.clone()));
    let info = node.info();
    tracing::info!(api = %config.api_listen, node = info.node_key, height = info.height, "serving");
    tokio::select! {
        () = gateway.run() => {}
        () = federations.run() => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    tracing::info!("ending");
    // What is under way goes on at the next start, from the wallet and the journal.
    let _ = tokio::time::timeout(Duration::from_secs(5), api).await;
    drop(gateway);
    node.stop().await;
    match Arc::try_unwrap(federations) {
        Ok(federations) => federations.close().await,
        // Each write of it is on the disk.
        Err(_) => tracing::debug!("the wallet is in use and ends with the process"),
    }
    Ok(())
}

/// How the gateway stands, read at each scrape.
struct Standing(Gateway);

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gateway = &self.0;
        let node = gateway.node();
        let (solvency, channels, balance) =
            (gateway.ledger().last(), node.channels(), node.balance());
        let usable = channels.iter().filter(|channel| channel.usable).count();
        let paying = gateway.journal().unfinished_outgoing();
        let receiving = gateway.journal().unfinished_incoming();
        for (name, help, value) in [
            ("height", "The node's best block", node.info().height.into()),
            ("channels", "Channels", channels.len() as u64),
            (
                "usable_channels",
                "Channels that can be used now",
                usable as u64,
            ),
            (
                "outbound_msat",
                "What can be paid over channels",
                balance.outbound_msat,
            ),
            (
                "inbound_msat",
                "What can be received over channels",
                balance.inbound_msat,
            ),
            ("onchain_msat", "On chain", solvency.onchain_msat),
            ("lightning_msat", "In channels", solvency.lightning_msat),
            (
                "ecash_msat",
                "E-cash of all federations",
                solvency.ecash_msat,
            ),
            ("under_way_msat", "Under way", solvency.under_way_msat),
            (
                "missing_msat",
                "Missing of the most that there was",
                solvency.missing_msat,
            ),
            (
                "halted",
                "Whether nothing new is begun",
                u64::from(solvency.status == "halted"),
            ),
            (
                "payments_out_under_way",
                "Payments out that are not over",
                paying.map_or(0, |rows| rows.len() as u64),
            ),
            (
                "payments_in_under_way",
                "Payments in that are not over",
                receiving.map_or(0, |rows| rows.len() as u64),
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

/// bitcoind's RPC at `url`, opened by what is in the cookie file.
///
/// # Errors
/// The file cannot be read or is no cookie, or this is no URL.
pub fn with_cookie(url: &str, cookie: &Path) -> Result<BitcoindRpc> {
    let text = fs::read_to_string(cookie)
        .with_context(|| format!("the cookie {} cannot be read", cookie.display()))?;
    let (user, password) = text.trim().split_once(':').with_context(|| {
        format!(
            "{} is no cookie: USER:PASSWORD is expected",
            cookie.display()
        )
    })?;
    rpc(url, user, password)
}

/// bitcoind's RPC at `url`, for example `http://127.0.0.1:8332`.
///
/// # Errors
/// This is no URL with a host.
pub fn rpc(url: &str, user: &str, password: &str) -> Result<BitcoindRpc> {
    let parsed = url::Url::parse(url)
        .with_context(|| format!("{url:?} is no URL; http://127.0.0.1:8332 is one"))?;
    ensure!(
        parsed.scheme() == "http",
        "{url:?}: the node speaks http alone to bitcoind"
    );
    let host = parsed
        .host_str()
        .with_context(|| format!("{url:?} names no host"))?;
    Ok(BitcoindRpc {
        host: host.to_owned(),
        port: parsed.port_or_known_default().unwrap_or(8332),
        user: user.to_owned(),
        password: Zeroizing::new(password.to_owned()),
    })
}
