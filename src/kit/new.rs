//! A new module, from a template.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

/// Write a new module from a template that compiles, is tested, and works
#[derive(Debug, Args)]
pub struct New {
    /// Its name, which is its kind, its package and, unless said otherwise, its folder:
    /// kebab-case
    name: String,
    /// What it is written in
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    language: Language,
    /// Where it is written; a new folder
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// The SDK's folder, for Rust [default: of the clone that this program was built from]
    #[arg(long, value_name = "FOLDER")]
    sdk: Option<PathBuf>,
}

/// What there is a template in. A module can be written in any language that compiles to a
/// component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    C,
}

/// Where the SDK is in a clone.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/modules-wasm/sdk");

/// What is written where. The versions of all dependencies are those that this program
/// was built with: cargo leaves out what the module does not need.
const RUST: [(&str, &str); 7] = [
    ("Cargo.toml", include_str!("template/manifest.toml")),
    ("Cargo.lock", include_str!("../../Cargo.lock")),
    ("README.md", include_str!("template/README.md")),
    (".gitignore", include_str!("template/gitignore")),
    ("src/lib.rs", include_str!("template/lib.rs")),
    (
        "conformance.toml",
        include_str!("template/conformance.toml"),
    ),
    ("tests/vouchers.rs", include_str!("template/vouchers.rs")),
];

/// The same in C.
const C: [(&str, &str); 4] = [
    ("@name@.c", include_str!("template-c/module.c")),
    (
        "conformance.toml",
        include_str!("template-c/conformance.toml"),
    ),
    ("README.md", include_str!("template-c/README.md")),
    (".gitignore", include_str!("template/gitignore")),
];

impl New {
    pub(super) fn write(&self) -> Result<()> {
        let name = &self.name;
        check_name(name)?;
        let sdk = self.sdk.as_deref().unwrap_or(Path::new(SDK));
        let sdk = sdk
            .join("Cargo.toml")
            .canonicalize()
            .ok()
            .and_then(|manifest| Some(manifest.parent()?.to_owned()))
            .with_context(|| {
                format!(
                    "there is no SDK in {}: name modules-wasm/sdk of a clone of Modmint by --sdk",
                    sdk.display()
                )
            })?;
        let folder = self.dir.clone().unwrap_or_else(|| name.into());
        ensure!(
            !folder.exists(),
            "{} is there; a new folder is expected",
            folder.display()
        );
        let sdk = sdk.to_str().context("the SDK's folder is no text")?;
        let fill = |text: &str| {
            text.replace("@name@", name)
                .replace("@ident@", &name.replace('-', "_"))
                .replace("@repository@", env!("CARGO_PKG_REPOSITORY"))
                .replace("@sdk@", sdk)
        };
        let (files, test) = match self.language {
            Language::Rust => (&RUST[..], "cargo test"),
            Language::C => (&C[..], "modmint module test"),
        };
        for (file, text) in files {
            let text = fill(text);
            let path = folder.join(fill(file));
            let on = |error| anyhow::anyhow!("{}: {error}", path.display());
            std::fs::create_dir_all(path.parent().unwrap_or(&folder)).map_err(on)?;
            std::fs::write(&path, text).map_err(on)?;
        }
        let folder = folder.display();
        println!("{folder} is a module. Next:\n\n  cd {folder}\n  {test}\n  modmint module run");
        Ok(())
    }
}

/// As `describe` must have it, and as cargo takes it.
fn check_name(name: &str) -> Result<()> {
    let kebab = name.split('-').all(|word| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    });
    if !kebab || name.len() > 32 || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        bail!(
            "{name:?} is no name for a module: kebab-case of at most 32 bytes that begins with a \
             letter is expected, for example lost-and-found"
        );
    }
    const TAKEN: [&str; 7] = ["mint", "wallet", "ln", "test", "core", "std", "alloc"];
    if TAKEN.contains(&name) {
        bail!("{name:?} means something else to Modmint or to Rust: choose another name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kinds_and_packages() {
        for name in ["voucher", "lost-and-found", "a1"] {
            check_name(name).expect("a good name");
        }
        let long = "a".repeat(33);
        for name in ["", "Voucher", "1a", "a--b", "-a", "a_b", "mint", &long] {
            check_name(name).expect_err(name);
        }
    }
}
