//! Between the contract's types and ours.
//!
//! What a module returns is checked here: a value of the wrong length or shape is
//! the refusal `bad-value`, never a host error.

use modmint_core::{
    Amount, Argument, KeyKind, OutPoint, Parameter, ParameterKind, PublicKey, Refusal, TxId, Value,
    rest::AuditLine,
};

use crate::{
    Action, Answer, Audience, Description, Endpoint, InputEffect, KeySpec, OutputEffect,
    RenderItem, Setup, Wake,
    bindings::{
        exports::modmint::module::{client, ecash, module_info, server},
        modmint::module::types,
    },
    limits, wallet,
};

/// What a module returned, or `bad-value`.
pub(crate) type Checked<T> = Result<T, Refusal>;

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new("bad-value", message)
}

fn exactly<const N: usize>(what: &str, bytes: &[u8]) -> Checked<[u8; N]> {
    bytes.try_into().map_err(|_| {
        bad(format!(
            "the module returned {} bytes for {what}, {N} are expected",
            bytes.len()
        ))
    })
}

fn at_most(what: &str, length: usize, limit: usize) -> Checked<()> {
    if length <= limit {
        Ok(())
    } else {
        Err(bad(format!(
            "the module returned {length} for the size of {what}, the limit is {limit}"
        )))
    }
}

fn json(what: &str, text: &str) -> Checked<()> {
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map(|_| ())
        .map_err(|error| {
            bad(format!(
                "the module returned {what} that is no JSON: {error}"
            ))
        })
}

/// Lower-case words of letters and digits joined by single hyphens.
pub(crate) fn is_kebab(text: &str) -> bool {
    text.split('-').all(|word| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    })
}

/// Codes are stored, so they are held to their shape; messages are cut.
pub(crate) fn refusal(refusal: types::Refusal) -> Refusal {
    let types::Refusal { code, mut message } = refusal;
    if code.len() > 64 || !is_kebab(&code) {
        return bad("the module refuses with a code that is none (kebab-case, at most 64 bytes)");
    }
    message.truncate(message.floor_char_boundary(1024));
    Refusal { code, message }
}

fn to_refusal(refusal: &Refusal) -> types::Refusal {
    types::Refusal {
        code: refusal.code.clone(),
        message: refusal.message.clone(),
    }
}

pub(crate) fn to_arguments(arguments: Vec<Argument>) -> Vec<types::Argument> {
    arguments
        .into_iter()
        .map(|Argument { name, value }| types::Argument {
            name,
            value: match value {
                Value::Text(text) => types::Value::Text(text),
                Value::Number(number) => types::Value::Number(number),
                Value::Flag(flag) => types::Value::Flag(flag),
                Value::Bytes(bytes) => types::Value::Bytes(bytes),
                Value::Amount(amount) => types::Value::Amount(amount.msat()),
                Value::Texts(texts) => types::Value::Texts(texts),
            },
        })
        .collect()
}

fn value(value: types::Value) -> Value {
    match value {
        types::Value::Text(text) => Value::Text(text),
        types::Value::Number(number) => Value::Number(number),
        types::Value::Flag(flag) => Value::Flag(flag),
        types::Value::Bytes(bytes) => Value::Bytes(bytes),
        types::Value::Amount(msat) => Value::Amount(Amount(msat)),
        types::Value::Texts(texts) => Value::Texts(texts),
    }
}

fn arguments(arguments: Vec<types::Argument>) -> Vec<Argument> {
    arguments
        .into_iter()
        .map(|argument| Argument {
            name: argument.name,
            value: value(argument.value),
        })
        .collect()
}

fn parameters(parameters: Vec<types::Parameter>) -> Vec<Parameter> {
    parameters
        .into_iter()
        .map(
            |types::Parameter {
                 name,
                 summary,
                 kind,
                 required,
                 default,
             }| Parameter {
                name,
                summary,
                kind: match kind {
                    types::ParameterKind::Text => ParameterKind::Text,
                    types::ParameterKind::Number => ParameterKind::Number,
                    types::ParameterKind::Flag => ParameterKind::Flag,
                    types::ParameterKind::Bytes => ParameterKind::Bytes,
                    types::ParameterKind::Amount => ParameterKind::Amount,
                    types::ParameterKind::Choice(choices) => ParameterKind::Choice(choices),
                    types::ParameterKind::Texts => ParameterKind::Texts,
                },
                required,
                default: default.map(value),
            },
        )
        .collect()
}

fn endpoints(endpoints: Vec<module_info::Endpoint>) -> Vec<Endpoint> {
    endpoints
        .into_iter()
        .map(|endpoint| Endpoint {
            name: endpoint.name,
            summary: endpoint.summary,
            parameters: parameters(endpoint.parameters),
        })
        .collect()
}

pub(crate) fn description(description: module_info::Description) -> Description {
    let module_info::Description {
        kind,
        version,
        summary,
        server_storage,
        client_storage,
        configuration,
        queries,
        commands,
    } = description;
    Description {
        kind,
        version,
        summary,
        server_storage,
        client_storage,
        configuration: parameters(configuration),
        queries: endpoints(queries),
        commands: endpoints(commands),
    }
}

pub(crate) fn actions(actions: Vec<client::Action>) -> Vec<Action> {
    actions
        .into_iter()
        .map(|action| Action {
            name: action.name,
            summary: action.summary,
            audience: match action.audience {
                client::Audience::Person => Audience::Person,
                client::Audience::Gateway => Audience::Gateway,
                client::Audience::Background => Audience::Background,
            },
            parameters: parameters(action.parameters),
        })
        .collect()
}

pub(crate) fn setup(setup: module_info::Setup) -> Checked<Setup> {
    at_most("config", setup.config.len(), limits::MAX_CONFIG_BYTES)?;
    at_most("the list of keys", setup.keys.len(), limits::MAX_KEYS)?;
    let mut keys: Vec<KeySpec> = Vec::with_capacity(setup.keys.len());
    for module_info::KeySpec { label, kind } in setup.keys {
        if label.is_empty() || label.len() > 64 || !label.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad(
                "the module asks for a key whose label is not 1 to 64 printable ASCII characters",
            ));
        }
        if keys.iter().any(|key| key.label == label) {
            return Err(bad(format!("the module asks for the key {label:?} twice")));
        }
        let kind = match kind {
            module_info::KeyKind::BlindSignature => KeyKind::BlindSignature,
            module_info::KeyKind::Decryption => KeyKind::Decryption,
            module_info::KeyKind::Multisig => KeyKind::Multisig,
        };
        keys.push(KeySpec { label, kind });
    }
    Ok(Setup {
        config: setup.config,
        keys,
    })
}

pub(crate) fn to_item(item: RenderItem) -> module_info::Item {
    match item {
        RenderItem::Input => module_info::Item::Input,
        RenderItem::Output => module_info::Item::Output,
        RenderItem::Outcome => module_info::Item::Outcome,
        RenderItem::ConsensusItem => module_info::Item::ConsensusItem,
        RenderItem::Answer(name) => module_info::Item::Answer(name),
    }
}

pub(crate) fn rendered(text: String) -> Checked<String> {
    json("a rendering", &text)?;
    Ok(text)
}

pub(crate) fn to_out_point(out_point: &OutPoint) -> types::OutPoint {
    types::OutPoint {
        txid: out_point.txid.0.to_vec(),
        index: out_point.index,
    }
}

fn out_point(out_point: &types::OutPoint) -> Checked<OutPoint> {
    Ok(OutPoint {
        txid: TxId(exactly("an out-point's txid", &out_point.txid)?),
        index: out_point.index,
    })
}

pub(crate) fn input_effect(effect: &server::InputEffect) -> Checked<InputEffect> {
    if effect.fee > effect.value {
        return Err(bad("the module's fee for an input is more than the input"));
    }
    Ok(InputEffect {
        value: Amount(effect.value),
        fee: Amount(effect.fee),
        spend_key: PublicKey(exactly("a spend key", &effect.spend_key)?),
    })
}

pub(crate) fn output_effect(effect: &server::OutputEffect) -> Checked<OutputEffect> {
    if effect.value.checked_add(effect.fee).is_none() {
        return Err(bad("the module's output and fee are more than all money"));
    }
    Ok(OutputEffect {
        value: Amount(effect.value),
        fee: Amount(effect.fee),
    })
}

pub(crate) fn outcomes(
    asked: usize,
    outcomes: Vec<Option<Vec<u8>>>,
) -> Checked<Vec<Option<Vec<u8>>>> {
    if outcomes.len() == asked {
        Ok(outcomes)
    } else {
        Err(bad(format!(
            "the module returned {} outcomes for {asked} out-points",
            outcomes.len()
        )))
    }
}

pub(crate) fn answer(answer: server::Answer) -> Checked<Answer> {
    let wakes = match answer {
        server::Answer::Ready(bytes) => return Ok(Answer::Ready(bytes)),
        server::Answer::Wait(wakes) => wakes,
    };
    at_most("the list of wakes", wakes.len(), limits::MAX_LIST)?;
    if wakes.is_empty() {
        return Err(bad("the module waits for nothing"));
    }
    let wake = |wake| {
        Ok(match wake {
            server::Wake::Key(key) => {
                at_most("a storage key", key.len(), limits::MAX_KEY_BYTES)?;
                Wake::Key(key)
            }
            server::Wake::Height(height) => Wake::Height(height),
            server::Wake::Time(time) => Wake::Time(time),
            server::Wake::Block => Wake::Block,
        })
    };
    Ok(Answer::Wait(
        wakes.into_iter().map(wake).collect::<Checked<_>>()?,
    ))
}

pub(crate) fn audit(lines: Vec<server::AuditLine>) -> Checked<Vec<AuditLine>> {
    at_most("the audit", lines.len(), limits::MAX_LIST)?;
    lines
        .into_iter()
        .map(|server::AuditLine { name, msat }| {
            at_most("an audit line's name", name.len(), 128)?;
            Ok(AuditLine { name, msat })
        })
        .collect()
}

fn planned_input(input: client::PlannedInput) -> Checked<wallet::PlannedInput> {
    Ok(wallet::PlannedInput {
        input: input.input,
        value: Amount(input.value),
        fee: Amount(input.fee),
        signer: match input.signer {
            client::Signer::Path(path) => {
                at_most("a key's path", path.len(), limits::MAX_PATH)?;
                wallet::Signer::Path(path)
            }
            client::Signer::Secret(secret) => {
                wallet::Signer::Secret(exactly("a secret key", &secret)?)
            }
        },
    })
}

fn planned_output(output: client::PlannedOutput) -> wallet::PlannedOutput {
    wallet::PlannedOutput {
        output: output.output,
        value: Amount(output.value),
        fee: Amount(output.fee),
    }
}

fn plan(plan: client::Plan) -> Checked<wallet::Plan> {
    Ok(wallet::Plan {
        inputs: plan
            .inputs
            .into_iter()
            .map(planned_input)
            .collect::<Checked<_>>()?,
        outputs: plan.outputs.into_iter().map(planned_output).collect(),
        confirm: plan.confirm.map(|quote| wallet::Quote {
            summary: quote.summary,
            fees: quote
                .fees
                .into_iter()
                .map(|client::FeeLine { name, amount }| wallet::FeeLine {
                    name,
                    amount: Amount(amount),
                })
                .collect(),
            expires: quote.expires,
        }),
    })
}

fn agreement(agreement: client::Agreement) -> wallet::Agreement {
    match agreement {
        client::Agreement::Any => wallet::Agreement::Any,
        client::Agreement::Same => wallet::Agreement::Same,
        client::Agreement::Each => wallet::Agreement::Each,
    }
}

fn want(want: client::Want) -> Checked<wallet::Want> {
    Ok(match want {
        client::Want::Submit(submitted) => wallet::Want::Submit(plan(submitted)?),
        client::Want::Outcomes(request) => wallet::Want::Outcomes(wallet::OutcomeRequest {
            out_points: request
                .out_points
                .iter()
                .map(out_point)
                .collect::<Checked<_>>()?,
            agreement: agreement(request.agreement),
        }),
        client::Want::Query(request) => wallet::Want::Query(wallet::QueryRequest {
            name: request.name,
            arguments: arguments(request.arguments),
            agreement: agreement(request.agreement),
        }),
        client::Want::Http(request) => wallet::Want::Http(wallet::HttpRequest {
            method: request.method,
            url: request.url,
            headers: request.headers,
            body: request.body,
        }),
        client::Want::Until(time) => wallet::Want::Until(time),
        client::Want::Service(request) => wallet::Want::Service(wallet::ServiceRequest {
            name: request.name,
            request: request.request,
        }),
    })
}

pub(crate) fn transition(transition: client::Transition) -> Checked<wallet::Transition> {
    let client::Transition {
        state,
        effects,
        progress,
        finished,
    } = transition;
    at_most("the list of effects", effects.len(), limits::MAX_LIST)?;
    let mut ids = std::collections::BTreeSet::new();
    let effects = effects
        .into_iter()
        .map(|effect| {
            if !ids.insert(effect.id) {
                return Err(bad(format!(
                    "the module uses effect id {} twice",
                    effect.id
                )));
            }
            Ok(wallet::Effect {
                id: effect.id,
                want: want(effect.want)?,
            })
        })
        .collect::<Checked<_>>()?;
    let progress = progress
        .map(|progress| {
            json("progress details", &progress.details)?;
            Ok(wallet::Progress {
                stage: progress.stage,
                message: progress.message,
                details: progress.details,
            })
        })
        .transpose()?;
    Ok(wallet::Transition {
        state,
        effects,
        progress,
        finished: finished.map(|result| result.map_err(refusal)),
    })
}

pub(crate) fn completion(completion: ecash::Completion) -> Checked<wallet::Completion> {
    Ok(wallet::Completion {
        inputs: completion
            .inputs
            .into_iter()
            .map(planned_input)
            .collect::<Checked<_>>()?,
        outputs: completion.outputs.into_iter().map(planned_output).collect(),
        machine: completion.machine,
    })
}

pub(crate) fn backup(bytes: Vec<u8>) -> Checked<Vec<u8>> {
    at_most("a backup", bytes.len(), limits::MAX_CONFIG_BYTES)?;
    Ok(bytes)
}

pub(crate) fn to_event(event: wallet::Event) -> client::Event {
    let (effect, outcome) = match event {
        wallet::Event::Cancel => return client::Event::Cancel,
        wallet::Event::Done { effect, outcome } => (effect, outcome),
    };
    use wallet::EffectResult as Result;
    let outcome = match outcome {
        Result::Accepted { txid, outputs } => client::EffectResult::Accepted(client::Acceptance {
            txid: txid.0.to_vec(),
            outputs,
        }),
        Result::Rejected {
            refusal,
            input,
            output,
        } => client::EffectResult::Rejected(client::Rejection {
            refusal: to_refusal(&refusal),
            input,
            output,
        }),
        Result::Declined => client::EffectResult::Declined,
        Result::Outcomes(outcomes) => client::EffectResult::Outcomes(
            outcomes
                .into_iter()
                .map(
                    |wallet::PeerOutcomes { peer, outcomes }| client::PeerOutcomes {
                        peer: peer.0,
                        outcomes,
                    },
                )
                .collect(),
        ),
        Result::Answers(answers) => client::EffectResult::Answers(
            answers
                .into_iter()
                .map(|wallet::PeerAnswer { peer, answer }| client::PeerAnswer {
                    peer: peer.0,
                    answer: answer.map_err(|refusal| to_refusal(&refusal)),
                })
                .collect(),
        ),
        Result::Response(wallet::HttpResponse { status, body }) => {
            client::EffectResult::Response(client::HttpResponse { status, body })
        }
        Result::TimeReached => client::EffectResult::TimeReached,
        Result::Served(bytes) => client::EffectResult::Served(bytes),
        Result::Failed(refusal) => client::EffectResult::Failed(to_refusal(&refusal)),
    };
    client::Event::Done(client::EffectDone { effect, outcome })
}
