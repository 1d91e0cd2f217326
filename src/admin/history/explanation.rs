//! The explanation of one request in words: each decision with the place in the policy that led to it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::policy::Locations;
use crate::policy::yaml::locations::child_path;

/// One step of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DecisionStep {
    /// Milliseconds from the request head; absent where the record has no time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<f64>,
    pub text: String,
    /// The place in the policy, as `FILE:LINE`; absent if another policy is in force now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A record, and the places of the policy if it is still in force.
struct RequestExplanation<'r> {
    record: &'r Value,
    locations: Option<&'r Locations>,
    steps: Vec<DecisionStep>,
}

/// The steps of a request, in the order in which they happened.
pub fn explain(record: &Value, locations: Option<&Locations>) -> Vec<DecisionStep> {
    let mut explanation = RequestExplanation { record, locations, steps: Vec::new() };
    explanation.begin();
    explanation.attempts();
    explanation.end();
    explanation.steps
}

/// A command that sends the request again, without its body, query and credentials: the record has
/// none of them.
pub fn curl(record: &Value, listener: &str) -> String {
    let method = text(record, "method");
    let url = format!("{listener}{}", text(record, "path"));
    let mut command = format!("curl -X {} {}", quoted(method), quoted(&url));
    if record["bytes_in"].as_u64().is_some_and(|bytes| bytes > 0) {
        command.push_str(" -H 'content-type: application/json' --data @body.json");
    }
    command
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn text<'r>(object: &'r Value, key: &str) -> &'r str {
    object[key].as_str().unwrap_or_default()
}

fn list<'r>(object: &'r Value, key: &str) -> &'r [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}

/// `85 ms`, `2.5 s`.
fn time(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1000.0) }
}

/// The provider of an endpoint's key.
fn provider(endpoint: &str) -> &str {
    endpoint.split('/').next().unwrap_or_default()
}

impl RequestExplanation<'_> {
    fn add(&mut self, at_ms: Option<f64>, text: String, section: &str, name: &str) {
        let path = child_path(section, name);
        let at = self.locations.and_then(|locations| locations.find(&path));
        self.steps.push(DecisionStep { at_ms, text, source: at.map(ToString::to_string) });
    }

    fn begin(&mut self) {
        let record = self.record;
        let (method, path, route) =
            (text(record, "method"), text(record, "path"), text(record, "route"));
        let request = format!("{method} {path}");
        let matched = match route {
            "-" => format!("{request} matched no route"),
            route => format!("{request} matched route {route}"),
        };
        self.add(Some(0.0), matched, "routes", route);
        if let Some(class) = record["class"].as_str() {
            self.add(None, format!("its priority class is {class}"), "routes", route);
        }
        for degraded in list(record, "degraded") {
            let (mode, action) = (text(degraded, "mode"), text(degraded, "action"));
            let step = format!("degradation mode {mode} was in force and applied `{action}`");
            self.add(None, step, "degradations", mode);
        }
        if let Some(cache) = record["cache"].as_str() {
            self.add(None, format!("cache result: {cache}"), "routes", route);
        }
        if let Some(waited) = record["wait_ms"].as_f64() {
            let step = format!("it waited {} for capacity or the end of a hold", time(waited));
            self.add(None, step, "routes", route);
        }
        if let Some(backoff) = record["backoff_ms"].as_f64() {
            let step = format!("it backed off for {} between attempts", time(backoff));
            self.add(None, step, "routes", route);
        }
    }

    fn attempts(&mut self) {
        let attempts = list(self.record, "attempts");
        for (at, attempt) in attempts.iter().enumerate() {
            self.passed_over(at as u64 + 1);
            self.attempt(at + 1, attempt);
        }
        self.passed_over(attempts.len() as u64 + 1);
    }

    /// The endpoints that could not be selected for an attempt.
    fn passed_over(&mut self, before: u64) {
        let all = list(self.record, "passed_over");
        for one in all.iter().filter(|one| one["attempt"].as_u64() == Some(before)) {
            let (endpoint, reason) = (text(one, "endpoint"), text(one, "reason"));
            let step = format!("{endpoint} was passed over: {}", reason.replace('_', " "));
            self.add(None, step, "providers", provider(endpoint));
        }
    }

    fn attempt(&mut self, number: usize, attempt: &Value) {
        let (endpoint, class) = (text(attempt, "endpoint"), text(attempt, "class"));
        let kind = attempt["kind"].as_str().unwrap_or("attempt");
        let mut step = format!("{kind} {number} to {endpoint}");
        if let Some(model) = attempt["model"].as_str() {
            step.push_str(&format!(" with model {model}"));
        }
        if let Some(credential) = attempt["credential"].as_str() {
            step.push_str(&format!(" with {credential}"));
        }
        let took = time(attempt["duration_ms"].as_f64().unwrap_or_default());
        match attempt["status"].as_u64() {
            Some(status) => step.push_str(&format!(": {status} after {took} ({class})")),
            None => step.push_str(&format!(": no response after {took} ({class})")),
        }
        for key in ["code", "error"] {
            if let Some(value) = attempt[key].as_str() {
                step.push_str(&format!(", {value}"));
            }
        }
        self.add(attempt["start_ms"].as_f64(), step, "providers", provider(endpoint));
    }

    fn end(&mut self) {
        let record = self.record;
        let route = text(record, "route");
        for (key, what) in [
            ("retry_denied", "no further attempt was made"),
            ("not_replayable", "the body could be sent only once"),
        ] {
            if let Some(reason) = record[key].as_str() {
                self.add(None, format!("{what}: {}", reason.replace('_', " ")), "routes", route);
            }
        }
        let status = record["status"].as_u64().unwrap_or_default();
        let reason = record["reason"].as_str().unwrap_or("no reason known");
        let end = match text(record, "result") {
            "complete" if record["run"] == true => {
                format!("the run of the job ended with {status}")
            }
            "complete" => format!("the client received {status}"),
            "local_response" => format!("Outrigger responded itself with {status}: {reason}"),
            "interrupted" => format!("the response ({status}) was cut: {reason}"),
            "client_disconnected" => "the client disconnected before the end".to_owned(),
            other => format!("it ended as {other} with {status}"),
        };
        let took = record["duration_ms"].as_f64();
        self.add(took, end, "routes", route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_decision_is_explained_in_order() {
        let record = json!({
            "route": "chat", "method": "POST", "path": "/v1/chat", "status": 200, "result": "complete",
            "duration_ms": 2500.0, "wait_ms": 120.0, "class": "high",
            "passed_over": [{ "endpoint": "c/c:443", "reason": "breaker_open", "attempt": 1 }],
            "attempts": [
                { "endpoint": "a/a:443", "class": "failure", "status": 503, "duration_ms": 80.0,
                  "start_ms": 121.0, "code": "overloaded" },
                { "endpoint": "b/b:443", "class": "success", "status": 200, "duration_ms": 2200.0,
                  "start_ms": 300.0, "model": "claude" },
            ],
        });
        let steps = explain(&record, None);
        let texts: Vec<_> = steps.iter().map(|step| step.text.as_str()).collect();
        let expected = [
            "POST /v1/chat matched route chat",
            "its priority class is high",
            "it waited 120 ms for capacity or the end of a hold",
            "c/c:443 was passed over: breaker open",
            "attempt 1 to a/a:443: 503 after 80 ms (failure), overloaded",
            "attempt 2 to b/b:443 with model claude: 200 after 2.2 s (success)",
            "the client received 200",
        ];
        assert_eq!(texts, expected);
        let times: Vec<_> = steps.iter().filter_map(|step| step.at_ms).collect();
        assert_eq!(times, [0.0, 121.0, 300.0, 2500.0]);
    }

    #[test]
    fn a_curl_command_quotes_what_a_client_chose() {
        let record = json!({ "method": "POST", "path": "/a'; rm -rf x", "bytes_in": 3 });
        let command = curl(&record, "http://127.0.0.1:8700");
        assert_eq!(
            command,
            "curl -X 'POST' 'http://127.0.0.1:8700/a'\\''; rm -rf x' \
             -H 'content-type: application/json' --data @body.json"
        );
    }
}
