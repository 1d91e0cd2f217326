//! Waiting with a limit. What is ready at once costs no timer.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;

/// The limit passed before the future was done.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed;

/// Awaits a future until a moment; the future is polled first.
///
/// # Errors
/// `Passed` when the moment came first.
pub async fn until<F: Future>(at: Instant, future: F) -> Result<F::Output, Passed> {
    let mut future = pin!(future);
    let mut timer = pin!(None);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if timer.is_none() {
            timer.set(Some(tokio::time::sleep_until(at.into())));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(cx).map(|()| Err(Passed)),
            None => Poll::Pending,
        }
    })
    .await
}

/// The next frame of a body.
///
/// # Errors
/// `Passed` when the moment came first.
pub async fn frame<B>(
    body: &mut B,
    at: Instant,
) -> Result<Option<Result<Frame<Bytes>, B::Error>>, Passed>
where
    B: Body<Data = Bytes> + Unpin,
{
    until(at, body.frame()).await
}
