//! Four guardians in one process. Messages go through channels, and one list, the
//! same for all, stands for consensus.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use modmint_core::{
    BundleHash, Hash32,
    config::{BaseFee, BlockId, Network, PeerConfig, PlannedModule, SessionLimits},
    consensus::OrderedUnit,
};
use modmint_crypto::tbs::{self, SignedBlinding, TbsCheck};
use modmint_runtime::{KeySpec, Signable};
use tokio::task::JoinHandle;

use super::*;
use crate::identity::Identity;

const GUARDIANS: u16 = 4;

/// Between a guardian and the others: may change, or drop (none), what it sends.
type Tamper = Arc<dyn Fn(PeerId, PeerId, Message) -> Option<Message> + Send + Sync>;

struct Net {
    plan: FoundingPlan,
    tamper: Tamper,
    inner: Mutex<Inner>,
}

struct Inner {
    /// What each guardian has saved last.
    disks: Vec<Secrets>,
    messages: Vec<Option<mpsc::Sender<(PeerId, PeerMessage)>>>,
    ordered: Vec<Option<mpsc::Sender<Epoch>>>,
    history: Vec<Epoch>,
    connections: watch::Sender<Vec<u64>>,
}

fn plan(identities: &[Identity]) -> FoundingPlan {
    let peer = |(index, identity): (usize, &Identity)| PeerConfig {
        name: format!("guardian {index}"),
        api_url: format!("http://127.0.0.1:{index}"),
        p2p_address: format!("127.0.0.1:{index}"),
        certificate: identity.certificate.clone(),
        consensus_key: identity.consensus_key(),
    };
    let module = |kind: &str| PlannedModule {
        kind: kind.into(),
        bundle: BundleHash([7; 32]),
        arguments: vec![],
    };
    FoundingPlan {
        name: "a federation".into(),
        network: Network::Regtest,
        peers: identities.iter().enumerate().map(peer).collect(),
        chain_start: BlockId {
            height: 0,
            hash: Hash32([0; 32]),
        },
        finality_depth: 1,
        session: SessionLimits::default(),
        base_fee: BaseFee::default(),
        modules: vec![module("wallet"), module("mint")],
    }
}

fn specs() -> Vec<(InstanceId, Setup)> {
    let key = |label: &str, kind| KeySpec {
        label: label.into(),
        kind,
    };
    let wallet = Setup {
        config: vec![1],
        keys: vec![key("treasury", KeyKind::Multisig)],
    };
    let mint = Setup {
        config: vec![2],
        keys: vec![
            key("1", KeyKind::BlindSignature),
            key("offers", KeyKind::Decryption),
            key("2", KeyKind::BlindSignature),
            key("reserve", KeyKind::Multisig),
        ],
    };
    vec![(InstanceId(0), wallet), (InstanceId(1), mint)]
}

impl Net {
    fn new(
        tamper: impl Fn(PeerId, PeerId, Message) -> Option<Message> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let identities: Vec<_> = (0..GUARDIANS)
            .map(|_| Identity::generate().unwrap())
            .collect();
        let n = usize::from(GUARDIANS);
        Arc::new(Self {
            plan: plan(&identities),
            tamper: Arc::new(tamper),
            inner: Mutex::new(Inner {
                disks: identities.into_iter().map(Secrets::new).collect(),
                messages: vec![None; n],
                ordered: vec![None; n],
                history: Vec::new(),
                connections: watch::Sender::new(vec![0; n]),
            }),
        })
    }

    fn honest() -> Arc<Self> {
        Self::new(|_, _, message| Some(message))
    }

    /// Starts guardian `me` from what is on its disk.
    fn start(
        self: &Arc<Self>,
        me: PeerId,
        patience: Duration,
    ) -> JoinHandle<Result<Outcome, CeremonyError>> {
        let (messages_in, messages) = mpsc::channel(1000);
        let (ordered_in, ordered) = mpsc::channel(1000);
        let mut inner = self.inner.lock();
        for epoch in &inner.history {
            ordered_in.try_send(epoch.clone()).unwrap();
        }
        inner.messages[me.index()] = Some(messages_in);
        inner.ordered[me.index()] = Some(ordered_in);
        let connections = inner.connections.subscribe();
        let secrets = inner.disks[me.index()].clone();
        inner.connections.send_modify(|all| all[me.index()] += 1);
        drop(inner);

        let links = Links {
            world: Arc::new(Seat {
                net: self.clone(),
                me,
            }),
            connections,
            messages,
            ordered,
            patience,
        };
        tokio::spawn(hold(self.plan.clone(), me, secrets, specs(), links))
    }

    fn start_all(self: &Arc<Self>) -> Vec<JoinHandle<Result<Outcome, CeremonyError>>> {
        peers()
            .map(|me| self.start(me, Duration::from_secs(60)))
            .collect()
    }

    fn send(&self, from: PeerId, to: PeerId, bytes: &[u8]) {
        let Some(message) = (self.tamper)(from, to, borsh::from_slice(bytes).unwrap()) else {
            return;
        };
        let message = PeerMessage::Ceremony(borsh::to_vec(&message).unwrap());
        if let Some(receiver) = &self.inner.lock().messages[to.index()] {
            // A guardian that has ended hears nothing any more.
            let _ = receiver.try_send((from, message));
        }
    }

    fn order(&self, creator: PeerId, payload: Vec<u8>) {
        let mut inner = self.inner.lock();
        let epoch = Epoch {
            session: 0,
            index: inner.history.len() as u32,
            units: vec![OrderedUnit { creator, payload }],
        };
        for receiver in inner.ordered.iter().flatten() {
            let _ = receiver.try_send(epoch.clone());
        }
        inner.history.push(epoch);
    }

    fn disk(&self, of: PeerId) -> Secrets {
        self.inner.lock().disks[of.index()].clone()
    }
}

/// One guardian's place at the net.
struct Seat {
    net: Arc<Net>,
    me: PeerId,
}

impl World for Seat {
    fn send(&self, to: PeerId, message: Vec<u8>) {
        self.net.send(self.me, to, &message);
    }

    fn publish(&self, item: Vec<u8>) {
        self.net.order(self.me, item);
    }

    fn settle(&self, _: &[u8]) {}

    fn save(&self, secrets: &Secrets) -> Result<(), SecretsError> {
        self.net.inner.lock().disks[self.me.index()] = secrets.clone();
        Ok(())
    }
}

fn peers() -> impl Iterator<Item = PeerId> {
    (0..GUARDIANS).map(PeerId)
}

async fn all(running: Vec<JoinHandle<Result<Outcome, CeremonyError>>>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for guardian in running {
        outcomes.push(guardian.await.unwrap().expect("a federation"));
    }
    outcomes
}

async fn failures(running: Vec<JoinHandle<Result<Outcome, CeremonyError>>>) -> Vec<CeremonyError> {
    let mut errors = Vec::new();
    for guardian in running {
        errors.push(guardian.await.unwrap().err().expect("no federation"));
    }
    errors
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_guardians_found_a_federation_whose_keys_work() {
    let net = Net::honest();
    let outcomes = all(net.start_all()).await;
    let config = &outcomes[0].config;
    for outcome in &outcomes {
        assert_eq!(outcome.config.encode(), config.encode());
        assert!(signed_by_all(config, &outcome.signatures));
        assert_eq!(outcome.secrets.shares.len(), 5);
    }
    let mut wrong = outcomes[0].signatures.clone();
    wrong.swap(0, 1);
    assert!(!signed_by_all(config, &wrong));
    assert!(!signed_by_all(config, &wrong[1..]));

    let mint = config.instance(InstanceId(1)).unwrap();
    let key = &mint.keys[2];
    assert_eq!(
        (key.label.as_str(), key.kind),
        ("2", KeyKind::BlindSignature)
    );
    let (message, factor) = (b"a note", [9; 32]);
    let what = Signable {
        label: "2".into(),
        message: tbs::blind(message, &factor).to_vec(),
        terms: vec![],
    };
    let shares: Vec<_> = [3u16, 0, 2]
        .into_iter()
        .map(|peer| {
            let keys = &outcomes[usize::from(peer)].secrets.shares;
            (peer, keys.share(mint.id, &what).unwrap())
        })
        .collect();
    let group_key = &key.public_keys[0].0;
    let signature = tbs::unblind(&[SignedBlinding {
        message,
        factor: &factor,
        group_key,
        share_keys: &key.share_keys,
        shares: &shares,
        threshold: config.threshold(),
    }])
    .unwrap()[0];
    assert!(tbs::verify(&TbsCheck {
        public_key: group_key,
        message,
        signature: &signature,
    }));

    let treasury = &config.instances[0].keys[0];
    let what = Signable {
        label: "treasury".into(),
        message: vec![3; 64],
        terms: vec![],
    };
    for (outcome, key) in outcomes.iter().zip(&treasury.public_keys) {
        let signature = outcome.secrets.shares.share(InstanceId(0), &what).unwrap();
        let tweaked = secp::tweak_public_key(&key.0, &[3; 32]).unwrap();
        assert!(secp::verify_ecdsa(&tweaked, &[3; 32], &signature));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_ends_with_the_share_of_another_or_with_a_seed() {
    let net = Net::honest();
    let outcomes = all(net.start_all()).await;
    let shares: Vec<Vec<u8>> = outcomes
        .iter()
        .map(|outcome| borsh::to_vec(&outcome.secrets.shares).unwrap())
        .collect();
    for (mine, outcome) in shares.iter().zip(&outcomes) {
        let secrets = borsh::to_vec(&outcome.secrets.ceremony).unwrap();
        assert!(matches!(
            outcome.secrets.ceremony.as_ref().unwrap().stage,
            Stage::Founded { .. }
        ));
        // Every key's secret follows its public key: compare what stands in both.
        for theirs in shares.iter().filter(|theirs| *theirs != mine) {
            assert!(!shares_a_secret(mine, theirs));
            assert!(!shares_a_secret(&secrets, theirs));
        }
    }
    assert_eq!(
        shares.iter().filter(|share| **share == shares[0]).count(),
        1
    );
}

/// Whether a secret of `theirs` stands anywhere in `mine`.
fn shares_a_secret(mine: &[u8], theirs: &[u8]) -> bool {
    let theirs: std::collections::BTreeMap<(InstanceId, String), KeyShare> =
        borsh::from_slice(theirs).unwrap();
    assert_eq!(theirs.len(), 5);
    theirs
        .values()
        .any(|key| mine.windows(32).any(|window| window == key.secret.0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dealer_of_a_bad_share_is_named_by_everybody() {
    let net = Net::new(|from, to, mut message| {
        if let Message::Dealing { shares, .. } = &mut message
            && (from, to) == (PeerId(2), PeerId(1))
        {
            shares[1].0[31] ^= 1;
        }
        Some(message)
    });
    for (me, error) in peers().zip(failures(net.start_all()).await) {
        let text = error.to_string();
        match error {
            CeremonyError::BadDealing { dealer, fault } => {
                assert_eq!((me, dealer, fault), (PeerId(1), PeerId(2), Fault::Share));
            }
            CeremonyError::Refused { by, dealer, fault } => {
                assert_ne!(me, PeerId(1));
                assert_eq!((by, dealer, fault), (PeerId(1), PeerId(2), Fault::Share));
            }
            _ => panic!("{text}"),
        }
        assert!(text.contains("guardian 2"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_multisig_key_that_was_copied_from_another_guardian_is_refused() {
    let stolen = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&stolen);
    let net = Net::new(move |from, _, mut message| {
        if let Message::Dealing { public, .. } = &mut message {
            let mut decoded: Public = borsh::from_slice(public).unwrap();
            if from == PeerId(0) {
                *stolen.lock() = Some(decoded.multisig[0]);
            } else if from == PeerId(3)
                && let Some(stolen) = *stolen.lock()
            {
                decoded.multisig[0] = stolen;
                *public = borsh::to_vec(&decoded).unwrap();
            }
        }
        Some(message)
    });
    let early = net.start(PeerId(0), Duration::from_secs(60));
    let second = net.start(PeerId(1), Duration::from_secs(60));
    while seen.lock().is_none() {
        tokio::task::yield_now().await;
    }
    let others = [PeerId(2), PeerId(3)].map(|me| net.start(me, Duration::from_secs(60)));
    let running = [early, second].into_iter().chain(others).collect();
    for error in failures(running).await {
        let text = error.to_string();
        assert!(text.contains("guardian 3"), "{text}");
        assert!(text.contains("possession"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dealer_who_shows_guardians_different_dealings_gets_no_federation() {
    // Guardian 2 shows guardian 1 the dealing of another seed, right in itself.
    let other = SecretBytes([9; 32]);
    let agenda: Arc<Mutex<Option<Arc<Agenda>>>> = Arc::default();
    let for_tamper = agenda.clone();
    let net = Net::new(move |from, to, message| {
        if matches!(message, Message::Dealing { .. }) && (from, to) == (PeerId(2), PeerId(1)) {
            let agenda = for_tamper.lock().clone().unwrap();
            let Received { public, shares } = Own::new(&agenda, from, &other).for_guardian(to);
            return Some(Message::Dealing { public, shares });
        }
        Some(message)
    });
    *agenda.lock() = Some(Arc::new(Agenda::new(net.plan.clone(), specs()).unwrap()));
    let running = peers()
        .map(|me| net.start(me, Duration::from_secs(4)))
        .collect();
    for (me, error) in peers().zip(failures(running).await) {
        let CeremonyError::Missing { missing, .. } = error else {
            panic!("{error}");
        };
        // Its ack is of something else at the dealer's; the others wait for the dealer.
        let expected = if me == PeerId(2) {
            (PeerId(1), Awaited::Ack)
        } else {
            (PeerId(2), Awaited::Posting)
        };
        assert_eq!(missing, [expected]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_that_is_absent_is_named() {
    let net = Net::honest();
    let running = (0..3)
        .map(|me| net.start(PeerId(me), Duration::from_secs(4)))
        .collect();
    for error in failures(running).await {
        let text = error.to_string();
        let CeremonyError::Missing { missing, .. } = error else {
            panic!("{text}");
        };
        assert_eq!(missing, [(PeerId(3), Awaited::Dealing)]);
        assert!(text.contains("guardian 3 has sent no dealing"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_that_somebody_else_signed_pin_nothing() {
    let net = Net::honest();
    let running = [0, 1, 3].map(|me| net.start(PeerId(me), Duration::from_secs(60)));
    let item = Item::Posted {
        public: [0; 32],
        acks: vec![[1; 64]; 4],
    };
    net.order(PeerId(2), borsh::to_vec(&item).unwrap());
    net.order(PeerId(2), b"no item at all".to_vec());
    let last = net.start(PeerId(2), Duration::from_secs(60));
    for error in failures(running.into_iter().chain([last]).collect()).await {
        let text = error.to_string();
        assert!(
            matches!(
                error,
                CeremonyError::BadPosting {
                    dealer: PeerId(2),
                    source: PinError::Ack(0)
                }
            ),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_killed_behind_each_write_goes_on_and_there_is_one_config() {
    for writes in 1..=3 {
        let net = Net::honest();
        let running: Vec<_> = [0, 1, 3]
            .map(|me| net.start(PeerId(me), Duration::from_secs(60)))
            .into();
        let first = net.start(PeerId(2), Duration::from_secs(60));
        let stage = |secrets: &Secrets| match &secrets.ceremony {
            None => 0,
            Some(CeremonyRecord { stage, .. }) => match stage {
                Stage::Dealing { .. } => 1,
                Stage::Dealt { .. } => 2,
                Stage::Founded { .. } => 3,
            },
        };
        while stage(&net.disk(PeerId(2))) < writes {
            tokio::task::yield_now().await;
        }
        first.abort();
        let _ = first.await;
        let again = net.start(PeerId(2), Duration::from_secs(60));
        let outcomes = all(running.into_iter().chain([again]).collect()).await;
        for outcome in &outcomes {
            assert_eq!(outcome.config.id(), outcomes[0].config.id());
            assert!(signed_by_all(&outcome.config, &outcome.signatures));
        }
        let shares = |outcome: &Outcome| borsh::to_vec(&outcome.secrets.shares).unwrap();
        assert_eq!(
            outcomes[3].secrets.shares.len(),
            5,
            "the shares are there after the restart"
        );
        assert_eq!(
            shares(&outcomes[3]),
            borsh::to_vec(&net.disk(PeerId(2)).shares).unwrap()
        );
    }
}

#[tokio::test]
async fn a_plan_whose_modules_were_not_all_configured_is_refused() {
    let net = Net::honest();
    assert!(matches!(
        Agenda::new(net.plan.clone(), specs()[..1].to_vec()),
        Err(CeremonyError::Plan(_))
    ));
    let mut twice = specs();
    twice[1].1.keys[0].label = "2".into();
    assert!(matches!(
        Agenda::new(net.plan.clone(), twice),
        Err(CeremonyError::Plan(_))
    ));
}

#[test]
fn garbage_from_a_peer_is_no_message_and_costs_nothing() {
    // Lengths that claim more than there is must not be believed.
    let mut claims_much = vec![0];
    claims_much.extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(borsh::from_slice::<Message>(&claims_much).is_err());
    assert!(borsh::from_slice::<Message>(&[]).is_err());
    assert!(borsh::from_slice::<Item>(&[9]).is_err());
}

#[test]
fn a_payload_is_work_until_it_is_ordered() {
    let queue = PayloadQueue::new();
    assert!(!queue.has_work());
    queue.push(vec![1, 2, 3]);
    assert!(queue.has_work());
    assert_eq!(queue.take(1, 100), None);
    assert_eq!(queue.take(0, 2), None);
    assert_eq!(queue.take(0, 100), Some(vec![1, 2, 3]));
    assert_eq!(queue.take(0, 100), None);
    assert!(queue.has_work());
    queue.settle(&[1, 2, 3]);
    assert!(!queue.has_work());
}
