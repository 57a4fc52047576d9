//! What a module may use, the same on every guardian. All of it is part of
//! `runtime_hash`.

use std::time::Duration;

/// A bundle's bytes.
pub const MAX_BUNDLE_BYTES: usize = 4 << 20;
/// Parameters, locals and the greatest operand height of one function.
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
/// Components that are instantiated with one component: one in a component that is
/// instantiated twice counts twice. The encoder makes one for each interface.
pub const MAX_COMPONENT_INSTANCES: usize = 16;
/// Core modules that are instantiated with one component, counted alike.
pub const MAX_CORE_INSTANCES: usize = 4;
/// Tables of one component, of which each instance of a core module has its own, and
/// elements of one table.
pub const MAX_TABLES: usize = 4;
/// See [`MAX_TABLES`].
pub const MAX_TABLE_ELEMENTS: usize = 20_000;
/// Linear memories of one component, counted alike.
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

/// What the calls that a core module is in may count together; one more is a trap. A call
/// counts its caller's [`frame_units`]: 1024 calls of small functions, 9 of the largest.
pub const MAX_STACK_UNITS: u32 = 1024 * 640;
/// Native stack that one unit stands for, in bytes: a value of the widest kind that there
/// is. `runtime/src/tests/stack.rs` fails where a third of it is taken.
pub const STACK_UNIT_BYTES: usize = 16;
/// The native stack of a consensus call. [`MAX_STACK_UNITS`] ends before it in all of
/// [`MAX_CORE_INSTANCES`] together.
pub const GUEST_STACK_BYTES: usize = 64 << 20;

/// What a call counts that is made by a function with so much code, in bytes: its values,
/// and what a compiler that computes them before they are needed may keep besides, which
/// is no more than there are instructions.
pub const fn frame_units(code: usize) -> u32 {
    MAX_FUNCTION_VALUES + code as u32
}

// What is called last is not counted; there is room for it and for one that the host
// calls from there.
const _: () = assert!(
    (MAX_CORE_INSTANCES * MAX_STACK_UNITS as usize + 2 * frame_units(MAX_FUNCTION_BYTES) as usize)
        * STACK_UNIT_BYTES
        <= GUEST_STACK_BYTES
);

/// What host calls have below the guest.
pub const HOST_STACK_BYTES: usize = 16 << 20;
/// The native stack of a call with a time limit.
pub const QUERY_STACK_BYTES: usize = 1 << 20;

/// What one instance may keep in its guardians' databases, in bytes: keys, values, and what
/// it had approved.
pub const MAX_STORED_BYTES: u64 = 16 << 30;

/// Calls with a time limit that one guardian makes at once; others wait.
pub const MAX_QUERIES: u32 = 32;
/// Time of a query or of outcomes.
pub const QUERY_TIME: Duration = Duration::from_secs(5);
/// Time of everything else that has a time limit.
pub const CALL_TIME: Duration = Duration::from_secs(30);
