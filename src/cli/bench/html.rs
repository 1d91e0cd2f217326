//! The report of a run as one HTML file that loads nothing else and runs no script.

use std::fmt::Write;

use super::ci::escape_markup as esc;
use super::svg::{self, TrendRun, verdict_class, word_class};
use super::text::{tick, times, totals_of, verdict};
use super::units::{
    cost, digits, environment, errors, interval, measure_name, measured, percent, rate,
    run_seconds, seconds, thousands,
};
use crate::benchmark::report::{
    Arm, MeasureComparison, RunComparison, RunReport, RunState, ThresholdResult,
};
use crate::cli::output::{NONE, duration, time};

const STYLE: &str = include_str!("page.css");
/// The browser loads nothing, whatever text the page has.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
const KEY_LATENCY: &str = r#"<i class="key p50"></i>p50<i class="key p95"></i>p95"#;

/// The page. `earlier` are runs of the same benchmark, the newest first.
pub fn page(run: &RunReport, earlier: &[RunReport]) -> String {
    let name = esc(&run.benchmark);
    let mut body = head(run);
    body.push_str(&thresholds(&run.thresholds));
    for (n, arm) in run.arms.iter().enumerate() {
        let title = if run.arms.len() > 1 { ["A: ", "B: "][n.min(1)] } else { "" };
        body.push_str(&measurements(title, arm));
    }
    if run.arms.len() > 1 {
        let bins: Vec<_> = run.arms.iter().map(|arm| arm.histogram.as_slice()).collect();
        let key = r#"<i class="key p50"></i>A<i class="key p95"></i>B"#;
        let chart = figure("Latency by percentile", key, svg::percentiles(&bins));
        let _ = write!(
            body,
            r#"<section><h2>Both targets</h2><div class="charts">{chart}</div></section>"#
        );
    }
    let compared = [
        ("B compared with A", &run.comparison),
        ("Compared with the baseline", &run.baseline_comparison),
    ];
    for (title, found) in compared {
        body.extend(found.as_ref().map(|found| comparison(title, found)));
    }
    body.push_str(&trend(run, earlier));
    let version = esc(&run.environment.version);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <title>Benchmark {name}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n\
         <footer>Outrigger {version}. Latency is measured from the intended start of each call to \
         the end of its response.</footer>\n</main>\n</body>\n</html>\n"
    )
}

fn head(run: &RunReport) -> String {
    let mut badges = String::new();
    let mut badge = |class: &str, text: &str| {
        let _ = write!(badges, r#"<span class="badge {class}">{}</span>"#, esc(text));
    };
    if run.state != RunState::Done {
        badge("unclear", run.state.as_str());
    }
    let broken = run.thresholds.iter().filter(|result| !result.holds).count();
    match (run.thresholds.len(), broken) {
        (0, _) => {}
        (_, 0) => badge("holds", "all thresholds hold"),
        (all, broken) => badge("broken", &format!("{broken} of {all} thresholds broken")),
    }
    if let Some(found) = &run.baseline_comparison {
        badge(word_class(&found.verdict), &format!("baseline: {}", found.verdict));
    }
    if let Some(found) = &run.comparison {
        badge(word_class(&found.verdict), &format!("B is: {}", found.verdict));
    }
    let took = run_seconds(run).map(|s| format!(", took {}", duration((s * 1e3) as u64)));
    let targets: Vec<_> = run.arms.iter().map(|arm| arm.target.as_str()).collect();
    let mut rows = vec![
        ("target", targets.join(" and ")),
        ("load", run.load.clone()),
        ("began", time(&run.began) + &took.unwrap_or_default()),
        ("run", run.id.clone()),
        ("environment", environment(&run.environment)),
    ];
    rows.extend(run.reason.clone().map(|reason| ("reason", reason)));
    let rows: String =
        rows.iter().map(|(n, v)| format!("<dt>{n}</dt><dd>{}</dd>", esc(v))).collect();
    let name = esc(&run.benchmark);
    format!("<header><h1>{name}</h1>{badges}</header><section><dl>{rows}</dl></section>")
}

fn thresholds(results: &[ThresholdResult]) -> String {
    if results.is_empty() {
        return String::new();
    }
    let row = |result: &ThresholdResult| {
        let class = if result.holds { "holds" } else { "broken" };
        let value = esc(result.value.as_deref().unwrap_or("no such figure"));
        let (mark, threshold) = (tick(result.holds), esc(&result.threshold));
        format!(
            r#"<tr><td class="{class}">{mark}</td><td>{threshold}</td><td class="n">{value}</td></tr>"#
        )
    };
    let rows: String = results.iter().map(row).collect();
    let header = r#"<tr><th></th><th>threshold</th><th class="n">value</th></tr>"#;
    format!(r#"<section><h2>Thresholds</h2><table class="narrow">{header}{rows}</table></section>"#)
}

fn measurements(title: &str, arm: &Arm) -> String {
    let (tiles, figures) = (tiles(arm), quantiles(arm));
    let rows = totals_of(arm).into_iter();
    let rows: String = rows.map(|(n, v)| format!("<dt>{n}</dt><dd>{}</dd>", esc(&v))).collect();
    let key = format!(r#"{KEY_LATENCY}<i class="key failed"></i>share of failed calls"#);
    let charts = [
        figure("Latency over time", &key, svg::timeline(&arm.timeline)),
        figure("Calls by latency", "logarithmic scale of the latency", svg::histogram(arm)),
        figure("Latency by percentile", "", svg::percentiles(&[&arm.histogram])),
    ];
    let (title, target, charts) = (esc(title), esc(&arm.target), charts.concat());
    format!(
        r#"<section><h2>{title}{target}</h2>{tiles}{figures}<div class="charts">{charts}<div><h3>Totals</h3><dl>{rows}</dl></div></div></section>"#
    )
}

/// The figures that are looked at first.
fn tiles(arm: &Arm) -> String {
    let figures = &arm.figures;
    let mut tiles = Vec::new();
    if let Some(q) = &figures.latency {
        tiles
            .extend([("p50", q.p50), ("p95", q.p95), ("p99", q.p99)].map(|(n, v)| (n, seconds(v))));
    }
    tiles.extend(figures.first_content.as_ref().map(|q| ("first content", seconds(q.p50))));
    tiles.extend(figures.throughput.map(|value| ("throughput", rate(value))));
    tiles.extend(figures.error_rate.map(|share| ("errors", percent(share))));
    tiles.extend(figures.tokens_per_second.map(|speed| ("tokens/s", digits(speed))));
    tiles.extend(figures.cost.as_ref().map(|amount| ("cost", cost(amount))));
    let tile = |(name, value): &(&str, String)| {
        format!(r#"<div class="tile"><b>{}</b><span>{name}</span></div>"#, esc(value))
    };
    let calls = format!("{} calls, errors {}", thousands(figures.calls), errors(figures));
    let tiles: String = tiles.iter().map(tile).collect();
    format!(r#"<div class="tiles" aria-label="{}">{tiles}</div>"#, esc(&calls))
}

fn quantiles(arm: &Arm) -> String {
    let row = |(name, q): (&str, &crate::benchmark::report::Quantiles)| {
        let cells = [q.p50, q.p90, q.p95, q.p99, q.max].map(|value| number(&seconds(value)));
        format!("<tr><td>{name}</td>{}</tr>", cells.concat())
    };
    let rows: String = times(arm).map(row).collect();
    if rows.is_empty() {
        return "<p>No call succeeded.</p>".to_owned();
    }
    let header: String =
        ["p50", "p90", "p95", "p99", "max"].map(|n| format!(r#"<th class="n">{n}</th>"#)).concat();
    format!(r#"<div class="scroll"><table><tr><th></th>{header}</tr>{rows}</table></div>"#)
}

fn number(text: &str) -> String {
    format!(r#"<td class="n">{}</td>"#, esc(text))
}

/// A chart with its title; nothing without data.
fn figure(title: &str, key: &str, chart: Option<String>) -> String {
    let figure =
        |chart| format!("<figure><h3>{title}</h3>{chart}<figcaption>{key}</figcaption></figure>");
    chart.map(figure).unwrap_or_default()
}

fn comparison(title: &str, found: &RunComparison) -> String {
    let row = |compared: &MeasureComparison| {
        let (measure, class) = (&compared.measure, verdict_class(compared));
        let more =
            if compared.more_calls == 0 { NONE.to_owned() } else { thousands(compared.more_calls) };
        let cells = [
            measured(measure, compared.a),
            measured(measure, compared.b),
            interval(compared),
            more,
        ];
        let [a, b, change, more] = cells.map(|cell| number(&cell));
        let (measure, verdict) = (esc(&measure_name(measure)), esc(&compared.verdict));
        format!(
            r#"<tr><td>{measure}</td><td class="{class}">{verdict}</td>{a}{b}{change}{more}</tr>"#
        )
    };
    let rows: String = found.measures.iter().map(row).collect();
    let columns = [
        ("", "measure"),
        ("", "B is"),
        ("n", "A"),
        ("n", "B"),
        ("n", "change (99% interval)"),
        ("n", "more calls"),
    ];
    let header: String =
        columns.iter().map(|(class, name)| format!(r#"<th class="{class}">{name}</th>"#)).collect();
    let (class, sentence) = (word_class(&found.verdict), esc(&verdict(found)));
    let warning = |text: &String| format!(r#"<p class="warning">{}</p>"#, esc(text));
    let warnings: String = found.warnings.iter().map(warning).collect();
    let (a, b) = (esc(&found.a), esc(&found.b));
    let chart = figure(
        "Change from A to B",
        "99% intervals; latency and error rate: to the right is worse; throughput: to the right is better",
        svg::intervals(found),
    );
    format!(
        r#"<section><h2>{title}</h2><p><span class="badge {class}">{sentence}</span></p><dl><dt>A</dt><dd>{a}</dd><dt>B</dt><dd>{b}</dd></dl>{warnings}<div class="scroll"><table class="narrow"><tr>{header}</tr>{rows}</table></div><div class="charts">{chart}</div></section>"#
    )
}

/// The latency of this run and of those before it.
fn trend(run: &RunReport, earlier: &[RunReport]) -> String {
    let others = earlier.iter().rev().filter(|other| other.id < run.id);
    let point = |other: &RunReport| {
        let latency = other.arms.first()?.figures.latency?;
        let label = other.began.get(..16).unwrap_or(&other.began).replace('T', " ");
        let is_current = other.id == run.id;
        (other.state == RunState::Done || is_current).then_some(TrendRun {
            label,
            p50: latency.p50,
            p95: latency.p95,
            is_current,
        })
    };
    let points: Vec<_> = others.chain([run]).filter_map(point).collect();
    let key = format!("{KEY_LATENCY}; this run is the last");
    match svg::trend(&points) {
        Some(chart) => {
            let chart = figure("Latency by run", &key, Some(chart));
            format!(r#"<section><h2>Last runs</h2><div class="charts">{chart}</div></section>"#)
        }
        None => String::new(),
    }
}
