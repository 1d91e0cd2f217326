//! `outrigger cache`: what a running sidecar has stored, and forgetting it by hand.

use serde_json::Value;

use super::admin_client::{Ask, Change, Failed, escaped, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `purge` forgets all that a cache holds. Without, all caches are listed.
    #[arg(value_name = "ACTION", value_parser = ["purge"])]
    action: Option<String>,
    /// The cache's name in the policy.
    #[arg(value_name = "CACHE", required_if_eq("action", "purge"))]
    name: Option<String>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    ask: Ask,
}

/// # Errors
/// When the sidecar does not answer, or refuses.
pub fn run(args: &Args) -> Result<String, Failed> {
    let said = match (&args.action, &args.name) {
        (Some(_), Some(name)) => {
            args.ask.post(&format!("/api/caches/purge/{}", escaped(name)), &args.change)?
        }
        _ => args.ask.get("/api/caches")?,
    };
    if args.ask.json {
        return Ok(format!("{said:#}"));
    }
    if args.action.is_some() {
        return Ok(format!("{}: {} entries forgotten", words(&said["cache"]), said["entries"]));
    }
    let rows: Vec<_> = said["caches"].as_array().into_iter().flatten().map(row).collect();
    let did = ["HIT", "STALE", "REVALIDATED", "MISS", "COLLAPSED", "BYPASS"];
    let head: Vec<_> =
        ["CACHE", "ENTRIES", "BYTES", "OF", "EVICTED"].into_iter().chain(did).collect();
    Ok(match rows.as_slice() {
        [] => "no caches (no route has one)".to_owned(),
        rows => table(&head, rows),
    })
}

fn row(cache: &Value) -> Vec<String> {
    let did = ["hit", "stale", "revalidated", "miss", "coalesced", "bypass"];
    let figures = ["name", "entries", "bytes", "max_bytes", "evictions"];
    let did = did.iter().map(|name| words(&cache["requests"][*name]));
    figures.iter().map(|name| words(&cache[*name])).chain(did).collect()
}

fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
