//! From a module's sources to its component: the one way, for the stock modules (the
//! root package's build script includes this file) and for `modmint module build`.
//!
//! The same sources, the same `Cargo.lock` and the same Rust give the same bytes,
//! whatever the folder is called and whatever the machine's cargo is told.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What went wrong, for people.
pub type Failure = String;

/// What modules are compiled to: nothing but memory and imports.
const TARGET: &str = "wasm32-unknown-unknown";

/// How: small, and every setting that changes the bytes said, so that a workspace's
/// own profiles do not count.
const PROFILE: [&str; 12] = [
    r#"inherits="release""#,
    r#"opt-level="s""#,
    "lto=true",
    "codegen-units=1",
    "incremental=false",
    "overflow-checks=true",
    "debug-assertions=false",
    r#"panic="abort""#,
    "debug=false",
    r#"split-debuginfo="off""#,
    "strip=true",
    // As the standard library's own allocator: it is in every call, and small.
    "package.dlmalloc.opt-level=3",
];

/// Memory that an instance has from the start, bytes: a stack of 1 MiB, what is static,
/// and a heap, so that it seldom grows. What is not touched costs nothing.
const MEMORY: &str = "-Clink-arg=--initial-memory=2097152";

/// What is to be compiled.
pub struct Sources<'a> {
    /// The program `cargo`.
    pub cargo: &'a OsStr,
    /// The program `rustc`.
    pub rustc: &'a OsStr,
    /// The folder of the workspace.
    pub workspace: &'a Path,
    /// Folders with sources outside it, and what they are called in the component.
    pub others: Vec<(PathBuf, String)>,
    /// The packages that are modules.
    pub packages: Vec<String>,
    /// A target folder for modules alone: one that a cargo which waits for us does not
    /// hold.
    pub target: &'a Path,
}

impl Sources<'_> {
    /// Compiles them; the folder in which the core modules are.
    pub fn compile(&self) -> Result<PathBuf, Failure> {
        let sysroot = self.sysroot()?;
        let mut cargo = Command::new(self.cargo);
        cargo
            .current_dir(self.workspace)
            .args(["build", "--locked", "--lib", "--profile", "module"])
            .args(["--target", TARGET])
            .arg("--target-dir")
            .arg(self.target);
        for setting in PROFILE {
            cargo
                .arg("--config")
                .arg(format!("profile.module.{setting}"));
        }
        for package in &self.packages {
            cargo.arg("--package").arg(package);
        }
        // What cargo was told otherwise, for clippy or by RUSTFLAGS, is not meant for
        // modules.
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy();
            let told = ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_INCREMENTAL"];
            let about = ["CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_BUILD_"];
            if told.contains(&&*name) || about.iter().any(|prefix| name.starts_with(prefix)) {
                cargo.env_remove(&*name);
            }
        }
        let home = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
        let mut flags = vec![
            MEMORY.to_owned(),
            remap(self.workspace, "/modmint"),
            remap(&sysroot, "/rust"),
        ];
        flags.extend(home.map(|home| remap(&home, "/cargo")));
        flags.extend(self.others.iter().map(|(from, to)| remap(from, to)));
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));

        let output = cargo
            .output()
            .map_err(|e| format!("cargo does not start: {e}"))?;
        if !output.status.success() {
            // The compiler's own words.
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            return Err(format!(
                "{} does not compile, see above",
                self.packages.join(", ")
            ));
        }
        Ok(self.target.join(TARGET).join("module"))
    }

    fn sysroot(&self) -> Result<PathBuf, Failure> {
        let output = Command::new(self.rustc)
            .current_dir(self.workspace)
            .args(["--print", "sysroot"])
            .output()
            .map_err(|e| format!("rustc does not start: {e}"))?;
        let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if !sysroot.join("lib/rustlib").join(TARGET).is_dir() {
            return Err(format!(
                "modules are compiled to {TARGET}, which this Rust lacks: run scripts/setup, or \
                 rustup target add {TARGET}"
            ));
        }
        Ok(sysroot)
    }
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

/// The component of the package `package` among what [`Sources::compile`] made.
pub fn component(compiled: &Path, package: &str) -> Result<Vec<u8>, Failure> {
    let core = compiled.join(format!("{}.wasm", package.replace('-', "_")));
    let bytes = fs::read(&core).map_err(|e| {
        format!(
            "{}: {e}; a module's Cargo.toml says crate-type = [\"cdylib\", \"rlib\"]",
            core.display()
        )
    })?;
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&bytes)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|e| {
            format!("{package} is no module ({e:#}); it says modmint_sdk::export!(…) once")
        })
}

/// What a package's component is called: a stock module by its kind.
pub fn file_name(package: &str) -> String {
    let kind = package.strip_prefix("modmint-").unwrap_or(package);
    format!("{kind}.wasm")
}

/// Writes what has changed, whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let on = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| on(folder, e))?;
    }
    let new = path.with_extension("new");
    fs::write(&new, bytes).map_err(|e| on(&new, e))?;
    fs::rename(&new, path).map_err(|e| on(path, e))
}
