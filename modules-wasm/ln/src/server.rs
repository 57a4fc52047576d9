//! What guardians do: keep contracts, and give the money of each out once.
//!
//! A contract is there until somebody takes its money; whoever does so first, in the
//! agreed order, has it. Everything else that is kept has a time, in [`OVER`], at which
//! it is forgotten: preimages, published offers, offers that were bought, announcements.
//! Each item that adds one such thing takes some away that are over, so that nothing
//! grows with history.

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    Amount, Answer, Approval, Arguments, AuditLine, InputEffect, OutPoint, OutputEffect, PeerId,
    Refusal, Server, Wake, crypto, federation, guardian, parameters, signing,
    storage::{Cell, Table},
};

use crate::{
    Announcement, Bought, CancelOutgoing, Contract, ContractId, ContractInput,
    ContractOrOfferOutput, Gateway, IncomingContract, KEY, KnownGateway, Ln, LnConfig, LnItem,
    Offer, OfferId, OpenContract, Outgoing, OutgoingContract, PaymentHash, Preimage, PublicKey,
    Refundable, announces, asks_for_shares, cancels, contract_id,
};

/// Contracts with money in them.
const OUTGOING: Table<ContractId, Outgoing> = Table::new(b'o');
const INCOMING: Table<OfferId, IncomingContract> = Table::new(b'i');
/// What is in them together, millisatoshi. Kept, so that `audit` costs the same however
/// many there are.
const HELD: Cell<u64> = Cell::new(b'h');
/// Preimages by the contract or offer that was claimed with them. By the payment hash alone a payer would take another's payment for its own.
const PREIMAGES: Table<[u8; 32], Preimage> = Table::new(b'p');
/// Offers that were bought and may not be bought again, until they expire.
const BOUGHT: Table<OfferId, ()> = Table::new(b'b');
/// Offers published for gateways to compete.
const OFFERS: Table<OfferId, Offer> = Table::new(b'f');
/// Gateways that have announced themselves.
const GATEWAYS: Table<PublicKey, Gateway> = Table::new(b'g');
/// The gateways that each guardian finds good.
const VETTED: Table<PeerId, Vec<PublicKey>> = Table::new(b'v');
/// When what is over, seconds since 1970; kinds are those of [`Kept`].
const OVER: Table<(u64, (u8, [u8; 32])), Kept> = Table::new(b'x');

/// What is kept for a time.
#[derive(BorshSerialize, BorshDeserialize)]
enum Kept {
    Preimage([u8; 32]),
    Bought(OfferId),
    Offer(OfferId),
    Gateway(PublicKey),
}

/// The longest timelock, in blocks from now: a month.
pub const MOST_TIMELOCK_BLOCKS: u32 = 4320;
/// The farthest expiry of an offer, in seconds from now: a month and a day.
pub const MOST_OFFER_SECONDS: u64 = 31 * DAY;
/// How long a preimage is kept for whoever paid for it: longer than any timelock, and
/// than any offer.
pub const PREIMAGE_SECONDS: u64 = 90 * DAY;
/// How long an announcement lasts at most: a week, and an hour for clocks that differ.
pub const MOST_LIFETIME_SECONDS: u64 = 7 * DAY + 3600;
/// How many gateways there are at most.
pub const MOST_GATEWAYS: u32 = 100;
/// How many published offers there are at most.
const MOST_OFFERS: u64 = 10_000;
/// How many gateways one guardian vets at most.
pub const MOST_VETTED: usize = 50;
/// The longest API address and alias, bytes.
const MOST_API: usize = 256;
const MOST_ALIAS: usize = 64;
/// The smallest amount of a contract, 1 sat: it is kept for as long as nobody takes it.
const LEAST_AMOUNT: u64 = 1000;
/// How many things that are over one item takes away; it adds two at most.
const SWEPT: u32 = 4;
/// How many elements one page of an answer has at most.
const PAGE: u32 = 100;
const DAY: u64 = 24 * 3600;

parameters! {
    /// An outgoing contract; waits until it is there.
    pub struct OutgoingQuery {
        /// Its id, 32 bytes.
        contract: Vec<u8>,
    }
}
parameters! {
    /// Whether a payer may have an outgoing contract back, and why; waits until it is so.
    pub struct RefundableQuery {
        /// The contract's id, 32 bytes.
        contract: Vec<u8>,
        /// Its timelock.
        timelock: u64,
    }
}
parameters! {
    /// The preimage with which a contract was claimed; waits until it is.
    pub struct PreimageQuery {
        /// An outgoing contract's id, or that of the offer that was bought, 32 bytes.
        contract: Vec<u8>,
    }
}
parameters! {
    /// What has become of an offer; waits until it is bought or expired.
    pub struct IncomingQuery {
        /// The offer's id, 32 bytes.
        offer: Vec<u8>,
        /// Its expiry, seconds since 1970.
        expiry: u64,
    }
}
parameters! {
    /// A guardian's decryption share for an offer, for the gateway that bought it.
    pub struct SharesQuery {
        /// The offer's id, 32 bytes.
        offer: Vec<u8>,
        /// The gateway's signature, 64 bytes, BIP 340.
        signature: Vec<u8>,
    }
}
parameters! {
    /// The gateways that have announced themselves.
    pub struct GatewaysQuery {}
}
parameters! {
    /// Offers published for gateways to buy, some at a time; an empty answer is the end.
    pub struct OffersQuery {
        /// Only those behind this one: an offer's id, 32 bytes.
        after: Option<Vec<u8>>,
    }
}
parameters! {
    /// All contracts with money in them, some at a time; an empty answer is the end.
    pub struct ContractsQuery {
        /// Only incoming ones; outgoing ones otherwise.
        incoming: bool,
        /// Only those behind this one: its id, 32 bytes.
        after: Option<Vec<u8>>,
    }
}
parameters! {
    /// Says that this guardian has looked at a gateway and finds it good, or no longer.
    pub struct VetCommand {
        /// The gateway's key, 33 bytes.
        gateway_key: Vec<u8>,
        /// No longer.
        withdraw: bool,
    }
}

impl Server for Ln {
    type Input = ContractInput;
    type Output = ContractOrOfferOutput;
    type ConsensusItem = LnItem;

    fn process_input(input: ContractInput) -> Result<InputEffect, Refusal> {
        match input {
            ContractInput::Claim { contract, preimage } => claim(contract, preimage),
            ContractInput::RefundTimeout { contract } => refund_timeout(contract),
            ContractInput::RefundCancelled { contract } => refund_cancelled(contract),
            ContractInput::ClaimIncoming { offer, preimage } => claim_incoming(offer, preimage),
            ContractInput::RefundJunk {
                offer,
                decryption_key,
            } => refund_junk(offer, &decryption_key),
        }
    }

    fn process_output(
        output: ContractOrOfferOutput,
        out_point: OutPoint,
    ) -> Result<OutputEffect, Refusal> {
        sweep();
        match output {
            ContractOrOfferOutput::Contract(Contract::Outgoing(contract)) => {
                fund_outgoing(contract, &out_point)
            }
            ContractOrOfferOutput::Contract(Contract::Incoming(contract)) => buy(contract),
            ContractOrOfferOutput::Offer(offer) => publish(offer),
            ContractOrOfferOutput::CancelOutgoing(cancel) => cancel_outgoing(&cancel),
            ContractOrOfferOutput::Announcement(announcement) => announce(announcement),
        }
    }

    fn process_consensus_item(peer: PeerId, item: LnItem) -> Result<(), Refusal> {
        let LnItem::Vet { gateway_key, good } = item;
        let mut vetted = VETTED.get(&peer).unwrap_or_default();
        may_vet(&vetted, &gateway_key, good)?;
        if good {
            vetted.push(gateway_key);
        } else {
            vetted.retain(|key| *key != gateway_key);
        }
        VETTED.put(&peer, &vetted);
        Ok(())
    }

    fn query(name: &str, arguments: Arguments) -> Result<Answer, Refusal> {
        match name {
            "outgoing" => outgoing(OutgoingQuery::read(arguments)?),
            "refundable" => refundable(RefundableQuery::read(arguments)?),
            "preimage" => preimage(PreimageQuery::read(arguments)?),
            "incoming" => incoming(IncomingQuery::read(arguments)?),
            "decryption-share" => decryption_share(SharesQuery::read(arguments)?),
            "gateways" => {
                GatewaysQuery::read(arguments)?;
                ready(&known_gateways())
            }
            "offers" => {
                let after = OffersQuery::read(arguments)?.after.map(id).transpose()?;
                let page = OFFERS.page(after.as_ref(), PAGE);
                ready(&page.into_iter().map(|(_, offer)| offer).collect::<Vec<_>>())
            }
            "contracts" => contracts(ContractsQuery::read(arguments)?),
            _ => Err(Refusal::new(
                "no-such-query",
                format!(
                    "this module has no query {name:?}; there are: outgoing, refundable, \
                     preimage, incoming, decryption-share, gateways, offers, contracts"
                ),
            )),
        }
    }

    fn command(name: &str, arguments: Arguments) -> Result<Vec<LnItem>, Refusal> {
        if name != "vet" {
            return Err(Refusal::new(
                "no-such-command",
                format!("this module has no command {name:?}; there is: vet"),
            ));
        }
        let VetCommand {
            gateway_key,
            withdraw,
        } = VetCommand::read(arguments)?;
        let gateway_key = key("gateway", gateway_key)?;
        let good = !withdraw;
        let vetted = VETTED.get(&guardian::whoami()).unwrap_or_default();
        may_vet(&vetted, &gateway_key, good)?;
        Ok(vec![LnItem::Vet { gateway_key, good }])
    }

    fn audit() -> Vec<AuditLine> {
        let held = i64::try_from(HELD.get().unwrap_or_default()).unwrap_or(i64::MAX);
        vec![AuditLine {
            name: "contracts".into(),
            // Negative: the federation owes it.
            msat: -held,
        }]
    }
}

// What comes in: money into contracts, and what costs a fee alone.

fn config() -> LnConfig {
    federation::config()
}

fn hold(amount: u64) -> Result<(), Refusal> {
    if amount < LEAST_AMOUNT {
        return Err(Refusal::new(
            "too-little",
            format!(
                "{} in a contract; at least {} is expected",
                Amount(amount),
                Amount(LEAST_AMOUNT)
            ),
        ));
    }
    let held = HELD.get().unwrap_or_default().checked_add(amount);
    HELD.put(&held.ok_or_else(|| Refusal::new("too-much", "there is not so much money"))?);
    Ok(())
}

fn fund_outgoing(contract: OutgoingContract, place: &OutPoint) -> Result<OutputEffect, Refusal> {
    let height = federation::block_height();
    let last = height.saturating_add(MOST_TIMELOCK_BLOCKS);
    if contract.timelock <= height || contract.timelock > last {
        return Err(Refusal::new(
            "bad-timelock",
            format!(
                "the timelock is block {}; after {height}, the agreed height, and not after \
                 {last} is expected",
                contract.timelock
            ),
        ));
    }
    let amount = contract.amount;
    hold(amount)?;
    let outgoing = Outgoing {
        contract,
        cancelled: false,
    };
    OUTGOING.put(&contract_id(place), &outgoing);
    Ok(OutputEffect {
        value: amount,
        fee: config().contract_fee,
    })
}

/// Refuses terms under which nobody may buy now.
fn check_terms(offer: &Offer) -> Result<(), Refusal> {
    let now = federation::unix_time();
    if offer.expiry <= now {
        return Err(Refusal::new(
            "offer-expired",
            format!(
                "the offer is over since {}, and it is {now}: seconds since 1970",
                offer.expiry
            ),
        ));
    }
    if offer.expiry > now.saturating_add(MOST_OFFER_SECONDS) {
        return Err(Refusal::new(
            "offer-too-long",
            format!("an offer is good for {MOST_OFFER_SECONDS} seconds at most"),
        ));
    }
    if BOUGHT.contains(&offer.id()) {
        return Err(Refusal::new(
            "offer-bought",
            "this offer has been bought; each is bought once",
        ));
    }
    Ok(())
}

fn bad_ciphertext() -> Refusal {
    Refusal::new(
        "bad-ciphertext",
        "the ciphertext was not made for this federation, this module and exactly these terms",
    )
}

fn buy(contract: IncomingContract) -> Result<OutputEffect, Refusal> {
    let IncomingContract { offer, gateway_key } = &contract;
    check_terms(offer)?;
    if offer.gateway_key.is_some_and(|key| key != *gateway_key) {
        return Err(Refusal::new(
            "wrong-gateway",
            "the offer is for another gateway, which is named in it",
        ));
    }
    // An approval that is there already is one for the same bytes and terms.
    if signing::approve(&offer.signable()) == Approval::Malformed {
        return Err(bad_ciphertext());
    }
    hold(offer.amount)?;
    let (id, amount, expiry) = (offer.id(), offer.amount, offer.expiry);
    OFFERS.delete(&id);
    BOUGHT.put(&id, &());
    keep_until(expiry, Kept::Bought(id));
    INCOMING.put(&id, &contract);
    Ok(OutputEffect {
        value: amount,
        fee: config().contract_fee,
    })
}

fn publish(offer: Offer) -> Result<OutputEffect, Refusal> {
    check_terms(&offer)?;
    let id = offer.id();
    if OFFERS.contains(&id) {
        return Err(Refusal::new("offer-known", "this offer is published"));
    }
    if offer.amount < LEAST_AMOUNT {
        return Err(Refusal::new(
            "too-little",
            format!("an offer is of {} at least", Amount(LEAST_AMOUNT)),
        ));
    }
    if !crypto::tpe_verify(KEY, &offer.ciphertext, &offer.terms()) {
        return Err(bad_ciphertext());
    }
    let published = PUBLISHED.get().unwrap_or_default();
    if published >= MOST_OFFERS {
        return Err(Refusal::new(
            "too-many-offers",
            format!("{MOST_OFFERS} offers are published, which is the most; some expire soon"),
        ));
    }
    PUBLISHED.put(&(published + 1));
    keep_until(offer.expiry, Kept::Offer(id));
    OFFERS.put(&id, &offer);
    Ok(OutputEffect {
        value: 0,
        fee: config().offer_fee,
    })
}

/// Published offers that are not over, bought or not: what is in [`OVER`] of them.
const PUBLISHED: Cell<u64> = Cell::new(b'n');

fn cancel_outgoing(cancel: &CancelOutgoing) -> Result<OutputEffect, Refusal> {
    let mut outgoing = OUTGOING.get(&cancel.contract).ok_or_else(no_such)?;
    if outgoing.cancelled {
        return Err(cancelled());
    }
    let message = cancels(&cancel.contract);
    if !crypto::verify_schnorr(&outgoing.contract.gateway_key, &message, &cancel.signature) {
        return Err(Refusal::new(
            "bad-signature",
            "a contract is cancelled by a signature of the gateway that is named in it",
        ));
    }
    outgoing.cancelled = true;
    OUTGOING.put(&cancel.contract, &outgoing);
    Ok(OutputEffect { value: 0, fee: 0 })
}

fn announce(announcement: Announcement) -> Result<OutputEffect, Refusal> {
    let Announcement { gateway, signature } = announcement;
    let now = federation::unix_time();
    if gateway.expires <= now || gateway.expires > now.saturating_add(MOST_LIFETIME_SECONDS) {
        return Err(Refusal::new(
            "bad-lifetime",
            format!(
                "the announcement ends at {}, and it is {now}; later, by at most \
                 {MOST_LIFETIME_SECONDS} seconds, is expected",
                gateway.expires
            ),
        ));
    }
    if gateway.api.len() > MOST_API || gateway.alias.len() > MOST_ALIAS {
        return Err(Refusal::new(
            "too-long",
            format!("an address has at most {MOST_API} bytes, an alias {MOST_ALIAS}"),
        ));
    }
    if gateway
        .api
        .chars()
        .chain(gateway.alias.chars())
        .any(char::is_control)
    {
        return Err(Refusal::new(
            "bad-text",
            "an address and an alias are one line each, without control characters",
        ));
    }
    if !crypto::verify_schnorr(&gateway.gateway_key, &announces(&gateway), &signature) {
        return Err(Refusal::new(
            "bad-signature",
            "an announcement is signed with the gateway's own key, over all that is in it",
        ));
    }
    match GATEWAYS.get(&gateway.gateway_key) {
        // Whoever has seen an announcement can send it again.
        Some(known) if known.expires >= gateway.expires => {
            return Err(Refusal::new(
                "announced",
                format!(
                    "there is an announcement of this gateway until {}; a new one ends later",
                    known.expires
                ),
            ));
        }
        Some(_) => {}
        None => make_room(&gateway.gateway_key)?,
    }
    keep_until(gateway.expires, Kept::Gateway(gateway.gateway_key));
    GATEWAYS.put(&gateway.gateway_key, &gateway);
    Ok(OutputEffect {
        value: 0,
        fee: config().announcement_fee,
    })
}

/// For one more gateway. Where there is none, one that guardians have vetted takes the
/// place of one that they have not, which ends first.
fn make_room(newcomer: &PublicKey) -> Result<(), Refusal> {
    let known = GATEWAYS.page(None, MOST_GATEWAYS);
    if (known.len() as u32) < MOST_GATEWAYS {
        return Ok(());
    }
    let vetted = vetted();
    let first = known
        .iter()
        .filter(|(key, _)| !vetted.contains(key))
        .min_by_key(|(key, gateway)| (gateway.expires, *key));
    match first {
        Some((key, _)) if vetted.contains(newcomer) => {
            GATEWAYS.delete(key);
            Ok(())
        }
        _ => Err(Refusal::new(
            "too-many-gateways",
            format!(
                "{MOST_GATEWAYS} gateways are announced, which is the most; one that guardians \
                 have vetted, or that comes when another's time is over, finds room"
            ),
        )),
    }
}

/// The gateways that a threshold of guardians finds good.
fn vetted() -> Vec<PublicKey> {
    let mut all: Vec<_> = VETTED.iter().flat_map(|(_, keys)| keys).collect();
    all.sort_unstable();
    let enough = usize::from(federation::threshold());
    let groups = all.chunk_by(|a, b| a == b);
    groups
        .filter(|group| group.len() >= enough)
        .map(|group| group[0])
        .collect()
}

/// Refuses what changes nothing or is too much.
fn may_vet(vetted: &[PublicKey], gateway_key: &PublicKey, good: bool) -> Result<(), Refusal> {
    if vetted.contains(gateway_key) == good {
        return Err(Refusal::new(
            "nothing-changes",
            "this is what this guardian has said of the gateway already",
        ));
    }
    if good && vetted.len() >= MOST_VETTED {
        return Err(Refusal::new(
            "too-many-gateways",
            format!("a guardian vets {MOST_VETTED} gateways at most; withdraw one first"),
        ));
    }
    Ok(())
}

// What goes out: the money of a contract, once.

fn no_such() -> Refusal {
    Refusal::new(
        "no-such-contract",
        "there is no contract of this id that holds money: it is not paid yet, paid out, or \
         another federation's",
    )
}

fn cancelled() -> Refusal {
    Refusal::new(
        "contract-cancelled",
        "the gateway has cancelled this contract; its payer alone may take it",
    )
}

fn pay_out(amount: u64, key: PublicKey) -> InputEffect {
    let held = HELD.get().unwrap_or_default().checked_sub(amount);
    HELD.put(&held.expect("what is paid out was held"));
    InputEffect {
        value: amount,
        fee: 0,
        // The host checks that this key signed the transaction.
        spend_key: key.to_vec(),
    }
}

fn check_preimage(preimage: &Preimage, payment_hash: &PaymentHash) -> Result<(), Refusal> {
    if crypto::sha256(preimage) != *payment_hash {
        return Err(Refusal::new(
            "wrong-preimage",
            "the contract wants the preimage of another payment hash",
        ));
    }
    Ok(())
}

/// It is public from now on, for whoever needs it to settle or as a proof.
fn reveal(preimage: &Preimage, contract: [u8; 32]) {
    let until = federation::unix_time().saturating_add(PREIMAGE_SECONDS);
    PREIMAGES.put(&contract, preimage);
    keep_until(until, Kept::Preimage(contract));
}

fn claim(id: ContractId, preimage: Preimage) -> Result<InputEffect, Refusal> {
    let Outgoing {
        contract,
        cancelled: is_cancelled,
    } = OUTGOING.get(&id).ok_or_else(no_such)?;
    if is_cancelled {
        return Err(cancelled());
    }
    check_preimage(&preimage, &contract.payment_hash)?;
    sweep();
    reveal(&preimage, id);
    OUTGOING.delete(&id);
    Ok(pay_out(contract.amount, contract.gateway_key))
}

fn refund_timeout(id: ContractId) -> Result<InputEffect, Refusal> {
    let Outgoing { contract, .. } = OUTGOING.get(&id).ok_or_else(no_such)?;
    let height = federation::block_height();
    if height < contract.timelock {
        return Err(Refusal::new(
            "too-early",
            format!(
                "the payer can have this contract back from block {} on; the agreed height is \
                 {height}",
                contract.timelock
            ),
        ));
    }
    OUTGOING.delete(&id);
    Ok(pay_out(contract.amount, contract.user_key))
}

fn refund_cancelled(id: ContractId) -> Result<InputEffect, Refusal> {
    let Outgoing {
        contract,
        cancelled,
    } = OUTGOING.get(&id).ok_or_else(no_such)?;
    if !cancelled {
        return Err(Refusal::new(
            "not-cancelled",
            "the gateway has not cancelled this contract",
        ));
    }
    OUTGOING.delete(&id);
    Ok(pay_out(contract.amount, contract.user_key))
}

/// Nobody decrypts it any more.
fn end_incoming(id: &OfferId, contract: &IncomingContract) {
    signing::revoke(&contract.offer.signable());
    INCOMING.delete(id);
}

fn claim_incoming(id: OfferId, preimage: Preimage) -> Result<InputEffect, Refusal> {
    let contract = INCOMING.get(&id).ok_or_else(no_such)?;
    check_preimage(&preimage, &contract.offer.payment_hash)?;
    sweep();
    reveal(&preimage, id);
    end_incoming(&id, &contract);
    Ok(pay_out(contract.offer.amount, contract.offer.claim_key))
}

fn refund_junk(id: OfferId, decryption_key: &[u8; 48]) -> Result<InputEffect, Refusal> {
    let contract = INCOMING.get(&id).ok_or_else(no_such)?;
    let offer = &contract.offer;
    let sold = crypto::tpe_decrypt(KEY, &offer.ciphertext, &offer.terms(), decryption_key)
        .ok_or_else(|| {
            Refusal::new(
                "bad-decryption-key",
                "this is not what the guardians' shares for this offer combine to",
            )
        })?;
    if crypto::sha256(&sold) == offer.payment_hash {
        return Err(Refusal::new(
            "not-junk",
            "the offer held the preimage; the receiver has earned the money",
        ));
    }
    end_incoming(&id, &contract);
    Ok(pay_out(offer.amount, contract.gateway_key))
}

// What is kept for a time alone.

fn keep_until(time: u64, what: Kept) {
    let (kind, name) = match &what {
        Kept::Preimage(id) => (0, *id),
        Kept::Bought(id) => (1, *id),
        Kept::Offer(id) => (2, *id),
        // Two keys of one x coordinate are one key's two halves: a hash tells them apart.
        Kept::Gateway(key) => (3, crypto::sha256(key)),
    };
    OVER.put(&(time, (kind, name)), &what);
}

/// Forgets some of what is over.
fn sweep() {
    let now = federation::unix_time();
    for (place, what) in OVER.page(None, SWEPT) {
        if place.0 > now {
            return;
        }
        OVER.delete(&place);
        match what {
            Kept::Preimage(id) => PREIMAGES.delete(&id),
            // It may have announced itself again meanwhile.
            Kept::Gateway(key) => {
                if GATEWAYS.get(&key).is_some_and(|known| known.expires <= now) {
                    GATEWAYS.delete(&key);
                }
            }
            Kept::Bought(id) => BOUGHT.delete(&id),
            Kept::Offer(id) => {
                OFFERS.delete(&id);
                PUBLISHED.put(&PUBLISHED.get().unwrap_or_default().saturating_sub(1));
            }
        }
    }
}

// Answers.

fn ready<T: BorshSerialize>(answer: &T) -> Result<Answer, Refusal> {
    let bytes = borsh::to_vec(answer);
    Ok(Answer::Ready(
        bytes.expect("writing to memory does not fail"),
    ))
}

fn id(bytes: Vec<u8>) -> Result<[u8; 32], Refusal> {
    bytes.try_into().map_err(|bytes: Vec<u8>| {
        Refusal::new(
            "bad-argument",
            format!("an id or hash is 32 bytes, not {}", bytes.len()),
        )
    })
}

/// A key as people enter it.
pub(crate) fn key(whose: &str, bytes: Vec<u8>) -> Result<PublicKey, Refusal> {
    let parity = bytes.first().copied().unwrap_or_default();
    match PublicKey::try_from(bytes) {
        Ok(key) if matches!(parity, 2 | 3) => Ok(key),
        _ => Err(Refusal::new(
            "bad-argument",
            format!("the {whose}'s key is none: 33 bytes are expected, a compressed point"),
        )),
    }
}

fn outgoing(query: OutgoingQuery) -> Result<Answer, Refusal> {
    let id = id(query.contract)?;
    match OUTGOING.get(&id) {
        Some(outgoing) => ready(&outgoing),
        None => Ok(Answer::Wait(vec![Wake::Key(OUTGOING.key(&id))])),
    }
}

fn refundable(query: RefundableQuery) -> Result<Answer, Refusal> {
    let id = id(query.contract)?;
    let timelock = u32::try_from(query.timelock).unwrap_or(u32::MAX);
    let late = federation::block_height() >= timelock;
    match OUTGOING.get(&id) {
        Some(outgoing) if outgoing.cancelled => ready(&Refundable::Cancelled),
        Some(_) if late => ready(&Refundable::TimedOut),
        // Claimed, or this guardian has not got as far: the timelock tells.
        None if late => ready(&Refundable::Gone),
        _ => Ok(Answer::Wait(vec![
            Wake::Key(OUTGOING.key(&id)),
            Wake::Height(timelock),
        ])),
    }
}

fn preimage(query: PreimageQuery) -> Result<Answer, Refusal> {
    let id = id(query.contract)?;
    match PREIMAGES.get(&id) {
        Some(preimage) => ready(&preimage),
        None => Ok(Answer::Wait(vec![Wake::Key(PREIMAGES.key(&id))])),
    }
}

fn incoming(query: IncomingQuery) -> Result<Answer, Refusal> {
    let id = id(query.offer)?;
    if INCOMING.contains(&id) {
        return ready(&Bought::Funded);
    }
    if BOUGHT.contains(&id) {
        return ready(&Bought::Over);
    }
    if federation::unix_time() >= query.expiry {
        return ready(&Bought::Expired);
    }
    Ok(Answer::Wait(vec![
        Wake::Key(INCOMING.key(&id)),
        Wake::Time(query.expiry),
    ]))
}

fn decryption_share(query: SharesQuery) -> Result<Answer, Refusal> {
    let id = id(query.offer)?;
    let wait = || Answer::Wait(vec![Wake::Key(INCOMING.key(&id))]);
    let Some(contract) = INCOMING.get(&id) else {
        return Ok(wait());
    };
    let message = asks_for_shares(&id);
    if !crypto::verify_schnorr(&contract.gateway_key, &message, &query.signature) {
        return Err(Refusal::new(
            "bad-signature",
            "shares are for the gateway that bought the offer, and this is not its signature",
        ));
    }
    let mut shares = guardian::shares(&[contract.offer.signable()]);
    match shares.pop().flatten() {
        Some(share) => Ok(Answer::Ready(share)),
        None => Ok(wait()),
    }
}

fn known_gateways() -> Vec<KnownGateway> {
    let vetted = vetted();
    let now = federation::unix_time();
    GATEWAYS
        .page(None, MOST_GATEWAYS)
        .into_iter()
        .filter(|(_, gateway)| gateway.expires > now)
        .map(|(key, gateway)| KnownGateway {
            gateway,
            vetted: vetted.contains(&key),
        })
        .collect()
}

fn contracts(query: ContractsQuery) -> Result<Answer, Refusal> {
    let after = query.after.map(id).transpose()?;
    let page: Vec<_> = if query.incoming {
        let page = INCOMING.page(after.as_ref(), PAGE).into_iter();
        page.map(|(id, contract)| OpenContract {
            id,
            contract: Contract::Incoming(contract),
            cancelled: false,
        })
        .collect()
    } else {
        let page = OUTGOING.page(after.as_ref(), PAGE).into_iter();
        page.map(|(id, outgoing)| OpenContract {
            id,
            contract: Contract::Outgoing(outgoing.contract),
            cancelled: outgoing.cancelled,
        })
        .collect()
    };
    ready(&page)
}
