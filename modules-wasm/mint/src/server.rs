//! What guardians do about notes.

use modmint_sdk::{
    Answer, Approval, Arguments, AuditLine, InputEffect, Nothing, OutPoint, OutputEffect, Refusal,
    Server, Signable, crypto, federation, guardian, parameters, signing,
    storage::{Cell, Table},
};

use crate::{BlindNote, DENOMINATIONS, Issuance, Mint, MintConfig, Note, Spent, label, value};

const SPENT: Table<[u8; 33], ()> = Table::new(b's');
/// The notes that were signed, by the outputs that asked for them. With their
/// tweaks: for the wallet that looks for its money with nothing but its seed.
const ISSUED: Table<([u8; 32], u16), BlindNote> = Table::new(b'i');
/// Issued less spent, millisatoshi.
const CIRCULATING: Cell<u64> = Cell::new(b'c');

/// How many nonces one query may ask about.
const MOST_NONCES: usize = 1000;
/// How many notes one query is answered with: its wallet has to look at them in
/// one call.
const MOST_ISSUED: u32 = 500;

parameters! {
    /// Which of some notes have been spent.
    pub struct SpentQuery {
        /// The notes' nonces, 33 bytes each, one behind the other; at most 1000.
        nonces: Vec<u8>,
    }
}

parameters! {
    /// All notes that have been issued, some at a time; an empty answer is the end.
    pub struct IssuedQuery {
        /// Only those behind this output: its transaction's id, 32 bytes, and its index, 2
        /// bytes, big endian.
        after: Option<Vec<u8>>,
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

fn spent(query: &SpentQuery) -> Result<Spent, Refusal> {
    let (nonces, rest) = query.nonces.as_chunks::<33>();
    if !rest.is_empty() || nonces.len() > MOST_NONCES {
        return Err(Refusal::new(
            "bad-argument",
            format!("nonces are 33 bytes each, at most {MOST_NONCES} of them"),
        ));
    }
    Ok(nonces.iter().map(|nonce| SPENT.contains(nonce)).collect())
}

fn issued(query: &IssuedQuery) -> Result<Vec<Issuance>, Refusal> {
    let after = match query.after.as_deref().map(<[u8]>::split_first_chunk::<32>) {
        None => None,
        Some(Some((txid, &[high, low]))) => Some((*txid, u16::from_be_bytes([high, low]))),
        Some(_) => {
            return Err(Refusal::new(
                "bad-argument",
                "an output is 34 bytes: a transaction's id and an index, big endian",
            ));
        }
    };
    let page = ISSUED.page(after.as_ref(), MOST_ISSUED).into_iter();
    Ok(page
        .map(|((txid, index), note)| Issuance { txid, index, note })
        .collect())
}

fn place(out_point: &OutPoint) -> ([u8; 32], u16) {
    let txid = out_point.txid.as_slice().try_into();
    (
        txid.expect("the host's txids are 32 bytes"),
        out_point.index,
    )
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
        ISSUED.put(&place(&out_point), &note);
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
        let issued: Vec<_> = out_points
            .iter()
            .map(|out_point| ISSUED.get(&place(out_point)))
            .collect();
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
        let answer = match name {
            "spent" => borsh::to_vec(&spent(&SpentQuery::read(arguments)?)?),
            "issued" => borsh::to_vec(&issued(&IssuedQuery::read(arguments)?)?),
            _ => {
                return Err(Refusal::new(
                    "no-such-query",
                    format!("this module has no query {name:?}; there are: spent, issued"),
                ));
            }
        };
        Ok(Answer::Ready(
            answer.expect("writing to memory does not fail"),
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
