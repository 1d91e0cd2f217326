//! Credentials in every carrier: headers, query, sub-protocols, trailers. They reach only the
//! provider with `auth: passthrough`, they are stored and printed nowhere, and callers that differ
//! in one of them share nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

use crate::fixtures::{
    CHAT, GENEROUS, cache_status, chat, policy, problem_type, route, single_worker,
};
use crate::jobs::{accepted_path, data_dir, job_request, wait_for_job};
use crate::raw_tcp::{RawClient, RawServer};
use crate::support::carriers::{CARRIERS, Carrier, TRAILERS, request_text, secret};
use crate::support::message::find;
use crate::support::{Behaviour, Call, Origin, Sidecar};

const PROVIDERS: [&str; 3] = [
    "auth: { bearer: \"${env:KEY}\" }, breaker: none",
    "auth: passthrough, breaker: none",
    "auth: none, breaker: none",
];

const ROUTES: &str = "routes:\n\
    - { name: pass, match: { path: /pass/** }, providers: [b], fallback: [a, c], idempotent: always, queue: sync }\n\
    - { name: kept, match: { path: /kept/** }, providers: [a], fallback: [c], cache: c }\n\
    - { name: jobs, match: { path: /v1/** }, providers: [a], fallback: [c] }\n\
    caches: { c: { max_bytes: 1MiB, store: { ttl: 60s, key: [path, body] } } }\n\
    queues: { default: { durable: {} }, sync: { durable: { accept: never } } }\n";

struct Harness {
    /// `a` has its own credential, `b` receives the application's, `c` has none.
    origins: [Origin; 3],
    sidecar: Sidecar,
    responses: Vec<String>,
}

impl Harness {
    fn start(data: &Path) -> Harness {
        let origins = [(); 3].map(|()| Origin::start(Behaviour::Chat));
        let urls = origins.each_ref().map(Origin::url);
        let providers = [0, 1, 2].map(|i| (["a", "b", "c"][i], &*urls[i], PROVIDERS[i]));
        let yaml = policy(&providers, &(ROUTES.to_owned() + GENEROUS));
        let builder = Sidecar::builder().policy("policy", &yaml).env("KEY", "own-key");
        let sidecar = builder.arg("--log=trace").data(data).start();
        Harness { origins, sidecar, responses: Vec::new() }
    }

    fn send(&mut self, call: &Call) -> u16 {
        let response = self.sidecar.send(call);
        self.responses.push(format!("{:?} {}", response.headers, response.text()));
        response.status
    }

    /// Sends the secret on every route, with and without a failover.
    fn send_all(&mut self, carrier: Carrier, secret: &str) {
        let with = |call: Call| carrier.add_to(call, secret);
        let failing = Behaviour::status(503, &[]);
        self.origins[1].set(Behaviour::Chat);
        assert_eq!(self.send(&with(Call::post("/pass/x", "{}"))), 200);
        self.origins[1].set(failing.clone());
        assert_eq!(self.send(&with(Call::post("/pass/x", "{}"))), 200);
        self.origins[0].set(failing);
        assert_eq!(self.send(&with(Call::post("/pass/x", "{}"))), 200);
        self.origins[0].set(Behaviour::Chat);
        assert_eq!(self.send(&with(Call::post("/kept/x", "{}"))), 200);
        assert_eq!(self.send(&with(Call::get("/other"))), 404);
        let invalid = chat().header("x-outrigger-timeout", "1s");
        assert_eq!(self.send(&with(invalid)), 400);
        let job =
            self.sidecar.send(&with(job_request().header("idempotency-key", secret_free(carrier))));
        let path = accepted_path(&job);
        assert_eq!(self.send(&with(Call::get(&path).header("prefer", "wait=20"))), 200);
        assert_eq!(self.send(&Call::get(&path)), 404, "{carrier:?}");
    }

    /// A request whose trailers hold secrets.
    fn send_trailers(&mut self, path: &str) {
        let mut wire = RawClient::to(&self.sidecar.url("/"));
        let secrets = TRAILERS.iter().enumerate();
        let trailers = secrets.map(|(i, name)| format!("{name}: {}\r\n", secret(i, 't')));
        wire.write(format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nprefer: respond-async\r\nconnection: close\r\n\
             transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nx-check: 7\r\n{}\r\n",
            trailers.collect::<String>()
        ));
        self.responses.push(wire.read_to_close());
    }

    /// Everything that the sidecar printed, stored or served.
    fn output(mut self, data: &Path) -> Vec<u8> {
        let paths =
            ["metrics", "api/policies", "api/status", "api/queue", "api/queue/jobs", "api/caches"];
        for path in paths {
            self.responses.push(self.sidecar.admin_get(&format!("/{path}")).1);
        }
        let arguments = fs::read(format!("/proc/{}/cmdline", self.sidecar.pid()));
        let mut output = arguments.expect("the arguments of the process");
        output.extend(stored_bytes(data));
        self.sidecar.stop();
        output.extend(stored_bytes(data));
        output.extend(self.sidecar.log().join("\n").into_bytes());
        output.extend(self.responses.join("\n").into_bytes());
        output
    }
}

/// An Idempotency-Key for the job of a carrier.
fn secret_free(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::Header(name, _) => name,
        Carrier::Query(_) => "k",
    }
}

/// The raw bytes of all files of the store, the write-ahead log included.
fn stored_bytes(data: &Path) -> Vec<u8> {
    let files = fs::read_dir(data).expect("the folder of the store");
    let files = files.map(|file| file.expect("a file").path()).filter(|path| path.is_file());
    files.flat_map(|path| fs::read(path).unwrap_or_default()).collect()
}

#[test]
fn a_secret_in_any_carrier_reaches_only_its_provider_and_no_output() {
    let data = data_dir();
    let mut harness = Harness::start(data.path());
    for (index, carrier) in CARRIERS.into_iter().enumerate() {
        harness.send_all(carrier, &secret(index, 'a'));
    }
    harness.send_trailers("/pass/x");
    harness.send_trailers("/v1/chat/completions");
    let received = harness.origins.each_ref().map(|origin| {
        let requests: Vec<_> = origin.requests().iter().map(request_text).collect();
        requests.join("\n")
    });
    let output = harness.output(data.path());
    assert!(find(&output, b"chat.completion").is_some(), "the store and the responses were read");
    for (index, carrier) in CARRIERS.into_iter().enumerate() {
        let secret = secret(index, 'a');
        let reached = received.each_ref().map(|requests| requests.contains(&secret));
        assert_eq!(reached, [false, carrier.is_passed(), false], "{carrier:?}");
        assert_eq!(find(&output, secret.as_bytes()), None, "{carrier:?} is in the output");
    }
    for (index, name) in TRAILERS.iter().enumerate() {
        let secret = secret(index, 't');
        assert!(received.iter().all(|requests| !requests.contains(&secret)), "{name}");
        assert_eq!(find(&output, secret.as_bytes()), None, "{name} is in the output");
    }
}

#[test]
fn callers_that_differ_in_one_carrier_share_no_job_and_no_cached_response() {
    let data = data_dir();
    let mut harness = Harness::start(data.path());
    let mut jobs = BTreeSet::new();
    for (index, carrier) in CARRIERS.into_iter().enumerate() {
        let with = |call: Call, principal| carrier.add_to(call, &secret(index, principal));
        let kept = || Call::post(&format!("/kept/{index}"), "{}");
        for principal in ['a', 'b'] {
            let first = harness.sidecar.send(&with(kept(), principal));
            assert!(
                cache_status(&first).contains("uri-miss"),
                "{carrier:?}: {}",
                cache_status(&first)
            );
            let again = harness.sidecar.send(&with(kept(), principal));
            assert!(cache_status(&again).contains("hit"), "{carrier:?}: {}", cache_status(&again));
        }
        let job = || job_request().header("idempotency-key", &format!("k-{index}"));
        let mine = accepted_path(&harness.sidecar.send(&with(job(), 'a')));
        assert_eq!(wait_for_job(&harness.sidecar, &mine).status, 404, "{carrier:?}");
        for call in [Call::get(&mine), Call::new("DELETE", &mine)] {
            let other = harness.sidecar.send(&with(call.clone(), 'b'));
            assert_eq!(
                (other.status, &*problem_type(&other)),
                (404, "job-not-found"),
                "{carrier:?}"
            );
        }
        let theirs = accepted_path(&harness.sidecar.send(&with(job(), 'b')));
        assert_ne!(mine, theirs, "{carrier:?}: one Idempotency-Key of two principals");
        let own = Call::get(&mine).header("prefer", "wait=20");
        assert_eq!(harness.send(&with(own, 'a')), 200, "{carrier:?}");
        jobs.extend([mine, theirs]);
    }
    assert_eq!(jobs.len(), 2 * CARRIERS.len());
}

#[test]
fn sub_protocols_without_a_credential_are_forwarded() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(
        &[("a", &a.url(), "auth: none")],
        "routes: [ { name: all, providers: [a] } ]\n",
    ));
    let offered = "realtime, openai-insecure-api-key.sk-1234567890, openai-beta.realtime-v1";
    let call = Call::get("/x?a=1&key=s&b=%20").header("sec-websocket-protocol", offered);
    assert_eq!(sidecar.send(&call).status, 200);
    let seen = a.last();
    let kept = seen.headers.get("sec-websocket-protocol");
    assert_eq!(kept, Some("realtime, openai-beta.realtime-v1"));
    assert_eq!(seen.path, "/x?a=1&b=%20");
}

#[test]
fn a_provider_cannot_imitate_the_sidecar_in_a_response() {
    let a = Origin::start(Behaviour::Raw(
        b"HTTP/1.1 200 OK\r\noutrigger-job: 1\r\nx-outrigger-any: 1\r\noutrigger-degraded: x\r\n\
          proxy-status: outrigger; error=x\r\ncache-status: cdn; hit, outrigger; hit\r\n\
          x-kept: 1\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
            .to_vec(),
    ));
    let sidecar = single_worker(&policy(
        &[("a", &a.url(), "auth: none")],
        "routes: [ { name: all, providers: [a] } ]\n",
    ));
    let response = sidecar.send(&Call::get("/x"));
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    for name in ["outrigger-job", "x-outrigger-any", "outrigger-degraded", "proxy-status"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert_eq!(response.header("cache-status"), Some("cdn; hit"));
    assert_eq!(response.header("x-kept"), Some("1"));
}

#[test]
fn no_trailer_carries_a_credential_or_imitates_the_sidecar() {
    for auth in ["auth: none", "auth: passthrough"] {
        let peer = RawServer::start();
        let yaml = policy(&[("a", &peer.url(), auth)], &route("providers: [a]"));
        let sidecar = single_worker(&yaml);
        thread::scope(|scope| {
            let provider = scope.spawn(|| {
                let mut wire = peer.accept();
                wire.read_until("\r\n0\r\n");
                let trailers = wire.read_until("\r\n\r\n").to_lowercase();
                wire.write(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\
                     trailer: x-sum, outrigger-cut, cache-status\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\
                     outrigger-cut: max_result\r\ncache-status: outrigger; hit\r\n\r\n",
                );
                trailers
            });
            let mut wire = RawClient::to(&sidecar.url(CHAT));
            let secrets = TRAILERS.map(|name| format!("{name}: app\r\n")).concat();
            wire.write(format!(
                "POST {CHAT} HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\
                 transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nx-check: 7\r\n{secrets}\r\n"
            ));
            wire.read_until("\r\n0\r\n");
            assert_eq!(wire.read_until("\r\n\r\n").to_lowercase(), "x-sum: 42\r\n\r\n", "{auth}");
            let trailers = provider.join().expect("the provider thread does not panic");
            assert_eq!(trailers, "x-check: 7\r\n\r\n", "{auth}");
        });
    }
}
