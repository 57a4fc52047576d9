//! What a daemon does before and after it serves: logs, secrets in files, a runtime.

use std::{
    future::Future,
    io::{IsTerminal, Read, Write},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

/// How long threads have that are busy when all else has ended.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Logs to standard error, as `variable` of the environment says, or `usually`; each line
/// one of JSON if `json`.
pub fn init_logs(variable: &str, usually: &str, json: bool) {
    let filter = EnvFilter::try_from_env(variable).unwrap_or_else(|_| EnvFilter::new(usually));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        logs.json().init();
    } else {
        logs.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

/// The text of a file that holds a secret; `-` is standard input.
///
/// # Errors
/// It cannot be read.
pub fn secret(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        *text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
    }
    Ok(text)
}

/// The first line of [`secret`]: a password.
///
/// # Errors
/// It cannot be read.
pub fn first_line(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = secret(path)?;
    Ok(Zeroizing::new(
        text.lines().next().unwrap_or_default().to_owned(),
    ))
}

/// The threads of a daemon: half of the cores wait for sockets and clocks, since what
/// computes for long does so on threads of its own; they are one on a machine of two,
/// where a second only adds to the switching.
pub fn threads() -> tokio::runtime::Builder {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(cores.div_ceil(2)).enable_all();
    threads
}

/// Runs `what` on such threads to its end; what still blocks then works for nobody, and
/// has a few seconds.
///
/// # Errors
/// Those of `what`; also where there is no tokio to be had.
pub fn run<T>(
    mut threads: tokio::runtime::Builder,
    what: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let runtime = threads.build()?;
    let outcome = runtime.block_on(what);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    outcome
}

/// Waits until this process is told to end, by SIGTERM or from its terminal.
pub async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(e) => {
                tracing::error!("signals cannot be waited for: {e}");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

/// Ends the process now: with 0, or with 1 and the error on standard error.
///
/// Nothing of the libraries is taken apart before. A thread that works for nobody any more
/// may be in the middle of a read, and RocksDB aborts when it finds what it needs gone; what
/// was written is on the disk.
pub fn end(name: &str, outcome: anyhow::Result<()>) -> ! {
    if let Err(error) = &outcome {
        eprintln!("{name}: {error:#}");
    }
    // Where it cannot be printed the exit code remains.
    let _ = std::io::stdout().flush();
    signal_hook::low_level::exit(i32::from(outcome.is_err()))
}
