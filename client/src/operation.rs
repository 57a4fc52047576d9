//! What a wallet remembers of what it was asked to do.
//!
//! An operation is a set of machines: the module's own, which `start` began, and
//! for every transaction one of the e-cash module, which fetches the change or
//! gives the notes back. All of an operation is one record of the database, so
//! that each step of it is one write.

use std::{fmt, str::FromStr};

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_core::{
    Amount, BundleHash, FederationId, InstanceId, Refusal, Transaction, TxId,
    consensus::TransactionStatus,
};
use modmint_runtime::wallet::{EffectResult, Event, Plan, Progress, Want};
use serde::{Deserialize, Serialize};

use crate::WalletError;

/// Names an operation: ten bytes, as text twenty hexadecimal digits. The first
/// five are the seconds since 1970 at which it began, so ids sort by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct OperationId(pub [u8; 10]);

impl OperationId {
    pub(crate) fn new(now: u64) -> Self {
        let mut id = [0; 10];
        id[..5].copy_from_slice(&now.to_be_bytes()[3..]);
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut id[5..]);
        Self(id)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for OperationId {
    type Err = WalletError;
    fn from_str(text: &str) -> Result<Self, WalletError> {
        let mut id = [0; 10];
        hex::decode_to_slice(text, &mut id).map_err(|_| {
            WalletError::Usage(format!(
                "{:?} is no operation id: 20 hexadecimal digits are expected",
                text.chars().take(80).collect::<String>()
            ))
        })?;
        Ok(Self(id))
    }
}

impl Serialize for OperationId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OperationId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <String as Deserialize>::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for OperationId {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^([0-9a-f]{2}){10}$"))
            .description(Some("an operation's id, 10 bytes in hexadecimal"))
            .build()
            .into()
    }
}

impl utoipa::ToSchema for OperationId {}

/// What a spend takes, computed by the host; the summary and the fees inside are
/// the module's words.
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
pub struct SpendQuote {
    /// What for, in the module's words.
    pub summary: String,
    /// What it takes from the balance, all fees included. Millisatoshi.
    #[serde(rename = "total_msat")]
    pub total: Amount,
    /// What of that the federation keeps. Millisatoshi.
    #[serde(rename = "federation_fee_msat")]
    pub federation_fee: Amount,
    /// Fees inside the amount paid, as the module names them: on-chain, gateway,
    /// routing.
    pub fees: Vec<QuoteFee>,
    /// When the quote ends, seconds since 1970.
    pub expires: Option<u64>,
}

/// A fee inside the amount paid.
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
pub struct QuoteFee {
    /// What for.
    pub name: String,
    /// Millisatoshi.
    #[serde(rename = "amount_msat")]
    pub amount: Amount,
}

/// How an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationStatus {
    /// It goes on.
    Running,
    /// It waits for somebody to confirm a spend.
    Asking,
    /// The module's bundle trapped; the machine is kept for the next bundle.
    Stuck,
    /// Done.
    Done,
    /// It came to nothing.
    Failed,
}

/// An operation for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OperationView {
    /// Its id.
    pub operation: OperationId,
    /// Whose.
    pub federation: FederationId,
    /// The module's kind.
    pub kind: String,
    /// The module's number in the federation.
    pub instance: InstanceId,
    /// What was asked of it.
    pub action: String,
    /// How it stands.
    pub status: OperationStatus,
    /// Whether something goes on behind the result: change that is being
    /// fetched, a transaction that is not decided.
    pub settling: bool,
    /// Whether nothing is left to do before a time that is minutes or more ahead:
    /// notes sent, say, that come back when nobody takes them.
    pub resting: bool,
    /// When it began, seconds since 1970.
    pub created: u64,
    /// When something last happened.
    pub updated: u64,
    /// The module's word for where it is.
    pub stage: Option<String>,
    /// The module's words for people.
    pub message: Option<String>,
    /// The module's result so far.
    #[schema(value_type = Option<Object>)]
    pub details: Option<serde_json::Value>,
    /// What its transactions took from the balance, millisatoshi; negative where
    /// they brought something.
    pub took_msat: i64,
    /// Why it failed, why it is stuck, or why guardians do not take its
    /// transaction.
    pub error: Option<Refusal>,
    /// Why it does not go on now, though nothing is wrong with it: too few guardians
    /// answer. It goes on by itself once they do.
    pub obstacle: Option<Refusal>,
    /// What waits to be confirmed.
    pub question: Option<SpendQuote>,
    /// Its transactions.
    pub transactions: Vec<TransactionView>,
}

/// One transaction of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TransactionView {
    /// Its id.
    pub txid: TxId,
    /// `pending`, `accepted` or `rejected`.
    pub status: String,
    /// When it ends undecided, agreed time, seconds since 1970.
    pub expires: u64,
}

/// See the module. This is what lies in the database.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Operation {
    pub(crate) id: OperationId,
    pub(crate) federation: FederationId,
    pub(crate) instance: InstanceId,
    pub(crate) kind: String,
    pub(crate) action: String,
    pub(crate) created: u64,
    pub(crate) updated: u64,
    /// The first is the module's own.
    pub(crate) machines: Vec<Machine>,
    pub(crate) transactions: Vec<Submission>,
    /// Confirmed and not spent.
    pub(crate) allowance: Amount,
    /// Taken from the balance without a transaction.
    pub(crate) taken: Amount,
    pub(crate) progress: Option<Progress>,
    /// Counts the effects begun, so that what comes late from one that was given
    /// up is known from what replaced it.
    pub(crate) generation: u64,
}

#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Machine {
    pub(crate) instance: InstanceId,
    pub(crate) state: Vec<u8>,
    pub(crate) effects: Vec<Pending>,
    /// What it must still be told. Only what cannot be had again is kept here:
    /// a transaction's fate, a failure, a no.
    pub(crate) inbox: Vec<Event>,
    pub(crate) finished: Option<Result<(), Refusal>>,
    pub(crate) stuck: Option<Stuck>,
}

/// The bundle that trapped, and how.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Stuck {
    pub(crate) bundle: BundleHash,
    pub(crate) reason: String,
}

#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Pending {
    pub(crate) id: u32,
    pub(crate) generation: u64,
    pub(crate) wait: Wait,
}

#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub(crate) enum Wait {
    /// For guardians, a server, a time; a plan, for money that is on its way.
    Effect(Want),
    /// For a person.
    Question { plan: Plan, quote: SpendQuote },
    /// For the fate of the transaction at this place of the operation's list.
    Fate(u16),
}

/// A transaction as it was made durable, and who is to be told of it.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Submission {
    pub(crate) txid: TxId,
    /// The bytes that are sent, and sent again. Empty once decided.
    pub(crate) bytes: Vec<u8>,
    pub(crate) expires: u64,
    /// Whose output the first one is; none without outputs.
    pub(crate) first_output: Option<InstanceId>,
    /// Who planned it, and where the plan's items are.
    pub(crate) planner: Part,
    /// Who completed it, and where the completion's items are.
    pub(crate) completer: Part,
    /// Confirmed money that it uses.
    pub(crate) takes: Amount,
    /// What it takes from the balance, or brings if negative.
    pub(crate) net_msat: i64,
    /// Every secret that signs came with the money: nothing of this wallet is
    /// lost if it is given up.
    pub(crate) foreign: bool,
    pub(crate) fate: Option<Fate>,
}

#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Part {
    pub(crate) machine: u16,
    pub(crate) effect: u32,
    pub(crate) inputs: Vec<u16>,
    pub(crate) outputs: Vec<u16>,
}

/// What has become of a transaction, for ever.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Fate {
    /// It has taken effect.
    Accepted,
    /// It has not and never will.
    Rejected {
        /// Why.
        refusal: Refusal,
        /// The transaction's input that was refused, if it was one.
        input: Option<u16>,
        /// The transaction's output that was refused, if it was one.
        output: Option<u16>,
    },
}

impl Fate {
    /// What a guardian's final status says; none of one that is not final.
    pub fn of(status: &TransactionStatus, message: Option<&str>) -> Option<Self> {
        match status {
            TransactionStatus::Unknown | TransactionStatus::Pending => None,
            TransactionStatus::Accepted { .. } => Some(Self::Accepted),
            TransactionStatus::Rejected {
                code,
                input,
                output,
                ..
            } => Some(Self::Rejected {
                refusal: Refusal::new(
                    code.clone(),
                    message.map_or_else(
                        || format!("the federation refused the transaction: {code}"),
                        str::to_owned,
                    ),
                ),
                input: *input,
                output: *output,
            }),
        }
    }
}

impl Submission {
    /// The instances of its outputs, in their order, while it is undecided.
    pub(crate) fn outputs(&self) -> Vec<InstanceId> {
        match Transaction::decode(&self.bytes) {
            Ok(transaction) => {
                let outputs = transaction.body.outputs.iter();
                outputs.map(|output| output.instance).collect()
            }
            Err(_) => self.first_output.into_iter().collect(),
        }
    }
}

impl Part {
    /// What this part's machine is told.
    pub(crate) fn event(&self, txid: TxId, fate: &Fate) -> Event {
        let place = |all: &[u16], at: &Option<u16>| {
            at.and_then(|at| all.iter().position(|place| *place == at))
                .and_then(|place| u16::try_from(place).ok())
        };
        let outcome = match fate {
            Fate::Accepted => EffectResult::Accepted {
                txid,
                outputs: self.outputs.clone(),
            },
            Fate::Rejected {
                refusal,
                input,
                output,
            } => EffectResult::Rejected {
                refusal: refusal.clone(),
                input: place(&self.inputs, input),
                output: place(&self.outputs, output),
            },
        };
        Event::Done {
            effect: self.effect,
            outcome,
        }
    }
}

impl Machine {
    pub(crate) fn new(instance: InstanceId) -> Self {
        Self {
            instance,
            state: Vec::new(),
            effects: Vec::new(),
            inbox: Vec::new(),
            finished: None,
            stuck: None,
        }
    }

    /// Whether it can be called.
    pub(crate) fn runs(&self) -> bool {
        self.finished.is_none() && self.stuck.is_none()
    }
}

/// An `until` at least this far ahead is nothing that somebody stands and waits
/// for; one that is nearer is a pause between two tries.
const RESTING_SECONDS: u64 = 120;

impl Operation {
    /// Whether a transaction of its may bring money, or its change is being fetched.
    pub(crate) fn brings_money(&self) -> bool {
        self.transactions.iter().any(|transaction| {
            let completer = usize::from(transaction.completer.machine);
            transaction.fate.is_none() || self.machines.get(completer).is_some_and(Machine::runs)
        })
    }

    /// Whether nothing will happen to it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.machines
            .iter()
            .all(|machine| machine.finished.is_some())
            && self.transactions.iter().all(|tx| tx.fate.is_some())
    }

    pub(crate) fn question(&self) -> Option<&SpendQuote> {
        self.machines
            .iter()
            .filter(|machine| machine.runs())
            .flat_map(|machine| &machine.effects)
            .find_map(|pending| match &pending.wait {
                Wait::Question { quote, .. } => Some(quote),
                _ => None,
            })
    }

    /// Whether it waits for guardians.
    pub(crate) fn asks_guardians(&self) -> bool {
        let asks = |pending: &Pending| {
            matches!(
                pending.wait,
                Wait::Effect(Want::Outcomes(_) | Want::Query(_))
            )
        };
        self.transactions.iter().any(|tx| tx.fate.is_none())
            || self
                .machines
                .iter()
                .any(|machine| machine.runs() && machine.effects.iter().any(asks))
    }

    pub(crate) fn view(
        &self,
        now: u64,
        opinions: Option<&Refusal>,
        obstacle: Option<&Refusal>,
    ) -> OperationView {
        let main = self.machines.first();
        let finished = main.and_then(|machine| machine.finished.as_ref());
        let stuck = self.machines.iter().find_map(|machine| {
            let stuck = machine.stuck.as_ref()?;
            machine.finished.is_none().then_some(stuck)
        });
        let question = self.question().cloned();
        let status = match finished {
            Some(Ok(())) => OperationStatus::Done,
            Some(Err(_)) => OperationStatus::Failed,
            None if stuck.is_some() => OperationStatus::Stuck,
            None if question.is_some() => OperationStatus::Asking,
            None => OperationStatus::Running,
        };
        let error = match (finished, stuck) {
            (Some(Err(refusal)), _) => Some(refusal.clone()),
            (_, Some(stuck)) => Some(Refusal::new("module-failed", stuck.reason.clone())),
            _ => opinions.cloned(),
        };
        let undecided = self.transactions.iter().any(|tx| tx.fate.is_none());
        let waits_for_time_alone = |machine: &Machine| {
            !machine.effects.is_empty()
                && machine.effects.iter().all(|pending| {
                    matches!(pending.wait, Wait::Effect(Want::Until(time))
                        if time >= now.saturating_add(RESTING_SECONDS))
                })
        };
        let resting = status == OperationStatus::Running
            && !undecided
            && self
                .machines
                .iter()
                .all(|machine| machine.finished.is_some() || waits_for_time_alone(machine));
        OperationView {
            operation: self.id,
            federation: self.federation,
            kind: self.kind.clone(),
            instance: self.instance,
            action: self.action.clone(),
            status,
            settling: finished.is_some() && !self.is_over(),
            resting,
            created: self.created,
            updated: self.updated,
            stage: self.progress.as_ref().map(|p| p.stage.clone()),
            message: self.progress.as_ref().map(|p| p.message.clone()),
            details: self.progress.as_ref().and_then(details),
            took_msat: self
                .transactions
                .iter()
                .filter(|tx| !matches!(tx.fate, Some(Fate::Rejected { .. })))
                .fold(
                    i64::try_from(self.taken.msat()).unwrap_or(i64::MAX),
                    |sum, tx| sum.saturating_add(tx.net_msat),
                ),
            error,
            obstacle: obstacle.filter(|_| self.asks_guardians()).cloned(),
            question,
            transactions: self
                .transactions
                .iter()
                .map(|tx| TransactionView {
                    txid: tx.txid,
                    status: match tx.fate {
                        None => "pending",
                        Some(Fate::Accepted) => "accepted",
                        Some(Fate::Rejected { .. }) => "rejected",
                    }
                    .to_owned(),
                    expires: tx.expires,
                })
                .collect(),
        }
    }
}

/// A progress' details; what is no JSON is shown as text.
fn details(progress: &Progress) -> Option<serde_json::Value> {
    if progress.details.is_empty() {
        return None;
    }
    Some(
        serde_json::from_str(&progress.details)
            .unwrap_or_else(|_| serde_json::Value::String(progress.details.clone())),
    )
}
