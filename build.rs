//! Compiles the modules in `modules-wasm/` to WebAssembly components.
//!
//! Every folder there but the SDK's and the examples' is a module, and its name the
//! module's kind. The components lie in OUT_DIR and, as `modules/<kind>.wasm`, in the
//! target folder in use. Code sees the folder as `env!("MODMINT_MODULES")`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use compile::{Failure, Sources};

#[path = "src/kit/compile.rs"]
mod compile;

fn main() {
    if let Err(failure) = build() {
        println!("cargo::error={}", failure.replace('\n', " "));
        // Without this cargo keeps to itself what the compiler said.
        std::process::exit(1);
    }
}

fn build() -> Result<(), Failure> {
    let root = folder("CARGO_MANIFEST_DIR")?;
    let out = folder("OUT_DIR")?;
    let target = target_folder(&out)?;
    let stock = root.join("modules-wasm");
    let packages = packages(&stock)?;
    let watched = [
        "build.rs",
        "src/kit/compile.rs",
        "Cargo.toml",
        "Cargo.lock",
        "wit",
    ]
    .into_iter()
    .map(|source| root.join(source))
    .chain(packages.iter().map(|(folder, _)| folder.clone()))
    .chain([stock.join("sdk")]);
    for source in watched {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    println!("cargo::rerun-if-env-changed=RUSTUP_TOOLCHAIN");

    let compiled = Sources {
        cargo: var("CARGO")?.as_ref(),
        rustc: var("RUSTC")?.as_ref(),
        workspace: &root,
        others: Vec::new(),
        packages: packages.iter().map(|(_, name)| name.clone()).collect(),
        target: &target.join("wasm"),
    }
    .compile()?;
    let modules = target.join("modules");
    for (_, package) in &packages {
        let component = compile::component(&compiled, package)?;
        for folder in [&modules, &out.join("modules")] {
            compile::write(&folder.join(compile::file_name(package)), &component)?;
        }
    }
    println!("cargo::rustc-env=MODMINT_MODULES={}", modules.display());
    Ok(())
}

/// The folders below `modules-wasm` that are modules, sorted, and their packages.
fn packages(folder: &Path) -> Result<Vec<(PathBuf, String)>, Failure> {
    let on = |error| format!("{}: {error}", folder.display());
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder).map_err(on)? {
        let entry = entry.map_err(on)?;
        let kind = entry.file_name().to_string_lossy().into_owned();
        if kind != "sdk" && entry.path().join("Cargo.toml").is_file() {
            packages.push((entry.path(), format!("modmint-{kind}")));
        }
    }
    packages.sort();
    Ok(packages)
}

/// The target folder that OUT_DIR (`<target>[/<triple>]/<profile>/build/…/out`)
/// lies in.
fn target_folder(out: &Path) -> Result<PathBuf, Failure> {
    let profile = out
        .ancestors()
        .find(|folder| folder.ends_with("build"))
        .and_then(Path::parent);
    let target = profile
        .and_then(Path::parent)
        .ok_or_else(|| format!("{} is in no target folder", out.display()))?;
    if target.ends_with(var("TARGET")?) {
        return Ok(target.parent().unwrap_or(target).to_owned());
    }
    Ok(target.to_owned())
}

fn folder(name: &str) -> Result<PathBuf, Failure> {
    var(name).map(PathBuf::from)
}

fn var(name: &str) -> Result<String, Failure> {
    env::var(name).map_err(|e| format!("cargo does not say {name}: {e}"))
}
