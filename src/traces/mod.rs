//! Exports the spans of requests and attempts: OTLP over HTTP, in JSON, off the request path.
//!
//! The workers pass the access records of sampled requests. They become spans here (`spans.rs`),
//! after the request has ended, and are sent in batches. The ids are those that the request path
//! has sent to the provider. `docs/traces.md` lists the attributes.

mod exporter;
mod gen_ai;
mod otlp;
mod record;
mod spans;
#[cfg(test)]
mod tests;

use tokio::task::LocalSet;

use crate::live::Live;
use crate::snapshot::CurrentSnapshot;
use crate::traces::exporter::SpanExporter;
use crate::upstream::Resolver;

/// Exports spans until the process ends.
pub async fn run(current: &CurrentSnapshot, live: &Live, resolver: Resolver) {
    let exporter = SpanExporter::new(current, live, resolver);
    LocalSet::new().run_until(exporter.run()).await;
}
