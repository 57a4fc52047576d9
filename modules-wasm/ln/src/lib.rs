//! Lightning: invoices paid from e-cash, and e-cash received for invoices, through
//! gateways that nobody has to trust with more than a payment in flight.
//!
//! A payer funds an *outgoing* contract; the gateway pays the invoice and claims the
//! contract with the preimage, or cancels it, or the payer takes it back once the
//! timelock has passed. A receiver gives a gateway an *offer*: the terms, and the
//! preimage encrypted to the federation under exactly these terms. The gateway makes an
//! invoice for the offer's hash and, when it holds the payment, buys the offer with an
//! *incoming* contract: guardians give it their decryption shares, the preimage settles
//! the payment, and the receiver takes the money. `docs/lightning.md` says who wins
//! each race.
//!
//! What guardians do is in [`server`]; what people's wallets do in [`pay`], [`receive`]
//! and [`gateways`], what a gateway's does in [`gateway`]; [`client`] holds them
//! together, [`invoice`] reads invoices and [`lnurl`] what stands for one.

mod api;
mod client;
mod gateway;
mod gateways;
mod invoice;
mod lnurl;
mod messages;
mod pay;
mod receive;
mod recovery;
mod render;
mod server;

use modmint_sdk::{
    Amount, Arguments, Description, Item, Json, KeyKind, KeySpec, Module, Refusal, Setup,
    parameters,
};

pub use client::State;
pub use gateway::{
    AnnounceAction, CLAIM_MARGIN_BLOCKS, GatewayKeyAction, GatewayPay, GatewayPayAction,
    GatewayReceive, GatewayReceiveAction,
};
pub use gateways::GatewaysAction;
pub use messages::{
    Announcement, Bought, CIPHERTEXT, CancelOutgoing, Contract, ContractId, ContractInput,
    ContractOrOfferOutput, Gateway, GatewayFee, IncomingContract, KEY, KnownGateway, LnConfig,
    LnItem, Offer, OfferId, OpenContract, Outgoing, OutgoingContract, PaymentHash, Preimage,
    PublicKey, Refundable, announces, asks_for_shares, asks_to_pay, cancels, contract_id,
};
pub use pay::PayAction;
pub use receive::InvoiceAction;
pub use server::{
    ContractsQuery, GatewaysQuery, IncomingQuery, MOST_GATEWAYS, MOST_LIFETIME_SECONDS,
    MOST_OFFER_SECONDS, MOST_TIMELOCK_BLOCKS, MOST_VETTED, OffersQuery, OutgoingQuery,
    PREIMAGE_SECONDS, PreimageQuery, RefundableQuery, SharesQuery, VetCommand,
};

/// The module.
pub struct Ln;

modmint_sdk::export!(Ln: federation-module);

parameters! {
    /// What an instance is founded with.
    pub struct Configuration {
        /// For each contract, paid by whoever funds it.
        contract_fee: Amount = DEFAULT_FEE,
        /// For each published offer.
        offer_fee: Amount = DEFAULT_FEE,
        /// For each announcement of a gateway.
        announcement_fee: Amount = DEFAULT_ANNOUNCEMENT_FEE,
    }
}

/// 1 sat.
const DEFAULT_FEE: Amount = Amount(1_000);
/// 10 sat.
const DEFAULT_ANNOUNCEMENT_FEE: Amount = Amount(10_000);
/// 100,000 sat: above this, Lightning is for nobody.
const MOST_FEE: Amount = Amount(100_000_000);

impl Module for Ln {
    type Config = LnConfig;

    fn describe() -> Description {
        Description {
            kind: "ln".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Lightning, through gateways that nobody has to trust.".into(),
            server_storage: 1,
            client_storage: 1,
            configuration: Configuration::parameters(),
            queries: vec![
                OutgoingQuery::endpoint("outgoing"),
                RefundableQuery::endpoint("refundable"),
                PreimageQuery::endpoint("preimage"),
                IncomingQuery::endpoint("incoming"),
                SharesQuery::endpoint("decryption-share"),
                GatewaysQuery::endpoint("gateways"),
                OffersQuery::endpoint("offers"),
                ContractsQuery::endpoint("contracts"),
            ],
            commands: vec![VetCommand::endpoint("vet")],
        }
    }

    fn configure(arguments: Arguments) -> Result<Setup<LnConfig>, Refusal> {
        let Configuration {
            contract_fee,
            offer_fee,
            announcement_fee,
        } = Configuration::read(arguments)?;
        let fee = |name: &str, fee: Amount| {
            if fee > MOST_FEE {
                return Err(Refusal::new(
                    "bad-argument",
                    format!("{name} is {fee}; at most {MOST_FEE} is expected"),
                ));
            }
            Ok(fee.0)
        };
        Ok(Setup {
            config: LnConfig {
                contract_fee: fee("contract-fee", contract_fee)?,
                offer_fee: fee("offer-fee", offer_fee)?,
                announcement_fee: fee("announcement-fee", announcement_fee)?,
            },
            keys: vec![KeySpec {
                label: KEY.into(),
                kind: KeyKind::Decryption,
            }],
        })
    }

    fn render(item: Item, bytes: &[u8]) -> Result<Json, Refusal> {
        render::render(item, bytes)
    }
}
