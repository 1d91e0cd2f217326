//! The body of an answer as hyper takes it: whole, or passed on as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::fan_out::Ahead;
use super::stored::{Followed, Recorded, Replay};
use super::stream::{Polled, Streaming};
use crate::upstream::BoxError;

/// The body of an answer.
#[derive(Debug)]
pub enum ResBody {
    /// `None` once it was taken.
    Full(Option<Bytes>),
    Stream(Box<Streaming>),
    /// From the cache.
    Replay(Replay),
    /// Another request's.
    Followed(Box<Followed>),
    /// It is written down for the cache.
    Recorded(Box<Recorded>),
    /// It is, and others may read along.
    Ahead(Box<Ahead>),
}

impl ResBody {
    pub fn full(bytes: Bytes) -> Self {
        ResBody::Full((!bytes.is_empty()).then_some(bytes))
    }
}

impl Body for ResBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            ResBody::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ResBody::Stream(stream) => stream.poll_next(cx),
            ResBody::Replay(replay) => {
                Poll::Ready(replay.next().map(|bytes| Ok(Frame::data(bytes))))
            }
            ResBody::Followed(followed) => followed.poll_next(cx),
            ResBody::Recorded(recorded) => recorded.poll_next(cx),
            ResBody::Ahead(ahead) => ahead.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResBody::Full(bytes) => bytes.is_none(),
            ResBody::Stream(stream) => stream.is_at_end(),
            ResBody::Replay(replay) => replay.is_at_end(),
            ResBody::Followed(_) => false,
            ResBody::Recorded(recorded) => recorded.is_at_end(),
            ResBody::Ahead(ahead) => ahead.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = match self {
            ResBody::Full(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            ResBody::Stream(stream) => stream.left(),
            ResBody::Replay(replay) => replay.told(),
            ResBody::Followed(_) => None,
            ResBody::Recorded(recorded) => recorded.left(),
            ResBody::Ahead(ahead) => ahead.left(),
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
