//! What is counted of epochs and transactions.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use modmint_core::PeerId;
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

type Seconds = Counter<f64, AtomicU64>;

pub(super) struct Metrics {
    epochs: Counter,
    transactions: Family<[(&'static str, &'static str); 1], Counter>,
    convictions: Family<[(&'static str, u16); 1], Counter>,
    processing: Histogram,
    in_modules: Seconds,
}

impl Metrics {
    pub(super) fn new(guardians: impl Iterator<Item = PeerId>) -> Self {
        let metrics = Self {
            epochs: Counter::default(),
            transactions: Family::default(),
            convictions: Family::default(),
            // From 0.1 ms to 1.6 s.
            processing: Histogram::new(exponential_buckets(0.0001, 2.0, 15)),
            in_modules: Seconds::default(),
        };
        // So that they are there, at zero.
        metrics.count((0, 0));
        for guardian in guardians {
            metrics.convictions_of(guardian);
        }
        metrics
    }
}

/// Begun when epochs begin to be processed, on the thread that does it.
pub(super) struct Stopwatch {
    begun: Instant,
    in_modules: Duration,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self {
            begun: Instant::now(),
            in_modules: modmint_runtime::module_time(),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "epochs",
            "Epochs processed, empty ones included",
            self.epochs.clone(),
        );
        registry.register(
            "transactions",
            "Transactions decided by consensus",
            self.transactions.clone(),
        );
        registry.register(
            "convictions",
            "Times that a guardian was convicted for what it proposed",
            self.convictions.clone(),
        );
        registry.register_with_unit(
            "epoch_processing",
            "Time from an epoch's arrival at the consensus thread to its commit; epochs that are committed together count once",
            Unit::Seconds,
            self.processing.clone(),
        );
        registry.register_with_unit(
            "epoch_modules",
            "The part of epoch_processing that the consensus thread spent in modules, without their imports",
            Unit::Seconds,
            self.in_modules.clone(),
        );
    }

    /// So many transactions have been accepted, and refused.
    pub(super) fn count(&self, (accepted, refused): (u64, u64)) {
        for (decision, count) in [("accepted", accepted), ("refused", refused)] {
            let label = [("decision", decision)];
            self.transactions.get_or_create(&label).inc_by(count);
        }
    }

    /// These guardians have been convicted.
    pub(super) fn convicted(&self, guardians: &[PeerId]) {
        for guardian in guardians {
            self.convictions_of(*guardian).inc();
        }
    }

    fn convictions_of(&self, guardian: PeerId) -> Counter {
        self.convictions
            .get_or_create_owned(&[("peer", guardian.0)])
    }

    /// So many epochs have been processed since the watch was started.
    pub(super) fn processed(&self, epochs: usize, watch: Stopwatch) {
        if epochs == 0 {
            return;
        }
        self.epochs.inc_by(epochs as u64);
        self.processing.observe(watch.begun.elapsed().as_secs_f64());
        let in_modules = modmint_runtime::module_time().saturating_sub(watch.in_modules);
        self.in_modules.inc_by(in_modules.as_secs_f64());
    }
}
