//! A module that does everything it should not: loops, traps, recurses, takes all
//! memory, fills the disk, pays out money that it never got and claims debts that
//! nobody has. For tests; no federation wants it. It has the guardians' half
//! alone: to a wallet it is one of the modules that it cannot use.

use std::hint::black_box;

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Answer, Arguments, AuditLine, Description, Endpoint, InputEffect, Item, Json, Level, Module,
    OutPoint, OutputEffect, PeerId, Refusal, Server, Setup, export, log, storage::Cell,
};

/// What to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Misdeed {
    /// Never returns.
    Loop,
    /// Panics.
    Trap,
    /// Calls itself until the stack ends.
    Recurse,
    /// Takes memory until there is none.
    Allocate,
    /// Writes to storage until somebody stops it.
    Fill,
    /// Writes to the log until somebody stops it.
    Chatter,
}

impl Misdeed {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Loop,
        Self::Trap,
        Self::Recurse,
        Self::Allocate,
        Self::Fill,
        Self::Chatter,
    ];

    fn commit(self) {
        match self {
            Self::Loop => while black_box(true) {},
            Self::Trap => panic!("as asked"),
            Self::Recurse => {
                black_box(recurse(0));
            }
            Self::Allocate => {
                let mut taken = Vec::new();
                while black_box(true) {
                    taken.push(black_box(vec![1_u8; 1 << 20]));
                }
            }
            Self::Fill => {
                let value = vec![7_u8; 100_000];
                for cell in 0..=u8::MAX {
                    Cell::<Vec<u8>>::new(cell).put(&value);
                }
                Self::Fill.commit();
            }
            Self::Chatter => {
                while black_box(true) {
                    log::log(Level::Error, &"all work and no play ".repeat(100));
                }
            }
        }
    }
}

fn recurse(depth: u64) -> u64 {
    match black_box(true) {
        true => recurse(depth + 1).wrapping_mul(black_box(3)),
        false => depth,
    }
}

/// An input.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Input {
    /// Misbehaves while it is processed.
    Commit(Misdeed),
    /// Claims to be worth this much.
    Steal {
        /// Millisatoshi.
        value: u64,
        /// Who signs.
        key: [u8; 33],
    },
}

/// An output; all are worth nothing.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Output {
    /// Misbehaves while it is processed.
    Commit(Misdeed),
    /// From now on every guardian proposes an item that misbehaves when it is
    /// ordered; none ends that.
    Arm(Option<Misdeed>),
}

/// The item that [`Output::Arm`] asks for.
const ARMED: Cell<Option<Misdeed>> = Cell::new(b'a');

/// The module.
pub struct Hostile;

impl Module for Hostile {
    type Config = ();

    fn describe() -> Description {
        let endpoint = |name: &str| Endpoint {
            name: name.into(),
            summary: "Misbehaves while it is asked.".into(),
            parameters: Vec::new(),
        };
        Description {
            kind: "hostile".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Does everything that a module should not; for tests.".into(),
            server_storage: 1,
            client_storage: 1,
            configuration: Vec::new(),
            queries: QUERIES.iter().map(|(name, _)| endpoint(name)).collect(),
            commands: Vec::new(),
        }
    }

    fn configure(_arguments: Arguments) -> Result<Setup<()>, Refusal> {
        Ok(Setup {
            config: (),
            keys: Vec::new(),
        })
    }

    fn render(_item: Item, _bytes: &[u8]) -> Result<Json, Refusal> {
        Misdeed::Loop.commit();
        Err(Refusal::new("tired", "it never comes to this"))
    }
}

/// The queries and what each does wrong.
const QUERIES: [(&str, Misdeed); 4] = [
    ("loop", Misdeed::Loop),
    ("trap", Misdeed::Trap),
    ("recurse", Misdeed::Recurse),
    ("allocate", Misdeed::Allocate),
];

impl Server for Hostile {
    type Input = Input;
    type Output = Output;
    type ConsensusItem = Misdeed;

    fn process_input(input: Input) -> Result<InputEffect, Refusal> {
        match input {
            Input::Commit(misdeed) => {
                misdeed.commit();
                Err(Refusal::new("survived", "the misdeed came to an end"))
            }
            Input::Steal { value, key } => Ok(InputEffect {
                value,
                fee: 0,
                spend_key: key.to_vec(),
            }),
        }
    }

    fn process_output(output: Output, _out_point: OutPoint) -> Result<OutputEffect, Refusal> {
        match output {
            Output::Commit(misdeed) => {
                misdeed.commit();
                Err(Refusal::new("survived", "the misdeed came to an end"))
            }
            Output::Arm(misdeed) => {
                ARMED.put(&misdeed);
                Ok(OutputEffect { value: 0, fee: 0 })
            }
        }
    }

    fn process_consensus_item(_peer: PeerId, misdeed: Misdeed) -> Result<(), Refusal> {
        misdeed.commit();
        Err(Refusal::new("survived", "the misdeed came to an end"))
    }

    fn propose() -> Vec<Misdeed> {
        ARMED.get().flatten().into_iter().collect()
    }

    fn query(name: &str, _arguments: Arguments) -> Result<Answer, Refusal> {
        for (query, misdeed) in QUERIES {
            if query == name {
                misdeed.commit();
            }
        }
        Ok(Answer::Ready(Vec::new()))
    }

    fn audit() -> Vec<AuditLine> {
        vec![AuditLine {
            name: "debts that nobody has".into(),
            msat: -1_000_000,
        }]
    }
}

export!(Hostile: server-half);
