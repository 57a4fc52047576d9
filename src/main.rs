//! `modmint`: a federation on this machine, to look at and to build against, and the
//! kit for modules.

use std::{fmt::Display, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use modmint::{bench, dev::Dev, kit};
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
    /// Write, build, look at and try a module.
    #[command(subcommand)]
    Module(kit::Command),
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
    /// Then stop one guardian for so many seconds while the load goes on, and measure until
    /// it has caught up, and as long as before again.
    #[arg(long, value_name = "SECONDS", conflicts_with = "invite", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    absent: Option<u64>,
    /// Stop so many instead of one: with two of four nothing goes on until one is back.
    #[arg(long, value_name = "GUARDIANS", requires = "absent", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    absentees: u8,
    /// Measure guardians that have nothing to do instead.
    #[arg(long, conflicts_with_all = ["wallets", "notes", "invite", "absent"])]
    idle: bool,
    /// Measure payments over Lightning instead, through a gateway with one channel: out,
    /// in, and from wallet to wallet, each for so long.
    #[arg(long, conflicts_with_all = ["notes", "invite", "idle", "absent"])]
    lightning: bool,
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
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("modmint: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it until it is done or a signal comes. Dropping what runs ends every
/// process that it started.
async fn until_told_to_stop(command: Command) -> Result<bool> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run(command) => done,
        _ = interrupt.recv() => { println!("\nStopped."); Ok(true) }
        _ = terminate.recv() => Ok(true),
    }
}

/// False if what was asked for was found wanting, and said so.
async fn run(command: Command) -> Result<bool> {
    match command {
        Command::Dev(dev) => dev.run().await.map(|()| true),
        Command::Bench(bench) => measure(bench).await.map(|()| true),
        Command::Module(module) => module.run().await,
    }
}

async fn measure(options: Bench) -> Result<()> {
    let time = Duration::from_secs(options.seconds);
    // Figures alone go to standard output.
    let tell = |what: &str| eprintln!("{what} …");
    if options.idle {
        return print(&bench::run_idle(time, tell).await?, options.json);
    }
    if options.lightning {
        let report = bench::run_lightning(options.wallets.into(), time, tell).await?;
        return print(&report, options.json);
    }
    let load = bench::Options {
        wallets: options.wallets.into(),
        time,
        notes: options.notes,
        invite: options.invite,
        absent: options
            .absent
            .map(|seconds| (Duration::from_secs(seconds), options.absentees.into())),
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
