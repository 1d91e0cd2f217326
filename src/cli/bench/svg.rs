//! The charts of the HTML report, as SVG. The page's style gives them their colours.

use std::fmt::Write;

use super::ci::escape_markup;
use super::units::{change, measure_name, quantile, ranges, seconds, thousands};
use crate::benchmark::report::{
    Arm, HistogramBin, MeasureComparison, RunComparison, TimelinePoint,
};

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 220.0;
/// Of the area for data: room for the labels of the axes.
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;
const HISTOGRAM_BARS: usize = 40;
/// Ticks of the percentile curve, each with a tenth of the calls above that the one before has.
const CURVE_TICKS: [(f64, &str); 5] =
    [(0.0, "p0"), (0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")];

/// One run of the benchmark in the trend.
#[derive(Debug)]
pub struct TrendRun {
    pub label: String,
    pub p50: f64,
    pub p95: f64,
    /// The run that the report is about.
    pub is_current: bool,
}

/// A drawing with a vertical axis.
struct Chart {
    body: String,
    height: f64,
    /// The value at the top of the axis.
    most: f64,
}

impl Chart {
    /// With lines across at round values from zero.
    fn new(most: f64, text: impl Fn(f64) -> String) -> Chart {
        let step = round_step(most / 4.0);
        let steps = (most / step).ceil().max(1.0) as usize;
        let mut chart = Chart { body: String::new(), height: HEIGHT, most: step * steps as f64 };
        for n in 0..=steps {
            let value = step * n as f64;
            let y = chart.y(value);
            chart.line([LEFT, y, WIDTH - RIGHT, y], "grid");
            chart.text(
                LEFT - 6.0,
                y + 4.0,
                "end",
                &if n == 0 { "0".to_owned() } else { text(value) },
            );
        }
        chart
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value / self.most).clamp(0.0, 1.0);
        self.height - BOTTOM - share * (self.height - TOP - BOTTOM)
    }

    fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], class: &str) {
        let _ = write!(
            self.body,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escape_markup(text);
        let _ = write!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        );
    }

    /// Ends of an axis, below the data.
    fn ends(&mut self, from: &str, to: &str) {
        let y = self.height - 8.0;
        self.text(LEFT, y, "start", from);
        self.text(WIDTH - RIGHT, y, "end", to);
    }

    fn rect(&mut self, [x, y, width, height]: [f64; 4], class: &str, title: &str) {
        let title = escape_markup(title);
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"><title>{title}</title></rect>"#
        );
    }

    fn dot(&mut self, [x, y, radius]: [f64; 3], class: &str, title: &str) {
        let title = escape_markup(title);
        let _ = write!(
            self.body,
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius}"><title>{title}</title></circle>"#
        );
    }

    /// A line through the points; a missing one interrupts it.
    fn path(&mut self, points: impl IntoIterator<Item = Option<[f64; 2]>>, class: &str) {
        let mut path = String::new();
        let mut command = 'M';
        for point in points {
            let Some([x, y]) = point else {
                command = 'M';
                continue;
            };
            let _ = write!(path, "{command}{x:.1} {y:.1}");
            // A part of one point is a dot, by its round ends.
            if command == 'M' {
                let _ = write!(path, "h0");
            }
            command = 'L';
        }
        let _ = write!(self.body, r#"<path class="{class}" d="{path}"/>"#);
    }

    fn finish(self, label: &str) -> String {
        let Chart { body, height, .. } = self;
        let label = escape_markup(label);
        format!(
            r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{body}</svg>"#
        )
    }
}

/// The next of 1, 2, 2.5 and 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-9).log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0].into_iter().find(|factor| factor * power >= least);
    factor.unwrap_or(10.0) * power
}

/// `1.5s`: without zeros at the end.
fn tick_seconds(value: f64) -> String {
    let text = seconds(value);
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = text.strip_suffix(unit).unwrap_or(&text);
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    format!("{number}{unit}")
}

/// p50 and p95 over the run, and the calls that failed.
pub fn timeline(points: &[TimelinePoint]) -> Option<String> {
    let most = points.iter().filter_map(|p| p.p95.or(p.p50)).reduce(f64::max)?;
    let (first, last) = (points.first()?, points.last()?);
    let mut chart = Chart::new(most, tick_seconds);
    let span = (last.at - first.at).max(1e-9);
    let x = |at: f64| LEFT + (at - first.at) / span * (WIDTH - LEFT - RIGHT);
    let width = (WIDTH - LEFT - RIGHT) / points.len() as f64;
    for point in points.iter().filter(|point| point.failed > 0) {
        let share = point.failed as f64 / point.calls.max(1) as f64;
        let height = share.max(0.02) * (HEIGHT - TOP - BOTTOM);
        let title =
            format!("at {}: {} of {} calls failed", seconds(point.at), point.failed, point.calls);
        let left = (x(point.at) - width / 2.0).max(LEFT);
        chart.rect([left, HEIGHT - BOTTOM - height, width.max(2.0), height], "failed", &title);
    }
    for (class, value) in
        [("p95", (|p| p.p95) as fn(&TimelinePoint) -> Option<f64>), ("p50", |p| p.p50)]
    {
        let at = |point: &TimelinePoint| Some((x(point.at), value(point)?));
        let line: Vec<_> =
            points.iter().map(|point| at(point).map(|(x, v)| [x, chart.y(v)])).collect();
        chart.path(line, class);
    }
    chart.ends(&seconds(first.at).replace("0µs", "0s"), &seconds(last.at));
    Some(chart.finish("latency over time"))
}

/// Calls by latency, on a logarithmic scale, with lines at p50, p95 and p99.
pub fn histogram(arm: &Arm) -> Option<String> {
    let ranges = ranges(&arm.histogram, HISTOGRAM_BARS);
    let (first, last) = (ranges.first()?, ranges.last()?);
    let most = ranges.iter().map(|range| range.calls).max()? as f64;
    let mut chart = Chart::new(most.max(4.0), |calls| thousands(calls as u64));
    let (low, span) = (first.from.ln(), (last.to / first.from).ln());
    let x = |value: f64| LEFT + (value.ln() - low) / span * (WIDTH - LEFT - RIGHT);
    for range in ranges.iter().filter(|range| range.calls > 0) {
        let (left, right, y) = (x(range.from), x(range.to), chart.y(range.calls as f64));
        let (from, to) = (seconds(range.from), seconds(range.to));
        let title = format!("{from} to {to}: {} calls", thousands(range.calls));
        let bar = [left + 0.5, y, (right - left - 1.0).max(1.0), HEIGHT - BOTTOM - y];
        chart.rect(bar, "bar", &title);
    }
    let mut free = LEFT;
    for (name, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        let x = x(quantile(&arm.histogram, share)?.clamp(first.from, last.to));
        chart.line([x, TOP, x, HEIGHT - BOTTOM], "mark");
        // Labels that would cover each other are left out.
        if x - 26.0 >= free {
            chart.text(x - 3.0, TOP + 8.0, "end", name);
            free = x + 2.0;
        }
    }
    chart.ends(&seconds(first.from), &seconds(last.to));
    Some(chart.finish("calls by latency"))
}

/// Latency by percentile, with equal room for each further nine.
pub fn percentiles(arms: &[&[HistogramBin]]) -> Option<String> {
    let most = arms.iter().filter_map(|bins| quantile(bins, 0.999)).reduce(f64::max)?;
    let mut chart = Chart::new(most, tick_seconds);
    let end = -(1.0 - 0.9991f64).log10();
    let x = |share: f64| LEFT - (1.0 - share).log10() / end * (WIDTH - LEFT - RIGHT);
    for (share, name) in CURVE_TICKS {
        chart.line([x(share), TOP, x(share), HEIGHT - BOTTOM], "grid");
        let anchor = if share == 0.999 { "end" } else { "middle" };
        chart.text(x(share), HEIGHT - 8.0, anchor, name);
    }
    for (bins, class) in arms.iter().zip(["p50", "p95"]) {
        let share = |n: u32| 1.0 - 10f64.powf(-3.0 * f64::from(n) / 120.0);
        let points = (0..=120).map(share);
        let points: Vec<_> =
            points.map(|share| Some([x(share), chart.y(quantile(bins, share)?)])).collect();
        chart.path(points, class);
    }
    Some(chart.finish("latency by percentile"))
}

/// The interval of each change, around no change.
pub fn intervals(found: &RunComparison) -> Option<String> {
    let changes: Vec<_> = found.measures.iter().filter_map(|m| Some((m, m.change?))).collect();
    let ends = changes.iter().flat_map(|(_, change)| [change.low.abs(), change.high.abs()]);
    let most = ends.filter(|end| end.is_finite()).reduce(f64::max)?.clamp(0.05, 2.0);
    let step = round_step(most / 2.0);
    let (most, row) = ((most / step).ceil() * step, 34.0);
    let height = TOP + row * changes.len() as f64 + BOTTOM;
    let mut chart = Chart { body: String::new(), height, most };
    let left = 84.0;
    let middle = left + (WIDTH - left - RIGHT) / 2.0;
    let x = |value: f64| middle + value.clamp(-most, most) / most * (WIDTH - RIGHT - middle);
    for n in [-most, -most / 2.0, 0.0, most / 2.0, most] {
        let class = if n == 0.0 { "zero" } else { "grid" };
        chart.line([x(n), TOP, x(n), height - BOTTOM], class);
    }
    for (value, anchor) in [(-most, "start"), (0.0, "middle"), (most, "end")] {
        chart.text(x(value), height - 8.0, anchor, &change("", value));
    }
    for (n, (compared, found)) in changes.iter().enumerate() {
        let y = TOP + row * (n as f64 + 0.5);
        let class = verdict_class(compared);
        chart.text(left - 8.0, y + 4.0, "end", &measure_name(&compared.measure));
        chart.line([x(found.low), y, x(found.high), y], &format!("interval {class}"));
        for end in [found.low, found.high] {
            chart.line([x(end), y - 5.0, x(end), y + 5.0], &format!("interval {class}"));
        }
        let title = format!("{}: {}", compared.measure, super::units::interval(compared));
        chart.dot([x(found.estimate), y, 4.5], &format!("dot {class}"), &title);
    }
    Some(chart.finish("changes with their intervals"))
}

/// The style of a verdict.
pub fn verdict_class(compared: &MeasureComparison) -> &'static str {
    word_class(&compared.verdict)
}

pub fn word_class(verdict: &str) -> &'static str {
    match verdict {
        "better" => "better",
        "worse" => "worse",
        "same" => "same",
        _ => "unclear",
    }
}

/// p50 and p95 of the last runs, the oldest first.
pub fn trend(points: &[TrendRun]) -> Option<String> {
    let (first, last) = (points.first()?, points.last()?);
    if points.len() < 2 {
        return None;
    }
    let most = points.iter().map(|point| point.p95).reduce(f64::max)?;
    let mut chart = Chart::new(most, tick_seconds);
    let gap = (WIDTH - LEFT - RIGHT - 16.0) / (points.len() - 1) as f64;
    let x = |n: usize| LEFT + 8.0 + gap * n as f64;
    for (class, value) in [("p95", (|p| p.p95) as fn(&TrendRun) -> f64), ("p50", |p| p.p50)] {
        let line: Vec<_> =
            points.iter().enumerate().map(|(n, p)| Some([x(n), chart.y(value(p))])).collect();
        chart.path(line, class);
        for (n, point) in points.iter().enumerate() {
            let title = format!("{}: {class} {}", point.label, seconds(value(point)));
            let radius = if point.is_current { 5.0 } else { 3.0 };
            let y = chart.y(value(point));
            chart.dot([x(n), y, radius], &format!("dot {class}"), &title);
        }
    }
    chart.ends(&first.label, &last.label);
    Some(chart.finish("latency of the last runs"))
}
