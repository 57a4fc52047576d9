//! What the wallet keeps on disk: one RocksDB, held by one process at a time.
//!
//! Two column families. `wallet` has what the host knows: federations and
//! operations. `modules` has what modules wrote, each key behind federation and
//! instance. Every write is one batch that is on disk when it returns; between
//! writes nothing is kept that a crash may not take.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use modmint_core::{FederationId, InstanceId};
use parking_lot::Mutex;
use rocksdb::{DB, Direction, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions};

use crate::{WalletError, deletions};

/// Ends the process right behind the n-th durable write, as a crash would: for
/// tests that kill the wallet at each of its crash points.
pub const CRASH_VARIABLE: &str = "MODMINT_CRASH_AFTER_WRITE";

const WALLET: &str = "wallet";
const MODULES: &str = "modules";

/// A key and its value.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);

/// Holds the wallet's directory for this process until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: fs::File,
}

impl Lock {
    /// Takes the directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`WalletError::Held`], naming the process that has it.
    pub fn take(directory: &Path) -> Result<Self, WalletError> {
        // E-cash is money in a file: others have no business here.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| WalletError::disk(format!("making {}", directory.display()), e))?;
        let path = directory.join("lock");
        let disk = |e| WalletError::disk(format!("opening {}", path.display()), e);
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(disk)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Says who it is on its best day; the lock itself is the truth.
                let known = (&mut file).take(64).read_to_string(&mut holder).is_ok()
                    && holder.trim().parse::<u32>().is_ok();
                return Err(WalletError::Held {
                    directory: directory.to_owned(),
                    holder: if known {
                        format!("process {}", holder.trim())
                    } else {
                        "another process".to_owned()
                    },
                });
            }
            Err(fs::TryLockError::Error(e)) => return Err(disk(e)),
        }
        let write = |file: &mut fs::File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(disk)?;
        Ok(Self { _file: file })
    }
}

/// Makes the entry of `path` in its directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), WalletError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| WalletError::disk(format!("syncing {}", directory.display()), e))
}

/// Writes to be made together. `None` deletes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    wallet: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    modules: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Batch {
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.wallet.insert(key, Some(value));
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.wallet.insert(key, None);
    }

    pub(crate) fn modules(&mut self, writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        self.modules.extend(writes);
    }
}

/// See the module.
pub(crate) struct Database {
    db: DB,
    writes: AtomicU64,
    crash_after: Option<u64>,
    /// RocksDB's own lock names no holder and comes later than ours.
    _lock: Lock,
}

impl Database {
    pub(crate) fn open(directory: &Path, lock: Lock) -> Result<Self, WalletError> {
        let path: PathBuf = directory.join("db");
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_open_files(64);
        options.set_keep_log_file_num(2);
        options.set_write_buffer_size(8 << 20);
        deletions::compact(&mut options);
        let families = [WALLET, MODULES];
        let with_options = families.map(|name| (name, options.clone()));
        let disk = |e| WalletError::disk(format!("opening {}", path.display()), e);
        let db = DB::open_cf_with_opts(&options, &path, with_options).map_err(disk)?;
        for name in families {
            let family = db.cf_handle(name).expect("it was opened with it");
            db.set_options_cf(family, &deletions::FLUSH).map_err(disk)?;
        }
        let crash_after = std::env::var(CRASH_VARIABLE)
            .ok()
            .map(|n| {
                n.parse().map_err(|_| {
                    WalletError::Usage(format!("{CRASH_VARIABLE} is {n:?}; a number is expected"))
                })
            })
            .transpose()?;
        Ok(Self {
            db,
            writes: AtomicU64::new(0),
            crash_after,
            _lock: lock,
        })
    }

    fn family(&self, name: &str) -> &rocksdb::ColumnFamily {
        self.db
            .cf_handle(name)
            .expect("open makes both column families")
    }

    fn read(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, WalletError> {
        self.db
            .get_cf(self.family(family), key)
            .map_err(|e| WalletError::disk("reading the wallet's database", e))
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, WalletError> {
        self.read(WALLET, key)
    }

    /// All keys that begin with `prefix`, ascending, or descending.
    pub(crate) fn list(
        &self,
        prefix: &[u8],
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<Entry>, WalletError> {
        let mode = if newest_first {
            IteratorMode::End
        } else {
            IteratorMode::Start
        };
        self.range(prefix, after_prefix(prefix), mode, limit)
    }

    /// As [`Self::list`], descending, those keys alone that are less than `below`.
    pub(crate) fn list_below(
        &self,
        prefix: &[u8],
        below: Vec<u8>,
        limit: usize,
    ) -> Result<Vec<Entry>, WalletError> {
        self.range(prefix, Some(below), IteratorMode::End, limit)
    }

    fn range(
        &self,
        from: &[u8],
        end: Option<Vec<u8>>,
        mode: IteratorMode<'_>,
        limit: usize,
    ) -> Result<Vec<Entry>, WalletError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        self.db
            .iterator_cf_opt(self.family(WALLET), options, mode)
            .take(limit)
            .map(|entry| {
                entry
                    .map(|(key, value)| (key.into_vec(), value.into_vec()))
                    .map_err(|e| WalletError::disk("reading the wallet's database", e))
            })
            .collect()
    }

    /// Makes all the writes or none; they are on disk when this returns.
    pub(crate) fn write(&self, batch: Batch) -> Result<(), WalletError> {
        let mut writes = WriteBatch::default();
        for (family, map) in [(WALLET, batch.wallet), (MODULES, batch.modules)] {
            let family = self.family(family);
            for (key, value) in map {
                match value {
                    Some(value) => writes.put_cf(family, key, value),
                    None => writes.delete_cf(family, key),
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db
            .write_opt(writes, &options)
            .map_err(|e| WalletError::disk("writing the wallet's database", e))?;
        let count = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if self.crash_after == Some(count) {
            eprintln!("{CRASH_VARIABLE}: ending behind write {count}");
            std::process::abort();
        }
        Ok(())
    }
}

/// The least key that is greater than all that begin with `prefix`.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// What modules wrote in one chain of calls, over what is on disk. Nothing of it
/// is durable until [`Overlay::take`]n into a batch.
pub(crate) struct Overlay {
    database: Arc<Database>,
    writes: Mutex<BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
}

/// Where an overlay was, to go back to.
pub(crate) struct Savepoint(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Overlay {
    pub(crate) fn new(database: Arc<Database>) -> Arc<Self> {
        Arc::new(Self {
            database,
            writes: Mutex::default(),
        })
    }

    pub(crate) fn savepoint(&self) -> Savepoint {
        Savepoint(self.writes.lock().clone())
    }

    pub(crate) fn restore(&self, savepoint: Savepoint) {
        *self.writes.lock() = savepoint.0;
    }

    /// What was written; the overlay is empty afterwards.
    pub(crate) fn take(&self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        std::mem::take(&mut self.writes.lock())
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, WalletError> {
        if let Some(written) = self.writes.lock().get(key) {
            return Ok(written.clone());
        }
        self.database.read(MODULES, key)
    }

    pub(crate) fn put(&self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.writes.lock().insert(key, value);
    }

    /// Ascending, keys that begin with `prefix` and are greater than `after`.
    pub(crate) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, WalletError> {
        let start = match after {
            Some(after) if after >= prefix => [after, &[0]].concat(),
            _ => prefix.to_vec(),
        };
        let end = after_prefix(prefix);
        if end.as_ref().is_some_and(|end| *end <= start) {
            return Ok(Vec::new());
        }
        let mut options = ReadOptions::default();
        if let Some(end) = &end {
            options.set_iterate_upper_bound(end.clone());
        }
        let writes = self.writes.lock();
        let upper = end.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut written = writes
            .range((std::ops::Bound::Included(start.clone()), upper))
            .peekable();
        let mut stored = self
            .database
            .db
            .iterator_cf_opt(
                self.database.family(MODULES),
                options,
                IteratorMode::From(&start, Direction::Forward),
            )
            .peekable();
        let mut found = Vec::new();
        let mut bytes = 0;
        while found.len() < limit {
            let take_written = match (written.peek(), stored.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((key, _)), Some(Ok((stored_key, _)))) => {
                    if key.as_slice() == stored_key.as_ref() {
                        stored.next();
                        true
                    } else {
                        key.as_slice() < stored_key.as_ref()
                    }
                }
                (Some(_), Some(Err(_))) => false,
            };
            let entry = if take_written {
                match written.next() {
                    Some((key, Some(value))) => (key.clone(), value.clone()),
                    _ => continue,
                }
            } else {
                match stored.next() {
                    Some(Ok((key, value))) => (key.into_vec(), value.into_vec()),
                    Some(Err(e)) => {
                        return Err(WalletError::disk("reading the wallet's database", e));
                    }
                    None => continue,
                }
            };
            bytes += entry.0.len() + entry.1.len();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry);
        }
        Ok(found)
    }
}

/// What stands before every key of an instance, 34 bytes.
pub(crate) fn instance_prefix(federation: &FederationId, instance: InstanceId) -> Vec<u8> {
    [&federation.0[..], &instance.0.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    use super::*;
    use modmint_core::sha256;
    use proptest::prelude::*;
    use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

    fn open(directory: &Path) -> Arc<Database> {
        let lock = Lock::take(directory).unwrap();
        Arc::new(Database::open(directory, lock).unwrap())
    }

    #[test]
    fn a_wallet_that_is_held_says_by_whom() {
        let directory = tempfile::tempdir().unwrap();
        let _held = Lock::take(directory.path()).unwrap();
        let error = Lock::take(directory.path()).unwrap_err();
        assert_eq!(error.code(), "wallet-held");
        let holder = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
    }

    #[test]
    fn a_batch_is_there_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        {
            let database = open(directory.path());
            let mut batch = Batch::default();
            batch.put(b"a1".to_vec(), b"x".to_vec());
            batch.put(b"a2".to_vec(), b"y".to_vec());
            batch.put(b"b".to_vec(), b"z".to_vec());
            database.write(batch).unwrap();
        }
        let database = open(directory.path());
        let newest = database.list(b"a", true, 10).unwrap();
        assert_eq!(
            newest,
            [
                (b"a2".to_vec(), b"y".to_vec()),
                (b"a1".to_vec(), b"x".to_vec())
            ]
        );
        assert_eq!(database.list(b"a", false, 1).unwrap().len(), 1);
    }

    #[test]
    fn what_was_deleted_long_ago_costs_no_scan_anything() {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path());
        let overlay = Overlay::new(Arc::clone(&database));
        let note = |n: u32| sha256(&n.to_be_bytes()).to_vec();
        let mut seen = PerfContext::default();
        // Twenty notes, of which the oldest is always spent for a new one.
        for new in 0..6_000_u32 {
            let mut batch = Batch::default();
            batch.modules.insert(note(new), Some(vec![0; 100]));
            if let Some(old) = new.checked_sub(20) {
                batch.modules.insert(note(old), None);
            }
            database.write(batch).unwrap();
            set_perf_stats(PerfStatsLevel::EnableCount);
            seen.reset();
            assert!(overlay.scan(b"", None, 100, 1 << 20).unwrap().len() <= 20);
            if new > 5_000 {
                if seen.metric(PerfMetric::InternalDeleteSkippedCount) < 2_000 {
                    return;
                }
                // Flushes and compactions take their time.
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
        }
        panic!("all deleted keys are passed over");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn an_overlay_scans_as_one_map(
            stored in prop::collection::btree_map(prop::collection::vec(0u8..3, 1..4), any::<u8>(), 0..20),
            written in prop::collection::btree_map(prop::collection::vec(0u8..3, 1..4), any::<Option<u8>>(), 0..20),
            prefix in prop::collection::vec(0u8..3, 0..3),
            after in prop::option::of(prop::collection::vec(0u8..3, 0..4)),
            limit in 0usize..12,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let database = open(directory.path());
            let mut batch = Batch::default();
            batch.modules(stored.iter().map(|(k, v)| (k.clone(), Some(vec![*v]))).collect());
            database.write(batch).unwrap();
            let overlay = Overlay::new(database);
            let mut merged = stored;
            for (key, value) in written {
                overlay.put(key.clone(), value.map(|v| vec![v]));
                match value {
                    Some(value) => merged.insert(key, value),
                    None => merged.remove(&key),
                };
            }
            let expected: Vec<_> = merged
                .into_iter()
                .filter(|(key, _)| key.starts_with(&prefix) && after.as_ref().is_none_or(|after| key > after))
                .take(limit)
                .map(|(key, value)| (key, vec![value]))
                .collect();
            prop_assert_eq!(overlay.scan(&prefix, after.as_deref(), limit, 1 << 20).unwrap(), expected);
        }
    }
}
