//! What becomes of calls: results, prices, traps.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use modmint_core::{Amount, PeerId};

use super::fixture::{Memory, context, server};
use crate::{
    Answer, Bundle, CallError, Called, Engines, Host, InputEffect, Instance, RenderItem, Trap,
    bindings::exports::modmint::module::server,
    bundle::Interface,
    call::{LogGate, Request},
    limits,
    prices::{self, Group, Phase},
};

static ENGINES: LazyLock<Arc<Engines>> = LazyLock::new(|| Engines::new().unwrap());

fn instance(imports: &str, functions: &str, process_input: &str) -> Arc<Instance> {
    let bytes = server(imports, functions, process_input);
    Instance::new(Bundle::load(&ENGINES, &bytes).unwrap(), context())
}

fn process(instance: &Instance, host: &Arc<dyn Host>) -> Called<InputEffect> {
    instance.item(Arc::clone(host)).process_input(b"an input")
}

/// What the call trapped with.
fn trap<T: std::fmt::Debug>(called: Called<T>) -> Trap {
    assert_eq!(called.fuel, limits::MAX_FUEL, "a trap costs all of it");
    match called.result {
        Err(CallError::Trapped(trap)) => trap,
        other => panic!("no trap: {other:?}"),
    }
}

fn trap_of(imports: &str, functions: &str, process_input: &str) -> Trap {
    let instance = instance(imports, functions, process_input);
    trap(process(&instance, &Memory::default().host()))
}

const ACCEPTED: &str = "(global.get $accepted)";
const PUT: &str = r#"(import "modmint:module/storage@0.2.0" "put"
    (func $put (param i32 i32 i32 i32)))"#;
const GET: &str = r#"(import "modmint:module/storage@0.2.0" "get"
    (func $get (param i32 i32 i32)))"#;
const SCAN: &str = r#"(import "modmint:module/storage@0.2.0" "scan"
    (func $scan (param i32 i32 i32 i32 i32 i32 i32)))"#;
const SHA256: &str = r#"(import "modmint:module/crypto@0.2.0" "sha256"
    (func $sha256 (param i32 i32 i32)))"#;
const SCHNORR: &str = r#"(import "modmint:module/crypto@0.2.0" "verify-schnorr"
    (func $schnorr (param i32 i32 i32 i32 i32 i32) (result i32)))"#;
const PUBLIC_KEYS: &str = r#"(import "modmint:module/federation@0.2.0" "public-keys"
    (func $public-keys (param i32 i32 i32)))"#;
const WHOAMI: &str = r#"(import "modmint:module/guardian@0.2.0" "whoami"
    (func $whoami (result i32)))"#;
const LOG: &str = r#"(import "modmint:module/log@0.2.0" "log" (func $log (param i32 i32 i32)))"#;

#[test]
fn a_bundle_says_what_it_is() {
    let instance = instance("", "", ACCEPTED);
    let bundle = instance.bundle();
    assert_eq!(bundle.description().kind, "fixture");
    assert_eq!(bundle.description().queries[0].name, "question");
    assert!(bundle.has_server() && !bundle.has_client() && !bundle.has_ecash());
    assert!(bundle.actions().is_empty());
    assert!(bundle.configure(&[]).unwrap().keys.is_empty());
    assert_eq!(instance.render(RenderItem::Input, b"x").unwrap(), "{}");
}

#[test]
fn an_input_is_accepted_at_the_same_price_each_time() {
    let instance = instance(
        &[PUT, SHA256].concat(),
        "",
        "(call $sha256 (local.get $ptr) (local.get $len) (i32.const 12288))
         (call $put (local.get $ptr) (local.get $len) (local.get $ptr) (local.get $len))
         (global.get $accepted)",
    );
    let host = Arc::new(Memory::default());
    let shared: Arc<dyn Host> = host.clone();
    let first = process(&instance, &shared);
    let effect = first.result.unwrap();
    assert_eq!((effect.value, effect.fee), (Amount(1000), Amount(0)));
    assert_eq!(
        host.stored.lock().unwrap().get(&b"an input"[..]),
        Some(&b"an input".to_vec())
    );
    let least = prices::SHA256.price(8, 0) + prices::PUT.price(16, 0);
    assert!(
        first.fuel > least && first.fuel < 2 * least,
        "{} for imports worth {least}",
        first.fuel
    );
    // Another store, another engine's code, another thread.
    let second = process(&instance, &Memory::default().host());
    assert_eq!(second.fuel, first.fuel);
    let other = Engines::new().unwrap();
    let bytes = server(
        &[PUT, SHA256].concat(),
        "",
        "(call $sha256 (local.get $ptr) (local.get $len) (i32.const 12288))
         (call $put (local.get $ptr) (local.get $len) (local.get $ptr) (local.get $len))
         (global.get $accepted)",
    );
    let other = Instance::new(Bundle::load(&other, &bytes).unwrap(), context());
    let third = crate::spawn_guest_thread("guest", move || {
        process(&other, &Memory::default().host()).fuel
    });
    assert_eq!(third.unwrap().join().unwrap(), first.fuel);
}

#[test]
fn a_check_costs_the_same_whatever_its_verdict_and_wherever_it_comes_from() {
    let instance = instance(
        SCHNORR,
        "",
        "(drop (call $schnorr (i32.const 4160) (i32.const 33) (i32.const 8192) (i32.const 32)
            (i32.const 8192) (i32.const 64)))
         (global.get $accepted)",
    );
    let fuel = [None, Some(true), Some(false)].map(|verdict| {
        let host = Memory {
            verdict,
            ..Memory::default()
        };
        let called = process(&instance, &host.host());
        called.result.unwrap();
        called.fuel
    });
    assert_eq!(fuel[0], fuel[1]);
    assert_eq!(fuel[1], fuel[2]);
    assert!(fuel[0] > prices::VERIFY_SCHNORR.price(33 + 32 + 64, 0));
}

#[test]
fn a_module_that_loops_runs_out_of_fuel() {
    assert_eq!(
        trap_of("", "", "(loop (br 0)) unreachable"),
        Trap::OutOfFuel
    );
}

#[test]
fn a_module_that_panics_traps() {
    assert_eq!(trap_of("", "", "unreachable"), Trap::Broken);
}

/// A function whose frame is as large as admission allows, calling itself. What
/// lives across the call must be kept on the native stack.
fn deep() -> String {
    let load = |i: usize| format!("(i64.load (i32.const {}))", 8192 + 8 * i);
    let loads: String = (0..480).map(load).collect();
    let adds = "(i64.add)".repeat(479);
    format!("(func $deep (result i64) {loads} {adds} (call $deep) (i64.add))\n").replace(
        &format!("{adds} (call $deep) (i64.add)"),
        &format!("(call $deep) {adds} (i64.add)"),
    )
}

#[test]
fn a_module_that_recurses_without_end_traps_before_its_stack_ends() {
    let small = "(func $deep (result i64) (i64.add (call $deep) (i64.const 1)))";
    for functions in [small.to_owned(), deep()] {
        let body = "(drop (call $deep)) (global.get $accepted)";
        assert_eq!(trap_of("", &functions, body), Trap::Broken);
    }
}

#[test]
fn calls_go_as_deep_as_is_allowed_and_no_deeper() {
    let functions = "(func $down (param $n i32)
        (if (local.get $n) (then (call $down (i32.sub (local.get $n) (i32.const 1))))))";
    let down = |calls: u32| {
        let body = format!("(call $down (i32.const {calls})) (global.get $accepted)");
        let instance = instance("", functions, &body);
        process(&instance, &Memory::default().host()).result
    };
    // `process-input` calls once as well, and both have few bytes of code.
    let units = |code| (limits::MAX_STACK_UNITS / limits::frame_units(code)) - 1;
    down(units(20)).unwrap();
    assert!(units(20) > 1024);
    assert!(matches!(
        down(units(1)),
        Err(CallError::Trapped(Trap::Broken))
    ));
}

#[test]
fn calls_of_functions_with_much_code_are_fewer() {
    let nothing = "(drop (i32.const 1))".repeat(20_000);
    let functions = format!(
        "(func $down (param $n i32)
            (if (local.get $n) (then (call $down (i32.sub (local.get $n) (i32.const 1)))))
            {nothing})"
    );
    let down = |calls: u32| {
        let body = format!("(call $down (i32.const {calls})) (global.get $accepted)");
        let instance = instance("", &functions, &body);
        process(&instance, &Memory::default().host()).result
    };
    down(10).unwrap();
    assert!(matches!(down(11), Err(CallError::Trapped(Trap::Broken))));
}

#[test]
fn calls_one_after_the_other_are_not_deep() {
    let functions = "(func $leaf) (func $many (param $n i32)
        (loop $more (call $leaf)
            (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))";
    let body = "(call $many (i32.const 5000)) (global.get $accepted)";
    let instance = instance("", functions, body);
    process(&instance, &Memory::default().host())
        .result
        .unwrap();
}

#[test]
fn a_query_that_recurses_without_end_overflows_its_stack_and_nobody_elses() {
    // Much to keep for little code, or the count of calls would come first.
    let load = |i: usize| format!("(i64.load (i32.const {}))", 8192 + 8 * i);
    let loads: String = (0..250).map(load).collect();
    let (results, adds) = ("i64 ".repeat(250), "(i64.add)".repeat(250));
    let functions = format!(
        "(func $many (result {results}) {loads})
         (func $deep (result i64) (call $many) (call $deep) {adds})"
    );
    let body = "(drop (call $deep)) (global.get $accepted)";
    let instance = instance("", &functions, body);
    let host = Memory::default().host();
    let result = std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || instance.query(&host, "question", &[]))
        .unwrap()
        .join()
        .unwrap();
    assert!(
        matches!(result, Err(CallError::Trapped(Trap::StackOverflow))),
        "{result:?}"
    );
}

#[test]
fn memory_grows_to_the_limit_and_no_further() {
    // Grows by a page until it cannot, and pays in the number of pages.
    let grow = "(loop $more
            (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (i64.store (i32.const 4104) (i64.extend_i32_u (memory.size)))
        (global.get $accepted)";
    let instance = instance("", "", grow);
    let called = process(&instance, &Memory::default().host());
    assert_eq!(
        called.result.unwrap().value,
        Amount((limits::MAX_MEMORY_BYTES / 65536) as u64)
    );
    assert!(called.fuel > 500 * 255, "pages are paid for");
}

#[test]
fn an_import_out_of_phase_traps_and_in_phase_answers() {
    let instance = instance(WHOAMI, "", "(drop (call $whoami)) (global.get $accepted)");
    let host = Memory::default().host();
    assert_eq!(trap(process(&instance, &host)), Trap::OutOfPhase);
    assert_eq!(
        instance.query(&host, "question", &[]).unwrap(),
        Answer::Ready(vec![])
    );
}

#[test]
fn a_key_of_31_bytes_is_a_bad_value() {
    let instance = instance(
        "",
        "",
        "(i32.store (i32.const 4124) (i32.const 31)) (global.get $accepted)",
    );
    let called = process(&instance, &Memory::default().host());
    match called.result {
        Err(CallError::Refused(refusal)) => {
            assert_eq!(refusal.code, "bad-value");
            assert!(refusal.message.contains("31 bytes"), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
    assert!(called.fuel < 10_000, "a refusal costs what it used");
}

#[test]
fn a_code_that_is_none_and_text_that_is_none_never_get_out() {
    // Err(refusal) whose code is the 23 bytes of a sentence.
    let sentence = "(i32.store8 (i32.const 4096) (i32.const 1))
        (i32.store (i32.const 4104) (i32.const 1056)) (i32.store (i32.const 4108) (i32.const 23))
        (i32.store (i32.const 4112) (i32.const 1056)) (i32.store (i32.const 4116) (i32.const 23))
        (global.get $accepted)";
    let called = process(&instance("", "", sentence), &Memory::default().host());
    assert!(
        matches!(&called.result, Err(CallError::Refused(refusal)) if refusal.code == "bad-value"),
        "{:?}",
        called.result
    );
    let no_text = format!("(i32.store8 (i32.const 1056) (i32.const 255)) {sentence}");
    assert_eq!(trap_of("", "", &no_text), Trap::Broken);
    let no_memory = "(i32.const 0x7fffffff)";
    assert_eq!(trap_of("", "", no_memory), Trap::Broken);
}

#[test]
fn a_flood_of_log_lines_is_cut_and_nothing_else_happens() {
    let instance = instance(
        LOG,
        "",
        "(local $n i32)
         (loop $more
            (call $log (i32.const 1) (i32.const 1056) (i32.const 23))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 1000))))
         (global.get $accepted)",
    );
    let host = Arc::new(Memory::default());
    let shared: Arc<dyn Host> = host.clone();
    process(&instance, &shared).result.unwrap();
    let logged = host.logged.lock().unwrap();
    // The loop may last past a second's end on a busy machine.
    assert!((50..=300).contains(&logged.len()), "{}", logged.len());
    assert_eq!(logged[0], "Stands in for a module.");
}

#[test]
fn what_the_contract_forbids_traps() {
    let key_too_long = "(call $put (i32.const 8192) (i32.const 257) (i32.const 0) (i32.const 0))
        (global.get $accepted)";
    assert_eq!(trap_of(PUT, "", key_too_long), Trap::BadArgument);
    let no_key = "(call $put (i32.const 8192) (i32.const 0) (i32.const 0) (i32.const 0))
        (global.get $accepted)";
    assert_eq!(trap_of(PUT, "", no_key), Trap::BadArgument);
    let value_too_long = "(call $put (i32.const 8192) (i32.const 1) (i32.const 0)
        (i32.const 131073)) (global.get $accepted)";
    assert_eq!(trap_of(PUT, "", value_too_long), Trap::BadArgument);
    let unknown_label = "(call $public-keys (i32.const 1024) (i32.const 7) (i32.const 12288))
        (global.get $accepted)";
    assert_eq!(trap_of(PUBLIC_KEYS, "", unknown_label), Trap::BadArgument);
}

#[test]
fn more_than_one_call_may_hand_over_traps_before_it_is_copied() {
    let body = "(drop (memory.grow (i32.const 120)))
        (call $sha256 (i32.const 0) (i32.const 4194305) (i32.const 12288))
        (global.get $accepted)";
    assert_eq!(trap_of(SHA256, "", body), Trap::Broken);
}

#[test]
fn an_import_that_cannot_be_paid_for_is_not_carried_out() {
    let instance = instance(
        PUT,
        "",
        "(local $n i32)
         (loop $more
            (i32.store (i32.const 8192) (local.get $n))
            (call $put (i32.const 8192) (i32.const 4) (i32.const 0) (i32.const 100000))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br $more))
         unreachable",
    );
    let host = Arc::new(Memory::default());
    let shared: Arc<dyn Host> = host.clone();
    assert_eq!(trap(process(&instance, &shared)), Trap::OutOfFuel);
    let written = host.stored.lock().unwrap().len() as u64;
    assert_eq!(written, limits::MAX_FUEL / prices::PUT.price(100_004, 0));
}

#[test]
fn a_scan_finds_no_more_than_can_be_paid_for() {
    let host = Memory::default();
    for n in 0..40_000_u32 {
        let mut stored = host.stored.lock().unwrap();
        stored.insert(n.to_be_bytes().to_vec(), vec![]);
    }
    let body = "(call $scan (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const -1) (i32.const 12288))
        (global.get $accepted)";
    let instance = instance(SCAN, "", body);
    assert_eq!(trap(process(&instance, &host.host())), Trap::OutOfFuel);
}

#[test]
fn a_cause_outside_state_and_item_is_a_host_error() {
    let body = "(call $get (i32.const 1024) (i32.const 7) (i32.const 12288))
        (global.get $accepted)";
    let instance = instance(GET, "", body);
    let broken = Memory {
        broken: true,
        ..Memory::default()
    };
    let called = process(&instance, &broken.host());
    assert!(
        matches!(&called.result, Err(CallError::Host(e)) if e.0.contains("the disk is gone")),
        "{:?}",
        called.result
    );
    let panics = Memory {
        panics: true,
        ..Memory::default()
    };
    let called = process(&instance, &panics.host());
    assert!(
        matches!(&called.result, Err(CallError::Host(e)) if e.0.contains("a host that panics")),
        "{:?}",
        called.result
    );
    process(&instance, &Memory::default().host())
        .result
        .unwrap();
}

#[test]
fn a_query_that_loops_runs_out_of_time() {
    let instance = instance("", "", "(loop (br 0)) unreachable");
    let request = Request {
        phase: Phase::Query,
        host: Memory::default().host(),
        context: Some(Arc::new(context())),
        log: Arc::new(LogGate::new()),
        fuel: None,
        time: Duration::from_millis(100),
    };
    let compiled = &instance.bundle().compiled;
    let result = compiled.timed(Interface::Server, request, |server, store| {
        let effect = server.ask(store, "process-input", (&b"x"[..],))?;
        Ok(effect.map(|effect: server::InputEffect| drop(effect)))
    });
    assert!(
        matches!(result, Err(CallError::Trapped(Trap::OutOfTime))),
        "{result:?}"
    );
}

#[test]
fn names_and_arguments_that_are_not_declared_are_refused_before_the_module_sees_them() {
    let instance = instance("", "", "unreachable");
    let host = Memory::default().host();
    for (result, code) in [
        (
            instance.query(&host, "nothing", &[]).map(drop),
            "no-such-query",
        ),
        (
            instance.command(&host, "nothing", &[]).map(drop),
            "no-such-command",
        ),
        (
            instance.start(&host, "nothing", &[]).map(drop),
            "no-such-action",
        ),
        (instance.balance(&host).map(drop), "no-such-half"),
    ] {
        match result {
            Err(CallError::Refused(refusal)) => assert_eq!(refusal.code, code),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_other_exports_answer_too() {
    let instance = instance("", "", ACCEPTED);
    let host = Memory::default().host();
    instance.init(&host).result.unwrap();
    instance
        .process_consensus_item(&host, PeerId(1), b"")
        .result
        .unwrap();
    assert_eq!(
        instance.migrate_server(&host, 0, None).result.unwrap(),
        None
    );
    assert!(instance.audit(&host).result.unwrap().is_empty());
    assert!(instance.propose(&host).unwrap().is_empty());
    assert!(instance.broadcast(&host).unwrap().is_empty());
    assert!(instance.outcomes(&host, &[]).unwrap().is_empty());
}

/// Counts calls in the module's memory, and breaks at the third.
const COUNTING: &str = "(global $calls (mut i32) (i32.const 0))";
const BREAKS_AT_THREE: &str = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (if (i32.ge_s (global.get $calls) (i32.const 3)) (then unreachable))
    (global.get $accepted)";

#[test]
fn calls_of_an_item_share_a_store_until_one_fails_and_items_share_nothing() {
    let instance = instance("", COUNTING, BREAKS_AT_THREE);
    let host = Memory::default().host();
    for _ in 0..2 {
        let mut item = instance.item(host.clone());
        for _ in 0..2 {
            item.process_input(b"x").result.unwrap();
            item.process_input(b"x").result.unwrap();
            assert_eq!(trap(item.process_input(b"x")), Trap::Broken);
        }
    }
}

#[test]
fn each_call_of_an_item_pays_for_itself_alone() {
    // Five operators a round.
    let count = limits::MAX_FUEL / 10;
    let spin = format!(
        "(local $i i32) (local.set $i (i32.const {count}))
        (loop (br_if 0 (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
        (global.get $accepted)"
    );
    let instance = instance("", "", &spin);
    let mut item = instance.item(Memory::default().host());
    let first = item.process_input(b"x");
    first.result.unwrap();
    assert!(first.fuel > limits::MAX_FUEL / 3, "{}", first.fuel);
    for _ in 0..3 {
        let next = item.process_input(b"x");
        next.result.unwrap();
        assert!(next.fuel <= first.fuel);
        assert!(next.fuel > limits::MAX_FUEL / 3, "{}", next.fuel);
    }
}

#[test]
fn a_wallets_engines_make_no_consensus_calls() {
    let engines = Engines::wallet().unwrap();
    let bundle = Bundle::load(&engines, &server("", "", ACCEPTED)).unwrap();
    let instance = Instance::new(bundle, context());
    let called = process(&instance, &Memory::default().host());
    assert!(matches!(called.result, Err(CallError::Host(_))));
}

#[test]
fn more_calls_at_once_than_the_pool_has_places_wait_for_each_other() {
    let instance = instance("", "", ACCEPTED);
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let host = Memory::default().host();
                let mut item = instance.item(host.clone());
                item.process_input(b"x").result.unwrap();
                item.process_input(b"x").result.unwrap();
                instance.query(&host, "question", &[]).unwrap();
            });
        }
    });
}

#[test]
fn phases_grant_what_the_contracts_table_says() {
    use Group::{
        Agreed, Crypto, Federation, Guardian, Log, Propose, Read, Signing, Treasury, WalletHost,
        Write,
    };
    let all = [
        Log, Read, Write, Federation, Agreed, Crypto, Signing, Treasury, Guardian, Propose,
        WalletHost,
    ];
    let table: [(Phase, &[Group]); 8] = [
        (Phase::Pure, &[Log]),
        (Phase::Stateless, &[Log, Federation, Crypto]),
        (
            Phase::Consensus,
            &[
                Log, Read, Write, Federation, Agreed, Crypto, Signing, Treasury,
            ],
        ),
        (Phase::Audit, &[Log, Read, Federation, Agreed, Crypto]),
        (
            Phase::Propose,
            &[Log, Read, Federation, Agreed, Crypto, Guardian, Propose],
        ),
        (
            Phase::Query,
            &[Log, Read, Federation, Agreed, Crypto, Guardian],
        ),
        (
            Phase::Wallet,
            &[Log, Read, Write, Federation, Agreed, Crypto, WalletHost],
        ),
        (
            Phase::Look,
            &[Log, Read, Federation, Agreed, Crypto, WalletHost],
        ),
    ];
    for (phase, granted) in table {
        for group in all {
            assert_eq!(
                phase.grants(group),
                granted.contains(&group),
                "{phase:?} {group:?}"
            );
        }
    }
}
