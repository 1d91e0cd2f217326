//! Streams of server-sent events, for what happens while a page or a command watches.
//!
//! The number of streams is bounded, and a connection ends after a minute: a client connects again
//! with the number of the last event that it saw, and receives those that it missed
//! (WHATWG HTML, "Server-sent events").

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::admin::error::{ApiError, ApiErrorKind};
use crate::admin::state::{AdminState, EVENT_STREAMS};

/// A comment is sent after this time without an event.
const SILENCE: Duration = Duration::from_secs(15);
/// The pause before a client connects again, in milliseconds.
const RETRY: &str = "retry: 200\n\n";
/// Pieces that wait for a client.
const PENDING: usize = 16;

pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Answers with a stream. `next` appends the events after a number to the text and returns the
/// number of the last one; it is called whenever `newest` changes.
///
/// # Errors
/// If all places are taken.
pub fn open(
    admin: &AdminState,
    mut newest: watch::Receiver<u64>,
    after: Option<u64>,
    mut next: impl FnMut(u64, &mut String) -> u64 + Send + 'static,
) -> Result<Response, ApiError> {
    let place = Arc::clone(&admin.streams).try_acquire_owned().map_err(|_| {
        let detail = format!("{EVENT_STREAMS} streams are open already: close one, or try later");
        ApiError::new(ApiErrorKind::TooManyStreams, detail)
    })?;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(PENDING);
    let last = *newest.borrow();
    // Numbers of an earlier process say nothing about this one.
    let mut seen = after.filter(|after| *after <= last).unwrap_or(last);
    let (presence, mut left) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut text = RETRY.to_owned();
        loop {
            newest.mark_unchanged();
            seen = next(seen, &mut text);
            if !text.is_empty() && !send(&mut sender, &mut text).await {
                return;
            }
            tokio::select! {
                _ = &mut left => return,
                changed = timeout(SILENCE, newest.changed()) => match changed {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => text.push_str(":\n\n"),
                },
            }
        }
    });
    // The body is dropped as soon as the client has left.
    let body = body.map_frame(move |frame| {
        let _held = (&place, &presence);
        frame
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(body)).into_response())
}

/// Returns false if the client has left.
async fn send(sender: &mut Sender<Bytes, Infallible>, text: &mut String) -> bool {
    sender.send_data(Bytes::from(std::mem::take(text))).await.is_ok()
}

/// The number that a client that connects again saw last.
pub fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    headers.get(LAST_EVENT_ID)?.to_str().ok()?.trim().parse().ok()
}
