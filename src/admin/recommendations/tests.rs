use std::time::Duration;

use super::evidence::{
    CacheEvidence, EndpointEvidence, Evidence, ProviderEvidence, RetryEvidence, RouteEvidence,
    ShareEvidence,
};
use super::{Recommendation, recommend};

fn busy() -> RouteEvidence {
    RouteEvidence {
        name: "chat".to_owned(),
        requests: 1_000,
        since_start: 1_000,
        of_all_routes: 5_000,
        is_weighted: true,
        shares: vec![share("a/x", 0.75, 0.74), share("b/x", 0.25, 0.26)],
        retries: vec![retry(40, 38)],
        timed_out: 5,
        timeout: Duration::from_secs(10),
        not_repeatable: 3,
        has_fallback: true,
        source: Some("p.yaml:3".to_owned()),
        ..RouteEvidence::default()
    }
}

fn share(endpoint: &str, wanted: f64, seen: f64) -> ShareEvidence {
    let attempts = (1_000.0 * seen) as u64;
    ShareEvidence { endpoint: endpoint.to_owned(), wanted, seen, attempts, is_shared: false }
}

fn retry(count: u64, succeeded: u64) -> RetryEvidence {
    RetryEvidence { reason: "failure".to_owned(), count, succeeded }
}

/// Traffic that calls for no advice.
fn healthy() -> Evidence {
    Evidence {
        providers: vec![ProviderEvidence {
            name: "a".to_owned(),
            samples: 360,
            at_limit: 20,
            limit: 64.0,
            ..ProviderEvidence::default()
        }],
        endpoints: vec![EndpointEvidence {
            key: "a/x".to_owned(),
            attempts: 1_000,
            opened: 2,
            source: None,
        }],
        routes: vec![busy()],
        caches: vec![CacheEvidence {
            name: "c".to_owned(),
            requests: 1_000,
            hits: 10,
            bypassed: 100,
            source: None,
        }],
    }
}

type Change = fn(&mut Evidence);

/// For each rule, a change of healthy traffic that calls for it, and one with too little evidence.
const CASES: [(&str, Change, Change); 8] = [
    (
        "provider_at_limit",
        |it| it.providers[0].at_limit = 330,
        |it| {
            (it.providers[0].samples, it.providers[0].at_limit) = (29, 29);
        },
    ),
    (
        "weight_not_followed",
        |it| it.routes[0].shares = vec![share("a/x", 0.75, 0.4), share("b/x", 0.25, 0.6)],
        |it| {
            it.routes[0].shares = vec![share("a/x", 0.75, 0.04), share("b/x", 0.25, 0.05)];
        },
    ),
    (
        "retry_never_succeeds",
        |it| it.routes[0].retries = vec![retry(40, 0)],
        |it| it.routes[0].retries = vec![retry(19, 0)],
    ),
    (
        "timeout_below_p99",
        |it| it.routes[0].timed_out = 30,
        |it| (it.routes[0].requests, it.routes[0].timed_out) = (20, 9),
    ),
    ("breaker_flapping", |it| it.endpoints[0].opened = 5, |it| it.endpoints[0].opened = 4),
    (
        "fallback_unusable_for_posts",
        |it| it.routes[0].not_repeatable = 30,
        |it| (it.routes[0].not_repeatable, it.routes[0].has_fallback) = (30, false),
    ),
    (
        "route_never_matched",
        |it| it.routes[0].since_start = 0,
        |it| (it.routes[0].since_start, it.routes[0].of_all_routes) = (0, 499),
    ),
    (
        "cache_never_hits",
        |it| it.caches[0].hits = 0,
        |it| {
            (it.caches[0].requests, it.caches[0].hits) = (99, 0);
        },
    ),
];

fn codes(change: Change) -> Vec<String> {
    let mut evidence = healthy();
    change(&mut evidence);
    recommend(&evidence).into_iter().map(|one| one.code).collect()
}

#[test]
fn healthy_traffic_and_no_traffic_call_for_nothing() {
    assert_eq!(recommend(&healthy()), Vec::<Recommendation>::new());
    assert_eq!(recommend(&Evidence::default()), Vec::<Recommendation>::new());
    let idle = Evidence {
        providers: vec![ProviderEvidence::default()],
        endpoints: vec![EndpointEvidence::default()],
        routes: vec![RouteEvidence { has_fallback: true, ..RouteEvidence::default() }],
        caches: vec![CacheEvidence::default()],
    };
    assert_eq!(recommend(&idle), Vec::<Recommendation>::new());
}

#[test]
fn each_rule_appears_where_it_is_called_for_and_nowhere_else() {
    for (code, change, _) in CASES {
        assert_eq!(codes(change), [code]);
    }
}

#[test]
fn a_rule_needs_a_minimum_of_evidence() {
    for (code, _, change) in CASES {
        assert_eq!(codes(change), [""; 0], "{code}");
    }
}

#[test]
fn weights_say_nothing_where_load_is_not_balanced_by_them_or_is_of_other_routes() {
    for change in [
        |it: &mut RouteEvidence| it.is_weighted = false,
        |it: &mut RouteEvidence| {
            it.shares[0].is_shared = true;
        },
    ] {
        let mut evidence = healthy();
        evidence.routes[0].shares = vec![share("a/x", 0.75, 0.4), share("b/x", 0.25, 0.6)];
        change(&mut evidence.routes[0]);
        assert_eq!(recommend(&evidence), Vec::<Recommendation>::new());
    }
}

#[test]
fn a_recommendation_states_figures_its_place_and_a_change() {
    let mut evidence = healthy();
    evidence.routes[0].timed_out = 50;
    evidence.routes[0].timeout_source = Some("p.yaml:7".to_owned());
    let found = recommend(&evidence).remove(0);
    assert_eq!(found.text, "5.0 % of the requests of route chat ended at its time limit");
    assert_eq!(found.source.as_deref(), Some("p.yaml:7"));
    assert!(found.suggestion.starts_with("raise `timeout`"), "{}", found.suggestion);
    let figures: Vec<_> =
        found.figures.iter().map(|one| format!("{}={}", one.name, one.value)).collect();
    assert_eq!(figures, ["timeout=10s", "requests=1000", "ended at the time limit=50"]);
    for (code, change, _) in CASES {
        let mut evidence = healthy();
        change(&mut evidence);
        let found = recommend(&evidence).remove(0);
        assert!(!found.suggestion.is_empty() && found.figures.len() >= 2, "{code}");
    }
}
