//! `outrigger events`: changes of state, past and as they come.

use super::stream::{follow, print_line};
use crate::admin::history::events::EventPage;
use crate::cli::admin_client::{AdminArgs, encode};
use crate::cli::output::{table, time};
use crate::telemetry::events::Event;

/// Show changes of state of a running sidecar, newest first: breakers, reloads, degradation modes, overrides, regressions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger events --kind breaker --key openai\n  \
    outrigger events --follow")]
pub struct EventsArgs {
    /// Print each event as it comes, until Ctrl-C.
    #[arg(long)]
    follow: bool,
    /// List only these kinds: breaker, policy, degradation, fleet, override, regression, job_dead, job_expired.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
    /// List only events of keys that begin with this text, such as openai.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// List at most this many events.
    #[arg(long, default_value = "30", value_name = "N")]
    limit: u16,
    #[command(flatten)]
    admin: AdminArgs,
}

pub fn run(args: &EventsArgs) -> Result<(), String> {
    let mut query = String::new();
    if !args.kind.is_empty() {
        query.push_str(&format!("&kind={}", encode(&args.kind.join(","))));
    }
    query.extend(args.key.iter().map(|key| format!("&key={}", encode(key))));
    if !args.follow {
        let path = format!("/api/events?limit={}{query}", args.limit);
        let text = args.admin.get(&path)?.print(list)?;
        let _ = print_line(&text);
        return Ok(());
    }
    follow(&args.admin, &format!("/api/events/stream?{}", query.trim_start_matches('&')), |event| {
        let line = if args.admin.json {
            event.data.clone()
        } else {
            serde_json::from_str(&event.data).map(|event| line(&event)).unwrap_or_default()
        };
        print_line(&line)
    })
}

fn line(event: &Event) -> String {
    format!("{} {:<11} {}  {}", time(&event.at), event.kind, event.key, event.detail)
}

fn list(page: &EventPage) -> String {
    if page.events.is_empty() {
        return page.incomplete.clone().unwrap_or_else(|| "no such event".to_owned());
    }
    let row = |event: &Event| {
        vec![time(&event.at), event.kind.to_string(), event.key.clone(), event.detail.clone()]
    };
    let listed = table(&["AT", "KIND", "KEY", "CHANGE"], page.events.iter().map(row));
    match &page.incomplete {
        Some(reason) => format!("{listed}\n\n{reason}"),
        None => listed,
    }
}
