//! What a bundle is.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use modmint_core::{Parameter, ParameterKind};
use modmint_runtime::{Admission, Audience, Bundle, Endpoint, examine, limits};
use modmint_sdk::Item;
use serde_json::{Value, json};

use super::{
    Setting, Subject,
    check::{able_to, world},
    conformance::{FILE, Look, look, scenario_of},
};

/// Show what a bundle is and what it can do
#[derive(Debug, Args)]
pub struct Inspect {
    /// A component, or a module's folder, which is built
    #[arg(default_value = ".")]
    module: PathBuf,
    /// For the module's `configure`, which names the keys; as often as needed
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<Setting>,
    /// What the module is for, as a file: played to see its items and what calls cost
    /// [default: conformance.toml beside the module]
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn show(self) -> Result<()> {
        let subject = Subject::read(&self.module)?;
        let bundle = subject.load()?;
        let admission = examine(&subject.bytes).map_err(|mut findings| findings.swap_remove(0))?;
        let mut described = describe(&bundle, &admission, &self.settings)?;
        let (items, fuel) = match self.look(&subject) {
            Ok(look) => (shown_items(&look), shown_fuel(&look)),
            Err(unknown) => {
                let unknown = json!({ "unknown": unknown });
                (unknown.clone(), unknown)
            }
        };
        described["items"] = items;
        described["fuel"] = fuel;
        if self.json {
            println!("{described:#}");
        } else {
            print!("{}", in_words(&described));
        }
        Ok(())
    }

    /// What no description says: it is seen where somebody uses the module.
    fn look(&self, subject: &Subject) -> Result<Look, String> {
        let scenario = scenario_of(&self.module, self.scenario.as_deref());
        let scenario = scenario.map_err(|error| format!("{error:#}"))?;
        let scenario = scenario.ok_or_else(|| {
            format!("a {FILE} beside the module, or a file named by --scenario, shows it")
        })?;
        look(subject.bytes.clone(), scenario)
            .map_err(|error| format!("the scenario does not play: {error:#}"))
    }
}

fn shown_items(look: &Look) -> Value {
    let item = |(item, shown): &(Item, Value)| {
        let (item, query) = match item {
            Item::Input => ("input", None),
            Item::Output => ("output", None),
            Item::Outcome => ("outcome", None),
            Item::ConsensusItem => ("consensus item", None),
            Item::Answer(query) => ("answer", Some(query)),
        };
        json!({ "item": item, "query": query, "shown": shown })
    };
    look.items.iter().map(item).collect()
}

fn shown_fuel(look: &Look) -> Value {
    let exports = look.fuel.exports.iter().map(|(export, cost)| {
        json!({
            "export": export,
            "calls": cost.calls,
            "refused": cost.refused,
            "mean": cost.sum / cost.calls.max(1),
            "most": cost.most,
            "limit": limits::MAX_FUEL,
        })
    });
    exports.collect()
}

fn describe(bundle: &Bundle, admission: &Admission, settings: &[Setting]) -> Result<Value> {
    let description = bundle.description();
    let arguments = settings.iter();
    let arguments: Result<Vec<_>> = arguments
        .map(|setting| setting.argument(&description.configuration))
        .collect();
    // Without what it asks for, a module cannot say which keys it needs.
    let keys = match bundle.configure(&arguments?) {
        Ok(setup) => setup
            .keys
            .iter()
            .map(|key| json!({ "label": key.label, "kind": key.kind }))
            .collect(),
        Err(error) => json!({ "unknown": error.to_string() }),
    };
    let actions = bundle.actions().iter().map(|action| {
        json!({
            "name": action.name,
            "summary": action.summary,
            "audience": match action.audience {
                Audience::Person => "person",
                Audience::Gateway => "gateway",
                Audience::Background => "background",
            },
            "parameters": parameters(&action.parameters),
        })
    });
    Ok(json!({
        "kind": description.kind,
        "version": description.version,
        "summary": description.summary,
        "contract": bundle.contract().number(),
        "hash": bundle.hash(),
        "size": bundle.bytes_len(),
        "is": world(admission),
        "storage": { "server": description.server_storage, "client": description.client_storage },
        "able_to": able_to(admission, bundle.actions()),
        "configuration": parameters(&description.configuration),
        "keys": keys,
        "queries": endpoints(&description.queries),
        "commands": endpoints(&description.commands),
        "actions": actions.collect::<Vec<_>>(),
    }))
}

fn endpoints(endpoints: &[Endpoint]) -> Vec<Value> {
    let endpoint = |endpoint: &Endpoint| {
        json!({
            "name": endpoint.name,
            "summary": endpoint.summary,
            "parameters": parameters(&endpoint.parameters),
        })
    };
    endpoints.iter().map(endpoint).collect()
}

fn parameters(parameters: &[Parameter]) -> Vec<Value> {
    let parameter = |parameter: &Parameter| {
        json!({
            "name": parameter.name,
            "summary": parameter.summary,
            "kind": kind(&parameter.kind),
            "required": parameter.required,
            "default": parameter.default.as_ref().map(ToString::to_string),
        })
    };
    parameters.iter().map(parameter).collect()
}

fn kind(kind: &ParameterKind) -> String {
    match kind {
        ParameterKind::Text => "text".into(),
        ParameterKind::Number => "number".into(),
        ParameterKind::Flag => "flag".into(),
        ParameterKind::Bytes => "hexadecimal".into(),
        ParameterKind::Amount => "amount".into(),
        ParameterKind::Choice(choices) => choices.join("|"),
        ParameterKind::Texts => "texts".into(),
    }
}

fn in_words(described: &Value) -> String {
    let text = |field: &str| described[field].as_str().unwrap_or_default();
    let mut lines = vec![
        format!("{} {}: {}", text("kind"), text("version"), text("summary")),
        format!("  contract modmint:module {}", text("contract")),
        format!("  sha256   {}", text("hash")),
        format!("  size     {} bytes", described["size"]),
        format!("  is       {}", text("is")),
        format!(
            "  storage  version {} on guardians, {} in wallets",
            described["storage"]["server"], described["storage"]["client"]
        ),
    ];
    lines.push("It is able to".into());
    for capability in list(&described["able_to"]) {
        let words = capability.as_str().unwrap_or_default();
        lines.push(format!("  - {words}"));
    }
    match &described["keys"] {
        Value::Array(keys) if keys.is_empty() => lines.push("Keys: none".into()),
        Value::Array(keys) => {
            lines.push("Keys".into());
            lines.extend(keys.iter().map(|key| {
                let text = |field: &str| key[field].as_str().unwrap_or_default().to_owned();
                format!("  {} ({})", text("label"), text("kind"))
            }));
        }
        unknown => lines.push(format!(
            "Keys: not known, {}",
            unknown["unknown"].as_str().unwrap_or_default()
        )),
    }
    lines.push("Configuration".into());
    lines.extend(parameter_lines(&described["configuration"], "  "));
    for (title, field) in [
        ("Queries", "queries"),
        ("Commands", "commands"),
        ("Actions", "actions"),
    ] {
        lines.push(title.into());
        let all = list(&described[field]);
        if all.is_empty() {
            lines.push("  none".into());
        }
        for endpoint in all {
            let text = |field: &str| endpoint[field].as_str().unwrap_or_default();
            let audience = match text("audience") {
                "" | "person" => String::new(),
                other => format!(" ({other})"),
            };
            lines.push(format!("  {}{audience}: {}", text("name"), text("summary")));
            if !list(&endpoint["parameters"]).is_empty() {
                lines.extend(parameter_lines(&endpoint["parameters"], "    "));
            }
        }
    }
    lines.extend(item_lines(&described["items"]));
    lines.extend(fuel_lines(&described["fuel"]));
    lines.push(String::new());
    lines.join("\n")
}

fn item_lines(items: &Value) -> Vec<String> {
    if let Some(unknown) = items["unknown"].as_str() {
        return vec![format!("Items: not known, {unknown}")];
    }
    let mut lines = vec!["Items, as people are shown them".to_owned()];
    let all = list(items);
    for item in all {
        let sort = item["item"].as_str().unwrap_or_default();
        let of = item["query"].as_str().map(|query| format!(" of {query}"));
        lines.push(format!(
            "  {sort}{}: {}",
            of.unwrap_or_default(),
            item["shown"]
        ));
    }
    for sort in ["input", "output", "consensus item"] {
        if !all.iter().any(|item| item["item"] == sort) {
            lines.push(format!("  {sort}: none in the scenario"));
        }
    }
    lines
}

fn fuel_lines(fuel: &Value) -> Vec<String> {
    if let Some(unknown) = fuel["unknown"].as_str() {
        return vec![format!("Fuel for a call: not known, {unknown}")];
    }
    let mut lines = vec![format!("Fuel for a call, of at most {}", limits::MAX_FUEL)];
    lines.extend(list(fuel).iter().map(|export| {
        let name = export["export"].as_str().unwrap_or_default();
        format!(
            "  {name}: {} on average, {} at most, of {} calls in the scenario",
            export["mean"], export["most"], export["calls"]
        )
    }));
    lines
}

fn parameter_lines(parameters: &Value, indent: &str) -> Vec<String> {
    let all = list(parameters);
    if all.is_empty() {
        return vec![format!("{indent}none")];
    }
    all.iter()
        .map(|parameter| {
            let text = |field: &str| parameter[field].as_str().unwrap_or_default();
            let name = match parameter["required"] == true {
                true => text("name").to_owned(),
                false => format!("[{}]", text("name")),
            };
            let kind = match &parameter["default"] {
                Value::String(default) => format!("{}, default {default}", text("kind")),
                _ => text("kind").to_owned(),
            };
            format!("{indent}{name} ({kind}): {}", text("summary"))
        })
        .collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
