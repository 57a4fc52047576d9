//! Whether people and programs can use what a module says of itself.

use modmint_core::{Parameter, ParameterKind};

use crate::{Action, AdmitError, Description, Endpoint, convert::is_kebab, limits};

fn wrong<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, AdmitError> {
    Err(AdmitError::Description {
        field: field.into(),
        reason: reason.into(),
    })
}

/// Checks `describe`'s answer.
pub(crate) fn check_description(description: &Description) -> Result<(), AdmitError> {
    let Description {
        kind,
        version,
        summary,
        server_storage: _,
        client_storage: _,
        configuration,
        queries,
        commands,
    } = description;
    name("description.kind", kind, 32)?;
    if !kind.starts_with(|c: char| c.is_ascii_lowercase()) {
        return wrong("description.kind", "it begins with a letter");
    }
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let semantic = numbers.split('.').count() == 3
        && numbers
            .split('.')
            .all(|n| !n.is_empty() && n.len() <= 9 && n.bytes().all(|b| b.is_ascii_digit()));
    if !semantic || version.len() > 64 || !version.bytes().all(|b| b.is_ascii_graphic()) {
        return wrong("description.version", "for example 1.0.0 is expected");
    }
    sentence("description.summary", summary)?;
    parameters("description.configuration", configuration)?;
    endpoints("description.queries", queries)?;
    endpoints("description.commands", commands)
}

/// Checks `actions`' answer.
pub(crate) fn check_actions(actions: &[Action]) -> Result<(), AdmitError> {
    names("actions", actions.iter().map(|action| &action.name))?;
    for action in actions {
        let field = format!("actions.{}", action.name);
        sentence(&format!("{field}.summary"), &action.summary)?;
        parameters(&field, &action.parameters)?;
    }
    Ok(())
}

fn endpoints(field: &str, endpoints: &[Endpoint]) -> Result<(), AdmitError> {
    names(field, endpoints.iter().map(|endpoint| &endpoint.name))?;
    for endpoint in endpoints {
        let field = format!("{field}.{}", endpoint.name);
        sentence(&format!("{field}.summary"), &endpoint.summary)?;
        parameters(&field, &endpoint.parameters)?;
    }
    Ok(())
}

fn parameters(field: &str, parameters: &[Parameter]) -> Result<(), AdmitError> {
    names(field, parameters.iter().map(|parameter| &parameter.name))?;
    for parameter in parameters {
        let field = format!("{field}.{}", parameter.name);
        sentence(&format!("{field}.summary"), &parameter.summary)?;
        if let ParameterKind::Choice(choices) = &parameter.kind {
            let usable = |choice: &String| !choice.is_empty() && choice.len() <= 64;
            if choices.is_empty() || choices.len() > limits::MAX_LIST || !choices.iter().all(usable)
            {
                return wrong(field, "1 to 64 choices of 1 to 64 bytes each are expected");
            }
        }
        if let Some(default) = &parameter.default {
            if parameter.required {
                return wrong(field, "one that must be given has no default");
            }
            if !parameter.kind.accepts(default) {
                return wrong(field, "its default is of another kind");
            }
        }
    }
    let rest = parameters
        .iter()
        .filter(|parameter| parameter.kind == ParameterKind::Texts);
    if rest.count() > 1 {
        return wrong(
            field,
            "one parameter at most can take the rest of the words",
        );
    }
    Ok(())
}

fn names<'a>(field: &str, all: impl Iterator<Item = &'a String>) -> Result<(), AdmitError> {
    let mut seen = std::collections::BTreeSet::new();
    for (index, text) in all.enumerate() {
        if index == limits::MAX_LIST {
            return wrong(field, format!("at most {} are expected", limits::MAX_LIST));
        }
        name(field, text, 64)?;
        if !seen.insert(text) {
            return wrong(field, format!("{text:?} is there twice"));
        }
    }
    Ok(())
}

fn name(field: &str, text: &str, limit: usize) -> Result<(), AdmitError> {
    if text.len() <= limit && is_kebab(text) {
        return Ok(());
    }
    let shown: String = text.chars().take(80).collect();
    wrong(
        field,
        format!("{shown:?} is not kebab-case of at most {limit} bytes"),
    )
}

fn sentence(field: &str, text: &str) -> Result<(), AdmitError> {
    if text.trim().is_empty() || text.len() > 1024 || text.chars().any(char::is_control) {
        return wrong(field, "one line of 1 to 1024 bytes is expected");
    }
    Ok(())
}
