//! What calls into modules can reach: the overlay of the item at work in
//! consensus, a snapshot at an epoch's end everywhere else.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use modmint_core::{InstanceId, PeerId, config::FederationConfig, config::InstanceConfig};
use modmint_runtime::{
    Approval, ChainOutPoint, ChainOutput, Check, Host, HostError, HostResult, LogLevel, OwnChain,
    Signable,
};
use parking_lot::Mutex;

use super::{Shares, state};
use crate::{
    chain::ChainView,
    keys::KeyShares,
    storage::{Overlay, Read, Snapshot, StorageError, Table},
};

/// Who says whether a check holds.
pub(super) trait Checker: Send + Sync + 'static {
    fn check(&self, check: &Check) -> bool;
}

/// Passes checks on, and notes whether one has failed.
pub(super) struct Watched {
    checker: Arc<dyn Checker>,
    failed: AtomicBool,
}

impl Watched {
    pub(super) fn new(checker: Arc<dyn Checker>) -> Self {
        Self {
            checker,
            failed: AtomicBool::new(false),
        }
    }

    /// Whether a check has failed since this was asked last.
    pub(super) fn take_failed(&self) -> bool {
        self.failed.swap(false, Ordering::Relaxed)
    }
}

impl Checker for Watched {
    fn check(&self, check: &Check) -> bool {
        let holds = self.checker.check(check);
        if !holds {
            self.failed.store(true, Ordering::Relaxed);
        }
        holds
    }
}

/// The consensus phase: reads and writes the overlay.
pub(super) struct ConsensusHost {
    pub instance: InstanceId,
    pub config: Arc<FederationConfig>,
    pub state: Arc<Mutex<Overlay>>,
    pub checker: Arc<dyn Checker>,
    /// Bytes of keys and values that were written.
    pub written: Arc<AtomicU64>,
}

fn host_error(error: StorageError) -> HostError {
    HostError::new(error)
}

fn instance_config(config: &FederationConfig, id: InstanceId) -> HostResult<&InstanceConfig> {
    config
        .instance(id)
        .ok_or_else(|| HostError(format!("there is no module instance {id}")))
}

impl ConsensusHost {
    fn table(&self) -> Table {
        Table::Instance(self.instance)
    }

    fn instance(&self) -> HostResult<&InstanceConfig> {
        instance_config(&self.config, self.instance)
    }

    fn keep(&self, key: &[u8], value: Option<Vec<u8>>) -> HostResult<()> {
        let bytes = key.len() + value.as_ref().map_or(0, Vec::len);
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        let (mut state, table) = (self.state.lock(), self.table());
        state::keep(&mut state, self.instance, table, key, value).map_err(host_error)
    }
}

impl Host for ConsensusHost {
    fn get(&self, key: &[u8]) -> HostResult<Option<Vec<u8>>> {
        self.state.lock().get(self.table(), key).map_err(host_error)
    }
    fn put(&self, key: &[u8], value: &[u8]) -> HostResult<()> {
        self.keep(key, Some(value.to_vec()))
    }
    fn delete(&self, key: &[u8]) -> HostResult<()> {
        self.keep(key, None)
    }
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> HostResult<Vec<(Vec<u8>, Vec<u8>)>> {
        let state = self.state.lock();
        state
            .scan(self.table(), prefix, after, limit, max_bytes)
            .map_err(host_error)
    }

    fn block_height(&self) -> HostResult<u32> {
        let tip = state::tip(&*self.state.lock()).map_err(host_error)?;
        Ok(tip.height)
    }
    fn block_hash(&self, height: u32) -> HostResult<Option<[u8; 32]>> {
        let hash = state::block_hash(&*self.state.lock(), height).map_err(host_error)?;
        Ok(hash.map(|hash| hash.0))
    }
    fn chain_output_at(&self, at: &ChainOutPoint) -> HostResult<Option<ChainOutput>> {
        state::chain_output_at(&*self.state.lock(), at).map_err(host_error)
    }
    fn chain_outputs(&self, script: &[u8]) -> HostResult<Vec<ChainOutput>> {
        state::chain_outputs(&*self.state.lock(), script).map_err(host_error)
    }
    fn fee_rate(&self) -> HostResult<u64> {
        state::fee_rate(&*self.state.lock()).map_err(host_error)
    }
    fn unix_time(&self) -> HostResult<u64> {
        state::time(&*self.state.lock()).map_err(host_error)
    }

    fn check(&self, check: &Check) -> HostResult<bool> {
        Ok(self.checker.check(check))
    }

    fn approve(&self, what: &Signable) -> HostResult<Approval> {
        let instance = self.instance()?;
        let mut state = self.state.lock();
        if state::approval(&*state, instance, what)
            .map_err(host_error)?
            .is_some()
        {
            return Ok(Approval::Before);
        }
        state::approve(&mut state, instance, what).map_err(host_error)?;
        Ok(Approval::Approved)
    }
    fn revoke(&self, what: &Signable) -> HostResult<()> {
        let instance = self.instance()?;
        state::revoke(&mut self.state.lock(), instance, what).map_err(host_error)
    }

    fn claim(&self, at: &ChainOutPoint) -> HostResult<Option<ChainOutput>> {
        let mut state = self.state.lock();
        let claimed = state::is_claimed(&*state, at).map_err(host_error)?;
        let output = state::chain_output_at(&*state, at).map_err(host_error)?;
        let Some(output) = output.filter(|_| !claimed) else {
            return Ok(None);
        };
        let mut books = state::books(&*state, self.instance).map_err(host_error)?;
        let Some(treasury) = books.treasury_satoshi.checked_add(output.satoshi) else {
            return Ok(None);
        };
        books.treasury_satoshi = treasury;
        state::set_books(&mut state, self.instance, &books);
        state::set_claimed(&mut state, at, self.instance);
        Ok(Some(output))
    }
    fn release(&self, satoshi: u64) -> HostResult<bool> {
        let mut state = self.state.lock();
        let mut books = state::books(&*state, self.instance).map_err(host_error)?;
        let Some(treasury) = books.treasury_satoshi.checked_sub(satoshi) else {
            return Ok(false);
        };
        books.treasury_satoshi = treasury;
        state::set_books(&mut state, self.instance, &books);
        Ok(true)
    }

    fn log(&self, level: LogLevel, message: &str) {
        log(self.instance, &self.config, level, message);
    }
}

/// The propose, query and audit phases: reads a snapshot.
pub(super) struct LocalHost {
    pub instance: InstanceId,
    pub config: Arc<FederationConfig>,
    pub state: Snapshot,
    pub me: PeerId,
    pub chain: Arc<dyn ChainView>,
    pub shares: Arc<CachedShares>,
}

impl Host for LocalHost {
    fn get(&self, key: &[u8]) -> HostResult<Option<Vec<u8>>> {
        let table = Table::Instance(self.instance);
        self.state.get(table, key).map_err(host_error)
    }
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> HostResult<Vec<(Vec<u8>, Vec<u8>)>> {
        let table = Table::Instance(self.instance);
        self.state
            .scan(table, prefix, after, limit, max_bytes)
            .map_err(host_error)
    }

    fn block_height(&self) -> HostResult<u32> {
        Ok(state::tip(&self.state).map_err(host_error)?.height)
    }
    fn block_hash(&self, height: u32) -> HostResult<Option<[u8; 32]>> {
        let hash = state::block_hash(&self.state, height).map_err(host_error)?;
        Ok(hash.map(|hash| hash.0))
    }
    fn chain_output_at(&self, at: &ChainOutPoint) -> HostResult<Option<ChainOutput>> {
        state::chain_output_at(&self.state, at).map_err(host_error)
    }
    fn chain_outputs(&self, script: &[u8]) -> HostResult<Vec<ChainOutput>> {
        state::oldest_outputs(&self.state, script, state::MAX_OUTPUTS_TOLD).map_err(host_error)
    }
    fn fee_rate(&self) -> HostResult<u64> {
        state::fee_rate(&self.state).map_err(host_error)
    }
    fn unix_time(&self) -> HostResult<u64> {
        state::time(&self.state).map_err(host_error)
    }

    fn whoami(&self) -> HostResult<PeerId> {
        Ok(self.me)
    }
    /// Only what a committed epoch has approved, under the label that it approved.
    fn shares(&self, what: &[Signable]) -> HostResult<Vec<Option<Vec<u8>>>> {
        let instance = instance_config(&self.config, self.instance)?;
        what.iter()
            .map(|what| {
                let label = state::approval(&self.state, instance, what).map_err(host_error)?;
                Ok(match label {
                    Some(label) if label == what.label => self.shares.get(self.instance, what),
                    _ => None,
                })
            })
            .collect()
    }
    fn chain(&self) -> HostResult<OwnChain> {
        let agreed = state::tip(&self.state).map_err(host_error)?;
        Ok(self.chain.stands(agreed))
    }
    fn confirmed_at(&self, txid: &[u8; 32]) -> HostResult<Option<u32>> {
        Ok(self.chain.confirmed_at(txid))
    }
    fn missing(&self, held: &[ChainOutPoint]) -> HostResult<Vec<ChainOutPoint>> {
        Ok(self.chain.missing(self.instance, held))
    }

    fn log(&self, level: LogLevel, message: &str) {
        log(self.instance, &self.config, level, message);
    }
}

fn log(instance: InstanceId, config: &FederationConfig, level: LogLevel, message: &str) {
    let kind = config.instance(instance).map_or("", |i| i.kind.as_str());
    let instance = instance.0;
    match level {
        LogLevel::Debug => tracing::debug!(target: "modmint::module", kind, instance, "{message}"),
        LogLevel::Info => tracing::info!(target: "modmint::module", kind, instance, "{message}"),
        LogLevel::Warn => tracing::warn!(target: "modmint::module", kind, instance, "{message}"),
        LogLevel::Error => tracing::error!(target: "modmint::module", kind, instance, "{message}"),
    }
}

impl Shares for KeyShares {
    fn share(&self, instance: InstanceId, what: &Signable) -> Option<Vec<u8>> {
        self.share(instance, what)
    }
}

type ShareKey = (InstanceId, Signable);

/// This guardian's shares, computed on request and kept for a while: the same
/// ones are asked for by the wallet again and again.
pub(super) struct CachedShares {
    shares: Arc<dyn Shares>,
    kept: Mutex<HashMap<ShareKey, Vec<u8>>>,
}

impl CachedShares {
    /// About 200 bytes each.
    const MAX_KEPT: usize = 100_000;

    pub(super) fn new(shares: Arc<dyn Shares>) -> Self {
        Self {
            shares,
            kept: Mutex::default(),
        }
    }

    fn get(&self, instance: InstanceId, what: &Signable) -> Option<Vec<u8>> {
        let key = (instance, what.clone());
        if let Some(share) = self.kept.lock().get(&key) {
            return Some(share.clone());
        }
        let share = self.shares.share(instance, what)?;
        let mut kept = self.kept.lock();
        if kept.len() >= Self::MAX_KEPT {
            kept.clear();
        }
        kept.insert(key, share.clone());
        Some(share)
    }
}
