//! Metrics of the process, as every Prometheus client exports them; read from `/proc` at each scrape.

use std::fs;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Clock ticks per second in `/proc/self/stat`: USER_HZ is 100 on every supported platform.
const TICKS: f64 = 100.0;

/// The collector. Without `/proc` it exports only the start time.
#[derive(Debug)]
pub struct Process {
    started: SystemTime,
}

impl Process {
    pub fn new(started: SystemTime) -> Self {
        Process { started }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)
        };
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        gauge(
            "process_start_time_seconds",
            "Start time of the process, in Unix time.",
            started.as_secs_f64(),
        )?;
        if let Some(bytes) = resident() {
            gauge("process_resident_memory_bytes", "Resident memory.", bytes)?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Open file descriptors.", open.count() as f64)?;
        }
        let Some(seconds) = cpu() else { return Ok(()) };
        let counter = ConstCounter::new(seconds);
        let help = "User and system CPU time.";
        let kind = counter.metric_type();
        counter.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, kind)?)
    }
}

fn resident() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

/// User and system time: the 14th and 15th fields. The second field may contain spaces and ends at the
/// last parenthesis.
fn cpu() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS)
}

/// The host's name, with every character replaced that has a meaning in a Redis key.
pub fn host_name() -> String {
    let set = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
    let name = set.or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let name: String = name
        .unwrap_or_default()
        .trim()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' })
        .take(64)
        .collect();
    if name.is_empty() { "host".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn memory_time_and_descriptors_are_exported() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::new(SystemTime::UNIX_EPOCH)));
        let mut text = String::new();
        encode(&mut text, &registry).expect("written");
        for name in
            ["start_time_seconds 0", "resident_memory_bytes ", "open_fds ", "cpu_seconds_total "]
        {
            assert!(text.contains(&format!("\nprocess_{name}")), "{name}: {text}");
        }
    }
}
