//! What Linux knows of this process, for Prometheus.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// Processor time, memory, threads and open files; nothing where it is not Linux.
#[derive(Debug)]
pub struct Process;

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
                let unit = unit.as_ref();
                let metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)?;
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
    use prometheus_client::registry::Registry;

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
