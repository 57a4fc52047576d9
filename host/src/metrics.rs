//! What a guardian counts, for Prometheus.
//!
//! What happens is counted where it happens (`pipeline`, `p2p`, `api`); how things
//! stand is read at each scrape, here. The text format is OpenMetrics.

use std::{
    fmt::{self, Debug, Formatter},
    sync::Arc,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelValue, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use modmint_rest::Process;

use crate::{chain::ChainView as _, health::Health, p2p::P2p};

/// A registry with all that is read at each scrape. Names begin with `modmint_`.
pub fn registry(health: Arc<Health>) -> Registry {
    let mut registry = Registry::with_prefix("modmint");
    health.pipeline.register_metrics(&mut registry);
    registry.register_collector(Box::new(Peers(health.p2p.clone())));
    registry.register_collector(Box::new(Standing(health)));
    registry.register_collector(Box::new(Process));
    registry
}

/// How a guardian stands.
struct Standing(Arc<Health>);

impl Debug for Standing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let health = &self.0;
        let status = health.pipeline.status();
        let own_height = health.chain.best_height();
        let seconds = Some(Unit::Seconds);
        for (name, help, unit, value) in [
            (
                "session",
                "The session that is being filled",
                None,
                status.session,
            ),
            (
                "session_epochs",
                "Epochs of the session that are processed",
                None,
                status.epoch.into(),
            ),
            (
                "agreed_height",
                "Agreed block height",
                None,
                status.block_height.into(),
            ),
            (
                "agreed_time",
                "Agreed time, since 1970",
                seconds,
                status.unix_time,
            ),
            (
                "agreed_fee_rate",
                "Agreed fee rate, satoshi per 1000 virtual bytes",
                None,
                status.fee_rate,
            ),
            (
                "bitcoind_up",
                "Whether bitcoind answers and has the federation's chain",
                None,
                own_height.is_some().into(),
            ),
            (
                "bitcoind_height",
                "Height of bitcoind's best chain, 0 while it is away",
                None,
                own_height.unwrap_or(0).into(),
            ),
            (
                "pending_transactions",
                "Transactions that this guardian has taken and that are undecided",
                None,
                health.pipeline.pending_transactions() as u64,
            ),
            (
                "waiting_epochs",
                "Ordered epochs for which the consensus thread has no room yet",
                None,
                health.ordering.backlog() as u64,
            ),
        ] {
            gauge(&mut encoder, name, help, unit, value)?;
        }
        let checks = health.checks();
        let checks = checks
            .iter()
            .map(|check| (check.name.as_str(), check.ok.into()));
        gauges(
            &mut encoder,
            "check_ok",
            "Whether a check of /readyz finds nothing wrong",
            None,
            "check",
            checks,
        )
    }
}

/// The other guardians, as this one sees them.
pub(crate) struct Peers(pub Arc<P2p>);

impl Debug for Peers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Peers")
    }
}

impl Collector for Peers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let bytes = Some(Unit::Bytes);
        let status = self.0.status();
        let connected = status
            .iter()
            .map(|peer| (peer.peer.0, peer.connected.into()));
        gauges(
            encoder,
            "p2p_connected",
            "Whether there is a connection to the guardian",
            None,
            "peer",
            connected,
        )?;
        let drops = status.iter().map(|peer| (peer.peer.0, peer.drops.into()));
        counters(
            encoder,
            "p2p_drops",
            "Connections to the guardian that were dropped for what it did",
            None,
            "peer",
            drops,
        )?;
        let traffic = self.0.traffic();
        let queued = traffic.iter().map(|peer| (peer.peer.0, peer.queued as u64));
        gauges(
            encoder,
            "p2p_queued",
            "Frames that wait to be sent to the guardian",
            bytes.clone(),
            "peer",
            queued,
        )?;
        let sent = traffic.iter().map(|peer| (peer.peer.0, peer.sent));
        let received = traffic.iter().map(|peer| (peer.peer.0, peer.received));
        counters(
            encoder,
            "p2p_sent",
            "Frames sent to the guardian, without TLS",
            bytes.clone(),
            "peer",
            sent,
        )?;
        counters(
            encoder,
            "p2p_received",
            "Frames received from the guardian, without TLS",
            bytes,
            "peer",
            received,
        )
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    value: u64,
) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

fn gauges<L: EncodeLabelValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    label: &str,
    values: impl Iterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
    for (of, value) in values {
        ConstGauge::new(value).encode(metric.encode_family(&[(label, of)])?)?;
    }
    Ok(())
}

fn counters<L: EncodeLabelValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    label: &str,
    values: impl Iterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
    for (of, value) in values {
        ConstCounter::new(value).encode(metric.encode_family(&[(label, of)])?)?;
    }
    Ok(())
}
