//! A module's folder to its component.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use modmint_core::{BundleHash, sha256};
use modmint_runtime::ContractVersion;
use serde::Deserialize;

use super::{
    c::CProject,
    compile::{self, Sources},
};

/// A component that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// Where it is: `modules/` in the target folder.
    pub component: PathBuf,
    /// How many bytes it has.
    pub size: usize,
    /// SHA-256 of them: what federations know it by.
    pub hash: BundleHash,
}

impl Built {
    fn write(component: PathBuf, bytes: &[u8]) -> Result<Self> {
        compile::write(&component, bytes).map_err(|failure| anyhow!(failure))?;
        Ok(Self {
            component,
            size: bytes.len(),
            hash: BundleHash(sha256(bytes)),
        })
    }
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (component, size, hash) = (self.component.display(), self.size, &self.hash);
        write!(f, "{component}\n  {size} bytes, sha256 {hash}")
    }
}

/// What `cargo metadata` says, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

/// A package that the module is made of.
#[derive(Deserialize)]
pub(super) struct Package {
    pub(super) name: String,
    manifest_path: PathBuf,
    /// None: it is found by its path.
    source: Option<String>,
    #[serde(default)]
    pub(super) metadata: serde_json::Value,
}

/// The program `name`, as a cargo around us names it.
pub(super) fn tool(variable: &str, name: &str) -> OsString {
    std::env::var_os(variable).unwrap_or_else(|| name.into())
}

/// A folder with a module's sources.
pub(super) struct Project {
    pub(super) package: Package,
    workspace: PathBuf,
    target: PathBuf,
    others: Vec<(PathBuf, String)>,
}

impl Project {
    pub(super) fn at(folder: &Path) -> Result<Self> {
        let manifest = folder.join("Cargo.toml");
        let manifest = manifest.canonicalize().with_context(|| {
            format!(
                "{} is no module's folder: it has neither a Cargo.toml nor C in it; `modmint module new` makes one",
                folder.display()
            )
        })?;
        // Writes Cargo.lock where it is not there or not up to date.
        let output = Command::new(tool("CARGO", "cargo"))
            .args(["metadata", "--format-version", "1", "--manifest-path"])
            .arg(&manifest)
            .output()
            .context("cargo cannot be started")?;
        if !output.status.success() {
            bail!(
                "cargo cannot read {}: {}",
                manifest.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout)
            .context("cargo says something of another shape")?;
        let Metadata {
            packages,
            workspace_root,
            target_directory,
        } = metadata;
        let others = packages
            .iter()
            .filter(|package| package.source.is_none())
            .filter_map(|package| {
                let folder = package.manifest_path.parent()?;
                let inside = folder.starts_with(&workspace_root);
                (!inside).then(|| (folder.to_owned(), format!("/{}", package.name)))
            })
            .collect();
        let package = packages
            .into_iter()
            .find(|package| package.manifest_path == manifest)
            .with_context(|| format!("{} is no package but a workspace", manifest.display()))?;
        Ok(Self {
            package,
            workspace: workspace_root,
            target: target_directory,
            others,
        })
    }

    fn build(self) -> Result<Built> {
        let name = &self.package.name;
        let compiled = Sources {
            cargo: &tool("CARGO", "cargo"),
            rustc: &tool("RUSTC", "rustc"),
            workspace: &self.workspace,
            others: self.others,
            packages: vec![name.clone()],
            target: &self.target.join("wasm"),
        }
        .compile()
        .map_err(|failure| anyhow!(failure))?;
        let bytes = compile::component(&compiled, name).map_err(|failure| anyhow!(failure))?;
        let component = self.target.join("modules").join(compile::file_name(name));
        Built::write(component, &bytes)
    }
}

/// Builds the module in `folder`, against the newest contract.
///
/// # Errors
/// What cargo, the compiler or the encoder says; the compiler's own words go to
/// standard error.
pub fn build(folder: &Path) -> Result<Built> {
    build_against(folder, ContractVersion::NEWEST)
}

/// Builds the module in `folder` against this version of the contract.
///
/// # Errors
/// As [`build`]; and a module in Rust has the contract of the SDK that it names.
pub fn build_against(folder: &Path, contract: ContractVersion) -> Result<Built> {
    if !folder.join("Cargo.toml").is_file()
        && folder.is_dir()
        && let Some(project) = CProject::at(folder)?
    {
        let (component, bytes) = project.build(contract)?;
        return Built::write(component, &bytes);
    }
    ensure!(
        contract == ContractVersion::NEWEST,
        "a module in Rust has the contract of its SDK, which here is {}: for {contract} name an \
         older SDK in Cargo.toml, by its git revision",
        ContractVersion::NEWEST
    );
    Project::at(folder)?.build()
}

/// Builds one of the examples of this repository, `modules-wasm/examples/<name>`. They
/// are compiled when they are asked for, so that they slow nobody's build.
///
/// # Errors
/// As [`build`].
pub fn example(name: &str) -> Result<Built> {
    let clone: &OsStr = env!("CARGO_MANIFEST_DIR").as_ref();
    build(&Path::new(clone).join("modules-wasm/examples").join(name))
}
