//! `outrigger bench series` and `outrigger bench accept`.

use std::time::Duration;

use crate::admin::benchmarks::series::{MeasureStatus, SeriesAccepted, SeriesList, SeriesStatus};
use crate::cli::admin_client::{AdminArgs, NoteArgs, encode};
use crate::cli::output::{NONE, decimal, table, time};

/// Make the current values of a series its baseline, which ends its alarms.
///
/// A regression is never learned as normal by itself. Use this when a change is meant to last, such as a slower model.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  outrigger bench accept chat/openai/gpt-4o --reason \"the new model is slower\""
)]
pub struct AcceptArgs {
    /// The series, as `bench series` lists it.
    #[arg(value_name = "ROUTE/PROVIDER/MODEL")]
    series: String,
    /// Accept this measure, alarm or not: p50, p95, first_content, tokens_per_second or error_rate. Without it, all that alarm.
    #[arg(long, value_name = "MEASURE")]
    measure: Option<String>,
    #[command(flatten)]
    note: NoteArgs,
}

pub fn list(admin: &AdminArgs) -> Result<String, String> {
    admin.get("/api/benchmarks/series")?.print(text)
}

pub fn accept(admin: &AdminArgs, args: &AcceptArgs) -> Result<String, String> {
    // A model may contain slashes.
    let mut parts = args.series.splitn(3, '/');
    let (Some(route), Some(provider), Some(model)) = (parts.next(), parts.next(), parts.next())
    else {
        let found = &args.series;
        return Err(format!("`{found}` is no series (expected ROUTE/PROVIDER/MODEL)"));
    };
    let names = [("route", route), ("provider", provider), ("model", model)];
    let measure = args.measure.as_deref().map(|measure| ("measure", measure));
    let query =
        names.into_iter().chain(measure).map(|(name, value)| format!("{name}={}", encode(value)));
    let query = query.collect::<Vec<_>>().join("&");
    let path = format!("/api/benchmarks/series/accept?{query}");
    admin.post(&path, &args.note.request())?.print(|reply: &SeriesAccepted| {
        let accepted = reply.accepted.join(", ");
        format!("{}: the current value is the baseline now: {accepted}", args.series)
    })
}

fn text(list: &SeriesList) -> String {
    if list.series.is_empty() {
        return "no calls yet".to_owned();
    }
    let header = ["SERIES", "CALLS", "FAILED", "MEASURE", "BASELINE", "CURRENT", "STATE", "SINCE"];
    let table = table(&header, list.series.iter().flat_map(rows));
    if list.host_regression {
        let cause = "Most series are worse than their baselines: this host or its network is the likely cause.";
        return format!("{table}\n\n{cause}");
    }
    table
}

/// A row for each measure with data, or one that says that there is not enough.
fn rows(series: &SeriesStatus) -> Vec<Vec<String>> {
    let SeriesStatus { route, provider, model, calls, failed, .. } = series;
    let measured: Vec<_> =
        series.measures.iter().filter(|one| one.state != "not_enough_data").collect();
    let counts = [format!("{route}/{provider}/{model}"), calls.to_string(), failed.to_string()];
    if measured.is_empty() {
        let nothing = [NONE, NONE, NONE, "not enough data", NONE].map(str::to_owned);
        return vec![counts.into_iter().chain(nothing).collect()];
    }
    let row = |(index, measure): (usize, &&MeasureStatus)| {
        // The first row of a series has its name.
        let counts = if index == 0 { counts.clone() } else { Default::default() };
        counts.into_iter().chain(cells(measure)).collect()
    };
    measured.iter().enumerate().map(row).collect()
}

fn cells(measure: &MeasureStatus) -> [String; 5] {
    let value = |value: Option<f64>| {
        value.map_or_else(|| NONE.to_owned(), |value| figure(&measure.measure, value))
    };
    let since = measure.alarm_since.as_deref().map_or_else(|| NONE.to_owned(), time);
    let state = measure.state.replace('_', " ");
    [measure.measure.to_string(), value(measure.baseline), value(measure.current), state, since]
}

fn figure(measure: &str, value: f64) -> String {
    match measure {
        "tokens_per_second" => format!("{} tokens/s", decimal(value, 1)),
        "error_rate" => format!("{} %", decimal(value * 100.0, 1)),
        _ => {
            let time = Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX);
            format!("{time:.1?}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(measures: &[(&'static str, &'static str, f64)]) -> SeriesStatus {
        let measures = measures.iter().map(|(measure, state, value)| MeasureStatus {
            measure: (*measure).into(),
            state: (*state).into(),
            baseline: Some(*value),
            current: Some(2.0 * value),
            alarm_since: (*state == "alarm").then(|| "2026-11-30T04:20:22.123Z".to_owned()),
        });
        SeriesStatus {
            route: "chat".to_owned(),
            provider: "openai".to_owned(),
            model: "gpt-4o".to_owned(),
            calls: 40,
            failed: 1,
            outcomes: std::collections::BTreeMap::new(),
            cost: None,
            state: "normal".into(),
            measures: measures.collect(),
        }
    }

    #[test]
    fn a_series_has_a_row_for_each_measure_with_data() {
        let full = [
            ("p50", "alarm", 0.25),
            ("p95", "not_enough_data", 1.0),
            ("error_rate", "learning", 0.01),
        ];
        let found = rows(&series(&full));
        assert_eq!(
            found,
            [
                [
                    "chat/openai/gpt-4o",
                    "40",
                    "1",
                    "p50",
                    "250.0ms",
                    "500.0ms",
                    "alarm",
                    "2026-11-30 04:20:22Z"
                ],
                ["", "", "", "error_rate", "1.0 %", "2.0 %", "learning", "-"],
            ]
        );
        let empty = rows(&series(&[("p50", "not_enough_data", 0.25)]));
        assert_eq!(empty[0][3..], ["-", "-", "-", "not enough data", "-"]);
    }
}
