//! What people are shown of this module's values.

use borsh::BorshDeserialize;
use modmint_sdk::{Amount, Item, Json, Refusal, object};

use crate::{
    Bought, CancelOutgoing, Contract, ContractInput, ContractOrOfferOutput, IncomingContract,
    KnownGateway, LnItem, Offer, OpenContract, Outgoing, OutgoingContract, Preimage, Refundable,
};

fn read<T: BorshDeserialize>(bytes: &[u8]) -> Result<T, Refusal> {
    borsh::from_slice(bytes)
        .map_err(|_| Refusal::new("bad-encoding", "these bytes are none of this module's"))
}

/// JSON of a value.
pub fn render(item: Item, bytes: &[u8]) -> Result<Json, Refusal> {
    Ok(match item {
        Item::Input => input(&read(bytes)?),
        Item::Output => output(&read(bytes)?),
        Item::ConsensusItem => {
            let LnItem::Vet { gateway_key, good } = read(bytes)?;
            object! { "type" => "vet", "gateway_key" => gateway_key.as_slice(), "good" => good }
        }
        Item::Outcome => return read::<()>(bytes).map(|()| Json::Null),
        Item::Answer(query) => match query.as_str() {
            "outgoing" => {
                let Outgoing {
                    contract,
                    cancelled,
                } = read(bytes)?;
                object! { "contract" => outgoing(&contract), "cancelled" => cancelled }
            }
            "refundable" => match read(bytes)? {
                Refundable::Cancelled => "cancelled".into(),
                Refundable::TimedOut => "timed-out".into(),
                Refundable::Gone => "gone".into(),
            },
            "preimage" => read::<Preimage>(bytes)?.as_slice().into(),
            "incoming" => match read(bytes)? {
                Bought::Funded => "funded".into(),
                Bought::Over => "over".into(),
                Bought::Expired => "expired".into(),
            },
            // A share is the host's, not this module's.
            "decryption-share" => bytes.into(),
            "gateways" => {
                let known: Vec<KnownGateway> = read(bytes)?;
                known.iter().map(Json::from).collect::<Vec<_>>().into()
            }
            "offers" => {
                let offers: Vec<Offer> = read(bytes)?;
                offers.iter().map(offer).collect::<Vec<_>>().into()
            }
            "contracts" => {
                let open: Vec<OpenContract> = read(bytes)?;
                let shown = open.iter().map(|open| {
                    object! {
                        "id" => open.id.as_slice(),
                        "contract" => contract(&open.contract),
                        "cancelled" => open.cancelled,
                    }
                });
                shown.collect::<Vec<_>>().into()
            }
            _ => {
                return Err(Refusal::new(
                    "bad-encoding",
                    format!("there is no query {query:?}"),
                ));
            }
        },
    })
}

fn input(input: &ContractInput) -> Json {
    match input {
        ContractInput::Claim { contract, preimage } => object! {
            "type" => "claim",
            "contract" => contract.as_slice(),
            "preimage" => preimage.as_slice(),
        },
        ContractInput::RefundTimeout { contract } => object! {
            "type" => "refund-timeout",
            "contract" => contract.as_slice(),
        },
        ContractInput::RefundCancelled { contract } => object! {
            "type" => "refund-cancelled",
            "contract" => contract.as_slice(),
        },
        ContractInput::ClaimIncoming { offer, preimage } => object! {
            "type" => "claim-incoming",
            "offer" => offer.as_slice(),
            "preimage" => preimage.as_slice(),
        },
        ContractInput::RefundJunk {
            offer,
            decryption_key,
        } => object! {
            "type" => "refund-junk",
            "offer" => offer.as_slice(),
            "decryption_key" => decryption_key.as_slice(),
        },
    }
}

fn output(output: &ContractOrOfferOutput) -> Json {
    match output {
        ContractOrOfferOutput::Contract(shown) => contract(shown),
        ContractOrOfferOutput::Offer(shown) => offer(shown),
        ContractOrOfferOutput::CancelOutgoing(CancelOutgoing { contract, .. }) => object! {
            "type" => "cancel-outgoing",
            "contract" => contract.as_slice(),
        },
        ContractOrOfferOutput::Announcement(announcement) => object! {
            "type" => "announcement",
            "gateway" => &announcement.gateway,
        },
    }
}

fn contract(contract: &Contract) -> Json {
    match contract {
        Contract::Outgoing(contract) => outgoing(contract),
        Contract::Incoming(IncomingContract {
            offer: bought,
            gateway_key,
        }) => object! {
            "type" => "incoming",
            "gateway_key" => gateway_key.as_slice(),
            "offer" => offer(bought),
        },
    }
}

fn outgoing(contract: &OutgoingContract) -> Json {
    object! {
        "type" => "outgoing",
        "payment_hash" => contract.payment_hash.as_slice(),
        "amount_msat" => Amount(contract.amount),
        "gateway_key" => contract.gateway_key.as_slice(),
        "user_key" => contract.user_key.as_slice(),
        "timelock_height" => contract.timelock,
    }
}

fn offer(offer: &Offer) -> Json {
    object! {
        "type" => "offer",
        "payment_hash" => offer.payment_hash.as_slice(),
        "amount_msat" => Amount(offer.amount),
        "claim_key" => offer.claim_key.as_slice(),
        "gateway_key" => offer.gateway_key.map(|key| Json::from(key.as_slice())),
        "expiry" => offer.expiry,
        "ciphertext" => offer.ciphertext.as_slice(),
    }
}
