//! A wallet's own notes: how they are derived, kept in stock, and unblinded.
//!
//! A note is known by a tweak of 16 bytes, which travels with the output that
//! asks for it. The secret key of the nonce and the blinding factor follow from
//! the seed and the tweak. Half of the tweak is random, so that no two devices
//! with one seed ever draw the same; the other half is a tag that only the seed
//! can make, so that a wallet recognises its own notes among all others by one
//! hash, and nobody else can.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Blinding, OutPoint, PeerOutcomes, PlannedInput, PlannedOutput, SignedBlinding, Signer, crypto,
    federation,
    storage::{Cell, Table},
    wallet,
};

use crate::{
    BlindNote, Issuance, Note, TextNote, label,
    selection::{Counts, NONE, exponents},
    value,
};

const SPEND: u64 = 0;
const BLIND: u64 = 1;
const RECOGNISE: u64 = 2;

fn path(purpose: u64, tweak: &[u8; 16]) -> Vec<u64> {
    let number = u128::from_be_bytes(*tweak);
    vec![purpose, (number >> 64) as u64, number as u64]
}

/// A note of this wallet that can be spent.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OwnNote {
    /// The denomination is 2 to this.
    pub exponent: u8,
    /// What its secrets follow from.
    pub tweak: [u8; 16],
    /// Its number.
    pub nonce: [u8; 33],
    /// The guardians' signature over the nonce.
    pub signature: [u8; 48],
}

/// A note that guardians are asked to sign.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Fresh {
    /// The denomination is 2 to this.
    pub exponent: u8,
    /// What its secrets follow from.
    pub tweak: [u8; 16],
    /// Its number.
    pub nonce: [u8; 33],
}

/// Notes that guardians have signed or are about to, by where their outputs are.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Issued {
    /// The transactions, the outputs' indices, and the notes.
    pub notes: Vec<([u8; 32], u16, Fresh)>,
}

/// The tag that makes a tweak recognisable, 8 bytes.
fn tag(secret: &[u8; 32], random: &[u8]) -> [u8; 8] {
    let hash = crypto::sha256(&[&secret[..], random].concat());
    let (tag, _) = hash.split_first_chunk().expect("32 bytes begin with 8");
    *tag
}

impl Fresh {
    /// As many new notes of each denomination.
    pub fn draw(counts: &Counts) -> Vec<Self> {
        let secret = wallet::derive_secret(&[RECOGNISE]);
        exponents()
            .flat_map(|e| (0..counts[usize::from(e)]).map(move |_| e))
            .map(|exponent| {
                let random: [u8; 8] = wallet::random();
                let mut tweak = [0; 16];
                tweak[..8].copy_from_slice(&random);
                tweak[8..].copy_from_slice(&tag(&secret, &random));
                Self::of(exponent, tweak)
            })
            .collect()
    }

    fn of(exponent: u8, tweak: [u8; 16]) -> Self {
        Self {
            exponent,
            tweak,
            nonce: wallet::derive_public_key(&path(SPEND, &tweak)),
        }
    }

    fn blinding(&self) -> Blinding {
        Blinding {
            label: label(self.exponent),
            message: self.nonce.to_vec(),
            path: path(BLIND, &self.tweak),
        }
    }

    /// The outputs that ask for these notes.
    pub fn outputs(notes: &[Self], fee: u64) -> Vec<PlannedOutput> {
        let blindings: Vec<_> = notes.iter().map(Self::blinding).collect();
        notes
            .iter()
            .zip(wallet::tbs_blind(&blindings))
            .map(|(note, blinded_message)| {
                let output = BlindNote {
                    exponent: note.exponent,
                    blinded_message,
                    tweak: note.tweak,
                };
                PlannedOutput {
                    output: borsh::to_vec(&output).expect("writing to memory does not fail"),
                    value: value(note.exponent).expect("only denominations are drawn"),
                    fee,
                }
            })
            .collect()
    }
}

impl Issued {
    /// These notes, at these places of the transaction.
    pub fn new(txid: &[u8], places: &[u16], notes: Vec<Fresh>) -> Self {
        let txid = txid.try_into().expect("the host's txids are 32 bytes");
        let places = places.iter().copied();
        Self {
            notes: places.zip(notes).map(|(i, note)| (txid, i, note)).collect(),
        }
    }

    /// Those that this wallet has asked for, whenever that was. A tweak can be
    /// copied by whoever sees it; the blinded message tells.
    pub fn recognised(issued: &[Issuance]) -> Self {
        let secret = wallet::derive_secret(&[RECOGNISE]);
        let tagged: Vec<_> = issued
            .iter()
            .filter(|issuance| {
                let (random, tagged) = issuance.note.tweak.split_at(8);
                tag(&secret, random) == tagged
            })
            .map(|issuance| {
                (
                    issuance,
                    Fresh::of(issuance.note.exponent, issuance.note.tweak),
                )
            })
            .collect();
        let blindings: Vec<_> = tagged.iter().map(|(_, note)| note.blinding()).collect();
        let own = tagged
            .into_iter()
            .zip(wallet::tbs_blind(&blindings))
            .filter(|((issuance, _), blinded)| issuance.note.blinded_message == *blinded);
        Self {
            notes: own
                .map(|((issuance, note), _)| (issuance.txid, issuance.index, note))
                .collect(),
        }
    }

    /// Where they are.
    pub fn out_points(&self) -> Vec<OutPoint> {
        let out_point = |(txid, index, _): &([u8; 32], u16, Fresh)| OutPoint {
            txid: txid.to_vec(),
            index: *index,
        };
        self.notes.iter().map(out_point).collect()
    }

    /// The notes, from a threshold of guardians' shares; none while there are too
    /// few good ones. Guardians with a bad share are left out.
    pub fn unblind(&self, answers: &[PeerOutcomes]) -> Option<Vec<OwnNote>> {
        let mut usable: Vec<&PeerOutcomes> = answers
            .iter()
            .filter(|answer| {
                answer.outcomes.len() == self.notes.len()
                    && answer.outcomes.iter().all(|share| share.len() == 48)
            })
            .collect();
        while usable.len() >= usize::from(federation::threshold()) {
            let shares = |place: usize| {
                let share = |answer: &&PeerOutcomes| (answer.peer, answer.outcomes[place].clone());
                usable.iter().map(share).collect()
            };
            let signed: Vec<_> = self
                .notes
                .iter()
                .enumerate()
                .map(|(place, (_, _, note))| SignedBlinding {
                    blinding: note.blinding(),
                    shares: shares(place),
                })
                .collect();
            match wallet::tbs_unblind(&signed) {
                Ok(signatures) => {
                    let own = |((_, _, note), signature): (&(_, _, Fresh), [u8; 48])| OwnNote {
                        exponent: note.exponent,
                        tweak: note.tweak,
                        nonce: note.nonce,
                        signature,
                    };
                    return Some(self.notes.iter().zip(signatures).map(own).collect());
                }
                Err(bad) => {
                    let before = usable.len();
                    usable.retain(|answer| !bad.contains(&answer.peer));
                    if usable.len() == before {
                        return None;
                    }
                }
            }
        }
        None
    }
}

impl OwnNote {
    /// With all that somebody else needs to spend it.
    pub fn to_text(&self) -> TextNote {
        TextNote {
            exponent: self.exponent,
            nonce: self.nonce,
            secret: wallet::derive_secret(&path(SPEND, &self.tweak)),
            signature: self.signature,
        }
    }

    /// The input that spends it.
    pub fn input(&self, fee: u64) -> PlannedInput {
        let signer = Signer::Path(path(SPEND, &self.tweak));
        planned(self.exponent, self.nonce, self.signature, fee, signer)
    }
}

impl TextNote {
    /// The input that spends it.
    pub fn input(&self, fee: u64) -> PlannedInput {
        let signer = Signer::Secret(self.secret.to_vec());
        planned(self.exponent, self.nonce, self.signature, fee, signer)
    }
}

fn planned(
    exponent: u8,
    nonce: [u8; 33],
    signature: [u8; 48],
    fee: u64,
    signer: Signer,
) -> PlannedInput {
    let note = Note {
        exponent,
        nonce,
        signature,
    };
    PlannedInput {
        input: borsh::to_vec(&note).expect("writing to memory does not fail"),
        value: value(exponent).expect("only notes of denominations are kept"),
        fee,
        signer,
    }
}

/// A wallet's notes that it can spend.
const STOCK: Table<(u8, [u8; 33]), OwnNote> = Table::new(b'n');
/// How many of each denomination are there, so that nobody walks through all of them.
const COUNTS: Cell<Counts> = Cell::new(b'c');

/// The wallet's notes, by denomination.
pub struct Stock(Counts);

impl Stock {
    /// From storage.
    pub fn load() -> Self {
        Self(COUNTS.get().unwrap_or(NONE))
    }

    /// Counts the notes that are there.
    pub fn count() {
        let mut counts = NONE;
        for ((exponent, _), _) in STOCK.iter() {
            counts[usize::from(exponent)] += 1;
        }
        COUNTS.put(&counts);
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        self.0
    }

    /// Takes so many of each out of the stock, which must be there.
    pub fn take(mut self, counts: &Counts) -> Vec<OwnNote> {
        let mut chosen = Vec::new();
        for exponent in exponents() {
            let count = counts[usize::from(exponent)];
            if count == 0 {
                continue;
            }
            // No nonce is all zeros: these are all of this denomination.
            let taken = STOCK.page(Some(&(exponent, [0; 33])), count);
            for (key, note) in taken {
                STOCK.delete(&key);
                self.0[usize::from(exponent)] -= 1;
                chosen.push(note);
            }
        }
        if !chosen.is_empty() {
            COUNTS.put(&self.0);
        }
        chosen
    }

    /// Puts notes into the stock; those that are there already stay as they are.
    pub fn put<'a>(notes: impl IntoIterator<Item = &'a OwnNote>) {
        let mut counts = Self::load().0;
        for note in notes {
            let key = (note.exponent, note.nonce);
            if !STOCK.contains(&key) {
                STOCK.put(&key, note);
                counts[usize::from(note.exponent)] += 1;
            }
        }
        COUNTS.put(&counts);
    }
}
