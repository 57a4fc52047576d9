//! Epochs, from AlephBFT's finalised batches to a durable write, and what
//! everybody may read of the result.
//!
//! [`Pipeline::process`] has three steps. On *arrival* items are decoded and run
//! once ahead, so that their signature checks can be made natively, in batches
//! and in parallel. In *order* they run again, one after the other, over an
//! overlay in memory: this run alone counts. The *commit* writes what came of
//! them, the new state root and how far this guardian has got, in one batch, and
//! wakes who waits for any of it.
//!
//! Who agrees on the order of items is `ordering`'s business; what an item means
//! to a module happens inside the sandbox, behind `modmint-runtime`.

use std::{sync::Arc, time::Duration};

use modmint_core::{
    Argument, Hash32, InstanceId, OutPoint, PeerId, Refusal, TransactionError, TxId,
    config::FederationConfig,
    consensus::{OrderedUnit, SessionHeader, SignedHeader},
    rest::{
        AuditResponse, ChainOutputResponse, QueryResponse, StatusResponse, SubmitResponse,
        TransactionResponse,
    },
};
use modmint_runtime::{HostError, Instance, Signable};

use crate::{
    chain::ChainView,
    ordering::{Epoch, PayloadSource},
    storage::{Database, StorageError},
};

/// This guardian's secrets, and all that is ever done with them.
pub trait Shares: Send + Sync + 'static {
    /// This guardian's share of what consensus has approved: a blind-signature
    /// share, a decryption share, or an ECDSA signature, by the kind of the key.
    /// None where it has no such key or the message is malformed.
    fn share(&self, instance: InstanceId, what: &Signable) -> Option<Vec<u8>>;
}

/// What a pipeline is made of.
pub struct PipelineSetup {
    /// Where everything is kept.
    pub database: Arc<Database>,
    /// The federation.
    pub config: Arc<FederationConfig>,
    /// This guardian.
    pub me: PeerId,
    /// All instances, in the order of their ids.
    pub instances: Vec<Arc<Instance>>,
    /// This guardian's key shares.
    pub keys: Arc<dyn Shares>,
    /// This guardian's view of the bitcoin chain.
    pub chain: Arc<dyn ChainView>,
}

/// Why a pipeline cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The setup's instances are not the config's.
    #[error("{given} module instances were loaded, the federation has {expected}")]
    Instances {
        /// How many there are.
        given: usize,
        /// How many are needed.
        expected: usize,
    },
    /// A module does not begin.
    #[error("module instance {instance} cannot be founded: {reason}")]
    Init {
        /// Which.
        instance: InstanceId,
        /// What it says.
        reason: String,
    },
    /// The machine gives no threads.
    #[error("threads for module calls cannot be started: {0}")]
    Threads(String),
}

/// Why this guardian cannot go on. Never something that an item alone can cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Stop {
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A module could not be run, for a cause outside state and item.
    #[error("session {session}, epoch {epoch}: {source}")]
    Host {
        /// The session.
        session: u64,
        /// The epoch.
        epoch: u32,
        /// The cause.
        source: HostError,
    },
    /// Native code broke twice over the same item.
    #[error(
        "session {session}, epoch {epoch}: the item with SHA-256 {item} breaks this program; \
         report it, guardians can agree to skip it"
    )]
    Item {
        /// The session.
        session: u64,
        /// The epoch.
        epoch: u32,
        /// The item's hash.
        item: Hash32,
    },
    /// An epoch that does not follow the last one.
    #[error(
        "epoch {epoch} of session {session} came where epoch {expected_epoch} of session \
         {expected_session} was expected"
    )]
    Gap {
        /// What came.
        session: u64,
        /// What came.
        epoch: u32,
        /// What was expected.
        expected_session: u64,
        /// What was expected.
        expected_epoch: u32,
    },
}

/// What [`Pipeline::process`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processed {
    /// The header of the session that has ended, if one has.
    pub ended: Option<SessionHeader>,
    /// How many of the epochs given are done with; the others are to be given
    /// again.
    pub consumed: usize,
}

/// Why a transaction was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// No transaction.
    #[error(transparent)]
    Malformed(#[from] TransactionError),
    /// It can never be decided.
    #[error("the transaction expired at {expires}, agreed time is {now}")]
    Expired {
        /// The transaction's expiry.
        expires: u64,
        /// Agreed time.
        now: u64,
    },
    /// It could lie in wait for too long.
    #[error("the transaction expires at {expires}, the latest that is taken now is {latest}")]
    ExpiresTooLate {
        /// The transaction's expiry.
        expires: u64,
        /// What would be accepted.
        latest: u64,
    },
    /// As things stand consensus would reject it. This is one guardian's opinion;
    /// nothing has been decided.
    #[error("{refusal}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// The input that is refused, if it is one.
        input: Option<u16>,
        /// The output that is refused, if it is one.
        output: Option<u16>,
    },
    /// Too many wait already.
    #[error("this guardian has {pending} transactions waiting; try another, or later")]
    Busy {
        /// How many wait.
        pending: usize,
    },
    /// This guardian itself is in trouble.
    #[error("this guardian could not look at the transaction: {0}")]
    Failed(String),
}

impl SubmitError {
    /// Stable, kebab-case.
    pub fn code(&self) -> &str {
        match self {
            Self::Malformed(TransactionError::TooLarge { .. }) => "transaction-too-large",
            Self::Malformed(_) => "malformed-transaction",
            Self::Expired { .. } => "transaction-expired",
            Self::ExpiresTooLate { .. } => "expires-too-late",
            Self::Refused { refusal, .. } => &refusal.code,
            Self::Busy { .. } => "busy",
            Self::Failed(_) => "internal",
        }
    }
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// No such instance.
    #[error("there is no module instance {0}")]
    UnknownInstance(InstanceId),
    /// No such query.
    #[error("there is no query {name:?}; known are: {known}")]
    UnknownQuery {
        /// What was asked for.
        name: String,
        /// What could be.
        known: String,
    },
    /// Arguments that the query does not take.
    #[error(transparent)]
    Arguments(Refusal),
    /// More at once than is answered.
    #[error("{given} were asked for at once, the limit is {limit}")]
    TooMany {
        /// How many were asked for.
        given: usize,
        /// How many may be.
        limit: usize,
    },
    /// The module broke, or this guardian is in trouble.
    #[error("the question could not be answered: {0}")]
    Failed(String),
}

impl QueryError {
    /// Stable, kebab-case.
    pub fn code(&self) -> &str {
        match self {
            Self::UnknownInstance(_) => "unknown-instance",
            Self::UnknownQuery { .. } => "unknown-query",
            Self::Arguments(refusal) => &refusal.code,
            Self::TooMany { .. } => "too-many",
            Self::Failed(_) => "internal",
        }
    }
}

/// Applies epochs, and answers from what they made.
pub struct Pipeline {
    setup: PipelineSetup,
}

impl Pipeline {
    /// Opens what is there, or founds all instances.
    ///
    /// # Errors
    /// If the database fails, or an instance refuses to begin.
    pub fn open(setup: PipelineSetup) -> Result<Arc<Self>, PipelineError> {
        Ok(Arc::new(Self { setup }))
    }

    /// The session that is being filled, from 1, and its next epoch, from 0.
    pub fn position(&self) -> (u64, u32) {
        panic!("not written yet")
    }

    /// Applies epochs, in order; those applied before are passed over. Ends with
    /// a session's end. To be called on a guest thread, by one at a time.
    ///
    /// # Errors
    /// When this guardian cannot go on. Nothing of the epochs is kept then.
    pub fn process(&self, epochs: &[Epoch]) -> Result<Processed, Stop> {
        let _ = (&self.setup.config, epochs);
        panic!("not written yet")
    }

    /// Looks at a peer's unit before it is final: what is checked now need not be
    /// checked later. Blocks; costs little when it has been seen before.
    pub fn arrived(&self, payload: &[u8]) {
        let _ = payload;
    }

    /// What this guardian wants ordered.
    pub fn proposals(&self) -> Arc<dyn PayloadSource> {
        panic!("not written yet")
    }

    /// Notified when a module may want something ordered or broadcast: call
    /// [`Self::tick`] then.
    pub fn due(&self) -> Arc<tokio::sync::Notify> {
        panic!("not written yet")
    }

    /// Votes anew if clock, chain or fee rate moved, and asks modules what they
    /// want ordered and broadcast. To be called once a second, at a new block and
    /// when [`Self::due`] says so. Blocks.
    pub fn tick(&self) {}

    /// The header of the oldest session that ended here without having been
    /// signed by n − f.
    pub fn pending_header(&self) -> Option<SessionHeader> {
        panic!("not written yet")
    }

    /// Keeps a header that n − f guardians have signed; the caller has verified
    /// them. What was applied before is on the disk afterwards.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn store_signed_header(&self, signed: SignedHeader) -> Result<(), StorageError> {
        let _ = signed;
        panic!("not written yet")
    }

    /// The session's header, if n − f signatures of it are kept.
    pub fn signed_header(&self, session: u64) -> Option<SignedHeader> {
        let _ = session;
        panic!("not written yet")
    }

    /// The latest session with a signed header.
    pub fn latest_signed_session(&self) -> Option<u64> {
        panic!("not written yet")
    }

    /// The units of a session's epochs from `from_epoch` on, as far as this
    /// guardian has applied them, about `max_bytes` of them and at least one
    /// epoch.
    ///
    /// # Errors
    /// If the disk fails, or the session is not kept any more.
    pub fn session_epochs(
        &self,
        session: u64,
        from_epoch: u32,
        max_bytes: usize,
    ) -> Result<Vec<Vec<OrderedUnit>>, StorageError> {
        let _ = (session, from_epoch, max_bytes);
        panic!("not written yet")
    }

    /// The items root of a session over its epochs before `epoch`.
    ///
    /// # Errors
    /// As [`Self::session_epochs`].
    pub fn items_root(&self, session: u64, epoch: u32) -> Result<Hash32, StorageError> {
        let _ = (session, epoch);
        panic!("not written yet")
    }

    /// Takes a transaction to be proposed, unless it can never be accepted or
    /// would not be as things stand. Blocks for as long as its checks take.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn submit(&self, bytes: &[u8]) -> Result<SubmitResponse, SubmitError> {
        let _ = bytes;
        panic!("not written yet")
    }

    /// Where a transaction stands.
    pub fn transaction(&self, txid: &TxId) -> TransactionResponse {
        let _ = txid;
        panic!("not written yet")
    }

    /// Where a transaction stands once that is final, or when patience ends.
    pub async fn wait_transaction(&self, txid: &TxId, wait: Duration) -> TransactionResponse {
        let _ = (txid, wait);
        panic!("not written yet")
    }

    /// This guardian's contributions to outputs' outcomes, once all are there or
    /// when patience ends; at most 1000.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn outcomes(
        &self,
        instance: InstanceId,
        out_points: &[OutPoint],
        wait: Duration,
    ) -> Result<Vec<Option<Vec<u8>>>, QueryError> {
        let _ = (instance, out_points, wait);
        panic!("not written yet")
    }

    /// A module's answer, once there is one or when patience ends.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn query(
        &self,
        instance: InstanceId,
        name: &str,
        arguments: &[Argument],
        wait: Duration,
    ) -> Result<QueryResponse, QueryError> {
        let _ = (instance, name, arguments, wait);
        panic!("not written yet")
    }

    /// Where this guardian stands; `peers` is left empty.
    pub fn status(&self) -> StatusResponse {
        panic!("not written yet")
    }

    /// What the federation has and owes. Blocks.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn audit(&self) -> Result<AuditResponse, QueryError> {
        panic!("not written yet")
    }

    /// The agreed block's hash at this height, internal byte order.
    pub fn block_hash(&self, height: u32) -> Option<Hash32> {
        let _ = height;
        panic!("not written yet")
    }

    /// The agreed output at this place; `txid` in internal byte order.
    pub fn chain_output_at(&self, txid: &[u8; 32], index: u32) -> Option<ChainOutputResponse> {
        let _ = (txid, index);
        panic!("not written yet")
    }

    /// The agreed outputs that pay to `script`, oldest first, at most 100.
    pub fn chain_outputs(&self, script: &[u8]) -> Vec<ChainOutputResponse> {
        let _ = script;
        panic!("not written yet")
    }

    /// Whether the host has paused this instance.
    pub fn paused(&self, instance: InstanceId) -> bool {
        let _ = instance;
        panic!("not written yet")
    }
}
