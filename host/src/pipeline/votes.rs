//! What the host itself agrees on: blocks, time, fee rate.
//!
//! Every guardian has one latest vote of each kind; the rules make the agreed
//! value of all of them. With f guardians that lie or are silent, time and fee
//! rate stay within the range of honest votes, and a block counts only if an
//! honest majority of those who can be up has it buried deep.

use modmint_core::{
    Hash32, MAX_ITEM_BYTES, PeerId,
    config::{BlockId, FederationConfig},
    consensus::{BlockVote, ConsensusItem, VotedBlock, script_passes_filter},
    max_faulty, sha256,
};
use modmint_runtime::{ChainOutPoint, ChainOutput};

use super::state;
use crate::{
    chain::ChainView,
    storage::{Overlay, Read, StorageError},
};

/// The lowest agreed fee rate, satoshi per 1000 virtual bytes.
pub(super) const MIN_FEE_RATE: u64 = 1000;
/// The highest agreed fee rate, satoshi per 1000 virtual bytes.
pub(super) const MAX_FEE_RATE: u64 = 1_000_000;
/// Votes on time are multiples of so many seconds.
pub(super) const TIME_STEP: u64 = 60;

/// The agreed time behind these votes, one for each guardian: at least n − f
/// guardians say that it is that late. It never goes back.
fn agree_on_time(previous: u64, mut votes: Vec<u64>) -> u64 {
    votes.sort_unstable();
    let agreed = votes.get(max_faulty(votes.len())).copied().unwrap_or(0);
    previous.max(agreed)
}

/// The agreed fee rate behind these votes, one for each guardian.
fn agree_on_fee_rate(mut votes: Vec<u64>) -> u64 {
    votes.sort_unstable();
    let agreed = votes.get(2 * max_faulty(votes.len())).copied().unwrap_or(0);
    agreed.clamp(MIN_FEE_RATE, MAX_FEE_RATE)
}

/// The next block that at least `threshold` votes have behind `tip`.
fn agree_on_block(tip: &BlockId, votes: &[BlockVote], threshold: usize) -> Option<VotedBlock> {
    let height = tip.height.checked_add(1)?;
    let candidates: Vec<&VotedBlock> = votes
        .iter()
        .filter_map(|vote| vote.blocks.get(height.checked_sub(vote.height)? as usize))
        .filter(|block| parent(block) == tip.hash)
        .collect();
    let agreed = candidates
        .iter()
        .find(|block| candidates.iter().filter(|other| other == block).count() >= threshold)?;
    Some((*agreed).clone())
}

/// The block's hash, internal byte order.
pub(super) fn hash_of(block: &VotedBlock) -> Hash32 {
    Hash32(sha256(&sha256(&block.header)))
}

fn parent(block: &VotedBlock) -> Hash32 {
    let hash = block.header[4..36].try_into();
    Hash32(hash.expect("a header's bytes 4 to 36 are 32"))
}

fn is_well_formed(vote: &BlockVote) -> bool {
    let linked = |pair: &[VotedBlock]| hash_of(&pair[0]) == parent(&pair[1]);
    let filtered = |block: &VotedBlock| {
        block.outputs.len() <= VotedBlock::MAX_OUTPUTS
            && block
                .outputs
                .iter()
                .all(|output| script_passes_filter(&output.script))
    };
    vote.blocks.len() <= BlockVote::MAX_BLOCKS
        && vote.blocks.windows(2).all(linked)
        && vote.blocks.iter().all(filtered)
}

/// Takes a guardian's vote on time.
pub(super) fn vote_time(
    state: &mut Overlay,
    config: &FederationConfig,
    peer: PeerId,
    vote: u64,
) -> Result<(), StorageError> {
    if !vote.is_multiple_of(TIME_STEP) {
        return Ok(());
    }
    state::set_time_vote(state, peer, vote);
    let votes = config
        .peer_ids()
        .map(|peer| Ok(state::time_vote(state, peer)?.unwrap_or(0)))
        .collect::<Result<_, StorageError>>()?;
    let previous = state::time(state)?;
    let agreed = agree_on_time(previous, votes);
    if agreed != previous {
        state::set_time(state, agreed);
    }
    Ok(())
}

/// Takes a guardian's vote on the fee rate.
pub(super) fn vote_fee_rate(
    state: &mut Overlay,
    config: &FederationConfig,
    peer: PeerId,
    vote: u64,
) -> Result<(), StorageError> {
    state::set_fee_vote(state, peer, vote);
    let votes = config
        .peer_ids()
        .map(|peer| Ok(state::fee_vote(state, peer)?.unwrap_or(0)))
        .collect::<Result<_, StorageError>>()?;
    state::set_fee_rate(state, agree_on_fee_rate(votes));
    Ok(())
}

/// Takes a guardian's vote on blocks, and advances while n − f agree.
pub(super) fn vote_blocks(
    state: &mut Overlay,
    config: &FederationConfig,
    peer: PeerId,
    vote: &BlockVote,
) -> Result<(), StorageError> {
    if !is_well_formed(vote) {
        return Ok(());
    }
    state::set_block_vote(state, peer, vote);
    let mut votes = Vec::new();
    for peer in config.peer_ids() {
        votes.extend(state::block_vote(state, peer)?);
    }
    let mut tip = state::tip(state)?;
    while let Some(block) = agree_on_block(&tip, &votes, config.threshold()) {
        tip = BlockId {
            height: tip.height + 1,
            hash: hash_of(&block),
        };
        add_block(state, tip, &block);
    }
    Ok(())
}

fn add_block(state: &mut Overlay, id: BlockId, block: &VotedBlock) {
    state::set_tip(state, id);
    for (place, output) in (0..).zip(&block.outputs) {
        let output = ChainOutput {
            out_point: ChainOutPoint {
                txid: output.txid.0,
                vout: output.index,
            },
            script: output.script.clone(),
            satoshi: output.satoshi,
            height: id.height,
        };
        state::add_chain_output(state, &output, place);
    }
}

/// What this guardian should vote now, where that differs from its latest vote
/// in `state`.
pub(super) struct OwnVotes {
    pub time: Option<ConsensusItem>,
    pub fee_rate: Option<ConsensusItem>,
    pub blocks: Option<ConsensusItem>,
}

/// Looks at clock and chain.
pub(super) fn own_votes(
    state: &impl Read,
    config: &FederationConfig,
    me: PeerId,
    chain: &dyn ChainView,
    now: u64,
) -> Result<OwnVotes, StorageError> {
    let time = now - now % TIME_STEP;
    let time_moved = state::time_vote(state, me)?.is_none_or(|vote| time > vote);

    let fee_rate = chain.fee_rate();
    let last_fee = state::fee_vote(state, me)?;
    let fee_moved = |fee: &u64| last_fee.is_none_or(|last| fee.abs_diff(last) > last / 10);

    let tip = state::tip(state)?;
    let found = chain.blocks_after(tip, config.finality_depth, BlockVote::MAX_BLOCKS);
    let blocks = as_many_as_fit(found.unwrap_or_default());
    let last_blocks = state::block_vote(state, me)?;
    let voted = last_blocks
        .as_ref()
        .and_then(|vote| {
            vote.blocks
                .get((tip.height + 1).checked_sub(vote.height)? as usize..)
        })
        .unwrap_or_default();
    let blocks_moved = !blocks.is_empty() && blocks != voted;

    Ok(OwnVotes {
        time: time_moved.then_some(ConsensusItem::Time(time)),
        fee_rate: fee_rate.filter(fee_moved).map(ConsensusItem::FeeRate),
        blocks: blocks_moved.then(|| {
            ConsensusItem::Blocks(BlockVote {
                height: tip.height + 1,
                blocks,
            })
        }),
    })
}

fn as_many_as_fit(mut blocks: Vec<VotedBlock>) -> Vec<VotedBlock> {
    // An item's tag, the height, the number of blocks.
    let mut bytes = 1 + 4 + 4;
    let fitting = blocks.iter().take_while(|block| {
        bytes += state::encode(block).len();
        bytes <= MAX_ITEM_BYTES
    });
    let count = fitting.count();
    blocks.truncate(count);
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(parent: Hash32, nonce: u8) -> VotedBlock {
        let mut header = [nonce; 80];
        header[4..36].copy_from_slice(&parent.0);
        VotedBlock {
            header,
            outputs: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn time_and_fee_rate_stay_within_honest_votes_whatever_f_others_say(
            honest in prop::collection::vec(MIN_FEE_RATE..MAX_FEE_RATE, 5),
            lies: [u64; 2],
        ) {
            let votes = [&honest[..], &lies[..]].concat();
            let range = *honest.iter().min().expect("five")..=*honest.iter().max().expect("five");
            prop_assert!(range.contains(&agree_on_time(0, votes.clone())));
            prop_assert!(range.contains(&agree_on_fee_rate(votes)));
        }
    }

    #[test]
    fn time_never_goes_back() {
        assert_eq!(agree_on_time(600, vec![0, 0, 0, 0]), 600);
        assert_eq!(agree_on_time(600, vec![0, 660, 720, 780]), 660);
    }

    #[test]
    fn a_block_counts_once_three_of_four_have_it_and_one_liar_cannot_stop_them() {
        let tip = BlockId {
            height: 7,
            hash: Hash32([9; 32]),
        };
        let (real, fake) = (block(tip.hash, 1), block(tip.hash, 2));
        let vote = |block: &VotedBlock| BlockVote {
            height: 8,
            blocks: vec![block.clone()],
        };
        let two = [vote(&real), vote(&real), vote(&fake)];
        assert_eq!(agree_on_block(&tip, &two, 3), None);
        let three = [vote(&fake), vote(&real), vote(&real), vote(&real)];
        assert_eq!(agree_on_block(&tip, &three, 3), Some(real.clone()));
        let elsewhere = BlockId {
            hash: Hash32([8; 32]),
            ..tip
        };
        assert_eq!(agree_on_block(&elsewhere, &three, 3), None);
    }

    #[test]
    fn a_run_of_blocks_that_do_not_follow_each_other_is_no_vote() {
        let first = block(Hash32([9; 32]), 1);
        let second = block(hash_of(&first), 2);
        let run = |blocks| BlockVote { height: 8, blocks };
        assert!(is_well_formed(&run(vec![first.clone(), second.clone()])));
        assert!(!is_well_formed(&run(vec![second, first])));
    }
}
