//! The federation's bitcoin.
//!
//! Somebody who wants e-cash for bitcoin pays to a multisig of the guardians' keys,
//! tweaked for this deposit alone; once the block is agreed upon, a [`PegInProof`]
//! turns the output into value, once, for whoever holds the key that the tweak was
//! made from. Somebody who wants bitcoin for e-cash makes a [`PegOut`]; the guardians
//! sign a transaction together and broadcast it until it is buried.
//!
//! What wallets do is in [`client`] and [`withdraw`], what guardians do in [`server`]
//! and [`withdrawals`]. Bitcoin's own formats are in [`address`], [`script`] and
//! [`transaction`].

mod address;
mod client;
mod messages;
mod render;
mod script;
mod server;
mod transaction;
mod withdraw;
mod withdrawals;

use modmint_sdk::{
    Amount, Arguments, Description, Item, Json, KeyKind, KeySpec, Module, Refusal, Setup,
    parameters,
};

pub use address::{parse as parse_address, text as address};
pub use client::{Action, State};
pub use messages::{
    Deposit, DepositTweak, Deposits, Overview, PegInProof, PegOut, PegOutOutcome, PegOutQuote,
    Small, UnderWay, WalletConfig, WalletItem,
};
pub use script::display_txid;
pub use server::{DepositQuery, OverviewQuery, QuoteQuery, WithdrawalQuery};
pub use withdraw::{WithdrawAction, Withdrawal};
pub use withdrawals::{
    MAX_INPUTS, MAX_PAYMENTS, MAX_VERSIONS, PATIENT_BLOCKS, STUCK_BLOCKS, UNSEEN_BLOCKS,
};

/// The module.
pub struct Wallet;

modmint_sdk::export!(Wallet: federation-module);

parameters! {
    /// What an instance is founded with.
    pub struct Configuration {
        /// Smaller deposits are refused.
        minimum_deposit: Amount = DEFAULT_MINIMUM,
        /// What each deposit pays into the reserve for fees on the chain, in whole satoshi.
        deposit_fee: Amount = DEFAULT_DEPOSIT_FEE,
    }
}

/// 10,000 sat: what it costs to spend a deposit of a large federation at the fee
/// rates of a busy day.
const DEFAULT_MINIMUM: Amount = Amount(10_000_000);
/// 1,000 sat: less would cost more to spend than it is worth.
const LEAST_MINIMUM: Amount = Amount(1_000_000);
/// 200 sat: half as much again as it costs to spend a deposit of four guardians (133
/// virtual bytes) when the chain is empty.
const DEFAULT_DEPOSIT_FEE: Amount = Amount(200_000);

impl Module for Wallet {
    type Config = WalletConfig;

    fn describe() -> Description {
        Description {
            kind: "wallet".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Bitcoin held by the guardians together: deposits and withdrawals.".into(),
            server_storage: 1,
            client_storage: 2,
            configuration: Configuration::parameters(),
            queries: vec![
                DepositQuery::endpoint("deposit"),
                QuoteQuery::endpoint("quote"),
                WithdrawalQuery::endpoint("withdrawal"),
                OverviewQuery::endpoint("withdrawals"),
            ],
            commands: Vec::new(),
        }
    }

    fn configure(arguments: Arguments) -> Result<Setup<WalletConfig>, Refusal> {
        let Configuration {
            minimum_deposit: minimum,
            deposit_fee: fee,
        } = Configuration::read(arguments)?;
        if minimum < LEAST_MINIMUM {
            return Err(Refusal::new(
                "bad-argument",
                format!(
                    "a minimum of {minimum} is less than it costs to spend a deposit; at least \
                     {LEAST_MINIMUM} is expected"
                ),
            ));
        }
        if fee >= minimum || !fee.0.is_multiple_of(1000) {
            return Err(Refusal::new(
                "bad-argument",
                format!(
                    "a deposit fee of {fee} is expected to be whole satoshi, and less than the \
                     minimum of {minimum}"
                ),
            ));
        }
        Ok(Setup {
            config: WalletConfig {
                minimum_deposit: minimum.0,
                deposit_fee: fee.0,
            },
            keys: vec![KeySpec {
                label: script::KEY.into(),
                kind: KeyKind::Multisig,
            }],
        })
    }

    fn render(item: Item, bytes: &[u8]) -> Result<Json, Refusal> {
        render::render(item, bytes)
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
                minimum_deposit: Amount(minimum),
                deposit_fee: DEFAULT_DEPOSIT_FEE,
            };
            federation.call(instance, Phase::Pure, None, || {
                Wallet::configure(arguments.arguments().into())
            })
        };
        let refusal = configure(999_999).expect_err("too little");
        assert!(refusal.message.contains("1000 sat"), "{refusal:?}");
        let setup = configure(1_000_000).expect("enough");
        assert_eq!(setup.config.minimum_deposit, 1_000_000);
        assert_eq!(setup.config.deposit_fee, 200_000);
    }

    #[test]
    fn a_deposit_fee_that_eats_deposits_or_is_no_whole_satoshi_is_refused() {
        let federation = Federation::new(1);
        let instance = federation.found(Bundle::federation_module::<Wallet>(), Vec::new());
        for (fee, accepted) in [
            (10_000_000, false),
            (1, false),
            (9_999_000, true),
            (0, true),
        ] {
            let arguments = Configuration {
                minimum_deposit: DEFAULT_MINIMUM,
                deposit_fee: Amount(fee),
            };
            let setup = federation.call(instance, Phase::Pure, None, || {
                Wallet::configure(arguments.arguments().into())
            });
            assert_eq!(setup.is_ok(), accepted, "{fee}");
        }
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
