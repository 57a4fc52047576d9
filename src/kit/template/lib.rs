//! Money in a text.
//!
//! `create` locks money under a fresh key and shows a text with its secret. Whoever has
//! the text takes the money by `redeem`, once: the guardians pay it out to whoever signs
//! with that key, and forget it.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Action, Agreement, Amount, Answer, Arguments, Audience, AuditLine, Client, Description,
    EffectDone, EffectResult, Event, InputEffect, Item, Json, Module, Nothing, OutPoint,
    OutputEffect, Plan, PlannedInput, PlannedOutput, Quote, Refusal, Server, Setup, Signer,
    Transition, object, parameters,
    storage::{Cell, Table},
    to_hex, wallet,
};

/// The module.
pub struct Vouchers;

// Makes the component's exports of what `Vouchers` implements.
modmint_sdk::export!(Vouchers: federation-module);

/// An output: money, and the key that may take it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Voucher {
    /// Millisatoshi.
    pub amount: u64,
    /// 33 bytes, compressed.
    pub key: [u8; 33],
}

/// An input: takes the money under this key, which signs the transaction.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Redemption {
    /// The voucher's key.
    pub key: [u8; 33],
}

impl Module for Vouchers {
    /// What an instance is configured with: nothing.
    type Config = ();

    fn describe() -> Description {
        Description {
            kind: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Money in a text: whoever has it takes it.".into(),
            server_storage: 1,
            client_storage: 1,
            configuration: Vec::new(),
            queries: vec![VoucherQuery::endpoint("voucher")],
            commands: Vec::new(),
        }
    }

    fn configure(_: Arguments) -> Result<Setup<()>, Refusal> {
        Ok(Setup {
            config: (),
            keys: Vec::new(),
        })
    }

    fn render(item: Item, bytes: &[u8]) -> Result<Json, Refusal> {
        match item {
            Item::Input => read::<Redemption>(bytes)
                .map(|redemption| object! { "key" => redemption.key.as_slice() }),
            Item::Output => read::<Voucher>(bytes).map(|voucher| {
                object! { "amount_msat" => Amount(voucher.amount), "key" => voucher.key.as_slice() }
            }),
            Item::Answer(query) if query == "voucher" => read::<Option<u64>>(bytes)
                .map(|amount| object! { "amount_msat" => amount.map(Amount) }),
            _ => Err(Refusal::new("bad-encoding", "there is nothing like that")),
        }
    }
}

fn read<T: BorshDeserialize>(bytes: &[u8]) -> Result<T, Refusal> {
    borsh::from_slice(bytes)
        .map_err(|_| Refusal::new("bad-encoding", "these bytes are none of this module's"))
}

fn write<T: BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("writing to memory does not fail")
}

// Guardians. Everything here must come out the same on each of them: it depends on the
// storage, on the item and on what has been agreed, and on nothing else.

/// What is under each key, millisatoshi.
const VOUCHERS: Table<[u8; 33], u64> = Table::new(b'v');
/// The sum of those.
const HELD: Cell<u64> = Cell::new(b'h');

parameters! {
    /// What is under a key.
    pub struct VoucherQuery {
        /// The key.
        key: [u8; 33],
    }
}

impl Server for Vouchers {
    type Input = Redemption;
    type Output = Voucher;
    type ConsensusItem = Nothing;

    fn process_output(voucher: Voucher, _: OutPoint) -> Result<OutputEffect, Refusal> {
        if VOUCHERS.contains(&voucher.key) {
            return Err(Refusal::new("key-used", "there is money under this key"));
        }
        let held = HELD.get().unwrap_or_default().checked_add(voucher.amount);
        HELD.put(&held.ok_or_else(|| Refusal::new("too-much", "there is not so much money"))?);
        VOUCHERS.put(&voucher.key, &voucher.amount);
        Ok(OutputEffect {
            value: voucher.amount,
            fee: 0,
        })
    }

    fn process_input(redemption: Redemption) -> Result<InputEffect, Refusal> {
        let amount = VOUCHERS.get(&redemption.key).ok_or_else(no_such)?;
        VOUCHERS.delete(&redemption.key);
        HELD.put(&(HELD.get().unwrap_or_default() - amount));
        Ok(InputEffect {
            value: amount,
            fee: 0,
            // The host checks that this key signed the transaction.
            spend_key: redemption.key.to_vec(),
        })
    }

    fn query(_: &str, arguments: Arguments) -> Result<Answer, Refusal> {
        let key = VoucherQuery::read(arguments)?.key;
        Ok(Answer::Ready(write(&VOUCHERS.get(&key))))
    }

    fn audit() -> Vec<AuditLine> {
        let held = i64::try_from(HELD.get().unwrap_or_default()).unwrap_or(i64::MAX);
        vec![AuditLine {
            name: "vouchers".into(),
            // Negative: the federation owes it.
            msat: -held,
        }]
    }
}

fn no_such() -> Refusal {
    Refusal::new(
        "no-such-voucher",
        "there is no money under this key, or it is taken",
    )
}

// Wallets: machines. Each call returns the next state and what to wait for, and the
// wallet makes both durable before it does anything, so that it can be killed anywhere.

/// How often a transaction is tried that was refused for somebody else's item: for e-cash
/// that the wallet added, mostly, of which it takes another note the next time.
const ATTEMPTS: u32 = 5;

parameters! {
    /// Locks money and shows a text; whoever has it takes the money.
    pub struct Create {
        /// How much.
        amount: Amount,
    }
}
parameters! {
    /// Takes the money that a voucher stands for.
    pub struct Redeem {
        /// The voucher, as `create` showed it.
        voucher: Vec<u8>,
    }
}

/// A voucher's text: 65 bytes, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Secret {
    key: [u8; 33],
    secret: [u8; 32],
}

/// A machine. Newer versions of the module read the states of older ones, so variants
/// are only ever added, at the end.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum State {
    /// Nothing is left to do.
    Over,
    /// A voucher is being paid.
    Creating {
        /// Where its key is among those of this wallet.
        number: u64,
        /// Millisatoshi.
        amount: u64,
        /// How often it has been tried, and the effect's id.
        attempt: u32,
    },
    /// Guardians are asked what a voucher is worth.
    Asking(Secret),
    /// It is being taken out.
    Redeeming {
        /// The voucher's.
        secret: Secret,
        /// Millisatoshi.
        amount: u64,
        /// As in `Creating`.
        attempt: u32,
    },
}

impl Client for Vouchers {
    type State = State;

    fn actions() -> Vec<Action> {
        vec![
            Create::action("create", Audience::Person),
            Redeem::action("redeem", Audience::Person),
        ]
    }

    fn start(action: &str, arguments: Arguments) -> Result<Transition<State>, Refusal> {
        match action {
            "create" => {
                // Drawn, not counted: a wallet that was restored from its words would begin
                // to count anew, and whoever had a voucher of a number before has its secret.
                let number = u64::from_be_bytes(wallet::random());
                Ok(create(number, Create::read(arguments)?.amount.0, 1))
            }
            "redeem" => {
                let secret: Secret = read(&Redeem::read(arguments)?.voucher)?;
                let query = VoucherQuery { key: secret.key };
                // What a threshold of guardians says alike is true.
                Ok(Transition::to(State::Asking(secret)).query(
                    0,
                    "voucher",
                    query.arguments(),
                    Agreement::Same,
                ))
            }
            _ => Err(Refusal::new("no-such-action", "there are: create, redeem")),
        }
    }

    fn advance(state: State, event: Event) -> Result<Transition<State>, Refusal> {
        let Event::Done(EffectDone { outcome, .. }) = event else {
            return Err(Refusal::new("on-its-way", "this takes a moment only"));
        };
        // Not for what this module made: it may go well with other notes.
        if let EffectResult::Rejected(rejection) = &outcome
            && rejection.is_elsewhere()
            && let Some(again) = again(&state)
        {
            return Ok(again);
        }
        Ok(match (state, outcome) {
            (State::Creating { number, .. }, EffectResult::Accepted(_)) => created(number),
            (State::Asking(secret), EffectResult::Answers(answers)) => {
                let answer = answers.first().and_then(|a| a.answer.as_deref().ok());
                match answer.and_then(|bytes| read::<Option<u64>>(bytes).ok()) {
                    Some(Some(amount)) => redeem(secret, amount, 1),
                    _ => Transition::failed(State::Over, no_such()),
                }
            }
            (State::Redeeming { amount, .. }, EffectResult::Accepted(_)) => {
                Transition::done(State::Over).progress(
                    "redeemed",
                    format!("{} taken in", Amount(amount)),
                    object! { "amount_msat" => Amount(amount) },
                )
            }
            (_, outcome) => Transition::failed(State::Over, refusal(outcome)),
        })
    }
}

/// The transaction once more, if it has not been tried too often.
fn again(state: &State) -> Option<Transition<State>> {
    let (attempt, again) = match state.clone() {
        State::Creating {
            number,
            amount,
            attempt,
        } => (attempt, create(number, amount, attempt + 1)),
        State::Redeeming {
            secret,
            amount,
            attempt,
        } => (attempt, redeem(secret, amount, attempt + 1)),
        _ => return None,
    };
    (attempt < ATTEMPTS).then_some(again)
}

fn create(number: u64, amount: u64, attempt: u32) -> Transition<State> {
    let voucher = Voucher {
        amount,
        key: wallet::derive_public_key(&[number]),
    };
    let quote = Quote {
        summary: format!("put {} into a voucher", Amount(amount)),
        fees: Vec::new(),
        expires: None,
    };
    let plan = Plan {
        inputs: Vec::new(),
        outputs: vec![PlannedOutput {
            output: write(&voucher),
            value: amount,
            fee: 0,
        }],
        // The person is asked before money leaves the balance, once: what was confirmed for
        // a transaction that was refused is not spent.
        confirm: (attempt == 1).then_some(quote),
    };
    let state = State::Creating {
        number,
        amount,
        attempt,
    };
    Transition::to(state).submit(attempt, plan)
}

fn created(number: u64) -> Transition<State> {
    let secret = Secret {
        key: wallet::derive_public_key(&[number]),
        secret: wallet::derive_secret(&[number]),
    };
    Transition::done(State::Over).progress(
        "created",
        "whoever has this text takes the money",
        object! { "voucher" => to_hex(&write(&secret)) },
    )
}

fn redeem(secret: Secret, amount: u64, attempt: u32) -> Transition<State> {
    let input = PlannedInput {
        input: write(&Redemption { key: secret.key }),
        value: amount,
        fee: 0,
        signer: Signer::Secret(secret.secret.to_vec()),
    };
    let plan = Plan {
        inputs: vec![input],
        // The wallet adds e-cash for what comes in.
        outputs: Vec::new(),
        confirm: None,
    };
    let state = State::Redeeming {
        secret,
        amount,
        attempt,
    };
    Transition::to(state).submit(attempt, plan)
}

fn refusal(outcome: EffectResult) -> Refusal {
    match outcome {
        EffectResult::Rejected(rejection) => rejection.refusal,
        EffectResult::Failed(refusal) => refusal,
        EffectResult::Declined => Refusal::new("declined", "nothing was paid"),
        _ => Refusal::new("unexpected-answer", "the host answered something else"),
    }
}
