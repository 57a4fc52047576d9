//! The suite that any bundle must pass, on all that are here, and on some that must not.

use std::path::{Path, PathBuf};

use modmint::{
    kit::{
        self,
        conformance::{Report, Suite, scenario_beside},
    },
    programs,
};
use modmint_runtime::ContractVersion;

fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("modules-wasm")
}

fn run(component: &Path, folder: &Path) -> Report {
    run_behind(component, folder, None)
}

/// With what an older bundle left.
fn run_behind(component: &Path, folder: &Path, older: Option<&Path>) -> Report {
    let read = |path: &Path| std::fs::read(path).expect("it is built");
    let suite = Suite {
        component: read(component),
        scenario: scenario_beside(folder).expect("well-formed"),
        older: older.map(read),
        cases: 60,
        seed: 0,
    };
    let report = suite.run().expect("the suite runs");
    println!("{report}\n");
    report
}

fn stock(kind: &str) {
    let component = programs::bundle(kind).expect("the build script makes the bundles");
    assert!(run(&component, &modules().join(kind)).passed());
}

#[test]
fn the_mint_passes() {
    stock("mint");
}

#[test]
fn the_wallet_passes() {
    stock("wallet");
}

#[test]
fn escrow_passes() {
    let escrow = kit::example("escrow").expect("the example builds");
    let folder = modules().join("examples/escrow");
    assert!(run(&escrow.component, &folder).passed());
}

#[test]
fn a_module_in_another_language_passes() {
    let notary = kit::example("notary").expect("the example builds");
    let folder = modules().join("examples/notary");
    assert!(run(&notary.component, &folder).passed());
}

#[test]
fn a_bundle_built_against_an_older_contract_passes() {
    let folder = modules().join("frozen/notary-0.1");
    let older = kit::build_against(&folder, ContractVersion::V0_1).expect("it builds");
    let bytes = std::fs::read(&older.component).expect("it is built");
    let admission = modmint_runtime::admit(&bytes).expect("it is admitted");
    assert_eq!(admission.contract, ContractVersion::V0_1);
    assert!(run(&older.component, &folder).passed());
    // Of its own kind, but of today's contract: the newer bundle goes on.
    let newest = kit::example("notary").expect("the example builds");
    assert!(run_behind(&newest.component, &folder, Some(&older.component)).passed());
    let rust = kit::build_against(&modules().join("examples/escrow"), ContractVersion::V0_1);
    let refused = rust.expect_err("its SDK decides").to_string();
    assert!(refused.contains("0.2.0"), "{refused}");
}

/// The notary with something else in it. The folder has a name of its own, and so has
/// the component.
fn notary_with(folder: &Path, changes: &[(&str, &str)]) -> PathBuf {
    let source = modules().join("examples/notary/notary.c");
    let mut text = std::fs::read_to_string(source).expect("it is there");
    for (old, new) in changes {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    std::fs::write(folder.join("notary.c"), text).expect("written");
    kit::build(folder).expect("it builds").component
}

#[test]
fn what_is_wrong_with_a_module_is_found() {
    let notary = modules().join("examples/notary");
    let accepted = "EFFECT_RESULT_ACCEPTED:\n        look(ret, digest);";
    for (changes, check, what) in [
        (
            &[(
                "return refuse(err, \"bad-encoding\", \"a digest is 32 bytes\");",
                "abort();",
            )][..],
            "never traps on malformed items",
            "process-output of",
        ),
        (
            &[("add(&json, \"\\\"}\");", "add(&json, \"}\");")],
            "shows whatever it makes",
            "no JSON",
        ),
        // Owes what nobody paid in.
        (
            &[(
                "    memset(ret, 0, sizeof *ret);\n}\n\n/* Wallets",
                "    ret->ptr = calloc(1, sizeof *ret->ptr);\n    ret->len = 1;\n    \
                 ret->ptr[0].name = text(\"debt\");\n    ret->ptr[0].msat = -5000;\n}\n\n/* \
                 Wallets",
            )],
            "even books",
            "step 1",
        ),
        // Another end than the scenario's.
        (
            &[("\"stamped-before\"", "\"before\"")],
            "does what it is for",
            "step 4",
        ),
        // An answer that it waits for and does not know.
        (
            &[(accepted, "EFFECT_RESULT_ACCEPTED:\n        abort();")],
            "does what it is for",
            "step 2",
        ),
    ] {
        let here = tempfile::tempdir().expect("a folder");
        let report = run(&notary_with(here.path(), changes), &notary);
        let mut failed = report.checks.iter().filter(|(_, found)| found.is_err());
        let (name, found) = failed.next().expect("it is found");
        let told = found.as_ref().expect_err("filtered");
        assert!(
            name.contains(check) && told.contains(what),
            "{name}: {told}"
        );
    }
}

#[test]
fn what_an_older_bundle_left_is_taken_or_that_is_found() {
    let notary = modules().join("examples/notary");
    let (here, there) = (tempfile::tempdir(), tempfile::tempdir());
    let (here, there) = (here.expect("a folder"), there.expect("a folder"));
    let newer = kit::example("notary")
        .expect("the example builds")
        .component;
    let older = notary_with(here.path(), &[("text(\"0.1.0\")", "text(\"0.0.9\")")]);
    assert!(run_behind(&newer, &notary, Some(&older)).passed());
    // Its states are one byte longer.
    let other = notary_with(
        there.path(),
        &[
            (
                "malloc(1 + DIGEST);\n    to->",
                "malloc(2 + DIGEST);\n    to->",
            ),
            ("to->state.len = 1 + DIGEST", "to->state.len = 2 + DIGEST"),
            ("state->len != 1 + DIGEST", "state->len != 2 + DIGEST"),
        ],
    );
    let report = run_behind(&newer, &notary, Some(&other));
    let failed = report.checks.iter().find(|(_, found)| found.is_err());
    let (name, _) = failed.expect("it is found");
    assert!(name.contains("the older bundle left"), "{name}");
}
