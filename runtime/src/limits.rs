//! What a module may use, the same on every guardian. All of it is part of
//! `runtime_hash`.

use std::time::Duration;

/// A bundle's bytes.
pub const MAX_BUNDLE_BYTES: usize = 4 << 20;
/// Parameters, locals and the greatest operand height of one function. Measured:
/// 8 bytes of native stack each.
pub const MAX_FUNCTION_VALUES: u32 = 512;
/// Code of one function, in bytes.
pub const MAX_FUNCTION_BYTES: usize = 64 << 10;
/// Functions of one bundle.
pub const MAX_FUNCTIONS: usize = 50_000;
/// Core modules of one component. The encoder makes three: the module, and two
/// that tie it to its imports.
pub const MAX_CORE_MODULES: usize = 4;
/// Components inside each other, the outermost counted. The encoder makes two.
pub const MAX_NESTING: u32 = 8;
/// Core instances of one component, those without code included.
pub const MAX_CORE_INSTANCES: usize = 64;
/// Tables of one component, and elements of one table.
pub const MAX_TABLES: usize = 4;
/// See [`MAX_TABLES`].
pub const MAX_TABLE_ELEMENTS: usize = 20_000;
/// Linear memories of one component.
pub const MAX_MEMORIES: usize = 1;
/// Linear memory, in bytes.
pub const MAX_MEMORY_BYTES: usize = 32 << 20;

/// Fuel of one metered call: 20 to 40 ms.
pub const MAX_FUEL: u64 = 20_000_000;
/// Bytes that a module may hand over in one call, to an import or as a result.
pub const MAX_HANDOVER_BYTES: usize = 4 << 20;
/// Resource handles alive in one call. The contract has no resources.
pub const MAX_HANDLES: usize = 16;

/// A storage key's bytes.
pub const MAX_KEY_BYTES: usize = 256;
/// A storage value's bytes.
pub const MAX_VALUE_BYTES: usize = 128 << 10;
/// Keys and values of one `storage.scan`, in bytes.
pub const MAX_SCAN_BYTES: usize = 1 << 20;
/// What `configure` may return, and a wallet's backup of one module, in bytes.
pub const MAX_CONFIG_BYTES: usize = 64 << 10;
/// Elements of a key derivation path.
pub const MAX_PATH: usize = 16;
/// Bytes of one `wallet-host.random`.
pub const MAX_RANDOM_BYTES: usize = 4096;
/// Elements of the lists that a module describes itself with.
pub const MAX_LIST: usize = 64;
/// Keys of one instance.
pub const MAX_KEYS: usize = 256;

/// A log line's bytes.
pub const MAX_LOG_BYTES: usize = 4096;
/// Log lines of one instance in one second; others are counted and dropped.
pub const MAX_LOG_LINES: u32 = 50;

/// Calls that a core module may be in at a time; one more is a trap.
pub const MAX_CALL_DEPTH: u32 = 1024;
/// The native stack of a consensus call. [`MAX_CALL_DEPTH`] ends before it: in each of
/// [`MAX_CORE_MODULES`], 1024 calls of [`MAX_FUNCTION_VALUES`] × 8 bytes are 17 MB
/// together, and register allocation may at worst double that.
pub const GUEST_STACK_BYTES: usize = 64 << 20;
/// What host calls have below the guest.
pub const HOST_STACK_BYTES: usize = 16 << 20;
/// The native stack of a call with a time limit.
pub const QUERY_STACK_BYTES: usize = 1 << 20;

/// Time of a query or of outcomes.
pub const QUERY_TIME: Duration = Duration::from_secs(5);
/// Time of everything else that has a time limit.
pub const CALL_TIME: Duration = Duration::from_secs(30);
