//! One connection: sockets, handshake, reading and writing.

use std::{io, sync::Arc, time::Duration};

use borsh::{BorshDeserialize, BorshSerialize};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tracing::{debug, info, warn};

use super::{Inner, Peer, PeerMessage, frame, handshakes::Handshakes, queue::Ended, tls};

/// TCP, TLS and hello together; whoever takes longer is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HELLO_BYTES: usize = 256;
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// A guardian with a higher index that was away waits for so long at most: it dials nobody
/// with a lower one.
const LAST_RETRY: Duration = Duration::from_millis(500);
/// A megabyte that a peer does not take in so long it does not read.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// A peer whose machine has vanished is noticed after about this time.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// The first frame in both directions.
#[derive(BorshSerialize, BorshDeserialize)]
struct Hello {
    protocol: [u8; 16],
    tag: [u8; 32],
    runtime_hash: [u8; 32],
    /// Drawn at each start: two of a guardian that run at once are noticed.
    instance: [u8; 16],
}

const PROTOCOL: [u8; 16] = *b"modmint p2p v1\0\0";

/// Why a guardian that proved to be one is not talked to.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it speaks another version of the guardians' protocol")]
    Protocol,
    #[error("it serves another federation, or was founded by another plan")]
    Tag,
    #[error(
        "its runtime is {theirs}, ours is {ours}: guardians must run versions that compute alike"
    )]
    Runtime { theirs: String, ours: String },
}

/// Takes connections from guardians with lower indices, which are those that
/// dial.
pub(super) async fn accept(inner: Arc<Inner>, listener: tokio::net::TcpListener) {
    let dialling = inner.peers.iter().filter(|peer| peer.id < inner.me);
    let handshakes = Handshakes::new(dialling.map(|peer| peer.address.as_str()));
    let mut shutdown = inner.shutdown.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = wait_down(&mut shutdown) => break,
        };
        let (stream, address) = match accepted {
            Ok((stream, address)) => (stream, address.ip()),
            Err(error) => {
                warn!(%error, "cannot take a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = handshakes.enter(address);
        let inner = inner.clone();
        connections.spawn(async move {
            let handshake = tokio::select! {
                handshake = timeout(HANDSHAKE_TIMEOUT, accept_one(&inner, stream)) => handshake,
                () = place.yields() => {
                    debug!(%address, "a connection that had not finished its handshake yields to another");
                    return;
                }
            };
            drop(place);
            match handshake {
                Ok(Ok((peer, stream, hello))) => {
                    serve(&inner, &peer, stream, hello).await;
                }
                Ok(Err(error)) => debug!(%error, "a connection was refused"),
                Err(_) => debug!("a connection never finished its handshake"),
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept_one(
    inner: &Inner,
    stream: TcpStream,
) -> io::Result<(
    Arc<Peer>,
    impl AsyncRead + AsyncWrite + Unpin + use<>,
    Hello,
)> {
    set_options(&stream)?;
    let mut stream = inner.acceptor.accept(stream).await?;
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|c| c.first());
    let peer = inner
        .peers
        .iter()
        .find(|peer| Some(&peer.certificate) == certificate && peer.id < inner.me)
        .ok_or_else(|| io::Error::other("guardians with higher indices do not dial"))?
        .clone();
    let hello = exchange_hello(inner, &mut stream).await?;
    Ok((peer, stream, hello))
}

/// Keeps a connection to a guardian with a higher index.
pub(super) async fn dial(inner: Arc<Inner>, peer: Arc<Peer>, connector: TlsConnector) {
    let mut shutdown = inner.shutdown.subscribe();
    let mut retry = FIRST_RETRY;
    loop {
        let attempt = tokio::select! {
            attempt = timeout(HANDSHAKE_TIMEOUT, dial_one(&inner, &peer, &connector)) => attempt,
            () = wait_down(&mut shutdown) => return,
        };
        match attempt {
            Ok(Ok((stream, hello))) => {
                if serve(&inner, &peer, stream, hello).await {
                    retry = FIRST_RETRY;
                }
            }
            Ok(Err(error)) => debug!(peer = %peer.id, %error, "no connection"),
            Err(_) => debug!(peer = %peer.id, "no connection in time"),
        }
        let jitter = rand::Rng::gen_range(&mut rand::thread_rng(), 0.5..1.0);
        tokio::select! {
            () = sleep(retry.mul_f64(jitter)) => {}
            () = wait_down(&mut shutdown) => return,
        }
        retry = (retry * 2).min(LAST_RETRY);
    }
}

async fn dial_one(
    inner: &Inner,
    peer: &Peer,
    connector: &TlsConnector,
) -> io::Result<(impl AsyncRead + AsyncWrite + Unpin + use<>, Hello)> {
    let stream = TcpStream::connect(&peer.address).await?;
    set_options(&stream)?;
    let mut stream = connector.connect(tls::server_name(), stream).await?;
    let hello = exchange_hello(inner, &mut stream).await?;
    Ok((stream, hello))
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(DEAD_AFTER / 2)
        .with_interval(DEAD_AFTER / 6);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    Ok(())
}

async fn exchange_hello(
    inner: &Inner,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<Hello> {
    let own = Hello {
        protocol: PROTOCOL,
        tag: inner.tag,
        runtime_hash: inner.runtime_hash,
        instance: inner.instance,
    };
    let own = borsh::to_vec(&own)?;
    stream.write_u32_le(own.len() as u32).await?;
    stream.write_all(&own).await?;
    stream.flush().await?;
    let theirs = frame::read(stream, MAX_HELLO_BYTES).await?;
    Hello::try_from_slice(&theirs)
}

fn check_hello(inner: &Inner, hello: &Hello) -> Result<(), Refused> {
    let short = |hash: &[u8; 32]| hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    if hello.protocol != PROTOCOL {
        Err(Refused::Protocol)
    } else if hello.tag != inner.tag {
        Err(Refused::Tag)
    } else if hello.runtime_hash != inner.runtime_hash {
        Err(Refused::Runtime {
            theirs: short(&hello.runtime_hash),
            ours: short(&inner.runtime_hash),
        })
    } else {
        Ok(())
    }
}

/// Runs a connection that has shown its certificate and said hello, to its end;
/// tells whether it was taken at all.
async fn serve(
    inner: &Arc<Inner>,
    peer: &Peer,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    hello: Hello,
) -> bool {
    if let Err(reason) = check_hello(inner, &hello) {
        peer.refuse(&reason.to_string());
        return false;
    }
    sleep(peer.barred()).await;
    let connection = inner.new_connection(peer, hello.instance);
    info!(peer = %peer.id, "connected");
    let (mut reader, mut writer) = tokio::io::split(stream);
    let end = tokio::select! {
        end = read_all(inner, peer, &mut reader) => end,
        end = write_all(inner, peer, connection, &mut writer) => end,
    };
    match end {
        Err(error) if misbehaves(&error) => peer.dropped(error.to_string()),
        end => info!(peer = %peer.id, reason = ?end.err(), "disconnected"),
    }
    inner.end_connection(peer, connection);
    true
}

/// Whether a connection ends for what the peer has done: bytes that are no messages,
/// too many of them, or none read.
fn misbehaves(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

async fn read_all(
    inner: &Inner,
    peer: &Peer,
    reader: &mut (impl AsyncRead + Unpin),
) -> io::Result<()> {
    let mut pace = frame::Pace::new();
    loop {
        let body = frame::read(reader, frame::MAX_FRAME_BYTES).await?;
        peer.received.inc_by(4 + body.len() as u64);
        pace.admit(body.len()).await?;
        let message = frame::decode(&body)?;
        deliver(inner, peer, message).await;
    }
}

/// Ordering's messages wait for room, so that none is lost; the others' readers
/// ask again for what they miss.
async fn deliver(inner: &Inner, peer: &Peer, message: PeerMessage) {
    match &message {
        PeerMessage::Aleph { .. }
        | PeerMessage::Wake { .. }
        | PeerMessage::Rest { .. }
        | PeerMessage::RequestUnits { .. }
        | PeerMessage::Units { .. } => {
            let _ = inner.ordering.send((peer.id, message)).await;
        }
        PeerMessage::Ceremony(_) => {
            let _ = inner.ceremony.try_send((peer.id, message));
        }
        PeerMessage::Position { session, epoch, .. } => {
            peer.state.lock().position = Some((*session, *epoch));
            let _ = inner.sessions.try_send((peer.id, message));
        }
        PeerMessage::HeaderSignature { .. }
        | PeerMessage::RequestOutcome { .. }
        | PeerMessage::NoOutcome { .. }
        | PeerMessage::Outcome(_) => {
            let _ = inner.sessions.try_send((peer.id, message));
        }
    }
}

/// Writes what is queued until the connection is replaced or everything is shut
/// down; in the latter case what is queued is still sent.
async fn write_all(
    inner: &Inner,
    peer: &Peer,
    connection: u64,
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut shutdown = inner.shutdown.subscribe();
    loop {
        let batch = tokio::select! {
            biased;
            batch = peer.queue.next(connection) => batch,
            () = wait_down(&mut shutdown) => return writer.shutdown().await,
        };
        let batch = batch.map_err(|ended| match ended {
            Ended::Replaced => io::Error::other("another connection took its place"),
            Ended::Failed(reason) => io::Error::new(io::ErrorKind::InvalidData, reason),
        })?;
        for part in batch.iter().flat_map(|frame| frame.chunks(1 << 20)) {
            in_time(writer.write_all(part)).await?;
            peer.sent.inc_by(part.len() as u64);
        }
        in_time(writer.flush()).await?;
    }
}

async fn in_time(writing: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let stalls = |_| {
        let reason = "it does not read what it is sent";
        io::Error::new(io::ErrorKind::InvalidData, reason)
    };
    timeout(WRITE_PATIENCE, writing).await.map_err(stalls)?
}

async fn wait_down(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|down| *down).await;
}
