//! This guardian's own view of the bitcoin chain, through its own bitcoind.
//!
//! Nothing here is agreed upon: what is seen is voted by the pipeline, and what
//! the federation holds true is what n − f guardians have voted. bitcoind may go
//! away and come back at any time; while it is away this guardian votes nothing
//! new, and e-cash goes on.
//!
//! [`rpc`] speaks JSON-RPC, [`window`] is the piece of the chain that is worth
//! voting on, [`bitcoind`] is the task that follows the node and what others see
//! of it.

mod bitcoind;
mod rpc;
#[cfg(test)]
mod tests;
mod window;

use modmint_core::{InstanceId, config::BlockId, consensus::VotedBlock};
use modmint_runtime::{ChainOutPoint, OwnChain};

pub use bitcoind::{Bitcoind, BitcoindSetup, ChainError};
pub use rpc::BitcoindAuth;

/// What a guardian sees of the chain. Every answer is at hand: nothing here
/// waits for bitcoind.
pub trait ChainView: Send + Sync + 'static {
    /// The height of the best chain; none while bitcoind is away or is not the
    /// one that this federation needs.
    fn best_height(&self) -> Option<u32>;

    /// The blocks that follow `parent` in the best chain and have at least `depth`
    /// blocks on top of them, at most `max`, ascending.
    ///
    /// Block `h` is one of them when [`Self::best_height`] is at least
    /// `h + depth`. None where `parent` is not in the best chain, or not known to
    /// be (yet): asking is what makes the monitor fetch, and [`Self::changed`]
    /// ticks when it has. There may be fewer than will be there later.
    ///
    /// No block's encoding is longer than an item may be, but many together may
    /// be: whoever votes takes as many as fit.
    fn blocks_after(&self, parent: BlockId, depth: u32, max: usize) -> Option<Vec<VotedBlock>>;

    /// How the best chain stands to the agreed block, the one that
    /// [`Self::blocks_after`] is asked with.
    fn stands(&self, agreed: BlockId) -> OwnChain;

    /// bitcoind's estimate, satoshi per 1000 virtual bytes; none while it is away
    /// or has none.
    fn fee_rate(&self) -> Option<u64>;

    /// The height at which a transaction that [`Self::set_broadcast`] names
    /// stands in the best chain.
    fn confirmed_at(&self, txid: &[u8; 32]) -> Option<u32>;

    /// The transactions that `instance` wants on the chain, from now on these and
    /// no others. They are given to bitcoind at once and again after each block,
    /// until they are confirmed or no longer named.
    fn set_broadcast(&self, instance: InstanceId, transactions: Vec<Vec<u8>>);

    /// Looks from now on, behind each block, for these outputs that `instance`
    /// holds, and no others of its; those of them that were not found unspent in
    /// the best chain. What is new is looked for later, and [`Self::changed`] ticks
    /// when something is missing that was not, or is back.
    fn missing(&self, instance: InstanceId, held: &[ChainOutPoint]) -> Vec<ChainOutPoint>;

    /// Ticks when another answer may be given than before: a new best block,
    /// blocks fetched, bitcoind gone or back.
    fn changed(&self) -> tokio::sync::watch::Receiver<u64>;
}
