//! What is admitted, and what each refusal names.

use wit_component::dummy_module;
use wit_parser::ManglingAndAbi;

use super::fixture::{contract, encode, server};
use crate::{Admission, AdmitError, ContractVersion, admit, examine, limits};

/// A module of the world with every import called and every export there, each of
/// which traps.
fn dummy(world: &str, change: impl FnOnce(String) -> String) -> Vec<u8> {
    dummy_of(ContractVersion::NEWEST, world, change)
}

/// The same, of another version of the contract.
pub(super) fn dummy_of(
    version: ContractVersion,
    world: &str,
    change: impl FnOnce(String) -> String,
) -> Vec<u8> {
    let (resolve, package) = contract(version, change);
    let id = resolve.select_world(&[package], Some(world)).unwrap();
    let core = dummy_module(&resolve, id, ManglingAndAbi::Standard32);
    encode(&resolve, package, world, core)
}

fn refusal(bytes: &[u8]) -> String {
    admit(bytes).unwrap_err().to_string()
}

fn replaced(from: &'static str, to: &'static str) -> impl FnOnce(String) -> String {
    move |text| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    }
}

#[test]
fn each_world_is_admitted_as_what_it_is() {
    for (world, server, client, ecash) in [
        ("server-half", true, false, false),
        ("client-half", false, true, false),
        ("federation-module", true, true, false),
        ("ecash-module", true, true, true),
    ] {
        let Admission {
            has_server,
            has_client,
            has_ecash,
            ..
        } = admit(&dummy(world, |text| text)).unwrap();
        assert_eq!(
            (has_server, has_client, has_ecash),
            (server, client, ecash),
            "{world}"
        );
    }
}

#[test]
fn capabilities_are_told_from_the_imports_alone() {
    let everything = admit(&dummy("ecash-module", |text| text)).unwrap();
    assert!(
        everything
            .capabilities
            .contains(&"hold bitcoin for the federation and pay it out".to_owned())
    );
    let import = r#"(import "modmint:module/storage@0.2.0" "put"
        (func $put (param i32 i32 i32 i32)))"#;
    let one = admit(&server(import, "", "(global.get $accepted)")).unwrap();
    assert_eq!(one.capabilities, ["store data of its own"]);
}

#[test]
fn a_core_module_is_told_what_it_lacks() {
    let core = wat::parse_str("(module)").unwrap();
    assert!(
        refusal(&core).contains("wit-component"),
        "{}",
        refusal(&core)
    );
}

#[test]
fn bytes_that_are_nothing_are_refused() {
    for bytes in [&b""[..], b"\0asm", b"something else entirely"] {
        assert!(matches!(admit(bytes), Err(AdmitError::Invalid(_))));
    }
}

#[test]
fn a_bundle_too_large_is_refused_before_anything_is_read() {
    let refusal = admit(&vec![0; limits::MAX_BUNDLE_BYTES + 1]).unwrap_err();
    assert!(matches!(refusal, AdmitError::TooLarge { .. }));
}

#[test]
fn an_import_of_wasi_is_refused_by_name() {
    let bytes = wat::parse_str(
        r#"(component (import "wasi:cli/environment@0.2.0" (instance
            (export "get-arguments" (func (result (list string)))))))"#,
    )
    .unwrap();
    assert!(
        refusal(&bytes).contains("wasi:cli/environment@0.2.0"),
        "{}",
        refusal(&bytes)
    );
}

#[test]
fn an_import_that_the_contract_lacks_is_refused_by_name() {
    let bytes = dummy(
        "server-half",
        replaced(
            "get: func(key",
            "read-others: func(key: list<u8>);\n get: func(key",
        ),
    );
    assert!(
        refusal(&bytes).contains("storage@0.2.0#read-others"),
        "{}",
        refusal(&bytes)
    );
}

#[test]
fn an_import_of_another_type_is_refused_by_name() {
    let bytes = dummy(
        "server-half",
        replaced("release: func(satoshi: u64)", "release: func(satoshi: u32)"),
    );
    let refusal = refusal(&bytes);
    assert!(
        refusal.contains("treasury@0.2.0") && refusal.contains("release"),
        "{refusal}"
    );
}

#[test]
fn an_export_of_another_shape_is_refused_by_name() {
    for (from, to, name) in [
        (
            "init: func() -> result<_, refusal>;",
            "init: func(force: bool) -> result<_, refusal>;",
            "init",
        ),
        (
            "record audit-line { name: string, msat: s64 }",
            "record audit-line { name: string, msat: s32 }",
            "audit-line",
        ),
        ("audit: func() -> list<audit-line>;", "", "audit"),
    ] {
        let refusal = refusal(&dummy("server-half", replaced(from, to)));
        assert!(
            refusal.contains("server@0.2.0") && refusal.contains(name),
            "{refusal}"
        );
    }
}

#[test]
fn an_export_that_is_missing_or_unknown_is_refused_by_name() {
    let missing = dummy(
        "server-half",
        replaced("export module-info;\n    export server;", "export server;"),
    );
    assert!(refusal(&missing).contains("module-info"));
    let neither = dummy(
        "server-half",
        replaced(
            "export module-info;\n    export server;",
            "export module-info;",
        ),
    );
    assert!(refusal(&neither).contains("export server is missing"));
    let unknown = dummy(
        "server-half",
        replaced(
            "export module-info;\n    export server;",
            "export module-info;\n    export server;\n export extra: func();",
        ),
    );
    assert!(refusal(&unknown).contains("export extra"));
}

#[test]
fn values_of_a_function_are_counted_with_its_operands() {
    let locals = |count: usize| format!("(func {})", "(local i64)".repeat(count));
    assert!(admit(&server("", &locals(512), "(global.get $accepted)")).is_ok());
    let refusal_of_locals = refusal(&server("", &locals(513), "(global.get $accepted)"));
    assert!(
        refusal_of_locals.contains("513 parameters, locals and operands")
            && refusal_of_locals.contains("core module 0"),
        "{refusal_of_locals}"
    );

    let operands = format!(
        "(func {} {})",
        "(i64.const 1)".repeat(600),
        "(drop)".repeat(600)
    );
    let refusal_of_operands = refusal(&server("", &operands, "(global.get $accepted)"));
    assert!(
        refusal_of_operands.contains("600 parameters, locals and operands"),
        "{refusal_of_operands}"
    );
}

#[test]
fn a_function_with_too_much_code_is_refused_by_its_number() {
    let long = format!("(func {})", "(drop (i32.const 1))".repeat(30_000));
    let refusal = refusal(&server("", &long, "(global.get $accepted)"));
    assert!(
        refusal.contains("bytes of code") && refusal.contains("function"),
        "{refusal}"
    );
}

#[test]
fn what_the_engines_do_not_have_is_refused() {
    for (function, why) in [
        ("(func (drop (v128.const i64x2 0 0)))", "SIMD"),
        ("(func $t (return_call $t))", "tail calls"),
    ] {
        let bytes = server("", function, "(global.get $accepted)");
        assert!(
            matches!(admit(&bytes), Err(AdmitError::Invalid(_))),
            "{why}"
        );
    }
}

#[test]
fn memory_that_no_call_would_get_is_refused() {
    let bytes = wat::parse_str(r#"(component (core module (memory 513)))"#).unwrap();
    assert!(
        refusal(&bytes).contains("initial memory pages"),
        "{}",
        refusal(&bytes)
    );
    let bytes =
        wat::parse_str(r#"(component (core module (memory 1)) (core module (memory 1)))"#).unwrap();
    assert!(
        refusal(&bytes).contains("2 memories"),
        "{}",
        refusal(&bytes)
    );
}

#[test]
fn whoever_wrote_a_bundle_learns_of_all_imports_that_are_wrong_and_what_to_do() {
    let get = "get: func(key: list<u8>) -> option<list<u8>>;";
    let wrong = "get: func(key: list<u8>) -> option<list<u8>>; now: func() -> u64; \
                 environment: func() -> string;";
    let findings = examine(&dummy("ecash-module", replaced(get, wrong))).unwrap_err();
    let told: Vec<_> = findings.iter().map(ToString::to_string).collect();
    for name in ["storage@0.2.0#now", "storage@0.2.0#environment"] {
        assert!(told.iter().any(|line| line.contains(name)), "{told:?}");
    }
    assert!(findings.iter().all(|finding| !finding.remedy().is_empty()));
    let wasi = AdmitError::UnknownImport {
        import: "wasi:clocks/wall-clock@0.2.0".into(),
    };
    assert!(wasi.remedy().contains("wasm32-unknown-unknown"));
}
