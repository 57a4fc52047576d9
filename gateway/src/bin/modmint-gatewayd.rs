//! `modmint-gatewayd`, the gateway's program: its folder, its keys, running.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use modmint_core::config::Network;
use modmint_gateway::{
    daemon::{self, Config, DataDir, RunSetup},
    journal::Terms,
    keys::Scope,
    ledger::Thresholds,
};
use modmint_rest::program;

/// What is logged unless MODMINT_GATEWAYD_LOG says otherwise.
const USUAL_LOG: &str = "info,ldk=warn";

/// A gateway between federations and the Lightning network, with a node of its own.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the gateway's folder: configuration, seed words, which are shown once, and
    /// a key for everything.
    Init(InitArgs),
    /// Serves until SIGTERM or SIGINT.
    Run(RunArgs),
    /// Keys for operators and their programs.
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Args)]
struct DataDirArgs {
    /// Where the gateway keeps everything.
    #[arg(long, env = "MODMINT_GATEWAYD_DATA_DIR")]
    data_dir: PathBuf,
}

#[derive(Args)]
struct InitArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// The chain: bitcoin, testnet4, signet or regtest.
    #[arg(long, value_parser = network)]
    network: Network,
    /// The gateway's name, at most 32 bytes.
    #[arg(long)]
    alias: String,
    /// Where the REST API listens.
    #[arg(long, default_value = "127.0.0.1:8180")]
    api_listen: SocketAddr,
    /// Where users' wallets reach the REST API.
    #[arg(long)]
    api_url: String,
    /// Where the Lightning node listens to peers, HOST:PORT; once for each address.
    #[arg(long, default_value = "0.0.0.0:9735")]
    lightning_listen: Vec<String>,
    /// Seed words of a gateway that was lost, in a file; `-` for standard input. They
    /// bring back e-cash and what the node has on chain, not its channels.
    #[arg(long)]
    words_file: Option<PathBuf>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// bitcoind's RPC, for example http://127.0.0.1:8332.
    #[arg(long, env = "MODMINT_GATEWAYD_BITCOIND_URL")]
    bitcoind_url: String,
    /// bitcoind's cookie file. It is read once: where bitcoind is restarted alone, a
    /// user and password are better.
    #[arg(
        long,
        env = "MODMINT_GATEWAYD_BITCOIND_COOKIE",
        conflicts_with = "bitcoind_user"
    )]
    bitcoind_cookie: Option<PathBuf>,
    /// The RPC user, where there is no cookie.
    #[arg(
        long,
        env = "MODMINT_GATEWAYD_BITCOIND_USER",
        requires = "bitcoind_password_file"
    )]
    bitcoind_user: Option<String>,
    /// A file whose first line is the RPC user's password.
    #[arg(long, env = "MODMINT_GATEWAYD_BITCOIND_PASSWORD_FILE")]
    bitcoind_password_file: Option<PathBuf>,
    /// Where Prometheus reads metrics, for example 127.0.0.1:9180; nowhere without it.
    #[arg(long, env = "MODMINT_GATEWAYD_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// Log lines as JSON.
    #[arg(long, env = "MODMINT_GATEWAYD_LOG_JSON")]
    log_json: bool,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Makes a key and prints it, once.
    Add {
        #[command(flatten)]
        data_dir: DataDirArgs,
        /// For whom it is.
        #[arg(long)]
        name: String,
        /// What it is for; each has what those before it have.
        #[arg(long, value_enum)]
        scope: Scope,
    },
    /// Lists keys, without what opens anything.
    List {
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
    /// Takes a key away, at once.
    Remove {
        #[command(flatten)]
        data_dir: DataDirArgs,
        /// Whose it is.
        #[arg(long)]
        name: String,
    },
}

fn network(text: &str) -> Result<Network, String> {
    [
        Network::Bitcoin,
        Network::Testnet4,
        Network::Signet,
        Network::Regtest,
    ]
    .into_iter()
    .find(|network| network.name() == text)
    .ok_or_else(|| "bitcoin, testnet4, signet or regtest is expected".to_owned())
}

fn main() {
    program::end("modmint-gatewayd", run(Cli::parse()))
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Init(args) => init(args),
        Command::Run(args) => serve(args),
        Command::Key(KeyCommand::Add {
            data_dir,
            name,
            scope,
        }) => {
            let key = DataDir::new(data_dir.data_dir).keys().add(&name, scope)?;
            println!("{}", key.as_str());
            Ok(())
        }
        Command::Key(KeyCommand::List { data_dir }) => {
            for key in DataDir::new(data_dir.data_dir).keys().all()? {
                println!("{:<6} {}", key.scope.to_string(), key.name);
            }
            Ok(())
        }
        Command::Key(KeyCommand::Remove { data_dir, name }) => {
            DataDir::new(data_dir.data_dir).keys().remove(&name)
        }
    }
}

fn init(args: InitArgs) -> anyhow::Result<()> {
    let words = args
        .words_file
        .as_deref()
        .map(program::secret)
        .transpose()?;
    let config = Config {
        network: args.network,
        alias: args.alias,
        api_listen: args.api_listen,
        api_url: args.api_url,
        lightning_listen: args.lightning_listen,
        terms: Terms::default(),
        solvency: Thresholds::default(),
        minimum_timelock_blocks: 288,
        announce_lifetime_seconds: 24 * 3600,
        requests_per_second: 50,
        payments_per_second: 2,
    };
    let data_dir = DataDir::new(args.data_dir.data_dir);
    let given = words.is_some();
    let made = program::run(
        program::threads(),
        daemon::init(&data_dir, &config, words.as_ref().map(|words| words.trim())),
    )?;
    eprintln!(
        "The gateway's folder is made. Its key for everything is in {}.",
        data_dir.admin_key().display()
    );
    if !given {
        eprintln!("Its seed words, shown this once; write them down:");
        println!("{}", made.as_str());
    }
    Ok(())
}

fn serve(args: RunArgs) -> anyhow::Result<()> {
    program::init_logs("MODMINT_GATEWAYD_LOG", USUAL_LOG, args.log_json);
    let bitcoind = match (
        args.bitcoind_cookie,
        args.bitcoind_user,
        args.bitcoind_password_file,
    ) {
        (Some(cookie), None, _) => daemon::with_cookie(&args.bitcoind_url, &cookie)?,
        (None, Some(user), Some(file)) => {
            daemon::rpc(&args.bitcoind_url, &user, &program::first_line(&file)?)?
        }
        _ => bail!(
            "give --bitcoind-cookie FILE, or --bitcoind-user NAME with --bitcoind-password-file FILE"
        ),
    };
    program::run(
        program::threads(),
        daemon::run(RunSetup {
            data_dir: DataDir::new(args.data_dir.data_dir),
            bitcoind,
            metrics_listen: args.metrics_listen,
        }),
    )
}
