//! A module's parameters as JSON, and JSON as arguments of the kinds that the module
//! declares.

use modmint_core::{
    Amount, Argument, Parameter, ParameterKind, Refusal, Value, complete_arguments,
};
use serde_json::{Map, Value as Json};

/// The arguments of an action, in the order of its parameters.
///
/// # Errors
/// `bad-argument`, naming the first that is wrong and what is expected.
pub(super) fn typed(
    parameters: &[Parameter],
    given: &Map<String, Json>,
) -> Result<Vec<Argument>, Refusal> {
    let bad = |message: String| Refusal::new("bad-argument", message);
    let unknown = |name: &&String| parameters.iter().all(|known| known.name != **name);
    if let Some(name) = given.keys().find(unknown) {
        let known: Vec<_> = parameters.iter().map(|known| &*known.name).collect();
        return Err(bad(match known.is_empty() {
            true => format!("there is no parameter {name:?}; the action takes none"),
            false => format!(
                "there is no parameter {name:?}; known are: {}",
                known.join(", ")
            ),
        }));
    }
    let mut arguments = Vec::new();
    for parameter in parameters {
        let name = &parameter.name;
        // Null is what many programs write for what they do not give.
        let Some(json) = given.get(name).filter(|json| !json.is_null()) else {
            continue;
        };
        let value = value_of(&parameter.kind, json).map_err(|e| bad(format!("{name:?}: {e}")))?;
        arguments.push(Argument {
            name: name.clone(),
            value,
        });
    }
    complete_arguments(parameters, &arguments)?;
    Ok(arguments)
}

fn value_of(kind: &ParameterKind, json: &Json) -> Result<Value, String> {
    let wrong = || {
        let given: String = json.to_string().chars().take(80).collect();
        format!("{given} is given, and {} is expected", expected(kind))
    };
    match (kind, json) {
        (ParameterKind::Number, Json::Number(number)) => {
            number.as_u64().map(Value::Number).ok_or_else(wrong)
        }
        (ParameterKind::Amount, Json::Number(number)) => {
            let msat = number.as_u64().ok_or_else(wrong)?;
            Ok(Value::Amount(Amount(msat)))
        }
        (ParameterKind::Flag, Json::Bool(flag)) => Ok(Value::Flag(*flag)),
        (ParameterKind::Texts, Json::Array(all)) => {
            let text = |one: &Json| one.as_str().map(str::to_owned);
            let texts: Option<Vec<_>> = all.iter().map(text).collect();
            texts.map(Value::Texts).ok_or_else(wrong)
        }
        (
            ParameterKind::Text
            | ParameterKind::Bytes
            | ParameterKind::Amount
            | ParameterKind::Choice(_),
            Json::String(text),
        ) => kind.parse(text),
        _ => Err(wrong()),
    }
}

fn expected(kind: &ParameterKind) -> String {
    match kind {
        ParameterKind::Text => "a text".into(),
        ParameterKind::Number => format!("a whole number from 0 to {}", u64::MAX),
        ParameterKind::Flag => "true or false".into(),
        ParameterKind::Bytes => "a text of hexadecimal digits".into(),
        ParameterKind::Amount => {
            "a whole number of millisatoshi, or a text with a unit such as \"1000sat\",".into()
        }
        ParameterKind::Choice(choices) => format!("one of the texts {}", choices.join(", ")),
        ParameterKind::Texts => "a list of texts".into(),
    }
}

/// A default as it could be given.
pub(super) fn plain(value: &Value) -> Json {
    match value {
        Value::Text(text) => text.as_str().into(),
        Value::Number(number) => (*number).into(),
        Value::Flag(flag) => (*flag).into(),
        Value::Bytes(bytes) => hex::encode(bytes).into(),
        Value::Amount(amount) => amount.msat().into(),
        Value::Texts(texts) => texts.clone().into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parameter(name: &str, kind: ParameterKind, required: bool) -> Parameter {
        Parameter {
            name: name.into(),
            summary: format!("The {name}."),
            kind,
            required,
            default: None,
        }
    }

    fn parameters() -> Vec<Parameter> {
        vec![
            parameter("amount", ParameterKind::Amount, true),
            parameter("memo", ParameterKind::Text, false),
            parameter("most", ParameterKind::Number, false),
            parameter("invite", ParameterKind::Flag, false),
            parameter("key", ParameterKind::Bytes, false),
            parameter(
                "speed",
                ParameterKind::Choice(vec!["slow".into(), "fast".into()]),
                false,
            ),
            parameter("words", ParameterKind::Texts, false),
        ]
    }

    fn given(json: &Json) -> Result<Vec<Argument>, Refusal> {
        typed(&parameters(), json.as_object().unwrap())
    }

    #[test]
    fn arguments_are_typed_as_the_module_declares_them() {
        let all = json!({
            "words": ["a", "b"], "speed": "fast", "key": "00ff", "invite": true,
            "most": 7, "memo": "tea", "amount": 1500,
        });
        let values: Vec<_> = given(&all).unwrap().into_iter().map(|a| a.value).collect();
        assert_eq!(
            values,
            [
                Value::Amount(Amount(1500)),
                Value::Text("tea".into()),
                Value::Number(7),
                Value::Flag(true),
                Value::Bytes(vec![0, 255]),
                Value::Text("fast".into()),
                Value::Texts(vec!["a".into(), "b".into()]),
            ]
        );
        let least = given(&json!({ "amount": "1.5 sat", "memo": null })).unwrap();
        assert_eq!(least.len(), 1);
        assert_eq!(least[0].value, Value::Amount(Amount(1500)));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_expected() {
        for (wrong, named) in [
            (json!({}), "\"amount\" is missing"),
            (json!({ "amount": 1, "much": 2 }), "known are: amount, memo"),
            (json!({ "amount": "1000" }), "1000sat"),
            (json!({ "amount": -1 }), "a whole number of millisatoshi"),
            (json!({ "amount": 1.5 }), "a whole number of millisatoshi"),
            (json!({ "amount": { "amount": 1 } }), "millisatoshi"),
            (json!({ "amount": 1, "memo": 2 }), "a text is expected"),
            (json!({ "amount": 1, "most": "2" }), "a whole number from 0"),
            (json!({ "amount": 1, "invite": "yes" }), "true or false"),
            (json!({ "amount": 1, "key": "0" }), "hexadecimal"),
            (json!({ "amount": 1, "speed": "warp" }), "slow, fast"),
            (json!({ "amount": 1, "speed": 1 }), "slow, fast"),
            (json!({ "amount": 1, "words": ["a", 1] }), "a list of texts"),
        ] {
            let refusal = given(&wrong).unwrap_err();
            assert_eq!(refusal.code, "bad-argument");
            assert!(refusal.message.contains(named), "{wrong}: {refusal}");
        }
    }

    fn any_value() -> impl Strategy<Value = (ParameterKind, Value)> {
        prop_oneof![
            any::<String>().prop_map(|v| (ParameterKind::Text, Value::Text(v))),
            any::<u64>().prop_map(|v| (ParameterKind::Number, Value::Number(v))),
            any::<bool>().prop_map(|v| (ParameterKind::Flag, Value::Flag(v))),
            any::<Vec<u8>>().prop_map(|v| (ParameterKind::Bytes, Value::Bytes(v))),
            any::<u64>().prop_map(|v| (ParameterKind::Amount, Value::Amount(Amount(v)))),
            any::<Vec<String>>().prop_map(|v| (ParameterKind::Texts, Value::Texts(v))),
        ]
    }

    proptest! {
        #[test]
        fn what_is_shown_as_a_default_can_be_given((kind, value) in any_value()) {
            prop_assert_eq!(value_of(&kind, &plain(&value)), Ok(value));
        }
    }
}
