//! The status of a fleet, and manual overrides for all its hosts.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fixtures::{breaker, chat};
use crate::scenario::{
    LONG, beside_others, call, call_until_served, stored, trip, wait_for_state, yaml, yaml_of,
};
use crate::support::fleet::{fleet_status, host, wait_until_attached};
use crate::support::{Behaviour, Fleet, Origin, RedisServer, Sidecar, eventually, fleet};

const OPEN: &str = "/api/circuit-breakers/open/a";

fn change(host: &Sidecar, action: &str, body: &Value) {
    let (status, text) = host.admin_post(&format!("/api/circuit-breakers/{action}/a"), body);
    assert_eq!(status, 200, "{action}: {text}");
}

#[track_caller]
fn wait_for_override(fleet: &Fleet, state: &str) {
    for host in fleet.iter() {
        eventually(&format!("the override `{state}` at every host"), || {
            let current = breaker(host, "a")["override"]["state"].clone();
            (current == json!(state)).then_some(()).ok_or(current.to_string())
        });
    }
}

fn outrigger(host: &Sidecar, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(arguments).args(["--admin", host.admin_url("").trim_end_matches('/')]);
    command.env("USER", "tester").output().expect("the command can be started")
}

#[track_caller]
fn stdout(host: &Sidecar, arguments: &[&str]) -> String {
    let output = outrigger(host, arguments);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_breaker_that_is_opened_for_the_fleet_is_open_at_every_host_and_closed_again() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let yaml = yaml(&a.url(), LONG);
    let mut fleet = fleet(3, &redis, &yaml);
    fleet.iter().for_each(|host| assert_eq!(call(host).status, 200));
    let body = json!({ "fleet": true, "for": "10m", "reason": "maintenance", "by": "ann" });
    change(&fleet[0], "open", &body);
    wait_for_override(&fleet, "open");
    // A host that starts later has it too.
    let late = host(&redis.url(), &yaml).start();
    wait_until_attached(&late);
    fleet.push(late);
    wait_for_override(&fleet, "open");
    let count = a.count();
    for host in fleet.iter() {
        assert!(call(host).is("breaker-open"));
        let found = fleet_status(host)["overrides"][0].clone();
        let parts = [&found["key"], &found["state"], &found["by"], &found["reason"]];
        assert_eq!(parts, ["a", "open", "ann", "maintenance"], "{found}");
        let left = found["remaining_ms"].as_u64().unwrap_or_default();
        assert!((590_000..=600_000).contains(&left), "{found}");
    }
    assert_eq!(a.count(), count);
    change(&fleet[1], "reset", &json!({ "fleet": true }));
    for host in fleet.iter() {
        wait_for_state(host, "closed");
        assert_eq!(call(host).status, 200);
        assert_eq!(fleet_status(host)["overrides"], json!([]));
    }
}

#[test]
fn a_fleet_override_covers_new_models_at_every_host_even_without_redis_and_names_its_author() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(2, &redis, &yaml(&a.url(), &format!("scope: model, {LONG}")));
    let body = json!({ "fleet": true, "reason": "maintenance", "by": "ann" });
    change(&fleet[0], "open", &body);
    wait_for_override(&fleet, "open");
    redis.kill();
    for host in fleet.iter() {
        for _ in 0..2 {
            let refused = host.send(&chat()).text();
            let reason = "its breaker was opened manually on every host by ann: maintenance";
            assert!(refused.contains(reason), "{refused}");
        }
        let parts = ["breaker changed", "a/main/", "by ann: maintenance"];
        host.wait_for_log(|line| parts.iter().all(|part| line.contains(part)));
    }
    assert_eq!(a.count(), 0);
}

#[test]
fn a_breaker_that_is_closed_for_the_fleet_trips_at_no_host() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(3, &redis, &yaml(&a.url(), LONG));
    fleet.iter().for_each(|host| assert_eq!(call(host).status, 200));
    change(&fleet[0], "close", &json!({ "fleet": true }));
    wait_for_override(&fleet, "closed");
    a.set(Behaviour::status(500, &[]));
    for host in fleet.iter().cycle().take(12) {
        assert_eq!(call(host).status, 500);
    }
    assert_eq!(stored(&redis).filter(|register| register.state != 'C'), None, "no host voted");
    change(&fleet[2], "reset", &json!({ "fleet": true }));
    eventually("it trips again", || {
        let results: Vec<_> = fleet.iter().map(call).collect();
        let all = results.iter().all(|result| result.is("breaker-open"));
        all.then_some(()).ok_or(format!("{results:?}"))
    });
}

#[test]
fn a_fleet_override_expires_and_a_host_override_applies_to_that_host_only() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(2, &redis, &yaml(&a.url(), LONG));
    fleet.iter().for_each(|host| assert_eq!(call(host).status, 200));
    change(&fleet[0], "open", &json!({ "fleet": true, "for": "2s" }));
    wait_for_override(&fleet, "open");
    // Then each host sends a probe of its own.
    call_until_served(&fleet[0..1]);
    call_until_served(&fleet[1..2]);
    fleet.iter().for_each(|host| wait_for_state(host, "closed"));
    assert_eq!(
        stored(&redis).filter(|register| register.state != 'C'),
        None,
        "an override is no trip"
    );
    change(&fleet[0], "open", &json!({}));
    assert!(call(&fleet[0]).is("breaker-open"));
    assert_eq!(call(&fleet[1]).status, 200);
    assert_eq!(fleet_status(&fleet[1])["overrides"], json!([]));
}

#[test]
fn a_fleet_reset_closes_a_tripped_breaker_at_all_hosts() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(3, &redis, &yaml(&a.url(), LONG));
    trip(&fleet, &a, &redis);
    fleet.iter().for_each(|host| wait_for_state(host, "open"));
    let before = stored(&redis);
    a.set(Behaviour::Chat);
    change(&fleet[1], "reset", &json!({ "fleet": true }));
    for host in fleet.iter() {
        wait_for_state(host, "closed");
        assert_eq!(call(host).status, 200);
    }
    let after = stored(&redis);
    assert!(after.as_ref().is_some_and(|after| after.state == 'C') && after > before, "{after:?}");
}

#[test]
fn without_redis_a_change_for_the_fleet_is_refused_and_changes_nothing() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(1, &redis, &yaml(&a.url(), LONG));
    assert_eq!(call(&fleet[0]).status, 200);
    redis.kill();
    let (status, text) = fleet[0].admin_post(OPEN, &json!({ "fleet": true }));
    assert!(status == 503 && text.contains("nothing was changed"), "{status}: {text}");
    assert_eq!(call(&fleet[0]).status, 200);
    let alone = Sidecar::start(&yaml(&a.url(), LONG));
    let (status, text) = alone.admin_post(OPEN, &json!({ "fleet": true }));
    assert!(status == 409 && text.contains("--redis"), "{status}: {text}");
    assert_eq!(alone.admin_get("/api/fleet").0, 404);
}

#[test]
fn a_fleet_is_shown_with_its_hosts_and_whether_their_policies_differ() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let mut fleet = fleet(3, &redis, &yaml(&a.url(), LONG));
    let ids = |host: &Sidecar| {
        let all = fleet_status(host)["hosts"].clone();
        let ids = all.as_array().into_iter().flatten().map(|host| host["id"].clone());
        ids.collect::<Vec<_>>()
    };
    for host in fleet.iter() {
        eventually("three hosts", || {
            let ids = ids(host);
            (ids.len() == 3).then_some(()).ok_or(format!("{ids:?}"))
        });
        let status = fleet_status(host);
        assert_eq!(status["policies_differ"], false, "{status}");
        let mine =
            status["hosts"].as_array().into_iter().flatten().filter(|h| h["this_host"] == true);
        let mine: Vec<_> = mine.map(|host| host["id"].clone()).collect();
        assert_eq!(mine, [status["host"].clone()]);
        for host in status["hosts"].as_array().into_iter().flatten() {
            assert_eq!(host["version"], env!("CARGO_PKG_VERSION"), "{host}");
            assert!(host["policy"].as_str().is_some_and(|hash| hash.len() == 12), "{host}");
        }
    }
    fleet[1].write_policy("policy", &yaml(&a.url(), crate::scenario::EAGER));
    for host in fleet.iter() {
        eventually("the status shows that policies differ", || {
            let status = fleet_status(host);
            (status["policies_differ"] == true).then_some(()).ok_or(status.to_string())
        });
    }
    eventually("they are counted", || {
        let hosts = fleet[0].metric("outrigger_fleet_hosts");
        (hosts == Some(3.0)).then_some(()).ok_or(format!("{hosts:?}"))
    });
    drop(fleet.take(2));
    eventually("a stopped host is no longer listed", || {
        let ids = ids(&fleet[0]);
        (ids.len() == 2).then_some(()).ok_or(format!("{ids:?}"))
    });
}

#[test]
fn the_commands_show_and_change_the_fleet() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let limited = "capacity: { requests: 6000/min }";
    let fleet = fleet(2, &redis, &yaml_of(&a.url(), limited, LONG));
    trip(&fleet, &a, &redis);
    fleet.iter().for_each(|host| wait_for_state(host, "open"));
    let shown = eventually("both hosts in the table", || {
        let shown = stdout(&fleet[0], &["fleet"]);
        let hosts = fleet_status(&fleet[0])["hosts"].clone();
        let all = hosts.as_array().into_iter().flatten();
        let mut all = all.map(|host| host["id"].as_str().unwrap_or("none").to_owned());
        let both = hosts.as_array().is_some_and(|hosts| hosts.len() == 2);
        (both && all.all(|id| shown.contains(&id))).then_some(shown.clone()).ok_or(shown)
    });
    for part in ["fleet test", "attached", "(this one)", "a/main", "open", "quorum", "100.00/s"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json: Value = serde_json::from_str(&stdout(&fleet[0], &["fleet", "--json"])).expect("JSON");
    assert_eq!(json["breakers"][0]["state"], "open", "{json}");
    stdout(&fleet[0], &["breakers", "reset", "a", "--fleet"]);
    fleet.iter().for_each(|host| wait_for_state(host, "closed"));
    stdout(&fleet[1], &["breakers", "open", "a", "--fleet", "--for", "10m", "--reason", "a drill"]);
    wait_for_override(&fleet, "open");
    assert!(stdout(&fleet[0], &["breakers"]).contains("a drill"));
    let alone = Sidecar::start(&yaml(&a.url(), LONG));
    let none = outrigger(&alone, &["fleet"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).contains("--redis"), "{none:?}");
}
