//! What everybody has used: processor time, memory and writes from Linux' `/proc`,
//! files' sizes, and what guardians count themselves, from their metrics.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::federation::{Federation, Guardian};

/// Who is measured.
pub(super) struct Meters<'a>(Option<&'a Federation>);

/// One guardian's figures, since its start; or the difference between two.
pub(super) struct Used {
    /// Seconds.
    pub cpu: f64,
    /// Bytes; at the time, no difference.
    pub resident: f64,
    /// Bytes that the process had written to the disk.
    pub written: f64,
    /// Bytes by which its files have grown.
    pub grown: f64,
    /// Bytes sent to other guardians.
    pub p2p_sent: f64,
    /// Seconds in which epochs were processed…
    pub epochs: f64,
    /// …and of those in modules.
    pub modules: f64,
}

/// Everybody's figures.
pub(super) struct AllUsed {
    pub guardians: Vec<Used>,
    /// Seconds of processor time.
    pub wallets: f64,
    /// Likewise.
    pub bitcoind: Option<f64>,
}

impl<'a> Meters<'a> {
    /// Of this process, and of the federation if it runs here.
    pub(super) fn of(federation: Option<&'a Federation>) -> Self {
        Self(federation)
    }

    pub(super) async fn read(&self) -> Result<AllUsed> {
        let mut guardians = Vec::new();
        for guardian in self.0.iter().flat_map(|federation| &federation.guardians) {
            guardians.push(of_guardian(guardian).await?);
        }
        let bitcoind = self.0.and_then(|f| f.bitcoind.process_id());
        Ok(AllUsed {
            guardians,
            wallets: cpu_seconds(std::process::id())?,
            bitcoind: bitcoind.map(cpu_seconds).transpose()?,
        })
    }
}

impl AllUsed {
    pub(super) fn since(&self, before: &Self) -> Self {
        let pairs = self.guardians.iter().zip(&before.guardians);
        Self {
            guardians: pairs.map(|(now, then)| now.since(then)).collect(),
            wallets: self.wallets - before.wallets,
            bitcoind: self
                .bitcoind
                .zip(before.bitcoind)
                .map(|(now, then)| now - then),
        }
    }
}

impl Used {
    fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu - before.cpu,
            resident: self.resident,
            written: self.written - before.written,
            grown: self.grown - before.grown,
            p2p_sent: self.p2p_sent - before.p2p_sent,
            epochs: self.epochs - before.epochs,
            modules: self.modules - before.modules,
        }
    }
}

/// Seconds of processor time since a process' start, and its resident memory, bytes.
pub(super) fn of_process(process: u32) -> Result<(f64, f64)> {
    Ok((cpu_seconds(process)?, resident(process)?))
}

fn resident(process: u32) -> Result<f64> {
    Ok(line_of(process, "status", "VmRSS:")? * 1024.0)
}

async fn of_guardian(guardian: &Guardian) -> Result<Used> {
    let process = guardian
        .process_id()
        .with_context(|| format!("{} does not run", guardian.name()))?;
    let metrics = guardian.metrics().await?;
    Ok(Used {
        cpu: cpu_seconds(process)?,
        resident: resident(process)?,
        written: line_of(process, "io", "write_bytes:")?,
        grown: bytes_in(&guardian.data_folder())?,
        p2p_sent: sum_of(&metrics, "modmint_p2p_sent_bytes_total")?,
        epochs: sum_of(&metrics, "modmint_epoch_processing_seconds_sum")?,
        modules: sum_of(&metrics, "modmint_epoch_modules_seconds_total")?,
    })
}

/// proc_pid_stat(5): the fields 14 and 15, in ticks, of which Linux shows every
/// program 100 a second.
fn cpu_seconds(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let seconds = || {
        let (_, behind_name) = stat.rsplit_once(')')?;
        let mut fields = behind_name.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<f64>().ok();
        Some((ticks()? + ticks()?) / 100.0)
    };
    seconds().with_context(|| format!("no processor time in {stat}"))
}

/// The number in the line of `/proc/<process>/<file>` that begins with `name`.
fn line_of(process: u32, file: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/{file}"))?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("no {name} in /proc/{process}/{file}"))
}

/// How long the files of a guardian's database are, which nobody has open, once what is
/// written twice or deleted is gone from them.
pub(super) fn compacted(database: &Path) -> Result<f64> {
    let mut options = rocksdb::Options::default();
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    let families = rocksdb::DB::list_cf(&options, database)?;
    let with_options = families.iter().map(|name| (name, options.clone()));
    let db = rocksdb::DB::open_cf_with_opts(&options, database, with_options)?;
    for name in &families {
        let family = db.cf_handle(name).context("it was opened with it")?;
        db.flush_cf(family)?;
        db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    }
    let files = db.live_files()?;
    Ok(files.iter().map(|file| file.size as f64).sum())
}

/// How long all files below a folder are together.
fn bytes_in(folder: &Path) -> Result<f64> {
    let mut bytes = 0.0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // RocksDB may just have deleted it.
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        bytes += match metadata.is_dir() {
            true => bytes_in(&path)?,
            false => metadata.len() as f64,
        };
    }
    Ok(bytes)
}

/// The sum of a metric over all its labels.
fn sum_of(metrics: &str, name: &str) -> Result<f64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_whole = rest.starts_with(['{', ' ']);
        is_whole.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    let values: Vec<f64> = values.collect();
    anyhow::ensure!(!values.is_empty(), "there is no metric {name}");
    Ok(values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_taken_for_no_other() {
        let metrics = "# TYPE a counter\na_total{peer=\"1\"} 2\na_total{peer=\"2\"} 3.5\n\
                       a_total_more 100\nb_sum 7\n";
        assert_eq!(sum_of(metrics, "a_total").expect("it is there"), 5.5);
        assert_eq!(sum_of(metrics, "b_sum").expect("it is there"), 7.0);
        assert!(sum_of(metrics, "a").is_err());
    }

    #[test]
    fn a_process_that_works_uses_processor_time() {
        let own = std::process::id();
        let start = cpu_seconds(own).expect("this process runs");
        while cpu_seconds(own).expect("this process runs") < start + 0.02 {}
        assert!(line_of(own, "status", "VmRSS:").expect("it is there") > 0.0);
        assert!(line_of(own, "status", "NoSuchLine:").is_err());
    }
}
