//! `modmintd check`: a sum that has drifted would be wrong for ever, so it is
//! added up anew from everything that is stored.

use std::path::Path;

use modmint_core::Hash32;

use super::{Database, StorageError, root::RootSums};

/// What a database was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// The root that is kept from epoch to epoch.
    pub kept: Hash32,
    /// The root over what is stored.
    pub recomputed: Hash32,
    /// How many keys each table has.
    pub keys: Vec<(String, u64)>,
}

impl CheckReport {
    /// Whether both roots are the same.
    pub fn is_sound(&self) -> bool {
        self.kept == self.recomputed
    }
}

/// Recomputes the state root of the database in the folder `path`. A guardian that
/// runs on it has it to itself: that is an error.
///
/// # Errors
/// If there is no database, it is in use, or the disk fails. Roots that differ are
/// no error but the report's business.
pub fn check_database(path: &Path) -> Result<CheckReport, StorageError> {
    Database::open_existing(path)?.check()
}

impl Database {
    /// Recomputes the root over all tables. Nothing should be committed meanwhile.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn check(&self) -> Result<CheckReport, StorageError> {
        let snapshot = self.snapshot();
        let empty = RootSums::default();
        let mut update = empty.update();
        let mut keys = Vec::new();
        for table in self.tables() {
            let mut count = 0;
            for entry in snapshot.all(table)? {
                let (key, value) = entry?;
                update.add(table, &key, &value);
                count += 1;
            }
            keys.push((table.to_string(), count));
        }
        let recomputed = update.finish().1;
        // The one that was written, and the one that the sums make.
        let roots = [self.kept_root()?, self.state_root()];
        let differs = roots.into_iter().find(|root| *root != recomputed);
        Ok(CheckReport {
            kept: differs.unwrap_or(recomputed),
            recomputed,
            keys,
        })
    }
}
