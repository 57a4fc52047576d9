//! What a call costs: a fresh store from the pool with its first call, and each
//! further call of an import.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use modmint_runtime::{Bundle, Engines, Host, Instance, spawn_guest_thread};

#[allow(dead_code, reason = "tests use more of it")]
#[path = "../src/tests/fixture.rs"]
mod fixture;

const IMPORTS: &str = r#"
    (import "modmint:module/storage@0.2.0" "get" (func $get (param i32 i32 i32)))
    (import "modmint:module/storage@0.2.0" "put" (func $put (param i32 i32 i32 i32)))"#;

/// An input that reads and writes its own 200 bytes so many times.
fn storing(engines: &Arc<Engines>, times: u32) -> Arc<Instance> {
    let body = format!(
        "(local $n i32)
         (block $done (loop $more
            (br_if $done (i32.eq (local.get $n) (i32.const {times})))
            (call $get (local.get $ptr) (i32.const 32) (i32.const 12288))
            (call $put (local.get $ptr) (i32.const 32) (local.get $ptr) (local.get $len))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br $more)))
         (global.get $accepted)"
    );
    let bytes = fixture::server(IMPORTS, "", &body);
    Instance::new(Bundle::load(engines, &bytes).unwrap(), fixture::context())
}

fn calls(criterion: &mut Criterion) {
    let engines = Engines::new().unwrap();
    let host: Arc<dyn Host> = fixture::Memory::default().host();
    let input = [7; 200];
    // Criterion measures on this thread; calls run in place on a guest's.
    let mut measure = |name: &str, imports: u64, instance: Arc<Instance>| {
        let mut group = criterion.benchmark_group("process-input");
        if imports > 0 {
            group.throughput(Throughput::Elements(imports));
        }
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let (instance, host) = (instance.clone(), host.clone());
                spawn_guest_thread("bench", move || {
                    let start = std::time::Instant::now();
                    for _ in 0..times {
                        black_box(instance.item(host.clone()).process_input(&input))
                            .result
                            .unwrap();
                    }
                    start.elapsed()
                })
                .unwrap()
                .join()
                .unwrap()
            });
        });
        group.finish();
    };
    measure("no import", 0, storing(&engines, 0));
    measure("one get and one put", 0, storing(&engines, 1));
    measure("200 gets and puts", 400, storing(&engines, 200));
    let instance = storing(&engines, 1);
    criterion.bench_function("process-input, on a thread made for it", |bencher| {
        bencher.iter(|| {
            instance
                .item(host.clone())
                .process_input(&input)
                .result
                .unwrap()
        });
    });
    // Queries only read.
    let instance = storing(&engines, 0);
    criterion.bench_function("query", |bencher| {
        bencher.iter(|| instance.query(&host, "question", &[]).unwrap());
    });
}

criterion_group!(benches, calls);
criterion_main!(benches);
