//! The lease with which one host of the fleet starts a benchmark by its schedule.

use std::time::Duration;

use super::Fleet;
use super::redis::connection::RedisCallError;

/// A lease ends after this if its host does not settle it.
const LEASE: Duration = Duration::from_secs(60);

/// The reply to a request for the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchmarkLease {
    /// This host starts the benchmark, and settles the lease then.
    Granted,
    /// Another host is starting it.
    Taken,
    /// A host started it this long ago.
    NotDue(Duration),
}

impl Fleet {
    /// Requests the lease. `age`: the time since the last start that this host knows of.
    ///
    /// # Errors
    /// If Redis was not reached.
    pub async fn lease_benchmark(
        &self,
        benchmark: &str,
        every: Duration,
        age: Option<Duration>,
    ) -> Result<BenchmarkLease, RedisCallError> {
        let age = age.map_or(-1, millis);
        let args = (self.host(), millis(every), millis(LEASE), age);
        let key = format!("bench:{benchmark}");
        let script = &self.0.scripts.benchmark_lease;
        let reply = self.link().run::<(u8, u8, u64)>(script, &[&key], args).await;
        Ok(match self.count_call("benchmark_lease", reply)? {
            (1, ..) => BenchmarkLease::Granted,
            (_, 1, _) => BenchmarkLease::Taken,
            (.., age) => BenchmarkLease::NotDue(Duration::from_millis(age)),
        })
    }

    /// Ends the lease; `started`: the benchmark was started.
    ///
    /// # Errors
    /// If Redis was not reached.
    pub async fn settle_benchmark(
        &self,
        benchmark: &str,
        every: Duration,
        started: bool,
    ) -> Result<(), RedisCallError> {
        let args = (self.host(), u8::from(started), millis(every));
        let key = format!("bench:{benchmark}");
        let script = &self.0.scripts.benchmark_settle;
        let reply = self.link().run::<u8>(script, &[&key], args).await;
        self.count_call("benchmark_settle", reply).map(|_| ())
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
