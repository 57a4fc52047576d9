//! All guardians lose their power at once, and with it every byte that they had
//! written and not synced.
//!
//! SIGKILL alone leaves what the kernel has not yet written to the disk. So a
//! small library, preloaded into the guardians, notes each file's length whenever
//! it is synced, and after the kill every file is cut back to it; a file that was
//! never synced is emptied. What this does not imitate: names of files that are
//! lost with their directory, and sectors that are half written.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::{Fixture, until};
use modmint::{
    federation::Options,
    tour::{balanced, receive, refused, send},
};
use tempfile::TempDir;

/// Compiles the library that is preloaded.
fn recorder(folder: &Path) -> PathBuf {
    let library = folder.join("record-syncs.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/record-syncs.c");
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .output()
        .expect("there is a C compiler: scripts/setup installs one");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    library
}

/// The last synced length of each file, by device and inode.
fn synced_lengths(record: &Path) -> HashMap<(u64, u64), u64> {
    let record = fs::read_to_string(record).expect("something was synced");
    record
        .lines()
        .map(|line| {
            let mut numbers = line.split(' ').map(|n| n.parse().expect("a number"));
            let mut next = || numbers.next().expect("three numbers");
            ((next(), next()), next())
        })
        .collect()
}

/// Cuts every file below `folder` back to its synced length; returns how many
/// bytes are gone.
fn drop_unsynced(folder: &Path, synced: &HashMap<(u64, u64), u64>) -> u64 {
    let mut dropped = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let meta = fs::symlink_metadata(&path).expect("it is there");
        if meta.is_dir() {
            dropped += drop_unsynced(&path, synced);
        } else if meta.is_file() {
            let kept = synced.get(&(meta.dev(), meta.ino())).copied();
            let kept = kept.unwrap_or(0).min(meta.len());
            if kept < meta.len() {
                dropped += meta.len() - kept;
                let file = fs::File::options().write(true).open(&path);
                file.and_then(|file| file.set_len(kept))
                    .expect("it can be cut");
            }
        }
    }
    dropped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_four_lose_every_unsynced_byte_at_once_and_nothing_that_was_decided() {
    let tools = TempDir::with_prefix("modmint-test-").expect("a folder");
    let record = tools.path().join("synced");
    let environment = vec![
        (
            "LD_PRELOAD".into(),
            recorder(tools.path()).display().to_string(),
        ),
        ("RECORD_SYNCS_IN".into(), record.display().to_string()),
    ];
    let options = Options::standard().expect("scripts/test builds the bundles");
    let federation = Fixture::found(Options {
        environment,
        ..options
    })
    .await;
    let alice = federation.rich_wallet("alice", 200_000).await;
    let bob = federation.wallet("bob").await;
    let mallory = federation.wallet("mallory").await;

    for _ in 0..3 {
        let mut spent = String::new();
        for _ in 0..5 {
            spent = send(&alice, 3_000).await.expect("a wallet can send");
            receive(&bob, &spent).await.expect("a wallet can receive");
        }
        let before = federation.guardians[0].audit().await.expect("it answers");

        for guardian in &federation.guardians {
            guardian.kill();
        }
        let synced = synced_lengths(&record);
        let dropped: u64 = federation
            .guardians
            .iter()
            .map(|guardian| drop_unsynced(&guardian.data_folder(), &synced))
            .sum();
        println!("{dropped} bytes were not synced");
        assert!(dropped > 0, "nothing was lost, so nothing is shown");

        for index in 0..federation.size() {
            federation.start(index).expect("it starts");
        }
        federation.all_ready().await.expect("all come back");
        until("all to have the books that they had", || async {
            let mut same = 0;
            for guardian in &federation.guardians {
                let after = guardian.audit().await.expect("it answers");
                same += usize::from(after.instances == before.instances);
            }
            same == federation.size()
        })
        .await;
        federation.same_state_root().await.expect("one state root");
        balanced(&federation).await.expect("the books balance");
        let again = mallory.try_run(&["mint", "receive", &spent], &[]).await;
        refused(again.expect("it runs")).expect("what was spent stays spent");
    }
}
