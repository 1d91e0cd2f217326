//! `outrigger cache`: lists caches and purges one.

use clap::Subcommand;

use super::admin_client::{AdminArgs, NoteArgs, encode};
use super::output::{NONE, size, table};
use crate::admin::caches::{CacheList, CachePurged, CacheSummary};
use crate::cache::store::CacheResult;

/// List the caches of a running sidecar with their hit counts, or purge one.
///
/// EVICTED counts responses that were removed to make room. REQUESTS counts by result: `hit` served from the cache, `stale` served although out of date, `revalidated` confirmed by the provider, `miss` fetched, `coalesced` shared the fetch of another request, `bypass` not cacheable.
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
            let purged = |reply: &CachePurged| {
                format!("{}: entries removed: {}", reply.cache, reply.entries)
            };
            args.admin.post(&path, &note.request())?.print(purged)
        }
    }
}

fn list(list: &CacheList) -> String {
    if list.caches.is_empty() {
        return "no caches (no route uses one)".to_owned();
    }
    let header = ["CACHE", "ENTRIES", "SIZE", "EVICTED", "REQUESTS"];
    table(&header, list.caches.iter().map(row))
}

fn row(cache: &CacheSummary) -> Vec<String> {
    let CacheSummary { name, entries, bytes, max_bytes, evictions, .. } = cache;
    let count = |result: CacheResult| {
        let count = cache.requests.get(result.as_str()).filter(|count| **count > 0)?;
        Some(format!("{count} {}", result.as_str()))
    };
    let requests: Vec<_> = CacheResult::ALL.into_iter().filter_map(count).collect();
    vec![
        name.clone(),
        entries.to_string(),
        format!("{} of {}", size(*bytes), size(*max_bytes)),
        evictions.to_string(),
        if requests.is_empty() { NONE.to_owned() } else { requests.join(", ") },
    ]
}
