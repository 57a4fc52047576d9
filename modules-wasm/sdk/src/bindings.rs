//! The contract as Rust. Types are used as they are; functions are called through
//! the modules of this crate alone, so that they reach the mock host in a native
//! test.

wit_bindgen::generate!({
    path: "../../wit",
    world: "ecash-module",
    pub_export_macro: true,
    additional_derives: [PartialEq, borsh::BorshSerialize, borsh::BorshDeserialize],
    generate_all,
});

/// The contract's worlds, encoded for wit-component.
pub mod worlds {
    /// Guardians' half alone.
    pub const SERVER_HALF: [u8; include_bytes!(concat!(env!("OUT_DIR"), "/server-half")).len()] =
        *include_bytes!(concat!(env!("OUT_DIR"), "/server-half"));
    /// Wallets' half alone.
    pub const CLIENT_HALF: [u8; include_bytes!(concat!(env!("OUT_DIR"), "/client-half")).len()] =
        *include_bytes!(concat!(env!("OUT_DIR"), "/client-half"));
    /// Both halves.
    pub const FEDERATION_MODULE: [u8; include_bytes!(concat!(
        env!("OUT_DIR"),
        "/federation-module"
    ))
    .len()] = *include_bytes!(concat!(env!("OUT_DIR"), "/federation-module"));
    /// Both halves and e-cash.
    pub const ECASH_MODULE: [u8; include_bytes!(concat!(env!("OUT_DIR"), "/ecash-module")).len()] =
        *include_bytes!(concat!(env!("OUT_DIR"), "/ecash-module"));
}
