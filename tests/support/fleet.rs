//! Sidecars that share a Redis.

use std::ops::Deref;
use std::thread;

use serde_json::Value;

use super::eventually;
use super::redis::RedisServer;
use super::sidecar::{Builder, Sidecar};

/// The name of the fleet in every test.
pub const FLEET: &str = "test";

/// The hosts of one fleet. All of them were attached when the value was created.
#[derive(Debug)]
pub struct Fleet(Vec<Sidecar>);

/// Starts hosts with the same policy.
pub fn fleet(hosts: usize, redis: &RedisServer, yaml: &str) -> Fleet {
    fleet_at(hosts, &redis.url(), yaml)
}

/// Like [`fleet`], with the URL of a Redis.
pub fn fleet_at(hosts: usize, url: &str, yaml: &str) -> Fleet {
    Fleet::of((0..hosts).map(|_| host(url, yaml)))
}

/// Builds one host of the fleet without starting it.
pub fn host(url: &str, yaml: &str) -> Builder {
    let builder = Sidecar::builder().policy("policy", yaml).workers(1);
    builder.arg("--redis").arg(url).arg("--fleet").arg(FLEET)
}

/// A key of the fleet in Redis.
pub fn key(rest: &str) -> String {
    format!("{{outrigger:{FLEET}}}:{rest}")
}

/// The fleet as one host reports it.
pub fn fleet_status(sidecar: &Sidecar) -> Value {
    let (status, text) = sidecar.admin_get("/api/fleet");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
}

pub fn is_attached(sidecar: &Sidecar) -> bool {
    fleet_status(sidecar)["attached"] == true
}

#[track_caller]
pub fn wait_until_attached(sidecar: &Sidecar) {
    eventually("the host is attached", || {
        let status = fleet_status(sidecar);
        (status["attached"] == true).then_some(()).ok_or(status.to_string())
    });
}

impl Fleet {
    /// Starts the hosts concurrently and waits until all are attached.
    pub fn of(builders: impl IntoIterator<Item = Builder>) -> Self {
        let started = thread::scope(|scope| {
            let starts = builders.into_iter().map(|builder| scope.spawn(|| builder.start()));
            let starts: Vec<_> = starts.collect();
            starts.into_iter().map(|start| start.join().expect("a host starts")).collect()
        });
        let fleet = Self(started);
        fleet.iter().for_each(wait_until_attached);
        fleet
    }

    /// Removes one host, to be stopped or killed by the caller.
    pub fn take(&mut self, host: usize) -> Sidecar {
        self.0.remove(host)
    }

    pub fn push(&mut self, host: Sidecar) {
        self.0.push(host);
    }
}

impl Deref for Fleet {
    type Target = [Sidecar];

    fn deref(&self) -> &[Sidecar] {
        &self.0
    }
}
