//! `outrigger queue`: who waits in a running sidecar; pause a queue and resume it by hand.

use serde_json::Value;

use super::ask::{Ask, Change, Failed, escaped, length, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `pause` or `resume`; without, all queues are listed.
    #[arg(value_name = "ACTION", requires = "queue", value_parser = ["pause", "resume"])]
    action: Option<String>,
    /// The queue's name in the policy.
    #[arg(value_name = "QUEUE")]
    queue: Option<String>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    ask: Ask,
}

/// # Errors
/// When the sidecar does not answer, or refuses.
pub fn run(args: &Args) -> Result<String, Failed> {
    let (Some(action), Some(queue)) = (&args.action, &args.queue) else {
        let overview = args.ask.get("/api/queue")?;
        return Ok(if args.ask.json { format!("{overview:#}") } else { told(&overview) });
    };
    let path = format!("/api/queue/{action}/{}", escaped(queue));
    let said = args.ask.post(&path, &args.change)?;
    if args.ask.json {
        return Ok(format!("{said:#}"));
    }
    Ok(match said["paused"] == true {
        true => format!("{queue}: paused; whoever comes waits, for as long as its timeout allows"),
        false => format!("{queue}: in use"),
    })
}

fn told(overview: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let queues = list(&overview["queues"]);
    let rows = queues.iter().flat_map(|queue| {
        let state = if queue["paused"] == true { "paused" } else { "in use" };
        let row = move |class: &Value| {
            vec![
                text(&queue["name"]),
                state.to_owned(),
                text(&class["name"]),
                class["weight"].to_string(),
                class["waiting"].to_string(),
                class["oldest_ms"].as_u64().map_or_else(|| "-".to_owned(), length),
                list(&class["flows"]).len().to_string(),
                class["at_least_every"].to_string(),
            ]
        };
        list(&queue["classes"]).iter().map(row).collect::<Vec<_>>()
    });
    let rows: Vec<_> = rows.collect();
    let head =
        ["QUEUE", "STATE", "CLASS", "WEIGHT", "WAITING", "OLDEST", "FLOWS", "AT LEAST EVERY"];
    let providers = list(&overview["providers"]);
    let rate =
        |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}/s"));
    let provider = |provider: &Value| {
        vec![
            text(&provider["name"]),
            provider["waiting"].to_string(),
            rate(provider["drain_rate"].as_f64()),
        ]
    };
    let providers: Vec<_> = providers.iter().map(provider).collect();
    let providers = table(&["PROVIDER", "WAITING", "DRAINS"], &providers);
    format!("{}\n\n{providers}", table(&head, &rows))
}
