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
    // A name of several words is nobody's but a package's.
    let taken = [
        (&KEYWORDS[..], "is a word of Rust's own"),
        (&CRATES[..], "is a crate that comes with Rust"),
        (&KINDS[..], "is a kind of module that is there already"),
        (
            &COMMANDS[..],
            "is a command of modmint-cli, by which nobody would reach the module",
        ),
    ];
    let packages = include_str!("../../Cargo.lock").lines();
    let mut packages =
        packages.filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let why = match taken.iter().find(|(words, _)| words.contains(&name)) {
        Some((_, why)) => *why,
        None if packages.any(|package| package == name) => {
            "is a package that modules may be made of"
        }
        None => return Ok(()),
    };
    bail!("{name:?} {why}: a name that is nothing else is expected, for example my-{name}")
}

/// What no crate can be called, in any edition.
const KEYWORDS: [&str; 52] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "union", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];
const CRATES: [&str; 5] = ["alloc", "core", "proc-macro", "std", "test"];
/// Stock modules, the mock's money, and what a fuel budget would be taken for.
const KINDS: [&str; 5] = ["mint", "wallet", "ln", "cash", "fuel"];
/// As `modmint-cli --help` lists them.
const COMMANDS: [&str; 10] = [
    "init",
    "join",
    "info",
    "balance",
    "operations",
    "operation",
    "wait",
    "cancel",
    "serve",
    "help",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kinds_and_packages() {
        for name in ["voucher", "lost-and-found", "a1", "guestbook"] {
            check_name(name).expect("a good name");
        }
        let long = "a".repeat(33);
        for name in ["", "Voucher", "1a", "a--b", "-a", "a_b", "mint", &long] {
            check_name(name).expect_err(name);
        }
    }

    #[test]
    fn a_name_that_is_something_else_is_refused_with_what_it_is_and_another() {
        for (name, why) in [
            ("match", "a word of Rust's"),
            ("async", "a word of Rust's"),
            ("test", "comes with Rust"),
            ("cash", "a kind of module"),
            ("fuel", "a kind of module"),
            ("balance", "a command of modmint-cli"),
            ("borsh", "a package"),
            ("modmint-sdk", "a package"),
        ] {
            let told = check_name(name).expect_err(name).to_string();
            assert!(told.contains(why), "{told}");
            assert!(told.contains(&format!("for example my-{name}")), "{told}");
            check_name(&format!("my-{name}")).expect("what it says is accepted");
        }
    }
}
