//! The part of the module contract that native code shares with people and
//! configs: typed parameters and arguments, kinds of keys, refusals. The same
//! shapes as in `wit/federation-module.wit`.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{Amount, ParseIdError, config::HexBytes, decode_hex};

/// Why a module refused something.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    thiserror::Error,
    utoipa::ToSchema,
)]
#[error("{message} ({code})")]
pub struct Refusal {
    /// Stable, kebab-case, at most 64 bytes.
    pub code: String,
    /// For people, at most 1024 bytes.
    pub message: String,
}

impl Refusal {
    /// A refusal of this code and message.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}

/// What a parameter holds.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case", tag = "type", content = "choices")]
pub enum ParameterKind {
    /// UTF-8 text.
    Text,
    /// An unsigned 64-bit number.
    Number,
    /// True or false.
    Flag,
    /// Bytes, written in hexadecimal.
    Bytes,
    /// Entered with its unit, see [`Amount`].
    Amount,
    /// One of these texts.
    Choice(Vec<String>),
    /// Several texts; on a command line the rest of the words given.
    Texts,
}

/// One parameter. Required ones are positional in the CLI, in this order; the
/// others are options.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
pub struct Parameter {
    /// Kebab-case.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// What it holds.
    pub kind: ParameterKind,
    /// Whether it must be given.
    pub required: bool,
    /// What the module is passed where nothing is given; never with `required`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ArgumentValue>)]
    pub default: Option<Value>,
}

/// An argument's value. `choice` is a text.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// UTF-8 text, or the chosen one of the choices.
    Text(String),
    /// An unsigned number.
    Number(u64),
    /// True or false.
    Flag(bool),
    /// Bytes; in JSON hexadecimal.
    Bytes(#[serde(with = "hex::serde")] Vec<u8>),
    /// Millisatoshi.
    Amount(Amount),
    /// Several texts.
    Texts(Vec<String>),
}

/// utoipa takes every type of the name `Value` for any JSON.
type ArgumentValue = Value;

/// One of the kinds, and nothing beside it: what utoipa would derive lets more pass.
impl utoipa::PartialSchema for Value {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, Type};
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let number = || {
            ObjectBuilder::new()
                .schema_type(Type::Integer)
                .minimum(Some(0))
                .maximum(Some(u64::MAX as usize))
        };
        ObjectBuilder::new()
            .description(Some("A value of one kind; an amount is of millisatoshi."))
            .property("text", text())
            .property("number", number())
            .property("flag", ObjectBuilder::new().schema_type(Type::Boolean))
            .property("bytes", HexBytes::schema())
            .property("amount", number())
            .property("texts", ArrayBuilder::new().items(text()))
            .min_properties(Some(1))
            .max_properties(Some(1))
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .build()
            .into()
    }
}

impl utoipa::ToSchema for Value {}

/// As a person would enter it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.pad(text),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Bytes(bytes) => f.pad(&hex::encode(bytes)),
            Self::Amount(amount) => amount.fmt(f),
            Self::Texts(texts) => f.pad(&texts.join(" ")),
        }
    }
}

/// A named value.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
pub struct Argument {
    /// The parameter's name.
    pub name: String,
    /// Of the parameter's kind.
    #[schema(value_type = ArgumentValue)]
    pub value: Value,
}

/// The kinds of keys that the ceremony makes.
#[derive(
    Clone,
    Copy,
    Debug,
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
#[serde(rename_all = "kebab-case")]
pub enum KeyKind {
    /// A threshold key on BLS12-381 for blind signatures; group key 96 bytes, G2.
    BlindSignature,
    /// A threshold key on BLS12-381 for decryption; group key 48 bytes, G1.
    Decryption,
    /// A secp256k1 key of each guardian, 33 bytes each.
    Multisig,
}

impl ParameterKind {
    /// The value that `text` stands for, as a person enters it.
    ///
    /// # Errors
    /// Says what was given and what is expected.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let quoted: String = text.chars().take(80).collect();
        match self {
            Self::Text => Ok(Value::Text(text.to_owned())),
            Self::Number => text.parse().map(Value::Number).map_err(|_| {
                format!("{quoted:?} is no number: digits alone are expected, for example 12")
            }),
            Self::Flag => match text {
                "true" | "yes" | "1" => Ok(Value::Flag(true)),
                "false" | "no" | "0" => Ok(Value::Flag(false)),
                _ => Err(format!("{quoted:?} is neither true nor false")),
            },
            Self::Bytes => decode_hex(text)
                .map(Value::Bytes)
                .map_err(|e: ParseIdError| e.to_string()),
            Self::Amount => text
                .parse()
                .map(Value::Amount)
                .map_err(|e: crate::ParseAmountError| e.to_string()),
            Self::Choice(choices) if choices.iter().any(|choice| choice == text) => {
                Ok(Value::Text(text.to_owned()))
            }
            Self::Choice(choices) => Err(format!("{quoted:?} is none of: {}", choices.join(", "))),
            Self::Texts => Ok(Value::Texts(vec![text.to_owned()])),
        }
    }

    /// Whether `value` is of this kind.
    pub fn accepts(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text, Value::Text(_))
            | (Self::Number, Value::Number(_))
            | (Self::Flag, Value::Flag(_))
            | (Self::Bytes, Value::Bytes(_))
            | (Self::Amount, Value::Amount(_))
            | (Self::Texts, Value::Texts(_)) => true,
            (Self::Choice(choices), Value::Text(text)) => choices.contains(text),
            _ => false,
        }
    }
}

/// Arguments as the parameters declare them: each known, of its kind, given once, and the
/// required ones given. Those that were not given are there with their defaults, behind
/// the others.
///
/// # Errors
/// `bad-argument`, naming the first that is wrong and what is expected.
pub fn complete_arguments(
    parameters: &[Parameter],
    arguments: &[Argument],
) -> Result<Vec<Argument>, Refusal> {
    let bad = |message: String| Err(Refusal::new("bad-argument", message));
    for (index, argument) in arguments.iter().enumerate() {
        let name = &argument.name;
        let Some(parameter) = parameters.iter().find(|p| &p.name == name) else {
            let known: Vec<_> = parameters.iter().map(|p| p.name.as_str()).collect();
            return bad(format!(
                "there is no parameter {name:?}; known are: {}",
                known.join(", ")
            ));
        };
        if !parameter.kind.accepts(&argument.value) {
            return bad(format!("{name:?} is not of the kind {:?}", parameter.kind));
        }
        if arguments[..index].iter().any(|a| &a.name == name) {
            return bad(format!("{name:?} is given more than once"));
        }
    }
    let mut complete = arguments.to_vec();
    for parameter in parameters {
        if arguments.iter().any(|a| a.name == parameter.name) {
            continue;
        }
        if parameter.required {
            return bad(format!(
                "{:?} is missing: {}",
                parameter.name, parameter.summary
            ));
        }
        complete.extend(parameter.default.clone().map(|value| Argument {
            name: parameter.name.clone(),
            value,
        }));
    }
    Ok(complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str, required: bool, default: Option<Value>) -> Parameter {
        Parameter {
            name: name.into(),
            summary: "A number.".into(),
            kind: ParameterKind::Number,
            required,
            default,
        }
    }

    fn number(name: &str, number: u64) -> Argument {
        Argument {
            name: name.into(),
            value: Value::Number(number),
        }
    }

    #[test]
    fn what_is_not_given_is_there_with_its_default_and_what_must_be_given_is_missed() {
        let parameters = [
            parameter("most", false, Some(Value::Number(7))),
            parameter("least", true, None),
            parameter("other", false, None),
        ];
        let complete = |arguments: &[Argument]| complete_arguments(&parameters, arguments);
        assert_eq!(
            complete(&[number("least", 1)]),
            Ok(vec![number("least", 1), number("most", 7)])
        );
        let given = [number("most", 2), number("least", 1)];
        assert_eq!(complete(&given), Ok(given.to_vec()));
        for (wrong, why) in [
            (vec![], "\"least\" is missing"),
            (vec![number("more", 1)], "no parameter \"more\""),
            (
                vec![number("least", 1), number("least", 1)],
                "more than once",
            ),
        ] {
            let refusal = complete(&wrong).expect_err("wrong");
            assert!(refusal.message.contains(why), "{refusal}");
        }
    }
}
