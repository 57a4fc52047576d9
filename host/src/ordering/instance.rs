//! One session's AlephBFT instance, and what surrounds it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use aleph_bft::{
    Config, DataProvider, DelayConfig, LocalIO, Network, NodeCount, NodeIndex, OrderedUnit,
    Recipient, SpawnHandle, TaskHandle, Terminator, UnitFinalizationHandler, create_config,
    exponential_slowdown, run_session,
};
use async_trait::async_trait;
use futures::{FutureExt, channel::oneshot, io::Cursor};
use modmint_core::{PeerId, config::SessionLimits, consensus, max_faulty, threshold};
use parity_scale_codec::{Decode as _, DecodeAll, Encode};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{debug, error, info, warn};

use super::{
    Context, Epoch, MAX_EPOCH_BYTES, MAX_PAYLOAD_BYTES,
    catch_up::{CatchUp, PART_BYTES},
    format::{
        AlephMessage, Alert, AlertMessage, Blake3, Coord, Filter, Message, Payload, Unit,
        UnitMessage, check_signatures,
    },
    keychain::{SessionKeychain, Signature},
    log::{self, LogId, Reader},
};
use crate::p2p::{MAX_FRAME_BYTES, PeerMessage};

/// The pause between two of a guardian's units.
const CREATION_DELAY_MS: f64 = 5.0;
/// Rounds that a session may take beyond the epochs it is to have.
const SPARE_ROUNDS: u32 = 1000;
/// The most epochs that a session may have: an alert about a guardian that forks holds all
/// units that it has made in the session, and is one message. A unit has beside its payload
/// 35 bytes for each guardian and some 150 more.
pub const MAX_SESSION_EPOCHS: u32 = 2400;
const MAX_UNIT_OVERHEAD: usize = 35 * 40 + 200;
const _: () = assert!(
    (MAX_SESSION_EPOCHS + SPARE_ROUNDS) as usize * (MAX_PAYLOAD_BYTES + MAX_UNIT_OVERHEAD)
        < MAX_FRAME_BYTES
);
/// How fast rounds slow down when a session is longer than it should be.
const SLOWDOWN: f64 = 1.005;
/// How many rounds a unit's payload keeps us awake; by then it is final, or its
/// maker's unit is nobody's parent.
const UNDECIDED_ROUNDS: u16 = 64;
/// Alerts about one guardian's forks that are taken of another. AlephBFT keeps all that it
/// is given, and who is honest makes one a start.
const MAX_ALERTS: usize = 4;
/// Messages that wait for an instance.
const INCOMING_CAPACITY: usize = 4096;
/// The least time between two starts of a peer's instance.
const START_INTERVAL: Duration = Duration::from_millis(100);
/// Others' rounds ahead of ours, without one of ours for [`MUTED_AFTER`], after
/// which it is said that our units no longer appear.
const MUTED_ROUNDS: u16 = 20;
const MUTED_AFTER: Duration = Duration::from_secs(10);
/// AlephBFT orders a unit at once when it has been read back from the log, but does
/// not say so.
const ORDERED_AFTER: Duration = Duration::from_millis(50);
/// Whose units of so long ago are the last that a threshold has built on makes empty ones
/// until it builds on those. Its peers may have gone, and what it has of them may be enough
/// for another unit or two, which would be ordered when they are back, in an epoch whose
/// agreed time is of before.
pub(super) const RESTED: Duration = Duration::from_secs(2);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_RESTART: Duration = Duration::from_millis(500);
const LAST_RESTART: Duration = Duration::from_secs(60);

/// What an instance is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The next session: it makes no units, and keeps its epochs to itself.
    Parked,
    /// The session that is being filled.
    Running,
    /// It has ended: its epochs are dropped, and it makes units only while
    /// somebody who is behind needs them.
    Ended,
}

/// A session's instance; it runs until [`Self::stop`].
pub(super) struct Instance {
    shared: Arc<Shared>,
    stop: watch::Sender<Stop>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    KeepLog,
    DeleteLog,
}

struct Shared {
    context: Arc<Context>,
    session: u64,
    max_round: u16,
    filter: Filter,
    keychain: SessionKeychain,
    /// The signatures of the alerts that were taken, by who alerts and who has forked.
    alerts: Mutex<HashMap<(u64, u64), HashSet<Signature>>>,
    log: LogId,
    delivery: Mutex<Delivery>,
    units: Mutex<Units>,
    catch_up: Mutex<CatchUp>,
    /// What may leave the machine of the log that is being written.
    reader: Mutex<Option<Reader>>,
    /// Who is being sent units from it.
    served: Mutex<HashSet<PeerId>>,
    /// To the AlephBFT that is running, if one is.
    incoming: Mutex<Option<mpsc::Sender<AlephMessage>>>,
    problem: Mutex<Option<String>>,
}

/// Where epochs go.
struct Delivery {
    mode: Mode,
    /// Kept while the instance is parked.
    held: Vec<Epoch>,
    /// The last epoch that came of the log.
    replayed: Option<(u64, u32)>,
}

/// What is known of the session's units.
struct Units {
    /// Each guardian's newest one: its round, and the message that carries it.
    tops: HashMap<u64, (u16, Vec<u8>)>,
    /// When this guardian's newest ones were made, by round.
    made: BTreeMap<u16, Instant>,
    /// When the newest of those was made that each other guardian has built on: it was
    /// there at that time, however late and from whom its unit comes.
    seen: HashMap<u64, Instant>,
    /// The end of the latest rest, until a threshold has built on a unit made since.
    rested: Option<Instant>,
    /// Those with payloads that are not final.
    undecided: BTreeSet<Coord>,
    progress: Instant,
    own_progress: Instant,
    /// The salt of each peer's latest start, and when it came.
    starts: HashMap<PeerId, (u64, Instant)>,
    /// Whether this instance follows without making units.
    observing: bool,
    /// How many of the units in the log at the start have not been read back yet,
    /// and when the last one was.
    unread: usize,
    last_read: Instant,
    /// Whether AlephBFT has asked for a unit's payload: it knows its own newest unit
    /// from n − f guardians then.
    asked: bool,
}

impl Instance {
    pub fn start(context: Arc<Context>, session: u64, mode: Mode) -> Self {
        let shared = Arc::new(Shared::new(context, session, mode));
        let stop = watch::Sender::new(Stop::No);
        let supervised = supervise(shared.clone(), stop.subscribe());
        let task = shared.context.runtime.spawn(supervised);
        Self { shared, stop, task }
    }

    pub fn mode(&self) -> Mode {
        self.shared.delivery.lock().mode
    }

    /// Makes a parked instance the running one.
    pub fn release(&self) {
        let mut delivery = self.shared.delivery.lock();
        delivery.mode = Mode::Running;
        for epoch in std::mem::take(&mut delivery.held) {
            self.shared.context.deliver(epoch);
        }
        drop(delivery);
        let mut units = self.shared.units.lock();
        units.progress = Instant::now();
        units.own_progress = Instant::now();
    }

    /// Drops epochs from now on.
    pub fn end(&self) {
        let mut delivery = self.shared.delivery.lock();
        delivery.mode = Mode::Ended;
        delivery.held.clear();
    }

    #[cfg(test)]
    pub fn parts_taken(&self) -> usize {
        self.shared.catch_up.lock().parts
    }

    #[cfg(test)]
    pub fn is_observing(&self) -> bool {
        self.shared.units.lock().observing
    }

    /// Where peers' messages go.
    pub fn inbox(&self) -> Inbox {
        Inbox(self.shared.clone())
    }

    /// Sends a peer all guardians' newest units, from which it learns what it
    /// missed while there was no connection.
    pub fn send_tops(&self, to: PeerId) {
        self.shared.send_tops(to);
    }

    /// Whether there are units whose payloads are undecided.
    pub fn has_undecided(&self) -> bool {
        self.shared.units.lock().has_undecided(self.shared.me())
    }

    /// See [`super::Ordering::replay`].
    pub fn replay(&self) -> Result<Option<(u64, u32)>, String> {
        let session = self.shared.session;
        let units = self.shared.units.lock();
        if units.unread > 0 {
            let unread = units.unread;
            return Err(format!(
                "session {session}: {unread} units of the log are still to be read"
            ));
        }
        if units.is_replaying() {
            return Err(format!(
                "session {session}: not enough guardians have said yet what they know of this one's units"
            ));
        }
        drop(units);
        Ok(self.shared.delivery.lock().replayed)
    }

    /// How long ago the last unit of anybody came.
    pub fn since_progress(&self) -> Duration {
        self.shared.units.lock().progress.elapsed()
    }

    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.shared.problem.lock().iter().cloned().collect();
        if self.mode() == Mode::Running && !self.shared.context.observes(self.shared.session) {
            problems.extend(self.shared.muted());
        }
        problems
    }

    /// Stops the instance.
    pub async fn stop(self, delete_log: bool) {
        let stop = if delete_log {
            Stop::DeleteLog
        } else {
            Stop::KeepLog
        };
        self.stop.send_replace(stop);
        if timeout(2 * STOP_TIMEOUT, self.task).await.is_err() {
            warn!(session = self.shared.session, "an instance does not stop");
        }
    }
}

/// Takes what peers say in one session.
pub(super) struct Inbox(Arc<Shared>);

impl Inbox {
    /// Takes bytes that a peer says are for this session.
    pub async fn receive(&self, from: PeerId, bytes: &[u8]) {
        let Some(message) = self.0.admit(from, bytes) else {
            return;
        };
        let incoming = self.0.incoming.lock().clone();
        if let Some(incoming) = incoming {
            // An error: this AlephBFT is just stopping.
            let _ = incoming.send(message).await;
        }
    }

    /// Answers a peer that is far behind with units that it lacks, one answer at a
    /// time.
    pub fn serve(&self, to: PeerId, from: u64, have: Vec<Option<u16>>) {
        let shared = self.0.clone();
        let Some(reader) = shared.reader.lock().clone() else {
            return;
        };
        if have.len() != shared.context.keys.count() || !shared.served.lock().insert(to) {
            return;
        }
        tokio::task::spawn_blocking(move || {
            let lacks = |coord: &Coord| {
                let newest = have.get(coord.creator as usize).copied().flatten();
                newest.is_none_or(|newest| coord.round > newest)
            };
            let session = shared.session;
            match reader.read(from, lacks, PART_BYTES) {
                Ok((units, next)) => shared.context.p2p.send(
                    to,
                    PeerMessage::Units {
                        session,
                        next,
                        units,
                    },
                ),
                Err(error) => debug!(session, peer = %to, %error, "no units for a peer"),
            }
            shared.served.lock().remove(&to);
        });
    }

    /// Takes units from a peer's log, as if it had sent each of them.
    pub async fn take(&self, from: PeerId, next: u64, units: Vec<Vec<u8>>) {
        let new = self.0.new_units(units);
        let last = new.last().map(|(coord, _)| *coord);
        if !self.0.catch_up.lock().take(from, next, last) {
            return;
        }
        let incoming = self.0.incoming.lock().clone();
        for (_, unit) in new {
            let Some(message) = self.0.admit(from, &Unit::message_bytes(&unit)) else {
                self.0.catch_up.lock().fail(from);
                return;
            };
            if let Some(incoming) = &incoming {
                // An error: this AlephBFT is just stopping.
                let _ = incoming.send(message).await;
            }
        }
        // It may have come another way before it was awaited.
        if let Some(last) = last
            && self.0.has(last)
        {
            self.0.go_on_behind(last);
        }
    }
}

/// Runs AlephBFT until told to stop. If it stops by itself (its log cannot be
/// written, peers know a unit of ours that the log lacks, or a bug) it is started
/// again from the log, as an observer that makes no units.
async fn supervise(shared: Arc<Shared>, mut stop: watch::Receiver<Stop>) {
    let session = shared.session;
    let mut pause = FIRST_RESTART;
    loop {
        let started = Instant::now();
        let ended = shared.run(&mut stop).await;
        *shared.incoming.lock() = None;
        if *stop.borrow() != Stop::No {
            break;
        }
        let reason = match ended {
            Ok(()) => "AlephBFT stopped by itself".to_string(),
            Err(error) => format!("the unit log cannot be used: {error}"),
        };
        error!(
            session,
            reason, "this guardian makes no more units in this session"
        );
        *shared.problem.lock() = Some(format!(
            "session {session}: {reason}; this guardian follows without making units"
        ));
        if started.elapsed() > LAST_RESTART {
            pause = FIRST_RESTART;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = told_to_stop(&mut stop) => break,
        }
        pause = (pause * 2).min(LAST_RESTART);
        shared.begin_observing();
    }
    if *stop.borrow() == Stop::DeleteLog {
        let log = shared.log.clone();
        let _ = tokio::task::spawn_blocking(move || log.delete()).await;
    }
}

async fn told_to_stop(stop: &mut watch::Receiver<Stop>) {
    let _ = stop.wait_for(|stop| *stop != Stop::No).await;
}

impl Shared {
    fn new(context: Arc<Context>, session: u64, mode: Mode) -> Self {
        let count = context.keys.count();
        let max_round = max_round(&context.limits);
        let now = Instant::now();
        Self {
            session,
            max_round,
            filter: Filter {
                me: context.me,
                count,
                session,
                max_round,
            },
            keychain: SessionKeychain::new(context.keys.clone(), session),
            alerts: Mutex::default(),
            log: LogId {
                directory: context.directory.clone(),
                tag: context.tag,
                session,
                me: context.me,
            },
            delivery: Mutex::new(Delivery {
                mode,
                held: Vec::new(),
                replayed: None,
            }),
            units: Mutex::new(Units {
                tops: HashMap::new(),
                made: BTreeMap::new(),
                seen: HashMap::new(),
                rested: None,
                undecided: BTreeSet::new(),
                progress: now,
                own_progress: now,
                starts: HashMap::new(),
                observing: context.observes(session),
                unread: 0,
                last_read: now,
                asked: false,
            }),
            catch_up: Mutex::default(),
            reader: Mutex::new(None),
            served: Mutex::default(),
            incoming: Mutex::new(None),
            problem: Mutex::new(None),
            context,
        }
    }

    fn me(&self) -> u64 {
        u64::from(self.context.me.0)
    }

    fn begin_observing(&self) {
        self.delivery.lock().held.clear();
        let mut units = self.units.lock();
        units.undecided.clear();
        units.observing = true;
    }

    /// One run of AlephBFT, from the log.
    async fn run(self: &Arc<Self>, stop: &mut watch::Receiver<Stop>) -> io::Result<()> {
        let (id, saving) = (self.log.clone(), self.clone());
        let opened = tokio::task::spawn_blocking(move || {
            log::open(id, move |unit, bytes| saving.saved(unit, bytes))
        });
        let (remembered, writer) = opened.await.map_err(io::Error::other)??;
        *self.reader.lock() = Some(writer.reader());
        {
            let mut units = self.units.lock();
            units.unread = remembered.count;
            units.last_read = Instant::now();
            units.asked = false;
        }

        let (incoming, receiver) = mpsc::channel(INCOMING_CAPACITY);
        *self.incoming.lock() = Some(incoming);
        let local = LocalIO::new_with_unit_finalization_handler(
            Payloads(self.clone()),
            Batches {
                shared: self.clone(),
                next: 0,
            },
            writer,
            Cursor::new(remembered.units),
        );
        let network = Wire {
            shared: self.clone(),
            receiver,
        };
        let keychain = self.keychain.clone();
        let (exit, terminator) = oneshot::channel();
        let terminator = Terminator::create_root(terminator, "session");
        let running = run_session(self.config(), local, network, keychain, Tasks, terminator);
        // A task of its own: a panic in it must not be one of this task.
        let mut running = tokio::spawn(running);
        tokio::select! {
            _ = &mut running => {}
            () = told_to_stop(stop) => {
                let _ = exit.send(());
                if timeout(STOP_TIMEOUT, &mut running).await.is_err() {
                    running.abort();
                }
            }
        }
        Ok(())
    }

    fn config(&self) -> Config {
        let limit = self.context.limits.epochs as usize;
        let others = max_faulty(self.context.keys.count()) + 1;
        let after = |millis: u64| Arc::new(move |_| Duration::from_millis(millis));
        let delays = DelayConfig {
            // How often each instance looks at requests that are due, also while all is
            // idle. They are for units that were lost with a connection: who lacks many
            // takes them from a peer's log.
            tick_interval: Duration::from_millis(100),
            // Newest units are sent with each new connection (`send_tops`); while
            // it stands nothing is lost.
            unit_rebroadcast_interval_min: Duration::from_secs(600),
            unit_rebroadcast_interval_max: Duration::from_secs(900),
            unit_creation_delay: Arc::new(move |round| {
                exponential_slowdown(round, CREATION_DELAY_MS, limit, SLOWDOWN)
            }),
            coord_request_delay: Arc::new(|attempt| {
                Duration::from_millis(if attempt == 0 { 10 } else { 500 })
            }),
            coord_request_recipients: Arc::new(move |_| others),
            parent_request_delay: after(200),
            parent_request_recipients: Arc::new(move |_| others),
            newest_request_delay: Arc::new(|attempt| {
                Duration::from_millis(if attempt < 50 { 200 } else { 1000 })
            }),
        };
        create_config(
            NodeCount(self.context.keys.count()),
            NodeIndex(self.context.me.index()),
            self.session,
            self.max_round,
            delays,
            Duration::ZERO,
        )
        .expect("no time is too short for a demand of none")
    }

    /// The message in a peer's bytes, if it may reach AlephBFT.
    fn admit(&self, from: PeerId, bytes: &[u8]) -> Option<AlephMessage> {
        let drop_peer = |reason: String| {
            let reason = format!("a message of session {}: {reason}", self.session);
            self.context.p2p.drop_peer(from, &reason);
        };
        let read = self.filter.read(from, bytes);
        let signed = |message| check_signatures(&message, &self.keychain).map(|()| message);
        let message = match read.and_then(signed) {
            Ok(message) => message,
            Err(reason) => {
                drop_peer(reason.to_string());
                return None;
            }
        };
        match message {
            Message::Alert(AlertMessage::Fork(alert)) if !self.take_alert(&alert) => {
                // Others may pass on what they have been told.
                if alert.sender == u64::from(from.0) {
                    drop_peer(format!("more than {MAX_ALERTS} alerts about one guardian"));
                }
                return None;
            }
            Message::Units(UnitMessage::Unit(unit)) => self.hear(from, unit.coord.round),
            Message::Units(UnitMessage::NewestRequest(_, salt)) => self.greet_start(from, salt),
            // Without answers AlephBFT never begins to make units.
            Message::Units(UnitMessage::NewestResponse(_)) if self.units.lock().observing => {
                return None;
            }
            _ => {}
        }
        let decoded = AlephMessage::decode_all(&mut &bytes[..]);
        if decoded.is_err() {
            error!("AlephBFT's format is not what this guardian was built for");
        }
        decoded.ok()
    }

    /// Whether an alert is one of the first of its maker about its forker.
    fn take_alert(&self, alert: &Alert) -> bool {
        let about = (alert.sender, alert.proof.0.coord.creator);
        let mut alerts = self.alerts.lock();
        let taken = alerts.entry(about).or_default();
        taken.contains(&alert.signature)
            || taken.len() < MAX_ALERTS && taken.insert(alert.signature)
    }

    /// A peer has sent a unit of this round: this guardian may be far behind.
    fn hear(&self, from: PeerId, round: u16) {
        let running = self.delivery.lock().mode == Mode::Running;
        let have = self.newest_rounds();
        let top = have.iter().flatten().max().copied().unwrap_or(0);
        let asked = {
            let mut catch_up = self.catch_up.lock();
            catch_up.hear(from, round);
            let faulty = max_faulty(self.context.keys.count());
            running.then(|| catch_up.begin(top, faulty)).flatten()
        };
        if let Some((peer, at)) = asked {
            info!(session = self.session, %peer, top, "far behind: taking units from a peer's log");
            self.request_units(peer, at, have);
        }
    }

    /// For each guardian the round of its newest unit in the log.
    fn newest_rounds(&self) -> Vec<Option<u16>> {
        let units = self.units.lock();
        let creators = 0..self.context.keys.count() as u64;
        let round = |creator| units.tops.get(&creator).map(|(round, _)| *round);
        creators.map(round).collect()
    }

    /// Whether this unit, or one behind it, is in the log.
    fn has(&self, coord: Coord) -> bool {
        let newest = self.newest_rounds().get(coord.creator as usize).copied();
        newest.flatten().is_some_and(|newest| newest >= coord.round)
    }

    fn request_units(&self, peer: PeerId, from: u64, have: Vec<Option<u16>>) {
        let session = self.session;
        let request = PeerMessage::RequestUnits {
            session,
            from,
            have,
        };
        self.context.p2p.send(peer, request);
    }

    /// Those of a peer's units that are not in the log.
    fn new_units(&self, units: Vec<Vec<u8>>) -> Vec<(Coord, Vec<u8>)> {
        units
            .into_iter()
            .filter_map(|unit| Some((Coord::decode(&mut unit.as_slice()).ok()?, unit)))
            .filter(|(coord, _)| !self.has(*coord))
            .collect()
    }

    /// A unit is in the log, ours durably.
    fn saved(&self, unit: &Unit, bytes: &[u8]) {
        let Coord { round, creator } = unit.coord;
        let mut units = self.units.lock();
        let now = Instant::now();
        units.progress = now;
        if units.unread > 0 {
            units.unread -= 1;
            units.last_read = now;
        } else if creator == self.me() {
            units.make(round, now);
        } else if let Some(Some(own)) = unit.parents.get(self.context.me.index()) {
            units.see(creator, *own);
        }
        if creator == self.me() {
            units.own_progress = now;
        }
        if units.tops.get(&creator).is_none_or(|(top, _)| *top < round) {
            let message = Unit::message_bytes(bytes);
            units.tops.insert(creator, (round, message));
        }
        if let Some(payload) = &unit.payload {
            units.undecided.insert(unit.coord);
            drop(units);
            if creator != self.me()
                && let Some(arrivals) = &self.context.arrivals
                && let Ok(creator) = u16::try_from(creator)
            {
                // Whoever has no room for it finds it out when the unit is final.
                let _ = arrivals.try_send(consensus::OrderedUnit {
                    creator: PeerId(creator),
                    payload: payload.0.to_vec(),
                });
            }
            self.context.work.notify_one();
            self.context.bell.notify_waiters();
        } else {
            drop(units);
        }
        self.go_on_behind(unit.coord);
    }

    /// Asks for the next part if this unit, which is in the log, was the last of one.
    fn go_on_behind(&self, coord: Coord) {
        let next = self.catch_up.lock().saved(coord);
        if let Some((peer, at)) = next {
            self.request_units(peer, at, self.newest_rounds());
        }
    }

    /// Sends a peer that starts the newest units. It repeats its requests with the
    /// same salt, and only the first is such a start.
    fn greet_start(&self, peer: PeerId, salt: u64) {
        let mut units = self.units.lock();
        let known = units.starts.get(&peer);
        if known.is_some_and(|(known, at)| *known == salt || at.elapsed() < START_INTERVAL) {
            return;
        }
        units.starts.insert(peer, (salt, Instant::now()));
        drop(units);
        self.send_tops(peer);
    }

    fn send_tops(&self, to: PeerId) {
        let units = self.units.lock();
        let tops: Vec<Vec<u8>> = units.tops.values().map(|(_, top)| top.clone()).collect();
        drop(units);
        for bytes in tops {
            let session = self.session;
            self.context
                .p2p
                .send(to, PeerMessage::Aleph { session, bytes });
        }
    }

    fn muted(&self) -> Option<String> {
        let units = self.units.lock();
        let top = |creator| units.tops.get(&creator).map_or(0, |(round, _)| *round);
        let own = top(self.me());
        let count = self.context.keys.count();
        let mut others: Vec<u16> = (0..count as u64).map(top).collect();
        others.sort_unstable();
        // At least f + 1 guardians have come so far.
        let theirs = others[count - 1 - max_faulty(count)];
        let muted = theirs.saturating_sub(own) >= MUTED_ROUNDS
            && units.own_progress.elapsed() >= MUTED_AFTER;
        muted.then(|| {
            format!(
                "session {}: this guardian's units no longer appear: its last is of round {own}, \
                 the others are at {theirs}",
                self.session
            )
        })
    }

    /// Whether the next unit is to be made at once, with nothing in it.
    fn awake(&self, mode: Mode) -> bool {
        match mode {
            Mode::Parked => false,
            Mode::Running => {
                self.context.payloads.has_work()
                    || self
                        .context
                        .leases
                        .any_fresh(|session| session >= self.session)
                    || self.units.lock().has_undecided(self.me())
            }
            Mode::Ended => self
                .context
                .leases
                .any_fresh(|session| session == self.session),
        }
    }

    /// Whether a threshold is there, as far as this guardian knows; it has waited for
    /// `rested` to make its next unit. Where rounds take longer than [`RESTED`] each unit
    /// that may carry something comes behind an empty one.
    fn is_in_touch(&self, rested: Duration) -> bool {
        let mut units = self.units.lock();
        let seen = units.seen_by(threshold(self.context.keys.count()) - 1);
        let is_old = |at: Instant| at.elapsed() >= RESTED;
        if rested >= RESTED || units.rested.is_none() && seen.is_none_or(is_old) {
            units.rested = Some(Instant::now());
        }
        let is_in_touch = units.rested.is_none_or(|rested| seen >= Some(rested));
        if is_in_touch {
            units.rested = None;
        }
        is_in_touch
    }

    /// What the next unit is to carry, if it is to be made now; it could have been made
    /// `rested` ago.
    fn next_payload(&self, rested: Duration) -> Option<Option<Payload>> {
        let mode = self.delivery.lock().mode;
        if mode == Mode::Running {
            if self.context.is_behind() {
                return None;
            }
            if !self.is_in_touch(rested) && self.context.payloads.has_work() {
                return Some(None);
            }
            if let Some(payload) = self.context.payloads.take(self.session, MAX_PAYLOAD_BYTES) {
                if payload.len() <= MAX_PAYLOAD_BYTES {
                    return Some(Some(Payload(Arc::new(payload))));
                }
                error!(
                    bytes = payload.len(),
                    "a payload is too long and was dropped"
                );
            }
        }
        self.awake(mode).then_some(None)
    }

    /// AlephBFT ends the session if its last possible unit is made.
    fn may_make_another(&self) -> bool {
        let units = self.units.lock();
        let own = units.tops.get(&self.me()).map_or(0, |(round, _)| *round);
        own + 2 < self.max_round
    }
}

impl Units {
    /// Whether epochs may still come of the log.
    fn is_replaying(&self) -> bool {
        let asked = self.asked || self.observing;
        self.unread > 0 || !asked || self.last_read.elapsed() < ORDERED_AFTER
    }

    /// This guardian has made a unit.
    fn make(&mut self, round: u16, now: Instant) {
        self.made.insert(round, now);
        if self.made.len() > usize::from(UNDECIDED_ROUNDS) {
            self.made.pop_first();
        }
    }

    /// Another one has built on this guardian's unit of a round.
    fn see(&mut self, creator: u64, own: u16) {
        if let Some(made) = self.made.get(&own) {
            let seen = self.seen.entry(creator).or_insert(*made);
            *seen = (*seen).max(*made);
        }
    }

    /// When the newest unit was made that so many others have built on, or on newer ones;
    /// none where they have not.
    fn seen_by(&self, others: usize) -> Option<Instant> {
        let mut seen: Vec<Instant> = self.seen.values().copied().collect();
        seen.sort_unstable_by(|a, b| b.cmp(a));
        seen.get(others.checked_sub(1)?).copied()
    }

    fn has_undecided(&mut self, me: u64) -> bool {
        let own = self.tops.get(&me).map_or(0, |(round, _)| *round);
        while let Some(first) = self.undecided.first()
            && first.round.saturating_add(UNDECIDED_ROUNDS) < own
        {
            self.undecided.pop_first();
        }
        !self.undecided.is_empty()
    }
}

fn max_round(limits: &SessionLimits) -> u16 {
    let rounds = limits.epochs.saturating_add(SPARE_ROUNDS);
    u16::try_from(rounds).unwrap_or(u16::MAX).min(u16::MAX - 1)
}

/// AlephBFT's source of payloads: rounds wait here, and nowhere else.
struct Payloads(Arc<Shared>);

#[async_trait]
impl DataProvider for Payloads {
    type Output = Payload;

    async fn get_data(&mut self) -> Option<Payload> {
        let shared = &self.0;
        let begun = Instant::now();
        shared.units.lock().asked = true;
        if !shared.may_make_another() {
            return std::future::pending().await;
        }
        loop {
            let bell = shared.context.bell.notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            if let Some(payload) = shared.next_payload(begun.elapsed()) {
                return payload;
            }
            bell.await;
        }
    }
}

/// Takes AlephBFT's batches; it is called in AlephBFT's main task and only
/// enqueues.
struct Batches {
    shared: Arc<Shared>,
    next: u32,
}

impl UnitFinalizationHandler for Batches {
    type Data = Payload;
    type Hasher = Blake3;

    fn batch_finalized(&mut self, batch: Vec<OrderedUnit<Payload, Blake3>>) {
        let mut units = self.shared.units.lock();
        for unit in &batch {
            units.undecided.remove(&Coord {
                round: unit.round,
                creator: unit.creator.0 as u64,
            });
        }
        let replaying = units.is_replaying();
        let all_decided = units.undecided.is_empty();
        drop(units);
        if all_decided {
            self.shared.context.work.notify_one();
        }
        let mut delivery = self.shared.delivery.lock();
        for units in split(batch.into_iter().filter_map(ordered_unit)) {
            let epoch = Epoch {
                session: self.shared.session,
                index: self.next,
                units,
            };
            self.next += 1;
            if replaying {
                delivery.replayed = Some((epoch.session, epoch.index));
            }
            match delivery.mode {
                Mode::Parked => delivery.held.push(epoch),
                Mode::Running => self.shared.context.deliver(epoch),
                Mode::Ended => {}
            }
        }
    }
}

/// A batch's units, epoch by epoch: one even if there are none, and no more than
/// [`MAX_EPOCH_BYTES`] in any.
fn split(units: impl Iterator<Item = consensus::OrderedUnit>) -> Vec<Vec<consensus::OrderedUnit>> {
    /// What an encoded unit has beside its payload.
    const UNIT_BYTES: usize = 6;
    let (mut epochs, mut epoch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for unit in units {
        let length = unit.payload.len() + UNIT_BYTES;
        if bytes + length > MAX_EPOCH_BYTES {
            epochs.push(std::mem::take(&mut epoch));
            bytes = 0;
        }
        bytes += length;
        epoch.push(unit);
    }
    epochs.push(epoch);
    epochs
}

fn ordered_unit(unit: OrderedUnit<Payload, Blake3>) -> Option<consensus::OrderedUnit> {
    let payload = unit.data?;
    Some(consensus::OrderedUnit {
        creator: PeerId(unit.creator.0 as u16),
        payload: Arc::unwrap_or_clone(payload.0),
    })
}

/// AlephBFT's network.
struct Wire {
    shared: Arc<Shared>,
    receiver: mpsc::Receiver<AlephMessage>,
}

#[async_trait]
impl Network<AlephMessage> for Wire {
    fn send(&self, message: AlephMessage, recipient: Recipient) {
        let message = PeerMessage::Aleph {
            session: self.shared.session,
            bytes: message.encode(),
        };
        let p2p = &self.shared.context.p2p;
        match recipient {
            Recipient::Everyone => p2p.broadcast(&message),
            Recipient::Node(index) => {
                if let Ok(peer) = u16::try_from(index.0) {
                    p2p.send(PeerId(peer), message);
                }
            }
        }
    }

    async fn next_event(&mut self) -> Option<AlephMessage> {
        match self.receiver.recv().await {
            Some(message) => Some(message),
            // The instance is being stopped; AlephBFT would call it an error.
            None => std::future::pending().await,
        }
    }
}

/// AlephBFT's tasks run on tokio.
#[derive(Clone)]
struct Tasks;

impl SpawnHandle for Tasks {
    fn spawn(&self, _name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    fn spawn_essential(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> TaskHandle {
        let task = tokio::spawn(task);
        async move {
            task.await.map_err(|error| {
                debug!(name, %error, "a task of AlephBFT's ended");
            })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(count: u32, length: usize) -> Vec<consensus::OrderedUnit> {
        let unit = |number: u32| consensus::OrderedUnit {
            creator: PeerId(1),
            payload: number.to_be_bytes().repeat(length / 4),
        };
        (0..count).map(unit).collect()
    }

    /// What a guardian can have kept back: its units of all rounds of a session.
    #[test]
    fn a_batch_of_a_whole_sessions_units_becomes_epochs_of_bounded_length() {
        let all = units(3001, MAX_PAYLOAD_BYTES);
        let epochs = split(all.clone().into_iter());
        assert!(epochs.len() > 1);
        for epoch in &epochs {
            let bytes = borsh::to_vec(epoch).expect("it has an encoding").len();
            assert!(bytes <= MAX_EPOCH_BYTES + 4, "{bytes}");
            assert!(!epoch.is_empty());
        }
        assert_eq!(epochs.concat(), all);
    }

    #[test]
    fn a_batch_of_a_round_of_the_largest_federation_is_one_epoch_and_so_is_an_empty_one() {
        let round = units(64, MAX_PAYLOAD_BYTES);
        assert_eq!(split(round.clone().into_iter()), [round]);
        assert_eq!(split(std::iter::empty()), [vec![]]);
    }
}
