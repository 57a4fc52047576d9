//! What guardians do about withdrawals.
//!
//! A [`PegOut`] waits until a guardian says that there is work at an agreed height
//! ([`WalletItem::Batch`]); what waits then goes into one transaction, from the
//! largest coins, the same on every guardian. Its inputs' hashes are approved for
//! signing, guardians' signatures come as items, and with a threshold of them the
//! transaction is complete and broadcast until an agreed block has it. Change is a
//! coin again only then.
//!
//! Fees on the chain come out of a reserve that deposits and withdrawals pay into.
//! A transaction that guardians see in no block though the fee rate has risen is
//! replaced by one with the same inputs, the same payments and less change, as
//! often as [`MAX_VERSIONS`] and the reserve allow.

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
/// The most transactions that spend the same inputs, one after the other.
const MAX_VERSIONS: usize = 5;
/// Agreed blocks that go by before a transaction is replaced.
pub const STUCK_BLOCKS: u32 = 6;
/// What nodes relay at least, satoshi per 1000 virtual bytes; a replacement pays
/// so much more than what it replaces (BIP 125).
const RELAY_RATE: u64 = 1000;
/// Less is left to the miners than made into change: Bitcoin Core's dust for P2WSH.
const DUST_CHANGE: u64 = 330;
/// How many that wait are looked at for one transaction.
const WAITING_LOOKED_AT: usize = 256;

/// A P2WSH scriptPubKey's length.
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
const LEDGER: Cell<Ledger> = Cell::new(b's');
const WAITING: Table<u64, Waiting> = Table::new(b'w');
const BATCHES: Table<u64, Batch> = Table::new(b'b');
/// The batch that a bitcoin transaction is a version of.
const TXIDS: Table<[u8; 32], u64> = Table::new(b't');
/// What may be signed of a version, in the order of its inputs, as far as approved.
const HASHES: Table<[u8; 32], Vec<[u8; 32]>> = Table::new(b'h');
const SIGNED: Table<([u8; 32], u16), Signed> = Table::new(b'g');
const BURIED: Table<([u8; 32], u16), ()> = Table::new(b'v');
const STUCK: Table<([u8; 32], u16), ()> = Table::new(b'k');
const STANDINGS: Table<Place, Standing> = Table::new(b'o');
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
fn largest_coins() -> impl Iterator<Item = Coin> {
    let coin = |((key, out_point), Held { tweak, keys }): (CoinKey, Held)| Coin {
        txid: out_point.txid.try_into().expect("a txid is 32 bytes"),
        vout: out_point.vout,
        satoshi: u64::MAX - key,
        tweak,
        keys,
    };
    COINS.iter().take(MAX_INPUTS).map(coin)
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

/// What a payment of `satoshi` to `script` costs now: the largest coins that cover
/// it, the payment, and change.
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
    let guardians = federation::peers().len();
    let (mut covered, mut inputs) = (0, 0);
    for coin in largest_coins() {
        if inputs > 0 && covered >= satoshi {
            break;
        }
        covered += coin.satoshi;
        inputs += 1;
    }
    if covered < satoshi {
        if inputs == MAX_INPUTS {
            return refuse(
                "amount-too-large",
                format!(
                    "one transaction can pay {covered} sat now, of {MAX_INPUTS} coins; withdraw \
                     less at a time"
                ),
            );
        }
        // The rest is change on its way: one coin more, when it is buried.
        inputs += 1;
    }
    let outputs = Outputs::default().with(P2WSH_BYTES).with(script.len());
    let size = virtual_size(inputs, outputs, guardians, threshold());
    let least = fee_of(size, federation::fee_rate().max(RELAY_RATE));
    Ok(PegOutQuote {
        least,
        fee: least.saturating_add(least / 2),
    })
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

    /// One coin more and the fee then, if there is one that is worth more than it
    /// costs and the reserve affords it.
    fn widen(&mut self, fee: u64) -> Option<u64> {
        let worth = self.take_coin()?;
        let left = self.brought - self.paid;
        let wider = self
            .fee()
            .filter(|wider| wider.saturating_sub(fee) < worth && left >= wider + DUST_CHANGE);
        if wider.is_none() {
            self.give_back(worth);
        }
        wider
    }
}

/// The transaction that would be made now, and the numbers of the withdrawals in
/// it; none if nothing waits or nothing can be paid. First come, first served; who
/// cannot be paid now is passed over, and waits.
fn draft() -> Option<(Batch, Vec<u64>)> {
    let mut waiting = WAITING.iter().take(WAITING_LOOKED_AT).peekable();
    waiting.peek()?;
    let coins: Vec<Coin> = largest_coins().collect();
    let ledger = ledger();
    let mut draft = Draft {
        coins: &coins,
        inputs: 0,
        brought: 0,
        paid: 0,
        outputs: Outputs::default().with(P2WSH_BYTES),
        rate: federation::fee_rate().max(RELAY_RATE),
        reserve: ledger.reserve,
        guardians: federation::peers().len(),
        threshold: threshold(),
    };
    let (mut numbers, mut places, mut payments, mut fee) = (vec![], vec![], vec![], 0);
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
            None => (draft.inputs, draft.brought, draft.paid, draft.outputs) = before,
        }
        if numbers.len() == MAX_PAYMENTS {
            break;
        }
    }
    if numbers.is_empty() {
        return None;
    }
    // Change as large as the fee leaves room for a replacement that pays double.
    while draft.brought - draft.paid < 2 * fee + DUST_CHANGE {
        match draft.widen(fee) {
            Some(wider) => fee = wider,
            None => break,
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
    Some((batch, numbers))
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

    /// The batch has a version more, which may be signed from now on.
    fn announce(&self, number: u64) {
        BATCHES.put(&number, self);
        TXIDS.put(&self.newest().txid, &number);
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

    /// The fee of a replacement, if it is time for one and it can be paid for.
    fn replacement_fee(&self, reserve: u64) -> Option<u64> {
        let newest = self.newest();
        let old_enough = federation::block_height() >= newest.height.saturating_add(STUCK_BLOCKS);
        if !old_enough || self.versions.len() == MAX_VERSIONS {
            return None;
        }
        let change = Outputs::default().with(P2WSH_BYTES);
        let outputs = self.payments.iter().fold(change, |outputs, payment| {
            outputs.with(payment.script.len())
        });
        let guardians = federation::peers().len();
        let size = virtual_size(self.inputs.len(), outputs, guardians, threshold());
        let rate = federation::fee_rate();
        // A quarter more than was paid.
        if fee_of(size, rate).saturating_mul(4) < newest.fee.saturating_mul(5) {
            return None;
        }
        let fee = fee_of(size, rate).max(newest.fee + fee_of(size, RELAY_RATE));
        let more = fee - newest.fee;
        let affordable = more <= reserve && self.change(newest.fee) >= more + DUST_CHANGE;
        affordable.then_some(fee)
    }

    /// The version with this id.
    fn version(&self, txid: &[u8; 32]) -> Option<&Version> {
        self.versions.iter().find(|version| version.txid == *txid)
    }

    /// As it goes to the network, if enough guardians have signed it.
    fn complete(&self, version: &Version) -> Option<Vec<u8>> {
        let signers: Vec<(usize, Vec<[u8; 64]>)> = federation::peers()
            .into_iter()
            .filter_map(|peer| match SIGNED.get(&(version.txid, peer))? {
                Signed::Good(signatures) => Some((peer.into(), signatures)),
                Signed::Bad(_) => None,
            })
            .take(threshold())
            .collect();
        (signers.len() == threshold())
            .then(|| self.transaction(version.fee, |transaction| transaction.signed(&signers)))
    }
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
    let Some((batch, numbers)) = draft() else {
        return refuse("nothing-to-pay", "nothing waits that can be paid now");
    };
    let (paid, fee) = (total(&batch.payments), batch.newest().fee);
    if !treasury::release(paid + fee) {
        return refuse("not-enough-bitcoin", "the treasury does not hold as much");
    }
    for number in &numbers {
        WAITING.delete(number);
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
    match batch.version(&txid) {
        Some(version)
            if approved.len() < batch.inputs.len() && approved.len() == usize::from(from) =>
        {
            batch.approve(version, approved);
            Ok(())
        }
        _ => refuse(
            "too-late",
            format!("inputs from {from} on have had their turn"),
        ),
    }
}

/// Each guardian signs a version once; who signs junk is remembered by name.
fn sign(peer: PeerId, txid: [u8; 32], signatures: Vec<[u8; 64]>) -> Result<(), Refusal> {
    if SIGNED.contains(&(txid, peer)) {
        return known("this transaction");
    }
    let (_, batch) = batch_of(&txid)?;
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
    let standing = Standing::Buried(PegOutOutcome {
        txids: batch.txids(),
        buried: Some(*txid),
    });
    for place in &batch.places {
        STANDINGS.put(place, &standing);
    }
    let peers = federation::peers();
    for version in &batch.versions {
        let hashes = HASHES.get(&version.txid).unwrap_or_default();
        for what in batch.signables(0, &hashes) {
            signing::revoke(&what);
        }
        HASHES.delete(&version.txid);
        TXIDS.delete(&version.txid);
        for peer in &peers {
            SIGNED.delete(&(version.txid, *peer));
            BURIED.delete(&(version.txid, *peer));
            STUCK.delete(&(version.txid, *peer));
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

/// What should be in the mempool: the newest version first, then those that it
/// replaces, should one of them be in a block.
pub fn broadcast() -> Vec<Vec<u8>> {
    let complete = |batch: Batch| -> Vec<Vec<u8>> {
        let newest_first = batch.versions.iter().rev();
        newest_first
            .filter_map(|version| batch.complete(version))
            .collect()
    };
    BATCHES
        .iter()
        .flat_map(|(_, batch)| complete(batch))
        .collect()
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
