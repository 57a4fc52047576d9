//! A guardian that was away while sessions ended under load, and one whose folder is
//! restored from a backup.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::common::{Fixture, until};
use modmint::{
    federation::Options,
    programs,
    tour::{balanced, receive, send},
    wallet::Wallet,
};
use modmint_core::config::SessionLimits;

/// E-cash that goes back and forth between two wallets until told to stop.
async fn load(alice: Wallet, bob: Wallet, stop: Arc<AtomicBool>) {
    let mut pair = [&alice, &bob];
    while !stop.load(Ordering::Relaxed) {
        let notes = send(pair[0], 1_000).await.expect("a wallet can send");
        receive(pair[1], &notes)
            .await
            .expect("a wallet can receive");
        pair.reverse();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let copied = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &copied),
            false => drop(fs::copy(&path, &copied).expect("a copy")),
        }
    }
}

async fn position(federation: &Fixture, guardian: usize) -> (u64, u32) {
    let status = federation.guardians[guardian].status().await;
    let status = status.expect("it answers");
    (status.session, status.epoch)
}

/// Waits until so many more sessions have ended.
async fn sessions_end(federation: &Fixture, count: u64) {
    let (first, _) = position(federation, 0).await;
    until("sessions to end", || async {
        position(federation, 0).await.0 >= first + count
    })
    .await;
}

/// Waits until the last guardian is where the others are, and ready.
async fn follows(federation: &Fixture) {
    let start = Instant::now();
    until("it to follow", || async {
        let last = &federation.guardians[3];
        let ready = last.problems().await.is_ok_and(|p| p.is_empty());
        ready && position(federation, 3).await.0 >= position(federation, 0).await.0
    })
    .await;
    println!("it follows after {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_that_was_away_or_is_restored_catches_up_under_load_and_takes_part_again() {
    let federation = Fixture::found(Options {
        session: SessionLimits {
            epochs: 40,
            ..SessionLimits::default()
        },
        ..Options::standard().expect("scripts/test builds the bundles")
    })
    .await;
    let alice = federation.rich_wallet("alice", 200_000).await;
    let bob = federation.wallet("bob").await;
    let last = &federation.guardians[3];
    let (data, backup) = (last.data_folder(), federation.folder().join("backup"));

    last.stop().await.expect("it ends");
    copy(&data, &backup);
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(load(alice.clone(), bob.clone(), stop.clone()));
    sessions_end(&federation, 3).await;
    federation.start(3).expect("it starts");
    follows(&federation).await;

    // Now without it nothing would go on.
    federation.guardians[2].kill();
    sessions_end(&federation, 2).await;
    federation.start(2).expect("it starts");
    federation.guardians[2].ready().await.expect("it is ready");

    last.kill();
    fs::remove_dir_all(&data).expect("the folder is lost");
    copy(&backup, &data);
    let restored = Command::new(programs::program("modmintd").expect("it is built"))
        .args(["restored", "--data-dir"])
        .arg(&data)
        .status();
    assert!(restored.expect("it runs").success());
    federation.start(3).expect("it starts");
    until("it to say that it observes", || async {
        let problems = last.problems().await.unwrap_or_default();
        problems.iter().any(|problem| problem.contains("backup"))
    })
    .await;
    follows(&federation).await;
    assert!(!data.join("restored").exists());
    federation.guardians[1].kill();
    sessions_end(&federation, 2).await;
    federation.start(1).expect("it starts");

    stop.store(true, Ordering::Relaxed);
    load.await.expect("no payment failed");
    federation.all_ready().await.expect("all are ready");
    federation.same_state_root().await.expect("one state root");
    balanced(&federation).await.expect("the books balance");
}
