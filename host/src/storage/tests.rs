#![allow(clippy::unwrap_used, reason = "a test that breaks says so")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn open(path: &Path) -> Arc<Database> {
    try_open(path).unwrap()
}

fn try_open(path: &Path) -> Result<Arc<Database>, StorageError> {
    let instance = |id| modmint_core::config::InstanceConfig {
        id: InstanceId(id),
        kind: "toy".into(),
        bundle: modmint_core::BundleHash([0; 32]),
        config: vec![],
        keys: vec![],
    };
    let config = FederationConfig {
        name: String::new(),
        network: modmint_core::config::Network::Regtest,
        peers: vec![],
        chain_start: modmint_core::config::BlockId {
            height: 0,
            hash: Hash32([0; 32]),
        },
        finality_depth: 1,
        session: modmint_core::config::SessionLimits::default(),
        base_fee: modmint_core::config::BaseFee::default(),
        instances: vec![instance(0), instance(1)],
    };
    Database::open(path, &config)
}

const A: Table = Table::Instance(InstanceId(0));
const B: Table = Table::Instance(InstanceId(1));

type Write = (Table, Vec<u8>, Option<Vec<u8>>);

fn any_write() -> impl Strategy<Value = Write> {
    let bytes = |max| prop::collection::vec(0..3_u8, 1..max);
    (
        prop::sample::select(vec![Table::Host, A, B]),
        bytes(4),
        prop::option::of(bytes(3)),
    )
}

fn apply(overlay: &mut Overlay, (table, key, value): &Write) {
    match value {
        Some(value) => overlay.put(*table, key, value.clone()),
        None => overlay.delete(*table, key),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Batches are committed or lost, as by a crash before the commit, and the
    /// database is opened anew behind each.
    #[test]
    fn the_kept_root_is_always_the_recomputed_one(
        batches in prop::collection::vec(
            (prop::collection::vec(any_write(), 0..20), any::<bool>(), any::<bool>()),
            1..8,
        ),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut database = open(folder.path());
        let mut model = BTreeMap::new();
        for (writes, crash_before, reopen) in batches {
            let mut overlay = Overlay::new(database.snapshot());
            writes.iter().for_each(|write| apply(&mut overlay, write));
            let staged = database.stage(overlay.into_changes()).unwrap();
            let promised = staged.root();
            if crash_before {
                drop(staged);
            } else {
                database.commit(staged, LocalChanges::default(), Durability::Process).unwrap();
                prop_assert_eq!(database.state_root(), promised);
                for (table, key, value) in writes {
                    match value {
                        Some(value) => model.insert((table, key), value),
                        None => model.remove(&(table, key)),
                    };
                }
            }
            if reopen {
                drop(database);
                database = open(folder.path());
            }
            let report = database.check().unwrap();
            prop_assert!(report.is_sound(), "{report:?}");
            prop_assert_eq!(report.keys.iter().map(|(_, keys)| *keys as usize).sum::<usize>(), model.len());
        }
    }

    #[test]
    fn a_scan_over_layers_sees_what_a_map_would(
        stored in prop::collection::vec(any_write(), 0..20),
        layers in prop::collection::vec(prop::collection::vec(any_write(), 0..12), 0..3),
        prefix in prop::collection::vec(0..3_u8, 0..2),
        after in prop::option::of(prop::collection::vec(0..3_u8, 0..4)),
        limit in 0..9_usize,
        max_bytes in 0..40_usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let database = open(folder.path());
        let mut overlay = Overlay::new(database.snapshot());
        stored.iter().for_each(|write| apply(&mut overlay, write));
        let staged = database.stage(overlay.into_changes()).unwrap();
        database.commit(staged, LocalChanges::default(), Durability::Process).unwrap();
        let mut overlay = Overlay::new(database.snapshot());
        let mut model = BTreeMap::new();
        for layer in std::iter::once(&stored).chain(&layers) {
            overlay.push();
            for write in layer {
                apply(&mut overlay, write);
                if write.0 == A {
                    match &write.2 {
                        Some(value) => model.insert(write.1.clone(), value.clone()),
                        None => model.remove(&write.1),
                    };
                }
            }
        }
        let mut bytes = 0;
        let expected: Pairs = model
            .into_iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .filter(|(key, _)| after.as_ref().is_none_or(|after| key > after))
            .take(limit)
            .take_while(|(key, value)| {
                bytes += key.len() + value.len();
                bytes <= max_bytes
            })
            .collect();
        let found = overlay.scan(A, &prefix, after.as_deref(), limit, max_bytes).unwrap();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_layer_is_merged_or_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let mut overlay = Overlay::new(database.snapshot());
    overlay.put(A, b"kept", vec![1]);
    overlay.push();
    overlay.put(A, b"kept", vec![2]);
    overlay.put(A, b"new", vec![3]);
    assert_eq!(overlay.get(A, b"kept").unwrap(), Some(vec![2]));
    overlay.rollback();
    assert_eq!(overlay.get(A, b"kept").unwrap(), Some(vec![1]));
    assert_eq!(overlay.get(A, b"new").unwrap(), None);
    overlay.push();
    overlay.delete(A, b"kept");
    overlay.merge();
    assert_eq!(overlay.get(A, b"kept").unwrap(), None);
    assert_eq!(overlay.get(B, b"kept").unwrap(), None);
}

#[test]
fn a_snapshot_does_not_see_what_is_committed_later() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let before = database.snapshot();
    let mut overlay = Overlay::new(before.clone());
    overlay.put(A, b"key", vec![1]);
    let staged = database.stage(overlay.into_changes()).unwrap();
    let mut local = LocalChanges::default();
    local.put(b"own".as_slice(), vec![2]);
    database.commit(staged, local, Durability::Disk).unwrap();
    assert_eq!(before.get(A, b"key").unwrap(), None);
    assert_eq!(database.snapshot().get(A, b"key").unwrap(), Some(vec![1]));
    assert_eq!(database.local(b"own").unwrap(), Some(vec![2]));
}

#[test]
fn what_is_this_guardian_s_own_is_not_in_the_root_and_drift_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let root = database.state_root();
    let mut local = LocalChanges::default();
    local.put(b"own".as_slice(), vec![2]);
    database.commit_local(local, Durability::Process).unwrap();
    assert_eq!(database.state_root(), root);
    // A sum that nothing stands behind.
    let mut local = LocalChanges::default();
    local.put(sum_key(7), vec![1; 2048]);
    database.commit_local(local, Durability::Disk).unwrap();
    assert!(check_database(folder.path()).is_err(), "it is in use");
    drop(database);
    assert!(!check_database(folder.path()).unwrap().is_sound());
}

#[test]
fn a_value_that_changes_behind_our_back_is_found_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let mut overlay = Overlay::new(database.snapshot());
    overlay.put(A, b"key", vec![1]);
    let staged = database.stage(overlay.into_changes()).unwrap();
    let local = LocalChanges::default();
    database.commit(staged, local, Durability::Disk).unwrap();
    let table = family(&database.db, &A.to_string()).unwrap();
    database.db.put_cf(table, b"key", [2]).unwrap();
    drop(database);
    assert!(!check_database(folder.path()).unwrap().is_sound());
    assert!(matches!(
        try_open(folder.path()),
        Err(StorageError::Corrupt(_))
    ));
}
