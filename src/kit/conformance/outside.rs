//! What is around a scenario's wallets: servers that they ask over HTTP, and services of
//! the application that they are in.
//!
//! Each says what a step has told it to say from there on. Nothing else is reached.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use anyhow::{Context, Result, ensure};
use bitcoin::{
    hashes::{Hash, sha256},
    secp256k1::{Secp256k1, SecretKey},
};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use modmint_sdk::{
    HttpResponse, Refusal,
    mock::{Federation, Wallet},
};
use serde_json::{Map, Value};

use super::scenario::{Invoice, Step, Typed};

/// What was kept, by its name.
pub(super) type Kept = BTreeMap<String, String>;

/// How long an invoice is good.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The world around all wallets.
pub(super) struct Outside {
    federation: Federation,
    kept: Rc<RefCell<Kept>>,
    /// The last step for each service and address.
    answers: BTreeMap<String, Step>,
}

impl Outside {
    /// One that answers nothing yet.
    pub(super) fn new(federation: Federation, kept: Rc<RefCell<Kept>>) -> Self {
        Self {
            federation,
            kept,
            answers: BTreeMap::new(),
        }
    }

    /// From now on `asked` is answered as this step says.
    pub(super) fn answers(&mut self, asked: &str, step: &Step) {
        self.answers.insert(asked.to_owned(), step.clone());
    }

    /// Gives a wallet all of it.
    pub(super) fn offer(this: &Rc<RefCell<Self>>, wallet: &mut Wallet) {
        for service in this.borrow().answers.keys().filter(|name| !is_http(name)) {
            let (outside, name) = (Rc::clone(this), service.clone());
            wallet.offer_service(service, move |request| {
                let outside = outside.borrow();
                outside.say(&outside.answers[&name], request)
            });
        }
        let outside = Rc::clone(this);
        wallet.offer_web(move |request| {
            let outside = outside.borrow();
            let mut answers = outside.answers.iter();
            let asked = |end: &&String| is_http(end) && request.url.ends_with(*end);
            let (_, step) = answers.find(|(end, _)| asked(end)).ok_or_else(|| {
                let told = format!("no step says what {} answers", request.url);
                Refusal::new("unreachable", told)
            })?;
            let body = outside.say(step, &request.body)?;
            Ok(HttpResponse { status: 200, body })
        });
    }

    fn say(&self, step: &Step, request: &[u8]) -> Result<Vec<u8>, Refusal> {
        if let Some(code) = &step.fails {
            return Err(Refusal::new(code, "the scenario says so"));
        }
        match self.said(step, request) {
            Ok(said) => Ok(said),
            // Not for the module: whoever wrote the scenario is to see it.
            Err(error) => std::panic::resume_unwind(Box::new(format!("{error:#}"))),
        }
    }

    fn said(&self, step: &Step, request: &[u8]) -> Result<Vec<u8>> {
        let mut kept = self.kept.borrow_mut();
        if !step.keep.is_empty() {
            let text = String::from_utf8_lossy(request);
            let asked: Value = serde_json::from_str(&text)
                .with_context(|| format!("to keep something of it, JSON is expected: {text}"))?;
            for (name, member) in &step.keep {
                let value = match asked.get(member) {
                    Some(Value::String(value)) => Some(value.clone()),
                    other => other.map(Value::to_string),
                };
                let value = value.with_context(|| format!("there is no {member:?} in {text}"))?;
                kept.insert(name.clone(), value);
            }
        }
        if let Some(made) = &step.invoice {
            let invoice = invoice(made, &kept, self.federation.time())?;
            kept.insert(made.name.clone(), invoice);
        }
        let mut object = Map::new();
        for (name, value) in step.says.iter().flatten() {
            let value = match value {
                Typed::Text(text) => resolve(text, &kept)?.into(),
                Typed::Number(number) => (*number).into(),
                Typed::Flag(flag) => (*flag).into(),
            };
            object.insert(name.clone(), value);
        }
        Ok(Value::Object(object).to_string().into_bytes())
    }
}

/// Whether this is how an address ends, and no service.
fn is_http(asked: &str) -> bool {
    asked.contains('/')
}

/// `$name` is what was kept as `name`.
///
/// # Errors
/// Nothing was.
pub(super) fn resolve(text: &str, kept: &Kept) -> Result<String> {
    match text.strip_prefix('$') {
        None => Ok(text.to_owned()),
        Some(name) => kept
            .get(name)
            .cloned()
            .with_context(|| format!("nothing was kept as {name:?} before")),
    }
}

/// A value as a text.
///
/// # Errors
/// As [`resolve`].
pub(super) fn text(value: &Typed, kept: &Kept) -> Result<String> {
    Ok(match value {
        Typed::Text(text) => resolve(text, kept)?,
        Typed::Number(number) => number.to_string(),
        Typed::Flag(flag) => flag.to_string(),
    })
}

/// The invoice's text; `now` is in seconds since 1970.
///
/// # Errors
/// What it is to be made of makes no sense.
pub(super) fn invoice(made: &Invoice, kept: &Kept, now: u64) -> Result<String> {
    let hash = resolve(&made.hash, kept)?;
    let hash = modmint_core::decode_hex(&hash)
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .with_context(|| format!("{hash:?} is no payment hash: 32 bytes in hexadecimal"))?;
    let msat = text(&made.msat, kept)?;
    let msat: u64 = msat
        .parse()
        .with_context(|| format!("{msat:?} is no amount in millisatoshi"))?;
    ensure!(msat > 0, "an invoice over nothing is none");
    let node = SecretKey::from_slice(&[41; 32])?;
    let invoice = InvoiceBuilder::new(Currency::Regtest)
        .description(String::new())
        .payment_hash(sha256::Hash::from_byte_array(hash))
        .payment_secret(PaymentSecret([3; 32]))
        .amount_milli_satoshis(msat)
        .duration_since_epoch(Duration::from_secs(now))
        .expiry_time(DAY)
        .min_final_cltv_expiry_delta(42)
        .build_signed(|message| Secp256k1::new().sign_ecdsa_recoverable(message, &node));
    Ok(invoice?.to_string())
}
