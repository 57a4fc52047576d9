//! The federation's e-cash.
//!
//! A note is a number that a threshold of guardians has signed without seeing it,
//! worth 2^0 to 2^41 millisatoshi, one signing key for each denomination. Spending
//! a note shows the number, once; issuing one shows a blinded number, once. What
//! guardians do is in `server`, what wallets do in `client`; which notes a wallet
//! takes and makes is decided in `selection`, and `text` is how notes travel.

mod client;
mod messages;
mod notes;
pub mod selection;
mod server;
mod text;

use modmint_sdk::{
    Amount, Arguments, Description, Item, Json, KeyKind, KeySpec, Module, Refusal, Setup, borsh,
    object, parameters,
};

pub use client::{Cancel, Consolidate, Receive, Send, Split, State};
pub use messages::{
    BlindNote, DENOMINATIONS, Issuance, MintConfig, Note, Outcome, Spent, label, value,
};
pub use notes::{Fresh, OwnNote};
pub use server::{IssuedQuery, SpentQuery};
pub use text::{BadNotes, Notes, TextNote};

/// The module.
pub struct Mint;

modmint_sdk::export!(Mint: ecash-module);

parameters! {
    /// What an instance is founded with.
    pub struct Configuration {
        /// For each note issued and each note spent.
        note_fee: Amount = Amount(0),
    }
}

/// 1,000 sat: above this, e-cash is for nobody.
const MOST_NOTE_FEE: Amount = Amount(1_000_000);

impl Module for Mint {
    type Config = MintConfig;

    fn describe() -> Description {
        Description {
            kind: "mint".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "E-cash: notes signed blindly by the guardians.".into(),
            server_storage: 1,
            client_storage: 2,
            configuration: Configuration::parameters(),
            queries: vec![
                SpentQuery::endpoint("spent"),
                IssuedQuery::endpoint("issued"),
            ],
            commands: Vec::new(),
        }
    }

    fn configure(arguments: Arguments) -> Result<Setup<MintConfig>, Refusal> {
        let Configuration { note_fee } = Configuration::read(arguments)?;
        if note_fee > MOST_NOTE_FEE {
            return Err(Refusal::new(
                "bad-argument",
                format!("a fee of {note_fee} for each note; at most {MOST_NOTE_FEE} is expected"),
            ));
        }
        let keys = (0..DENOMINATIONS).map(|exponent| KeySpec {
            label: label(exponent),
            kind: KeyKind::BlindSignature,
        });
        Ok(Setup {
            config: MintConfig {
                note_fee: note_fee.0,
            },
            keys: keys.collect(),
        })
    }

    fn render(item: Item, bytes: &[u8]) -> Result<Json, Refusal> {
        let bad = |what: &str| Refusal::new("bad-encoding", format!("these bytes are no {what}"));
        let amount = |exponent| value(exponent).map(Amount);
        match item {
            Item::Input => {
                let note: Note = borsh::from_slice(bytes).map_err(|_| bad("note"))?;
                Ok(object! {
                    "type" => "note",
                    "amount_msat" => amount(note.exponent),
                    "nonce" => note.nonce.as_slice(),
                })
            }
            Item::Output => {
                let note: BlindNote = borsh::from_slice(bytes).map_err(|_| bad("blind note"))?;
                Ok(object! {
                    "type" => "blind-note",
                    "amount_msat" => amount(note.exponent),
                    "blinded_message" => note.blinded_message.as_slice(),
                })
            }
            Item::Outcome => {
                let share: Outcome = borsh::from_slice(bytes).map_err(|_| bad("share"))?;
                Ok(object! { "signature_share" => share.as_slice() })
            }
            Item::Answer(query) if query == "spent" => {
                let spent: Spent =
                    borsh::from_slice(bytes).map_err(|_| bad("answer of this query"))?;
                Ok(spent.into())
            }
            Item::Answer(query) if query == "issued" => {
                let issued: Vec<Issuance> =
                    borsh::from_slice(bytes).map_err(|_| bad("answer of this query"))?;
                let shown = issued.iter().map(|issuance| {
                    object! {
                        "txid" => issuance.txid.as_slice(),
                        "index" => u64::from(issuance.index),
                        "amount_msat" => amount(issuance.note.exponent),
                        "blinded_message" => issuance.note.blinded_message.as_slice(),
                    }
                });
                Ok(shown.collect::<Vec<Json>>().into())
            }
            _ => Err(bad("value of this module")),
        }
    }
}
