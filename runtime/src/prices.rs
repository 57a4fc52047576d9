//! Every import: its name, the phases that have it, its price in fuel.
//!
//! One unit of fuel is one operator of WebAssembly, 1 to 2 ns. A price is charged
//! before the work is done, and is the same whether a verdict was kept or not.
//! Where a result's size is not known before, as with `storage.get`, the base
//! price covers the largest and its bytes are charged when they are known.

use crate::limits::MAX_HANDOVER_BYTES;

/// When an export is called, and what it may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Pure,
    Stateless,
    Consensus,
    Audit,
    Propose,
    Query,
    Wallet,
    Look,
}

/// Imports that are granted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Log,
    Read,
    Write,
    /// What the federation is.
    Federation,
    /// What the federation has agreed on.
    Agreed,
    Crypto,
    Signing,
    Treasury,
    Guardian,
    /// What a guardian is asked for when it proposes, and at no other time.
    Propose,
    WalletHost,
}

impl Phase {
    /// The contract's table of phases.
    pub(crate) const fn grants(self, group: Group) -> bool {
        match group {
            Group::Log => true,
            Group::Read => !matches!(self, Self::Pure | Self::Stateless),
            Group::Write => matches!(self, Self::Consensus | Self::Wallet),
            Group::Federation | Group::Crypto => !matches!(self, Self::Pure),
            Group::Agreed => !matches!(self, Self::Pure | Self::Stateless),
            Group::Signing | Group::Treasury => matches!(self, Self::Consensus),
            Group::Guardian => matches!(self, Self::Propose | Self::Query),
            Group::Propose => matches!(self, Self::Propose),
            Group::WalletHost => matches!(self, Self::Wallet | Self::Look),
        }
    }
}

/// One function that the host lends to modules.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    /// For each call.
    pub(crate) base: u64,
    /// For each byte handed over, in either direction.
    pub(crate) byte: u64,
    /// For each element of a list, in either direction.
    pub(crate) item: u64,
}

impl Import {
    /// The price of a call that hands over so many bytes and elements.
    pub(crate) const fn price(&self, bytes: usize, items: usize) -> u64 {
        self.base
            .saturating_add(self.byte.saturating_mul(bytes as u64))
            .saturating_add(self.item.saturating_mul(items as u64))
    }
}

macro_rules! imports {
    ($($constant:ident = $name:literal, $group:ident, $base:literal, $byte:literal, $item:literal;)*) => {
        $(pub(crate) const $constant: Import = Import {
            name: $name,
            group: Group::$group,
            base: $base,
            byte: $byte,
            item: $item,
        };)*
        /// All of them.
        pub(crate) const IMPORTS: &[Import] = &[$($constant),*];
    };
}

imports! {
    //  name                                    phases       base     byte  element
    LOG = "log.log",                            Log,         1_000,      1,      0;

    GET = "storage.get",                        Read,        5_000,      1,      0;
    PUT = "storage.put",                        Write,       5_000,      2,      0;
    DELETE = "storage.delete",                  Write,       5_000,      1,      0;
    SCAN = "storage.scan",                      Read,        8_000,      1,  1_000;

    ID = "federation.id",                       Federation,    200,      1,      0;
    NETWORK = "federation.network",             Federation,    200,      1,      0;
    PEERS = "federation.peers",                 Federation,    200,      1,      0;
    THRESHOLD = "federation.threshold",         Federation,    200,      0,      0;
    CONFIG = "federation.config",               Federation,    500,      1,      0;
    PUBLIC_KEYS = "federation.public-keys",     Federation,    500,      1,    100;
    BLOCK_HEIGHT = "federation.block-height",   Agreed,      1_000,      0,      0;
    BLOCK_HASH = "federation.block-hash",       Agreed,      5_000,      1,      0;
    CHAIN_OUTPUT_AT = "federation.chain-output-at", Agreed,  5_000,      1,      0;
    CHAIN_OUTPUTS = "federation.chain-outputs", Agreed,     50_000,      1,  1_000;
    FEE_RATE = "federation.fee-rate",           Agreed,      1_000,      0,      0;
    UNIX_TIME = "federation.unix-time",         Agreed,      1_000,      0,      0;

    SHA256 = "crypto.sha256",                   Crypto,        500,      4,      0;
    VERIFY_SCHNORR = "crypto.verify-schnorr",   Crypto,     80_000,      1,      0;
    VERIFY_ECDSA = "crypto.verify-ecdsa",       Crypto,     80_000,      1,      0;
    TWEAK_PUBLIC_KEY = "crypto.tweak-public-key", Crypto,   60_000,      1,      0;
    TBS_VERIFY = "crypto.tbs-verify",           Crypto,    600_000,      4,      0;
    TPE_VERIFY = "crypto.tpe-verify",           Crypto,  1_000_000,      4,      0;
    TPE_DECRYPT = "crypto.tpe-decrypt",         Crypto,  1_500_000,      4,      0;

    APPROVE = "signing.approve",                Signing,   100_000,      4,      0;
    REVOKE = "signing.revoke",                  Signing,    10_000,      4,      0;

    CLAIM = "treasury.claim",                   Treasury,   10_000,      1,      0;
    RELEASE = "treasury.release",               Treasury,    2_000,      0,      0;

    WHOAMI = "guardian.whoami",                 Guardian,      200,      0,      0;
    SHARES = "guardian.shares",                 Guardian,    5_000,      4, 200_000;
    CHAIN = "guardian.chain",                   Guardian,    1_000,      0,      0;
    CONFIRMED_AT = "guardian.confirmed-at",     Guardian,    5_000,      1,      0;
    MISSING = "guardian.missing",               Propose,     5_000,      1,  1_000;

    DERIVE_SECRET = "wallet-host.derive-secret", WalletHost, 5_000,      1,      0;
    DERIVE_PUBLIC_KEY = "wallet-host.derive-public-key", WalletHost, 50_000, 1, 0;
    SIGN_SCHNORR = "wallet-host.sign-schnorr",  WalletHost, 80_000,      1,      0;
    RANDOM = "wallet-host.random",              WalletHost,  1_000,      4,      0;
    DEVICE_TIME = "wallet-host.unix-time",      WalletHost,  1_000,      0,      0;
    INVITE = "wallet-host.invite",              WalletHost,  1_000,      1,      0;
    TBS_BLIND = "wallet-host.tbs-blind",        WalletHost,  5_000,      4, 300_000;
    TBS_UNBLIND = "wallet-host.tbs-unblind",    WalletHost,  5_000,      4, 1_000_000;
    TPE_ENCRYPT = "wallet-host.tpe-encrypt",    WalletHost, 1_500_000,   4,      0;
    TPE_COMBINE = "wallet-host.tpe-combine",    WalletHost, 1_500_000,   4, 1_000_000;
}

/// On top of [`APPROVE`] for a ciphertext, which is checked like
/// [`TPE_VERIFY`].
pub(crate) const APPROVE_DECRYPTION: u64 = 1_000_000;

/// Whatever is handed over is bounded anyway; more than this is not priced.
const _: () = assert!((MAX_HANDOVER_BYTES as u64) < u64::MAX / 1_000_000);

/// What one operator costs. A call costs the most that there is, so that fuel
/// bounds the depth of the stack; growing memory costs by the page, which
/// wasmtime's own table forgives.
pub(crate) fn operator_cost() -> wasmtime::OperatorCost {
    // wasmtime's default: 1 for every operator, 0 for nop, drop, block, loop,
    // unreachable, return, else and end.
    let mut cost = wasmtime::OperatorCost::new();
    cost.Call = 255;
    cost.CallIndirect = 255;
    // wasmtime's defaults: 1 for every byte or element, 0 for a page.
    cost.variable.memory_copy_per_byte = 1;
    cost.variable.memory_fill_per_byte = 1;
    cost.variable.memory_init_per_byte = 1;
    cost.variable.memory_grow_per_page = 255;
    cost.variable.table_copy_per_element = 1;
    cost.variable.table_fill_per_element = 1;
    cost.variable.table_init_per_element = 1;
    cost.variable.table_grow_per_element = 8;
    cost
}
