//! The body of a request to a provider.
//!
//! A complete body reports its exact size, so that it is sent with `Content-Length` and in one
//! write with the head. Only a body that is still arriving is boxed.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

pub type BoxError = Box<dyn Error + Send + Sync>;

pub enum OutgoingBody {
    Empty,
    /// `None` after it was taken.
    Full(Option<Bytes>),
    Stream(Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>),
}

impl OutgoingBody {
    pub fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(Some(bytes)) }
    }

    pub fn stream(body: impl Body<Data = Bytes, Error = BoxError> + 'static) -> Self {
        Self::Stream(Box::pin(body))
    }
}

impl Body for OutgoingBody {
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

impl fmt::Debug for OutgoingBody {
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
    fn a_complete_body_reports_its_exact_size() {
        assert_eq!(OutgoingBody::Empty.size_hint().exact(), Some(0));
        assert!(OutgoingBody::full(Bytes::new()).is_end_stream());
        let body = OutgoingBody::full(Bytes::from_static(b"four"));
        assert_eq!(body.size_hint().exact(), Some(4));
        assert!(!body.is_end_stream());
    }

    #[tokio::test]
    async fn a_full_body_is_read_once() {
        let mut body = OutgoingBody::full(Bytes::from_static(b"four"));
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "four");
        assert!(body.frame().await.is_none());
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}
