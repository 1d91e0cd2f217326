//! The files of the dashboard.

use crate::fixtures::{policy, route};
use crate::support::{Call, Client, Sidecar};

#[test]
fn the_dashboard_is_served_with_a_strict_policy_and_needs_no_token() {
    let yaml = policy(&[("a", "http://127.0.0.1:9", "")], &route("providers: [a]"));
    let sidecar = Sidecar::builder()
        .policy("policy", &yaml)
        .env("OUTRIGGER_ADMIN_TOKEN", "a-token-for-these-tests")
        .start();
    let page = sidecar.admin_send(&Call::get("/ui/"));
    assert_eq!(page.status, 200);
    for (name, expected) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(page.header(name), Some(expected), "{name}");
    }
    let csp = page.header("content-security-policy").expect("a content security policy");
    for part in ["default-src 'none'", "frame-ancestors 'none'", "require-trusted-types-for"] {
        assert!(csp.contains(part) && !csp.contains("unsafe"), "{csp}");
    }
    assert!(page.text().starts_with("<!doctype html>"), "{}", page.text());

    let etag = page.header("etag").expect("an ETag").to_owned();
    let again = Call::get("/ui/index.html").header("if-none-match", &format!("\"x\", {etag}"));
    let again = sidecar.admin_send(&again);
    assert_eq!((again.status, again.header("etag")), (304, Some(&*etag)));
    let head = sidecar.admin_send(&Call::new("HEAD", "/ui/"));
    assert_eq!((head.status, head.text()), (200, String::new()));
    assert_eq!(head.header("content-length"), Some(&*page.text().len().to_string()));
    for unknown in ["/ui/none.js", "/ui/../Cargo.toml", "/ui/%2e%2e/mod.rs"] {
        let missing = sidecar.admin_send(&Call::get(unknown));
        assert_eq!(missing.status, 404, "{unknown}");
        assert!(missing.header("content-security-policy").is_some() || unknown.contains("/../"));
    }
    assert_eq!(sidecar.admin_send(&Call::get("/ui/").header("host", "evil.example")).status, 403);
}

#[test]
fn a_browser_is_redirected_to_the_dashboard_and_a_program_is_not() {
    let yaml = policy(&[("a", "http://127.0.0.1:9", "")], &route("providers: [a]"));
    let sidecar =
        Sidecar::builder().policy("policy", &yaml).arg("--metrics").arg("127.0.0.1:0").start();
    let visit = Call::get("/").header("accept", "text/html,*/*;q=0.8");
    let visited = sidecar.admin_send(&visit);
    assert_eq!((visited.status, visited.header("location")), (307, Some("/ui/")));
    let index = sidecar.admin_send(&Call::get("/").header("accept", "*/*"));
    assert!(index.text().contains("/api/status"), "{}", index.text());
    let scrapes = sidecar.metrics_url("/");
    assert_eq!(Client::to(&scrapes).send(&visit).status, 200);
    assert_eq!(Client::to(&scrapes).send(&Call::get("/ui/")).status, 404);
}
