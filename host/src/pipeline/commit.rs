//! Commit: what the ordered run has made is written, shown to readers, and those
//! who waited for it are woken.

use std::sync::Arc;

use modmint_core::{
    BundleHash, Hash32, InstanceId, PeerId, TxId,
    config::{BlockId, FederationConfig},
    consensus::SessionHeader,
    tagged_hash,
};

use super::{
    Pipeline, Processed, Stop,
    history::{self, History as _, Progress},
    order::Ordered,
    state::{self, Conviction, encode},
    waiters::Event,
};
use crate::storage::{Changes, Database, Durability, LocalChanges, Snapshot, StorageError, Table};

/// What everybody may read: the state at the end of an epoch.
pub(super) struct View {
    pub state: Snapshot,
    pub session: u64,
    /// The number of epochs of the session that have been processed.
    pub epoch: u32,
    pub root: Hash32,
    pub time: u64,
    pub fee_rate: u64,
    pub tip: BlockId,
    /// Guardians whose transactions are ignored until the session ends.
    pub convicted: Vec<(PeerId, Conviction)>,
}

impl View {
    pub(super) fn of(database: &Database, progress: &Progress) -> Result<Self, StorageError> {
        let state = database.snapshot();
        Ok(Self {
            session: progress.session,
            epoch: progress.epoch,
            root: database.state_root(),
            time: state::time(&state)?,
            fee_rate: state::fee_rate(&state)?,
            tip: state::tip(&state)?,
            convicted: state::convictions(&state)?,
            state,
        })
    }
}

impl View {
    /// Whether this guardian's transactions are ignored: nothing of what it sends is
    /// run ahead then.
    pub(super) fn is_convicted(&self, peer: PeerId) -> bool {
        self.convicted
            .iter()
            .any(|(convicted, _)| *convicted == peer)
    }
}

/// What is the same in every header.
pub(super) struct HeaderParts {
    pub module_registry: Hash32,
    pub runtime_hash: Hash32,
}

/// A hash of all instances' ids, kinds and bundles.
pub(super) fn module_registry(config: &FederationConfig) -> Hash32 {
    let instances: Vec<(InstanceId, &str, BundleHash)> = config
        .instances
        .iter()
        .map(|instance| (instance.id, instance.kind.as_str(), instance.bundle))
        .collect();
    Hash32(tagged_hash(
        "modmint/module-registry",
        &[&encode(&instances)],
    ))
}

impl Pipeline {
    /// Writes, shows, wakes.
    pub(super) fn commit(
        &self,
        progress: &mut Progress,
        ordered: Ordered,
        consumed: usize,
    ) -> Result<Processed, Stop> {
        let Ordered {
            changes,
            progress: mut reached,
            epochs,
            transactions,
            own_items,
            left_over,
            decided,
            convicted,
            ended,
        } = ordered;
        let staged = self.database.stage(changes)?;
        let mut local = LocalChanges::default();
        for (session, epoch, units) in &epochs {
            history::add_units(&mut local, *session, *epoch, units);
        }
        let header = ended.then(|| self.header(&reached, staged.root()));
        if let Some(header) = &header {
            history::add_own_header(&mut local, header, reached.bytes);
            reached = Progress::begin(header.session + 1, header.hash(&self.federation.id));
        }
        let txids: Vec<TxId> = transactions.iter().map(|(txid, _)| *txid).collect();
        let woken = self.events(staged.changes(), &txids);
        let changed = changed_instances(staged.changes());

        // Empty epochs are counted, not written.
        let worth_writing = ended || !epochs.is_empty();
        if worth_writing {
            history::add_progress(&mut local, &reached);
            let durability = match ended {
                // Unit logs of ended sessions are deleted.
                true => Durability::Disk,
                false => Durability::Process,
            };
            self.database.commit(staged, local, durability)?;
        }
        if ended {
            self.database.prune(reached.session)?;
        }
        self.metrics.count(decided);
        self.metrics.convicted(&convicted);
        self.messages.remember(transactions);
        self.show(&reached, worth_writing)?;
        *progress = reached;
        self.proposals.ordered(&own_items, &txids);
        self.proposals.left_over(&left_over);
        for event in &woken {
            self.waiters.wake(event);
        }
        self.wake_modules(&changed);
        Ok(Processed {
            ended: header,
            consumed,
        })
    }

    fn header(&self, reached: &Progress, state_root: Hash32) -> SessionHeader {
        SessionHeader {
            session: reached.session,
            previous: reached.previous,
            epochs: reached.epoch,
            items_root: reached.items_root,
            state_root,
            module_registry: self.header_parts.module_registry,
            runtime_hash: self.header_parts.runtime_hash,
            skip_list: self.federation.skip.hash(reached.session),
        }
    }

    /// Makes the new state the one that is read.
    fn show(&self, reached: &Progress, changed: bool) -> Result<(), StorageError> {
        let before = self.view();
        let view = match changed {
            true => View::of(&self.database, reached)?,
            false => View {
                state: before.state.clone(),
                session: reached.session,
                epoch: reached.epoch,
                convicted: before.convicted.clone(),
                ..*before
            },
        };
        let (height, time) = (view.tip.height, view.time);
        let agreed_changed =
            (before.tip, before.time, before.fee_rate) != (view.tip, time, view.fee_rate);
        *self.view.write() = Arc::new(view);
        if agreed_changed {
            self.waiters.wake_up_to(height, time);
            let all = (0..self.federation.modules.len() as u16).map(InstanceId);
            self.wake_modules(&all.collect::<Vec<_>>());
        }
        Ok(())
    }

    /// What has happened that somebody waits for.
    fn events(&self, changes: &Changes, txids: &[TxId]) -> Vec<Event> {
        let mut events: Vec<_> = txids.iter().copied().map(Event::Transaction).collect();
        for instance in changed_instances(changes) {
            events.push(Event::Instance(instance));
            let keys = self.waiters.keys_waited_for(instance);
            events.extend(
                keys.into_iter()
                    .filter(|key| changes.contains(Table::Instance(instance), key))
                    .map(|key| Event::Key(instance, key)),
            );
        }
        events
    }

    /// These modules may want something else ordered or broadcast than before.
    pub(super) fn wake_modules(&self, instances: &[InstanceId]) {
        if !instances.is_empty() {
            self.due_modules.lock().extend(instances);
            self.due.notify_one();
        }
    }
}

fn changed_instances(changes: &Changes) -> Vec<InstanceId> {
    changes
        .tables()
        .filter(|(_, values)| !values.is_empty())
        .filter_map(|(table, _)| match table {
            Table::Instance(instance) => Some(instance),
            Table::Host => None,
        })
        .collect()
}
