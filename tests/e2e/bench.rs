//! `modmint bench`: its figures are there and make sense, and no money is lost.

use std::process::Command;

use serde_json::Value;

fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_modmint"))
        .arg("bench")
        .arg("--json")
        .args(arguments)
        .output()
        .expect("it starts");
    // It ends with an error if the wallets' money or the guardians' books are not
    // what they were.
    assert!(
        output.status.success(),
        "{} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// The number at a path of fields, or the list's sum.
fn number(report: &Value, path: &str) -> f64 {
    let value = report.pointer(path);
    let sum = value.and_then(|value| match value {
        Value::Array(numbers) => numbers.iter().map(Value::as_f64).sum(),
        one => one.as_f64(),
    });
    sum.unwrap_or_else(|| panic!("no number at {path} in {report}"))
}

fn fields(report: &Value) -> Vec<&str> {
    let fields = report.as_object().expect("an object");
    fields.keys().map(String::as_str).collect()
}

#[test]
fn two_wallets_spend_and_receive_and_the_figures_say_how_much() {
    let report = bench(&["--wallets", "2", "--seconds", "3"]);
    let mut expected = [
        "transactions_per_second",
        "notes_in_per_second",
        "notes_out_per_second",
        "latency_ms",
        "cpu_seconds",
        "transactions_per_guardian_cpu_second",
        "rss_mb",
        "disk_bytes_per_transaction",
        "compacted_bytes_per_transaction",
        "p2p_bytes_per_transaction",
        "wasm_share_of_epoch_time",
    ];
    expected.sort_unstable();
    assert_eq!(fields(&report), expected);
    for path in [
        "/transactions_per_second",
        "/latency_ms/p50",
        "/cpu_seconds/guardians",
        "/cpu_seconds/wallets",
        "/transactions_per_guardian_cpu_second",
        "/rss_mb/guardians",
        "/disk_bytes_per_transaction",
        "/compacted_bytes_per_transaction",
        "/p2p_bytes_per_transaction",
        "/wasm_share_of_epoch_time",
    ] {
        assert!(number(&report, path) > 0.0, "{path} in {report}");
    }
    assert!(number(&report, "/cpu_seconds/bitcoind") >= 0.0);
    let per_second = number(&report, "/transactions_per_second");
    for path in ["/notes_in_per_second", "/notes_out_per_second"] {
        assert!((number(&report, path) - 2.0 * per_second).abs() < 1e-6);
    }
    let latency = |percentile: &str| number(&report, &format!("/latency_ms/{percentile}"));
    let latencies = ["p50", "p95", "p99", "max"].map(latency);
    assert!(latencies.is_sorted(), "{latencies:?}");
    assert!(number(&report, "/wasm_share_of_epoch_time") < 1.0);
    for path in ["/cpu_seconds/guardians", "/rss_mb/guardians"] {
        let list = report.pointer(path).and_then(Value::as_array);
        assert_eq!(list.map(Vec::len), Some(4), "{path} in {report}");
    }
}

#[test]
fn a_guardian_that_is_away_catches_up_while_the_load_goes_on() {
    let report = bench(&["--wallets", "2", "--seconds", "3", "--absent", "4"]);
    let of = |field: &str| number(&report, &format!("/absence/{field}"));
    assert_eq!(of("guardians"), 1.0, "{report}");
    assert!(of("seconds") >= 4.0, "{report}");
    assert!(of("first_transaction_after_seconds") > 0.0, "{report}");
    assert!(of("level_after_seconds") > 0.0, "{report}");
    assert!(of("longest_gap_ms") > 0.0, "{report}");
    for when in ["while", "behind", "after"] {
        let field = format!("transactions_per_second_{when}");
        assert!(of(&field) > 0.0, "{field} in {report}");
    }
    assert!(number(&report, "/transactions_per_second") > 0.0);
}

#[test]
fn with_two_of_four_away_wallets_say_so_and_go_on_when_one_is_back() {
    let more = ["--absent", "6", "--absentees", "2"];
    let report = bench(&[&["--wallets", "2", "--seconds", "3"], &more[..]].concat());
    let of = |field: &str| number(&report, &format!("/absence/{field}"));
    assert_eq!(of("guardians"), 2.0, "{report}");
    assert!(of("told_after_seconds") < 6.0, "{report}");
    assert!(of("longest_gap_ms") > 4000.0, "{report}");
    assert!(of("transactions_per_second_after") > 0.0, "{report}");
    assert!(
        of("first_transaction_after_seconds") < of("level_after_seconds"),
        "{report}"
    );
}

#[test]
fn guardians_that_have_nothing_to_do_are_measured_too() {
    let report = bench(&["--idle", "--seconds", "1"]);
    let mut expected = ["cpu_share", "p2p_bytes_per_second", "disk_bytes_per_hour"];
    expected.sort_unstable();
    assert_eq!(fields(&report), expected);
    for field in expected {
        assert!(number(&report, &format!("/{field}")) >= 0.0);
    }
}

#[test]
fn payments_over_lightning_are_measured_by_kind() {
    let report = bench(&["--lightning", "--wallets", "2", "--seconds", "3"]);
    assert_eq!(
        fields(&report),
        ["gateway_rss_mb", "pay", "receive", "swap"]
    );
    assert!(number(&report, "/gateway_rss_mb") > 1.0);
    for kind in ["pay", "receive", "swap"] {
        let of = |field: &str| number(&report, &format!("/{kind}/{field}"));
        assert!(of("payments_per_second") > 0.0, "{report}");
        assert!(of("gateway_cpu_ms_per_payment") > 0.0, "{report}");
        let (p50, p95) = (of("latency_ms/p50"), of("latency_ms/p95"));
        assert!(0.0 < p50 && p50 <= p95, "{report}");
    }
}
