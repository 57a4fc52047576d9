//! A gateway's wallet: it claims what payers lock for it, and buys what receivers
//! offer. The daemon around it, which has the Lightning node, is reached by services,
//! each idempotent by payment hash.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Agreement, Amount, EffectResult, FeeLine, Json, Plan, Quote, Refusal, Rejection, Transition,
    crypto, federation, log, object, parameters, wallet,
};

use crate::{
    Announcement, CancelOutgoing, Contract, ContractId, ContractInput, ContractOrOfferOutput,
    Gateway, GatewayFee, IncomingContract, KEY, LnConfig, Offer, Outgoing, OutgoingContract,
    Preimage, announces,
    api::{self, Paid},
    asks_for_shares, asks_to_pay, cancels,
    client::{
        ATTEMPTS, LATER_SECONDS, State, Step, answer, failed, failure, gateway_key, gateway_path,
        planned, take,
    },
    gateways,
    invoice::Invoice,
    server::{OutgoingQuery, PreimageQuery, SharesQuery, key},
};

parameters! {
    /// Announces this gateway to the federation's users.
    pub struct AnnounceAction {
        /// Its API's address.
        api: String,
        /// The key of its Lightning node, 33 bytes.
        node_key: Vec<u8>,
        /// What people call it.
        alias: String,
        /// For each payment, millisatoshi.
        pay_base_msat: u64,
        /// Of each payment's amount.
        pay_parts_per_million: u64,
        /// For each receipt, millisatoshi.
        receive_base_msat: u64,
        /// Of each receipt's amount.
        receive_parts_per_million: u64,
        /// For how long; a week at most.
        lifetime_seconds: u64,
    }
}
parameters! {
    /// Shows the key by which contracts name this gateway.
    pub struct GatewayKeyAction {}
}
parameters! {
    /// Pays an invoice for whoever has funded a contract for it.
    pub struct GatewayPayAction {
        /// The invoice.
        invoice: String,
        /// The contract's id, 32 bytes.
        contract: Vec<u8>,
        /// That the contract's payer asks for this invoice: 64 bytes, BIP 340.
        signature: Vec<u8>,
        /// The most that routing may cost.
        maximum_routing_fee: Amount,
        /// The least that the contract has to hold beside the invoice's amount.
        minimum_fee: Amount,
    }
}
parameters! {
    /// Buys the preimage of an offer, for a payment that the node holds.
    pub struct GatewayReceiveAction {
        /// The offer, as its maker sent it.
        offer: Vec<u8>,
        /// The height at which the node gives the payment back.
        claim_deadline: u64,
        /// What the node holds.
        received: Amount,
        /// The least that is to be left of it.
        minimum_fee: Amount,
    }
}

/// How many blocks before a contract's timelock the last HTLC that pays for it ends.
///
/// A payee may show the preimage on chain for as long as the node has not taken the HTLC
/// back there. The node's library (LDK) closes the channel 3 blocks behind the HTLC's end
/// (`LATENCY_GRACE_PERIOD_BLOCKS`), and reckons that each of the two transactions which
/// take it back needs up to 18 (`MAX_BLOCKS_FOR_CONF`): a preimage may come 39 blocks late.
/// A payer who is also the payee would have the contract back by then, and claim on chain.
/// 6 blocks more (`ANTI_REORG_DELAY`) pass before what is taken back is so for good, and 3
/// for a node that sees blocks late. These 48 are what the library, by the same reckoning,
/// demands between what a node is paid by and what it pays (`MIN_CLTV_EXPIRY_DELTA`). The
/// claim itself has the 9 that are left behind the 39, an hour and a half for a federation
/// that stands still, and what agreed height lags behind the chain.
pub const CLAIM_MARGIN_BLOCKS: u32 = 48;
/// How many blocks a payment that the node holds has to have left.
const RECEIVE_MARGIN_BLOCKS: u32 = 2;
/// How long a purchase may be decided, from the moment at which the node holds the
/// payment. Accepted after the node has given it back, it is the gateway's loss: of a
/// federation that stands still for longer nothing is bought.
const PURCHASE_SECONDS: u64 = 60;
/// How long a contract that somebody speaks of may take to come: its payer asks again.
const LOOK_SECONDS: u64 = 20;
/// The daemon says with this code that nothing is in flight and nothing will be.
const PAYMENT_FAILED: &str = "payment-failed";

fn confirmed(summary: &str) -> Option<Quote> {
    Some(Quote {
        summary: summary.into(),
        fees: Vec::new(),
        expires: None,
    })
}

// Announcing.

/// Ends at once.
pub fn show_key() -> Step {
    Transition::done(State::Over).progress(
        "key",
        "contracts name this gateway by this key",
        object! { "gateway_key" => gateway_key().as_slice() },
    )
}

/// Begins an announcement.
pub fn announce(action: AnnounceAction) -> Result<Step, Refusal> {
    let expires = wallet::unix_time().saturating_add(action.lifetime_seconds);
    let gateway = Gateway {
        gateway_key: gateway_key(),
        node_key: key("node", action.node_key)?,
        api: action.api.trim_end_matches('/').to_owned(),
        alias: action.alias,
        pay_fee: GatewayFee {
            base: action.pay_base_msat,
            parts_per_million: action.pay_parts_per_million,
        },
        receive_fee: GatewayFee {
            base: action.receive_base_msat,
            parts_per_million: action.receive_parts_per_million,
        },
        expires,
    };
    let signature = wallet::sign_schnorr(&gateway_path(), None, &announces(&gateway));
    Ok(submit_announcement(Announcement { gateway, signature }, 1))
}

fn submit_announcement(announcement: Announcement, attempt: u32) -> Step {
    let fee = federation::config::<LnConfig>().announcement_fee;
    let output = ContractOrOfferOutput::Announcement(announcement.clone());
    let plan = Plan {
        inputs: Vec::new(),
        outputs: vec![planned(&output, 0, fee)],
        confirm: (attempt == 1)
            .then(|| confirmed("announce this gateway"))
            .flatten(),
    };
    let state = State::Announcing {
        announcement,
        attempt,
    };
    Transition::to(state).submit(attempt, plan)
}

/// Goes on with one.
pub fn announced(announcement: Announcement, attempt: u32, outcome: EffectResult) -> Step {
    match outcome {
        EffectResult::Accepted(_) => {
            let shown = Json::from(&announcement.gateway);
            let message = format!("announced until {}", announcement.gateway.expires);
            Transition::done(State::Over).progress("announced", message, shown)
        }
        EffectResult::Rejected(rejection) if rejection.is_elsewhere() && attempt < ATTEMPTS => {
            submit_announcement(announcement, attempt + 1)
        }
        outcome => failed(failure(outcome)),
    }
}

// Paying for somebody.

/// A payment for somebody.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct GatewayPay {
    invoice: Invoice,
    contract: ContractId,
    maximum_routing_fee: u64,
    minimum_fee: u64,
    stage: PayStage,
    /// The highest number that an effect has.
    effect: u32,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
enum PayStage {
    /// Guardians are asked for the contract; of a version that wanted no signature.
    Looking { clock: u32 },
    /// The node pays; also while it is asked again later.
    Paying(OutgoingContract),
    /// The preimage is there; the contract is being claimed.
    Claiming {
        amount: u64,
        preimage: Preimage,
        routing_fee: u64,
        attempt: u32,
    },
    /// The contract is being given back; of a version that did not try again.
    Cancelling { why: (String, String), attempt: u32 },
    /// Guardians are asked for the contract.
    Asked { clock: u32, signature: Vec<u8> },
    /// The contract is being given back, for as long as its payer cannot take it alone.
    GivingBack {
        why: (String, String),
        timelock: u32,
        attempt: u32,
    },
}

impl GatewayPay {
    fn at(&self, stage: PayStage) -> Self {
        Self {
            stage,
            ..self.clone()
        }
    }
    fn step(self) -> Step {
        Transition::to(State::GatewayPay(self))
    }
    fn next(&mut self) -> u32 {
        self.effect += 1;
        self.effect
    }
}

/// Begins one.
pub fn start_pay(action: GatewayPayAction) -> Result<Step, Refusal> {
    let contract = action.contract.try_into().map_err(|_| {
        Refusal::new(
            "bad-argument",
            "a contract's id is 32 bytes, and this is not",
        )
    })?;
    let mut pay = GatewayPay {
        invoice: Invoice::read(&action.invoice)?,
        contract,
        maximum_routing_fee: action.maximum_routing_fee.0,
        minimum_fee: action.minimum_fee.0,
        // Both effects are named below.
        stage: PayStage::Asked {
            clock: 2,
            signature: action.signature,
        },
        effect: 0,
    };
    let query = OutgoingQuery {
        contract: contract.to_vec(),
    };
    let late = wallet::unix_time().saturating_add(LOOK_SECONDS);
    let (look, clock) = (pay.next(), pay.next());
    Ok(pay
        .step()
        .query(look, "outgoing", query.arguments(), Agreement::Same)
        .until(clock, late))
}

/// Goes on with one.
pub fn advance_pay(pay: GatewayPay, effect: u32, outcome: EffectResult) -> Step {
    match pay.stage.clone() {
        PayStage::Looking { clock } | PayStage::Asked { clock, .. } if effect == clock => failed(
            Refusal::new("no-such-contract", "guardians do not know this contract"),
        ),
        // Its payer asks again, with a signature.
        PayStage::Looking { .. } => found(pay, &[], outcome),
        PayStage::Asked { signature, .. } => found(pay, &signature, outcome),
        PayStage::Paying(contract) => served(pay, contract, outcome),
        PayStage::Claiming {
            amount,
            preimage,
            routing_fee,
            attempt,
        } => claimed(pay, amount, preimage, routing_fee, attempt, outcome),
        PayStage::Cancelling { why, attempt } => {
            // How long it lasts that version has not kept: guardians say when it is over.
            cancelled(pay, why, u32::MAX, attempt, outcome)
        }
        PayStage::GivingBack {
            why,
            timelock,
            attempt,
        } => cancelled(pay, why, timelock, attempt, outcome),
    }
}

fn found(pay: GatewayPay, signature: &[u8], outcome: EffectResult) -> Step {
    let Outgoing {
        contract,
        cancelled,
    } = match answer(outcome) {
        Ok(outgoing) => outgoing,
        Err(refusal) => return failed(refusal),
    };
    if contract.gateway_key != gateway_key() {
        return failed(Refusal::new(
            "not-ours",
            "this contract is for another gateway",
        ));
    }
    if cancelled {
        return failed(Refusal::new(
            "contract-cancelled",
            "this contract has been cancelled; its payer has the money back",
        ));
    }
    // Anybody may have asked: the contract stays as it is.
    if let Err(refusal) = check_asker(&pay, &contract, signature) {
        return failed(refusal);
    }
    match check(&pay, &contract) {
        Ok(()) => ask_node(pay, contract),
        // The payer need not wait for the timelock.
        Err(refusal) => give_back(pay, (refusal.code, refusal.message), contract.timelock, 1),
    }
}

/// Refuses a request that is not about this contract, or not its payer's: guardians show
/// contracts to everybody, and who chose the invoice could have any of them cancelled, or
/// spent on another payee.
fn check_asker(
    pay: &GatewayPay,
    contract: &OutgoingContract,
    signature: &[u8],
) -> Result<(), Refusal> {
    if contract.payment_hash != pay.invoice.payment_hash {
        return Err(Refusal::new(
            "wrong-hash",
            "the contract is for another payment hash than the invoice",
        ));
    }
    let message = asks_to_pay(&pay.contract, &pay.invoice.text);
    if !crypto::verify_schnorr(&contract.user_key, &message, signature) {
        return Err(Refusal::new(
            "bad-signature",
            "which invoice is paid for a contract its payer says, by a signature over both \
             with the key that may refund it; this is none",
        ));
    }
    Ok(())
}

/// Refuses what a gateway should not pay for.
fn check(pay: &GatewayPay, contract: &OutgoingContract) -> Result<(), Refusal> {
    let GatewayPay {
        invoice,
        minimum_fee,
        ..
    } = pay;
    let least = invoice.amount.saturating_add(*minimum_fee);
    if contract.amount < least {
        return Err(Refusal::new(
            "too-little",
            format!(
                "the contract holds {}, at least {} is expected",
                Amount(contract.amount),
                Amount(least)
            ),
        ));
    }
    if latest_height(contract) <= federation::block_height() {
        return Err(Refusal::new(
            "timelock-too-near",
            format!(
                "the contract's timelock is block {}; more than {CLAIM_MARGIN_BLOCKS} blocks \
                 after {}, the agreed height, is expected",
                contract.timelock,
                federation::block_height()
            ),
        ));
    }
    invoice.check_time(wallet::unix_time())
}

/// By when the node has the preimage or has given up.
fn latest_height(contract: &OutgoingContract) -> u32 {
    contract.timelock.saturating_sub(CLAIM_MARGIN_BLOCKS)
}

fn ask_node(mut pay: GatewayPay, contract: OutgoingContract) -> Step {
    // Never more than there is to cover it.
    let covered = contract.amount.saturating_sub(pay.invoice.amount);
    let request = object! {
        "payment_hash" => contract.payment_hash.as_slice(),
        "contract" => pay.contract.as_slice(),
        "invoice" => pay.invoice.text.as_str(),
        "maximum_fee_msat" => pay.maximum_routing_fee.min(covered),
        "latest_height" => latest_height(&contract),
    };
    let effect = pay.next();
    let shown = object! { "payment_hash" => contract.payment_hash.as_slice() };
    pay.at(PayStage::Paying(contract))
        .step()
        .want(effect, api::service("lightning.pay", &request))
        .progress("paying", "the node pays", shown)
}

fn served(mut pay: GatewayPay, contract: OutgoingContract, outcome: EffectResult) -> Step {
    match outcome {
        EffectResult::Served(bytes) => {
            let paid: Result<Paid, _> = api::read("the node", &bytes);
            let found = paid.ok().and_then(|paid| {
                let preimage = api::preimage_of(&paid.preimage, &contract.payment_hash)?;
                Some((preimage, paid.fee_msat))
            });
            if let Some((preimage, routing_fee)) = found {
                return claim(pay, contract.amount, preimage, routing_fee, 1);
            }
            log::warn("lightning.pay answers with no preimage of the invoice's hash");
        }
        EffectResult::Failed(refusal) if refusal.code == PAYMENT_FAILED => {
            return give_back(pay, (refusal.code, refusal.message), contract.timelock, 1);
        }
        EffectResult::TimeReached => return ask_node(pay, contract),
        // Whether anything was paid nobody knows: asked until it is known.
        _ => {}
    }
    let effect = pay.next();
    let later = wallet::unix_time().saturating_add(LATER_SECONDS);
    pay.at(PayStage::Paying(contract))
        .step()
        .until(effect, later)
}

fn claim(
    mut pay: GatewayPay,
    amount: u64,
    preimage: Preimage,
    routing_fee: u64,
    attempt: u32,
) -> Step {
    let input = ContractInput::Claim {
        contract: pay.contract,
        preimage,
    };
    let plan = take(vec![(input, amount, gateway_path())]);
    let effect = pay.next();
    let stage = PayStage::Claiming {
        amount,
        preimage,
        routing_fee,
        attempt,
    };
    pay.at(stage).step().submit(effect, plan)
}

fn claimed(
    mut pay: GatewayPay,
    amount: u64,
    preimage: Preimage,
    routing_fee: u64,
    attempt: u32,
    outcome: EffectResult,
) -> Step {
    let shown = |claimed: u64| {
        object! {
            "payment_hash" => pay.invoice.payment_hash.as_slice(),
            "preimage" => preimage.as_slice(),
            "fee_msat" => routing_fee,
            "claimed_msat" => claimed,
        }
    };
    match outcome {
        EffectResult::Accepted(_) => Transition::done(State::Over).progress(
            "claimed",
            format!("{} claimed", Amount(amount)),
            shown(amount),
        ),
        EffectResult::Rejected(Rejection {
            refusal,
            input: Some(_),
            ..
        }) => {
            log::warn("an invoice was paid and its contract is lost");
            let shown = shown(0);
            failed(refusal).progress("lost", "paid, and the contract is gone", shown)
        }
        EffectResult::Rejected(_) if attempt < ATTEMPTS => {
            claim(pay, amount, preimage, routing_fee, attempt + 1)
        }
        EffectResult::TimeReached => claim(pay, amount, preimage, routing_fee, 1),
        _ => {
            let effect = pay.next();
            let later = wallet::unix_time().saturating_add(LATER_SECONDS);
            let stage = PayStage::Claiming {
                amount,
                preimage,
                routing_fee,
                attempt,
            };
            pay.at(stage).step().until(effect, later)
        }
    }
}

fn give_back(mut pay: GatewayPay, why: (String, String), timelock: u32, attempt: u32) -> Step {
    let contract = pay.contract;
    let signature = wallet::sign_schnorr(&gateway_path(), None, &cancels(&contract));
    let output = ContractOrOfferOutput::CancelOutgoing(CancelOutgoing {
        contract,
        signature,
    });
    let plan = Plan {
        inputs: Vec::new(),
        outputs: vec![planned(&output, 0, 0)],
        // Free but for what the federation asks of any transaction.
        confirm: confirmed("give a contract back that was not paid for"),
    };
    let effect = pay.next();
    let stage = PayStage::GivingBack {
        why,
        timelock,
        attempt,
    };
    pay.at(stage).step().submit(effect, plan)
}

fn cancelled(
    mut pay: GatewayPay,
    why: (String, String),
    timelock: u32,
    attempt: u32,
    outcome: EffectResult,
) -> Step {
    let stage = match outcome {
        EffectResult::Accepted(_) => "cancelled",
        EffectResult::Rejected(Rejection { refusal, .. })
            if ["contract-cancelled", "no-such-contract"].contains(&refusal.code.as_str()) =>
        {
            "cancelled"
        }
        EffectResult::Rejected(rejection) if rejection.is_elsewhere() && attempt < ATTEMPTS => {
            return give_back(pay, why, timelock, attempt + 1);
        }
        // From then on the payer needs nobody.
        _ if federation::block_height() >= timelock => "failed",
        EffectResult::TimeReached => return give_back(pay, why, timelock, 1),
        _ => {
            let effect = pay.next();
            let later = wallet::unix_time().saturating_add(LATER_SECONDS);
            let stage = PayStage::GivingBack {
                why,
                timelock,
                attempt,
            };
            return pay.at(stage).step().until(effect, later);
        }
    };
    let (code, message) = why;
    let shown = object! { "payment_hash" => pay.invoice.payment_hash.as_slice() };
    failed(Refusal::new(&code, message.clone())).progress(stage, message, shown)
}

// Receiving for somebody.

/// A receipt for somebody.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct GatewayReceive {
    offer: Offer,
    deadline: u32,
    /// Nothing is bought from then on, seconds since 1970.
    until: u64,
    received: u64,
    minimum_fee: u64,
    stage: ReceiveStage,
    /// The highest number that an effect has.
    effect: u32,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
enum ReceiveStage {
    /// The incoming contract is to be accepted.
    Funding { attempt: u32 },
    /// Decryption shares are gathered; the receiver may be quicker with the preimage.
    Decrypting {
        shares: u32,
        preimage: u32,
        /// Whether the contract may be somebody else's.
        doubtful: bool,
    },
    /// The node is told the preimage.
    Settling(Preimage),
    /// What was sold is junk; the money is on its way back.
    Refunding { key: [u8; 48], attempt: u32 },
    /// The node is told to give the payment back.
    Failing { why: (String, String) },
}

impl GatewayReceive {
    fn at(&self, stage: ReceiveStage) -> Self {
        Self {
            stage,
            ..self.clone()
        }
    }
    fn step(self) -> Step {
        Transition::to(State::GatewayReceive(self))
    }
    fn next(&mut self) -> u32 {
        self.effect += 1;
        self.effect
    }
    fn details(&self, preimage: Option<&Preimage>, paid: u64) -> Json {
        object! {
            "payment_hash" => self.offer.payment_hash.as_slice(),
            "preimage" => preimage.map(|preimage| Json::from(preimage.as_slice())),
            "paid_msat" => paid,
        }
    }
}

/// Begins one.
pub fn start_receive(action: GatewayReceiveAction) -> Result<Step, Refusal> {
    let offer: Offer = borsh::from_slice(&action.offer)
        .map_err(|_| Refusal::new("bad-argument", "these bytes are no offer of this module"))?;
    // The later clock: by one that is slow nothing could be bought.
    let now = wallet::unix_time().max(federation::unix_time());
    let receive = GatewayReceive {
        offer,
        deadline: u32::try_from(action.claim_deadline).unwrap_or(u32::MAX),
        until: now.saturating_add(PURCHASE_SECONDS),
        received: action.received.0,
        minimum_fee: action.minimum_fee.0,
        stage: ReceiveStage::Funding { attempt: 1 },
        effect: 0,
    };
    let terms = receive.offer.terms();
    if !crypto::tpe_verify(KEY, &receive.offer.ciphertext, &terms) {
        let why = "the offer's ciphertext was not made for these terms".to_owned();
        return Ok(fail(receive, ("bad-ciphertext".into(), why)));
    }
    Ok(buy(receive, 1))
}

/// Goes on with one.
pub fn advance_receive(receive: GatewayReceive, effect: u32, outcome: EffectResult) -> Step {
    match receive.stage.clone() {
        ReceiveStage::Funding { attempt } => funded(receive, attempt, outcome),
        ReceiveStage::Decrypting {
            shares,
            preimage,
            doubtful,
        } => heard(receive, (shares, preimage), doubtful, effect, outcome),
        ReceiveStage::Settling(preimage) => settled(receive, preimage, outcome),
        ReceiveStage::Refunding { key, attempt } => refunded(receive, key, attempt, outcome),
        ReceiveStage::Failing { why } => failing(receive, why, outcome),
    }
}

/// Refuses what a gateway should not buy.
fn check_offer(receive: &GatewayReceive) -> Result<(), Refusal> {
    let GatewayReceive {
        offer,
        deadline,
        received,
        minimum_fee,
        ..
    } = receive;
    if offer.gateway_key.is_some_and(|key| key != gateway_key()) {
        return Err(Refusal::new("not-ours", "the offer is for another gateway"));
    }
    let least = offer.amount.saturating_add(*minimum_fee);
    if *received < least {
        return Err(Refusal::new(
            "too-little",
            format!(
                "{} are held, at least {} are expected",
                Amount(*received),
                Amount(least)
            ),
        ));
    }
    let height = federation::block_height();
    if *deadline < height.saturating_add(RECEIVE_MARGIN_BLOCKS) {
        return Err(Refusal::new(
            "deadline-too-near",
            format!(
                "the node gives the payment back at block {deadline}; {RECEIVE_MARGIN_BLOCKS} \
                 blocks after {height}, the agreed height, or later is expected"
            ),
        ));
    }
    if offer.expiry <= federation::unix_time() {
        return Err(Refusal::new("offer-expired", "the offer is over"));
    }
    Ok(())
}

fn buy(mut receive: GatewayReceive, attempt: u32) -> Step {
    if let Err(refusal) = check_offer(&receive) {
        return fail(receive, (refusal.code, refusal.message));
    }
    let offer = receive.offer.clone();
    let amount = offer.amount;
    let output = ContractOrOfferOutput::Contract(Contract::Incoming(IncomingContract {
        offer,
        gateway_key: gateway_key(),
    }));
    let fee = federation::config::<LnConfig>().contract_fee;
    let quote = Quote {
        summary: "buy a preimage for a payment that the node holds".into(),
        fees: Vec::<FeeLine>::new(),
        expires: Some(receive.until),
    };
    let plan = Plan {
        inputs: Vec::new(),
        outputs: vec![planned(&output, amount, fee)],
        // Each time: a plan is bound by its own quote's end.
        confirm: Some(quote),
    };
    let effect = receive.next();
    receive
        .at(ReceiveStage::Funding { attempt })
        .step()
        .submit(effect, plan)
}

fn funded(receive: GatewayReceive, attempt: u32, outcome: EffectResult) -> Step {
    match outcome {
        EffectResult::Accepted(_) => decrypt(receive, false),
        EffectResult::Rejected(rejection) if rejection.is_elsewhere() && attempt < ATTEMPTS => {
            buy(receive, attempt + 1)
        }
        // By an earlier operation of ours, perhaps: guardians give shares to its buyer.
        EffectResult::Rejected(Rejection { refusal, .. }) if refusal.code == "offer-bought" => {
            decrypt(receive, true)
        }
        outcome => {
            let refusal = failure(outcome);
            fail(receive, (refusal.code, refusal.message))
        }
    }
}

fn decrypt(mut receive: GatewayReceive, doubtful: bool) -> Step {
    let (shares, preimage) = (receive.next(), receive.next());
    wait(receive, (shares, preimage), doubtful)
}

fn wait(receive: GatewayReceive, (shares, preimage): (u32, u32), doubtful: bool) -> Step {
    let id = receive.offer.id();
    let signature = wallet::sign_schnorr(&gateway_path(), None, &asks_for_shares(&id));
    let ask = SharesQuery {
        offer: id.to_vec(),
        signature: signature.to_vec(),
    };
    let look = PreimageQuery {
        contract: id.to_vec(),
    };
    let stage = ReceiveStage::Decrypting {
        shares,
        preimage,
        doubtful,
    };
    receive
        .at(stage)
        .step()
        .query(shares, "decryption-share", ask.arguments(), Agreement::Each)
        .query(preimage, "preimage", look.arguments(), Agreement::Same)
}

fn heard(
    mut receive: GatewayReceive,
    (shares, preimage): (u32, u32),
    doubtful: bool,
    effect: u32,
    outcome: EffectResult,
) -> Step {
    if effect == preimage {
        let known = answer::<Preimage>(outcome).ok();
        let hash = receive.offer.payment_hash;
        return match known.filter(|known| crypto::sha256(known) == hash) {
            Some(known) => settle(receive, known),
            None => {
                let preimage = receive.next();
                wait(receive, (shares, preimage), doubtful)
            }
        };
    }
    let EffectResult::Answers(answers) = outcome else {
        let shares = receive.next();
        return wait(receive, (shares, preimage), doubtful);
    };
    let refusals = answers.iter().filter(|a| a.answer.is_err()).count();
    if doubtful && refusals >= usize::from(federation::threshold()) {
        let why = "another gateway has bought the offer".to_owned();
        return fail(receive, ("offer-bought".into(), why));
    }
    let Some((key, sold)) = combine(&receive.offer, gateways::shares(answers)) else {
        return wait(receive, (shares, preimage), doubtful);
    };
    if crypto::sha256(&sold) == receive.offer.payment_hash {
        return settle(receive, sold);
    }
    take_back(receive, key, 1)
}

/// The decryption key and what was sold; none while there are too few good shares.
fn combine(offer: &Offer, mut shares: Vec<(u16, Vec<u8>)>) -> Option<([u8; 48], Preimage)> {
    let terms = offer.terms();
    loop {
        match wallet::tpe_combine(KEY, &offer.ciphertext, &terms, &shares) {
            Ok(key) => {
                let sold = crypto::tpe_decrypt(KEY, &offer.ciphertext, &terms, &key)?;
                return Some((key.try_into().ok()?, sold));
            }
            Err(bad) if bad.is_empty() => return None,
            Err(bad) => shares.retain(|(peer, _)| !bad.contains(peer)),
        }
    }
}

fn settle(mut receive: GatewayReceive, preimage: Preimage) -> Step {
    let request = object! {
        "payment_hash" => receive.offer.payment_hash.as_slice(),
        "preimage" => preimage.as_slice(),
    };
    let effect = receive.next();
    receive
        .at(ReceiveStage::Settling(preimage))
        .step()
        .want(effect, api::service("lightning.settle", &request))
}

fn settled(mut receive: GatewayReceive, preimage: Preimage, outcome: EffectResult) -> Step {
    match outcome {
        EffectResult::Served(_) => {
            let shown = receive.details(Some(&preimage), receive.offer.amount);
            let message = format!("{} bought", Amount(receive.offer.amount));
            Transition::done(State::Over).progress("settled", message, shown)
        }
        EffectResult::TimeReached => settle(receive, preimage),
        // Until the node has it.
        _ => {
            let effect = receive.next();
            let later = wallet::unix_time().saturating_add(LATER_SECONDS);
            receive
                .at(ReceiveStage::Settling(preimage))
                .step()
                .until(effect, later)
        }
    }
}

fn take_back(mut receive: GatewayReceive, key: [u8; 48], attempt: u32) -> Step {
    let input = ContractInput::RefundJunk {
        offer: receive.offer.id(),
        decryption_key: key,
    };
    let plan = take(vec![(input, receive.offer.amount, gateway_path())]);
    let effect = receive.next();
    receive
        .at(ReceiveStage::Refunding { key, attempt })
        .step()
        .submit(effect, plan)
}

fn refunded(
    mut receive: GatewayReceive,
    key: [u8; 48],
    attempt: u32,
    outcome: EffectResult,
) -> Step {
    match outcome {
        EffectResult::Accepted(_) => {
            let why = "the offer held something else than the preimage; the money is back";
            fail(receive, ("junk-preimage".into(), why.into()))
        }
        // The receiver had the preimage after all and was quicker: it is public now.
        EffectResult::Rejected(Rejection { input: Some(_), .. }) => decrypt(receive, false),
        EffectResult::Rejected(_) if attempt < ATTEMPTS => take_back(receive, key, attempt + 1),
        EffectResult::TimeReached => take_back(receive, key, 1),
        _ => {
            let effect = receive.next();
            let later = wallet::unix_time().saturating_add(LATER_SECONDS);
            receive
                .at(ReceiveStage::Refunding { key, attempt })
                .step()
                .until(effect, later)
        }
    }
}

/// Nothing was bought, or it is back: the payer gets the payment back.
fn fail(mut receive: GatewayReceive, why: (String, String)) -> Step {
    let request = object! { "payment_hash" => receive.offer.payment_hash.as_slice() };
    let effect = receive.next();
    receive
        .at(ReceiveStage::Failing { why })
        .step()
        .want(effect, api::service("lightning.fail", &request))
}

fn failing(mut receive: GatewayReceive, why: (String, String), outcome: EffectResult) -> Step {
    match outcome {
        EffectResult::Served(_) => {
            let (code, message) = why;
            let shown = receive.details(None, 0);
            failed(Refusal::new(&code, message.clone())).progress("failed", message, shown)
        }
        EffectResult::TimeReached => fail(receive, why),
        _ => {
            let effect = receive.next();
            let later = wallet::unix_time().saturating_add(LATER_SECONDS);
            receive
                .at(ReceiveStage::Failing { why })
                .step()
                .until(effect, later)
        }
    }
}
