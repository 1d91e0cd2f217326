//! The durable lane as an application sees it: a request becomes a job, is run, is asked about.

use std::path::Path;

use tempfile::TempDir;

use crate::fixtures::{CHAT, GENEROUS, api, chat, chat_for, policy, problem, route};
use crate::support::{Behaviour, Call, Gate, Origin, Response, Sidecar};

const PLAIN: &str = "auth: none, breaker: none";

pub fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

pub fn started(data: &Path, yaml: &str) -> Sidecar {
    Sidecar::builder().policy("policy", yaml).workers(1).data(data).start()
}

/// One provider and one route, with this in the queue's braces.
pub fn simple(origin: &Origin, queue: &str) -> String {
    let allowed = "providers: [a], timeout: 20s, allow_override: [priority]";
    let rest = route(allowed) + GENEROUS + &format!("queues: {{ default: {{ {queue} }} }}\n");
    policy(&[("a", &origin.url(), PLAIN)], &rest)
}

pub fn job() -> Call {
    chat().header("prefer", "respond-async")
}

/// The path at which a job is asked for.
#[track_caller]
pub fn taken(response: &Response) -> String {
    assert_eq!(response.status, 202, "{}", response.text());
    assert_eq!(response.header("preference-applied"), Some("respond-async"));
    response.header("location").expect("a place").to_owned()
}

/// Asks for a job's answer and waits for it.
pub fn ask(sidecar: &Sidecar, path: &str) -> Response {
    sidecar.send(&Call::get(path).header("prefer", "wait=20"))
}

pub fn id(path: &str) -> &str {
    path.rsplit('/').next().expect("an id")
}

#[test]
fn a_job_is_taken_at_once_and_its_answer_is_kept() {
    let (gate, data) = (Gate::closed(), folder());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let sidecar = started(data.path(), &simple(&origin, ""));
    let first = sidecar.send(&job());
    let path = taken(&first);
    origin.wait_for_in_flight(1);
    let pending = sidecar.send(&Call::get(&path));
    assert_eq!((pending.status, pending.header("retry-after")), (202, Some("1")));
    assert_eq!(pending.json()["state"], "leased");
    gate.open_wide();
    let answer = ask(&sidecar, &path);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["object"], "chat.completion");
    assert_eq!(answer.header("outrigger-job"), Some(id(&path)));
    let sent = origin.last();
    assert_eq!(sent.headers.get("idempotency-key"), Some(id(&path)));
    assert_eq!((sent.path.as_str(), sent.headers.has("prefer")), (CHAT, false));
    assert_eq!(ask(&sidecar, &path).text(), answer.text());
    assert_eq!(origin.count(), 1);
    let lines = sidecar.wait_for_access(5);
    let of_job = |line: &&serde_json::Value| line["job"] == id(&path);
    let mut statuses: Vec<_> =
        lines.iter().filter(of_job).map(|line| line["status"].as_u64()).collect();
    // Two threads write them.
    statuses.sort_unstable();
    assert_eq!(statuses, [Some(200), Some(202)], "taken, and run: {lines:?}");
}

#[test]
fn an_answer_that_comes_in_time_is_given_at_once() {
    let (origin, data) = (Origin::start(Behaviour::Chat), folder());
    let sidecar = started(data.path(), &simple(&origin, ""));
    let answer = sidecar.send(&chat().header("prefer", "respond-async, wait=20"));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("preference-applied"), Some("wait=20"));
    let later = sidecar.send(&chat().header("prefer", "respond-async, wait=0"));
    taken(&later);
}

#[test]
fn a_queue_may_make_jobs_of_all_and_a_sidecar_without_a_store_of_none() {
    let (origin, data) = (Origin::start(Behaviour::Chat), folder());
    let always = simple(&origin, "durable: { accept: always }");
    let first = started(data.path(), &always).send(&chat());
    assert_eq!((first.status, first.header("preference-applied")), (202, None));
    let without = Sidecar::start(&always);
    let refused = without.send(&chat());
    assert_eq!((refused.status, problem(&refused).as_str()), (503, "store-unavailable"));
    // A preference may be passed over (RFC 7240).
    let passed = Sidecar::start(&simple(&origin, "")).send(&job());
    assert_eq!((passed.status, passed.header("preference-applied")), (200, None));
    let never = started(folder().path(), &simple(&origin, "durable: { accept: never }"));
    assert_eq!(never.send(&job()).status, 200);
}

#[test]
fn what_cannot_be_followed_is_refused_by_name_and_nothing_is_sent() {
    let (origin, data) = (Origin::start(Behaviour::Chat), folder());
    let queue = "durable: { callback: { allow: [\"http://127.0.0.1:9/ok/**\"] } }";
    let yaml = simple(&origin, queue).replace("timeout: 20s", "timeout: 20s, replay: 1KiB");
    let sidecar = started(data.path(), &yaml);
    let to = |url: &str| job().header("x-outrigger-callback", url);
    let large = Call::post(CHAT, vec![b'x'; 2000]).header("prefer", "respond-async");
    let unknown = "/.outrigger/jobs/00000000000000000000000000000000";
    for (call, status, kind) in [
        (chat().header("prefer", "respond-async, wait=soon"), 400, "bad-prefer"),
        (job().header("x-outrigger-priority", "vip"), 400, "bad-override"),
        (to("http://127.0.0.1:9/other"), 403, "callback-not-allowed"),
        (to("http://127.0.0.1:9/ok/../other"), 403, "callback-not-allowed"),
        (to("gopher:"), 403, "callback-not-allowed"),
        (chat().header("x-outrigger-callback", "http://127.0.0.1:9/ok/"), 400, "bad-override"),
        (large.clone(), 413, "job-too-large"),
        (large.chunked(), 413, "job-too-large"),
        (job().header("idempotency-key", &"k".repeat(300)), 400, "bad-request"),
        (Call::get(unknown), 404, "job-not-found"),
        (Call::get("/.outrigger/jobs/1"), 404, "job-not-found"),
        (Call::new("DELETE", unknown), 404, "job-not-found"),
        (Call::post(unknown, "x"), 404, "not-found"),
        (Call::get("/.outrigger/other"), 404, "not-found"),
    ] {
        let refused = sidecar.send(&call);
        assert_eq!((refused.status, problem(&refused).as_str()), (status, kind), "{call:?}");
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(api(&sidecar, "/api/queue/jobs")["jobs"].as_array().map(Vec::len), Some(0));
}

#[test]
fn an_idempotency_key_stands_for_one_request_of_one_caller() {
    let (gate, data) = (Gate::closed(), folder());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let sidecar = started(data.path(), &simple(&origin, "durable: { workers: 1 }"));
    let keyed = |call: Call| call.header("idempotency-key", "k-1");
    let path = taken(&sidecar.send(&keyed(job())));
    origin.wait_for_in_flight(1);
    let running = sidecar.send(&keyed(job()));
    assert_eq!((running.status, problem(&running).as_str()), (409, "job-running"));
    let other = sidecar.send(&keyed(chat_for("other").header("prefer", "respond-async")));
    assert_eq!((other.status, problem(&other).as_str()), (422, "idempotency-key-reused"));
    // Somebody else's key of the same name is another key.
    let theirs = keyed(job()).header("authorization", "Bearer theirs");
    let waits = taken(&sidecar.send(&theirs));
    assert_ne!(waits, path);
    assert_eq!(taken(&sidecar.send(&theirs)), waits, "it waits still: the same job");
    gate.open_wide();
    assert_eq!(ask(&sidecar, &path).status, 200);
    let again = sidecar.send(&keyed(job()));
    assert_eq!((again.status, again.header("outrigger-job")), (200, Some(id(&path))));
    assert_eq!(origin.requests()[0].headers.get("idempotency-key"), Some("k-1"));
    sidecar.wait_until(|_| origin.count() == 2);
}

#[test]
fn a_job_is_its_makers_alone_and_no_credential_is_kept() {
    let (origin, data) = (Origin::start(Behaviour::Chat), folder());
    let sidecar = started(data.path(), &simple(&origin, ""));
    let secrets = ["authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"];
    let mine = |call: Call| {
        secrets.iter().fold(call, |call, name| call.header(name, &format!("hunter2-{name}")))
    };
    let path = taken(&sidecar.send(&mine(job())));
    assert_eq!(sidecar.send(&mine(Call::get(&path).header("prefer", "wait=20"))).status, 200);
    for stranger in [Call::get(&path), Call::get(&path).header("authorization", "Bearer x")] {
        let refused = sidecar.send(&stranger);
        assert_eq!((refused.status, problem(&refused).as_str()), (404, "job-not-found"));
    }
    assert_eq!(sidecar.send(&Call::new("DELETE", &path)).status, 404);
    for entry in std::fs::read_dir(data.path()).expect("the folder is there") {
        let entry = entry.expect("an entry");
        let bytes = std::fs::read(entry.path()).expect("a file of ours");
        let found = bytes.windows(7).any(|window| window == b"hunter2");
        assert!(!found, "a credential is in {:?}", entry.path());
        use std::os::unix::fs::PermissionsExt;
        let mode = entry.metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} is open to others", entry.path());
    }
}

#[test]
fn a_job_can_be_cancelled_and_one_whose_time_has_passed_is_not_run() {
    let (origin, data) = (Origin::start(Behaviour::Chat), folder());
    let sidecar = started(data.path(), &simple(&origin, "durable: { expire: 300ms }"));
    let pause = |action: &str| {
        sidecar.admin_post(&format!("/api/queue/{action}/default"), &serde_json::json!({}))
    };
    assert_eq!(pause("pause").0, 200);
    let cancelled = taken(&sidecar.send(&job()));
    let gone = sidecar.send(&Call::new("DELETE", &cancelled));
    assert_eq!(gone.status, 204);
    let told = sidecar.send(&Call::get(&cancelled));
    assert_eq!((told.status, problem(&told).as_str()), (410, "job-cancelled"));
    let late = taken(&sidecar.send(&job()));
    let told = ask(&sidecar, &late);
    assert_eq!((told.status, problem(&told).as_str()), (504, "job-expired"));
    let over = sidecar.send(&Call::new("DELETE", &late));
    assert_eq!((over.status, problem(&over).as_str()), (409, "job-finished"));
    assert_eq!(pause("resume").0, 200);
    assert_eq!(origin.count(), 0);
}

#[test]
fn more_than_a_queue_keeps_is_refused_and_a_long_result_is_marked() {
    let (gate, data) = (Gate::closed(), folder());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let queue = "durable: { max_jobs: 2, max_result: 10 }";
    let sidecar = started(data.path(), &simple(&origin, queue));
    let path = taken(&sidecar.send(&job()));
    taken(&sidecar.send(&job()));
    let full = sidecar.send(&job());
    assert_eq!((full.status, problem(&full).as_str()), (503, "jobs-full"));
    assert_eq!(full.header("retry-after"), Some("10"));
    gate.open_wide();
    let cut = ask(&sidecar, &path);
    assert_eq!((cut.status, cut.body.len()), (200, 10));
    assert_eq!(cut.header("outrigger-cut"), Some("max_result"));
}

#[test]
fn a_higher_class_is_begun_first_and_flows_take_turns() {
    let (gate, data) = (Gate::closed(), folder());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let queue = "flow: { header: x-tenant }, durable: { workers: 1 }";
    let sidecar = started(data.path(), &simple(&origin, queue));
    taken(&sidecar.send(&job()));
    origin.wait_for_in_flight(1);
    let named = |name: &str, class: &str, tenant: &str| {
        let call = job().header("x-name", name).header("x-outrigger-priority", class);
        taken(&sidecar.send(&call.header("x-tenant", tenant)))
    };
    let paths = [
        named("a-1", "low", "a"),
        named("a-2", "low", "a"),
        named("b-1", "low", "b"),
        named("high", "high", "a"),
    ];
    gate.open_wide();
    for path in &paths {
        assert_eq!(ask(&sidecar, path).status, 200);
    }
    let order: Vec<_> = origin
        .requests()
        .iter()
        .filter_map(|r| r.headers.get("x-name").map(str::to_owned))
        .collect();
    let place = |name: &str| order.iter().position(|n| n == name).expect("it was run");
    assert!(place("high") <= 1, "{order:?}");
    assert!(place("b-1") < place("a-2"), "{order:?}");
    assert_eq!(origin.most_in_flight(), 1);
}
