//! The run of blocks that follow the agreed one in bitcoind's best chain: enough
//! to vote on, and no more. Pure data; fetching is [`super::bitcoind`]'s.

use std::collections::VecDeque;

use bitcoin::{Block, BlockHash, consensus::encode, hashes::Hash};
use modmint_core::{
    Hash32,
    config::BlockId,
    consensus::{VotedBlock, VotedOutput},
};

/// What is kept of a block.
#[derive(Clone, Debug)]
pub(super) struct Known {
    hash: BlockHash,
    previous: BlockHash,
    voted: VotedBlock,
}

impl Known {
    /// Of a whole block: the work of milliseconds.
    pub(super) fn of(block: &Block) -> Self {
        Self {
            hash: block.block_hash(),
            previous: block.header.prev_blockhash,
            voted: voted(block),
        }
    }
}

/// Blocks that follow `base`, each the one before it.
#[derive(Debug)]
pub(super) struct Window {
    base: BlockId,
    blocks: VecDeque<Known>,
}

impl Window {
    /// Begins behind `base`.
    pub(super) fn new(base: BlockId) -> Self {
        Self {
            base,
            blocks: VecDeque::new(),
        }
    }

    /// The block that the others follow.
    pub(super) fn base(&self) -> BlockId {
        self.base
    }

    /// The last block that is known.
    pub(super) fn tip(&self) -> BlockId {
        match self.blocks.back() {
            Some(last) => BlockId {
                height: self.base.height + self.blocks.len() as u32,
                hash: internal(&last.hash),
            },
            None => self.base,
        }
    }

    /// Adds the block that follows [`Self::tip`]; false if it does not follow.
    #[must_use]
    pub(super) fn push(&mut self, block: Known) -> bool {
        let follows = internal(&block.previous) == self.tip().hash;
        if follows {
            self.blocks.push_back(block);
        }
        follows
    }

    /// Takes the last block away; false if there is none but the base.
    #[must_use]
    pub(super) fn pop(&mut self) -> bool {
        self.blocks.pop_back().is_some()
    }

    /// Makes `base` the base if it is one of the blocks; false if it is not.
    #[must_use]
    pub(super) fn rebase(&mut self, base: BlockId) -> bool {
        match self.place(base) {
            Some(place) => {
                self.blocks.drain(..place);
                self.base = base;
                true
            }
            None => false,
        }
    }

    /// The blocks that follow `parent`, at most `max`, none higher than `highest`;
    /// none where `parent` is not among the blocks.
    pub(super) fn after(
        &self,
        parent: BlockId,
        highest: u32,
        max: usize,
    ) -> Option<Vec<VotedBlock>> {
        let place = self.place(parent)?;
        let buried = highest.saturating_sub(parent.height) as usize;
        let blocks = self.blocks.iter().skip(place).take(max.min(buried));
        Some(blocks.map(|known| known.voted.clone()).collect())
    }

    /// Whether `block` is one of the blocks or the one that they follow.
    pub(super) fn has(&self, block: BlockId) -> bool {
        self.place(block).is_some()
    }

    /// How many blocks there are up to and with `block`.
    fn place(&self, block: BlockId) -> Option<usize> {
        let place = block.height.checked_sub(self.base.height)? as usize;
        let known = match place.checked_sub(1) {
            None => self.base.hash,
            Some(index) => internal(&self.blocks.get(index)?.hash),
        };
        (known == block.hash).then_some(place)
    }
}

/// What guardians vote of a block.
fn voted(block: &Block) -> VotedBlock {
    let mut header = [0; 80];
    header.copy_from_slice(&encode::serialize(&block.header));
    let outputs = block.txdata.iter().flat_map(|transaction| {
        let candidates = transaction.output.iter().enumerate().filter(|(_, output)| {
            modmint_core::consensus::script_passes_filter(output.script_pubkey.as_bytes())
        });
        // The id is worth computing for the few transactions that count.
        let mut txid = None;
        candidates.map(move |(index, output)| VotedOutput {
            txid: Hash32(
                txid.get_or_insert_with(|| transaction.compute_txid())
                    .to_byte_array(),
            ),
            index: index as u32,
            satoshi: output.value.to_sat(),
            script: output.script_pubkey.to_bytes(),
        })
    });
    VotedBlock::select(header, outputs)
}

/// A block's hash as it is hashed, not as it is printed.
pub(super) fn internal(hash: &BlockHash) -> Hash32 {
    Hash32(hash.to_byte_array())
}
