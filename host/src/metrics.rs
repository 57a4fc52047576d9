//! What a guardian counts, for Prometheus.
//!
//! What happens is counted where it happens (`pipeline`, `p2p`, `api`); how things
//! stand is read at each scrape, here. The text format is OpenMetrics.

use std::{
    fmt::{self, Debug, Formatter},
    fs,
    sync::Arc,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelValue, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use crate::{chain::ChainView as _, health::Health};

/// A registry with all that is read at each scrape. Names begin with `modmint_`.
pub fn registry(health: Arc<Health>) -> Registry {
    let mut registry = Registry::with_prefix("modmint");
    health.pipeline.register_metrics(&mut registry);
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
        )?;
        self.peers(&mut encoder)
    }
}

impl Standing {
    fn peers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let bytes = Some(Unit::Bytes);
        let status = self.0.p2p.status();
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
        let traffic = self.0.p2p.traffic();
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

/// What Linux knows of this process; nothing elsewhere.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(seconds) = cpu_seconds() {
            let (name, help) = ("process_cpu", "Processor time, user and system");
            let unit = Some(&Unit::Seconds);
            let metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(metric)?;
        }
        let memory = status_line("VmRSS:").map(|kb| kb * 1024);
        for (name, help, unit, value) in [
            (
                "process_resident_memory",
                "Memory in use",
                Some(Unit::Bytes),
                memory,
            ),
            ("process_threads", "Threads", None, status_line("Threads:")),
            (
                "process_open_fds",
                "Open file descriptors",
                None,
                open_files(),
            ),
        ] {
            if let Some(value) = value {
                gauge(&mut encoder, name, help, unit, value)?;
            }
        }
        Ok(())
    }
}

/// proc_pid_stat(5): fields 14 and 15, in ticks, of which Linux shows every program
/// 100 a second.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

/// The number in a line of /proc/self/status.
fn status_line(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_files() -> Option<u64> {
    // Reading the directory opens one.
    let files = fs::read_dir("/proc/self/fd").ok()?.skip(1);
    u64::try_from(files.count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_knows_of_this_process_is_shown() {
        let mut registry = Registry::with_prefix("modmint");
        registry.register_collector(Box::new(Process));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("it is encoded");
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok())
                .unwrap_or_else(|| panic!("no {name} in {text}"))
        };
        assert!(value("modmint_process_resident_memory_bytes") > 1e6);
        assert!(value("modmint_process_threads") >= 2.0);
        assert!(value("modmint_process_open_fds") >= 3.0);
        assert!(value("modmint_process_cpu_seconds_total") >= 0.0);
    }
}
