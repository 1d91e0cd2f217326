//! Searches everything that the sidecar sends and prints for marked secrets, after every kind of
//! failure: no provider receives the credential of another, and no output contains any.
//!
//! Each failure is tested with a new sidecar, so that no open breaker and no held credential keeps
//! requests from a provider.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::fixtures::{chat, last_load, policy, route, single_worker};
use crate::raw_tcp::RawClient;
use crate::support::{Behaviour, Call, Ending, Origin, Request, Response, Sidecar, Stream};

/// Each secret and the only providers that may receive it.
const SECRETS: [(&str, &[usize]); 9] = [
    ("marked-env-one", &[0]),
    ("marked-env-two", &[0]),
    ("marked-file", &[1]),
    ("marked-password", &[]),
    // `user:marked-password` as sent on the wire.
    ("dXNlcjptYXJrZWQtcGFzc3dvcmQ=", &[2]),
    ("marked-application", &[3]),
    ("marked-cookie", &[3]),
    ("marked-rotated", &[1]),
    // A credential in the query, too, is the application's own.
    ("marked-query", &[3]),
];

struct Harness {
    origins: [Origin; 4],
    /// Responses, admin documents and log lines of all sidecars so far.
    output: Vec<String>,
}

fn yaml(origins: &[Origin; 4], file: &Path) -> String {
    let short_timeouts =
        "timeouts: { connect: 200ms, headers: 100ms, first_byte: 100ms, idle: 100ms }";
    let key = format!("\"${{file:{}}}\"", file.display());
    let auths = [
        "auth: { bearer: [\"${env:KEY_ONE}\", \"${env:KEY_TWO}\"] }".to_owned(),
        format!("auth: {{ header: {{ name: x-api-key, value: {key} }} }}"),
        "auth: { basic: { username: user, password: \"${env:PASSWORD}\" } }".to_owned(),
        "auth: passthrough".to_owned(),
    ];
    let more = auths.map(|auth| format!("{auth}, {short_timeouts}"));
    let urls = origins.each_ref().map(Origin::url);
    let providers = [0, 1, 2, 3].map(|i| (["a", "b", "c", "d"][i], &*urls[i], &*more[i]));
    policy(
        &providers,
        "routes:\n\
         - { name: own, match: { path: /own/** }, strip_prefix: /own, providers: [d], fallback: [a] }\n\
         - { name: all, providers: [a, b], fallback: [c], idempotent: always }\n\
         retries: { default: { initial_delay: 1ms, patience: 100ms, budget: { ratio: 1, min_per_second: 100 } } }\n",
    )
}

// === impl Harness ===

impl Harness {
    fn start() -> Self {
        Self { origins: [(); 4].map(|()| Origin::start(Behaviour::Chat)), output: Vec::new() }
    }

    /// Starts a new sidecar.
    fn sidecar(&self) -> Sidecar {
        let builder = Sidecar::builder();
        let file = key_file(&builder.policies());
        fs::write(&file, "marked-file\n").expect("a file for the key");
        builder
            .policy("policy", &yaml(&self.origins, &file))
            .env("KEY_ONE", "marked-env-one")
            .env("KEY_TWO", "marked-env-two")
            .env("PASSWORD", "marked-password")
            .start()
    }

    fn set_all(&self, behaviour: &Behaviour) {
        self.origins.iter().for_each(|origin| origin.set(behaviour.clone()));
    }

    fn call(path: &str) -> Call {
        let call = Call::json(path, &json!({ "model": "m" }));
        call.header("authorization", "Bearer marked-application")
            .header("x-api-key", "marked-application")
            .header("api-key", "marked-application")
            .header("cookie", "session=marked-cookie")
            .header("proxy-authorization", "Basic marked-application")
    }

    /// Sends requests on both routes while all providers fail, or all but one or two.
    fn test_failure(&mut self, failure: &Behaviour) {
        for healthy in [&[][..], &[0, 2], &[1, 2]] {
            let sidecar = self.sidecar();
            self.set_all(failure);
            healthy.iter().for_each(|&i: &usize| self.origins[i].set(Behaviour::Chat));
            for path in ["/own/things?key=marked-query", "/things?key=marked-query"] {
                for _ in 0..2 {
                    let response = sidecar.client().try_send(&Self::call(path));
                    self.output.extend(response.ok().map(|response| response_text(&response)));
                }
            }
            self.collect_output(sidecar);
        }
    }

    /// Collects all output of a sidecar and stops it.
    fn collect_output(&mut self, mut sidecar: Sidecar) {
        for path in ["metrics", "api/policies", "api/status", "api/circuit-breakers", "readyz"] {
            self.output.push(sidecar.admin_get(&format!("/{path}")).1);
        }
        self.set_all(&Behaviour::Chat);
        sidecar.stop();
        self.output.extend(sidecar.log());
    }
}

fn key_file(policies: &Path) -> PathBuf {
    policies.with_file_name("key")
}

fn response_text(response: &Response) -> String {
    format!("{:?} {}", response.headers, response.text())
}

fn request_text(request: &Request) -> String {
    let (path, headers) = (&request.path, &request.headers.0);
    format!("{path} {headers:?} {}", String::from_utf8_lossy(&request.body))
}

fn failures() -> Vec<Behaviour> {
    let mut failures: Vec<_> = [400, 401, 402, 403, 404, 408, 429, 500, 501, 502, 503, 529]
        .map(|code| Behaviour::status(code, &[]))
        .into_iter()
        .collect();
    failures.push(Behaviour::status(429, &[("retry-after", "1")]));
    failures.push(Behaviour::Raw(b"no http at all\r\n\r\n".to_vec()));
    failures.extend([Behaviour::RefuseConnections, Behaviour::Reset, Behaviour::ResetMidBody]);
    failures.extend([Behaviour::HalfBody, Behaviour::Silent, Behaviour::HeadersThenSilence]);
    failures.extend([Behaviour::MalformedJson, Behaviour::EmptyBody, Behaviour::BlackHole]);
    failures.push(Stream::chat(5).first(3).ending(Ending::Cut).into());
    failures.push(Behaviour::Chat);
    failures
}

#[test]
fn no_secret_leaks_after_any_failure() {
    let mut harness = Harness::start();
    for failure in failures() {
        harness.test_failure(&failure);
    }
    check_rejected_requests(&mut harness);
    check_reloads(&mut harness);
    let all_output = harness.output.join("\n");
    for (secret, owners) in SECRETS {
        let position = all_output.find(secret);
        let context = position.map(|position| {
            &all_output[position.saturating_sub(300)..(position + 100).min(all_output.len())]
        });
        assert_eq!(context, None, "{secret} is in the output");
        for (i, origin) in harness.origins.iter().enumerate() {
            let requests: Vec<_> = origin.requests().iter().map(request_text).collect();
            let found = requests.iter().find(|request| request.contains(secret));
            match owners.contains(&i) {
                true => assert!(found.is_some(), "{secret} never reached provider {i}"),
                false => assert_eq!(found, None, "{secret} reached provider {i}"),
            }
        }
    }
}

/// Requests with credentials that the sidecar rejects or whose client disconnects.
fn check_rejected_requests(harness: &mut Harness) {
    let sidecar = harness.sidecar();
    let secret = "authorization: Bearer marked-application\r\ncookie: marked-cookie\r\n";
    let override_header = "x-outrigger-timeout: 1s";
    for head in [
        "GET / HTTP/1.1\r\n".to_owned(),
        "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n".to_owned(),
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n".to_owned(),
        "GET /.outrigger/x?marked-query HTTP/1.1\r\nhost: a\r\nconnection: close\r\n".to_owned(),
        format!(
            "GET /?marked-query HTTP/1.1\r\nhost: a\r\n{override_header}\r\nconnection: close\r\n"
        ),
    ] {
        let mut wire = RawClient::to(&sidecar.url("/"));
        wire.write_best_effort(format!("{head}{secret}\r\n"));
        let response = wire.read_to_close();
        assert!(response.starts_with("HTTP/1.1 4"), "{head:?}: {response}");
        harness.output.push(response);
    }
    harness.set_all(&Behaviour::Silent);
    let mut client = sidecar.client();
    client.send_only(&Harness::call("/own/left?key=marked-query"));
    harness.origins[3].wait_for_in_flight(1);
    drop(client);
    harness.origins[3].wait_for_in_flight(0);
    harness.collect_output(sidecar);
}

/// Invalid policies, and a secret rotated at run time.
fn check_reloads(harness: &mut Harness) {
    let sidecar = harness.sidecar();
    let file = key_file(&sidecar.policies());
    let valid = yaml(&harness.origins, &file);
    let load = |yaml: &str| {
        let before = last_load(&sidecar)["at"].clone();
        sidecar.write_policy("policy", yaml);
        sidecar.wait_until(|sidecar| last_load(sidecar)["at"] != before);
        last_load(&sidecar)
    };
    for invalid in ["providerz: {}\n", "routes: [ { name: own, providers: [nobody] } ]\n", "{{"] {
        let rejected = load(&format!("{valid}{invalid}"));
        assert_eq!(rejected["result"], "rejected");
        harness.output.push(rejected.to_string());
        assert_ne!(load(&valid)["result"], "rejected");
    }
    harness.origins[0].set(Behaviour::RefuseConnections);
    fs::write(&file, "marked-rotated\n").expect("the key can be changed");
    let rotated = &harness.origins[1];
    sidecar.wait_until(|sidecar| {
        assert_eq!(sidecar.send(&chat()).status, 200);
        rotated.requests().iter().any(|request| request_text(request).contains("marked-rotated"))
    });
    harness.collect_output(sidecar);
}

#[test]
fn a_missing_secret_is_reported_by_name() {
    let a = Origin::start(Behaviour::Chat);
    for (reference, name) in
        [("${env:NO_SUCH_KEY}", "NO_SUCH_KEY"), ("${file:/no/such/key}", "/no/such/key")]
    {
        let auth = format!("auth: {{ bearer: \"{reference}\" }}");
        let yaml = policy(&[("a", &a.url(), &auth)], "routes: [ { name: all, providers: [a] } ]\n");
        let failure =
            Sidecar::builder().policy("policy", &yaml).try_start().expect_err("a problem");
        assert_eq!(failure.status.code(), Some(2));
        let log = failure.log.join("\n");
        assert!(log.contains(name) && log.contains("policy.yaml:3"), "{log}");
    }
    assert_eq!(a.count(), 0);
}

#[test]
fn no_core_file_is_written() {
    let a = Origin::start(Behaviour::Chat);
    let sidecar = single_worker(&policy(&[("a", &a.url(), "")], &route("providers: [a]")));
    let limits = fs::read_to_string(format!("/proc/{}/limits", sidecar.pid())).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    let words: Vec<_> = core.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "soft and hard");
}
