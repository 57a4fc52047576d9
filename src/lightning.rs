//! Lightning on this machine: a gateway, which is a process, and a node of somebody
//! else's, which is in this one and can be spoken to over HTTP (`counter`).

mod counter;

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{future::try_join_all, try_join};
use modmint_core::{Hash32, config::Network, rest::FederationResponse, sha256};
use modmint_gateway::{
    daemon,
    lightning::{
        Invoice, LightningNode, NodeEvent, PayOrder, Sent,
        ldk::{LdkNode, LdkSetup},
    },
};
use serde_json::Value;

use crate::{
    bitcoind::{Bitcoind, local_client},
    federation::Federation,
    process::{Process, free_address, tied_to_us},
    programs, wait_for,
    wallet::Wallet,
};

/// How long a node, a channel or a payment may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// What a channel's capacity is, satoshi; half of it is the peer's.
const CAPACITY: u64 = 2_000_000;

/// A gateway, a node of somebody else's, and a channel between the two.
#[derive(Debug)]
pub struct Lightning {
    /// The gateway.
    pub gateway: Gateway,
    /// The other node.
    pub peer: Peer,
}

impl Lightning {
    /// Starts both in `folder` and opens the channel. The gateway serves no federation
    /// yet: this needs none, and can go on while one is founded.
    ///
    /// # Errors
    /// A node or bitcoind fails, or it takes too long.
    pub async fn start(folder: &Path, bitcoind: &Bitcoind) -> Result<Self> {
        let (own, others) = (folder.join("gateway"), folder.join("peer"));
        let gateway = async {
            let set_up = tokio::task::spawn_blocking(move || Gateway::set_up(&own));
            let gateway = set_up.await??;
            gateway.start(bitcoind).await?;
            Ok(gateway)
        };
        let (gateway, peer) = try_join!(gateway, Peer::start(&others, bitcoind))?;
        channel(bitcoind, &gateway, &peer).await?;
        Ok(Self { gateway, peer })
    }

    /// Has the gateway serve a federation, with so much of its e-cash; returns when
    /// every guardian knows it.
    ///
    /// # Errors
    /// The gateway, a guardian or bitcoind fails, or it takes too long.
    pub async fn serve(&self, federation: &Federation, satoshi: u64) -> Result<()> {
        fund(&self.gateway, federation, satoshi).await?;
        self.announced(federation).await
    }

    /// Changes what the gateway asks for, in words of `modmint-gateway-cli federation
    /// terms`.
    ///
    /// # Errors
    /// The gateway fails.
    pub async fn charge(&self, federation: &Federation, terms: &[&str]) -> Result<()> {
        let id = id(federation).await?;
        let command = ["federation", "terms", &id];
        self.gateway.run(&[&command, terms].concat()).await?;
        Ok(())
    }

    /// What the gateway has of a federation's e-cash, millisatoshi.
    ///
    /// # Errors
    /// The gateway fails, or does not know it.
    pub async fn ecash(&self, federation: &Federation) -> Result<u64> {
        ecash(&self.gateway, &id(federation).await?).await
    }

    /// Waits until every guardian knows the gateway, and so every user can find it.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn announced(&self, federation: &Federation) -> Result<()> {
        wait_for("the gateway to be announced", PATIENCE, || async {
            let running = federation.guardians.iter().filter(|g| g.is_running());
            let known = try_join_all(running.map(|g| g.query("ln", "gateways"))).await?;
            let url = self.gateway.api_url();
            ensure!(
                known.iter().all(|known| known.to_string().contains(&url)),
                "guardians know {known:?}"
            );
            Ok(())
        })
        .await
    }

    /// Ends both.
    ///
    /// # Errors
    /// The gateway does not end, or not with exit code 0.
    pub async fn stop(&self) -> Result<()> {
        self.gateway.stop().await?;
        self.peer.stop().await;
        Ok(())
    }
}

/// A gateway: its folder and, while it runs, its process. Dropped, it is killed.
#[derive(Debug)]
pub struct Gateway {
    folder: PathBuf,
    api: String,
    lightning: String,
    environment: Vec<(String, String)>,
    http: reqwest::Client,
    process: Mutex<Option<Process>>,
}

impl Gateway {
    /// Makes one in `folder`; it does not run yet.
    ///
    /// # Errors
    /// The program is not there, or fails.
    pub fn set_up(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let gateway = Self {
            folder: folder.to_owned(),
            api: free_address()?.to_string(),
            lightning: free_address()?.to_string(),
            environment: Vec::new(),
            http: local_client()?,
            process: Mutex::new(None),
        };
        let mut command = gateway.command("init")?;
        command
            .args(["--network", "regtest", "--alias", "gateway"])
            .args(["--api-listen", &gateway.api])
            .args(["--api-url", &gateway.api_url()])
            .args(["--lightning-listen", &gateway.lightning]);
        let output = tied_to_us(&command).stdin(Stdio::null()).output()?;
        ensure!(
            output.status.success(),
            "modmint-gatewayd init: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(gateway)
    }

    fn command(&self, what: &str) -> Result<Command> {
        let mut command = Command::new(programs::program("modmint-gatewayd")?);
        command
            .arg(what)
            .arg("--data-dir")
            .arg(self.folder.join("data"))
            .envs(self.environment.iter().cloned());
        Ok(command)
    }

    /// Starts its process; returns when it answers.
    ///
    /// # Errors
    /// It does not come up; says the end of its log.
    pub async fn start(&self, bitcoind: &Bitcoind) -> Result<()> {
        self.start_with(bitcoind, &[]).await
    }

    /// As [`Self::start`], with something more in its environment; returns at once if it
    /// ends because of that.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        &self,
        bitcoind: &Bitcoind,
        environment: &[(&str, &str)],
    ) -> Result<()> {
        let mut command = self.command("run")?;
        command
            .args(["--bitcoind-url", bitcoind.url()])
            .arg("--bitcoind-cookie")
            .arg(bitcoind.cookie_file())
            .envs(environment.iter().copied());
        let process = Process::spawn("modmint-gatewayd", &command, &self.log_file())?;
        *self.lock() = Some(process);
        wait_for("the gateway to answer", PATIENCE, || async {
            if let Some(process) = self.lock().as_mut() {
                process.check_running()?;
            }
            let url = format!("{}/livez", self.api_url());
            self.http.get(url).send().await?.error_for_status()?;
            Ok(())
        })
        .await
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&self) {
        // Dropping kills and reaps.
        drop(self.lock().take());
    }

    /// Whether its process is there.
    pub fn is_running(&self) -> bool {
        self.lock()
            .as_mut()
            .is_some_and(|process| process.check_running().is_ok())
    }

    /// Ends it as an operator would.
    ///
    /// # Errors
    /// It does not end, or not with exit code 0.
    pub async fn stop(&self) -> Result<()> {
        let process = self.lock().take();
        if let Some(mut process) = process {
            let status = process.stop(PATIENCE).await?;
            ensure!(
                status.success(),
                "the gateway ended with {status}: {}",
                process.log_tail()
            );
        }
        Ok(())
    }

    /// The process' id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.lock().as_ref().map(Process::id)
    }

    /// The base of its REST API, without a slash at the end.
    pub fn api_url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// Where its node listens to peers.
    pub fn lightning_address(&self) -> &str {
        &self.lightning
    }

    /// What it logs.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The key that opens everything.
    pub fn key_file(&self) -> PathBuf {
        self.folder.join("data/admin.key")
    }

    /// Runs `modmint-gateway-cli` and returns the JSON that it prints.
    ///
    /// # Errors
    /// It fails; says what it printed.
    pub async fn run(&self, words: &[&str]) -> Result<Value> {
        let mut command = Command::new(programs::program("modmint-gateway-cli")?);
        command
            .args(["--json", "--url", &self.api_url(), "--key-file"])
            .arg(self.key_file())
            .args(words);
        let output = tokio::process::Command::from(tied_to_us(&command))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "modmint-gateway-cli {words:?} ended with {}: {text} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody else's Lightning node, in this process: it settles what it is paid.
pub struct Peer {
    node: Arc<LdkNode>,
    address: String,
    known: Arc<Mutex<Known>>,
    events: tokio::task::JoinHandle<()>,
    counter: (SocketAddr, tokio::task::JoinHandle<()>),
}

#[derive(Debug, Default)]
struct Known {
    preimages: HashMap<Hash32, Hash32>,
    settled: Vec<Hash32>,
    /// Gives back what it is paid.
    unwilling: bool,
    /// Neither settles nor gives back.
    slow: bool,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Peer {
    /// Starts one in `folder`.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start(folder: &Path, bitcoind: &Bitcoind) -> Result<Self> {
        let address = free_address()?.to_string();
        let node = LdkNode::start(LdkSetup {
            folder,
            seed: &[7; 64],
            network: Network::Regtest,
            alias: "peer",
            listen: std::slice::from_ref(&address),
            bitcoind: daemon::with_cookie(bitcoind.url(), &bitcoind.cookie_file())?,
        })
        .await?;
        let node = Arc::new(node);
        let known: Arc<Mutex<Known>> = Arc::default();
        let events = tokio::spawn(take_events(node.clone(), known.clone()));
        let counter = counter::open(node.clone(), known.clone()).await?;
        Ok(Self {
            node,
            address,
            known,
            events,
            counter,
        })
    }

    /// The node.
    pub fn node(&self) -> &LdkNode {
        &self.node
    }

    /// `KEY@HOST:PORT`.
    pub fn contact(&self) -> String {
        format!("{}@{}", self.node.info().node_key, self.address)
    }

    /// Its Lightning address, for whoever is on this machine.
    pub fn lightning_address(&self) -> String {
        format!("{}@{}", counter::NAME, self.counter.0)
    }

    /// The same as an LNURL.
    ///
    /// # Errors
    /// None that is known.
    pub fn lnurl(&self) -> Result<String> {
        let url = counter::terms_url(self.counter.0);
        let prefix = bech32::Hrp::parse("lnurl")?;
        Ok(bech32::encode::<bech32::Bech32>(prefix, url.as_bytes())?)
    }

    /// An invoice that is posted to this is paid.
    pub fn pays_at(&self) -> String {
        format!("http://{}{}", self.counter.0, counter::PAY)
    }

    /// A new invoice of this node's.
    ///
    /// # Errors
    /// The node fails.
    pub async fn invoice(&self, msat: u64) -> Result<String> {
        invoice(&self.node, &self.known, msat).await
    }

    /// Whether an invoice of this node's has been paid.
    pub fn is_paid(&self, invoice: &str) -> bool {
        Invoice::parse(invoice)
            .is_ok_and(|invoice| self.lock().settled.contains(&invoice.payment_hash))
    }

    /// Has it give back what it is paid from now on, or settle it again.
    pub fn set_unwilling(&self, unwilling: bool) {
        self.lock().unwilling = unwilling;
    }

    /// Has it hold what it is paid from now on; [`Self::settle`] goes on.
    pub fn set_slow(&self, slow: bool) {
        self.lock().slow = slow;
    }

    /// Settles what it holds for an invoice.
    ///
    /// # Errors
    /// It is not this node's.
    pub async fn settle(&self, invoice: &str) -> Result<()> {
        let hash = Invoice::parse(invoice)
            .map_err(anyhow::Error::msg)?
            .payment_hash;
        let preimage = self.lock().preimages.get(&hash).copied();
        let preimage = preimage.context("the invoice is not this node's")?;
        Ok(self.node.settle(hash, preimage).await?)
    }

    /// Pays, and waits until it is over. Returns the preimage.
    ///
    /// # Errors
    /// It fails.
    pub async fn pay(&self, invoice: &str) -> Result<Hash32> {
        pay(&self.node, invoice).await
    }

    /// Begins to pay, and returns at once.
    ///
    /// # Errors
    /// There is no way.
    pub async fn begin_pay(&self, invoice: &str) -> Result<()> {
        begin_pay(&self.node, invoice).await
    }

    /// Ends it.
    pub async fn stop(&self) {
        self.events.abort();
        self.counter.1.abort();
        self.node.stop().await;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.events.abort();
        self.counter.1.abort();
        // While there is a runtime: the node's library panics when it ends without one.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            tokio::task::block_in_place(|| runtime.block_on(self.node.stop()));
        }
    }
}

async fn id(federation: &Federation) -> Result<String> {
    let response: FederationResponse = federation.guardians[0].get("/v1/federation").await?;
    Ok(response.id.to_string())
}

async fn invoice(node: &LdkNode, known: &Mutex<Known>, msat: u64) -> Result<String> {
    let preimage = Hash32(rand::random());
    let hash = Hash32(sha256(&preimage.0));
    known
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .preimages
        .insert(hash, preimage);
    Ok(node.invoice(hash, msat, "a peer's", 3600).await?)
}

async fn begin_pay(node: &LdkNode, invoice: &str) -> Result<()> {
    let order = PayOrder {
        invoice: invoice.to_owned(),
        maximum_fee_msat: 100_000,
        latest_height: node.info().height + 1000,
    };
    Ok(node.pay(&order).await?)
}

async fn pay(node: &LdkNode, invoice: &str) -> Result<Hash32> {
    begin_pay(node, invoice).await?;
    let hash = Invoice::parse(invoice)
        .map_err(anyhow::Error::msg)?
        .payment_hash;
    let sent = wait_for("a payment", PATIENCE, || async {
        match node.sent(hash) {
            Some(Sent::Pending) | None => bail!("it is under way"),
            Some(over) => Ok(over),
        }
    });
    match sent.await? {
        Sent::Paid { preimage, .. } => Ok(preimage),
        _ => bail!("the payment came back"),
    }
}

async fn take_events(node: Arc<LdkNode>, known: Arc<Mutex<Known>>) {
    loop {
        let event = node.next_event().await;
        let told = match event {
            NodeEvent::Held { payment_hash, .. } => {
                let (preimage, unwilling, slow) = {
                    let known = known.lock().unwrap_or_else(PoisonError::into_inner);
                    let preimage = known.preimages.get(&payment_hash).copied();
                    (preimage, known.unwilling, known.slow)
                };
                match preimage {
                    _ if slow => Ok(()),
                    Some(preimage) if !unwilling => node.settle(payment_hash, preimage).await,
                    _ => node.fail(payment_hash).await,
                }
            }
            NodeEvent::Settled { payment_hash } => {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                known.settled.push(payment_hash);
                Ok(())
            }
            _ => Ok(()),
        };
        if told.is_err() || node.event_handled().await.is_err() {
            // The node is ending.
            return;
        }
    }
}

/// Has the gateway join a federation; returns when it has e-cash for so much.
///
/// # Errors
/// The gateway, a guardian or bitcoind fails, or it takes too long.
async fn fund(gateway: &Gateway, federation: &Federation, satoshi: u64) -> Result<()> {
    federation.lend_code(&gateway.folder.join("data").join("wallet"))?;
    let joined = gateway
        .run(&["federation", "join", &federation.invite])
        .await?;
    let id = joined["id"].as_str().context("no id")?.to_owned();
    let deposit = gateway.run(&["federation", "deposit", &id]).await?;
    let address = deposit["address"].as_str().context("no address")?;
    federation.bitcoind.send(address, satoshi).await?;
    let depth = federation.plan.finality_depth;
    federation.bitcoind.mine(1 + depth).await?;
    wait_for("the gateway's e-cash", PATIENCE, || async {
        let held = ecash(gateway, &id).await?;
        ensure!(held > 0, "it has none");
        Ok(())
    })
    .await
}

/// Has the gateway serve a federation, with so much of its e-cash; returns when `user`
/// can find it.
///
/// # Errors
/// The gateway, a guardian or bitcoind fails, or it takes too long.
pub async fn serve(
    gateway: &Gateway,
    federation: &Federation,
    user: &Wallet,
    satoshi: u64,
) -> Result<()> {
    fund(gateway, federation, satoshi).await?;
    wait_for("the gateway to be announced", PATIENCE, || async {
        let known = user.run(&["ln", "gateways"]).await?;
        ensure!(known.to_string().contains(&gateway.api_url()), "{known}");
        Ok(())
    })
    .await
}

/// What the gateway has of a federation's e-cash, millisatoshi.
///
/// # Errors
/// The gateway fails, or does not know it.
pub async fn ecash(gateway: &Gateway, federation: &str) -> Result<u64> {
    let balances = gateway.run(&["balances"]).await?;
    let all = balances["federations"]
        .as_array()
        .context("no federations")?;
    let of = all.iter().find(|held| held["id"] == federation);
    of.and_then(|held| held["balance_msat"].as_u64())
        .with_context(|| format!("nothing of {federation} in {balances}"))
}

/// A channel between the two, half of it each one's, that both can use.
///
/// # Errors
/// A node or bitcoind fails, or it takes too long.
pub async fn channel(bitcoind: &Bitcoind, gateway: &Gateway, peer: &Peer) -> Result<()> {
    let address = gateway.run(&["onchain", "address"]).await?;
    let address = address["address"].as_str().context("no address")?;
    bitcoind.send(address, 2 * CAPACITY).await?;
    bitcoind.mine(6).await?;
    let (capacity, push) = (CAPACITY.to_string(), (CAPACITY / 2).to_string());
    let contact = peer.contact();
    wait_for("the gateway to open a channel", PATIENCE, || async {
        let open = ["channel", "open", &contact, &capacity, "--push", &push];
        gateway.run(&open).await
    })
    .await?;
    // The funding transaction is on its way to bitcoind's pool.
    wait_for("the channel's transaction", PATIENCE, || async {
        let pool: Vec<String> = bitcoind
            .call("getrawmempool", serde_json::json!([]))
            .await?;
        ensure!(!pool.is_empty(), "nothing is in bitcoind's pool");
        Ok(())
    })
    .await?;
    bitcoind.mine(6).await?;
    usable(gateway, peer).await
}

/// Waits until both can use a channel, after a start for example.
///
/// # Errors
/// It takes too long.
pub async fn usable(gateway: &Gateway, peer: &Peer) -> Result<()> {
    wait_for("a channel that both can use", PATIENCE, || async {
        let channels = gateway.run(&["channel", "list"]).await?;
        let theirs = channels
            .as_array()
            .is_some_and(|all| all.iter().any(|channel| channel["usable"] == true));
        let ours = peer.node().channels().iter().any(|channel| channel.usable);
        ensure!(
            ours && theirs,
            "the gateway's: {channels}; the peer's: {ours}"
        );
        Ok(())
    })
    .await
}
