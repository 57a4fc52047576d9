//! What hosts, liars and strangers may bring: drawn from a seed, so that it can be brought
//! again.

use modmint_core::{Argument, Parameter, ParameterKind, Value};
use modmint_sdk::{
    Acceptance, EffectDone, EffectResult, Event, HttpResponse, PeerAnswer, PeerOutcomes, Refusal,
    Rejection,
};
use rand::{Rng, rngs::StdRng, seq::SliceRandom};

/// Bytes that are nearly, or not at all, what they were.
pub(super) fn bytes(random: &mut StdRng, bytes: &[u8]) -> Vec<u8> {
    let mut junk = bytes.to_vec();
    match random.gen_range(0..5) {
        0 => junk.truncate(random.gen_range(0..=bytes.len())),
        1 => junk.extend((0..random.gen_range(1..40)).map(|_| random.r#gen::<u8>())),
        2 | 3 => flip(random, &mut junk),
        _ => {
            let length = random.gen_range(0..300);
            junk = (0..length).map(|_| random.r#gen()).collect();
        }
    }
    junk
}

/// One bit of them is another.
fn flip(random: &mut StdRng, bytes: &mut Vec<u8>) {
    match bytes.choose_mut(random) {
        Some(byte) => *byte ^= 1 << random.gen_range(0..8),
        None => bytes.push(0),
    }
}

/// One of each sort for this effect, as a host or a liar may bring them.
pub(super) fn events(random: &mut StdRng, effect: u32) -> Vec<Event> {
    let bytes = |random: &mut StdRng| bytes(random, &[0; 40]);
    let refusal = || Refusal {
        code: "no".into(),
        message: "no".into(),
    };
    let done = |outcome| Event::Done(EffectDone { effect, outcome });
    let index = random.gen_range(0..4);
    vec![
        Event::Cancel,
        done(EffectResult::Accepted(Acceptance {
            txid: random.r#gen::<[u8; 32]>().to_vec(),
            outputs: (0..index).collect(),
        })),
        done(EffectResult::Rejected(Rejection {
            refusal: refusal(),
            input: random.gen_bool(0.5).then_some(index),
            output: random.gen_bool(0.5).then_some(index),
        })),
        done(EffectResult::Declined),
        done(EffectResult::Outcomes(vec![PeerOutcomes {
            peer: index,
            outcomes: vec![bytes(random)],
        }])),
        done(EffectResult::Outcomes(Vec::new())),
        done(EffectResult::Answers(vec![
            PeerAnswer {
                peer: 0,
                answer: Ok(bytes(random)),
            },
            PeerAnswer {
                peer: 1,
                answer: Err(refusal()),
            },
        ])),
        done(EffectResult::Answers(Vec::new())),
        done(EffectResult::Response(HttpResponse {
            status: 500,
            body: bytes(random),
        })),
        done(EffectResult::TimeReached),
        done(EffectResult::Served(bytes(random))),
        done(EffectResult::Failed(refusal())),
    ]
}

/// What a machine was told, with something in it that nobody said. What is far from right
/// seldom gets past a length, so every other turn is one bit, of each byte in turn.
pub(super) fn misheard(random: &mut StdRng, event: &Event, turn: usize) -> Event {
    let mut event = event.clone();
    let Event::Done(EffectDone { outcome, .. }) = &mut event else {
        return event;
    };
    let mishear = |random: &mut StdRng, told: &mut Vec<u8>| match (turn % 2, told.len()) {
        (1, _) | (_, 0) => *told = bytes(random, told),
        (_, length) => told[turn / 2 % length] ^= 1 << random.gen_range(0..8),
    };
    match outcome {
        EffectResult::Accepted(acceptance) => match random.gen_bool(0.5) {
            true => acceptance.outputs.truncate(random.gen_range(0..2)),
            false => acceptance.outputs.push(random.r#gen()),
        },
        EffectResult::Rejected(rejection) => rejection.input = Some(random.r#gen()),
        EffectResult::Outcomes(peers) => {
            if let Some(peer) = peers.choose_mut(random) {
                match peer.outcomes.choose_mut(random) {
                    Some(outcome) => mishear(random, outcome),
                    None => peer.outcomes.push(Vec::new()),
                }
                if random.gen_bool(0.1) {
                    peer.outcomes.clear();
                }
            }
        }
        EffectResult::Answers(peers) => {
            for peer in peers.iter_mut() {
                if let Ok(answer) = &mut peer.answer {
                    mishear(random, answer);
                }
            }
        }
        EffectResult::Response(response) => match random.gen_bool(0.2) {
            true => response.status = random.r#gen(),
            false => mishear(random, &mut response.body),
        },
        EffectResult::Served(answer) => mishear(random, answer),
        EffectResult::Declined | EffectResult::TimeReached | EffectResult::Failed(_) => {}
    }
    event
}

/// Arguments that the host lets through; required ones are there.
pub(super) fn arguments(random: &mut StdRng, parameters: &[Parameter]) -> Vec<Argument> {
    let mut arguments = Vec::new();
    for parameter in parameters {
        if parameter.required || random.gen_bool(0.5) {
            arguments.push(Argument {
                name: parameter.name.clone(),
                value: value(random, &parameter.kind),
            });
        }
    }
    arguments
}

/// Numbers at which something begins or ends.
pub(super) fn number(random: &mut StdRng) -> u64 {
    let numbers = [
        0,
        1,
        2,
        1000,
        u64::from(u32::MAX),
        i64::MAX as u64,
        u64::MAX,
    ];
    *numbers.choose(random).unwrap_or(&0)
}

fn value(random: &mut StdRng, kind: &ParameterKind) -> Value {
    const TEXTS: [&str; 6] = ["", "a", "0", "nonsense 🙂", "lnbc1", "\u{202e}x"];
    let number = number(random);
    let text = |random: &mut StdRng| (*TEXTS.choose(random).unwrap_or(&"")).to_owned();
    match kind {
        ParameterKind::Text => Value::Text(text(random)),
        ParameterKind::Number => Value::Number(number),
        ParameterKind::Flag => Value::Flag(random.r#gen()),
        ParameterKind::Bytes => {
            let length = *[0, 1, 32, 33, 64, 65, 500].choose(random).unwrap_or(&0);
            Value::Bytes((0..length).map(|_| random.r#gen()).collect())
        }
        ParameterKind::Amount => Value::Amount(modmint_core::Amount(number)),
        ParameterKind::Choice(choices) => {
            Value::Text(choices.choose(random).cloned().unwrap_or_default())
        }
        ParameterKind::Texts => {
            let count = random.gen_range(0..3);
            Value::Texts((0..count).map(|_| text(random)).collect())
        }
    }
}
