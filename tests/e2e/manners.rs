//! How a guardian behaves towards whoever operates it: what it counts, when it says
//! that it can serve, what it logs, how it ends.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::common::{Fixture, shared, until};
use modmint::{
    federation::{Guardian, Options},
    tour::{receive, send},
};
use reqwest::{Client, StatusCode};
use serde_json::Value;

/// The value of a metric, over all its labels.
fn value(metrics: &str, name: &str) -> f64 {
    let values = metrics.lines().filter_map(|line| {
        let (labelled, value) = line.rsplit_once(' ')?;
        let of_name = labelled.split('{').next() == Some(name);
        of_name.then(|| value.parse::<f64>().expect("a number"))
    });
    let values: Vec<f64> = values.collect();
    assert!(!values.is_empty(), "no {name} in {metrics}");
    values.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_counted() {
    let federation = shared().await;
    let guardian = &federation.guardians[0];
    let before = guardian.metrics().await.expect("it answers");
    // A claim of a deposit is a transaction, and a receipt of notes another.
    let alice = federation.rich_wallet("alice", 100_000).await;
    let bob = federation.wallet("bob").await;
    let notes = send(&alice, 5_000).await.expect("a wallet can send");
    receive(&bob, &notes).await.expect("a wallet can receive");
    let after = guardian.metrics().await.expect("it answers");
    let grown = |name: &str| value(&after, name) - value(&before, name);
    assert!(grown("modmint_transactions_total") >= 2.0);
    assert!(grown("modmint_epochs_total") >= 2.0);
    assert!(grown("modmint_p2p_sent_bytes_total") > 1000.0);
    assert!(grown("modmint_p2p_received_bytes_total") > 1000.0);
    let epochs = grown("modmint_epoch_processing_seconds_sum");
    let in_modules = grown("modmint_epoch_modules_seconds_total");
    assert!(
        0.0 < in_modules && in_modules < epochs,
        "{in_modules} s of {epochs} s in modules"
    );
    println!("{in_modules} s of {epochs} s in modules");
    assert!(value(&after, "modmint_session") >= 1.0);
    assert_eq!(value(&after, "modmint_bitcoind_up"), 1.0);
    assert_eq!(value(&after, "modmint_p2p_connected"), 3.0);
    assert_eq!(value(&after, "modmint_p2p_drops_total"), 0.0);
    assert_eq!(value(&after, "modmint_convictions_total"), 0.0);
    assert_eq!(value(&after, "modmint_check_ok"), 7.0, "{after}");
    assert!(value(&after, "modmint_process_resident_memory_bytes") > 1e7);
    assert!(after.ends_with("# EOF\n"));
}

/// A copy of a folder's files, which replaces what was there.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        fs::copy(&path, to.join(name)).expect("it can be copied");
    }
}

/// The first status that a guardian shows once it says that it is ready.
async fn first_status(guardian: &Guardian) -> (u64, u32) {
    let start = Instant::now();
    while !matches!(guardian.problems().await, Ok(problems) if problems.is_empty()) {
        guardian.check_running().expect("it runs");
        assert!(start.elapsed() < Duration::from_secs(120), "never ready");
    }
    let status = guardian.status().await.expect("it answers");
    (status.session, status.epoch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_is_ready_when_it_has_replayed_its_log_and_ends_politely() {
    let options = Options::standard().expect("scripts/test builds the bundles");
    let federation = Fixture::found(Options {
        environment: vec![
            ("MODMINTD_LOG_JSON".into(), "true".into()),
            ("MODMINTD_LOG".into(), "info,modmint_rest=debug".into()),
        ],
        ..options
    })
    .await;
    let guardian = &federation.guardians[3];
    let (database, old) = (
        guardian.data_folder().join("db"),
        federation.folder().join("old-db"),
    );
    let alice = federation.rich_wallet("alice", 100_000).await;

    // What a power cut does at worst: the database is as it was long ago, the log of
    // units is whole.
    guardian.stop().await.expect("it ends");
    copy(&database, &old);
    federation.start(3).expect("it starts");
    guardian.ready().await.expect("it is ready");
    for _ in 0..3 {
        let notes = send(&alice, 1_000).await.expect("a wallet can send");
        receive(&alice, &notes).await.expect("a wallet can receive");
    }
    let before = guardian.status().await.expect("it answers");
    guardian.kill();
    copy(&old, &database);
    federation.start(3).expect("it starts");
    let (session, epoch) = first_status(guardian).await;
    assert!(
        (session, epoch) >= (before.session, before.epoch),
        "ready at session {session}, epoch {epoch}; it was at {}, {}",
        before.session,
        before.epoch
    );
    federation.same_state_root().await.expect("one state root");

    // Whoever waits is answered, and it ends well.
    let http = Client::builder().no_proxy().build().expect("a client");
    let url = format!(
        "{}/v1/transactions/{}?wait=60",
        guardian.api_url(),
        "ab".repeat(32)
    );
    let request = http.get(url).header("x-request-id", "a-long-wait");
    let waiting = tokio::spawn(request.send());
    until("the request to be waited for", || async {
        let metrics = guardian.metrics().await.expect("it answers");
        value(&metrics, "modmint_http_requests_under_way") >= 1.0
    })
    .await;
    guardian.stop().await.expect("it ends with exit code 0");
    let answer = waiting.await.expect("it ends").expect("it is answered");
    assert_eq!(answer.status(), StatusCode::OK);

    let log = fs::read_to_string(guardian.log_file()).expect("there is a log");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let of_request = |line: &&Value| line["span"]["id"] == "a-long-wait";
    let answered = lines.iter().find(of_request).expect("the request's line");
    assert_eq!(answered["fields"]["status"], 200, "{answered}");
}
