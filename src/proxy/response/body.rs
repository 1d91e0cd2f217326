//! The response body that hyper sends.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::fan_out::FanOut;
use super::stored::{FollowerBody, RecordedBody};
use super::stream::{Polled, Streaming};
use crate::cache::entry::CachedBody;
use crate::proxy::downstream::connection::ResponseGuard;
use crate::upstream::BoxError;

/// The body of a response.
#[derive(Debug)]
pub enum ResponseBody {
    /// `None` after it was returned.
    Full(Option<Bytes>),
    Stream(Box<Streaming>),
    /// From the cache.
    Cached(CachedBody, ResponseGuard),
    /// Read from the response of another, equal request.
    Follower(Box<FollowerBody>),
    /// Recorded for the cache.
    Recorded(Box<RecordedBody>),
    /// Recorded for the cache and shared with followers.
    FanOut(Box<FanOut>),
}

impl ResponseBody {
    pub fn full(bytes: Bytes) -> Self {
        ResponseBody::Full((!bytes.is_empty()).then_some(bytes))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            ResponseBody::Full(bytes) => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            ResponseBody::Stream(stream) => stream.poll_next(cx),
            ResponseBody::Cached(cached, _) => {
                Poll::Ready(cached.next_piece().map(|bytes| Ok(Frame::data(bytes))))
            }
            ResponseBody::Follower(followed) => followed.poll_next(cx),
            ResponseBody::Recorded(recorded) => recorded.poll_next(cx),
            ResponseBody::FanOut(fan_out) => fan_out.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Full(bytes) => bytes.is_none(),
            ResponseBody::Stream(stream) => stream.is_at_end(),
            ResponseBody::Cached(cached, _) => cached.is_at_end(),
            ResponseBody::Follower(_) => false,
            ResponseBody::Recorded(recorded) => recorded.is_at_end(),
            ResponseBody::FanOut(fan_out) => fan_out.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = match self {
            ResponseBody::Full(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            ResponseBody::Stream(stream) => stream.left(),
            ResponseBody::Cached(cached, _) => cached.declared_length(),
            ResponseBody::Follower(_) => None,
            ResponseBody::Recorded(recorded) => recorded.left(),
            ResponseBody::FanOut(fan_out) => fan_out.left(),
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
