//! Compiles the modules in `modules-wasm/` to WebAssembly components.
//!
//! Every folder there but the SDK's is a module, and its name the module's kind.
//! The components lie in OUT_DIR and, as `modules/<kind>.wasm`, in the target
//! folder in use. Code sees the folder as `env!("MODMINT_MODULES")`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

type Failure = String;

const TARGET: &str = "wasm32-unknown-unknown";

fn main() {
    if let Err(failure) = build() {
        println!("cargo::error={}", failure.replace('\n', " "));
    }
}

fn build() -> Result<(), Failure> {
    let root = folder("CARGO_MANIFEST_DIR")?;
    let out = folder("OUT_DIR")?;
    let target = target_folder(&out)?;
    for source in [
        "build.rs",
        "Cargo.toml",
        "Cargo.lock",
        "modules-wasm",
        "wit",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo::rerun-if-env-changed=RUSTUP_TOOLCHAIN");

    let kinds = kinds(&root.join("modules-wasm"))?;
    let compiled = compile(&root, &kinds, &target.join("wasm"))?;
    let modules = target.join("modules");
    for folder in [&modules, &out.join("modules")] {
        fs::create_dir_all(folder).map_err(|e| on(folder, &e))?;
    }
    for kind in &kinds {
        let core = compiled.join(format!("modmint_{}.wasm", kind.replace('-', "_")));
        let component = encode(&core)?;
        let name = format!("{kind}.wasm");
        write(&out.join("modules").join(&name), &component)?;
        write(&modules.join(&name), &component)?;
    }
    println!("cargo::rustc-env=MODMINT_MODULES={}", modules.display());
    Ok(())
}

/// The folders below `modules-wasm` that are modules, sorted.
fn kinds(folder: &Path) -> Result<Vec<String>, Failure> {
    let mut kinds = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| on(folder, &e))? {
        let entry = entry.map_err(|e| on(folder, &e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "sdk" && entry.path().join("Cargo.toml").is_file() {
            kinds.push(name);
        }
    }
    kinds.sort();
    Ok(kinds)
}

/// Core modules, in the folder that is returned. The compiler's own target folder
/// keeps this apart from the cargo that waits for us.
fn compile(root: &Path, kinds: &[String], target: &Path) -> Result<PathBuf, Failure> {
    let sysroot = Command::new(var("RUSTC")?)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|e| format!("rustc does not start: {e}"))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    if !sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        return Err(format!(
            "modules are compiled to {TARGET}, which this Rust lacks: run scripts/setup, or rustup target add {TARGET}"
        ));
    }

    let mut cargo = Command::new(var("CARGO")?);
    cargo
        .current_dir(root)
        .args([
            "build",
            "--locked",
            "--profile",
            "module",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(target);
    for kind in kinds {
        cargo.arg("--package").arg(format!("modmint-{kind}"));
    }
    // What the outer cargo was told, for clippy or by RUSTFLAGS, is not meant for
    // modules: the same sources are the same bytes everywhere.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let told = ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"];
        if told.contains(&&*name)
            || name.starts_with("CARGO_PROFILE_")
            || name.starts_with("CARGO_TARGET_")
        {
            cargo.env_remove(&*name);
        }
    }
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let mut flags = vec![remap(root, "/modmint"), remap(&sysroot, "/rust")];
    flags.extend(home.map(|home| remap(&home, "/cargo")));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));

    let output = cargo
        .output()
        .map_err(|e| format!("cargo does not start: {e}"))?;
    if !output.status.success() {
        // The compiler's own words, which cargo shows for a build that failed.
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return Err("the modules do not compile, see above".into());
    }
    Ok(target.join(TARGET).join("module"))
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

/// A component of a core module that carries the contract's world.
fn encode(core: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = fs::read(core).map_err(|e| on(core, &e))?;
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&bytes)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|e| format!("{} is no module: {e:#}", core.display()))
}

/// Writes what has changed, whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let new = path.with_extension("new");
    fs::write(&new, bytes).map_err(|e| on(&new, &e))?;
    fs::rename(&new, path).map_err(|e| on(path, &e))
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

fn on(path: &Path, error: &std::io::Error) -> Failure {
    format!("{}: {error}", path.display())
}
