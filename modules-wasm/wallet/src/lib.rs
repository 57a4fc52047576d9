//! The federation's bitcoin.
//!
//! Somebody who wants e-cash for bitcoin pays to a multisig of the guardians' keys,
//! tweaked for this deposit alone; once the block is agreed upon, a [`PegInProof`]
//! turns the output into value, once, for whoever holds the key that the tweak was
//! made from. What wallets do about it is in [`client`], what guardians do in
//! [`server`].

mod client;
mod messages;
mod script;
mod server;

use modmint_sdk::{
    Amount, Arguments, Description, Item, Json, KeyKind, KeySpec, Module, Refusal, Setup, borsh,
    object, parameters,
};

pub use client::{Action, State};
pub use messages::{Deposit, DepositTweak, PegInProof, WalletConfig};
pub use script::{address, display_txid};
pub use server::{DepositQuery, Utxo};

/// The module.
pub struct Wallet;

modmint_sdk::export!(Wallet: federation-module);

parameters! {
    /// What an instance is founded with.
    pub struct Configuration {
        /// Smaller deposits are refused; 10,000 sat unless said otherwise.
        minimum_deposit: Option<Amount>,
    }
}

/// 10,000 sat: what it costs to spend a deposit of a large federation at the fee
/// rates of a busy day.
const DEFAULT_MINIMUM: Amount = Amount(10_000_000);
/// 1,000 sat: less would cost more to spend than it is worth.
const LEAST_MINIMUM: Amount = Amount(1_000_000);

impl Module for Wallet {
    type Config = WalletConfig;

    fn describe() -> Description {
        Description {
            kind: "wallet".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Bitcoin held by the guardians together: deposits.".into(),
            server_storage: 1,
            client_storage: 1,
            configuration: Configuration::parameters(),
            queries: vec![DepositQuery::endpoint("deposit")],
            commands: Vec::new(),
        }
    }

    fn configure(arguments: Arguments) -> Result<Setup<WalletConfig>, Refusal> {
        let Configuration { minimum_deposit } = Configuration::read(arguments)?;
        let minimum = minimum_deposit.unwrap_or(DEFAULT_MINIMUM);
        if minimum < LEAST_MINIMUM {
            return Err(Refusal::new(
                "bad-argument",
                format!(
                    "a minimum of {minimum} is less than it costs to spend a deposit; at least \
                     {LEAST_MINIMUM} is expected"
                ),
            ));
        }
        Ok(Setup {
            config: WalletConfig {
                minimum_deposit: minimum.0,
            },
            keys: vec![KeySpec {
                label: script::KEY.into(),
                kind: KeyKind::Multisig,
            }],
        })
    }

    fn render(item: Item, bytes: &[u8]) -> Result<Json, Refusal> {
        let bad = |what: &str| Refusal::new("bad-encoding", format!("these bytes are no {what}"));
        match item {
            Item::Input => {
                let proof: PegInProof =
                    borsh::from_slice(bytes).map_err(|_| bad("deposit's claim"))?;
                Ok(object! {
                    "type" => "peg-in",
                    "txid" => display_txid(&proof.txid),
                    "vout" => proof.vout,
                    "claim_key" => proof.tweak.claim_key.as_slice(),
                })
            }
            Item::Answer(query) if query == "deposit" => {
                let deposit: Option<Deposit> =
                    borsh::from_slice(bytes).map_err(|_| bad("answer of this query"))?;
                Ok(deposit.map_or(Json::Null, |deposit| {
                    object! {
                        "txid" => display_txid(&deposit.txid),
                        "vout" => deposit.vout,
                        "satoshi" => deposit.satoshi,
                        "height" => deposit.height,
                    }
                }))
            }
            _ => Err(bad("value of this module")),
        }
    }
}

#[cfg(test)]
mod tests {
    use modmint_sdk::mock::{Bundle, Federation, Phase};

    use super::*;

    #[test]
    fn a_minimum_that_does_not_cover_spending_is_refused() {
        let federation = Federation::new(1);
        let instance = federation.found(Bundle::federation_module::<Wallet>(), Vec::new());
        let configure = |minimum| {
            let arguments = Configuration {
                minimum_deposit: Some(Amount(minimum)),
            };
            federation.call(instance, Phase::Pure, None, || {
                Wallet::configure(arguments.arguments().into())
            })
        };
        let refusal = configure(999_999).expect_err("too little");
        assert!(refusal.message.contains("1000 sat"), "{refusal:?}");
        let setup = configure(1_000_000).expect("enough");
        assert_eq!(setup.config.minimum_deposit, 1_000_000);
    }

    #[test]
    fn a_claim_is_shown_with_its_txid_as_people_write_it() {
        let mut txid = [0; 32];
        txid[0] = 0xab;
        let proof = PegInProof {
            txid,
            vout: 1,
            tweak: DepositTweak {
                claim_key: [2; 33],
                nonce: 0,
            },
        };
        let bytes = borsh::to_vec(&proof).expect("writing to memory does not fail");
        let shown = Wallet::render(Item::Input, &bytes).expect("its own");
        assert!(shown.to_string().contains("00ab\",\"vout\":1"), "{shown}");
        assert!(Wallet::render(Item::Input, &bytes[1..]).is_err());
        assert!(Wallet::render(Item::Output, &bytes).is_err());
    }
}
