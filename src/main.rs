//! `modmint`: a federation on this machine, to look at and to build against.

use std::{
    fmt::Display,
    io::stdout,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use modmint::{
    bench,
    federation::{Federation, Options},
    programs, tour,
};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// Federated e-cash whose modules are WebAssembly components.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A federation on a regtest bitcoind of its own. Everything ends with it.
    Dev(Dev),
    /// How much a federation does, how quickly, and what it costs.
    Bench(Bench),
}

#[derive(Args)]
struct Dev {
    /// How many guardians: 1, 4, 7, …
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=31))]
    guardians: u16,
    /// Where everything is kept; a new folder. Without it a temporary one, which
    /// is deleted at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Walk through what a federation does, with the time of each step.
    #[arg(long)]
    tour: bool,
    /// End when the federation is up and the tour, if there is one, is over.
    #[arg(long)]
    once: bool,
}

#[derive(Args)]
struct Bench {
    /// How many wallets spend and receive at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    wallets: u16,
    /// For how long.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Notes in and notes out of each transaction.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=i64::from(bench::MOST_NOTES)))]
    notes: u32,
    /// A federation that is there; it is told where to pay for the wallets' notes. Without
    /// it one of four guardians is founded on this machine.
    #[arg(long)]
    invite: Option<String>,
    /// Measure guardians that have nothing to do instead.
    #[arg(long, conflicts_with_all = ["wallets", "notes", "invite"])]
    idle: bool,
    /// The figures as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let run = tokio::runtime::Runtime::new()
        .context("the runtime cannot be started")
        .and_then(|runtime| runtime.block_on(until_told_to_stop(command)));
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("modmint: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it until it is done or a signal comes. Dropping what runs ends every
/// process that it started.
async fn until_told_to_stop(command: Command) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let run = async {
        match command {
            Command::Dev(dev) => develop(dev).await,
            Command::Bench(bench) => measure(bench).await,
        }
    };
    tokio::select! {
        done = run => done,
        _ = interrupt.recv() => { println!("\nStopped."); Ok(()) }
        _ = terminate.recv() => Ok(()),
    }
}

async fn develop(dev: Dev) -> Result<()> {
    let temporary;
    let folder = match &dev.dir {
        Some(folder) => {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("{} cannot be created", folder.display()))?;
            ensure!(
                std::fs::read_dir(folder)?.next().is_none(),
                "{} is not empty; a new folder is expected",
                folder.display()
            );
            folder.canonicalize()?
        }
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path().to_owned()
        }
    };
    let start = Instant::now();
    let options = Options {
        guardians: dev.guardians,
        ..Options::standard()?
    };
    println!(
        "Founding a federation of {} guardians on a regtest bitcoind …",
        dev.guardians
    );
    let federation = Federation::found(&folder, options).await?;
    println!(
        "It is up after {:.1} s: {} must agree.\n",
        start.elapsed().as_secs_f64(),
        modmint_core::threshold(federation.size())
    );
    describe(&federation);
    if dev.tour {
        tour::walk(&federation, stdout()).await?;
    }
    if !dev.once {
        println!("\nIt stays up until Ctrl-C. To join it with a wallet of your own:\n");
        println!("  export MODMINT_WALLET_DIR=$(mktemp -d)");
        let program = programs::program("modmint-cli")?;
        println!("  {} join {}", program.display(), federation.invite);
        std::future::pending::<()>().await;
    }
    federation.stop().await
}

async fn measure(options: Bench) -> Result<()> {
    let time = Duration::from_secs(options.seconds);
    // Figures alone go to standard output.
    let tell = |what: &str| eprintln!("{what} …");
    if options.idle {
        return print(&bench::run_idle(time, tell).await?, options.json);
    }
    let load = bench::Options {
        wallets: options.wallets.into(),
        time,
        notes: options.notes,
        invite: options.invite,
    };
    print(&bench::run(&load, tell).await?, options.json)
}

fn print(report: &(impl Serialize + Display), json: bool) -> Result<()> {
    match json {
        true => println!("{}", serde_json::to_string(report)?),
        false => println!("{report}"),
    }
    Ok(())
}

fn describe(federation: &Federation) {
    println!("  bitcoind    {}", federation.bitcoind.url());
    println!(
        "              cookie {}",
        federation.bitcoind.cookie_file().display()
    );
    for guardian in &federation.guardians {
        println!(
            "  {}  {}  log {}",
            guardian.name(),
            guardian.api_url(),
            guardian.log_file().display()
        );
    }
    println!("  invite      {}\n", federation.invite);
}
