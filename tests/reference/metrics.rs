//! The text of `docs/reference/metrics.md`, from the table of metrics.

use outrigger::telemetry::metrics::{METRICS, MetricInfo};

/// The reference of the metrics as Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\n`GET /metrics` on the admin listener, or on `--metrics`, in the Prometheus text \
         format or as OpenMetrics. Label values come from the policy or from a fixed set, so the number \
         of series is bounded. Series of names that a reload removes are removed too.\n\n\
         | metric | type | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for MetricInfo { name, suffix, kind, labels, help } in METRICS {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        text.push_str(&format!("| `outrigger_{name}{suffix}` | {kind} | {labels} | {help} |\n"));
    }
    text.push_str(
        "\n`process_start_time_seconds`, `process_resident_memory_bytes`, `process_open_fds` and \
         `process_cpu_seconds_total` are exported as by every Prometheus client.\n",
    );
    text
}
