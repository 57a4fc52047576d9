//! What people are shown of this module's values.

use borsh::BorshDeserialize;
use modmint_sdk::{Item, Json, Refusal, object, to_hex};

use crate::{
    Deposit, Deposits, Overview, PegInProof, PegOut, PegOutOutcome, PegOutQuote, Small, UnderWay,
    WalletItem, display_txid,
};

fn read<T: BorshDeserialize>(what: &str, bytes: &[u8]) -> Result<T, Refusal> {
    borsh::from_slice(bytes)
        .map_err(|_| Refusal::new("bad-encoding", format!("these bytes are no {what}")))
}

/// JSON of a value.
pub fn render(item: Item, bytes: &[u8]) -> Result<Json, Refusal> {
    const ANSWER: &str = "answer of this query";
    Ok(match item {
        Item::Input => peg_in(&read("deposit's claim", bytes)?),
        Item::Output => peg_out(&read("withdrawal", bytes)?),
        Item::Outcome => outcome(&read("withdrawal's outcome", bytes)?),
        Item::ConsensusItem => wallet_item(&read("guardian's item", bytes)?),
        Item::Answer(query) => match query.as_str() {
            "deposit" => deposits(&read(ANSWER, bytes)?),
            "quote" => quote(&read(ANSWER, bytes)?),
            "withdrawal" => read::<Option<PegOutOutcome>>(ANSWER, bytes)?
                .as_ref()
                .map_or(Json::Null, outcome),
            "withdrawals" => overview(&read(ANSWER, bytes)?),
            _ => {
                return Err(Refusal::new(
                    "bad-encoding",
                    format!("there is no query {query:?}"),
                ));
            }
        },
    })
}

fn peg_in(proof: &PegInProof) -> Json {
    object! {
        "type" => "peg-in",
        "txid" => display_txid(&proof.txid),
        "vout" => proof.vout,
        "claim_key" => proof.tweak.claim_key.as_slice(),
    }
}

fn peg_out(output: &PegOut) -> Json {
    object! {
        "type" => "peg-out",
        "script" => output.script.as_slice(),
        "satoshi" => output.satoshi,
        "fee" => output.fee,
    }
}

fn deposits(deposits: &Deposits) -> Json {
    let Small { number, satoshi } = deposits.small;
    object! {
        "deposit" => deposits.deposit.as_ref().map(deposit),
        "small" => object! { "number" => number, "satoshi" => satoshi },
    }
}

fn deposit(deposit: &Deposit) -> Json {
    object! {
        "txid" => display_txid(&deposit.txid),
        "vout" => deposit.vout,
        "satoshi" => deposit.satoshi,
        "height" => deposit.height,
    }
}

fn quote(quote: &PegOutQuote) -> Json {
    object! { "least" => quote.least, "fee" => quote.fee }
}

/// How a withdrawal stands.
pub fn outcome(outcome: &PegOutOutcome) -> Json {
    object! {
        "txids" => outcome.txids.iter().map(display_txid).collect::<Vec<_>>(),
        "buried" => outcome.buried.as_ref().map(display_txid),
    }
}

fn wallet_item(item: &WalletItem) -> Json {
    match item {
        WalletItem::Batch(height) => object! { "type" => "batch", "height" => *height },
        WalletItem::Approve(txid, from) => object! {
            "type" => "approve",
            "txid" => display_txid(txid),
            "from" => *from,
        },
        WalletItem::Sign(txid, signatures) => {
            let signatures: Vec<String> = signatures.iter().map(|s| to_hex(s)).collect();
            object! {
                "type" => "sign",
                "txid" => display_txid(txid),
                "signatures" => signatures,
            }
        }
        WalletItem::Buried(txid) => object! { "type" => "buried", "txid" => display_txid(txid) },
        WalletItem::Stuck(txid) => object! { "type" => "stuck", "txid" => display_txid(txid) },
        WalletItem::Alarm(on) => object! { "type" => "alarm", "on" => *on },
    }
}

fn overview(overview: &Overview) -> Json {
    let under_way = |transaction: &UnderWay| {
        object! {
            "txid" => display_txid(&transaction.txid),
            "replaced" => transaction.replaced,
            "fee" => transaction.fee,
            "payments" => transaction.payments,
            "signers" => transaction.signers.clone(),
        }
    };
    let culprit = |(peer, txid, input): &(u16, [u8; 32], u16)| {
        object! { "peer" => *peer, "txid" => display_txid(txid), "input" => *input }
    };
    object! {
        "waiting" => overview.waiting,
        "waiting_satoshi" => overview.waiting_satoshi,
        "held_satoshi" => overview.held_satoshi,
        "reserve_satoshi" => overview.reserve_satoshi,
        "transactions" => overview.transactions.iter().map(under_way).collect::<Vec<_>>(),
        "alarms" => overview.alarms.clone(),
        "culprits" => overview.culprits.iter().map(culprit).collect::<Vec<_>>(),
    }
}
