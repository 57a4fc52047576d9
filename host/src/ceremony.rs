//! The founding ceremony: from a plan that all guardians hold to a config that
//! all have signed, and to keys of which each guardian has its share and nobody
//! the whole. It runs over the guardians' own network and session 0 of ordering.
//!
//! What is dealt and how it is checked is `modmint_crypto::dealing`; here is who
//! sends what to whom, and when:
//!
//! 1. Each guardian, as a dealer, sends each other one its commitments, the
//!    public keys of its multisig keys with proofs that it has their secrets, and
//!    that guardian's shares.
//! 2. Who has got and checked the dealings of all writes them down, sealed, and
//!    only then sends each dealer its *ack*.
//! 3. Who has the acks of all posts them, with the hash of what it has made
//!    public, through consensus. Everybody checks. Somebody who was shown another
//!    dealing has acknowledged another hash.
//! 4. With the postings of all the keys are known. Each guardian signs the config
//!    and posts that signature; the federation is founded when those of all are
//!    there.
//!
//! At founding everybody must take part: whoever is missing is named, and a bad
//! dealing ends the ceremony at everybody's. What a guardian deals follows from a
//! seed that it has written down before it sends anything, and it acknowledges one
//! dealing of each dealer: so a guardian may be stopped at any time and go on with
//! the same messages, and one plan never makes two configs.

use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Duration};

use borsh::{BorshDeserialize, BorshSerialize};
use modmint_core::{
    FederationId, InstanceId, KeyKind, PeerId, PublicKey,
    config::{FederationConfig, FoundingPlan, HexBytes, InstanceConfig, InstanceKey},
    tagged_hash, threshold,
};
use modmint_crypto::{
    SecretShare,
    dealing::{
        Dealer, Dealing, PinError, Posting, ThresholdKind, ack_hash, group_keys, sum_shares,
    },
    secp,
};
use modmint_runtime::Setup;
use parking_lot::Mutex;
use rand::{RngCore, rngs::OsRng};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};
use zeroize::Zeroizing;

use crate::{
    keys::{
        CeremonyRecord, KeyShare, KeyShares, Received, SecretBytes, Secrets, SecretsError, Stage,
    },
    ordering::{Epoch, PayloadSource},
    p2p::{P2p, PeerMessage},
};

#[cfg(test)]
mod tests;

/// How long nothing may happen before the ceremony ends and names who is missing.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often the log says who is waited for.
const REMINDER: Duration = Duration::from_secs(10);

/// What a ceremony needs.
pub struct CeremonySetup {
    /// What all guardians have agreed upon.
    pub plan: FoundingPlan,
    /// This guardian's place in it.
    pub me: PeerId,
    /// This guardian's secrets; what the ceremony must not forget is added.
    pub secrets: Secrets,
    /// Where they are kept.
    pub secrets_path: PathBuf,
    /// The password that they are sealed under.
    pub password: Zeroizing<String>,
    /// What `configure` made of each module of the plan, in the plan's order.
    pub specs: Vec<(InstanceId, Setup)>,
    /// To the other guardians.
    pub p2p: Arc<P2p>,
    /// From the other guardians: `P2pReceivers::ceremony`.
    pub messages: mpsc::Receiver<(PeerId, PeerMessage)>,
    /// What goes into session 0.
    pub payloads: Arc<PayloadQueue>,
    /// What comes out of session 0, from its beginning.
    pub ordered: mpsc::Receiver<Epoch>,
}

/// What goes into session 0: this guardian's items, one a unit.
#[derive(Default)]
pub struct PayloadQueue {
    state: Mutex<Queue>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Vec<u8>>,
    /// In a unit, and not yet ordered.
    taken: Vec<Vec<u8>>,
}

impl PayloadQueue {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn push(&self, payload: Vec<u8>) {
        self.state.lock().waiting.push_back(payload);
        self.changed.notify_one();
    }

    /// This payload of ours has been ordered.
    fn settle(&self, payload: &[u8]) {
        self.state.lock().taken.retain(|taken| taken != payload);
    }
}

impl PayloadSource for PayloadQueue {
    fn take(&self, session: u64, max_bytes: usize) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        if session != 0 || state.waiting.front()?.len() > max_bytes {
            return None;
        }
        let payload = state.waiting.pop_front()?;
        state.taken.push(payload.clone());
        Some(payload)
    }

    fn has_work(&self) -> bool {
        let state = self.state.lock();
        !state.waiting.is_empty() || !state.taken.is_empty()
    }

    fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }
}

/// What a ceremony ends with.
pub struct Outcome {
    /// The same for all.
    pub config: FederationConfig,
    /// All guardians' signatures of it, in their order.
    pub signatures: Vec<(PeerId, HexBytes)>,
    /// This guardian's secrets, its key shares among them; saved already.
    pub secrets: Secrets,
}

/// Why there is no federation yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CeremonyError {
    /// The plan and what its modules ask for do not belong together.
    #[error("the plan cannot be carried out: {0}")]
    Plan(String),
    /// This guardian's secrets cannot be written.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// A dealer did wrong, as this guardian has seen.
    #[error("guardian {dealer} dealt badly: {fault}; the ceremony ends, begin another without it")]
    BadDealing {
        /// Who.
        dealer: PeerId,
        /// How.
        fault: Fault,
    },
    /// A dealer did wrong, as another guardian says.
    #[error(
        "guardian {by} says that guardian {dealer} dealt badly ({fault}): one of the two is at fault; the ceremony ends"
    )]
    Refused {
        /// Who says so.
        by: PeerId,
        /// Of whom.
        dealer: PeerId,
        /// What is said.
        fault: Fault,
    },
    /// A dealer posted what does not pin its dealing.
    #[error("guardian {dealer} posted a dealing that is not complete: {source}; the ceremony ends")]
    BadPosting {
        /// Who.
        dealer: PeerId,
        /// Why not.
        source: PinError,
    },
    /// A guardian has come to another config.
    #[error(
        "guardian {peer} signed the config {theirs}, this guardian came to {ours}: they must run different programs or bundles"
    )]
    OtherConfig {
        /// Who.
        peer: PeerId,
        /// Its config's id.
        theirs: FederationId,
        /// Ours.
        ours: FederationId,
    },
    /// A guardian's signature of the config is none.
    #[error("guardian {0}'s signature of the config is not its own")]
    BadSignature(PeerId),
    /// Nothing has happened for long.
    #[error("the ceremony waited {} s in vain: {}; see that they run and reach each other, then run again: it goes on where it was", waited.as_secs(), list(missing))]
    Missing {
        /// How long.
        waited: Duration,
        /// For whom, and for what of them.
        missing: Vec<(PeerId, Awaited)>,
    },
    /// The network or ordering has ended.
    #[error("the guardians' network has ended before the ceremony")]
    NetworkEnded,
}

fn list(missing: &[(PeerId, Awaited)]) -> String {
    let one = |(peer, what): &(PeerId, Awaited)| format!("guardian {peer} {what}");
    missing.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What is wrong with a dealing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It is not what a dealing of this plan looks like.
    #[error("its dealing is malformed")]
    Malformed,
    /// The shares are not those that the commitments pin.
    #[error("its shares do not fit its commitments")]
    Share,
    /// It has not shown that it has the secret of a multisig key.
    #[error("a proof of possession of a multisig key is wrong")]
    Possession,
    /// It has sent two.
    #[error("it has sent two different dealings")]
    Changed,
}

/// What a guardian is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Awaited {
    /// Its commitments and shares.
    #[error("has sent no dealing")]
    Dealing,
    /// Its ack of this guardian's dealing.
    #[error("has acknowledged no dealing")]
    Ack,
    /// Its dealing in consensus.
    #[error("has posted no dealing")]
    Posting,
    /// Its signature of the config.
    #[error("has not signed the config")]
    Signature,
}

/// Guardian to guardian, within [`PeerMessage::Ceremony`].
#[derive(BorshSerialize, BorshDeserialize)]
enum Message {
    /// `public` is a [`Public`], `shares` are the receiver's.
    Dealing {
        public: Vec<u8>,
        shares: Vec<SecretBytes>,
    },
    /// BIP 340 over `ack_hash`.
    Ack([u8; 64]),
    /// The sender has refused a dealing and ends.
    Refused { dealer: PeerId, fault: Fault },
    /// All guardians' signatures of the config: the sender is done.
    Founded(Vec<[u8; 64]>),
}

/// What everybody may see of a dealing.
#[derive(BorshSerialize, BorshDeserialize)]
struct Public {
    /// A [`Dealing`].
    commitments: Vec<u8>,
    /// The dealer's multisig keys, each with its proof of possession.
    multisig: Vec<(PublicKey, [u8; 64])>,
}

/// Through consensus, one a unit.
#[derive(BorshSerialize, BorshDeserialize)]
enum Item {
    /// The hash of the creator's [`Public`] and the acks of all guardians, in their
    /// order.
    Posted {
        public: [u8; 32],
        acks: Vec<[u8; 64]>,
    },
    /// The creator's signature of the config of this id.
    Signed {
        config: FederationId,
        signature: [u8; 64],
    },
}

/// Holds the ceremony, or ends one that was interrupted.
///
/// # Errors
/// [`CeremonyError`]. The connections to the other guardians are closed then, after
/// they have been told what they need to know.
pub async fn found(setup: CeremonySetup) -> Result<Outcome, CeremonyError> {
    let p2p = setup.p2p;
    let links = Links {
        connections: p2p.connections(),
        messages: setup.messages,
        ordered: setup.ordered,
        patience: PATIENCE,
        world: Arc::new(Guardian {
            p2p: Arc::clone(&p2p),
            payloads: setup.payloads,
            secrets_path: setup.secrets_path,
            password: setup.password,
        }),
    };
    let outcome = hold(setup.plan, setup.me, setup.secrets, setup.specs, links).await;
    if outcome.is_err() {
        p2p.shutdown().await;
    }
    outcome
}

/// What the ceremony does to the world.
trait World: Send + Sync + 'static {
    /// Sends a [`Message`] to another guardian.
    fn send(&self, to: PeerId, message: Vec<u8>);
    /// Has an [`Item`] ordered.
    fn publish(&self, item: Vec<u8>);
    /// An item of this guardian has been ordered.
    fn settle(&self, item: &[u8]);
    /// Writes secrets down; takes a tenth of a second.
    fn save(&self, secrets: &Secrets) -> Result<(), SecretsError>;
}

/// What the ceremony is told of it.
struct Links {
    world: Arc<dyn World>,
    /// See [`P2p::connections`].
    connections: watch::Receiver<Vec<u64>>,
    messages: mpsc::Receiver<(PeerId, PeerMessage)>,
    ordered: mpsc::Receiver<Epoch>,
    patience: Duration,
}

struct Guardian {
    p2p: Arc<P2p>,
    payloads: Arc<PayloadQueue>,
    secrets_path: PathBuf,
    password: Zeroizing<String>,
}

impl World for Guardian {
    fn send(&self, to: PeerId, message: Vec<u8>) {
        self.p2p.send(to, PeerMessage::Ceremony(message));
    }

    fn publish(&self, item: Vec<u8>) {
        self.payloads.push(item);
    }

    fn settle(&self, item: &[u8]) {
        self.payloads.settle(item);
    }

    fn save(&self, secrets: &Secrets) -> Result<(), SecretsError> {
        secrets.save(&self.secrets_path, &self.password)
    }
}

async fn hold(
    plan: FoundingPlan,
    me: PeerId,
    mut secrets: Secrets,
    specs: Vec<(InstanceId, Setup)>,
    mut links: Links,
) -> Result<Outcome, CeremonyError> {
    let agenda = Agenda::new(plan, specs)?;
    if let Some(CeremonyRecord { plan, stage }) = &secrets.ceremony
        && *plan == agenda.id
        && let Stage::Founded { config, signatures } = stage
    {
        return Ok(Outcome {
            config: FederationConfig::clone(config),
            signatures: signatures.clone(),
            secrets,
        });
    }
    let seed = seed(&agenda, &mut secrets, &links).await?;
    let mut ceremony = Ceremony::new(Arc::new(agenda), me, secrets, seed).await?;

    let mut reminder = interval(REMINDER.min(links.patience / 8));
    reminder.set_missed_tick_behavior(MissedTickBehavior::Delay);
    reminder.reset();
    links.connections.mark_changed();
    loop {
        if let Some(outcome) = ceremony.advance(&links).await? {
            return Ok(outcome);
        }
        tokio::select! {
            changed = links.connections.changed() => {
                changed.map_err(|_| CeremonyError::NetworkEnded)?;
                let connections = links.connections.borrow_and_update().clone();
                ceremony.deal(&connections, &links);
            }
            message = links.messages.recv() => {
                let (from, message) = message.ok_or(CeremonyError::NetworkEnded)?;
                if let PeerMessage::Ceremony(bytes) = message {
                    ceremony.hear(from, &bytes, &links).await?;
                }
            }
            epoch = links.ordered.recv() => {
                ceremony.learn(epoch.ok_or(CeremonyError::NetworkEnded)?, &links);
            }
            _ = reminder.tick() => ceremony.remind(links.patience)?,
        }
    }
}

/// The seed of this guardian's dealing, written down before anything is sent.
async fn seed(
    agenda: &Agenda,
    secrets: &mut Secrets,
    links: &Links,
) -> Result<SecretBytes, CeremonyError> {
    if let Some(CeremonyRecord { plan, stage }) = &secrets.ceremony
        && *plan == agenda.id
        && let Stage::Dealing { seed } | Stage::Dealt { seed, .. } = stage
    {
        tracing::info!(%plan, "the ceremony goes on where it was interrupted");
        return Ok(seed.clone());
    }
    let mut seed = SecretBytes([0; 32]);
    OsRng.fill_bytes(&mut seed.0);
    record(
        secrets,
        agenda.id,
        Stage::Dealing { seed: seed.clone() },
        links,
    )
    .await?;
    Ok(seed)
}

async fn record(
    secrets: &mut Secrets,
    plan: FederationId,
    stage: Stage,
    links: &Links,
) -> Result<(), CeremonyError> {
    secrets.ceremony = Some(CeremonyRecord { plan, stage });
    let (world, secrets) = (Arc::clone(&links.world), secrets.clone());
    Ok(blocking(move || world.save(&secrets)).await??)
}

/// Work that takes milliseconds, off the threads that serve the network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CeremonyError> {
    // The only other error is a panic within, which is passed on.
    spawn_blocking(work)
        .await
        .map_err(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => CeremonyError::NetworkEnded,
        })
}

/// What is to be made: the plan and the keys that its modules ask for.
struct Agenda {
    id: FederationId,
    plan: FoundingPlan,
    setups: Vec<Setup>,
    /// In the order of the config.
    keys: Vec<(InstanceId, String, KeyKind)>,
    /// Those of `keys` that are dealt.
    dealt: Vec<ThresholdKind>,
    threshold: usize,
}

impl Agenda {
    fn new(plan: FoundingPlan, specs: Vec<(InstanceId, Setup)>) -> Result<Self, CeremonyError> {
        let in_order = (0..)
            .map(InstanceId)
            .zip(&specs)
            .all(|(id, spec)| id == spec.0);
        if specs.len() != plan.modules.len() || !in_order {
            return Err(CeremonyError::Plan(format!(
                "it has {} modules, and {} were configured",
                plan.modules.len(),
                specs.len()
            )));
        }
        if plan.peers.is_empty() || plan.peers.len() > usize::from(u16::MAX) {
            return Err(CeremonyError::Plan(format!(
                "{} guardians cannot found a federation",
                plan.peers.len()
            )));
        }
        let mut keys: Vec<(InstanceId, String, KeyKind)> = Vec::new();
        for (instance, setup) in &specs {
            for key in &setup.keys {
                let same = |(of, label, _): &(InstanceId, String, KeyKind)| {
                    of == instance && *label == key.label
                };
                if keys.iter().any(same) {
                    return Err(CeremonyError::Plan(format!(
                        "instance {instance} asks for two keys with the label {:?}",
                        key.label
                    )));
                }
                keys.push((*instance, key.label.clone(), key.kind));
            }
        }
        Ok(Self {
            id: plan.id(),
            threshold: threshold(plan.peers.len()),
            dealt: keys
                .iter()
                .filter_map(|(_, _, kind)| ThresholdKind::of(*kind))
                .collect(),
            keys,
            setups: specs.into_iter().map(|(_, setup)| setup).collect(),
            plan,
        })
    }

    fn peers(&self) -> impl Iterator<Item = PeerId> + use<> {
        (0..self.plan.peers.len() as u16).map(PeerId)
    }

    fn consensus_key(&self, peer: PeerId) -> &[u8] {
        self.plan
            .peers
            .get(peer.index())
            .map_or(&[], |peer| &peer.consensus_key.0)
    }

    fn multisig(&self) -> impl Iterator<Item = (InstanceId, &str)> {
        self.keys
            .iter()
            .filter(|(_, _, kind)| *kind == KeyKind::Multisig)
            .map(|(instance, label, _)| (*instance, label.as_str()))
    }

    /// The hash that a dealer's posting and everybody's acks commit to.
    fn public_hash(&self, dealer: PeerId, public: &[u8]) -> [u8; 32] {
        let dealer = dealer.0.to_be_bytes();
        tagged_hash("modmint/ceremony/public", &[&self.id.0, &dealer, public])
    }

    /// What a guardian signs with a multisig key to show that it has its secret.
    fn possession_hash(&self, dealer: PeerId, instance: InstanceId, label: &str) -> [u8; 32] {
        let (dealer, instance) = (dealer.0.to_be_bytes(), instance.0.to_be_bytes());
        tagged_hash(
            "modmint/ceremony/possession",
            &[&self.id.0, &dealer, &instance, label.as_bytes()],
        )
    }

    /// A dealing that has been found good for guardian `receiver`.
    fn check(&self, dealer: PeerId, receiver: PeerId, received: Received) -> Result<Good, Fault> {
        let public: Public = borsh::from_slice(&received.public).map_err(|_| Fault::Malformed)?;
        let dealing = Dealing::decode(&public.commitments, &self.dealt, self.threshold)
            .ok_or(Fault::Malformed)?;
        if public.multisig.len() != self.multisig().count() {
            return Err(Fault::Malformed);
        }
        for ((instance, label), (key, proof)) in self.multisig().zip(&public.multisig) {
            let hash = self.possession_hash(dealer, instance, label);
            if !secp::verify_schnorr(&key.0, &hash, proof) {
                return Err(Fault::Possession);
            }
        }
        let shares: Option<Vec<_>> = received
            .shares
            .iter()
            .map(|share| SecretShare::from_bytes(&share.0))
            .collect();
        let shares = shares.ok_or(Fault::Share)?;
        if !dealing.accepts(receiver.0, &shares) {
            return Err(Fault::Share);
        }
        Ok(Good {
            hash: self.public_hash(dealer, &received.public),
            dealing,
            multisig: public.multisig.into_iter().map(|(key, _)| key).collect(),
            shares,
            received,
        })
    }

    /// The config that these dealings of all guardians make.
    fn config(&self, dealings: &[&Good]) -> Option<FederationConfig> {
        let only_dealings: Vec<&Dealing> = dealings.iter().map(|good| &good.dealing).collect();
        let mut threshold_keys = group_keys(&only_dealings, dealings.len() as u16)?.into_iter();
        let mut multisig_keys = 0..;
        let mut instances: Vec<InstanceConfig> = (0..)
            .zip(self.plan.modules.iter().zip(&self.setups))
            .map(|(id, (module, setup))| InstanceConfig {
                id: InstanceId(id),
                kind: module.kind.clone(),
                bundle: module.bundle,
                config: setup.config.clone(),
                keys: Vec::new(),
            })
            .collect();
        for (instance, label, kind) in &self.keys {
            let (public_keys, share_keys) = match kind {
                KeyKind::Multisig => {
                    let place: usize = multisig_keys.next()?;
                    let of =
                        |good: &&Good| good.multisig.get(place).map(|key| HexBytes(key.0.to_vec()));
                    (dealings.iter().map(of).collect::<Option<_>>()?, Vec::new())
                }
                KeyKind::BlindSignature | KeyKind::Decryption => {
                    let key = threshold_keys.next()?;
                    (vec![key.public_key], key.share_keys)
                }
            };
            instances
                .get_mut(usize::from(instance.0))?
                .keys
                .push(InstanceKey {
                    label: label.clone(),
                    kind: *kind,
                    public_keys,
                    share_keys,
                });
        }
        Some(FederationConfig {
            name: self.plan.name.clone(),
            network: self.plan.network,
            peers: self.plan.peers.clone(),
            chain_start: self.plan.chain_start,
            finality_depth: self.plan.finality_depth,
            session: self.plan.session,
            base_fee: self.plan.base_fee,
            instances,
        })
    }
}

/// A dealing that is right.
struct Good {
    hash: [u8; 32],
    dealing: Dealing,
    multisig: Vec<PublicKey>,
    shares: Vec<SecretShare>,
    received: Received,
}

/// What this guardian deals.
struct Own {
    dealer: Dealer,
    public: Vec<u8>,
    multisig: Vec<SecretBytes>,
}

impl Own {
    fn new(agenda: &Agenda, me: PeerId, seed: &SecretBytes) -> Self {
        let dealer = Dealer::from_seed(&seed.0, &agenda.dealt, agenda.threshold);
        let multisig: Vec<SecretBytes> = agenda
            .multisig()
            .map(|(instance, label)| multisig_secret(seed, instance, label))
            .collect();
        let proven = agenda
            .multisig()
            .zip(&multisig)
            .map(|((instance, label), secret)| {
                let hash = agenda.possession_hash(me, instance, label);
                let key = PublicKey(secp::public_key(&secret.0));
                (key, secp::sign_schnorr(&secret.0, &hash))
            })
            .collect();
        let public = Public {
            commitments: dealer.dealing().encode(),
            multisig: proven,
        };
        Self {
            dealer,
            public: borsh::to_vec(&public).expect("writing to memory does not fail"),
            multisig,
        }
    }

    /// What guardian `receiver` gets.
    fn for_guardian(&self, receiver: PeerId) -> Received {
        let shares = self.dealer.shares(receiver.0);
        let bytes = |share: &SecretShare| SecretBytes(*share.to_bytes());
        Received {
            public: self.public.clone(),
            shares: shares.iter().map(bytes).collect(),
        }
    }
}

fn multisig_secret(seed: &SecretBytes, instance: InstanceId, label: &str) -> SecretBytes {
    let instance = instance.0.to_be_bytes();
    let candidate = |attempt: u8| {
        let parts = [&seed.0[..], &instance, &[attempt], label.as_bytes()];
        SecretBytes(tagged_hash("modmint/ceremony/multisig", &parts))
    };
    (0..=u8::MAX)
        .map(candidate)
        .find(|secret| secp::valid_secret(&secret.0))
        .expect("all but one hash in 2^127 are a secret key")
}

/// What a dealer posted.
struct Pinned {
    public: [u8; 32],
    acks: Vec<[u8; 64]>,
}

/// Where one guardian's ceremony stands. Lists have one entry a guardian.
struct Ceremony {
    agenda: Arc<Agenda>,
    me: PeerId,
    secrets: Secrets,
    seed: SecretBytes,
    own: Own,
    good: Vec<Option<Good>>,
    /// Whether all dealings are here and written down, so that acks may leave.
    dealt: bool,
    /// Acks of this guardian's dealing.
    acks: Vec<Option<[u8; 64]>>,
    has_posted: bool,
    posted: Vec<Option<Pinned>>,
    config: Option<FederationConfig>,
    signed: Vec<Option<(FederationId, [u8; 64])>>,
    /// The connections over which this guardian's dealing went out.
    connections: Vec<u64>,
    last_progress: Instant,
}

impl Ceremony {
    async fn new(
        agenda: Arc<Agenda>,
        me: PeerId,
        secrets: Secrets,
        seed: SecretBytes,
    ) -> Result<Self, CeremonyError> {
        let (for_own, own_seed) = (Arc::clone(&agenda), seed.clone());
        let own = blocking(move || Own::new(&for_own, me, &own_seed)).await?;
        let n = agenda.plan.peers.len();
        let mut ceremony = Self {
            me,
            good: (0..n).map(|_| None).collect(),
            dealt: false,
            acks: vec![None; n],
            has_posted: false,
            posted: (0..n).map(|_| None).collect(),
            config: None,
            signed: vec![None; n],
            connections: vec![0; n],
            last_progress: Instant::now(),
            agenda,
            secrets,
            seed,
            own,
        };
        if let Some(CeremonyRecord {
            stage: Stage::Dealt { received, .. },
            plan,
        }) = ceremony.secrets.ceremony.clone()
            && plan == ceremony.agenda.id
        {
            for (dealer, received) in (0..).map(PeerId).zip(received) {
                ceremony.keep(dealer, received).await?;
            }
        }
        let mine = ceremony.own.for_guardian(me);
        ceremony.keep(me, mine).await?;
        Ok(ceremony)
    }

    /// Sends this guardian's dealing over every connection that is new, for as long
    /// as it is not acknowledged: who was restarted has forgotten it.
    fn deal(&mut self, connections: &[u64], links: &Links) {
        let others: Vec<_> = self
            .agenda
            .peers()
            .filter(|peer| *peer != self.me)
            .collect();
        for peer in others {
            let connection = connections.get(peer.index()).copied().unwrap_or(0);
            let is_new = connection != 0 && connection != self.connections[peer.index()];
            self.connections[peer.index()] = connection;
            if is_new && self.acks[peer.index()].is_none() {
                let Received { public, shares } = self.own.for_guardian(peer);
                self.send(peer, &Message::Dealing { public, shares }, links);
            }
        }
    }

    fn send(&self, to: PeerId, message: &Message, links: &Links) {
        let bytes = borsh::to_vec(message).expect("writing to memory does not fail");
        links.world.send(to, bytes);
    }

    fn broadcast(&self, message: &Message, links: &Links) {
        for peer in self.agenda.peers().filter(|peer| *peer != self.me) {
            self.send(peer, message, links);
        }
    }

    /// A message of another guardian.
    async fn hear(
        &mut self,
        from: PeerId,
        bytes: &[u8],
        links: &Links,
    ) -> Result<(), CeremonyError> {
        if from == self.me || from.index() >= self.good.len() {
            return Ok(());
        }
        match borsh::from_slice(bytes) {
            Ok(Message::Dealing { public, shares }) => {
                self.hear_dealing(from, Received { public, shares }, links)
                    .await
            }
            Ok(Message::Ack(ack)) => {
                self.hear_ack(from, ack);
                Ok(())
            }
            Ok(Message::Refused { dealer, fault }) => Err(CeremonyError::Refused {
                by: from,
                dealer,
                fault,
            }),
            Ok(Message::Founded(signatures)) => {
                self.hear_founded(&signatures);
                Ok(())
            }
            Err(_) => {
                tracing::warn!(peer = %from, "a message of the ceremony cannot be understood");
                Ok(())
            }
        }
    }

    async fn hear_dealing(
        &mut self,
        dealer: PeerId,
        received: Received,
        links: &Links,
    ) -> Result<(), CeremonyError> {
        let refused = match &self.good[dealer.index()] {
            Some(good) if good.received == received => {
                // It has been restarted, or a connection broke: it lacks the ack.
                if self.dealt {
                    self.acknowledge(dealer, links);
                }
                return Ok(());
            }
            Some(_) => CeremonyError::BadDealing {
                dealer,
                fault: Fault::Changed,
            },
            None => match self.keep(dealer, received).await {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            },
        };
        if let CeremonyError::BadDealing { dealer, fault } = refused {
            self.broadcast(&Message::Refused { dealer, fault }, links);
        }
        Err(refused)
    }

    /// Checks a dealing and takes it in.
    async fn keep(&mut self, dealer: PeerId, received: Received) -> Result<(), CeremonyError> {
        let (agenda, me) = (Arc::clone(&self.agenda), self.me);
        let good = blocking(move || agenda.check(dealer, me, received))
            .await?
            .map_err(|fault| CeremonyError::BadDealing { dealer, fault })?;
        if let Some(place) = self.good.get_mut(dealer.index()) {
            *place = Some(good);
            self.last_progress = Instant::now();
        }
        Ok(())
    }

    /// This guardian's ack of a dealing that it has written down.
    fn ack(&self, dealer: PeerId) -> Option<[u8; 64]> {
        let good = self.good[dealer.index()].as_ref()?;
        let hash = ack_hash(&self.agenda.id.0, dealer.0, &good.hash);
        Some(secp::sign_schnorr(
            &self.secrets.identity.consensus_secret,
            &hash,
        ))
    }

    fn acknowledge(&self, dealer: PeerId, links: &Links) {
        if let Some(ack) = self.ack(dealer) {
            self.send(dealer, &Message::Ack(ack), links);
        }
    }

    fn hear_ack(&mut self, from: PeerId, ack: [u8; 64]) {
        let Some(mine) = &self.good[self.me.index()] else {
            return;
        };
        let hash = ack_hash(&self.agenda.id.0, self.me.0, &mine.hash);
        if !secp::verify_schnorr(self.agenda.consensus_key(from), &hash, &ack) {
            tracing::warn!(peer = %from, "this guardian's acknowledgement is of something else");
        } else if self.acks[from.index()].replace(ack).is_none() {
            self.last_progress = Instant::now();
        }
    }

    /// Signatures are taken only if they are those of all, over this guardian's
    /// own config; otherwise those in consensus decide.
    fn hear_founded(&mut self, signatures: &[[u8; 64]]) {
        let Some(config) = &self.config else {
            return;
        };
        let listed: Vec<_> = self
            .agenda
            .peers()
            .zip(signatures)
            .map(|(peer, signature)| (peer, HexBytes(signature.to_vec())))
            .collect();
        if signed_by_all(config, &listed) {
            let id = config.id();
            self.signed = signatures.iter().map(|s| Some((id, *s))).collect();
        }
    }

    /// What consensus has ordered. Of each guardian the first of a kind counts.
    fn learn(&mut self, epoch: Epoch, links: &Links) {
        for unit in epoch.units {
            if unit.creator == self.me {
                links.world.settle(&unit.payload);
            }
            let creator = unit.creator.index();
            let new = match borsh::from_slice(&unit.payload) {
                Ok(Item::Posted { public, acks }) => {
                    first(&mut self.posted, creator, Pinned { public, acks })
                }
                Ok(Item::Signed { config, signature }) => {
                    first(&mut self.signed, creator, (config, signature))
                }
                Err(_) => {
                    tracing::warn!(peer = %unit.creator, "a unit of the ceremony cannot be understood");
                    false
                }
            };
            if new {
                self.last_progress = Instant::now();
            }
        }
    }

    /// Does what can be done with what is here.
    async fn advance(&mut self, links: &Links) -> Result<Option<Outcome>, CeremonyError> {
        if !self.dealt && self.good.iter().all(Option::is_some) {
            self.write_down_and_acknowledge(links).await?;
        }
        if self.dealt && !self.has_posted && self.acks.iter().all(Option::is_some) {
            self.post(links);
        }
        if self.dealt && self.config.is_none() && self.posted.iter().all(Option::is_some) {
            self.check_and_sign(links).await?;
        }
        if self.config.is_some() && self.signed.iter().all(Option::is_some) {
            return self.conclude(links).await.map(Some);
        }
        Ok(None)
    }

    async fn write_down_and_acknowledge(&mut self, links: &Links) -> Result<(), CeremonyError> {
        let received: Vec<Received> = self
            .good
            .iter()
            .flatten()
            .map(|good| good.received.clone())
            .collect();
        let stage = Stage::Dealt {
            seed: self.seed.clone(),
            received,
        };
        record(&mut self.secrets, self.agenda.id, stage, links).await?;
        self.dealt = true;
        tracing::info!("the dealings of all guardians are here and right");
        for dealer in self.agenda.peers().filter(|peer| *peer != self.me) {
            self.acknowledge(dealer, links);
        }
        self.acks[self.me.index()] = self.ack(self.me);
        Ok(())
    }

    fn post(&mut self, links: &Links) {
        let Some(mine) = &self.good[self.me.index()] else {
            return;
        };
        self.has_posted = true;
        let item = Item::Posted {
            public: mine.hash,
            acks: self.acks.iter().flatten().copied().collect(),
        };
        links
            .world
            .publish(borsh::to_vec(&item).expect("writing to memory does not fail"));
    }

    async fn check_and_sign(&mut self, links: &Links) -> Result<(), CeremonyError> {
        let keys: Vec<&[u8]> = self
            .agenda
            .peers()
            .map(|peer| self.agenda.consensus_key(peer))
            .collect();
        let complete = self.agenda.peers().zip(self.posted.iter().flatten());
        for ((dealer, Pinned { public, acks }), good) in complete.zip(self.good.iter().flatten()) {
            let acks: Vec<(u16, [u8; 64])> = (0..).zip(acks.iter().copied()).collect();
            Posting {
                ceremony: &self.agenda.id.0,
                dealer: dealer.0,
                public,
                dealing: &good.dealing,
                acks: &acks,
                reveals: &[],
            }
            .check(&keys, 0)
            .map_err(|source| CeremonyError::BadPosting { dealer, source })?;
        }
        let dealings: Vec<&Good> = self.good.iter().flatten().collect();
        let no_key = || CeremonyError::Plan("the dealings do not add up to keys".into());
        let config = self.agenda.config(&dealings).ok_or_else(no_key)?;
        self.secrets.shares = self.shares(&config, &dealings).ok_or_else(no_key)?;
        let id = config.id();
        tracing::info!(federation = %id, "all keys are made; waiting for all signatures");
        let signature = secp::sign_schnorr(
            &self.secrets.identity.consensus_secret,
            &config.signature_hash(),
        );
        let item = Item::Signed {
            config: id,
            signature,
        };
        links
            .world
            .publish(borsh::to_vec(&item).expect("writing to memory does not fail"));
        self.config = Some(config);
        Ok(())
    }

    /// This guardian's shares of the keys in `config`.
    fn shares(&self, config: &FederationConfig, dealings: &[&Good]) -> Option<KeyShares> {
        let dealt: Vec<Vec<SecretShare>> =
            dealings.iter().map(|good| good.shares.clone()).collect();
        let mut dealt = sum_shares(&dealt)?.into_iter();
        let mut own = self.own.multisig.iter();
        let mut shares = KeyShares::default();
        for instance in &config.instances {
            for key in &instance.keys {
                let (public_key, secret) = match key.kind {
                    KeyKind::Multisig => {
                        (key.public_keys.get(self.me.index())?, own.next()?.clone())
                    }
                    KeyKind::BlindSignature | KeyKind::Decryption => {
                        let secret = SecretBytes(*dealt.next()?.to_bytes());
                        (key.public_keys.first()?, secret)
                    }
                };
                let share = KeyShare {
                    kind: key.kind,
                    public_key: public_key.0.clone(),
                    secret,
                };
                shares.insert(instance.id, key.label.clone(), share);
            }
        }
        Some(shares)
    }

    async fn conclude(&mut self, links: &Links) -> Result<Outcome, CeremonyError> {
        let Some(config) = self.config.clone() else {
            return Err(CeremonyError::Plan("there is no config to sign".into()));
        };
        let ours = config.id();
        let hash = config.signature_hash();
        let mut signatures = Vec::new();
        for (peer, (theirs, signature)) in self.agenda.peers().zip(self.signed.iter().flatten()) {
            if *theirs != ours {
                return Err(CeremonyError::OtherConfig {
                    peer,
                    theirs: *theirs,
                    ours,
                });
            }
            if !secp::verify_schnorr(self.agenda.consensus_key(peer), &hash, signature) {
                return Err(CeremonyError::BadSignature(peer));
            }
            signatures.push((peer, *signature));
        }
        let all = signatures.iter().map(|(_, signature)| *signature).collect();
        let signatures: Vec<_> = signatures
            .into_iter()
            .map(|(peer, signature)| (peer, HexBytes(signature.to_vec())))
            .collect();
        let stage = Stage::Founded {
            config: Box::new(config.clone()),
            signatures: signatures.clone(),
        };
        record(&mut self.secrets, self.agenda.id, stage, links).await?;
        self.broadcast(&Message::Founded(all), links);
        tracing::info!(federation = %ours, "all guardians have signed: the federation is founded");
        Ok(Outcome {
            config,
            signatures,
            secrets: self.secrets.clone(),
        })
    }

    /// Who is waited for, and for what.
    fn missing(&self) -> Vec<(PeerId, Awaited)> {
        fn of<T>(list: &[Option<T>], what: Awaited) -> Vec<(PeerId, Awaited)> {
            let absent = (0..)
                .map(PeerId)
                .zip(list)
                .filter(|(_, entry)| entry.is_none());
            absent.map(|(peer, _)| (peer, what)).collect()
        }
        let stages = [
            of(&self.good, Awaited::Dealing),
            of(&self.acks, Awaited::Ack),
            of(&self.posted, Awaited::Posting),
            of(&self.signed, Awaited::Signature),
        ];
        stages
            .into_iter()
            .find(|missing| !missing.is_empty())
            .unwrap_or_default()
    }

    fn remind(&self, patience: Duration) -> Result<(), CeremonyError> {
        let (waited, missing) = (self.last_progress.elapsed(), self.missing());
        if waited >= patience {
            return Err(CeremonyError::Missing { waited, missing });
        }
        if waited >= REMINDER {
            tracing::info!(missing = %list(&missing), "the ceremony waits");
        }
        Ok(())
    }
}

/// Puts `value` into an empty place; whether it was one.
fn first<T>(places: &mut [Option<T>], at: usize, value: T) -> bool {
    match places.get_mut(at) {
        Some(place @ None) => {
            *place = Some(value);
            true
        }
        _ => false,
    }
}

/// What a guardian that is done tells the others, from the signatures that its REST
/// API serves: whoever was interrupted just before the end can end by it. None if a
/// signature is not 64 bytes long.
pub fn founded_message(signatures: &[(PeerId, HexBytes)]) -> Option<PeerMessage> {
    let signatures = signatures
        .iter()
        .map(|(_, signature)| signature.0.as_slice().try_into().ok())
        .collect::<Option<Vec<[u8; 64]>>>()?;
    let message = borsh::to_vec(&Message::Founded(signatures)).ok()?;
    Some(PeerMessage::Ceremony(message))
}

/// Whether these are the signatures of all guardians, in their order, of this
/// config.
pub fn signed_by_all(config: &FederationConfig, signatures: &[(PeerId, HexBytes)]) -> bool {
    let hash = config.signature_hash();
    signatures.len() == config.peers.len()
        && config.peer_ids().zip(&config.peers).zip(signatures).all(
            |((peer, known), (by, signature))| {
                peer == *by && secp::verify_schnorr(&known.consensus_key.0, &hash, &signature.0)
            },
        )
}
