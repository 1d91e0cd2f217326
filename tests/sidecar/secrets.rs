//! Marked secrets, every kind of failure, and then a look into everything that left the process:
//! no provider saw a credential that is not its own, and nothing that is told holds any.
//!
//! Each failure meets a sidecar that knows nothing yet, so that no open breaker and no held
//! credential keeps it from the providers that it is meant for.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::fixtures::{api, chat, policy};
use crate::raw_tcp::RawClient;
use crate::support::{Behaviour, Call, Ending, Origin, Request, Response, Sidecar, Stream};

/// Each secret and the providers that see it; nobody else may.
const SECRETS: [(&str, &[usize]); 9] = [
    ("marked-env-one", &[0]),
    ("marked-env-two", &[0]),
    ("marked-file", &[1]),
    ("marked-password", &[]),
    // `user:marked-password`, as it goes over the wire.
    ("dXNlcjptYXJrZWQtcGFzc3dvcmQ=", &[2]),
    ("marked-application", &[3]),
    ("marked-cookie", &[3]),
    ("marked-rotated", &[1]),
    // The application's own words, in the query: the provider's, and no log's.
    ("marked-query", &[0, 1, 2, 3]),
];

struct Scene {
    origins: [Origin; 4],
    /// Everything that the sidecars themselves have said so far.
    told: Vec<String>,
}

fn yaml(origins: &[Origin; 4], file: &Path) -> String {
    let hasty = "timeouts: { connect: 200ms, headers: 100ms, first_byte: 100ms, idle: 100ms }";
    let key = format!("\"${{file:{}}}\"", file.display());
    let auths = [
        "auth: { bearer: [\"${env:KEY_ONE}\", \"${env:KEY_TWO}\"] }".to_owned(),
        format!("auth: {{ header: {{ name: x-api-key, value: {key} }} }}"),
        "auth: { basic: { username: user, password: \"${env:PASSWORD}\" } }".to_owned(),
        "auth: passthrough".to_owned(),
    ];
    let more = auths.map(|auth| format!("{auth}, {hasty}"));
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

// === impl Scene ===

impl Scene {
    fn start() -> Self {
        Self { origins: [(); 4].map(|()| Origin::start(Behaviour::Chat)), told: Vec::new() }
    }

    /// One that knows nothing yet.
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

    /// Asks on both routes while all providers behave so, or all but two.
    fn under(&mut self, failure: &Behaviour) {
        for sound in [&[][..], &[0, 2], &[1, 2]] {
            let sidecar = self.sidecar();
            self.set_all(failure);
            sound.iter().for_each(|&i: &usize| self.origins[i].set(Behaviour::Chat));
            for path in ["/own/things?key=marked-query", "/things?key=marked-query"] {
                for _ in 0..2 {
                    let answer = sidecar.client().try_send(&Self::call(path));
                    self.told.extend(answer.ok().map(|answer| told(&answer)));
                }
            }
            self.look(sidecar);
        }
    }

    /// Takes down everything that a sidecar tells, and ends it.
    fn look(&mut self, mut sidecar: Sidecar) {
        for path in ["metrics", "api/policies", "api/status", "api/circuit-breakers", "readyz"] {
            self.told.push(sidecar.admin_get(&format!("/{path}")).1);
        }
        self.set_all(&Behaviour::Chat);
        sidecar.stop();
        self.told.extend(sidecar.log());
    }
}

fn key_file(policies: &Path) -> PathBuf {
    policies.with_file_name("key")
}

fn told(answer: &Response) -> String {
    format!("{:?} {}", answer.headers, answer.text())
}

fn seen(request: &Request) -> String {
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
fn no_secret_is_seen_where_it_does_not_belong_after_any_failure() {
    let mut scene = Scene::start();
    for failure in failures() {
        scene.under(&failure);
    }
    refused_requests(&mut scene);
    reloads(&mut scene);
    let all_told = scene.told.join("\n");
    for (secret, owners) in SECRETS {
        let at = all_told.find(secret);
        let around = at.map(|at| &all_told[at.saturating_sub(300)..(at + 100).min(all_told.len())]);
        assert_eq!(around, None, "{secret} was told");
        for (i, origin) in scene.origins.iter().enumerate() {
            let requests: Vec<_> = origin.requests().iter().map(seen).collect();
            let found = requests.iter().find(|request| request.contains(secret));
            match owners.contains(&i) {
                true => assert!(found.is_some(), "{secret} never reached provider {i}"),
                false => assert_eq!(found, None, "{secret} reached provider {i}"),
            }
        }
    }
}

/// Requests that the sidecar itself refuses, or that their client gives up, with credentials in
/// them.
fn refused_requests(scene: &mut Scene) {
    let sidecar = scene.sidecar();
    let secret = "authorization: Bearer marked-application\r\ncookie: marked-cookie\r\n";
    let ours = "x-outrigger-timeout: 1s";
    for head in [
        "GET / HTTP/1.1\r\n".to_owned(),
        "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n".to_owned(),
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n".to_owned(),
        "GET /.outrigger/x?marked-query HTTP/1.1\r\nhost: a\r\nconnection: close\r\n".to_owned(),
        format!("GET /?marked-query HTTP/1.1\r\nhost: a\r\n{ours}\r\nconnection: close\r\n"),
    ] {
        let mut wire = RawClient::to(&sidecar.url("/"));
        wire.offer(format!("{head}{secret}\r\n"));
        let said = wire.read_to_close();
        assert!(said.starts_with("HTTP/1.1 4"), "{head:?}: {said}");
        scene.told.push(said);
    }
    scene.set_all(&Behaviour::Silent);
    let mut client = sidecar.client();
    client.send_only(&Scene::call("/own/left?key=marked-query"));
    scene.origins[3].wait_for_in_flight(1);
    drop(client);
    scene.origins[3].wait_for_in_flight(0);
    scene.look(sidecar);
}

/// Policies that are wrong, and a secret that is changed while everything runs.
fn reloads(scene: &mut Scene) {
    let sidecar = scene.sidecar();
    let file = key_file(&sidecar.policies());
    let good = yaml(&scene.origins, &file);
    let last_load = |sidecar: &Sidecar| api(sidecar, "/api/policies")["last_load"].clone();
    let load = |yaml: &str| {
        let before = last_load(&sidecar)["at"].clone();
        sidecar.write_policy("policy", yaml);
        sidecar.wait_until(|sidecar| last_load(sidecar)["at"] != before);
        last_load(&sidecar)
    };
    for wrong in ["providerz: {}\n", "routes: [ { name: own, providers: [nobody] } ]\n", "{{"] {
        let rejected = load(&format!("{good}{wrong}"));
        assert_eq!(rejected["result"], "rejected");
        scene.told.push(rejected.to_string());
        assert_ne!(load(&good)["result"], "rejected");
    }
    scene.origins[0].set(Behaviour::RefuseConnections);
    fs::write(&file, "marked-rotated\n").expect("the key can be changed");
    let rotated = &scene.origins[1];
    sidecar.wait_until(|sidecar| {
        assert_eq!(sidecar.send(&chat()).status, 200);
        rotated.requests().iter().any(|request| seen(request).contains("marked-rotated"))
    });
    scene.look(sidecar);
}

#[test]
fn a_secret_that_is_missing_is_told_by_its_name() {
    let a = Origin::start(Behaviour::Chat);
    for (reference, name) in
        [("${env:NO_SUCH_KEY}", "NO_SUCH_KEY"), ("${file:/no/such/key}", "/no/such/key")]
    {
        let auth = format!("auth: {{ bearer: \"{reference}\" }}");
        let yaml = policy(&[("a", &a.url(), &auth)], "routes: [ { name: all, providers: [a] } ]\n");
        let refused =
            Sidecar::builder().policy("policy", &yaml).try_start().expect_err("a problem");
        assert_eq!(refused.status.code(), Some(2));
        let log = refused.log.join("\n");
        assert!(log.contains(name) && log.contains("policy.yaml:3"), "{log}");
    }
    assert_eq!(a.count(), 0);
}
