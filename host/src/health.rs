//! Whether a guardian can serve, check by check.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering as Memory},
};

use modmint_core::{PeerId, config::FederationConfig, rest::CheckResponse};

use crate::{
    chain::Bitcoind, ordering::Ordering, p2p::P2p, pipeline::Pipeline, sessions::Sessions,
};

/// Looks at all parts of a guardian.
pub struct Health {
    /// This guardian.
    pub me: PeerId,
    /// The federation.
    pub config: Arc<FederationConfig>,
    /// Which guardians are connected, and where they stand.
    pub p2p: Arc<P2p>,
    /// Whether sessions run.
    pub ordering: Arc<Ordering>,
    /// Whether the others agree.
    pub sessions: Arc<Sessions>,
    /// Where this guardian stands.
    pub pipeline: Arc<Pipeline>,
    /// Whether bitcoind is there.
    pub chain: Arc<Bitcoind>,
    /// Whether this guardian has been where the others are since it started.
    pub was_level: AtomicBool,
}

impl Health {
    /// All checks, in the order in which a start passes them.
    pub fn checks(&self) -> Vec<CheckResponse> {
        let check = |name: &str, problems: Vec<String>| CheckResponse {
            name: name.to_owned(),
            ok: problems.is_empty(),
            required: true,
            problems,
        };
        let clock = self.pipeline.clock_problem();
        vec![
            check("peers", self.too_few_connected().into_iter().collect()),
            check("replay", self.replaying().into_iter().collect()),
            check("ordering", self.ordering.problems()),
            check("position", self.behind().into_iter().collect()),
            check("state", self.sessions.problems()),
            // E-cash goes on without it.
            CheckResponse {
                required: false,
                ..check("bitcoind", self.chain.problems())
            },
            // So much that is handed to it is refused, and others take it.
            CheckResponse {
                required: false,
                ..check("clock", clock.into_iter().collect())
            },
        ]
    }

    /// What a guardian that has been started still lacks to propose what is handed to
    /// it: so long the transaction would lie here, and others would not hear of it.
    pub fn catching_up(&self) -> Option<String> {
        if self.was_level.load(Memory::Relaxed) {
            return None;
        }
        let problem = self.replaying().or_else(|| self.behind());
        let problem = problem.or_else(|| self.sessions.observing());
        if problem.is_none() {
            self.was_level.store(true, Memory::Relaxed);
        }
        problem
    }

    /// Consensus needs n − f guardians, this one among them.
    fn too_few_connected(&self) -> Option<String> {
        let peers = self.p2p.status();
        let others = peers.iter().filter(|p| p.peer != self.me);
        let connected = others.clone().filter(|p| p.connected).count();
        let needed = self.config.threshold() - 1;
        (connected < needed).then(|| {
            format!(
                "this guardian reaches {connected} of the {} others, {needed} are needed",
                others.count()
            )
        })
    }

    /// Until the unit log has been replayed and what it held is applied, the state
    /// may be older than what this guardian has shown before.
    fn replaying(&self) -> Option<String> {
        match self.ordering.replay() {
            Err(reason) => Some(reason),
            Ok(Some(last)) if self.pipeline.position() <= last => {
                Some("what the unit log held is still being applied".to_owned())
            }
            Ok(_) => None,
        }
    }

    /// f + 1 guardians cannot all lie about where they stand.
    fn behind(&self) -> Option<String> {
        let status = self.p2p.status();
        let mut others: Vec<_> = status.iter().filter_map(|p| p.position).collect();
        others.sort_unstable_by(|a, b| b.cmp(a));
        let reached = *others.get(self.config.max_faulty())?;
        let ours = self.pipeline.position();
        (ours < reached).then(|| {
            format!(
                "this guardian is at session {}, epoch {}; others were at session {}, epoch {}",
                ours.0, ours.1, reached.0, reached.1
            )
        })
    }
}
