//! Calls: a store from the pool, its limits, their prices.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use wasmtime::{
    CallHook, PoolConcurrencyLimitError, ResourceLimiter, Store, StoreContextMut,
    component::{Instance, InstancePre},
};

use crate::{
    CallError, Called, Context, Host, HostError, LogLevel, Trap,
    engine::{Clock, Machine, Slot},
    limits,
    prices::{Import, Phase},
    thread::{caught, with_guest_stack},
    trap::{Stop, classify},
};

thread_local! {
    /// How long this thread has been in calls so far, and of that in imports.
    static TIMES: Cell<(Duration, Duration)> = const { Cell::new((Duration::ZERO, Duration::ZERO)) };
}

/// How long this thread has been in modules so far: stores, instances and guests'
/// code, without what imports did natively. A call made on a thread without a
/// guest's stack gets one of its own and is counted there.
pub fn module_time() -> Duration {
    let (calls, imports) = TIMES.get();
    calls.saturating_sub(imports)
}

/// What a store knows of the calls that it serves.
pub(crate) struct Call {
    pub(crate) phase: Phase,
    pub(crate) host: Arc<dyn Host>,
    /// None in the pure phase, which has no federation.
    pub(crate) context: Option<Arc<Context>>,
    pub(crate) log: Arc<LogGate>,
    limiter: Limiter,
    /// The store's fuel when the guest called the host, less what is owed.
    available: u64,
    /// What imports cost since the store's fuel was last touched.
    owed: u64,
    /// When the guest last called the host.
    host_called: Instant,
    /// Whether any of the guest's code has run.
    begun: bool,
}

impl Call {
    /// Whether this phase has the import. Nothing else is looked at before.
    pub(crate) fn gate(&self, import: &Import) -> Result<(), Stop> {
        if self.phase.grants(import.group) {
            Ok(())
        } else {
            Err(Trap::OutOfPhase.into())
        }
    }

    /// The fuel left.
    pub(crate) fn available(&self) -> u64 {
        self.available
    }

    /// Takes fuel, or ends the call.
    pub(crate) fn charge(&mut self, fuel: u64) -> Result<(), Stop> {
        match self.available.checked_sub(fuel) {
            Some(left) => {
                self.available = left;
                self.owed += fuel;
                Ok(())
            }
            None => Err(Trap::OutOfFuel.into()),
        }
    }

    /// The gate, then the price of what is known before the work.
    pub(crate) fn enter(
        &mut self,
        import: &Import,
        bytes: usize,
        items: usize,
    ) -> Result<Arc<dyn Host>, Stop> {
        self.gate(import)?;
        self.charge(import.price(bytes, items))?;
        Ok(self.host.clone())
    }
}

/// Keeps imports' prices and the store's fuel together: a price is known to fit
/// before the work begins and is taken when the guest goes on. (The guest's
/// allocator runs in between, on the same fuel.)
fn settle(mut store: StoreContextMut<'_, Call>, hook: CallHook) -> wasmtime::Result<()> {
    match hook {
        CallHook::CallingHost => {
            let fuel = store.get_fuel()?;
            let call = store.data_mut();
            call.available = fuel.saturating_sub(call.owed);
            call.host_called = Instant::now();
        }
        CallHook::ReturningFromHost => {
            let (calls, imports) = TIMES.get();
            TIMES.set((calls, imports + store.data().host_called.elapsed()));
            let owed = std::mem::take(&mut store.data_mut().owed);
            if owed > 0 {
                let left = store.get_fuel()?.checked_sub(owed);
                store.set_fuel(left.ok_or(Stop::Trap(Trap::OutOfFuel))?)?;
            }
        }
        CallHook::CallingWasm => store.data_mut().begun = true,
        CallHook::ReturningFromWasm => {}
    }
    Ok(())
}

/// Equal limits everywhere, so that growing fails everywhere or nowhere.
struct Limiter;

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= limits::MAX_MEMORY_BYTES && maximum.is_none_or(|maximum| desired <= maximum))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // Within the limits, so it is this machine that has no memory.
        Err(Stop::Host(HostError(format!("a module's memory: {error:#}"))).into())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= limits::MAX_TABLE_ELEMENTS
            && maximum.is_none_or(|maximum| desired <= maximum))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Stop::Host(HostError(format!("a module's table: {error:#}"))).into())
    }

    fn instances(&self) -> usize {
        limits::MAX_CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        limits::MAX_TABLES
    }

    fn memories(&self) -> usize {
        limits::MAX_MEMORIES
    }
}

/// So many log lines a second; what is dropped is counted.
pub(crate) struct LogGate {
    window: Mutex<LogWindow>,
}

struct LogWindow {
    since: Instant,
    lines: u32,
    dropped: u32,
}

impl LogGate {
    pub(crate) fn new() -> Self {
        Self {
            window: Mutex::new(LogWindow {
                since: Instant::now(),
                lines: 0,
                dropped: 0,
            }),
        }
    }

    /// Hands the line on, unless there were too many.
    pub(crate) fn line(&self, host: &dyn Host, level: LogLevel, message: &str) {
        let mut window = self.window.lock();
        if window.since.elapsed() >= Duration::from_secs(1) {
            if window.dropped > 0 {
                host.log(
                    LogLevel::Warn,
                    &format!("{} log lines were dropped", window.dropped),
                );
            }
            *window = LogWindow {
                since: Instant::now(),
                lines: 0,
                dropped: 0,
            };
        }
        if window.lines == limits::MAX_LOG_LINES {
            window.dropped += 1;
            return;
        }
        window.lines += 1;
        drop(window);
        let end = message.floor_char_boundary(limits::MAX_LOG_BYTES);
        let line: String = message[..end]
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        host.log(level, &line);
    }
}

/// What a call is made with.
pub(crate) struct Request {
    pub(crate) phase: Phase,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) context: Option<Arc<Context>>,
    pub(crate) log: Arc<LogGate>,
    /// None: as much as the clock allows.
    pub(crate) fuel: Option<u64>,
    /// On an engine with a clock.
    pub(crate) time: Duration,
}

/// A store, the instance in it and what the instance exports: where consecutive
/// calls of one item run.
pub(crate) struct Place<G> {
    store: Store<Call>,
    exports: G,
    _slot: Slot,
}

/// Calls `f` with the exports of the instance in `place`. Where none is, makes a
/// store and an instance, and finds the exports with `load`. A call that fails
/// leaves none.
pub(crate) fn call<G: Send, T: Send>(
    machine: &Machine,
    pre: &InstancePre<Call>,
    place: &mut Option<Place<G>>,
    request: Request,
    load: impl FnOnce(&Instance) -> G + Send,
    f: impl FnOnce(&G, &mut Store<Call>) -> wasmtime::Result<T> + Send,
) -> Called<T> {
    let fuel = request.fuel.unwrap_or(u64::MAX);
    let work = || {
        let begun = Instant::now();
        let called = in_store(machine, pre, place, request, fuel, load, f);
        let (calls, imports) = TIMES.get();
        TIMES.set((calls + begun.elapsed(), imports));
        called
    };
    let called = match machine.clock {
        Clock::Fuel => with_guest_stack(work),
        Clock::Time => caught(work),
    };
    called.unwrap_or_else(|error| Called {
        result: Err(error.into()),
        fuel,
    })
}

fn in_store<G, T>(
    machine: &Machine,
    pre: &InstancePre<Call>,
    place: &mut Option<Place<G>>,
    request: Request,
    fuel: u64,
    load: impl FnOnce(&Instance) -> G,
    f: impl FnOnce(&G, &mut Store<Call>) -> wasmtime::Result<T>,
) -> Called<T> {
    let opened = match place.take() {
        Some(mut kept) => fill(&mut kept.store, fuel).map(|()| kept),
        None => open(machine, pre, request, fuel, load),
    };
    let called = opened.and_then(|mut opened| {
        let value = f(&opened.exports, &mut opened.store).map_err(|error| {
            match classify(error, machine.clock == Clock::Fuel) {
                Ok(trap) => CallError::Trapped(trap),
                Err(error) => CallError::Host(error),
            }
        })?;
        let left = opened.store.get_fuel().map_err(|error| broken(&error))?;
        *place = Some(opened);
        Ok((value, left))
    });
    match called {
        Ok((value, left)) => Called {
            result: Ok(value),
            fuel: fuel - left,
        },
        Err(error) => Called {
            result: Err(error),
            fuel,
        },
    }
}

fn broken(error: &wasmtime::Error) -> CallError {
    HostError(format!("{error:#}")).into()
}

/// Each call has all the fuel of one, whatever those before it took.
fn fill(store: &mut Store<Call>, fuel: u64) -> Result<(), CallError> {
    store.set_fuel(fuel).map_err(|error| broken(&error))
}

fn open<G>(
    machine: &Machine,
    pre: &InstancePre<Call>,
    request: Request,
    fuel: u64,
    load: impl FnOnce(&Instance) -> G,
) -> Result<Place<G>, CallError> {
    let slot = machine.slot();
    let mut store = Store::new(
        &machine.engine,
        Call {
            phase: request.phase,
            host: request.host,
            context: request.context,
            log: request.log,
            limiter: Limiter,
            available: 0,
            owed: 0,
            host_called: Instant::now(),
            begun: false,
        },
    );
    store.limiter(|call| &mut call.limiter);
    store.call_hook(settle);
    store.set_hostcall_fuel(limits::MAX_HANDOVER_BYTES);
    store.set_max_component_handles(limits::MAX_HANDLES);
    fill(&mut store, fuel)?;
    if machine.clock == Clock::Time {
        store.epoch_deadline_trap();
        store.set_epoch_deadline(Machine::ticks(request.time));
    }
    let instance = pre.instantiate(&mut store).map_err(|error| {
        // What the module does when an instance is made may break like any call: it may
        // hold too many handles, or hand over text that is none. All else that can go
        // wrong here is the machine's, admission has seen to that.
        let full = error.is::<PoolConcurrencyLimitError>() || error.is::<std::io::Error>();
        let own =
            error.is::<Stop>() || error.is::<wasmtime::Trap>() || (store.data().begun && !full);
        let cause = format!("{error:#}");
        match classify(error, machine.clock == Clock::Fuel) {
            Ok(trap) if own => trap.into(),
            Ok(_) => HostError(format!("no place for a module's instance: {cause}")).into(),
            Err(error) => CallError::from(error),
        }
    })?;
    Ok(Place {
        exports: load(&instance),
        store,
        _slot: slot,
    })
}
