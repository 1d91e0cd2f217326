//! Tests of the harness itself, without a sidecar: Redis and the fault proxy in front of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::redis::{Cluster, Reply, Sentinels};
use crate::support::{FaultProxy, ProxyMode, RedisServer, eventually};

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Connects, sends the request, and reads a reply of `length` bytes.
fn exchange(
    to: SocketAddr,
    request: &[u8],
    length: usize,
    timeout: Duration,
) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(request)?;
    let mut received = vec![0; length];
    stream.read_exact(&mut received)?;
    Ok(String::from_utf8_lossy(&received).into_owned())
}

fn ping(to: SocketAddr) -> std::io::Result<String> {
    exchange(to, PING, 7, Duration::from_millis(300))
}

#[test]
fn a_redis_keeps_its_port_while_it_is_down_and_loses_its_data() {
    let redis = RedisServer::start();
    assert_eq!(ping(redis.address()).expect("a reply"), "+PONG\r\n");
    redis.execute(&["SET", "a", "b"]);
    redis.kill();
    assert_eq!(ping(redis.address()).expect_err("down").kind(), ErrorKind::ConnectionRefused);
    redis.start_again();
    assert_eq!(ping(redis.address()).expect("a reply"), "+PONG\r\n");
    assert_eq!(redis.execute(&["GET", "a"]), Reply::Nil);
    redis.freeze();
    assert_eq!(ping(redis.address()).expect_err("frozen").kind(), ErrorKind::WouldBlock);
    redis.thaw();
    eventually("a reply", || ping(redis.address()).map_err(|error| error.to_string()));
}

#[test]
fn each_reply_type_is_parsed() {
    let redis = RedisServer::start();
    let script = "return {1, 'two', {redis.status_reply('three')}, false}";
    let list = redis.execute(&["EVAL", script, "0"]);
    let three = Reply::List(vec![Reply::Text("three".to_owned())]);
    let all = [Reply::Number(1), Reply::Bytes(b"two".to_vec()), three, Reply::Nil];
    assert_eq!(list.items(), all);
    let error = redis.connect().execute(&["NO", "SUCH"]).text();
    assert!(error.starts_with("ERR unknown command"), "{error}");
}

#[test]
fn a_password_and_a_client_certificate_are_required() {
    let redis = RedisServer::builder().password("hush").start();
    assert!(ping(redis.address()).expect("a reply").starts_with("-NOAUTH"));
    assert_eq!(redis.execute(&["PING"]).text(), "PONG");
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
    redis.execute(&["SET", "a", "b", "PX", "100"]);
    eventually("the key expires", || match redis.execute(&["GET", "a"]) {
        Reply::Nil => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_fault_proxy_delays_or_stalls_and_then_delivers_pending_data() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::to(redis.address());
    assert_eq!(ping(proxy.address()).expect("a reply"), "+PONG\r\n");
    proxy.set(ProxyMode::After(Duration::from_millis(100)));
    let began = Instant::now();
    assert_eq!(ping(proxy.address()).expect("a reply"), "+PONG\r\n");
    let took = began.elapsed();
    assert!((200..300).contains(&took.as_millis()), "{took:?}");
    proxy.set(ProxyMode::Stalled);
    let mut stream = TcpStream::connect(proxy.address()).expect("a connection");
    stream.write_all(PING).expect("a request");
    assert_eq!(ping(proxy.address()).expect_err("stalled").kind(), ErrorKind::WouldBlock);
    proxy.restore();
    let mut received = [0; 7];
    stream.read_exact(&mut received).expect("the delayed reply");
    assert_eq!(&received, b"+PONG\r\n");
}

#[test]
fn a_fault_proxy_can_refuse_drop_or_reply_by_itself() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::to(redis.address());
    let mut open = TcpStream::connect(proxy.address()).expect("a connection");
    open.write_all(PING).expect("a request");
    open.read_exact(&mut [0; 7]).expect("a reply");
    proxy.set(ProxyMode::Dropped);
    assert_eq!(ping(proxy.address()).expect_err("dropped").kind(), ErrorKind::TimedOut);
    proxy.set(ProxyMode::Refused);
    assert_eq!(ping(proxy.address()).expect_err("refused").kind(), ErrorKind::ConnectionRefused);
    assert_eq!(open.read(&mut [0; 8]).expect("an end"), 0, "the open connection is closed");
    proxy.set(ProxyMode::Garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    assert_eq!(ping(proxy.address()).expect("a reply"), "HTTP/1.");
    proxy.set(ProxyMode::Error("LOADING not yet".to_owned()));
    let both = [PING, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"].concat();
    let received = exchange(proxy.address(), &both, 36, Duration::from_secs(1)).expect("replies");
    assert_eq!(received, "-LOADING not yet\r\n-LOADING not yet\r\n");
    proxy.restore();
    assert_eq!(ping(proxy.address()).expect("a reply"), "+PONG\r\n");
}

#[test]
fn sentinels_fail_over_to_the_replica_and_lose_unreplicated_writes() {
    let all = Sentinels::start();
    all.primary.execute(&["SET", "early", "1"]);
    eventually("the write is replicated", || match all.replica.execute(&["GET", "early"]) {
        Reply::Nil => Err("nothing".to_owned()),
        _ => Ok(()),
    });
    let mut connection = all.primary.connect();
    all.cut_replication();
    assert_eq!(connection.execute(&["SET", "late", "1"]).text(), "OK");
    all.fail_over();
    assert_eq!(all.replica.execute(&["GET", "early"]).text(), "1");
    assert_eq!(all.replica.execute(&["GET", "late"]), Reply::Nil);
}

#[test]
fn a_cluster_recovers_after_it_lost_one_of_three_servers() {
    let cluster = Cluster::start();
    let owner = cluster.owner("{a}");
    owner.execute(&["SET", "{a}", "1"]);
    let other = cluster.servers.iter().find(|s| s.address() != owner.address());
    let moved = other.expect("another").connect().execute(&["GET", "{a}"]).text();
    assert!(moved.starts_with("MOVED "), "{moved}");
    owner.kill();
    owner.start_again();
    cluster.wait_until_whole();
}
