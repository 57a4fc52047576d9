//! JSON to and from gateways: their public routes and, for a gateway's own wallet, the
//! services of its daemon.

use modmint_sdk::{
    EffectResult, HttpRequest, Json, Refusal, ServiceRequest, Want, federation, to_hex,
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{ContractId, Preimage};

/// `GET {api}/v1/federations/{id}/routing`
#[derive(Deserialize)]
pub struct Routing {
    /// Hexadecimal, 33 bytes.
    pub gateway_key: String,
    /// `bitcoin`, `testnet4`, `signet` or `regtest`.
    pub network: String,
    /// What it asks for paying.
    pub pay_base_msat: u64,
    /// What it asks for paying.
    pub pay_parts_per_million: u64,
    /// What it asks for receiving.
    pub receive_base_msat: u64,
    /// What it asks for receiving.
    pub receive_parts_per_million: u64,
    /// How many blocks the timelock of an outgoing contract has to be away.
    pub minimum_timelock_blocks: u32,
    /// The largest invoice.
    pub maximum_invoice_msat: u64,
}

/// `POST {api}/v1/federations/{id}/payments`
#[derive(Deserialize)]
pub struct PaymentState {
    /// `pending`, `paid` or `failed`.
    pub state: String,
}

/// `POST {api}/v1/federations/{id}/invoices`
#[derive(Deserialize)]
pub struct NewInvoice {
    /// BOLT 11.
    pub invoice: String,
}

/// The answer of the service `lightning.pay`.
#[derive(Deserialize)]
pub struct Paid {
    /// Hexadecimal, 32 bytes.
    pub preimage: String,
    /// What routing has cost.
    pub fee_msat: u64,
}

/// What a gateway refuses with.
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default, alias = "detail", alias = "reason")]
    message: String,
}

/// A route of the gateway at `api`, for this federation.
fn route(api: &str, name: &str) -> String {
    let federation = to_hex(&federation::id());
    format!("{api}/v1/federations/{federation}/{name}")
}

/// A request without a body.
pub fn get(url: String) -> Want {
    Want::Http(HttpRequest {
        method: "GET".into(),
        url,
        headers: vec![("accept".into(), "application/json".into())],
        body: Vec::new(),
    })
}

fn post(url: String, body: &Json) -> Want {
    Want::Http(HttpRequest {
        method: "POST".into(),
        url,
        headers: vec![
            ("accept".into(), "application/json".into()),
            ("content-type".into(), "application/json".into()),
        ],
        body: body.to_string().into_bytes(),
    })
}

/// Asks for a quote.
pub fn ask_routing(api: &str) -> Want {
    get(route(api, "routing"))
}

/// Tells of an outgoing contract that is accepted, signed by its payer.
pub fn tell_payment(api: &str, invoice: &str, contract: &ContractId, signature: &[u8; 64]) -> Want {
    let body = modmint_sdk::object! {
        "invoice" => invoice,
        "contract" => contract.as_slice(),
        "signature" => signature.as_slice(),
    };
    post(route(api, "payments"), &body)
}

/// Asks for an invoice.
pub fn ask_invoice(api: &str, body: &Json) -> Want {
    post(route(api, "invoices"), body)
}

/// A service of the daemon around a gateway's wallet.
pub fn service(name: &str, request: &Json) -> Want {
    Want::Service(ServiceRequest {
        name: name.into(),
        request: request.to_string().into_bytes(),
    })
}

/// JSON that somebody sent.
///
/// # Errors
/// `bad-answer`.
pub fn read<T: DeserializeOwned>(who: &str, bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| {
        Refusal::new(
            "bad-answer",
            format!("{who} answers what makes no sense: {error}"),
        )
    })
}

/// What an HTTP request has brought.
///
/// # Errors
/// What the other side refused with, or `bad-answer`.
pub fn read_response<T: DeserializeOwned>(who: &str, outcome: EffectResult) -> Result<T, Refusal> {
    match outcome {
        EffectResult::Response(response) if (200..300).contains(&response.status) => {
            read(who, &response.body)
        }
        EffectResult::Response(response) => {
            let problem: Option<Problem> = serde_json::from_slice(&response.body).ok();
            let said = problem.map_or_else(String::new, |problem| {
                let message: String = problem.message.chars().take(200).collect();
                format!(": {} {message}", problem.code)
            });
            Err(Refusal::new(
                "gateway-refuses",
                format!("{who} answers {}{said}", response.status),
            ))
        }
        EffectResult::Failed(refusal) => Err(refusal),
        _ => Err(Refusal::new(
            "unexpected-answer",
            "the host answered a request with something else",
        )),
    }
}

/// So many bytes in hexadecimal.
pub fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// The preimage in an answer, if it is of this hash.
pub fn preimage_of(text: &str, payment_hash: &[u8; 32]) -> Option<Preimage> {
    hex(text).filter(|preimage| modmint_sdk::crypto::sha256(preimage) == *payment_hash)
}
