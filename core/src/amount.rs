//! Money.

use std::{fmt, iter::Sum, ops::Add, str::FromStr};

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

/// Millisatoshi. In JSON a number of millisatoshi; for people see `Display` and
/// `FromStr`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Amount(pub u64);

/// Text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no amount: write for example 1000sat, \"1000 sat\", 0.001btc or 500msat")]
pub struct ParseAmountError {
    given: String,
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// A whole number of satoshi; none where it does not fit.
    pub const fn from_sat(sat: u64) -> Option<Self> {
        match sat.checked_mul(1000) {
            Some(msat) => Some(Self(msat)),
            None => None,
        }
    }

    /// In millisatoshi.
    pub const fn msat(self) -> u64 {
        self.0
    }

    /// The sum; none where it does not fit.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(msat) => Some(Self(msat)),
            None => None,
        }
    }

    /// The difference; none where it would be negative.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(msat) => Some(Self(msat)),
            None => None,
        }
    }
}

impl Add for Amount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// Satoshi with as many decimals as there are, for example `1000 sat` or
/// `0.512 sat`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sat, rest) = (self.0 / 1000, self.0 % 1000);
        let text = if rest == 0 {
            format!("{sat} sat")
        } else {
            let decimals = format!("{rest:03}");
            format!("{sat}.{} sat", decimals.trim_end_matches('0'))
        };
        f.pad(&text)
    }
}

impl FromStr for Amount {
    type Err = ParseAmountError;

    /// `<number><unit>` with unit `msat`, `sat`, `sats` or `btc`, a space between
    /// them or not. A number without a unit is refused: nobody should have to
    /// guess what 1000 means.
    fn from_str(text: &str) -> Result<Self, ParseAmountError> {
        let wrong = || ParseAmountError {
            given: text.chars().take(80).collect(),
        };
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| c.is_ascii_alphabetic())
            .ok_or_else(wrong)?;
        let (number, unit) = (trimmed[..split].trim_end(), &trimmed[split..]);
        let decimals = match unit.to_ascii_lowercase().as_str() {
            "msat" => 0,
            "sat" | "sats" => 3,
            "btc" => 11,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty()
            || !digits(whole)
            || !digits(fraction)
            || (number.contains('.') && fraction.is_empty())
            || fraction.len() > decimals
        {
            return Err(wrong());
        }
        let padded = format!("{whole}{fraction:0<decimals$}");
        padded.parse().map(Self).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_in_every_unit() {
        for (text, msat) in [
            ("1000sat", 1_000_000),
            ("1000 sat", 1_000_000),
            ("0.001 btc", 100_000_000),
            ("5msat", 5),
            ("1.5 sats", 1500),
            ("0 sat", 0),
        ] {
            assert_eq!(text.parse(), Ok(Amount(msat)), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused_with_an_example() {
        for text in [
            "",
            "1000",
            "sat",
            "-1 sat",
            "1.2345 sat",
            "1. sat",
            ".5 sat",
            "1 doge",
            "99999999999999999999 sat",
            "1e3 sat",
            "0.5 msat",
        ] {
            let error = text.parse::<Amount>().expect_err(text).to_string();
            assert!(error.contains("1000sat"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(msat: u64) {
            prop_assert_eq!(Amount(msat).to_string().parse(), Ok(Amount(msat)));
        }
    }
}
