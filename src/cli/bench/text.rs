//! The report of a run for the terminal.

use super::units::{
    change, cost, digits, environment, errors, interval, measure_name, measured, percent, ranges,
    rate, run_seconds, seconds, thousands,
};
use crate::benchmark::report::{
    Arm, MeasureComparison, Quantiles, RunComparison, RunReport, RunState, ThresholdResult,
    TimelinePoint,
};
use crate::cli::output::{NONE, duration, table_within, time, wrap};
use crate::telemetry::escape::escape;

/// Width of the names of fields, with their gap.
const LABELS: usize = 14;
const HISTOGRAM_ROWS: usize = 12;
const LONGEST_BAR: usize = 100;
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Parts of a bar's last cell, in eighths.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// The whole report.
pub fn report(run: &RunReport, width: usize) -> String {
    let mut parts = vec![head(run, width)];
    for (n, arm) in run.arms.iter().enumerate() {
        let title =
            (run.arms.len() > 1).then(|| format!("{}  {}", ["A", "B"][n.min(1)], arm.target));
        let title = title.map(|title| escape(&title).into_owned() + "\n\n");
        parts.push(title.unwrap_or_default() + &measurements(arm, width));
    }
    parts.push(thresholds(&run.thresholds));
    if let Some(found) = &run.baseline_comparison {
        parts.push(format!("Compared with the baseline\n{}", comparison(found, width)));
    }
    parts.extend(run.comparison.as_ref().map(|found| comparison(found, width)));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn head(run: &RunReport, width: usize) -> String {
    let took = run_seconds(run).map(|s| format!(", took {}", duration((s * 1e3) as u64)));
    let title = format!("{}  {}", run.benchmark, run.state.as_str());
    let targets: Vec<_> = run.arms.iter().map(|arm| arm.target.as_str()).collect();
    let mut lines = vec![escape(&title).into_owned()];
    let mut add = |label, value: &str| lines.push(labelled(label, value, width));
    if run.state != RunState::Done {
        run.reason.iter().for_each(|reason| add("reason", reason));
    }
    add("run", &format!("{}, began {}{}", run.id, time(&run.began), took.unwrap_or_default()));
    add("target", &targets.join(" and "));
    add("load", &run.load);
    add("environment", &environment(&run.environment));
    lines.join("\n")
}

fn measurements(arm: &Arm, width: usize) -> String {
    let parts =
        [quantiles(arm, width), totals(arm, width), histogram(arm, width), timeline(arm, width)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// The name of each measure of time, and its quantiles.
pub fn times(arm: &Arm) -> impl Iterator<Item = (&'static str, &Quantiles)> {
    let figures = &arm.figures;
    let rows = [
        ("latency", figures.latency.as_ref()),
        ("first byte", figures.first_byte.as_ref()),
        ("first content", figures.first_content.as_ref()),
        ("token gap", figures.token_gap.as_ref()),
    ];
    rows.into_iter().filter_map(|(name, quantiles)| Some((name, quantiles?)))
}

fn quantiles(arm: &Arm, width: usize) -> String {
    let row = |(name, q): (&str, &Quantiles)| {
        let cells =
            [q.p50, q.p90, q.p95, q.p99, q.max].map(|value| format!("{:>8}", seconds(value)));
        let mut row = vec![format!("{name:<12}")];
        row.extend(cells);
        row
    };
    let rows: Vec<_> = times(arm).map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let header = ["", "     p50", "     p90", "     p95", "     p99", "     max"];
    table_within(&header, rows, Some(width))
}

/// The names and values of all figures that are no quantiles.
pub fn totals_of(arm: &Arm) -> Vec<(&'static str, String)> {
    let figures = &arm.figures;
    let classes =
        figures.outcomes.iter().map(|(class, calls)| format!("{class} {}", thousands(*calls)));
    let mut rows = vec![
        ("calls", thousands(figures.calls)),
        ("throughput", figures.throughput.map_or_else(|| NONE.to_owned(), rate)),
        ("errors", errors(figures)),
        ("outcomes", classes.collect::<Vec<_>>().join(", ")),
    ];
    let tokens = figures.tokens.map(|tokens| {
        format!("{} input, {} output", thousands(tokens.input), thousands(tokens.output))
    });
    let speed = figures.tokens_per_second.map(|speed| format!("{}/s", digits(speed)));
    // Up to 2 ms are the timer's, and no part of the latency.
    let late = figures.lateness.filter(|late| *late > 0.002);
    let late = late.map(|late| format!("p99 {}: this machine was busy", seconds(late)));
    rows.extend(tokens.map(|tokens| ("tokens", tokens)));
    rows.extend(speed.map(|speed| ("token rate", speed)));
    rows.extend(figures.cost.as_ref().map(|amount| ("cost", cost(amount))));
    rows.extend(late.map(|late| ("late starts", late)));
    rows.retain(|(_, value)| !value.is_empty() && value != NONE);
    rows
}

fn totals(arm: &Arm, width: usize) -> String {
    let rows = totals_of(arm).into_iter();
    rows.map(|(name, value)| labelled(name, &value, width)).collect::<Vec<_>>().join("\n")
}

/// Calls by latency, a bar for each range.
fn histogram(arm: &Arm, width: usize) -> String {
    let ranges = ranges(&arm.histogram, HISTOGRAM_ROWS);
    let most = ranges.iter().map(|range| range.calls).max().unwrap_or(0);
    if most == 0 {
        return String::new();
    }
    let longest = width.saturating_sub(36).clamp(10, LONGEST_BAR);
    let row = |range: &super::units::LatencyRange| {
        let (from, to, calls) = (seconds(range.from), seconds(range.to), thousands(range.calls));
        let bar = bar(range.calls as f64 / most as f64, longest);
        format!("{from:>8} to {to:<7}  {calls:>9}  {bar}").trim_end().to_owned()
    };
    let rows: Vec<_> = ranges.iter().map(row).collect();
    format!("{:>19}  {:>9}\n{}", "latency", "calls", rows.join("\n"))
}

fn bar(share: f64, longest: usize) -> String {
    let eighths = (share * longest as f64 * 8.0).round() as usize;
    // Some calls are never no bar.
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// A line of marks for each of p50, p95 and errors, from the start to the end of the run.
fn timeline(arm: &Arm, width: usize) -> String {
    if arm.timeline.len() < 2 {
        return String::new();
    }
    let columns = width.saturating_sub(LABELS + 22).clamp(10, 120);
    let line = |label: &str,
                value: &dyn Fn(&TimelinePoint) -> Option<f64>,
                text: &dyn Fn(f64) -> String| {
        let points: Vec<_> = arm.timeline.iter().map(value).collect();
        let most = points.iter().flatten().copied().fold(0.0, f64::max);
        if most == 0.0 {
            return None;
        }
        Some(format!("{label:<LABELS$}{}  at most {}", sparks(&points, columns, most), text(most)))
    };
    let share =
        |point: &TimelinePoint| (point.calls > 0).then(|| point.failed as f64 / point.calls as f64);
    let lines = [
        line("p50 over time", &|point| point.p50, &seconds),
        line("p95 over time", &|point| point.p95, &seconds),
        line("errors", &share, &percent),
    ];
    lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

/// A mark for each point; of several in one column the highest. Zero and a point without a value are blank.
fn sparks(points: &[Option<f64>], columns: usize, most: f64) -> String {
    let columns = columns.min(points.len()).max(1);
    let mark = |column: usize| {
        let part = &points[column * points.len() / columns..(column + 1) * points.len() / columns];
        let value = part.iter().flatten().copied().reduce(f64::max);
        value
            .filter(|value| *value > 0.0)
            .map_or(' ', |value| SPARKS[((value / most * 7.0).round() as usize).min(7)])
    };
    (0..columns).map(mark).collect()
}

fn thresholds(results: &[ThresholdResult]) -> String {
    let longest = results.iter().map(|t| escape(&t.threshold).chars().count()).max().unwrap_or(0);
    let line = |result: &ThresholdResult| {
        let threshold = escape(&result.threshold).into_owned();
        let value = escape(result.value.as_deref().unwrap_or("no such figure")).into_owned();
        format!("{} {threshold:<longest$}  {value}", tick(result.holds))
    };
    results.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub fn tick(holds: bool) -> &'static str {
    if holds { "✓" } else { "✗" }
}

/// The mark of a verdict.
pub fn verdict_mark(verdict: &str) -> &'static str {
    match verdict {
        "better" | "same" => "✓",
        "worse" => "✗",
        _ => "?",
    }
}

/// A comparison with a line for each measure, and the verdict.
pub fn comparison(found: &RunComparison, width: usize) -> String {
    let mut lines =
        vec![labelled("A", &found.a, width), labelled("B", &found.b, width), String::new()];
    let row = |compared: &MeasureComparison| {
        let measure = &compared.measure;
        vec![
            verdict_mark(&compared.verdict).to_owned(),
            measure_name(measure),
            measured(measure, compared.a),
            measured(measure, compared.b),
            interval(compared),
            compared.verdict.clone(),
            more(compared.more_calls),
        ]
    };
    let header = ["", "MEASURE", "A", "B", "CHANGE (99% INTERVAL)", "B IS", "MORE CALLS"];
    lines.push(table_within(&header, found.measures.iter().map(row), Some(width)));
    lines.push(String::new());
    lines.extend(found.warnings.iter().map(|warning| labelled("warning", warning, width)));
    lines.push(format!("{} {}", verdict_mark(&found.verdict), escape(&verdict(found))));
    lines.join("\n")
}

fn more(calls: u64) -> String {
    if calls == 0 { NONE.to_owned() } else { thousands(calls) }
}

/// The verdict in a sentence: `B is worse: p95 +30.1%`.
pub fn verdict(found: &RunComparison) -> String {
    let is = |compared: &&MeasureComparison| compared.verdict == found.verdict;
    let change = |compared: &MeasureComparison| {
        let measure = &compared.measure;
        let change = compared.change.map(|found| change(measure, found.estimate));
        format!("{} {}", measure_name(measure), change.unwrap_or_default()).trim().to_owned()
    };
    let changes: Vec<_> = found.measures.iter().filter(is).map(change).collect();
    match found.verdict.as_str() {
        "same" => "B is the same as A".to_owned(),
        verdict @ ("better" | "worse") => format!("B is {verdict} than A: {}", changes.join(", ")),
        _ if found.more_calls == 0 => "cannot tell whether B differs from A".to_owned(),
        _ => format!(
            "cannot tell; {} more calls of each should settle it",
            thousands(found.more_calls)
        ),
    }
}

/// A field with its name; the value is wrapped.
fn labelled(label: &str, value: &str, width: usize) -> String {
    let lines = wrap(&escape(value), width.saturating_sub(LABELS));
    let line =
        |(n, line): (usize, String)| format!("{:<LABELS$}{line}", if n == 0 { label } else { "" });
    lines.into_iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// Colours the marks at the starts of lines. The text has no control characters of others.
pub fn coloured(text: &str) -> String {
    let line = |line: &str| {
        let colour = match line.chars().next() {
            Some('✓') => "32",
            Some('✗') => "31",
            Some('?') => "33",
            _ => return line.to_owned(),
        };
        let (mark, rest) = line.split_at(line.chars().next().map_or(0, char::len_utf8));
        format!("\x1b[{colour}m{mark}\x1b[0m{rest}")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
