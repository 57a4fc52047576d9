//! The wallets' half: which machine an action begins and an event belongs to, and what
//! all machines share.
//!
//! Secrets come from the seed by a nonce of each operation, which is drawn once and
//! stands in the contract: a wallet of given words finds its contracts by it.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Action, Arguments, Audience, Client, EffectDone, EffectResult, Event, Plan, PlannedInput,
    PlannedOutput, Refusal, Signer, Transition, wallet,
};

use crate::{
    ContractInput, ContractOrOfferOutput, Ln,
    gateway::{
        self, AnnounceAction, GatewayKeyAction, GatewayPay, GatewayPayAction, GatewayReceive,
        GatewayReceiveAction,
    },
    gateways::{self, GatewaysAction},
    pay::{self, Pay, PayAction},
    receive::{self, InvoiceAction, Receive},
    recovery::{self, Recovery},
};

/// How often a transaction is tried again that was refused for somebody else's item.
pub const ATTEMPTS: u32 = 5;
/// When something is tried again that could not be done.
pub const LATER_SECONDS: u64 = 30;

/// A machine. Newer versions of the module read the states of older ones, so variants
/// are only ever added, at the end.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum State {
    /// Has done all that it had to do.
    Over,
    /// Shows gateways.
    Gateways,
    /// Pays an invoice.
    Pay(Pay),
    /// Is paid for an invoice.
    Receive(Receive),
    /// A gateway announces itself.
    Announcing {
        /// With what.
        announcement: crate::Announcement,
        /// How often it has been tried, and the effect's id.
        attempt: u32,
    },
    /// A gateway pays for somebody.
    GatewayPay(GatewayPay),
    /// A gateway is paid for somebody.
    GatewayReceive(GatewayReceive),
    /// Looks for contracts of this seed.
    Recovery(Recovery),
}

/// A step of any machine.
pub type Step = Transition<State>;

impl Client for Ln {
    type State = State;

    fn actions() -> Vec<Action> {
        vec![
            PayAction::action("pay", Audience::Person),
            InvoiceAction::action("invoice", Audience::Person),
            GatewaysAction::action("gateways", Audience::Person),
            AnnounceAction::action("gateway-announce", Audience::Gateway),
            GatewayKeyAction::action("gateway-key", Audience::Gateway),
            GatewayPayAction::action("gateway-pay", Audience::Gateway),
            GatewayReceiveAction::action("gateway-receive", Audience::Gateway),
        ]
    }

    fn start(action: &str, arguments: Arguments) -> Result<Step, Refusal> {
        match action {
            "pay" => pay::start(PayAction::read(arguments)?),
            "invoice" => receive::start(InvoiceAction::read(arguments)?),
            "gateways" => Ok(gateways::start()),
            "gateway-announce" => gateway::announce(AnnounceAction::read(arguments)?),
            "gateway-key" => Ok(gateway::show_key()),
            "gateway-pay" => gateway::start_pay(GatewayPayAction::read(arguments)?),
            "gateway-receive" => gateway::start_receive(GatewayReceiveAction::read(arguments)?),
            _ => Err(Refusal::new(
                "no-such-action",
                format!(
                    "the ln module has no action {action:?}: pay, invoice, gateways; for \
                     gateways gateway-announce, gateway-key, gateway-pay, gateway-receive"
                ),
            )),
        }
    }

    fn advance(state: State, event: Event) -> Result<Step, Refusal> {
        let EffectDone { effect, outcome } = match event {
            Event::Done(done) => done,
            Event::Cancel => return cancel(state),
        };
        Ok(match state {
            State::Over => Transition::done(State::Over),
            State::Gateways => gateways::shown(outcome),
            State::Pay(pay) => pay::advance(pay, effect, outcome),
            State::Receive(receive) => receive::advance(receive, effect, outcome),
            State::Announcing {
                announcement,
                attempt,
            } => gateway::announced(announcement, attempt, outcome),
            State::GatewayPay(pay) => gateway::advance_pay(pay, effect, outcome),
            State::GatewayReceive(receive) => gateway::advance_receive(receive, effect, outcome),
            State::Recovery(recovery) => recovery::advance(recovery, effect, outcome),
        })
    }

    fn recover(_backup: Option<Vec<u8>>) -> Result<Option<Step>, Refusal> {
        Ok(Some(recovery::start()))
    }
}

fn cancel(state: State) -> Result<Step, Refusal> {
    match state {
        State::Gateways => Ok(stopped()),
        State::Pay(pay) => pay::cancel(&pay),
        State::Receive(receive) => receive::cancel(&receive),
        State::Recovery(_) => Ok(stopped()),
        _ => Err(Refusal::new(
            "not-now",
            "somebody's payment depends on this; it ends by itself",
        )),
    }
}

/// The end of what was asked to stop before it did anything.
pub fn stopped() -> Step {
    let refusal = Refusal::new("cancelled", "stopped as asked; no money was moved");
    Transition::failed(State::Over, refusal)
}

/// The end of what could not be done.
pub fn failed(refusal: Refusal) -> Step {
    Transition::failed(State::Over, refusal)
}

/// What a secret is for, the first part of its path.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// A gateway's own key.
    Gateway,
    /// The key by which a payer takes a contract back.
    Refund,
    /// The key by which a receiver takes a contract.
    Claim,
    /// A preimage.
    Preimage,
    /// What makes a ciphertext repeatable.
    Encryption,
}

/// The path of an operation's secret.
pub fn path(purpose: Purpose, nonce: &[u8; 16]) -> Vec<u64> {
    let number = u128::from_be_bytes(*nonce);
    vec![purpose as u64, (number >> 64) as u64, number as u64]
}

/// What a gateway's own key is derived by.
pub fn gateway_path() -> Vec<u64> {
    path(Purpose::Gateway, &[0; 16])
}

/// This wallet's key as a gateway.
pub fn gateway_key() -> crate::PublicKey {
    wallet::derive_public_key(&gateway_path())
}

/// A plan that takes the money of contracts, which costs nothing: nobody need be asked.
pub fn take(inputs: Vec<(ContractInput, u64, Vec<u64>)>) -> Plan {
    let planned = |(input, value, path): (ContractInput, u64, Vec<u64>)| PlannedInput {
        input: encoded(&input),
        value,
        fee: 0,
        signer: Signer::Path(path),
    };
    Plan {
        inputs: inputs.into_iter().map(planned).collect(),
        outputs: Vec::new(),
        confirm: None,
    }
}

/// An output.
pub fn planned(output: &ContractOrOfferOutput, value: u64, fee: u64) -> PlannedOutput {
    PlannedOutput {
        output: encoded(output),
        value,
        fee,
    }
}

/// Canonical bytes.
pub fn encoded<T: BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("writing to memory does not fail")
}

/// What guardians have answered.
///
/// # Errors
/// What they refuse, or `unexpected-answer`.
pub fn answer<T: BorshDeserialize>(outcome: EffectResult) -> Result<T, Refusal> {
    let unexpected = || {
        Refusal::new(
            "unexpected-answer",
            "guardians answer a question with something else",
        )
    };
    match outcome {
        EffectResult::Answers(answers) => {
            let first = answers.into_iter().next().ok_or_else(unexpected)?;
            borsh::from_slice(&first.answer?).map_err(|_| unexpected())
        }
        EffectResult::Failed(refusal) => Err(refusal),
        _ => Err(unexpected()),
    }
}

/// Why a submission has come to nothing.
pub fn failure(outcome: EffectResult) -> Refusal {
    match outcome {
        EffectResult::Rejected(rejection) => rejection.refusal,
        EffectResult::Failed(refusal) => refusal,
        EffectResult::Declined => Refusal::new("declined", "it was not confirmed"),
        _ => Refusal::new(
            "unexpected-answer",
            "the host answered a submission with something else",
        ),
    }
}
