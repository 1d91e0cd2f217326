//! Redis fails in every way: no request feels it, the host says so once and comes back by itself.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::state;
use crate::scenario::{
    LONG, MS, SECOND, Stop, beside_others, call, keep_calling, known, stored, trip, wait_for_state,
    yaml,
};
use crate::support::fleet::{fleet_at, host, is_attached, key, wait_until_attached};
use crate::support::redis::{Cluster, RespClient};
use crate::support::{
    Behaviour, FaultProxy, Origin, ProxyMode, RedisServer, Sidecar, eventually, fleet, get,
};

/// Detached after so long, and attached again so long after it was mended; with a second of slack.
const BAR: Duration = Duration::from_secs(6);

/// One host over one Redis, with a wire between them.
struct Stand {
    redis: RedisServer,
    wire: FaultProxy,
    /// Lets the test in where Redis lets nobody else in.
    talk: Mutex<RespClient>,
    host: Sidecar,
}

/// A way to fail, and to be mended.
struct Failing {
    name: &'static str,
    breaks: fn(&Stand),
    mends: fn(&Stand),
}

impl Stand {
    fn start(a: &Origin) -> Self {
        let redis = RedisServer::builder().password("sesame").start();
        let wire = FaultProxy::to(redis.address());
        let yaml = yaml(&a.url(), LONG);
        let host = host(&redis.url_at(wire.address()), &yaml).start();
        wait_until_attached(&host);
        let talk = Mutex::new(redis.talk());
        Self { redis, wire, talk, host }
    }

    fn tell(&self, command: &str) {
        let command: Vec<_> = command.split(' ').collect();
        let reply = self.talk.lock().expect("a talk").ask(&command);
        assert!(!format!("{reply:?}").starts_with("Error"), "{command:?}: {reply:?}");
    }

    fn count(&self, line: &str) -> usize {
        self.host.log().iter().filter(|logged| logged.contains(line)).count()
    }

    /// How long until it is (or is no longer) attached.
    #[track_caller]
    fn until(&self, attached: bool) -> Duration {
        let began = Instant::now();
        eventually(&format!("attached: {attached}"), || {
            let now = self.host.metric("outrigger_fleet_connected");
            let is = now == Some(f64::from(u8::from(attached)));
            is.then_some(()).ok_or_else(|| self.host.log().join("\n"))
        });
        began.elapsed()
    }
}

impl Failing {
    /// What the figures are.
    fn play(&self, a: &Origin) -> String {
        let stand = Stand::start(a);
        let stop = Stop::default();
        let (away, back, told) = thread::scope(|scope| {
            let end = stop.at_end();
            let calls = keep_calling(scope, &stand.host, 20 * MS, &stop);
            (self.breaks)(&stand);
            let away = stand.until(false);
            assert_eq!(get(&stand.host.admin_url("/readyz")).status, 200);
            (self.mends)(&stand);
            let back = stand.until(true);
            drop(end);
            (away, back, calls.join().expect("calls"))
        });
        let failed: Vec<_> = told.iter().filter(|told| told.status != 200).collect();
        let slowest = told.iter().map(|told| told.took).max().unwrap_or_default();
        let lines = (stand.count("fleet: attached"), stand.count("fleet: detached"));
        let figures = format!(
            "{}: detached after {away:.1?}, attached {back:.1?} after it was mended; {} calls, the slowest {slowest:.0?}",
            self.name,
            told.len()
        );
        assert!(failed.is_empty(), "{figures}: {failed:?}");
        assert!(slowest < 2 * SECOND, "a request waits for nothing: {figures}");
        assert!(away <= BAR && back <= BAR, "{figures}");
        assert_eq!(lines, (2, 1), "one line each way: {figures}");
        assert!(!stand.host.log().join("\n").contains("sesame"), "a password was told");
        figures
    }
}

/// Plays all at once: nearly all of it is waiting.
fn play_all(failings: &[Failing]) {
    let _room = beside_others();
    let a = Origin::start(Behaviour::Chat);
    let played: Vec<_> = thread::scope(|scope| {
        let played: Vec<_> =
            failings.iter().map(|failing| scope.spawn(|| failing.play(&a))).collect();
        played.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for (failing, played) in failings.iter().zip(&played) {
        match played {
            Ok(figures) => println!("{figures}"),
            Err(_) => println!("{}: FAILED, see above", failing.name),
        }
    }
    assert!(played.iter().all(Result::is_ok), "some failed, see above");
}

#[test]
fn no_request_is_affected_while_redis_is_unreachable() {
    play_all(&[
        Failing { name: "stopped", breaks: |s| s.redis.kill(), mends: |s| s.redis.start_again() },
        Failing { name: "frozen", breaks: |s| s.redis.freeze(), mends: |s| s.redis.thaw() },
        Failing {
            name: "packets dropped",
            breaks: |s| s.wire.set(ProxyMode::Dropped),
            mends: |s| s.wire.mend(),
        },
        Failing {
            name: "a stalled socket",
            breaks: |s| s.wire.set(ProxyMode::Stalled),
            mends: |s| s.wire.mend(),
        },
        Failing {
            name: "refused",
            breaks: |s| s.wire.set(ProxyMode::Refused),
            mends: |s| s.wire.mend(),
        },
    ]);
}

#[test]
fn no_request_is_affected_while_redis_returns_errors() {
    play_all(&[
        Failing {
            name: "loading",
            breaks: |s| {
                let error = "LOADING Redis is loading the dataset in memory";
                s.wire.set(ProxyMode::Error(error.to_owned()));
            },
            mends: |s| s.wire.mend(),
        },
        Failing {
            name: "garbage",
            breaks: |s| s.wire.set(ProxyMode::Garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n".into())),
            mends: |s| s.wire.mend(),
        },
        Failing {
            name: "a replica, read only",
            breaks: |s| s.tell("REPLICAOF 127.0.0.1 1"),
            mends: |s| s.tell("REPLICAOF NO ONE"),
        },
        Failing {
            name: "out of memory",
            breaks: |s| s.tell("CONFIG SET maxmemory 1"),
            mends: |s| s.tell("CONFIG SET maxmemory 0"),
        },
        Failing {
            name: "another password",
            breaks: |s| {
                s.tell("CONFIG SET requirepass other");
                s.tell("CLIENT KILL TYPE normal");
            },
            mends: |s| s.tell("CONFIG SET requirepass sesame"),
        },
        Failing {
            name: "a key of another type",
            breaks: |s| s.tell(&format!("SET {} mine", key("cb"))),
            mends: |s| s.tell(&format!("DEL {}", key("cb"))),
        },
        Failing {
            name: "a stream of another type",
            breaks: |s| s.tell(&format!("SET {} mine", key("cb:x"))),
            mends: |s| s.tell(&format!("DEL {}", key("cb:x"))),
        },
    ]);
}

#[test]
fn a_redis_that_takes_two_seconds_for_everything_is_slow_and_not_gone() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let wire = FaultProxy::to(redis.address());
    let urls = [redis.url(), redis.url_at(wire.address())];
    let yaml = yaml(&a.url(), LONG);
    let fleet = crate::support::Fleet::of(urls.iter().map(|url| host(url, &yaml)));
    wire.set(ProxyMode::After(SECOND));
    let began = Instant::now();
    eventually("eight seconds of calls", || {
        let told = call(&fleet[1]);
        assert!(told.status == 200 && told.took < SECOND, "{told:?}");
        assert!(is_attached(&fleet[1]), "{:?}", fleet[1].log());
        (began.elapsed() > 8 * SECOND).then_some(()).ok_or(String::new())
    });
    trip(&fleet, &a, &redis);
    let tripped = Instant::now();
    eventually("the slow host knows", || {
        let known = known(&fleet[1]);
        known.clone().filter(|known| known.state == 'O').ok_or(format!("{known:?}"))
    });
    println!("slow by two seconds: a transition was known {:?} later", tripped.elapsed());
    let detached = fleet[1].log().into_iter().find(|line| line.contains("fleet: detached"));
    assert_eq!(detached, None);
}

#[test]
fn scripts_that_redis_lost_are_loaded_again() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let fleet = fleet(2, &redis, &yaml(&a.url(), LONG));
    redis.ask(&["SCRIPT", "FLUSH"]);
    trip(&fleet, &a, &redis);
    fleet.iter().for_each(|host| wait_for_state(host, "open"));
    assert!(fleet.iter().all(is_attached));
    let detached = |host: &Sidecar| host.log().join("\n").contains("fleet: detached");
    assert!(!fleet.iter().any(detached));
}

#[test]
fn a_host_starts_without_redis_and_finds_it_later() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    redis.kill();
    let began = Instant::now();
    let host = host(&redis.url(), &yaml(&a.url(), LONG)).start();
    let took = began.elapsed();
    assert_eq!((call(&host).status, state(&host, "a").as_str()), (200, "closed"));
    assert_eq!(get(&host.admin_url("/readyz")).status, 200);
    assert!(!is_attached(&host));
    println!("started without Redis in {took:?}");
    redis.start_again();
    let began = Instant::now();
    wait_until_attached(&host);
    assert!(began.elapsed() <= BAR, "{:?}", began.elapsed());
}

/// Known to be open, for as long as it is; then the host's own breaker decides.
#[test]
fn an_open_breaker_stays_open_without_redis_until_its_end() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let breaker = "failure_threshold: 1, recovery_timeout: 10s, success_threshold: 1, ramp: 0s";
    let fleet = fleet(3, &redis, &yaml(&a.url(), breaker));
    trip(&fleet, &a, &redis);
    let (opened, count) = (Instant::now(), a.count());
    fleet.iter().for_each(|host| wait_for_state(host, "open"));
    redis.kill();
    a.set(Behaviour::Chat);
    for host in fleet.iter() {
        eventually("detached", || (!is_attached(host)).then_some(()).ok_or("attached".to_owned()));
        assert!(call(host).is("breaker-open"), "by its own copy of the end");
    }
    let served = crate::scenario::call_until_served(&fleet) - opened;
    println!("without Redis an open of 10 s was honoured for {served:?}");
    assert!(served >= 7900 * MS && served <= 13 * SECOND, "{served:?}");
    assert!(a.count() > count);
    for host in fleet.iter() {
        eventually("each closes by itself", || match call(host).status {
            200 => (state(host, "a") == "closed").then_some(()).ok_or(state(host, "a")),
            status => Err(format!("{status}")),
        });
    }
}

#[test]
fn no_request_is_affected_while_a_cluster_lacks_the_server_with_the_fleets_keys() {
    let _room = beside_others();
    let (a, cluster) = (Origin::start(Behaviour::Chat), Cluster::start());
    let fleet = fleet_at(2, &cluster.url(), &yaml(&a.url(), LONG));
    let owner = cluster.owner(&key("cb"));
    trip(&fleet, &a, owner);
    fleet.iter().for_each(|host| wait_for_state(host, "open"));
    let before = stored(owner);
    let stop = Stop::default();
    let times = thread::scope(|scope| {
        let end = stop.at_end();
        let calls = keep_calling(scope, &fleet[0], 20 * MS, &stop);
        owner.kill();
        let began = Instant::now();
        let away = eventually("detached", || {
            let all = fleet.iter().all(|host| !is_attached(host));
            all.then(|| began.elapsed()).ok_or("attached".to_owned())
        });
        owner.start_again();
        let began = Instant::now();
        fleet.iter().for_each(wait_until_attached);
        let back = began.elapsed();
        drop(end);
        let told = calls.join().expect("calls");
        let slowest = told.iter().map(|told| told.took).max().unwrap_or_default();
        assert!(slowest < 2 * SECOND, "{slowest:?}");
        (away, back)
    });
    println!(
        "a third of a cluster: detached after {:?}, attached again after {:?}",
        times.0, times.1
    );
    eventually("what it lost is put back", || {
        let now = stored(owner);
        (now == before).then_some(()).ok_or(format!("{now:?}, not {before:?}"))
    });
    assert!(times.0 <= BAR, "{times:?}");
}
