//! The tests of everything together: real guardians, gateways and wallets, each a process
//! of its own, on a real bitcoind; and of the bundles as they are shipped.
//!
//! One program, because each links everything: so that linking takes its time once, and
//! tests that wait run beside each other. `cargo test --test e2e lightning` runs some.

mod alone;
mod base_fee;
mod behind;
mod bench;
mod common;
mod conformance;
mod dev;
mod double_spend;
mod escrow;
mod faults;
mod hostile_module;
mod lightning;
mod lightning_lies;
mod lightning_node;
mod lightning_safety;
mod lightning_wallet;
mod manners;
mod module_kit;
mod native_and_component;
mod power_cut;
mod random_money;
mod rest;
mod rest_schema;
mod restore;
mod wallet_crashes;
mod wallet_rest;
mod withdrawal_fuel;
mod withdrawals;
