//! Waiting with a time limit. A future that is ready at once costs no timer.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::{Sleep, sleep_until};

/// The time limit passed before the future was ready.
#[derive(Debug, PartialEq, Eq)]
pub struct Elapsed;

/// A reusable timer. Resetting it to a later time costs next to nothing; a new one for each wait
/// would take the runtime's lock twice.
#[derive(Default)]
pub struct Timer(Cell<Option<Pin<Box<Sleep>>>>);

impl Timer {
    /// Ready at `at`.
    fn poll(&self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let mut sleep = self.0.take().unwrap_or_else(|| Box::pin(sleep_until(at.into())));
        if sleep.deadline() != at.into() {
            sleep.as_mut().reset(at.into());
        }
        let polled = sleep.as_mut().poll(cx);
        self.0.set(Some(sleep));
        polled
    }

    /// Awaits a future until `at`; the future is polled first.
    ///
    /// # Errors
    /// `Elapsed` when the time passed first.
    pub async fn until<F: Future>(&self, at: Instant, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll(at, cx).map(|()| Err(Elapsed)),
        })
        .await
    }

    /// The next frame of a body.
    ///
    /// # Errors
    /// `Elapsed` when the time passed first.
    pub async fn frame<B>(
        &self,
        body: &mut B,
        at: Instant,
    ) -> Result<Option<Result<Frame<Bytes>, B::Error>>, Elapsed>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        self.until(at, body.frame()).await
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timer")
    }
}
