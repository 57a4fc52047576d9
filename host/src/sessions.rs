//! What guardians tell each other of whole sessions: where they stand, their
//! signatures over headers, and the outcomes of sessions that somebody missed.
//!
//! What a session's epochs hold is decided in `ordering` and applied in
//! `pipeline`. Here n − f signatures make a header final, and a guardian that
//! was away when a session ended takes it, epoch by epoch, from a peer that
//! holds the signed header. Nothing taken is applied before the whole run of
//! epochs hashes to the header's items root.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{self, BufReader, BufWriter, IntoInnerError, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use modmint_core::{
    FederationId, Hash32, PeerId,
    config::{FederationConfig, HexBytes},
    consensus::{OrderedUnit, SessionHeader, SignedHeader, next_items_root},
    rest::PeerStatus,
    tagged_hash,
};
use modmint_crypto::secp;
use parking_lot::Mutex;
use rand::seq::IteratorRandom as _;
use tokio::{sync::mpsc, time::Instant};
use zeroize::Zeroizing;

use crate::{
    ordering::{Epoch, Ordering},
    p2p::{OutcomePart, P2p, PeerMessage},
    pipeline::Pipeline,
};

/// How often a header that still lacks signatures is signed to all again.
const RESEND: Duration = Duration::from_secs(1);

/// How often guardians say where they stand though nothing has happened.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// The most bytes of epochs in one answer to a peer that fell behind.
const PART_BYTES: usize = 1 << 20;

/// What a session's epochs may have beyond its limit in bytes: the last of them, and
/// what surrounds payloads.
const MAX_EXTRA_BYTES: u64 = 64 << 20;

/// So long a peer has for its first answer when a session is taken from it, for each
/// one after that, and for [`PART_BYTES`] on the average. Who is slower is dropped, and
/// another is asked.
const FETCH_PATIENCE: Duration = Duration::from_secs(5);

/// Who has not given what it was asked for is asked again after so long at the earliest.
const FETCH_PAUSE: Duration = Duration::from_secs(1);

/// What a guardian signs (BIP 340) to say that a session ended with this header:
/// a tagged hash of the federation's id, the session and the header's hash.
pub fn header_signature_hash(federation: &FederationId, session: u64, header: &Hash32) -> [u8; 32] {
    tagged_hash(
        "modmint/session-header/signature",
        &[&federation.0, &session.to_be_bytes(), &header.0],
    )
}

/// Whether at least n − f different guardians have signed this header, and nothing else
/// stands among the signatures: a header is kept and handed on as it came, and what does
/// not belong to it could be any length.
pub fn verify_signed_header(
    config: &FederationConfig,
    id: &FederationId,
    signed: &SignedHeader,
) -> bool {
    let SignedHeader { header, signatures } = signed;
    // Counted before any is verified, which takes much longer.
    if !(config.threshold()..=config.size()).contains(&signatures.len()) {
        return false;
    }
    let signers: BTreeSet<PeerId> = signatures.iter().map(|(peer, _)| *peer).collect();
    let hash = header_signature_hash(id, header.session, &header.hash(id));
    signers.len() == signatures.len()
        && signatures.iter().all(|(peer, signature)| {
            let peer = config.peers.get(peer.index());
            peer.is_some_and(|p| secp::verify_schnorr(&p.consensus_key.0, &hash, &signature.0))
        })
}

/// What the sessions' task is made of.
pub struct SessionsSetup {
    /// This guardian.
    pub me: PeerId,
    /// The federation.
    pub config: Arc<FederationConfig>,
    /// By which headers are signed.
    pub consensus_secret: Zeroizing<[u8; 32]>,
    /// Where epochs are applied and headers kept.
    pub pipeline: Arc<Pipeline>,
    /// Where sessions are ordered.
    pub ordering: Arc<Ordering>,
    /// To the other guardians.
    pub p2p: Arc<P2p>,
    /// Where epochs taken from a peer go, the same way as those ordered here.
    pub epochs: mpsc::Sender<Epoch>,
    /// Where they wait until there are all of a session.
    pub directory: PathBuf,
    /// The file that says that this guardian comes back from a backup, if it is
    /// there; removed once that is over.
    pub restored: Option<PathBuf>,
}

/// A session on its way here from a peer. Its epochs wait on the disk, in a file that
/// is gone when this is.
struct Fetch {
    from: PeerId,
    /// The number of the connection that it was asked by: what it has to answer is lost
    /// with that.
    connection: u64,
    session: u64,
    first_epoch: u32,
    /// The next epoch that is to come.
    next_epoch: u32,
    /// Over all epochs of the session before it.
    items_root: Hash32,
    /// Borsh of each epoch's units, behind its length of four bytes, little endian.
    file: BufWriter<File>,
    bytes: u64,
    begun: Instant,
    last_heard: Instant,
}

impl Fetch {
    /// Epochs of a session from `first_epoch` on, behind those with this root.
    fn begin(
        directory: &Path,
        (from, connection): (PeerId, u64),
        session: u64,
        first_epoch: u32,
        items_root: Hash32,
    ) -> io::Result<Self> {
        let path = directory.join(format!("{session}.fetched"));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        fs::remove_file(&path)?;
        let now = Instant::now();
        Ok(Self {
            from,
            connection,
            session,
            first_epoch,
            next_epoch: first_epoch,
            items_root,
            file: BufWriter::new(file),
            bytes: 0,
            begun: now,
            last_heard: now,
        })
    }

    /// Whether its peer has let pass the time that it has.
    fn is_too_slow(&self) -> bool {
        let parts = u32::try_from(self.bytes / PART_BYTES as u64).unwrap_or(u32::MAX);
        let in_all = FETCH_PATIENCE.saturating_mul(parts.saturating_add(1));
        self.last_heard.elapsed() > FETCH_PATIENCE || self.begun.elapsed() > in_all
    }

    fn add(&mut self, epochs: &[Vec<OrderedUnit>]) -> io::Result<()> {
        for units in epochs {
            let encoded = borsh::to_vec(units)?;
            let length = u32::try_from(encoded.len()).map_err(io::Error::other)?;
            self.file.write_all(&length.to_le_bytes())?;
            self.file.write_all(&encoded)?;
            self.bytes += 4 + encoded.len() as u64;
            self.items_root = next_items_root(&self.items_root, units);
            self.next_epoch += 1;
        }
        self.last_heard = Instant::now();
        Ok(())
    }

    /// All that was added, from the beginning.
    fn epochs(self) -> io::Result<impl Iterator<Item = io::Result<Epoch>>> {
        let mut file = self.file.into_inner().map_err(IntoInnerError::into_error)?;
        file.rewind()?;
        let mut file = BufReader::new(file);
        let session = self.session;
        Ok((self.first_epoch..self.next_epoch).map(move |index| {
            let mut length = [0; 4];
            file.read_exact(&mut length)?;
            let mut encoded = vec![0; u32::from_le_bytes(length) as usize];
            file.read_exact(&mut encoded)?;
            Ok(Epoch {
                session,
                index,
                units: borsh::from_slice(&encoded)?,
            })
        }))
    }
}

/// A guardian that comes back from a backup makes no units before a session that no
/// peer had begun when it came back.
struct Restored {
    marker: PathBuf,
    /// The session that each peer said it was in when it was first heard.
    claims: BTreeMap<PeerId, u64>,
    /// The last session in which nothing is said, once n − f peers have been heard.
    until: Option<u64>,
}

impl Restored {
    /// A peer is in this session. Answers with the last session to observe when another
    /// has become known to be that.
    ///
    /// Whatever session this guardian was in before it was lost, n − f guardians had
    /// ordered the one before, f honest others among them. Of any n − f peers one at least
    /// is of those, and is in that session or a later one. So the n − f that name the
    /// earliest sessions are as good as any, and the f − 1 beyond them may say what they
    /// like.
    fn hear(&mut self, from: PeerId, session: u64, needed: usize) -> Option<u64> {
        self.claims.entry(from).or_insert(session);
        let mut claims: Vec<u64> = self.claims.values().copied().collect();
        claims.sort_unstable();
        let until = claims.get(needed.checked_sub(1)?)?.saturating_add(1);
        (self.until.replace(until) != Some(until)).then_some(until)
    }

    fn problem(&self) -> String {
        match self.until {
            Some(until) => {
                let of = |(_, claim): &(&PeerId, &u64)| claim.saturating_add(1) == until;
                let said = self.claims.iter().find(of);
                let because = said.map_or_else(String::new, |(peer, claim)| {
                    format!(", since guardian {peer} said that it was in session {claim}")
                });
                format!(
                    "this guardian comes back from a backup: it follows, and makes no units before session {} begins{because}",
                    until.saturating_add(1)
                )
            }
            None => format!(
                "this guardian comes back from a backup: it makes no units until it has heard from more guardians than the {} so far",
                self.claims.len()
            ),
        }
    }
}

struct State {
    restored: Option<Restored>,
    fetch: Option<Fetch>,
    /// The last session of which all was taken: its epochs are on their way to the
    /// pipeline.
    taken: Option<u64>,
    /// When each peer has last not given what it was asked for, until it does.
    failed: HashMap<PeerId, Instant>,
    /// Signatures by session and signer, as they came, for sessions at and
    /// just ahead of ours.
    signatures: BTreeMap<u64, HashMap<PeerId, (Hash32, Vec<u8>)>>,
    problem: Option<String>,
}

/// The task that speaks of sessions with the other guardians.
pub struct Sessions {
    setup: SessionsSetup,
    id: FederationId,
    state: Mutex<State>,
}

impl Sessions {
    /// Ready to [`Self::run`].
    pub fn new(setup: SessionsSetup) -> Arc<Self> {
        let restored = setup.restored.clone().map(|marker| Restored {
            marker,
            claims: BTreeMap::new(),
            until: None,
        });
        Arc::new(Self {
            id: setup.config.id(),
            setup,
            state: Mutex::new(State {
                restored,
                fetch: None,
                taken: None,
                failed: HashMap::new(),
                signatures: BTreeMap::new(),
                problem: None,
            }),
        })
    }

    /// What keeps this guardian from following; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let problem = self.state.lock().problem.clone();
        problem.into_iter().chain(self.observing()).collect()
    }

    /// While this guardian comes back from a backup and makes no units: that it does.
    pub fn observing(&self) -> Option<String> {
        let state = self.state.lock();
        state.restored.as_ref().map(Restored::problem)
    }

    /// Listens to the peers until they are gone. Never returns otherwise.
    pub async fn run(self: Arc<Self>, mut incoming: mpsc::Receiver<(PeerId, PeerMessage)>) {
        let mut resend = tokio::time::interval(RESEND);
        resend.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut connections = self.setup.p2p.connections();
        loop {
            tokio::select! {
                message = incoming.recv() => match message {
                    Some((from, message)) => {
                        let this = Arc::clone(&self);
                        // Reading and writing the database blocks.
                        if tokio::task::spawn_blocking(move || this.receive(from, message)).await.is_err() {
                            tracing::error!("a message about sessions could not be handled");
                        }
                    }
                    None => return,
                },
                _ = resend.tick() => {
                    self.sign_pending();
                    let this = Arc::clone(&self);
                    let fetching = tokio::task::spawn_blocking(move || {
                        this.give_up_fetch();
                        this.fetch();
                    });
                    if fetching.await.is_err() {
                        tracing::error!("past sessions could not be looked after");
                    }
                }
                _ = heartbeat.tick() => self.announce(),
                // Whoever has just come back learns at once how far the others are.
                Ok(()) = connections.changed() => self.announce(),
            }
        }
    }

    /// A session has ended here: its header is signed to all. Called by the
    /// consensus thread.
    pub fn ended(&self, header: &SessionHeader) {
        tracing::info!(session = header.session, epochs = header.epochs, state_root = %header.state_root, "session ended");
        self.sign_pending();
        self.announce();
        self.end_observing(header.session);
    }

    /// A session has ended here: a restored guardian may take part again.
    fn end_observing(&self, ended: u64) {
        let mut state = self.state.lock();
        let over = |restored: &mut Restored| restored.until.is_some_and(|until| ended >= until);
        let Some(restored) = state.restored.take_if(over) else {
            return;
        };
        match fs::remove_file(&restored.marker) {
            Ok(()) => tracing::info!("restored: this guardian takes part again"),
            Err(error) => {
                tracing::error!(%error, path = %restored.marker.display(), "cannot be removed: at the next start this guardian observes again");
            }
        }
    }

    /// Tells all peers where this guardian stands.
    pub fn announce(&self) {
        self.setup.p2p.broadcast(&self.position());
    }

    fn position(&self) -> PeerMessage {
        let status = self.setup.pipeline.status();
        PeerMessage::Position {
            session: status.session,
            epoch: status.epoch,
            state_root: status.state_root,
        }
    }

    fn sign_pending(&self) {
        let Some(header) = self.setup.pipeline.pending_header() else {
            return;
        };
        let hash = header.hash(&self.id);
        let message = header_signature_hash(&self.id, header.session, &hash);
        let signature = secp::sign_schnorr(&self.setup.consensus_secret, &message).to_vec();
        self.setup.p2p.broadcast(&PeerMessage::HeaderSignature {
            session: header.session,
            hash,
            signature: signature.clone(),
        });
        self.add_signature(self.setup.me, header.session, hash, signature);
    }

    fn receive(self: &Arc<Self>, from: PeerId, message: PeerMessage) {
        match message {
            PeerMessage::Position {
                session,
                epoch,
                state_root,
            } => {
                self.peer_stands_at(from, session, epoch, state_root);
            }
            PeerMessage::HeaderSignature {
                session,
                hash,
                signature,
            } => {
                self.peer_signed(from, session, hash, signature);
            }
            PeerMessage::RequestOutcome {
                session,
                from_epoch,
            } => {
                self.serve(from, session, from_epoch);
            }
            PeerMessage::Outcome(part) => self.take(from, *part),
            PeerMessage::NoOutcome { session } => self.has_none(from, session),
            PeerMessage::Aleph { .. }
            | PeerMessage::Wake { .. }
            | PeerMessage::Rest { .. }
            | PeerMessage::RequestUnits { .. }
            | PeerMessage::Units { .. }
            | PeerMessage::Ceremony(_) => {
                tracing::warn!(peer = %from, "a message of another kind reached the sessions' task");
            }
        }
    }

    fn peer_stands_at(&self, from: PeerId, session: u64, epoch: u32, state_root: Hash32) {
        let needed = self.setup.config.threshold();
        let until = {
            let mut state = self.state.lock();
            let restored = state.restored.as_mut();
            restored.and_then(|restored| restored.hear(from, session, needed))
        };
        if let Some(until) = until {
            tracing::warn!(
                until,
                "restored from a backup: no units are made up to this session"
            );
            self.setup.ordering.observe_until(until);
        }
        let (ours, our_epoch) = self.setup.pipeline.position();
        if session > ours {
            self.fetch();
        } else if session < ours {
            self.setup.p2p.send(from, self.position());
        } else if epoch == our_epoch
            && state_root != self.setup.pipeline.status().state_root
            && self.setup.pipeline.position() == (session, epoch)
        {
            let problem = format!(
                "guardian {from} has state root {state_root} at session {session}, epoch {epoch}, where this one has another; \
                 run `modmintd check` here and there"
            );
            tracing::error!("{problem}");
            self.state.lock().problem = Some(problem);
        }
    }

    fn peer_signed(&self, from: PeerId, session: u64, hash: Hash32, signature: Vec<u8>) {
        let (ours, _) = self.setup.pipeline.position();
        if let Some(header) = self.setup.pipeline.signed_header(session) {
            // Somebody still collects what we have: the header with all its
            // signatures ends it.
            self.setup.p2p.send(
                from,
                PeerMessage::Outcome(Box::new(OutcomePart {
                    session,
                    from_epoch: header.header.epochs,
                    header,
                    epochs: Vec::new(),
                    more: false,
                })),
            );
            return;
        }
        // One session may be ending here that has ended there already.
        if session + 1 < ours || session > ours + 1 {
            return;
        }
        let Some(peer) = self.setup.config.peers.get(from.index()) else {
            return;
        };
        let message = header_signature_hash(&self.id, session, &hash);
        if !secp::verify_schnorr(&peer.consensus_key.0, &message, &signature) {
            let reason = format!("a signature of session {session}'s header that is none");
            self.setup.p2p.drop_peer(from, &reason);
            return;
        }
        self.add_signature(from, session, hash, signature);
    }

    fn add_signature(&self, signer: PeerId, session: u64, hash: Hash32, signature: Vec<u8>) {
        let signed = {
            let mut state = self.state.lock();
            let (ours, _) = self.setup.pipeline.position();
            state.signatures.retain(|s, _| s + 1 >= ours);
            let of_session = state.signatures.entry(session).or_default();
            of_session.insert(signer, (hash, signature));
            let Some(header) = self
                .setup
                .pipeline
                .pending_header()
                .filter(|h| h.session == session)
            else {
                return;
            };
            let our_hash = header.hash(&self.id);
            let matching: Vec<_> = of_session
                .iter()
                .filter(|(_, (hash, _))| *hash == our_hash)
                .map(|(peer, (_, signature))| (*peer, HexBytes(signature.clone())))
                .collect();
            let others = of_session.len() - matching.len();
            if others > self.setup.config.max_faulty() {
                let problem = format!(
                    "{others} guardians signed another header of session {session} than this one's: its state has diverged, \
                     or its skip list is not theirs"
                );
                tracing::error!("{problem}");
                state.problem = Some(problem);
            }
            if matching.len() < self.setup.config.threshold() {
                return;
            }
            state.signatures.remove(&session);
            SignedHeader {
                header,
                signatures: matching,
            }
        };
        self.finish(signed);
    }

    fn finish(&self, signed: SignedHeader) {
        let session = signed.header.session;
        match self.setup.pipeline.store_signed_header(signed) {
            Ok(()) => self.setup.ordering.retire(session),
            Err(error) => tracing::error!(session, %error, "a signed header could not be kept"),
        }
    }

    fn serve(&self, to: PeerId, session: u64, from_epoch: u32) {
        let Some(header) = self.setup.pipeline.signed_header(session) else {
            self.setup.p2p.send(to, PeerMessage::NoOutcome { session });
            return;
        };
        let epochs = match self
            .setup
            .pipeline
            .session_epochs(session, from_epoch, PART_BYTES)
        {
            Ok(epochs) => epochs,
            Err(error) => {
                tracing::warn!(peer = %to, session, %error, "a past session's epochs are not there any more");
                self.setup.p2p.send(to, PeerMessage::NoOutcome { session });
                return;
            }
        };
        let next = from_epoch.saturating_add(epochs.len() as u32);
        let more = next < header.header.epochs && !epochs.is_empty();
        self.setup.p2p.send(
            to,
            PeerMessage::Outcome(Box::new(OutcomePart {
                session,
                header,
                from_epoch,
                epochs,
                more,
            })),
        );
    }

    /// Takes what is left of the present session from a peer, if one says that it is
    /// further.
    fn fetch(&self) {
        let (session, epoch) = self.setup.pipeline.position();
        let status = self.setup.p2p.status().into_iter();
        let is_ahead =
            |peer: &PeerStatus| peer.connected && peer.position >= Some((session + 1, 0));
        let ahead: Vec<PeerId> = status.filter(is_ahead).map(|peer| peer.peer).collect();
        let mut state = self.state.lock();
        if state.fetch.is_some() || state.taken == Some(session) {
            return;
        }
        let Some(from) = choose(&ahead, &state.failed) else {
            return;
        };
        // The chain starts at zeros with the session's first epoch; what this
        // guardian has applied already it takes from its own log.
        let root = match self.setup.pipeline.items_root(session, epoch) {
            Ok(root) => root,
            Err(error) => {
                tracing::error!(session, %error, "the own part of a session cannot be read");
                return;
            }
        };
        tracing::info!(peer = %from, session, epoch, "taking the rest of a session that has ended from a peer");
        let asked = (from, self.connection(from));
        match Fetch::begin(&self.setup.directory, asked, session, epoch, root) {
            Ok(fetch) => state.fetch = Some(fetch),
            Err(error) => {
                tracing::error!(session, %error, "there is no place for a past session's epochs");
                return;
            }
        }
        self.setup.p2p.send(
            from,
            PeerMessage::RequestOutcome {
                session,
                from_epoch: epoch,
            },
        );
    }

    fn connection(&self, peer: PeerId) -> u64 {
        let connections = self.setup.p2p.connections();
        connections.borrow().get(peer.index()).copied().unwrap_or(0)
    }

    /// Gives up what is being taken if that is of no use any more: it has ended here
    /// meanwhile, its peer is gone, or its peer is too slow.
    fn give_up_fetch(&self) {
        let (ours, _) = self.setup.pipeline.position();
        let mut state = self.state.lock();
        state.fetch.take_if(|fetch| fetch.session < ours);
        let is_gone = |fetch: &Fetch| fetch.connection != self.connection(fetch.from);
        let given_up = |fetch: &mut Fetch| fetch.is_too_slow() || is_gone(fetch);
        let Some(fetch) = state.fetch.take_if(given_up) else {
            return;
        };
        state.failed.insert(fetch.from, Instant::now());
        drop(state);
        if !is_gone(&fetch) {
            let reason = format!(
                "it says that session {} has ended, and hands it out at less than {PART_BYTES} bytes in {} seconds",
                fetch.session,
                FETCH_PATIENCE.as_secs()
            );
            self.setup.p2p.drop_peer(fetch.from, &reason);
        }
    }

    /// A peer cannot hand out what it was asked for.
    fn has_none(&self, from: PeerId, session: u64) {
        let mut state = self.state.lock();
        let of_it = |fetch: &mut Fetch| fetch.from == from && fetch.session == session;
        if state.fetch.take_if(of_it).is_some() {
            state.failed.insert(from, Instant::now());
        }
    }

    fn take(self: &Arc<Self>, from: PeerId, part: OutcomePart) {
        if part.header.header.session != part.session
            || !verify_signed_header(&self.setup.config, &self.id, &part.header)
        {
            let reason = format!(
                "an outcome of session {} without a threshold's signatures",
                part.session
            );
            self.setup.p2p.drop_peer(from, &reason);
            return;
        }
        let pending = self.setup.pipeline.pending_header();
        if pending
            .as_ref()
            .is_some_and(|header| header.session == part.session)
        {
            if pending.as_ref() == Some(&part.header.header) {
                self.finish(part.header);
            } else {
                let problem = format!(
                    "a threshold of guardians signed another header of session {} than this one's: its state has diverged, \
                     or its skip list is not theirs",
                    part.session
                );
                tracing::error!("{problem}");
                self.state.lock().problem = Some(problem);
            }
            return;
        }
        let mut state = self.state.lock();
        let Some(fetch) = state
            .fetch
            .as_mut()
            .filter(|f| f.from == from && f.session == part.session)
        else {
            return;
        };
        let most = self
            .setup
            .config
            .session
            .bytes
            .saturating_add(MAX_EXTRA_BYTES);
        let left = part.header.header.epochs.saturating_sub(fetch.next_epoch);
        if part.from_epoch != fetch.next_epoch
            || part.epochs.len() > left as usize
            || (part.more && part.epochs.is_empty())
            || fetch.bytes > most
        {
            return;
        }
        if let Err(error) = fetch.add(&part.epochs) {
            tracing::error!(session = part.session, %error, "a past session's epochs cannot be written");
            state.fetch = None;
            return;
        }
        if part.more {
            let request = PeerMessage::RequestOutcome {
                session: part.session,
                from_epoch: fetch.next_epoch,
            };
            self.setup.p2p.send(from, request);
            return;
        }
        let Some(fetch) = state.fetch.take() else {
            return;
        };
        let SessionHeader {
            session,
            epochs,
            items_root,
            ..
        } = part.header.header;
        if fetch.next_epoch != epochs || fetch.items_root != items_root {
            state.failed.insert(from, Instant::now());
            let reason =
                format!("epochs of session {session} that are not those of the signed header");
            self.setup.p2p.drop_peer(from, &reason);
            return;
        }
        state.failed.remove(&from);
        state.taken = Some(session);
        drop(state);
        let this = Arc::clone(self);
        // Peers are answered meanwhile: they would take this guardian for a slow one.
        tokio::task::spawn_blocking(move || this.apply(fetch));
    }

    fn apply(&self, fetch: Fetch) {
        let session = fetch.session;
        let applied = fetch.epochs().and_then(|mut epochs| {
            epochs.try_for_each(|epoch| {
                // An error: everything is being shut down.
                let _ = self.setup.epochs.blocking_send(epoch?);
                Ok(())
            })
        });
        if let Err(error) = applied {
            tracing::error!(session, %error, "a past session's epochs cannot be read again");
            self.state.lock().taken = None;
        }
    }
}

/// Whom to ask of those who are ahead: one that has given what it was asked for, by lot,
/// so that nobody is asked first for being the fastest to say where it stands; and where
/// all have failed, the one with which that was longest ago, after a pause.
fn choose(ahead: &[PeerId], failed: &HashMap<PeerId, Instant>) -> Option<PeerId> {
    let good = ahead.iter().filter(|peer| !failed.contains_key(*peer));
    if let Some(chosen) = good.choose(&mut rand::thread_rng()) {
        return Some(*chosen);
    }
    let failed = |peer: &&PeerId| failed.get(*peer).map(Instant::elapsed);
    let longest_ago = ahead.iter().max_by_key(failed)?;
    (failed(&longest_ago) >= Some(FETCH_PAUSE)).then_some(*longest_ago)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that breaks says so")]

    use modmint_core::{
        InstanceId, PublicKey,
        config::{BaseFee, BlockId, Network, PeerConfig, SessionLimits},
        consensus::VotedBlock,
    };
    use modmint_runtime::{ChainOutPoint, OwnChain, Signable};
    use tempfile::TempDir;
    use tokio::sync::watch;

    use super::*;
    use crate::{
        chain::ChainView,
        loopback,
        ordering::{MAX_EPOCH_BYTES, OrderingSetup},
        p2p::{MAX_MESSAGE_BYTES, P2pReceivers, P2pSetup},
        pipeline::{PipelineSetup, Shares, SkipList},
        storage::Database,
    };

    const EPOCHS: u32 = 10;

    /// A federation without modules, of which the last guardian has missed sessions; the
    /// others say what a test has them say.
    struct Late {
        federation: Federation,
        pipeline: Arc<Pipeline>,
        p2p: Arc<P2p>,
        _folder: TempDir,
    }

    #[derive(Clone)]
    struct Federation {
        config: Arc<FederationConfig>,
        tls_keys: Vec<Vec<u8>>,
        listen: Vec<std::net::SocketAddr>,
    }

    fn secret(peer: u16) -> [u8; 32] {
        [peer as u8 + 1; 32]
    }

    impl Federation {
        fn of(count: u16) -> Self {
            let (listen, mut tls_keys) = (loopback::addresses(count.into()), Vec::new());
            let peers = (0..count).map(|me| {
                let made = rcgen::generate_simple_self_signed(vec!["guardian".into()]).unwrap();
                tls_keys.push(made.signing_key.serialize_der());
                PeerConfig {
                    name: format!("guardian {me}"),
                    api_url: String::new(),
                    p2p_address: listen[usize::from(me)].to_string(),
                    certificate: made.cert.der().to_vec(),
                    consensus_key: PublicKey(secp::public_key(&secret(me))),
                }
            });
            let config = FederationConfig {
                name: "late".into(),
                network: Network::Regtest,
                peers: peers.collect(),
                chain_start: BlockId {
                    height: 0,
                    hash: Hash32([0; 32]),
                },
                finality_depth: 6,
                session: SessionLimits {
                    epochs: EPOCHS,
                    ..SessionLimits::default()
                },
                base_fee: BaseFee::default(),
                instances: Vec::new(),
            };
            Self {
                config: Arc::new(config),
                tls_keys,
                listen,
            }
        }

        fn connect(&self, me: u16) -> (Arc<P2p>, P2pReceivers) {
            let index = usize::from(me);
            let setup = P2pSetup {
                me: PeerId(me),
                peers: self.config.peers.clone(),
                certificate: self.config.peers[index].certificate.clone(),
                tls_key: self.tls_keys[index].clone().into(),
                listen: self.listen[index],
                tag: self.config.id().0,
                runtime_hash: [1; 32],
            };
            P2p::start(setup).unwrap()
        }

        /// The header of a session of empty epochs, as these guardians sign it.
        fn signed(&self, session: u64, signers: impl IntoIterator<Item = u16>) -> SignedHeader {
            let none = Hash32([0; 32]);
            let items_root = (0..EPOCHS).fold(none, |root, _| next_items_root(&root, &[]));
            let header = SessionHeader {
                session,
                previous: none,
                epochs: EPOCHS,
                items_root,
                state_root: none,
                module_registry: none,
                runtime_hash: none,
                skip_list: none,
            };
            let id = self.config.id();
            let message = header_signature_hash(&id, session, &header.hash(&id));
            let sign = |peer| {
                let signature = secp::sign_schnorr(&secret(peer), &message).to_vec();
                (PeerId(peer), HexBytes(signature))
            };
            SignedHeader {
                signatures: signers.into_iter().map(sign).collect(),
                header,
            }
        }

        fn outcome(&self, session: u64, epochs: std::ops::Range<u32>) -> PeerMessage {
            PeerMessage::Outcome(Box::new(OutcomePart {
                session,
                header: self.signed(session, 0..3),
                from_epoch: epochs.start,
                epochs: vec![Vec::new(); epochs.len()],
                more: epochs.end < EPOCHS,
            }))
        }
    }

    struct NoShares;

    impl Shares for NoShares {
        fn share(&self, _: InstanceId, _: &Signable) -> Option<Vec<u8>> {
            None
        }
    }

    struct NoChain(watch::Sender<u64>);

    impl ChainView for NoChain {
        fn best_height(&self) -> Option<u32> {
            None
        }
        fn blocks_after(&self, _: BlockId, _: u32, _: usize) -> Option<Vec<VotedBlock>> {
            None
        }
        fn stands(&self, _: BlockId) -> OwnChain {
            OwnChain::Unknown
        }
        fn fee_rate(&self) -> Option<u64> {
            None
        }
        fn confirmed_at(&self, _: &[u8; 32]) -> Option<u32> {
            None
        }
        fn set_broadcast(&self, _: InstanceId, _: Vec<Vec<u8>>) {}
        fn missing(&self, _: InstanceId, _: &[ChainOutPoint]) -> Vec<ChainOutPoint> {
            Vec::new()
        }
        fn changed(&self) -> watch::Receiver<u64> {
            self.0.subscribe()
        }
    }

    impl Late {
        fn start() -> Self {
            let (federation, folder) = (Federation::of(4), TempDir::new().unwrap());
            let (config, me) = (Arc::clone(&federation.config), PeerId(3));
            let database = Database::open(&folder.path().join("db"), &config).unwrap();
            let pipeline = Pipeline::open(PipelineSetup {
                database,
                config: Arc::clone(&config),
                me,
                instances: Vec::new(),
                keys: Arc::new(NoShares),
                chain: Arc::new(NoChain(watch::Sender::new(0))),
                skip: SkipList::default(),
            });
            let pipeline = pipeline.unwrap();
            let (p2p, receivers) = federation.connect(me.0);
            let (epochs, mut ordered) = mpsc::channel(64);
            let ordering = Ordering::start(OrderingSetup {
                me,
                consensus_keys: config.peers.iter().map(|p| p.consensus_key).collect(),
                consensus_secret: secret(me.0).into(),
                tag: config.id(),
                directory: folder.path().join("units"),
                first_session: 1,
                limits: config.session,
                payloads: pipeline.proposals(),
                epochs: epochs.clone(),
                arrivals: None,
                p2p: Arc::clone(&p2p),
                incoming: receivers.ordering,
                restored: false,
                single: false,
            });
            let ordering = ordering.unwrap();
            let sessions = Sessions::new(SessionsSetup {
                me,
                config,
                consensus_secret: secret(me.0).into(),
                pipeline: Arc::clone(&pipeline),
                ordering: Arc::clone(&ordering),
                p2p: Arc::clone(&p2p),
                epochs,
                directory: folder.path().to_path_buf(),
                restored: None,
            });
            tokio::spawn(Arc::clone(&sessions).run(receivers.sessions));
            let applying = Arc::clone(&pipeline);
            modmint_runtime::spawn_guest_thread("consensus", move || {
                while let Some(epoch) = ordered.blocking_recv() {
                    if let Some(header) = applying.process(&[epoch]).unwrap().ended {
                        ordering.end_session(header.session);
                        sessions.ended(&header);
                    }
                }
            })
            .unwrap();
            Self {
                federation,
                pipeline,
                p2p,
                _folder: folder,
            }
        }

        /// A peer that says again and again that it is far ahead, and answers requests in
        /// its own way, after so long.
        fn peer(
            &self,
            me: u16,
            pause: Duration,
            answer: impl Fn(u64, u32) -> Option<PeerMessage> + Send + 'static,
        ) {
            let (p2p, mut receivers) = self.federation.connect(me);
            tokio::spawn(async move {
                let mut boast = tokio::time::interval(Duration::from_millis(10));
                loop {
                    let message = tokio::select! {
                        _ = boast.tick() => Some(PeerMessage::Position {
                            session: 1000,
                            epoch: 0,
                            state_root: Hash32([0; 32]),
                        }),
                        request = receivers.sessions.recv() => match request {
                            Some((_, PeerMessage::RequestOutcome { session, from_epoch })) => {
                                tokio::time::sleep(pause).await;
                                answer(session, from_epoch)
                            }
                            Some(_) => None,
                            None => return,
                        },
                    };
                    if let Some(message) = message {
                        p2p.send(PeerId(3), message);
                    }
                }
            });
        }

        /// One that hands out what it is asked for.
        fn good_peer(&self, me: u16) {
            let federation = self.federation.clone();
            self.peer(me, Duration::ZERO, move |session, from| {
                Some(federation.outcome(session, from..EPOCHS))
            });
        }

        fn drops(&self, peer: usize) -> u32 {
            self.p2p.status()[peer].drops
        }

        async fn wait_for(&self, what: &str, condition: impl Fn(&Self) -> bool) {
            let started = Instant::now();
            while !condition(self) {
                let waited = started.elapsed();
                assert!(
                    waited < Duration::from_secs(30),
                    "waited in vain for {what}"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn peers_that_boast_and_hand_out_nothing_or_little_are_dropped_and_asked_last() {
        let late = Late::start();
        late.peer(0, Duration::ZERO, |_, _| None);
        // An epoch at a time, each before the patience for one answer ends.
        let (federation, pause) = (late.federation.clone(), Duration::from_millis(1500));
        late.peer(1, pause, move |session, from| {
            Some(federation.outcome(session, from..from + 1))
        });
        late.wait_for("both to be dropped", |late| {
            late.drops(0) >= 1 && late.drops(1) >= 1
        })
        .await;
        assert_eq!(late.pipeline.position().0, 1);
        late.good_peer(2);
        late.wait_for("sessions", |late| late.pipeline.position().0 >= 20)
            .await;
        let drops = late.drops(0) + late.drops(1);
        assert!(drops <= 4, "{drops} drops: they were asked all the time");
        assert_eq!(late.drops(2), 0);
        let reason = late.p2p.status()[0].last_drop.clone().unwrap();
        assert!(reason.contains("hands it out"), "{reason}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_says_that_it_cannot_hand_a_session_out_is_not_dropped_and_another_is_asked() {
        let late = Late::start();
        let (asked, mut requests) = mpsc::unbounded_channel();
        late.peer(0, Duration::ZERO, move |session, _| {
            let _ = asked.send(session);
            Some(PeerMessage::NoOutcome { session })
        });
        assert_eq!(requests.recv().await, Some(1));
        late.good_peer(1);
        late.wait_for("sessions", |late| late.pipeline.position().0 >= 20)
            .await;
        assert_eq!((late.drops(0), late.drops(1)), (0, 0));
    }

    #[test]
    fn nothing_but_different_guardians_signatures_may_stand_with_a_header() {
        let federation = Federation::of(4);
        let id = federation.config.id();
        let verify = |signed: &SignedHeader| verify_signed_header(&federation.config, &id, signed);
        assert!(verify(&federation.signed(1, 0..3)));
        assert!(verify(&federation.signed(1, [3, 0, 2, 1])));
        assert!(!verify(&federation.signed(1, 0..2)), "too few");
        assert!(!verify(&federation.signed(1, [0, 1, 2, 2])), "repeated");
        assert!(!verify(&federation.signed(1, 0..5)), "of nobody");
        let mut junk = federation.signed(1, 0..4);
        junk.signatures[3].1 = HexBytes(vec![0; 1 << 20]);
        assert!(!verify(&junk), "no signature");
        let mut other = federation.signed(1, 0..3);
        other
            .signatures
            .push(federation.signed(2, [3]).signatures.remove(0));
        assert!(!verify(&other), "of another header");

        let all = federation.signed(1, 0..3).signatures.into_iter().cycle();
        let mut many = federation.signed(1, 0..0);
        many.signatures = all.take(50_000).collect();
        let begun = Instant::now();
        assert!(!verify(&many));
        assert!(
            begun.elapsed() < Duration::from_millis(50),
            "it is not even looked at"
        );
    }

    #[test]
    fn the_longest_epoch_fits_in_a_message_with_the_largest_federations_signatures() {
        let unit = OrderedUnit {
            creator: PeerId(0),
            payload: vec![0; MAX_EPOCH_BYTES],
        };
        let signature = (PeerId(0), HexBytes(vec![0; 64]));
        let header = Federation::of(1).signed(1, []);
        let message = PeerMessage::Outcome(Box::new(OutcomePart {
            session: 1,
            header: SignedHeader {
                signatures: vec![signature; 64],
                ..header
            },
            from_epoch: 0,
            epochs: vec![vec![unit]],
            more: true,
        }));
        let length = borsh::to_vec(&message).unwrap().len();
        assert!(length <= MAX_MESSAGE_BYTES, "{length}");
    }

    #[test]
    fn a_restored_guardian_waits_for_n_minus_f_peers_and_for_the_latest_of_them() {
        let mut restored = Restored {
            marker: PathBuf::new(),
            claims: BTreeMap::new(),
            until: None,
        };
        assert_eq!(restored.hear(PeerId(0), 40, 3), None);
        assert_eq!(restored.hear(PeerId(2), 43, 3), None);
        assert_eq!(restored.hear(PeerId(2), 44, 3), None, "twice the same");
        assert!(restored.problem().contains("the 2 so far"));
        assert_eq!(restored.hear(PeerId(3), 41, 3), Some(44));
        let problem = restored.problem();
        assert!(problem.contains("before session 45"), "{problem}");
        assert!(problem.contains("guardian 2"), "{problem}");
        assert_eq!(
            restored.hear(PeerId(0), 90, 3),
            None,
            "it was not there yet"
        );
    }

    #[test]
    fn of_seven_one_that_claims_what_cannot_be_holds_up_no_restored_guardian() {
        let mut restored = Restored {
            marker: PathBuf::new(),
            claims: BTreeMap::new(),
            until: None,
        };
        let claims = [(0, u64::MAX), (1, 40), (2, 41), (3, 42)];
        for (peer, claim) in claims {
            assert_eq!(restored.hear(PeerId(peer), claim, 5), None);
        }
        assert_eq!(restored.hear(PeerId(4), 39, 5), Some(u64::MAX));
        assert_eq!(restored.hear(PeerId(5), 42, 5), Some(43));
        assert_eq!(restored.hear(PeerId(0), u64::MAX, 5), None);
        assert!(restored.problem().contains("before session 44"));
    }

    fn epoch(fill: u8, len: usize) -> Vec<OrderedUnit> {
        let unit = OrderedUnit {
            creator: PeerId(fill.into()),
            payload: vec![fill; len],
        };
        vec![unit; usize::from(fill % 3)]
    }

    #[test]
    fn a_past_session_waits_on_the_disk_and_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let start = Hash32([9; 32]);
        let mut fetch = Fetch::begin(folder.path(), (PeerId(1), 1), 7, 3, start).unwrap();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "no name");
        let epochs: Vec<_> = (0..20).map(|n| epoch(n, 20_000)).collect();
        for part in epochs.chunks(6) {
            fetch.add(part).unwrap();
        }
        let root = epochs
            .iter()
            .fold(start, |root, units| next_items_root(&root, units));
        assert_eq!((fetch.next_epoch, fetch.items_root), (23, root));
        let back: Vec<Epoch> = fetch.epochs().unwrap().map(Result::unwrap).collect();
        for (index, (epoch, units)) in (3..).zip(back.iter().zip(&epochs)) {
            assert_eq!((epoch.session, epoch.index), (7, index));
            assert_eq!(epoch.units, *units);
        }
        assert_eq!(back.len(), epochs.len());
    }
}
