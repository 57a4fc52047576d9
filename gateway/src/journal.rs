//! What the gateway must not forget: one RocksDB, each write one batch that is on the
//! disk when it returns.
//!
//! A payment out is written here before the node hears of it, a payment in before the
//! node forgets its event. What a row says is the truth for ever once it is over.
//!
//! | key | value |
//! |---|---|
//! | `f` federation | [`Membership`] |
//! | `o` hash | [`Outgoing`] |
//! | `i` hash | [`Incoming`] |
//! | `u` `o`/`i` hash | empty: it is not over |
//! | `w` expiry hash | empty: an invoice that nobody has paid |
//! | `l` number | the payment log: `o`/`i` hash, or `p` hash and an [`Outgoing`] that another took the place of |
//! | `g` federation | what was given for its users and has not come back, eight bytes |
//! | `b`, `b` federation | the solvency ledger's [`Book`]: the gateway's own, and what is in a federation |
//! | `s` | what an older version had for the first of these |
//!
//! Numbers are big endian.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result, ensure};
use borsh::{BorshDeserialize, BorshSerialize};
use modmint_client::deletions;
use modmint_core::{FederationId, Hash32, config::BaseFee};
use parking_lot::Mutex;
use rocksdb::{DB, Direction, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize};

use crate::now;

/// Ends the process right behind the n-th durable write of a payment or an invoice, as a
/// crash would: for tests that kill the gateway at each of its crash points.
pub const CRASH_VARIABLE: &str = "MODMINT_GATEWAY_CRASH_AFTER_WRITE";

/// What the gateway takes, and how much it risks, in one federation.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// For each payment out, millisatoshi.
    pub pay_base_msat: u64,
    /// Of each payment out, millionths.
    pub pay_parts_per_million: u64,
    /// For each payment in, millisatoshi.
    pub receive_base_msat: u64,
    /// Of each payment in, millionths.
    pub receive_parts_per_million: u64,
    /// The largest invoice, millisatoshi.
    pub maximum_invoice_msat: u64,
    /// The most that the gateway holds in this federation, payments under way
    /// included, millisatoshi: what is lost with it.
    pub maximum_exposure_msat: u64,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            pay_base_msat: 1_000,
            pay_parts_per_million: 3_000,
            // A contract costs the gateway 1 sat unless the federation's founders say
            // otherwise: what it could not buy at a profit it would have to give back.
            receive_base_msat: 2_000,
            receive_parts_per_million: 1_000,
            maximum_invoice_msat: 400_000_000,
            maximum_exposure_msat: 2_000_000_000,
        }
    }
}

/// What a gateway's transactions are reckoned at, bytes: buying a contract with some notes,
/// and change, takes 1900 to 2200, claiming one half of that.
pub(crate) const TRANSACTION_BYTES: usize = 3000;

impl Terms {
    /// With what the gateway's own transaction costs for each payment, in a federation
    /// that asks this base fee.
    pub fn covering(self, base_fee: BaseFee) -> Self {
        let cost = base_fee.of(TRANSACTION_BYTES).msat();
        Self {
            pay_base_msat: self.pay_base_msat.saturating_add(cost),
            receive_base_msat: self.receive_base_msat.saturating_add(cost),
            ..self
        }
    }

    /// What paying an invoice of `amount_msat` costs the payer at the gateway, routing
    /// not included.
    pub fn pay_fee(&self, amount_msat: u64) -> u64 {
        fee(self.pay_base_msat, self.pay_parts_per_million, amount_msat)
    }

    /// What receiving a contract of `contract_msat` costs on top of it.
    pub fn receive_fee(&self, contract_msat: u64) -> u64 {
        fee(
            self.receive_base_msat,
            self.receive_parts_per_million,
            contract_msat,
        )
    }

    /// The largest contract that a payment of `received_msat` may have bought: with its
    /// fee it is no more than that.
    pub fn largest_contract(&self, received_msat: u64) -> u64 {
        let left = u128::from(received_msat.saturating_sub(self.receive_base_msat));
        let parts = 1_000_000 + u128::from(self.receive_parts_per_million);
        // Not more than `left`.
        let mut largest = u64::try_from(left * 1_000_000 / parts).unwrap_or(0);
        // Rounding may have come out on the other side.
        while largest > 0 && largest.saturating_add(self.receive_fee(largest)) > received_msat {
            largest -= 1;
        }
        largest
    }
}

/// Rounded up, for whoever takes it.
fn fee(base_msat: u64, parts_per_million: u64, amount_msat: u64) -> u64 {
    let parts = u128::from(amount_msat) * u128::from(parts_per_million);
    let parts = u64::try_from(parts.div_ceil(1_000_000)).unwrap_or(u64::MAX);
    base_msat.saturating_add(parts)
}

/// A federation that the gateway serves.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Membership {
    /// Whether it is served; one that was left is kept while there may be money.
    pub active: bool,
    /// Fees and limits.
    pub terms: Terms,
    /// The key that contracts name this gateway by, 33 bytes compressed,
    /// hexadecimal; none until the module has told.
    pub gateway_key: Option<String>,
    /// When the federation is to be told of the gateway again, seconds since 1970.
    pub announce_at: u64,
}

/// A payment of somebody's invoice for a federation's user.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Outgoing {
    /// Its place in the payment log.
    pub number: u64,
    /// Whose user pays.
    pub federation: FederationId,
    /// The contract that pays for it: no other contract of the same hash does.
    pub contract: Hash32,
    /// BOLT 11.
    pub invoice: String,
    /// What the payee gets, millisatoshi.
    pub amount_msat: u64,
    /// The most that others on the way may take, millisatoshi.
    pub maximum_fee_msat: u64,
    /// No HTLC of it may expire later.
    pub latest_height: u32,
    /// Whether the invoice is this gateway's own.
    pub swap: bool,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970.
    pub updated: u64,
    /// How it stands.
    pub state: OutgoingState,
}

/// How a payment out stands.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum OutgoingState {
    /// The node is about to be told, or has been.
    Started {
        /// A crash came before the node had a record of it, so it may be under way
        /// without one: the node's word that a later try failed proves nothing.
        uncertain: bool,
    },
    /// It is for an invoice of this gateway's own: no node is needed.
    Swap,
    /// It has arrived.
    Paid {
        /// Of the payment's hash.
        preimage: Hash32,
        /// What others on the way took, millisatoshi.
        fee_msat: u64,
    },
    /// Nothing is under way, and nothing will be.
    Failed {
        /// Why.
        reason: String,
        /// Whether it is certain that the node never sent anything for this hash. Then,
        /// and only then, another contract may have it tried again.
        unsent: bool,
    },
    /// It may have been under way without a record, and the node is about to be told once
    /// more, or has been. A failure that the node tells of names no attempt, so it proves
    /// nothing: arriving ends it, or time.
    Again,
    /// It was said to have failed, and has arrived after all: its contract is lost, or as
    /// good as lost.
    Lost {
        /// Of the payment's hash.
        preimage: Hash32,
        /// What others on the way took, millisatoshi.
        fee_msat: u64,
    },
}

impl Outgoing {
    /// Whether another contract may take its place: whatever the node may still tell of
    /// this hash, it has not sent anything for it.
    pub const fn is_unsent(&self) -> bool {
        matches!(self.state, OutgoingState::Failed { unsent: true, .. })
    }

    /// Whether nothing will happen to it any more.
    pub const fn is_over(&self) -> bool {
        matches!(
            self.state,
            OutgoingState::Paid { .. } | OutgoingState::Failed { .. } | OutgoingState::Lost { .. }
        )
    }
}

/// An invoice of this gateway for a federation's user, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Incoming {
    /// Its place in the payment log; none while nobody has paid it.
    pub number: Option<u64>,
    /// Whose user is paid.
    pub federation: FederationId,
    /// BOLT 11; empty until the node has made it.
    pub invoice: String,
    /// What the payer pays, millisatoshi.
    pub amount_msat: u64,
    /// What the user gets of it, millisatoshi.
    pub contract_msat: u64,
    /// What the module knows of it.
    pub offer: Vec<u8>,
    /// When the invoice ends, seconds since 1970.
    pub expires: u64,
    /// Whether the payer came through this gateway too.
    pub swap: bool,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970.
    pub updated: u64,
    /// How it stands.
    pub state: IncomingState,
}

/// How a payment in stands.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum IncomingState {
    /// Nobody has paid it.
    Waiting,
    /// Somebody pays over Lightning; the node holds it.
    Held {
        /// What is there, millisatoshi.
        received_msat: u64,
        /// At this block the node gives it back.
        deadline: u32,
    },
    /// Somebody pays through this gateway: no node is needed.
    Swap {
        /// The payer's federation.
        payer: FederationId,
        /// What the payer's contract brings, millisatoshi.
        received_msat: u64,
        /// At this block that contract may be refunded.
        deadline: u32,
    },
    /// The preimage is known; the node is told to settle.
    Settling {
        /// Of the payment's hash.
        preimage: Hash32,
        /// At this block the node can settle no more.
        deadline: u32,
    },
    /// It is settled.
    Settled {
        /// Of the payment's hash.
        preimage: Hash32,
    },
    /// The node is told to give it back.
    Failing {
        /// Why.
        reason: String,
    },
    /// It was given back.
    Failed {
        /// Why.
        reason: String,
    },
    /// The user has been paid and the node could not settle any more.
    Lost {
        /// Of the payment's hash.
        preimage: Hash32,
    },
}

impl Incoming {
    /// Whether something is under way.
    pub const fn is_under_way(&self) -> bool {
        matches!(
            self.state,
            IncomingState::Held { .. }
                | IncomingState::Swap { .. }
                | IncomingState::Settling { .. }
                | IncomingState::Failing { .. }
        )
    }
}

/// One line of the payment log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logged {
    /// A payment out.
    Outgoing(Hash32, Outgoing),
    /// A payment in.
    Incoming(Hash32, Incoming),
}

impl Logged {
    /// Its place in the log.
    pub fn number(&self) -> u64 {
        match self {
            Self::Outgoing(_, row) => row.number,
            Self::Incoming(_, row) => row.number.unwrap_or(0),
        }
    }
}

/// What the solvency ledger remembers of the gateway's own money, or of that in one
/// federation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Book {
    /// The most that was ever there since the operator last looked, less what was taken
    /// out since, millisatoshi: see `ledger` for what counts. None before anything was
    /// counted.
    pub highest_msat: Option<i128>,
    /// What was given for a federation's users since then, less what came back for them,
    /// millisatoshi; always 0 of the gateway's own.
    pub net_msat: i128,
    /// Whether nothing new is begun.
    pub halted: bool,
}

/// See the module.
pub struct Journal {
    db: DB,
    /// Rows are read and written back: one at a time.
    writing: Mutex<u64>,
    writes: AtomicU64,
    crash_after: Option<u64>,
    /// So many writes succeed; then the disk is dead.
    #[cfg(test)]
    pub(crate) lives: AtomicU64,
}

/// Writes that are made together.
#[derive(Default)]
struct Batch {
    writes: WriteBatch,
    /// Whether a payment's or an invoice's row is among them.
    of_payment: bool,
}

impl Batch {
    fn put(&mut self, key: impl AsRef<[u8]>, value: &impl BorshSerialize) -> Result<()> {
        self.writes.put(key, borsh::to_vec(value)?);
        Ok(())
    }

    fn mark(&mut self, key: impl AsRef<[u8]>, there: bool) {
        match there {
            true => self.writes.put(key, b""),
            false => self.writes.delete(key),
        }
    }

    fn outgoing(&mut self, hash: Hash32, row: &Outgoing) -> Result<()> {
        self.of_payment = true;
        self.put(key(b"o", hash), row)?;
        self.mark(key(b"uo", hash), !row.is_over());
        Ok(())
    }

    fn incoming(&mut self, hash: Hash32, row: &Incoming) -> Result<()> {
        self.of_payment = true;
        self.put(key(b"i", hash), row)?;
        self.mark(key(b"ui", hash), row.is_under_way());
        let waits = row.state == IncomingState::Waiting;
        self.mark(waiting_key(row.expires, hash), waits);
        Ok(())
    }

    fn logged(&mut self, number: u64, direction: &[u8], hash: Hash32) {
        self.writes
            .put(log_key(number), [direction, &hash.0].concat());
    }

    /// A row whose place another takes: the log alone remembers it.
    fn past(&mut self, hash: Hash32, row: &Outgoing) -> Result<()> {
        let value = [&b"p"[..], &hash.0, &borsh::to_vec(row)?].concat();
        self.writes.put(log_key(row.number), value);
        Ok(())
    }
}

fn log_key(number: u64) -> Vec<u8> {
    [b"l", &number.to_be_bytes()[..]].concat()
}

fn key(prefix: &[u8], hash: Hash32) -> Vec<u8> {
    [prefix, &hash.0].concat()
}

fn given_key(federation: &FederationId) -> Vec<u8> {
    [b"g", &federation.0[..]].concat()
}

fn book_key(federation: Option<&FederationId>) -> Vec<u8> {
    let name = federation.map_or(&[][..], |federation| &federation.0);
    [b"b", name].concat()
}

fn waiting_key(expires: u64, hash: Hash32) -> Vec<u8> {
    [b"w", &expires.to_be_bytes()[..], &hash.0].concat()
}

fn hash_at(bytes: &[u8], from: usize) -> Result<Hash32> {
    let bytes = bytes.get(from..).context("a key of the journal is short")?;
    Ok(Hash32(
        bytes
            .try_into()
            .context("a key of the journal is of another length")?,
    ))
}

impl Journal {
    /// Opens it, made if there is none.
    ///
    /// # Errors
    /// The folder cannot be used, or another process has it.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_max_open_files(64);
        options.set_keep_log_file_num(2);
        options.set_write_buffer_size(8 << 20);
        deletions::compact(&mut options);
        let unopened = || format!("the journal {} cannot be opened", folder.display());
        let db = DB::open(&options, folder).with_context(unopened)?;
        db.set_options(&deletions::FLUSH).with_context(unopened)?;
        let crash_after = std::env::var(CRASH_VARIABLE)
            .ok()
            .map(|n| {
                n.parse()
                    .with_context(|| format!("{CRASH_VARIABLE} is {n:?}; a number is expected"))
            })
            .transpose()?;
        let journal = Self {
            db,
            writing: Mutex::new(0),
            writes: AtomicU64::new(0),
            crash_after,
            #[cfg(test)]
            lives: AtomicU64::new(u64::MAX),
        };
        let last = journal.list(b"l", true, 1)?;
        let last = last.first().map_or(Ok(0), |(key, _)| number_of(key))?;
        *journal.writing.lock() = last;
        Ok(journal)
    }

    fn read<T: BorshDeserialize>(&self, key: &[u8]) -> Result<Option<T>> {
        let bytes = self.db.get(key).context("the journal cannot be read")?;
        bytes
            .map(|bytes| borsh::from_slice(&bytes).context("a row of the journal is damaged"))
            .transpose()
    }

    fn list(&self, prefix: &[u8], newest: bool, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut end = prefix.to_vec();
        // No prefix ends with the highest byte.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        self.range(prefix, &end, newest, limit)
    }

    fn range(
        &self,
        from: &[u8],
        end: &[u8],
        newest: bool,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(end);
        let mode = match newest {
            true => IteratorMode::End,
            false => IteratorMode::From(from, Direction::Forward),
        };
        self.db
            .iterator_opt(mode, options)
            .take(limit)
            .map(|entry| {
                let (key, value) = entry.context("the journal cannot be read")?;
                Ok((key.into_vec(), value.into_vec()))
            })
            .collect()
    }

    fn write(&self, Batch { writes, of_payment }: Batch) -> Result<()> {
        #[cfg(test)]
        self.lives
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .map_err(|_| anyhow::anyhow!("the disk is dead"))?;
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db
            .write_opt(writes, &options)
            .context("the journal cannot be written")?;
        if of_payment {
            let count = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
            if self.crash_after == Some(count) {
                eprintln!("{CRASH_VARIABLE}: ending behind write {count}");
                std::process::abort();
            }
        }
        Ok(())
    }

    /// A federation, whether it is served or was left.
    ///
    /// # Errors
    /// The disk fails; so everywhere here.
    pub fn membership(&self, federation: &FederationId) -> Result<Option<Membership>> {
        self.read(&[b"f", &federation.0[..]].concat())
    }

    /// Writes a federation.
    ///
    /// # Errors
    /// The disk fails.
    pub fn put_membership(&self, federation: &FederationId, row: &Membership) -> Result<()> {
        let mut batch = Batch::default();
        batch.put([b"f", &federation.0[..]].concat(), row)?;
        self.write(batch)
    }

    /// A payment out.
    ///
    /// # Errors
    /// The disk fails.
    pub fn outgoing(&self, hash: Hash32) -> Result<Option<Outgoing>> {
        self.read(&key(b"o", hash))
    }

    /// An invoice, and what came of it.
    ///
    /// # Errors
    /// The disk fails.
    pub fn incoming(&self, hash: Hash32) -> Result<Option<Incoming>> {
        self.read(&key(b"i", hash))
    }

    /// Writes a payment out that begins, with its place in the log; where it is a swap,
    /// the invoice's row becomes `swap` in the same write. A row that was never sent
    /// ([`Outgoing::is_unsent`]) gives its place up, and stays in the log.
    ///
    /// # Errors
    /// The disk fails, or there is a row that keeps its place.
    pub fn begin_outgoing(
        &self,
        hash: Hash32,
        mut row: Outgoing,
        swap: Option<Incoming>,
    ) -> Result<Outgoing> {
        let mut last = self.writing.lock();
        let mut batch = Batch::default();
        if let Some(former) = self.outgoing(hash)? {
            ensure!(former.is_unsent(), "there is a payment out of {hash}");
            batch.past(hash, &former)?;
        }
        row.number = *last + 1;
        batch.logged(row.number, b"o", hash);
        batch.outgoing(hash, &row)?;
        let mut used = row.number;
        if let Some(mut swap) = swap {
            used += 1;
            swap.number = Some(used);
            batch.logged(used, b"i", hash);
            batch.incoming(hash, &swap)?;
        }
        self.write(batch)?;
        *last = used;
        Ok(row)
    }

    /// Changes a payment out, unless it is over: what is over stays. Returns the row as
    /// it is then.
    ///
    /// # Errors
    /// The disk fails, or there is no such row.
    pub fn update_outgoing(&self, hash: Hash32, state: OutgoingState) -> Result<Outgoing> {
        self.change_outgoing(hash, |row| (!row.is_over()).then_some(state))
    }

    /// The node says that a payment out has failed: that ends it, unless it has been tried
    /// more than once. Returns the row as it is then.
    ///
    /// # Errors
    /// The disk fails, or there is no such row.
    pub fn fail_outgoing(&self, hash: Hash32, reason: &str) -> Result<Outgoing> {
        self.change_outgoing(hash, |row| match row.state {
            OutgoingState::Started { .. } => Some(OutgoingState::Failed {
                reason: reason.to_owned(),
                unsent: false,
            }),
            _ => None,
        })
    }

    /// The node says that a payment out has arrived: that is so, whatever was believed
    /// before. Returns the row as it is then.
    ///
    /// # Errors
    /// The disk fails, or there is no such row.
    pub fn pay_outgoing(&self, hash: Hash32, preimage: Hash32, fee_msat: u64) -> Result<Outgoing> {
        self.change_outgoing(hash, |row| match row.state {
            OutgoingState::Failed { .. } => Some(OutgoingState::Lost { preimage, fee_msat }),
            OutgoingState::Paid { .. } | OutgoingState::Lost { .. } => None,
            _ => Some(OutgoingState::Paid { preimage, fee_msat }),
        })
    }

    fn change_outgoing(
        &self,
        hash: Hash32,
        change: impl FnOnce(&Outgoing) -> Option<OutgoingState>,
    ) -> Result<Outgoing> {
        let _one = self.writing.lock();
        let mut row = self
            .outgoing(hash)?
            .context("no payment out of this hash")?;
        if let Some(state) = change(&row).filter(|state| row.state != *state) {
            row.state = state;
            row.updated = now();
            let mut batch = Batch::default();
            batch.outgoing(hash, &row)?;
            if let OutgoingState::Paid { fee_msat, .. } | OutgoingState::Lost { fee_msat, .. } =
                row.state
            {
                let paid = row.amount_msat.saturating_add(fee_msat);
                let given = self.given_msat(&row.federation)?.saturating_add(paid);
                batch.put(given_key(&row.federation), &given)?;
                self.moved(&mut batch, &row.federation, i128::from(paid))?;
            }
            self.write(batch)?;
        }
        Ok(row)
    }

    /// So much more was given for a federation's users.
    fn moved(&self, batch: &mut Batch, federation: &FederationId, msat: i128) -> Result<()> {
        let mut book = self.book(Some(federation))?;
        book.net_msat = book.net_msat.saturating_add(msat);
        batch.put(book_key(Some(federation)), &book)
    }

    /// Writes a new invoice's row. False if the hash has been seen.
    ///
    /// # Errors
    /// The disk fails.
    pub fn begin_incoming(&self, hash: Hash32, row: &Incoming) -> Result<bool> {
        let _one = self.writing.lock();
        if self.incoming(hash)?.is_some() || self.outgoing(hash)?.is_some() {
            return Ok(false);
        }
        let mut batch = Batch::default();
        batch.incoming(hash, row)?;
        self.write(batch)?;
        Ok(true)
    }

    /// Changes an invoice's row as `change` says, from what it is; `None` leaves it.
    /// Returns the row as it is then, none if there is none.
    ///
    /// # Errors
    /// The disk fails.
    pub fn update_incoming(
        &self,
        hash: Hash32,
        change: impl FnOnce(&Incoming) -> Option<IncomingState>,
    ) -> Result<Option<Incoming>> {
        let mut last = self.writing.lock();
        let Some(mut row) = self.incoming(hash)? else {
            return Ok(None);
        };
        if let Some(state) = change(&row) {
            row.state = state;
            row.updated = now();
            let mut batch = Batch::default();
            if row.number.is_none() && row.is_under_way() {
                row.number = Some(*last + 1);
                batch.logged(*last + 1, b"i", hash);
            }
            batch.incoming(hash, &row)?;
            if let IncomingState::Settled { .. } = row.state {
                let given = self.given_msat(&row.federation)?;
                let given = given.saturating_sub(row.amount_msat);
                batch.put(given_key(&row.federation), &given)?;
                self.moved(&mut batch, &row.federation, -i128::from(row.amount_msat))?;
            }
            self.write(batch)?;
            *last = row.number.unwrap_or(0).max(*last);
        }
        Ok(Some(row))
    }

    /// Writes the text of an invoice whose row is there.
    ///
    /// # Errors
    /// The disk fails, or there is no such row.
    pub fn put_invoice(&self, hash: Hash32, invoice: &str, expires: u64) -> Result<()> {
        let _one = self.writing.lock();
        let mut row = self.incoming(hash)?.context("no invoice of this hash")?;
        let mut batch = Batch::default();
        batch.mark(waiting_key(row.expires, hash), false);
        (row.invoice, row.expires) = (invoice.to_owned(), expires);
        batch.incoming(hash, &row)?;
        self.write(batch)
    }

    /// How many invoices may still be paid at `now`, seconds since 1970, by somebody who
    /// has not begun to; `limit` at most.
    ///
    /// # Errors
    /// The disk fails.
    pub fn waiting(&self, now: u64, limit: usize) -> Result<usize> {
        let from = [b"w", &now.to_be_bytes()[..]].concat();
        Ok(self.range(&from, b"x", false, limit)?.len())
    }

    /// How many invoices of a federation may still be paid at `now`, seconds since 1970.
    ///
    /// # Errors
    /// The disk fails.
    pub fn waiting_of(&self, federation: &FederationId, now: u64) -> Result<usize> {
        let from = [b"w", &now.to_be_bytes()[..]].concat();
        let mut count = 0;
        for (key, _) in self.range(&from, b"x", false, usize::MAX)? {
            let row = self.incoming(hash_at(&key, 9)?)?;
            count += usize::from(row.is_some_and(|row| row.federation == *federation));
        }
        Ok(count)
    }

    /// Payments out that are not over.
    ///
    /// # Errors
    /// The disk fails.
    pub fn unfinished_outgoing(&self) -> Result<Vec<(Hash32, Outgoing)>> {
        let keys = self.list(b"uo", false, usize::MAX)?;
        let rows = keys.iter().map(|(key, _)| {
            let hash = hash_at(key, 2)?;
            let row = self.outgoing(hash)?.context("an unfinished row is gone")?;
            Ok((hash, row))
        });
        rows.collect()
    }

    /// Payments in that are under way.
    ///
    /// # Errors
    /// The disk fails.
    pub fn unfinished_incoming(&self) -> Result<Vec<(Hash32, Incoming)>> {
        let keys = self.list(b"ui", false, usize::MAX)?;
        let rows = keys.iter().map(|(key, _)| {
            let hash = hash_at(key, 2)?;
            let row = self.incoming(hash)?.context("an unfinished row is gone")?;
            Ok((hash, row))
        });
        rows.collect()
    }

    /// Forgets invoices that nobody has paid and that ended before `before`, seconds
    /// since 1970. Returns their hashes.
    ///
    /// # Errors
    /// The disk fails.
    pub fn prune(&self, before: u64) -> Result<Vec<Hash32>> {
        let _one = self.writing.lock();
        let end = [b"w", &before.to_be_bytes()[..]].concat();
        let ended = self.range(b"w", &end, false, 10_000)?;
        if ended.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = Batch::default();
        let mut hashes = Vec::new();
        for (waiting, _) in &ended {
            let hash = hash_at(waiting, 9)?;
            batch.writes.delete(waiting);
            batch.writes.delete(key(b"i", hash));
            hashes.push(hash);
        }
        self.write(batch)?;
        Ok(hashes)
    }

    /// The payment log, newest first, from below `before`.
    ///
    /// # Errors
    /// The disk fails.
    pub fn log(&self, before: Option<u64>, limit: usize) -> Result<Vec<Logged>> {
        let end = [b"l", &before.unwrap_or(u64::MAX).to_be_bytes()[..]].concat();
        let entries = self.range(b"l", &end, true, limit)?;
        let rows = entries.iter().map(|(_, value)| {
            let hash = hash_at(value.get(..33).unwrap_or(value), 1)?;
            Ok(match value.first() {
                Some(b'o') => {
                    Logged::Outgoing(hash, self.outgoing(hash)?.context("a logged row is gone")?)
                }
                Some(b'p') => {
                    let row = value.get(33..).unwrap_or_default();
                    let row = borsh::from_slice(row).context("a logged row is damaged")?;
                    Logged::Outgoing(hash, row)
                }
                _ => Logged::Incoming(hash, self.incoming(hash)?.context("a logged row is gone")?),
            })
        });
        rows.collect()
    }

    /// What the gateway has given for a federation's users, over Lightning or in another
    /// federation, and has not had back in the same ways, millisatoshi; never less than
    /// nothing. An honest federation has given e-cash for it, so its balance is as much
    /// at least; this does not take its word.
    ///
    /// # Errors
    /// The disk fails.
    pub fn given_msat(&self, federation: &FederationId) -> Result<u64> {
        Ok(self.read(&given_key(federation))?.unwrap_or(0))
    }

    /// The operator has taken so much out of a federation.
    ///
    /// # Errors
    /// The disk fails.
    pub fn taken_from(&self, federation: &FederationId, msat: u64) -> Result<()> {
        let _one = self.writing.lock();
        let given = self.given_msat(federation)?.saturating_sub(msat);
        let mut batch = Batch::default();
        batch.put(given_key(federation), &given)?;
        let mut book = self.book(Some(federation))?;
        book.highest_msat = book.highest_msat.map(|most| most - i128::from(msat));
        batch.put(book_key(Some(federation)), &book)?;
        self.write(batch)
    }

    /// What there is now is right: the books and what was given begin anew.
    ///
    /// # Errors
    /// The disk fails.
    pub fn accept(&self) -> Result<()> {
        let _one = self.writing.lock();
        let mut batch = Batch::default();
        for prefix in [b"s", b"g", b"b"] {
            for (key, _) in self.list(prefix, false, usize::MAX)? {
                batch.writes.delete(key);
            }
        }
        self.write(batch)
    }

    /// A federation's book, or the gateway's own.
    ///
    /// # Errors
    /// The disk fails.
    pub fn book(&self, federation: Option<&FederationId>) -> Result<Book> {
        if let Some(book) = self.read(&book_key(federation))? {
            return Ok(book);
        }
        // An older version had one mark for everything: what it measured was another sum,
        // and that it had halted still holds.
        let halted = match federation {
            None => self
                .read::<(u64, bool)>(b"s")?
                .is_some_and(|(_, halted)| halted),
            Some(_) => false,
        };
        Ok(Book {
            halted,
            ..Book::default()
        })
    }

    /// The books of all federations that have one.
    ///
    /// # Errors
    /// The disk fails.
    pub fn books(&self) -> Result<BTreeMap<FederationId, Book>> {
        let mut books = BTreeMap::new();
        for (key, value) in self.list(b"b", false, usize::MAX)? {
            // The gateway's own has no name.
            if key.len() > 1 {
                let book = borsh::from_slice(&value).context("a book of the journal is damaged")?;
                books.insert(FederationId(hash_at(&key, 1)?.0), book);
            }
        }
        Ok(books)
    }

    /// Changes a book as `change` says. Returns it as it is then.
    ///
    /// # Errors
    /// The disk fails.
    pub fn update_book(
        &self,
        federation: Option<&FederationId>,
        change: impl FnOnce(&mut Book),
    ) -> Result<Book> {
        let _one = self.writing.lock();
        let before = self.book(federation)?;
        let mut book = before;
        change(&mut book);
        if book != before {
            let mut batch = Batch::default();
            batch.put(book_key(federation), &book)?;
            self.write(batch)?;
        }
        Ok(book)
    }
}

fn number_of(key: &[u8]) -> Result<u64> {
    let bytes = key.get(1..).context("a key of the journal is short")?;
    Ok(u64::from_be_bytes(
        bytes
            .try_into()
            .context("a key of the journal is of another length")?,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    use super::*;

    pub(crate) fn invoice(federation: u8, expires: u64) -> Incoming {
        Incoming {
            number: None,
            federation: FederationId([federation; 32]),
            invoice: "lnbcrt".into(),
            amount_msat: 1000,
            contract_msat: 900,
            offer: vec![1],
            expires,
            swap: false,
            created: 1,
            updated: 1,
            state: IncomingState::Waiting,
        }
    }

    fn payment() -> Outgoing {
        Outgoing {
            number: 0,
            federation: FederationId([1; 32]),
            contract: Hash32([6; 32]),
            invoice: "lnbcrt".into(),
            amount_msat: 1000,
            maximum_fee_msat: 10,
            latest_height: 100,
            swap: false,
            created: 1,
            updated: 1,
            state: OutgoingState::Started { uncertain: false },
        }
    }

    const HASH: Hash32 = Hash32([7; 32]);

    #[test]
    fn what_is_over_stays_as_it_is_and_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        {
            let journal = Journal::open(folder.path()).unwrap();
            journal.begin_outgoing(HASH, payment(), None).unwrap();
            assert_eq!(journal.unfinished_outgoing().unwrap().len(), 1);
            let paid = OutgoingState::Paid {
                preimage: HASH,
                fee_msat: 1,
            };
            journal.update_outgoing(HASH, paid.clone()).unwrap();
            let late = OutgoingState::Failed {
                reason: "late".into(),
                unsent: false,
            };
            assert_eq!(journal.update_outgoing(HASH, late).unwrap().state, paid);
        }
        let journal = Journal::open(folder.path()).unwrap();
        assert!(journal.outgoing(HASH).unwrap().unwrap().is_over());
        assert!(journal.unfinished_outgoing().unwrap().is_empty());
        let other = Hash32([8; 32]);
        let begun = journal.begin_outgoing(other, payment(), None).unwrap();
        assert_eq!(begun.number, 2, "numbers go on");
    }

    #[test]
    fn what_was_never_sent_gives_its_place_up_and_stays_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let failed = |unsent| OutgoingState::Failed {
            reason: "no route".into(),
            unsent,
        };
        journal.begin_outgoing(HASH, payment(), None).unwrap();
        assert!(journal.begin_outgoing(HASH, payment(), None).is_err());
        journal.update_outgoing(HASH, failed(true)).unwrap();
        let other = Outgoing {
            contract: Hash32([9; 32]),
            ..payment()
        };
        let begun = journal.begin_outgoing(HASH, other, None).unwrap();
        assert_eq!(begun.number, 2);
        assert_eq!(journal.unfinished_outgoing().unwrap().len(), 1);
        let log: Vec<_> = journal.log(None, 10).unwrap();
        let contracts: Vec<_> = log
            .iter()
            .map(|logged| match logged {
                Logged::Outgoing(hash, row) => (*hash, row.contract.0[0], row.number),
                Logged::Incoming(..) => panic!("nothing came in"),
            })
            .collect();
        assert_eq!(contracts, [(HASH, 9, 2), (HASH, 6, 1)]);
        // What was sent keeps its place for ever.
        journal.update_outgoing(HASH, failed(false)).unwrap();
        assert!(journal.begin_outgoing(HASH, payment(), None).is_err());
    }

    #[test]
    fn what_was_given_counts_until_it_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let federation = payment().federation;
        let given = || journal.given_msat(&federation).unwrap();
        journal.begin_outgoing(HASH, payment(), None).unwrap();
        let paid = OutgoingState::Paid {
            preimage: HASH,
            fee_msat: 7,
        };
        for _ in 0..2 {
            journal.update_outgoing(HASH, paid.clone()).unwrap();
            assert_eq!(given(), 1007);
        }
        let other = Hash32([8; 32]);
        journal.begin_incoming(other, &invoice(1, 50)).unwrap();
        let settled = |row: &Incoming| match row.state {
            IncomingState::Settled { .. } => None,
            _ => Some(IncomingState::Settled { preimage: HASH }),
        };
        for _ in 0..2 {
            journal.update_incoming(other, settled).unwrap();
            assert_eq!(given(), 7);
        }
        journal.taken_from(&federation, 3).unwrap();
        assert_eq!(given(), 4);
        // It never becomes a credit, with which more could be lost.
        journal.taken_from(&federation, 100).unwrap();
        assert_eq!(given(), 0);
    }

    #[test]
    fn a_hash_is_used_once() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert!(journal.begin_incoming(HASH, &invoice(1, 50)).unwrap());
        assert!(!journal.begin_incoming(HASH, &invoice(2, 50)).unwrap());
        let other = Hash32([8; 32]);
        journal.begin_outgoing(other, payment(), None).unwrap();
        assert!(!journal.begin_incoming(other, &invoice(1, 50)).unwrap());
    }

    #[test]
    fn the_log_has_what_was_paid_newest_first_and_goes_on_at_a_cursor() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        for n in 0..5_u8 {
            let hash = Hash32([n; 32]);
            if n % 2 == 0 {
                journal.begin_outgoing(hash, payment(), None).unwrap();
            } else {
                journal.begin_incoming(hash, &invoice(1, 50)).unwrap();
                let held = |_: &Incoming| {
                    Some(IncomingState::Held {
                        received_msat: 1000,
                        deadline: 9,
                    })
                };
                journal.update_incoming(hash, held).unwrap();
            }
        }
        journal
            .begin_incoming(Hash32([9; 32]), &invoice(1, 50))
            .unwrap();
        let first = journal.log(None, 2).unwrap();
        let numbers: Vec<_> = first.iter().map(Logged::number).collect();
        assert_eq!(numbers, [5, 4]);
        let rest = journal.log(Some(4), 10).unwrap();
        assert_eq!(
            rest.iter().map(Logged::number).collect::<Vec<_>>(),
            [3, 2, 1]
        );
    }

    #[test]
    fn invoices_that_nobody_paid_are_forgotten_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        for (n, expires) in [(1, 10), (2, 20), (3, 10)] {
            journal
                .begin_incoming(Hash32([n; 32]), &invoice(1, expires))
                .unwrap();
        }
        let failing = |_: &Incoming| {
            Some(IncomingState::Failing {
                reason: "late".into(),
            })
        };
        journal.update_incoming(Hash32([3; 32]), failing).unwrap();
        assert_eq!(journal.prune(20).unwrap(), [Hash32([1; 32])]);
        let there = [1, 2, 3].map(|n| journal.incoming(Hash32([n; 32])).unwrap().is_some());
        assert_eq!(there, [false, true, true]);
        assert_eq!(journal.unfinished_incoming().unwrap().len(), 1);
    }

    #[test]
    fn the_largest_contract_is_the_largest_that_its_fee_allows() {
        for (base, parts) in [(0, 0), (0, 1_000), (7, 1), (1_000, 999_983), (5, u64::MAX)] {
            let terms = Terms {
                receive_base_msat: base,
                receive_parts_per_million: parts,
                ..Terms::default()
            };
            for received in [0, 1, 6, 8, 1_000, 999_999, 1_000_001, 123_456_789_012] {
                let largest = terms.largest_contract(received);
                let costs = |contract| terms.receive_fee(contract) + contract;
                assert!(largest == 0 || costs(largest) <= received, "{largest}");
                if parts < u64::MAX {
                    assert!(costs(largest + 1) > received, "{largest} of {received}");
                }
            }
        }
    }

    #[test]
    fn terms_cover_a_base_fee_of_the_gateways_own_transactions() {
        let terms = Terms::default();
        assert_eq!(terms.covering(BaseFee::default()), terms);
        let dear = terms.covering(BaseFee {
            msat_per_kilobyte: 100_000,
        });
        assert_eq!(dear.pay_base_msat, terms.pay_base_msat + 300_000);
        assert_eq!(dear.receive_base_msat, terms.receive_base_msat + 300_000);
        assert_eq!(dear.pay_parts_per_million, terms.pay_parts_per_million);
    }

    #[test]
    fn fees_are_rounded_up_and_never_overflow() {
        let terms = Terms {
            pay_base_msat: 10,
            pay_parts_per_million: 1,
            ..Terms::default()
        };
        assert_eq!(terms.pay_fee(0), 10);
        assert_eq!(terms.pay_fee(1), 11);
        assert_eq!(terms.pay_fee(1_000_000), 11);
        assert_eq!(terms.pay_fee(1_000_001), 12);
        assert_eq!(fee(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    }
}
