//! After an upgrade: bytes both ways until either side ends.
//!
//! A tunnel begins only after the upstream's 101 (HTTP.md rule 8); until then the connection speaks
//! HTTP, and a request smuggled behind an upgrade that was refused is an ordinary request.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use crate::live::permit::AttemptSlot;
use crate::proxy::access_log::record::{AccessRecord, End};
use crate::upstream::IncomingBody;

/// Joins both sides once each has switched; gives the task that does.
pub fn start(
    client: Option<OnUpgrade>,
    rest: IncomingBody,
    flight: AttemptSlot,
    mut record: Box<AccessRecord>,
) -> Option<JoinHandle<()>> {
    let (Some(client), Some(mut provider)) = (client, rest.into_tunnel()) else {
        record.finish(End::Cut("upgraded_unasked"));
        return None;
    };
    Some(tokio::task::spawn_local(async move {
        let _flight = flight;
        let end = match client.await {
            Err(_) => End::Cut("upgrade_failed"),
            Ok(client) => {
                let mut client = TokioIo::new(client);
                match tokio::io::copy_bidirectional(&mut client, &mut provider).await {
                    Ok((up, down)) => {
                        record.bytes_in = up;
                        record.bytes_out = down;
                        End::Answered
                    }
                    Err(_) => End::Cut("broken"),
                }
            }
        };
        record.finish(end);
    }))
}
