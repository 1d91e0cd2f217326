//! Redirects and other references of a response: those to the provider itself lead to the listener,
//! those to other servers are forwarded as they are.

use crate::fixtures::{policy, route, single_worker};
use crate::support::{Behaviour, Call, Origin, Response, Sidecar};

/// The response of a sidecar with this route to a request to which the provider responds with these
/// headers.
fn response(
    a: &Origin,
    base: &str,
    provider: &str,
    keys: &str,
    headers: &[(&str, &str)],
) -> (Response, Sidecar) {
    let url = a.url() + base;
    let yaml = policy(&[("a", &url, provider)], &route(&format!("providers: [a]{keys}")));
    let sidecar = single_worker(&yaml);
    a.set(Behaviour::status(307, headers));
    (sidecar.send(&Call::get("/openai/v1/x")), sidecar)
}

#[test]
fn a_redirect_to_the_provider_leads_a_client_back_to_the_listener() {
    let a = Origin::start(Behaviour::Chat);
    let own = a.url();
    for (base, keys, location, expected) in [
        ("", "", format!("{own}/openai/v1/y?q=1#z"), "/openai/v1/y?q=1#z"),
        ("", "", "/openai/v1/y".to_owned(), "/openai/v1/y"),
        ("/base", "", format!("{own}/base/v1/y"), "/v1/y"),
        ("/base", ", strip_prefix: /openai", format!("{own}/base/v1/y"), "/openai/v1/y"),
        ("/base", ", strip_prefix: /openai", "/base/v1/y".to_owned(), "/openai/v1/y"),
        ("", ", strip_prefix: /openai", own.to_uppercase().replace("HTTP", "http"), "/openai/"),
    ] {
        let headers = [("location", location.as_str()), ("content-location", location.as_str())];
        let (response, sidecar) = response(&a, base, "", keys, &headers);
        for name in ["location", "content-location"] {
            assert_eq!(response.header(name), Some(expected), "{location}");
        }
        a.set(Behaviour::Chat);
        let target = expected.split('#').next().expect("a path");
        assert_eq!(sidecar.send(&Call::get(target)).status, 200);
        let path = location.trim_start_matches("http://").trim_start_matches(|c| c != '/');
        let path = if path.is_empty() { "/" } else { path.split('#').next().expect("a path") };
        assert_eq!(a.last().path, path, "the client reached the target of the redirect");
    }
}

#[test]
fn the_url_of_a_refresh_leads_to_the_listener() {
    let a = Origin::start(Behaviour::Chat);
    let refresh = format!("5; url={}/y", a.url());
    let (response, _sidecar) = response(&a, "", "", "", &[("refresh", &refresh)]);
    assert_eq!(response.header("refresh"), Some("5; url=/y"));
}

#[test]
fn a_reference_to_another_server_and_a_relative_one_stay_as_they_are() {
    let a = Origin::start(Behaviour::Chat);
    let (own, other) = (a.url(), Origin::start(Behaviour::Chat));
    for location in [
        format!("{}/openai/v1/y", other.url()),
        own.replace("http:", "https:") + "/y",
        format!("{own}.example/y"),
        "../y".to_owned(),
        "?page=2".to_owned(),
    ] {
        let (response, _sidecar) =
            response(&a, "/base", "", ", strip_prefix: /openai", &[("location", &location)]);
        assert_eq!(response.header("location"), Some(&*location));
    }
}

#[test]
fn a_redirect_that_cannot_be_mapped_is_forwarded_as_it_is_and_logged() {
    let a = Origin::start(Behaviour::Chat);
    let path = "rewrite: { path: { from: \"^/v1\", to: /v2 } }";
    for (base, provider, location) in [
        ("", path, format!("{}/v2/y", a.url())),
        ("/base", "", format!("{}/login", a.url())),
        ("/base", "", format!("{}/base/../login", a.url())),
        ("", "", format!("{}//evil.example/y", a.url())),
    ] {
        let (response, sidecar) = response(&a, base, provider, "", &[("location", &location)]);
        assert_eq!(response.header("location"), Some(&*location));
        sidecar.wait_for_log(|line| line.contains("goes past the sidecar"));
    }
}

#[test]
fn a_route_may_pass_redirects_as_they_are() {
    let a = Origin::start(Behaviour::Chat);
    let location = format!("{}/y", a.url());
    let (response, _sidecar) =
        response(&a, "", "", ", redirects: pass", &[("location", &location)]);
    assert_eq!(response.header("location"), Some(&*location));
}
