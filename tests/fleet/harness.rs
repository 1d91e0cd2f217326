//! The harness tests itself: Redis and what stands before it, without a sidecar.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::redis::{Cluster, Reply, Sentinels};
use crate::support::{FaultProxy, ProxyMode, RedisServer, eventually};

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Connects, says it, and hears so many bytes within a moment.
fn said(to: SocketAddr, what: &[u8], bytes: usize, moment: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, moment)?;
    stream.set_read_timeout(Some(moment))?;
    stream.write_all(what)?;
    let mut heard = vec![0; bytes];
    stream.read_exact(&mut heard)?;
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

fn ping(to: SocketAddr) -> std::io::Result<String> {
    said(to, PING, 7, Duration::from_millis(300))
}

#[test]
fn a_redis_keeps_its_port_while_it_is_down_and_loses_its_data() {
    let redis = RedisServer::start();
    assert_eq!(ping(redis.address()).expect("an answer"), "+PONG\r\n");
    redis.ask(&["SET", "a", "b"]);
    redis.kill();
    assert_eq!(ping(redis.address()).expect_err("down").kind(), ErrorKind::ConnectionRefused);
    redis.start_again();
    assert_eq!(ping(redis.address()).expect("an answer"), "+PONG\r\n");
    assert_eq!(redis.ask(&["GET", "a"]), Reply::Nil);
    redis.freeze();
    assert_eq!(ping(redis.address()).expect_err("frozen").kind(), ErrorKind::WouldBlock);
    redis.thaw();
    eventually("an answer", || ping(redis.address()).map_err(|error| error.to_string()));
}

#[test]
fn replies_are_read_as_they_are() {
    let redis = RedisServer::start();
    let script = "return {1, 'two', {redis.status_reply('three')}, false}";
    let list = redis.ask(&["EVAL", script, "0"]);
    let three = Reply::List(vec![Reply::Text("three".to_owned())]);
    let all = [Reply::Number(1), Reply::Bytes(b"two".to_vec()), three, Reply::Nil];
    assert_eq!(list.items(), all);
    let error = redis.talk().ask(&["NO", "SUCH"]).text();
    assert!(error.starts_with("ERR unknown command"), "{error}");
}

#[test]
fn a_password_is_wanted_and_a_certificate_is_wanted() {
    let redis = RedisServer::builder().password("hush").start();
    assert!(ping(redis.address()).expect("an answer").starts_with("-NOAUTH"));
    assert_eq!(redis.ask(&["PING"]).text(), "PONG");
    assert!(redis.url().starts_with("redis://:hush@127.0.0.1:"), "{}", redis.url());
    let redis = RedisServer::builder().tls().start();
    let plain = ping(redis.address());
    assert!(plain.is_err(), "{plain:?}");
    assert!(redis.url().contains("&cert="), "{}", redis.url());
}

#[test]
fn the_clock_of_a_redis_can_be_set() {
    let redis = RedisServer::builder().clock().start();
    let before = redis.clock();
    for step in [3600, -3600, 0] {
        redis.set_clock(step);
        let off = redis.clock() - before - step;
        assert!((0..10).contains(&off), "{off}");
    }
    redis.ask(&["SET", "a", "b", "PX", "100"]);
    eventually("a key runs out", || match redis.ask(&["GET", "a"]) {
        Reply::Nil => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_fault_proxy_delays_or_stalls_and_delivers_pending_data_afterwards() {
    let redis = RedisServer::start();
    let wire = FaultProxy::to(redis.address());
    assert_eq!(ping(wire.address()).expect("an answer"), "+PONG\r\n");
    wire.set(ProxyMode::After(Duration::from_millis(100)));
    let began = Instant::now();
    assert_eq!(ping(wire.address()).expect("an answer"), "+PONG\r\n");
    let took = began.elapsed();
    assert!((200..300).contains(&took.as_millis()), "{took:?}");
    wire.set(ProxyMode::Stalled);
    let mut stream = TcpStream::connect(wire.address()).expect("it is taken");
    stream.write_all(PING).expect("it can be said");
    assert_eq!(ping(wire.address()).expect_err("stalled").kind(), ErrorKind::WouldBlock);
    wire.mend();
    let mut heard = [0; 7];
    stream.read_exact(&mut heard).expect("the answer comes after all");
    assert_eq!(&heard, b"+PONG\r\n");
}

#[test]
fn a_fault_proxy_can_refuse_drop_or_reply_by_itself() {
    let redis = RedisServer::start();
    let wire = FaultProxy::to(redis.address());
    let mut open = TcpStream::connect(wire.address()).expect("it is taken");
    open.write_all(PING).expect("it can be said");
    open.read_exact(&mut [0; 7]).expect("an answer");
    wire.set(ProxyMode::Dropped);
    assert_eq!(ping(wire.address()).expect_err("dropped").kind(), ErrorKind::TimedOut);
    wire.set(ProxyMode::Refused);
    assert_eq!(ping(wire.address()).expect_err("refused").kind(), ErrorKind::ConnectionRefused);
    assert_eq!(open.read(&mut [0; 8]).expect("an end"), 0, "what was open is closed");
    wire.set(ProxyMode::Garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    assert_eq!(ping(wire.address()).expect("an answer"), "HTTP/1.");
    wire.set(ProxyMode::Error("LOADING not yet".to_owned()));
    let both = [PING, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"].concat();
    let heard = said(wire.address(), &both, 36, Duration::from_secs(1)).expect("answers");
    assert_eq!(heard, "-LOADING not yet\r\n-LOADING not yet\r\n");
    wire.mend();
    assert_eq!(ping(wire.address()).expect("an answer"), "+PONG\r\n");
}

#[test]
fn sentinels_fail_over_to_the_replica_and_lose_unreplicated_writes() {
    let all = Sentinels::start();
    all.primary.ask(&["SET", "early", "1"]);
    eventually("the replica has heard", || match all.replica.ask(&["GET", "early"]) {
        Reply::Nil => Err("nothing".to_owned()),
        _ => Ok(()),
    });
    let mut talk = all.primary.talk();
    all.cut_replication();
    assert_eq!(talk.ask(&["SET", "late", "1"]).text(), "OK");
    all.fail_over();
    assert_eq!(all.replica.ask(&["GET", "early"]).text(), "1");
    assert_eq!(all.replica.ask(&["GET", "late"]), Reply::Nil);
}

#[test]
fn a_cluster_loses_a_third_and_is_whole_again() {
    let cluster = Cluster::start();
    let owner = cluster.owner("{a}");
    owner.ask(&["SET", "{a}", "1"]);
    let other = cluster.servers.iter().find(|s| s.address() != owner.address());
    let moved = other.expect("another").talk().ask(&["GET", "{a}"]).text();
    assert!(moved.starts_with("MOVED "), "{moved}");
    owner.kill();
    owner.start_again();
    cluster.wait_until_whole();
}
