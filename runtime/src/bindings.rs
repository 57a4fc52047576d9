//! The contract as Rust sees it, made from `wit/` by wasmtime.

#![allow(
    missing_docs,
    clippy::all,
    unused_qualifications,
    reason = "generated code"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    // The largest world: every import, every export. Which exports a bundle has
    // is found out one by one.
    world: "ecash-module",
    // Every import may trap: phases, limits, fuel.
    imports: { default: trappable },
    // What admission compares bundles with.
    include_component_type: true,
});
