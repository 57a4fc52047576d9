//! Invoices, as BOLT 11 has them.

use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};
use lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescriptionRef, Currency};
use modmint_sdk::{Refusal, federation};

use crate::PaymentHash;

/// An invoice of this federation's network with a good signature and an amount.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Invoice {
    /// As it was given, without a scheme.
    pub text: String,
    /// Of the preimage that paying it brings.
    pub payment_hash: PaymentHash,
    /// Millisatoshi.
    pub amount: u64,
    /// From then on nobody should pay it, seconds since 1970.
    pub expires: u64,
    /// What it is for; empty if only its hash is known.
    pub description: String,
    /// The hash of what it is for.
    pub description_hash: Option<[u8; 32]>,
}

impl Invoice {
    /// Reads and checks one; not whether it has expired.
    ///
    /// # Errors
    /// `bad-invoice`, `wrong-network`, `no-amount`.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        let text = match text.get(..10) {
            Some(scheme) if scheme.eq_ignore_ascii_case("lightning:") => &text[10..],
            _ => text,
        };
        // Checks the signature too.
        let invoice: Bolt11Invoice = text.parse().map_err(|error| {
            Refusal::new(
                "bad-invoice",
                format!("this is no Lightning invoice (BOLT 11): {error}"),
            )
        })?;
        let network = match invoice.currency() {
            Currency::Bitcoin => "bitcoin",
            Currency::BitcoinTestnet => "testnet4",
            Currency::Signet => "signet",
            Currency::Regtest => "regtest",
            Currency::Simnet => "simnet",
        };
        let ours = federation::network();
        if network != ours {
            return Err(Refusal::new(
                "wrong-network",
                format!("this invoice is of the network {network}, the federation is on {ours}"),
            ));
        }
        let amount = invoice.amount_milli_satoshis().filter(|amount| *amount > 0);
        let amount = amount.ok_or_else(|| {
            Refusal::new(
                "no-amount",
                "this invoice leaves the amount to its payer; ask for one with an amount",
            )
        })?;
        let (description, description_hash) = match invoice.description() {
            Bolt11InvoiceDescriptionRef::Direct(text) => (text.to_string(), None),
            Bolt11InvoiceDescriptionRef::Hash(hash) => {
                (String::new(), Some(*AsRef::<[u8; 32]>::as_ref(&hash.0)))
            }
        };
        Ok(Self {
            text: text.to_owned(),
            payment_hash: *AsRef::<[u8; 32]>::as_ref(invoice.payment_hash()),
            amount,
            expires: invoice
                .expires_at()
                .unwrap_or(Duration::from_secs(u64::MAX))
                .as_secs(),
            description,
            description_hash,
        })
    }

    /// Refuses what nobody should pay any more.
    ///
    /// # Errors
    /// `invoice-expired`.
    pub fn check_time(&self, now: u64) -> Result<(), Refusal> {
        if self.expires <= now {
            return Err(Refusal::new(
                "invoice-expired",
                format!(
                    "this invoice has expired {} seconds ago; ask for a new one",
                    now - self.expires
                ),
            ));
        }
        Ok(())
    }
}
