//! RocksDB where as much is deleted as is kept: notes are spent, operations end.
//!
//! An iterator passes over each deleted key until a compaction has dropped it, and
//! neither flushes nor compactions come before a table in memory is full: without these a
//! payment would cost the more the more there were before it.

use rocksdb::Options;

/// For `set_options`, which alone knows them: what is in memory goes to the disk once a
/// scan has passed over so many keys, if they were so many for each key that it found.
pub const FLUSH: [(&str, &str); 2] = [
    ("memtable_op_scan_flush_trigger", "1000"),
    ("memtable_avg_op_scan_flush_trigger", "10"),
];
/// So many deletions ...
const DELETED: usize = 64;
/// ... among so many entries have a file compacted.
const AMONG: usize = 128;

/// Has files compacted in which much is deleted.
pub fn compact(options: &mut Options) {
    options.add_compact_on_deletion_collector_factory(AMONG, DELETED, 0.0);
}
