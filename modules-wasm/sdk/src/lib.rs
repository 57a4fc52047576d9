//! What a module is written with.
//!
//! A module implements [`Module`], [`Server`] and [`Client`] (and [`Ecash`], if it
//! holds the wallet's money) on one type and names it in [`export!`]. It reads
//! and writes through [`storage`], [`federation`], [`crypto`], [`signing`],
//! [`treasury`], [`guardian`] and [`wallet`]: in a component these are the host's
//! imports, in a native test those of the mock host. Inputs, outputs, states and
//! configs are Rust types with a borsh encoding; bytes appear in none of them.
//!
//! Natively there is also `mock`: a host for one call, and a driver that plays a
//! whole federation and its wallets without any network.
//!
//! Nothing here knows what a particular module does, and nothing here is part of
//! the guardian or of the wallet.

#[allow(
    missing_docs,
    unsafe_code,
    unused_qualifications,
    clippy::all,
    reason = "generated from the contract, which documents itself"
)]
pub mod bindings;
mod component;
mod encoding;
mod host;
pub mod json;
mod module;
mod parameters;
pub mod storage;
mod transition;
mod values;

#[cfg(not(target_arch = "wasm32"))]
pub mod mock;

pub use borsh;
pub use component::Component;
pub use host::{crypto, federation, guardian, log, signing, treasury, wallet};
pub use json::Json;
pub use module::{Client, Ecash, Module, Nothing, Server, Setup};
pub use parameters::{Arguments, ParameterValue, ParseArgumentError};
pub use transition::Transition;
pub use values::{Amount, to_hex};

pub use bindings::{
    exports::modmint::module::{
        client::{
            Acceptance, Action, Agreement, Audience, Effect, EffectDone, EffectResult, Event,
            FeeLine, HttpRequest, HttpResponse, OutcomeRequest, PeerAnswer, PeerOutcomes, Plan,
            PlannedInput, PlannedOutput, Progress, QueryRequest, Quote, Rejection, ServiceRequest,
            Signer, Want,
        },
        ecash::Completion,
        module_info::{Description, Endpoint, Item, KeyKind, KeySpec},
        server::{Answer, AuditLine, InputEffect, OutputEffect, Wake},
    },
    modmint::module::{
        federation::{ChainOutPoint, ChainOutput},
        guardian::OwnChain,
        log::Level,
        signing::{Approval, Signable},
        types::{Argument, OutPoint, Parameter, ParameterKind, Refusal, Value},
        wallet_host::{Blinding, SignedBlinding},
    },
};

/// For this crate's macros.
#[doc(hidden)]
pub mod __private {
    pub use crate::parameters::{parameter, summary};
}

/// A guardian's index.
pub type PeerId = u16;

impl Refusal {
    /// A refusal. `code` is stable and kebab-case; `message` says what was
    /// refused, why, and what would be accepted.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

impl Rejection {
    /// Whether what was refused is another module's, above all the e-cash that the
    /// host added. The plan itself may be fine: submit it again, a few times, and
    /// e-cash takes other notes and fresh blinding.
    pub fn is_elsewhere(&self) -> bool {
        self.input.is_none() && self.output.is_none()
    }
}
