//! Typed places in the module's storage.
//!
//! A module declares its tables as constants, each with a prefix byte of its own:
//!
//! ```
//! use modmint_sdk::storage::{Cell, Table};
//!
//! const TOTAL: Cell<u64> = Cell::new(0x01);
//! const OWNERS: Table<[u8; 32], String> = Table::new(0x02);
//! ```
//!
//! Keys keep their order as bytes, so that a walk is ascending; values are borsh.
//! A value that does not decode is a bug of the module, and a trap.

use core::marker::PhantomData;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::{ChainOutPoint, OutPoint, encoding, host::raw_storage};

/// What can be the key of a [`Table`]. The encoding keeps the order, and none is
/// the beginning of another.
pub trait Key: Sized {
    /// Appends the key's bytes.
    fn write(&self, bytes: &mut Vec<u8>);
    /// Takes a key off the front of `bytes`; none where there is none.
    fn read(bytes: &mut &[u8]) -> Option<Self>;
}

macro_rules! number_keys {
    ($($number:ty),*) => {$(
        impl Key for $number {
            fn write(&self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_be_bytes());
            }
            fn read(bytes: &mut &[u8]) -> Option<Self> {
                Key::read(bytes).map(Self::from_be_bytes)
            }
        }
    )*};
}
number_keys!(u8, u16, u32, u64);

impl<const N: usize> Key for [u8; N] {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (key, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*key)
    }
}

impl<A: Key, B: Key> Key for (A, B) {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.0.write(bytes);
        self.1.write(bytes);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::read(bytes)?, B::read(bytes)?))
    }
}

/// Transaction id, then index; ids are as long as the contract says.
impl Key for OutPoint {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(&self.txid);
        self.index.write(bytes);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (txid, index) = <([u8; 32], u16)>::read(bytes)?;
        Some(Self {
            txid: txid.to_vec(),
            index,
        })
    }
}

/// Transaction id in internal byte order, then index.
impl Key for ChainOutPoint {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(&self.txid);
        self.vout.write(bytes);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (txid, vout) = <([u8; 32], u32)>::read(bytes)?;
        Some(Self {
            txid: txid.to_vec(),
            vout,
        })
    }
}

/// One value.
pub struct Cell<V> {
    prefix: u8,
    value: PhantomData<V>,
}

impl<V: BorshSerialize + BorshDeserialize> Cell<V> {
    /// The value under this prefix, which nothing else may use.
    pub const fn new(prefix: u8) -> Self {
        Self {
            prefix,
            value: PhantomData,
        }
    }
    /// The value, if it has been written.
    pub fn get(&self) -> Option<V> {
        raw_storage::get(&self.key()).map(|bytes| encoding::decode_own("a stored value", &bytes))
    }
    /// Writes the value.
    pub fn put(&self, value: &V) {
        raw_storage::put(&self.key(), &encoding::encode(value));
    }
    /// Forgets it.
    pub fn delete(&self) {
        raw_storage::delete(&self.key());
    }
    /// The key as bytes, for `Wake::Key`.
    pub fn key(&self) -> Vec<u8> {
        vec![self.prefix]
    }
}

/// Values by key.
pub struct Table<K, V> {
    prefix: u8,
    kinds: PhantomData<(K, V)>,
}

/// How many entries one host call brings in a walk.
const PAGE: u32 = 256;

impl<K: Key, V: BorshSerialize + BorshDeserialize> Table<K, V> {
    /// The table under this prefix, which nothing else may use.
    pub const fn new(prefix: u8) -> Self {
        Self {
            prefix,
            kinds: PhantomData,
        }
    }
    /// The value under `key`.
    pub fn get(&self, key: &K) -> Option<V> {
        raw_storage::get(&self.key(key)).map(|bytes| encoding::decode_own("a stored value", &bytes))
    }
    /// Whether there is one.
    pub fn contains(&self, key: &K) -> bool {
        raw_storage::get(&self.key(key)).is_some()
    }
    /// Writes a value.
    pub fn put(&self, key: &K, value: &V) {
        raw_storage::put(&self.key(key), &encoding::encode(value));
    }
    /// Forgets one.
    pub fn delete(&self, key: &K) {
        raw_storage::delete(&self.key(key));
    }
    /// The key as bytes, for `Wake::Key`.
    pub fn key(&self, key: &K) -> Vec<u8> {
        // Most keys fit: to allocate is dear.
        let mut bytes = Vec::with_capacity(64);
        bytes.push(self.prefix);
        key.write(&mut bytes);
        bytes
    }
    /// All entries, ascending, fetched page by page.
    pub fn iter(&self) -> impl Iterator<Item = (K, V)> + use<K, V> {
        let prefix = self.prefix;
        let mut after: Option<Vec<u8>> = None;
        let mut page = Vec::<(Vec<u8>, Vec<u8>)>::new().into_iter();
        let mut more = true;
        core::iter::from_fn(move || {
            loop {
                if let Some((key, value)) = page.next() {
                    return Some(Self::entry(&key, &value));
                }
                if !more {
                    return None;
                }
                let entries = raw_storage::scan(&[prefix], after.as_deref(), PAGE);
                // A page may be short because it is full of bytes: only an empty
                // one ends the walk.
                more = !entries.is_empty();
                after = entries.last().map(|(key, _)| key.clone());
                page = entries.into_iter();
            }
        })
    }

    /// Entries behind `after`, or from the first, ascending: at most `limit` of
    /// them, and at least one if there is one.
    pub fn page(&self, after: Option<&K>, limit: u32) -> Vec<(K, V)> {
        let after = after.map(|key| self.key(key));
        raw_storage::scan(&[self.prefix], after.as_deref(), limit)
            .iter()
            .map(|(key, value)| Self::entry(key, value))
            .collect()
    }

    fn entry(key: &[u8], value: &[u8]) -> (K, V) {
        let mut rest = &key[1..];
        let read = K::read(&mut rest).filter(|_| rest.is_empty());
        (
            read.expect("a table holds only keys that it wrote"),
            encoding::decode_own("a stored value", value),
        )
    }
}
