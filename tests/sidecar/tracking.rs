//! The series of calls that baselines are learned from.

use std::iter::repeat_n;

use serde_json::Value;

use crate::fixtures::{GENEROUS, api, chat_for, policy, route, single_worker};
use crate::support::{Behaviour, Origin, Sidecar};

/// Reads the model of a request.
pub const PRICE: &str = "price: { input: 1, output: 1, per: 1M, currency: USD }, breaker: none";

pub fn series(sidecar: &Sidecar, provider: &str, model: &str) -> Value {
    let document = api(sidecar, "/api/benchmarks/series");
    let all = document["series"].as_array().expect("a list of series").clone();
    let of = |one: &Value| one["provider"] == provider && one["model"] == model;
    all.into_iter().find(of).unwrap_or(Value::Null)
}

#[test]
fn calls_are_counted_by_provider_and_model_and_few_are_not_enough_data() {
    let failing = Origin::start(Behaviour::status(500, &[]));
    let behaviours = [Behaviour::sse(3)].into_iter().chain(repeat_n(Behaviour::Chat, 4));
    let good = Origin::script(behaviours);
    let providers = [("a", failing.url(), PRICE), ("b", good.url(), PRICE)];
    let providers = providers.each_ref().map(|(name, url, more)| (*name, url.as_str(), *more));
    let mode = "degradations: { slow: { when: { slower_than_baseline: { of: a } }, actions: [ { use: [b] } ] } }\n";
    let route = route("providers: [a], fallback: [b], idempotent: always, degrade: [slow]");
    let sidecar = single_worker(&(policy(&providers, &route) + GENEROUS + mode));
    for model in ["m", "m", "m", "n", "n"] {
        assert_eq!(sidecar.send(&chat_for(model)).status, 200);
    }
    sidecar.wait_until(|sidecar| series(sidecar, "b", "n")["calls"] == 2);
    let (a, b) = (series(&sidecar, "a", "m"), series(&sidecar, "b", "m"));
    assert_eq!((&b["route"], &b["calls"], &b["failed"]), (&"all".into(), &3.into(), &0.into()));
    assert_eq!(a["calls"], a["failed"], "{a}");
    assert_eq!(a["calls"], failing_calls(&failing, "m"), "{a}");
    // Ten calls in 10 s are needed.
    assert_eq!(
        (&b["state"], &b["measures"][0]["measure"]),
        (&"not_enough_data".into(), &"p50".into())
    );
    assert_eq!(sidecar.metric("outrigger_host_regression"), Some(0.0));
}

fn failing_calls(origin: &Origin, model: &str) -> usize {
    let named =
        |body: &[u8]| serde_json::from_slice::<Value>(body).expect("JSON")["model"] == model;
    origin.requests().iter().filter(|request| named(&request.body)).count()
}
