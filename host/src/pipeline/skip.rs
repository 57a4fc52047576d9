//! Items that guardians have agreed to pass over.
//!
//! Whatever an item does, it is refused for; it stops no guardian. Should a bug make
//! one stop them none the less, they can agree to skip it: each operator puts a line
//! into the guardian's configuration, and the hash of the list is in every session's
//! header, so that nothing is final before n − f guardians have the same one.

use std::{collections::BTreeSet, str::FromStr};

use modmint_core::{Hash32, tagged_hash};
use serde::{Deserialize, Serialize};

use super::state::encode;

/// Items by the SHA-256 of their bytes, each with the session from which on it is
/// passed over: what was final before does not change. As text `SESSION:HASH`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct SkipList(BTreeSet<(u64, Hash32)>);

/// A line that names no item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no item to be skipped; a session's number, a colon and 64 hexadecimal digits are expected"
)]
pub struct ParseSkipError(String);

impl TryFrom<Vec<String>> for SkipList {
    type Error = ParseSkipError;

    fn try_from(lines: Vec<String>) -> Result<Self, ParseSkipError> {
        let entry = |line: &String| {
            let (session, item) = line.split_once(':')?;
            Some((session.parse().ok()?, Hash32::from_str(item).ok()?))
        };
        lines
            .iter()
            .map(|line| entry(line).ok_or_else(|| ParseSkipError(line.clone())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl From<SkipList> for Vec<String> {
    fn from(list: SkipList) -> Self {
        let entries = list.0.into_iter();
        entries
            .map(|(session, item)| format!("{session}:{item}"))
            .collect()
    }
}

impl SkipList {
    /// Whether nothing is skipped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the header of a session says: a hash of the entries that count in it.
    pub(super) fn hash(&self, session: u64) -> Hash32 {
        let entries: Vec<_> = self.0.iter().filter(|entry| entry.0 <= session).collect();
        Hash32(tagged_hash("modmint/skip-list", &[&encode(&entries)]))
    }

    /// Whether an item, by its hash, is passed over in a session.
    pub(super) fn skips(&self, session: u64, item: &[u8; 32]) -> bool {
        self.0
            .iter()
            .any(|(from, skipped)| *from <= session && skipped.0 == *item)
    }

    /// Whether an item is in the list at all: then it is not run ahead.
    pub(super) fn names(&self, item: &[u8; 32]) -> bool {
        self.skips(u64::MAX, item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_lines_of_session_and_hash_and_nothing_else() {
        let lines = vec![
            format!("12:{}", Hash32([7; 32])),
            format!("3:{}", Hash32([8; 32])),
        ];
        let list = SkipList::try_from(lines.clone()).expect("a list");
        assert!(list.skips(12, &[7; 32]) && !list.skips(11, &[7; 32]));
        assert!(list.names(&[8; 32]) && !list.names(&[9; 32]));
        let sorted: Vec<String> = list.into();
        assert_eq!(sorted, [lines[1].clone(), lines[0].clone()]);
        for wrong in ["", "12", "12:", "x:00", &format!("-1:{}", Hash32([7; 32]))] {
            assert!(
                SkipList::try_from(vec![wrong.to_owned()]).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_session_s_hash_depends_on_the_entries_that_count_in_it_and_not_on_their_order() {
        let line = |session: u64, item: u8| format!("{session}:{}", Hash32([item; 32]));
        let list = |lines: &[String]| SkipList::try_from(lines.to_vec()).expect("a list");
        let (early, late) = (line(3, 1), line(9, 2));
        let both = list(&[late.clone(), early.clone()]);
        let only_early = list(std::slice::from_ref(&early));
        assert_eq!(both, list(&[early, late]));
        assert_eq!(both.hash(2), SkipList::default().hash(2));
        assert_eq!(both.hash(8), only_early.hash(8));
        assert_ne!(both.hash(9), only_early.hash(9));
    }
}
