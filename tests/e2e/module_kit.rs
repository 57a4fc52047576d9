//! `modmint module`: from an empty folder to a module in a federation.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use crate::common::until;
use modmint::kit::{self, fuel};
use modmint_escrow::{Claim, Escrow, Open};
use modmint_sdk::{
    Amount,
    mock::{Bundle, Federation, OperationId, Wallet},
};
use tempfile::TempDir;

fn folder() -> TempDir {
    TempDir::with_prefix("modmint-test-").expect("a folder")
}

fn modmint(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modmint"));
    command.current_dir(folder).args(words);
    command.output().expect("it starts")
}

/// What a command that succeeds prints.
fn told(folder: &Path, words: &[&str]) -> String {
    let output = modmint(folder, words);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{words:?}: {out}{err}");
    out.into_owned()
}

fn escrow() -> PathBuf {
    kit::example("escrow")
        .expect("the example builds")
        .component
}

#[test]
fn a_bundle_is_checked_and_shown_with_all_that_it_is() {
    let here = folder();
    let component = escrow();
    let component = component.to_str().expect("text");
    let checked = told(here.path(), &["module", "check", component]);
    assert!(checked.contains("admitted as escrow 0.1.0"), "{checked}");
    assert!(checked.contains("store data of its own"), "{checked}");
    assert!(!checked.contains("hold bitcoin"), "{checked}");

    let json = told(here.path(), &["module", "inspect", component, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["kind"], "escrow");
    assert_eq!(json["keys"].as_array().map(Vec::len), Some(0));
    assert_eq!(json["configuration"][0]["kind"], "amount");
    let actions: Vec<_> = json["actions"].as_array().expect("a list").iter().collect();
    let names: Vec<_> = actions.iter().filter_map(|a| a["name"].as_str()).collect();
    assert_eq!(names, ["key", "open", "show", "release", "refund", "claim"]);
    let words = told(here.path(), &["module", "inspect", component]);
    assert!(words.contains("[blocks] (number, default 1008)"), "{words}");
    // What no description says is seen where somebody uses it, or else it is said how.
    assert!(
        words.contains("Items: not known, a conformance.toml"),
        "{words}"
    );
    assert!(words.contains("Fuel for a call: not known"), "{words}");
    let scenario = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/modules-wasm/examples/escrow/conformance.toml"
    );
    let inspect = ["module", "inspect", component, "--scenario", scenario];
    let words = told(here.path(), &inspect);
    for item in ["  input: {", "  output: {", "  answer of contract: {"] {
        assert!(words.contains(item), "{words}");
    }
    assert!(words.contains("  process-input: "), "{words}");
    println!("{words}");
    let json = told(here.path(), &[&inspect[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let items = json["items"].as_array().expect("a list");
    let output = items.iter().find(|item| item["item"] == "output");
    let output = output.expect("contracts are outputs");
    assert!(
        output["shown"]["amount_msat"].is_number() || output["shown"]["amount_msat"].is_string()
    );
    let fuel = json["fuel"].as_array().expect("a list");
    let input = fuel.iter().find(|call| call["export"] == "process-input");
    let most = input.expect("claims are inputs")["most"].as_u64();
    assert!(most.is_some_and(|most| (1..20_000_000).contains(&most)));

    // The mint's 42 keys.
    let mint = modmint::programs::bundle("mint").expect("built");
    let mint = mint.to_str().expect("text");
    let words = told(here.path(), &["module", "inspect", mint]);
    assert!(words.contains("note-41 (blind-signature)"), "{words}");
}

#[test]
fn a_bundle_of_an_older_contract_is_shown_with_its_version() {
    let here = folder();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules-wasm/frozen/notary-0.1");
    let source = source.to_str().expect("text");
    let build = ["module", "build", source, "--contract", "0.1"];
    told(
        here.path(),
        &[&build[..], &["--out", "older.wasm"]].concat(),
    );
    let shown = told(here.path(), &["module", "inspect", "older.wasm"]);
    assert!(shown.contains("contract modmint:module 0.1.0"), "{shown}");
    let checked = told(here.path(), &["module", "check", "older.wasm"]);
    assert!(checked.contains("by contract 0.1.0"), "{checked}");
}

#[test]
fn what_is_wrong_with_a_bundle_is_said_with_its_remedy() {
    let here = folder();
    std::fs::write(here.path().join("no.wasm"), b"\0asm\x01\0\0\0").expect("written");
    let output = modmint(here.path(), &["module", "check", "no.wasm"]);
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("1. the bundle is no component"), "{told}");
    assert!(told.contains("modmint module build"), "{told}");
    let output = modmint(here.path(), &["module", "build"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("modmint module new"), "{complaint}");
}

#[tokio::test]
async fn a_federation_has_any_bundle_in_it_and_a_setting_that_fits_none_is_refused() {
    let here = folder();
    let (federation, component) = (here.path().join("federation"), escrow());
    let dev = |settings: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modmint"));
        command
            .args(["dev", "--once", "--wallet", "10000"])
            .arg("--dir")
            .arg(&federation)
            .arg("--module")
            .arg(&component);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.output().expect("it starts")
    };
    for (setting, why) in [
        ("mint2.fee=1sat", "no module is of this kind"),
        ("escrow.fees=1sat", "none of: fee"),
        ("escrow.fee=2000sat", "at most 1000 sat"),
    ] {
        let output = dev(&[setting]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.contains(why), "{complaint}");
    }
    let output = dev(&["escrow.fee=3sat"]);
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("modmint-cli escrow --help"), "{out}");
    // Its people see the module without any program's help.
    let wallet = modmint::wallet::Wallet::at(&federation.join("wallet"));
    let info = wallet
        .run(&["info"])
        .await
        .expect("offline, it still knows");
    assert!(info.to_string().contains("escrow"), "{info}");
}

/// Escrow, played natively with its calls written down.
fn played() -> Federation {
    let federation = Federation::with_cash(4);
    federation.record();
    let escrow = Bundle::federation_module::<Escrow>();
    assert_eq!(federation.found(escrow, Vec::new()), 1);
    let mut wallets = ["buyer", "seller", "arbiter"].map(|name| Wallet::new(&federation, name));
    wallets[0].endow(5_000);
    let detail = |wallet: &Wallet, operation: OperationId, name: &str| {
        let hex = wallet.operation(operation).detail(name);
        modmint_core::decode_hex(&hex.expect("it is shown")).expect("hexadecimal")
    };
    let [_, seller, arbiter] = [0, 1, 2].map(|party| {
        let wallet: &mut Wallet = &mut wallets[party];
        let operation = wallet.perform(1, "key", Vec::new()).expect("it begins");
        detail(wallet, operation, "key")
    });
    let open = Open {
        amount: Amount(1_000_000),
        seller,
        arbiter,
        blocks: 10,
    };
    for approved in [true, false] {
        let operation = wallets[0].perform(1, "open", open.clone().arguments());
        let contract = detail(&wallets[0], operation.expect("it begins"), "contract");
        let mut claim = Claim {
            contract: contract.clone(),
            approval: None,
        };
        if approved {
            let approve = modmint_escrow::Approve { contract };
            let operation = wallets[2].perform(1, "release", approve.arguments());
            claim.approval = Some(detail(
                &wallets[2],
                operation.expect("it begins"),
                "approval",
            ));
        }
        let claimed = wallets[1].perform(1, "claim", claim.arguments());
        let claimed = wallets[1].operation(claimed.expect("it begins")).finished();
        assert_eq!(claimed.expect("it ends").is_ok(), approved);
    }
    let nothing = Open {
        amount: Amount(0),
        ..open
    };
    let operation = wallets[0].perform(1, "open", nothing.arguments());
    let refused = wallets[0]
        .operation(operation.expect("it begins"))
        .finished();
    let refused = refused.expect("it ends").expect_err("it is empty");
    assert_eq!(refused.code, "empty");
    federation.audit(1);
    federation
}

#[test]
fn the_component_does_what_the_native_module_does_within_its_fuel_budgets() {
    let calls = played().recorded();
    let component = std::fs::read(escrow()).expect("it is built");
    let report = fuel::measure(&component, &calls).expect("it can be metered");
    println!("{report}");
    assert_eq!(report.differences, Vec::<String>::new());
    assert_eq!(report.exports["process-input"].calls, 1);
    assert_eq!(report.exports["process-output"].calls, 3);
    assert_eq!(report.exports["process-output"].refused, 1);
    let budgets = [
        ("init", 5_000),
        ("process-input", 250_000),
        ("process-output", 150_000),
        ("audit", 50_000),
    ];
    let budgets = budgets
        .map(|(export, most)| (export.to_owned(), most))
        .into();
    assert_eq!(report.over(&budgets), Vec::<String>::new());
    let little = [("process-input".to_owned(), 10)].into();
    assert_eq!(report.over(&little).len(), 1);

    // Another module's component does something else, and that is found.
    let mut other = calls.clone();
    for call in &mut other {
        call.after = Err("another".into());
    }
    let report = fuel::measure(&component, &other).expect("it can be metered");
    assert_eq!(
        report.differences.len(),
        calls.iter().filter(|c| c.kind == "escrow").count()
    );
}

/// The files of this repository, as they are, in another folder.
fn clone_to(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .expect("there is git");
    let listed = String::from_utf8(listed.stdout).expect("text");
    for file in listed.split_terminator('\0') {
        let to = folder.join(file);
        std::fs::create_dir_all(to.parent().expect("in the folder")).expect("created");
        // One that is deleted and not yet committed is listed too.
        let _ = std::fs::copy(root.join(file), to);
    }
}

#[test]
fn two_clones_in_different_folders_build_the_same_bytes() {
    let here = folder();
    let clone = here.path().join("some where else");
    clone_to(&clone);
    let mut command = Command::new(env!("CARGO_BIN_EXE_modmint"));
    command
        .args(["module", "build", "modules-wasm/examples/escrow"])
        .current_dir(&clone)
        .env("CARGO_TARGET_DIR", here.path().join("target"))
        .env("RUSTFLAGS", "-C debuginfo=2");
    let output = command.output().expect("it starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let there = here.path().join("target/modules/escrow.wasm");
    let there = std::fs::read(there).expect("it is built");
    assert!(there == std::fs::read(escrow()).expect("it is built"));
}

/// The commands of a page, in order: all its blocks of `sh`.
fn commands(page: &str) -> String {
    let mut commands = String::from("set -euo pipefail\n");
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => {
                commands.push_str(line);
                commands.push('\n');
            }
            _ => {}
        }
    }
    commands
}

/// Each command that bash has traced, with its time: in order, and those that a loop
/// repeats once, with all that they took.
fn transcript(trace: &str) -> String {
    let traced = |line: &str| {
        // A `+` more for each subshell, whose time is that of the command around it.
        let (time, command) = line.strip_prefix("+ ")?.split_once(' ')?;
        // With a comma in some languages.
        Some((
            time.replace(',', ".").parse::<f64>().ok()?,
            command.to_owned(),
        ))
    };
    let lines: Vec<_> = trace.lines().filter_map(traced).collect();
    let mut commands: Vec<(&str, f64)> = Vec::new();
    for pair in lines.windows(2) {
        let [(began, command), (ended, _)] = pair else {
            continue;
        };
        match commands.iter_mut().find(|(known, _)| known == command) {
            Some((_, seconds)) => *seconds += ended - began,
            None => commands.push((command, ended - began)),
        }
    }
    let line = |(command, seconds): &(&str, f64)| format!("{seconds:>7.2} s  {command}\n");
    commands.iter().map(line).collect()
}

/// Every command of the tutorial, in order, from an empty folder.
#[tokio::test]
async fn the_tutorial_holds() {
    let here = folder();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/modules/tutorial.md");
    let page = std::fs::read_to_string(page).expect("there is a tutorial");
    let script = here.path().join("tutorial.sh");
    // With each command's time, for whoever reads the log.
    let trace = here.path().join("trace");
    let traced = format!(
        "exec 9>{}; BASH_XTRACEFD=9; PS4='+ $EPOCHREALTIME '; set -x\n{}\n:\n",
        trace.display(),
        commands(&page)
    );
    std::fs::write(&script, traced).expect("written");
    let programs = Path::new(env!("CARGO_BIN_EXE_modmint"))
        .parent()
        .expect("a folder");
    let path = std::env::var("PATH").expect("there is a PATH");
    let empty = here.path().join("empty");
    std::fs::create_dir(&empty).expect("created");
    let mut command = Command::new("bash");
    command
        .arg(&script)
        .current_dir(&empty)
        .env("PATH", format!("{}:{path}", programs.display()));
    let output = tokio::task::spawn_blocking(move || command.output().expect("there is bash"));
    let output = output.await.expect("it does not panic");
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    println!("{out}\n{err}");
    let trace = std::fs::read_to_string(trace).expect("bash has written it");
    println!("{}", transcript(&trace));
    let left = here.path().to_owned();
    assert!(
        output.status.success(),
        "{}; see {}",
        output.status,
        here.keep().display()
    );
    assert!(out.contains("1000 sat taken in"), "the voucher is redeemed");
    until("the federation to be gone", || async {
        crate::common::processes_of(&left).is_empty()
    })
    .await;
    std::fs::remove_dir_all(left).expect("it can be removed");
}

/// Programs that do nothing, in this folder: each succeeds, or each fails.
fn stand_ins(folder: &Path, succeed: bool) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(folder).expect("created");
    for name in ["modmint", "modmint-cli", "cargo"] {
        let file = folder.join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{succeed}\n")).expect("written");
        let may_run = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&file, may_run).expect("it is ours");
    }
}

/// Somebody who pastes the page line by line has a shell that goes on behind a command that
/// fails, and that is theirs: nothing may end it or keep it, whatever the programs do.
#[tokio::test]
async fn the_tutorial_leaves_the_terminal_of_whoever_pastes_it_open() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/modules/tutorial.md");
    let page = std::fs::read_to_string(page).expect("there is a tutorial");
    let pasted = commands(&page).replace("set -euo pipefail", "");
    for succeed in [true, false] {
        let here = folder();
        let programs = here.path().join("programs");
        stand_ins(&programs, succeed);
        let empty = here.path().join("empty");
        std::fs::create_dir(&empty).expect("created");
        let script = here.path().join("pasted");
        std::fs::write(&script, format!("{pasted}\necho still open\n")).expect("written");
        let path = std::env::var("PATH").expect("there is a PATH");
        let mut bash = tokio::process::Command::new("bash");
        bash.current_dir(&empty)
            .env("PATH", format!("{}:{path}", programs.display()))
            .stdin(std::fs::File::open(&script).expect("it is there"))
            .kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(60), bash.output()).await;
        let output = output.expect("it comes to an end").expect("there is bash");
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(out.contains("still open"), "{succeed}: {out}{err}");
    }
}

#[test]
fn a_new_module_in_c_builds_and_passes_the_suite() {
    let here = folder();
    let written = told(
        here.path(),
        &["module", "new", "guestbook", "--language", "c"],
    );
    assert!(written.contains("modmint module test"), "{written}");
    let module = here.path().join("guestbook");
    let report = told(&module, &["module", "test", "--cases", "60"]);
    assert!(report.contains("guestbook 0.1.0"), "{report}");
    assert!(report.contains("5 steps"), "{report}");
    assert!(report.contains("ok           costs no more"), "{report}");
    let fuel = modmint(&module, &["module", "fuel"]);
    let complaint = String::from_utf8_lossy(&fuel.stderr);
    assert!(complaint.contains("a module in C"), "{complaint}");
    assert!(complaint.contains("modmint module test"), "{complaint}");
    let shown = told(&module, &["module", "inspect"]);
    assert!(shown.contains("default 1 sat"), "{shown}");
    assert!(shown.contains(r#"output: {"line":"#), "{shown}");
    assert!(shown.contains(r#"answer of lines: {"lines":"#), "{shown}");
    assert!(
        shown.contains("consensus item: none in the scenario"),
        "{shown}"
    );
    assert!(shown.contains("process-output: "), "{shown}");
    assert!(shown.contains("contract modmint:module 0.2.0"), "{shown}");
    // The same source against an older contract is told what that lacks, by the compiler.
    let older = modmint(&module, &["module", "build", "--contract", "0.1"]);
    assert!(!older.status.success());
    let never = modmint(&module, &["module", "build", "--contract", "7"]);
    let complaint = String::from_utf8_lossy(&never.stderr);
    assert!(complaint.contains("known are: 0.1.0, 0.2.0"), "{complaint}");
}

#[test]
fn what_modmint_cli_calls_its_commands_no_module_is_called() {
    let here = folder();
    let cli = modmint::programs::program("modmint-cli").expect("built");
    let help = Command::new(cli).arg("--help").output().expect("it starts");
    let help = String::from_utf8(help.stdout).expect("text");
    let listed = help
        .split("Commands:\n")
        .nth(1)
        .expect("there are commands");
    let listed = listed.lines().take_while(|line| !line.is_empty());
    let names: Vec<_> = listed
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.contains(&"balance"), "{help}");
    for name in names {
        let output = modmint(here.path(), &["module", "new", name]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            complaint.contains(&format!("my-{name}")),
            "{name}: {complaint}"
        );
    }
}

/// `modmint module run` in the background, and what it says.
struct Running {
    process: std::process::Child,
    log: PathBuf,
}

impl Running {
    fn start(folder: &Path, words: &[&str]) -> Self {
        let log = folder.join("log");
        let out = std::fs::File::create(&log).expect("created");
        let process = Command::new(env!("CARGO_BIN_EXE_modmint"))
            .args(["module", "run"])
            .args(words)
            .current_dir(folder)
            .stderr(out.try_clone().expect("a file"))
            .stdout(out)
            .spawn()
            .expect("it starts");
        Self { process, log }
    }

    /// Waits until it has said something so often.
    async fn says(&self, what: &'static str, number: usize) {
        let told = || std::fs::read_to_string(&self.log).expect("there is a log");
        let said = modmint::wait_for(what, Duration::from_secs(300), || async {
            anyhow::ensure!(told().matches(what).count() == number, "not yet");
            Ok(())
        });
        if let Err(error) = said.await {
            panic!("{error:#}: {}", told());
        }
    }

    fn end(&mut self) {
        let kill = ["-s", "INT", &self.process.id().to_string()];
        let killed = Command::new("kill").args(kill).status();
        assert!(killed.expect("there is kill").success());
        assert!(self.process.wait().expect("it ends").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

#[tokio::test]
async fn a_module_in_c_that_guardians_refuse_is_waited_for_until_it_changes() {
    let here = folder();
    told(
        here.path(),
        &["module", "new", "guestbook", "--language", "c"],
    );
    let source = here.path().join("guestbook/guestbook.c");
    let good = std::fs::read_to_string(&source).expect("it is written");
    let init = "server_init(refusal_t *err) { return true; }";
    assert!(good.contains(init));
    let refuses = "server_init(refusal_t *err) { return refuse(err, \"no\", \"not here\"); }";
    std::fs::write(&source, good.replace(init, refuses)).expect("written");
    let words = ["guestbook", "--guardians", "1", "--wallet", "10000"];
    let mut running = Running::start(here.path(), &words);
    running.says("Waiting for a change", 1).await;
    // Beside the module, where C lies.
    std::fs::write(&source, good).expect("written");
    running.says("stays up until", 1).await;
    running.end();
}

#[test]
fn a_setting_that_is_another_kind_s_is_refused_by_run_as_by_dev() {
    let here = folder();
    let component = escrow();
    let component = component.to_str().expect("text");
    let output = modmint(
        here.path(),
        &["module", "run", component, "--set", "fee=2sat"],
    );
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        complaint.contains("--set escrow.NAME=VALUE is expected"),
        "{complaint}"
    );
}

#[tokio::test]
async fn a_module_that_changes_has_a_new_federation() {
    let here = folder();
    let module = here.path().join("module.wasm");
    std::fs::copy(escrow(), &module).expect("copied");
    let mut running = Running::start(here.path(), &["module.wasm", "--wallet", "10000"]);
    running.says("stays up until", 1).await;
    // Nothing but its time.
    std::fs::copy(escrow(), &module).expect("copied");
    running.says("the federation stays", 1).await;
    // A section that nobody reads.
    let mut other = std::fs::read(&module).expect("it is there");
    other.extend([0, 3, 1, b'x', 0]);
    std::fs::write(&module, other).expect("written");
    running.says("stays up until", 2).await;
    running.end();
}
