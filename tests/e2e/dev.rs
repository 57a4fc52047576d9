//! `modmint dev`: the tour, and that nothing outlives it.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use crate::common::{processes_of, until};
use tempfile::TempDir;

fn dev(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modmint"));
    command.args(["dev", "--dir"]).arg(folder);
    command
}

#[test]
fn the_tour_succeeds_and_leaves_no_process_behind() {
    let folder = TempDir::with_prefix("modmint-test-").expect("a folder");
    let start = Instant::now();
    let output = dev(folder.path())
        .args(["--tour", "--once"])
        .output()
        .expect("it starts");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{told}\nall in {:?}", start.elapsed());
    let complaints = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        panic!(
            "{} {complaints}; logs are kept in {}",
            output.status,
            folder.keep().display()
        );
    }
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
    for word in ["refused", "receipt", "swaps", "killed", "state root", "net"] {
        assert!(told.contains(word), "the tour never says {word:?}");
    }
}

#[tokio::test]
async fn whichever_signal_ends_it_its_processes_end_too() {
    for signal in ["KILL", "TERM", "INT"] {
        let folder = TempDir::with_prefix("modmint-test-").expect("a folder");
        let mut running = dev(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        until("a guardian to run", || async {
            let all = processes_of(folder.path());
            all.iter().any(|line| line.contains("modmintd run"))
        })
        .await;
        let kill = ["-s", signal, &running.id().to_string()];
        assert!(
            Command::new("kill")
                .args(kill)
                .status()
                .expect("there is kill")
                .success()
        );
        let status = running.wait().expect("it ends");
        assert_eq!(status.success(), signal != "KILL", "{signal}: {status}");
        until("the processes to end", || async {
            processes_of(folder.path()).is_empty()
        })
        .await;
    }
}

#[test]
fn a_folder_with_something_in_it_is_refused() {
    let folder = TempDir::with_prefix("modmint-test-").expect("a folder");
    std::fs::write(folder.path().join("mine"), "precious").expect("written");
    let output = dev(folder.path()).output().expect("it starts");
    assert!(!output.status.success());
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("is not empty"), "{complaint}");
}
