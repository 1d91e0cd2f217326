//! The renderers, on a run with every figure.

use std::collections::BTreeMap;

use super::outcome::{exit_code, without_commands};
use super::source::compare_reports;
use super::{ci, html, progress, text, units};
use crate::benchmark::report::*;

const HOSTILE: &str = "<script>alert('x')</script>\"&|`\x1b[2J";

/// Latencies with a long tail: one in fifty takes four times as long.
fn arm(target: &str, scale: f64) -> Arm {
    let bins = |n: i32| {
        let below = 0.4 * 1.008f64.powi(n) * scale;
        let spread = (f64::from(n) - 90.0) / 28.0;
        let tail = if n > 200 { 1.0 } else { 0.0 };
        HistogramBin { below, calls: (40.0 * (-0.5 * spread * spread).exp() + tail) as u64 }
    };
    let histogram: Vec<_> = (0..260).map(bins).filter(|bin| bin.calls > 0).collect();
    let quantile = |share| units::quantile(&histogram, share).expect("calls");
    let latency = Quantiles {
        p50: quantile(0.5),
        p90: quantile(0.9),
        p95: quantile(0.95),
        p99: quantile(0.99),
        max: quantile(1.0),
    };
    let part = |share: f64| Quantiles {
        p50: latency.p50 * share,
        p90: latency.p90 * share,
        p95: latency.p95 * share,
        p99: latency.p99 * share,
        max: latency.max * share,
    };
    let point = |n: u32| {
        let wave = 1.0 + 0.2 * (f64::from(n) / 9.0).sin();
        let failed = if (50..54).contains(&n) { 9 } else { 0 };
        let (p50, p95) = (Some(latency.p50 * wave), Some(latency.p95 * wave));
        TimelinePoint { at: f64::from(n) * 2.5, calls: 24, failed, p50, p95 }
    };
    let calls: u64 = histogram.iter().map(|bin| bin.calls).sum::<u64>() + 36;
    Arm {
        target: target.to_owned(),
        figures: RunFigures {
            calls,
            failed: 36,
            outcomes: BTreeMap::from([
                ("ok".to_owned(), calls - 36),
                ("timeout".to_owned(), 30),
                ("server_error".to_owned(), 6),
            ]),
            error_rate: Some(36.0 / calls as f64),
            throughput: Some(9.83),
            latency: Some(latency),
            first_byte: Some(part(0.3)),
            first_content: Some(part(0.34)),
            token_gap: Some(part(0.02)),
            tokens_per_second: Some(41.27),
            tokens: Some(TokenTotals { input: 123_456, output: 1_234_567 }),
            cost: Some(RunCost { amount: 0.4321, currency: "USD".to_owned() }),
            lateness: Some(0.0123),
        },
        timeline: (0..120).map(point).collect(),
        histogram,
    }
}

fn measure(measure: &str, [a, b]: [f64; 2], verdict: &str) -> MeasureComparison {
    let estimate = if measure == "error_rate" { b - a } else { b / a - 1.0 };
    MeasureComparison {
        measure: measure.to_owned(),
        a: Some(a),
        b: Some(b),
        change: Some(ChangeInterval { estimate, low: estimate - 0.03, high: estimate + 0.03 }),
        verdict: verdict.to_owned(),
        more_calls: if verdict == "cannot tell" { 1800 } else { 0 },
    }
}

fn comparison() -> RunComparison {
    RunComparison {
        a: "01K000000000000000000000AA of 2026-11-29".to_owned(),
        b: "01K000000000000000000000BB of 2026-11-30".to_owned(),
        verdict: "worse".to_owned(),
        more_calls: 0,
        measures: vec![
            measure("p50", [0.82, 0.83], "same"),
            measure("p95", [1.21, 1.58], "worse"),
            measure("p99", [2.1, 2.2], "cannot tell"),
            measure("throughput", [9.9, 9.8], "same"),
            measure("error_rate", [0.002, 0.012], "cannot tell"),
        ],
        warnings: vec!["the runs have different loads: 5/s and 10/s".to_owned()],
    }
}

pub(super) fn run() -> RunReport {
    let threshold = |threshold: &str, value: Option<&str>, holds| ThresholdResult {
        threshold: threshold.to_owned(),
        value: value.map(str::to_owned),
        holds,
    };
    RunReport {
        id: "01K000000000000000000000BB".to_owned(),
        benchmark: "chat-latency".to_owned(),
        state: RunState::Done,
        reason: None,
        trigger: RunTrigger::Operator,
        began: "2026-11-30T08:00:00.000Z".to_owned(),
        ended: Some("2026-11-30T08:05:05.000Z".to_owned()),
        progress: 1.0,
        load: "10/s for 5m after a warm-up of 5s".to_owned(),
        requests: "ab12".to_owned(),
        environment: Environment {
            host: "ci-runner-3".to_owned(),
            version: "0.1.0".to_owned(),
            policy_hash: "3f2a91bc77d04e11".to_owned(),
            system: "linux/x86_64".to_owned(),
            cpus: 4,
            memory_bytes: 16 << 30,
        },
        arms: vec![arm("route chat", 1.0)],
        thresholds: vec![
            threshold("p95 < 2s", Some("1.32s"), true),
            threshold("error_rate < 1%", Some("1.4%"), false),
            threshold("cost < 0.50 USD", None, false),
        ],
        comparison: None,
        baseline_comparison: Some(comparison()),
    }
}

fn two_arms() -> RunReport {
    let arms = vec![arm("provider openai", 1.0), arm("provider azure", 1.3)];
    RunReport { arms, comparison: Some(comparison()), baseline_comparison: None, ..run() }
}

fn hostile() -> RunReport {
    let text = || HOSTILE.to_owned();
    let mut run = two_arms();
    run.state = RunState::Failed;
    (run.benchmark, run.id, run.load, run.reason) = (text(), text(), text(), Some(text()));
    (run.began, run.ended) = (text(), Some(text()));
    (run.environment.host, run.environment.policy_hash) = (text(), text());
    (run.environment.system, run.environment.version) = (text(), text());
    for arm in &mut run.arms {
        arm.target = text();
        arm.figures.outcomes.insert(text(), 1);
        arm.figures.cost = Some(RunCost { amount: 1.0, currency: text() });
    }
    for result in &mut run.thresholds {
        (result.threshold, result.value) = (text(), Some(text()));
    }
    let found = run.comparison.as_mut().expect("a comparison");
    (found.a, found.b, found.verdict, found.warnings) = (text(), text(), text(), vec![text()]);
    for compared in &mut found.measures {
        (compared.measure, compared.verdict) = (text(), text());
    }
    run.baseline_comparison = run.comparison.clone();
    run
}

/// Earlier runs, the newest first.
fn earlier() -> Vec<RunReport> {
    let run = |n: i32| {
        let id = format!("01K0000000000000000000{n:04}");
        let began = format!("2026-11-{n:02}T08:00:00.000Z");
        RunReport {
            id,
            began,
            arms: vec![arm("route chat", 0.9 + f64::from(n % 5) / 40.0)],
            ..run()
        }
    };
    (10..29).rev().map(run).collect()
}

#[test]
fn the_report_fits_the_terminal() {
    for (run, width) in [(run(), 80), (run(), 200), (two_arms(), 80), (hostile(), 80)] {
        let text = text::report(&run, width);
        let longest = text.lines().max_by_key(|line| line.chars().count()).unwrap_or_default();
        let is_within = longest.chars().count() <= width;
        // A word that is longer than the line is not cut.
        assert!(is_within || run.benchmark == HOSTILE, "wider than {width}: {longest}");
        assert!(!text.contains('\x1b'));
    }
}

#[test]
fn each_threshold_has_a_line_with_a_tick_or_a_cross_and_its_value() {
    let text = text::report(&run(), 80);
    for line in
        ["✓ p95 < 2s         1.32s", "✗ error_rate < 1%  1.4%", "✗ cost < 0.50 USD  no such figure"]
    {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_comparison_states_the_change_its_interval_and_the_verdict() {
    let text = text::comparison(&comparison(), 100);
    let p95 = text.lines().find(|line| line.contains("p95")).unwrap_or_default();
    assert_eq!(
        p95.split_whitespace().collect::<Vec<_>>().join(" "),
        "✗ p95 1.21s 1.58s +30.6% (+27.6 to +33.6) worse -"
    );
    assert!(text.contains("+1pp (-2 to +4)"), "{text}");
    assert!(text.ends_with("✗ B is worse than A: p95 +30.6%"), "{text}");
    assert!(text.contains("warning       the runs have different loads: 5/s and 10/s"), "{text}");
}

#[test]
fn only_marks_are_coloured() {
    let text = text::coloured("✓ a\n✗ b\n? c\nd ✓");
    assert_eq!(text, "\x1b[32m✓\x1b[0m a\n\x1b[31m✗\x1b[0m b\n\x1b[33m?\x1b[0m c\nd ✓");
}

#[test]
fn a_junit_report_has_a_test_for_each_threshold_and_measure() {
    let xml = ci::junit(&run());
    assert!(xml.contains(r#"tests="9" failures="3" errors="0" skipped="2""#), "{xml}");
    assert!(xml.contains(
        r#"<testcase classname="outrigger.bench.chat-latency" name="error_rate &lt; 1%"><failure message="threshold `error_rate &lt; 1%` is broken: 1.4%"/></testcase>"#
    ), "{xml}");
    assert!(xml.contains(r#"name="baseline: p95"><failure "#), "{xml}");
    assert!(!ci::junit(&hostile()).contains("<script"));
}

#[test]
fn github_shows_broken_thresholds_where_the_benchmark_is_declared() {
    let commands = ci::github(&run(), Some("policies/outrigger.yaml:12"));
    let expected = [
        "::error file=policies/outrigger.yaml,line=12,title=benchmark chat-latency::threshold `error_rate < 1%25` is broken: 1.4%25",
        "::error file=policies/outrigger.yaml,line=12,title=benchmark chat-latency::threshold `cost < 0.50 USD` is broken: there is no such figure",
        "::error file=policies/outrigger.yaml,line=12,title=benchmark chat-latency::B is worse than A: p95 +30.6%25 (A is the baseline)",
    ];
    assert_eq!(commands.lines().collect::<Vec<_>>(), expected);
    let mut good = run();
    (good.thresholds, good.baseline_comparison) = (Vec::new(), None);
    good.benchmark = "a:b,c\n::error::x".to_owned();
    let notice = ci::github(&good, None);
    assert!(
        notice.starts_with("::notice title=benchmark a%3Ab%2Cc%0A%3A%3Aerror%3A%3Ax::"),
        "{notice}"
    );
    assert_eq!(notice.lines().count(), 1);
}

#[test]
fn the_job_summary_is_no_markup_of_others() {
    let text = ci::markdown(&hostile());
    assert!(!text.contains("<script"), "{text}");
    assert!(text.contains(r"&quot;&amp;\|\`"), "{text}");
    assert!(ci::markdown(&run()).contains("| ✗ | error\\_rate &lt; 1% | 1.4% |"));
}

#[test]
fn the_page_loads_nothing_and_has_no_markup_of_others() {
    for run in [run(), two_arms(), hostile()] {
        let page = html::page(&run, &earlier());
        assert!(!page.contains("<script") && !page.contains('\x1b'), "{page}");
        for loading in ["http://", "https://", "src=", "url(", "@import", "<link"] {
            assert!(!page.contains(loading), "{loading}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"), "a figure is missing in a chart");
    }
}

#[test]
fn the_page_has_each_chart() {
    let page = html::page(&run(), &earlier());
    for title in [
        "Thresholds",
        "Latency over time",
        "Calls by latency",
        "Latency by percentile",
        "Change from A to B",
        "Latency by run",
    ] {
        assert!(page.contains(title), "{title}");
    }
}

#[test]
fn a_run_without_calls_has_a_report() {
    let mut empty = run();
    empty.arms = vec![Arm {
        target: "route chat".to_owned(),
        figures: RunFigures::default(),
        timeline: Vec::new(),
        histogram: Vec::new(),
    }];
    assert!(text::report(&empty, 80).contains("calls         0"));
    assert!(html::page(&empty, &[]).contains("No call succeeded."));
    assert!(!html::page(&RunReport { arms: Vec::new(), ..run() }, &[]).contains("NaN"));
}

#[test]
fn figures_have_three_digits_and_a_unit() {
    let times = [0.000_85, 0.0123, 0.999, 1.318, 41.27, 123.4].map(units::seconds);
    assert_eq!(times, ["850µs", "12.3ms", "999ms", "1.32s", "41.3s", "123s"]);
    assert_eq!([0.0, 0.0004, 0.014, 1.0].map(units::percent), ["0%", "0.04%", "1.4%", "100%"]);
    assert_eq!([0, 999, 1000, 1_234_567].map(units::thousands), ["0", "999", "1,000", "1,234,567"]);
}

#[test]
fn a_broken_threshold_exits_99_and_a_regression_1() {
    let mut report = run();
    assert_eq!(exit_code(&report), 99);
    report.thresholds.clear();
    assert_eq!(exit_code(&report), 1);
    report.baseline_comparison = None;
    assert_eq!(exit_code(&report), 0);
    report.comparison = Some(comparison());
    assert_eq!(exit_code(&report), 1);
    report.state = RunState::Aborted;
    assert_eq!(exit_code(&report), 2);
}

#[test]
fn text_for_github_has_no_commands_of_others() {
    let text = without_commands("reason  x\n   ::error::forged\na ##[group]b");
    assert_eq!(text, "reason  x\n|    ::error::forged\n| a ## [group]b");
}

#[test]
fn files_are_compared_by_their_calls() {
    let (a, mut slower) = (run(), run());
    let found = compare_reports(&a, &run()).expect("a comparison");
    let p50 = |found: &RunComparison| found.measures[0].clone();
    assert_eq!(p50(&found).verdict, "same", "{found:?}");
    slower.arms = vec![arm("route chat", 1.3)];
    let found = compare_reports(&a, &slower).expect("a comparison");
    assert_eq!((p50(&found).verdict.as_str(), found.verdict.as_str()), ("worse", "worse"));
    assert!(found.warnings.iter().any(|warning| warning.contains("no order of calls")));
    slower.state = RunState::Aborted;
    let error = compare_reports(&a, &slower).expect_err("no figures");
    assert!(error.contains("is aborted"), "{error}");
}

#[test]
fn the_progress_shows_the_percentiles_so_far() {
    let mut report = run();
    report.progress = 0.3;
    assert_eq!(
        progress::line(&report),
        "chat-latency  ███░░░░░░░  30%  2,805 calls  p50 826ms  p95 1.23s  p99 2.54s  \
         errors 1.3%"
    );
    let short = progress::fit(&progress::line(&report), 70);
    assert!(short.ends_with("p95 1.23s") && short.chars().count() <= 70, "{short}");
    assert_eq!(progress::fit("a name that is too long", 6), "a name");
    report.arms = vec![arm("provider openai", 1.0), arm("provider azure", 1.3)];
    assert!(progress::line(&report).contains("A: 2,805 calls"));
}

/// Writes the reports to a folder, to look at.
#[test]
fn reports_can_be_written_to_look_at() {
    let Some(folder) = std::env::var_os("OUTRIGGER_TEST_REPORTS") else { return };
    let folder = std::path::PathBuf::from(folder);
    for (name, run) in [("one", run()), ("two", two_arms()), ("hostile", hostile())] {
        let write =
            |name: String, text: String| std::fs::write(folder.join(name), text).expect("written");
        write(format!("{name}.html"), html::page(&run, &earlier()));
        write(format!("{name}-80.txt"), text::report(&run, 80));
        write(format!("{name}-200.txt"), text::report(&run, 200));
        write(format!("{name}.json"), serde_json::to_string(&run).expect("JSON"));
        write(format!("{name}.md"), ci::markdown(&run));
    }
}
