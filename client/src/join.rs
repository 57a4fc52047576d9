//! From an invite to a federation that can be trusted.
//!
//! The invite carries the SHA-256 of the founding config, the config the hashes
//! of the bundles. So whoever serves them can withhold them and no more. Nothing
//! of a bundle runs before all of it holds.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use modmint_core::{
    BundleHash, FederationId, InstanceId, PeerId,
    config::{FederationConfig, InstanceConfig, Invite},
    rest::FederationResponse,
    sha256,
};
use modmint_crypto::secp;
use modmint_runtime::{Bundle, Engines};
use parking_lot::Mutex;

use crate::{
    WalletError,
    guardians::{Guardian, Guardians, http_client},
};

/// When the next address of an invite is tried as well.
const STAGGER: Duration = Duration::from_millis(500);
/// The most addresses of an invite that are tried.
const MAX_ADDRESSES: usize = 64;

/// A config that is the invite's and that all guardians have signed.
pub(crate) struct Verified {
    pub(crate) config: FederationConfig,
    pub(crate) bytes: Vec<u8>,
}

/// Checks what a guardian serves as the config of federation `id`.
///
/// # Errors
/// What does not hold.
pub(crate) fn verify(
    id: &FederationId,
    response: &FederationResponse,
) -> Result<Verified, WalletError> {
    let untrusted = |reason: String| WalletError::Untrusted(reason);
    let bytes = &response.config.0;
    let config = FederationConfig::decode(bytes, id).map_err(|e| untrusted(e.to_string()))?;
    if config.peers.is_empty() || u16::try_from(config.peers.len()).is_err() {
        return Err(untrusted(format!(
            "the config names {} guardians",
            config.peers.len()
        )));
    }
    let hash = config.signature_hash();
    for (peer, known) in config.peer_ids().zip(&config.peers) {
        let signed = response.signatures.iter().any(|(signer, signature)| {
            *signer == peer && secp::verify_schnorr(&known.consensus_key.0, &hash, &signature.0)
        });
        if !signed {
            return Err(untrusted(format!(
                "guardian {peer} ({}) has not signed the config",
                known.name
            )));
        }
    }
    for (place, instance) in config.instances.iter().enumerate() {
        if usize::from(instance.id.0) != place {
            return Err(untrusted(format!(
                "module {} stands in place {place} of the config",
                instance.id
            )));
        }
    }
    Ok(Verified {
        config,
        bytes: bytes.clone(),
    })
}

/// The config of the federation that an invite names, from the first of its
/// guardians that gives one which holds.
///
/// # Errors
/// [`WalletError::Untrusted`] if one served what does not hold and no other did
/// better, [`WalletError::Unreachable`] if none served anything.
pub(crate) async fn fetch_config(invite: &Invite) -> Result<Verified, WalletError> {
    let http = http_client().map_err(|e| WalletError::Unreachable(e.to_string()))?;
    let mut asks: FuturesUnordered<_> = invite
        .api_urls
        .iter()
        .take(MAX_ADDRESSES)
        .zip(0u16..)
        .map(|(url, place)| {
            let guardian = Guardian::new(PeerId(place), url, http.clone());
            async move {
                tokio::time::sleep(STAGGER * u32::from(place)).await;
                let answer = match guardian {
                    Some(guardian) => guardian.federation().await.map_err(|e| e.to_string()),
                    None => Err("neither http nor https".to_owned()),
                };
                (url, answer)
            }
        })
        .collect();
    let mut reasons = Vec::new();
    let mut lies = false;
    while let Some((url, answer)) = asks.next().await {
        match answer.map(|response| verify(&invite.federation, &response)) {
            Ok(Ok(verified)) => return Ok(verified),
            Ok(Err(e)) => {
                lies = true;
                reasons.push(format!("{url}: {e}"));
            }
            Err(e) => reasons.push(format!("{url}: {e}")),
        }
    }
    let reason = format!(
        "no guardian of the invite serves federation {}: {}",
        invite.federation,
        reasons.join("; ")
    );
    Err(if lies {
        WalletError::Untrusted(reason)
    } else {
        WalletError::Unreachable(reason)
    })
}

fn cache_path(directory: &Path, hash: &BundleHash) -> PathBuf {
    directory.join("bundles").join(format!("{hash}.wasm"))
}

/// A bundle that was fetched before; none if there is none, or what is there is
/// not what it should be.
pub(crate) fn cached_bundle(directory: &Path, hash: &BundleHash) -> Option<Vec<u8>> {
    let path = cache_path(directory, hash);
    let bytes = fs::read(&path).ok()?;
    if BundleHash(sha256(&bytes)) == *hash {
        return Some(bytes);
    }
    tracing::warn!(
        "{} is not what its name says and is fetched again",
        path.display()
    );
    // Where it cannot be removed it is refused each time.
    let _ = fs::remove_file(&path);
    None
}

/// Keeps a bundle on disk.
pub(crate) fn cache_bundle(
    directory: &Path,
    hash: &BundleHash,
    bytes: &[u8],
) -> Result<(), WalletError> {
    let path = cache_path(directory, hash);
    let write = || {
        fs::create_dir_all(directory.join("bundles"))?;
        let partial = path.with_extension("partial");
        let mut file = fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    };
    write().map_err(|e| WalletError::disk(format!("writing {}", path.display()), e))
}

/// Has a bundle on disk, fetched from a guardian where it is not, its hash
/// verified.
pub(crate) async fn bundle_on_disk(
    directory: &Path,
    guardians: &Guardians,
    hash: &BundleHash,
) -> Result<(), WalletError> {
    // Its contents are looked at when it is loaded.
    if cache_path(directory, hash).exists() {
        return Ok(());
    }
    let bytes = guardians.bundle(hash).await?;
    cache_bundle(directory, hash, &bytes)
}

/// The engines of one or more wallets, and the bundles that were compiled on them.
pub(crate) struct Compiled {
    /// Where compiled code is kept.
    folder: PathBuf,
    engines: OnceLock<Arc<Engines>>,
    bundles: Mutex<BTreeMap<BundleHash, Arc<Bundle>>>,
}

impl Compiled {
    /// Nothing yet; compiled code is kept in `folder`.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            engines: OnceLock::new(),
            bundles: Mutex::default(),
        }
    }

    fn engines(&self) -> Result<&Arc<Engines>, WalletError> {
        if let Some(engines) = self.engines.get() {
            return Ok(engines);
        }
        let engines = Engines::wallet().map_err(|e| WalletError::Module {
            kind: "runtime".to_owned(),
            reason: e.to_string(),
        })?;
        if let Err(error) = engines.keep_code_in(&self.folder) {
            tracing::warn!(%error, "compiled code is not kept: every start compiles the modules");
        }
        Ok(self.engines.get_or_init(|| engines))
    }

    /// Admits and loads the bundle of an instance, or gives the one that is loaded.
    /// One without a half for wallets is none the worse: the wallet has nothing to
    /// ask of it.
    ///
    /// # Errors
    /// [`WalletError::Untrusted`]: it is not what the config says, or no module.
    pub(crate) fn load(
        &self,
        instance: &InstanceConfig,
        bytes: &[u8],
    ) -> Result<Arc<Bundle>, WalletError> {
        let untrusted = |reason: String| {
            WalletError::Untrusted(format!(
                "module {} ({}): {reason}",
                instance.kind, instance.id
            ))
        };
        if BundleHash(sha256(bytes)) != instance.bundle {
            return Err(untrusted(
                "the bundle is not the one that the config names".into(),
            ));
        }
        // Held while one compiles: others want the same ones.
        let mut bundles = self.bundles.lock();
        let bundle = match bundles.get(&instance.bundle) {
            Some(bundle) => bundle.clone(),
            None => Bundle::load(self.engines()?, bytes).map_err(|e| untrusted(e.to_string()))?,
        };
        if bundle.description().kind != instance.kind {
            return Err(untrusted(format!(
                "the bundle is of kind {:?}",
                bundle.description().kind
            )));
        }
        bundles.insert(instance.bundle, bundle.clone());
        Ok(bundle)
    }
}

/// The one instance that holds the wallet's money.
pub(crate) fn ecash_of(
    bundles: &[(InstanceId, Arc<Bundle>)],
) -> Result<Option<InstanceId>, WalletError> {
    let mut found = bundles
        .iter()
        .filter(|(_, bundle)| bundle.has_ecash())
        .map(|(instance, _)| *instance);
    let first = found.next();
    if found.next().is_some() {
        return Err(WalletError::Untrusted(
            "two modules of the federation would hold the wallet's money; one is expected".into(),
        ));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    use modmint_core::{
        Hash32, PublicKey,
        config::{BaseFee, BlockId, HexBytes, Network, PeerConfig, SessionLimits},
    };

    use super::*;

    fn secret(peer: u16) -> [u8; 32] {
        [peer as u8 + 1; 32]
    }

    /// A federation of four and what an honest guardian serves of it.
    fn served() -> (FederationId, FederationResponse) {
        let peers = (0..4)
            .map(|peer| PeerConfig {
                name: format!("guardian {peer}"),
                api_url: "http://127.0.0.1:1".into(),
                p2p_address: String::new(),
                certificate: vec![],
                consensus_key: PublicKey(secp::public_key(&secret(peer))),
            })
            .collect();
        let config = FederationConfig {
            name: "test".into(),
            network: Network::Regtest,
            peers,
            chain_start: BlockId {
                height: 0,
                hash: Hash32([0; 32]),
            },
            finality_depth: 1,
            session: SessionLimits::default(),
            base_fee: BaseFee::default(),
            instances: vec![],
        };
        let signatures = (0..4)
            .map(|peer| {
                let signature = secp::sign_schnorr(&secret(peer), &config.signature_hash());
                (PeerId(peer), HexBytes(signature.to_vec()))
            })
            .collect();
        let response = FederationResponse {
            id: config.id(),
            name: config.name.clone(),
            network: config.network.to_string(),
            config: HexBytes(config.encode()),
            signatures,
            invite: String::new(),
            threshold: 3,
            guardians: vec![],
        };
        (config.id(), response)
    }

    fn error(id: &FederationId, response: &FederationResponse) -> String {
        match verify(id, response) {
            Ok(_) => panic!("it was trusted"),
            Err(e) => {
                assert_eq!(e.code(), "untrusted");
                e.to_string()
            }
        }
    }

    #[test]
    fn a_config_that_all_have_signed_is_trusted() {
        let (id, response) = served();
        assert_eq!(verify(&id, &response).unwrap().config.id(), id);
    }

    #[test]
    fn another_federations_config_is_not_the_invites() {
        let (id, mut response) = served();
        response.config.0[5] ^= 1;
        assert!(error(&id, &response).contains("the invite names"));
    }

    #[test]
    fn every_guardian_must_have_signed_by_its_own_key() {
        let (id, mut response) = served();
        let stolen = response.signatures[1].1.clone();
        response.signatures[2].1 = stolen;
        assert!(error(&id, &response).contains("guardian 2"));
        response.signatures.remove(2);
        assert!(error(&id, &response).contains("guardian 2"));
    }

    #[test]
    fn a_bundle_that_was_changed_on_disk_is_thrown_away() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = b"bundle".to_vec();
        let hash = BundleHash(sha256(&bytes));
        cache_bundle(directory.path(), &hash, &bytes).unwrap();
        assert_eq!(cached_bundle(directory.path(), &hash), Some(bytes));
        fs::write(cache_path(directory.path(), &hash), b"other").unwrap();
        assert_eq!(cached_bundle(directory.path(), &hash), None);
        assert!(!cache_path(directory.path(), &hash).exists());
    }
}
