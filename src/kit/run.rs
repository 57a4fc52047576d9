//! A federation with the module in it, and a new one when the module changes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Result;
use clap::Args;
use tempfile::TempDir;

use super::Setting;
use crate::{
    dev::{DEPOSIT, Up},
    federation::{Module, Options},
};

/// Run a federation with the module in it, and a new one when it changes
#[derive(Debug, Args)]
pub struct Run {
    /// A module's folder, which is built, or a component
    #[arg(default_value = ".")]
    module: PathBuf,
    /// How many guardians: 1, 4, 7, …
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=31))]
    guardians: u16,
    /// What the module is configured with; as often as needed
    #[arg(long = "set", value_name = "KIND.NAME=VALUE")]
    settings: Vec<Setting>,
    /// What is in the wallet that comes with it, in satoshi
    #[arg(long, default_value_t = 1_000_000, value_name = "SATOSHI")]
    #[arg(value_parser = clap::value_parser!(u64).range(DEPOSIT))]
    wallet: u64,
}

/// How long nothing may change before a change is taken: editors write more than once.
const QUIET: Duration = Duration::from_millis(300);

impl Run {
    pub(super) async fn until_ended(self) -> Result<()> {
        let mut running: Option<(Up, TempDir, Vec<u8>)> = None;
        loop {
            let before = written(&self.module);
            let (path, settings) = (self.module.clone(), self.settings.clone());
            let read = move || {
                let module = Module::at(&path, &settings)?;
                let bytes = std::fs::read(&module.bundle)?;
                Ok::<_, anyhow::Error>((module, bytes))
            };
            match tokio::task::spawn_blocking(read).await? {
                Err(error) => println!("{error:#}\nWaiting for a change …"),
                Ok((_, bytes)) if running.as_ref().is_some_and(|(.., old)| *old == bytes) => {
                    println!("The component is the same; the federation stays.");
                }
                Ok((module, bytes)) => {
                    // Its bitcoind and its guardians end before the next ones begin.
                    drop(running.take());
                    let folder = tempfile::tempdir()?;
                    let mut options = Options {
                        guardians: self.guardians,
                        ..Options::standard()?
                    };
                    // A copy: the next build must not change what guardians are given.
                    let bundle = folder.path().join("module.wasm");
                    std::fs::write(&bundle, &bytes)?;
                    options.modules.push(Module { bundle, ..module });
                    let up = Up::found(folder.path().to_owned(), options, false).await?;
                    up.rich_wallet(self.wallet).await?;
                    println!(
                        "\nIt stays up until Ctrl-C, and starts anew when the module changes."
                    );
                    running = Some((up, folder, bytes));
                }
            }
            changed(&self.module, &before).await;
            println!("\nThe module has changed.");
        }
    }
}

/// When what the component is made of was written last, by file: its sources, or the
/// component itself. Asked for again and again: there are a few files, and compilers
/// write a lot where nobody should listen.
fn written(module: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut written = BTreeMap::new();
    let mut left = if module.is_dir() {
        ["src", "Cargo.toml", "build.rs"]
            .map(|name| module.join(name))
            .to_vec()
    } else {
        vec![module.to_owned()]
    };
    while let Some(path) = left.pop() {
        // What is not there is not there in the next look either, or has changed.
        let Ok(metadata) = path.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            let entries = path.read_dir().into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path()));
        } else if let Ok(time) = metadata.modified() {
            written.insert(path, time);
        }
    }
    written
}

/// Waits until something has changed since `before`, and then nothing for a while.
async fn changed(module: &Path, before: &BTreeMap<PathBuf, SystemTime>) {
    let mut last = before.clone();
    loop {
        tokio::time::sleep(QUIET).await;
        let now = written(module);
        if now == last && now != *before {
            return;
        }
        last = now;
    }
}
