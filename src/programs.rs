//! Where the programs and bundles are: in the target folder that cargo built this
//! program into.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The folder that cargo puts programs into, `target/release` for example: the
/// one of this program, or the one above it for a test.
fn folder() -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program's own path is not to be had")?;
    let folder = own.parent().context("this program lies in no folder")?;
    Ok(match folder.file_name() {
        Some(name) if name == "deps" => folder.parent().unwrap_or(folder).to_owned(),
        _ => folder.to_owned(),
    })
}

/// Where compiled code is kept, beside the programs.
///
/// # Errors
/// This program's own path is not to be had.
pub fn compiled_code() -> Result<PathBuf> {
    Ok(folder()?.join("code"))
}

/// The program `name`, beside this one.
///
/// # Errors
/// It is not there; says how to build it.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = folder()?.join(name);
    if !path.is_file() {
        bail!(
            "{} is missing; build it: cargo build --release --workspace --bins",
            path.display()
        );
    }
    Ok(path)
}

/// The bundle of the module `kind`, which the root package's build script made.
///
/// # Errors
/// It is not there; says how to build it.
pub fn bundle(kind: &str) -> Result<PathBuf> {
    let path = Path::new(env!("MODMINT_MODULES")).join(format!("{kind}.wasm"));
    if !path.is_file() {
        bail!(
            "the bundle {} is missing; build it: cargo build --release",
            path.display()
        );
    }
    Ok(path)
}

/// A bitcoind: `BITCOIND_EXE`, one on the PATH, or the one that `scripts/setup`
/// unpacked.
///
/// # Errors
/// There is none; says what to do.
pub fn bitcoind() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BITCOIND_EXE").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let on_path = std::env::var_os("PATH")
        .map(|path| {
            std::env::split_paths(&path)
                .map(|folder| folder.join("bitcoind"))
                .collect::<Vec<_>>()
        })
        .unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
    on_path
        .into_iter()
        .chain(cache.map(|cache| cache.join("modmint/bitcoind/bitcoind")))
        .find(|path| path.is_file())
        .context("there is no bitcoind: run scripts/setup, or set BITCOIND_EXE to the path of one")
}
