//! The body of a request on its way upstream.
//!
//! A body that is known in full says its exact size, so that hyper writes `Content-Length` and
//! sends head and body in one write; only one that is still arriving is behind a pointer.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

pub type BoxError = Box<dyn Error + Send + Sync>;

pub enum ReqBody {
    Empty,
    /// `None` once it was taken.
    Full(Option<Bytes>),
    Stream(Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>),
}

impl ReqBody {
    pub fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(Some(bytes)) }
    }

    pub fn stream(body: impl Body<Data = Bytes, Error = BoxError> + 'static) -> Self {
        Self::Stream(Box::pin(body))
    }
}

impl Body for ReqBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Full(None) => true,
            Self::Full(Some(_)) => false,
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Full(None) => SizeHint::with_exact(0),
            Self::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for ReqBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty | Self::Full(None) => f.write_str("ReqBody(empty)"),
            Self::Full(Some(bytes)) => write!(f, "ReqBody({} bytes)", bytes.len()),
            Self::Stream(_) => f.write_str("ReqBody(stream)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn a_known_body_says_its_exact_size() {
        assert_eq!(ReqBody::Empty.size_hint().exact(), Some(0));
        assert!(ReqBody::full(Bytes::new()).is_end_stream());
        let body = ReqBody::full(Bytes::from_static(b"four"));
        assert_eq!(body.size_hint().exact(), Some(4));
        assert!(!body.is_end_stream());
    }

    #[tokio::test]
    async fn a_full_body_is_read_once() {
        let mut body = ReqBody::full(Bytes::from_static(b"four"));
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "four");
        assert!(body.frame().await.is_none());
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}
