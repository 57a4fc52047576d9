//! What wallets and guardians say to each other about deposits. All of it is
//! borsh.

use borsh::{BorshDeserialize, BorshSerialize};

/// What an instance is configured with.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct WalletConfig {
    /// Smaller deposits are refused, millisatoshi.
    pub minimum_deposit: u64,
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

/// The answer of the query `deposit`: an agreed output that pays to the script
/// asked for.
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
