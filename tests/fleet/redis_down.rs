//! Faults of Redis: no request is affected, the host logs each fault once and attaches again by itself.

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

/// The most time to detach, and to attach again after the fault; with a second of slack.
const BAR: Duration = Duration::from_secs(6);

/// One host and one Redis, with a proxy between them.
struct Setup {
    redis: RedisServer,
    proxy: FaultProxy,
    /// Opened before the fault, when Redis may reject new connections.
    connection: Mutex<RespClient>,
    host: Sidecar,
}

/// A fault, and how it ends.
struct Fault {
    name: &'static str,
    inject: fn(&Setup),
    restore: fn(&Setup),
}

impl Setup {
    fn start(a: &Origin) -> Self {
        let redis = RedisServer::builder().password("sesame").start();
        let proxy = FaultProxy::to(redis.address());
        let yaml = yaml(&a.url(), LONG);
        let host = host(&redis.url_at(proxy.address()), &yaml).start();
        wait_until_attached(&host);
        let connection = Mutex::new(redis.connect());
        Self { redis, proxy, connection, host }
    }

    fn execute(&self, command: &str) {
        let command: Vec<_> = command.split(' ').collect();
        let reply = self.connection.lock().expect("a lock").execute(&command);
        assert!(!format!("{reply:?}").starts_with("Error"), "{command:?}: {reply:?}");
    }

    fn count(&self, line: &str) -> usize {
        self.host.log().iter().filter(|logged| logged.contains(line)).count()
    }

    /// Waits until the host is attached or detached; returns how long it took.
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

impl Fault {
    /// Returns the measured times.
    fn run(&self, a: &Origin) -> String {
        let setup = Setup::start(a);
        let stop = Stop::default();
        let (away, back, results) = thread::scope(|scope| {
            let end = stop.at_end();
            let calls = keep_calling(scope, &setup.host, 20 * MS, &stop);
            (self.inject)(&setup);
            let away = setup.until(false);
            assert_eq!(get(&setup.host.admin_url("/readyz")).status, 200);
            (self.restore)(&setup);
            let back = setup.until(true);
            drop(end);
            (away, back, calls.join().expect("calls"))
        });
        let failed: Vec<_> = results.iter().filter(|result| result.status != 200).collect();
        let slowest = results.iter().map(|result| result.took).max().unwrap_or_default();
        let lines = (setup.count("fleet: attached"), setup.count("fleet: detached"));
        let figures = format!(
            "{}: detached after {away:.1?}, attached {back:.1?} after the fault; {} calls, the slowest {slowest:.0?}",
            self.name,
            results.len()
        );
        assert!(failed.is_empty(), "{figures}: {failed:?}");
        assert!(slowest < 2 * SECOND, "no request waits for Redis: {figures}");
        assert!(away <= BAR && back <= BAR, "{figures}");
        assert_eq!(lines, (2, 1), "one line each way: {figures}");
        assert!(!setup.host.log().join("\n").contains("sesame"), "a password was logged");
        figures
    }
}

/// Runs all at once, since they mostly wait.
fn run_all(faults: &[Fault]) {
    let _room = beside_others();
    let a = Origin::start(Behaviour::Chat);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let outcomes: Vec<_> = faults.iter().map(|fault| scope.spawn(|| fault.run(&a))).collect();
        outcomes.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for (fault, outcomes) in faults.iter().zip(&outcomes) {
        match outcomes {
            Ok(figures) => println!("{figures}"),
            Err(_) => println!("{}: FAILED, see above", fault.name),
        }
    }
    assert!(outcomes.iter().all(Result::is_ok), "some failed, see above");
}

#[test]
fn no_request_is_affected_while_redis_is_unreachable() {
    run_all(&[
        Fault { name: "stopped", inject: |s| s.redis.kill(), restore: |s| s.redis.start_again() },
        Fault { name: "frozen", inject: |s| s.redis.freeze(), restore: |s| s.redis.thaw() },
        Fault {
            name: "packets dropped",
            inject: |s| s.proxy.set(ProxyMode::Dropped),
            restore: |s| s.proxy.restore(),
        },
        Fault {
            name: "a stalled socket",
            inject: |s| s.proxy.set(ProxyMode::Stalled),
            restore: |s| s.proxy.restore(),
        },
        Fault {
            name: "refused",
            inject: |s| s.proxy.set(ProxyMode::Refused),
            restore: |s| s.proxy.restore(),
        },
    ]);
}

#[test]
fn no_request_is_affected_while_redis_returns_errors() {
    run_all(&[
        Fault {
            name: "loading",
            inject: |s| {
                let error = "LOADING Redis is loading the dataset in memory";
                s.proxy.set(ProxyMode::Error(error.to_owned()));
            },
            restore: |s| s.proxy.restore(),
        },
        Fault {
            name: "garbage",
            inject: |s| s.proxy.set(ProxyMode::Garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n".into())),
            restore: |s| s.proxy.restore(),
        },
        Fault {
            name: "a replica, read only",
            inject: |s| s.execute("REPLICAOF 127.0.0.1 1"),
            restore: |s| s.execute("REPLICAOF NO ONE"),
        },
        Fault {
            name: "out of memory",
            inject: |s| s.execute("CONFIG SET maxmemory 1"),
            restore: |s| s.execute("CONFIG SET maxmemory 0"),
        },
        Fault {
            name: "another password",
            inject: |s| {
                s.execute("CONFIG SET requirepass other");
                s.execute("CLIENT KILL TYPE normal");
            },
            restore: |s| s.execute("CONFIG SET requirepass sesame"),
        },
        Fault {
            name: "a key of another type",
            inject: |s| s.execute(&format!("SET {} mine", key("cb"))),
            restore: |s| s.execute(&format!("DEL {}", key("cb"))),
        },
        Fault {
            name: "a stream of another type",
            inject: |s| s.execute(&format!("SET {} mine", key("cb:x"))),
            restore: |s| s.execute(&format!("DEL {}", key("cb:x"))),
        },
    ]);
}

#[test]
fn a_host_stays_attached_to_a_redis_that_takes_two_seconds_for_each_reply() {
    let _room = beside_others();
    let (a, redis) = (Origin::start(Behaviour::Chat), RedisServer::start());
    let proxy = FaultProxy::to(redis.address());
    let urls = [redis.url(), redis.url_at(proxy.address())];
    let yaml = yaml(&a.url(), LONG);
    let fleet = crate::support::Fleet::of(urls.iter().map(|url| host(url, &yaml)));
    proxy.set(ProxyMode::After(SECOND));
    let began = Instant::now();
    eventually("eight seconds of calls", || {
        let result = call(&fleet[1]);
        assert!(result.status == 200 && result.took < SECOND, "{result:?}");
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
    redis.execute(&["SCRIPT", "FLUSH"]);
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

/// Afterwards the breaker of each host decides for itself.
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
    println!("without Redis an open of 10 s was enforced for {served:?}");
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
        let results = calls.join().expect("calls");
        let slowest = results.iter().map(|result| result.took).max().unwrap_or_default();
        assert!(slowest < 2 * SECOND, "{slowest:?}");
        (away, back)
    });
    println!(
        "a third of a cluster: detached after {:?}, attached again after {:?}",
        times.0, times.1
    );
    eventually("the lost register is restored", || {
        let now = stored(owner);
        (now == before).then_some(()).ok_or(format!("{now:?}, not {before:?}"))
    });
    assert!(times.0 <= BAR, "{times:?}");
}
