//! Threads with enough stack for consensus calls.
//!
//! wasmtime measures the guest's stack from where the call begins, so a call needs
//! a thread that has the whole of it left. Calls made elsewhere, or from inside
//! another call, are given a thread of their own.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    HostError,
    limits::{GUEST_STACK_BYTES, HOST_STACK_BYTES},
};

thread_local! {
    /// Whether this thread has a guest's stack, all of it unused.
    static READY: Cell<bool> = const { Cell::new(false) };
}

/// A thread on which consensus calls run in place. Its stack is address space;
/// memory is taken as it is used.
///
/// # Errors
/// The operating system gives no thread.
pub fn spawn_guest_thread<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(GUEST_THREAD_BYTES)
        .spawn(move || {
            READY.set(true);
            f()
        })
}

/// A pool of threads on which consensus calls run in place.
///
/// # Errors
/// The operating system gives no threads.
pub fn guest_pool(threads: usize) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("guest-{index}"))
        .stack_size(GUEST_THREAD_BYTES)
        .start_handler(|_| READY.set(true))
        .build()
}

/// What [`become_guest_thread`] asks of a thread's stack, in bytes.
pub const GUEST_THREAD_BYTES: usize = GUEST_STACK_BYTES + HOST_STACK_BYTES;

/// To be called as the first thing on a thread of somebody else's making whose stack has
/// [`GUEST_THREAD_BYTES`], a pool's for instance: consensus calls run in place there.
pub fn become_guest_thread() {
    READY.set(true);
}

/// Whether consensus calls run in place here, and not on a thread made for each.
pub fn is_guest_thread() -> bool {
    READY.get()
}

/// Runs `f` with a guest's stack: here, or where there is one.
pub(crate) fn with_guest_stack<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, HostError> {
    if READY.replace(false) {
        let result = caught(f);
        READY.set(true);
        return result;
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("guest".into())
            .stack_size(GUEST_THREAD_BYTES)
            .spawn_scoped(scope, || caught(f))
            .map_err(HostError::new)?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => Err(panicked(&*panic)),
        }
    })
}

/// A panic in the host, or in wasmtime, is no fate of the module's: it is told to
/// whoever asked, who stops and names the item.
pub(crate) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, HostError> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| panicked(&*panic))
}

fn panicked(panic: &(dyn Any + Send)) -> HostError {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    HostError(format!("the host panicked in a call of a module: {text}"))
}
