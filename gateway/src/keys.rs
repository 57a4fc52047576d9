//! Who may ask the gateway for what: keys with scopes, of which only hashes are kept.
//!
//! They lie in one small file that is read for each request of an operator, so a key
//! that is taken away is gone at once.

use std::{
    fmt, fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use modmint_core::{Hash32, tagged_hash};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What stands before every key, so that it is known where one is found.
const PREFIX: &str = "mmg_";

/// What a key is for. Each has what those before it have.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Looking: balances, channels, payments.
    Read,
    /// Money: addresses to pay to, sending on chain, withdrawing e-cash.
    Funds,
    /// Everything: federations, fees, limits, channels.
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Funds => "funds",
            Self::Admin => "admin",
        })
    }
}

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownKey {
    /// For the operator.
    pub name: String,
    /// What it is for.
    pub scope: Scope,
    hash: Hash32,
}

/// The file of keys.
#[derive(Clone, Debug)]
pub struct Keys(PathBuf);

fn hash(key: &str) -> Hash32 {
    Hash32(tagged_hash("modmint/gateway/key", &[key.as_bytes()]))
}

impl Keys {
    /// The file at `path`, which need not be there yet.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// All keys.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn all(&self) -> Result<Vec<KnownKey>> {
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is no file of keys", self.0.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e).with_context(|| format!("{} cannot be read", self.0.display())),
        }
    }

    /// Makes a key and returns it: it cannot be shown again.
    ///
    /// # Errors
    /// There is one of this name, or the file cannot be written.
    pub fn add(&self, name: &str, scope: Scope) -> Result<Zeroizing<String>> {
        let mut all = self.all()?;
        ensure!(
            !name.is_empty() && name.len() <= 64 && !name.chars().any(char::is_control),
            "a key's name has from 1 to 64 bytes, none of them control characters"
        );
        ensure!(
            all.iter().all(|known| known.name != name),
            "there is a key {name:?} already; take it away first, or name another"
        );
        let mut secret = Zeroizing::new([0; 32]);
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, secret.as_mut());
        let key = Zeroizing::new(format!("{PREFIX}{}", hex::encode(secret.as_slice())));
        all.push(KnownKey {
            name: name.to_owned(),
            scope,
            hash: hash(&key),
        });
        self.write(&all)?;
        Ok(key)
    }

    /// Takes a key away.
    ///
    /// # Errors
    /// There is none of this name, or the file cannot be written.
    pub fn remove(&self, name: &str) -> Result<()> {
        let mut all = self.all()?;
        let before = all.len();
        all.retain(|known| known.name != name);
        ensure!(all.len() < before, "there is no key {name:?}");
        self.write(&all)
    }

    fn write(&self, all: &[KnownKey]) -> Result<()> {
        write_secret(&self.0, &serde_json::to_vec_pretty(all)?)
    }

    /// Whose key this is; none of a key that is unknown.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn known(&self, key: &str) -> Result<Option<KnownKey>> {
        // Hashes are compared: how long that takes tells nothing of a key.
        let hash = hash(key);
        Ok(self.all()?.into_iter().find(|known| known.hash == hash))
    }
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    use super::*;

    #[test]
    fn a_key_is_known_until_it_is_taken_away_and_never_stored() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::at(folder.path().join("keys.json"));
        assert!(keys.known("mmg_00").unwrap().is_none());
        let key = keys.add("till", Scope::Read).unwrap();
        let other = keys.add("owner", Scope::Admin).unwrap();
        assert!(keys.add("till", Scope::Admin).is_err());
        assert_eq!(keys.known(&key).unwrap().unwrap().scope, Scope::Read);
        assert_eq!(keys.known(&other).unwrap().unwrap().name, "owner");
        let stored = fs::read_to_string(folder.path().join("keys.json")).unwrap();
        assert!(!stored.contains(&key[PREFIX.len()..]));
        keys.remove("till").unwrap();
        assert!(keys.known(&key).unwrap().is_none());
        assert!(keys.remove("till").is_err());
        assert!(Scope::Admin > Scope::Funds && Scope::Funds > Scope::Read);
    }
}
