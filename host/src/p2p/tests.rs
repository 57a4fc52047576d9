//! Real sockets on loopback, and strangers at the door.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::{net::Ipv4Addr, sync::atomic::AtomicUsize, time::Instant};

use borsh::BorshDeserialize;
use modmint_core::Hash32;
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::{loopback, metrics::Peers};

const PATIENCE: Duration = Duration::from_secs(20);

struct Guardians {
    peers: Vec<PeerConfig>,
    keys: Vec<Vec<u8>>,
    listen: Vec<SocketAddr>,
}

fn guardians(count: usize) -> Guardians {
    let mut guardians = Guardians {
        peers: vec![],
        keys: vec![],
        listen: loopback::addresses(count),
    };
    for me in 0..count {
        let made = rcgen::generate_simple_self_signed(vec!["guardian".into()]).unwrap();
        guardians.peers.push(PeerConfig {
            name: format!("guardian {me}"),
            api_url: String::new(),
            p2p_address: guardians.listen[me].to_string(),
            certificate: made.cert.der().to_vec(),
            consensus_key: modmint_core::PublicKey([2; 33]),
        });
        guardians.keys.push(made.signing_key.serialize_der());
    }
    guardians
}

impl Guardians {
    fn setup(&self, me: usize) -> P2pSetup {
        P2pSetup {
            me: PeerId(me as u16),
            peers: self.peers.clone(),
            certificate: self.peers[me].certificate.clone(),
            tls_key: self.keys[me].clone().into(),
            listen: self.listen[me],
            tag: [7; 32],
            runtime_hash: [1; 32],
        }
    }

    fn start(&self, me: usize) -> (Arc<P2p>, P2pReceivers) {
        P2p::start(self.setup(me)).unwrap()
    }

    /// A connection to `to` that shows the certificate of `from`, before any hello.
    async fn connect(&self, from: usize, to: usize) -> tokio_rustls::client::TlsStream<TcpStream> {
        let own = tls::Credentials {
            certificate: &self.peers[from].certificate,
            key: &self.keys[from],
        };
        let peer = CertificateDer::from(self.peers[to].certificate.clone());
        let connector = tls::connector(&own, peer).unwrap();
        let stream = TcpStream::connect(self.listen[to]).await.unwrap();
        connector.connect(tls::server_name(), stream).await.unwrap()
    }
}

async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn is_connected(p2p: &P2p, to: u16) -> bool {
    let status = p2p.status();
    status
        .iter()
        .any(|peer| peer.peer == PeerId(to) && peer.connected)
}

async fn wait_connected(p2p: &P2p, to: u16) {
    wait_for("a connection", || is_connected(p2p, to)).await;
}

async fn receive(receiver: &mut mpsc::Receiver<(PeerId, PeerMessage)>) -> (PeerId, PeerMessage) {
    timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap()
}

/// Reads until the other side has closed the connection.
async fn wait_closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut rest = vec![];
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap();
}

fn wake(session: u64) -> PeerMessage {
    PeerMessage::Wake { session }
}

fn position(session: u64, epoch: u32) -> PeerMessage {
    PeerMessage::Position {
        session,
        epoch,
        state_root: Hash32([0; 32]),
    }
}

#[tokio::test]
async fn messages_arrive_in_order_with_their_senders_name_at_who_reads_them() {
    let all = guardians(2);
    let (zero, _zero_in) = all.start(0);
    let (one, mut one_in) = all.start(1);
    wait_connected(&zero, 1).await;
    wait_connected(&one, 0).await;
    for session in 0..100 {
        zero.send(PeerId(1), wake(session));
    }
    zero.broadcast(&position(3, 4));
    let long = PeerMessage::Aleph {
        session: 1,
        bytes: vec![5; 40 << 20],
    };
    zero.broadcast(&long);
    for session in 0..100 {
        assert_eq!(
            receive(&mut one_in.ordering).await,
            (PeerId(0), wake(session))
        );
    }
    assert_eq!(receive(&mut one_in.ordering).await, (PeerId(0), long));
    assert_eq!(
        receive(&mut one_in.sessions).await,
        (PeerId(0), position(3, 4))
    );
    assert_eq!(one.status()[0].position, Some((3, 4)));
    // To oneself and to nobody: nothing happens.
    zero.send(PeerId(0), wake(1));
    zero.send(PeerId(9), wake(1));
    zero.shutdown().await;
    wait_for("the disconnection", || !is_connected(&one, 0)).await;
}

#[tokio::test]
async fn ceremony_messages_wait_for_a_connection_and_others_do_not() {
    let all = guardians(2);
    let (zero, _zero_in) = all.start(0);
    zero.broadcast(&wake(1));
    zero.broadcast(&PeerMessage::Ceremony(vec![1]));
    let (_one, mut one_in) = all.start(1);
    wait_connected(&zero, 1).await;
    zero.broadcast(&wake(2));
    assert_eq!(
        receive(&mut one_in.ceremony).await,
        (PeerId(0), PeerMessage::Ceremony(vec![1]))
    );
    assert_eq!(receive(&mut one_in.ordering).await, (PeerId(0), wake(2)));
}

#[tokio::test]
async fn a_guardian_that_comes_back_is_connected_again() {
    let all = guardians(2);
    let (zero, _zero_in) = all.start(0);
    for session in 0..3 {
        let (one, mut one_in) = all.start(1);
        wait_connected(&zero, 1).await;
        wait_connected(&one, 0).await;
        zero.broadcast(&wake(session));
        assert_eq!(
            receive(&mut one_in.ordering).await,
            (PeerId(0), wake(session))
        );
        one.shutdown().await;
        wait_for("the disconnection", || !is_connected(&zero, 1)).await;
    }
    assert_eq!(zero.problems(), Vec::<String>::new());
}

#[tokio::test]
async fn what_shutdown_finds_queued_is_sent() {
    let all = guardians(2);
    let (zero, _zero_in) = all.start(0);
    let (_one, mut one_in) = all.start(1);
    wait_connected(&zero, 1).await;
    for session in 0..1000 {
        zero.broadcast(&wake(session));
    }
    zero.shutdown().await;
    for session in 0..1000 {
        assert_eq!(
            receive(&mut one_in.ordering).await,
            (PeerId(0), wake(session))
        );
    }
}

#[tokio::test]
async fn hostile_bytes_drop_their_connection_and_no_other() {
    let all = guardians(3);
    let (one, mut one_in) = all.start(1);
    let (two, _two_in) = all.start(2);
    wait_connected(&one, 2).await;
    wait_connected(&two, 1).await;
    let before = two.connections().borrow()[1];

    // No TLS at all.
    let mut stream = TcpStream::connect(all.listen[1]).await.unwrap();
    stream.write_all(&[0xff; 4096]).await.unwrap();
    wait_closed(&mut stream).await;

    // A certificate that nobody knows.
    let strangers = guardians(3);
    let stranger = tls::Credentials {
        certificate: &strangers.peers[0].certificate,
        key: &strangers.keys[0],
    };
    let peer = CertificateDer::from(all.peers[1].certificate.clone());
    let connector = tls::connector(&stranger, peer).unwrap();
    let stream = TcpStream::connect(all.listen[1]).await.unwrap();
    if let Ok(mut stream) = connector.connect(tls::server_name(), stream).await {
        wait_closed(&mut stream).await;
    }

    // A guardian's certificate without its key.
    let thief = tls::Credentials {
        certificate: &all.peers[0].certificate,
        key: &strangers.keys[0],
    };
    let peer = CertificateDer::from(all.peers[1].certificate.clone());
    assert!(
        tls::connector(&thief, peer).is_err(),
        "rustls itself refuses to show it"
    );

    // A guardian, with hellos that are none.
    for hello in [vec![], vec![1; 100], vec![0; 4096]] {
        let mut stream = all.connect(0, 1).await;
        stream.write_u32_le(hello.len() as u32).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        wait_closed(&mut stream).await;
    }

    // A guardian that says hello, and then announces too much, nothing, or
    // sends what cannot be decoded.
    let too_long = (MAX_FRAME_BYTES as u32 + 1).to_le_bytes().to_vec();
    let undecodable = [&5u32.to_le_bytes()[..], &[99; 5]].concat();
    let mut long_message = ((MAX_MESSAGE_BYTES + 1) as u32).to_le_bytes().to_vec();
    long_message.resize(4 + MAX_MESSAGE_BYTES + 1, 6);
    let all_bad = [too_long, vec![0; 4], undecodable, long_message];
    for (times, bytes) in (1..).zip(all_bad) {
        let mut stream = all.connect(0, 1).await;
        let length = stream.read_u32_le().await.unwrap();
        let mut hello = vec![0; length as usize];
        stream.read_exact(&mut hello).await.unwrap();
        // Guardian 1's own hello, with which 0 is as welcome.
        stream.write_u32_le(length).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        wait_connected(&one, 0).await;
        let _ = stream.write_all(&bytes).await;
        wait_closed(&mut stream).await;
        wait_for("the hostile connection's end", || !is_connected(&one, 0)).await;
        let seen = one.status().swap_remove(0);
        assert_eq!((seen.peer, seen.drops), (PeerId(0), times));
        assert!(seen.last_drop.is_some());
    }

    assert_eq!(two.connections().borrow()[1], before, "it still stands");
    two.broadcast(&wake(1));
    assert_eq!(receive(&mut one_in.ordering).await, (PeerId(2), wake(1)));
    // And the guardian that was impersonated by its own key is taken back.
    let (zero, _zero_in) = all.start(0);
    wait_connected(&zero, 1).await;
}

#[tokio::test]
async fn guardians_of_another_federation_or_runtime_are_refused_and_named() {
    let all = guardians(3);
    let (zero, _zero_in) = all.start(0);
    let (one, _one_in) = P2p::start(P2pSetup {
        tag: [8; 32],
        ..all.setup(1)
    })
    .unwrap();
    let (two, _two_in) = P2p::start(P2pSetup {
        runtime_hash: [2; 32],
        ..all.setup(2)
    })
    .unwrap();
    let says = |p2p: &P2p, name: &str, reason: &str| {
        p2p.problems()
            .iter()
            .any(|problem| problem.contains(name) && problem.contains(reason))
    };
    wait_for("refusals", || {
        says(&zero, "guardian 1", "federation")
            && says(&zero, "guardian 2", "0202020202020202")
            && says(&one, "guardian 0", "federation")
            && says(&two, "guardian 0", "runtime")
    })
    .await;
    assert!(zero.status().iter().all(|peer| !peer.connected));
    // Once it runs the right thing all is well.
    two.shutdown().await;
    let (_two, _two_in) = all.start(2);
    wait_connected(&zero, 2).await;
    assert!(!says(&zero, "guardian 2", ""));
}

#[tokio::test]
async fn a_guardian_that_runs_twice_is_noticed() {
    let all = guardians(2);
    let (one, _one_in) = all.start(1);
    let hello = |instance: u8| {
        let mut hello = b"modmint p2p v1\0\0".to_vec();
        hello.extend([7; 32]);
        hello.extend([1; 32]);
        hello.extend([instance; 16]);
        hello
    };
    let mut streams = vec![];
    for instance in [1, 2, 1] {
        assert_eq!(one.problems(), Vec::<String>::new());
        let before = one.connections().borrow()[0];
        let mut stream = all.connect(0, 1).await;
        let hello = hello(instance);
        stream.write_u32_le(hello.len() as u32).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        wait_for("the connection to be replaced", || {
            one.connections().borrow()[0] > before
        })
        .await;
        streams.push(stream);
    }
    assert!(one.problems()[0].contains("guardian 0 seems to run twice"));
}

/// Strangers from many addresses that connect, say nothing, and come again when they are
/// hung up on, which is counted, until the set is dropped.
fn besiege(to: SocketAddr, hung_up: &Arc<AtomicUsize>) -> JoinSet<()> {
    let mut strangers = JoinSet::new();
    for number in 0..128 {
        let hung_up = Arc::clone(hung_up);
        let from = SocketAddr::from((Ipv4Addr::new(127, 255, 0, 1 + number / 4), 0));
        strangers.spawn(async move {
            loop {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(from).unwrap();
                if let Ok(mut stream) = socket.connect(to).await {
                    let _ = stream.read_u8().await;
                    hung_up.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    strangers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_hold_all_places_and_come_again_keep_no_guardian_out() {
    for is_known in [false, true] {
        let mut all = guardians(2);
        if is_known {
            // Where connections of this machine come from.
            all.peers[0].p2p_address = "127.0.0.1:1".into();
        }
        let (_one, _one_in) = all.start(1);
        let hung_up = Arc::default();
        let _strangers = besiege(all.listen[1], &hung_up);
        wait_for("all places to be taken", || {
            hung_up.load(Ordering::Relaxed) > 0
        })
        .await;
        let (zero, _zero_in) = all.start(0);
        for _ in 0..3 {
            wait_connected(&zero, 1).await;
            let before = zero.connections().borrow()[1];
            zero.cut();
            wait_for("another connection", || {
                let now = zero.connections().borrow()[1];
                now != 0 && now != before
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_guardian_that_floods_is_held_to_a_rate() {
    let all = guardians(2);
    let (zero, _zero_in) = all.start(0);
    let (_one, mut one_in) = all.start(1);
    wait_connected(&zero, 1).await;
    let started = Instant::now();
    for session in 0..30_000 {
        zero.broadcast(&wake(session));
    }
    for session in 0..30_000 {
        assert_eq!(receive(&mut one_in.ordering).await.1, wake(session));
    }
    assert!(
        started.elapsed() > Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_guardian_that_is_dropped_is_named_and_may_come_back() {
    let all = guardians(3);
    let (one, _one_in) = all.start(1);
    let (two, mut two_in) = all.start(2);
    wait_connected(&one, 2).await;
    wait_connected(&two, 1).await;
    let before = one.connections().borrow()[2];
    one.drop_peer(PeerId(2), "it says what cannot be");
    wait_for("another connection", || {
        let now = one.connections().borrow()[2];
        now != 0 && now != before
    })
    .await;
    let seen = one.status().swap_remove(1);
    assert_eq!(seen.drops, 1);
    assert_eq!(seen.last_drop.as_deref(), Some("it says what cannot be"));
    assert_eq!(
        two.status().swap_remove(1).drops,
        0,
        "the other did nothing"
    );
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Peers(one.clone())));
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry).unwrap();
    for (peer, times) in [(0, 0), (2, 1)] {
        let line = format!("p2p_drops_total{{peer=\"{peer}\"}} {times}\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    one.broadcast(&wake(3));
    assert_eq!(receive(&mut two_in.ordering).await, (PeerId(1), wake(3)));
}

#[tokio::test]
async fn certificates_that_cannot_tell_guardians_apart_are_refused() {
    let mut all = guardians(2);
    all.peers[1].certificate = all.peers[0].certificate.clone();
    let same = P2p::start(all.setup(0));
    assert!(matches!(
        same.err(),
        Some(P2pError::SameCertificate(PeerId(0), PeerId(1)))
    ));
    let all = guardians(2);
    let nobody = P2p::start(P2pSetup {
        me: PeerId(2),
        ..all.setup(1)
    });
    assert!(matches!(
        nobody.err(),
        Some(P2pError::NoSuchGuardian { .. })
    ));
}

#[test]
fn messages_survive_being_frames() {
    let messages = [
        wake(1),
        position(1, 2),
        PeerMessage::Aleph {
            session: 1,
            bytes: vec![1, 2, 3],
        },
        PeerMessage::RequestOutcome {
            session: 1,
            from_epoch: 2,
        },
    ];
    for message in messages {
        let bytes = frame::encode(&message);
        let (length, body) = bytes.split_at(4);
        assert_eq!(u32::try_from_slice(length).unwrap() as usize, body.len());
        assert_eq!(frame::decode(body).unwrap(), message);
    }
}
