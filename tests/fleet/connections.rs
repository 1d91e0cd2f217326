//! The ways to a Redis: TLS with a client's certificate, a socket, a password, and where the URL is
//! kept; and what is said where it is none.

use std::fs;
use std::process::Command;

use crate::scenario::{LONG, beside_others, call, trip, wait_for_state, yaml};
use crate::support::fleet::{
    FLEET, fleet_at, fleet_status, host, is_attached, wait_until_attached,
};
use crate::support::{Behaviour, Fleet, Origin, RedisServer, Sidecar};

const SECRET: &str = "hush-0815-do-not-print";

/// Two hosts by this URL share a breaker, and tell no secret.
#[track_caller]
fn works(url: &str, redis: &RedisServer) {
    let a = Origin::start(Behaviour::Chat);
    let fleet = fleet_at(2, url, &yaml(&a.url(), LONG));
    shares(&fleet, &a, redis);
}

#[track_caller]
fn shares(fleet: &Fleet, a: &Origin, redis: &RedisServer) {
    trip(fleet, a, redis);
    fleet.iter().for_each(|host| wait_for_state(host, "open"));
    for host in fleet.iter() {
        let shown = format!("{}\n{}", fleet_status(host), host.log().join("\n"));
        assert!(!shown.contains(SECRET), "a secret was told: {shown}");
    }
}

#[test]
fn by_a_unix_socket() {
    let _room = beside_others();
    let redis = RedisServer::start();
    works(&redis.socket_url(), &redis);
    let redis = RedisServer::builder().password(SECRET).start();
    works(&redis.socket_url(), &redis);
}

#[test]
fn with_a_password_and_with_a_user_and_a_database() {
    let _room = beside_others();
    let redis = RedisServer::builder().password(SECRET).start();
    works(&redis.url(), &redis);
    let redis = RedisServer::start();
    let user = format!("ACL SETUSER outrigger on >{SECRET} ~{{outrigger:{FLEET}}}* +@all");
    redis.ask(&user.split(' ').collect::<Vec<_>>());
    works(&format!("redis://outrigger:{SECRET}@{}/0", redis.address()), &redis);
}

#[test]
fn over_tls_with_a_certificate_of_the_clients() {
    let _room = beside_others();
    let redis = RedisServer::builder().tls().password(SECRET).start();
    works(&redis.url(), &redis);
}

#[test]
fn over_tls_without_the_certificate_that_is_wanted_it_says_why_it_is_not_attached() {
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
fn the_url_is_read_from_where_it_is_kept() {
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
    shares(&Fleet::of([from_file, from_env, of_env]), &a, &redis);
}

#[test]
fn another_name_is_another_fleet() {
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
        let told = String::from_utf8_lossy(&output.stderr);
        println!("{}", told.trim_end());
        assert_eq!(output.status.code(), Some(2), "{url}: {told}");
        assert!(!told.contains(SECRET), "{url}: {told}");
        assert!(told.contains(wanted) || wanted.starts_with("`redis`"), "{url}: {told}");
    }
}
