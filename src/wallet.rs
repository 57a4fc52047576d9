//! A wallet: a folder, and `modmint-cli` run on it once for each command.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::{process::tied_to_us, programs};

/// How long a command may take before what it waits for is taken to be lost.
pub const LONGEST: Duration = Duration::from_secs(300);

/// A wallet's folder.
#[derive(Clone, Debug)]
pub struct Wallet {
    folder: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// The program's.
    pub status: ExitStatus,
    /// What it printed at the end; null if that was nothing.
    pub json: Value,
    /// Progress and messages.
    pub messages: String,
}

impl Outcome {
    /// The JSON of a command that succeeded.
    ///
    /// # Errors
    /// It did not.
    pub fn succeeded(self) -> Result<Value> {
        ensure!(
            self.status.success(),
            "modmint-cli ended with {}: {} {}",
            self.status,
            self.json,
            self.messages
        );
        Ok(self.json)
    }
}

impl Wallet {
    /// The wallet in `folder`; nothing is done yet.
    pub fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// A new wallet in `folder` that has joined the federation of `invite`.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn join(folder: &Path, invite: &str) -> Result<Self> {
        let wallet = Self::at(folder);
        wallet.run(&["join", invite]).await?;
        Ok(wallet)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs a command to its end and returns the JSON that it prints.
    ///
    /// # Errors
    /// It fails; says what it printed.
    pub async fn run(&self, arguments: &[&str]) -> Result<Value> {
        self.try_run(arguments, &[])
            .await?
            .succeeded()
            .with_context(|| arguments.join(" "))
    }

    /// Runs a command to its end, however it ends, with these variables in its
    /// environment.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn try_run(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Outcome> {
        self.begin(arguments, environment)?.end().await
    }

    /// Starts a command, for those that take long.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn begin(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Running> {
        let mut command = std::process::Command::new(programs::program("modmint-cli")?);
        command
            .arg("--data-dir")
            .arg(&self.folder)
            .args(["--json", "--yes"])
            .args(arguments)
            .envs(environment.iter().copied());
        let mut child = Command::from(tied_to_us(&command))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("modmint-cli cannot be started")?;
        let progress = BufReader::new(child.stderr.take().context("no standard error")?).lines();
        Ok(Running {
            child,
            progress,
            messages: String::new(),
        })
    }

    /// What can be spent, in millisatoshi.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn balance(&self) -> Result<u64> {
        let answer = self.run(&["balance"]).await?;
        answer["balance_msat"]
            .as_u64()
            .with_context(|| format!("no balance_msat in {answer}"))
    }
}

/// A command that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    progress: Lines<BufReader<ChildStderr>>,
    messages: String,
}

impl Running {
    /// The next progress for which `wanted` finds something.
    ///
    /// # Errors
    /// The command ends without it, or goes on for [`LONGEST`].
    pub async fn progress<T>(&mut self, wanted: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let heard = async {
            while let Some(line) = self.progress.next_line().await? {
                self.messages.push_str(&line);
                self.messages.push('\n');
                if let Some(found) = serde_json::from_str(&line).ok().as_ref().and_then(&wanted) {
                    return Ok(Some(found));
                }
            }
            Ok::<_, std::io::Error>(None)
        };
        match tokio::time::timeout(LONGEST, heard).await {
            Ok(heard) => {
                heard?.with_context(|| format!("modmint-cli ended early: {}", self.messages))
            }
            Err(_) => Err(self.lost()),
        }
    }

    /// What it waits for does not come.
    fn lost(&self) -> anyhow::Error {
        let waited = LONGEST.as_secs();
        anyhow::anyhow!("modmint-cli waited {waited} s: {}", self.messages)
    }

    /// Its exit status, if it ends within `patience`.
    pub async fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(patience, self.child.wait())
            .await
            .ok()?
            .ok()
    }

    /// Ends it as a crash would. The wallet's folder is free then, which it is not at once
    /// when this is dropped.
    ///
    /// # Errors
    /// The system does not say that it has ended.
    pub async fn kill(mut self) -> std::io::Result<()> {
        self.child.kill().await
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// It takes longer than [`LONGEST`] and is killed, or its output cannot be read,
    /// or is no JSON though it succeeded.
    pub async fn end(mut self) -> Result<Outcome> {
        let ended = tokio::time::timeout(LONGEST, self.ended()).await;
        ended.unwrap_or_else(|_| Err(self.lost()))
    }

    async fn ended(&mut self) -> Result<Outcome> {
        let mut output = String::new();
        let mut stdout = self.child.stdout.take().context("no standard output")?;
        let (read, heard) = tokio::join!(stdout.read_to_string(&mut output), async {
            while let Some(line) = self.progress.next_line().await? {
                self.messages.push_str(&line);
                self.messages.push('\n');
            }
            Ok::<_, std::io::Error>(())
        });
        read?;
        heard?;
        let status = self.child.wait().await?;
        let json = match serde_json::from_str(&output) {
            Ok(json) => json,
            Err(_) if output.trim().is_empty() || !status.success() => Value::String(output),
            Err(error) => {
                return Err(error).with_context(|| format!("modmint-cli printed {output}"));
            }
        };
        Ok(Outcome {
            status,
            json,
            messages: std::mem::take(&mut self.messages),
        })
    }
}
