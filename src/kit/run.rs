//! A federation with the module in it, and a new one when the module changes.

use std::{
    collections::BTreeMap,
    fs::DirEntry,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};
use clap::Args;
use tempfile::TempDir;

use super::{Setting, build};
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
        let mut running: Option<Running> = None;
        loop {
            let watched = Watched::of(&self.module).await?;
            let before = watched.written();
            let (path, settings) = (self.module.clone(), self.settings.clone());
            let read = move || {
                let module = Module::at(&path, &settings)?;
                let bytes = std::fs::read(&module.bundle)?;
                Ok::<_, anyhow::Error>((module, bytes))
            };
            match tokio::task::spawn_blocking(read).await? {
                Err(error) => println!("{error:#}\nWaiting for a change …"),
                Ok((_, bytes)) if running.as_ref().is_some_and(|old| old.bytes == bytes) => {
                    println!("The component is the same; the federation stays.");
                }
                Ok((module, bytes)) => {
                    let stray = self.settings.iter().find(|one| !one.is_of(&module.kind));
                    if let Some(stray) = stray {
                        bail!(
                            "--set {stray}: the module is of the kind {}; --set {}.NAME=VALUE is \
                             expected",
                            module.kind,
                            module.kind
                        );
                    }
                    // Its bitcoind and its guardians end before the next ones begin.
                    drop(running.take());
                    let mut next = Running {
                        up: None,
                        folder: tempfile::tempdir()?,
                        bytes,
                    };
                    match self.found(&next, module).await {
                        Ok(up) => {
                            next.up = Some(up);
                            println!(
                                "\nIt stays up until Ctrl-C, and starts anew when the module \
                                 changes."
                            );
                        }
                        // Guardians that refuse the module, most likely. What they have
                        // written is there until the next try.
                        Err(error) => println!("{error:#}\nWaiting for a change …"),
                    }
                    running = Some(next);
                }
            }
            watched.changed(&before).await;
            println!("\nThe module has changed.");
        }
    }

    async fn found(&self, next: &Running, module: Module) -> Result<Up> {
        let folder = next.folder.path();
        let mut options = Options {
            guardians: self.guardians,
            ..Options::standard()?
        };
        // A copy: the next build must not change what guardians are given.
        let bundle = folder.join("module.wasm");
        std::fs::write(&bundle, &next.bytes)?;
        options.modules.push(Module { bundle, ..module });
        let up = Up::found(folder.to_owned(), options, false).await?;
        up.rich_wallet(self.wallet).await?;
        Ok(up)
    }
}

/// A federation, or what is left of one that did not come up.
struct Running {
    // Before its folder: its processes end first.
    #[allow(dead_code, reason = "held until the next one begins")]
    up: Option<Up>,
    folder: TempDir,
    /// The module's component.
    bytes: Vec<u8>,
}

/// What a module's component is made of: what its build reads, or the component itself.
struct Watched(Vec<PathBuf>);

impl Watched {
    async fn of(module: &Path) -> Result<Self> {
        let module = module.to_owned();
        let reads = move || match module.is_dir() {
            true => build::reads(&module),
            false => vec![module],
        };
        Ok(Self(tokio::task::spawn_blocking(reads).await?))
    }

    /// When each file was written last. Asked for again and again: there are a few files.
    fn written(&self) -> BTreeMap<PathBuf, SystemTime> {
        let mut written = BTreeMap::new();
        let mut left = self.0.clone();
        while let Some(path) = left.pop() {
            // What is not there is not there in the next look either, or has changed.
            let Ok(metadata) = path.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                let entries = path.read_dir().into_iter().flatten().flatten();
                left.extend(entries.filter(is_read).map(|entry| entry.path()));
            } else if let Ok(time) = metadata.modified() {
                written.insert(path, time);
            }
        }
        written
    }

    /// Waits until something has changed since `before`, and then nothing for a while.
    async fn changed(&self, before: &BTreeMap<PathBuf, SystemTime>) {
        let mut last = before.clone();
        loop {
            tokio::time::sleep(QUIET).await;
            let now = self.written();
            if now == last && now != *before {
                return;
            }
            last = now;
        }
    }
}

/// Not what compilers write, what editors and git keep for themselves, or a folder that is
/// elsewhere and may be around this one.
fn is_read(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let hidden = name.to_string_lossy().starts_with('.');
    let elsewhere = entry.file_type().is_ok_and(|kind| kind.is_symlink()) && entry.path().is_dir();
    !hidden && name != "target" && !elsewhere
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whatever_the_build_of_a_module_in_c_reads_is_watched() {
        let here = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = here.path().join(name);
            std::fs::create_dir_all(path.parent().expect("in the folder")).expect("created");
            std::fs::write(path, text).expect("written");
        };
        write("stamps.c", "");
        write("own/lists.h", "");
        let watched = Watched::of(here.path()).await.expect("a module's folder");
        let before = watched.written();
        let has = |end: &str| before.keys().any(|path| path.ends_with(end));
        assert!(has("stamps.c") && has("own/lists.h"), "{before:?}");
        assert!(has("sdk-c/sdk.c"), "{before:?}");
        write("target/modules/stamps.wasm", "");
        write(".stamps.c.swp", "");
        assert_eq!(watched.written(), before);
        write("more.c", "");
        assert_ne!(watched.written(), before);
    }

    #[tokio::test]
    async fn what_a_module_in_rust_is_made_of_is_watched() {
        let escrow = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules-wasm/examples/escrow");
        let watched = Watched::of(&escrow).await.expect("a module's folder");
        let written = watched.written();
        for file in ["escrow/src/server.rs", "sdk/src/storage.rs", "Cargo.lock"] {
            assert!(written.keys().any(|path| path.ends_with(file)), "{file}");
        }
        assert!(
            !written
                .keys()
                .any(|path| path.ends_with("host/src/guardian.rs"))
        );
    }
}
