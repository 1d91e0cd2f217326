//! Connections to Redis: TLS with a client certificate, a Unix socket, a password, the sources of the
//! URL, and the errors for invalid URLs.

use std::fs;
use std::process::Command;

use crate::scenario::{LONG, beside_others, call, trip, wait_for_state, yaml};
use crate::support::fleet::{
    FLEET, fleet_at, fleet_status, host, is_attached, wait_until_attached,
};
use crate::support::{Behaviour, Fleet, Origin, RedisServer, Sidecar};

const SECRET: &str = "hush-0815-do-not-print";

/// Two hosts with this URL share a breaker, and print no secret.
#[track_caller]
fn assert_shares_by(url: &str, redis: &RedisServer) {
    let a = Origin::start(Behaviour::Chat);
    let fleet = fleet_at(2, url, &yaml(&a.url(), LONG));
    assert_shares(&fleet, &a, redis);
}

#[track_caller]
fn assert_shares(fleet: &Fleet, a: &Origin, redis: &RedisServer) {
    trip(fleet, a, redis);
    fleet.iter().for_each(|host| wait_for_state(host, "open"));
    for host in fleet.iter() {
        let shown = format!("{}\n{}", fleet_status(host), host.log().join("\n"));
        assert!(!shown.contains(SECRET), "a secret was printed: {shown}");
    }
}

#[test]
fn hosts_share_a_breaker_over_a_unix_socket() {
    let _room = beside_others();
    let redis = RedisServer::start();
    assert_shares_by(&redis.socket_url(), &redis);
    let redis = RedisServer::builder().password(SECRET).start();
    assert_shares_by(&redis.socket_url(), &redis);
}

#[test]
fn hosts_share_a_breaker_with_a_password_or_a_user_and_a_database() {
    let _room = beside_others();
    let redis = RedisServer::builder().password(SECRET).start();
    assert_shares_by(&redis.url(), &redis);
    let redis = RedisServer::start();
    let user = format!("ACL SETUSER outrigger on >{SECRET} ~{{outrigger:{FLEET}}}* +@all");
    redis.execute(&user.split(' ').collect::<Vec<_>>());
    assert_shares_by(&format!("redis://outrigger:{SECRET}@{}/0", redis.address()), &redis);
}

#[test]
fn hosts_share_a_breaker_over_tls_with_a_client_certificate() {
    let _room = beside_others();
    let redis = RedisServer::builder().tls().password(SECRET).start();
    assert_shares_by(&redis.url(), &redis);
}

#[test]
fn a_host_without_the_required_client_certificate_logs_a_warning() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::builder().tls().start());
    let with_ca = format!("rediss://{}?{}", redis.address(), redis.certificates().ca());
    let without = format!("rediss://{}", redis.address());
    let plain = format!("redis://{}", redis.address());
    for url in [with_ca, without, plain] {
        let host = host(&url, &yaml(&a.url(), LONG)).start();
        let line = host.wait_for_log(|line| line.contains("fleet: ") && line.contains("WARN"));
        println!("{line}");
        assert_eq!(call(&host).status, 200);
        assert!(!is_attached(&host), "{url}");
    }
}

#[test]
fn the_url_is_read_from_a_file_or_a_variable() {
    let _room = beside_others();
    let (a, redis) =
        (Origin::start(Behaviour::Chat), RedisServer::builder().password(SECRET).start());
    let yaml = yaml(&a.url(), LONG);
    let file = redis.folder().join("url");
    fs::write(&file, format!("{}\n", redis.url())).expect("the URL can be written");
    let from_file = host(&format!("file:{}", file.display()), &yaml);
    let from_env = host("env:WHERE_REDIS_IS", &yaml).env("WHERE_REDIS_IS", &redis.url());
    let of_env = Sidecar::builder().policy("policy", &yaml).workers(1);
    let of_env = of_env.env("OUTRIGGER_REDIS", &redis.url()).env("OUTRIGGER_FLEET", FLEET);
    assert_shares(&Fleet::of([from_file, from_env, of_env]), &a, &redis);
}

#[test]
fn fleets_with_different_names_share_nothing() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let yaml = yaml(&a.url(), LONG);
    let ours = fleet_at(2, &redis.url(), &yaml);
    let theirs = Sidecar::builder().policy("policy", &yaml).workers(1);
    let theirs = theirs.arg("--redis").arg(&redis.url()).arg("--fleet").arg("other").start();
    wait_until_attached(&theirs);
    trip(&ours, &a, &redis);
    ours.iter().for_each(|host| wait_for_state(host, "open"));
    a.set(Behaviour::Chat);
    assert_eq!(call(&theirs).status, 200);
    assert_eq!(
        fleet_status(&theirs)["hosts"].as_array().map(Vec::len),
        Some(1),
        "{}",
        fleet_status(&theirs)
    );
}

#[test]
fn an_invalid_redis_url_is_rejected_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("policy.yaml"), yaml("http://127.0.0.1:9", LONG))
        .expect("written");
    let file = folder.path().join("none");
    for (url, fleet, wanted) in [
        ("redis", "a", "`redis` or"),
        (&format!("http://:{SECRET}@127.0.0.1"), "a", "`http` is not a scheme"),
        (&format!("redis://:{SECRET}@127.0.0.1:seven"), "a", "--redis"),
        ("env:NOT_SET_ANYWHERE", "a", "`NOT_SET_ANYWHERE`"),
        (&format!("file:{}", file.display()), "a", "none"),
        ("redis://127.0.0.1", "a fleet", "letters, digits"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args([
            "run",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--data",
            "none",
        ]);
        command.arg("--policies").arg(folder.path()).args(["--redis", url, "--fleet", fleet]);
        let output = command.output().expect("the command can be started");
        let stderr = String::from_utf8_lossy(&output.stderr);
        println!("{}", stderr.trim_end());
        assert_eq!(output.status.code(), Some(2), "{url}: {stderr}");
        assert!(!stderr.contains(SECRET), "{url}: {stderr}");
        assert!(stderr.contains(wanted) || wanted.starts_with("`redis`"), "{url}: {stderr}");
    }
}
