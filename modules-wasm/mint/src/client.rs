//! What wallets do with e-cash: hand it out as text, take it in, take it back,
//! exchange it, and make other modules' transactions even.
//!
//! A note is in one place at a time: in stock, in the state of the machine that
//! spends it, or in a text. Machines that spend notes return them when their
//! transaction is refused.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Acceptance, Action, Agreement, Amount, Arguments, Audience, Client, Completion, Ecash,
    EffectDone, EffectResult, Event, PeerOutcomes, Plan, PlannedInput, Quote, Refusal, Rejection,
    Transition, federation, object, parameters, wallet,
};

use crate::{
    Issuance, IssuedQuery, Mint, MintConfig, Notes, Spent, SpentQuery, TextNote,
    notes::{Fresh, Issued, OwnNote, Stock},
    selection::{self, Counts, MOST_INPUTS, MOST_SENT, NONE, TARGET},
    value,
};

/// How often a transaction is tried again that was refused for an accident:
/// blinding that somebody signed first, or another machine's item.
const ATTEMPTS: u32 = 5;
/// A week: notes that nobody has taken by then come back.
const RECLAIM_SECONDS: u64 = 7 * 24 * 3600;
/// The effect that tidies up; fetching was the first.
const TIDY: u32 = 2;
/// When guardians are asked again that could not be.
const LATER_SECONDS: u64 = 60;

parameters! {
    /// Hands out e-cash as text; whoever enters the text first has it.
    pub struct Send {
        /// How much.
        amount: Amount,
        /// After how many seconds the notes come back if nobody has taken them.
        reclaim_after: u64 = RECLAIM_SECONDS,
        /// Put the federation's invite beside the notes, for a receiver who has not joined.
        invite: bool,
    }
}
parameters! {
    /// Takes in e-cash that somebody has handed out as text.
    pub struct Receive {
        /// The text.
        notes: String,
    }
}
parameters! {
    /// Takes back what nobody has taken in of e-cash that was handed out.
    pub struct Cancel {
        /// The text.
        notes: String,
    }
}
parameters! {
    /// Exchanges a large note for smaller ones, so that amounts can be paid exactly.
    pub struct Split {}
}
parameters! {
    /// Exchanges many small notes for few large ones.
    pub struct Consolidate {}
}

/// What is to be handed out.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Order {
    amount: u64,
    reclaim_after: u64,
    invite: bool,
}

/// Why notes that are text are spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Purpose {
    /// Somebody handed them to us.
    Receive,
    /// We handed them out, and want them back.
    Reclaim,
}

/// A machine. Effects have ids that are counted up, since one that is named again
/// goes on undisturbed.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum State {
    /// Made by `complete`: waits for the transaction.
    Balancing {
        /// The notes that it spends.
        spent: Vec<OwnNote>,
        /// The notes that it asks for.
        change: Vec<Fresh>,
    },
    /// Fetches notes into the stock.
    Fetching {
        /// Which.
        issued: Issued,
    },
    /// Exchanges for exactly the notes to be handed out.
    Issuing {
        /// What is to be handed out.
        order: Order,
        /// The notes asked for.
        fresh: Vec<Fresh>,
        /// The submission, and how often it was tried.
        effect: u32,
    },
    /// Fetches the notes to be handed out.
    Collecting {
        /// What is to be handed out.
        order: Order,
        /// Which.
        issued: Issued,
        /// The last effect.
        effect: u32,
    },
    /// The notes are out; waits until they come back.
    Out {
        /// Which.
        notes: Vec<TextNote>,
        /// The last effect.
        effect: u32,
    },
    /// Asks which of the notes have been taken.
    Checking {
        /// Which.
        notes: Vec<TextNote>,
        /// The last effect.
        effect: u32,
        /// How often they were tried to be taken back.
        attempts: u32,
    },
    /// Spends notes that are text.
    Redeeming {
        /// Which.
        notes: Vec<TextNote>,
        /// Whose they were.
        purpose: Purpose,
        /// The last effect.
        effect: u32,
        /// How often it was tried.
        attempts: u32,
    },
    /// Exchanges notes of the stock.
    Exchanging {
        /// Which.
        notes: Vec<OwnNote>,
        /// The submission, and how often it was tried.
        effect: u32,
    },
    /// Looks for this wallet's notes among all that were issued.
    Searching {
        /// How far it is.
        search: Search,
    },
    /// Asks which of the notes that were found have been spent.
    Sifting {
        /// How far it is.
        search: Search,
        /// Which.
        found: Issued,
    },
    /// Fetches the notes that are left into the stock.
    Restoring {
        /// How far it is.
        search: Search,
        /// Which.
        found: Issued,
    },
    /// As `Balancing`, for what only brings money and costs nothing.
    Bringing {
        /// The notes that it asks for.
        change: Vec<Fresh>,
    },
    /// As `Fetching`, and tidies up behind it.
    Gathering {
        /// Which.
        issued: Issued,
    },
    /// Exchanges notes of which there are many, behind the fetching of others.
    Tidying {
        /// Which.
        notes: Vec<OwnNote>,
    },
}

/// The search for a wallet's money.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Search {
    /// The last output looked at, as [`IssuedQuery`] wants it.
    after: Option<Vec<u8>>,
    /// Found and not spent, millisatoshi.
    restored: u64,
    /// The last effect.
    effect: u32,
}

type Step = Transition<State>;

fn note_fee() -> u64 {
    federation::config::<MintConfig>().note_fee
}

impl Client for Mint {
    type State = State;

    fn actions() -> Vec<Action> {
        vec![
            Send::action("send", Audience::Person),
            Receive::action("receive", Audience::Person),
            Cancel::action("cancel", Audience::Person),
            Split::action("split", Audience::Person),
            Consolidate::action("consolidate", Audience::Person),
        ]
    }

    fn start(action: &str, arguments: Arguments) -> Result<Step, Refusal> {
        match action {
            "send" => send(Send::read(arguments)?),
            "receive" => receive(&Receive::read(arguments)?.notes),
            "cancel" => {
                let notes = read_notes(&Cancel::read(arguments)?.notes)?;
                Ok(check(notes, 1, 0))
            }
            "split" => split(),
            "consolidate" => consolidate(),
            _ => Err(Refusal::new(
                "no-such-action",
                format!(
                    "the mint module has no action {action:?}: send, receive, cancel, split, \
                     consolidate"
                ),
            )),
        }
    }

    fn advance(state: State, event: Event) -> Result<Step, Refusal> {
        let outcome = match event {
            Event::Done(EffectDone { outcome, .. }) => outcome,
            Event::Cancel => return cancel(state),
        };
        Ok(match state {
            State::Balancing { spent, change } => balanced(spent, change, outcome),
            State::Fetching { issued } => fetched(issued, &outcome),
            State::Bringing { change } => brought(change, outcome),
            State::Gathering { issued } => gathered(issued, &outcome),
            State::Issuing {
                order,
                fresh,
                effect,
            } => issued(order, fresh, effect, outcome),
            State::Collecting {
                order,
                issued,
                effect,
            } => collected(order, issued, effect, outcome),
            State::Out { notes, effect } => check(notes, effect + 1, 0),
            State::Checking {
                notes,
                effect,
                attempts,
            } => checked(notes, effect, attempts, outcome),
            State::Redeeming {
                notes,
                purpose,
                effect,
                attempts,
            } => redeemed(notes, purpose, effect, attempts, outcome),
            State::Exchanging { notes, effect } => exchanged(notes, effect, outcome),
            State::Tidying { notes } => tidied(notes, &outcome),
            State::Searching { search } => searched(search, outcome),
            State::Sifting { search, found } => sifted(search, found, outcome),
            State::Restoring { search, found } => restored(search, found, &outcome),
        })
    }

    fn recover(_backup: Option<Vec<u8>>) -> Result<Option<Step>, Refusal> {
        Ok(Some(search(Search::default())))
    }

    /// From version 1, which did not keep how many notes there are.
    fn migrate(from: u32, _cursor: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Refusal> {
        if from != 1 {
            return Err(Refusal::new(
                "no-migration",
                format!("this bundle reads storage of versions 1 and 2, not of {from}"),
            ));
        }
        Stock::count();
        Ok(None)
    }
}

impl Ecash for Mint {
    fn balance() -> u64 {
        selection::total(&Stock::load().counts())
    }

    fn complete(brought: u64, wanted: u64) -> Result<Completion, Refusal> {
        let fee = note_fee();
        let stock = Stock::load();
        let mut left = stock.counts();
        let chosen = match wanted.saturating_sub(brought) {
            0 => NONE,
            need => selection::cover(&left, need, fee, MOST_INPUTS)
                .ok_or_else(|| short(&left, need, fee))?,
        };
        subtract(&mut left, &chosen);
        let spent = stock.take(&chosen);
        let planned: Vec<PlannedInput> = spent.iter().map(|note| note.input(fee)).collect();
        let brought = planned
            .iter()
            .try_fold(brought, |sum, input| sum.checked_add(input.value - fee));
        let over = brought
            .and_then(|brought| brought.checked_sub(wanted))
            .ok_or_else(|| Refusal::new("too-much-money", "more than there can ever be"))?;
        let change = Fresh::draw(&selection::change(&left, over, fee));
        let outputs = Fresh::outputs(&change, fee);
        // With a base fee there is something to pay in each transaction.
        let machine = match wanted {
            0 => State::Bringing { change },
            _ => State::Balancing { spent, change },
        };
        Ok(Completion {
            inputs: planned,
            outputs,
            machine: borsh::to_vec(&machine).expect("writing to memory does not fail"),
        })
    }
}

fn subtract(counts: &mut Counts, taken: &Counts) {
    for (count, taken) in counts.iter_mut().zip(taken) {
        *count -= taken;
    }
}

/// Why so much cannot be had.
fn short(stock: &Counts, need: u64, fee: u64) -> Refusal {
    let balance = Amount(selection::total(stock));
    if selection::cover(stock, need, fee, u32::MAX).is_some() {
        return Refusal::new(
            "too-many-notes",
            format!(
                "{} takes more than {MOST_INPUTS} notes; `consolidate` makes larger ones of them",
                Amount(need)
            ),
        );
    }
    Refusal::new(
        "not-enough-money",
        format!("{} are needed and {balance} are there", Amount(need)),
    )
}

// Completing: the machine beside somebody's plan.

fn balanced(spent: Vec<OwnNote>, change: Vec<Fresh>, outcome: EffectResult) -> Step {
    match outcome {
        EffectResult::Accepted(Acceptance { txid, outputs }) => {
            fetch(Issued::new(&txid, &outputs, change), |issued| {
                State::Fetching { issued }
            })
        }
        outcome => {
            put_back(&spent, &outcome);
            Transition::done(State::Balancing { spent, change })
        }
    }
}

fn brought(change: Vec<Fresh>, outcome: EffectResult) -> Step {
    match outcome {
        EffectResult::Accepted(Acceptance { txid, outputs }) => {
            fetch(Issued::new(&txid, &outputs, change), |issued| {
                State::Gathering { issued }
            })
        }
        _ => Transition::done(State::Bringing { change }),
    }
}

/// The notes of a refused transaction come back, but for one that guardians say
/// is spent or bad.
fn put_back(notes: &[OwnNote], outcome: &EffectResult) {
    let lost = match outcome {
        EffectResult::Rejected(Rejection {
            refusal,
            input: Some(place),
            ..
        }) if ["note-spent", "bad-note"].contains(&refusal.code.as_str()) => Some(*place),
        _ => None,
    };
    let kept = |(place, note): (usize, _)| (Some(place as u16) != lost).then_some(note);
    Stock::put(notes.iter().enumerate().filter_map(kept));
}

fn fetch(issued: Issued, state: impl FnOnce(Issued) -> State) -> Step {
    let out_points = issued.out_points();
    let state = state(issued);
    if out_points.is_empty() {
        return Transition::done(state);
    }
    Transition::to(state).outcomes(1, out_points, Agreement::Each)
}

fn fetched(issued: Issued, outcome: &EffectResult) -> Step {
    let state = |issued| State::Fetching { issued };
    match take_in(&issued, outcome) {
        true => Transition::done(state(issued)),
        false => fetch(issued, state),
    }
}

fn gathered(issued: Issued, outcome: &EffectResult) -> Step {
    let state = |issued| State::Gathering { issued };
    match take_in(&issued, outcome) {
        true => tidy().unwrap_or_else(|| Transition::done(state(issued))),
        false => fetch(issued, state),
    }
}

/// Puts the notes into the stock; false if the shares do not make them.
fn take_in(issued: &Issued, outcome: &EffectResult) -> bool {
    let notes = issued.unblind(shares(outcome));
    notes.as_deref().map(Stock::put).is_some()
}

/// Notes of which there are many become fewer and larger ones, while that costs nothing:
/// each time there are fewer afterwards, so it comes to an end. In a transaction of their
/// own: beside money that comes in they would be bound to it until it expires if that was
/// spent or was never signed.
fn tidy() -> Option<Step> {
    let fee = note_fee();
    let stock = Stock::load();
    let mut left = stock.counts();
    let crowd = selection::crowded(&left, MOST_INPUTS);
    subtract(&mut left, &crowd);
    let made = selection::change(&left, selection::brings(&crowd, fee), fee);
    if fee > 0 || selection::number(&made) >= selection::number(&crowd) {
        return None;
    }
    let notes = stock.take(&crowd);
    let plan = even(&notes);
    Some(Transition::to(State::Tidying { notes }).submit(TIDY, plan))
}

/// Whatever comes of it, the operation that it is behind is over.
fn tidied(notes: Vec<OwnNote>, outcome: &EffectResult) -> Step {
    if !matches!(outcome, EffectResult::Accepted(_)) {
        put_back(&notes, outcome);
    }
    Transition::done(State::Tidying { notes })
}

fn shares(outcome: &EffectResult) -> &[PeerOutcomes] {
    match outcome {
        EffectResult::Outcomes(answers) => answers,
        _ => &[],
    }
}

// Handing out.

fn send(send: Send) -> Result<Step, Refusal> {
    let order = Order {
        amount: send.amount.0,
        reclaim_after: send.reclaim_after,
        invite: send.invite,
    };
    if order.amount == 0 {
        return Err(Refusal::new(
            "bad-argument",
            "nothing is no amount to send; 1 msat is the least",
        ));
    }
    let stock = Stock::load();
    if let Some(chosen) = selection::exact(&stock.counts(), order.amount, MOST_SENT) {
        return Ok(out(&order, &stock.take(&chosen), 0));
    }
    let quote = Quote {
        summary: format!("hand out {} as e-cash", send.amount),
        fees: Vec::new(),
        expires: None,
    };
    issue(order, 1, Some(quote))
}

/// Exchanges for exactly the notes that are wanted.
fn issue(order: Order, effect: u32, confirm: Option<Quote>) -> Result<Step, Refusal> {
    let fee = note_fee();
    let counts = selection::represent(order.amount, fee, MOST_SENT).ok_or_else(|| {
        let least = selection::exponents().find(|e| selection::net(*e, fee).is_some());
        let least = least.and_then(value).unwrap_or_default();
        Refusal::new(
            "no-such-notes",
            format!(
                "{} cannot be made of at most {MOST_SENT} notes that are worth more than they \
                 cost; multiples of {} up to {} can",
                Amount(order.amount),
                Amount(least),
                Amount((1 << 42) - least),
            ),
        )
    })?;
    let fresh = Fresh::draw(&counts);
    let plan = Plan {
        inputs: Vec::new(),
        outputs: Fresh::outputs(&fresh, fee),
        confirm,
    };
    let state = State::Issuing {
        order,
        fresh,
        effect,
    };
    Ok(Transition::to(state).submit(effect, plan))
}

fn issued(order: Order, fresh: Vec<Fresh>, effect: u32, outcome: EffectResult) -> Step {
    let ends = |order, refusal| {
        let state = State::Issuing {
            order,
            fresh: Vec::new(),
            effect,
        };
        Transition::failed(state, refusal)
    };
    match outcome {
        EffectResult::Accepted(Acceptance { txid, outputs }) => {
            collect(order, Issued::new(&txid, &outputs, fresh), effect + 1)
        }
        EffectResult::Rejected(rejection) if is_accident(&rejection) && effect < ATTEMPTS => {
            match issue(order.clone(), effect + 1, None) {
                Ok(step) => step,
                Err(refusal) => ends(order, refusal),
            }
        }
        outcome => ends(order, failure(outcome)),
    }
}

fn collect(order: Order, issued: Issued, effect: u32) -> Step {
    let out_points = issued.out_points();
    let state = State::Collecting {
        order,
        issued,
        effect,
    };
    Transition::to(state).outcomes(effect, out_points, Agreement::Each)
}

fn collected(order: Order, issued: Issued, effect: u32, outcome: EffectResult) -> Step {
    match issued.unblind(shares(&outcome)) {
        Some(notes) => out(&order, &notes, effect),
        None => collect(order, issued, effect),
    }
}

/// The notes leave the wallet.
fn out(order: &Order, notes: &[OwnNote], effect: u32) -> Step {
    let notes: Vec<_> = notes.iter().map(OwnNote::to_text).collect();
    let reclaim_at = wallet::unix_time().saturating_add(order.reclaim_after);
    let text = Notes {
        federation: federation::id(),
        invite: order.invite.then(wallet::invite),
        notes: notes.clone(),
    }
    .encode();
    let state = State::Out {
        notes,
        effect: effect + 1,
    };
    Transition::to(state)
        .until(effect + 1, reclaim_at)
        .progress(
            "sent",
            format!(
                "{} handed out; what nobody has taken comes back by itself",
                Amount(order.amount)
            ),
            object! {
                "amount_msat" => Amount(order.amount),
                "notes" => text,
                "reclaim_at" => reclaim_at,
            },
        )
}

// Taking in, taking back.

fn read_notes(text: &str) -> Result<Vec<TextNote>, Refusal> {
    let notes = Notes::decode(text)?;
    let ours = federation::id();
    if notes.federation != ours {
        return Err(Refusal::new(
            "wrong-federation",
            format!(
                "these notes are of the federation {}, this wallet is of {}",
                modmint_sdk::to_hex(&notes.federation),
                modmint_sdk::to_hex(&ours),
            ),
        ));
    }
    Ok(notes.notes)
}

fn worth(notes: &[TextNote]) -> Amount {
    Amount(notes.iter().filter_map(|note| value(note.exponent)).sum())
}

fn receive(text: &str) -> Result<Step, Refusal> {
    let fee = note_fee();
    let notes: Vec<_> = read_notes(text)?
        .into_iter()
        .filter(|note| selection::net(note.exponent, fee).is_some())
        .collect();
    if notes.is_empty() {
        return Err(Refusal::new(
            "too-little",
            format!(
                "spending each of these notes costs {}, more than it is worth",
                Amount(fee)
            ),
        ));
    }
    Ok(redeem(notes, Purpose::Receive, 1, 0))
}

fn redeem(notes: Vec<TextNote>, purpose: Purpose, effect: u32, attempts: u32) -> Step {
    let fee = note_fee();
    let plan = Plan {
        inputs: notes.iter().map(|note| note.input(fee)).collect(),
        outputs: Vec::new(),
        confirm: None,
    };
    let state = State::Redeeming {
        notes,
        purpose,
        effect,
        attempts,
    };
    Transition::to(state).submit(effect, plan)
}

fn redeemed(
    notes: Vec<TextNote>,
    purpose: Purpose,
    effect: u32,
    attempts: u32,
    outcome: EffectResult,
) -> Step {
    let amount = worth(&notes);
    let ends = |notes| State::Redeeming {
        notes,
        purpose,
        effect,
        attempts,
    };
    match (outcome, purpose) {
        (EffectResult::Accepted(_), Purpose::Receive) => Transition::done(ends(notes)).progress(
            "received",
            format!("{amount} taken in"),
            object! { "amount_msat" => amount },
        ),
        (EffectResult::Accepted(_), Purpose::Reclaim) => Transition::done(ends(notes)).progress(
            "reclaimed",
            format!("{amount} taken back"),
            object! { "amount_msat" => amount },
        ),
        (EffectResult::Rejected(rejection), Purpose::Receive)
            if rejection.is_elsewhere() && attempts < ATTEMPTS =>
        {
            redeem(notes, purpose, effect + 1, attempts + 1)
        }
        // The receiver was quicker with some of them.
        (EffectResult::Rejected(_), Purpose::Reclaim) if attempts < ATTEMPTS => {
            check(notes, effect + 1, attempts + 1)
        }
        (outcome, _) => Transition::failed(ends(notes), failure(outcome)),
    }
}

/// Asks which notes are still ours to take back.
fn check(notes: Vec<TextNote>, effect: u32, attempts: u32) -> Step {
    let query = SpentQuery {
        nonces: notes.iter().flat_map(|note| note.nonce).collect(),
    };
    let state = State::Checking {
        notes,
        effect,
        attempts,
    };
    Transition::to(state).query(effect, "spent", query.arguments(), Agreement::Same)
}

fn checked(notes: Vec<TextNote>, effect: u32, attempts: u32, outcome: EffectResult) -> Step {
    let spent = read_answer(&outcome).filter(|spent: &Spent| spent.len() == notes.len());
    let Some(spent) = spent else {
        let later = wallet::unix_time().saturating_add(LATER_SECONDS);
        let state = State::Out {
            notes,
            effect: effect + 1,
        };
        return Transition::to(state).until(effect + 1, later);
    };
    let fee = note_fee();
    let (mut left, mut taken) = (Vec::new(), Vec::new());
    for (note, spent) in notes.into_iter().zip(spent) {
        if spent {
            taken.push(note);
        } else if selection::net(note.exponent, fee).is_some() {
            left.push(note);
        }
    }
    if left.is_empty() {
        let amount = worth(&taken);
        let state = State::Checking {
            notes: taken,
            effect,
            attempts,
        };
        return Transition::done(state).progress(
            "taken",
            format!("the receiver has taken {amount}; there is nothing left to take back"),
            object! { "amount_msat" => amount },
        );
    }
    redeem(left, Purpose::Reclaim, effect + 1, attempts)
}

/// What a threshold of guardians has answered.
fn read_answer<T: BorshDeserialize>(outcome: &EffectResult) -> Option<T> {
    let EffectResult::Answers(answers) = outcome else {
        return None;
    };
    let bytes = answers.first()?.answer.as_ref().ok()?;
    borsh::from_slice(bytes).ok()
}

fn cancel(state: State) -> Result<Step, Refusal> {
    match state {
        State::Out { notes, effect } => Ok(check(notes, effect + 1, 0)),
        _ => Err(Refusal::new(
            "too-late",
            "a transaction is on its way, and cannot be called back; it is decided in a moment",
        )),
    }
}

// Exchanging.

fn split() -> Result<Step, Refusal> {
    let fee = note_fee();
    let stock = Stock::load();
    let counts = stock.counts();
    let lacking = selection::exponents()
        .filter(|e| *e >= selection::SMALLEST_TARGETED && selection::net(*e, fee).is_some())
        .find(|e| counts[usize::from(*e)] < TARGET);
    let largest = selection::exponents()
        .rev()
        .find(|e| counts[usize::from(*e)] > 0);
    match (lacking, largest) {
        (Some(lacking), Some(largest)) if lacking < largest => {
            let mut chosen = NONE;
            chosen[usize::from(largest)] = 1;
            Ok(exchange(stock.take(&chosen), 1))
        }
        _ => Err(Refusal::new(
            "nothing-to-split",
            format!("there are {TARGET} notes of each denomination below the largest one"),
        )),
    }
}

fn consolidate() -> Result<Step, Refusal> {
    let fee = note_fee();
    let stock = Stock::load();
    let mut left = stock.counts();
    let chosen = selection::beyond_target(&left, fee, MOST_SENT);
    subtract(&mut left, &chosen);
    let made = selection::change(&left, selection::brings(&chosen, fee), fee);
    if selection::number(&made) >= selection::number(&chosen) {
        return Err(Refusal::new(
            "nothing-to-consolidate",
            "the notes that there are could not be made fewer",
        ));
    }
    Ok(exchange(stock.take(&chosen), 1))
}

fn exchange(notes: Vec<OwnNote>, effect: u32) -> Step {
    let plan = even(&notes);
    Transition::to(State::Exchanging { notes, effect }).submit(effect, plan)
}

/// Notes for others of the same worth, which `complete` adds.
fn even(notes: &[OwnNote]) -> Plan {
    let fee = note_fee();
    Plan {
        inputs: notes.iter().map(|note| note.input(fee)).collect(),
        outputs: Vec::new(),
        confirm: None,
    }
}

fn exchanged(notes: Vec<OwnNote>, effect: u32, outcome: EffectResult) -> Step {
    match outcome {
        EffectResult::Accepted(_) => {
            let number = notes.len();
            Transition::done(State::Exchanging { notes, effect }).progress(
                "exchanged",
                format!("{number} notes exchanged"),
                object! { "notes" => number },
            )
        }
        EffectResult::Rejected(rejection) if rejection.is_elsewhere() && effect < ATTEMPTS => {
            exchange(notes, effect + 1)
        }
        outcome => {
            put_back(&notes, &outcome);
            let refusal = failure(outcome);
            let state = State::Exchanging {
                notes: Vec::new(),
                effect,
            };
            Transition::failed(state, refusal)
        }
    }
}

// Finding it all again, with nothing but the seed.

/// Asks for the next notes that were issued, whosoever they are.
fn search(mut search: Search) -> Step {
    search.effect += 1;
    let query = IssuedQuery {
        after: search.after.clone(),
    };
    let (effect, found) = (search.effect, Amount(search.restored));
    Transition::to(State::Searching { search })
        .query(effect, "issued", query.arguments(), Agreement::Same)
        .progress(
            "recovering",
            format!("looking for notes of this seed; {found} found"),
            object! { "amount_msat" => found },
        )
}

/// Guardians cannot be asked: again in a while.
fn later(mut search: Search, state: impl FnOnce(Search) -> State) -> Step {
    search.effect += 1;
    let effect = search.effect;
    let time = wallet::unix_time().saturating_add(LATER_SECONDS);
    Transition::to(state(search)).until(effect, time)
}

fn searched(mut searching: Search, outcome: EffectResult) -> Step {
    let page: Vec<Issuance> = match read_answer(&outcome) {
        Some(page) => page,
        None if outcome == EffectResult::TimeReached => return search(searching),
        None => return later(searching, |search| State::Searching { search }),
    };
    let Some(last) = page.last() else {
        let amount = Amount(searching.restored);
        return Transition::done(State::Searching { search: searching }).progress(
            "recovered",
            format!("{amount} found again"),
            object! { "amount_msat" => amount },
        );
    };
    searching.after = Some([&last.txid[..], &last.index.to_be_bytes()].concat());
    let found = Issued::recognised(&page);
    if found.notes.is_empty() {
        return search(searching);
    }
    sift(searching, found)
}

/// Asks which of the notes have been spent.
fn sift(mut search: Search, found: Issued) -> Step {
    search.effect += 1;
    let effect = search.effect;
    let query = SpentQuery {
        nonces: found.notes.iter().flat_map(|(_, _, n)| n.nonce).collect(),
    };
    Transition::to(State::Sifting { search, found }).query(
        effect,
        "spent",
        query.arguments(),
        Agreement::Same,
    )
}

fn sifted(mut searching: Search, mut found: Issued, outcome: EffectResult) -> Step {
    let mut spent = match read_answer(&outcome).filter(|s: &Spent| s.len() == found.notes.len()) {
        Some(spent) => spent.into_iter(),
        None if outcome == EffectResult::TimeReached => return sift(searching, found),
        None => return later(searching, |search| State::Sifting { search, found }),
    };
    found.notes.retain(|_| spent.next() == Some(false));
    if found.notes.is_empty() {
        return search(searching);
    }
    searching.effect += 1;
    fetch_found(searching, found)
}

fn fetch_found(search: Search, found: Issued) -> Step {
    let (effect, out_points) = (search.effect, found.out_points());
    Transition::to(State::Restoring { search, found }).outcomes(effect, out_points, Agreement::Each)
}

fn restored(mut searching: Search, found: Issued, outcome: &EffectResult) -> Step {
    let Some(notes) = found.unblind(shares(outcome)) else {
        return fetch_found(searching, found);
    };
    Stock::put(&notes);
    let values = notes.iter().filter_map(|note| value(note.exponent));
    searching.restored += values.sum::<u64>();
    search(searching)
}

/// A transaction was refused for what fresh blinding or other notes may mend.
fn is_accident(rejection: &Rejection) -> bool {
    rejection.is_elsewhere() || rejection.refusal.code == "blinded-message-used"
}

/// Why a submission has come to nothing.
fn failure(outcome: EffectResult) -> Refusal {
    match outcome {
        EffectResult::Rejected(Rejection { refusal, .. }) | EffectResult::Failed(refusal) => {
            refusal
        }
        EffectResult::Declined => Refusal::new("declined", "it was not confirmed"),
        _ => Refusal::new(
            "unexpected-answer",
            "the host answered a submission with something else",
        ),
    }
}
