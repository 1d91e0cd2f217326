//! Three Sentinels over a primary and its replica.

use super::super::eventually;
use super::{RedisServer, words};

const NAME: &str = "fleet";

#[derive(Debug)]
pub struct Sentinels {
    pub primary: RedisServer,
    pub replica: RedisServer,
    sentinels: Vec<RedisServer>,
}

impl Sentinels {
    /// Starts all five, and waits until the Sentinels know each other and the replica follows.
    pub fn start() -> Self {
        let primary = RedisServer::builder();
        let primary = primary.arg("--repl-diskless-sync-delay").arg("0").start();
        let port = primary.address().port().to_string();
        let replica = RedisServer::builder().arg("--replicaof").arg("127.0.0.1").arg(&port).start();
        eventually("the replica follows", || {
            let replication = replica.execute(&["INFO", "replication"]).text();
            replication.contains("master_link_status:up").then_some(()).ok_or(replication)
        });
        let sentinels = (0..3).map(|n| sentinel(&port, n)).collect();
        let all = Self { primary, replica, sentinels };
        all.sentinels.iter().for_each(knows_all);
        all
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|s| s.address().to_string()).collect();
        format!("redis+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// Stops the replication: the replica cannot authenticate again.
    pub fn cut_replication(&self) {
        let mut connection = self.primary.connect();
        assert_eq!(connection.execute(&["CONFIG", "SET", "requirepass", "unknown"]).text(), "OK");
        assert_eq!(connection.execute(&["CLIENT", "KILL", "TYPE", "replica"]).text(), "1");
    }

    /// Ends the primary, and waits until the replica has taken its place.
    pub fn fail_over(&self) {
        self.primary.kill();
        eventually("the replica is the primary", || {
            // The promotion closes its connections.
            let role =
                self.replica.connect().try_execute(&["ROLE"]).map_err(|error| error.to_string())?;
            let role = role.items()[0].text();
            (role == "master").then_some(()).ok_or(role)
        });
    }
}

/// The first detects a failure earliest and is elected by the others: three candidates at once may
/// elect none.
fn sentinel(port: &str, n: u32) -> RedisServer {
    let lines = [
        format!("sentinel monitor {NAME} 127.0.0.1 {port} 1"),
        format!("sentinel down-after-milliseconds {NAME} {}", 500 + 2000 * n),
        format!("sentinel failover-timeout {NAME} 2000"),
    ];
    let builder = RedisServer::builder().sentinel();
    lines.iter().fold(builder, |builder, line| builder.arg(line)).start()
}

fn knows_all(sentinel: &RedisServer) {
    let command = words("SENTINEL MASTER fleet");
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    eventually("a Sentinel knows the replica and the other two", || {
        let reply = sentinel.execute(&command);
        let field = |name| reply.field(name).unwrap_or_default();
        let known = [field("num-slaves"), field("num-other-sentinels"), field("flags")];
        (known == ["1", "2", "master"]).then_some(()).ok_or(format!("{known:?}"))
    });
}
