//! The classic Prometheus text format, for clients that do not accept OpenMetrics.
//!
//! It differs from OpenMetrics in three points: `HELP` and `TYPE` name the metric with its suffix
//! (`_total`, `_info`), there is no `UNIT`, and there is no end marker.

/// The content type of the classic format.
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The content type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Converts OpenMetrics text to the classic format.
pub fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        // HELP precedes the TYPE that names the kind.
        let kind = if line.starts_with("# HELP ") { lines.peek().copied() } else { Some(line) };
        let kind = kind.and_then(|kind| kind.strip_prefix("# TYPE ")?.rsplit_once(' '));
        let suffix = match kind {
            Some((_, "counter")) => "_total",
            Some((_, "info")) => "_info",
            _ => "",
        };
        match line.splitn(4, ' ').collect::<Vec<_>>().as_slice() {
            ["#", word, name, rest] if !suffix.is_empty() => {
                let rest = if *rest == "info" { "gauge" } else { rest };
                text.push_str(&format!("# {word} {name}{suffix} {rest}\n"));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// Whether an `Accept` header accepts OpenMetrics.
pub fn wants_open_metrics(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| accept.contains("application/openmetrics-text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_has_its_suffix_in_help_and_type() {
        let open = "# HELP a_requests All of them.\n# TYPE a_requests counter\na_requests_total 1\n\
                    # HELP a_level Now.\n# TYPE a_level gauge\na_level{x=\"# EOF counter\"} 2\n\
                    # HELP a_build Of it.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n# EOF\n";
        let expected = "# HELP a_requests_total All of them.\n# TYPE a_requests_total counter\n\
                        a_requests_total 1\n# HELP a_level Now.\n# TYPE a_level gauge\n\
                        a_level{x=\"# EOF counter\"} 2\n# HELP a_build_info Of it.\n\
                        # TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n";
        assert_eq!(classic(open), expected);
    }
}
