//! A day in the life of a module, as a file: who does what, in order.
//!
//! ```toml
//! # What the module is configured with, as somebody would type it.
//! configuration = { fee = "1 sat" }
//! # Satoshi that each wallet begins with.
//! money = 100000
//!
//! [[step]]
//! wallet = "seller"
//! action = "key"
//! keep = { seller_key = "key" }    # a detail of what is shown, to be used below
//!
//! [[step]]
//! wallet = "buyer"
//! action = "open"
//! with = { amount = "50000 sat", seller = "$seller_key" }
//! refused = "bad-argument"         # the code, if it must be
//!
//! [[step]]
//! mine = 10                        # blocks; `pass = 60`: seconds
//!
//! [[step]]
//! wallet = "seller"
//! balance = 50_000                 # satoshi that it must have now
//!
//! # What an HTTP request to an address that ends so is answered from here on. Without a
//! # slash: what a service of the application around the wallet says.
//! [[step]]
//! answer = "/invoices"
//! keep = { hash = "payment_hash", amount = "amount_msat" }   # members of the request
//! invoice = { name = "invoice", hash = "$hash", msat = "$amount" }
//! says = { invoice = "$invoice" }  # as JSON; or `fails = "unreachable"`: the code
//!
//! # The most fuel that a call may cost, by the export.
//! [fuel]
//! process-output = 150_000
//! ```

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::kit::fuel::Budgets;

/// The file's name in a module's folder.
pub const FILE: &str = "conformance.toml";

/// What happens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// How many guardians there are.
    #[serde(default = "four")]
    pub guardians: u16,
    /// What each wallet begins with, satoshi; nothing where the money is not the mock's.
    #[serde(default = "much")]
    pub money: u64,
    /// Stock modules that are founded before it, by kind: e-cash needs deposits.
    #[serde(default)]
    pub beside: Vec<String>,
    /// What the module is configured with.
    #[serde(default)]
    pub configuration: BTreeMap<String, Typed>,
    /// The most fuel that a call of each export may cost here.
    #[serde(default)]
    pub fuel: Budgets,
    /// In this order.
    #[serde(default, rename = "step")]
    pub steps: Vec<Step>,
}

/// A value as somebody types it: a text, or a number or flag without quotes.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Typed {
    /// `"1 sat"`
    Text(String),
    /// `3`
    Number(u64),
    /// `true`
    Flag(bool),
}

/// One thing that happens; see the module's example.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Whose wallet; it is made when an action of it is named first.
    pub wallet: Option<String>,
    /// What it does.
    pub action: Option<String>,
    /// Of which kind of module; the one that is tested unless said otherwise.
    pub of: Option<String>,
    /// The action's arguments. `$name` is what was kept as `name`.
    #[serde(default)]
    pub with: BTreeMap<String, Typed>,
    /// Details of what is shown, or members of what is asked, by the name to keep them
    /// under.
    #[serde(default)]
    pub keep: BTreeMap<String, String>,
    /// The code that it is refused with, at its begin or at its end.
    pub refused: Option<String>,
    /// So many blocks are mined.
    pub mine: Option<u32>,
    /// So many seconds pass.
    pub pass: Option<u64>,
    /// An address or, in hexadecimal, a script is paid to …
    pub pay: Option<String>,
    /// … so many satoshi.
    pub satoshi: Option<u64>,
    /// What the wallet has, satoshi.
    pub balance: Option<u64>,
    /// What is answered from here on: a service by its name, or HTTP by how the address
    /// ends, which has a slash in it …
    pub answer: Option<String>,
    /// … with this JSON object …
    pub says: Option<BTreeMap<String, Typed>>,
    /// … or not at all, with this code.
    pub fails: Option<String>,
    /// An invoice is made; with `answer`, for each request.
    pub invoice: Option<Invoice>,
}

/// A Lightning invoice (BOLT 11) of a node that nobody runs, good for a day.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoice {
    /// What it is kept under.
    pub name: String,
    /// The payment hash, in hexadecimal.
    pub hash: String,
    /// Over how much, millisatoshi.
    pub msat: Typed,
}

const fn four() -> u16 {
    4
}
const fn much() -> u64 {
    1_000_000
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            guardians: four(),
            money: much(),
            beside: Vec::new(),
            configuration: BTreeMap::new(),
            fuel: Budgets::new(),
            steps: Vec::new(),
        }
    }
}

impl Scenario {
    /// Reads one.
    ///
    /// # Errors
    /// There is no such file, or it is not as the module's example.
    pub fn read(file: &Path) -> Result<Self> {
        let told = || file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(told)?;
        Self::parse(&text).with_context(told)
    }

    fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        for (number, step) in (1..).zip(&scenario.steps) {
            step.check().with_context(|| format!("step {number}"))?;
        }
        Ok(scenario)
    }
}

impl Step {
    fn check(&self) -> Result<()> {
        let kinds = [
            self.action.is_some(),
            self.balance.is_some(),
            self.mine.is_some(),
            self.pass.is_some(),
            self.pay.is_some(),
            self.answer.is_some(),
            self.invoice.is_some() && self.answer.is_none(),
        ];
        ensure!(
            kinds.into_iter().filter(|there| *there).count() == 1,
            "one of `action`, `balance`, `mine`, `pass`, `pay`, `answer` and `invoice` is expected"
        );
        let somebodys = self.action.is_some() || self.balance.is_some();
        match (somebodys, &self.wallet) {
            (true, None) => bail!("`wallet` is expected with `action` and `balance`"),
            (false, Some(_)) => bail!("`wallet` goes with `action` or `balance`"),
            _ => {}
        }
        let ways = [self.says.is_some(), self.fails.is_some()];
        ensure!(
            ways.into_iter().filter(|there| *there).count() == usize::from(self.answer.is_some()),
            "`answer` goes with one of `says` and `fails`"
        );
        ensure!(
            self.pay.is_some() == self.satoshi.is_some(),
            "`pay` and `satoshi` go together"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_step_is_said() {
        let good = "[[step]]\nwallet = \"a\"\naction = \"x\"\n[[step]]\nmine = 3";
        assert_eq!(Scenario::parse(good).expect("well-formed").steps.len(), 2);
        for (text, why) in [
            ("[[step]]\nmine = 1\npass = 1", "one of `action`"),
            ("[[step]]\naction = \"x\"", "`wallet` is expected"),
            ("[[step]]\nmine = 1\nwallet = \"a\"", "goes with `action`"),
            ("[[step]]\npay = \"00\"", "go together"),
            ("[[step]]\nbalance = 1", "`wallet` is expected"),
            ("[[step]]\nanswer = \"a\"", "one of `says` and `fails`"),
            ("[[step]]\nmine = 1\nfails = \"a\"", "goes with one"),
            ("[[step]]\nmien = 1", "unknown field"),
            ("guardian = 4", "unknown field"),
        ] {
            let told = format!("{:#}", Scenario::parse(text).expect_err(text));
            assert!(told.contains(why), "{told}");
        }
    }
}
