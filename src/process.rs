//! Child processes that do not outlive this one, however it ends.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A running program. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, whose standard output and error go to the end of `log`.
    /// It gets a process group of its own, so that Ctrl-C reaches it through us
    /// alone, and the kernel kills it should this process die.
    ///
    /// # Errors
    /// The program or the log cannot be opened.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("the log {} cannot be written", log.display()))?;
        let mut command = tied_to_us(command);
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = spawn_from_lasting_thread(command)
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// The process' id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log if it has ended.
    ///
    /// # Errors
    /// It has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended ({status}): {}", self.name, self.log_tail()),
        }
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        // Fails only if it has ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; returns its exit status.
    ///
    /// # Errors
    /// It is still there after `patience`; then it is killed.
    pub async fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        // Fails only if it has ended before.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() >= patience {
                self.kill();
                bail!(
                    "{} did not end within {patience:?} and was killed",
                    self.name
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The last lines of its log, for error messages.
    pub fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_else(|error| format!("(no log: {error})"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `command` behind util-linux' setpriv, which asks the kernel to kill it when
/// its parent dies and then becomes it.
pub(crate) fn tied_to_us(command: &Command) -> Command {
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(key, value),
            None => tied.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        tied.current_dir(folder);
    }
    tied
}

/// For the kernel the parent is a thread, and a child would die with the test or
/// the blocking task that started it. So one thread, which never ends, starts all.
fn spawn_from_lasting_thread(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, received) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in received {
                // Whoever asked waits for the answer.
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, answered) = mpsc::channel();
    let gone = |_| std::io::Error::other("the thread that starts processes is gone");
    spawner
        .send((command, answer))
        .map_err(|error| gone(error.to_string()))?;
    answered.recv().map_err(|error| gone(error.to_string()))?
}

/// A local address that nobody listens on, below the ports that the kernel gives
/// to outgoing connections, so that it is still free when its program starts
/// again. Never the same twice in one process.
///
/// # Errors
/// All are taken.
pub fn free_address() -> Result<SocketAddr> {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Processes that run at the same time begin at different places.
    let next = NEXT.get_or_init(|| AtomicU16::new(rand::random()));
    for _ in 0..COUNT {
        let port = FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port from {FIRST} to {} is free", FIRST + COUNT - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn("a shell", &command, &folder.join("log")).expect("there is a shell")
    }

    fn lives(id: u32) -> bool {
        Path::new(&format!("/proc/{id}")).exists()
    }

    #[test]
    fn a_process_that_is_dropped_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let process = shell("exec sleep 1000", folder.path());
        let id = process.id();
        assert!(lives(id));
        drop(process);
        assert!(!lives(id));
    }

    #[test]
    fn a_process_outlives_the_thread_that_started_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_owned();
        let started = thread::spawn(move || shell("exec sleep 1000", &path));
        let mut process = started.join().expect("it does not panic");
        process.check_running().expect("it still runs");
    }

    #[tokio::test]
    async fn stopping_is_polite_first_and_does_not_take_for_ever() {
        let folder = tempfile::tempdir().expect("a folder");
        let polite = "trap 'echo farewell; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
        let mut polite = shell(polite, folder.path());
        while !polite.log_tail().contains("ready") {
            polite.check_running().expect("it runs");
            tokio::task::yield_now().await;
        }
        let status = polite.stop(Duration::from_secs(10)).await.expect("it ends");
        assert!(status.success());
        assert!(polite.log_tail().contains("farewell"));

        let mut stubborn = shell(
            "trap '' TERM; echo deaf; while :; do sleep 1; done",
            folder.path(),
        );
        while !stubborn.log_tail().contains("deaf") {
            stubborn.check_running().expect("it runs");
            tokio::task::yield_now().await;
        }
        let id = stubborn.id();
        let stopped = stubborn.stop(Duration::from_millis(100)).await;
        stopped.expect_err("it does not end by itself");
        assert!(!lives(id));
    }

    #[test]
    fn a_process_that_has_ended_says_so_with_its_last_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = shell("echo out of luck; exit 3", folder.path());
        let error = loop {
            match process.check_running() {
                Ok(()) => thread::yield_now(),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("out of luck"), "{error}");
        assert!(error.contains('3'), "{error}");
    }

    #[test]
    fn free_addresses_are_never_given_twice() {
        let first = free_address().expect("there is one");
        let second = free_address().expect("there is another");
        assert_ne!(first, second);
    }
}
