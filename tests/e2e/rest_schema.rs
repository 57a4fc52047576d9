//! A guardian keeps what its OpenAPI description promises: Schemathesis makes requests
//! from it, good ones and bad ones, and holds the answers against it.

use std::{env, path::PathBuf, process::Command, time::Instant};

use crate::common::shared;

/// Where `scripts/schemathesis` puts it.
fn schemathesis() -> Option<PathBuf> {
    let given = env::var_os("SCHEMATHESIS_EXE").map(PathBuf::from);
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let installed = cache.map(|cache| cache.join("modmint/schemathesis/bin/schemathesis"));
    given.or(installed).filter(|path| path.exists())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_answers_as_its_description_says() {
    let Some(schemathesis) = schemathesis() else {
        eprintln!("NOT TESTED: there is no Schemathesis; scripts/setup says why");
        return;
    };
    let federation = shared().await;
    let guardian = &federation.guardians[0];
    // Which routes it holds to less, and why.
    let config = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/schemathesis.toml"
    );
    let hooks = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/schemathesis.py"
    );
    let start = Instant::now();
    let mut command = Command::new(schemathesis);
    command
        .args(["--config-file", config, "--no-color", "run"])
        .arg(format!("{}/openapi.json", guardian.api_url()))
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "15", "--seed", "1", "--no-shrink"])
        .args(["--request-timeout", "20", "--continue-on-failure"])
        .args(["--generation-database", "none"])
        .env("SCHEMATHESIS_HOOKS", hooks)
        .env("NO_PROXY", "127.0.0.1")
        .current_dir(federation.folder());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("it runs").expect("it starts");
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}\nin {:?}", start.elapsed());
    assert!(
        output.status.success(),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    guardian.ready().await.expect("the guardian lives");
}
