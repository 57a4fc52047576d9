//! What a module implements. Everything typed; [`crate::Component`] turns it into
//! the contract's bytes.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::{
    Action, Answer, Argument, Arguments, AuditLine, Completion, Description, Event, InputEffect,
    Item, Json, KeySpec, OutPoint, OutputEffect, PeerId, Refusal, Transition,
};

/// What `configure` makes of a new instance's arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup<C> {
    /// What `federation::config` will return.
    pub config: C,
    /// The keys that the ceremony makes.
    pub keys: Vec<KeySpec>,
}

/// For a module without inputs, outputs or items: no bytes are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {}

impl BorshSerialize for Nothing {
    fn serialize<W: borsh::io::Write>(&self, _: &mut W) -> borsh::io::Result<()> {
        match *self {}
    }
}

impl BorshDeserialize for Nothing {
    fn deserialize_reader<R: borsh::io::Read>(_: &mut R) -> borsh::io::Result<Self> {
        Err(borsh::io::Error::new(
            borsh::io::ErrorKind::InvalidData,
            "this module has none",
        ))
    }
}

/// What the module is.
pub trait Module: 'static {
    /// What an instance is configured with.
    type Config: BorshSerialize + BorshDeserialize;

    /// The same for every instance and every federation.
    fn describe() -> Description;

    /// Checks the arguments for a new instance.
    ///
    /// # Errors
    /// Says which argument is refused and what would be accepted.
    fn configure(arguments: Arguments) -> Result<Setup<Self::Config>, Refusal>;

    /// JSON for people. Never refuses what this module produced.
    ///
    /// # Errors
    /// `bad-encoding`, for bytes of somebody else.
    fn render(item: Item, bytes: &[u8]) -> Result<Json, Refusal>;
}

/// The guardians' half. Everything that a module may leave out has a default.
pub trait Server: Module {
    /// What brings money into a transaction; [`crate::Nothing`] if nothing does.
    type Input: BorshSerialize + BorshDeserialize;
    /// What takes money out of a transaction.
    type Output: BorshSerialize + BorshDeserialize;
    /// What guardians say to each other.
    type ConsensusItem: BorshSerialize + BorshDeserialize;

    /// Once, when the instance is founded.
    ///
    /// # Errors
    /// The instance cannot be founded.
    fn init() -> Result<(), Refusal> {
        Ok(())
    }

    /// From the storage of an older bundle to this one's; see the contract.
    ///
    /// # Errors
    /// The upgrade does not happen.
    fn migrate(from: u32, _cursor: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Refusal> {
        Err(no_migration(from))
    }

    /// Takes an input, and says what it is worth and who must sign.
    ///
    /// # Errors
    /// The transaction is refused.
    fn process_input(input: Self::Input) -> Result<InputEffect, Refusal>;

    /// Takes an output, and says what it costs.
    ///
    /// # Errors
    /// The transaction is refused.
    fn process_output(output: Self::Output, out_point: OutPoint) -> Result<OutputEffect, Refusal>;

    /// Takes a guardian's item.
    ///
    /// # Errors
    /// It changes nothing.
    fn process_consensus_item(_peer: PeerId, _item: Self::ConsensusItem) -> Result<(), Refusal> {
        Err(Refusal::new(
            "no-such-item",
            "this module has no consensus items",
        ))
    }

    /// All the items that this guardian wants ordered now.
    fn propose() -> Vec<Self::ConsensusItem> {
        Vec::new()
    }

    /// All the bitcoin transactions that should be in the mempool now.
    fn broadcast() -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// This guardian's contribution to an output's outcome; none where there is
    /// no such output.
    fn outcomes(out_points: Vec<OutPoint>) -> Vec<Option<Vec<u8>>> {
        out_points.into_iter().map(|_| None).collect()
    }

    /// Answers a query.
    ///
    /// # Errors
    /// Whoever asked is told.
    fn query(name: &str, _arguments: Arguments) -> Result<Answer, Refusal> {
        Err(Refusal::new(
            "no-such-query",
            format!("this module has no query {name:?}"),
        ))
    }

    /// Does what this guardian's operator asks for.
    ///
    /// # Errors
    /// The operator is told.
    fn command(name: &str, _arguments: Arguments) -> Result<Vec<Self::ConsensusItem>, Refusal> {
        Err(Refusal::new(
            "no-such-command",
            format!("this module has no command {name:?}"),
        ))
    }

    /// What the instance has and owes, from its storage.
    fn audit() -> Vec<AuditLine>;
}

/// The wallets' half: machines without I/O.
pub trait Client: Module {
    /// The state of a machine. A newer bundle reads the states of all older ones:
    /// variants are only ever added, at the end.
    type State: BorshSerialize + BorshDeserialize;

    /// What people, gateways and the host can start.
    fn actions() -> Vec<Action>;

    /// Begins an operation.
    ///
    /// # Errors
    /// Nothing has begun.
    fn start(action: &str, arguments: Arguments) -> Result<Transition<Self::State>, Refusal>;

    /// Goes on with it.
    ///
    /// # Errors
    /// The machine stays as it was.
    fn advance(state: Self::State, event: Event) -> Result<Transition<Self::State>, Refusal>;

    /// What is needed beside the seed to find the money again. No wallet asks for it yet:
    /// `recover` gets none, and must do without.
    fn backup() -> Vec<u8> {
        Vec::new()
    }

    /// The machine that finds it; none if this module keeps no money in the wallet.
    ///
    /// # Errors
    /// Nothing has begun.
    fn recover(_backup: Option<Vec<u8>>) -> Result<Option<Transition<Self::State>>, Refusal> {
        Ok(None)
    }

    /// As [`Server::migrate`], for the wallet's storage.
    ///
    /// # Errors
    /// The wallet keeps the older bundle.
    fn migrate(from: u32, _cursor: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Refusal> {
        Err(no_migration(from))
    }
}

/// The module that holds the wallet's money.
pub trait Ecash: Client {
    /// Millisatoshi that can be spent now.
    fn balance() -> u64;

    /// Makes a transaction even that takes in `inputs` and gives out `outputs`
    /// millisatoshi, fees included; see the contract.
    ///
    /// # Errors
    /// The wallet has not got as much.
    fn complete(inputs: u64, outputs: u64) -> Result<Completion, Refusal>;
}

fn no_migration(from: u32) -> Refusal {
    Refusal::new(
        "no-migration",
        format!("this bundle cannot read storage of version {from}"),
    )
}

/// Arguments by name, for calls that name only some.
impl From<Vec<Argument>> for Arguments {
    fn from(arguments: Vec<Argument>) -> Self {
        Self::new(arguments)
    }
}
