//! Threads with enough stack for metered calls.

/// A thread that may run metered calls.
///
/// # Errors
/// The operating system gives no thread.
pub fn spawn_guest_thread<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(f)
}

/// A pool of threads that may run metered calls.
///
/// # Errors
/// The operating system gives no threads.
pub fn guest_pool(threads: usize) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build()
}
