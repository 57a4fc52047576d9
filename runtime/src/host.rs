//! What the runtime asks of whoever runs a module: the guardian's pipeline, the
//! guardian's API, a wallet.
//!
//! The runtime itself decides which import a phase may call, charges for it,
//! bounds lengths and counts, and turns wrong lengths into refusals or traps.
//! What is left is here. Implementors therefore see only well-formed calls of
//! the phases that they serve; the defaults answer the imports of other phases.

use modmint_core::{PeerId, PublicKey, consensus::script_passes_filter};

/// A cause outside (state, item): a disk, memory, a cache. The guardian stops, or
/// the wallet's operation is tried again; it is never a refusal.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

impl HostError {
    /// An error from whatever can be displayed.
    pub fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// What an import of this phase gives.
pub type HostResult<T> = Result<T, HostError>;

/// How loud a module's log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the log's own")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// An output of the bitcoin chain.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
)]
pub struct ChainOutPoint {
    /// The transaction, internal byte order.
    pub txid: [u8; 32],
    /// The output's place in it.
    pub vout: u32,
}

/// An output of an agreed block whose script passes [`script_passes_filter`].
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct ChainOutput {
    /// Where it is.
    pub out_point: ChainOutPoint,
    /// Its scriptPubKey.
    pub script: Vec<u8>,
    /// Its value.
    pub satoshi: u64,
    /// The agreed block's height.
    pub height: u32,
}

impl ChainOutput {
    /// Whether guardians vote outputs like this one.
    pub fn passes_filter(&self) -> bool {
        script_passes_filter(&self.script)
    }
}

/// A check of public mathematics. Its verdict depends on nothing but its
/// contents: keys are bytes here, never labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub enum Check {
    /// BIP 340; `key` is taken as its x coordinate.
    Schnorr {
        /// Compressed point.
        key: PublicKey,
        /// The message's hash.
        message: [u8; 32],
        /// 64 bytes, or the check fails.
        signature: Vec<u8>,
    },
    /// ECDSA, low S.
    Ecdsa {
        /// Compressed point.
        key: PublicKey,
        /// The message's hash.
        message: [u8; 32],
        /// 64 bytes, or the check fails.
        signature: Vec<u8>,
    },
    /// A threshold blind signature.
    Tbs {
        /// The group's key, 96 bytes.
        public_key: Vec<u8>,
        /// What is signed, any length.
        message: Vec<u8>,
        /// 48 bytes, or the check fails.
        signature: Vec<u8>,
    },
    /// That a ciphertext was made with knowledge of what is in it, for these terms.
    Tpe {
        /// The group's key, 48 bytes.
        public_key: Vec<u8>,
        /// See `modmint_crypto::tpe`.
        ciphertext: Vec<u8>,
        /// The module's terms behind the federation's id (32 bytes) and the
        /// instance (2 bytes, big endian).
        terms: Vec<u8>,
    },
}

/// How a guardian's own chain stands to the agreed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnChain {
    /// bitcoind is away, or has not got as far.
    Unknown,
    /// It has the agreed block; the height of its best one.
    Follows(u32),
    /// It has another block in the agreed one's place.
    Differs,
}

/// What consensus can approve for signing or decryption.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
)]
pub struct Signable {
    /// One of the instance's keys.
    pub label: String,
    /// By the key's kind: a blinded message (48 bytes), a ciphertext, or tweak
    /// (32 bytes) ‖ signature hash (32 bytes).
    pub message: Vec<u8>,
    /// Empty but for decryption; there as in [`Check::Tpe`].
    pub terms: Vec<u8>,
}

/// What [`Host::approve`] found. Malformed ones never reach the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// From the end of this epoch on guardians give out their shares.
    Approved,
    /// It was approved before.
    Before,
}

fn out_of_phase<T>(import: &str) -> HostResult<T> {
    Err(HostError(format!(
        "{import} is not there in this phase, and the runtime should have said so"
    )))
}

/// What one call into a module can reach. Methods take `&self`: an
/// implementation that writes keeps its overlay behind a lock of its own.
#[allow(unused_variables, reason = "defaults do not look at what they refuse")]
pub trait Host: Send + Sync + 'static {
    // storage

    /// The value under `key` in this instance's storage.
    fn get(&self, key: &[u8]) -> HostResult<Option<Vec<u8>>> {
        out_of_phase("storage.get")
    }
    /// Writes a value; seen by the calls that follow.
    fn put(&self, key: &[u8], value: &[u8]) -> HostResult<()> {
        out_of_phase("storage.put")
    }
    /// Deletes a value; seen by the calls that follow.
    fn delete(&self, key: &[u8]) -> HostResult<()> {
        out_of_phase("storage.delete")
    }
    /// Ascending, keys that begin with `prefix` and are greater than `after`, at
    /// most `limit` of them and at most `max_bytes` of keys and values.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> HostResult<Vec<(Vec<u8>, Vec<u8>)>> {
        out_of_phase("storage.scan")
    }

    // federation: what has been agreed on

    /// Agreed block height.
    fn block_height(&self) -> HostResult<u32> {
        out_of_phase("federation.block-height")
    }
    /// The agreed block's hash at `height`, internal byte order.
    fn block_hash(&self, height: u32) -> HostResult<Option<[u8; 32]>> {
        out_of_phase("federation.block-hash")
    }
    /// The agreed output at this place.
    fn chain_output_at(&self, out_point: &ChainOutPoint) -> HostResult<Option<ChainOutput>> {
        out_of_phase("federation.chain-output-at")
    }
    /// The agreed outputs that pay to `script`, oldest first: at most 100 in consensus and
    /// audit, at most 10,000 elsewhere.
    fn chain_outputs(&self, script: &[u8]) -> HostResult<Vec<ChainOutput>> {
        out_of_phase("federation.chain-outputs")
    }
    /// Agreed fee rate, satoshi per 1000 virtual bytes.
    fn fee_rate(&self) -> HostResult<u64> {
        out_of_phase("federation.fee-rate")
    }
    /// Agreed time, seconds since 1970.
    fn unix_time(&self) -> HostResult<u64> {
        out_of_phase("federation.unix-time")
    }

    // crypto

    /// The verdict on `check`. The default makes the check here and now.
    fn check(&self, check: &Check) -> HostResult<bool> {
        Ok(check.verify())
    }

    // signing, in consensus

    /// Writes down that `what` may be signed.
    fn approve(&self, what: &Signable) -> HostResult<Approval> {
        out_of_phase("signing.approve")
    }
    /// Forgets an approval.
    fn revoke(&self, what: &Signable) -> HostResult<()> {
        out_of_phase("signing.revoke")
    }

    // treasury, in consensus

    /// Takes an agreed output into the instance's books.
    fn claim(&self, output: &ChainOutPoint) -> HostResult<Option<ChainOutput>> {
        out_of_phase("treasury.claim")
    }
    /// Takes satoshi out of them; false if there are not as many.
    fn release(&self, satoshi: u64) -> HostResult<bool> {
        out_of_phase("treasury.release")
    }

    // guardian, in propose and query

    /// This guardian.
    fn whoami(&self) -> HostResult<PeerId> {
        out_of_phase("guardian.whoami")
    }
    /// This guardian's shares; none where nothing was approved. `multisig` is
    /// there in the propose phase alone: the runtime sees to it.
    fn shares(&self, what: &[Signable]) -> HostResult<Vec<Option<Vec<u8>>>> {
        out_of_phase("guardian.shares")
    }
    /// How this guardian's own chain stands to the agreed one.
    fn chain(&self) -> HostResult<OwnChain> {
        out_of_phase("guardian.chain")
    }
    /// Where this guardian sees a transaction that `broadcast` has named.
    fn confirmed_at(&self, txid: &[u8; 32]) -> HostResult<Option<u32>> {
        out_of_phase("guardian.confirmed-at")
    }
    /// Those of the outputs that the instance holds which are not unspent in this
    /// guardian's chain; from now on these are looked for. In `propose` alone.
    fn missing(&self, held: &[ChainOutPoint]) -> HostResult<Vec<ChainOutPoint>> {
        out_of_phase("guardian.missing")
    }

    // wallet-host

    /// 32 bytes from the wallet's seed, the federation, the instance and `path`;
    /// a valid secp256k1 secret key.
    fn derive_secret(&self, path: &[u64]) -> HostResult<[u8; 32]> {
        out_of_phase("wallet-host.derive-secret")
    }
    /// From the operating system.
    fn random(&self, length: usize) -> HostResult<Vec<u8>> {
        out_of_phase("wallet-host.random")
    }
    /// The device's clock, seconds since 1970.
    fn device_time(&self) -> HostResult<u64> {
        out_of_phase("wallet-host.unix-time")
    }
    /// The federation's invite.
    fn invite(&self) -> HostResult<String> {
        out_of_phase("wallet-host.invite")
    }

    // log

    /// A line, at most 4096 bytes, already rate-limited.
    fn log(&self, level: LogLevel, message: &str) {}
}
