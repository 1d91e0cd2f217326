//! After an upgrade: bytes both ways until either side ends.
//!
//! A tunnel begins only after the upstream's 101 (HTTP.md rule 8); until then the connection speaks
//! HTTP, and a request smuggled behind an upgrade that was refused is an ordinary request.

use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use super::answer::ResBody;
use super::story::{End, Story};
use crate::live::permit::Flight;
use crate::upstream::AnswerBody;

/// Joins both sides once each has switched; gives the task that does.
pub fn start(
    client: Option<OnUpgrade>,
    response: &mut Response<ResBody>,
    rest: AnswerBody,
    flight: Flight,
    mut story: Box<Story>,
) -> Option<JoinHandle<()>> {
    let provider = hyper::upgrade::on(response);
    let Some(client) = client else {
        story.finish(End::Cut("upgraded_unasked"));
        return None;
    };
    Some(tokio::task::spawn_local(async move {
        let _held = (rest.finish().await, flight);
        let end = match tokio::try_join!(client, provider) {
            Err(_) => End::Cut("upgrade_failed"),
            Ok((client, provider)) => {
                let (mut client, mut provider) = (TokioIo::new(client), TokioIo::new(provider));
                match tokio::io::copy_bidirectional(&mut client, &mut provider).await {
                    Ok((up, down)) => {
                        story.bytes_in = up;
                        story.bytes_out = down;
                        End::Answered
                    }
                    Err(_) => End::Cut("broken"),
                }
            }
        };
        story.finish(end);
    }))
}
