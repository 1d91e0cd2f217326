//! Marked secrets, every kind of failure, and then a look into everything that left the process:
//! no provider saw a credential that is not its own, and nothing that is told holds any.

use std::fs;

use serde_json::json;

use crate::scene::{chat, policy};
use crate::support::{Behaviour, Call, Ending, Origin, Request, Response, Sidecar, Stream};
use crate::wire::Wire;

/// Each secret and the providers that may see it.
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
    sidecar: Sidecar,
    /// Everything that the sidecar itself has said so far.
    told: Vec<String>,
}

fn yaml(origins: &[Origin; 4], file: &str) -> String {
    let hasty = "timeouts: { headers: 200ms, first_byte: 200ms, idle: 200ms }";
    let auths = [
        "auth: { bearer: [\"${env:KEY_ONE}\", \"${env:KEY_TWO}\"] }".to_owned(),
        format!("auth: {{ header: {{ name: x-api-key, value: \"${{file:{file}}}\" }} }}"),
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
         breakers: { default: { failure_threshold: 6, recovery_timeout: 100ms, max_recovery_timeout: 200ms } }\n\
         retries: { default: { initial_delay: 1ms, patience: 100ms, budget: { ratio: 1, min_per_second: 100 } } }\n",
    )
}

// === impl Scene ===

impl Scene {
    fn start() -> Self {
        let origins = [(); 4].map(|()| Origin::start(Behaviour::Chat));
        let builder = Sidecar::builder();
        let file = builder.policies().with_file_name("key");
        fs::write(&file, "marked-file\n").expect("a file for the key");
        let yaml = yaml(&origins, &file.display().to_string());
        let builder = builder
            .policy("policy", &yaml)
            .env("KEY_ONE", "marked-env-one")
            .env("KEY_TWO", "marked-env-two")
            .env("PASSWORD", "marked-password");
        Self { origins, sidecar: builder.start(), told: Vec::new() }
    }

    fn call(path: &str) -> Call {
        let call = Call::json(path, &json!({ "model": "m" }));
        call.header("authorization", "Bearer marked-application")
            .header("x-api-key", "marked-application")
            .header("api-key", "marked-application")
            .header("cookie", "session=marked-cookie")
            .header("proxy-authorization", "Basic marked-application")
    }

    /// Asks on both routes while all, or all but the last of each, behave so.
    fn everything_under(&mut self, behaviour: &Behaviour) {
        for sound in [false, true] {
            for (i, origin) in self.origins.iter().enumerate() {
                let spared = sound && [0, 2].contains(&i);
                origin.set(if spared { Behaviour::Chat } else { behaviour.clone() });
            }
            for path in ["/own/v1/things?key=marked-query", "/v1/things?key=marked-query"] {
                for extra in [None, Some(("x-outrigger-retry", "max_attempts=1"))] {
                    let call = Self::call(path);
                    let call =
                        extra.iter().fold(call, |call, (name, value)| call.header(name, value));
                    let answer = self.sidecar.client().try_send(&call);
                    self.told.extend(answer.ok().map(|answer| told(&answer)));
                }
            }
        }
    }

    fn look(&mut self) {
        for path in ["/metrics", "/api/policies", "/api/status", "/api/circuit-breakers", "/readyz"]
        {
            self.told.push(self.sidecar.admin_get(path).1);
        }
    }
}

/// An answer as it was seen, unless it is a provider's own.
fn told(answer: &Response) -> String {
    format!("{:?} {}", answer.headers, answer.text())
}

fn seen(request: &Request) -> String {
    let (path, headers) = (&request.path, &request.headers.0);
    format!("{path} {headers:?} {}", String::from_utf8_lossy(&request.body))
}

fn failures() -> Vec<Behaviour> {
    let mut failures: Vec<_> = [400, 404, 408, 500, 501, 502, 503]
        .map(|code| Behaviour::status(code, &[]))
        .into_iter()
        .collect();
    failures.push(Behaviour::Raw(b"no http at all\r\n\r\n".to_vec()));
    failures.extend([Behaviour::RefuseConnections, Behaviour::Reset, Behaviour::ResetMidBody]);
    failures.extend([Behaviour::HalfBody, Behaviour::Silent, Behaviour::HeadersThenSilence]);
    failures.extend([Behaviour::MalformedJson, Behaviour::EmptyBody, Behaviour::BlackHole]);
    failures.push(Stream::chat(5).first(3).ending(Ending::Cut).into());
    failures.push(Behaviour::Chat);
    // What holds an endpoint comes last: it is not asked again for long.
    failures.push(Behaviour::status(429, &[("retry-after", "1")]));
    failures.extend([529, 429, 402, 403, 401].map(|code| Behaviour::status(code, &[])));
    failures
}

#[test]
fn no_secret_is_seen_where_it_does_not_belong_after_any_failure() {
    let mut scene = Scene::start();
    a_client_leaves(&scene);
    a_secret_is_rotated(&scene);
    for failure in failures() {
        scene.everything_under(&failure);
        scene.look();
    }
    refused_requests(&mut scene);
    reloads(&mut scene);
    scene.look();
    scene.sidecar.stop();
    scene.told.extend(scene.sidecar.log());
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

/// A client that leaves in the middle.
fn a_client_leaves(scene: &Scene) {
    scene.origins[3].set(Behaviour::Silent);
    let mut client = scene.sidecar.client();
    client.send_only(&Scene::call("/own/left"));
    scene.origins[3].wait_for_in_flight(1);
    drop(client);
    scene.origins[3].wait_for_in_flight(0);
    scene.origins[3].set(Behaviour::Chat);
}

/// Requests that the sidecar itself refuses, with credentials in them.
fn refused_requests(scene: &mut Scene) {
    let secret = "authorization: Bearer marked-application\r\ncookie: marked-cookie\r\n";
    for head in [
        "GET / HTTP/1.1\r\n",
        "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n",
        "GET /.outrigger/x?key=marked-query HTTP/1.1\r\nhost: a\r\nconnection: close\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx-outrigger-timeout: marked\r\nconnection: close\r\n",
    ] {
        let mut wire = Wire::to(&scene.sidecar.url("/"));
        wire.offer(format!("{head}{secret}\r\n"));
        wire.half_close();
        scene.told.push(wire.read_to_close());
    }
}

/// Policies that are wrong.
fn reloads(scene: &mut Scene) {
    let sidecar = &scene.sidecar;
    let file = sidecar.folder().join("key");
    let good = yaml(&scene.origins, &file.display().to_string());
    for wrong in ["providerz: {}\n", "routes: [ { name: own, providers: [nobody] } ]\n", "{{"] {
        sidecar.write_policy("policy", &format!("{good}{wrong}"));
        sidecar.wait_until(|sidecar| {
            let (_, text) = sidecar.admin_get("/api/policies");
            text.contains("rejected")
        });
        scene.told.push(sidecar.admin_get("/api/policies").1);
        reload_good(sidecar, &good);
    }
}

/// A secret that is changed while everything runs.
fn a_secret_is_rotated(scene: &Scene) {
    let sidecar = &scene.sidecar;
    let seen_there = |secret: &str| {
        sidecar.wait_until(|sidecar| {
            assert_eq!(sidecar.send(&chat()).status, 200);
            scene.origins[1].requests().iter().any(|request| seen(request).contains(secret))
        });
    };
    scene.origins[0].set(Behaviour::RefuseConnections);
    seen_there("marked-file");
    let file = sidecar.folder().join("key");
    fs::write(file, "marked-rotated\n").expect("the key can be changed");
    seen_there("marked-rotated");
    scene.origins[0].set(Behaviour::Chat);
}

fn reload_good(sidecar: &Sidecar, good: &str) {
    sidecar.write_policy("policy", good);
    sidecar.wait_until(|sidecar| {
        let (_, text) = sidecar.admin_get("/api/policies");
        !text.contains("\"rejected\"")
    });
}

#[test]
fn a_secret_that_is_missing_is_told_by_its_name() {
    let a = Origin::start(Behaviour::Chat);
    for reference in ["${env:NO_SUCH_KEY}", "${file:/no/such/key}"] {
        let auth = format!("auth: {{ bearer: \"{reference}\" }}");
        let yaml = policy(&[("a", &a.url(), &auth)], "routes: [ { name: all, providers: [a] } ]\n");
        let refused =
            Sidecar::builder().policy("policy", &yaml).try_start().expect_err("a problem");
        assert_eq!(refused.status.code(), Some(2));
        let log = refused.log.join("\n");
        let name =
            reference.trim_matches(['$', '{', '}']).split(':').next_back().unwrap_or_default();
        assert!(log.contains(name) && log.contains("policy.yaml:3"), "{log}");
    }
    assert_eq!(a.count(), 0);
}
