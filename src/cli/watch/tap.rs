//! `outrigger tap`: each request as it ends.

use std::ops::ControlFlow;

use serde_json::Value;

use super::requests::{FILTER_HELP, attempts};
use super::stream::{SseEvent, follow, print_line};
use crate::cli::admin_client::{AdminArgs, encode};
use crate::cli::output::duration;

/// Print each request of a running sidecar as it ends, one on a line.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Examples:\n  \
    outrigger tap\n  \
    outrigger tap to:openai status:5xx\n  \
    outrigger tap failed --until 10 --json\n\n{FILTER_HELP}"))]
pub struct TapArgs {
    /// Terms such as to:openai or status:5xx.
    #[arg(value_name = "TERM")]
    filter: Vec<String>,
    /// End after this many requests.
    #[arg(long, value_name = "N")]
    until: Option<u64>,
    #[command(flatten)]
    admin: AdminArgs,
}

pub fn run(args: &TapArgs) -> Result<(), String> {
    let filter = encode(&args.filter.join(" "));
    let mut left = args.until;
    follow(&args.admin, &format!("/api/requests/stream?filter={filter}"), |event| {
        let line = if args.admin.json { event.data.clone() } else { line(event) };
        print_line(&line)?;
        if event.name.is_empty() {
            left = left.map(|left| left.saturating_sub(1));
        }
        if left == Some(0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

fn line(event: &SseEvent) -> String {
    let record: Value = serde_json::from_str(&event.data).unwrap_or_default();
    if event.name == "skipped" {
        return format!("... {} requests more", record["skipped"]);
    }
    let text = |key: &str| record[key].as_str().unwrap_or_default();
    let clock = text("time").get(11..23).unwrap_or_default();
    let took = duration(record["duration_ms"].as_f64().unwrap_or_default() as u64);
    let mut line = format!(
        "{clock} {} {} {} [{}] {} in {took}",
        record["status"],
        text("method"),
        text("path"),
        text("route"),
        attempts(&record)
    );
    if let Some(waited) = record["wait_ms"].as_f64() {
        line.push_str(&format!(", waited {}", duration(waited as u64)));
    }
    for key in ["model", "reason", "cache"] {
        if let Some(value) = record[key].as_str() {
            line.push_str(&format!(" {key}={value}"));
        }
    }
    line.push_str(&format!(" {}", text("request_id")));
    line
}
