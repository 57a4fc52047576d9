//! `modmint-cli`: the wallet on the command line.
//!
//! Standard output has the result and nothing else: for people, or one JSON
//! document with `--json` or where it is no terminal. Progress and messages go to
//! standard error, then as JSON lines. What a module can do comes from its bundle;
//! nothing here knows a module.

mod action;
mod exit;
mod output;

use std::{
    ffi::OsString, io::IsTerminal, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc,
    time::Duration,
};

use clap::{CommandFactory, Parser, Subcommand};
use modmint_client::{
    Allowance, Federation, OperationId, OperationStatus, OperationView, Wallet, WalletError, daemon,
};
use modmint_core::config::Invite;
use modmint_rest::program;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::{
    exit::Exit,
    output::{Output, Report},
};

/// How long `info` waits for each guardian.
const PROBE: Duration = Duration::from_secs(1);

/// A wallet for federated e-cash.
///
/// What a federation's modules offer is `modmint-cli <KIND> <ACTION>`, for example
/// `wallet deposit` or `mint send 1000sat`; `modmint-cli <KIND> --help` lists it.
/// Of several modules of one kind `<KIND>:<INSTANCE>` names one. Operations that
/// are unfinished go on whenever the wallet is open.
#[derive(Debug, Parser)]
#[command(name = "modmint-cli", version, after_long_help = exit::HELP, after_help = exit::HELP)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Args)]
struct Options {
    /// The wallet's folder [default: modmint/wallet in the user's data folder]
    #[arg(long, global = true, env = "MODMINT_WALLET_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// One of several federations, by name or the beginning of its id
    #[arg(long, global = true, value_name = "NAME")]
    federation: Option<String>,
    #[command(flatten)]
    manner: Manner,
}

/// What may stand behind a module's action too.
#[derive(Clone, Debug, Default, clap::Args)]
struct Manner {
    /// Print JSON; so it is where standard output is no terminal
    #[arg(long, global = true)]
    json: bool,
    /// Confirm whatever is spent
    #[arg(long, short, global = true)]
    yes: bool,
    /// Return as soon as the operation has something to show; it goes on whenever
    /// the wallet is open
    #[arg(long, global = true)]
    detach: bool,
    /// How long to wait for an operation, in seconds [default: for ever]
    #[arg(long, global = true, value_name = "SECONDS")]
    timeout: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the wallet's seed and show its words, once
    ///
    /// With the words of a wallet that was lost, the federations that are joined
    /// afterwards are searched for its money.
    Init {
        /// Take the words from this file, or from standard input if it is -
        #[arg(long, value_name = "FILE")]
        words_file: Option<PathBuf>,
    },
    /// Join a federation by its invite
    Join {
        /// It begins with modmint1
        invite: String,
    },
    /// Show federations, guardians and modules
    Info,
    /// Show what can be spent
    Balance,
    /// List operations, those that go on first
    Operations {
        /// The most that are listed
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show one operation
    Operation {
        /// Its id
        id: OperationId,
    },
    /// Wait for an operation
    Wait {
        /// Its id
        id: OperationId,
    },
    /// Ask an operation to stop
    Cancel {
        /// Its id
        id: OperationId,
    },
    /// Serve the wallet to other programs over REST, until SIGTERM or SIGINT
    ///
    /// Every route but health and /docs needs the key in api.key of the wallet's folder,
    /// which is drawn at the first start.
    Serve {
        /// Where the API listens
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8177")]
        listen: SocketAddr,
        /// Let it listen beyond this machine: the key and e-cash cross the network in the
        /// clear, unless something else encrypts it
        #[arg(long)]
        allow_remote: bool,
        /// Where Prometheus reads metrics, for example 127.0.0.1:9177 [default: nowhere]
        #[arg(long, value_name = "ADDRESS:PORT")]
        metrics_listen: Option<SocketAddr>,
    },
    /// An action of a module
    #[command(external_subcommand)]
    Module(Vec<OsString>),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors to clap either.
            let usage = error.use_stderr();
            let as_json = std::env::args_os().any(|word| word == "--json");
            let output = Output::new(as_json || !std::io::stdout().is_terminal());
            if usage && output.is_json() {
                output.error("bad-argument", error.to_string().trim());
            } else {
                // Where it cannot be printed the exit code remains.
                let _ = error.print();
            }
            return if usage { Exit::Usage } else { Exit::Success }.into();
        }
    };
    let mut manner = cli.options.manner.clone();
    if let Command::Module(words) = &cli.command {
        // Whether errors are JSON is needed before the module's bundle can say
        // what its actions take.
        manner.json |= words.iter().any(|word| word == "--json");
    }
    let output = Output::new(manner.json || !std::io::stdout().is_terminal());
    let serves = matches!(cli.command, Command::Serve { .. });
    match serves {
        true => program::init_logs("RUST_LOG", "info", output.is_json()),
        false => log_to_stderr(output.is_json()),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            output.error("error", &format!("cannot start: {e}"));
            return Exit::Error.into();
        }
    };
    let exit = runtime.block_on(run(cli.options, cli.command, &output));
    // Nothing that runs is worth waiting for: what counts is on disk.
    runtime.shutdown_timeout(Duration::from_millis(200));
    if serves && exit == Exit::Success {
        program::end("modmint-cli", Ok(()));
    }
    exit.into()
}

fn log_to_stderr(as_json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if as_json {
        log.json().init();
    } else {
        log.without_time().init();
    }
}

async fn run(options: Options, command: Command, output: &Output) -> Exit {
    match execute(options, command, output).await {
        Ok(exit) => exit,
        Err(error) => output.wallet_error(&error),
    }
}

fn default_directory() -> Result<PathBuf, WalletError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".local/share")))
        .map(|data| data.join("modmint/wallet"))
        .ok_or_else(|| {
            WalletError::Usage("no HOME is set: name the wallet's folder by --data-dir".to_owned())
        })
}

async fn execute(options: Options, command: Command, output: &Output) -> Result<Exit, WalletError> {
    let directory = match options.data_dir {
        Some(directory) => directory,
        None => default_directory()?,
    };
    let wallet = Arc::new(Wallet::open(&directory)?);
    let name = options.federation.as_deref();
    let done = on_wallet(&wallet, name, options.manner, command, output).await;
    // What counts is on disk: a module that takes its time is not waited for.
    if let Some(wallet) = Arc::into_inner(wallet) {
        let _ = tokio::time::timeout(Duration::from_secs(2), wallet.close()).await;
    }
    done
}

async fn on_wallet(
    wallet: &Arc<Wallet>,
    name: Option<&str>,
    manner: Manner,
    command: Command,
    output: &Output,
) -> Result<Exit, WalletError> {
    match command {
        Command::Init { words_file } => init(wallet, words_file, output),
        Command::Join { invite } => join(wallet, &invite, &manner, output).await,
        Command::Info => info(wallet, name, output).await,
        Command::Balance => {
            wallet.resume().await?;
            balance(wallet, name, output).await
        }
        Command::Operations { limit } => {
            wallet.resume().await?;
            let mut all = Vec::new();
            for federation in chosen(wallet, name)? {
                all.extend(federation.operations(limit).await?);
            }
            output.operations(&all);
            Ok(Exit::Success)
        }
        Command::Operation { id } => {
            wallet.resume().await?;
            let (_, view) = find(wallet, name, id).await?;
            output.operation(&view);
            Ok(Exit::Success)
        }
        Command::Wait { id } => {
            wallet.resume().await?;
            let (federation, _) = find(wallet, name, id).await?;
            let report = Report::new(output, &manner);
            action::follow(&federation, id, &manner, report).await
        }
        Command::Cancel { id } => {
            wallet.resume().await?;
            let (federation, _) = find(wallet, name, id).await?;
            federation.cancel(id).await?;
            let report = Report::new(output, &manner);
            action::follow(&federation, id, &manner, report).await
        }
        Command::Serve {
            listen,
            allow_remote,
            metrics_listen,
        } => {
            let setup = daemon::Setup {
                listen,
                allow_remote,
                metrics_listen,
            };
            let announce = |serving: &_| announce(serving, output);
            daemon::serve(wallet.clone(), setup, announce).await?;
            Ok(Exit::Success)
        }
        Command::Module(words) => {
            let federation = wallet.federation(name)?;
            let resumed = wallet.resume();
            let acted = action::run(&federation, &words, manner, output);
            // What is unfinished goes on beside it.
            let (resumed, acted) = tokio::join!(resumed, acted);
            resumed?;
            acted
        }
    }
}

/// Says where the API is and where its key lies.
fn announce(serving: &daemon::Serving, output: &Output) {
    let url = format!("http://{}", serving.address);
    let document = json!({ "url": url, "key_file": serving.key_file });
    output.print(&document, || {
        println!(
            "The wallet answers at {url}, see {url}/docs. The key is in {}.",
            serving.key_file.display()
        );
    });
}

fn init(
    wallet: &Wallet,
    words_file: Option<PathBuf>,
    output: &Output,
) -> Result<Exit, WalletError> {
    let given = words_file
        .map(|file| {
            let read = if file.as_os_str() == "-" {
                std::io::read_to_string(std::io::stdin())
            } else {
                std::fs::read_to_string(&file)
            };
            read.map_err(|e| {
                WalletError::Usage(format!(
                    "cannot read the words from {}: {e}",
                    file.display()
                ))
            })
        })
        .transpose()?;
    let words = wallet.init(given.as_deref())?;
    output.print(&json!({ "seed_words": &*words }), || {
        println!(
            "The wallet's seed words, shown this once. Write them down:\n\n  {}",
            &*words
        );
    });
    Ok(Exit::Success)
}

async fn join(
    wallet: &Wallet,
    invite: &str,
    manner: &Manner,
    output: &Output,
) -> Result<Exit, WalletError> {
    let invite: Invite = invite
        .parse()
        .map_err(|e: modmint_core::config::ParseInviteError| WalletError::Usage(e.to_string()))?;
    let words = match wallet.has_seed() {
        true => None,
        false => Some(wallet.init(None)?),
    };
    let joined = wallet.join(&invite).await;
    if let (Some(words), Err(_)) = (&words, &joined) {
        // Shown once, and the seed stays whatever became of joining.
        output.message(
            &json!({ "seed_words": &**words }),
            &format!("The wallet's seed words: {}", &**words),
        );
    }
    let federation = joined?;
    let recovered = recover(&federation, Report::new(output, manner)).await?;
    let config = federation.config();
    let kinds: Vec<_> = config.instances.iter().map(|i| i.kind.as_str()).collect();
    let mut document = json!({
        "federation": federation.id(),
        "name": config.name,
        "network": config.network,
        "guardians": config.size(),
        "modules": kinds,
    });
    if let Some(words) = &words {
        document["seed_words"] = json!(&**words);
    }
    if let Some(balance) = recovered {
        document["balance_msat"] = json!(balance);
    }
    output.print(&document, || {
        if let Some(words) = &words {
            println!(
                "The wallet's seed words, shown this once. Write them down:\n\n  {}\n",
                &**words
            );
        }
        println!(
            "Joined {} ({}): {} guardians on {}, modules {}.",
            output::clean(&config.name),
            federation.id(),
            config.size(),
            config.network,
            output::clean(&kinds.join(", "))
        );
        if let Some(balance) = recovered {
            println!("{balance} found again.");
        }
    });
    Ok(Exit::Success)
}

/// Waits until modules have found what money there is, if they look for any.
/// Returns the balance then.
async fn recover(
    federation: &Federation,
    mut report: Report<'_>,
) -> Result<Option<modmint_core::Amount>, WalletError> {
    let recoveries = federation.recoveries().await?;
    for view in &recoveries {
        let done = |view: &OperationView| {
            report.progress(view);
            !matches!(
                view.status,
                OperationStatus::Running | OperationStatus::Asking
            )
        };
        let view = federation.wait(view.operation, done).await?;
        if let Some(refusal) = view.error {
            report.end();
            return Err(WalletError::Refused(refusal));
        }
    }
    report.end();
    match recoveries.is_empty() {
        true => Ok(None),
        false => federation.balance().await.map(Some),
    }
}

/// The federation named, or all.
fn chosen(wallet: &Wallet, name: Option<&str>) -> Result<Vec<Federation>, WalletError> {
    match name {
        Some(name) => Ok(vec![wallet.federation(Some(name))?]),
        None => Ok(wallet.federations()),
    }
}

/// The operation of this id, wherever it is.
async fn find(
    wallet: &Wallet,
    name: Option<&str>,
    id: OperationId,
) -> Result<(Federation, OperationView), WalletError> {
    for federation in chosen(wallet, name)? {
        match federation.operation(id).await {
            Ok(view) => return Ok((federation, view)),
            Err(WalletError::NotFound(_)) => {}
            Err(e) => return Err(e),
        }
    }
    Err(WalletError::NotFound(format!("there is no operation {id}")))
}

async fn balance(
    wallet: &Wallet,
    name: Option<&str>,
    output: &Output,
) -> Result<Exit, WalletError> {
    let mut total = modmint_core::Amount::ZERO;
    let mut each = Vec::new();
    for federation in chosen(wallet, name)? {
        let balance = federation.balance().await?;
        total = total.checked_add(balance).unwrap_or(total);
        each.push((federation, balance));
    }
    let federations: Vec<_> = each
        .iter()
        .map(|(federation, balance)| {
            json!({
                "federation": federation.id(),
                "name": federation.config().name,
                "balance_msat": balance,
            })
        })
        .collect();
    output.print(
        &json!({ "balance_msat": total, "federations": federations }),
        || {
            for (federation, balance) in &each {
                println!("{balance}  {}", output::clean(&federation.config().name));
            }
            if each.len() != 1 {
                println!("{total}  in all");
            }
        },
    );
    Ok(Exit::Success)
}

async fn info(wallet: &Wallet, name: Option<&str>, output: &Output) -> Result<Exit, WalletError> {
    let mut documents = Vec::new();
    let mut text = String::new();
    for federation in chosen(wallet, name)? {
        let config = federation.config();
        // All of them, for people who want to know; those that are gone cost a
        // second.
        federation.guardians().probe(PROBE).await;
        let told = federation.refresh().await;
        let view = federation.view();
        let modules = federation.modules().await?;
        let balance = federation.balance().await?;
        let guardians = federation.guardian_views();
        text.push_str(&output::info(
            &federation,
            balance,
            &view,
            told.as_ref().err(),
            &guardians,
            &modules,
        ));
        let modules: Vec<_> = modules
            .iter()
            .map(|module| {
                let actions: Vec<_> = module
                    .actions
                    .iter()
                    .map(|action| {
                        json!({
                            "name": action.name,
                            "summary": action.summary,
                            "parameters": action.parameters,
                        })
                    })
                    .collect();
                json!({
                    "instance": module.instance,
                    "kind": module.kind,
                    "version": module.version,
                    "summary": module.summary,
                    "wallet_half": module.has_client,
                    "actions": actions,
                })
            })
            .collect();
        documents.push(json!({
            "federation": federation.id(),
            "name": config.name,
            "network": config.network,
            "invite": federation.invite(),
            "balance_msat": balance,
            "reachable": told.is_ok(),
            "agreed": view,
            "guardians": guardians,
            "modules": modules,
        }));
    }
    output.print(&json!({ "federations": documents }), || {
        if text.is_empty() {
            println!("This wallet has joined no federation; `modmint-cli join <INVITE>` does.");
        }
        print!("{text}");
    });
    Ok(Exit::Success)
}

/// For actions: what `--help` of the program itself says of its options.
fn own_command() -> clap::Command {
    Cli::command()
}

/// What whoever calls has confirmed beforehand.
const fn allowance(manner: &Manner) -> Allowance {
    if manner.yes {
        Allowance::Anything
    } else {
        Allowance::Nothing
    }
}
