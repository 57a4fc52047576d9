//! The host's own table in `consensus/*`: which key holds what.
//!
//! | key | value |
//! |---|---|
//! | `time` | agreed time, u64 |
//! | `fee-rate` | agreed fee rate, u64 |
//! | `tip` | the agreed block, [`BlockId`] |
//! | `block/` height | its hash |
//! | `output/` txid index | an agreed [`ChainOutput`] |
//! | `script/` SHA-256 of the script, height, place in the block | where it is, [`ChainOutPoint`] |
//! | `vote/time/` peer, `vote/fee-rate/` peer, `vote/blocks/` peer | that guardian's latest vote |
//! | `decided/` txid | a transaction's [`Decision`] |
//! | `forget/` time txid | nothing; when that decision is forgotten |
//! | `approved/` instance hash | the label under which something may be signed |
//! | `books/` instance | [`Books`] |
//! | `stored/` instance | how many bytes it keeps, u64 |
//! | `claimed/` txid index | the instance that has claimed this output |
//! | `surplus` | what transactions brought in beyond outputs and fees, msat, u128 |
//! | `convicted/` peer | a guardian's [`Conviction`], until the session ends |
//! | `session-start` | agreed time at the session's beginning, u64 |
//! | `module/` instance | its kind and bundle |
//!
//! Numbers in keys are big endian, values are borsh.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_core::{
    BundleHash, Hash32, InstanceId, KeyKind, PeerId, TxId,
    config::{BlockId, InstanceConfig},
    consensus::{BlockVote, TransactionStatus},
    sha256, tagged_hash,
};
use modmint_runtime::{ChainOutPoint, ChainOutput, Signable};

use crate::storage::{Overlay, Read, StorageError, Table};

type Result<T> = std::result::Result<T, StorageError>;

/// A decision is kept for so long after the transaction's expiry, for wallets
/// that were away.
pub(super) const KEEP_DECISIONS_SECONDS: u64 = 24 * 60 * 60;

/// How many agreed outputs of one script are told where all guardians must say the same.
pub(super) const MAX_OUTPUTS_OF_SCRIPT: usize = 100;
/// How many a guardian's own calls are told: whoever pays dust to a script cannot hide
/// what others pay to it. Their records are 1 MB, and are read in 21 ms.
pub(super) const MAX_OUTPUTS_TOLD: usize = 10_000;

/// A scan bounded by its count alone.
const ANY_BYTES: usize = usize::MAX;

pub(super) fn encode(value: &impl BorshSerialize) -> Vec<u8> {
    borsh::to_vec(value).expect("writing to memory does not fail")
}

/// What `bytes` hold, or that `what` is damaged.
pub(super) fn decode<T: BorshDeserialize>(bytes: &[u8], what: &str) -> Result<T> {
    borsh::from_slice(bytes).map_err(|error| StorageError::Corrupt(format!("{what}: {error}")))
}

fn get<T: BorshDeserialize>(state: &impl Read, key: &[u8]) -> Result<Option<T>> {
    let value = state.get(Table::Host, key)?;
    value
        .map(|bytes| decode(&bytes, &String::from_utf8_lossy(key)))
        .transpose()
}

fn put(state: &mut Overlay, key: &[u8], value: &impl BorshSerialize) {
    state.put(Table::Host, key, encode(value));
}

fn key(name: &str, parts: &[&[u8]]) -> Vec<u8> {
    [name.as_bytes(), b"/", &parts.concat()].concat()
}

// Agreed values.

pub(super) fn time(state: &impl Read) -> Result<u64> {
    Ok(get(state, b"time")?.unwrap_or(0))
}

pub(super) fn set_time(state: &mut Overlay, time: u64) {
    put(state, b"time", &time);
}

pub(super) fn fee_rate(state: &impl Read) -> Result<u64> {
    Ok(get(state, b"fee-rate")?.unwrap_or(super::votes::MIN_FEE_RATE))
}

pub(super) fn set_fee_rate(state: &mut Overlay, fee_rate: u64) {
    put(state, b"fee-rate", &fee_rate);
}

pub(super) fn tip(state: &impl Read) -> Result<BlockId> {
    get(state, b"tip")?.ok_or_else(|| StorageError::Corrupt("there is no agreed block".into()))
}

/// Makes `block` the agreed one.
pub(super) fn set_tip(state: &mut Overlay, block: BlockId) {
    put(state, b"tip", &block);
    put(
        state,
        &key("block", &[&block.height.to_be_bytes()]),
        &block.hash,
    );
}

pub(super) fn block_hash(state: &impl Read, height: u32) -> Result<Option<Hash32>> {
    get(state, &key("block", &[&height.to_be_bytes()]))
}

fn output_key(name: &str, at: &ChainOutPoint) -> Vec<u8> {
    key(name, &[&at.txid, &at.vout.to_be_bytes()])
}

/// Writes down an output of an agreed block, the `place`-th of those voted.
pub(super) fn add_chain_output(state: &mut Overlay, output: &ChainOutput, place: u32) {
    put(state, &output_key("output", &output.out_point), output);
    let by_script = key(
        "script",
        &[
            &sha256(&output.script),
            &output.height.to_be_bytes(),
            &place.to_be_bytes(),
        ],
    );
    put(state, &by_script, &output.out_point);
}

pub(super) fn chain_output_at(
    state: &impl Read,
    at: &ChainOutPoint,
) -> Result<Option<ChainOutput>> {
    get(state, &output_key("output", at))
}

/// Oldest first, at most [`MAX_OUTPUTS_OF_SCRIPT`].
pub(super) fn chain_outputs(state: &impl Read, script: &[u8]) -> Result<Vec<ChainOutput>> {
    oldest_outputs(state, script, MAX_OUTPUTS_OF_SCRIPT)
}

/// Oldest first, at most `limit`.
pub(super) fn oldest_outputs(
    state: &impl Read,
    script: &[u8],
    limit: usize,
) -> Result<Vec<ChainOutput>> {
    let prefix = key("script", &[&sha256(script)]);
    state
        .scan(Table::Host, &prefix, None, limit, ANY_BYTES)?
        .into_iter()
        .map(|(_, at)| {
            chain_output_at(state, &decode(&at, "script/")?)?
                .ok_or_else(|| StorageError::Corrupt("an output of script/ is missing".into()))
        })
        .collect()
}

// Votes.

pub(super) fn time_vote(state: &impl Read, peer: PeerId) -> Result<Option<u64>> {
    get(state, &key("vote/time", &[&peer.0.to_be_bytes()]))
}

pub(super) fn set_time_vote(state: &mut Overlay, peer: PeerId, vote: u64) {
    put(state, &key("vote/time", &[&peer.0.to_be_bytes()]), &vote);
}

pub(super) fn fee_vote(state: &impl Read, peer: PeerId) -> Result<Option<u64>> {
    get(state, &key("vote/fee-rate", &[&peer.0.to_be_bytes()]))
}

pub(super) fn set_fee_vote(state: &mut Overlay, peer: PeerId, vote: u64) {
    put(
        state,
        &key("vote/fee-rate", &[&peer.0.to_be_bytes()]),
        &vote,
    );
}

pub(super) fn block_vote(state: &impl Read, peer: PeerId) -> Result<Option<BlockVote>> {
    get(state, &key("vote/blocks", &[&peer.0.to_be_bytes()]))
}

pub(super) fn set_block_vote(state: &mut Overlay, peer: PeerId, vote: &BlockVote) {
    put(state, &key("vote/blocks", &[&peer.0.to_be_bytes()]), vote);
}

// Transactions.

/// Where and how a transaction was decided.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Decision {
    pub session: u64,
    pub epoch: u32,
    /// Why not; none if it was accepted.
    pub rejected: Option<Rejected>,
}

/// Code and place alone: texts are for people and may change with the program.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Rejected {
    pub code: String,
    pub input: Option<u16>,
    pub output: Option<u16>,
}

impl From<Decision> for TransactionStatus {
    fn from(decision: Decision) -> Self {
        let Decision {
            session,
            epoch,
            rejected,
        } = decision;
        match rejected {
            None => Self::Accepted { session, epoch },
            Some(Rejected {
                code,
                input,
                output,
            }) => Self::Rejected {
                session,
                epoch,
                code,
                input,
                output,
            },
        }
    }
}

pub(super) fn decision(state: &impl Read, txid: &TxId) -> Result<Option<Decision>> {
    get(state, &key("decided", &[&txid.0]))
}

/// Writes down what became of a transaction that expires at `expires`.
pub(super) fn decide(state: &mut Overlay, txid: &TxId, expires: u64, decision: &Decision) {
    put(state, &key("decided", &[&txid.0]), decision);
    let forget = expires.saturating_add(KEEP_DECISIONS_SECONDS);
    put(
        state,
        &key("forget", &[&forget.to_be_bytes(), &txid.0]),
        &(),
    );
}

/// Forgets at most `limit` of the decisions that have been kept long enough.
pub(super) fn forget_decisions(state: &mut Overlay, now: u64, limit: usize) -> Result<()> {
    let prefix = key("forget", &[]);
    // Mostly not even the oldest is due.
    for at_once in [1, limit.saturating_sub(1)] {
        for (entry, _) in state.scan(Table::Host, &prefix, None, at_once, ANY_BYTES)? {
            let (forget, txid) = entry[prefix.len()..]
                .split_first_chunk::<8>()
                .ok_or_else(|| StorageError::Corrupt("forget/".into()))?;
            if u64::from_be_bytes(*forget) > now {
                return Ok(());
            }
            state.delete(Table::Host, &key("decided", &[txid]));
            state.delete(Table::Host, &entry);
        }
    }
    Ok(())
}

// What may be signed.

/// A blinded message may be signed once, whatever the label; the others are kept
/// apart by all that they are.
fn approval_key(instance: InstanceId, kind: Option<KeyKind>, what: &Signable) -> Vec<u8> {
    let hash = match kind {
        Some(KeyKind::BlindSignature) => tagged_hash("modmint/approval/blind", &[&what.message]),
        _ => tagged_hash("modmint/approval", &[&encode(what)]),
    };
    key("approved", &[&instance.0.to_be_bytes(), &hash])
}

/// The label under which this, or the same blinded message, was approved.
pub(super) fn approval(
    state: &impl Read,
    instance: &InstanceConfig,
    what: &Signable,
) -> Result<Option<String>> {
    let kind = key_kind(instance, &what.label);
    get(state, &approval_key(instance.id, kind, what))
}

pub(super) fn approve(
    state: &mut Overlay,
    instance: &InstanceConfig,
    what: &Signable,
) -> Result<()> {
    let kind = key_kind(instance, &what.label);
    let (at, label) = (approval_key(instance.id, kind, what), encode(&what.label));
    keep(state, instance.id, Table::Host, &at, Some(label))
}

/// Blinded messages are never forgotten.
pub(super) fn revoke(
    state: &mut Overlay,
    instance: &InstanceConfig,
    what: &Signable,
) -> Result<()> {
    let kind = key_kind(instance, &what.label);
    if kind == Some(KeyKind::BlindSignature) {
        return Ok(());
    }
    let at = approval_key(instance.id, kind, what);
    keep(state, instance.id, Table::Host, &at, None)
}

fn key_kind(instance: &InstanceConfig, label: &str) -> Option<KeyKind> {
    let key = instance.keys.iter().find(|key| key.label == label);
    key.map(|key| key.kind)
}

// What instances keep.

/// So many bytes an instance keeps: keys and values in its table, and what it had approved.
pub(super) fn stored(state: &impl Read, instance: InstanceId) -> Result<u64> {
    Ok(get(state, &key("stored", &[&instance.0.to_be_bytes()]))?.unwrap_or(0))
}

/// Writes, or deletes, what is an instance's, and counts it.
pub(super) fn keep(
    state: &mut Overlay,
    instance: InstanceId,
    table: Table,
    at: &[u8],
    value: Option<Vec<u8>>,
) -> Result<()> {
    let size = |value: &Vec<u8>| (at.len() + value.len()) as u64;
    let before = state.get(table, at)?.as_ref().map_or(0, size);
    let after = value.as_ref().map_or(0, size);
    if before != after {
        let others = stored(state, instance)?.saturating_sub(before);
        let counted = key("stored", &[&instance.0.to_be_bytes()]);
        put(state, &counted, &(others + after));
    }
    match value {
        Some(value) => state.put(table, at, value),
        None => state.delete(table, at),
    }
    Ok(())
}

// Books.

/// What an instance owes to the others, or they to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Books {
    /// What outputs and their fees brought into the instance less what its inputs
    /// took out, msat.
    pub balance: i128,
    /// Bitcoin that it holds for the federation.
    pub treasury_satoshi: u64,
    /// Its inputs, outputs and items are refused.
    pub paused: bool,
}

impl Books {
    /// Nothing was paid out that was not paid in or claimed before.
    pub fn is_backed(&self) -> bool {
        self.balance + i128::from(self.treasury_satoshi) * 1000 >= 0
    }
}

pub(super) fn books(state: &impl Read, instance: InstanceId) -> Result<Books> {
    Ok(get(state, &key("books", &[&instance.0.to_be_bytes()]))?.unwrap_or_default())
}

pub(super) fn set_books(state: &mut Overlay, instance: InstanceId, books: &Books) {
    put(state, &key("books", &[&instance.0.to_be_bytes()]), books);
}

pub(super) fn is_claimed(state: &impl Read, at: &ChainOutPoint) -> Result<bool> {
    Ok(get::<InstanceId>(state, &output_key("claimed", at))?.is_some())
}

pub(super) fn set_claimed(state: &mut Overlay, at: &ChainOutPoint, by: InstanceId) {
    put(state, &output_key("claimed", at), &by);
}

pub(super) fn add_surplus(state: &mut Overlay, msat: u128) -> Result<()> {
    if msat > 0 {
        let surplus: u128 = get(state, b"surplus")?.unwrap_or(0);
        put(state, b"surplus", &surplus.saturating_add(msat));
    }
    Ok(())
}

// Convictions.

/// How a guardian has shown that it proposes what it has not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, thiserror::Error)]
pub(super) enum Fault {
    #[error("its unit holds something that cannot be decoded")]
    Undecodable,
    #[error("its unit holds an item that is too long")]
    TooLarge,
    #[error("it proposed a transaction that cannot be right in any state")]
    Malformed,
    #[error("it proposed a transaction with a signature that does not hold")]
    Signature,
}

/// A guardian's transactions are ignored from this epoch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Conviction {
    pub epoch: u32,
    pub fault: Fault,
}

pub(super) fn conviction(state: &impl Read, peer: PeerId) -> Result<Option<Conviction>> {
    get(state, &key("convicted", &[&peer.0.to_be_bytes()]))
}

/// All that stand, in the order of the guardians.
pub(super) fn convictions(state: &impl Read) -> Result<Vec<(PeerId, Conviction)>> {
    let prefix = key("convicted", &[]);
    state
        .scan(Table::Host, &prefix, None, usize::MAX, ANY_BYTES)?
        .into_iter()
        .map(|(entry, value)| {
            let peer = entry[prefix.len()..]
                .try_into()
                .map_err(|_| StorageError::Corrupt("convicted/".into()))?;
            let peer = PeerId(u16::from_be_bytes(peer));
            Ok((peer, decode(&value, "convicted/")?))
        })
        .collect()
}

pub(super) fn convict(state: &mut Overlay, peer: PeerId, conviction: &Conviction) {
    put(
        state,
        &key("convicted", &[&peer.0.to_be_bytes()]),
        conviction,
    );
}

/// With the session convictions end.
pub(super) fn forget_convictions(state: &mut Overlay) -> Result<()> {
    for (peer, _) in convictions(state)? {
        state.delete(Table::Host, &key("convicted", &[&peer.0.to_be_bytes()]));
    }
    Ok(())
}

// Sessions.

pub(super) fn session_start(state: &impl Read) -> Result<u64> {
    Ok(get(state, b"session-start")?.unwrap_or(0))
}

pub(super) fn set_session_start(state: &mut Overlay, time: u64) {
    put(state, b"session-start", &time);
}

pub(super) fn set_module(state: &mut Overlay, instance: &InstanceConfig) {
    let value: (&str, BundleHash) = (&instance.kind, instance.bundle);
    put(
        state,
        &key("module", &[&instance.id.0.to_be_bytes()]),
        &value,
    );
}
