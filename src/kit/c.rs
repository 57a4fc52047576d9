//! A module in C: a folder with `*.c` files and no Cargo.toml.
//!
//! The bindings are generated from the contract, clang compiles them with the module and
//! `modules-wasm/sdk-c`, and LLVM's linker makes one core module of it. There is no C
//! library and no WASI.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use modmint_runtime::ContractVersion;
use wit_bindgen_core::{Files, wit_parser::Resolve};

use super::compile;

/// The contract that the bindings are made of.
const fn contract(version: ContractVersion) -> &'static str {
    match version {
        ContractVersion::V0_1 => include_str!("../../wit/0.1/federation-module.wit"),
        ContractVersion::V0_2 => include_str!("../../wit/federation-module.wit"),
    }
}

/// A module with guardians' and wallets' half.
const WORLD: &str = "federation-module";
/// Where the library for C is in a clone.
pub(super) const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/modules-wasm/sdk-c");

/// Every flag that changes the bytes.
const FLAGS: [&str; 12] = [
    "--target=wasm32",
    "-std=c11",
    "-Os",
    "-ffreestanding",
    "-fno-builtin",
    "-nostdlib",
    "-nostdinc",
    "-mbulk-memory",
    "-ffunction-sections",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
];

/// A folder with a module in C.
pub(super) struct CProject {
    sources: Vec<PathBuf>,
    folder: PathBuf,
    name: String,
    target: PathBuf,
}

impl CProject {
    /// The folder's C module; none if there is no C in it.
    pub(super) fn at(folder: &Path) -> Result<Option<Self>> {
        let told = || format!("{} cannot be read", folder.display());
        let folder = folder.canonicalize().with_context(told)?;
        let mut sources = Vec::new();
        for entry in folder.read_dir().with_context(told)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "c") {
                sources.push(path);
            }
        }
        // The order decides about the bytes.
        sources.sort();
        if sources.is_empty() {
            return Ok(None);
        }
        let name = folder.file_name().and_then(|name| name.to_str());
        let name = name.context("the folder's name is no text")?.to_owned();
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        Ok(Some(Self {
            sources,
            target: target.unwrap_or_else(|| folder.join("target")),
            folder,
            name,
        }))
    }

    /// The component's bytes, and where they are to be.
    pub(super) fn build(&self, version: ContractVersion) -> Result<(PathBuf, Vec<u8>)> {
        std::fs::create_dir_all(&self.target).with_context(|| self.target.display().to_string())?;
        // Somebody else may build the same.
        let work = tempfile::tempdir_in(&self.target)?;
        let work = work.path();
        let bindings = work.join("bindings");
        for (name, contents) in generate(version)?.iter() {
            compile::write(&bindings.join(name), contents).map_err(|failure| anyhow!(failure))?;
        }
        let sdk = Path::new(SDK);
        let mut objects = vec![bindings.join("federation_module_component_type.o")];
        let mut sources = self.sources.clone();
        sources.push(bindings.join("federation_module.c"));
        sources.push(sdk.join("sdk.c"));
        for source in &sources {
            let name = source.file_name().context("a file has a name")?;
            let object = work.join(name).with_extension("o");
            let mut clang = Command::new(clang());
            clang
                .args(FLAGS)
                .arg("-isystem")
                .arg(own_headers()?)
                .arg("-I")
                .arg(sdk.join("include"))
                .arg("-I")
                .arg(&bindings)
                // Names of folders are nobody's business.
                .arg(format!(
                    "-ffile-prefix-map={}=/module",
                    self.folder.display()
                ))
                .arg("-c")
                .arg(source)
                .arg("-o")
                .arg(&object);
            run(clang, "clang")?;
            objects.push(object);
        }
        let core = work.join("core.wasm");
        let (linker, flavor) = linker()?;
        let mut link = Command::new(linker);
        link.args(flavor)
            .args(["--no-entry", "--gc-sections", "--strip-debug"])
            .args(["-z", "stack-size=65536", "--stack-first"])
            .args(&objects)
            .arg("-o")
            .arg(&core);
        run(link, "the linker")?;
        let bytes = std::fs::read(&core)?;
        let component = wit_component::ComponentEncoder::default()
            .validate(true)
            .module(&bytes)
            .and_then(|mut encoder| encoder.encode())
            .with_context(|| format!("{} is no module of the contract's world", self.name))?;
        let to = self
            .target
            .join("modules")
            .join(format!("{}.wasm", self.name));
        Ok((to, component))
    }
}

/// Header, source and type information, by their names.
fn generate(version: ContractVersion) -> Result<Files> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("federation-module.wit", contract(version))?;
    let world = resolve.select_world(&[package], Some(WORLD))?;
    let mut files = Files::default();
    wit_bindgen_c::Opts::default()
        .build()
        .generate(&mut resolve, world, &mut files)?;
    Ok(files)
}

fn clang() -> OsString {
    std::env::var_os("CLANG").unwrap_or_else(|| "clang".into())
}

/// `stdint.h` and its like come with the compiler.
fn own_headers() -> Result<PathBuf> {
    let output = Command::new(clang()).arg("-print-resource-dir").output();
    let output = output.context("clang cannot be started: scripts/setup installs it")?;
    ensure!(
        output.status.success(),
        "clang does not say where its headers are"
    );
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(Path::new(&folder).join("include"))
}

/// LLVM's for WebAssembly: the one beside clang, or the one that Rust links with.
fn linker() -> Result<(PathBuf, &'static [&'static str])> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("wasm-ld"));
    if let Some(there) = found.into_iter().find(|file| file.is_file()) {
        return Ok((there, &[]));
    }
    let rustc = super::build::tool("RUSTC", "rustc");
    let sysroot = Command::new(rustc)
        .args(["--print", "target-libdir"])
        .output();
    if let Ok(output) = sysroot {
        let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let linker = libraries.with_file_name("bin").join("rust-lld");
        if linker.is_file() {
            return Ok((linker, &["-flavor", "wasm"]));
        }
    }
    bail!("there is no wasm-ld: install lld, or Rust by rustup, which brings one")
}

fn run(mut command: Command, name: &str) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{name} cannot be started: scripts/setup installs it"))?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("{name} says no, see above");
    }
    Ok(())
}
