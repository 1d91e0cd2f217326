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
            let replication = replica.ask(&["INFO", "replication"]).text();
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

    /// The replica hears nothing more of what the primary is told: it is not let in again.
    pub fn cut_replication(&self) {
        let mut talk = self.primary.talk();
        assert_eq!(talk.ask(&["CONFIG", "SET", "requirepass", "nobody-knows"]).text(), "OK");
        assert_eq!(talk.ask(&["CLIENT", "KILL", "TYPE", "replica"]).text(), "1");
    }

    /// Ends the primary, and waits until the replica has taken its place.
    pub fn fail_over(&self) {
        self.primary.kill();
        eventually("the replica is the primary", || {
            // Whoever promotes it closes the connections that it has.
            let role = self.replica.talk().try_ask(&["ROLE"]).map_err(|error| error.to_string())?;
            let role = role.items()[0].text();
            (role == "master").then_some(()).ok_or(role)
        });
    }
}

/// The first notices soonest and is elected by the others: three that stand at once elect nobody.
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
    let ask = words("SENTINEL MASTER fleet");
    let ask: Vec<_> = ask.iter().map(String::as_str).collect();
    eventually("a Sentinel knows the replica and the other two", || {
        let told = sentinel.ask(&ask);
        let field = |name| told.field(name).unwrap_or_default();
        let known = [field("num-slaves"), field("num-other-sentinels"), field("flags")];
        (known == ["1", "2", "master"]).then_some(()).ok_or(format!("{known:?}"))
    });
}
