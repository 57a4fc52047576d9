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
//! | to | there is |
//! |---|---|
//! | keep something | [`storage::Table`], [`storage::Cell`] |
//! | take arguments, be configured | [`parameters!`], [`choices!`], [`Amount`] |
//! | show something to people | [`object!`], [`Json`] |
//! | wait for something | [`Transition`] |
//! | refuse | [`Refusal`] |
//! | test | `mock::Federation`, `mock::Wallet`, `mock::Cash` |
//!
//! A guestbook: what stands in it is stored by guardians, in an output that costs a
//! satoshi, and shown by a query. That is a whole module, and its test.
//!
//! ```
//! use modmint_sdk::{mock, storage::Table, *};
//!
//! struct Guestbook;
//!
//! const ENTRIES: Table<OutPoint, String> = Table::new(b'e');
//!
//! parameters! {
//!     /// Writes a line.
//!     struct Sign {
//!         /// What shall stand there.
//!         line: String,
//!     }
//! }
//!
//! impl Module for Guestbook {
//!     type Config = ();
//!     fn describe() -> Description {
//!         Description {
//!             kind: "guestbook".into(),
//!             version: "0.1.0".into(),
//!             summary: "Lines that stay.".into(),
//!             server_storage: 1,
//!             client_storage: 1,
//!             configuration: vec![],
//!             queries: vec![],
//!             commands: vec![],
//!         }
//!     }
//!     fn configure(_: Arguments) -> Result<Setup<()>, Refusal> {
//!         Ok(Setup { config: (), keys: vec![] })
//!     }
//!     fn render(_: Item, bytes: &[u8]) -> Result<Json, Refusal> {
//!         let line = String::from_utf8_lossy(bytes).into_owned();
//!         Ok(object! { "line" => line })
//!     }
//! }
//!
//! impl Server for Guestbook {
//!     type Input = Nothing;
//!     type Output = String;
//!     type ConsensusItem = Nothing;
//!     fn process_input(input: Nothing) -> Result<InputEffect, Refusal> {
//!         match input {}
//!     }
//!     fn process_output(line: String, place: OutPoint) -> Result<OutputEffect, Refusal> {
//!         if line.len() > 80 {
//!             return Err(Refusal::new("too-long", "80 bytes at most are expected"));
//!         }
//!         ENTRIES.put(&place, &line);
//!         Ok(OutputEffect { value: 0, fee: 1000 })
//!     }
//!     fn audit() -> Vec<AuditLine> {
//!         vec![]
//!     }
//! }
//!
//! impl Client for Guestbook {
//!     type State = ();
//!     fn actions() -> Vec<Action> {
//!         vec![Sign::action("sign", Audience::Person)]
//!     }
//!     fn start(_: &str, arguments: Arguments) -> Result<Transition<()>, Refusal> {
//!         let output = borsh::to_vec(&Sign::read(arguments)?.line).expect("memory");
//!         let plan = Plan {
//!             inputs: vec![],
//!             outputs: vec![PlannedOutput { output, value: 0, fee: 1000 }],
//!             confirm: Some(Quote { summary: "sign".into(), fees: vec![], expires: None }),
//!         };
//!         Ok(Transition::to(()).submit(1, plan))
//!     }
//!     fn advance(_: (), event: Event) -> Result<Transition<()>, Refusal> {
//!         match event {
//!             Event::Done(EffectDone { outcome: EffectResult::Accepted(_), .. }) => {
//!                 Ok(Transition::done(()))
//!             }
//!             _ => Ok(Transition::failed((), Refusal::new("not-signed", "nothing was paid"))),
//!         }
//!     }
//! }
//!
//! // export!(Guestbook: federation-module); makes the component.
//!
//! let federation = mock::Federation::with_cash(4);
//! let guestbook = federation.found(mock::Bundle::federation_module::<Guestbook>(), vec![]);
//! let mut alice = mock::Wallet::new(&federation, "alice");
//! alice.endow(10);
//! let sign = Sign { line: "Alice was here".into() };
//! alice.perform(guestbook, "sign", sign.arguments()).expect("it begins");
//! assert_eq!(alice.balance(), 9_000);
//! federation.call(guestbook, mock::Phase::Audit, None, || {
//!     let lines: Vec<_> = ENTRIES.iter().map(|(_, line)| line).collect();
//!     assert_eq!(lines, ["Alice was here"]);
//! });
//! ```
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

/// A component's heap. It begins in what is left of the memory that an instance has from
/// the start (`src/kit/compile.rs` says how much): memory that grows costs the host two
/// system calls in each instance.
#[cfg(target_arch = "wasm32")]
#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

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
    pub use crate::{
        __default as default,
        parameters::{kebab, parameter, summary},
    };
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
