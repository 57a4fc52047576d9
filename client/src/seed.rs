//! The wallet's seed: twelve words of BIP 39 and what is derived from them.
//!
//! The words lie in one file that only its owner may read. Every secret of every
//! module comes from them, from the federation, the instance and a path; never
//! from a bundle, so an upgrade keeps every secret.

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use bip39::{Language, Mnemonic};
use hkdf::Hkdf;
use modmint_core::{FederationId, InstanceId};
use modmint_crypto::secp;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::WalletError;

/// Domain of all secrets derived from a seed.
const SECRET_SALT: &[u8] = b"modmint/wallet/secret";
/// Domain of what the program around the wallet derives from it.
const PROGRAM_SALT: &[u8] = b"modmint/wallet/program";

/// BIP 39's seed of 64 bytes, without a passphrase.
pub struct Seed(Zeroizing<[u8; 64]>);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(…)")
    }
}

impl Seed {
    /// Twelve new words from the operating system's randomness, written to
    /// `file`, which only its owner may read. Returns the words, to be shown
    /// once.
    ///
    /// # Errors
    /// Where the file is there already or cannot be written.
    pub fn create(file: &Path) -> Result<(Self, Zeroizing<String>), WalletError> {
        let mut entropy = Zeroizing::new([0; 16]);
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, entropy.as_mut());
        let mnemonic = Mnemonic::from_entropy_in(Language::English, entropy.as_ref())
            .expect("16 bytes are an entropy of BIP 39");
        Self::import(file, &mnemonic.to_string())
    }

    /// The seed of these words, written to `file` as [`Seed::create`] does.
    ///
    /// # Errors
    /// Where the words are none of BIP 39's, or the file is there already or
    /// cannot be written.
    pub fn import(file: &Path, words: &str) -> Result<(Self, Zeroizing<String>), WalletError> {
        let mnemonic = parse(words)?;
        let words = Zeroizing::new(mnemonic.to_string());
        let disk = |e: std::io::Error| {
            WalletError::disk(format!("writing the seed to {}", file.display()), e)
        };
        // Complete before it has its name: a crash leaves no half a seed.
        let partial = file.with_extension("partial");
        let mut out = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .map_err(disk)?;
        out.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(disk)?;
        out.write_all(words.as_bytes()).map_err(disk)?;
        out.write_all(b"\n").map_err(disk)?;
        out.sync_all().map_err(disk)?;
        // A link, unlike a rename, never replaces a seed that is there.
        fs::hard_link(&partial, file).map_err(disk)?;
        fs::remove_file(&partial).map_err(disk)?;
        crate::database::sync_directory(file)?;
        Ok((Self::of(&mnemonic), words))
    }

    /// The seed whose words are in `file`; none if there is no such file.
    ///
    /// # Errors
    /// Where the file cannot be read or holds no words of BIP 39.
    pub fn load(file: &Path) -> Result<Option<Self>, WalletError> {
        match fs::read_to_string(file) {
            Ok(mut words) => {
                let seed = parse(&words).map(|mnemonic| Self::of(&mnemonic));
                words.zeroize();
                seed.map(Some)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(WalletError::disk(
                format!("reading the seed from {}", file.display()),
                e,
            )),
        }
    }

    fn of(mnemonic: &Mnemonic) -> Self {
        Self(Zeroizing::new(mnemonic.to_seed_normalized("")))
    }

    /// 64 bytes for the program around the wallet, so that the same words bring
    /// back its keys too: HKDF-SHA256 of the seed, expanded with `purpose`.
    pub fn derive_for(&self, purpose: &str) -> Zeroizing<[u8; 64]> {
        let hkdf = Hkdf::<Sha256>::new(Some(PROGRAM_SALT), self.0.as_ref());
        let mut secret = Zeroizing::new([0; 64]);
        hkdf.expand(purpose.as_bytes(), secret.as_mut())
            .expect("64 bytes are less than HKDF's limit of 255 hashes");
        secret
    }

    /// A valid secp256k1 secret key: HKDF-SHA256 of the seed, expanded with
    /// federation ‖ instance ‖ path (big endian, the path behind its length) and
    /// a counter that goes on in the one case of 2^128 where no key comes out.
    pub fn derive(
        &self,
        federation: &FederationId,
        instance: InstanceId,
        path: &[u64],
    ) -> [u8; 32] {
        let hkdf = Hkdf::<Sha256>::new(Some(SECRET_SALT), self.0.as_ref());
        let mut info = Vec::with_capacity(32 + 2 + 8 + 8 * path.len() + 1);
        info.extend(federation.0);
        info.extend(instance.0.to_be_bytes());
        info.extend((path.len() as u64).to_be_bytes());
        info.extend(path.iter().flat_map(|step| step.to_be_bytes()));
        info.push(0);
        let mut secret = [0; 32];
        loop {
            hkdf.expand(&info, &mut secret)
                .expect("32 bytes are less than HKDF's limit of 255 hashes");
            if secp::valid_secret(&secret) {
                return secret;
            }
            if let Some(counter) = info.last_mut() {
                *counter = counter.wrapping_add(1);
            }
        }
    }
}

fn parse(words: &str) -> Result<Mnemonic, WalletError> {
    Mnemonic::parse_in(Language::English, words.trim()).map_err(|e| {
        WalletError::Usage(format!(
            "these are no seed words ({e}); 12 to 24 English words of BIP 39 are expected"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_written_for_its_owner_alone_and_read_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("seed");
        let (seed, words) = Seed::create(&file).expect("written");
        assert_eq!(words.split_whitespace().count(), 12);
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Seed::load(&file).expect("readable").expect("there");
        assert_eq!(read.0, seed.0);
        assert!(Seed::create(&file).is_err(), "a seed is never replaced");
        let again = Seed::load(&file).expect("readable").expect("there");
        assert_eq!(again.0, seed.0);
    }

    #[test]
    fn the_seed_is_that_of_bip_39() {
        let directory = tempfile::tempdir().expect("a directory");
        let words = format!("{}about", "abandon ".repeat(11));
        let (seed, _) = Seed::import(&directory.path().join("seed"), &words).expect("valid");
        // BIP 39 without a passphrase, as every other wallet derives it.
        assert!(
            hex::encode(seed.0.as_ref()).starts_with("5eb00bbddcf069084889a8ab9155568165f5c453")
        );
    }

    #[test]
    fn words_of_no_list_are_refused_and_nothing_is_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("seed");
        assert!(Seed::import(&file, "correct horse battery staple").is_err());
        assert!(Seed::load(&file).expect("no error").is_none());
    }

    #[test]
    fn secrets_differ_by_federation_instance_and_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let (seed, _) = Seed::create(&directory.path().join("seed")).expect("written");
        let derive = |federation: u8, instance: u16, path: &[u64]| {
            seed.derive(&FederationId([federation; 32]), InstanceId(instance), path)
        };
        let all = [
            derive(1, 0, &[]),
            derive(2, 0, &[]),
            derive(1, 1, &[]),
            derive(1, 0, &[0]),
            derive(1, 0, &[1]),
            derive(1, 0, &[0, 0]),
            derive(1, 0, &[1 << 32]),
        ];
        for (index, secret) in all.iter().enumerate() {
            assert!(!all[..index].contains(secret));
        }
        assert_eq!(derive(1, 0, &[7]), derive(1, 0, &[7]));
    }
}
