//! Being paid: an offer, a gateway's invoice for it, and the money once it has been
//! bought.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Agreement, Amount, EffectResult, Json, Refusal, Rejection, Transition, crypto, object,
    parameters, wallet,
};

use crate::{
    Bought, ContractInput, KEY, KnownGateway, Offer,
    api::{self, NewInvoice},
    client::{
        ATTEMPTS, LATER_SECONDS, Purpose, State, Step, answer, encoded, failed, path, stopped, take,
    },
    gateways::{self, Direction, Limits, Market, Quoted},
    invoice::Invoice,
    server::{IncomingQuery, MOST_OFFER_SECONDS},
};

parameters! {
    /// Makes a Lightning invoice; what is paid for it arrives as e-cash.
    pub struct InvoiceAction {
        /// What the payer pays.
        amount: Amount,
        /// What for; the payer sees it.
        description: Option<String>,
        /// After how many seconds nobody can pay it any more.
        expiry: u64 = USUAL_EXPIRY,
        /// The gateway to be paid through: its alias, key or address; the cheapest unless said otherwise.
        gateway: Option<String>,
        /// The most that the gateway may keep; 100 sat and 1.5 % unless said otherwise.
        maximum_fee: Option<Amount>,
    }
}

/// A day.
const USUAL_EXPIRY: u64 = 24 * 3600;
const LEAST_EXPIRY: u64 = 60;
/// How much longer than the invoice the offer is good: for a payment that comes at the
/// last moment, and clocks that differ.
const GRACE_SECONDS: u64 = 3600;
/// The longest description, bytes: what fits into an invoice.
const MOST_DESCRIPTION: usize = 639;

/// Something that is to be received.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Receive {
    amount: u64,
    description: String,
    expiry: u64,
    gateway: Option<String>,
    maximum_fee: u64,
    stage: Stage,
    /// The highest number that an effect has.
    effect: u32,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
enum Stage {
    /// Guardians are asked which gateways there are.
    Listing,
    /// Gateways are asked what they want.
    Quoting(Market),
    /// A gateway is asked for an invoice; others are left if it does not give one.
    Inviting {
        quoted: Quoted,
        left: Vec<Quoted>,
        offer: Offer,
    },
    /// Somebody has the invoice and may pay it.
    Waiting { offer: Offer, shown: Shown },
    /// The money is on its way into the wallet.
    Claiming {
        offer: Offer,
        shown: Shown,
        attempt: u32,
    },
}

/// What people are shown of it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Shown {
    invoice: String,
    fee: u64,
    gateway: String,
    expires: u64,
}

impl Receive {
    fn at(&self, stage: Stage) -> Self {
        Self {
            stage,
            ..self.clone()
        }
    }
    fn step(self) -> Step {
        Transition::to(State::Receive(self))
    }
    fn next(&mut self) -> u32 {
        self.effect += 1;
        self.effect
    }
    fn details(&self, offer: &Offer, shown: &Shown) -> Json {
        object! {
            "invoice" => shown.invoice.as_str(),
            "payment_hash" => offer.payment_hash.as_slice(),
            "amount_msat" => Amount(self.amount),
            "receives_msat" => Amount(offer.amount),
            "fee_msat" => Amount(shown.fee),
            "gateway" => shown.gateway.as_str(),
            "expires" => shown.expires,
        }
    }
}

/// Begins one.
pub fn start(action: InvoiceAction) -> Result<Step, Refusal> {
    let InvoiceAction {
        amount,
        description,
        expiry,
        gateway,
        maximum_fee,
    } = action;
    let description = description.unwrap_or_default();
    let most = MOST_OFFER_SECONDS - 2 * GRACE_SECONDS;
    if !(LEAST_EXPIRY..=most).contains(&expiry) {
        return Err(Refusal::new(
            "bad-argument",
            format!("an invoice is good for {LEAST_EXPIRY} to {most} seconds, not {expiry}"),
        ));
    }
    if description.len() > MOST_DESCRIPTION {
        return Err(Refusal::new(
            "bad-argument",
            format!("an invoice's description has at most {MOST_DESCRIPTION} bytes"),
        ));
    }
    if amount.0 == 0 {
        return Err(Refusal::new(
            "bad-argument",
            "nothing is no amount to receive",
        ));
    }
    let receive = Receive {
        amount: amount.0,
        description,
        expiry,
        gateway,
        maximum_fee: maximum_fee.map_or_else(|| gateways::usual_most(amount.0), |most| most.0),
        stage: Stage::Listing,
        effect: 1,
    };
    Ok(gateways::list(receive.step(), 1))
}

/// Stops one, if nobody can pay it yet.
pub fn cancel(receive: &Receive) -> Result<Step, Refusal> {
    match &receive.stage {
        Stage::Listing | Stage::Quoting(_) => Ok(stopped()),
        Stage::Inviting { .. } => Err(too_late("in a moment")),
        Stage::Waiting { shown, .. } | Stage::Claiming { shown, .. } => Err(too_late(&format!(
            "at {}, seconds since 1970",
            shown.expires
        ))),
    }
}

fn too_late(end: &str) -> Refusal {
    Refusal::new(
        "too-late",
        format!("whoever has the invoice may pay it; this ends by itself {end}"),
    )
}

/// Goes on with one.
pub fn advance(receive: Receive, effect: u32, outcome: EffectResult) -> Step {
    match receive.stage.clone() {
        Stage::Listing => listed(receive, outcome),
        Stage::Quoting(market) => quoted(receive, market, effect, outcome),
        Stage::Inviting {
            quoted,
            left,
            offer,
        } => invited(receive, quoted, left, offer, outcome),
        Stage::Waiting { offer, shown } => heard(receive, offer, shown, outcome),
        Stage::Claiming {
            offer,
            shown,
            attempt,
        } => claimed(receive, offer, shown, attempt, outcome),
    }
}

fn listed(mut receive: Receive, outcome: EffectResult) -> Step {
    let known: Vec<KnownGateway> = match answer(outcome) {
        Ok(known) => known,
        Err(refusal) => return failed(refusal),
    };
    let first = receive.next();
    let wanted = receive.gateway.as_deref();
    match Market::open(known, wanted, Direction::Receive, receive.amount, first) {
        Ok(market) => {
            receive.effect = market.last_effect();
            let step = receive.at(Stage::Quoting(market.clone())).step();
            market
                .wait(step)
                .progress("quoting", "asking gateways", object! {})
        }
        Err(refusal) => failed(refusal),
    }
}

fn quoted(receive: Receive, mut market: Market, effect: u32, outcome: EffectResult) -> Step {
    let limits = Limits {
        fee: receive.maximum_fee,
        // Nothing of the receiver's is locked.
        blocks: u32::MAX,
    };
    if !market.hear(effect, outcome, limits) {
        return market.wait(receive.at(Stage::Quoting(market.clone())).step());
    }
    match market.close(receive.maximum_fee) {
        Ok(quotes) => invite(receive, quotes, None),
        Err(refusal) => failed(refusal),
    }
}

/// Asks the cheapest of them for an invoice.
fn invite(mut receive: Receive, mut left: Vec<Quoted>, before: Option<Refusal>) -> Step {
    let Some(quoted) = left.pop() else {
        let refusal = Refusal::new("no-gateway", "no gateway gives an invoice");
        return failed(before.unwrap_or(refusal));
    };
    let Some(amount) = receive.amount.checked_sub(quoted.fee).filter(|a| *a > 0) else {
        let refusal = Refusal::new(
            "too-little",
            format!(
                "of {} nothing would be left after the gateway's fee of {}",
                Amount(receive.amount),
                Amount(quoted.fee)
            ),
        );
        return invite(receive, left, Some(refusal));
    };
    let expiry = wallet::unix_time()
        .saturating_add(receive.expiry)
        .saturating_add(GRACE_SECONDS);
    let offer = offer(amount, quoted.gateway_key, expiry);
    let body = object! {
        "offer" => encoded(&offer).as_slice(),
        "payment_hash" => offer.payment_hash.as_slice(),
        "contract_msat" => offer.amount,
        "amount_msat" => receive.amount,
        "description" => receive.description.as_str(),
        "expiry_seconds" => receive.expiry,
    };
    let effect = receive.next();
    let request = api::ask_invoice(&quoted.api, &body);
    let stage = Stage::Inviting {
        quoted,
        left,
        offer,
    };
    receive.at(stage).step().want(effect, request)
}

/// A fresh one, for one gateway.
fn offer(amount: u64, gateway_key: crate::PublicKey, expiry: u64) -> Offer {
    let nonce = wallet::random();
    let preimage = preimage(&nonce);
    let mut offer = Offer {
        payment_hash: crypto::sha256(&preimage),
        amount,
        claim_key: wallet::derive_public_key(&path(Purpose::Claim, &nonce)),
        gateway_key: Some(gateway_key),
        expiry,
        nonce,
        ciphertext: [0; crate::CIPHERTEXT],
    };
    let seed = wallet::derive_secret(&path(Purpose::Encryption, &nonce));
    let ciphertext = wallet::tpe_encrypt(KEY, &preimage, &offer.terms(), &seed);
    offer.ciphertext = ciphertext
        .try_into()
        .expect("a ciphertext has the length that it has");
    offer
}

/// What the offer of this nonce sells.
pub fn preimage(nonce: &[u8; 16]) -> crate::Preimage {
    wallet::derive_secret(&path(Purpose::Preimage, nonce))
}

fn invited(
    receive: Receive,
    quoted: Quoted,
    left: Vec<Quoted>,
    offer: Offer,
    outcome: EffectResult,
) -> Step {
    let invoice = api::read_response::<NewInvoice>(&quoted.name, outcome)
        .and_then(|answer| check(&receive, &quoted, &offer, &answer.invoice));
    let invoice = match invoice {
        Ok(invoice) => invoice,
        // Another offer, since this gateway has seen this one.
        Err(refusal) => return invite(receive, left, Some(refusal)),
    };
    let shown = Shown {
        invoice: invoice.text,
        fee: quoted.fee,
        gateway: quoted.name,
        expires: invoice.expires,
    };
    let mut details = receive.details(&offer, &shown);
    if let Json::Object(details) = &mut details {
        // Capitals make a smaller code.
        let scan = format!("lightning:{}", shown.invoice).to_ascii_uppercase();
        details.push(("scan".into(), scan.into()));
    }
    let message = format!(
        "{} arrive when this is paid, {} keeps {}: {}",
        Amount(offer.amount),
        shown.gateway,
        Amount(shown.fee),
        shown.invoice
    );
    wait(receive, offer, shown).progress("waiting", message, details)
}

/// Whether the invoice is what was asked for.
fn check(
    receive: &Receive,
    quoted: &Quoted,
    offer: &Offer,
    text: &str,
) -> Result<Invoice, Refusal> {
    let invoice = Invoice::read(text)?;
    let wrong = if invoice.payment_hash != offer.payment_hash {
        "is for another payment hash"
    } else if invoice.amount != receive.amount {
        "is over another amount"
    } else if invoice.expires > offer.expiry {
        "is good for longer than the offer"
    } else {
        return Ok(invoice);
    };
    Err(Refusal::new(
        "bad-gateway",
        format!("the invoice of {} {wrong} than asked for", quoted.name),
    ))
}

fn wait(mut receive: Receive, offer: Offer, shown: Shown) -> Step {
    let effect = receive.next();
    let query = IncomingQuery {
        offer: offer.id().to_vec(),
        expiry: offer.expiry,
    };
    receive.at(Stage::Waiting { offer, shown }).step().query(
        effect,
        "incoming",
        query.arguments(),
        Agreement::Same,
    )
}

fn heard(mut receive: Receive, offer: Offer, shown: Shown, outcome: EffectResult) -> Step {
    if outcome == EffectResult::TimeReached {
        return wait(receive, offer, shown);
    }
    match answer(outcome) {
        Ok(Bought::Funded) => claim(receive, offer, shown, 1),
        Ok(Bought::Over) => elsewhere(&receive, &offer, &shown),
        Ok(Bought::Expired) => {
            let details = receive.details(&offer, &shown);
            let refusal = Refusal::new("invoice-expired", "nobody has paid this invoice in time");
            failed(refusal).progress("expired", "nobody has paid in time", details)
        }
        Err(_) => {
            let effect = receive.next();
            let later = wallet::unix_time().saturating_add(LATER_SECONDS);
            receive
                .at(Stage::Waiting { offer, shown })
                .step()
                .until(effect, later)
        }
    }
}

fn elsewhere(receive: &Receive, offer: &Offer, shown: &Shown) -> Step {
    let details = receive.details(offer, shown);
    let message = "another device of this wallet has the money, or the gateway has it back";
    failed(Refusal::new("contract-over", message)).progress("over", message, details)
}

fn claim(mut receive: Receive, offer: Offer, shown: Shown, attempt: u32) -> Step {
    let input = ContractInput::ClaimIncoming {
        offer: offer.id(),
        preimage: preimage(&offer.nonce),
    };
    let signer = path(Purpose::Claim, &offer.nonce);
    let plan = take(vec![(input, offer.amount, signer)]);
    let details = receive.details(&offer, &shown);
    let effect = receive.next();
    let stage = Stage::Claiming {
        offer,
        shown,
        attempt,
    };
    receive
        .at(stage)
        .step()
        .submit(effect, plan)
        .progress("claiming", "it has been paid", details)
}

fn claimed(
    mut receive: Receive,
    offer: Offer,
    shown: Shown,
    attempt: u32,
    outcome: EffectResult,
) -> Step {
    match outcome {
        EffectResult::Accepted(_) => {
            let details = receive.details(&offer, &shown);
            Transition::done(State::Over).progress(
                "received",
                format!("{} received", Amount(offer.amount)),
                details,
            )
        }
        EffectResult::Rejected(Rejection { input: Some(_), .. }) => {
            elsewhere(&receive, &offer, &shown)
        }
        EffectResult::Rejected(_) if attempt < ATTEMPTS => {
            claim(receive, offer, shown, attempt + 1)
        }
        EffectResult::TimeReached => claim(receive, offer, shown, 1),
        // It is ours none the less: tried again in a while.
        _ => {
            let effect = receive.next();
            let later = wallet::unix_time().saturating_add(LATER_SECONDS);
            let stage = Stage::Claiming {
                offer,
                shown,
                attempt,
            };
            receive.at(stage).step().until(effect, later)
        }
    }
}
