//! The suite that any bundle must pass, on all that are here, and on some that must not.

use std::path::{Path, PathBuf};

use modmint::{
    kit::{
        self,
        conformance::{FILE, Report, Scenario, Suite, scenario_beside},
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
fn lightning_passes() {
    stock("ln");
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
fn what_a_scenario_says_in_vain_is_found() {
    let ln = programs::bundle("ln").expect("the build script makes the bundles");
    let written = std::fs::read_to_string(modules().join("ln").join(FILE)).expect("it is there");
    let here = tempfile::tempdir().expect("a folder");
    for (said, instead, what) in [
        (
            "balance = 199_999",
            "balance = 200_000",
            "alice has 199999000",
        ),
        ("\"already-paid\"", "\"declined\"", "refused: this wallet"),
        // The node would know nothing for certain, so the gateway goes on asking it.
        (
            "fails = \"payment-failed\"",
            "fails = \"not-known\"",
            "not refused with \"payment-failed\"",
        ),
        ("\"payment_hash\"", "\"hash\"", "no \"hash\" in {"),
        ("\"/routing\"", "\"/rooting\"", "no step says what"),
    ] {
        assert!(written.contains(said), "{said}");
        let file = here.path().join(FILE);
        std::fs::write(&file, written.replace(said, instead)).expect("written");
        let suite = Suite {
            component: std::fs::read(&ln).expect("it is built"),
            scenario: Some(Scenario::read(&file).expect("well-formed")),
            older: None,
            cases: 1,
            seed: 0,
        };
        let report = suite.run().expect("the suite runs");
        let (name, found) = &report.checks[0];
        assert!(name.contains("does what it is for"), "{name}");
        let told = found.as_ref().expect_err("it is in vain");
        assert!(told.contains(what), "{told}");
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

/// What turns the notary into one that keeps its stamps elsewhere, and something in the
/// wallet besides; storage of version 2, with what is left of version 1 taken along.
const MOVED: [(&str, &str); 7] = [
    ("text(\"0.1.0\")", "text(\"0.2.0\")"),
    ("server_storage = 1", "server_storage = 2"),
    ("client_storage = 1", "client_storage = 2"),
    ("key[0] = 'd';", "key[0] = 'e';"),
    ("\"w\", 1", "\"x\", 1"),
    // The guardians': one stamp a step.
    (
        "    return refuse(err, \"no-migration\", \"storage has had one version only\");\n}\n\n\
         bool exports_modmint_module_server_process_input",
        "    if (from != 1) abort();\n    \
         bytes_t old = {(uint8_t *)\"d\", 1};\n    \
         federation_module_list_tuple2_list_u8_list_u8_t found;\n    \
         modmint_module_storage_scan(&old, cursor, 1, &found);\n    \
         memset(ret, 0, sizeof *ret);\n    \
         if (found.len == 0) return true;\n    \
         bytes_t key = found.ptr[0].f0, value = found.ptr[0].f1, next = key_of(key.ptr + 1);\n    \
         modmint_module_storage_put(&next, &value);\n    \
         modmint_module_storage_delete(&key);\n    \
         ret->is_some = true;\n    ret->val = key;\n    return true;\n}\n\n\
         bool exports_modmint_module_server_process_input",
    ),
    // The wallet's.
    (
        "    return refuse(err, \"no-migration\", \"storage has had one version only\");\n}\n",
        "    bytes_t old = {(uint8_t *)\"w\", 1}, new = {(uint8_t *)\"x\", 1}, value;\n    \
         if (from != 1) abort();\n    \
         if (modmint_module_storage_get(&old, &value)) {\n        \
         modmint_module_storage_put(&new, &value);\n    }\n    \
         memset(ret, 0, sizeof *ret);\n    return true;\n}\n",
    ),
];

/// The notary whose wallet remembers that it stamps, and breaks if it forgot.
const REMEMBERS: [(&str, &str); 2] = [
    (
        "    go_to(to, STAMPING, digest);\n",
        "    go_to(to, STAMPING, digest);\n    \
         bytes_t remembered = {(uint8_t *)\"w\", 1};\n    \
         modmint_module_storage_put(&remembered, &remembered);\n",
    ),
    (
        "EFFECT_RESULT_ACCEPTED:\n        look(ret, digest);",
        "EFFECT_RESULT_ACCEPTED:\n        \
         if (!modmint_module_storage_get(&(bytes_t){(uint8_t *)\"w\", 1}, &(bytes_t){0})) \
         abort();\n        look(ret, digest);",
    ),
];

#[test]
fn storage_of_an_older_bundle_is_migrated_or_that_is_found() {
    let notary = modules().join("examples/notary");
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let [first, second, third] = folders.each_ref().map(tempfile::TempDir::path);
    let older = notary_with(first, &REMEMBERS);
    let newer = notary_with(second, &[&REMEMBERS[..], &MOVED[..]].concat());
    assert!(run_behind(&newer, &notary, Some(&older)).passed());
    // One that says that its storage is another, and takes nothing along.
    let forgetful = notary_with(third, &[&REMEMBERS[..], &MOVED[..4]].concat());
    let report = run_behind(&forgetful, &notary, Some(&older));
    let failed = report.checks.iter().find(|(_, found)| found.is_err());
    let (name, found) = failed.expect("it is found");
    let told = found.as_ref().expect_err("filtered");
    assert!(name.contains("the older bundle left"), "{name}");
    assert!(told.contains("storage of version 1 is refused"), "{told}");
}
