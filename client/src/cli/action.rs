//! A module's actions as commands: arguments, help and waiting.

use std::{ffi::OsString, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Args as _, Command, FromArgMatches as _};
use modmint_client::{
    Allowance, Federation, ModuleView, OperationId, OperationStatus, OperationView, WalletError,
};
use modmint_core::{Argument, Parameter, ParameterKind, Value};
use modmint_runtime::Action;

use crate::{
    Manner, allowance,
    exit::Exit,
    output::{Output, Report},
};

/// How long a result waits for what goes on behind it: change, mostly.
const SETTLING: Duration = Duration::from_secs(10);

/// Runs `<kind>[:instance] <action> …`.
pub async fn run(
    federation: &Federation,
    words: &[OsString],
    manner: Manner,
    output: &Output,
) -> Result<Exit, WalletError> {
    let name = words
        .first()
        .and_then(|word| word.to_str())
        .ok_or_else(|| WalletError::Usage("a module's name is no text".to_owned()))?;
    let module = federation.module(federation.instance(name)?).await?;
    if !module.has_client {
        return Err(WalletError::NotFound(format!(
            "module {name} has no wallet half: it is the guardians' alone"
        )));
    }
    let matches = match command_of(name, &module).try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => {
            let usage = error.use_stderr();
            if usage && output.is_json() {
                output.error("bad-argument", error.to_string().trim());
            } else {
                let _ = error.print();
            }
            return Ok(if usage { Exit::Usage } else { Exit::Success });
        }
    };
    let Some((action, matches)) = matches.subcommand() else {
        return Err(WalletError::Usage(format!("{name} needs an action")));
    };
    let known = module
        .actions
        .iter()
        .find(|known| known.name == action)
        .ok_or_else(|| WalletError::NotFound(format!("{name} has no action {action:?}")))?;
    let arguments = arguments(&known.parameters, matches)?;
    let manner = merged(manner, matches);
    let mut report = Report::new(output, &manner);
    let mut allowed = allowance(&manner);
    let begun = loop {
        match federation
            .start(module.instance, action, &arguments, allowed)
            .await
        {
            Err(WalletError::ConfirmationNeeded(quote)) if report.interactive => {
                if !report.ask(&quote) {
                    output.error("declined", "nothing was spent");
                    return Ok(Exit::Declined);
                }
                // What it takes when it is begun again may not be more.
                allowed = Allowance::UpTo(quote.total);
            }
            begun => break begun?,
        }
    };
    report.progress(&begun);
    follow(federation, begun.operation, &manner, report).await
}

/// Options given before and behind the module's name.
fn merged(before: Manner, matches: &ArgMatches) -> Manner {
    let behind = Manner::from_arg_matches(matches).unwrap_or_default();
    Manner {
        json: before.json || behind.json,
        yes: before.yes || behind.yes,
        detach: before.detach || behind.detach,
        timeout: behind.timeout.or(before.timeout),
    }
}

fn command_of(name: &str, module: &ModuleView) -> Command {
    let command = Command::new(name.to_owned())
        .bin_name(format!("modmint-cli {name}"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .after_help("All options and exit codes: modmint-cli --help")
        .subcommands(module.actions.iter().map(command_of_action));
    // Behind our own options, whose description would stand in its place.
    Manner::augment_args(command).about(module.summary.clone())
}

fn command_of_action(action: &Action) -> Command {
    let command = Command::new(action.name.clone()).about(action.summary.clone());
    let longs = longs_of(&action.parameters);
    let parameters = action.parameters.iter().zip(longs);
    // The rest of the words comes last, wherever it is declared.
    let (rest, first): (Vec<_>, Vec<_>) = parameters
        .partition(|(parameter, _)| parameter.required && parameter.kind == ParameterKind::Texts);
    command.args(first.into_iter().chain(rest).map(|(parameter, long)| {
        let arg = Arg::new(id_of(parameter))
            .help(help_of(parameter))
            .value_name(value_name(&parameter.kind))
            .allow_negative_numbers(true);
        let arg = match &parameter.kind {
            ParameterKind::Texts => arg.num_args(1..).action(ArgAction::Append),
            ParameterKind::Choice(choices) => arg.value_parser(
                clap::builder::PossibleValuesParser::new(choices.iter().cloned()),
            ),
            _ => arg,
        };
        match (&parameter.kind, parameter.required) {
            (_, true) => arg.required(true),
            (ParameterKind::Flag, false) => {
                arg.long(long).num_args(0..=1).default_missing_value("true")
            }
            (_, false) => arg.long(long),
        }
    }))
}

/// No parameter of a module has the id of an option of ours.
fn id_of(parameter: &Parameter) -> String {
    format!("parameter {}", parameter.name)
}

/// The parameters' options, in order, no two of them the same: one that has the name of an
/// option of ours is told apart, by as much as it takes.
fn longs_of(parameters: &[Parameter]) -> Vec<String> {
    let own: Vec<_> = crate::own_command()
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .chain(["help".to_owned(), "version".to_owned()])
        .collect();
    let is_own = |name: &String| own.contains(name);
    let names = parameters.iter().map(|parameter| parameter.name.clone());
    let mut taken: Vec<_> = names.filter(|name| !is_own(name)).collect();
    let long = |parameter: &Parameter| {
        let mut long = parameter.name.clone();
        if is_own(&long) {
            while is_own(&long) || taken.contains(&long) {
                long = format!("module-{long}");
            }
            taken.push(long.clone());
        }
        long
    };
    parameters.iter().map(long).collect()
}

fn help_of(parameter: &Parameter) -> String {
    let help = match parameter.kind {
        ParameterKind::Amount => format!("{} (for example 1000sat)", parameter.summary),
        ParameterKind::Bytes => format!("{} (hexadecimal)", parameter.summary),
        _ => parameter.summary.clone(),
    };
    match &parameter.default {
        Some(default) => format!("{help} [default: {default}]"),
        None => help,
    }
}

fn value_name(kind: &ParameterKind) -> &'static str {
    match kind {
        ParameterKind::Text => "TEXT",
        ParameterKind::Number => "NUMBER",
        ParameterKind::Flag => "BOOL",
        ParameterKind::Bytes => "HEX",
        ParameterKind::Amount => "AMOUNT",
        ParameterKind::Choice(_) => "CHOICE",
        ParameterKind::Texts => "TEXTS",
    }
}

fn arguments(parameters: &[Parameter], matches: &ArgMatches) -> Result<Vec<Argument>, WalletError> {
    let mut arguments = Vec::new();
    for parameter in parameters {
        let Some(words) = matches.get_many::<String>(&id_of(parameter)) else {
            continue;
        };
        let words: Vec<&String> = words.collect();
        let value = match (&parameter.kind, words.as_slice()) {
            (ParameterKind::Texts, words) => {
                Value::Texts(words.iter().map(|word| (*word).clone()).collect())
            }
            (kind, [word]) => kind
                .parse(word)
                .map_err(|e| WalletError::Usage(format!("{}: {e}", parameter.name)))?,
            (_, words) => {
                return Err(WalletError::Usage(format!(
                    "{} is given {} times; once is expected",
                    parameter.name,
                    words.len()
                )));
            }
        };
        arguments.push(Argument {
            name: parameter.name.clone(),
            value,
        });
    }
    Ok(arguments)
}

/// Why waiting ended.
enum End {
    /// There is nothing to wait for.
    Result,
    /// A confirmation is asked for.
    Question,
    /// Guardians do not take the transaction; it is not final.
    NotTaken,
}

fn end_of(view: &OperationView, manner: &Manner) -> Option<End> {
    match view.status {
        OperationStatus::Done | OperationStatus::Failed | OperationStatus::Stuck => {
            Some(End::Result)
        }
        OperationStatus::Asking => Some(End::Question),
        OperationStatus::Running if view.resting => Some(End::Result),
        OperationStatus::Running if view.error.is_some() => Some(End::NotTaken),
        OperationStatus::Running => (manner.detach && view.stage.is_some()).then_some(End::Result),
    }
}

/// Waits for an operation, shows how it goes on and what came of it, and asks
/// what it asks.
pub async fn follow(
    federation: &Federation,
    id: OperationId,
    manner: &Manner,
    mut report: Report<'_>,
) -> Result<Exit, WalletError> {
    let deadline = manner
        .timeout
        .map(|seconds| tokio::time::Instant::now() + Duration::from_secs(seconds));
    let exit = loop {
        let waiting = federation.wait(id, |view| {
            report.progress(view);
            end_of(view, manner).is_some()
        });
        let patience = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let view = tokio::select! {
            view = waiting => view?,
            () = patience => break pending(federation, id, &report).await?,
            _ = tokio::signal::ctrl_c() => break pending(federation, id, &report).await?,
        };
        match end_of(&view, manner) {
            Some(End::Question) => {
                let Some(quote) = view.question.clone() else {
                    continue;
                };
                let allowed = if manner.yes {
                    Allowance::Anything
                } else if report.interactive {
                    if !report.ask(&quote) {
                        federation.decline(id).await?;
                        break Exit::Declined;
                    }
                    Allowance::UpTo(quote.total)
                } else {
                    report.end();
                    report.output.confirmation_needed(&quote, Some(&view));
                    return Ok(Exit::ConfirmationNeeded);
                };
                match federation.confirm(id, allowed).await {
                    // It costs more by now: asked again, with today's quote.
                    Err(WalletError::ConfirmationNeeded(quote)) if report.interactive => {
                        if !report.ask(&quote) {
                            federation.decline(id).await?;
                            break Exit::Declined;
                        }
                        federation.confirm(id, Allowance::UpTo(quote.total)).await?;
                    }
                    confirmed => drop(confirmed?),
                }
            }
            Some(End::NotTaken) => {
                report.end();
                report.output.operation(&view);
                return Ok(Exit::Refused);
            }
            Some(End::Result) | None => {
                let view = if view.settling {
                    let settled = federation.wait(id, |view| !view.settling);
                    match tokio::time::timeout(SETTLING, settled).await {
                        Ok(view) => view?,
                        // The result is there; the rest comes with the next
                        // command.
                        Err(_) => federation.operation(id).await?,
                    }
                } else {
                    view
                };
                report.end();
                report.output.operation(&view);
                return Ok(exit_of(&view));
            }
        }
    };
    report.end();
    Ok(exit)
}

/// The operation goes on without us.
async fn pending(
    federation: &Federation,
    id: OperationId,
    report: &Report<'_>,
) -> Result<Exit, WalletError> {
    let view = federation.operation(id).await?;
    report.end();
    report.output.operation(&view);
    Ok(Exit::Pending)
}

fn exit_of(view: &OperationView) -> Exit {
    match (view.status, &view.error) {
        (OperationStatus::Failed, Some(refusal)) => Exit::of_refusal(&refusal.code),
        (OperationStatus::Failed | OperationStatus::Stuck, _) => Exit::Error,
        _ => Exit::Success,
    }
}

#[cfg(test)]
mod tests {
    use modmint_core::{Amount, InstanceId};
    use modmint_runtime::Audience;

    use super::*;

    fn parameter(name: &str, kind: ParameterKind, required: bool) -> Parameter {
        Parameter {
            name: name.into(),
            summary: format!("the {name}"),
            kind,
            required,
            default: None,
        }
    }

    fn module() -> ModuleView {
        ModuleView {
            instance: InstanceId(1),
            kind: "mint".into(),
            version: "1.0.0".into(),
            summary: "e-cash".into(),
            has_client: true,
            actions: vec![Action {
                name: "send".into(),
                summary: "Send notes".into(),
                audience: Audience::Person,
                parameters: vec![
                    parameter("amount", ParameterKind::Amount, true),
                    parameter("invite", ParameterKind::Flag, false),
                    parameter("yes", ParameterKind::Number, false),
                    parameter(
                        "speed",
                        ParameterKind::Choice(vec!["slow".into(), "fast".into()]),
                        false,
                    ),
                    parameter("words", ParameterKind::Texts, false),
                ],
            }],
        }
    }

    fn parse(words: &[&str]) -> Result<(Vec<Argument>, Manner), String> {
        let module = module();
        let matches = command_of("mint", &module)
            .try_get_matches_from(words)
            .map_err(|e| e.to_string())?;
        let (_, matches) = matches.subcommand().ok_or("no action")?;
        let arguments =
            arguments(&module.actions[0].parameters, matches).map_err(|e| e.to_string())?;
        Ok((arguments, merged(Manner::default(), matches)))
    }

    #[test]
    fn arguments_are_typed_as_the_module_declares_them() {
        let words = [
            "mint", "send", "1000sat", "--invite", "--speed", "fast", "--yes",
        ];
        let (arguments, manner) = parse(&words).expect("valid");
        let value = |name: &str| {
            let found = arguments.iter().find(|argument| argument.name == name);
            found.map(|argument| argument.value.clone())
        };
        assert_eq!(value("amount"), Some(Value::Amount(Amount(1_000_000))));
        assert_eq!(value("invite"), Some(Value::Flag(true)));
        assert_eq!(value("speed"), Some(Value::Text("fast".into())));
        assert_eq!(value("words"), None);
        assert_eq!(value("yes"), None, "our own option is not the module's");
        assert!(manner.yes && !manner.json);
        let words = [
            "mint",
            "send",
            "1sat",
            "--module-yes",
            "3",
            "--words",
            "a",
            "b",
        ];
        let (arguments, manner) = parse(&words).expect("valid");
        assert_eq!(arguments[1].value, Value::Number(3));
        assert_eq!(
            arguments[2].value,
            Value::Texts(vec!["a".into(), "b".into()])
        );
        assert!(!manner.yes);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        assert!(
            parse(&["mint", "send"])
                .expect_err("no amount")
                .contains("AMOUNT")
        );
        let unit = parse(&["mint", "send", "1000"]).expect_err("no unit");
        assert!(unit.contains("1000sat"), "{unit}");
        let choice = parse(&["mint", "send", "1sat", "--speed", "warp"]).expect_err("no choice");
        assert!(
            choice.contains("slow") && choice.contains("fast"),
            "{choice}"
        );
        let action = parse(&["mint", "burn"]).expect_err("no such action");
        assert!(action.contains("burn"), "{action}");
    }

    fn with(parameters: Vec<Parameter>) -> ModuleView {
        let mut module = module();
        module.actions[0].parameters = parameters;
        module
    }

    #[test]
    fn options_of_one_name_are_told_apart_however_often_they_clash() {
        let number = |name: &str| parameter(name, ParameterKind::Number, false);
        let module = with(vec![
            number("module-yes"),
            number("yes"),
            number("module-module-yes"),
            number("help"),
            number("module-version"),
            number("version"),
            number("data-dir"),
        ]);
        let longs = longs_of(&module.actions[0].parameters);
        let different: std::collections::BTreeSet<_> = longs.iter().collect();
        assert_eq!(different.len(), longs.len(), "{longs:?}");
        assert_eq!(
            longs[..3],
            [
                "module-yes",
                "module-module-module-yes",
                "module-module-yes"
            ]
        );
        let command = command_of("mint", &module);
        command.clone().debug_assert();
        for (place, long) in longs.iter().enumerate() {
            let words = ["mint", "send", &format!("--{long}"), "3"];
            let matches = command.clone().try_get_matches_from(words);
            let matches = matches.expect("an option of the module's");
            let (_, matches) = matches.subcommand().expect("an action");
            let given = arguments(&module.actions[0].parameters, matches).expect("a number");
            let names: Vec<_> = given.iter().map(|given| given.name.as_str()).collect();
            assert_eq!(names, [module.actions[0].parameters[place].name.as_str()]);
        }
    }

    #[test]
    fn the_rest_of_the_words_is_the_last_argument_wherever_it_is_declared() {
        let module = with(vec![
            parameter("words", ParameterKind::Texts, true),
            parameter("amount", ParameterKind::Amount, true),
        ]);
        let command = command_of("mint", &module);
        command.clone().debug_assert();
        let words = ["mint", "send", "1sat", "a", "b"];
        let matches = command.try_get_matches_from(words).expect("well-formed");
        let (_, matches) = matches.subcommand().expect("an action");
        let given = arguments(&module.actions[0].parameters, matches).expect("of their kinds");
        let words = Value::Texts(vec!["a".into(), "b".into()]);
        assert_eq!(given[0].value, words);
        assert_eq!(given[1].value, Value::Amount(Amount(1000)));
    }

    #[test]
    fn our_own_commands_are_consistent() {
        crate::own_command().debug_assert();
        command_of("mint", &module()).debug_assert();
    }
}
