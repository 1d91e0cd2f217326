//! The machine and the versions, on which the figures of a run depend.

use std::fs;
use std::thread::available_parallelism;

use crate::benchmark::report::Environment;
use crate::telemetry::process::host_name;

pub fn environment(policy_hash: &str) -> Environment {
    Environment {
        host: host_name(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        policy_hash: policy_hash.to_owned(),
        system: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        cpus: available_parallelism().map_or(1, |count| count.get() as u32),
        memory_bytes: memory().unwrap_or_default(),
    }
}

/// `MemTotal:  16384 kB`
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}
