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
    resolve: Resolve,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

/// Who depends on whom.
#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

impl Metadata {
    /// The folders of those packages that `package` is made of and that are found by their
    /// path, its own among them.
    fn folders(&self, package: &Package) -> Vec<PathBuf> {
        let mut made_of = vec![&package.id];
        let mut next = 0;
        while let Some(id) = made_of.get(next) {
            let nodes = self.resolve.nodes.iter().filter(|node| node.id == **id);
            let more: Vec<_> = nodes.flat_map(|node| &node.dependencies).collect();
            for id in more {
                if !made_of.contains(&id) {
                    made_of.push(id);
                }
            }
            next += 1;
        }
        let packages = self.packages.iter();
        packages
            .filter(|package| package.source.is_none() && made_of.contains(&&package.id))
            .filter_map(|package| Some(package.manifest_path.parent()?.to_owned()))
            .collect()
    }
}

/// A package that the module is made of.
#[derive(Clone, Deserialize)]
pub(super) struct Package {
    pub(super) name: String,
    id: String,
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
    /// Folders of packages that it is made of and that are found by their path.
    beside: Vec<PathBuf>,
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
        let others = metadata
            .packages
            .iter()
            .filter(|package| package.source.is_none())
            .filter_map(|package| {
                let folder = package.manifest_path.parent()?;
                let inside = folder.starts_with(&metadata.workspace_root);
                (!inside).then(|| (folder.to_owned(), format!("/{}", package.name)))
            })
            .collect();
        let mut packages = metadata.packages.iter();
        let package = packages
            .find(|package| package.manifest_path == manifest)
            .with_context(|| format!("{} is no package but a workspace", manifest.display()))?;
        Ok(Self {
            beside: metadata.folders(package),
            package: package.clone(),
            workspace: metadata.workspace_root,
            target: metadata.target_directory,
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
    if let Some(project) = c_project(folder)? {
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

/// The module in C in `folder`: one with a Cargo.toml is Rust's, whatever else is in it.
fn c_project(folder: &Path) -> Result<Option<CProject>> {
    match folder.is_dir() && !folder.join("Cargo.toml").is_file() {
        true => CProject::at(folder),
        false => Ok(None),
    }
}

/// Whether the module in `folder` is in C.
pub(super) fn is_c(folder: &Path) -> bool {
    matches!(c_project(folder), Ok(Some(_)))
}

/// Files and folders that a build of the module in `folder` reads. What it writes lies in
/// them too, in folders called `target`.
pub(super) fn reads(folder: &Path) -> Vec<PathBuf> {
    let mut reads = vec![folder.to_owned()];
    if is_c(folder) {
        reads.push(super::c::SDK.into());
    } else if let Ok(project) = Project::at(folder) {
        reads.extend(project.beside);
        reads.extend(["Cargo.toml", "Cargo.lock"].map(|name| project.workspace.join(name)));
    }
    reads
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
