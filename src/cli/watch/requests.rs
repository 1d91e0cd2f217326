//! `outrigger requests` and `outrigger why`: the last requests, and each decision about one.

use clap::Subcommand;
use serde_json::Value;

use crate::admin::history::requests::{RequestDetail, RequestPage};
use crate::cli::admin_client::{AdminArgs, encode};
use crate::cli::output::{NONE, duration, table, time};

/// The terms of a filter, for `--help`.
pub const FILTER_HELP: &str = "Filters:\n  \
    to:openai            an attempt went to this provider\n  \
    route:chat model:gpt-4o*\n  \
    status:5xx           or 503, >=400, 429|503\n  \
    waited:>1s took:>2s attempts:>1\n  \
    failed retried fallback degraded\n  \
    id:ID path:/v1/* key:CREDENTIAL outcome:throttled error:TEXT cache:hit class:high\n\n\
    All terms must hold. `!` in front of a term negates it.";

/// Show the last requests of a running sidecar, newest first.
///
/// ATTEMPTS lists the providers in order, each with the status of its response. The sidecar keeps the last 1,000 requests; `outrigger why ID` explains one of them.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Examples:\n  \
    outrigger requests failed\n  \
    outrigger requests to:openai status:5xx 'waited:>1s' --limit 20\n  \
    outrigger requests show 4bf92f3577b34da6a3ce929d0e0e4736\n\n{FILTER_HELP}"))]
#[command(args_conflicts_with_subcommands = true)]
pub struct RequestsArgs {
    #[command(subcommand)]
    command: Option<RequestsCommand>,
    /// Terms such as to:openai or status:5xx.
    #[arg(value_name = "TERM")]
    filter: Vec<String>,
    /// List at most this many requests.
    #[arg(long, default_value = "30", value_name = "N")]
    limit: u16,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum RequestsCommand {
    /// Show one request: its decisions, its record, and a command that sends it again.
    #[command(after_help = "Example:\n  outrigger requests show 4bf92f3577b34da6a3ce929d0e0e4736")]
    Show {
        /// The request's id, as the response header `outrigger-request-id` has it.
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Tell why a request went where it went: each decision, with the place in the policy that led to it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  outrigger why 4bf92f3577b34da6a3ce929d0e0e4736")]
pub struct WhyArgs {
    /// The request's id, as the response header `outrigger-request-id` has it.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    admin: AdminArgs,
}

pub fn run(args: &RequestsArgs) -> Result<String, String> {
    match &args.command {
        Some(RequestsCommand::Show { id }) => show(&args.admin, id, true),
        None => {
            let filter = encode(&args.filter.join(" "));
            let path = format!("/api/requests?filter={filter}&limit={}", args.limit);
            args.admin.get(&path)?.print(list)
        }
    }
}

pub fn why(args: &WhyArgs) -> Result<String, String> {
    show(&args.admin, &args.id, false)
}

fn list(page: &RequestPage) -> String {
    let header = ["ENDED", "STATUS", "ROUTE", "MODEL", "ATTEMPTS", "WAITED", "TOOK", "ID"];
    if page.requests.is_empty() {
        return format!("no such request among the last {}", page.kept);
    }
    let mut text = table(&header, page.requests.iter().map(row));
    if page.sampled {
        text.push_str(
            "\n\nsome requests may be missing: the access log is text or off, and \
             server.recent_requests bounds how many are kept",
        );
    }
    text
}

fn row(record: &Value) -> Vec<String> {
    let text = |key: &str| record[key].as_str().unwrap_or(NONE).to_owned();
    let ms = |key: &str| record[key].as_f64().map_or(NONE.to_owned(), |ms| duration(ms as u64));
    vec![
        time(record["time"].as_str().unwrap_or_default()),
        record["status"].to_string(),
        text("route"),
        text("model"),
        attempts(record),
        ms("wait_ms"),
        ms("duration_ms"),
        text("request_id"),
    ]
}

/// `openai 503, anthropic 200`.
pub fn attempts(record: &Value) -> String {
    let attempts = record["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    let attempt = |attempt: &Value| {
        let endpoint = attempt["endpoint"].as_str().unwrap_or_default();
        let provider = endpoint.split('/').next().unwrap_or_default();
        let class = attempt["class"].as_str().unwrap_or_default();
        match attempt["status"].as_u64() {
            Some(status) => format!("{provider} {status}"),
            None => format!("{provider} {class}"),
        }
    };
    let all: Vec<_> = attempts.iter().map(attempt).collect();
    if all.is_empty() { NONE.to_owned() } else { all.join(", ") }
}

fn show(admin: &AdminArgs, id: &str, whole: bool) -> Result<String, String> {
    admin.get(&format!("/api/requests/{}", encode(id)))?.print(|detail: &RequestDetail| {
        let decisions = detail.decisions.iter().map(|step| {
            let at = step.at_ms.map_or(String::new(), |ms| format!("{ms:.0} ms"));
            vec![at, step.text.clone(), step.source.clone().unwrap_or_default()]
        });
        let decisions = table(&["AT", "DECISION", "POLICY"], decisions);
        match whole {
            true => format!("{decisions}\n\n{:#}\n\n{}", detail.request, detail.curl),
            false => decisions,
        }
    })
}
