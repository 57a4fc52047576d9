//! `modmintd`, the guardian's program: set-up, founding, running, checking.

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};
use modmint_core::config::FoundingPlan;
use modmint_host::{
    chain::BitcoindAuth,
    guardian::{self, DataDir, GuardianFile, RunSetup},
    pipeline::SkipList,
};
use modmint_rest::program;
use zeroize::Zeroizing;

/// What is logged unless MODMINTD_LOG says otherwise.
const USUAL_LOG: &str = "info,AlephBFT=error,aleph_bft=error";

/// A guardian of a Modmint federation.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes this guardian's identity and prints its set-up code: the JSON that the
    /// others need in the founding plan.
    Setup(SetupArgs),
    /// Takes the founding plan and the bundles that it names.
    Found(FoundArgs),
    /// Holds the founding ceremony if that has not been done, then serves until
    /// SIGTERM or SIGINT.
    Run(RunArgs),
    /// Says that the folder was restored from a backup; to be run once, before `run`.
    /// The guardian then follows without making units until a session has begun that
    /// no other guardian had begun when it came back.
    Restored(DataDirArgs),
    /// Recomputes the state root from all that is stored, and compares.
    Check(DataDirArgs),
}

#[derive(Args)]
struct DataDirArgs {
    /// Where this guardian keeps everything.
    #[arg(long, env = "MODMINTD_DATA_DIR")]
    data_dir: PathBuf,
}

#[derive(Args)]
struct PasswordArgs {
    /// A file whose first line is the password for secrets at rest; `-` for standard
    /// input. Without it, MODMINTD_PASSWORD is taken, or the terminal asked.
    #[arg(long)]
    password_file: Option<PathBuf>,
}

#[derive(Args)]
struct SetupArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    #[command(flatten)]
    password: PasswordArgs,
    /// The guardian's name, for people; at most 64 bytes.
    #[arg(long)]
    name: String,
    /// Where the REST API listens.
    #[arg(long, default_value = "127.0.0.1:8174")]
    api_listen: SocketAddr,
    /// Where wallets reach the REST API.
    #[arg(long)]
    api_url: String,
    /// Where other guardians are listened to.
    #[arg(long, default_value = "0.0.0.0:8173")]
    p2p_listen: SocketAddr,
    /// Where other guardians reach this one, HOST:PORT.
    #[arg(long)]
    p2p_address: String,
}

#[derive(Args)]
struct FoundArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// The plan, the same file at every guardian.
    #[arg(long)]
    plan: PathBuf,
    /// A bundle that the plan names; give the option once for each.
    #[arg(long)]
    bundle: Vec<PathBuf>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    #[command(flatten)]
    password: PasswordArgs,
    /// bitcoind's RPC, for example http://127.0.0.1:8332.
    #[arg(long, env = "MODMINTD_BITCOIND_URL")]
    bitcoind_url: String,
    /// bitcoind's cookie file.
    #[arg(
        long,
        env = "MODMINTD_BITCOIND_COOKIE",
        conflicts_with = "bitcoind_user"
    )]
    bitcoind_cookie: Option<PathBuf>,
    /// The RPC user, where there is no cookie.
    #[arg(
        long,
        env = "MODMINTD_BITCOIND_USER",
        requires = "bitcoind_password_file"
    )]
    bitcoind_user: Option<String>,
    /// A file whose first line is the RPC user's password.
    #[arg(long, env = "MODMINTD_BITCOIND_PASSWORD_FILE")]
    bitcoind_password_file: Option<PathBuf>,
    /// Where Prometheus reads metrics, for example 127.0.0.1:9174; nowhere without it.
    #[arg(long, env = "MODMINTD_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// Requests a second that one client of the REST API may make in the long run, ten
    /// times as many at once; 0 for any number.
    #[arg(long, env = "MODMINTD_REQUESTS_PER_SECOND", default_value_t = 100)]
    requests_per_second: u32,
    /// Log lines as JSON.
    #[arg(long, env = "MODMINTD_LOG_JSON")]
    log_json: bool,
}

fn main() {
    program::end("modmintd", run(Cli::parse()))
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Setup(args) => setup(args),
        Command::Found(args) => found(&args),
        Command::Run(args) => serve(args),
        Command::Restored(args) => {
            guardian::mark_restored(&DataDir::new(args.data_dir))?;
            println!("`modmintd run` observes first, and takes part when that is safe");
            Ok(())
        }
        Command::Check(args) => {
            let report =
                modmint_host::storage::check_database(&DataDir::new(args.data_dir).database())?;
            for (table, keys) in &report.keys {
                println!("{table}: {keys} keys");
            }
            ensure!(
                report.is_sound(),
                "the state root that is kept, {}, is not that of what is stored, {}: restore this guardian from a backup",
                report.kept,
                report.recomputed
            );
            println!("state root {}: sound", report.kept);
            Ok(())
        }
    }
}

fn setup(args: SetupArgs) -> anyhow::Result<()> {
    let password = read_password(&args.password, true)?;
    let code = guardian::setup(
        &DataDir::new(args.data_dir.data_dir),
        &password,
        args.name,
        args.api_url,
        args.p2p_address,
        |peer| GuardianFile {
            api_listen: args.api_listen,
            p2p_listen: args.p2p_listen,
            peer,
            skip: SkipList::default(),
        },
    )?;
    println!("{}", serde_json::to_string_pretty(&code)?);
    Ok(())
}

fn found(args: &FoundArgs) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.plan)
        .with_context(|| format!("the plan {} cannot be read", args.plan.display()))?;
    let plan: FoundingPlan = serde_json::from_str(&text)
        .with_context(|| format!("{} is no founding plan", args.plan.display()))?;
    let bundles = args
        .bundle
        .iter()
        .map(|path| {
            std::fs::read(path)
                .with_context(|| format!("the bundle {} cannot be read", path.display()))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    guardian::store_plan(
        &DataDir::new(args.data_dir.data_dir.clone()),
        &plan,
        &bundles,
    )?;
    println!(
        "plan {} stored; `modmintd run` at every guardian founds the federation",
        plan.id()
    );
    Ok(())
}

fn serve(args: RunArgs) -> anyhow::Result<()> {
    program::init_logs("MODMINTD_LOG", USUAL_LOG, args.log_json);
    let password = read_password(&args.password, false)?;
    let auth = match (
        args.bitcoind_cookie,
        args.bitcoind_user,
        args.bitcoind_password_file,
    ) {
        (Some(cookie), None, _) => BitcoindAuth::Cookie(cookie),
        (None, Some(user), Some(file)) => BitcoindAuth::Password {
            user,
            password: program::first_line(&file)?.to_string(),
        },
        _ => bail!(
            "give --bitcoind-cookie FILE, or --bitcoind-user NAME with --bitcoind-password-file FILE"
        ),
    };
    let setup = RunSetup {
        data_dir: DataDir::new(args.data_dir.data_dir),
        password,
        bitcoind_url: args.bitcoind_url,
        bitcoind_auth: auth,
        metrics_listen: args.metrics_listen,
        requests_per_second: args.requests_per_second,
    };
    // What is handed in is tried where it was read.
    let mut threads = program::threads();
    threads
        .thread_stack_size(modmint_runtime::GUEST_THREAD_BYTES)
        .on_thread_start(modmint_runtime::become_guest_thread);
    program::run(threads, guardian::run(setup))
}

/// The password, from the file named, the environment or the terminal; never from
/// an argument, which every user of the machine could read.
fn read_password(args: &PasswordArgs, new: bool) -> anyhow::Result<Zeroizing<String>> {
    let password = if let Some(path) = &args.password_file {
        program::first_line(path)?
    } else if let Ok(password) = std::env::var("MODMINTD_PASSWORD") {
        Zeroizing::new(password)
    } else if std::io::stdin().is_terminal() {
        let first = Zeroizing::new(rpassword::prompt_password(
            "Password for this guardian's secrets: ",
        )?);
        if new && *first != rpassword::prompt_password("The same again: ")? {
            bail!("the two passwords differ");
        }
        first
    } else {
        bail!(
            "no password: give --password-file FILE or set MODMINTD_PASSWORD; there is no terminal to ask"
        );
    };
    if password.is_empty() {
        bail!("the password is empty");
    }
    Ok(password)
}
