//! Bundles that mean harm, one for each limit that no other test here goes beyond:
//! refused at admission, or a trap of the module's own. `docs/modules/limits.md` lists
//! all of them.

use std::{
    fmt::Write as _,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use wasm_encoder::{
    ComponentBuilder, ComponentExportKind, ComponentInstanceSection, ComponentSection as _,
    ComponentSectionId, ExportKind, InstanceSection, ModuleArg, RawSection,
};
use wasmparser::{CanonicalFunction, ComponentAlias, ExternalKind, Parser, Payload};

use super::fixture::{Memory, context, server};
use crate::{AdmitError, Bundle, CallError, Engines, Instance, LoadError, Trap, admit, limits};

static ENGINES: LazyLock<Arc<Engines>> = LazyLock::new(|| Engines::new().unwrap());

const ACCEPTED: &str = "(global.get $accepted)";

/// A server half, and in the same bundle a component of one's own, which begins when an
/// instance is made.
fn beside(own: &str) -> Vec<u8> {
    let mut bytes = server("", "", ACCEPTED);
    let mut depth = 0;
    let mut components = 0;
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.unwrap() {
            Payload::ComponentSection { .. } if depth == 1 => components += 1,
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            _ => {}
        }
    }
    let own = wat::parse_str(own).unwrap();
    let section = RawSection {
        id: ComponentSectionId::Component.into(),
        data: &own,
    };
    section.append_to_component(&mut bytes);
    let mut instance = ComponentInstanceSection::new();
    let nothing: [(&str, ComponentExportKind, u32); 0] = [];
    instance.instantiate(components, nothing);
    instance.append_to_component(&mut bytes);
    bytes
}

/// What becomes of a bundle that breaks when an instance is made.
fn broken_at_once(bytes: &[u8]) -> Trap {
    match Bundle::load(&ENGINES, bytes) {
        Err(LoadError::Describe(CallError::Trapped(trap))) => trap,
        other => panic!("no trap: {other:?}"),
    }
}

/// Makes as many handles of a resource of its own, and lets go of none.
fn handles(count: usize) -> Vec<u8> {
    beside(&format!(
        r#"(component
            (type $own (resource (rep i32)))
            (core func $new (canon resource.new $own))
            (core module $greedy
                (import "" "new" (func $new (param i32) (result i32)))
                (func $start (local $n i32)
                    (loop $more
                        (drop (call $new (i32.const 7)))
                        (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if $more (i32.lt_u (local.get $n) (i32.const {count})))))
                (start $start))
            (core instance (instantiate $greedy
                (with "" (instance (export "new" (func $new)))))))"#
    ))
}

#[test]
fn more_handles_than_one_call_may_hold_are_a_trap_and_no_host_error() {
    Bundle::load(&ENGINES, &handles(limits::MAX_HANDLES)).unwrap();
    assert_eq!(
        broken_at_once(&handles(limits::MAX_HANDLES + 1)),
        Trap::Broken
    );
}

#[test]
fn a_module_that_breaks_when_an_instance_is_made_traps() {
    let starts = |body: &str| {
        beside(&format!(
            "(component (core module $m (memory 1) (func $start {body}) (start $start))
                (core instance (instantiate $m)))"
        ))
    };
    // The memory of the server half beside it is the one that there may be.
    assert!(matches!(
        admit(&starts("unreachable")),
        Err(AdmitError::TooMany {
            what: "memories",
            ..
        })
    ));
    let starts = |body: &str| {
        beside(&format!(
            "(component (core module $m (func $start {body}) (start $start))
                (core instance (instantiate $m)))"
        ))
    };
    assert_eq!(broken_at_once(&starts("unreachable")), Trap::Broken);
    assert_eq!(broken_at_once(&starts("(loop (br 0))")), Trap::OutOfFuel);
    assert_eq!(broken_at_once(&starts("(call 0)")), Trap::Broken);
    Bundle::load(&ENGINES, &starts("nop")).unwrap();
}

/// A server half that hands the log what is no text, when an instance is made.
fn speaks_at_once() -> Vec<u8> {
    let log = r#"(import "modmint:module/log@0.2.0" "log" (func $log (param i32 i32 i32)))"#;
    let body = "(call $log (i32.const 1) (i32.const 1056) (i32.const 23)) (global.get $accepted)";
    let mut bytes = server(log, "", body);
    let (mut depth, mut modules, mut instances, mut functions) = (0, 0, 0, 0);
    let mut lowered = None;
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.unwrap() {
            Payload::ModuleSection { .. } if depth == 1 => modules += 1,
            Payload::InstanceSection(section) if depth == 1 => instances += section.count(),
            Payload::ComponentAliasSection(section) if depth == 1 => {
                for alias in section {
                    functions += u32::from(matches!(
                        alias.unwrap(),
                        ComponentAlias::CoreInstanceExport {
                            kind: ExternalKind::Func,
                            ..
                        }
                    ));
                }
            }
            Payload::ComponentCanonicalSection(section) if depth == 1 => {
                for function in section {
                    if matches!(function.unwrap(), CanonicalFunction::Lower { .. }) {
                        lowered = Some(functions);
                        functions += 1;
                    }
                }
            }
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            _ => {}
        }
    }
    // 1000 in little endian, e8 03, is no UTF-8.
    let own = wat::parse_str(
        r#"(module (import "" "log" (func $log (param i32 i32 i32)))
            (func $start (call $log (i32.const 1) (i32.const 4104) (i32.const 2)))
            (start $start))"#,
    )
    .unwrap();
    let section = RawSection {
        id: ComponentSectionId::CoreModule.into(),
        data: &own,
    };
    section.append_to_component(&mut bytes);
    let mut section = InstanceSection::new();
    section.export_items([("log", ExportKind::Func, lowered.unwrap())]);
    section.instantiate(modules, [("", ModuleArg::Instance(instances))]);
    section.append_to_component(&mut bytes);
    bytes
}

#[test]
fn what_is_no_text_is_a_trap_even_before_the_first_call() {
    assert_eq!(broken_at_once(&speaks_at_once()), Trap::Broken);
}

#[test]
fn more_of_anything_than_a_component_may_have_is_refused() {
    let many = |count: usize, what: &str| what.repeat(count);
    for (wat, what) in [
        (
            format!("(component {})", many(5, "(core module)")),
            "core modules",
        ),
        (
            format!("(component (core module {}))", many(50_001, "(func)")),
            "functions",
        ),
        (
            format!(
                "(component (core module $m) {})",
                many(5, "(core instance (instantiate $m))")
            ),
            "core instances",
        ),
        (
            format!("(component (core module {}))", many(5, "(table 1 funcref)")),
            "tables",
        ),
        (
            "(component (core module (table 20001 funcref)))".into(),
            "initial table elements",
        ),
        (
            "(component (core module (memory 1)) (core module (memory 1)))".into(),
            "memories",
        ),
        (
            format!("{}{}", many(9, "(component "), many(9, ")")),
            "components inside each other",
        ),
    ] {
        let refusal = admit(&wat::parse_str(&wat).unwrap()).unwrap_err();
        assert!(
            matches!(refusal, AdmitError::TooMany { what: found, .. } if found == what),
            "{what}: {refusal}"
        );
    }
}

/// Components inside each other, each of which instantiates the next so many times.
fn multiplied(nested: usize, times: usize, innermost: &str) -> Vec<u8> {
    let mut wat = format!("(component $c0 {innermost})");
    for level in 1..nested {
        let below = level - 1;
        let instances = format!("(instance (instantiate $c{below}))").repeat(times);
        wat = format!("(component $c{level} {wat} {instances})");
    }
    wat::parse_str(&wat).unwrap()
}

#[test]
fn instances_are_counted_as_often_as_they_are_made() {
    let module = "(core module $m) (core instance (instantiate $m))";
    let memory = "(core module $m (memory 1)) (core instance (instantiate $m))";
    let tables = "(core module $m (table 1 funcref) (table 1 funcref) (table 1 funcref))
        (core instance (instantiate $m))";
    for (bytes, what) in [
        (
            multiplied(limits::MAX_NESTING as usize, 1000, ""),
            "component instances",
        ),
        (multiplied(6, 2, ""), "component instances"),
        (multiplied(2, 17, ""), "component instances"),
        (multiplied(4, 2, module), "core instances"),
        (multiplied(2, 2, memory), "memories"),
        (multiplied(2, 2, tables), "tables"),
    ] {
        let begun = Instant::now();
        let refusal = admit(&bytes).unwrap_err();
        assert!(
            matches!(refusal, AdmitError::TooMany { what: found, .. } if found == what),
            "{what}: {refusal}"
        );
        assert!(begun.elapsed() < Duration::from_secs(1), "{what}");
    }
    // As many as there may be are compiled as well.
    for own in [
        format!("(component $c {module}) (instance (instantiate $c))"),
        format!("(component $c) {}", "(instance (instantiate $c))".repeat(8)),
    ] {
        Bundle::load(&ENGINES, &beside(&format!("(component {own})"))).unwrap();
    }
}

#[test]
fn what_cannot_be_counted_is_not_instantiated() {
    for wat in [
        r#"(component (import "c" (component $c)) (instance (instantiate $c)))"#,
        r#"(component (import "m" (core module $m)) (core instance (instantiate $m)))"#,
        r#"(component (import "i" (instance $i (export "c" (component))))
            (alias export $i "c" (component $c)) (instance (instantiate $c)))"#,
        r#"(component (component $outer (component $c) (export "c" (component $c)))
            (instance $i (instantiate $outer))
            (alias export $i "c" (component $c)) (instance (instantiate $c)))"#,
    ] {
        let refusal = admit(&wat::parse_str(wat).unwrap()).unwrap_err();
        assert!(
            matches!(&refusal, AdmitError::Invalid(why) if why.contains("counted")),
            "{wat}: {refusal}"
        );
    }
    // By another name, or from around it, it can be.
    for wat in [
        r#"(component (component $c) (export $again "c" (component $c))
            (instance (instantiate $again)))"#,
        "(component $outer (component $c) (component (instance (instantiate $c))))",
    ] {
        let refusal = admit(&wat::parse_str(wat).unwrap()).unwrap_err();
        assert!(
            !matches!(&refusal, AdmitError::Invalid(why) if why.contains("counted")),
            "{wat}: {refusal}"
        );
    }
}

#[test]
fn parts_of_a_bundle_that_call_each_other_are_refused() {
    // For each such call a core module is made that stands in nobody's bundle.
    let wat = r#"(component
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (core func $g (canon lower (func $f))))"#;
    let refusal = admit(&wat::parse_str(wat).unwrap()).unwrap_err();
    assert!(refusal.to_string().contains("call each other"), "{refusal}");
    let nested = r#"(component (component
        (import "f" (func $f)) (core func $g (canon lower (func $f)))))"#;
    let refusal = admit(&wat::parse_str(nested).unwrap()).unwrap_err();
    assert!(refusal.to_string().contains("call each other"), "{refusal}");
}

/// Components inside each other, as many as fit: each is a section in the one around it.
fn nested() -> Vec<u8> {
    let mut inner = wasm_encoder::Component::new().finish();
    while inner.len() < limits::MAX_BUNDLE_BYTES / 64 {
        let mut outer = ComponentBuilder::default();
        outer.component_raw(None, &inner);
        inner = outer.finish();
    }
    inner
}

#[test]
fn types_and_components_as_deep_or_as_large_as_can_be_are_refused_at_once() {
    let mut deep = String::from("(component (type $t0 u8)");
    for depth in 1..=20_000 {
        let below = depth - 1;
        write!(deep, "(type $t{depth} (list $t{below}))").unwrap();
    }
    deep.push(')');
    // Each is twice the one before.
    let mut wide = String::from("(component (type $t0 u8)");
    for depth in 1..=60 {
        let below = depth - 1;
        write!(wide, "(type $t{depth} (tuple $t{below} $t{below}))").unwrap();
    }
    wide.push(')');
    for (bytes, why) in [
        (wat::parse_str(&deep).unwrap(), "too deep"),
        (wat::parse_str(&wide).unwrap(), "type size"),
        (nested(), "components inside each other"),
    ] {
        let begun = Instant::now();
        let refusal = admit(&bytes).unwrap_err().to_string();
        assert!(refusal.contains(why), "{refusal}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{why}");
    }
}

#[test]
fn what_is_handed_over_piece_by_piece_is_paid_for() {
    // 64 times 128 KiB in one call, each of which is allowed.
    let sha256 = r#"(import "modmint:module/crypto@0.2.0" "sha256"
        (func $sha256 (param i32 i32 i32)))"#;
    let body = "(local $n i32)
        (loop $more
            (call $sha256 (i32.const 0) (i32.const 131072) (i32.const 12288))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 64))))
        (global.get $accepted)";
    let bundle = Bundle::load(&ENGINES, &server(sha256, "", body)).unwrap();
    let instance = Instance::new(bundle, context());
    let called = instance
        .item(Memory::default().host())
        .process_input(b"an input");
    // Each import may hand over as much as one call may; what it costs ends the call.
    assert!(
        matches!(called.result, Err(CallError::Trapped(Trap::OutOfFuel))),
        "{:?}",
        called.result
    );
}

#[test]
fn a_result_larger_than_one_call_may_hand_over_is_a_trap() {
    // Err(refusal) whose message is 4 MiB and a byte of zeros.
    let body = "(drop (memory.grow (i32.const 120)))
        (i32.store8 (i32.const 4096) (i32.const 1))
        (i32.store (i32.const 4104) (i32.const 1024)) (i32.store (i32.const 4108) (i32.const 7))
        (i32.store (i32.const 4112) (i32.const 65536))
        (i32.store (i32.const 4116) (i32.const 4194305))
        (global.get $accepted)";
    let bundle = Bundle::load(&ENGINES, &server("", "", body)).unwrap();
    let instance = Instance::new(bundle, context());
    let called = instance
        .item(Memory::default().host())
        .process_input(b"an input");
    assert!(
        matches!(called.result, Err(CallError::Trapped(Trap::Broken))),
        "{:?}",
        called.result
    );
}
