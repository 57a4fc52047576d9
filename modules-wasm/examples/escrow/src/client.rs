//! What wallets do: make keys, open contracts, approve, and take the money.
//!
//! People hand each other three kinds of text, in hexadecimal: a key (66 characters),
//! a contract's id (64) and an approval (130).

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Action, Agreement, Amount, Arguments, Audience, Client, EffectDone, EffectResult, Event,
    FeeLine, Json, Plan, PlannedInput, PlannedOutput, Quote, Refusal, Signer, Transition,
    federation, object, parameters,
    storage::{Cell, Table},
    to_hex, wallet,
};

use crate::{
    Approval, Config, Contract, ContractId, ContractQuery, Escrow, Party, PublicKey, Release, read,
    server::{contract_id, may_take, no_such},
};

/// How many keys this wallet has made, and the number of each. A key is used in one
/// contract, so that nobody sees which contracts belong together.
const KEYS_MADE: Cell<u64> = Cell::new(b'n');
const KEYS: Table<PublicKey, u64> = Table::new(b'k');

/// A week of blocks.
const USUAL_BLOCKS: u32 = 1008;
/// How often a transaction is tried again that was refused for somebody else's item.
const ATTEMPTS: u32 = 5;
/// How many keys are looked for where no backup says how many there were.
const KEYS_WITHOUT_BACKUP: u64 = 100;
/// How many are looked for at most, whatever a backup says: each takes time, and a call has
/// 30 seconds.
const MOST_KEYS: u64 = 10_000;

parameters! {
    /// Shows a key of yours, to be the seller or the arbiter of a contract by.
    pub struct Key {}
}
parameters! {
    /// Opens a contract and pays into it, as its buyer.
    pub struct Open {
        /// How much.
        amount: Amount,
        /// The seller's key.
        seller: Vec<u8>,
        /// The arbiter's key.
        arbiter: Vec<u8>,
        /// After so many blocks you can take the money back alone.
        blocks: u32 = USUAL_BLOCKS,
    }
}
parameters! {
    /// Shows a contract that holds money, and who you are in it.
    pub struct Show {
        /// The contract's id.
        contract: Vec<u8>,
    }
}
parameters! {
    /// Approves that somebody takes the money.
    pub struct Approve {
        /// The contract's id.
        contract: Vec<u8>,
    }
}
parameters! {
    /// Takes the money out of a contract.
    pub struct Claim {
        /// The contract's id.
        contract: Vec<u8>,
        /// Who else approves; a buyer needs nobody after the timeout.
        approval: Option<Vec<u8>>,
    }
}

/// A machine. Newer versions of the module read the states of older ones, so
/// variants are only ever added, at the end.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum State {
    /// Has done all that it had to do.
    Over,
    /// A contract is being paid.
    Opening {
        /// Which.
        contract: Contract,
        /// How often it has been tried, and the effect's id.
        attempt: u32,
    },
    /// Guardians are asked for a contract.
    Asking {
        /// Which.
        id: ContractId,
        /// What for.
        purpose: Purpose,
    },
    /// Money is being taken out.
    Claiming {
        /// How.
        release: Release,
        /// How much it is, millisatoshi.
        amount: u64,
        /// The number of the key that signs.
        key: u64,
        /// How often it has been tried, and the effect's id.
        attempt: u32,
    },
}

/// What a contract is looked at for.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Purpose {
    /// To show it.
    Show,
    /// To approve that this party takes the money.
    Approve(Party),
    /// To take the money.
    Claim(Option<Approval>),
}

impl Client for Escrow {
    type State = State;

    fn actions() -> Vec<Action> {
        let approve = |name: &str, summary: &str| Action {
            summary: summary.into(),
            ..Approve::action(name, Audience::Person)
        };
        vec![
            Key::action("key", Audience::Person),
            Open::action("open", Audience::Person),
            Show::action("show", Audience::Person),
            approve(
                "release",
                "Approves that the seller takes the money: shows a text to give to them.",
            ),
            approve(
                "refund",
                "Approves that the buyer takes the money back: shows a text to give to them.",
            ),
            Claim::action("claim", Audience::Person),
        ]
    }

    fn start(action: &str, arguments: Arguments) -> Result<Transition<State>, Refusal> {
        match action {
            "key" => {
                let (_, key) = new_key();
                Ok(Transition::done(State::Over).progress(
                    "key",
                    "give this key to the buyer",
                    object! { "key" => key.as_slice() },
                ))
            }
            "open" => open(Open::read(arguments)?),
            "show" => ask(Show::read(arguments)?.contract, Purpose::Show),
            "release" | "refund" => {
                let to = if action == "release" {
                    Party::Seller
                } else {
                    Party::Buyer
                };
                ask(Approve::read(arguments)?.contract, Purpose::Approve(to))
            }
            "claim" => {
                let Claim { contract, approval } = Claim::read(arguments)?;
                let approval = approval.map(|bytes| read(&bytes)).transpose();
                let approval = approval.map_err(|_| {
                    Refusal::new(
                        "bad-argument",
                        "this is no approval: 65 bytes are expected, as `release` and `refund` \
                         show them",
                    )
                })?;
                ask(contract, Purpose::Claim(approval))
            }
            _ => Err(Refusal::new(
                "no-such-action",
                format!("there is no action {action:?}: key, open, show, release, refund, claim"),
            )),
        }
    }

    fn advance(state: State, event: Event) -> Result<Transition<State>, Refusal> {
        let Event::Done(EffectDone { outcome, .. }) = event else {
            return Err(Refusal::new("on-its-way", "this takes a moment only"));
        };
        match state {
            State::Over => Ok(Transition::done(State::Over)),
            State::Opening { contract, attempt } => Ok(opened(contract, attempt, outcome)),
            State::Asking { id, purpose } => Ok(answered(id, purpose, outcome)),
            State::Claiming {
                release,
                amount,
                key,
                attempt,
            } => Ok(claimed(release, amount, key, attempt, outcome)),
        }
    }

    // The keys come from the seed. To find them again takes knowing how many there are.

    fn backup() -> Vec<u8> {
        KEYS_MADE.get().unwrap_or_default().to_be_bytes().to_vec()
    }

    fn recover(backup: Option<Vec<u8>>) -> Result<Option<Transition<State>>, Refusal> {
        let made = match backup {
            None => KEYS_WITHOUT_BACKUP,
            Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| {
                Refusal::new("bad-backup", "a backup of this module is 8 bytes long")
            })?),
        };
        while KEYS_MADE.get().unwrap_or_default() < made.min(MOST_KEYS) {
            new_key();
        }
        Ok(None)
    }
}

// Keys.

fn path(number: u64) -> Vec<u64> {
    vec![number]
}

/// A key that has never been used, and its number.
fn new_key() -> (u64, PublicKey) {
    let number = KEYS_MADE.get().unwrap_or_default();
    let key = wallet::derive_public_key(&path(number));
    KEYS_MADE.put(&(number + 1));
    KEYS.put(&key, &number);
    (number, key)
}

/// Who this wallet is in a contract, and by which of its keys.
fn own_parties(contract: &Contract) -> Vec<(Party, u64)> {
    let own = |party: Party| Some((party, KEYS.get(contract.key(party))?));
    Party::ALL.into_iter().filter_map(own).collect()
}

fn public_key(whose: &str, bytes: Vec<u8>) -> Result<PublicKey, Refusal> {
    let parity = bytes.first().copied().unwrap_or_default();
    match PublicKey::try_from(bytes) {
        Ok(key) if matches!(parity, 2 | 3) => Ok(key),
        _ => Err(Refusal::new(
            "bad-argument",
            format!("the {whose}'s key is none: 33 bytes are expected, as `key` shows them"),
        )),
    }
}

// Opening.

fn open(open: Open) -> Result<Transition<State>, Refusal> {
    let height = federation::block_height();
    let timeout = height
        .checked_add(open.blocks)
        .filter(|timeout| *timeout > height);
    let timeout = timeout.ok_or_else(|| {
        let most = u32::MAX - height;
        let message = format!(
            "{} blocks are no timeout: 1 to {most} are expected",
            open.blocks
        );
        Refusal::new("bad-argument", message)
    })?;
    let contract = Contract {
        amount: open.amount.0,
        buyer: new_key().1,
        seller: public_key("seller", open.seller)?,
        arbiter: public_key("arbiter", open.arbiter)?,
        timeout,
    };
    Ok(pay(contract, 1))
}

fn pay(contract: Contract, attempt: u32) -> Transition<State> {
    let fee = federation::config::<Config>().fee;
    let output = PlannedOutput {
        output: borsh::to_vec(&contract).expect("writing to memory does not fail"),
        value: contract.amount,
        fee,
    };
    let quote = Quote {
        summary: format!("lock {} until two of three agree", Amount(contract.amount)),
        fees: vec![FeeLine {
            name: "escrow".into(),
            amount: fee,
        }],
        expires: None,
    };
    let plan = Plan {
        inputs: Vec::new(),
        outputs: vec![output],
        // What was confirmed for a try that was refused is not spent.
        confirm: (attempt == 1).then_some(quote),
    };
    Transition::to(State::Opening { contract, attempt }).submit(attempt, plan)
}

fn opened(contract: Contract, attempt: u32, outcome: EffectResult) -> Transition<State> {
    match outcome {
        EffectResult::Accepted(_) => {
            let shown = details(&contract);
            Transition::done(State::Over).progress(
                "open",
                format!(
                    "{} locked until block {}; give the contract's id to seller and arbiter",
                    Amount(contract.amount),
                    contract.timeout
                ),
                shown,
            )
        }
        EffectResult::Rejected(rejection) if rejection.is_elsewhere() && attempt < ATTEMPTS => {
            pay(contract, attempt + 1)
        }
        outcome => failed(outcome),
    }
}

// Looking at a contract, whatever for.

fn ask(contract: Vec<u8>, purpose: Purpose) -> Result<Transition<State>, Refusal> {
    let id = contract_id(contract)?;
    let query = ContractQuery { id };
    // What a threshold of guardians says alike is true. The effect's id is one that no
    // transaction of this machine has: an id that is named again goes on as it was.
    Ok(Transition::to(State::Asking { id, purpose }).query(
        0,
        "contract",
        query.arguments(),
        Agreement::Same,
    ))
}

fn answered(id: ContractId, purpose: Purpose, outcome: EffectResult) -> Transition<State> {
    let answer = match outcome {
        EffectResult::Answers(answers) => answers.into_iter().next().map(|first| first.answer),
        outcome => return failed(outcome),
    };
    let found = match answer {
        Some(Ok(bytes)) => read::<Option<Contract>>(&bytes).ok().flatten(),
        Some(Err(refusal)) => return Transition::failed(State::Over, refusal),
        None => None,
    };
    let Some(contract) = found.filter(|contract| contract.id() == id) else {
        return Transition::failed(State::Over, no_such());
    };
    match purpose {
        Purpose::Show => {
            let message = format!(
                "{} until block {}; the agreed height is {}",
                Amount(contract.amount),
                contract.timeout,
                federation::block_height()
            );
            Transition::done(State::Over).progress("shown", message, details(&contract))
        }
        Purpose::Approve(to) => approve(&contract, to),
        Purpose::Claim(approval) => claim(&contract, approval),
    }
}

fn approve(contract: &Contract, to: Party) -> Transition<State> {
    let own = own_parties(contract);
    let Some((by, key)) = own.into_iter().find(|(party, _)| *party != to) else {
        return Transition::failed(
            State::Over,
            Refusal::new(
                "not-yours",
                format!(
                    "one of the others approves that the {} takes the money, and none of them is \
                     this wallet",
                    to.name()
                ),
            ),
        );
    };
    let message = Contract::approves(&contract.id(), to);
    let approval = Approval {
        by,
        signature: wallet::sign_schnorr(&path(key), None, &message),
    };
    let text = to_hex(&borsh::to_vec(&approval).expect("writing to memory does not fail"));
    Transition::done(State::Over).progress(
        "approved",
        format!(
            "the {} can take {} with this approval",
            to.name(),
            Amount(contract.amount)
        ),
        object! { "contract" => contract.id().as_slice(), "to" => to.name(), "approval" => text },
    )
}

// Taking the money.

fn claim(contract: &Contract, approval: Option<Approval>) -> Transition<State> {
    let own = own_parties(contract);
    // Whoever approves is not the receiver, also where one wallet is both parties.
    let approver = approval.as_ref().map(|approval| approval.by);
    let receiver = own
        .into_iter()
        .find(|(party, _)| *party != Party::Arbiter && Some(*party) != approver);
    match receiver {
        Some((to, key)) => {
            let release = Release {
                contract: contract.id(),
                to,
                approval,
            };
            // Guardians decide, by this very function. Asked here first, because a
            // transaction that they refuse for now stays on its way for an hour.
            match may_take(contract, &release) {
                Ok(()) => take(release, contract.amount, key, 1),
                Err(refusal) => Transition::failed(State::Over, refusal),
            }
        }
        None => Transition::failed(
            State::Over,
            Refusal::new(
                "not-yours",
                "this wallet is not the one that could take the money",
            ),
        ),
    }
}

fn take(release: Release, amount: u64, key: u64, attempt: u32) -> Transition<State> {
    let input = PlannedInput {
        input: borsh::to_vec(&release).expect("writing to memory does not fail"),
        value: amount,
        fee: 0,
        signer: Signer::Path(path(key)),
    };
    let plan = Plan {
        inputs: vec![input],
        outputs: Vec::new(),
        // Takes nothing from the balance, so nobody need be asked.
        confirm: None,
    };
    let state = State::Claiming {
        release,
        amount,
        key,
        attempt,
    };
    Transition::to(state).submit(attempt, plan)
}

fn claimed(
    release: Release,
    amount: u64,
    key: u64,
    attempt: u32,
    outcome: EffectResult,
) -> Transition<State> {
    match outcome {
        EffectResult::Accepted(_) => Transition::done(State::Over).progress(
            "claimed",
            format!("{} taken in as {}", Amount(amount), release.to.name()),
            object! { "contract" => release.contract.as_slice(), "amount_msat" => Amount(amount) },
        ),
        EffectResult::Rejected(rejection) if rejection.is_elsewhere() && attempt < ATTEMPTS => {
            take(release, amount, key, attempt + 1)
        }
        outcome => failed(outcome),
    }
}

/// What was wanted cannot be had.
fn failed(outcome: EffectResult) -> Transition<State> {
    let refusal = match outcome {
        EffectResult::Rejected(rejection) => rejection.refusal,
        EffectResult::Failed(refusal) => refusal,
        EffectResult::Declined => Refusal::new("declined", "nothing was paid"),
        _ => Refusal::new("unexpected-answer", "the host answered something else"),
    };
    Transition::failed(State::Over, refusal)
}

/// A contract, for people.
fn details(contract: &Contract) -> Json {
    let you: Vec<_> = own_parties(contract)
        .into_iter()
        .map(|(party, _)| party.name())
        .collect();
    object! {
        "contract" => contract.id().as_slice(),
        "amount_msat" => Amount(contract.amount),
        "timeout_height" => contract.timeout,
        "you_are" => you.join(", "),
        "seller" => contract.seller.as_slice(),
        "arbiter" => contract.arbiter.as_slice(),
    }
}
