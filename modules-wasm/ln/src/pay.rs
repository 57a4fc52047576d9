//! Paying an invoice: quote, contract, preimage or money back.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Acceptance, Agreement, Amount, EffectResult, FeeLine, Json, OutPoint, Plan, Quote, Refusal,
    Rejection, Transition, crypto, federation, object, parameters, storage::Table, wallet,
};

use crate::{
    Contract, ContractId, ContractInput, ContractOrOfferOutput, KnownGateway, LnConfig,
    OutgoingContract, PaymentHash, Preimage, PublicKey, Refundable,
    api::{self, PaymentState},
    asks_to_pay,
    client::{
        ATTEMPTS, LATER_SECONDS, Purpose, State, Step, answer, failed, failure, path, planned,
        stopped, take,
    },
    contract_id,
    gateways::{self, Direction, Limits, Market, Quoted},
    invoice::Invoice,
    lnurl::{self, Lookup, PayRequest},
    server::{PreimageQuery, RefundableQuery},
};

parameters! {
    /// Pays a Lightning invoice, a Lightning address or an LNURL out of e-cash.
    pub struct PayAction {
        /// The invoice, name@host or lnurl1….
        to: String,
        /// How much, for an address or an LNURL; an invoice says it itself.
        amount: Option<Amount>,
        /// The gateway to pay through: its alias, key or address; the cheapest unless said otherwise. One that is named may have the money locked for two weeks, another for three days.
        gateway: Option<String>,
        /// The most that the gateway may ask; 100 sat and 1.5 % unless said otherwise.
        maximum_fee: Option<Amount>,
    }
}

/// How many blocks more than the gateway wants a timelock is away: agreed height moves
/// while the contract is on its way, and wallets learn of it late.
const TIMELOCK_SLACK: u32 = 12;
/// When the gateway is told again that has not answered.
const RETRY_SECONDS: u64 = 15;
/// When it is told again that has.
const REMIND_SECONDS: u64 = 120;
/// How long a preimage is looked for that guardians ought to have.
const LOOK_SECONDS: u64 = 120;

/// Hashes that this wallet is paying or has paid: paying one twice is money lost. The
/// value is whether it is paid.
const PAID: Table<PaymentHash, bool> = Table::new(b'p');
/// Gateways that have not paid a hash: others are asked first. They try again only what
/// they have never sent, and cancel at once otherwise.
const TRIED: Table<(PaymentHash, PublicKey), ()> = Table::new(b't');

/// A payment.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Pay {
    gateway: Option<String>,
    maximum_fee: Option<u64>,
    stage: Stage,
    /// The highest number that an effect has.
    effect: u32,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
enum Stage {
    /// An address is looked up.
    LookingUp(Lookup),
    /// Guardians are asked which gateways there are.
    Listing(Invoice),
    /// Gateways are asked what they want.
    Quoting(Invoice, Market),
    /// The contract is to be accepted.
    Funding {
        invoice: Invoice,
        quoted: Quoted,
        contract: OutgoingContract,
        attempt: u32,
    },
    /// The gateway is paying, or not.
    Waiting(Waiting),
    /// The money is on its way back.
    Refunding {
        waiting: Waiting,
        why: Refundable,
        attempt: u32,
    },
    /// The contract is over and the preimage not seen: it is looked for, twice, since
    /// the wallet may have slept through the first time.
    Looking { waiting: Waiting, again: bool },
}

/// A contract that is accepted, and the effects that tell its end.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Waiting {
    invoice: Invoice,
    quoted: Quoted,
    contract: OutgoingContract,
    id: ContractId,
    /// Telling the gateway, or the time at which it is told again.
    tell: Tell,
    preimage: u32,
    /// Whether one guardian's word was bad: a threshold is asked then.
    distrust: bool,
    refundable: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
enum Tell {
    Now(u32),
    At(u32, u64),
}

impl Pay {
    fn at(&self, stage: Stage) -> Self {
        Self {
            stage,
            ..self.clone()
        }
    }
    fn step(self) -> Step {
        Transition::to(State::Pay(self))
    }
    fn next(&mut self) -> u32 {
        self.effect += 1;
        self.effect
    }
}

/// Begins one.
pub fn start(action: PayAction) -> Result<Step, Refusal> {
    let PayAction {
        to,
        amount,
        gateway,
        maximum_fee,
    } = action;
    let mut pay = Pay {
        gateway,
        maximum_fee: maximum_fee.map(|most| most.0),
        // Replaced before anybody sees it.
        stage: Stage::LookingUp(Lookup::default()),
        effect: 0,
    };
    if let Some(url) = lnurl::address(&to)? {
        let amount = amount.ok_or_else(|| {
            Refusal::new(
                "no-amount",
                "to an address or an LNURL an amount has to be said",
            )
        })?;
        let effect = pay.next();
        let request = api::get(url);
        pay.stage = Stage::LookingUp(Lookup::new(amount.0));
        return Ok(pay.step().want(effect, request).progress(
            "looking-up",
            format!("asking {to}"),
            object! {},
        ));
    }
    let invoice = Invoice::read(&to)?;
    if amount.is_some_and(|amount| amount.0 != invoice.amount) {
        return Err(Refusal::new(
            "wrong-amount",
            format!(
                "the invoice is over {}; leave the amount out",
                Amount(invoice.amount)
            ),
        ));
    }
    list(pay, invoice)
}

fn list(mut pay: Pay, invoice: Invoice) -> Result<Step, Refusal> {
    invoice.check_time(wallet::unix_time())?;
    match PAID.get(&invoice.payment_hash) {
        Some(true) => {
            return Err(Refusal::new(
                "already-paid",
                "this wallet has paid this invoice; to pay once more takes another invoice",
            ));
        }
        Some(false) => {
            return Err(Refusal::new(
                "being-paid",
                "this wallet is paying this invoice; it is decided by itself",
            ));
        }
        None => {}
    }
    let effect = pay.next();
    pay.stage = Stage::Listing(invoice);
    Ok(gateways::list(pay.step(), effect))
}

/// Goes on with one.
pub fn advance(pay: Pay, effect: u32, outcome: EffectResult) -> Step {
    match pay.stage.clone() {
        Stage::LookingUp(lookup) => looked_up(pay, lookup, outcome),
        Stage::Listing(invoice) => listed(pay, invoice, outcome),
        Stage::Quoting(invoice, market) => quoted(pay, invoice, market, effect, outcome),
        Stage::Funding {
            invoice,
            quoted,
            contract,
            attempt,
        } => funded(pay, invoice, quoted, contract, attempt, outcome),
        Stage::Waiting(waiting) => heard(pay, waiting, effect, outcome),
        Stage::Refunding {
            waiting,
            why,
            attempt,
        } => refunded(pay, waiting, why, attempt, outcome),
        Stage::Looking { waiting, again } => looked(pay, waiting, again, outcome),
    }
}

/// Stops one, if no money is locked.
pub fn cancel(pay: &Pay) -> Result<Step, Refusal> {
    match &pay.stage {
        Stage::LookingUp(_) | Stage::Listing(_) | Stage::Quoting(..) => Ok(stopped()),
        Stage::Funding { contract, .. } => Err(too_late(contract)),
        Stage::Waiting(waiting)
        | Stage::Refunding { waiting, .. }
        | Stage::Looking { waiting, .. } => Err(too_late(&waiting.contract)),
    }
}

fn too_late(contract: &OutgoingContract) -> Refusal {
    Refusal::new(
        "too-late",
        format!(
            "the money is locked for the gateway; it comes back by itself if the gateway gives \
             up, or from block {} on",
            contract.timelock
        ),
    )
}

// An address becomes an invoice.

fn looked_up(mut pay: Pay, lookup: Lookup, outcome: EffectResult) -> Step {
    let next = match lookup.hear(outcome) {
        Ok(next) => next,
        Err(refusal) => return failed(refusal),
    };
    match next {
        PayRequest::Ask(lookup, url) => {
            let effect = pay.next();
            pay.at(Stage::LookingUp(lookup))
                .step()
                .want(effect, api::get(url))
        }
        PayRequest::Invoice(invoice) => list(pay, invoice).unwrap_or_else(failed),
    }
}

// Which gateway, for how much.

fn listed(mut pay: Pay, invoice: Invoice, outcome: EffectResult) -> Step {
    let known: Vec<KnownGateway> = match answer(outcome) {
        Ok(known) => known,
        Err(refusal) => return failed(refusal),
    };
    let hash = invoice.payment_hash;
    let tried = |known: &KnownGateway| TRIED.contains(&(hash, known.gateway.gateway_key));
    let (mut known, untried): (Vec<_>, Vec<_>) = known.into_iter().partition(tried);
    if pay.gateway.is_some() || untried.is_empty() {
        known.extend(untried);
    } else {
        known = untried;
    }
    let first = pay.next();
    let wanted = pay.gateway.as_deref();
    match Market::open(known, wanted, Direction::Pay, invoice.amount, first) {
        Ok(market) => {
            pay.effect = market.last_effect();
            let step = pay.at(Stage::Quoting(invoice, market.clone())).step();
            market
                .wait(step)
                .progress("quoting", "asking gateways", object! {})
        }
        Err(refusal) => failed(refusal),
    }
}

fn quoted(
    pay: Pay,
    invoice: Invoice,
    mut market: Market,
    effect: u32,
    outcome: EffectResult,
) -> Step {
    let usual = gateways::usual_most(invoice.amount);
    let limits = Limits {
        fee: pay.maximum_fee.unwrap_or(usual),
        blocks: gateways::most_blocks(pay.gateway.as_deref()),
    };
    if !market.hear(effect, outcome, limits) {
        let step = pay.at(Stage::Quoting(invoice, market.clone())).step();
        return market.wait(step);
    }
    let quotes = market.close(limits.fee);
    let cheapest = quotes.map(|mut quotes| quotes.pop());
    let chosen = match cheapest {
        Ok(Some(quoted)) => quoted,
        Ok(None) => return failed(Refusal::new("no-gateway", "no gateway does it")),
        Err(refusal) => return failed(refusal),
    };
    if let Err(refusal) = invoice.check_time(wallet::unix_time()) {
        return failed(refusal);
    }
    // Another payment of the same invoice may have begun meanwhile.
    if PAID.contains(&invoice.payment_hash) {
        return failed(Refusal::new(
            "being-paid",
            "this wallet is paying this invoice in another operation",
        ));
    }
    let amount = invoice.amount.checked_add(chosen.fee);
    let timelock = federation::block_height().checked_add(chosen.blocks + TIMELOCK_SLACK);
    let Some((amount, timelock)) = amount.zip(timelock) else {
        return failed(Refusal::new("too-much", "there is not so much money"));
    };
    let nonce = wallet::random();
    let contract = OutgoingContract {
        payment_hash: invoice.payment_hash,
        amount,
        gateway_key: chosen.gateway_key,
        user_key: wallet::derive_public_key(&path(Purpose::Refund, &nonce)),
        timelock,
        nonce,
    };
    PAID.put(&invoice.payment_hash, &false);
    fund(pay, invoice, chosen, contract, 1)
}

// The contract.

fn details(invoice: &Invoice, quoted: &Quoted, preimage: Option<&Preimage>) -> Json {
    object! {
        "payment_hash" => invoice.payment_hash.as_slice(),
        "amount_msat" => Amount(invoice.amount),
        "fee_msat" => Amount(quoted.fee),
        "gateway" => quoted.name.as_str(),
        "description" => invoice.description.as_str(),
        "preimage" => preimage.map(|preimage| Json::from(preimage.as_slice())),
    }
}

fn fund(
    mut pay: Pay,
    invoice: Invoice,
    quoted: Quoted,
    contract: OutgoingContract,
    attempt: u32,
) -> Step {
    let fee = federation::config::<LnConfig>().contract_fee;
    let output = ContractOrOfferOutput::Contract(Contract::Outgoing(contract.clone()));
    let what = match invoice.description.as_str() {
        "" => String::new(),
        what => format!(" for {what:?}"),
    };
    let summary = format!(
        "pay {}{what} over Lightning, through {}",
        Amount(invoice.amount),
        quoted.name
    );
    let quote = Quote {
        summary: cut(summary, 1000),
        fees: vec![FeeLine {
            name: "gateway and routing".into(),
            amount: quoted.fee,
        }],
        expires: Some(invoice.expires),
    };
    let plan = Plan {
        inputs: Vec::new(),
        outputs: vec![planned(&output, contract.amount, fee)],
        // What was confirmed for a try that was refused is not spent.
        confirm: (attempt == 1).then_some(quote),
    };
    let shown = details(&invoice, &quoted, None);
    let effect = pay.next();
    let stage = Stage::Funding {
        invoice,
        quoted,
        contract,
        attempt,
    };
    pay.at(stage).step().submit(effect, plan).progress(
        "funding",
        "the contract is on its way",
        shown,
    )
}

/// Text of at most `most` bytes.
pub fn cut(mut text: String, most: usize) -> String {
    let end = (0..=most.min(text.len())).rev();
    let end = end.into_iter().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    text
}

fn funded(
    mut pay: Pay,
    invoice: Invoice,
    quoted: Quoted,
    contract: OutgoingContract,
    attempt: u32,
    outcome: EffectResult,
) -> Step {
    match outcome {
        EffectResult::Accepted(Acceptance { txid, outputs }) => {
            let index = outputs.first().copied().unwrap_or_default();
            let id = contract_id(&OutPoint { txid, index });
            let waiting = Waiting {
                tell: Tell::Now(pay.next()),
                preimage: pay.next(),
                distrust: false,
                refundable: pay.next(),
                invoice,
                quoted,
                contract,
                id,
            };
            let shown = details(&waiting.invoice, &waiting.quoted, None);
            let message = format!("{} is paying", waiting.quoted.name);
            wait(pay, waiting).progress("pending", message, shown)
        }
        EffectResult::Rejected(rejection) if rejection.is_elsewhere() && attempt < ATTEMPTS => {
            fund(pay, invoice, quoted, contract, attempt + 1)
        }
        outcome => {
            PAID.delete(&invoice.payment_hash);
            failed(failure(outcome))
        }
    }
}

// Preimage, or money back.

fn wait(pay: Pay, waiting: Waiting) -> Step {
    let preimage = PreimageQuery {
        contract: waiting.id.to_vec(),
    };
    let refundable = RefundableQuery {
        contract: waiting.id.to_vec(),
        timelock: waiting.contract.timelock.into(),
    };
    // One guardian's word is enough for what can be checked.
    let agreement = match waiting.distrust {
        false => Agreement::Any,
        true => Agreement::Same,
    };
    let step = pay
        .at(Stage::Waiting(waiting.clone()))
        .step()
        .query(
            waiting.preimage,
            "preimage",
            preimage.arguments(),
            agreement,
        )
        .query(
            waiting.refundable,
            "refundable",
            refundable.arguments(),
            Agreement::Same,
        );
    match waiting.tell {
        Tell::Now(effect) => {
            let (api, invoice) = (&waiting.quoted.api, &waiting.invoice.text);
            let signer = path(Purpose::Refund, &waiting.contract.nonce);
            let message = asks_to_pay(&waiting.id, invoice);
            let signature = wallet::sign_schnorr(&signer, None, &message);
            let told = api::tell_payment(api, invoice, &waiting.id, &signature);
            step.want(effect, told)
        }
        Tell::At(effect, time) => step.until(effect, time),
    }
}

fn checked(preimage: Preimage, waiting: &Waiting) -> Option<Preimage> {
    (crypto::sha256(&preimage) == waiting.contract.payment_hash).then_some(preimage)
}

fn heard(mut pay: Pay, mut waiting: Waiting, effect: u32, outcome: EffectResult) -> Step {
    if effect == waiting.preimage {
        let preimage = answer(outcome).ok();
        if let Some(preimage) = preimage.and_then(|preimage| checked(preimage, &waiting)) {
            return paid(&waiting, &preimage);
        }
        waiting.distrust = true;
        waiting.preimage = pay.next();
        return wait(pay, waiting);
    }
    if effect == waiting.refundable {
        return match answer(outcome) {
            Ok(why @ (Refundable::Cancelled | Refundable::TimedOut)) => {
                refund(pay, waiting, why, 1)
            }
            Ok(Refundable::Gone) => look(pay, waiting, false),
            Err(_) => {
                waiting.refundable = pay.next();
                wait(pay, waiting)
            }
        };
    }
    waiting.tell = match (waiting.tell, outcome) {
        (Tell::Now(_), outcome) => {
            // Whatever it says: what counts is what becomes of the contract.
            let name = &waiting.quoted.name;
            let told = api::read_response::<PaymentState>(name, outcome);
            let pause = match told {
                Ok(told) if told.state == "failed" || told.state == "pending" => REMIND_SECONDS,
                _ => RETRY_SECONDS,
            };
            Tell::At(pay.next(), wallet::unix_time().saturating_add(pause))
        }
        (Tell::At(..), _) => Tell::Now(pay.next()),
    };
    wait(pay, waiting)
}

fn paid(waiting: &Waiting, preimage: &Preimage) -> Step {
    PAID.put(&waiting.contract.payment_hash, &true);
    let Waiting {
        invoice, quoted, ..
    } = waiting;
    Transition::done(State::Over).progress(
        "paid",
        format!(
            "{} paid, and {} for it",
            Amount(invoice.amount),
            Amount(quoted.fee)
        ),
        details(invoice, quoted, Some(preimage)),
    )
}

fn refund(mut pay: Pay, waiting: Waiting, why: Refundable, attempt: u32) -> Step {
    let contract = waiting.id;
    let input = match why {
        Refundable::Cancelled => ContractInput::RefundCancelled { contract },
        Refundable::TimedOut | Refundable::Gone => ContractInput::RefundTimeout { contract },
    };
    let signer = path(Purpose::Refund, &waiting.contract.nonce);
    let plan = take(vec![(input, waiting.contract.amount, signer)]);
    let effect = pay.next();
    let shown = details(&waiting.invoice, &waiting.quoted, None);
    let message = match why {
        Refundable::Cancelled => "the gateway has given up; the money is on its way back",
        _ => "the gateway has let its time pass; the money is on its way back",
    };
    let stage = Stage::Refunding {
        waiting,
        why,
        attempt,
    };
    pay.at(stage)
        .step()
        .submit(effect, plan)
        .progress("refunding", message, shown)
}

fn refunded(
    mut pay: Pay,
    waiting: Waiting,
    why: Refundable,
    attempt: u32,
    outcome: EffectResult,
) -> Step {
    match outcome {
        EffectResult::Accepted(_) => {
            let OutgoingContract {
                payment_hash,
                gateway_key,
                ..
            } = waiting.contract;
            PAID.delete(&payment_hash);
            TRIED.put(&(payment_hash, gateway_key), &());
            let message = match why {
                Refundable::Cancelled => "the gateway could not pay; the money is back",
                _ => "the gateway has not paid in time; the money is back",
            };
            let shown = details(&waiting.invoice, &waiting.quoted, None);
            failed(Refusal::new("payment-failed", message)).progress("refunded", message, shown)
        }
        EffectResult::Rejected(Rejection { input: Some(_), .. }) => look(pay, waiting, false),
        EffectResult::Rejected(_) if attempt < ATTEMPTS => refund(pay, waiting, why, attempt + 1),
        EffectResult::TimeReached => refund(pay, waiting, why, 1),
        // It is ours none the less: tried again in a while.
        _ => {
            let effect = pay.next();
            let later = wallet::unix_time().saturating_add(LATER_SECONDS);
            let stage = Stage::Refunding {
                waiting,
                why,
                attempt,
            };
            pay.at(stage).step().until(effect, later)
        }
    }
}

/// The gateway was quicker: what it claimed with is there.
fn look(mut pay: Pay, waiting: Waiting, again: bool) -> Step {
    let query = PreimageQuery {
        contract: waiting.id.to_vec(),
    };
    let (effect, clock) = (pay.next(), pay.next());
    let late = wallet::unix_time().saturating_add(LOOK_SECONDS);
    pay.at(Stage::Looking { waiting, again })
        .step()
        .query(effect, "preimage", query.arguments(), Agreement::Same)
        .until(clock, late)
}

fn looked(pay: Pay, waiting: Waiting, again: bool, outcome: EffectResult) -> Step {
    let preimage = answer(outcome).ok();
    if let Some(preimage) = preimage.and_then(|preimage| checked(preimage, &waiting)) {
        return paid(&waiting, &preimage);
    }
    if !again {
        return look(pay, waiting, true);
    }
    // Claimed longer ago than preimages are kept, or refunded by another device.
    PAID.put(&waiting.contract.payment_hash, &true);
    let refusal = Refusal::new(
        "contract-over",
        "the contract is over, and guardians keep no preimage of it any more: it was claimed \
         long ago, or refunded to another device of this wallet",
    );
    let shown = details(&waiting.invoice, &waiting.quoted, None);
    failed(refusal).progress("over", "the contract is over", shown)
}
