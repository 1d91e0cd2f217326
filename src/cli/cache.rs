//! `outrigger cache`: lists caches and purges one.

use clap::Subcommand;

use super::admin_client::{AdminArgs, NoteArgs, encode};
use super::output::table;
use crate::admin::caches::{CacheList, CachePurged, CacheSummary};
use crate::cache::store::CacheResult;

/// List the caches of a running sidecar with their hit counts, or purge one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger cache\n  \
    outrigger cache purge completions --reason \"prompt changed\"")]
pub struct CacheArgs {
    #[command(subcommand)]
    command: Option<CacheCommand>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Remove every entry of a cache.
    #[command(
        after_help = "Example:\n  outrigger cache purge completions --reason \"prompt changed\""
    )]
    Purge {
        /// The cache's name in the policy.
        #[arg(value_name = "CACHE")]
        name: String,
        #[command(flatten)]
        note: NoteArgs,
    },
}

pub fn run(args: &CacheArgs) -> Result<String, String> {
    match &args.command {
        None => args.admin.get("/api/caches")?.print(list),
        Some(CacheCommand::Purge { name, note }) => {
            let path = format!("/api/caches/purge/{}", encode(name));
            let purged =
                |reply: &CachePurged| format!("{}: {} entries removed", reply.cache, reply.entries);
            args.admin.post(&path, &note.request())?.print(purged)
        }
    }
}

fn list(list: &CacheList) -> String {
    if list.caches.is_empty() {
        return "no caches (no route uses one)".to_owned();
    }
    let results = CacheResult::ALL.map(|result| result.as_str().to_uppercase());
    let header = ["CACHE", "ENTRIES", "BYTES", "MAX BYTES", "EVICTIONS"];
    let header: Vec<&str> = header.into_iter().chain(results.iter().map(String::as_str)).collect();
    table(&header, list.caches.iter().map(row))
}

fn row(cache: &CacheSummary) -> Vec<String> {
    let CacheSummary { name, entries, bytes, max_bytes, evictions, .. } = cache;
    let figures = [entries, bytes, max_bytes, evictions].map(u64::to_string);
    let count =
        |result: CacheResult| cache.requests.get(result.as_str()).copied().unwrap_or_default();
    let results = CacheResult::ALL.map(|result| count(result).to_string());
    std::iter::once(name.clone()).chain(figures).chain(results).collect()
}
