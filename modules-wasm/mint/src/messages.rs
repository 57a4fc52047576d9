//! What wallets and guardians say to each other about e-cash. All of it is borsh.

use borsh::{BorshDeserialize, BorshSerialize};

/// Denominations are 2^0 to 2^41 millisatoshi; a note names its exponent.
pub const DENOMINATIONS: u8 = 42;

/// The key that signs notes of this denomination.
pub fn label(exponent: u8) -> String {
    format!("note-{exponent}")
}

/// What a note of this denomination is worth, millisatoshi; none if there is no
/// such denomination.
pub fn value(exponent: u8) -> Option<u64> {
    (exponent < DENOMINATIONS).then(|| 1 << exponent)
}

/// What an instance is configured with.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct MintConfig {
    /// For each note issued and each note spent, millisatoshi.
    pub note_fee: u64,
}

/// An input: a note, which can be spent once.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Note {
    /// The denomination is 2 to this.
    pub exponent: u8,
    /// The note's number, and the key that signs when it is spent: a compressed
    /// point.
    pub nonce: [u8; 33],
    /// The guardians' signature over the nonce.
    pub signature: [u8; 48],
}

/// An output: a note to be signed blindly.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BlindNote {
    /// The denomination is 2 to this.
    pub exponent: u8,
    /// The blinded nonce.
    pub blinded_message: [u8; 48],
    /// By which its owner, and nobody else, can recognise the note and derive it
    /// again from the seed.
    pub tweak: [u8; 16],
}

/// A guardian's contribution to a blind note's outcome: its blind signature
/// share.
pub type Outcome = [u8; 48];

/// A note that was signed, in the answer of the query `issued`: what its owner
/// recognises it by, and where its signature is to be had.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Issuance {
    /// The transaction that asked for it.
    pub txid: [u8; 32],
    /// The output's place in it.
    pub index: u16,
    /// What was asked for.
    pub note: BlindNote,
}

/// The answer of the query `spent`: for each nonce asked for, whether it is.
pub type Spent = Vec<bool>;
