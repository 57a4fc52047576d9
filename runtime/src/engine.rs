//! The engines, every option explicit.
//!
//! Two engines that differ in their clock and their stack: the consensus engine
//! ends a call by fuel alone, the query engine by a deadline as well. All else is
//! equal, so a module behaves the same on both.

use std::{
    io,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use modmint_core::{BundleHash, tagged_hash};
use parking_lot::{Condvar, Mutex};
use wasmtime::{
    Config, Enabled, Engine, Inlining, InstanceAllocationStrategy, ModuleVersionStrategy, OptLevel,
    PoolingAllocationConfig, RegallocAlgorithm, Strategy, WasmBacktraceDetails, WasmFeatures,
    component::{Component, Linker},
};

use crate::{
    ContractVersion,
    cache::{self, CodeCache},
    call::Call,
    imports, limits,
    prices::{APPROVE_DECRYPTION, IMPORTS, operator_cost},
};

/// The engines could not be set up on this machine.
#[derive(Debug, thiserror::Error)]
#[error("the module runtime cannot start: {0}")]
pub struct EngineError(String);

/// What compiles and runs bundles: an engine for what is metered and agreed upon,
/// and one with time limits for queries and wallets.
#[derive(Debug)]
pub struct Engines {
    pub(crate) consensus: Option<Machine>,
    pub(crate) query: Machine,
    cache: OnceLock<CodeCache>,
}

impl Engines {
    /// For guardians: both engines.
    ///
    /// # Errors
    /// Says what the machine does not give, address space mostly.
    pub fn new() -> Result<Arc<Self>, EngineError> {
        Ok(Arc::new(Self {
            consensus: Some(Machine::new(Clock::Fuel, 16)?),
            query: Machine::new(Clock::Time, limits::MAX_QUERIES)?,
            cache: OnceLock::new(),
        }))
    }

    /// For wallets and tools: without the consensus engine, so that bundles
    /// compile once. Consensus calls are host errors.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn wallet() -> Result<Arc<Self>, EngineError> {
        Ok(Arc::new(Self {
            consensus: None,
            query: Machine::new(Clock::Time, 8)?,
            cache: OnceLock::new(),
        }))
    }

    /// From now on compiled code is kept in `directory` and taken from there. The
    /// folder, made if it is not there, must be this user's alone; its parent is
    /// there already. The first folder given stays the one.
    ///
    /// # Errors
    /// The folder cannot be made, or others may write it.
    pub fn keep_code_in(&self, directory: &Path) -> io::Result<()> {
        let cache = CodeCache::open(directory)?;
        self.cache.get_or_init(|| cache);
        Ok(())
    }

    /// A bundle's component on one of these engines.
    pub(crate) fn component(
        &self,
        machine: &Machine,
        hash: BundleHash,
        bytes: &[u8],
    ) -> Result<Component, String> {
        match self.cache.get() {
            Some(cache) => cache.component(machine, hash, bytes),
            None => cache::compile(machine, bytes),
        }
    }
}

/// How calls end that do not end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    Fuel,
    Time,
}

/// How often the query engine looks at the clock.
const TICK: Duration = Duration::from_millis(50);

/// One engine with its imports.
pub(crate) struct Machine {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Call>,
    pub(crate) clock: Clock,
    slots: Arc<Slots>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Machine").field(&self.clock).finish()
    }
}

impl Machine {
    fn new(clock: Clock, calls: u32) -> Result<Self, EngineError> {
        let wrong = |error: wasmtime::Error| EngineError(format!("{error:#}"));
        let engine = Engine::new(&config(clock, calls)).map_err(wrong)?;
        let mut linker = Linker::new(&engine);
        imports::add_to_linker(&mut linker).map_err(wrong)?;
        let slots = Arc::new(Slots::new(calls));
        if clock == Clock::Time {
            tick(&engine, Arc::clone(&slots))?;
        }
        Ok(Self {
            engine,
            linker,
            clock,
            slots,
        })
    }

    /// Waits for one of the pool's places. A thread takes one at a time, or all
    /// could wait for each other.
    pub(crate) fn slot(&self) -> Slot {
        self.slots.take();
        Slot(Arc::clone(&self.slots))
    }

    /// In the engine's ticks, rounded up.
    pub(crate) fn ticks(time: Duration) -> u64 {
        (time.as_millis().div_ceil(TICK.as_millis()) as u64).saturating_add(1)
    }
}

/// Moves the engine's clock until the engine is gone. It stands still while there are
/// no calls: an idle process is not woken for nothing.
fn tick(engine: &Engine, slots: Arc<Slots>) -> Result<(), EngineError> {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("deadlines".into())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                slots.wait_for_calls();
                std::thread::sleep(TICK);
            }
        })
        .map_err(|error| EngineError(error.to_string()))?;
    Ok(())
}

/// So many calls at once, fewer than the pool has places; others wait, or the pool would
/// refuse them and a guardian would stop for being busy.
struct Slots {
    count: u32,
    free: Mutex<u32>,
    freed: Condvar,
    taken: Condvar,
}

pub(crate) struct Slot(Arc<Slots>);

impl Slots {
    fn new(count: u32) -> Self {
        Self {
            count,
            free: Mutex::new(count),
            freed: Condvar::new(),
            taken: Condvar::new(),
        }
    }

    fn take(&self) {
        let mut free = self.free.lock();
        self.freed.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        self.taken.notify_one();
    }

    /// Until there are calls, a second at most.
    fn wait_for_calls(&self) {
        let mut free = self.free.lock();
        if *free == self.count {
            self.taken.wait_for(&mut free, Duration::from_secs(1));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

/// What modules may be written in: what rustc emits for
/// `wasm32-unknown-unknown`, and nothing else. Floats are there, with canonical
/// NaNs; SIMD, threads, exceptions, garbage collection, 64-bit memories, tail
/// calls and everything asynchronous are not.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::COMPONENT_MODEL);

fn config(clock: Clock, calls: u32) -> Config {
    let mut config = Config::new();

    // The language. An allow-list, because defaults move between versions.
    config.wasm_features(WasmFeatures::all(), false); // default: WebAssembly 3.0
    config.wasm_features(FEATURES, true);
    config.relaxed_simd_deterministic(true); // default: false; relaxed SIMD is off
    config.cranelift_nan_canonicalization(true); // default: false
    config.concurrency_support(false); // default: true; costs on every call
    config.shared_memory(false); // default: false

    // How calls end.
    config.consume_fuel(true); // default: false
    config.operator_cost(operator_cost()); // default: 1 for nearly everything
    config.epoch_interruption(clock == Clock::Time); // default: false

    // The stack. Frames of merged functions would be larger than what their calls
    // count, so nothing is inlined.
    config.compiler_inlining(Inlining::No); // default: with GC alone
    let stack = match clock {
        Clock::Fuel => limits::GUEST_STACK_BYTES,
        Clock::Time => limits::QUERY_STACK_BYTES,
    };
    config.max_wasm_stack(stack); // default: 512 KiB
    config.async_stack_size(stack); // default: 2 MiB; of no use here, and checked

    // The compiler.
    config.strategy(Strategy::Cranelift); // default: the same
    config.cranelift_opt_level(OptLevel::Speed); // default: the same
    config.cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking); // default: the same
    config.cranelift_debug_verifier(false); // default: false
    config.parallel_compilation(true); // default: true
    config
        .module_version(ModuleVersionStrategy::WasmtimeVersion) // default: the same
        .expect("only a version of our own can be wrong");

    // What nobody reads. Traps are told by their code.
    config.native_unwind_info(false); // default: on some systems
    config.wasm_backtrace_max_frames(None); // default: 20
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable); // default: by environment
    config.generate_address_map(false); // default: true
    config.debug_info(false); // default: false

    // Memory. The address space is reserved, so no bounds are checked in code and
    // no memory ever moves.
    config.signals_based_traps(true); // default: true
    config.memory_reservation(4 << 30); // default: the same
    config.memory_guard_size(32 << 20); // default: the same
    config.memory_may_move(false); // default: true
    config.guard_before_linear_memory(true); // default: true
    config.memory_init_cow(true); // default: true
    config.table_lazy_init(true); // default: true

    // A module that is dropped holds places too, for as long as its images of memory take to
    // be removed: one at a time.
    let places = 2 * calls;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(places); // default: 1000
    pool.max_component_instance_size(1 << 20); // default: the same
    pool.total_core_instances(places * limits::MAX_CORE_INSTANCES as u32); // default: 1000
    pool.max_core_instances_per_component(limits::MAX_CORE_INSTANCES as u32); // default: no limit
    pool.max_core_instance_size(1 << 20); // default: the same
    pool.total_memories(places * limits::MAX_MEMORIES as u32); // default: 1000
    pool.max_memories_per_component(limits::MAX_MEMORIES as u32); // default: no limit
    pool.max_memories_per_module(1); // default: the same
    pool.max_memory_size(limits::MAX_MEMORY_BYTES); // default: 4 GiB
    pool.total_tables(places * limits::MAX_TABLES as u32); // default: 1000
    pool.max_tables_per_component(limits::MAX_TABLES as u32); // default: no limit
    pool.max_tables_per_module(limits::MAX_TABLES as u32); // default: 1
    pool.table_elements(limits::MAX_TABLE_ELEMENTS); // default: the same
    pool.max_unused_warm_slots(calls); // default: 100
    pool.decommit_batch_size(1); // default: the same
    // What a call has written is overwritten where it lies, if the kernel can say
    // which pages those are (Linux 6.7); given back, each costs a page fault.
    pool.pagemap_scan(Enabled::Auto); // default: no
    let kept = match PoolingAllocationConfig::is_pagemap_scan_available() {
        true => 1 << 20,
        // Of the lowest addresses, written to or not.
        false => 64 << 10,
    };
    pool.linear_memory_keep_resident(kept); // default: 0
    pool.table_keep_resident(16 << 10); // default: 0
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)); // default: on demand

    config
}

/// What stands above in `config` and can change a result.
const SEMANTICS: &str =
    "cranelift nan-canonicalization no-inlining call-depth-2 store-of-an-item wasmtime=48.0.8";
/// What decides about points and signatures.
const CRYPTOGRAPHY: &str = "blst=0.3.17 secp256k1=0.29.1 secp256k1-sys=0.10.1 sha2=0.10.9";

/// A hash of all that can change a metered call's result or price: wasmtime's
/// version and options, the costs of operators and imports, limits, the contract in all
/// its versions, the cryptographic libraries.
pub fn runtime_hash() -> [u8; 32] {
    static HASH: OnceLock<[u8; 32]> = OnceLock::new();
    *HASH.get_or_init(|| {
        let limits = [
            limits::MAX_BUNDLE_BYTES as u64,
            limits::MAX_FUNCTION_VALUES.into(),
            limits::MAX_FUNCTION_BYTES as u64,
            limits::MAX_FUNCTIONS as u64,
            limits::MAX_CORE_MODULES as u64,
            limits::MAX_NESTING.into(),
            limits::MAX_COMPONENT_INSTANCES as u64,
            limits::MAX_CORE_INSTANCES as u64,
            limits::MAX_TABLES as u64,
            limits::MAX_TABLE_ELEMENTS as u64,
            limits::MAX_MEMORIES as u64,
            limits::MAX_MEMORY_BYTES as u64,
            limits::MAX_FUEL,
            limits::MAX_HANDOVER_BYTES as u64,
            limits::MAX_HANDLES as u64,
            limits::MAX_KEY_BYTES as u64,
            limits::MAX_VALUE_BYTES as u64,
            limits::MAX_SCAN_BYTES as u64,
            limits::MAX_CONFIG_BYTES as u64,
            limits::GUEST_STACK_BYTES as u64,
            limits::MAX_STACK_UNITS.into(),
            limits::MAX_STORED_BYTES,
            FEATURES.bits(),
            APPROVE_DECRYPTION,
        ];
        let text = format!(
            "{SEMANTICS}\n{CRYPTOGRAPHY}\n{limits:?}\n{:?}\n{IMPORTS:?}",
            operator_cost()
        );
        let contracts = ContractVersion::ALL.map(ContractVersion::component_type);
        let parts = [&[text.as_bytes()][..], &contracts].concat();
        tagged_hash("modmint/runtime", &parts)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_that_are_hashed_are_the_ones_that_are_built() {
        let lock = include_str!("../../Cargo.lock");
        let named = SEMANTICS.split(' ').chain(CRYPTOGRAPHY.split(' '));
        for (name, version) in named.filter_map(|word| word.split_once('=')) {
            let line = format!("name = \"{name}\"\nversion = \"{version}\"\n");
            assert!(
                lock.contains(&line),
                "{name} {version} is not in Cargo.lock"
            );
        }
    }
}
