//! Compiled code that the federations of this machine share: they are one user's, and
//! compiling the standard modules takes each guardian and each wallet seconds.

use std::{
    fs::{self, DirBuilder, DirEntry},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::Duration,
};

use anyhow::Result;
use modmint_core::BundleHash;
use modmint_runtime::{Bundle, Engines};

use crate::programs;

/// What is older is removed: a module that is being written is another one with each change.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Compiles `bundles`, unless that was done before. What does not compile is its users' to
/// refuse.
///
/// # Errors
/// The folder beside the programs, or the runtime, is not to be had.
pub async fn compile(bundles: Vec<Vec<u8>>) -> Result<()> {
    let folder = programs::compiled_code()?;
    tokio::task::spawn_blocking(move || {
        let engines = Engines::new()?;
        engines.keep_code_in(&folder)?;
        remove_old(&folder)?;
        std::thread::scope(|scope| {
            for bundle in &bundles {
                scope.spawn(|| drop(Bundle::load(&engines, bundle)));
            }
        });
        Ok(())
    })
    .await?
}

fn remove_old(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        match remove_if_old(&entry?) {
            // Another process has renamed or removed it meanwhile.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn remove_if_old(entry: &DirEntry) -> io::Result<()> {
    let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
    match age > KEPT {
        true => fs::remove_file(entry.path()),
        false => Ok(()),
    }
}

/// Gives the folder of a guardian or a wallet, made if it is not there, a copy of what
/// these bundles were compiled to.
///
/// # Errors
/// It cannot be written.
pub fn lend(bundles: impl IntoIterator<Item = BundleHash>, data_folder: &Path) -> Result<()> {
    let own = data_folder.join("code");
    DirBuilder::new().recursive(true).mode(0o700).create(&own)?;
    let lent = programs::compiled_code()?;
    for bundle in bundles {
        for engine in ["consensus", "query"] {
            let name = format!("{bundle}.{engine}");
            match fs::copy(lent.join(&name), own.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}
