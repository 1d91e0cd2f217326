//! Jobs as seen by an application: a request is enqueued as a job, is run, and its result is
//! fetched.

use std::path::Path;

use tempfile::TempDir;

use crate::fixtures::{CHAT, GENEROUS, api, chat, chat_for, policy, problem_type, route};
use crate::support::{Behaviour, Call, Gate, Origin, Response, Sidecar};

const PLAIN: &str = "auth: none, breaker: none";

pub fn data_dir() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

pub fn start_with_store(data: &Path, yaml: &str) -> Sidecar {
    Sidecar::builder().policy("policy", yaml).workers(1).data(data).start()
}

/// A policy with one provider, one route, and a queue with these keys.
pub fn policy_with_queue(origin: &Origin, queue: &str) -> String {
    let allowed = "providers: [a], timeout: 20s, allow_override: [priority]";
    let rest = route(allowed) + GENEROUS + &format!("queues: {{ default: {{ {queue} }} }}\n");
    policy(&[("a", &origin.url(), PLAIN)], &rest)
}

pub fn job_request() -> Call {
    chat().header("prefer", "respond-async")
}

/// The path of the job in a 202 response.
#[track_caller]
pub fn accepted_path(response: &Response) -> String {
    assert_eq!(response.status, 202, "{}", response.text());
    assert_eq!(response.header("preference-applied"), Some("respond-async"));
    response.header("location").expect("a location").to_owned()
}

/// Waits for the result of a job.
pub fn wait_for_job(sidecar: &Sidecar, path: &str) -> Response {
    sidecar.send(&Call::get(path).header("prefer", "wait=20"))
}

pub fn job_id(path: &str) -> &str {
    path.rsplit('/').next().expect("an id")
}

/// Whether a file of the store contains this text.
fn is_stored(data: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(data).expect("the folder is there");
    entries.map(|entry| entry.expect("an entry").path()).any(|path| {
        let bytes = std::fs::read(path).expect("a readable file");
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn a_job_is_accepted_at_once_and_its_result_is_stored() {
    let (gate, data) = (Gate::closed(), data_dir());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let sidecar = start_with_store(data.path(), &policy_with_queue(&origin, ""));
    let accepted = sidecar.send(&job_request());
    let path = accepted_path(&accepted);
    origin.wait_for_in_flight(1);
    let pending = sidecar.send(&Call::get(&path));
    assert_eq!((pending.status, pending.header("retry-after")), (202, Some("1")));
    assert_eq!(pending.json()["state"], "leased");
    gate.open_wide();
    let response = wait_for_job(&sidecar, &path);
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["object"], "chat.completion");
    assert_eq!(response.header("outrigger-job"), Some(job_id(&path)));
    let sent = origin.last();
    assert_eq!(sent.headers.get("idempotency-key"), Some(job_id(&path)));
    assert_eq!((sent.path.as_str(), sent.headers.has("prefer")), (CHAT, false));
    assert_eq!(wait_for_job(&sidecar, &path).text(), response.text());
    assert_eq!(origin.count(), 1);
    let lines = sidecar.wait_for_access(5);
    let of_job = |line: &&serde_json::Value| line["job"] == job_id(&path);
    let mut statuses: Vec<_> =
        lines.iter().filter(of_job).map(|line| line["status"].as_u64()).collect();
    // Two threads write the records.
    statuses.sort_unstable();
    assert_eq!(
        statuses,
        [Some(200), Some(202)],
        "not one record for the 202 and one for the run: {lines:?}"
    );
}

#[test]
fn a_result_within_the_wait_preference_is_returned_at_once() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let sidecar = start_with_store(data.path(), &policy_with_queue(&origin, ""));
    let response = sidecar.send(&chat().header("prefer", "respond-async, wait=20"));
    assert_eq!(response.status, 200);
    assert_eq!(response.header("preference-applied"), Some("wait=20"));
    let later = sidecar.send(&chat().header("prefer", "respond-async, wait=0"));
    accepted_path(&later);
}

#[test]
fn a_queue_may_accept_every_request_as_a_job_but_only_with_a_store() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let always = policy_with_queue(&origin, "durable: { accept: always }");
    let accepted = start_with_store(data.path(), &always).send(&chat());
    assert_eq!((accepted.status, accepted.header("preference-applied")), (202, None));
    let without_store = Sidecar::start(&always);
    let refused = without_store.send(&chat());
    assert_eq!((refused.status, problem_type(&refused).as_str()), (503, "store-unavailable"));
    // A server may ignore a preference (RFC 7240).
    let ignored = Sidecar::start(&policy_with_queue(&origin, "")).send(&job_request());
    assert_eq!((ignored.status, ignored.header("preference-applied")), (200, None));
    let never = start_with_store(
        data_dir().path(),
        &policy_with_queue(&origin, "durable: { accept: never }"),
    );
    assert_eq!(never.send(&job_request()).status, 200);
}

#[test]
fn an_invalid_job_request_is_rejected_with_its_reason_and_not_sent() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let queue = "durable: { callback: { allow: [\"http://127.0.0.1:9/ok/**\"] } }";
    let yaml =
        policy_with_queue(&origin, queue).replace("timeout: 20s", "timeout: 20s, replay: 1KiB");
    let sidecar = start_with_store(data.path(), &yaml);
    let to = |url: &str| job_request().header("x-outrigger-callback", url);
    let large = Call::post(CHAT, vec![b'x'; 2000]).header("prefer", "respond-async");
    let unknown = "/.outrigger/jobs/00000000000000000000000000000000";
    for (call, status, kind) in [
        (chat().header("prefer", "respond-async, wait=soon"), 400, "bad-prefer"),
        (job_request().header("x-outrigger-priority", "vip"), 400, "bad-override"),
        (to("http://127.0.0.1:9/other"), 403, "callback-not-allowed"),
        (to("http://127.0.0.1:9/ok/../other"), 403, "callback-not-allowed"),
        (to("http://127.0.0.1:9/ok/..%2fother"), 403, "callback-not-allowed"),
        (to("gopher:"), 403, "callback-not-allowed"),
        (chat().header("x-outrigger-callback", "http://127.0.0.1:9/ok/"), 400, "bad-override"),
        (large.clone(), 413, "job-too-large"),
        (large.chunked(), 413, "job-too-large"),
        (job_request().header("idempotency-key", &"k".repeat(300)), 400, "bad-request"),
        (Call::get(unknown), 404, "job-not-found"),
        (Call::get("/.outrigger/jobs/1"), 404, "job-not-found"),
        (Call::new("DELETE", unknown), 404, "job-not-found"),
        (Call::post(unknown, "x"), 404, "not-found"),
        (Call::get("/.outrigger/other"), 404, "not-found"),
    ] {
        let refused = sidecar.send(&call);
        assert_eq!((refused.status, problem_type(&refused).as_str()), (status, kind), "{call:?}");
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(api(&sidecar, "/api/queue/jobs")["jobs"].as_array().map(Vec::len), Some(0));
}

#[test]
fn an_idempotency_key_identifies_one_request_of_one_principal() {
    let (gate, data) = (Gate::closed(), data_dir());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let sidecar =
        start_with_store(data.path(), &policy_with_queue(&origin, "durable: { workers: 1 }"));
    let keyed = |call: Call| call.header("idempotency-key", "k-1");
    let path = accepted_path(&sidecar.send(&keyed(job_request())));
    origin.wait_for_in_flight(1);
    let running = sidecar.send(&keyed(job_request()));
    assert_eq!((running.status, problem_type(&running).as_str()), (409, "job-running"));
    let other = sidecar.send(&keyed(chat_for("other").header("prefer", "respond-async")));
    assert_eq!((other.status, problem_type(&other).as_str()), (422, "idempotency-key-reused"));
    // The same key of another principal is another key.
    let theirs = keyed(job_request()).header("authorization", "Bearer theirs");
    let waits = accepted_path(&sidecar.send(&theirs));
    assert_ne!(waits, path);
    assert_eq!(accepted_path(&sidecar.send(&theirs)), waits, "a waiting job was accepted twice");
    gate.open_wide();
    assert_eq!(wait_for_job(&sidecar, &path).status, 200);
    let again = sidecar.send(&keyed(job_request()));
    assert_eq!((again.status, again.header("outrigger-job")), (200, Some(job_id(&path))));
    assert_eq!(origin.requests()[0].headers.get("idempotency-key"), Some("k-1"));
    sidecar.wait_until(|_| origin.count() == 2);
}

#[test]
fn a_job_is_visible_only_to_its_principal_and_no_credential_is_stored() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let sidecar = start_with_store(data.path(), &policy_with_queue(&origin, ""));
    let secrets = ["authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"];
    let with_credentials = |call: Call| {
        secrets.iter().fold(call, |call, name| call.header(name, &format!("hunter2-{name}")))
    };
    let path = accepted_path(&sidecar.send(&with_credentials(job_request())));
    assert_eq!(
        sidecar.send(&with_credentials(Call::get(&path).header("prefer", "wait=20"))).status,
        200
    );
    for stranger in [Call::get(&path), Call::get(&path).header("authorization", "Bearer x")] {
        let refused = sidecar.send(&stranger);
        assert_eq!((refused.status, problem_type(&refused).as_str()), (404, "job-not-found"));
    }
    assert_eq!(sidecar.send(&Call::new("DELETE", &path)).status, 404);
    assert!(!is_stored(data.path(), "hunter2"), "a credential is stored");
    for entry in std::fs::read_dir(data.path()).expect("the folder is there") {
        let entry = entry.expect("an entry");
        use std::os::unix::fs::PermissionsExt;
        let mode = entry.metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} is open to others", entry.path());
    }
}

#[test]
fn the_result_of_a_job_has_no_hop_by_hop_header_of_the_provider() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let text = "HTTP/1.1 200 OK\r\nConnection: close, x-first\r\nx-first: ends-here-1\r\n\
                Keep-Alive: timeout=5, ends-here-2\r\nProxy-Authenticate: ends-here-3\r\n\
                x-end-to-end: goes-on\r\nContent-Type: application/json\r\n\
                Content-Length: 2\r\n\r\n{}";
    origin.set(Behaviour::Raw(text.as_bytes().to_vec()));
    let sidecar = start_with_store(data.path(), &policy_with_queue(&origin, ""));
    let call = Call::post("/thing", "x").header("prefer", "respond-async");
    let path = accepted_path(&sidecar.send(&call));
    let response = wait_for_job(&sidecar, &path);
    assert_eq!((response.status, response.text().as_str()), (200, "{}"));
    assert_eq!(response.header("x-end-to-end"), Some("goes-on"));
    for name in ["connection", "x-first", "keep-alive", "proxy-authenticate"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert!(is_stored(data.path(), "goes-on") && !is_stored(data.path(), "ends-here"));
}

#[test]
fn a_cancelled_or_expired_job_is_not_run() {
    let (origin, data) = (Origin::start(Behaviour::Chat), data_dir());
    let sidecar =
        start_with_store(data.path(), &policy_with_queue(&origin, "durable: { expire: 300ms }"));
    let pause = |action: &str| {
        sidecar.admin_post(&format!("/api/queue/{action}/default"), &serde_json::json!({}))
    };
    assert_eq!(pause("pause").0, 200);
    let cancelled = accepted_path(&sidecar.send(&job_request()));
    let gone = sidecar.send(&Call::new("DELETE", &cancelled));
    assert_eq!(gone.status, 204);
    let response = sidecar.send(&Call::get(&cancelled));
    assert_eq!((response.status, problem_type(&response).as_str()), (410, "job-cancelled"));
    let late = accepted_path(&sidecar.send(&job_request()));
    let response = wait_for_job(&sidecar, &late);
    assert_eq!((response.status, problem_type(&response).as_str()), (504, "job-expired"));
    let finished = sidecar.send(&Call::new("DELETE", &late));
    assert_eq!((finished.status, problem_type(&finished).as_str()), (409, "job-finished"));
    assert_eq!(pause("resume").0, 200);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_full_queue_rejects_jobs_and_a_long_result_is_truncated() {
    let (gate, data) = (Gate::closed(), data_dir());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let queue = "durable: { max_jobs: 2, max_result: 10 }";
    let sidecar = start_with_store(data.path(), &policy_with_queue(&origin, queue));
    let path = accepted_path(&sidecar.send(&job_request()));
    accepted_path(&sidecar.send(&job_request()));
    let full = sidecar.send(&job_request());
    assert_eq!((full.status, problem_type(&full).as_str()), (503, "jobs-full"));
    assert_eq!(full.header("retry-after"), Some("10"));
    gate.open_wide();
    let cut = wait_for_job(&sidecar, &path);
    assert_eq!((cut.status, cut.body.len()), (200, 10));
    assert_eq!(cut.header("outrigger-cut"), Some("max_result"));
}

#[test]
fn higher_classes_run_first_and_flows_alternate() {
    let (gate, data) = (Gate::closed(), data_dir());
    let origin = Origin::start(Behaviour::Chat.held(&gate));
    let queue = "flow: { header: x-tenant }, durable: { workers: 1 }";
    let sidecar = start_with_store(data.path(), &policy_with_queue(&origin, queue));
    accepted_path(&sidecar.send(&job_request()));
    origin.wait_for_in_flight(1);
    let named = |name: &str, class: &str, tenant: &str| {
        let call = job_request().header("x-name", name).header("x-outrigger-priority", class);
        accepted_path(&sidecar.send(&call.header("x-tenant", tenant)))
    };
    let paths = [
        named("a-1", "low", "a"),
        named("a-2", "low", "a"),
        named("b-1", "low", "b"),
        named("high", "high", "a"),
    ];
    gate.open_wide();
    for path in &paths {
        assert_eq!(wait_for_job(&sidecar, path).status, 200);
    }
    let order: Vec<_> = origin
        .requests()
        .iter()
        .filter_map(|r| r.headers.get("x-name").map(str::to_owned))
        .collect();
    let position = |name: &str| order.iter().position(|n| n == name).expect("it was run");
    assert!(position("high") <= 1, "{order:?}");
    assert!(position("b-1") < position("a-2"), "{order:?}");
    assert_eq!(origin.most_in_flight(), 1);
}
