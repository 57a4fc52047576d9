//! What guardians order, and what they sign of it.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{FederationId, Hash32, InstanceId, PeerId, Transaction, config::HexBytes, tagged_hash};

/// One thing to be ordered. A unit's payload is a list of the canonical bytes of
/// such items ([`UnitPayload`]), in the order in which they are to be applied.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum ConsensusItem {
    /// A wallet's transaction.
    Transaction(Transaction),
    /// A module's item, in the name of the guardian whose unit it stands in.
    Module {
        /// Whose it is.
        instance: InstanceId,
        /// In the module's canonical encoding.
        bytes: Vec<u8>,
    },
    /// The blocks that follow the agreed one in this guardian's chain and are
    /// buried deep enough. Replaces this guardian's former vote.
    Blocks(BlockVote),
    /// This guardian's clock, seconds since 1970, a multiple of 60. Replaces its
    /// former vote.
    Time(u64),
    /// This guardian's estimate, satoshi per 1000 virtual bytes. Replaces its
    /// former vote.
    FeeRate(u64),
}

/// A run of headers that follow `parent`, at most [`BlockVote::MAX_BLOCKS`].
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BlockVote {
    /// The height of the first block voted.
    pub height: u32,
    /// Ascending, each following the one before; the first follows the agreed
    /// block at `height - 1` or votes nothing.
    pub blocks: Vec<VotedBlock>,
}

impl BlockVote {
    /// The most headers in one vote.
    pub const MAX_BLOCKS: usize = 144;
}

/// A block header and what the federation cares for in the block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct VotedBlock {
    /// 80 bytes, as in Bitcoin's P2P protocol.
    pub header: [u8; 80],
    /// The outputs whose scripts pass [`script_passes_filter`], in the order of
    /// the block; where there are more than [`Self::MAX_OUTPUTS`], the ones of
    /// greatest value, of equal ones the first.
    pub outputs: Vec<VotedOutput>,
}

impl VotedBlock {
    /// The most outputs that are voted of one block, so that every block fits into
    /// one item.
    ///
    /// Honest blocks hold one or two. Anybody can make scripts that pass the
    /// filter; who wants to crowd a deposit out has to put this many outputs of
    /// its value into its block.
    pub const MAX_OUTPUTS: usize = 300;

    /// What guardians vote of a block: its header and those of its outputs that
    /// count. `outputs` are all of them, in the order of the block.
    pub fn select(header: [u8; 80], outputs: impl IntoIterator<Item = VotedOutput>) -> Self {
        let mut selected: Vec<(usize, VotedOutput)> = outputs
            .into_iter()
            .filter(|output| script_passes_filter(&output.script))
            .enumerate()
            .collect();
        if selected.len() > Self::MAX_OUTPUTS {
            selected.sort_by_key(|(_, output)| std::cmp::Reverse(output.satoshi));
            selected.truncate(Self::MAX_OUTPUTS);
            selected.sort_by_key(|(place, _)| *place);
        }
        Self {
            header,
            outputs: selected.into_iter().map(|(_, output)| output).collect(),
        }
    }
}

/// An output of a block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct VotedOutput {
    /// The transaction's id, internal byte order.
    pub txid: Hash32,
    /// The output's place in it.
    pub index: u32,
    /// Its value.
    pub satoshi: u64,
    /// Its scriptPubKey.
    pub script: Vec<u8>,
}

/// The longest scriptPubKey that guardians vote: that of a witness program.
pub const MAX_VOTED_SCRIPT_BYTES: usize = 42;

/// Whether guardians vote outputs with this scriptPubKey: it is no longer than
/// [`MAX_VOTED_SCRIPT_BYTES`] and its SHA-256 begins with 12 zero bits, one script
/// in 4096.
pub fn script_passes_filter(script: &[u8]) -> bool {
    script.len() <= MAX_VOTED_SCRIPT_BYTES && hash_passes_filter(script)
}

fn hash_passes_filter(script: &[u8]) -> bool {
    let hash = crate::sha256(script);
    hash[0] == 0 && hash[1] < 16
}

/// What an AlephBFT unit carries: canonical bytes of [`ConsensusItem`]s. Each is
/// decoded by itself, so that one which is no item spoils no other.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct UnitPayload {
    /// In the order in which they are to be applied.
    pub items: Vec<Vec<u8>>,
}

/// A session's header, what n − f guardians sign.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
pub struct SessionHeader {
    /// The session's number; the first with modules is 1.
    pub session: u64,
    /// The hash of the previous session's header; zeros for the first.
    pub previous: Hash32,
    /// How many epochs it has, empty ones too.
    pub epochs: u32,
    /// The hash chain over the epochs' units, see [`next_items_root`].
    pub items_root: Hash32,
    /// The state root behind its last epoch.
    pub state_root: Hash32,
    /// A hash of all instances' ids, kinds and bundles.
    pub module_registry: Hash32,
    /// All that can change a result: engine, costs, prices, contract, crypto.
    pub runtime_hash: Hash32,
    /// A hash of the list of items that guardians have agreed to skip.
    pub skip_list: Hash32,
}

impl SessionHeader {
    /// The header's hash, which the next header and the signatures commit to.
    pub fn hash(&self, federation: &FederationId) -> Hash32 {
        let header = borsh::to_vec(self).expect("writing to memory does not fail");
        Hash32(tagged_hash(
            "modmint/session-header",
            &[&federation.0, &header],
        ))
    }
}

/// The items root behind one more epoch: tagged hash of the root before it and
/// the epoch's units. Empty epochs count too. Zeros before the first.
pub fn next_items_root(root: &Hash32, units: &[OrderedUnit]) -> Hash32 {
    let units = borsh::to_vec(units).expect("writing to memory does not fail");
    Hash32(tagged_hash("modmint/items-root", &[&root.0, &units]))
}

/// One unit of an epoch, as AlephBFT ordered it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OrderedUnit {
    /// The guardian that made it.
    pub creator: PeerId,
    /// A [`UnitPayload`], or what its maker put in its place.
    pub payload: Vec<u8>,
}

/// A header with the guardians' signatures over its hash.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
pub struct SignedHeader {
    /// What is signed.
    pub header: SessionHeader,
    /// BIP 340 signatures (64 bytes) of at least n − f guardians.
    pub signatures: Vec<(PeerId, HexBytes)>,
}

/// What a transaction has come to.
///
/// `accepted` and `rejected` are final; the guardian keeps them until the
/// transaction's expiry at least.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub enum TransactionStatus {
    /// This guardian knows nothing of it.
    Unknown,
    /// This guardian has it and consensus has not decided.
    Pending,
    /// It has taken effect.
    Accepted {
        /// In this session…
        session: u64,
        /// …and this epoch of it.
        epoch: u32,
    },
    /// It has not taken effect and never will.
    Rejected {
        /// In this session…
        session: u64,
        /// …and this epoch of it.
        epoch: u32,
        /// Stable, kebab-case.
        code: String,
        /// The input that was refused, if it was one.
        input: Option<u16>,
        /// The output that was refused, if it was one.
        output: Option<u16>,
    },
}

impl TransactionStatus {
    /// Whether this will never change.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Accepted { .. } | Self::Rejected { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Different scripts of this length whose hashes pass the filter.
    fn scripts(length: usize) -> impl Iterator<Item = Vec<u8>> {
        (0_u64..)
            .map(move |n| {
                let mut script = vec![0; length];
                script[..8].copy_from_slice(&n.to_be_bytes());
                script
            })
            .filter(|script| hash_passes_filter(script))
    }

    fn output(satoshi: u64, script: Vec<u8>) -> VotedOutput {
        VotedOutput {
            txid: Hash32([1; 32]),
            index: 0,
            satoshi,
            script,
        }
    }

    #[test]
    fn a_block_flooded_with_matching_outputs_still_fits_and_keeps_the_most_valuable() {
        let script = scripts(MAX_VOTED_SCRIPT_BYTES).next();
        let script = script.expect("one in 4096 passes");
        let flood = (0..5000).map(|_| output(330, script.clone()));
        let deposit = output(10_000, script.clone());
        let block = VotedBlock::select([0; 80], flood.chain([deposit.clone()]));
        assert_eq!(block.outputs.len(), VotedBlock::MAX_OUTPUTS);
        assert_eq!(block.outputs.last(), Some(&deposit));
        let item = ConsensusItem::Blocks(BlockVote {
            height: 1,
            blocks: vec![block],
        });
        let bytes = borsh::to_vec(&item).expect("writing to memory does not fail");
        assert!(bytes.len() <= crate::MAX_ITEM_BYTES, "{}", bytes.len());
    }

    #[test]
    fn outputs_that_do_not_pass_are_left_out_and_the_others_keep_their_order() {
        let passing: Vec<_> = scripts(34).take(3).collect();
        let long = scripts(MAX_VOTED_SCRIPT_BYTES + 1).next();
        let long = long.expect("one in 4096 passes");
        let outputs = [
            output(5, passing[0].clone()),
            output(6, vec![0x51]),
            output(7, long),
            output(1, passing[1].clone()),
            output(9, passing[2].clone()),
        ];
        let block = VotedBlock::select([0; 80], outputs);
        let values: Vec<_> = block.outputs.iter().map(|o| o.satoshi).collect();
        assert_eq!(values, [5, 1, 9]);
    }
}
