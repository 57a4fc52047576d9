//! A wallet: a directory with a seed, and the federations that it has joined.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use borsh::{BorshDeserialize, BorshSerialize};
use futures::{StreamExt, TryStreamExt};
use modmint_core::{
    FederationId, Hash32, InstanceId, Refusal,
    config::{FederationConfig, Invite, Network},
    tagged_hash,
};
use modmint_runtime::Bundle;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::{
    Federation, Lock, ModuleView, OperationId, Services, WalletError,
    database::{Batch, Database},
    executor::decode,
    federation::{Offered, Record, for_people, record_key},
    guardians::Guardians,
    host::device_time,
    join::{Compiled, Verified, bundle_on_disk, cached_bundle, ecash_of, fetch_config},
    seed::Seed,
};

/// There if the seed's words were given: it may have been used before.
const RESTORED: &[u8] = b"r";
/// How many bundles are fetched at once.
const FETCHES: usize = 4;

/// What was asked for under a key, and the operation that it is.
#[derive(BorshSerialize, BorshDeserialize)]
struct Asked {
    request: [u8; 32],
    operation: OperationId,
}

/// A federation that one may join, see [`Wallet::preview`].
#[derive(Clone, Debug)]
pub struct Preview {
    /// The founding config, verified.
    pub config: FederationConfig,
    /// The modules, each with what its bundle is able to do, in words.
    pub modules: Vec<(ModuleView, Vec<String>)>,
    /// The module that would hold the wallet's money, if there is one.
    pub ecash: Option<InstanceId>,
}

/// See the module. While it is open nobody else can open it, and operations that
/// are unfinished go on.
pub struct Wallet {
    directory: PathBuf,
    database: Arc<Database>,
    seed: OnceLock<Arc<Seed>>,
    compiled: Arc<Compiled>,
    services: Offered,
    federations: Mutex<BTreeMap<FederationId, Federation>>,
    /// Two joins of one federation at once would make two of it.
    joining: tokio::sync::Mutex<()>,
    /// Two requests under one key at once would be two operations.
    asking: Mutex<()>,
    network: OnceLock<Network>,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl Wallet {
    /// Opens the wallet in `directory`, which is made if there is none. Needs no
    /// network. Must be called inside tokio.
    ///
    /// # Errors
    /// [`WalletError::Held`] if another process has it.
    pub fn open(directory: &Path) -> Result<Self, WalletError> {
        let compiled = Compiled::new(directory.join("code"));
        Self::open_with(directory, Arc::new(compiled))
    }

    /// As [`Self::open`], with the modules that another wallet of this process has
    /// compiled: for programs that have many wallets.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_beside(&self, directory: &Path) -> Result<Self, WalletError> {
        Self::open_with(directory, self.compiled.clone())
    }

    fn open_with(directory: &Path, compiled: Arc<Compiled>) -> Result<Self, WalletError> {
        let lock = Lock::take(directory)?;
        let database = Arc::new(Database::open(directory, lock)?);
        let wallet = Self {
            directory: directory.to_owned(),
            database,
            seed: OnceLock::new(),
            compiled,
            services: Offered::default(),
            federations: Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            asking: Mutex::default(),
            network: OnceLock::new(),
        };
        if let Some(seed) = Seed::load(&wallet.seed_file())? {
            wallet.seed.get_or_init(|| Arc::new(seed));
        }
        for (key, bytes) in wallet.database.list(b"f", false, usize::MAX)? {
            let id = FederationId::try_from(&key[1..])
                .map_err(|e| WalletError::disk("reading the wallet's database", e))?;
            wallet.add(id, decode(&bytes)?)?;
        }
        Ok(wallet)
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Has modules served with what the contract does not know. To be called before
    /// [`Self::resume`], once: what was offered first stays.
    pub fn offer(&self, services: Arc<dyn Services>) {
        self.services.get_or_init(|| services);
    }

    /// Has the wallet join federations of this chain alone: for programs whose other
    /// money is there. Without it any chain will do.
    pub fn keep_to(&self, network: Network) {
        self.network.get_or_init(|| network);
    }

    fn seed_file(&self) -> PathBuf {
        self.directory.join("seed")
    }

    /// Whether the wallet has a seed.
    pub fn has_seed(&self) -> bool {
        self.seed.get().is_some()
    }

    /// A secret of the program around the wallet, see [`Seed::derive_for`]; none
    /// before there is a seed.
    pub fn secret_for(&self, purpose: &str) -> Option<Zeroizing<[u8; 64]>> {
        self.seed.get().map(|seed| seed.derive_for(purpose))
    }

    /// Makes the wallet's seed, of `words` if there are any, else of new ones.
    /// Returns the words, to be shown once. In the federations that a wallet of
    /// given words joins, modules look for the money that belongs to them.
    ///
    /// # Errors
    /// There is a seed already, or the words are none of BIP 39's.
    pub fn init(&self, words: Option<&str>) -> Result<Zeroizing<String>, WalletError> {
        if self.has_seed() {
            return Err(WalletError::Usage(format!(
                "the wallet has a seed, in {}; a new one needs another --data-dir",
                self.seed_file().display()
            )));
        }
        let (seed, words) = match words {
            Some(words) => {
                // First: a seed without it would find nothing.
                let mut batch = Batch::default();
                batch.put(RESTORED.to_vec(), Vec::new());
                self.database.write(batch)?;
                Seed::import(&self.seed_file(), words)?
            }
            None => Seed::create(&self.seed_file())?,
        };
        self.seed.get_or_init(|| Arc::new(seed));
        Ok(words)
    }

    fn add(&self, id: FederationId, record: Record) -> Result<Federation, WalletError> {
        let seed = self.seed.get().cloned().ok_or_else(|| {
            WalletError::disk(
                "reading the seed",
                format!(
                    "{} is missing, and there are federations that need it",
                    self.seed_file().display()
                ),
            )
        })?;
        let federation = Federation::open(
            self.directory.clone(),
            self.database.clone(),
            &self.compiled,
            seed,
            self.services.clone(),
            id,
            record,
        )?;
        self.federations.lock().insert(id, federation.clone());
        Ok(federation)
    }

    /// Joins the federation that an invite names: fetches its config and bundles,
    /// verifies them, and begins what begins with joining: to find money again
    /// ([`Federation::recoveries`]), and what modules want to have running. Joining
    /// again changes nothing. The wallet must have a seed.
    ///
    /// # Errors
    /// What cannot be fetched or does not hold; then nothing has changed.
    pub async fn join(&self, invite: &Invite) -> Result<Federation, WalletError> {
        let _one = self.joining.lock().await;
        if !self.has_seed() {
            return Err(WalletError::Usage(
                "the wallet has no seed yet; make one first".to_owned(),
            ));
        }
        let joined = self.federations.lock().get(&invite.federation).cloned();
        let federation = match joined {
            Some(federation) => federation,
            None => {
                let record = self.fetch(invite).await?;
                let bytes = borsh::to_vec(&record)
                    .map_err(|e| WalletError::disk("encoding a federation", e))?;
                let mut batch = Batch::default();
                batch.put(record_key(&invite.federation), bytes);
                self.database.write(batch)?;
                self.add(invite.federation, record)?
            }
        };
        federation.begin().await?;
        Ok(federation)
    }

    /// Fetches and verifies all of a federation.
    async fn fetch(&self, invite: &Invite) -> Result<Record, WalletError> {
        let (verified, bundles) = self.fetch_bundles(invite).await?;
        Ok(Record {
            config: verified.bytes,
            invite: invite.to_string(),
            ecash: ecash_of(&bundles)?,
            joined: device_time(),
            recovers: self.database.get(RESTORED)?.is_some(),
            begun: false,
        })
    }

    /// What joining by this invite would bring: all of it fetched and verified, and
    /// nothing joined. The bundles stay on the disk.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub async fn preview(&self, invite: &Invite) -> Result<Preview, WalletError> {
        let (verified, bundles) = self.fetch_bundles(invite).await?;
        let modules = bundles.iter().map(|(instance, bundle)| {
            let description = bundle.description();
            let view = ModuleView {
                instance: *instance,
                kind: description.kind.clone(),
                version: description.version.clone(),
                summary: description.summary.clone(),
                has_client: bundle.has_client(),
                actions: for_people(bundle.actions()),
            };
            (view, bundle.capabilities().to_vec())
        });
        Ok(Preview {
            modules: modules.collect(),
            ecash: ecash_of(&bundles)?,
            config: verified.config,
        })
    }

    async fn fetch_bundles(
        &self,
        invite: &Invite,
    ) -> Result<(Verified, Vec<(InstanceId, Arc<Bundle>)>), WalletError> {
        let verified = fetch_config(invite).await?;
        let network = verified.config.network;
        if let Some(ours) = self.network.get().filter(|ours| **ours != network) {
            return Err(WalletError::Refused(Refusal::new(
                "wrong-network",
                format!("the federation is on {network}; one on {ours} is expected"),
            )));
        }
        let guardians = Guardians::new(&verified.config)?;
        // By value: a future over borrowed instances could not move between threads.
        let bundles: Vec<_> = verified.config.instances.iter().map(|i| i.bundle).collect();
        let (directory, guardians) = (&self.directory, &guardians);
        futures::stream::iter(bundles)
            .map(|bundle| async move { bundle_on_disk(directory, guardians, &bundle).await })
            .buffer_unordered(FETCHES)
            .try_collect::<()>()
            .await?;
        let (directory, compiled) = (self.directory.clone(), self.compiled.clone());
        // Compiling takes its time.
        let loaded = tokio::task::spawn_blocking(move || {
            let bundles = verified
                .config
                .instances
                .iter()
                .map(|instance| {
                    let bytes = cached_bundle(&directory, &instance.bundle).ok_or_else(|| {
                        WalletError::disk(
                            "reading a bundle",
                            format!("{} is gone", instance.bundle),
                        )
                    })?;
                    Ok((instance.id, compiled.load(instance, &bytes)?))
                })
                .collect::<Result<Vec<_>, WalletError>>()?;
            Ok((verified, bundles))
        });
        loaded.await.map_err(|_| WalletError::Closed)?
    }

    /// The id of the operation that somebody asks for under a key of their own, for
    /// [`Federation::start_once`]: the same for the same key whenever it is asked again,
    /// and on the disk when this returns. `request` is a hash of what is asked for. It is
    /// remembered for as long as the wallet is.
    ///
    /// # Errors
    /// [`WalletError::Refused`] with the code `idempotency-mismatch` if something else was
    /// asked for under the key.
    pub fn operation_for(&self, key: &str, request: Hash32) -> Result<OperationId, WalletError> {
        let hash = tagged_hash("modmint/wallet/idempotency-key", &[key.as_bytes()]);
        let at = [b"k", &hash[..]].concat();
        let _one = self.asking.lock();
        if let Some(bytes) = self.database.get(&at)? {
            let asked: Asked = decode(&bytes)?;
            if asked.request != request.0 {
                return Err(WalletError::Refused(Refusal::new(
                    "idempotency-mismatch",
                    "something else was asked for under this key before; the same again, or another key is expected",
                )));
            }
            return Ok(asked.operation);
        }
        let asked = Asked {
            request: request.0,
            operation: OperationId::new(device_time()),
        };
        let bytes =
            borsh::to_vec(&asked).map_err(|e| WalletError::disk("encoding a request", e))?;
        let mut batch = Batch::default();
        batch.put(at, bytes);
        self.database.write(batch)?;
        Ok(asked.operation)
    }

    /// Lets everything that is unfinished go on. Failures of single operations
    /// are logged; they are tried again when the wallet is opened next.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn resume(&self) -> Result<(), WalletError> {
        for federation in self.federations() {
            if let Err(e) = federation.begin().await {
                tracing::warn!(federation = %federation.id(), "cannot begin: {e}");
            }
            federation.resume().await?;
        }
        Ok(())
    }

    /// All federations that were joined.
    pub fn federations(&self) -> Vec<Federation> {
        self.federations.lock().values().cloned().collect()
    }

    /// The federation that `name` stands for: its name, or the beginning of its
    /// id; without one the only one there is.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn federation(&self, name: Option<&str>) -> Result<Federation, WalletError> {
        let all = self.federations();
        let list = |all: &[Federation]| {
            all.iter()
                .map(|federation| {
                    let id = federation.id().to_string();
                    format!("{} ({})", federation.config().name, &id[..8])
                })
                .collect::<Vec<_>>()
                .join(", ")
        };
        let matches: Vec<_> = all
            .iter()
            .filter(|federation| {
                name.is_none_or(|name| {
                    federation.config().name == name
                        || (!name.is_empty() && federation.id().to_string().starts_with(name))
                })
            })
            .cloned()
            .collect();
        match (matches.as_slice(), name) {
            ([only], _) => Ok(only.clone()),
            ([], None) => Err(WalletError::NotFound(
                "this wallet has joined no federation; join one by its invite".to_owned(),
            )),
            ([], Some(name)) => Err(WalletError::NotFound(format!(
                "there is no federation {name:?}; joined are: {}",
                list(&all)
            ))),
            (several, _) => Err(WalletError::Usage(format!(
                "there are several federations; name one with --federation: {}",
                list(several)
            ))),
        }
    }

    /// Closes the wallet: nothing goes on, and the directory is free when this
    /// returns, if no handle to a [`Federation`] is kept.
    pub async fn close(self) {
        for federation in self.federations() {
            federation.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    use super::*;

    #[tokio::test]
    async fn a_wallet_is_held_until_it_is_closed_and_keeps_its_seed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wallet");
        let wallet = Wallet::open(&path).unwrap();
        assert!(!wallet.has_seed());
        wallet.init(None).unwrap();
        assert_eq!(wallet.init(None).unwrap_err().code(), "bad-argument");
        assert_eq!(Wallet::open(&path).unwrap_err().code(), "wallet-held");
        wallet.close().await;
        let again = Wallet::open(&path).unwrap();
        assert!(again.has_seed());
        assert_eq!(again.federation(None).unwrap_err().code(), "not-found");
    }

    #[tokio::test]
    async fn a_key_stands_for_one_request_however_often_the_wallet_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (Hash32([1; 32]), Hash32([2; 32]));
        let wallet = Wallet::open(directory.path()).unwrap();
        let id = wallet.operation_for("till 7", one).unwrap();
        assert_eq!(wallet.operation_for("till 7", one).unwrap(), id);
        assert_ne!(wallet.operation_for("till 8", one).unwrap(), id);
        wallet.close().await;
        let wallet = Wallet::open(directory.path()).unwrap();
        assert_eq!(wallet.operation_for("till 7", one).unwrap(), id);
        let error = wallet.operation_for("till 7", other).unwrap_err();
        assert_eq!(error.code(), "idempotency-mismatch");
    }

    #[tokio::test]
    async fn nobody_joins_by_an_invite_whose_guardians_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let wallet = Wallet::open(directory.path()).unwrap();
        let invite = Invite {
            federation: FederationId([1; 32]),
            api_urls: vec!["http://127.0.0.1:1".into(), "ftp://nowhere".into()],
        };
        assert_eq!(
            wallet.join(&invite).await.unwrap_err().code(),
            "bad-argument"
        );
        wallet.init(None).unwrap();
        let error = wallet.join(&invite).await.unwrap_err();
        assert_eq!(error.code(), "federation-unreachable");
        assert!(wallet.federations().is_empty());
    }
}
