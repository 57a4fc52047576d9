//! What a guardian keeps on disk.
//!
//! One RocksDB with two kinds of column families. `consensus/host` and
//! `consensus/<instance>` hold what consensus has made, the same on every
//! guardian, and nothing else: all of it, and only it, is in the state root.
//! `local` is this guardian's own: the sums behind the root, how far it has got,
//! ordered units for peers that fell behind, headers.
//!
//! Here are bytes under keys: layered overlays ([`Overlay`]), snapshots
//! ([`Snapshot`]), the state root, and the one atomic write of an epoch. What the
//! keys mean is the pipeline's business.

mod check;
mod overlay;
mod root;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    path::Path,
    sync::Arc,
};

use modmint_core::{Hash32, InstanceId, config::FederationConfig};
use parking_lot::Mutex;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Direction, IteratorMode, Options,
    WriteBatch, WriteOptions,
};

pub use check::{CheckReport, check_database};
pub use overlay::{Changes, Overlay};
use root::{BucketSum, RootSums};

/// Why storage could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The disk, or RocksDB.
    #[error("the database failed: {0}")]
    RocksDb(#[from] rocksdb::Error),
    /// What is stored is not what this program writes.
    #[error("the database holds something that cannot be read: {0}")]
    Corrupt(String),
    /// It was deleted to make room.
    #[error("{0} is not kept any more")]
    NotKept(String),
    /// A table that this database was not opened with.
    #[error("the database has no table {0}")]
    NoTable(String),
}

/// One of the tables whose contents are agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The host's own.
    Host,
    /// A module instance's.
    Instance(InstanceId),
}

impl Table {
    const PREFIX: &str = "consensus/";

    fn from_name(name: &str) -> Option<Self> {
        match name.strip_prefix(Self::PREFIX)? {
            "host" => Some(Self::Host),
            number => number.parse().ok().map(|id| Self::Instance(InstanceId(id))),
        }
    }
}

/// The name of the table's column family.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => write!(f, "{}host", Self::PREFIX),
            Self::Instance(id) => write!(f, "{}{id}", Self::PREFIX),
        }
    }
}

/// The column family of what is this guardian's own.
const LOCAL: &str = "local";

/// The sum of a bucket stands in `local` under this and the bucket's number, as it
/// was when sums were last written; one that is missing is all zeros.
const SUM_PREFIX: &[u8] = b"sum/";

/// A key that has changed since stands under this, its table's name and a zero, with
/// the value that it had then: together with what is there now that makes the sum.
const FORMER_PREFIX: &[u8] = b"was/";

/// The state root behind the last commit.
const ROOT: &[u8] = b"root";

/// Sums are written when more keys than these have changed: a sum is 2 KiB, and a
/// transaction changes a dozen of them.
const MAX_CHANGED: usize = if cfg!(test) { 8 } else { 4096 };

/// WAL files are recycled when they are as large as this together: tables that
/// are seldom written would otherwise keep all of them.
const MAX_WAL_BYTES: u64 = 256 << 20;
/// The longest table in memory is written to the disk when all are as long as this
/// together: each alone may be 64 MiB.
const MAX_UNWRITTEN_BYTES: usize = 24 << 20;

/// A key and a value from the disk.
type Entry = Result<(Box<[u8]>, Box<[u8]>), StorageError>;

/// Keys and values.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What can be read: a snapshot, or an overlay on one.
pub trait Read {
    /// The value under `key`.
    ///
    /// # Errors
    /// If the disk fails.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let (snapshot, layers) = self.layers();
        match layers.iter().rev().find_map(|l| l.get(table, key)) {
            Some(value) => Ok(value.clone()),
            None => snapshot.stored(table, key),
        }
    }

    /// Ascending, keys that begin with `prefix` and are greater than `after`, at
    /// most `limit` of them and at most `max_bytes` of keys and values.
    ///
    /// # Errors
    /// If the disk fails.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Pairs, StorageError> {
        overlay::scan(self.layers(), table, prefix, after, limit, max_bytes)
    }

    /// What is read: a snapshot, and changes over it, the topmost last.
    #[doc(hidden)]
    fn layers(&self) -> (&Snapshot, &[Changes]);
}

/// Writes to `local`; none deletes.
#[derive(Debug, Default)]
pub struct LocalChanges {
    values: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Half-open ranges that are deleted.
    deleted_ranges: Vec<(Vec<u8>, Vec<u8>)>,
}

impl LocalChanges {
    /// Writes a value.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: Vec<u8>) {
        self.values.insert(key.into(), Some(value));
    }

    /// Deletes a value.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.values.insert(key.into(), None);
    }

    /// Deletes all from `from` on and before `to`.
    pub fn delete_range(&mut self, from: Vec<u8>, to: Vec<u8>) {
        self.deleted_ranges.push((from, to));
    }
}

/// When a commit is as good as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The process may be killed; a power cut may lose it.
    Process,
    /// It is on the disk, and all that was committed before.
    Disk,
}

/// Changes and the state root that they lead to, not yet written.
#[derive(Debug)]
pub struct Staged {
    changes: Changes,
    /// Under [`former_key`], what the changed keys have had so far.
    former: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    sums: Vec<(u8, BucketSum)>,
    root: Hash32,
}

impl Staged {
    /// The state root once this is committed.
    pub fn root(&self) -> Hash32 {
        self.root
    }

    /// What is to be written.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }
}

/// A guardian's database. Everyone may read; there is one writer to `consensus/*`,
/// the pipeline.
pub struct Database {
    db: Arc<DB>,
    tables: Vec<Table>,
    sums: Mutex<Sums>,
}

/// The sums as they are, and how they differ from those on the disk.
struct Sums {
    now: RootSums,
    /// The [`former_key`]s that are on the disk.
    changed: HashSet<Vec<u8>>,
    /// Buckets whose sums on the disk are not those of now.
    buckets: BTreeSet<u8>,
}

impl Database {
    /// Opens the database in the folder `path`, or makes it, with a table for each
    /// of the config's instances.
    ///
    /// # Errors
    /// If it is in use, damaged, or the disk fails.
    pub fn open(path: &Path, config: &FederationConfig) -> Result<Arc<Self>, StorageError> {
        let mut names = vec![LOCAL.to_owned(), Table::Host.to_string()];
        let instances = config.instances.iter();
        names.extend(instances.map(|instance| Table::Instance(instance.id).to_string()));
        for name in existing_families(path)? {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let database = Self::open_families(path, names, true)?;
        let (kept, root) = (database.kept_root()?, database.state_root());
        if kept != root {
            return Err(StorageError::Corrupt(format!(
                "the state root is {root}, it was {kept}; `modmintd check` says more"
            )));
        }
        Ok(Arc::new(database))
    }

    /// Opens a database that is there, with all its tables.
    fn open_existing(path: &Path) -> Result<Self, StorageError> {
        let names = DB::list_cf(&Options::default(), path)?;
        Self::open_families(path, names, false)
    }

    fn open_families(path: &Path, names: Vec<String>, create: bool) -> Result<Self, StorageError> {
        let families = names
            .iter()
            .map(|name| ColumnFamilyDescriptor::new(name, family_options()));
        let db = DB::open_cf_descriptors(&database_options(create), path, families)?;
        let tables = names.iter().filter_map(|name| Table::from_name(name));
        Self::with(db, tables.collect())
    }

    fn with(db: DB, tables: Vec<Table>) -> Result<Self, StorageError> {
        let db = Arc::new(db);
        let mut sums = Sums {
            now: RootSums::default(),
            changed: HashSet::new(),
            buckets: BTreeSet::new(),
        };
        let own = family(&db, LOCAL)?;
        for bucket in 0..=u8::MAX {
            if let Some(bytes) = db.get_cf(own, sum_key(bucket))? {
                let sum = BucketSum::from_bytes(&bytes)
                    .ok_or_else(|| StorageError::Corrupt(format!("the sum of bucket {bucket}")))?;
                sums.now.set(bucket, sum);
            }
        }
        let mut update = sums.now.update();
        for entry in db.iterator_cf(own, IteratorMode::From(FORMER_PREFIX, Direction::Forward)) {
            let (former_key, former) = entry?;
            let Some((table, key)) = changed_key(&former_key) else {
                break;
            };
            let corrupt = || StorageError::Corrupt(format!("a former value in {table}"));
            let former: Option<Vec<u8>> = borsh::from_slice(&former).map_err(|_| corrupt())?;
            if let Some(former) = former {
                update.remove(table, key, &former);
            }
            if let Some(now) = db.get_cf(family(&db, &table.to_string())?, key)? {
                update.add(table, key, &now);
            }
            sums.changed.insert(former_key.into_vec());
        }
        let (changed, _) = update.finish();
        sums.set(changed);
        Ok(Self {
            db,
            tables,
            sums: Mutex::new(sums),
        })
    }

    /// All tables as they are now, unchanged by what is committed later.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(Arc::new(SnapshotCell::new(self.db.clone(), |db| {
            db.snapshot()
        })))
    }

    /// All tables of `consensus/*`.
    fn tables(&self) -> impl Iterator<Item = Table> {
        self.tables.iter().copied()
    }

    /// The root over all of `consensus/*`.
    pub fn state_root(&self) -> Hash32 {
        self.sums.lock().now.root()
    }

    /// What that was when it was last written.
    fn kept_root(&self) -> Result<Hash32, StorageError> {
        match self.local(ROOT)? {
            None => Ok(RootSums::default().root()),
            Some(bytes) => Hash32::try_from(bytes.as_slice())
                .map_err(|_| StorageError::Corrupt("the state root".to_owned())),
        }
    }

    /// Works out what `changes` make of the state root. Changes that change
    /// nothing are left out.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn stage(&self, mut changes: Changes) -> Result<Staged, StorageError> {
        let sums = self.sums.lock();
        let mut update = sums.now.update();
        let mut former = Vec::new();
        for (table, values) in changes.tables_mut() {
            let family = family(&self.db, &table.to_string())?;
            let mut unchanged = Vec::new();
            for (key, new) in values.iter() {
                let old = self.db.get_pinned_cf(family, key)?;
                if old.as_deref() == new.as_deref() {
                    unchanged.push(key.clone());
                    continue;
                }
                if let Some(old) = &old {
                    update.remove(table, key, old);
                }
                if let Some(new) = new {
                    update.add(table, key, new);
                }
                let former_key = former_key(table, key);
                if !sums.changed.contains(&former_key) {
                    former.push((former_key, old.map(|old| old.to_vec())));
                }
            }
            for key in unchanged {
                values.remove(&key);
            }
        }
        let (sums, root) = update.finish();
        Ok(Staged {
            changes,
            former,
            sums,
            root,
        })
    }

    /// Writes what was staged, and `local` with it, all or nothing.
    ///
    /// # Errors
    /// If the disk fails; nothing is written then.
    pub fn commit(
        &self,
        staged: Staged,
        local: LocalChanges,
        durability: Durability,
    ) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        for (table, values) in staged.changes.tables() {
            let family = family(&self.db, &table.to_string())?;
            for (key, value) in values {
                match value {
                    Some(value) => batch.put_cf(family, key, value),
                    None => batch.delete_cf(family, key),
                }
            }
        }
        let own = family(&self.db, LOCAL)?;
        batch.put_cf(own, ROOT, staged.root);
        let mut sums = self.sums.lock();
        let writes_sums = sums.changed.len() + staged.former.len() > MAX_CHANGED;
        if writes_sums {
            let new: BTreeMap<_, _> = staged.sums.iter().map(|(b, sum)| (*b, sum)).collect();
            let before = sums.buckets.iter().filter(|b| !new.contains_key(b));
            for (bucket, sum) in before.map(|b| (*b, sums.now.get(*b))).chain(new.clone()) {
                batch.put_cf(own, sum_key(bucket), sum.to_bytes());
            }
            for former_key in &sums.changed {
                batch.delete_cf(own, former_key);
            }
        } else {
            for (former_key, former) in &staged.former {
                let former = borsh::to_vec(former).expect("writing to memory does not fail");
                batch.put_cf(own, former_key, former);
            }
        }
        add_local(&mut batch, own, &local);
        self.write(batch, durability)?;
        sums.set(staged.sums);
        if writes_sums {
            sums.changed.clear();
            sums.buckets.clear();
        } else {
            let former = staged.former.into_iter();
            sums.changed
                .extend(former.map(|(former_key, _)| former_key));
        }
        Ok(())
    }

    /// Writes to `local` alone.
    ///
    /// # Errors
    /// If the disk fails; nothing is written then.
    pub fn commit_local(
        &self,
        local: LocalChanges,
        durability: Durability,
    ) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        add_local(&mut batch, family(&self.db, LOCAL)?, &local);
        self.write(batch, durability)
    }

    /// The value under `key` in `local`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn local(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.db.get_cf(family(&self.db, LOCAL)?, key)?)
    }

    fn write(&self, batch: WriteBatch, durability: Durability) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Disk);
        Ok(self.db.write_opt(batch, &options)?)
    }
}

fn add_local(batch: &mut WriteBatch, own: &ColumnFamily, local: &LocalChanges) {
    for (from, to) in &local.deleted_ranges {
        batch.delete_range_cf(own, from, to);
    }
    for (key, value) in &local.values {
        match value {
            Some(value) => batch.put_cf(own, key, value),
            None => batch.delete_cf(own, key),
        }
    }
}

impl Sums {
    /// These are the sums from now on, in memory.
    fn set(&mut self, sums: Vec<(u8, BucketSum)>) {
        for (bucket, sum) in sums {
            self.buckets.insert(bucket);
            self.now.set(bucket, sum);
        }
    }
}

fn former_key(table: Table, key: &[u8]) -> Vec<u8> {
    [FORMER_PREFIX, table.to_string().as_bytes(), &[0], key].concat()
}

/// Which key a [`former_key`] is of; none if it is none.
fn changed_key(former_key: &[u8]) -> Option<(Table, &[u8])> {
    let rest = former_key.strip_prefix(FORMER_PREFIX)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let table = Table::from_name(std::str::from_utf8(&rest[..end]).ok()?)?;
    Some((table, &rest[end + 1..]))
}

fn sum_key(bucket: u8) -> Vec<u8> {
    [SUM_PREFIX, &[bucket]].concat()
}

fn family<'a>(db: &'a DB, name: &str) -> Result<&'a ColumnFamily, StorageError> {
    db.cf_handle(name)
        .ok_or_else(|| StorageError::NoTable(name.to_owned()))
}

fn existing_families(path: &Path) -> Result<Vec<String>, StorageError> {
    if path.join("CURRENT").exists() {
        Ok(DB::list_cf(&Options::default(), path)?)
    } else {
        Ok(Vec::new())
    }
}

fn database_options(create: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    options.set_max_total_wal_size(MAX_WAL_BYTES);
    options.set_db_write_buffer_size(MAX_UNWRITTEN_BYTES);
    options.set_keep_log_file_num(4);
    options
}

fn family_options() -> Options {
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    // Most questions are for what is not there: a nonce that was never spent, a new
    // transaction's fate. A filter says so without a search of the list in memory.
    options.set_memtable_prefix_bloom_ratio(0.01);
    options.set_memtable_whole_key_filtering(true);
    options
}

type RocksSnapshot<'a> = rocksdb::SnapshotWithThreadMode<'a, DB>;

self_cell::self_cell!(
    struct SnapshotCell {
        owner: Arc<DB>,
        #[covariant]
        dependent: RocksSnapshot,
    }
);

/// All tables as they were at one moment, the end of an epoch. Cheap to clone;
/// RocksDB keeps old values for as long as one lives.
#[derive(Clone)]
pub struct Snapshot(Arc<SnapshotCell>);

impl Snapshot {
    fn iterate(
        &self,
        table: Table,
        from: &[u8],
        from_excluded: bool,
    ) -> Result<impl Iterator<Item = Entry> + '_, StorageError> {
        let family = family(self.0.borrow_owner(), &table.to_string())?;
        let mode = IteratorMode::From(from, Direction::Forward);
        let excluded = from_excluded.then(|| from.to_vec());
        Ok(self
            .0
            .borrow_dependent()
            .iterator_cf(family, mode)
            .map(|entry| entry.map_err(StorageError::from))
            .skip_while(move |entry| match (entry, &excluded) {
                (Ok((key, _)), Some(excluded)) => key.as_ref() == excluded.as_slice(),
                _ => false,
            }))
    }

    fn stored(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let family = family(self.0.borrow_owner(), &table.to_string())?;
        Ok(self.0.borrow_dependent().get_cf(family, key)?)
    }

    /// Every key and value of the table, ascending.
    fn all(&self, table: Table) -> Result<impl Iterator<Item = Entry> + '_, StorageError> {
        self.iterate(table, &[], false)
    }
}

impl Read for Snapshot {
    fn layers(&self) -> (&Snapshot, &[Changes]) {
        (self, &[])
    }
}

#[cfg(test)]
mod tests;
