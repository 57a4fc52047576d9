//! Writes that are not on disk yet, in layers over a snapshot.
//!
//! The lowest layer is what a run of epochs has changed so far; above it lies a
//! layer for the item at work, which is merged down or thrown away.

use std::{collections::BTreeMap, ops::Bound};

use super::{Pairs, Read, Snapshot, StorageError, Table};

type Values = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// New values by table and key; none deletes.
#[derive(Clone, Debug, Default)]
pub struct Changes(BTreeMap<Table, Values>);

impl Changes {
    /// Every table with its changes.
    pub fn tables(&self) -> impl Iterator<Item = (Table, &Values)> {
        self.0.iter().map(|(table, values)| (*table, values))
    }

    pub(super) fn tables_mut(&mut self) -> impl Iterator<Item = (Table, &mut Values)> {
        self.0.iter_mut().map(|(table, values)| (*table, values))
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeMap::is_empty)
    }

    /// Whether this key changes.
    pub fn contains(&self, table: Table, key: &[u8]) -> bool {
        self.get(table, key).is_some()
    }

    fn set(&mut self, table: Table, key: &[u8], value: Option<Vec<u8>>) {
        self.0.entry(table).or_default().insert(key.to_vec(), value);
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.0.get(&table)?.get(key)
    }

    fn merge(&mut self, above: Self) {
        for (table, values) in above.0 {
            self.0.entry(table).or_default().extend(values);
        }
    }
}

/// A snapshot with layers of changes over it. There is always one layer.
pub struct Overlay {
    base: Snapshot,
    layers: Vec<Changes>,
}

impl Overlay {
    /// Nothing changed yet.
    pub fn new(base: Snapshot) -> Self {
        Self {
            base,
            layers: vec![Changes::default()],
        }
    }

    /// Begins a layer.
    pub fn push(&mut self) {
        self.layers.push(Changes::default());
    }

    /// Ends the topmost layer: its changes become those of the layer below.
    pub fn merge(&mut self) {
        if self.layers.len() > 1
            && let Some(top) = self.layers.pop()
            && let Some(below) = self.layers.last_mut()
        {
            below.merge(top);
        }
    }

    /// Throws away every layer but the lowest.
    pub fn rollback(&mut self) {
        self.layers.truncate(1);
    }

    /// Writes to the topmost layer.
    pub fn put(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        self.top().set(table, key, Some(value));
    }

    /// Deletes in the topmost layer.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.top().set(table, key, None);
    }

    fn top(&mut self) -> &mut Changes {
        self.layers.last_mut().expect("there is always one layer")
    }

    /// All changes, layers merged.
    pub fn into_changes(mut self) -> Changes {
        while self.layers.len() > 1 {
            self.merge();
        }
        self.layers.pop().unwrap_or_default()
    }
}

impl Read for Overlay {
    fn layers(&self) -> (&Snapshot, &[Changes]) {
        (&self.base, &self.layers)
    }
}

/// See [`Read::scan`]; `layers` from the lowest to the topmost.
pub(super) fn scan(
    (base, layers): (&Snapshot, &[Changes]),
    table: Table,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
    max_bytes: usize,
) -> Result<Pairs, StorageError> {
    let after = after.filter(|after| *after >= prefix);
    let from = after.unwrap_or(prefix);
    let start = match after {
        Some(after) => Bound::Excluded(after),
        None => Bound::Included(prefix),
    };
    let mut stored = base.iterate(table, from, after.is_some())?.peekable();
    let mut changed: Vec<_> = layers
        .iter()
        .filter_map(|layer| layer.0.get(&table))
        .map(|values| {
            values
                .range::<[u8], _>((start, Bound::Unbounded))
                .peekable()
        })
        .collect();

    let mut found = Pairs::new();
    let mut bytes = 0;
    while found.len() < limit {
        let in_base = match stored.peek() {
            Some(Ok((key, _))) => Some(key.to_vec()),
            // Taking it out ends the scan with the error.
            Some(Err(_)) => {
                stored.next().transpose()?;
                None
            }
            None => None,
        };
        let next = changed
            .iter_mut()
            .filter_map(|values| values.peek().map(|(key, _)| (*key).clone()))
            .chain(in_base)
            .min();
        let Some(key) = next.filter(|key| key.starts_with(prefix)) else {
            break;
        };
        let mut value = match stored.next_if(|e| e.as_ref().is_ok_and(|(k, _)| **k == *key)) {
            Some(entry) => Some(entry?.1.into_vec()),
            None => None,
        };
        for values in &mut changed {
            if let Some((_, new)) = values.next_if(|(k, _)| **k == key) {
                value.clone_from(new);
            }
        }
        if let Some(value) = value {
            bytes += key.len() + value.len();
            if bytes > max_bytes {
                break;
            }
            found.push((key, value));
        }
    }
    Ok(found)
}
