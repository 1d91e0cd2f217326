//! A limit that a fleet shares: enforced, used up, and divided while Redis is gone.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixtures::chat;
use crate::scenario::{LONG, SECOND, Stop, alone, beside_others, yaml_of};
use crate::support::fleet::{fleet_at, fleet_status, is_attached, key};
use crate::support::{Behaviour, Fleet, Origin, RedisServer, Sidecar, eventually, fleet};

const HOSTS: usize = 5;
/// 50 requests a second, with a burst of 10.
const LIMITED: &str = "capacity: { requests: { rate: 3000/min, burst: 10 } }";
const RATE: f64 = 50.0;
const BURST: f64 = 10.0;
/// The most tokens that a host may hold: those of 100 ms.
const CHUNK: f64 = RATE / 10.0;

/// Eight clients of the host that call without a pause.
fn load<'s>(scope: &'s thread::Scope<'s, '_>, n: usize, host: &'s Sidecar, stop: &'s Stop) {
    for _ in 0..8 {
        scope.spawn(move || {
            let mut client = host.client();
            while !stop.is_set() {
                let response = client.send(&chat().header("x-host", &n.to_string()));
                assert!([200, 503, 504].contains(&response.status), "{}", response.text());
            }
        });
    }
}

/// Arrival times of the calls of one host or of all.
fn arrivals(a: &Origin, host: Option<usize>, from: Instant, to: Instant) -> Vec<Instant> {
    let of = host.map(|host| host.to_string());
    let requests = a.requests().into_iter();
    let ours =
        requests.filter(|r| of.as_deref().is_none_or(|of| r.headers.get("x-host") == Some(of)));
    ours.map(|request| request.at).filter(|at| (from..to).contains(at)).collect()
}

/// The largest excess over `rate` and `burst` in any window.
fn excess(arrivals: &[Instant], rate: f64, burst: f64) -> f64 {
    let mut worst = f64::MIN;
    for (n, from) in arrivals.iter().enumerate() {
        for (count, to) in arrivals[n..].iter().enumerate() {
            let allowed = burst + rate * (*to - *from).as_secs_f64();
            worst = worst.max((count + 1) as f64 - allowed);
        }
    }
    worst
}

fn wait_for(length: Duration) {
    let began = Instant::now();
    eventually("time passes", || match began.elapsed() {
        passed if passed > length => Ok(()),
        passed => Err(format!("{passed:?}")),
    });
}

fn load_all(fleet: &Fleet, length: Duration) -> (Instant, Instant) {
    let (stop, began) = (Stop::default(), Instant::now());
    thread::scope(|scope| {
        let end = stop.at_end();
        fleet.iter().enumerate().for_each(|(n, host)| load(scope, n, host, &stop));
        wait_for(length);
        drop(end);
    });
    (began, began + length)
}

#[test]
fn a_limit_is_kept_and_used_by_five_hosts_together() {
    let _room = alone();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(HOSTS, &redis, &yaml_of(&a.url(), LIMITED, LONG));
    let (began, ended) = load_all(&fleet, 10 * SECOND);
    let all = arrivals(&a, None, began, ended + SECOND);
    // Until its first chunk arrives, each host uses its own share.
    let steady = arrivals(&a, None, began + 2 * SECOND, ended);
    let used = steady.len() as f64 / (RATE * (ended - began - 2 * SECOND).as_secs_f64());
    let chunks = CHUNK * HOSTS as f64;
    let over = excess(&all, RATE, BURST);
    println!(
        "{} calls of {HOSTS} hosts in 10 s at 50/s: {:.1} % used; the worst window was {over:.1} over \
         limit and burst (one chunk a host: {chunks})",
        all.len(),
        used * 100.0
    );
    assert!(over <= chunks, "{over}");
    assert!(used >= 0.95, "{used}");
    let each: Vec<_> = (0..HOSTS).map(|n| arrivals(&a, Some(n), began, ended).len()).collect();
    println!("each host: {each:?}");
    assert!(each.iter().all(|count| *count > all.len() / HOSTS / 3), "{each:?}");
}

#[test]
fn one_busy_host_may_use_nearly_all_of_the_limit() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(HOSTS, &redis, &yaml_of(&a.url(), LIMITED, LONG));
    let (stop, began) = (Stop::default(), Instant::now());
    thread::scope(|scope| {
        let end = stop.at_end();
        load(scope, 0, &fleet[0], &stop);
        wait_for(6 * SECOND);
        drop(end);
    });
    let count = arrivals(&a, None, began + 2 * SECOND, began + 6 * SECOND).len() as f64;
    println!("one busy host of {HOSTS} used {:.1} % of the limit", count / RATE / 4.0 * 100.0);
    assert!(count >= 0.9 * RATE * 4.0, "{count}");
}

#[test]
fn without_redis_each_host_uses_its_share() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(HOSTS, &redis, &yaml_of(&a.url(), LIMITED, LONG));
    eventually("every host knows of five hosts", || {
        let counts: Vec<_> = fleet.iter().map(|h| h.metric("outrigger_fleet_hosts")).collect();
        counts.iter().all(|n| *n == Some(HOSTS as f64)).then_some(()).ok_or(format!("{counts:?}"))
    });
    redis.kill();
    for host in fleet.iter() {
        eventually("detached", || (!is_attached(host)).then_some(()).ok_or("attached".to_owned()));
    }
    let (began, ended) = load_all(&fleet, 5 * SECOND);
    let (share, length) = (RATE / HOSTS as f64, (ended - began).as_secs_f64());
    let mut each = Vec::new();
    for n in 0..HOSTS {
        let ours = arrivals(&a, Some(n), began, ended);
        let over = excess(&ours, share, BURST);
        each.push(format!("{} ({over:.1} over)", ours.len()));
        assert!(over <= 1.0, "host {n}: {over} over a fifth of the limit: {}", ours.len());
        assert!(ours.len() as f64 >= 0.8 * share * length, "host {n}: {} calls", ours.len());
    }
    println!("without Redis, at a fifth of 50/s each, in 5 s: {}", each.join(", "));
}

#[test]
fn the_first_call_of_a_new_host_does_not_wait_for_redis() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(2, &redis, &yaml_of(&a.url(), LIMITED, LONG));
    redis.freeze();
    let began = Instant::now();
    assert_eq!(fleet[0].send(&chat()).status, 200);
    // Redis stays frozen until then.
    assert!(began.elapsed() < 3 * SECOND, "{:?}", began.elapsed());
    redis.thaw();
}

#[test]
fn no_request_waits_for_a_silent_redis() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(HOSTS, &redis, &yaml_of(&a.url(), LIMITED, LONG));
    load_all(&fleet, SECOND);
    redis.freeze();
    let (began, ended) = load_all(&fleet, 4 * SECOND);
    redis.thaw();
    let silent = arrivals(&a, None, began + SECOND, ended);
    println!("while Redis was silent: {} calls in 3 s at 50/s", silent.len());
    assert!(silent.len() as f64 >= 0.8 * 3.0 * RATE, "{}", silent.len());
    assert!(excess(&silent, RATE, BURST) <= CHUNK * HOSTS as f64);
    let (began, ended) = load_all(&fleet, 3 * SECOND);
    let after = arrivals(&a, None, began + SECOND, ended).len() as f64;
    assert!(after >= 0.8 * 2.0 * RATE, "{after} calls in 2 s after it responded again");
}

#[test]
fn a_malformed_limit_in_redis_counts_as_absent_and_is_replaced() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(2, &redis, &yaml_of(&a.url(), LIMITED, LONG));
    let limit = key("lim:a:requests");
    for garbage in [["LPUSH", &limit, "x"], ["SET", &limit, "no limit"], ["SET", &limit, "9 "]] {
        redis.execute(&["DEL", &limit]);
        redis.execute(&garbage);
        let (began, ended) = load_all(&fleet, SECOND);
        let count = arrivals(&a, None, began, ended).len();
        assert!((30..=75).contains(&count), "{count} calls in 1 s after {garbage:?}");
        let kept = redis.execute(&["GET", &limit]).text();
        assert!(kept.split(' ').all(|number| number.parse::<u64>().is_ok()), "`{kept}`");
    }
}

#[test]
fn tokens_beyond_the_estimate_are_charged_to_the_whole_fleet() {
    let _room = beside_others();
    let body = r#"{"usage":{"prompt_tokens":60,"completion_tokens":40}}"#;
    let json = vec![("content-type".to_owned(), "application/json".to_owned())];
    let (a, redis) =
        (Origin::start(Behaviour::Status(200, json, body.to_owned())), RedisServer::start());
    let provider = "capacity: { tokens: { rate: 120000/min, burst: 500 } }, \
                    usage: { input: /usage/prompt_tokens, output: /usage/completion_tokens }";
    let fleet = fleet(3, &redis, &yaml_of(&a.url(), provider, LONG));
    let (began, ended) = load_all(&fleet, 6 * SECOND);
    // 100 tokens each at 2,000 a second, and the burst; the first calls have too low an estimate.
    let count = arrivals(&a, None, began + 3 * SECOND, ended).len();
    println!("tokens: {count} calls of 100 in 3 s at 2,000/s");
    assert!((45..=70).contains(&count), "{count} calls of 100 tokens in 3 s at 2,000/s");
}

#[test]
fn a_host_shows_its_part_of_each_limit() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(2, &redis, &yaml_of(&a.url(), LIMITED, LONG));
    let limit = eventually("the limit, shared by two", || {
        let limit = fleet_status(&fleet[0])["limits"][0].clone();
        (limit["share"] == RATE / 2.0).then_some(limit.clone()).ok_or(limit.to_string())
    });
    assert_eq!((&limit["provider"], &limit["kind"]), (&json!("a"), &json!("requests")));
    assert_eq!(limit["rate"], RATE);
    eventually("tokens are available after a call", || {
        assert_eq!(fleet[0].send(&chat()).status, 200);
        let limit = fleet_status(&fleet[0])["limits"][0].clone();
        (limit["available"].as_f64() > Some(0.5)).then_some(()).ok_or(limit.to_string())
    });
}

#[test]
fn a_changed_clock_of_redis_does_not_stop_limited_calls() {
    let _room = beside_others();
    let a = Origin::start(Behaviour::Chat);
    let redis = RedisServer::builder().clock().start();
    let fleet = fleet_at(2, &redis.url(), &yaml_of(&a.url(), LIMITED, LONG));
    load_all(&fleet, SECOND);
    for to in [3600, -3600] {
        redis.set_clock(to);
        let (began, ended) = load_all(&fleet, 4 * SECOND);
        let count = arrivals(&a, None, began, ended).len();
        println!("the clock was set by {to} s: {count} calls in 4 s at 50/s");
        assert!(
            (120..=260).contains(&count),
            "{count} calls in 4 s after the clock was set by {to}"
        );
    }
}
