//! What guardians do about notes.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Answer, Approval, Arguments, AuditLine, InputEffect, Nothing, OutPoint, OutputEffect, Refusal,
    Server, Signable, crypto, federation, guardian, parameters, signing,
    storage::{Cell, Table},
};

use crate::{BlindNote, DENOMINATIONS, Mint, MintConfig, Note, Spent, label, value};

/// A note that was signed, by the output that asked for it. The tweak is kept for
/// the wallet that looks for its money with nothing but its seed.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct IssuedNote {
    /// The denomination is 2 to this.
    pub exponent: u8,
    /// What is signed.
    pub blinded_message: [u8; 48],
    /// See [`BlindNote::tweak`].
    pub tweak: [u8; 16],
}

const SPENT: Table<[u8; 33], ()> = Table::new(b's');
const ISSUED: Table<OutPoint, IssuedNote> = Table::new(b'i');
/// Issued less spent, millisatoshi.
const CIRCULATING: Cell<u64> = Cell::new(b'c');

/// How many nonces one query may ask about.
const MOST_NONCES: usize = 1000;

parameters! {
    /// Which of some notes have been spent.
    pub struct SpentQuery {
        /// The notes' nonces, 33 bytes each, one behind the other; at most 1000.
        nonces: Vec<u8>,
    }
}

fn signable(exponent: u8, blinded_message: &[u8]) -> Signable {
    Signable {
        label: label(exponent),
        message: blinded_message.to_vec(),
        terms: Vec::new(),
    }
}

fn denomination(exponent: u8) -> Result<u64, Refusal> {
    value(exponent).ok_or_else(|| {
        Refusal::new(
            "no-such-denomination",
            format!(
                "denominations are 2^0 to 2^{} msat, not 2^{exponent}",
                DENOMINATIONS - 1
            ),
        )
    })
}

fn note_fee() -> u64 {
    federation::config::<MintConfig>().note_fee
}

impl Server for Mint {
    type Input = Note;
    type Output = BlindNote;
    type ConsensusItem = Nothing;

    fn process_input(note: Note) -> Result<InputEffect, Refusal> {
        let value = denomination(note.exponent)?;
        if SPENT.contains(&note.nonce) {
            return Err(Refusal::new("note-spent", "this note has been spent"));
        }
        if !crypto::tbs_verify(&label(note.exponent), &note.nonce, &note.signature) {
            return Err(Refusal::new(
                "bad-note",
                "the guardians of this federation have not signed this note",
            ));
        }
        SPENT.put(&note.nonce, &());
        let circulating = CIRCULATING.get().unwrap_or_default().checked_sub(value);
        CIRCULATING.put(&circulating.ok_or_else(|| {
            Refusal::new("bad-note", "more notes would be spent than were issued")
        })?);
        Ok(InputEffect {
            value,
            fee: note_fee(),
            spend_key: note.nonce.to_vec(),
        })
    }

    fn process_output(note: BlindNote, out_point: OutPoint) -> Result<OutputEffect, Refusal> {
        let value = denomination(note.exponent)?;
        match signing::approve(&signable(note.exponent, &note.blinded_message)) {
            Approval::Approved => {}
            // Whoever sees a transaction can have its blinded messages signed
            // first. Nothing is lost but the try.
            Approval::Before => {
                return Err(Refusal::new(
                    "blinded-message-used",
                    "this blinded message has been signed before; try again with fresh blinding",
                ));
            }
            Approval::Malformed => {
                return Err(Refusal::new(
                    "bad-blinded-message",
                    "48 bytes are expected: a compressed point of the prime-order subgroup of \
                     G1, not the identity",
                ));
            }
        }
        let issued = IssuedNote {
            exponent: note.exponent,
            blinded_message: note.blinded_message,
            tweak: note.tweak,
        };
        ISSUED.put(&out_point, &issued);
        let circulating = CIRCULATING.get().unwrap_or_default().checked_add(value);
        CIRCULATING.put(&circulating.ok_or_else(|| {
            Refusal::new(
                "too-much-money",
                "more would be issued than there can ever be",
            )
        })?);
        Ok(OutputEffect {
            value,
            fee: note_fee(),
        })
    }

    fn outcomes(out_points: Vec<OutPoint>) -> Vec<Option<Vec<u8>>> {
        let issued: Vec<_> = out_points.iter().map(|place| ISSUED.get(place)).collect();
        let wanted: Vec<_> = issued
            .iter()
            .flatten()
            .map(|note| signable(note.exponent, &note.blinded_message))
            .collect();
        let mut shares = guardian::shares(&wanted).into_iter();
        issued
            .iter()
            .map(|note| note.as_ref().and_then(|_| shares.next().flatten()))
            .collect()
    }

    fn query(name: &str, arguments: Arguments) -> Result<Answer, Refusal> {
        if name != "spent" {
            return Err(Refusal::new(
                "no-such-query",
                format!("this module has no query {name:?}; there is: spent"),
            ));
        }
        let SpentQuery { nonces } = SpentQuery::read(arguments)?;
        let (nonces, rest) = nonces.as_chunks::<33>();
        if !rest.is_empty() || nonces.len() > MOST_NONCES {
            return Err(Refusal::new(
                "bad-argument",
                format!("nonces are 33 bytes each, at most {MOST_NONCES} of them"),
            ));
        }
        let spent: Spent = nonces.iter().map(|nonce| SPENT.contains(nonce)).collect();
        Ok(Answer::Ready(
            borsh::to_vec(&spent).expect("writing to memory does not fail"),
        ))
    }

    fn audit() -> Vec<AuditLine> {
        let circulating = CIRCULATING.get().unwrap_or_default();
        vec![AuditLine {
            name: "notes in circulation".into(),
            msat: -i64::try_from(circulating).unwrap_or(i64::MAX),
        }]
    }
}
