//! `outrigger queue`: who waits in a running sidecar, which jobs it keeps; what is done about them by
//! hand.

use serde_json::Value;

use super::admin_client::{Ask, Change, Failed, escaped, length, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of a queue: `pause`, `resume`, `jobs`, `requeue` (its dead run again) or `purge` (what is over
    /// is forgotten). Of a job: `job`, `cancel` or `retry`. Without, all queues are listed.
    #[arg(value_name = "ACTION", value_parser = ["pause", "resume", "jobs", "requeue", "purge", "job", "cancel", "retry"])]
    action: Option<String>,
    /// The queue's name in the policy, or the job's id.
    #[arg(value_name = "QUEUE|ID", required_if_eq_any = [
        ("action", "pause"), ("action", "resume"), ("action", "requeue"), ("action", "purge"),
        ("action", "job"), ("action", "cancel"), ("action", "retry"),
    ])]
    name: Option<String>,
    /// Jobs in this state: ready, retry_wait, leased, done, dead, expired or cancelled.
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// So many jobs at most.
    #[arg(long, default_value = "50", value_name = "N")]
    limit: u16,
    /// Jobs that came before: what the last page ended with.
    #[arg(long, value_name = "CURSOR")]
    before: Option<i64>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    ask: Ask,
}

/// # Errors
/// When the sidecar does not answer, or refuses.
pub fn run(args: &Args) -> Result<String, Failed> {
    let name = escaped(args.name.as_deref().unwrap_or_default());
    let action = args.action.as_deref().unwrap_or_default();
    let said = match action {
        "" => args.ask.get("/api/queue")?,
        "jobs" => args.ask.get(&args.list())?,
        "job" => args.ask.get(&format!("/api/queue/jobs/{name}"))?,
        "cancel" | "retry" => {
            args.ask.post(&format!("/api/queue/jobs/{action}/{name}"), &args.change)?
        }
        "purge" => {
            let state = args.state.as_deref().unwrap_or("dead");
            let path = format!("/api/queue/purge/{name}?state={}", escaped(state));
            args.ask.post(&path, &args.change)?
        }
        _ => args.ask.post(&format!("/api/queue/{action}/{name}"), &args.change)?,
    };
    if args.ask.json {
        return Ok(format!("{said:#}"));
    }
    Ok(match action {
        "" => told(&said),
        "jobs" => jobs(&said),
        "job" | "cancel" | "retry" => job(&said),
        "requeue" => format!("{name}: {} jobs run again", said["changed"]),
        "purge" => format!("{name}: {} jobs forgotten", said["changed"]),
        _ if said["paused"] == true => {
            format!("{name}: paused; whoever comes waits, for as long as its timeout allows")
        }
        _ => format!("{name}: in use"),
    })
}

impl Args {
    fn list(&self) -> String {
        let mut path = format!("/api/queue/jobs?limit={}", self.limit);
        let given = [("queue", &self.name), ("state", &self.state)];
        for (key, value) in given.into_iter().filter_map(|(k, v)| Some((k, v.as_ref()?))) {
            path.push_str(&format!("&{key}={}", escaped(value)));
        }
        path.extend(self.before.map(|before| format!("&before={before}")));
        path
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn jobs(page: &Value) -> String {
    let list = page["jobs"].as_array().cloned().unwrap_or_default();
    let keys = ["id", "queue", "class", "state", "method", "path", "attempts", "error"];
    let row = |job: &Value| {
        let mut cells: Vec<_> = keys.iter().map(|key| text(&job[*key])).collect();
        cells.insert(7, job["age_ms"].as_u64().map_or_else(|| "-".to_owned(), length));
        cells
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    let head = ["ID", "QUEUE", "CLASS", "STATE", "METHOD", "PATH", "ATTEMPTS", "AGE", "LAST ERROR"];
    let more = page["next"].as_i64().map(|next| format!("\n(more: --before {next})"));
    table(&head, &rows) + &more.unwrap_or_default()
}

fn job(job: &Value) -> String {
    let fields = job.as_object().cloned().unwrap_or_default();
    let rows: Vec<_> = fields.iter().map(|(key, value)| vec![key.clone(), text(value)]).collect();
    table(&["FIELD", "VALUE"], &rows)
}

fn told(overview: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
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
    let of_jobs = |queue: &Value| {
        let states = queue["jobs"]["states"].as_object()?;
        let count = |state: &str| states.get(state).map_or_else(|| "0".to_owned(), text);
        let mut row = vec![text(&queue["name"])];
        row.extend(["ready", "retry_wait", "leased", "done", "dead"].map(count));
        row.push(queue["jobs"]["oldest_ms"].as_u64().map_or_else(|| "-".to_owned(), length));
        Some(row)
    };
    let kept: Vec<_> = queues.iter().filter_map(of_jobs).collect();
    let head_jobs = ["QUEUE", "JOBS READY", "RETRY", "RUN", "DONE", "DEAD", "OLDEST READY"];
    let kept = match kept.is_empty() {
        true => "no jobs are kept (run with --data DIR)".to_owned(),
        false => table(&head_jobs, &kept),
    };
    format!("{}\n\n{kept}\n\n{providers}", table(&head, &rows))
}
