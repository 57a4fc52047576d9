//! What it takes to load the stock modules: compiled anew, and with what was compiled
//! before on disk (`Engines::keep_code_in`), as a guardian's start and a wallet's command
//! have it.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::{hint::black_box, path::PathBuf};

use criterion::{Criterion, criterion_group, criterion_main};
use modmint_runtime::{Bundle, Engines};

/// The root package's build script puts the bundles into the target folder, which this
/// program lies in: `<target>/<profile>/deps`.
fn modules() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(3).unwrap().join("modules")
}

fn loading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    for kind in ["mint", "wallet", "ln"] {
        let file = modules().join(format!("{kind}.wasm"));
        let bytes = std::fs::read(&file).unwrap_or_else(|error| {
            panic!("{}: {error}; cargo build --release first", file.display())
        });
        let anew = Engines::new().unwrap();
        group.bench_function(format!("{kind}, compiled anew"), |bencher| {
            bencher.iter(|| black_box(Bundle::load(&anew, &bytes).unwrap()));
        });
        let kept = Engines::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        kept.keep_code_in(&folder.path().join("code")).unwrap();
        Bundle::load(&kept, &bytes).unwrap();
        group.bench_function(format!("{kind}, code from disk"), |bencher| {
            bencher.iter(|| black_box(Bundle::load(&kept, &bytes).unwrap()));
        });
    }
    group.finish();
}

criterion_group!(benches, loading);
criterion_main!(benches);
