//! What an operator sees of a fleet, and does to all of it at once.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fixtures::breaker;
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
fn everywhere(fleet: &Fleet, what: &str) {
    for host in fleet.iter() {
        eventually(&format!("`{what}` by hand at every host"), || {
            let on = breaker(host, "a")["override"]["state"].clone();
            (on == json!(what)).then_some(()).ok_or(on.to_string())
        });
    }
}

fn outrigger(host: &Sidecar, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(arguments).args(["--admin", host.admin_url("").trim_end_matches('/')]);
    command.env("USER", "tester").output().expect("the command can be started")
}

#[track_caller]
fn said(host: &Sidecar, arguments: &[&str]) -> String {
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
    everywhere(&fleet, "open");
    // Also at one that comes later.
    let late = host(&redis.url(), &yaml).start();
    wait_until_attached(&late);
    fleet.push(late);
    everywhere(&fleet, "open");
    let count = a.count();
    for host in fleet.iter() {
        assert!(call(host).is("breaker-open"));
        let hand = fleet_status(host)["overrides"][0].clone();
        let parts = [&hand["key"], &hand["state"], &hand["by"], &hand["reason"]];
        assert_eq!(parts, ["a", "open", "ann", "maintenance"], "{hand}");
        let left = hand["remaining_ms"].as_u64().unwrap_or_default();
        assert!((590_000..=600_000).contains(&left), "{hand}");
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
fn closed_for_the_fleet_a_breaker_trips_nowhere() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(3, &redis, &yaml(&a.url(), LONG));
    fleet.iter().for_each(|host| assert_eq!(call(host).status, 200));
    change(&fleet[0], "close", &json!({ "fleet": true }));
    everywhere(&fleet, "closed");
    a.set(Behaviour::status(500, &[]));
    for host in fleet.iter().cycle().take(12) {
        assert_eq!(call(host).status, 500);
    }
    assert_eq!(stored(&redis).filter(|register| register.state != 'C'), None, "nobody voted");
    change(&fleet[2], "reset", &json!({ "fleet": true }));
    eventually("it trips again", || {
        let told: Vec<_> = fleet.iter().map(call).collect();
        told.iter().all(|told| told.is("breaker-open")).then_some(()).ok_or(format!("{told:?}"))
    });
}

#[test]
fn a_hand_on_the_fleet_ends_by_itself_and_one_on_a_host_is_that_hosts_alone() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(2, &redis, &yaml(&a.url(), LONG));
    fleet.iter().for_each(|host| assert_eq!(call(host).status, 200));
    change(&fleet[0], "open", &json!({ "fleet": true, "for": "2s" }));
    everywhere(&fleet, "open");
    // Then each asks by a probe of its own.
    call_until_served(&fleet[0..1]);
    call_until_served(&fleet[1..2]);
    fleet.iter().for_each(|host| wait_for_state(host, "closed"));
    assert_eq!(stored(&redis).filter(|register| register.state != 'C'), None, "a hand is no trip");
    change(&fleet[0], "open", &json!({}));
    assert!(call(&fleet[0]).is("breaker-open"));
    assert_eq!(call(&fleet[1]).status, 200);
    assert_eq!(fleet_status(&fleet[1])["overrides"], json!([]));
}

#[test]
fn what_the_fleet_opened_is_closed_for_all_by_a_reset() {
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
        let told = fleet_status(host);
        assert_eq!(told["policies_differ"], false, "{told}");
        let mine =
            told["hosts"].as_array().into_iter().flatten().filter(|h| h["this_host"] == true);
        let mine: Vec<_> = mine.map(|host| host["id"].clone()).collect();
        assert_eq!(mine, [told["host"].clone()]);
        for host in told["hosts"].as_array().into_iter().flatten() {
            assert_eq!(host["version"], env!("CARGO_PKG_VERSION"), "{host}");
            assert!(host["policy"].as_str().is_some_and(|hash| hash.len() == 12), "{host}");
        }
    }
    fleet[1].write_policy("policy", &yaml(&a.url(), crate::scenario::EAGER));
    for host in fleet.iter() {
        eventually("it is told that policies differ", || {
            let told = fleet_status(host);
            (told["policies_differ"] == true).then_some(()).ok_or(told.to_string())
        });
    }
    eventually("they are counted", || {
        let hosts = fleet[0].metric("outrigger_fleet_hosts");
        (hosts == Some(3.0)).then_some(()).ok_or(format!("{hosts:?}"))
    });
    drop(fleet.take(2));
    eventually("who is gone is told of no more", || {
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
        let shown = said(&fleet[0], &["fleet"]);
        let hosts = fleet_status(&fleet[0])["hosts"].clone();
        let all = hosts.as_array().into_iter().flatten();
        let mut all = all.map(|host| host["id"].as_str().unwrap_or("none").to_owned());
        let both = hosts.as_array().is_some_and(|hosts| hosts.len() == 2);
        (both && all.all(|id| shown.contains(&id))).then_some(shown.clone()).ok_or(shown)
    });
    for part in ["fleet test", "attached", "(this one)", "a/main", "open", "quorum", "100.00/s"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json: Value = serde_json::from_str(&said(&fleet[0], &["fleet", "--json"])).expect("JSON");
    assert_eq!(json["breakers"][0]["state"], "open", "{json}");
    said(&fleet[0], &["breakers", "reset", "a", "--fleet"]);
    fleet.iter().for_each(|host| wait_for_state(host, "closed"));
    said(&fleet[1], &["breakers", "open", "a", "--fleet", "--for", "10m", "--reason", "a drill"]);
    everywhere(&fleet, "open");
    assert!(said(&fleet[0], &["breakers"]).contains("a drill"));
    let alone = Sidecar::start(&yaml(&a.url(), LONG));
    let none = outrigger(&alone, &["fleet"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).contains("--redis"), "{none:?}");
}
