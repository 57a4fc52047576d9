//! Guardian to guardian: one mutually authenticated TLS connection a pair.
//!
//! Here live connections, the handshake, queues and frames. What the messages
//! mean does not: they are handed to `ordering`, to the guardian's sessions and
//! to the ceremony as they come.

mod frame;
mod handshakes;
mod link;
mod message;
mod queue;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use modmint_core::{PeerId, config::PeerConfig, rest::PeerStatus};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, pki_types::CertificateDer},
};
use tracing::warn;
use zeroize::Zeroizing;

pub use frame::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES};

pub use message::{OutcomePart, PeerMessage};

/// What a guardian needs to talk to the others.
pub struct P2pSetup {
    /// Its own index in `peers`.
    pub me: PeerId,
    /// All guardians, itself included, in the order of their indices.
    pub peers: Vec<PeerConfig>,
    /// Its own certificate, DER; the one in `peers`.
    pub certificate: Vec<u8>,
    /// The certificate's private key, PKCS #8 DER.
    pub tls_key: Zeroizing<Vec<u8>>,
    /// Where it listens; port 0 takes a free one, see [`P2p::local_addr`].
    pub listen: SocketAddr,
    /// The federation's id, or the founding plan's: others are refused.
    pub tag: [u8; 32],
    /// All that can change a result; others are refused.
    pub runtime_hash: [u8; 32],
}

/// Why a guardian's network did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum P2pError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The certificate and its key are none, or do not belong together.
    #[error("this guardian's certificate cannot be used: {0}")]
    Certificate(#[from] rustls::Error),
    /// Guardians would be taken for each other.
    #[error("guardians {0} and {1} have the same certificate")]
    SameCertificate(PeerId, PeerId),
    /// The index is none of the list's.
    #[error("there is no guardian {me} among {count}")]
    NoSuchGuardian {
        /// What was given.
        me: PeerId,
        /// How many there are.
        count: usize,
    },
}

/// A guardian's connections to the others: one each, which the guardian with the
/// lower index dials.
pub struct P2p {
    inner: Arc<Inner>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What goes between this guardian and another, in bytes of frames; TLS adds about
/// 22 for every 16 KiB or flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The other one.
    pub peer: PeerId,
    /// To it.
    pub sent: u64,
    /// From it.
    pub received: u64,
    /// Waits to be sent.
    pub queued: usize,
}

/// How many messages wait for each reader.
const CHANNEL_CAPACITY: usize = 4096;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a guardian that was dropped waits until it is talked to again.
const BARRED: Duration = Duration::from_secs(1);
/// How many former instances of a guardian are remembered.
const REMEMBERED_INSTANCES: usize = 16;

struct Inner {
    me: PeerId,
    /// All guardians; the one that is this one never has a connection.
    peers: Vec<Arc<Peer>>,
    tag: [u8; 32],
    runtime_hash: [u8; 32],
    instance: [u8; 16],
    acceptor: TlsAcceptor,
    address: SocketAddr,
    ordering: mpsc::Sender<(PeerId, PeerMessage)>,
    sessions: mpsc::Sender<(PeerId, PeerMessage)>,
    ceremony: mpsc::Sender<(PeerId, PeerMessage)>,
    last_connection: AtomicU64,
    connections: watch::Sender<Vec<u64>>,
    shutdown: watch::Sender<bool>,
}

struct Peer {
    id: PeerId,
    address: String,
    certificate: CertificateDer<'static>,
    queue: queue::Queue,
    sent: Counter,
    received: Counter,
    state: Mutex<PeerState>,
}

#[derive(Default)]
struct PeerState {
    position: Option<(u64, u32)>,
    refused: Option<String>,
    /// The latest last.
    instances: VecDeque<[u8; 16]>,
    runs_twice: bool,
    drops: u32,
    last_drop: Option<(Instant, String)>,
}

/// What comes in, by who reads it.
pub struct P2pReceivers {
    /// [`PeerMessage::Aleph`], [`PeerMessage::Wake`], [`PeerMessage::RequestUnits`] and
    /// [`PeerMessage::Units`].
    pub ordering: mpsc::Receiver<(PeerId, PeerMessage)>,
    /// [`PeerMessage::Position`], [`PeerMessage::HeaderSignature`],
    /// [`PeerMessage::RequestOutcome`], [`PeerMessage::Outcome`] and
    /// [`PeerMessage::NoOutcome`].
    pub sessions: mpsc::Receiver<(PeerId, PeerMessage)>,
    /// [`PeerMessage::Ceremony`].
    pub ceremony: mpsc::Receiver<(PeerId, PeerMessage)>,
}

impl P2p {
    /// Listens and begins to connect; to be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on or the certificates are unusable.
    pub fn start(setup: P2pSetup) -> Result<(Arc<Self>, P2pReceivers), P2pError> {
        let peers = make_peers(&setup)?;
        let own = tls::Credentials {
            certificate: &setup.certificate,
            key: &setup.tls_key,
        };
        let certificates = peers.iter().map(|peer| peer.certificate.clone());
        let acceptor = tls::acceptor(&own, certificates.collect())?;
        let listener = listen(setup.listen).map_err(|source| P2pError::Listen {
            address: setup.listen,
            source,
        })?;

        let (ordering, for_ordering) = mpsc::channel(CHANNEL_CAPACITY);
        let (sessions, for_sessions) = mpsc::channel(CHANNEL_CAPACITY);
        let (ceremony, for_ceremony) = mpsc::channel(CHANNEL_CAPACITY);
        let inner = Arc::new(Inner {
            me: setup.me,
            tag: setup.tag,
            runtime_hash: setup.runtime_hash,
            instance: rand::random(),
            acceptor,
            address: listener.local_addr().unwrap_or(setup.listen),
            ordering,
            sessions,
            ceremony,
            last_connection: AtomicU64::new(0),
            connections: watch::Sender::new(vec![0; peers.len()]),
            shutdown: watch::Sender::new(false),
            peers,
        });

        let mut tasks = vec![tokio::spawn(link::accept(inner.clone(), listener))];
        for peer in inner.peers.iter().filter(|peer| peer.id > inner.me) {
            let connector = tls::connector(&own, peer.certificate.clone())?;
            let dial = link::dial(inner.clone(), peer.clone(), connector);
            tasks.push(tokio::spawn(dial));
        }
        let tasks = Mutex::new(tasks);
        let receivers = P2pReceivers {
            ordering: for_ordering,
            sessions: for_sessions,
            ceremony: for_ceremony,
        };
        Ok((Arc::new(Self { inner, tasks }), receivers))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.address
    }

    /// Sends to one guardian; never waits. While there is no connection,
    /// [`PeerMessage::Ceremony`] waits for one and everything else is dropped.
    /// While there is one nothing is dropped: a guardian that lets too much pile
    /// up is disconnected.
    pub fn send(&self, to: PeerId, message: PeerMessage) {
        if let Some(peer) = self.inner.peers.get(to.index())
            && peer.id != self.inner.me
        {
            let patient = matches!(message, PeerMessage::Ceremony(_));
            peer.queue.push(frame::encode(&message), patient);
        }
    }

    /// Sends to all others, as [`Self::send`] does.
    pub fn broadcast(&self, message: &PeerMessage) {
        let patient = matches!(message, PeerMessage::Ceremony(_));
        let frame = frame::encode(message);
        for peer in self.inner.others() {
            peer.queue.push(frame.clone(), patient);
        }
    }

    /// For each guardian the number of its present connection, 0 while there is
    /// none; a new connection has a new number.
    pub fn connections(&self) -> watch::Receiver<Vec<u64>> {
        self.inner.connections.subscribe()
    }

    /// The other guardians as this one sees them.
    pub fn status(&self) -> Vec<PeerStatus> {
        let connections = self.inner.connections.borrow();
        let status = self.inner.others().map(|peer| {
            let state = peer.state.lock();
            PeerStatus {
                peer: peer.id,
                connected: connections[peer.id.index()] != 0,
                position: state.position,
                drops: state.drops,
                last_drop: state.last_drop.as_ref().map(|(_, reason)| reason.clone()),
            }
        });
        status.collect()
    }

    /// Drops the connection to a guardian that has done what none does that is
    /// honest. It may connect again.
    pub fn drop_peer(&self, peer: PeerId, reason: &str) {
        if let Some(peer) = self.inner.peers.get(peer.index()) {
            peer.queue.fail(reason);
        }
    }

    /// What has gone to and come from each of the others since this guardian
    /// started.
    pub fn traffic(&self) -> Vec<Traffic> {
        let traffic = self.inner.others().map(|peer| Traffic {
            peer: peer.id,
            sent: peer.sent.get(),
            received: peer.received.get(),
            queued: peer.queue.bytes(),
        });
        traffic.collect()
    }

    /// What is wrong: guardians that run something else, and guardians that run
    /// twice.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for peer in self.inner.others() {
            let state = peer.state.lock();
            if let Some(reason) = &state.refused {
                problems.push(format!("guardian {} is refused: {reason}", peer.id));
            }
            if state.runs_twice {
                problems.push(format!(
                    "guardian {} seems to run twice at the same time",
                    peer.id
                ));
            }
        }
        problems
    }

    /// Cuts all connections, as a network does; what was on its way is lost.
    #[cfg(test)]
    pub(crate) fn cut(&self) {
        for peer in self.inner.others() {
            peer.queue.open(u64::MAX);
        }
    }

    /// Sends what is queued for at most a second, and closes all connections.
    pub async fn shutdown(&self) {
        self.inner.shutdown.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for mut task in tasks {
            if timeout(SHUTDOWN_TIMEOUT, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

impl Drop for P2p {
    fn drop(&mut self) {
        self.inner.shutdown.send_replace(true);
    }
}

fn make_peers(setup: &P2pSetup) -> Result<Vec<Arc<Peer>>, P2pError> {
    let count = setup.peers.len();
    if setup.me.index() >= count {
        return Err(P2pError::NoSuchGuardian {
            me: setup.me,
            count,
        });
    }
    let mut peers: Vec<Arc<Peer>> = Vec::with_capacity(count);
    for (id, config) in (0..).map(PeerId).zip(&setup.peers) {
        let certificate = CertificateDer::from(config.certificate.clone());
        if let Some(same) = peers.iter().find(|peer| peer.certificate == certificate) {
            return Err(P2pError::SameCertificate(same.id, id));
        }
        peers.push(Arc::new(Peer {
            id,
            address: config.p2p_address.clone(),
            certificate,
            queue: queue::Queue::new(),
            sent: Counter::default(),
            received: Counter::default(),
            state: Mutex::default(),
        }));
    }
    Ok(peers)
}

fn listen(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

impl Inner {
    fn others(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.iter().filter(|peer| peer.id != self.me)
    }

    /// The new connection takes the place of one that may still seem to stand.
    fn new_connection(&self, peer: &Peer, instance: [u8; 16]) -> u64 {
        peer.greet(instance);
        let connection = self.last_connection.fetch_add(1, Ordering::Relaxed) + 1;
        peer.queue.open(connection);
        self.connections
            .send_modify(|all| all[peer.id.index()] = connection);
        connection
    }

    fn end_connection(&self, peer: &Peer, connection: u64) {
        if peer.queue.close(connection) {
            self.connections.send_modify(|all| {
                let present = &mut all[peer.id.index()];
                if *present == connection {
                    *present = 0;
                }
            });
        }
    }
}

impl Peer {
    fn greet(&self, instance: [u8; 16]) {
        let mut state = self.state.lock();
        state.refused = None;
        if state.instances.back() == Some(&instance) {
            return;
        }
        if state.instances.contains(&instance) {
            // It came back after another: one that had stopped would not.
            state.runs_twice = true;
            warn!(peer = %self.id, "this guardian runs twice at the same time");
        }
        state.instances.retain(|former| *former != instance);
        state.instances.push_back(instance);
        if state.instances.len() > REMEMBERED_INSTANCES {
            state.instances.pop_front();
        }
    }

    /// The connection was dropped for what this guardian did.
    fn dropped(&self, reason: String) {
        warn!(peer = %self.id, reason, "a guardian misbehaves, its connection is dropped");
        let mut state = self.state.lock();
        state.drops = state.drops.saturating_add(1);
        state.last_drop = Some((Instant::now(), reason));
    }

    /// For how long it is not talked to yet.
    fn barred(&self) -> Duration {
        let state = self.state.lock();
        let dropped = state.last_drop.as_ref();
        dropped.map_or(Duration::ZERO, |(at, _)| {
            BARRED.saturating_sub(at.elapsed())
        })
    }

    fn refuse(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.refused.as_deref() != Some(reason) {
            warn!(peer = %self.id, reason, "this guardian is refused");
            state.refused = Some(reason.to_string());
        }
    }
}
