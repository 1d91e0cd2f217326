//! The values that set some requests apart from others: those that are more common among them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Differences that are listed.
const LISTED: usize = 20;
/// Standard deviations by which a share must differ, so that chance is not listed.
const SIGNIFICANT: f64 = 3.0;
/// The longest value.
const LONGEST: usize = 80;

/// A value that is more common among the selected records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestDifference {
    /// `route`, `model`, `provider`, `credential`, `outcome`, `code`, `error`, `class`, `flow`,
    /// `method`, `path`, `cache`, `mode`, `size`, `attempts`, `result` or `policy`.
    pub field: String,
    pub value: String,
    /// Its share of the selected records.
    pub share_selected: f64,
    /// Its share of the other records.
    pub share_others: f64,
    /// A filter for these records; absent where there is no term for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// How many records have each value of each field.
type Counts = BTreeMap<(&'static str, String), usize>;

/// Values by how much more common they are among the selected records, largest difference first.
pub fn differences(selected: &[Value], others: &[Value]) -> Vec<RequestDifference> {
    if selected.is_empty() || others.is_empty() {
        return Vec::new();
    }
    let (of_selected, of_others) = (counts(selected), counts(others));
    let (a, b) = (selected.len() as f64, others.len() as f64);
    let mut found = Vec::new();
    for ((field, value), count) in of_selected {
        let other = of_others.get(&(field, value.clone())).copied().unwrap_or_default() as f64;
        let (share_selected, share_others) = (count as f64 / a, other / b);
        // One more and one less: no share is surely 0 or 1.
        let common = (count as f64 + other + 1.0) / (a + b + 2.0);
        let deviation = (common * (1.0 - common) * (1.0 / a + 1.0 / b)).sqrt();
        if share_selected - share_others > SIGNIFICANT * deviation {
            let filter = filter(field, &value);
            let field = field.to_owned();
            found.push(RequestDifference { field, value, share_selected, share_others, filter });
        }
    }
    let by = |it: &RequestDifference| it.share_selected - it.share_others;
    found.sort_by(|x, y| by(y).total_cmp(&by(x)));
    found.truncate(LISTED);
    found
}

fn filter(field: &str, value: &str) -> Option<String> {
    let name = match field {
        "provider" => "to",
        "credential" => "key",
        "code" => "error",
        "route" | "model" | "outcome" | "class" | "flow" | "method" | "path" | "cache"
        | "result" | "policy" | "error" | "attempts" => field,
        _ => return None,
    };
    (!value.contains(char::is_whitespace)).then(|| format!("{name}:{value}"))
}

fn counts(records: &[Value]) -> Counts {
    let mut counts = Counts::new();
    for record in records {
        let mut values = values(record);
        values.sort();
        values.dedup();
        values.into_iter().for_each(|value| *counts.entry(value).or_default() += 1);
    }
    counts
}

fn values(record: &Value) -> Vec<(&'static str, String)> {
    const OWN: [&str; 9] =
        ["route", "model", "class", "flow", "method", "path", "cache", "result", "policy"];
    const OF_ATTEMPTS: [(&str, &str); 4] =
        [("credential", "credential"), ("class", "outcome"), ("code", "code"), ("error", "error")];
    let mut values = Vec::new();
    let mut add = |field: &'static str, value: Option<&str>| {
        let cut = value.map(|value| value.chars().take(LONGEST).collect());
        values.extend(cut.map(|value: String| (field, value)));
    };
    OWN.into_iter().for_each(|field| add(field, record[field].as_str()));
    let attempts = record["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    for attempt in attempts {
        OF_ATTEMPTS.into_iter().for_each(|(key, field)| add(field, attempt[key].as_str()));
        add("provider", attempt["endpoint"].as_str().and_then(|key| key.split('/').next()));
    }
    for mode in record["degraded"].as_array().into_iter().flatten() {
        add("mode", mode["mode"].as_str());
    }
    add("attempts", Some(&attempts.len().to_string()));
    add("size", record["bytes_in"].as_u64().map(size));
    values
}

/// The size of a request body, in steps that a reader can tell apart.
fn size(bytes: u64) -> &'static str {
    match bytes {
        0 => "no body",
        1..=4_095 => "below 4 KiB",
        4_096..=65_535 => "4 to 64 KiB",
        65_536..=1_048_575 => "64 KiB to 1 MiB",
        _ => "1 MiB and more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn records(count: usize, model: &str, provider: &str) -> Vec<Value> {
        let endpoint = format!("{provider}/{provider}.example:443");
        let attempts = json!([{ "endpoint": endpoint, "class": "success" }]);
        vec![
            json!({ "route": "chat", "model": model, "bytes_in": 10, "attempts": attempts });
            count
        ]
    }

    #[test]
    fn values_that_are_more_common_are_listed_by_how_much() {
        let selected = [records(90, "big", "a"), records(10, "small", "b")].concat();
        let others = [records(20, "big", "a"), records(180, "small", "a")].concat();
        let found = differences(&selected, &others);
        let named: Vec<_> = found.iter().map(|it| (it.field.as_str(), it.value.as_str())).collect();
        assert_eq!(named, [("model", "big"), ("provider", "b")]);
        assert_eq!((found[0].share_selected, found[0].share_others), (0.9, 0.1));
        assert_eq!(found[1].filter.as_deref(), Some("to:b"));
    }

    #[test]
    fn chance_and_empty_sides_are_not_listed() {
        let (few, many) = (records(2, "big", "a"), records(300, "small", "a"));
        let mixed = [records(3, "big", "a"), records(300, "small", "a")].concat();
        assert!(differences(&many[..20], &mixed).is_empty());
        assert!(differences(&few, &[]).is_empty() && differences(&[], &few).is_empty());
    }
}
