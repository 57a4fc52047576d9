//! The key that opens the wallet's REST API.
//!
//! There is one, for everything: who may look at operations sees the notes that were
//! handed out, and those are money. It lies beside the seed, which opens more.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use modmint_core::{Hash32, tagged_hash};
use zeroize::Zeroizing;

use crate::{WalletError, database::sync_directory};

/// What stands before every key, so that it is known where one is found.
const PREFIX: &str = "mmw_";
/// Who writes a key of their own writes at least as many bytes.
const LEAST: usize = 32;

/// The hash of the key: how long comparing takes tells nothing of the key.
pub(super) struct Key(Hash32);

fn hash(key: &str) -> Hash32 {
    Hash32(tagged_hash("modmint/wallet/key", &[key.as_bytes()]))
}

impl Key {
    /// The key in `file`; where there is none a new one is drawn, for its owner's eyes.
    ///
    /// # Errors
    /// The file holds no key, or cannot be read or written.
    pub(super) fn at(file: &Path) -> Result<Self, WalletError> {
        let key = match fs::read_to_string(file) {
            Ok(text) => Zeroizing::new(text),
            Err(e) if e.kind() == ErrorKind::NotFound => draw(file)?,
            Err(e) => return Err(WalletError::disk(format!("reading {}", file.display()), e)),
        };
        let key = key.trim();
        if key.len() < LEAST || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(WalletError::Usage(format!(
                "{} holds no key: at least {LEAST} letters, digits or signs are expected; without the file a new one is drawn",
                file.display()
            )));
        }
        Ok(Self(hash(key)))
    }

    /// Whether this is it.
    pub(super) fn is(&self, given: &str) -> bool {
        hash(given) == self.0
    }
}

/// Draws a key and writes it, whole or not at all.
fn draw(file: &Path) -> Result<Zeroizing<String>, WalletError> {
    let mut secret = Zeroizing::new([0; 32]);
    rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, secret.as_mut());
    let key = Zeroizing::new(format!("{PREFIX}{}\n", hex::encode(secret.as_slice())));
    let partial = file.with_extension("partial");
    let write = || {
        let mut out = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        out.write_all(key.as_bytes())?;
        out.sync_all()?;
        fs::rename(&partial, file)
    };
    write().map_err(|e| WalletError::disk(format!("writing {}", file.display()), e))?;
    sync_directory(file)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_drawn_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("api.key");
        assert!(Key::at(&file).is_ok());
        let drawn = fs::read_to_string(&file).unwrap();
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Key::at(&file).unwrap();
        assert!(again.is(drawn.trim()));
        assert!(!again.is(&drawn) && !again.is("") && !again.is("mmw_00"));
        fs::write(&file, "").unwrap();
        assert!(
            Key::at(&file).is_err(),
            "an empty key would open everything"
        );
    }
}
