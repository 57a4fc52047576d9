//! A guardian's secrets: its identity and its shares of the federation's keys,
//! sealed in one file.
//!
//! What a share may be used for is not decided here: consensus approves, and the
//! pipeline asks for nothing else.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_core::{
    FederationId, InstanceId, KeyKind, PeerId,
    config::{FederationConfig, HexBytes},
};
use modmint_crypto::{
    SecretShare,
    at_rest::{self, OpenError},
    secp, tbs, tpe,
};
use modmint_runtime::Signable;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::identity::Identity;

/// 32 bytes that are erased when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, BorshSerialize, BorshDeserialize)]
pub(crate) struct SecretBytes(pub [u8; 32]);

/// One of the federation's keys, as one guardian holds it.
#[derive(Clone, BorshSerialize, BorshDeserialize)]
pub(crate) struct KeyShare {
    pub kind: KeyKind,
    /// The group's key; for `multisig` this guardian's own.
    pub public_key: Vec<u8>,
    pub secret: SecretBytes,
}

/// A guardian's shares of the keys that the ceremony made, by instance and label.
#[derive(Clone, Default, BorshSerialize, BorshDeserialize)]
pub struct KeyShares(BTreeMap<(InstanceId, String), KeyShare>);

impl KeyShares {
    pub(crate) fn insert(&mut self, instance: InstanceId, label: String, share: KeyShare) {
        self.0.insert((instance, label), share);
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// This guardian's share of `what`: of a blind signature (48 bytes), of a
    /// decryption key (48 bytes), or an ECDSA signature (64 bytes). None if the
    /// instance has no such key, or the message is none of the key's kind. What
    /// consensus has not approved must not be asked for.
    pub fn share(&self, instance: InstanceId, what: &Signable) -> Option<Vec<u8>> {
        let key = self.0.get(&(instance, what.label.clone()))?;
        match key.kind {
            KeyKind::BlindSignature if what.terms.is_empty() => {
                let share = SecretShare::from_bytes(&key.secret.0)?;
                tbs::sign_share(&share, &what.message).map(Vec::from)
            }
            KeyKind::Decryption => {
                let share = SecretShare::from_bytes(&key.secret.0)?;
                tpe::decryption_share(&share, &key.public_key, &what.message, &what.terms)
            }
            KeyKind::Multisig if what.terms.is_empty() => {
                let (tweak, hash) = what.message.split_first_chunk::<32>()?;
                let hash = hash.try_into().ok()?;
                secp::sign_ecdsa(&key.secret.0, tweak, hash).map(Vec::from)
            }
            KeyKind::BlindSignature | KeyKind::Multisig => None,
        }
    }
}

/// Where a founding ceremony stands, so that a guardian that was interrupted goes
/// on where it was: see [`crate::ceremony`].
#[derive(Clone, BorshSerialize, BorshDeserialize)]
pub(crate) struct CeremonyRecord {
    /// The plan's id.
    pub plan: FederationId,
    pub stage: Stage,
}

#[derive(Clone, BorshSerialize, BorshDeserialize)]
pub(crate) enum Stage {
    /// What this guardian deals follows from the seed.
    Dealing { seed: SecretBytes },
    /// All dealings are here. From now on this guardian's acks may be out.
    Dealt {
        seed: SecretBytes,
        received: Vec<Received>,
    },
    /// All guardians have signed.
    Founded {
        config: Box<FederationConfig>,
        signatures: Vec<(PeerId, HexBytes)>,
    },
}

/// A dealer's dealing, as one guardian received it.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Received {
    pub public: Vec<u8>,
    pub shares: Vec<SecretBytes>,
}

/// All that a guardian must not lose and nobody else may see.
#[derive(Clone)]
pub struct Secrets {
    /// Who it is.
    pub identity: Identity,
    /// Its shares; empty before the federation is founded.
    pub shares: KeyShares,
    pub(crate) ceremony: Option<CeremonyRecord>,
}

/// Why a guardian's secrets could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// The file system refuses.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another password, or a damaged file.
    #[error("{path} cannot be opened: {source}")]
    Sealed {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The password is right and what it opens is not what this program writes.
    #[error("{path} holds no guardian's secrets that this version knows")]
    Contents {
        /// Which file.
        path: PathBuf,
    },
}

/// [`Secrets`] as they are written.
#[derive(BorshSerialize, BorshDeserialize)]
enum File {
    V1 {
        certificate: Vec<u8>,
        tls_key: Vec<u8>,
        consensus_secret: SecretBytes,
        shares: KeyShares,
        ceremony: Option<CeremonyRecord>,
    },
}

impl Secrets {
    /// Those of a guardian that belongs to no federation yet.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            shares: KeyShares::default(),
            ceremony: None,
        }
    }

    /// Writes them to `path`, sealed under the password, in one step: a crash
    /// leaves the former file or the new one.
    ///
    /// # Errors
    /// [`SecretsError::File`].
    pub fn save(&self, path: &Path, password: &str) -> Result<(), SecretsError> {
        let mut file = File::V1 {
            certificate: self.identity.certificate.clone(),
            tls_key: self.identity.tls_key.to_vec(),
            consensus_secret: SecretBytes(*self.identity.consensus_secret),
            shares: self.shares.clone(),
            ceremony: self.ceremony.clone(),
        };
        let plain = Zeroizing::new(borsh::to_vec(&file).expect("writing to memory does not fail"));
        let File::V1 { tls_key, .. } = &mut file;
        tls_key.zeroize();
        let sealed = at_rest::seal(password, &plain);
        write_atomically(path, &sealed).map_err(|source| SecretsError::File {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// [`SecretsError`]: no file, another password, a damaged file.
    pub fn load(path: &Path, password: &str) -> Result<Self, SecretsError> {
        let sealed = fs::read(path).map_err(|source| SecretsError::File {
            path: path.to_owned(),
            source,
        })?;
        let plain = at_rest::open(password, &sealed).map_err(|source| SecretsError::Sealed {
            path: path.to_owned(),
            source,
        })?;
        let contents = || SecretsError::Contents {
            path: path.to_owned(),
        };
        let File::V1 {
            certificate,
            tls_key,
            consensus_secret,
            shares,
            ceremony,
        } = borsh::from_slice(&plain).map_err(|_| contents())?;
        if !secp::valid_secret(&consensus_secret.0) {
            return Err(contents());
        }
        Ok(Self {
            identity: Identity {
                certificate,
                tls_key: Zeroizing::new(tls_key),
                consensus_secret: Zeroizing::new(consensus_secret.0),
            },
            shares,
            ceremony,
        })
    }
}

/// Readable by its owner alone.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::{
        io::Write as _,
        os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    };
    let temporary = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_back_under_their_password_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secrets.sealed");
        let mut secrets = Secrets::new(Identity::generate().expect("an identity"));
        secrets.shares.insert(
            InstanceId(3),
            "treasury".into(),
            KeyShare {
                kind: KeyKind::Multisig,
                public_key: vec![2; 33],
                secret: SecretBytes([5; 32]),
            },
        );
        secrets.save(&path, "correct horse").expect("a file");
        let loaded = Secrets::load(&path, "correct horse").expect("the same");
        assert_eq!(
            loaded.identity.consensus_key(),
            secrets.identity.consensus_key()
        );
        assert_eq!(loaded.identity.certificate, secrets.identity.certificate);
        assert_eq!(loaded.identity.tls_key, secrets.identity.tls_key);
        assert_eq!(loaded.shares.len(), 1);

        assert!(matches!(
            Secrets::load(&path, "battery"),
            Err(SecretsError::Sealed { .. })
        ));
        assert!(matches!(
            Secrets::load(&folder.path().join("nowhere"), "battery"),
            Err(SecretsError::File { .. })
        ));
        let sealed = fs::read(&path).expect("the file");
        let secret = *secrets.identity.consensus_secret;
        assert!(!sealed.windows(32).any(|window| window == secret));
    }

    #[test]
    fn a_key_signs_only_what_is_of_its_kind_and_its_instance() {
        let mut shares = KeyShares::default();
        let secret = [5; 32];
        shares.insert(
            InstanceId(0),
            "treasury".into(),
            KeyShare {
                kind: KeyKind::Multisig,
                public_key: secp::public_key(&secret).to_vec(),
                secret: SecretBytes(secret),
            },
        );
        let what = |message: &[u8], terms: &[u8]| Signable {
            label: "treasury".into(),
            message: message.to_vec(),
            terms: terms.to_vec(),
        };
        let signature = shares.share(InstanceId(0), &what(&[1; 64], b""));
        let key = secp::tweak_public_key(&secp::public_key(&secret), &[1; 32]).expect("a key");
        assert!(secp::verify_ecdsa(
            &key,
            &[1; 32],
            &signature.expect("a signature")
        ));
        assert_eq!(shares.share(InstanceId(1), &what(&[1; 64], b"")), None);
        assert_eq!(shares.share(InstanceId(0), &what(&[1; 63], b"")), None);
        assert_eq!(shares.share(InstanceId(0), &what(&[1; 65], b"")), None);
        assert_eq!(shares.share(InstanceId(0), &what(&[1; 64], b"terms")), None);
    }
}
