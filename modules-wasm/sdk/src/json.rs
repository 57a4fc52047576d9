//! JSON, outwards only: what `render` and `progress` show to people and programs.
//! A module never reads JSON, and needs no parser.

use core::fmt;

use crate::Amount;

/// A JSON value; displayed it is JSON text.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Number(i128),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object, in this order.
    Object(Vec<(String, Json)>),
}

/// An object: `object! { "txid" => hex, "amount" => amount }`. Amounts are
/// millisatoshi, bytes hexadecimal text.
#[macro_export]
macro_rules! object {
    ($($key:literal => $value:expr),* $(,)?) => {
        $crate::Json::Object(vec![$(($key.into(), $crate::Json::from($value))),*])
    };
}

impl From<bool> for Json {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}
impl From<u64> for Json {
    fn from(number: u64) -> Self {
        Self::Number(number.into())
    }
}
impl From<u32> for Json {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}
impl From<u16> for Json {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}
impl From<i64> for Json {
    fn from(number: i64) -> Self {
        Self::Number(number.into())
    }
}
impl From<usize> for Json {
    fn from(number: usize) -> Self {
        Self::Number(number as i128)
    }
}
impl From<Amount> for Json {
    fn from(amount: Amount) -> Self {
        Self::Number(amount.0.into())
    }
}
impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}
impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
impl From<&[u8]> for Json {
    fn from(bytes: &[u8]) -> Self {
        Self::Text(crate::to_hex(bytes))
    }
}
impl<T: Into<Json>> From<Vec<T>> for Json {
    fn from(list: Vec<T>) -> Self {
        Self::List(list.into_iter().map(Into::into).collect())
    }
}
impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            c if (c as u32) < 0x20 => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write_text(f, text),
            Self::List(list) => {
                f.write_str("[")?;
                for (index, value) in list.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{value}")?;
                }
                f.write_str("]")
            }
            Self::Object(fields) => {
                f.write_str("{")?;
                for (index, (key, value)) in fields.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "," })?;
                    write_text(f, key)?;
                    write!(f, ":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_shown_is_json() {
        let json = object! {
            "text" => "a \"quoted\" line\n",
            "list" => vec![1u64, 2],
            "bytes" => [1u8, 255].as_slice(),
            "none" => None::<u64>,
            "debt" => -5i64,
        };
        assert_eq!(
            json.to_string(),
            r#"{"text":"a \"quoted\" line\u000a","list":[1,2],"bytes":"01ff","none":null,"debt":-5}"#
        );
    }
}
