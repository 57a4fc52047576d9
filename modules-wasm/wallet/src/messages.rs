//! What wallets and guardians say to each other about deposits and withdrawals. All
//! of it is borsh.

use borsh::{BorshDeserialize, BorshSerialize};

/// What an instance is configured with.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct WalletConfig {
    /// Smaller deposits are refused, millisatoshi.
    pub minimum_deposit: u64,
    /// What each deposit pays into the reserve for fees, millisatoshi: whole
    /// satoshi.
    pub deposit_fee: u64,
}

/// Who a deposit's address belongs to. The address is a multisig of the
/// guardians' keys, each tweaked with the SHA-256 of this.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct DepositTweak {
    /// The depositor's key, a compressed point: whoever claims signs with it.
    pub claim_key: [u8; 33],
    /// Counted up until the address passes the federation's filter.
    pub nonce: u32,
}

/// An input: claims an agreed output of the bitcoin chain, once.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PegInProof {
    /// The bitcoin transaction, internal byte order.
    pub txid: [u8; 32],
    /// The output's place in it.
    pub vout: u32,
    /// What the output's script is made from.
    pub tweak: DepositTweak,
}

/// The answer of the query `deposit`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Deposits {
    /// The deposit asked for, if it is there.
    pub deposit: Option<Deposit>,
    /// What pays to the script and is too small to be a deposit: before the one asked
    /// for, or all of it where there is none.
    pub small: Small,
}

/// An agreed output of at least the minimum that pays to the script asked for.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Deposit {
    /// The bitcoin transaction, internal byte order.
    pub txid: [u8; 32],
    /// The output's place in it.
    pub vout: u32,
    /// Its value.
    pub satoshi: u64,
    /// The agreed block's height.
    pub height: u32,
}

/// Agreed outputs below the minimum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Small {
    /// How many there are.
    pub number: u64,
    /// What they are worth together.
    pub satoshi: u64,
}

/// An output: has the guardians pay bitcoin.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PegOut {
    /// The scriptPubKey that is paid to.
    pub script: Vec<u8>,
    /// What arrives there.
    pub satoshi: u64,
    /// What is paid for the chain, satoshi, on top.
    pub fee: u64,
}

/// The answer of the query `quote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PegOutQuote {
    /// What a withdrawal has to pay for the chain now, satoshi.
    pub least: u64,
    /// What is asked for: half as much again, so that the fee rate may rise before
    /// the withdrawal is made, and the transaction be replaced after.
    pub fee: u64,
}

/// What has become of a withdrawal: its outcome, and the answer of the query
/// `withdrawal`.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PegOutOutcome {
    /// The bitcoin transactions that pay it, oldest first, internal byte order:
    /// later ones replace earlier ones, and only one can be confirmed. None while it
    /// waits for the next agreed block.
    pub txids: Vec<[u8; 32]>,
    /// The one that an agreed block has.
    pub buried: Option<[u8; 32]>,
}

/// What guardians say to each other.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum WalletItem {
    /// Withdrawals wait, and this is the agreed height: make a transaction. The
    /// first one at a height counts.
    Batch(u32),
    /// The transaction's hashes from this input on may be signed; a piece at a time,
    /// where there are many. The first item for a piece counts.
    Approve([u8; 32], u16),
    /// This guardian's signatures of a transaction's inputs, in their order.
    Sign([u8; 32], Vec<[u8; 64]>),
    /// This guardian sees the transaction in an agreed block.
    Buried([u8; 32]),
    /// This guardian sees the transaction in no block, though it should be in one.
    Stuck([u8; 32]),
    /// Whether this guardian's chain is another than the agreed one, or lacks what
    /// the federation holds.
    Alarm(bool),
}

/// The answer of the query `withdrawals`: what there is to know about all of them.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Overview {
    /// How many wait for a transaction, 1000 at most.
    pub waiting: u32,
    /// What they are worth, satoshi.
    pub waiting_satoshi: u64,
    /// What is held on the chain, satoshi.
    pub held_satoshi: u64,
    /// What fees may be paid from, satoshi.
    pub reserve_satoshi: u64,
    /// Transactions that are not buried yet.
    pub transactions: Vec<UnderWay>,
    /// Guardians whose chain is another than the agreed one, or lacks what is held.
    pub alarms: Vec<u16>,
    /// Guardians that have signed what is no signature, each with the last
    /// transaction and input.
    pub culprits: Vec<(u16, [u8; 32], u16)>,
}

/// A bitcoin transaction on its way.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct UnderWay {
    /// Its id, internal byte order; the newest, if it has been replaced.
    pub txid: [u8; 32],
    /// How many others it has replaced.
    pub replaced: u32,
    /// What it pays to miners, satoshi.
    pub fee: u64,
    /// How many withdrawals it pays; none, if it only brings coins together for one.
    pub payments: u32,
    /// The guardians that have signed it.
    pub signers: Vec<u16>,
}
