//! Small values that modules put into their messages.

use core::fmt;

use borsh::{BorshDeserialize, BorshSerialize};

/// Millisatoshi, with a unit when it is shown: `1000 sat`, `0.512 sat`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize,
)]
pub struct Amount(pub u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sat, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{sat} sat");
        }
        let decimals = format!("{rest:03}");
        write!(f, "{sat}.{} sat", decimals.trim_end_matches('0'))
    }
}

/// Lower-case hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_in_satoshi_with_the_decimals_they_have() {
        for (msat, text) in [
            (0, "0 sat"),
            (1000, "1 sat"),
            (1512, "1.512 sat"),
            (1_100, "1.1 sat"),
        ] {
            assert_eq!(Amount(msat).to_string(), text);
        }
    }

    #[test]
    fn bytes_are_shown_in_hexadecimal() {
        assert_eq!(to_hex(&[0, 0x1f, 0xa0]), "001fa0");
    }
}
