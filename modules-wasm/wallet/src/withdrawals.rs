//! What guardians do about withdrawals.
//!
//! A [`PegOut`] waits until a guardian says that there is work at an agreed height
//! ([`WalletItem::Batch`]); what waits then goes into one transaction, from the
//! largest coins, the same on every guardian. Its inputs' hashes are approved for
//! signing, guardians' signatures come as items, and with a threshold of them the
//! transaction is complete and broadcast until an agreed block has it. Change is a
//! coin again only then.
//!
//! A withdrawal is accepted if the largest coins cover it together with all that waits
//! already: then the coins that are left, and change, always cover the rest.
//!
//! Fees on the chain come out of a reserve that deposits and withdrawals pay into.
//! A transaction that guardians see in no block is replaced by one with the same
//! inputs, the same payments and less change, that pays at least twice as much, for
//! as long as the reserve and the change can pay it.

use core::cmp::Reverse;
use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_sdk::{
    AuditLine, ChainOutPoint, OutPoint, OutputEffect, OwnChain, PeerId, Refusal, Signable, crypto,
    federation, guardian, log, signing,
    storage::{Cell, Table},
    treasury,
};

use crate::{
    Overview, PegOut, PegOutOutcome, PegOutQuote, UnderWay, WalletItem,
    address::Kind,
    display_txid,
    script::{KEY, multisig, p2wsh, tweaked_keys},
    transaction::{Coin, Outputs, Payment, Transaction, virtual_size},
};

/// The most inputs of a transaction.
pub const MAX_INPUTS: usize = 100;
/// How many inputs' hashes one item approves: fuel for an item is bounded.
const APPROVED_AT_ONCE: usize = 50;
/// With so many inputs at most, the item that makes a transaction approves them too.
const FEW_INPUTS: usize = 10;
/// The most withdrawals that one transaction pays.
pub const MAX_PAYMENTS: usize = 50;
/// The most transactions that spend the same inputs, one after the other: what burying
/// one of them takes is bounded. Money ends before: the last would pay eight million times
/// what the first does.
pub const MAX_VERSIONS: usize = 24;
/// Agreed blocks that go by before a transaction is replaced that pays less than the
/// agreed rate.
pub const STUCK_BLOCKS: u32 = 6;
/// Agreed blocks that go by before one is replaced that pays the agreed rate: guardians
/// cannot see what keeps it out of blocks, a payee's large child for example.
pub const UNSEEN_BLOCKS: u32 = 36;
/// Agreed blocks for which a withdrawal may be passed over for others behind it.
pub const PATIENT_BLOCKS: u32 = 12;
/// Agreed blocks for which nobody behind it is paid then, before others are again: longer
/// than change takes to be back, and not for ever if it is not.
const HELD_BLOCKS: u32 = 24;
/// What nodes relay at least, satoshi per 1000 virtual bytes; a replacement pays
/// so much more than what it replaces (BIP 125), which twice as much is.
const RELAY_RATE: u64 = 1000;
/// At this rate at most coins are brought together, satoshi per 1000 virtual bytes.
const GATHER_RATE: u64 = 5000;
/// A transaction that brings coins together costs at most this part of the reserve, so
/// that it can be replaced, and others be made.
const GATHER_PART: u64 = 4;
/// Change has room for so many times the fee, where there are coins: for four
/// replacements by double.
const ROOM_FOR_FEES: u64 = 16;
/// Less is left to the miners than made into change: Bitcoin Core's dust for P2WSH.
const DUST_CHANGE: u64 = 330;
/// How many that wait are looked at for one transaction.
const WAITING_LOOKED_AT: usize = 256;

/// The most transactions that a host broadcasts for an instance at a time.
const MAX_BROADCAST: usize = 256;
/// The most bytes of them: a module hands over 4 MiB at most in one call.
const MAX_BROADCAST_BYTES: usize = 3 << 20;

/// A P2WSH scriptPubKey's length, as long as any that is paid to.
const P2WSH_BYTES: usize = 34;

/// A coin's key: the largest come first, then those of equal worth by their place.
type CoinKey = (u64, ChainOutPoint);

/// A coin's value, and what spending it takes.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Held {
    tweak: [u8; 32],
    keys: Vec<[u8; 33]>,
}

/// A withdrawal that waits.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Waiting {
    place: Place,
    payment: Payment,
}

/// Where in the federation's transactions a withdrawal was made: id and index.
type Place = ([u8; 32], u16);

/// Where a withdrawal stands.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
enum Standing {
    Waiting,
    /// In the batch of this number.
    Sent(u64),
    Buried(PegOutOutcome),
}

/// A transaction under way, in all its versions.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Batch {
    inputs: Vec<Coin>,
    places: Vec<Place>,
    payments: Vec<Payment>,
    change_tweak: [u8; 32],
    change_keys: Vec<[u8; 33]>,
    versions: Vec<Version>,
}

/// One attempt to get it onto the chain.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Version {
    txid: [u8; 32],
    /// To the miners, satoshi.
    fee: u64,
    /// The agreed height at which it was made.
    height: u32,
}

/// What a guardian has said of a version.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
enum Signed {
    /// A signature for each input.
    Good(Vec<[u8; 64]>),
    /// The signature of this input is none.
    Bad(u16),
}

/// The first byte of a value, where the others need not be read: that costs fuel.
struct FirstByte(u8);

impl BorshDeserialize for FirstByte {
    fn deserialize(bytes: &mut &[u8]) -> borsh::io::Result<Self> {
        let first = u8::deserialize(bytes)?;
        *bytes = &[];
        Ok(Self(first))
    }

    fn deserialize_reader<R: borsh::io::Read>(reader: &mut R) -> borsh::io::Result<Self> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        Self::deserialize(&mut &bytes[..])
    }
}

/// Never: a part of a value is not the value.
impl BorshSerialize for FirstByte {
    fn serialize<W: borsh::io::Write>(&self, _: &mut W) -> borsh::io::Result<()> {
        Err(borsh::io::ErrorKind::Unsupported.into())
    }
}

/// Sums, in satoshi, and numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Ledger {
    /// What is on the chain, change under way included: the host's treasury.
    held: u64,
    /// What withdrawals that wait are to be paid.
    waiting: u64,
    /// What fees may be paid from.
    reserve: u64,
    /// What replacements have been promised beyond their first version's fee.
    promised: u64,
    /// The number of the next withdrawal, and of the next batch.
    next: u64,
    /// The agreed height of the last batch.
    batched_at: Option<u32>,
}

const COINS: Table<CoinKey, Held> = Table::new(b'u');
/// The same, where the keys alone are of interest.
const COIN_KEYS: Table<CoinKey, FirstByte> = Table::new(b'u');
/// Change of batches that are under way, as their newest versions leave it: the largest
/// come first, then by the batch's number.
const CHANGES: Table<(u64, u64), ()> = Table::new(b'x');
const LEDGER: Cell<Ledger> = Cell::new(b's');
const WAITING: Table<u64, Waiting> = Table::new(b'w');
const BATCHES: Table<u64, Batch> = Table::new(b'b');
/// The batch that a bitcoin transaction is a version of.
const TXIDS: Table<[u8; 32], u64> = Table::new(b't');
/// What may be signed of a version, in the order of its inputs, as far as approved.
const HASHES: Table<[u8; 32], Vec<[u8; 32]>> = Table::new(b'h');
const SIGNED: Table<([u8; 32], u16), Signed> = Table::new(b'g');
/// The same, for which of the two it is: 0 is [`Signed::Good`].
const VERDICTS: Table<([u8; 32], u16), FirstByte> = Table::new(b'g');
const BURIED: Table<([u8; 32], u16), ()> = Table::new(b'v');
const STUCK: Table<([u8; 32], u16), ()> = Table::new(b'k');
const STANDINGS: Table<Place, Standing> = Table::new(b'o');
/// The first withdrawal that others were paid before for want of coins, and the agreed
/// height since when.
const PASSED_OVER: Cell<(u64, u32)> = Cell::new(b'p');
const ALARMS: Table<u16, ()> = Table::new(b'a');
/// Who signed what is no signature: the last transaction and input.
const CULPRITS: Table<u16, ([u8; 32], u16)> = Table::new(b'c');

fn ledger() -> Ledger {
    LEDGER.get().unwrap_or_default()
}

fn threshold() -> usize {
    federation::threshold().into()
}

/// The fee of so many virtual bytes at a rate (satoshi per 1000), satoshi.
fn fee_of(size: u64, rate: u64) -> u64 {
    size.saturating_mul(rate).div_ceil(1000)
}

fn refuse<T>(code: &str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(code, message))
}

/// Nothing that rests on the chain goes on while more guardians than may be faulty
/// say that the agreed chain is not theirs.
pub fn check_chain() -> Result<(), Refusal> {
    let peers = federation::peers();
    let alarmed = peers.iter().filter(|peer| ALARMS.contains(peer)).count();
    if alarmed > peers.len() - threshold() {
        return refuse(
            "chain-alarm",
            format!(
                "{alarmed} guardians see another bitcoin chain than was agreed on, or miss \
                 what the federation holds there; deposits and withdrawals wait until they do not"
            ),
        );
    }
    Ok(())
}

/// A deposit has been claimed: a coin more, and its fee in the reserve.
pub fn add_deposit(out_point: ChainOutPoint, satoshi: u64, tweak: [u8; 32], fee: u64) {
    let keys = tweaked_keys(&tweak).expect("its script was made of them");
    COINS.put(&(u64::MAX - satoshi, out_point), &Held { tweak, keys });
    let mut ledger = ledger();
    ledger.held += satoshi;
    ledger.reserve += fee;
    LEDGER.put(&ledger);
}

/// The largest coins, at most [`MAX_INPUTS`].
fn largest_coins() -> Vec<Coin> {
    let coin = |((key, out_point), Held { tweak, keys }): (CoinKey, Held)| Coin {
        txid: out_point.txid.try_into().expect("a txid is 32 bytes"),
        vout: out_point.vout,
        satoshi: u64::MAX - key,
        tweak,
        keys,
    };
    let coins = COINS.page(None, MAX_INPUTS as u32);
    coins.into_iter().map(coin).collect()
}

/// What the largest coins are worth, at most so many.
fn largest_at_hand(number: usize) -> Vec<u64> {
    let coins = COIN_KEYS.page(None, number as u32).into_iter();
    coins.map(|((key, _), _)| u64::MAX - key).collect()
}

/// The same with change under way, which is back when it is buried; `at_hand` are the
/// largest coins.
fn largest_with_change(at_hand: Vec<u64>, number: usize) -> Vec<u64> {
    let changes = CHANGES.page(None, number as u32).into_iter();
    let mut coins = at_hand;
    coins.extend(changes.map(|((key, _), ())| u64::MAX - key));
    coins.sort_unstable_by_key(|coin| Reverse(*coin));
    coins.truncate(number);
    coins
}

impl Coin {
    fn key(&self) -> CoinKey {
        (u64::MAX - self.satoshi, self.out_point_of_host())
    }

    fn out_point_of_host(&self) -> ChainOutPoint {
        ChainOutPoint {
            txid: self.txid.to_vec(),
            vout: self.vout,
        }
    }
}

fn total(payments: &[Payment]) -> u64 {
    payments.iter().map(|payment| payment.satoshi).sum()
}

// A withdrawal is made.

/// What a payment of `satoshi` to `script` costs now: a transaction of the coins that
/// cover it, the payment, and change.
pub fn quote(script: &[u8], satoshi: u64) -> Result<PegOutQuote, Refusal> {
    let Some(kind) = Kind::of(script) else {
        return refuse(
            "unknown-script",
            "bitcoin is paid to P2PKH, P2SH, P2WPKH, P2WSH and P2TR scripts",
        );
    };
    if satoshi < kind.dust() {
        return refuse(
            "amount-too-small",
            format!(
                "{satoshi} sat are less than the network relays; the least for this address \
                 is {} sat",
                kind.dust()
            ),
        );
    }
    let at_hand = largest_at_hand(MAX_INPUTS);
    let Ledger {
        waiting, reserve, ..
    } = ledger();
    // Behind what waits there may be small coins left alone.
    let inputs = inputs_for(&at_hand, 0, satoshi).max(inputs_for(&at_hand, waiting, satoshi));
    let outputs = Outputs::default().with(P2WSH_BYTES).with(script.len());
    let rate = federation::fee_rate().max(RELAY_RATE);
    let size = virtual_size(inputs, outputs, federation::peers().len(), threshold());
    let least = fee_of(size, rate);
    check_covered(at_hand, satoshi, waiting, reserve.saturating_add(least))?;
    Ok(PegOutQuote {
        least,
        fee: least.saturating_add(least / 2),
    })
}

/// How many of these coins pay `satoshi` when `before` has been paid from the largest.
fn inputs_for(coins: &[u64], before: u64, satoshi: u64) -> usize {
    let until = before.saturating_add(satoshi);
    let (mut brought, mut inputs) = (0u64, 0);
    for coin in coins {
        if brought >= until {
            break;
        }
        brought += coin;
        inputs += usize::from(brought > before);
    }
    // The rest is change on its way: one coin more, when it is buried.
    inputs += usize::from(brought < until);
    inputs.clamp(1, MAX_INPUTS)
}

/// Whether the largest coins cover this withdrawal, all that wait before it, and fees:
/// as much as there is to pay them from, at most two of the largest transactions.
///
/// That is enough for any order and any number of transactions. Each merges some of
/// these coins into its change, so that there are never more than [`MAX_INPUTS`] of them,
/// worth less by nothing but what was paid.
fn check_covered(
    at_hand: Vec<u64>,
    satoshi: u64,
    waiting: u64,
    reserve: u64,
) -> Result<(), Refusal> {
    let fees = reserve.min(largest_fee().saturating_mul(2));
    let covered = |coins: u64, paid: u64| coins.saturating_sub(paid).saturating_sub(fees);
    let coins = largest_with_change(at_hand, MAX_INPUTS);
    let now = covered(coins.iter().sum(), waiting);
    if satoshi <= now {
        return Ok(());
    }
    // When what waits is paid, its change is one coin, and smaller ones move up.
    let coins = largest_with_change(largest_at_hand(2 * MAX_INPUTS), 2 * MAX_INPUTS);
    let (mut merged, mut number) = (0, 0);
    while merged < waiting && number < coins.len() {
        merged += coins[number];
        number += 1;
    }
    let left = MAX_INPUTS - usize::from(number > 0);
    let others: u64 = coins[number..].iter().take(left).sum();
    let later = covered(merged.saturating_add(others), waiting);
    if satoshi <= later {
        return refuse(
            "too-much-waits",
            format!(
                "{now} sat can be withdrawn now, as withdrawals of {waiting} sat wait; when they \
                 are paid, with the next agreed blocks, about {later} sat can be"
            ),
        );
    }
    refuse(
        "amount-too-large",
        format!(
            "{now} sat can be withdrawn now: one transaction spends {MAX_INPUTS} coins at most, \
             fees go off, and withdrawals of {waiting} sat wait; withdraw less at a time"
        ),
    )
}

/// What the largest transaction costs at the agreed rate.
fn largest_fee() -> u64 {
    let outputs = (0..=MAX_PAYMENTS).fold(Outputs::default(), |o, _| o.with(P2WSH_BYTES));
    let size = virtual_size(MAX_INPUTS, outputs, federation::peers().len(), threshold());
    fee_of(size, federation::fee_rate().max(RELAY_RATE))
}

/// A wallet withdraws.
pub fn withdraw(output: PegOut, out_point: OutPoint) -> Result<OutputEffect, Refusal> {
    check_chain()?;
    let PegOut {
        script,
        satoshi,
        fee,
    } = output;
    let least = quote(&script, satoshi)?.least;
    if fee < least {
        return refuse(
            "fee-too-low",
            format!("{fee} sat are offered for the chain; at least {least} sat are needed now"),
        );
    }
    let value = satoshi
        .checked_add(fee)
        .and_then(|sat| sat.checked_mul(1000));
    let Some(value) = value else {
        return refuse("amount-too-large", "more satoshi than there are");
    };
    let mut ledger = ledger();
    ledger.waiting = ledger.waiting.saturating_add(satoshi);
    ledger.reserve = ledger.reserve.saturating_add(fee);
    let number = ledger.next;
    ledger.next += 1;
    LEDGER.put(&ledger);
    let txid = out_point.txid.try_into().expect("an id is 32 bytes");
    let place = (txid, out_point.index);
    STANDINGS.put(&place, &Standing::Waiting);
    let payment = Payment { script, satoshi };
    WAITING.put(&number, &Waiting { place, payment });
    Ok(OutputEffect { value, fee: 0 })
}

// A batch is made.

/// Inputs and payments, while it is found out what fits. Sums are kept, not made
/// anew: fuel for an item is bounded.
struct Draft<'a> {
    coins: &'a [Coin],
    /// How many of the coins are spent, and what they are worth.
    inputs: usize,
    brought: u64,
    /// What is paid, and the outputs with change.
    paid: u64,
    outputs: Outputs,
    rate: u64,
    reserve: u64,
    guardians: usize,
    threshold: usize,
}

impl Draft<'_> {
    /// The fee that the reserve affords: less than the agreed rate if need be, as
    /// long as it is relayed.
    fn fee(&self) -> Option<u64> {
        let size = virtual_size(self.inputs, self.outputs, self.guardians, self.threshold);
        let fee = fee_of(size, self.rate).min(self.reserve);
        (fee >= fee_of(size, RELAY_RATE)).then_some(fee)
    }

    /// One coin more, if there is one.
    fn take_coin(&mut self) -> Option<u64> {
        let worth = self.coins.get(self.inputs)?.satoshi;
        self.inputs += 1;
        self.brought += worth;
        Some(worth)
    }

    /// Takes all coins so that they become one, and returns the fee: if there are others,
    /// no change is on its way that may do, and it costs little of what they are worth.
    fn gather(&mut self, beyond: usize) -> Option<u64> {
        if beyond == 0 || !BATCHES.page(None, 1).is_empty() {
            return None;
        }
        while self.take_coin().is_some() {}
        self.fee().filter(|fee| *fee <= self.brought / GATHER_PART)
    }

    fn give_back(&mut self, worth: u64) {
        self.inputs -= 1;
        self.brought -= worth;
    }

    /// Takes coins until they cover the payments and the fee, which is returned;
    /// what is too little for change goes to the miners, out of the reserve too.
    fn cover(&mut self) -> Option<u64> {
        loop {
            let fee = self.fee()?;
            match self.brought.checked_sub(self.paid + fee) {
                Some(over) if over >= DUST_CHANGE => return Some(fee),
                Some(over) if fee + over <= self.reserve => return Some(fee + over),
                _ => self.take_coin()?,
            };
        }
    }

    /// One coin more and the fee then, if there is one that is worth so many times what
    /// it costs, and `most` pays the fee.
    fn widen(&mut self, fee: u64, times: u64, most: u64) -> Option<u64> {
        let worth = self.take_coin()?;
        let left = self.brought - self.paid;
        let wider = self.fee().filter(|wider| {
            wider.saturating_sub(fee).saturating_mul(times) < worth
                && left >= wider + DUST_CHANGE
                && *wider <= most
        });
        if wider.is_none() {
            self.give_back(worth);
        }
        wider
    }

    /// Whether it is for want of coins that they do not cover what is to be paid, and
    /// not of a reserve.
    fn lacks_coins(&self) -> bool {
        self.inputs == self.coins.len() && self.fee().is_some()
    }
}

/// A transaction that could be made.
struct Drafted {
    batch: Batch,
    /// The withdrawals in it.
    numbers: Vec<u64>,
    /// The first that its coins do not cover.
    passed_over: Option<u64>,
}

/// The transaction that would be made now; none if nothing waits or nothing can be paid.
/// First come, first served; who cannot be paid now is passed over for a while, and
/// waits. What the coins at hand never cover has them brought together.
fn draft() -> Option<Drafted> {
    let mut waiting = WAITING.iter().take(WAITING_LOOKED_AT).peekable();
    waiting.peek()?;
    let coins = largest_coins();
    let last = coins.get(MAX_INPUTS - 1).map(Coin::key);
    let beyond = last.map_or(0, |last| {
        COIN_KEYS.page(Some(&last), MAX_INPUTS as u32).len()
    });
    let reserve = ledger().reserve;
    let mut draft = Draft {
        coins: &coins,
        inputs: 0,
        brought: 0,
        paid: 0,
        outputs: Outputs::default().with(P2WSH_BYTES),
        rate: federation::fee_rate().max(RELAY_RATE),
        reserve,
        guardians: federation::peers().len(),
        threshold: threshold(),
    };
    let (mut numbers, mut places, mut payments, mut fee) = (vec![], vec![], vec![], 0);
    let mut passed_over = None;
    for (number, Waiting { place, payment }) in waiting {
        let before = (draft.inputs, draft.brought, draft.paid, draft.outputs);
        draft.paid += payment.satoshi;
        draft.outputs = draft.outputs.with(payment.script.len());
        match draft.cover() {
            Some(covered) => {
                fee = covered;
                numbers.push(number);
                places.push(place);
                payments.push(payment);
            }
            None => {
                let first = passed_over.is_none() && draft.lacks_coins();
                (draft.inputs, draft.brought, draft.paid, draft.outputs) = before;
                if first {
                    passed_over = Some(number);
                    if is_out_of_patience(number) {
                        break;
                    }
                }
            }
        }
        if numbers.len() == MAX_PAYMENTS {
            break;
        }
    }
    if numbers.is_empty() {
        fee = passed_over.and_then(|_| draft.gather(beyond))?;
    }
    // Change as large as leaves room for replacements.
    for times in [2, ROOM_FOR_FEES] {
        while draft.brought - draft.paid < times * fee + DUST_CHANGE {
            match draft.widen(fee, times, reserve) {
                Some(wider) => fee = wider,
                None => break,
            }
        }
    }
    // More coins than a transaction spends are worth less than they are.
    if draft.rate <= GATHER_RATE {
        for _ in 0..beyond {
            match draft.widen(fee, ROOM_FOR_FEES, reserve / GATHER_PART) {
                Some(wider) => fee = wider,
                None => break,
            }
        }
    }
    let inputs = coins[..draft.inputs].to_vec();
    let (change_tweak, change_keys) = change_keys(&inputs[0])?;
    let mut batch = Batch {
        inputs,
        places,
        payments,
        change_tweak,
        change_keys,
        versions: Vec::new(),
    };
    batch.push_version(fee);
    Some(Drafted {
        batch,
        numbers,
        passed_over,
    })
}

/// Whether nobody behind this withdrawal is paid before it now.
fn is_out_of_patience(number: u64) -> bool {
    PASSED_OVER.get().is_some_and(|(first, since)| {
        let blocks = federation::block_height().saturating_sub(since);
        first == number && blocks % (PATIENT_BLOCKS + HELD_BLOCKS) >= PATIENT_BLOCKS
    })
}

/// Where a transaction's change goes: keys of its own, by its first input.
fn change_keys(first: &Coin) -> Option<([u8; 32], Vec<[u8; 33]>)> {
    let place = [&first.txid[..], &first.vout.to_le_bytes()].concat();
    // Longer than what a deposit's tweak is made of.
    let tweak = crypto::sha256(&[b"modmint/change".as_slice(), &place].concat());
    Some((tweak, tweaked_keys(&tweak)?))
}

impl Batch {
    fn change(&self, fee: u64) -> u64 {
        let coins: u64 = self.inputs.iter().map(|coin| coin.satoshi).sum();
        coins - total(&self.payments) - fee
    }

    /// Change first: nobody else spends it, so that guardians see by it that the
    /// transaction is in a block.
    fn outputs(&self, fee: u64) -> Vec<Payment> {
        let satoshi = self.change(fee);
        let script = || p2wsh(&multisig(&self.change_keys, threshold()));
        let change = (satoshi > 0).then(|| Payment {
            script: script(),
            satoshi,
        });
        change.into_iter().chain(self.payments.clone()).collect()
    }

    fn transaction<T>(&self, fee: u64, what: impl FnOnce(Transaction<'_>) -> T) -> T {
        what(Transaction {
            inputs: &self.inputs,
            outputs: &self.outputs(fee),
            threshold: threshold(),
        })
    }

    fn push_version(&mut self, fee: u64) {
        let version = Version {
            txid: self.transaction(fee, |transaction| transaction.txid()),
            fee,
            height: federation::block_height(),
        };
        self.versions.push(version);
    }

    fn newest(&self) -> &Version {
        self.versions.last().expect("a batch has a version")
    }

    /// What guardians sign for each of these hashes, of the inputs from `from` on.
    fn signables(&self, from: usize, hashes: &[[u8; 32]]) -> Vec<Signable> {
        let signable = |(coin, hash): (&Coin, &[u8; 32])| Signable {
            label: KEY.into(),
            message: [coin.tweak, *hash].concat(),
            terms: Vec::new(),
        };
        self.inputs[from..]
            .iter()
            .zip(hashes)
            .map(signable)
            .collect()
    }

    /// Where its change under way is kept, if there is some.
    fn change_key(&self, number: u64) -> Option<(u64, u64)> {
        let change = self.change(self.newest().fee);
        (change > 0).then_some((u64::MAX - change, number))
    }

    /// The batch has a version more, which may be signed from now on.
    fn announce(&self, number: u64) {
        BATCHES.put(&number, self);
        TXIDS.put(&self.newest().txid, &number);
        if let Some(key) = self.change_key(number) {
            CHANGES.put(&key, &());
        }
        if self.inputs.len() <= FEW_INPUTS {
            self.approve(self.newest(), Vec::new());
        }
    }

    fn txids(&self) -> Vec<[u8; 32]> {
        self.versions.iter().map(|version| version.txid).collect()
    }

    /// Approves the inputs that follow those whose hashes are `approved` already.
    fn approve(&self, version: &Version, mut approved: Vec<[u8; 32]>) {
        let from = approved.len();
        let to = self.inputs.len().min(from + APPROVED_AT_ONCE);
        let hashes = self.transaction(version.fee, |transaction| {
            transaction.signature_hashes(from..to)
        });
        for what in self.signables(from, &hashes) {
            signing::approve(&what);
        }
        approved.extend(hashes);
        HASHES.put(&version.txid, &approved);
    }

    /// The fee of a replacement, if it is time for one and it can be paid for: twice what
    /// the newest version pays or the agreed rate, whichever is more.
    ///
    /// What keeps a transaction out of blocks that pays the agreed rate cannot be seen:
    /// for that, half of the reserve is enough at a time.
    fn replacement_fee(&self, reserve: u64) -> Option<u64> {
        let newest = self.newest();
        let change = Outputs::default().with(P2WSH_BYTES);
        let outputs = self.payments.iter().fold(change, |outputs, payment| {
            outputs.with(payment.script.len())
        });
        let guardians = federation::peers().len();
        let size = virtual_size(self.inputs.len(), outputs, guardians, threshold());
        let agreed = fee_of(size, federation::fee_rate());
        // A quarter more than is paid.
        let is_behind = agreed.saturating_mul(4) >= newest.fee.saturating_mul(5);
        let (blocks, affordable) = match is_behind {
            true => (STUCK_BLOCKS, reserve),
            false => (UNSEEN_BLOCKS, reserve / 2),
        };
        let fee = agreed.max(newest.fee.saturating_mul(2));
        let more = fee - newest.fee;
        let is_time = self.versions.len() < MAX_VERSIONS
            && federation::block_height() >= newest.height.saturating_add(blocks)
            && more <= affordable
            && self.change(newest.fee) >= more + DUST_CHANGE
            // What was never sent is not stuck.
            && signers(&newest.txid).len() == threshold();
        is_time.then_some(fee)
    }

    /// Nobody signs this version any more.
    fn revoke(&self, version: &Version) {
        let Some(hashes) = HASHES.get(&version.txid) else {
            return;
        };
        for what in self.signables(0, &hashes) {
            signing::revoke(&what);
        }
        HASHES.delete(&version.txid);
        for peer in federation::peers() {
            STUCK.delete(&(version.txid, peer));
        }
    }

    /// The version with this id.
    fn version(&self, txid: &[u8; 32]) -> Option<&Version> {
        self.versions.iter().find(|version| version.txid == *txid)
    }

    /// As it goes to the network, if enough guardians have signed it.
    fn complete(&self, version: &Version) -> Option<Vec<u8>> {
        let signatures = |peer| match SIGNED.get(&(version.txid, peer))? {
            Signed::Good(signatures) => Some((peer.into(), signatures)),
            Signed::Bad(_) => None,
        };
        let peers = federation::peers().into_iter();
        let signers: Vec<(usize, Vec<[u8; 64]>)> =
            peers.filter_map(signatures).take(threshold()).collect();
        (signers.len() == threshold())
            .then(|| self.transaction(version.fee, |transaction| transaction.signed(&signers)))
    }
}

/// The first guardians that have signed this version, as many as it takes or fewer.
fn signers(txid: &[u8; 32]) -> Vec<PeerId> {
    let has_signed = |peer: &PeerId| matches!(VERDICTS.get(&(*txid, *peer)), Some(FirstByte(0)));
    let peers = federation::peers().into_iter();
    peers.filter(has_signed).take(threshold()).collect()
}

/// The batch that has this version.
fn batch_of(txid: &[u8; 32]) -> Result<(u64, Batch), Refusal> {
    let found = TXIDS
        .get(txid)
        .and_then(|number| Some((number, BATCHES.get(&number)?)));
    match found {
        Some(found) => Ok(found),
        None => refuse(
            "no-such-transaction",
            format!("no transaction {} is under way", display_txid(txid)),
        ),
    }
}

fn known<T>(what: &str) -> Result<T, Refusal> {
    refuse("known", format!("this guardian has said so of {what}"))
}

/// A guardian's item.
pub fn process(peer: PeerId, item: WalletItem) -> Result<(), Refusal> {
    match item {
        WalletItem::Batch(height) => make_batch(height),
        WalletItem::Approve(txid, from) => approve(txid, from),
        WalletItem::Sign(txid, signatures) => sign(peer, txid, signatures),
        WalletItem::Buried(txid) => buried(peer, txid),
        WalletItem::Stuck(txid) => stuck(peer, txid),
        WalletItem::Alarm(on) => alarm(peer, on),
    }
}

fn make_batch(height: u32) -> Result<(), Refusal> {
    check_chain()?;
    let mut ledger = ledger();
    if height != federation::block_height() || ledger.batched_at == Some(height) {
        return refuse("too-late", format!("height {height} has had its turn"));
    }
    let Some(drafted) = draft() else {
        return refuse("nothing-to-pay", "nothing waits that can be paid now");
    };
    let Drafted {
        batch,
        numbers,
        passed_over,
    } = drafted;
    let (paid, fee) = (total(&batch.payments), batch.newest().fee);
    if !treasury::release(paid + fee) {
        return refuse("not-enough-bitcoin", "the treasury does not hold as much");
    }
    for number in &numbers {
        WAITING.delete(number);
    }
    let before = PASSED_OVER.get().map(|(number, _)| number);
    if let Some(number) = passed_over.filter(|number| before != Some(*number)) {
        PASSED_OVER.put(&(number, height));
    }
    for coin in &batch.inputs {
        COINS.delete(&coin.key());
    }
    let number = ledger.next;
    ledger.next += 1;
    ledger.held -= paid + fee;
    ledger.waiting -= paid;
    ledger.reserve -= fee;
    ledger.batched_at = Some(height);
    LEDGER.put(&ledger);
    for place in &batch.places {
        STANDINGS.put(place, &Standing::Sent(number));
    }
    batch.announce(number);
    Ok(())
}

/// The next inputs of a transaction that has more than one item approves.
fn approve(txid: [u8; 32], from: u16) -> Result<(), Refusal> {
    let (_, batch) = batch_of(&txid)?;
    let approved = HASHES.get(&txid).unwrap_or_default();
    let is_newest = batch.newest().txid == txid;
    let is_next = approved.len() < batch.inputs.len() && approved.len() == usize::from(from);
    if !is_newest || !is_next {
        return refuse(
            "too-late",
            format!("inputs from {from} on have had their turn"),
        );
    }
    batch.approve(batch.newest(), approved);
    Ok(())
}

/// Each guardian signs a version once; who signs junk is remembered by name.
fn sign(peer: PeerId, txid: [u8; 32], signatures: Vec<[u8; 64]>) -> Result<(), Refusal> {
    if SIGNED.contains(&(txid, peer)) {
        return known("this transaction");
    }
    let (_, batch) = batch_of(&txid)?;
    if batch.newest().txid != txid {
        return refuse("too-late", "another transaction has replaced it");
    }
    let hashes = HASHES.get(&txid).unwrap_or_default();
    if hashes.len() < batch.inputs.len() {
        return refuse("too-early", "not all of its inputs may be signed yet");
    }
    let good = |(place, hash): (usize, &[u8; 32])| {
        let key = batch.inputs[place].keys.get(usize::from(peer));
        key.zip(signatures.get(place))
            .is_some_and(|(key, signature)| crypto::verify_ecdsa(key, hash, signature))
    };
    let bad = hashes.iter().enumerate().position(|input| !good(input));
    let bad = bad.or_else(|| (signatures.len() != hashes.len()).then_some(hashes.len()));
    let signed = match bad {
        None => Signed::Good(signatures),
        Some(input) => {
            let input = input as u16;
            log::warn(&format!(
                "guardian {peer} has signed input {input} of {} with what is no signature",
                display_txid(&txid)
            ));
            CULPRITS.put(&peer, &(txid, input));
            Signed::Bad(input)
        }
    };
    SIGNED.put(&(txid, peer), &signed);
    Ok(())
}

/// Notes what a guardian says; whether as many as a threshold now say it.
fn vote(table: &Table<([u8; 32], u16), ()>, txid: [u8; 32], peer: PeerId) -> Result<bool, Refusal> {
    if table.contains(&(txid, peer)) {
        return known("this transaction");
    }
    table.put(&(txid, peer), &());
    let peers = federation::peers();
    let votes = peers.iter().filter(|peer| table.contains(&(txid, **peer)));
    Ok(votes.count() >= threshold())
}

fn buried(peer: PeerId, txid: [u8; 32]) -> Result<(), Refusal> {
    let (number, batch) = batch_of(&txid)?;
    if vote(&BURIED, txid, peer)? {
        close(number, &batch, &txid)
    } else {
        Ok(())
    }
}

/// A version is in an agreed block: payments are done, change is a coin, what was
/// promised for later versions is free, and nobody signs any of it again.
fn close(number: u64, batch: &Batch, txid: &[u8; 32]) -> Result<(), Refusal> {
    let (first, last) = (batch.versions[0].fee, batch.newest().fee);
    let fee = batch.version(txid).map_or(first, |version| version.fee);
    if !treasury::release(fee - first) {
        return refuse("not-enough-bitcoin", "the treasury does not hold as much");
    }
    let mut ledger = ledger();
    ledger.held -= fee - first;
    ledger.promised -= last - first;
    ledger.reserve += last - fee;
    LEDGER.put(&ledger);
    let change = Coin {
        txid: *txid,
        vout: 0,
        satoshi: batch.change(fee),
        tweak: batch.change_tweak,
        keys: batch.change_keys.clone(),
    };
    if change.satoshi > 0 {
        let key = change.key();
        let Coin { tweak, keys, .. } = change;
        COINS.put(&key, &Held { tweak, keys });
    }
    if let Some(key) = batch.change_key(number) {
        CHANGES.delete(&key);
    }
    let standing = Standing::Buried(PegOutOutcome {
        txids: batch.txids(),
        buried: Some(*txid),
    });
    for place in &batch.places {
        STANDINGS.put(place, &standing);
    }
    let peers = federation::peers();
    for version in &batch.versions {
        batch.revoke(version);
        TXIDS.delete(&version.txid);
        for peer in &peers {
            SIGNED.delete(&(version.txid, *peer));
            BURIED.delete(&(version.txid, *peer));
        }
    }
    BATCHES.delete(&number);
    Ok(())
}

fn stuck(peer: PeerId, txid: [u8; 32]) -> Result<(), Refusal> {
    let (number, mut batch) = batch_of(&txid)?;
    let mut ledger = ledger();
    let fee = match batch.replacement_fee(ledger.reserve) {
        Some(fee) if batch.newest().txid == txid => fee,
        _ => {
            return refuse(
                "not-replaced",
                format!("{} is not to be replaced now", display_txid(&txid)),
            );
        }
    };
    if !vote(&STUCK, txid, peer)? {
        return Ok(());
    }
    let more = fee - batch.newest().fee;
    ledger.reserve -= more;
    ledger.promised += more;
    LEDGER.put(&ledger);
    batch.revoke(batch.newest());
    // The older one may be in a block after all: as many signatures as it takes stay.
    let needed = signers(&txid);
    for peer in federation::peers() {
        if !needed.contains(&peer) {
            SIGNED.delete(&(txid, peer));
        }
    }
    if let Some(key) = batch.change_key(number) {
        CHANGES.delete(&key);
    }
    batch.push_version(fee);
    batch.announce(number);
    Ok(())
}

fn alarm(peer: PeerId, on: bool) -> Result<(), Refusal> {
    if ALARMS.contains(&peer) == on {
        return known("its chain");
    }
    match on {
        true => ALARMS.put(&peer, &()),
        false => ALARMS.delete(&peer),
    }
    Ok(())
}

// What a guardian does by itself.

/// What this guardian wants ordered now.
pub fn propose() -> Vec<WalletItem> {
    let me = guardian::whoami();
    let chain = guardian::chain();
    let mut items = Vec::new();
    let wrong = match chain {
        OwnChain::Unknown => return items,
        OwnChain::Differs => true,
        OwnChain::Follows(_) => {
            let held: Vec<_> = COINS
                .iter()
                .map(|((_, place), _)| place)
                .take(1000)
                .collect();
            !guardian::missing(&held).is_empty()
        }
    };
    if wrong != ALARMS.contains(&me) {
        items.push(WalletItem::Alarm(wrong));
    }
    // What rests on the chain waits until it is the agreed one again.
    if chain == OwnChain::Differs {
        return items;
    }
    let ledger = ledger();
    for (_, batch) in BATCHES.iter() {
        items.extend(propose_for(&batch, me, ledger.reserve));
    }
    let height = federation::block_height();
    if ledger.batched_at != Some(height) && check_chain().is_ok() && draft().is_some() {
        items.push(WalletItem::Batch(height));
    }
    items
}

fn propose_for(batch: &Batch, me: PeerId, reserve: u64) -> Vec<WalletItem> {
    let mut items = Vec::new();
    let newest = batch.newest();
    let hashes = HASHES.get(&newest.txid).unwrap_or_default();
    if hashes.len() < batch.inputs.len() {
        items.push(WalletItem::Approve(newest.txid, hashes.len() as u16));
    } else if !SIGNED.contains(&(newest.txid, me)) {
        let shares = guardian::shares(&batch.signables(0, &hashes));
        let signatures: Option<Vec<[u8; 64]>> = shares
            .into_iter()
            .map(|share| share?.try_into().ok())
            .collect();
        items.extend(signatures.map(|signatures| WalletItem::Sign(newest.txid, signatures)));
    }
    let mut seen = false;
    for Version { txid, .. } in &batch.versions {
        let Some(height) = guardian::confirmed_at(txid) else {
            continue;
        };
        seen = true;
        if height <= federation::block_height() && !BURIED.contains(&(*txid, me)) {
            items.push(WalletItem::Buried(*txid));
        }
    }
    if !seen && batch.replacement_fee(reserve).is_some() && !STUCK.contains(&(newest.txid, me)) {
        items.push(WalletItem::Stuck(newest.txid));
    }
    items
}

/// What should be in the mempool, batch by batch: the newest version first, then those
/// that it replaces, should one of them be in a block.
///
/// Where that is more than a host takes, the newest versions of the newest batches have
/// half of the room, and all others take turns, block by block, for the rest: what was
/// sent once is in mempools, and is to be looked for now and then.
pub fn broadcast() -> Vec<Vec<u8>> {
    let mut batches: Vec<(u64, usize)> = BATCHES
        .iter()
        .map(|(number, batch)| (number, batch.versions.len()))
        .collect();
    batches.reverse();
    let newest = batches
        .iter()
        .map(|(number, versions)| (*number, versions - 1));
    let older = batches.iter().flat_map(|(number, versions)| {
        (0..versions - 1)
            .rev()
            .map(move |version| (*number, version))
    });
    let mut left: Vec<(u64, usize)> = newest.chain(older).collect();
    let mut sent = Sent::default();
    let mut taken = 0;
    while taken < left.len() && sent.take(left[taken], MAX_BROADCAST / 2, MAX_BROADCAST_BYTES / 2) {
        taken += 1;
    }
    left.drain(..taken);
    if !left.is_empty() {
        let turn = federation::block_height() as usize % left.len();
        left.rotate_left(turn);
    }
    for place in left {
        if !sent.take(place, MAX_BROADCAST, MAX_BROADCAST_BYTES) {
            break;
        }
    }
    sent.transactions.into_values().collect()
}

/// What is broadcast, by batch, and the newest version first.
#[derive(Default)]
struct Sent {
    transactions: BTreeMap<(u64, Reverse<usize>), Vec<u8>>,
    bytes: usize,
}

impl Sent {
    /// Takes this version of this batch, if it is complete; false if there would be
    /// more than these transactions, or bytes of them.
    fn take(&mut self, (number, version): (u64, usize), most: usize, bytes: usize) -> bool {
        let batch = BATCHES.get(&number);
        let complete = batch.and_then(|batch| batch.complete(&batch.versions[version]));
        let Some(transaction) = complete else {
            return true;
        };
        let total = self.bytes + transaction.len();
        if self.transactions.len() == most || total > bytes {
            return false;
        }
        self.bytes = total;
        self.transactions
            .insert((number, Reverse(version)), transaction);
        true
    }
}

// What is told.

/// What has become of the withdrawal there, and the keys of which one is written when
/// that changes.
pub fn outcome(out_point: &OutPoint) -> (Option<PegOutOutcome>, Vec<Vec<u8>>) {
    let Some(place) = place_of(out_point) else {
        return (None, Vec::new());
    };
    let mut keys = vec![STANDINGS.key(&place)];
    let outcome = STANDINGS.get(&place).map(|standing| match standing {
        Standing::Waiting => PegOutOutcome::default(),
        Standing::Sent(number) => {
            keys.push(BATCHES.key(&number));
            PegOutOutcome {
                txids: BATCHES.get(&number).map_or_else(Vec::new, |b| b.txids()),
                buried: None,
            }
        }
        Standing::Buried(outcome) => outcome,
    });
    (outcome, keys)
}

fn place_of(out_point: &OutPoint) -> Option<Place> {
    let txid = out_point.txid.as_slice().try_into().ok()?;
    Some((txid, out_point.index))
}

/// All there is to know.
pub fn overview() -> Overview {
    let ledger = ledger();
    let peers = federation::peers();
    let under_way = |(_, batch): (u64, Batch)| {
        let Version { txid, fee, .. } = *batch.newest();
        let has_signed = |peer: &&u16| matches!(SIGNED.get(&(txid, **peer)), Some(Signed::Good(_)));
        UnderWay {
            txid,
            replaced: batch.versions.len() as u32 - 1,
            fee,
            payments: batch.payments.len() as u32,
            signers: peers.iter().filter(has_signed).copied().collect(),
        }
    };
    let culprit = |(peer, (txid, input))| (peer, txid, input);
    Overview {
        waiting: WAITING.iter().take(1000).count() as u32,
        waiting_satoshi: ledger.waiting,
        held_satoshi: ledger.held,
        reserve_satoshi: ledger.reserve,
        transactions: BATCHES.iter().map(under_way).collect(),
        alarms: ALARMS.iter().map(|(peer, ())| peer).collect(),
        culprits: CULPRITS.iter().map(culprit).collect(),
    }
}

/// What is held on the chain, less what is due there. With what e-cash is owed this
/// makes the host's books to the satoshi.
pub fn audit() -> Vec<AuditLine> {
    let ledger = ledger();
    let msat = |satoshi: u64| {
        let satoshi = i64::try_from(satoshi).unwrap_or(i64::MAX);
        satoshi.saturating_mul(1000)
    };
    let line = |name: &str, msat| AuditLine {
        name: name.into(),
        msat,
    };
    vec![
        line("bitcoin held", msat(ledger.held)),
        line("withdrawals that wait", -msat(ledger.waiting)),
        line(
            "reserve for fees on the chain",
            -msat(ledger.reserve.saturating_add(ledger.promised)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use modmint_sdk::mock::{Bundle, Federation, Phase};

    use super::*;

    fn federation(guardians: usize) -> (Federation, u16) {
        let federation = Federation::new(guardians);
        // Outputs of any script are voted.
        federation.set_filter_bits(0);
        let wallet = Bundle::federation_module::<crate::Wallet>();
        let instance = federation.found(wallet, Vec::new());
        (federation, instance)
    }

    fn txid_of(bytes: &[u8]) -> [u8; 32] {
        use bitcoin::hashes::Hash;
        let transaction: bitcoin::Transaction =
            bitcoin::consensus::encode::deserialize(bytes).expect("a transaction");
        transaction.compute_txid().to_byte_array()
    }

    #[test]
    fn what_was_accepted_and_the_largest_coins_never_cover_has_them_brought_together() {
        let (federation, instance) = federation(1);
        let outputs = federation.mine(&vec![(vec![0; 34], 20_000); 250]);
        let accepted = federation.consensus(instance, || {
            for output in outputs {
                let found = treasury::claim(&output).expect("it is there");
                add_deposit(output, found.satoshi, [3; 32], 200);
            }
            // An older module looked at each withdrawal as if it were the only one.
            let script = [&[0, 20], &[1; 20][..]].concat();
            let (place, satoshi) = (([7; 32], 0), 4_000_000);
            let payment = Payment { script, satoshi };
            WAITING.put(&0, &Waiting { place, payment });
            STANDINGS.put(&place, &Standing::Waiting);
            let mut ledger = ledger();
            (ledger.waiting, ledger.next) = (satoshi, 1);
            LEDGER.put(&ledger);
            Ok(())
        });
        assert_eq!(accepted, Ok(()));
        let mut payments = Vec::new();
        federation.order_proposals();
        while let Some(sent) = federation.broadcast(instance).pop() {
            assert!(payments.len() < 5, "{payments:?}");
            federation.mine(&[]);
            federation.confirm(txid_of(&sent));
            federation.order_proposals();
            let sent: bitcoin::Transaction =
                bitcoin::consensus::encode::deserialize(&sent).expect("a transaction");
            payments.push(sent.output.len() - 1);
        }
        assert_eq!(payments, [0, 0, 1]);
        let lines = federation.audit(instance);
        assert_eq!(
            lines.iter().map(|line| line.msat).sum::<i64>(),
            (250 * (20_000 - 200) - 4_000_000) * 1000
        );
    }

    /// Batches under way, each in so many versions, of which the last is not complete.
    fn put_batches(batches: u64, inputs: usize, versions: u64) {
        let guardians = federation::peers().len();
        for number in 0..batches {
            let coin = |place: usize| Coin {
                txid: crypto::sha256(&number.to_be_bytes()),
                vout: place as u32,
                satoshi: 1_000_000,
                tweak: [0; 32],
                keys: vec![[2; 33]; guardians],
            };
            let mut batch = Batch {
                inputs: (0..inputs).map(coin).collect(),
                places: Vec::new(),
                payments: Vec::new(),
                change_tweak: [0; 32],
                change_keys: vec![[2; 33]; guardians],
                versions: Vec::new(),
            };
            for version in 0..versions {
                batch.push_version(1000 << version);
                let signed = Signed::Good(vec![[1; 64]; inputs]);
                let missing = usize::from(version + 1 == versions);
                for peer in 0..threshold() - missing {
                    SIGNED.put(&(batch.newest().txid, peer as u16), &signed);
                }
            }
            BATCHES.put(&number, &batch);
        }
    }

    #[test]
    fn new_batches_are_broadcast_whatever_is_stuck_and_old_ones_in_turn() {
        let (federation, instance) = federation(4);
        let batches = 200;
        federation
            .consensus(instance, || {
                put_batches(batches, 1, 4);
                Ok(())
            })
            .expect("nothing refuses");
        let versions: BTreeMap<[u8; 32], (u64, usize)> =
            federation.call(instance, Phase::Audit, None, || {
                let version = |(number, batch): (u64, Batch)| {
                    let txids = batch.txids().into_iter().enumerate();
                    txids.map(move |(version, txid)| (txid, (number, version)))
                };
                BATCHES.iter().flat_map(version).collect()
            });
        let mut seen = BTreeSet::new();
        for _ in 0..batches * 3 {
            let sent = federation.broadcast(instance);
            let sent: Vec<(u64, usize)> = sent.iter().map(|t| versions[&txid_of(t)]).collect();
            assert_eq!(sent.len(), MAX_BROADCAST);
            assert!(sent.is_sorted_by_key(|(number, version)| (*number, Reverse(*version))));
            // Signatures of the last version are on their way: the one before counts.
            assert!(sent.contains(&(batches - 1, 2)));
            seen.extend(sent);
            federation.mine(&[]);
        }
        assert_eq!(seen.len() as u64, batches * 3);
    }

    #[test]
    fn large_transactions_are_handed_over_as_far_as_a_call_can() {
        let (federation, instance) = federation(19);
        federation
            .consensus(instance, || {
                put_batches(40, MAX_INPUTS, 2);
                Ok(())
            })
            .expect("nothing refuses");
        for _ in 0..3 {
            let sent = federation.broadcast(instance);
            let bytes: usize = sent.iter().map(Vec::len).sum();
            assert!(sent.len() > 10, "{}", sent.len());
            assert!(bytes <= MAX_BROADCAST_BYTES, "{bytes}");
            federation.mine(&[]);
        }
    }
}
