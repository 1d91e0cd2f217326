//! The rows of the screen, as text, and the columns that fit.

use serde_json::Value;

use super::state::{TopOrder, TopState};
use crate::admin::status::{LatencyPercentiles, ProviderStatus, RouteStatus, SidecarStatus};
use crate::cli::analytics::amount;
use crate::cli::output::{NONE, decimal, duration, forced_state, optional_duration};
use crate::cli::watch::requests::attempts;
use crate::live::breaker::cell::BreakerStatus;

/// Blanks between two columns.
pub(super) const GAP: usize = 2;

/// A column; those of a higher rank are left out first where the screen is narrow.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopColumn {
    pub header: &'static str,
    pub rank: u8,
}

/// A row with the text of each cell.
pub(super) type TopRow = Vec<String>;

const fn column(header: &'static str, rank: u8) -> TopColumn {
    TopColumn { header, rank }
}

pub(super) const PROVIDERS: [TopColumn; 14] = [
    column("PROVIDER", 0),
    column("ATTEMPTS/S", 0),
    column("OK", 0),
    column("CLIENTS OK", 2),
    column("P50", 1),
    column("P95", 0),
    column("P99", 3),
    column("CONTENT", 4),
    column("WANTED", 3),
    column("SEEN", 2),
    column("IN FLIGHT", 1),
    column("WAITING", 2),
    column("COST/H", 3),
    column("STATE", 0),
];

pub(super) const ROUTES: [TopColumn; 8] = [
    column("ROUTE", 0),
    column("REQUESTS/S", 0),
    column("FAILED", 0),
    column("P50", 0),
    column("P95", 0),
    column("P99", 0),
    column("BALANCE", 1),
    column("RETRIES LEFT", 1),
];

pub(super) const REQUESTS: [TopColumn; 8] = [
    column("ENDED", 0),
    column("STATUS", 0),
    column("ROUTE", 0),
    column("ATTEMPTS", 0),
    column("TOOK", 0),
    column("MODEL", 2),
    column("REQUEST", 1),
    column("ID", 3),
];

pub(super) const BREAKERS: [TopColumn; 5] = [
    column("BREAKER", 0),
    column("STATE", 0),
    column("TRIPS", 1),
    column("PROBE IN", 0),
    column("OVERRIDE", 1),
];

pub(super) const QUEUES: [TopColumn; 5] = [
    column("QUEUE", 0),
    column("CLASS", 0),
    column("WAITING", 0),
    column("OLDEST", 0),
    column("STATE", 0),
];

pub(super) const MODES: [TopColumn; 5] = [
    column("MODE", 0),
    column("IN FORCE", 0),
    column("FOR", 0),
    column("OVERRIDE", 1),
    column("ACTIONS", 2),
];

/// Events per second.
fn rate(value: f64) -> String {
    decimal(value, if value < 10.0 { 1 } else { 0 })
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(
        || NONE.to_owned(),
        |value| {
            let percent = 100.0 * value;
            let digits = if percent > 0.0 && percent < 99.95 && !(1.0..=99.0).contains(&percent) {
                1
            } else {
                0
            };
            format!("{}%", decimal(percent, digits))
        },
    )
}

fn millis(value: Option<f64>) -> String {
    value.map_or_else(
        || NONE.to_owned(),
        |ms| match ms {
            ms if ms < 10.0 => format!("{}ms", decimal(ms, 1)),
            ms if ms < 10_000.0 => format!("{}ms", decimal(ms, 0)),
            ms => format!("{}s", decimal(ms / 1000.0, 1)),
        },
    )
}

/// The figures of the last minute, the most important first.
pub(super) fn minute(status: &SidecarStatus) -> Vec<String> {
    let Some(rates) = &status.rates else { return vec!["no figures yet".to_owned()] };
    let LatencyPercentiles { p50_ms, p95_ms, p99_ms } = rates.latency;
    let mut parts = vec![
        format!("{} requests/s", rate(rates.requests_per_second)),
        format!("{} failed", share(rates.failed_share)),
        format!("{} retries/s", rate(rates.retries_per_second)),
        format!("p50 {}", millis(p50_ms)),
        format!("p95 {}", millis(p95_ms)),
        format!("p99 {}", millis(p99_ms)),
    ];
    let costs = rates.cost_per_hour.iter();
    parts.extend(costs.map(|(currency, cost)| format!("{} {currency}/h", amount(*cost))));
    parts
}

/// Orders the rows with the largest first; names stay in their order.
fn sort<T>(rows: &mut [T], order: TopOrder, key: impl Fn(&T) -> (f64, f64, f64)) {
    let value = |row: &T| {
        let (rate, failures, latency) = key(row);
        match order {
            TopOrder::Rate => rate,
            TopOrder::Failures => failures,
            TopOrder::Latency => latency,
            TopOrder::Name => 0.0,
        }
    };
    rows.sort_by(|a, b| value(b).total_cmp(&value(a)));
}

pub(super) fn providers(state: &TopState) -> Vec<TopRow> {
    let all = state.status.iter().flat_map(|status| &status.providers);
    let mut all: Vec<_> = all.filter(|one| state.admits(&one.name)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    sort(&mut all, state.order, |one| {
        let Some(rates) = &one.rates else { return (0.0, 0.0, 0.0) };
        let failures = rates.success_share.map_or(0.0, |share| 1.0 - share);
        (rates.attempts_per_second, failures, rates.latency.p95_ms.unwrap_or_default())
    });
    all.into_iter().map(provider).collect()
}

fn provider(one: &ProviderStatus) -> TopRow {
    let rates = one.rates.as_ref();
    let of = |figure: fn(&LatencyPercentiles) -> Option<f64>| {
        millis(rates.and_then(|rates| figure(&rates.latency)))
    };
    let cost = rates.map(|rates| {
        let costs = rates.cost_per_hour.iter();
        costs.map(|(currency, cost)| format!("{} {currency}", amount(*cost))).collect::<Vec<_>>()
    });
    let cost = cost.filter(|cost| !cost.is_empty()).map(|cost| cost.join(" "));
    let obstacle = one.endpoints.iter().find_map(|endpoint| endpoint.obstacle.clone());
    let state = one.manual_override.as_ref().map(forced_state).or(obstacle);
    vec![
        one.name.clone(),
        rates.map_or_else(|| NONE.to_owned(), |rates| rate(rates.attempts_per_second)),
        share(rates.and_then(|rates| rates.success_share)),
        share(rates.and_then(|rates| rates.client_success_share)),
        of(|latency| latency.p50_ms),
        of(|latency| latency.p95_ms),
        of(|latency| latency.p99_ms),
        millis(rates.and_then(|rates| rates.first_content_ms)),
        share(rates.and_then(|rates| rates.share_wanted)),
        share(rates.and_then(|rates| rates.share_seen)),
        format!("{} of {}", one.in_flight, one.limit),
        one.waiting.to_string(),
        cost.unwrap_or_else(|| NONE.to_owned()),
        state.unwrap_or_else(|| "ok".to_owned()),
    ]
}

pub(super) fn routes(state: &TopState) -> Vec<TopRow> {
    let all = state.status.iter().flat_map(|status| &status.routes);
    let mut all: Vec<_> = all.filter(|one| state.admits(&one.name)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    sort(&mut all, state.order, |one| {
        let Some(rates) = &one.rates else { return (0.0, 0.0, 0.0) };
        let failures = rates.failed_share.unwrap_or_default();
        (rates.requests_per_second, failures, rates.latency.p95_ms.unwrap_or_default())
    });
    all.into_iter().map(route).collect()
}

fn route(one: &RouteStatus) -> TopRow {
    let rates = one.rates.as_ref();
    let of = |figure: fn(&LatencyPercentiles) -> Option<f64>| {
        millis(rates.and_then(|rates| figure(&rates.latency)))
    };
    vec![
        one.name.clone(),
        rates.map_or_else(|| NONE.to_owned(), |rates| rate(rates.requests_per_second)),
        share(rates.and_then(|rates| rates.failed_share)),
        of(|latency| latency.p50_ms),
        of(|latency| latency.p95_ms),
        of(|latency| latency.p99_ms),
        one.balance.clone(),
        decimal(one.budget, 1),
    ]
}

/// At most `most` requests, the newest first.
pub(super) fn requests(state: &TopState, most: usize) -> Vec<TopRow> {
    let rows = state.requests.iter().map(request);
    rows.filter(|row| state.admits(&row.join(" "))).take(most).collect()
}

fn request(record: &Value) -> TopRow {
    let text = |key: &str| record[key].as_str().unwrap_or(NONE).to_owned();
    let took = record["duration_ms"].as_f64().unwrap_or_default();
    vec![
        text("time").get(11..19).unwrap_or_default().to_owned(),
        record["status"].to_string(),
        text("route"),
        attempts(record),
        duration(took as u64),
        text("model"),
        format!("{} {}", text("method"), text("path")),
        text("request_id"),
    ]
}

pub(super) fn breakers(state: &TopState) -> Vec<TopRow> {
    let all = state.breakers.iter().flat_map(|list| &list.breakers);
    let row = |one: &BreakerStatus| {
        let parts = [&one.provider, &one.endpoint, &one.model];
        let parts: Vec<_> = parts.into_iter().map(String::as_str).collect();
        vec![
            parts.join("/").trim_end_matches('/').to_owned(),
            one.state.to_string(),
            one.trips.to_string(),
            optional_duration(one.retry_in_ms),
            one.manual_override.as_ref().map_or_else(|| NONE.to_owned(), forced_state),
        ]
    };
    let rows = all.map(row);
    rows.filter(|row| state.admits(&row.join(" "))).collect()
}

pub(super) fn queues(state: &TopState) -> Vec<TopRow> {
    let all = state.queues.iter().flat_map(|list| &list.queues);
    let rows = all.flat_map(|queue| {
        queue.classes.iter().map(|class| {
            vec![
                queue.name.clone(),
                class.name.clone(),
                class.waiting.to_string(),
                optional_duration(class.oldest_ms),
                if queue.paused { "paused" } else { "ok" }.to_owned(),
            ]
        })
    });
    rows.filter(|row| state.admits(&row.join(" "))).collect()
}

pub(super) fn modes(state: &TopState) -> Vec<TopRow> {
    let all = state.degradation.iter().flat_map(|status| &status.modes);
    let rows = all.map(|mode| {
        let since = mode.episode.as_ref().map(|episode| episode.since_ms);
        vec![
            mode.name.clone(),
            if mode.in_force { "yes" } else { "no" }.to_owned(),
            optional_duration(since),
            mode.manual_override.as_ref().map_or_else(|| NONE.to_owned(), forced_state),
            mode.actions.join(", "),
        ]
    });
    rows.filter(|row| state.admits(&row.join(" "))).collect()
}
