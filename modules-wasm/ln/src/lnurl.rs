//! Lightning addresses and LNURLs (LUD-01, LUD-06, LUD-16, LUD-17): what stands for an
//! invoice and is asked for one.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{Amount, EffectResult, Refusal, crypto, federation};
use serde::Deserialize;

use crate::{api, invoice::Invoice};

/// An address that is being looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Lookup {
    /// What is to be paid, millisatoshi.
    amount: u64,
    /// The hash of what the receiver says of itself, once it has: the invoice is asked
    /// for then.
    described: Option<[u8; 32]>,
}

/// What comes next.
pub enum PayRequest {
    /// This is asked.
    Ask(Lookup, String),
    /// It is found.
    Invoice(Invoice),
}

/// LUD-06, the first answer.
#[derive(Deserialize)]
struct Offered {
    tag: Option<String>,
    callback: Option<String>,
    #[serde(rename = "minSendable")]
    least: Option<u64>,
    #[serde(rename = "maxSendable")]
    most: Option<u64>,
    metadata: Option<String>,
    /// LUD-01: what was wrong, whatever the status.
    reason: Option<String>,
}

/// LUD-06, the second one.
#[derive(Deserialize)]
struct Issued {
    pr: Option<String>,
    reason: Option<String>,
}

/// The URL behind an address or LNURL; none if the text is neither.
///
/// # Errors
/// `bad-lnurl`.
pub fn address(text: &str) -> Result<Option<String>, Refusal> {
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    let bare = lower.strip_prefix("lightning:").unwrap_or(&lower);
    if bare.starts_with("lnurl1") {
        let bad = || {
            Refusal::new(
                "bad-lnurl",
                "this is no LNURL: a web address in bech32 is expected, lnurl1…",
            )
        };
        let (_, bytes) = bech32::decode(bare).map_err(|_| bad())?;
        return Ok(Some(String::from_utf8(bytes).map_err(|_| bad())?));
    }
    if let Some(rest) = lower.strip_prefix("lnurlp://") {
        // Paths keep their case.
        let rest = &text[text.len() - rest.len()..];
        return Ok(Some(format!("{}://{rest}", scheme())));
    }
    let Some((name, host)) = bare.split_once('@') else {
        return Ok(None);
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    let is_host = !host.is_empty() && host.chars().all(|c| allowed(c) || "[]:".contains(c));
    if name.is_empty() || !name.chars().all(allowed) || !is_host {
        return Err(Refusal::new(
            "bad-lnurl",
            "this is no Lightning address: name@host is expected, of letters, digits and -_.+",
        ));
    }
    Ok(Some(format!(
        "{}://{host}/.well-known/lnurlp/{name}",
        scheme()
    )))
}

/// On regtest everything is on one machine.
fn scheme() -> &'static str {
    match federation::network().as_str() {
        "regtest" => "http",
        _ => "https",
    }
}

impl Lookup {
    /// For a payment of so many millisatoshi.
    pub fn new(amount: u64) -> Self {
        Self {
            amount,
            described: None,
        }
    }

    /// Takes an answer in.
    ///
    /// # Errors
    /// What the receiver refuses with, or what is wrong with its answer.
    pub fn hear(self, outcome: EffectResult) -> Result<PayRequest, Refusal> {
        match self.described {
            None => self.offered(outcome),
            Some(described) => self.issued(&described, outcome),
        }
    }

    fn offered(self, outcome: EffectResult) -> Result<PayRequest, Refusal> {
        let Offered {
            tag,
            callback,
            least,
            most,
            metadata,
            reason,
        } = api::read_response("the receiver", outcome)?;
        refuse(reason)?;
        let (Some("payRequest"), Some(callback), Some(least), Some(most)) =
            (tag.as_deref(), callback, least, most)
        else {
            return Err(Refusal::new(
                "bad-lnurl",
                "this LNURL is not for paying; a payRequest is expected",
            ));
        };
        if !(least..=most).contains(&self.amount) {
            return Err(Refusal::new(
                "bad-amount",
                format!(
                    "the receiver takes {} to {}, not {}",
                    Amount(least),
                    Amount(most),
                    Amount(self.amount)
                ),
            ));
        }
        let described = crypto::sha256(metadata.unwrap_or_default().as_bytes());
        let join = if callback.contains('?') { '&' } else { '?' };
        let url = format!("{callback}{join}amount={}", self.amount);
        let next = Self {
            described: Some(described),
            ..self
        };
        Ok(PayRequest::Ask(next, url))
    }

    fn issued(&self, described: &[u8; 32], outcome: EffectResult) -> Result<PayRequest, Refusal> {
        let Issued { pr, reason } = api::read_response("the receiver", outcome)?;
        refuse(reason)?;
        let invoice =
            pr.ok_or_else(|| Refusal::new("bad-lnurl", "the receiver sent no invoice"))?;
        let invoice = Invoice::read(&invoice)?;
        if invoice.amount != self.amount {
            return Err(Refusal::new(
                "wrong-amount",
                format!(
                    "the receiver's invoice is over {}, asked for were {}",
                    Amount(invoice.amount),
                    Amount(self.amount)
                ),
            ));
        }
        // Receivers may leave it out; one that names another text is not to be trusted.
        if invoice
            .description_hash
            .is_some_and(|hash| hash != *described)
        {
            return Err(Refusal::new(
                "bad-lnurl",
                "the receiver's invoice is for something else than it said",
            ));
        }
        Ok(PayRequest::Invoice(invoice))
    }
}

fn refuse(reason: Option<String>) -> Result<(), Refusal> {
    match reason {
        Some(reason) => Err(Refusal::new(
            "receiver-refuses",
            format!(
                "the receiver says: {}",
                reason.chars().take(200).collect::<String>()
            ),
        )),
        None => Ok(()),
    }
}
