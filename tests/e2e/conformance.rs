//! The suite that any bundle must pass, on all that are here, and on some that must not.

use std::path::{Path, PathBuf};

use modmint::{
    kit::{
        self,
        conformance::{FILE, Found, Report, Scenario, Suite, scenario_beside},
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
        assert_found(&report, check, what);
    }
}

/// The first thing that is wrong is this.
fn assert_found(report: &Report, check: &str, what: &str) {
    let failed = report.failed();
    let (name, told) = failed.first().expect("it is found");
    assert!(
        name.contains(check) && told.contains(what),
        "{name}: {told}"
    );
}

#[test]
fn what_a_liar_or_a_stranger_could_break_a_module_with_is_found() {
    let notary = modules().join("examples/notary");
    let answers = "    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_ANSWERS:\n";
    let command = "    return refuse(err, \"no-such-command\"";
    let described = "    ret->queries.len = 1;\n";
    for (changes, check, what) in [
        // A height that no chain has, a bit away from what a guardian says.
        (
            &[(
                "    go_to(to, OVER, digest);\n    to->progress",
                "    if (answer->len == STAMP && answer->ptr[0] != 0) abort();\n    \
                 go_to(to, OVER, digest);\n    to->progress",
            )][..],
            "every event in every state",
            "Answers",
        ),
        // An answer of another kind to what it waits for.
        (
            &[(
                answers,
                "    case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_TIME_REACHED:\n        \
                 if (event->val.done.effect == 2) abort();\n        break;\n    \
                 case EXPORTS_MODMINT_MODULE_CLIENT_EFFECT_RESULT_ANSWERS:\n",
            )],
            "every event in every state",
            "TimeReached",
        ),
        // A digest that is a key.
        (
            &[(
                "    if (value == NULL || value->val.bytes.len != DIGEST) {",
                "    if (value != NULL && value->val.bytes.len == 33) abort();\n    \
                 if (value == NULL || value->val.bytes.len != DIGEST) {",
            )],
            "any arguments",
            "with [Argument",
        ),
        (
            &[
                (
                    described,
                    "    ret->queries.len = 1;\n    ret->commands.ptr = query;\n    \
                     ret->commands.len = 1;\n",
                ),
                (
                    command,
                    "    if (arguments->ptr[0].value.val.bytes.len == 0) abort();\n    \
                     return refuse(err, \"no-such-command\"",
                ),
            ],
            "any arguments",
            "command stamp",
        ),
        // Storage of a version that never was.
        (
            &[(
                "server_migrate(uint32_t from, bytes_t *cursor,\n                                           \
                 federation_module_option_list_u8_t *ret,\n                                           \
                 refusal_t *err) {\n",
                "server_migrate(uint32_t from, bytes_t *cursor,\n                                           \
                 federation_module_option_list_u8_t *ret,\n                                           \
                 refusal_t *err) {\n    if (from > 1) abort();\n",
            )],
            "malformed items",
            "server.migrate from version",
        ),
        // Something kept in memory from one output of a transaction to the next.
        (
            &[(
                "    if (output->len != DIGEST) {",
                "    static int outputs;\n    if (outputs++ > 0) {\n        \
                 return refuse(err, \"one-each\", \"one stamp in a transaction is expected\");\n    \
                 }\n    if (output->len != DIGEST) {",
            )],
            "share a store",
            "process-output behind process-output in one store: refused, one-each",
        ),
        // Counts how often it was told, and is told again when the wallet comes back.
        (
            &[
                ("AGREEMENT_SAME", "AGREEMENT_EACH"),
                (
                    "        if (outcome->val.answers.len > 0) {",
                    "        ;\n        bytes_t told = {(uint8_t *)\"t\", 1}, before;\n        \
                     if (!modmint_module_storage_get(&told, &before)) {\n            \
                     modmint_module_storage_put(&told, &told);\n            \
                     look(ret, digest);\n            return true;\n        }\n        \
                     modmint_module_storage_delete(&told);\n        \
                     if (outcome->val.answers.len < 4) abort();\n        \
                     if (outcome->val.answers.len > 0) {",
                ),
            ],
            "wherever a wallet is killed",
            "killed behind its write",
        ),
    ] {
        let here = tempfile::tempdir().expect("a folder");
        let component = notary_with(here.path(), changes);
        let report = run(&component, &notary);
        assert_found(&report, check, what);
        // With the same seed the same is found.
        assert_eq!(run(&component, &notary).failed(), report.failed());
    }
}

/// That a refused item leaves nothing behind is the host's promise: a module may write
/// before it refuses. `a_refused_transaction_leaves_nothing_but_its_status` holds guardians
/// to it, `what_a_refused_item_wrote_is_gone` the mock.
#[test]
fn a_module_may_write_before_it_refuses() {
    let written = "        bytes_t junk = {(uint8_t *)\"j\", 1};\n        \
                   modmint_module_storage_put(&junk, &junk);\n        \
                   return refuse(err, \"stamped-before\"";
    let here = tempfile::tempdir().expect("a folder");
    let changes = [("        return refuse(err, \"stamped-before\"", written)];
    let component = notary_with(here.path(), &changes);
    assert!(run(&component, &modules().join("examples/notary")).passed());
}

fn check<'a>(report: &'a Report, name: &str) -> &'a Found {
    let mut checks = report.checks.iter();
    let found = checks.find(|(check, _)| check.contains(name));
    &found.expect("there is such a check").1
}

#[test]
fn without_a_scenario_nothing_is_said_to_hold_that_nobody_looked_at() {
    let escrow = kit::example("escrow").expect("the example builds");
    let nowhere = tempfile::tempdir().expect("a folder");
    let report = run(&escrow.component, nowhere.path());
    for name in [
        "what it is for",
        "shows",
        "same fuel",
        "share a store",
        "killed",
    ] {
        assert_eq!(*check(&report, name), Found::NotChecked, "{name}");
    }
    for name in ["events", "arguments", "malformed"] {
        let name = if name == "events" {
            "every event"
        } else {
            name
        };
        assert!(matches!(check(&report, name), Found::Holds(_)), "{name}");
    }
    assert!(!report.passed());
    let told = report.to_string();
    assert!(
        told.contains("not checked") && told.contains("no pass"),
        "{told}"
    );
}

#[test]
fn a_scenario_beside_a_component_is_found_and_what_it_leaves_out_is_said() {
    let notary = kit::example("notary").expect("the example builds");
    let here = tempfile::tempdir().expect("a folder");
    let component = here.path().join("notary.wasm");
    std::fs::copy(&notary.component, &component).expect("copied");
    let scenario = "[[step]]\nwallet = \"alice\"\naction = \"stamp\"\n\
                    with = { digest = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\" }\n";
    std::fs::write(here.path().join(FILE), scenario).expect("written");
    let report = run(&component, &component);
    assert!(report.passed());
    let untouched = report.untouched.join("; ");
    assert!(
        untouched.starts_with("action look; consensus items"),
        "{untouched}"
    );

    // A scenario of nothing is none.
    std::fs::write(here.path().join(FILE), "money = 1").expect("written");
    assert_found(
        &run(&component, &component),
        "what it is for",
        "begins nothing",
    );
}

#[test]
fn budgets_of_a_scenario_are_held_and_those_that_hold_nothing_back_refused() {
    let notary = kit::example("notary").expect("the example builds");
    let folder = modules().join("examples/notary");
    for (export, most, what) in [
        ("process-output", 10, "its budget is 10"),
        ("process_output", 1_000_000, "process-output"),
        ("process-input", 1_000_000, "never called"),
    ] {
        let mut scenario = scenario_beside(&folder)
            .expect("well-formed")
            .expect("there");
        scenario.fuel = [(export.to_owned(), most)].into();
        let suite = Suite {
            component: std::fs::read(&notary.component).expect("it is built"),
            scenario: Some(scenario),
            older: None,
            cases: 1,
            seed: 0,
        };
        let report = suite.run().expect("the suite runs");
        assert_found(&report, "no more than its budgets", what);
    }
}

/// A module of which one half is exported.
const HALF: &str = r#"
use modmint_sdk::*;

struct Half;
export!(Half: @world@);

impl Module for Half {
    type Config = ();
    fn describe() -> Description {
        Description {
            kind: "half".into(),
            version: "0.1.0".into(),
            summary: "Waits.".into(),
            server_storage: 1,
            client_storage: 1,
            configuration: vec![],
            queries: vec![],
            commands: vec![],
        }
    }
    fn configure(_: Arguments) -> Result<Setup<()>, Refusal> {
        Ok(Setup { config: (), keys: vec![] })
    }
    fn render(_: Item, _: &[u8]) -> Result<Json, Refusal> {
        Err(Refusal::new("bad-encoding", "there is nothing to show"))
    }
}

impl Server for Half {
    type Input = Nothing;
    type Output = Nothing;
    type ConsensusItem = Nothing;
    fn process_input(input: Nothing) -> Result<InputEffect, Refusal> {
        match input {}
    }
    fn process_output(output: Nothing, _: OutPoint) -> Result<OutputEffect, Refusal> {
        match output {}
    }
    fn audit() -> Vec<AuditLine> {
        vec![]
    }
}

impl Client for Half {
    type State = u64;
    fn actions() -> Vec<Action> {
        vec![Action {
            name: "wait".into(),
            summary: "Waits.".into(),
            audience: Audience::Person,
            parameters: vec![],
        }]
    }
    fn start(_: &str, _: Arguments) -> Result<Transition<u64>, Refusal> {
        Ok(Transition::to(7).until(9, 0))
    }
    fn advance(state: u64, event: Event) -> Result<Transition<u64>, Refusal> {
        if let Event::Done(EffectDone { effect: 9, outcome: EffectResult::@breaks@ }) = event {
            panic!("it breaks");
        }
        Ok(Transition::done(state))
    }
}
"#;

/// It, in a folder of its own; it breaks if it is told this.
fn half(folder: &Path, world: &str, breaks: &str) -> PathBuf {
    let sdk = modules().join("sdk");
    let manifest = format!(
        "[package]\nname = \"half\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
         [lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\
         [dependencies]\nmodmint-sdk = {{ path = {sdk:?} }}\n[workspace]\n"
    );
    std::fs::create_dir_all(folder.join("src")).expect("created");
    std::fs::write(folder.join("Cargo.toml"), manifest).expect("written");
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    std::fs::copy(lock, folder.join("Cargo.lock")).expect("copied");
    let source = HALF.replace("@world@", world).replace("@breaks@", breaks);
    std::fs::write(folder.join("src/lib.rs"), source).expect("written");
    kit::build(folder).expect("it builds").component
}

#[test]
fn of_a_bundle_with_one_half_that_half_is_checked() {
    let here = tempfile::tempdir().expect("a folder");
    let guardians = half(&here.path().join("guardians"), "server-half", "Declined");
    let report = run(&guardians, here.path());
    assert!(report.passed());
    let lacks = Found::PassedOver("the bundle has no wallets' half".into());
    assert_eq!(*check(&report, "killed"), lacks);
    assert_eq!(*check(&report, "every event"), lacks);
    assert!(matches!(check(&report, "malformed"), Found::Holds(_)));

    let wallets = half(&here.path().join("wallets"), "client-half", "Declined");
    let report = run(&wallets, here.path());
    let lacks = Found::PassedOver("the bundle has no guardians' half".into());
    assert_eq!(*check(&report, "same fuel"), lacks);
    // What is wrong with the half that is there is found.
    assert_found(&report, "every event", "Declined");
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
        assert_found(&report, "does what it is for", what);
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
    assert_found(&report, "the older bundle left", "");
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
        "    if (from != 1) return refuse(err, \"no-migration\", \"version 1 is expected\");\n    \
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
         if (from != 1) return refuse(err, \"no-migration\", \"version 1 is expected\");\n    \
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
    let refused = "storage of version 1 is refused";
    assert_found(&report, "the older bundle left", refused);
}
