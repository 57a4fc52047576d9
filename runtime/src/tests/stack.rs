//! What a frame takes of the native stack, and what its call counts: functions that make
//! the compiler keep as much as can be thought of.

use std::{
    fmt::Write as _,
    sync::{Arc, LazyLock, Mutex},
};

use super::fixture::{context, server};
use crate::{
    Bundle, CallError, Engines, Host, Instance, LogLevel, Trap,
    limits::{MAX_FUNCTION_BYTES, STACK_UNIT_BYTES, frame_units},
};

static ENGINES: LazyLock<Arc<Engines>> = LazyLock::new(|| Engines::new().unwrap());

const LOG: &str = r#"(import "modmint:module/log@0.2.0" "log" (func $log (param i32 i32 i32)))"#;

/// Writes down where the native stack is when the guest logs.
#[derive(Default)]
struct Depths(Mutex<Vec<usize>>);

impl Host for Depths {
    fn log(&self, _level: LogLevel, _message: &str) {
        let here = 0_u8;
        self.0.lock().unwrap().push(&raw const here as usize);
    }
}

/// A function that calls itself so many times as its first parameter says, and what it does
/// each time behind that. `$x` is what it got back. Whether the loop goes on stands in
/// memory, where no compiler can know it.
struct Shape {
    name: &'static str,
    /// Others that it calls.
    functions: String,
    locals: String,
    /// Before it calls itself, where nothing is known to repeat.
    before: String,
    /// Behind it, in a loop with the call.
    behind: String,
}

impl Shape {
    fn function(&self) -> String {
        let Self {
            functions,
            locals,
            before,
            behind,
            ..
        } = self;
        format!(
            "{functions}
             (func $deep (param $n i32) (param $t f64) (param $u i64) (result i64)
                (local $x i64) (local $f f64) (local $i i64) {locals}
                (if (i32.eqz (local.get $n)) (then
                    (call $log (i32.const 1) (i32.const 1056) (i32.const 23))
                    (return (i64.const 1))))
                {before}
                (loop $again
                    (local.set $x (call $deep (i32.sub (local.get $n) (i32.const 1))
                        (local.get $t) (local.get $u)))
                    {behind}
                    (br_if $again (i32.load (i32.const 12288))))
                (local.get $x))"
        )
    }

    /// How many bytes of code it has, and how many of the native stack a call takes.
    fn measured(&self) -> (usize, usize) {
        let functions = self.function();
        let code = code_of_deep(&functions);
        let at_depth = move |calls: u32| {
            let body = format!(
                "(drop (call $deep (i32.const {calls}) (f64.const 2) (i64.const 3)))
                 (global.get $accepted)"
            );
            let bundle = Bundle::load(&ENGINES, &server(LOG, &functions, &body)).unwrap();
            let host = Arc::new(Depths::default());
            let instance = Instance::new(bundle, context());
            let mut item = instance.item(Arc::clone(&host) as Arc<dyn Host>);
            item.process_input(b"an input").result.unwrap();
            host.0.lock().unwrap()[0]
        };
        // The stack grows downwards, on one thread from one place.
        let measured = crate::spawn_guest_thread("guest", move || at_depth(1) - at_depth(2));
        (code, measured.unwrap().join().unwrap())
    }
}

/// Bytes of code of the largest function.
fn code_of_deep(functions: &str) -> usize {
    let bytes = server(LOG, functions, "(global.get $accepted)");
    wasmparser::Parser::new(0)
        .parse_all(&bytes)
        .filter_map(|payload| match payload.unwrap() {
            wasmparser::Payload::CodeSectionEntry(body) => Some(body.range().len()),
            _ => None,
        })
        .max()
        .unwrap()
}

fn repeated(text: &str, count: usize) -> String {
    text.repeat(count)
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    // Each value follows from the one before and from nothing that the loop changes: a
    // compiler may compute all of them before the loop, and keep them over the call.
    let chain = "local.get $f f64.sqrt local.tee $f f64.add ";
    shapes.push(Shape {
        name: "a chain of floats that no turn of a loop changes",
        functions: String::new(),
        locals: String::new(),
        before: String::new(),
        behind: format!(
            "(local.set $f (local.get $t)) local.get $x f64.convert_i64_s {} i64.trunc_sat_f64_s \
             local.get $x i64.add local.set $x",
            repeated(chain, 10_800)
        ),
    });
    let chain = "local.get $i local.get $u i64.mul local.tee $i i64.sub ";
    shapes.push(Shape {
        name: "a chain of integers that no turn of a loop changes",
        functions: String::new(),
        locals: String::new(),
        before: String::new(),
        behind: format!(
            "(local.set $i (local.get $u)) local.get $x {} local.set $x",
            repeated(chain, 8_000)
        ),
    });
    // One operator for each value: of many locals, many functions.
    let mut before = String::new();
    let mut behind = String::from("local.get $x f64.convert_i64_s ");
    let mut locals = String::new();
    for local in 0..480 {
        write!(locals, "(local $v{local} f64)").unwrap();
        write!(
            before,
            "(local.set $v{local} (f64.load (i32.const {})))",
            8192 + 8 * local
        )
        .unwrap();
        for one in ["", "f64.sqrt ", "f64.ceil ", "f64.floor "] {
            for other in ["f64.abs", "f64.neg", "f64.trunc", "f64.nearest", "f64.sqrt"] {
                write!(behind, "local.get $v{local} {one}{other} f64.add ").unwrap();
            }
        }
    }
    behind.push_str("i64.trunc_sat_f64_s local.get $x i64.add local.set $x");
    shapes.push(Shape {
        name: "an operator for each value",
        functions: String::new(),
        locals,
        before,
        behind,
    });
    // The same values before and behind the call, so that they need not be computed twice.
    let chain = "local.get $f f64.sqrt local.tee $f f64.add ";
    let twice = format!(
        "(local.set $f (local.get $t)) local.get $x f64.convert_i64_s {} i64.trunc_sat_f64_s \
         local.get $x i64.add local.set $x",
        repeated(chain, 5_400)
    );
    shapes.push(Shape {
        name: "values that are there already",
        functions: String::new(),
        locals: String::new(),
        before: format!("{twice} (i64.store (i32.const 12296) (local.get $x))"),
        behind: twice,
    });
    // Values that live for as long as can be told apart: slots are shared badly.
    let mut behind = String::new();
    let mut locals = String::new();
    for local in 0..480 {
        write!(locals, "(local $v{local} i64)").unwrap();
    }
    let mut place = 1_usize;
    for _ in 0..4_500 {
        place = place * 1_103_515_245 % 2_147_483_647;
        let (to, from) = (place % 480, place / 480 % 480);
        write!(
            behind,
            "(local.set $v{to} (i64.load (i32.wrap_i64 (local.get $v{from}))))"
        )
        .unwrap();
    }
    shapes.push(Shape {
        name: "values of all lengths",
        functions: String::new(),
        locals,
        before: String::new(),
        behind,
    });
    // Loops in loops, each of which may change all locals.
    let mut behind = String::new();
    let mut locals = String::new();
    for local in 0..480 {
        write!(locals, "(local $v{local} i64)").unwrap();
    }
    let depth = 200;
    behind.push_str(&repeated("loop ", depth));
    for local in 0..480 {
        write!(
            behind,
            "(local.set $v{local} (i64.add (local.get $v{local}) (local.get $x)))"
        )
        .unwrap();
    }
    behind.push_str("(local.set $x (call $deep (i32.const 0) (local.get $t) (local.get $u)))");
    behind.push_str(&repeated(
        "(br_if 0 (i32.load (i32.const 12288))) end ",
        depth,
    ));
    shapes.push(Shape {
        name: "loops in loops that change all locals",
        functions: String::new(),
        locals,
        before: String::new(),
        behind,
    });
    // Calls that each give new values for all that they are given.
    let values = |count: usize| "i64 ".repeat(count);
    let eaten = repeated("call $same ", 1000);
    let first: String = (0..250)
        .map(|n| format!("(i64.load (i32.const {})) ", 8192 + 8 * n))
        .collect();
    let same: String = (0..250).map(|n| format!("(local.get {n}) ")).collect();
    shapes.push(Shape {
        name: "calls with hundreds of results",
        functions: format!("(func $same (param {0}) (result {0}) {same})", values(250)),
        locals: String::new(),
        before: String::new(),
        behind: format!("{first} {eaten} {}", repeated("drop ", 250)),
    });
    shapes
}

#[test]
fn whatever_the_compiler_keeps_a_frame_takes_less_than_its_call_counts() {
    for shape in shapes() {
        let (code, frame) = shape.measured();
        let counted = frame_units(code) as usize * STACK_UNIT_BYTES;
        println!(
            "{}: {frame} bytes of stack for {code} bytes of code, counted as {counted}",
            shape.name
        );
        assert!(code <= MAX_FUNCTION_BYTES, "{}", shape.name);
        assert!(3 * frame < counted, "{}: {frame} of {counted}", shape.name);
    }
}

#[test]
fn a_function_whose_values_all_outlive_its_call_traps_before_the_stack_ends() {
    for shape in shapes() {
        let body = "(drop (call $deep (i32.const 2000) (f64.const 2) (i64.const 3)))
            (global.get $accepted)";
        let bytes = server(LOG, &shape.function(), body);
        let instance = Instance::new(Bundle::load(&ENGINES, &bytes).unwrap(), context());
        let called = instance
            .item(Arc::new(Depths::default()))
            .process_input(b"an input");
        assert!(
            matches!(called.result, Err(CallError::Trapped(Trap::Broken))),
            "{}: {:?}",
            shape.name,
            called.result
        );
    }
}
