//! `outrigger queue`: waiting requests and durable jobs, and the changes that an operator makes.

use clap::Subcommand;
use serde_json::Value;

use super::admin_client::{AdminArgs, NoteArgs, encode};
use super::output::{
    NONE, count, decimal, duration, optional_duration, optional_table, size, table, time,
};
use crate::admin::change::Action;
use crate::admin::jobs::{JobAction, JobPage, JobStatus, JobsChanged};
use crate::admin::queue::{ClassStatus, QueueAction, QueueList, QueueStatus};

/// Show waiting requests and durable jobs of a running sidecar, or change them.
///
/// Without a command, lists each queue with its classes, its jobs by state, and the rate at which providers drain. TENANTS is the number of tenants with waiting requests, who take turns. TURNS is the least share of the dispatches that a class gets while its requests wait. DRAIN RATE is how many waiting requests a provider takes per second.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger queue\n  \
    outrigger queue pause default --reason \"incident 42\"\n  \
    outrigger queue jobs default --state dead\n  \
    outrigger queue requeue default")]
pub struct QueueArgs {
    #[command(subcommand)]
    command: Option<QueueCommand>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// Dispatch nothing from a queue until `resume`. New requests wait for as long as their timeout allows.
    #[command(after_help = "Example:\n  outrigger queue pause default --reason \"incident 42\"")]
    Pause(QueueNameArgs),
    /// Dispatch from a paused queue again.
    #[command(after_help = "Example:\n  outrigger queue resume default")]
    Resume(QueueNameArgs),
    /// List jobs, newest first.
    #[command(after_help = "Example:\n  outrigger queue jobs default --state dead --limit 20")]
    Jobs(JobsArgs),
    /// Show one job.
    #[command(after_help = "Example:\n  outrigger queue job 01a2286701baabc491daaa5dccfa0ccf")]
    Job {
        /// The job's id, as `queue jobs` and the `Location` header give it.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// End a job that is not finished.
    #[command(after_help = "Example:\n  outrigger queue cancel 01a2286701baabc491daaa5dccfa0ccf")]
    Cancel(JobIdArgs),
    /// Run a job again that is dead, or that waits for its next run.
    #[command(after_help = "Example:\n  outrigger queue retry 01a2286701baabc491daaa5dccfa0ccf")]
    Retry(JobIdArgs),
    /// Run all dead jobs of a queue again.
    #[command(after_help = "Example:\n  outrigger queue requeue default")]
    Requeue(QueueNameArgs),
    /// Delete the finished jobs of a queue that are in one state.
    #[command(after_help = "Example:\n  outrigger queue purge default --state done")]
    Purge {
        #[command(flatten)]
        queue: QueueNameArgs,
        /// dead, done, expired or cancelled.
        #[arg(long, value_name = "STATE", default_value = "dead")]
        state: String,
    },
}

#[derive(Debug, clap::Args)]
struct QueueNameArgs {
    /// The queue's name in the policy.
    #[arg(value_name = "QUEUE")]
    name: String,
    #[command(flatten)]
    note: NoteArgs,
}

#[derive(Debug, clap::Args)]
struct JobIdArgs {
    /// The job's id.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    note: NoteArgs,
}

#[derive(Debug, clap::Args)]
struct JobsArgs {
    /// List only jobs of this queue.
    #[arg(value_name = "QUEUE")]
    queue: Option<String>,
    /// List only jobs in this state: ready, retry_wait, leased, done, dead, expired or cancelled.
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// List at most this many jobs.
    #[arg(long, default_value = "50", value_name = "N")]
    limit: u16,
    /// Continue a list: the cursor that the previous page ended with.
    #[arg(long, value_name = "CURSOR")]
    before: Option<i64>,
}

pub fn run(args: &QueueArgs) -> Result<String, String> {
    let admin = &args.admin;
    let Some(command) = &args.command else {
        return admin.get("/api/queue")?.print(list);
    };
    match command {
        QueueCommand::Pause(queue) => change(admin, QueueAction::Pause, queue),
        QueueCommand::Resume(queue) => change(admin, QueueAction::Resume, queue),
        QueueCommand::Jobs(query) => admin.get(&query.path())?.print(jobs),
        QueueCommand::Job { id } => {
            admin.get(&format!("/api/queue/jobs/{}", encode(id)))?.print(job)
        }
        QueueCommand::Cancel(job) => change_job(admin, JobAction::Cancel, job),
        QueueCommand::Retry(job) => change_job(admin, JobAction::Retry, job),
        QueueCommand::Requeue(QueueNameArgs { name, note }) => {
            let reply =
                admin.post(&format!("/api/queue/requeue/{}", encode(name)), &note.request());
            let text = |reply: &JobsChanged| {
                format!("{name}: {} to run again", count(reply.changed, "job"))
            };
            reply?.print(text)
        }
        QueueCommand::Purge { queue: QueueNameArgs { name, note }, state } => {
            let path = format!("/api/queue/purge/{}?state={}", encode(name), encode(state));
            let text =
                |reply: &JobsChanged| format!("{name}: {} deleted", count(reply.changed, "job"));
            admin.post(&path, &note.request())?.print(text)
        }
    }
}

fn change(admin: &AdminArgs, action: QueueAction, queue: &QueueNameArgs) -> Result<String, String> {
    let path = format!("/api/queue/{}/{}", action.as_str(), encode(&queue.name));
    let text = |queue: &QueueStatus| match queue.paused {
        true => {
            format!("{}: paused; requests wait for as long as their timeout allows", queue.name)
        }
        false => format!("{}: in use", queue.name),
    };
    admin.post(&path, &queue.note.request())?.print(text)
}

fn change_job(admin: &AdminArgs, action: JobAction, args: &JobIdArgs) -> Result<String, String> {
    let path = format!("/api/queue/jobs/{}/{}", action.as_str(), encode(&args.id));
    admin.post(&path, &args.note.request())?.print(job)
}

impl JobsArgs {
    fn path(&self) -> String {
        let mut path = format!("/api/queue/jobs?limit={}", self.limit);
        for (key, value) in [("queue", &self.queue), ("state", &self.state)] {
            path.extend(value.as_ref().map(|value| format!("&{key}={}", encode(value))));
        }
        path.extend(self.before.map(|before| format!("&before={before}")));
        path
    }
}

fn jobs(page: &JobPage) -> String {
    let row = |job: &JobStatus| {
        vec![
            job.id.clone(),
            format!("{}/{}", job.queue, job.class),
            job.state.clone(),
            format!("{} {}", job.method, job.path),
            job.attempts.to_string(),
            duration(job.age_ms),
            job.error.clone().unwrap_or_else(|| NONE.to_owned()),
        ]
    };
    if page.jobs.is_empty() {
        return "no jobs".to_owned();
    }
    let header = ["ID", "QUEUE/CLASS", "STATE", "REQUEST", "FAILED", "AGE", "LAST ERROR"];
    let more = page.next.map(|next| format!("\n(more: --before {next})"));
    table(&header, page.jobs.iter().map(row)) + &more.unwrap_or_default()
}

/// A row for each field.
fn job(job: &JobStatus) -> String {
    let fields = serde_json::to_value(job).unwrap_or_default();
    let text = |name: &str, value: &Value| match (name, value) {
        ("bytes", Value::Number(bytes)) => size(bytes.as_u64().unwrap_or_default()),
        ("age_ms", Value::Number(age)) => duration(age.as_u64().unwrap_or_default()),
        ("accepted" | "due" | "expires" | "finished", Value::String(at)) => time(at),
        (_, Value::String(text)) => text.clone(),
        _ => value.to_string(),
    };
    let row = |(name, value): (&String, &Value)| {
        vec![name.trim_end_matches("_ms").to_owned(), text(name, value)]
    };
    table(&["FIELD", "VALUE"], fields.as_object().into_iter().flatten().map(row))
}

fn list(list: &QueueList) -> String {
    let classes = list
        .queues
        .iter()
        .flat_map(|queue| queue.classes.iter().map(move |class| class_row(queue, class)));
    let header = ["QUEUE", "STATE", "CLASS", "WEIGHT", "WAITING", "OLDEST", "TENANTS", "TURNS"];
    let queues = optional_table(&header, classes);
    let queues = queues.unwrap_or_else(|| "no queues (no route uses one)".to_owned());
    let header = ["JOBS OF", "READY", "RETRY WAIT", "RUNNING", "DONE", "DEAD", "OLDEST"];
    let jobs = optional_table(&header, list.queues.iter().filter_map(jobs_row));
    let jobs =
        jobs.unwrap_or_else(|| "no job store (start the sidecar with --data DIR)".to_owned());
    let providers = list.providers.iter().map(|provider| {
        let rate = provider.drain_rate.map(|rate| format!("{}/s", decimal(rate, 1)));
        let rate = rate.unwrap_or_else(|| NONE.to_owned());
        vec![provider.name.clone(), provider.waiting.to_string(), rate]
    });
    let header = ["PROVIDER", "WAITING", "DRAIN RATE"];
    format!("{queues}\n\n{jobs}\n\n{}", table(&header, providers))
}

fn class_row(queue: &QueueStatus, class: &ClassStatus) -> Vec<String> {
    vec![
        queue.name.clone(),
        if queue.paused { "paused" } else { "in use" }.to_owned(),
        class.name.clone(),
        class.weight.to_string(),
        class.waiting.to_string(),
        optional_duration(class.oldest_ms),
        class.flows.len().to_string(),
        match class.at_least_every {
            1 => "all".to_owned(),
            every => format!("1 in {every}"),
        },
    ]
}

fn jobs_row(queue: &QueueStatus) -> Option<Vec<String>> {
    let jobs = queue.jobs.as_ref()?;
    let count = |state: &str| jobs.states.get(state).copied().unwrap_or_default().to_string();
    let mut row = vec![queue.name.clone()];
    row.extend(["ready", "retry_wait", "leased", "done", "dead"].map(count));
    row.push(optional_duration(jobs.oldest_ms));
    Some(row)
}
