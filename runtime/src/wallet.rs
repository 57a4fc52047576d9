//! What passes between a wallet and the wallets' half of a module: the shapes of
//! `interface client` and `interface ecash` in the contract, one to one.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_core::{Amount, Argument, OutPoint, PeerId, Refusal, TxId};

/// Whose key signs for an input.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Signer {
    /// `Host::derive_secret` of this path.
    Path(Vec<u64>),
    /// A secret key that came with the money.
    Secret([u8; 32]),
}

/// Secrets do not belong into logs.
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Secret(_) => f.write_str("Secret(..)"),
        }
    }
}

/// An input that a plan brings. `value` and `fee` as `process_input` will have
/// them.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PlannedInput {
    /// In the module's canonical encoding.
    pub input: Vec<u8>,
    /// What it brings in, fee included.
    pub value: Amount,
    /// What the module keeps of it.
    pub fee: Amount,
    /// Whose key signs for it.
    pub signer: Signer,
}

/// An output that a plan wants. `value` and `fee` as `process_output` will have
/// them.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PlannedOutput {
    /// In the module's canonical encoding.
    pub output: Vec<u8>,
    /// What it is worth.
    pub value: Amount,
    /// What it costs on top.
    pub fee: Amount,
}

/// A fee inside the outputs' values: on-chain, gateway, routing.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct FeeLine {
    /// For people.
    pub name: String,
    /// How much.
    pub amount: Amount,
}

/// What the person is asked, beside what the host computes itself.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Quote {
    /// One sentence.
    pub summary: String,
    /// Fees inside the outputs' values.
    pub fees: Vec<FeeLine>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
}

/// A transaction that a machine wants.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Plan {
    /// What it brings.
    pub inputs: Vec<PlannedInput>,
    /// What it wants.
    pub outputs: Vec<PlannedOutput>,
    /// Ask first.
    pub confirm: Option<Quote>,
}

/// How many guardians must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Agreement {
    /// The first guardian that answers.
    Any,
    /// The same bytes from a threshold of guardians; one answer is delivered.
    Same,
    /// Delivered when a threshold has answered, and again for each one more.
    Each,
}

/// Guardians' contributions to outputs' outcomes.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OutcomeRequest {
    /// Which.
    pub out_points: Vec<OutPoint>,
    /// From how many guardians.
    pub agreement: Agreement,
}

/// A query of the module's guardian half.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct QueryRequest {
    /// The query's name.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<Argument>,
    /// From how many guardians.
    pub agreement: Agreement,
}

/// An HTTP request to a public host.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct HttpRequest {
    /// `GET`, `POST`, …
    pub method: String,
    /// With https, on regtest also http.
    pub url: String,
    /// Name and value.
    pub headers: Vec<(String, String)>,
    /// Empty where there is none.
    pub body: Vec<u8>,
}

/// What the application around the wallet is asked for.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ServiceRequest {
    /// For example `lightning.pay`.
    pub name: String,
    /// As the service wants it.
    pub request: Vec<u8>,
}

/// What a machine waits for.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Want {
    /// A transaction. Answer: `Accepted`, `Rejected` or `Declined`.
    Submit(Plan),
    /// Answer: `Outcomes`.
    Outcomes(OutcomeRequest),
    /// Answer: `Answers`.
    Query(QueryRequest),
    /// Answer: `Response`.
    Http(HttpRequest),
    /// At this time, seconds since 1970. Answer: `TimeReached`.
    Until(u64),
    /// Answer: `Served`.
    Service(ServiceRequest),
}

/// A want with the machine's own number for it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Effect {
    /// Unique among the effects of a transition.
    pub id: u32,
    /// What is wanted.
    pub want: Want,
}

/// One guardian's contributions.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PeerOutcomes {
    /// Whose.
    pub peer: PeerId,
    /// In the order asked for.
    pub outcomes: Vec<Vec<u8>>,
}

/// One guardian's answer to a query.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PeerAnswer {
    /// Whose.
    pub peer: PeerId,
    /// What it said.
    pub answer: Result<Vec<u8>, Refusal>,
}

/// What an HTTP server said, whatever the status.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct HttpResponse {
    /// HTTP's.
    pub status: u16,
    /// At most 1 MiB.
    pub body: Vec<u8>,
}

/// What came of an effect.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum EffectResult {
    /// The transaction, and where in it the planned outputs are, in the plan's
    /// order.
    Accepted {
        /// The transaction.
        txid: TxId,
        /// Indices of the planned outputs.
        outputs: Vec<u16>,
    },
    /// The transaction never takes effect.
    Rejected {
        /// Why.
        refusal: Refusal,
        /// The plan's input that was refused, if it was one.
        input: Option<u16>,
        /// The plan's output that was refused, if it was one.
        output: Option<u16>,
    },
    /// The person said no.
    Declined,
    /// See [`Want::Outcomes`].
    Outcomes(Vec<PeerOutcomes>),
    /// See [`Want::Query`].
    Answers(Vec<PeerAnswer>),
    /// See [`Want::Http`].
    Response(HttpResponse),
    /// See [`Want::Until`].
    TimeReached,
    /// See [`Want::Service`].
    Served(Vec<u8>),
    /// It cannot be had.
    Failed(Refusal),
}

/// What a machine is told.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Event {
    /// An effect is done.
    Done {
        /// Its id.
        effect: u32,
        /// What came of it.
        outcome: EffectResult,
    },
    /// The person asks to stop. May be refused.
    Cancel,
}

/// How an operation stands. `details` is JSON text.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Progress {
    /// Kebab-case, for programs.
    pub stage: String,
    /// For people.
    pub message: String,
    /// JSON text; that of the last one is the operation's result.
    pub details: String,
}

/// A machine's next state, and what it wants now.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Transition {
    /// In the module's own encoding.
    pub state: Vec<u8>,
    /// They replace the former ones.
    pub effects: Vec<Effect>,
    /// How the operation stands, where that has changed.
    pub progress: Option<Progress>,
    /// With this the machine ends, and its effects with it.
    pub finished: Option<Result<(), Refusal>>,
}

/// What the e-cash module adds so that a transaction comes out even.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Completion {
    /// Notes spent.
    pub inputs: Vec<PlannedInput>,
    /// Change.
    pub outputs: Vec<PlannedOutput>,
    /// The state of a machine of the e-cash module that is told what came of the
    /// transaction, as effect 0.
    pub machine: Vec<u8>,
}
