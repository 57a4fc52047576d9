//! Notes as text: what one person hands to another.
//!
//! bech32m (BIP 350, without its limit of 90 characters) of a borsh encoding. The
//! prefix carries the version: `modmintnotes0`. Whoever has the text can spend
//! the notes, and whoever spends them first has them.

use bech32::{Bech32m, Hrp, primitives::decode::CheckedHrpstring};
use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::Refusal;

use crate::{selection::MOST_SENT, value};

const PREFIX: Hrp = Hrp::parse_unchecked("modmintnotes0");

/// Room for 80 notes and an invite.
const MOST_CHARACTERS: usize = 20_000;

enum LongBech32m {}

impl bech32::Checksum for LongBech32m {
    type MidstateRepr = <Bech32m as bech32::Checksum>::MidstateRepr;
    const CODE_LENGTH: usize = MOST_CHARACTERS;
    const CHECKSUM_LENGTH: usize = Bech32m::CHECKSUM_LENGTH;
    const GENERATOR_SH: [Self::MidstateRepr; 5] = Bech32m::GENERATOR_SH;
    const TARGET_RESIDUE: Self::MidstateRepr = Bech32m::TARGET_RESIDUE;
}

/// A note with all that it takes to spend it.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct TextNote {
    /// The denomination is 2 to this.
    pub exponent: u8,
    /// Its number.
    pub nonce: [u8; 33],
    /// The secret key of which the nonce is the public one.
    pub secret: [u8; 32],
    /// The guardians' signature over the nonce.
    pub signature: [u8; 48],
}

/// Secrets do not belong into logs.
impl core::fmt::Debug for TextNote {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "TextNote(2^{} msat)", self.exponent)
    }
}

/// Notes of one federation.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Notes {
    /// Whose.
    pub federation: [u8; 32],
    /// For a receiver who has not joined.
    pub invite: Option<String>,
    /// One or more, at most 80.
    pub notes: Vec<TextNote>,
}

/// Text that holds no notes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadNotes(String);

impl From<BadNotes> for Refusal {
    fn from(BadNotes(why): BadNotes) -> Self {
        Self::new(
            "bad-notes",
            format!("these are no notes ({why}); notes begin with {PREFIX}1"),
        )
    }
}

impl Notes {
    /// What the notes are worth together; none if a denomination does not exist.
    pub fn amount(&self) -> Option<u64> {
        self.notes
            .iter()
            .try_fold(0u64, |sum, note| sum.checked_add(value(note.exponent)?))
    }

    /// As text.
    pub fn encode(&self) -> String {
        let bytes = borsh::to_vec(self).expect("writing to memory does not fail");
        bech32::encode::<LongBech32m>(PREFIX, &bytes)
            .expect("at most 80 notes and an invite fit into the text")
    }

    /// From text.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(text: &str) -> Result<Self, BadNotes> {
        let text = text.trim();
        let checked = CheckedHrpstring::new::<LongBech32m>(text)
            .map_err(|error| BadNotes(error.to_string()))?;
        if checked.hrp() != PREFIX {
            return Err(BadNotes(format!("they begin with {}", checked.hrp())));
        }
        let bytes: Vec<u8> = checked.byte_iter().collect();
        let notes: Self = borsh::from_slice(&bytes).map_err(|error| BadNotes(error.to_string()))?;
        notes.check()?;
        Ok(notes)
    }

    fn check(&self) -> Result<(), BadNotes> {
        if self.notes.is_empty() || self.notes.len() > MOST_SENT as usize {
            return Err(BadNotes(format!(
                "{} notes; 1 to {MOST_SENT} are expected",
                self.notes.len()
            )));
        }
        let mut nonces: Vec<_> = self.notes.iter().map(|note| note.nonce).collect();
        nonces.sort_unstable();
        nonces.dedup();
        if nonces.len() < self.notes.len() {
            return Err(BadNotes("a note is there twice".into()));
        }
        match self.amount() {
            Some(_) => Ok(()),
            None => Err(BadNotes("there is no such denomination".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(number: usize) -> Notes {
        let note = |place| TextNote {
            exponent: (place % 42) as u8,
            nonce: [place as u8; 33],
            secret: [7; 32],
            signature: [9; 48],
        };
        Notes {
            federation: [1; 32],
            invite: Some("modmint1".repeat(100)),
            notes: (0..number).map(note).collect(),
        }
    }

    #[test]
    fn as_many_notes_as_are_ever_sent_survive_being_text() {
        let notes = notes(MOST_SENT as usize);
        let text = notes.encode();
        assert!(text.starts_with("modmintnotes01"), "{text}");
        assert_eq!(Notes::decode(&text), Ok(notes));
    }

    #[test]
    fn a_changed_character_is_found() {
        let mut text = notes(3).encode().into_bytes();
        text[100] = if text[100] == b'q' { b'p' } else { b'q' };
        let text = String::from_utf8(text).expect("still ascii");
        let refusal = Refusal::from(Notes::decode(&text).expect_err("the checksum is wrong"));
        assert!(refusal.message.contains("modmintnotes01"), "{refusal:?}");
    }

    #[test]
    fn no_notes_too_many_or_one_twice_are_refused() {
        assert!(Notes::decode(&notes(0).encode()).is_err());
        assert!(Notes::decode(&notes(81).encode()).is_err());
        let mut twice = notes(2);
        twice.notes[1].nonce = twice.notes[0].nonce;
        assert!(Notes::decode(&twice.encode()).is_err());
        let mut unknown = notes(1);
        unknown.notes[0].exponent = 42;
        assert!(Notes::decode(&unknown.encode()).is_err());
    }
}
