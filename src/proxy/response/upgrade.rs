//! The tunnel after an upgrade: bytes both ways until either side closes.
//!
//! A tunnel begins only after the provider's 101 (docs/design/http.md "Upgrades"). Until then the
//! connection speaks HTTP, and bytes behind a rejected upgrade are an ordinary request.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::live::permit::AttemptSlot;
use crate::proxy::access_log::reasons::{Interruption, RequestEnd};
use crate::proxy::access_log::record::AccessRecord;
use crate::proxy::downstream::connection::TunnelTask;
use crate::telemetry::panics::Contained;
use crate::upstream::IncomingBody;

/// Starts the task that connects both sides after they have switched protocols.
pub fn start(
    client: Option<OnUpgrade>,
    rest: IncomingBody,
    flight: AttemptSlot,
    mut record: Box<AccessRecord>,
) -> Option<TunnelTask> {
    let (Some(client), Some(mut provider)) = (client, rest.into_tunnel()) else {
        record.finish(RequestEnd::Interrupted(Interruption::UpgradeNotRequested));
        return None;
    };
    let tunnel = async move {
        let _flight = flight;
        let end = match client.await {
            Err(_) => RequestEnd::Interrupted(Interruption::UpgradeFailed),
            Ok(client) => {
                let mut client = TokioIo::new(client);
                match tokio::io::copy_bidirectional(&mut client, &mut provider).await {
                    Ok((up, down)) => {
                        record.bytes_in = up;
                        record.bytes_out = down;
                        RequestEnd::Complete
                    }
                    Err(_) => RequestEnd::Interrupted(Interruption::Broken),
                }
            }
        };
        record.finish(end);
    };
    Some(tokio::task::spawn_local(Contained::new(tunnel)))
}
