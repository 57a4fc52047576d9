//! The task that follows a bitcoind, and what others see of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bitcoin::{BlockHash, Transaction, Txid, consensus::encode, hashes::Hash};
use modmint_core::{
    InstanceId,
    config::{BlockId, Network},
    consensus::{BlockVote, VotedBlock},
};
use modmint_runtime::{ChainOutPoint, OwnChain};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{
    BitcoindAuth, ChainView,
    rpc::{self, Rpc, RpcError},
    window::{Known, Window, internal},
};

/// How often the node is asked for its best block. On regtest a person waits.
const fn poll_interval(network: Network) -> Duration {
    match network {
        Network::Regtest => Duration::from_millis(200),
        Network::Bitcoin | Network::Testnet4 | Network::Signet => Duration::from_secs(3),
    }
}

/// A node that is away is asked at least this often.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Between blocks, the fee estimate is asked for this often.
const FEE_INTERVAL: Duration = Duration::from_secs(60);
/// Withdrawals are to be confirmed within so many blocks.
const FEE_TARGET_BLOCKS: u16 = 6;
/// No estimate below this leaves here, satoshi per 1000 virtual bytes: what
/// nodes relay by default.
const MIN_FEE_RATE: u64 = 1000;
/// What stands in for an estimate on test networks that have none.
const TEST_FEE_RATE: u64 = 1000;
/// The most transactions that one instance may want on the chain at a time.
const MAX_BROADCAST: usize = 256;
/// The most outputs of one instance that are looked for.
const MAX_HELD: usize = 1000;
/// No transaction larger than this is relayed by anybody.
const MAX_TRANSACTION_BYTES: usize = 400_000;
/// Outputs of a transaction that are looked for so as to see it confirmed.
const MAX_WATCHED_OUTPUTS: usize = 8;

/// Which bitcoind, and what it must be.
#[derive(Clone, Debug)]
pub struct BitcoindSetup {
    /// For example `http://127.0.0.1:8332`.
    pub url: String,
    /// How it knows us.
    pub auth: BitcoindAuth,
    /// The federation's network.
    pub network: Network,
    /// The block behind which the federation's chain begins.
    pub chain_start: BlockId,
}

/// Why a bitcoind will not do for this federation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Not an address.
    #[error(
        "{url:?} is no address of a bitcoind ({reason}); expected is for example http://127.0.0.1:8332"
    )]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Its coins are others.
    #[error("bitcoind is on the network {found:?}, the federation is on {expected}")]
    WrongNetwork {
        /// As bitcoind names it.
        found: String,
        /// The federation's.
        expected: Network,
    },
    /// Its chain is another.
    #[error(
        "bitcoind's block at height {height} is {found}, the federation's chain begins behind {expected}"
    )]
    WrongChain {
        /// Of the federation's chain start.
        height: u32,
        /// As bitcoind prints it.
        found: BlockHash,
        /// As bitcoind would print it.
        expected: BlockHash,
    },
}

/// Why a round brought nothing; the next one may.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("bitcoind's chain has {height} blocks, the federation's begins behind block {start}")]
    TooShort { height: u32, start: u32 },
}

/// A bitcoind and the task that follows it. The task ends when this is dropped.
pub struct Bitcoind {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What the task writes and others read.
struct Shared {
    setup: BitcoindSetup,
    view: Mutex<View>,
    /// Somebody wants something that the task has to fetch or send.
    wanted: Notify,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct View {
    /// None while bitcoind is away or the wrong one.
    best: Option<Place>,
    /// What was last asked for.
    want: Option<Want>,
    window: Option<Window>,
    /// The block asked for is not in bitcoind's best chain.
    diverged: Option<BlockId>,
    fee_rate: Option<u64>,
    broadcast: BTreeMap<InstanceId, Vec<Named>>,
    /// Counts changes of `broadcast`.
    broadcast_version: u64,
    confirmed: HashMap<Txid, Place>,
    /// What modules say that they hold.
    held: BTreeMap<InstanceId, Vec<ChainOutPoint>>,
    /// Counts changes of `held`.
    held_version: u64,
    /// What of it is not there.
    missing: BTreeSet<ChainOutPoint>,
    away: Option<String>,
    syncing: bool,
}

impl View {
    /// What others can tell apart of the window.
    fn window_state(&self) -> (Option<BlockId>, Option<BlockId>, Option<BlockId>) {
        let window = self.window.as_ref();
        (
            window.map(Window::base),
            window.map(Window::tip),
            self.diverged,
        )
    }

    fn confirmed(&self, txid: &Txid) -> Option<Place> {
        self.confirmed.get(txid).copied()
    }

    fn set_confirmed(&mut self, txid: Txid, place: Option<Place>) {
        match place {
            Some(place) => self.confirmed.insert(txid, place),
            None => self.confirmed.remove(&txid),
        };
    }
}

/// A block's height and hash.
type Place = (u32, BlockHash);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Want {
    parent: BlockId,
    depth: u32,
    max: usize,
}

/// A transaction that a module wants on the chain.
#[derive(Clone)]
struct Named {
    txid: Txid,
    outputs: u32,
    bytes: Arc<[u8]>,
}

impl Bitcoind {
    /// Begins to follow.
    ///
    /// # Errors
    /// Where the address is none, or the node can be reached and is on another
    /// network or chain than the federation. One that is away is waited for, and
    /// checked each time that it comes back.
    pub async fn start(setup: BitcoindSetup) -> Result<Arc<Self>, ChainError> {
        let rpc = Rpc::new(&setup.url, setup.auth.clone()).map_err(|reason| ChainError::Url {
            url: setup.url.clone(),
            reason,
        })?;
        let shared = Arc::new(Shared {
            setup,
            view: Mutex::default(),
            wanted: Notify::new(),
            changed: watch::channel(0).0,
        });
        let mut monitor = Monitor {
            rpc,
            shared: shared.clone(),
            followed: None,
            filled: None,
            fee_asked: None,
            broadcast_done: 0,
            held_done: 0,
            found: HashSet::new(),
            complaints: HashMap::new(),
        };
        // One round here, so that a wrong node is told at once.
        if let Err(RoundError::Chain(error)) = monitor.round().await {
            return Err(error);
        }
        let task = tokio::spawn(monitor.run());
        Ok(Arc::new(Self { shared, task }))
    }

    /// What is wrong, in sentences; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let view = self.shared.view.lock();
        let mut problems: Vec<String> = view.away.iter().cloned().collect();
        if view.syncing {
            problems.push("bitcoind is still catching up with the network".to_owned());
        }
        if let Some(block) = view.diverged {
            problems.push(format!(
                "the agreed block {} at height {} is not in bitcoind's best chain",
                rpc::block_hash(&block.hash.0),
                block.height
            ));
        }
        problems.extend(view.missing.iter().map(|output| {
            format!(
                "output {}:{}, which a module holds, is not unspent in bitcoind's best chain",
                Txid::from_byte_array(output.txid),
                output.vout
            )
        }));
        problems
    }
}

impl Drop for Bitcoind {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ChainView for Bitcoind {
    fn best_height(&self) -> Option<u32> {
        let view = self.shared.view.lock();
        view.best.map(|(height, _)| height)
    }

    fn blocks_after(&self, parent: BlockId, depth: u32, max: usize) -> Option<Vec<VotedBlock>> {
        let want = Want {
            parent,
            depth,
            max: max.min(BlockVote::MAX_BLOCKS),
        };
        let mut view = self.shared.view.lock();
        if view.want != Some(want) {
            view.want = Some(want);
            view.diverged = None;
            self.shared.wanted.notify_one();
        }
        let (best, _) = view.best?;
        let highest = best.saturating_sub(depth);
        view.window.as_ref()?.after(parent, highest, want.max)
    }

    fn stands(&self, agreed: BlockId) -> OwnChain {
        let view = self.shared.view.lock();
        let Some((best, _)) = view.best else {
            return OwnChain::Unknown;
        };
        match &view.window {
            _ if view.diverged == Some(agreed) => OwnChain::Differs,
            Some(window) if window.has(agreed) => OwnChain::Follows(best),
            _ => OwnChain::Unknown,
        }
    }

    fn fee_rate(&self) -> Option<u64> {
        self.shared.view.lock().fee_rate
    }

    fn confirmed_at(&self, txid: &[u8; 32]) -> Option<u32> {
        let view = self.shared.view.lock();
        view.best?;
        let confirmed = view.confirmed.get(&Txid::from_byte_array(*txid))?;
        Some(confirmed.0)
    }

    fn set_broadcast(&self, instance: InstanceId, transactions: Vec<Vec<u8>>) {
        if transactions.len() > MAX_BROADCAST {
            tracing::warn!(
                %instance,
                "a module wants {} transactions on the chain, {MAX_BROADCAST} is the most at a time",
                transactions.len()
            );
        }
        let named: Vec<Named> = transactions
            .into_iter()
            .take(MAX_BROADCAST)
            .filter_map(|bytes| named(instance, bytes))
            .collect();
        let mut view = self.shared.view.lock();
        let before = view.broadcast.get(&instance).map_or(&[][..], Vec::as_slice);
        if before
            .iter()
            .map(|n| &n.bytes)
            .eq(named.iter().map(|n| &n.bytes))
        {
            return;
        }
        view.broadcast.insert(instance, named);
        view.broadcast_version += 1;
        let View {
            broadcast,
            confirmed,
            ..
        } = &mut *view;
        let txids: HashSet<Txid> = broadcast.values().flatten().map(|n| n.txid).collect();
        confirmed.retain(|txid, _| txids.contains(txid));
        self.shared.wanted.notify_one();
    }

    fn missing(&self, instance: InstanceId, held: &[ChainOutPoint]) -> Vec<ChainOutPoint> {
        let held = &held[..held.len().min(MAX_HELD)];
        let mut view = self.shared.view.lock();
        if view.held.get(&instance).map_or(&[][..], Vec::as_slice) != held {
            view.held.insert(instance, held.to_vec());
            view.held_version += 1;
            let View { held, missing, .. } = &mut *view;
            missing.retain(|output| held.values().flatten().any(|held| held == output));
            self.shared.wanted.notify_one();
        }
        let missing = held.iter().filter(|output| view.missing.contains(output));
        missing.copied().collect()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }
}

fn named(instance: InstanceId, bytes: Vec<u8>) -> Option<Named> {
    let refused = |reason: String| {
        tracing::warn!(%instance, "a module wants something on the chain that is no transaction: {reason}");
        None
    };
    if bytes.len() > MAX_TRANSACTION_BYTES {
        return refused(format!(
            "it has {} bytes, at most {MAX_TRANSACTION_BYTES} are relayed",
            bytes.len()
        ));
    }
    match encode::deserialize::<Transaction>(&bytes) {
        Ok(transaction) => Some(Named {
            txid: transaction.compute_txid(),
            outputs: transaction.output.len().min(MAX_WATCHED_OUTPUTS) as u32,
            bytes: bytes.into(),
        }),
        Err(e) => refused(e.to_string()),
    }
}

/// The task's own memory.
struct Monitor {
    rpc: Rpc,
    shared: Arc<Shared>,
    /// The best block as of the last round that succeeded.
    followed: Option<BlockHash>,
    /// What the window has been filled for, as of that block.
    filled: Option<Want>,
    fee_asked: Option<Instant>,
    /// The version of the broadcast set that was dealt with.
    broadcast_done: u64,
    /// The version of what modules hold that was dealt with.
    held_done: u64,
    /// What of it was found unspent as of the best block.
    found: HashSet<ChainOutPoint>,
    /// What bitcoind last said against a transaction, so that it is logged once.
    complaints: HashMap<Txid, String>,
}

impl Monitor {
    async fn run(mut self) {
        let interval = poll_interval(self.shared.setup.network);
        let mut delay = interval;
        loop {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.shared.wanted.notified() => {}
            }
            delay = match self.round().await {
                Ok(()) => interval,
                Err(_) => (delay * 2).clamp(interval, MAX_BACKOFF),
            };
        }
    }

    /// Looks what is new and does what is wanted. A failure is written down where
    /// others see it.
    async fn round(&mut self) -> Result<(), RoundError> {
        let done = self.try_round().await;
        if let Err(error) = &done {
            self.lose(error);
        }
        done
    }

    /// Without bitcoind there is no view of the chain.
    fn lose(&mut self, error: &RoundError) {
        (self.followed, self.filled, self.fee_asked) = (None, None, None);
        let text = error.to_string();
        let mut view = self.shared.view.lock();
        (view.best, view.fee_rate) = (None, None);
        if view.away.as_ref() == Some(&text) {
            return;
        }
        match error {
            RoundError::Chain(_) => tracing::error!("{text}"),
            RoundError::Rpc(_) | RoundError::TooShort { .. } => tracing::warn!("{text}"),
        }
        view.away = Some(text);
        drop(view);
        self.shared.tick();
    }

    async fn try_round(&mut self) -> Result<(), RoundError> {
        let best = self.rpc.best_block_hash().await?;
        let new_block = self.followed != Some(best);
        if new_block {
            self.follow().await?;
        }
        let blocks = self.fill_window(new_block).await?;
        let fee = self.ask_fee(new_block).await?;
        let confirmed = self.broadcast(new_block).await?;
        let missing = self.look_for_held(new_block).await?;
        self.followed = Some(best);
        if blocks || fee || confirmed || missing {
            self.shared.tick();
        }
        Ok(())
    }

    /// Takes note of a new best block, after checking that the node is the right
    /// one.
    async fn follow(&mut self) -> Result<(), RoundError> {
        let BitcoindSetup {
            network,
            chain_start,
            ..
        } = self.shared.setup;
        let info = self.rpc.chain_info().await?;
        let expected = match network {
            Network::Bitcoin => "main",
            other => other.name(),
        };
        if info.chain != expected {
            return Err(ChainError::WrongNetwork {
                found: info.chain,
                expected: network,
            }
            .into());
        }
        let Some(found) = self.rpc.block_hash(chain_start.height).await? else {
            return Err(RoundError::TooShort {
                height: info.blocks,
                start: chain_start.height,
            });
        };
        if internal(&found) != chain_start.hash {
            return Err(ChainError::WrongChain {
                height: chain_start.height,
                found,
                expected: rpc::block_hash(&chain_start.hash.0),
            }
            .into());
        }
        let mut view = self.shared.view.lock();
        if view.best.is_none() {
            tracing::info!(
                height = info.blocks,
                "following bitcoind at {}",
                self.shared.setup.url
            );
        }
        view.best = Some((info.blocks, info.bestblockhash));
        view.syncing = info.initialblockdownload && network != Network::Regtest;
        view.away = None;
        drop(view);
        // The height is news of its own; blocks may take a while.
        self.shared.tick();
        Ok(())
    }

    /// Brings the window up to what was asked for. Whether anything has changed.
    async fn fill_window(&mut self, new_block: bool) -> Result<bool, RpcError> {
        let (want, best) = {
            let view = self.shared.view.lock();
            (view.want, view.best)
        };
        let (Some(want), Some((best, _))) = (want, best) else {
            return Ok(false);
        };
        if !new_block && self.filled == Some(want) {
            return Ok(false);
        }
        let before = self.shared.view.lock().window_state();
        self.base_window(want.parent, best).await?;
        self.cut_window().await?;
        let most = u32::try_from(want.max).unwrap_or(u32::MAX);
        let highest = best
            .saturating_sub(want.depth)
            .min(want.parent.height.saturating_add(most));
        let complete = self.extend_window(highest).await?;
        self.filled = complete.then_some(want);
        Ok(self.shared.view.lock().window_state() != before)
    }

    /// Makes the window begin behind `parent`; there is none where that is not in
    /// the best chain.
    async fn base_window(&self, parent: BlockId, best: u32) -> Result<(), RpcError> {
        {
            let mut view = self.shared.view.lock();
            if view.window.as_mut().is_some_and(|w| w.rebase(parent)) {
                return Ok(());
            }
        }
        let known = self.in_best_chain(parent).await?;
        let mut view = self.shared.view.lock();
        view.window = known.then(|| Window::new(parent));
        // A node that is behind has not diverged.
        view.diverged = (!known && best >= parent.height).then_some(parent);
        Ok(())
    }

    /// Takes away what has left the best chain since.
    async fn cut_window(&self) -> Result<(), RpcError> {
        while let Some(tip) = self.window_tip() {
            if self.in_best_chain(tip).await? {
                break;
            }
            let mut view = self.shared.view.lock();
            if !view.window.as_mut().is_some_and(Window::pop) {
                view.window = None;
                view.diverged = Some(tip);
            }
        }
        Ok(())
    }

    /// Fetches blocks up to `highest`; false if the chain changed meanwhile, and
    /// the next round has to see to it.
    async fn extend_window(&self, highest: u32) -> Result<bool, RpcError> {
        while let Some(tip) = self.window_tip().filter(|tip| tip.height < highest) {
            let Some(hash) = self.rpc.block_hash(tip.height + 1).await? else {
                return Ok(false);
            };
            let block = Known::of(&self.rpc.block(hash).await?);
            let mut view = self.shared.view.lock();
            if !view.window.as_mut().is_some_and(|w| w.push(block)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn window_tip(&self) -> Option<BlockId> {
        self.shared.view.lock().window.as_ref().map(Window::tip)
    }

    async fn in_best_chain(&self, block: BlockId) -> Result<bool, RpcError> {
        let found = self.rpc.block_hash(block.height).await?;
        Ok(found.is_some_and(|hash| internal(&hash) == block.hash))
    }

    /// Whether the fee rate has changed.
    async fn ask_fee(&mut self, new_block: bool) -> Result<bool, RpcError> {
        let due = self
            .fee_asked
            .is_none_or(|asked| asked.elapsed() >= FEE_INTERVAL);
        if !due && !new_block {
            return Ok(false);
        }
        let estimate = match self.rpc.estimate_fee(FEE_TARGET_BLOCKS).await {
            // A node that sees no transactions but those in blocks has none.
            Err(RpcError::Refused { .. }) => None,
            estimate => estimate?,
        };
        let estimate = match self.shared.setup.network {
            Network::Bitcoin => estimate,
            Network::Testnet4 | Network::Signet | Network::Regtest => {
                Some(estimate.unwrap_or(TEST_FEE_RATE))
            }
        };
        let relayed = self.rpc.mempool_min_fee().await?;
        self.fee_asked = Some(Instant::now());
        let fee_rate = estimate.map(|rate| rate.max(relayed).max(MIN_FEE_RATE));
        let mut view = self.shared.view.lock();
        let changed = view.fee_rate != fee_rate;
        view.fee_rate = fee_rate;
        Ok(changed)
    }

    /// Looks for the transactions named, and sends the ones that are not on the
    /// chain. Whether another is confirmed than before.
    async fn broadcast(&mut self, new_block: bool) -> Result<bool, RpcError> {
        let (version, named): (u64, Vec<Named>) = {
            let view = self.shared.view.lock();
            let named = view.broadcast.values().flatten().cloned();
            (view.broadcast_version, named.collect())
        };
        if !new_block && version == self.broadcast_done {
            return Ok(false);
        }
        self.complaints
            .retain(|txid, _| named.iter().any(|n| n.txid == *txid));
        let mut changed = false;
        for transaction in named {
            let before = self.shared.view.lock().confirmed(&transaction.txid);
            let now = self.look_for(&transaction, before).await?;
            if now != before {
                self.shared.view.lock().set_confirmed(transaction.txid, now);
                changed = true;
            }
            if now.is_none() {
                self.send(&transaction).await?;
            }
        }
        self.broadcast_done = version;
        Ok(changed)
    }

    /// Looks for what modules hold. Whether something else is missing than before.
    async fn look_for_held(&mut self, new_block: bool) -> Result<bool, RpcError> {
        let (version, held, follows) = {
            let view = self.shared.view.lock();
            let held: Vec<ChainOutPoint> = view.held.values().flatten().copied().collect();
            (view.held_version, held, view.window.is_some())
        };
        if !new_block && version == self.held_done {
            return Ok(false);
        }
        if new_block {
            self.found.clear();
        }
        let mut missing = BTreeSet::new();
        // A chain that is behind, or another, lacks what nobody has lost.
        for output in held.into_iter().filter(|_| follows) {
            let txid = Txid::from_byte_array(output.txid);
            if self.found.contains(&output) {
                continue;
            }
            if self.rpc.is_unspent(txid, output.vout).await? {
                self.found.insert(output);
            } else {
                missing.insert(output);
            }
        }
        self.held_done = version;
        let mut view = self.shared.view.lock();
        // What is not held any more was spent meanwhile.
        missing.retain(|output| view.held.values().flatten().any(|held| held == output));
        let changed = view.missing != missing;
        for output in missing.difference(&view.missing) {
            tracing::error!(
                txid = %Txid::from_byte_array(output.txid),
                vout = output.vout,
                "an output that a module holds is not unspent in bitcoind's best chain"
            );
        }
        view.missing = missing;
        Ok(changed)
    }

    /// Where a transaction stands. One that was seen in a block is there while the
    /// block is in the best chain, whether bitcoind still knows of it or not.
    async fn look_for(
        &self,
        transaction: &Named,
        before: Option<Place>,
    ) -> Result<Option<Place>, RpcError> {
        if let Some((height, hash)) = before
            && self.rpc.block_hash(height).await? == Some(hash)
        {
            return Ok(before);
        }
        let Some(height) = self
            .rpc
            .confirmed_at(transaction.txid, transaction.outputs)
            .await?
        else {
            return Ok(None);
        };
        let hash = self.rpc.block_hash(height).await?;
        Ok(hash.map(|hash| (height, hash)))
    }

    /// Gives a transaction to bitcoind. Its refusal is not an error of ours: a
    /// parent may be missing today and be there tomorrow.
    async fn send(&mut self, transaction: &Named) -> Result<(), RpcError> {
        let txid = transaction.txid;
        match self.rpc.broadcast(&transaction.bytes).await {
            Ok(()) => {
                if self.complaints.remove(&txid).is_some() {
                    tracing::info!(%txid, "bitcoind now takes the transaction");
                }
                Ok(())
            }
            Err(RpcError::Refused { code, message, .. }) if code != rpc::code::WARMING_UP => {
                if self.complaints.get(&txid) != Some(&message) {
                    tracing::warn!(%txid, code, "bitcoind does not take a transaction: {message}");
                    self.complaints.insert(txid, message);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl Shared {
    fn tick(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}
