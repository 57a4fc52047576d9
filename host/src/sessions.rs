//! What guardians tell each other of whole sessions: where they stand, their
//! signatures over headers, and the outcomes of sessions that somebody missed.
//!
//! What a session's epochs hold is decided in `ordering` and applied in
//! `pipeline`. Here n − f signatures make a header final, and a guardian that
//! was away when a session ended takes it, epoch by epoch, from a peer that
//! holds the signed header. Nothing taken is applied before the whole run of
//! epochs hashes to the header's items root.

use std::{
    collections::{BTreeMap, HashMap},
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
    tagged_hash,
};
use modmint_crypto::secp;
use parking_lot::Mutex;
use tokio::sync::mpsc;
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

/// How far a session's last epoch may lead beyond its limit in bytes.
const MAX_LAST_EPOCH_BYTES: u64 = 64 << 20;

/// A session that is being taken from a peer is given up, and asked for again,
/// when nothing has come for so long.
const FETCH_PATIENCE: Duration = Duration::from_secs(5);

/// What a guardian signs (BIP 340) to say that a session ended with this header:
/// a tagged hash of the federation's id, the session and the header's hash.
pub fn header_signature_hash(federation: &FederationId, session: u64, header: &Hash32) -> [u8; 32] {
    tagged_hash(
        "modmint/session-header/signature",
        &[&federation.0, &session.to_be_bytes(), &header.0],
    )
}

/// Whether at least n − f different guardians have signed this header.
pub fn verify_signed_header(
    config: &FederationConfig,
    id: &FederationId,
    signed: &SignedHeader,
) -> bool {
    let hash = header_signature_hash(id, signed.header.session, &signed.header.hash(id));
    let mut signers: Vec<PeerId> = signed
        .signatures
        .iter()
        .filter(|(peer, signature)| {
            config
                .peers
                .get(peer.index())
                .is_some_and(|p| secp::verify_schnorr(&p.consensus_key.0, &hash, &signature.0))
        })
        .map(|(peer, _)| *peer)
        .collect();
    signers.sort_unstable();
    signers.dedup();
    signers.len() >= config.threshold()
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
    session: u64,
    first_epoch: u32,
    /// The next epoch that is to come.
    next_epoch: u32,
    /// Over all epochs of the session before it.
    items_root: Hash32,
    /// Borsh of each epoch's units, behind its length of four bytes, little endian.
    file: BufWriter<File>,
    bytes: u64,
    last_heard: tokio::time::Instant,
}

impl Fetch {
    /// Epochs of a session from `first_epoch` on, behind those with this root.
    fn begin(
        directory: &Path,
        from: PeerId,
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
        Ok(Self {
            from,
            session,
            first_epoch,
            next_epoch: first_epoch,
            items_root,
            file: BufWriter::new(file),
            bytes: 0,
            last_heard: tokio::time::Instant::now(),
        })
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
        self.last_heard = tokio::time::Instant::now();
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
    /// The session that each peer says it is in.
    claims: BTreeMap<PeerId, u64>,
    /// The last session in which nothing is said, once n − f peers have been heard.
    until: Option<u64>,
}

impl Restored {
    /// A peer is in this session. Answers with the last session to observe when that
    /// has become known.
    ///
    /// Whatever session this guardian was in before it was lost, n − f guardians had
    /// ordered the one before, f honest others among them. Of n − f peers one at least
    /// is of those, and is in that session or a later one.
    fn hear(&mut self, from: PeerId, session: u64, needed: usize) -> Option<u64> {
        if self.until.is_some() {
            return None;
        }
        self.claims.insert(from, session);
        if self.claims.len() >= needed {
            let latest = self.claims.values().max()?;
            self.until = Some(latest.saturating_add(1));
        }
        self.until
    }

    fn problem(&self) -> String {
        match self.until {
            Some(until) => format!(
                "this guardian comes back from a backup: it follows, and makes no units before session {} begins",
                until.saturating_add(1)
            ),
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
                    self.drop_stalled_fetch();
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

    fn receive(&self, from: PeerId, message: PeerMessage) {
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
            self.fetch(from);
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
            self.setup.p2p.send(to, self.position());
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

    fn fetch(&self, from: PeerId) {
        let (session, epoch) = self.setup.pipeline.position();
        let mut state = self.state.lock();
        if state.fetch.is_some() {
            return;
        }
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
        match Fetch::begin(&self.setup.directory, from, session, epoch, root) {
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

    fn drop_stalled_fetch(&self) {
        let mut state = self.state.lock();
        let stalled = state
            .fetch
            .as_ref()
            .is_some_and(|f| f.last_heard.elapsed() > FETCH_PATIENCE);
        if stalled && let Some(fetch) = state.fetch.take() {
            tracing::warn!(peer = %fetch.from, session = fetch.session, "a peer sends nothing more of a past session; asking all again");
            drop(state);
            self.announce();
        }
    }

    fn take(&self, from: PeerId, part: OutcomePart) {
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
            .saturating_add(MAX_LAST_EPOCH_BYTES);
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
        drop(state);
        self.apply(fetch, part.header);
    }

    fn apply(&self, fetch: Fetch, signed: SignedHeader) {
        let SessionHeader {
            session,
            epochs,
            items_root,
            ..
        } = signed.header;
        if fetch.next_epoch != epochs || fetch.items_root != items_root {
            let reason =
                format!("epochs of session {session} that are not those of the signed header");
            self.setup.p2p.drop_peer(fetch.from, &reason);
            return;
        }
        let applied = fetch.epochs().and_then(|mut epochs| {
            epochs.try_for_each(|epoch| {
                // An error: everything is being shut down.
                let _ = self.setup.epochs.blocking_send(epoch?);
                Ok(())
            })
        });
        if let Err(error) = applied {
            tracing::error!(session, %error, "a past session's epochs cannot be read again");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that breaks says so")]

    use super::*;

    #[test]
    fn a_restored_guardian_waits_for_n_minus_f_peers_and_for_the_latest_of_them() {
        let mut restored = Restored {
            marker: PathBuf::new(),
            claims: BTreeMap::new(),
            until: None,
        };
        assert_eq!(restored.hear(PeerId(0), 40, 3), None);
        assert_eq!(restored.hear(PeerId(2), 42, 3), None);
        assert_eq!(restored.hear(PeerId(2), 43, 3), None, "twice the same");
        assert!(restored.problem().contains("the 2 so far"));
        assert_eq!(restored.hear(PeerId(3), 41, 3), Some(44));
        assert!(restored.problem().contains("before session 45"));
        assert_eq!(
            restored.hear(PeerId(0), 90, 3),
            None,
            "it was not there yet"
        );
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
        let mut fetch = Fetch::begin(folder.path(), PeerId(1), 7, 3, start).unwrap();
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
