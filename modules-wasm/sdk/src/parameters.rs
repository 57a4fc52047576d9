//! Typed parameters from Rust types: a struct declared with [`parameters!`] knows
//! how it is described to people and how it is read from what the host passes.

use crate::{Amount, Argument, Parameter, ParameterKind, Refusal, Value};

/// What the host passed, by name.
#[derive(Clone, Debug, Default)]
pub struct Arguments(Vec<Argument>);

/// An argument of another kind than was declared. The host checks kinds, so this
/// is the host's fault or an older wallet's.
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
                "is of another kind"
            };
            Refusal::new(
                "bad-argument",
                format!("the argument {name:?} {what}; expected is {:?}", T::kind()),
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
    /// From what the host passed.
    ///
    /// # Errors
    /// It is missing or of another kind.
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
