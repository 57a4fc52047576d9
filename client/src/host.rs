//! What a wallet lends its modules: the runtime's [`Host`] over an overlay of the
//! database, the seed, and what guardians have told.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use modmint_core::{FederationId, InstanceId};
use modmint_runtime::{ChainOutPoint, ChainOutput, Host, HostError, HostResult, LogLevel};

use crate::{
    database::{Overlay, instance_prefix},
    guardians::FederationView,
    seed::Seed,
};

/// Seconds since 1970 by this device's clock.
pub(crate) fn device_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// One instance's host, for one chain of calls.
pub(crate) struct WalletHost {
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) seed: Arc<Seed>,
    pub(crate) federation: FederationId,
    pub(crate) instance: InstanceId,
    pub(crate) kind: String,
    pub(crate) view: FederationView,
    pub(crate) invite: Arc<str>,
}

impl WalletHost {
    fn key(&self, key: &[u8]) -> Vec<u8> {
        [&instance_prefix(&self.federation, self.instance), key].concat()
    }
}

impl Host for WalletHost {
    fn get(&self, key: &[u8]) -> HostResult<Option<Vec<u8>>> {
        self.overlay.get(&self.key(key)).map_err(HostError::new)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> HostResult<()> {
        self.overlay.put(self.key(key), Some(value.to_vec()));
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> HostResult<()> {
        self.overlay.put(self.key(key), None);
        Ok(())
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> HostResult<Vec<(Vec<u8>, Vec<u8>)>> {
        let own = instance_prefix(&self.federation, self.instance).len();
        let found = self
            .overlay
            .scan(
                &self.key(prefix),
                after.map(|after| self.key(after)).as_deref(),
                limit,
                // The module's limit counts its own part of the keys alone.
                max_bytes.saturating_add(limit.saturating_mul(own)),
            )
            .map_err(HostError::new)?;
        let mut bytes = 0;
        Ok(found
            .into_iter()
            .map(|(key, value)| (key[own..].to_vec(), value))
            .take_while(|(key, value)| {
                bytes += key.len() + value.len();
                bytes <= max_bytes
            })
            .collect())
    }

    fn block_height(&self) -> HostResult<u32> {
        Ok(self.view.block_height)
    }

    fn block_hash(&self, height: u32) -> HostResult<Option<[u8; 32]>> {
        let told = self
            .view
            .block_hash
            .filter(|_| height == self.view.block_height);
        Ok(told.map(|hash| hash.0))
    }

    /// A wallet is told of outputs by its modules' queries, not here.
    fn chain_output_at(&self, _: &ChainOutPoint) -> HostResult<Option<ChainOutput>> {
        Ok(None)
    }

    /// As [`Host::chain_output_at`] of a wallet.
    fn chain_outputs(&self, _: &[u8]) -> HostResult<Vec<ChainOutput>> {
        Ok(Vec::new())
    }

    fn fee_rate(&self) -> HostResult<u64> {
        Ok(self.view.fee_rate)
    }

    fn unix_time(&self) -> HostResult<u64> {
        Ok(self.view.unix_time)
    }

    fn derive_secret(&self, path: &[u64]) -> HostResult<[u8; 32]> {
        Ok(self.seed.derive(&self.federation, self.instance, path))
    }

    fn random(&self, length: usize) -> HostResult<Vec<u8>> {
        let mut bytes = vec![0; length];
        rand::RngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut bytes)
            .map_err(HostError::new)?;
        Ok(bytes)
    }

    fn device_time(&self) -> HostResult<u64> {
        Ok(device_time())
    }

    fn invite(&self) -> HostResult<String> {
        Ok(self.invite.to_string())
    }

    fn log(&self, level: LogLevel, message: &str) {
        let (kind, instance) = (&self.kind, self.instance);
        match level {
            LogLevel::Debug => tracing::debug!(target: "module", %kind, %instance, "{message}"),
            LogLevel::Info => tracing::info!(target: "module", %kind, %instance, "{message}"),
            LogLevel::Warn => tracing::warn!(target: "module", %kind, %instance, "{message}"),
            LogLevel::Error => tracing::error!(target: "module", %kind, %instance, "{message}"),
        }
    }
}
