//! The report of a run for CI: JUnit XML, workflow commands of GitHub, and a job summary.

use super::text::{tick, times, totals_of, verdict, verdict_mark};
use super::units::{interval, measure_name, measured, run_seconds, seconds};
use crate::benchmark::report::{
    MeasureComparison, RunComparison, RunReport, RunState, ThresholdResult,
};
use crate::cli::output::decimal;
use crate::policy::yaml::diagnostic::escape_github;

/// Replaces the characters that have a meaning in XML and HTML, and those that XML forbids.
pub fn escape_markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A test for the run itself, for each threshold, and for each measure compared with the baseline.
pub fn junit(run: &RunReport) -> String {
    let mut cases = vec![run_case(run)];
    cases.extend(run.thresholds.iter().map(|threshold| threshold_case(run, threshold)));
    let compared = run.baseline_comparison.iter().flat_map(|found| &found.measures);
    cases.extend(compared.map(|measure| measure_case(run, measure)));
    let has = |part: &str| cases.iter().filter(|case| case.contains(part)).count();
    let counts = format!(
        r#"tests="{}" failures="{}" errors="{}" skipped="{}""#,
        cases.len(),
        has("<failure "),
        has("<error "),
        has("<skipped ")
    );
    let took = decimal(run_seconds(run).unwrap_or_default(), 3);
    let suite = format!(
        r#"<testsuite name="{}" timestamp="{}" time="{took}" {counts}>"#,
        escape_markup(&run.benchmark),
        escape_markup(&run.began)
    );
    let cases = cases.join("\n");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n{suite}\n{cases}\n\
         </testsuite>\n</testsuites>\n"
    )
}

fn case(run: &RunReport, name: &str, outcome: Option<[&str; 2]>) -> String {
    let (class, name) = (escape_markup(&run.benchmark), escape_markup(name));
    let start = format!(r#"  <testcase classname="outrigger.bench.{class}" name="{name}""#);
    match outcome {
        None => format!("{start}/>"),
        Some([element, message]) => {
            let message = escape_markup(message);
            format!("{start}><{element} message=\"{message}\"/></testcase>")
        }
    }
}

fn run_case(run: &RunReport) -> String {
    let reason = run.reason.as_deref().unwrap_or("no reason given");
    let message = format!("the run is {}: {reason}", run.state.as_str());
    let is_done = run.state == RunState::Done;
    case(run, "run", (!is_done).then_some(["error", &message]))
}

fn threshold_case(run: &RunReport, result: &ThresholdResult) -> String {
    let message = broken(result);
    case(run, &result.threshold, (!result.holds).then_some(["failure", &message]))
}

fn measure_case(run: &RunReport, compared: &MeasureComparison) -> String {
    let message = format!(
        "{} is {} compared with the baseline: {}",
        measure_name(&compared.measure),
        compared.verdict,
        interval(compared)
    );
    let outcome = match compared.verdict.as_str() {
        "better" | "same" => None,
        "worse" => Some(["failure", message.as_str()]),
        _ => Some(["skipped", message.as_str()]),
    };
    case(run, &format!("baseline: {}", compared.measure), outcome)
}

/// ``threshold `p95 < 2s` is broken: 2.31s``
fn broken(result: &ThresholdResult) -> String {
    let value = result.value.as_deref().unwrap_or("there is no such figure");
    format!("threshold `{}` is broken: {value}", result.threshold)
}

/// A workflow command for each broken threshold and each regression, or one notice. `location` is
/// where the policy declares the benchmark: `policies/outrigger.yaml:12`.
pub fn github(run: &RunReport, location: Option<&str>) -> String {
    let mut errors: Vec<_> = run.thresholds.iter().filter(|t| !t.holds).map(broken).collect();
    if run.state != RunState::Done {
        let reason = run.reason.as_deref().unwrap_or("no reason given");
        errors.push(format!("the run is {}: {reason}", run.state.as_str()));
    }
    let regression = run.baseline_comparison.as_ref().filter(|found| found.verdict == "worse");
    let is_worse = |found: &RunComparison| format!("{} (A is the baseline)", verdict(found));
    errors.extend(regression.map(is_worse));
    let command = |kind: &str, message: &str| {
        let title = escape_github(&format!("benchmark {}", run.benchmark), true);
        let place = location.map(place).unwrap_or_default();
        format!("::{kind} {place}title={title}::{}", escape_github(message, false))
    };
    if errors.is_empty() {
        return command("notice", &summary_line(run));
    }
    errors.iter().map(|error| command("error", error)).collect::<Vec<_>>().join("\n")
}

/// `file=policies/llm.yaml,line=12,`
fn place(location: &str) -> String {
    let parsed = location.rsplit_once(':').filter(|(_, line)| line.parse::<u32>().is_ok());
    match parsed {
        Some((file, line)) => format!("file={},line={line},", escape_github(file, true)),
        None => format!("file={},", escape_github(location, true)),
    }
}

/// `300 calls, p50 0.8s, p95 1.3s, errors 1.0%`
pub fn summary_line(run: &RunReport) -> String {
    let Some(arm) = run.arms.first() else { return "no calls".to_owned() };
    let mut parts = vec![format!("{} calls", arm.figures.calls)];
    let quantiles =
        arm.figures.latency.iter().flat_map(|q| [("p50", q.p50), ("p95", q.p95), ("p99", q.p99)]);
    parts.extend(quantiles.map(|(name, value)| format!("{name} {}", seconds(value))));
    parts.extend(
        arm.figures.error_rate.map(|share| format!("errors {}", super::units::percent(share))),
    );
    parts.join(", ")
}

/// The job summary: Markdown of GitHub's kind.
pub fn markdown(run: &RunReport) -> String {
    let mut text = format!("### Benchmark {}: {}\n\n", cell(&run.benchmark), run.state.as_str());
    text.extend(run.reason.as_ref().map(|reason| format!("{}\n\n", cell(reason))));
    let rows = run.thresholds.iter().map(|result| {
        [tick(result.holds), &result.threshold, result.value.as_deref().unwrap_or("no such figure")]
            .map(str::to_owned)
            .to_vec()
    });
    text.push_str(&table(&["", "threshold", "value"], rows));
    for arm in &run.arms {
        let header = [arm.target.as_str(), "p50", "p90", "p95", "p99", "max"];
        let rows = times(arm).map(|(name, q)| {
            let values = [q.p50, q.p90, q.p95, q.p99, q.max].map(seconds);
            [name.to_owned()].into_iter().chain(values).collect()
        });
        text.push_str(&table(&header, rows));
        let rows = totals_of(arm).into_iter();
        text.push_str(&table(
            &["figure", "value"],
            rows.map(|(name, value)| vec![name.to_owned(), value]),
        ));
    }
    let compared =
        [("Compared with the baseline", &run.baseline_comparison), ("A/B", &run.comparison)];
    for (title, found) in compared {
        text.extend(found.as_ref().map(|found| markdown_comparison(title, found)));
    }
    text
}

fn markdown_comparison(title: &str, found: &RunComparison) -> String {
    let row = |compared: &MeasureComparison| {
        let measure = &compared.measure;
        vec![
            format!("{} {}", verdict_mark(&compared.verdict), measure_name(measure)),
            measured(measure, compared.a),
            measured(measure, compared.b),
            interval(compared),
            compared.verdict.clone(),
        ]
    };
    let (a, b) = (format!("A: {}", found.a), format!("B: {}", found.b));
    let header = ["measure", a.as_str(), b.as_str(), "change (99% interval)", "B is"];
    let table = table(&header, found.measures.iter().map(row));
    format!("#### {title}\n\n{}\n\n{table}", cell(&verdict(found)))
}

fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| {
        let cells: Vec<_> = cells.iter().map(|text| cell(text)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rows: Vec<_> = rows.into_iter().map(line).collect();
    if rows.is_empty() {
        return String::new();
    }
    let rule = "| --- ".repeat(header.len());
    let header = line(header.iter().map(|name| (*name).to_owned()).collect());
    format!("{header}{rule}|\n{}\n", rows.concat())
}

/// Text that no reader takes for Markdown or HTML.
fn cell(text: &str) -> String {
    let mut out = String::new();
    for c in escape_markup(text).chars() {
        if matches!(c, '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '#') && !out.ends_with('&') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
