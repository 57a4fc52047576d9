//! What wallets do about withdrawals: have one quoted, confirmed and accepted, and
//! say how it stands until it is buried.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Acceptance, Agreement, Amount, EffectDone, EffectResult, Event, FeeLine, Json, PeerAnswer,
    Plan, PlannedOutput, Quote, Refusal, Transition, federation, parameters, wallet,
};

use crate::{
    PegOut, PegOutOutcome, PegOutQuote, State, address,
    address::Kind,
    client::{ATTEMPTS, LATER_SECONDS},
    display_txid, render,
    server::{QuoteQuery, WithdrawalQuery},
};

parameters! {
    /// Pays bitcoin to an address, out of e-cash.
    pub struct WithdrawAction {
        /// Where to: P2PKH, P2SH, P2WPKH, P2WSH or P2TR.
        address: String,
        /// How much arrives there, in whole satoshi; the fee comes on top.
        amount: Amount,
    }
}

/// A withdrawal's machine.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Withdrawal {
    /// What is paid; the fee is known once it has been quoted.
    pub output: PegOut,
    /// How far it is.
    pub stage: Stage,
    /// The id of the effect that is waited for, never used twice.
    pub effect: u32,
}

/// How far a withdrawal is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Stage {
    /// Guardians are asked what it costs.
    Quoting,
    /// The transaction is to be accepted.
    Submitted {
        /// How often it has been tried.
        attempts: u32,
    },
    /// It is on its way.
    Accepted {
        /// The federation's transaction.
        txid: [u8; 32],
        /// The output's place in it.
        index: u16,
        /// What was last heard.
        outcome: PegOutOutcome,
    },
}

type Step = Transition<State>;

/// Begins one.
pub fn start(action: WithdrawAction) -> Result<Step, Refusal> {
    let WithdrawAction { address, amount } = action;
    let script = address::parse(&federation::network(), address.trim())?;
    let satoshi = amount.0 / 1000;
    if !amount.0.is_multiple_of(1000) {
        return Err(Refusal::new(
            "bad-argument",
            format!(
                "the chain knows whole satoshi; {amount} is expected to be {satoshi} sat or more"
            ),
        ));
    }
    let least = Kind::of(&script).map_or(0, Kind::dust);
    if satoshi < least {
        return Err(Refusal::new(
            "amount-too-small",
            format!("{amount} is less than the network relays to this address: {least} sat"),
        ));
    }
    let query = QuoteQuery {
        script: script.clone(),
        satoshi,
    };
    let withdrawal = Withdrawal {
        output: PegOut {
            script,
            satoshi,
            fee: 0,
        },
        stage: Stage::Quoting,
        effect: 1,
    };
    Ok(Transition::to(State::Withdraw(withdrawal)).query(
        1,
        "quote",
        query.arguments(),
        Agreement::Same,
    ))
}

/// Goes on with it.
pub fn advance(withdrawal: Withdrawal, event: Event) -> Result<Step, Refusal> {
    let Event::Done(EffectDone { outcome, .. }) = event else {
        return match withdrawal.stage {
            Stage::Quoting => Ok(failed(
                withdrawal,
                Refusal::new("cancelled", "nothing was paid"),
            )),
            Stage::Submitted { .. } | Stage::Accepted { .. } => Err(Refusal::new(
                "being-paid",
                "guardians have the withdrawal; what they accept is paid",
            )),
        };
    };
    Ok(match withdrawal.stage.clone() {
        Stage::Quoting => quoted(withdrawal, outcome),
        Stage::Submitted { attempts } => decided(withdrawal, attempts, outcome),
        Stage::Accepted {
            txid,
            index,
            outcome: known,
        } => heard(withdrawal, (txid, index), known, outcome),
    })
}

fn failed(withdrawal: Withdrawal, refusal: Refusal) -> Step {
    Transition::failed(State::Withdraw(withdrawal), refusal)
}

fn unexpected(withdrawal: Withdrawal) -> Step {
    let refusal = Refusal::new("unexpected-answer", "guardians answer what makes no sense");
    failed(withdrawal, refusal)
}

/// What was asked of guardians, if it is an answer.
fn answer<T: BorshDeserialize>(outcome: EffectResult) -> Option<Result<T, Refusal>> {
    match outcome {
        EffectResult::Answers(answers) => {
            let PeerAnswer { answer, .. } = answers.into_iter().next()?;
            match answer {
                Ok(bytes) => borsh::from_slice(&bytes).ok().map(Ok),
                Err(refusal) => Some(Err(refusal)),
            }
        }
        EffectResult::Failed(refusal) => Some(Err(refusal)),
        _ => None,
    }
}

fn quoted(mut withdrawal: Withdrawal, outcome: EffectResult) -> Step {
    match answer::<PegOutQuote>(outcome) {
        Some(Ok(quote)) => {
            withdrawal.output.fee = quote.fee;
            submit(withdrawal, 0)
        }
        Some(Err(refusal)) => failed(withdrawal, refusal),
        None => unexpected(withdrawal),
    }
}

/// Where to, as people write it.
fn shown_address(output: &PegOut) -> String {
    address::text(&federation::network(), &output.script)
        .expect("a withdrawal's script came from an address")
}

/// The person is asked the first time; what was confirmed for a transaction that
/// was refused is still allowed.
fn submit(mut withdrawal: Withdrawal, attempts: u32) -> Step {
    let PegOut { satoshi, fee, .. } = withdrawal.output;
    let amount = Amount(satoshi.saturating_mul(1000));
    let address = shown_address(&withdrawal.output);
    let planned = PlannedOutput {
        output: borsh::to_vec(&withdrawal.output).expect("writing to memory does not fail"),
        value: satoshi.saturating_add(fee).saturating_mul(1000),
        fee: 0,
    };
    let confirm = (attempts == 0).then(|| Quote {
        summary: format!("withdraw {amount} to {address}"),
        fees: vec![FeeLine {
            name: "on-chain".into(),
            amount: fee.saturating_mul(1000),
        }],
        expires: None,
    });
    let details = details(&withdrawal.output, &PegOutOutcome::default());
    withdrawal.effect += 1;
    withdrawal.stage = Stage::Submitted { attempts };
    let plan = Plan {
        inputs: Vec::new(),
        outputs: vec![planned],
        confirm,
    };
    let effect = withdrawal.effect;
    Transition::to(State::Withdraw(withdrawal))
        .submit(effect, plan)
        .progress(
            "submitted",
            format!("{amount} are to be paid to {address}"),
            details,
        )
}

fn decided(withdrawal: Withdrawal, attempts: u32, outcome: EffectResult) -> Step {
    match outcome {
        EffectResult::Accepted(Acceptance { txid, outputs }) => {
            let place = txid.try_into().ok().zip(outputs.first().copied());
            match place {
                Some((txid, index)) => wait(withdrawal, txid, index, PegOutOutcome::default()),
                None => unexpected(withdrawal),
            }
        }
        EffectResult::Rejected(rejection) if rejection.is_elsewhere() && attempts < ATTEMPTS => {
            submit(withdrawal, attempts + 1)
        }
        EffectResult::Rejected(rejection) => failed(withdrawal, rejection.refusal),
        EffectResult::Failed(refusal) => failed(withdrawal, refusal),
        EffectResult::Declined => failed(
            withdrawal,
            Refusal::new(
                "declined",
                "the withdrawal was not confirmed; nothing was paid",
            ),
        ),
        _ => unexpected(withdrawal),
    }
}

/// Says how it stands, and waits for news.
fn wait(mut withdrawal: Withdrawal, txid: [u8; 32], index: u16, outcome: PegOutOutcome) -> Step {
    let details = details(&withdrawal.output, &outcome);
    let amount = Amount(withdrawal.output.satoshi.saturating_mul(1000));
    let (stage, message) = match &outcome.txids[..] {
        [] => (
            "accepted",
            format!("{amount} are paid with the next agreed block"),
        ),
        [txid] => (
            "sent",
            format!("{amount} are paid by {}", display_txid(txid)),
        ),
        [.., txid] => (
            "replaced",
            format!(
                "{amount} are paid by {}, which pays more to miners than the one before",
                display_txid(txid)
            ),
        ),
    };
    let known = outcome.txids.len() as u64;
    withdrawal.effect += 1;
    let effect = withdrawal.effect;
    withdrawal.stage = Stage::Accepted {
        txid,
        index,
        outcome,
    };
    let query = WithdrawalQuery {
        txid: txid.to_vec(),
        index: index.into(),
        known: Some(known),
    };
    Transition::to(State::Withdraw(withdrawal))
        .query(effect, "withdrawal", query.arguments(), Agreement::Same)
        .progress(stage, message, details)
}

fn heard(
    mut withdrawal: Withdrawal,
    (txid, index): ([u8; 32], u16),
    known: PegOutOutcome,
    outcome: EffectResult,
) -> Step {
    match answer::<Option<PegOutOutcome>>(outcome) {
        Some(Ok(Some(outcome))) => match outcome.buried {
            Some(buried) => {
                let amount = Amount(withdrawal.output.satoshi.saturating_mul(1000));
                let details = details(&withdrawal.output, &outcome);
                Transition::done(State::Withdraw(withdrawal)).progress(
                    "paid",
                    format!(
                        "{amount} were paid by {}, buried in the chain",
                        display_txid(&buried)
                    ),
                    details,
                )
            }
            None => wait(withdrawal, txid, index, outcome),
        },
        // The time has come to ask again.
        None => wait(withdrawal, txid, index, known),
        // They cannot be asked, or do not know yet.
        Some(_) => {
            withdrawal.effect += 1;
            let effect = withdrawal.effect;
            let later = wallet::unix_time().saturating_add(LATER_SECONDS);
            Transition::to(State::Withdraw(withdrawal)).until(effect, later)
        }
    }
}

/// What programs are told.
fn details(output: &PegOut, outcome: &PegOutOutcome) -> Json {
    let mut details = vec![
        ("address".into(), shown_address(output).into()),
        (
            "amount_msat".into(),
            Amount(output.satoshi.saturating_mul(1000)).into(),
        ),
        (
            "fee_msat".into(),
            Amount(output.fee.saturating_mul(1000)).into(),
        ),
    ];
    if let Json::Object(more) = render::outcome(outcome) {
        details.extend(more);
    }
    Json::Object(details)
}
