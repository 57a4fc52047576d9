//! Typed parameters from Rust types: a struct declared with [`parameters!`] knows
//! how it is described to people and how it is read from what the host passes.

use crate::{Amount, Argument, Parameter, ParameterKind, Refusal, Value};

/// What the host passed, by name.
#[derive(Clone, Debug, Default)]
pub struct Arguments(Vec<Argument>);

/// An argument of another kind than was declared, which the host lets nobody pass, or one
/// that the type has no room for: a number too large, bytes of another length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseArgumentError;

impl Arguments {
    /// These.
    pub fn new(arguments: Vec<Argument>) -> Self {
        Self(arguments)
    }

    /// Takes the argument `name`.
    ///
    /// # Errors
    /// `bad-argument`: it is missing or of another kind.
    pub fn take<T: ParameterValue>(&mut self, name: &str) -> Result<T, Refusal> {
        let place = self.0.iter().position(|argument| argument.name == name);
        let value = place.map(|place| self.0.swap_remove(place).value);
        let missing = value.is_none();
        T::from_value(value).map_err(|ParseArgumentError| {
            let what = if missing {
                "is missing"
            } else {
                "is something else"
            };
            Refusal::new(
                "bad-argument",
                format!(
                    "the argument {name:?} {what}; expected is {}",
                    T::expected()
                ),
            )
        })
    }
}

/// A Rust type that can be a parameter.
pub trait ParameterValue: Sized {
    /// Whether it must be given.
    const REQUIRED: bool = true;
    /// How it is entered.
    fn kind() -> ParameterKind;
    /// What is accepted, for people who entered something else.
    fn expected() -> String {
        match Self::kind() {
            ParameterKind::Text => "a text".to_owned(),
            ParameterKind::Number => "a number".to_owned(),
            ParameterKind::Flag => "true or false".to_owned(),
            ParameterKind::Bytes => "bytes in hexadecimal".to_owned(),
            ParameterKind::Amount => "an amount".to_owned(),
            ParameterKind::Choice(choices) => format!("one of {}", choices.join(", ")),
            ParameterKind::Texts => "texts".to_owned(),
        }
    }
    /// From what the host passed.
    ///
    /// # Errors
    /// It is missing, of another kind, or nothing of this type.
    fn from_value(value: Option<Value>) -> Result<Self, ParseArgumentError>;
    /// For arguments that a wallet's half passes to a query; none leaves it out.
    fn into_value(self) -> Option<Value>;
}

macro_rules! parameter_values {
    ($($type:ty => $kind:ident, $value:ident => $from:expr, $back:ident => $into:expr;)*) => {$(
        impl ParameterValue for $type {
            fn kind() -> ParameterKind {
                ParameterKind::$kind
            }
            fn from_value(value: Option<Value>) -> Result<Self, ParseArgumentError> {
                match value {
                    Some(Value::$kind($value)) => Ok($from),
                    _ => Err(ParseArgumentError),
                }
            }
            fn into_value(self) -> Option<Value> {
                let $back = self;
                Some(Value::$kind($into))
            }
        }
    )*};
}
parameter_values! {
    String => Text, v => v, s => s;
    u64 => Number, v => v, s => s;
    Vec<u8> => Bytes, v => v, s => s;
    Amount => Amount, v => Amount(v), s => s.0;
    Vec<String> => Texts, v => v, s => s;
}

/// Larger ones are refused.
impl ParameterValue for u32 {
    fn kind() -> ParameterKind {
        ParameterKind::Number
    }
    fn expected() -> String {
        format!("a number of at most {}", Self::MAX)
    }
    fn from_value(value: Option<Value>) -> Result<Self, ParseArgumentError> {
        let number = u64::from_value(value)?;
        number.try_into().map_err(|_| ParseArgumentError)
    }
    fn into_value(self) -> Option<Value> {
        Some(Value::Number(self.into()))
    }
}

/// Exactly so many bytes.
impl<const N: usize> ParameterValue for [u8; N] {
    fn kind() -> ParameterKind {
        ParameterKind::Bytes
    }
    fn expected() -> String {
        format!("{N} bytes in hexadecimal")
    }
    fn from_value(value: Option<Value>) -> Result<Self, ParseArgumentError> {
        let bytes = Vec::<u8>::from_value(value)?;
        bytes.try_into().map_err(|_| ParseArgumentError)
    }
    fn into_value(self) -> Option<Value> {
        Some(Value::Bytes(self.to_vec()))
    }
}

/// A flag that is not given is off.
impl ParameterValue for bool {
    const REQUIRED: bool = false;
    fn kind() -> ParameterKind {
        ParameterKind::Flag
    }
    fn from_value(value: Option<Value>) -> Result<Self, ParseArgumentError> {
        match value {
            None => Ok(false),
            Some(Value::Flag(flag)) => Ok(flag),
            Some(_) => Err(ParseArgumentError),
        }
    }
    fn into_value(self) -> Option<Value> {
        Some(Value::Flag(self))
    }
}

impl<T: ParameterValue> ParameterValue for Option<T> {
    const REQUIRED: bool = false;
    fn kind() -> ParameterKind {
        T::kind()
    }
    fn expected() -> String {
        T::expected()
    }
    fn from_value(value: Option<Value>) -> Result<Self, ParseArgumentError> {
        match value {
            None => Ok(None),
            some => T::from_value(some).map(Some),
        }
    }
    fn into_value(self) -> Option<Value> {
        self.and_then(T::into_value)
    }
}

/// Doc comments as one sentence, and a field's name as a parameter's.
#[doc(hidden)]
pub fn parameter<T: ParameterValue>(field: &str, docs: &[&str], default: Option<T>) -> Parameter {
    Parameter {
        name: field.replace('_', "-"),
        summary: summary(docs),
        kind: T::kind(),
        required: T::REQUIRED && default.is_none(),
        default: default.and_then(T::into_value),
    }
}

#[doc(hidden)]
pub fn summary(docs: &[&str]) -> String {
    let lines: Vec<_> = docs.iter().map(|line| line.trim()).collect();
    lines.join(" ").trim().to_owned()
}

/// `FasterThanThat` as `faster-than-that`.
#[doc(hidden)]
pub fn kebab(variant: &str) -> String {
    let mut name = String::new();
    for letter in variant.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// Declares an enum that is a parameter: people choose one of its variants, whose names
/// become `kebab-case`.
///
/// ```
/// modmint_sdk::choices! {
///     /// How quickly.
///     pub enum Speed {
///         /// Within a day.
///         Slow,
///         /// In the next block.
///         AsSoonAsPossible,
///     }
/// }
/// modmint_sdk::parameters! {
///     /// Sends it.
///     pub struct Send {
///         /// How quickly.
///         speed: Speed = Speed::Slow,
///     }
/// }
/// assert_eq!(Speed::ALL[1].name(), "as-soon-as-possible");
/// ```
#[macro_export]
macro_rules! choices {
    ($(#[doc = $docs:literal])* $vis:vis enum $name:ident {
        $($(#[doc = $variant_docs:literal])* $variant:ident,)+
    }) => {
        $(#[doc = $docs])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name {
            $($(#[doc = $variant_docs])* $variant,)+
        }

        #[allow(dead_code, reason = "not every module uses all of it")]
        impl $name {
            /// All of them, in the order in which people are offered them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// What people enter.
            pub fn name(self) -> ::std::string::String {
                $crate::__private::kebab(match self {
                    $(Self::$variant => stringify!($variant),)+
                })
            }
        }

        impl $crate::ParameterValue for $name {
            fn kind() -> $crate::ParameterKind {
                $crate::ParameterKind::Choice(Self::ALL.iter().map(|one| one.name()).collect())
            }
            fn from_value(
                value: ::std::option::Option<$crate::Value>,
            ) -> Result<Self, $crate::ParseArgumentError> {
                let Some($crate::Value::Text(text)) = value else {
                    return Err($crate::ParseArgumentError);
                };
                let mut all = Self::ALL.iter().copied();
                all.find(|one| one.name() == text).ok_or($crate::ParseArgumentError)
            }
            fn into_value(self) -> ::std::option::Option<$crate::Value> {
                Some($crate::Value::Text(self.name()))
            }
        }
    };
}

/// The default that a parameter is declared with.
#[doc(hidden)]
#[macro_export]
macro_rules! __default {
    () => {
        None
    };
    ($default:expr) => {
        Some($default)
    };
}

/// Declares a struct whose fields are parameters. Doc comments become what people
/// read; `snake_case` becomes `kebab-case`; `Option`, `bool` and what has a default need
/// not be given. People are shown the default, and the host passes it.
///
/// ```
/// use modmint_sdk::Amount;
///
/// modmint_sdk::parameters! {
///     /// Pays somebody.
///     pub struct Pay {
///         /// How much.
///         amount: Amount,
///         /// Why, if anybody should know.
///         reason: Option<String>,
///         /// The most that it may cost.
///         most: Amount = Amount(1_000),
///     }
/// }
/// assert_eq!(Pay::parameters()[1].summary, "Why, if anybody should know.");
/// assert!(Pay::parameters()[2].default.is_some());
/// ```
#[macro_export]
macro_rules! parameters {
    ($(#[doc = $docs:literal])* $vis:vis struct $name:ident {
        $($(#[doc = $field_docs:literal])* $field:ident: $type:ty $(= $default:expr)?,)*
    }) => {
        $(#[doc = $docs])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $($(#[doc = $field_docs])* pub $field: $type,)*
        }

        #[allow(dead_code, unused_mut, unused_variables, reason = "not every module uses all of it")]
        impl $name {
            /// What it is for.
            pub fn summary() -> ::std::string::String {
                $crate::__private::summary(&[$($docs),*])
            }
            /// As the host describes it to people.
            pub fn parameters() -> ::std::vec::Vec<$crate::Parameter> {
                vec![$($crate::__private::parameter::<$type>(
                    stringify!($field),
                    &[$($field_docs),*],
                    $crate::__private::default!($($default)?),
                )),*]
            }
            /// From what the host passed.
            ///
            /// # Errors
            /// `bad-argument`.
            pub fn read(arguments: impl Into<$crate::Arguments>) -> Result<Self, $crate::Refusal> {
                let mut arguments = arguments.into();
                Ok(Self {
                    $($field: arguments.take(&stringify!($field).replace('_', "-"))?,)*
                })
            }
            /// For an endpoint of this name.
            pub fn endpoint(name: &str) -> $crate::Endpoint {
                $crate::Endpoint {
                    name: name.into(),
                    summary: Self::summary(),
                    parameters: Self::parameters(),
                }
            }
            /// For an action of this name.
            pub fn action(name: &str, audience: $crate::Audience) -> $crate::Action {
                $crate::Action {
                    name: name.into(),
                    summary: Self::summary(),
                    audience,
                    parameters: Self::parameters(),
                }
            }
            /// As arguments, for a query or a test.
            pub fn arguments(self) -> ::std::vec::Vec<$crate::Argument> {
                let mut arguments = ::std::vec::Vec::new();
                $(if let Some(value) = $crate::ParameterValue::into_value(self.$field) {
                    arguments.push($crate::Argument {
                        name: stringify!($field).replace('_', "-"),
                        value,
                    });
                })*
                arguments
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::choices! {
        /// How quickly.
        enum Speed {
            /// Some day.
            Slow,
            /// Now.
            VeryFast,
        }
    }
    crate::parameters! {
        /// Sends it.
        struct Send {
            /// In how many blocks.
            blocks: u32 = 6,
            /// To whom.
            key: [u8; 3],
            /// How quickly.
            speed: Option<Speed>,
        }
    }

    fn send() -> Send {
        Send {
            blocks: 7,
            key: [1, 2, 3],
            speed: Some(Speed::VeryFast),
        }
    }

    #[test]
    fn numbers_lengths_and_choices_are_described_and_come_back_as_they_were() {
        let parameters = Send::parameters();
        assert_eq!(parameters[0].kind, ParameterKind::Number);
        assert_eq!(parameters[0].default, Some(Value::Number(6)));
        assert_eq!(parameters[1].kind, ParameterKind::Bytes);
        assert!(parameters[1].required);
        let names = vec!["slow".to_owned(), "very-fast".to_owned()];
        assert_eq!(parameters[2].kind, ParameterKind::Choice(names));
        assert!(!parameters[2].required);
        assert_eq!(Send::read(send().arguments()), Ok(send()));
    }

    #[test]
    fn what_has_no_room_in_its_type_is_refused_with_what_has() {
        for (place, value, told) in [
            (0, Value::Number(1 << 32), "at most 4294967295"),
            (0, Value::Text("7".into()), "a number of at most"),
            (1, Value::Bytes(vec![1, 2]), "3 bytes in hexadecimal"),
            (1, Value::Bytes(vec![1; 4]), "3 bytes in hexadecimal"),
            (2, Value::Text("fast".into()), "one of slow, very-fast"),
        ] {
            let mut arguments = send().arguments();
            arguments[place].value = value;
            let refusal = Send::read(arguments).expect_err(told);
            assert_eq!(refusal.code, "bad-argument");
            assert!(refusal.message.contains(told), "{}", refusal.message);
        }
        let refusal = Send::read(Vec::new()).expect_err("no key");
        assert!(
            refusal.message.contains("is missing"),
            "{}",
            refusal.message
        );
    }
}
