//! The task that follows a bitcoind, and what others see of it.

use std::sync::Arc;

use modmint_core::{
    InstanceId,
    config::{BlockId, Network},
    consensus::VotedBlock,
};
use tokio::sync::watch;

use super::{BitcoindAuth, ChainView};

/// Which bitcoind, and what it must be.
#[derive(Clone, Debug)]
pub struct BitcoindSetup {
    /// For example `http://127.0.0.1:8332`.
    pub url: String,
    /// How it knows us.
    pub auth: BitcoindAuth,
    /// The federation's network.
    pub network: Network,
    /// The block behind which the federation's chain begins.
    pub chain_start: BlockId,
}

/// Why a bitcoind will never do for this federation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Not an address.
    #[error(
        "{url:?} is no address of a bitcoind ({reason}); expected is for example http://127.0.0.1:8332"
    )]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A bitcoind and the task that follows it. The task ends when this is dropped.
pub struct Bitcoind {
    changed: watch::Sender<u64>,
}

impl Bitcoind {
    /// Begins to follow.
    ///
    /// # Errors
    /// Where the bitcoind can be reached and is on another chain than the
    /// federation. One that is away is waited for.
    pub async fn start(_setup: BitcoindSetup) -> Result<Arc<Self>, ChainError> {
        Ok(Arc::new(Self {
            changed: watch::channel(0).0,
        }))
    }

    /// What is wrong, in sentences; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

impl ChainView for Bitcoind {
    fn best_height(&self) -> Option<u32> {
        None
    }
    fn blocks_after(&self, _: BlockId, _: u32, _: usize) -> Option<Vec<VotedBlock>> {
        None
    }
    fn fee_rate(&self) -> Option<u64> {
        None
    }
    fn confirmed_at(&self, _: &[u8; 32]) -> Option<u32> {
        None
    }
    fn set_broadcast(&self, _: InstanceId, _: Vec<Vec<u8>>) {}
    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
