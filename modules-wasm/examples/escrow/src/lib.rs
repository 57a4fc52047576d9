//! Escrow: money locked for a buyer, a seller and an arbiter.
//!
//! The buyer opens a contract and pays into it. The seller has the money once the
//! buyer or the arbiter approves, the buyer has it back once the seller or the
//! arbiter does: two of three, of whom one is the receiver, who signs the
//! transaction. After a block height the buyer can take it back alone. The federation
//! sees amounts, keys and ids, and nobody's name; the arbiter never holds money.
//!
//! An example to copy. This file says what the module is and what guardians and
//! wallets tell each other, `server` what guardians do, `client` what wallets do.

mod client;
mod server;

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Amount, Arguments, Description, Item, Json, Module, Refusal, Setup, crypto, object, parameters,
};

pub use client::{Approve, Claim, Key, Open, Show, State};
pub use server::ContractQuery;

/// The module.
pub struct Escrow;

// Makes the component's exports of what `Escrow` implements.
modmint_sdk::export!(Escrow: federation-module);

/// 33 bytes, compressed.
pub type PublicKey = [u8; 33];

/// An output: a contract, and the money in it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Contract {
    /// Millisatoshi.
    pub amount: u64,
    /// The buyer's key, a new one for every contract: it makes the id unique.
    pub buyer: PublicKey,
    /// The seller's key.
    pub seller: PublicKey,
    /// The arbiter's key.
    pub arbiter: PublicKey,
    /// From this agreed block height on the buyer needs nobody's approval.
    pub timeout: u32,
}

/// SHA-256 of the contract's encoding.
pub type ContractId = [u8; 32];

/// Who somebody is in a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Party {
    /// Has paid.
    Buyer,
    /// Wants the money.
    Seller,
    /// Decides when those two do not agree.
    Arbiter,
}

/// An input: takes what is in a contract, all of it. `to`'s key signs the
/// transaction.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Release {
    /// Which contract.
    pub contract: ContractId,
    /// Who takes the money: buyer or seller.
    pub to: Party,
    /// Somebody else's word. Only a buyer after the timeout needs none.
    pub approval: Option<Approval>,
}

/// A signature over [`Contract::approves`], by one who is not the receiver. 65 bytes,
/// short enough to be copied from one person's terminal to another's.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Approval {
    /// Who approves.
    pub by: Party,
    /// BIP 340.
    pub signature: [u8; 64],
}

impl Contract {
    /// What everybody calls it by.
    pub fn id(&self) -> ContractId {
        crypto::sha256(&borsh::to_vec(self).expect("writing to memory does not fail"))
    }

    /// A party's key.
    pub fn key(&self, party: Party) -> &PublicKey {
        match party {
            Party::Buyer => &self.buyer,
            Party::Seller => &self.seller,
            Party::Arbiter => &self.arbiter,
        }
    }

    /// What is signed by whoever approves that `to` takes the money. Begins with
    /// words of its own, so that no signature made for something else fits.
    pub fn approves(id: &ContractId, to: Party) -> [u8; 32] {
        crypto::sha256(&[b"modmint escrow approval", &id[..], &[to as u8]].concat())
    }
}

impl Party {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Buyer, Self::Seller, Self::Arbiter];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Buyer => "buyer",
            Self::Seller => "seller",
            Self::Arbiter => "arbiter",
        }
    }
}

parameters! {
    /// What an instance is founded with.
    pub struct Configuration {
        /// What a contract costs whoever opens it.
        fee: Amount = Amount(0),
    }
}

/// What guardians and wallets know of an instance.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Config {
    /// For each contract, millisatoshi.
    pub fee: u64,
}

/// 1,000 sat: no contract is worth more work than that.
const MOST_FEE: Amount = Amount(1_000_000);

impl Module for Escrow {
    type Config = Config;

    fn describe() -> Description {
        Description {
            kind: "escrow".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Money that two of buyer, seller and arbiter release.".into(),
            server_storage: 1,
            client_storage: 1,
            configuration: Configuration::parameters(),
            queries: vec![ContractQuery::endpoint("contract")],
            commands: Vec::new(),
        }
    }

    fn configure(arguments: Arguments) -> Result<Setup<Config>, Refusal> {
        let fee = Configuration::read(arguments)?.fee;
        if fee > MOST_FEE {
            return Err(Refusal::new(
                "bad-argument",
                format!("a fee of {fee}; at most {MOST_FEE} is expected"),
            ));
        }
        Ok(Setup {
            config: Config { fee: fee.0 },
            // The parties sign with keys of their own: guardians need none.
            keys: Vec::new(),
        })
    }

    fn render(item: Item, bytes: &[u8]) -> Result<Json, Refusal> {
        match item {
            Item::Input => read::<Release>(bytes).map(|release| {
                object! {
                    "type" => "release",
                    "contract" => release.contract.as_slice(),
                    "to" => release.to.name(),
                    "approved_by" => release.approval.map(|approval| approval.by.name()),
                }
            }),
            Item::Output => read::<Contract>(bytes).map(Json::from),
            Item::Answer(query) if query == "contract" => {
                read::<Option<Contract>>(bytes).map(Json::from)
            }
            // There are no others.
            _ => Err(bad_encoding()),
        }
    }
}

impl From<Contract> for Json {
    fn from(contract: Contract) -> Self {
        object! {
            "amount_msat" => Amount(contract.amount),
            "buyer" => contract.buyer.as_slice(),
            "seller" => contract.seller.as_slice(),
            "arbiter" => contract.arbiter.as_slice(),
            "timeout_height" => contract.timeout,
        }
    }
}

fn read<T: BorshDeserialize>(bytes: &[u8]) -> Result<T, Refusal> {
    borsh::from_slice(bytes).map_err(|_| bad_encoding())
}

fn bad_encoding() -> Refusal {
    Refusal::new("bad-encoding", "these bytes are none of this module's")
}
