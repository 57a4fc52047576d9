//! The state root: LtHash sums (Bellare and Micciancio's AdHash over vectors, as
//! in Lewi, Kim, Maykov and Weis, "Securing Update Propagation with Homomorphic
//! Hashing", 2019) over every key and value, in 256 buckets.
//!
//! An element is the 2048 bytes that BLAKE3 makes of a table's name, key and
//! value; a bucket's sum adds its elements as 1024 numbers modulo 2^16, so that
//! a change costs two elements whatever the size of the state. A key's bucket is
//! the first byte of its own hash. The root is BLAKE3 over the hashes of the 256
//! sums in order: whoever has those 8 KiB can check a snapshot bucket by bucket.

use std::{collections::BTreeMap, sync::OnceLock};

use modmint_core::Hash32;

use super::Table;

const LANES: usize = 1024;
const ELEMENT: &str = "modmint 2025 state root element";
const BUCKET: &str = "modmint 2025 state root bucket of a key";
const SUM: &str = "modmint 2025 state root sum of a bucket";
const ROOT: &str = "modmint 2025 state root";

/// The sum of one bucket's elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BucketSum(Box<[u16; LANES]>);

impl Default for BucketSum {
    fn default() -> Self {
        Self(Box::new([0; LANES]))
    }
}

impl BucketSum {
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != 2 * LANES {
            return None;
        }
        let mut sum = Self::default();
        for (lane, pair) in sum.0.iter_mut().zip(bytes.chunks_exact(2)) {
            *lane = u16::from_le_bytes([pair[0], pair[1]]);
        }
        Some(sum)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|lane| lane.to_le_bytes()).collect()
    }

    fn add(&mut self, element: &Self) {
        for (lane, other) in self.0.iter_mut().zip(element.0.iter()) {
            *lane = lane.wrapping_add(*other);
        }
    }

    fn remove(&mut self, element: &Self) {
        for (lane, other) in self.0.iter_mut().zip(element.0.iter()) {
            *lane = lane.wrapping_sub(*other);
        }
    }

    fn hash(&self) -> [u8; 32] {
        blake3::derive_key(SUM, &self.to_bytes())
    }
}

fn hash_key(context: &'static str, table: Table, key: &[u8]) -> blake3::Hasher {
    let name = table.to_string();
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(&[name.len() as u8]);
    hasher.update(name.as_bytes());
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher
}

fn bucket(table: Table, key: &[u8]) -> u8 {
    hash_key(BUCKET, table, key).finalize().as_bytes()[0]
}

fn element(table: Table, key: &[u8], value: &[u8]) -> BucketSum {
    let mut bytes = [0; 2 * LANES];
    hash_key(ELEMENT, table, key)
        .update(&(value.len() as u64).to_le_bytes())
        .update(value)
        .finalize_xof()
        .fill(&mut bytes);
    BucketSum::from_bytes(&bytes).expect("it has the length of a sum")
}

/// All 256 sums and their hashes.
pub(super) struct RootSums {
    sums: Vec<BucketSum>,
    hashes: Vec<[u8; 32]>,
}

impl Default for RootSums {
    fn default() -> Self {
        static EMPTY: OnceLock<[u8; 32]> = OnceLock::new();
        let hash = *EMPTY.get_or_init(|| BucketSum::default().hash());
        Self {
            sums: vec![BucketSum::default(); 256],
            hashes: vec![hash; 256],
        }
    }
}

impl RootSums {
    pub(super) fn set(&mut self, bucket: u8, sum: BucketSum) {
        self.hashes[usize::from(bucket)] = sum.hash();
        self.sums[usize::from(bucket)] = sum;
    }

    pub(super) fn get(&self, bucket: u8) -> &BucketSum {
        &self.sums[usize::from(bucket)]
    }

    pub(super) fn root(&self) -> Hash32 {
        root(&self.hashes)
    }

    /// Sums that change; these stay as they are.
    pub(super) fn update(&self) -> Update<'_> {
        Update {
            before: self,
            changed: BTreeMap::new(),
        }
    }
}

fn root(hashes: &[[u8; 32]]) -> Hash32 {
    Hash32(blake3::derive_key(ROOT, hashes.as_flattened()))
}

/// The sums that some changes lead to.
pub(super) struct Update<'a> {
    before: &'a RootSums,
    changed: BTreeMap<u8, BucketSum>,
}

impl Update<'_> {
    pub(super) fn add(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.sum(table, key).add(&element(table, key, value));
    }

    pub(super) fn remove(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.sum(table, key).remove(&element(table, key, value));
    }

    fn sum(&mut self, table: Table, key: &[u8]) -> &mut BucketSum {
        let bucket = bucket(table, key);
        self.changed
            .entry(bucket)
            .or_insert_with(|| self.before.sums[usize::from(bucket)].clone())
    }

    /// The sums that differ, and the root over all.
    pub(super) fn finish(self) -> (Vec<(u8, BucketSum)>, Hash32) {
        let mut hashes = self.before.hashes.clone();
        for (bucket, sum) in &self.changed {
            hashes[usize::from(*bucket)] = sum.hash();
        }
        (self.changed.into_iter().collect(), root(&hashes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_does_not_depend_on_the_order_of_changes_and_forgets_what_is_removed() {
        let root = |changes: &[(bool, &[u8], &[u8])]| {
            let sums = RootSums::default();
            let mut update = sums.update();
            for (add, key, value) in changes {
                match add {
                    true => update.add(Table::Host, key, value),
                    false => update.remove(Table::Host, key, value),
                }
            }
            update.finish().1
        };
        let one = root(&[(true, b"a", b"1"), (true, b"b", b"2")]);
        assert_eq!(one, root(&[(true, b"b", b"2"), (true, b"a", b"1")]));
        assert_eq!(
            one,
            root(&[
                (true, b"b", b"2"),
                (true, b"c", b"3"),
                (true, b"a", b"1"),
                (false, b"c", b"3"),
            ])
        );
        assert_ne!(one, root(&[(true, b"a", b"2"), (true, b"b", b"1")]));
        assert_ne!(one, root(&[(true, b"a", b"1")]));
        assert_eq!(root(&[]), RootSums::default().root());
    }

    #[test]
    fn a_value_in_another_table_is_another_value() {
        let root = |table| {
            let sums = RootSums::default();
            let mut update = sums.update();
            update.add(table, b"key", b"value");
            update.finish().1
        };
        let instance = |id| Table::Instance(modmint_core::InstanceId(id));
        assert_ne!(root(Table::Host), root(instance(0)));
        assert_ne!(root(instance(0)), root(instance(1)));
    }
}
