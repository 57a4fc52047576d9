//! Guardians on this machine, founded together.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{future::try_join_all, try_join};
use modmint_core::{
    Argument, BundleHash, Hash32, PeerId,
    config::{BaseFee, FoundingPlan, Network, PeerConfig, PlannedModule, SessionLimits},
    rest::{
        AuditResponse, FederationResponse, HealthResponse, ModuleResponse, QueryResponse,
        StatusResponse,
    },
    sha256,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    bitcoind::{Bitcoind, local_client},
    code,
    kit::{Setting, Subject},
    process::{Process, free_address, tied_to_us},
    programs, wait_for,
    wallet::Wallet,
};

/// How long a founding, or a guardian's start, may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The password of every guardian's secrets: this federation holds play money.
const PASSWORD: &str = "regtest";

/// A bundle to begin with.
#[derive(Clone, Debug)]
pub struct Module {
    /// The bundle's kind.
    pub kind: String,
    /// Where the bundle is.
    pub bundle: PathBuf,
    /// For its `configure`.
    pub arguments: Vec<Argument>,
}

impl Module {
    /// A module of this repository with its defaults.
    ///
    /// # Errors
    /// The bundle has not been built.
    pub fn built_in(kind: &str) -> Result<Self> {
        Ok(Self {
            kind: kind.to_owned(),
            bundle: programs::bundle(kind)?,
            arguments: Vec::new(),
        })
    }

    /// The module at `path`, a component or a module's folder, configured by those
    /// settings that are for its kind.
    ///
    /// # Errors
    /// It does not build, guardians would not take it, or it refuses its settings.
    pub fn at(path: &Path, settings: &[Setting]) -> Result<Self> {
        let subject = Subject::read(path)?;
        let bundle = subject.load()?;
        let description = bundle.description();
        ensure!(
            bundle.has_server(),
            "{} has no guardians' half: it cannot be an instance of a federation",
            subject.file.display()
        );
        let arguments = settings
            .iter()
            .filter_map(|setting| setting.of_kind(&description.kind))
            .map(|setting| setting.argument(&description.configuration))
            .collect::<Result<Vec<_>>>()?;
        bundle
            .configure(&arguments)
            .with_context(|| format!("{} refuses how it is configured", description.kind))?;
        Ok(Self {
            kind: description.kind.clone(),
            bundle: subject.file,
            arguments,
        })
    }
}

/// What a federation is to be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// n.
    pub guardians: u16,
    /// A block is agreed once so many blocks lie on top of it.
    pub finality_depth: u32,
    /// When its sessions end.
    pub session: SessionLimits,
    /// What its transactions pay.
    pub base_fee: BaseFee,
    /// In the order of their instances.
    pub modules: Vec<Module>,
    /// For every guardian's processes.
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// Four guardians with the modules `mint`, `wallet` and `ln`.
    ///
    /// # Errors
    /// A bundle has not been built.
    pub fn standard() -> Result<Self> {
        Ok(Self {
            guardians: 4,
            finality_depth: 1,
            session: SessionLimits::default(),
            base_fee: BaseFee::default(),
            modules: ["mint", "wallet", "ln"]
                .map(Module::built_in)
                .into_iter()
                .collect::<Result<_>>()?,
            environment: Vec::new(),
        })
    }
}

/// A federation that runs. Dropped, its processes are killed.
#[derive(Debug)]
pub struct Federation {
    /// Its bitcoind, which others on this machine may use too.
    pub bitcoind: Arc<Bitcoind>,
    /// In the order of their indices.
    pub guardians: Vec<Guardian>,
    /// What they were founded by.
    pub plan: FoundingPlan,
    /// For wallets to join by.
    pub invite: String,
    folder: PathBuf,
}

impl Federation {
    /// Founds one in `folder`, on a bitcoind of its own; returns when all
    /// guardians are ready.
    ///
    /// # Errors
    /// Whatever stood in the way, with the end of the log of whoever failed.
    pub async fn found(folder: &Path, options: Options) -> Result<Self> {
        let bitcoind = Bitcoind::start(&folder.join("bitcoind")).await?;
        Self::found_on(bitcoind, folder, options).await
    }

    /// As [`Self::found`], on a bitcoind that is there.
    ///
    /// # Errors
    /// As [`Self::found`].
    pub async fn found_on(
        bitcoind: impl Into<Arc<Bitcoind>>,
        folder: &Path,
        options: Options,
    ) -> Result<Self> {
        let bitcoind = bitcoind.into();
        let set_up = |index| Guardian::set_up(folder, index, &options.environment);
        let bundles = options.modules.iter().map(|m| fs::read(&m.bundle));
        let bundles: Vec<_> = bundles.collect::<Result<_, _>>()?;
        let modules: Vec<_> = options
            .modules
            .iter()
            .zip(&bundles)
            .map(|(module, bundle)| PlannedModule {
                kind: module.kind.clone(),
                bundle: BundleHash(sha256(bundle)),
                arguments: module.arguments.clone(),
            })
            .collect();
        let guardians = try_join_all((0..options.guardians).map(set_up));
        let (guardians, ()) = try_join!(guardians, code::compile(bundles))?;
        for guardian in &guardians {
            code::lend(modules.iter().map(|m| m.bundle), &guardian.data_folder())?;
        }
        let plan = FoundingPlan {
            name: "regtest federation".into(),
            network: Network::Regtest,
            peers: guardians.iter().map(|g| g.config.clone()).collect(),
            chain_start: bitcoind.tip().await?,
            finality_depth: options.finality_depth,
            session: options.session,
            base_fee: options.base_fee,
            modules,
        };
        let plan_file = folder.join("plan.json");
        fs::write(&plan_file, serde_json::to_vec_pretty(&plan)?)?;
        let take_plan = |guardian| Guardian::take_plan(guardian, &plan_file, &options.modules);
        try_join_all(guardians.iter().map(take_plan)).await?;
        let mut federation = Self {
            bitcoind,
            guardians,
            plan,
            invite: String::new(),
            folder: folder.to_owned(),
        };
        for guardian in &federation.guardians {
            guardian.start(&federation.bitcoind)?;
        }
        federation.all_ready().await?;
        let federation_response: FederationResponse =
            federation.guardians[0].get("/v1/federation").await?;
        federation.invite = federation_response.invite;
        Ok(federation)
    }

    /// n.
    pub fn size(&self) -> usize {
        self.guardians.len()
    }

    /// Where wallets and whatever else belongs to it may put their files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a guardian and returns at once.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&self, guardian: usize) -> Result<()> {
        self.guardians[guardian].start(&self.bitcoind)
    }

    /// Waits until every guardian that runs is ready.
    ///
    /// # Errors
    /// One is not, and why.
    pub async fn all_ready(&self) -> Result<()> {
        let running = self.guardians.iter().filter(|g| g.is_running());
        try_join_all(running.map(Guardian::ready)).await.map(|_| ())
    }

    /// Waits until all guardians that run have the same state root behind the
    /// same epoch, and returns it.
    ///
    /// # Errors
    /// They have not within two minutes; lists where each stands.
    pub async fn same_state_root(&self) -> Result<Hash32> {
        wait_for("the guardians to have one state root", PATIENCE, || async {
            let running = self.guardians.iter().filter(|g| g.is_running());
            let all = try_join_all(running.map(Guardian::status)).await?;
            let first = all.first().context("no guardian runs")?;
            let position = |s: &StatusResponse| (s.session, s.epoch, s.state_root);
            ensure!(
                all.iter().all(|status| position(status) == position(first)),
                "they stand at {:?}",
                all.iter().map(position).collect::<Vec<_>>()
            );
            Ok(first.state_root)
        })
        .await
    }

    /// Waits until every guardian that runs has agreed on the block at `height`.
    ///
    /// # Errors
    /// One has not within two minutes.
    pub async fn agreed_height(&self, height: u32) -> Result<()> {
        wait_for(&format!("agreed height {height}"), PATIENCE, || async {
            for guardian in self.guardians.iter().filter(|g| g.is_running()) {
                let status = guardian.status().await?;
                ensure!(
                    status.block_height >= height,
                    "{} is at {}; its problems: {:?}",
                    guardian.name(),
                    status.block_height,
                    status.problems
                );
            }
            Ok(())
        })
        .await
    }

    /// Mines until the newest block so far, and everything before it, is agreed.
    ///
    /// # Errors
    /// bitcoind fails, or the guardians do not agree.
    pub async fn bury(&self) -> Result<()> {
        let height = self.bitcoind.tip().await?.height;
        self.bitcoind.mine(self.plan.finality_depth).await?;
        self.agreed_height(height).await
    }

    /// Gives a wallet's folder the modules as they were compiled for the guardians.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn lend_code(&self, data_folder: &Path) -> Result<()> {
        code::lend(self.plan.modules.iter().map(|m| m.bundle), data_folder)
    }

    /// A new wallet in `folder` that has joined.
    ///
    /// # Errors
    /// As [`Wallet::join`].
    pub async fn wallet(&self, folder: &Path) -> Result<Wallet> {
        self.lend_code(folder)?;
        Wallet::join(folder, &self.invite).await
    }

    /// Ends everything as an operator would.
    ///
    /// # Errors
    /// A guardian does not end, or not with exit code 0.
    pub async fn stop(self) -> Result<()> {
        for guardian in &self.guardians {
            guardian.stop().await?;
        }
        self.bitcoind.stop().await
    }
}

/// A guardian: its folder and, while it runs, its process.
#[derive(Debug)]
pub struct Guardian {
    /// As all know it.
    pub config: PeerConfig,
    index: u16,
    folder: PathBuf,
    metrics_listen: String,
    environment: Vec<(String, String)>,
    http: reqwest::Client,
    process: Mutex<Option<Process>>,
}

impl Guardian {
    async fn set_up(folder: &Path, index: u16, environment: &[(String, String)]) -> Result<Self> {
        let folder = folder.join(format!("guardian-{index}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("password"), PASSWORD)?;
        let (api, p2p) = (free_address()?.to_string(), free_address()?.to_string());
        let mut command = Command::new(programs::program("modmintd")?);
        command
            .arg("setup")
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--name", &format!("guardian-{index}")])
            .args(["--api-listen", &api, "--api-url", &format!("http://{api}")])
            .args(["--p2p-listen", &p2p, "--p2p-address", &p2p])
            .arg("--password-file")
            .arg(folder.join("password"))
            .envs(environment.iter().cloned());
        let setup_code = output_of("modmintd setup", &command).await?;
        Ok(Self {
            config: serde_json::from_str(&setup_code)
                .with_context(|| format!("no setup code: {setup_code}"))?,
            index,
            folder,
            metrics_listen: free_address()?.to_string(),
            environment: environment.to_vec(),
            http: local_client()?,
            process: Mutex::new(None),
        })
    }

    async fn take_plan(&self, plan: &Path, modules: &[Module]) -> Result<()> {
        let mut command = Command::new(programs::program("modmintd")?);
        command
            .arg("found")
            .arg("--data-dir")
            .arg(self.data_folder())
            .arg("--plan")
            .arg(plan)
            .envs(self.environment.iter().cloned());
        for module in modules {
            command.arg("--bundle").arg(&module.bundle);
        }
        output_of("modmintd found", &command).await.map(|_| ())
    }

    /// Its place in the federation.
    pub fn peer(&self) -> PeerId {
        PeerId(self.index)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The base of its REST API, without a slash at the end.
    pub fn api_url(&self) -> &str {
        self.config.api_url.trim_end_matches('/')
    }

    /// Where its metrics are read.
    pub fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.metrics_listen)
    }

    /// Its metrics in the text format of OpenMetrics.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self) -> Result<String> {
        let answer = self.http.get(self.metrics_url()).send().await?;
        Ok(answer.error_for_status()?.text().await?)
    }

    /// What `modmintd` keeps.
    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The password of its secrets.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// What `modmintd` logs.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Starts its process and returns at once.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&self, bitcoind: &Bitcoind) -> Result<()> {
        let mut command = Command::new(programs::program("modmintd")?);
        command
            .arg("run")
            .arg("--data-dir")
            .arg(self.data_folder())
            .arg("--password-file")
            .arg(self.folder.join("password"))
            .args(["--metrics-listen", &self.metrics_listen])
            .args(["--bitcoind-url", bitcoind.url()])
            .arg("--bitcoind-cookie")
            .arg(bitcoind.cookie_file())
            .envs(self.environment.iter().cloned());
        let process = Process::spawn(self.name(), &command, &self.log_file())?;
        *self.lock() = Some(process);
        Ok(())
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&self) {
        // Dropping kills and reaps.
        drop(self.lock().take());
    }

    /// SIGTERM; returns when it is gone.
    ///
    /// # Errors
    /// It does not end, or not with exit code 0.
    pub async fn stop(&self) -> Result<()> {
        let process = self.lock().take();
        let Some(mut process) = process else {
            return Ok(());
        };
        let status = process.stop(Duration::from_secs(30)).await?;
        ensure!(
            status.success(),
            "{} ended with {status}: {}",
            self.name(),
            process.log_tail()
        );
        Ok(())
    }

    /// Whether it has been started and not ended by us.
    pub fn is_running(&self) -> bool {
        self.lock().is_some()
    }

    /// The process' id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.lock().as_ref().map(Process::id)
    }

    /// An error with the end of its log if it has ended by itself.
    ///
    /// # Errors
    /// It has ended, or was not started.
    pub fn check_running(&self) -> Result<()> {
        match self.lock().as_mut() {
            Some(process) => process.check_running(),
            None => bail!("{} does not run", self.name()),
        }
    }

    /// Waits until it says that it can serve.
    ///
    /// # Errors
    /// It has ended, or is not ready within two minutes, and why.
    pub async fn ready(&self) -> Result<()> {
        let what = format!("{} to be ready", self.name());
        let ready = wait_for(&what, PATIENCE, || async {
            if let Err(ended) = self.check_running() {
                return Ok(Err(ended));
            }
            let problems = self.problems().await?;
            ensure!(problems.is_empty(), "{problems:?}");
            Ok(Ok(()))
        });
        match ready.await {
            Ok(outcome) => outcome,
            Err(error) => Err(error.context(format!(
                "the end of its log: {}",
                self.lock()
                    .as_ref()
                    .map(Process::log_tail)
                    .unwrap_or_default()
            ))),
        }
    }

    /// Why it cannot serve, as it says itself; empty when it can.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn problems(&self) -> Result<Vec<String>> {
        let answer = self.request("/readyz").await?;
        let ready = answer.status().is_success();
        let health: HealthResponse = answer.json().await?;
        Ok(match ready {
            true => Vec::new(),
            false if health.problems.is_empty() => vec![health.status],
            false => health.problems,
        })
    }

    /// Where it stands.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self) -> Result<StatusResponse> {
        self.get("/v1/status").await
    }

    /// The federation's books as it sees them.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn audit(&self) -> Result<AuditResponse> {
        self.get("/v1/audit").await
    }

    /// The readable answer of the module `kind` to a query without arguments.
    ///
    /// # Errors
    /// It does not answer, or there is none.
    pub async fn query(&self, kind: &str, name: &str) -> Result<Value> {
        let modules: Vec<ModuleResponse> = self.get("/v1/modules").await?;
        let module = modules.iter().find(|module| module.kind == kind);
        let instance = module
            .with_context(|| format!("no module {kind}"))?
            .instance;
        let path = format!("/v1/modules/{instance}/queries/{name}");
        let url = format!("{}{path}", self.api_url());
        let question = serde_json::json!({});
        let answer = self.http.post(url).json(&question).send().await?;
        let (status, body) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path}: {status}: {body}");
        match serde_json::from_str(&body)? {
            QueryResponse::Ready { json, .. } => Ok(json),
            other => bail!("{path} answers {other:?}"),
        }
    }

    /// The answer to a GET of `path`, with its slash.
    ///
    /// # Errors
    /// There is none, it is an error, or of another shape.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.request(path).await?;
        let status = answer.status();
        let body = answer.text().await?;
        ensure!(status.is_success(), "{path}: {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("{path} answers {body}"))
    }

    async fn request(&self, path: &str) -> Result<reqwest::Response> {
        let url = format!("{}{path}", self.api_url());
        Ok(self.http.get(url).send().await?)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a program that ends by itself and returns what it printed.
async fn output_of(what: &str, command: &Command) -> Result<String> {
    let output = tokio::process::Command::from(tied_to_us(command))
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("{what} cannot be started"))?;
    ensure!(
        output.status.success(),
        "{what} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).with_context(|| format!("{what} printed no text"))
}
