//! A cluster of three primaries, each with a third of the slots.

use super::super::eventually;
use super::{RedisServer, Reply};

const SLOTS: usize = 16384;
const SERVERS: usize = 3;

#[derive(Debug)]
pub struct Cluster {
    pub servers: Vec<RedisServer>,
}

impl Cluster {
    /// Starts them, and waits until each reports that the cluster is whole.
    pub fn start() -> Self {
        let server = |_| {
            let builder = RedisServer::builder().cluster();
            builder.arg("--cluster-node-timeout").arg("1000").start()
        };
        let servers: Vec<_> = (0..SERVERS).map(server).collect();
        for (n, server) in servers.iter().enumerate() {
            let (first, last) = (n * SLOTS / SERVERS, (n + 1) * SLOTS / SERVERS - 1);
            server.execute(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
            server.execute(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            let bus = server.bus.as_ref().expect("a port of the cluster's own").address();
            let (port, bus) = (server.address().port().to_string(), bus.port().to_string());
            servers[0].execute(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        let cluster = Self { servers };
        cluster.wait_until_whole();
        cluster
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.servers.iter().map(|s| s.address().to_string()).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// The server that has this key.
    pub fn owner(&self, key: &str) -> &RedisServer {
        let Reply::Number(slot) = self.servers[0].execute(&["CLUSTER", "KEYSLOT", key]) else {
            panic!("a slot is a number")
        };
        let slot = usize::try_from(slot).expect("a slot is not negative");
        let n = (0..SERVERS).find(|n| slot < (n + 1) * SLOTS / SERVERS);
        &self.servers[n.expect("a server with the slot")]
    }

    pub fn wait_until_whole(&self) {
        for server in &self.servers {
            eventually("the cluster is whole", || {
                let info = server.execute(&["CLUSTER", "INFO"]).text();
                let whole =
                    info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3");
                whole.then_some(()).ok_or(info)
            });
        }
    }
}
