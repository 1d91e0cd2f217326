//! How an answer broke after its first byte, and how that is told in its last event.

use std::time::Duration;

use bytes::Bytes;

use crate::proxy::attempt::inspect::explain_end;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::stream::framing::StreamFormat;
use crate::stream::reader::StreamEnd;

/// How an answer broke after its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Broken,
    Idle,
    Content,
    Error,
    Ended(StreamEnd),
}

impl Cut {
    pub fn as_str(self) -> &'static str {
        match self {
            Cut::Broken => "broken",
            Cut::Idle => "idle",
            Cut::Content => "no_content",
            Cut::Error => "error_event",
            Cut::Ended(_) => "no_end",
        }
    }

    /// The event that tells it.
    pub fn event(self, format: StreamFormat, idle: Duration) -> Bytes {
        let (kind, detail) = match self {
            Cut::Broken => (ProblemKind::ConnectionLost, "in the middle of its answer".to_owned()),
            Cut::Idle => {
                (ProblemKind::ResponseTimeout, format!("nothing more came within {idle:?}"))
            }
            Cut::Content => (ProblemKind::ResponseTimeout, "no content came in time".to_owned()),
            Cut::Error => (ProblemKind::BadResponse, "an event says that it failed".to_owned()),
            Cut::Ended(ended) => (ProblemKind::BadResponse, explain_end(ended).to_owned()),
        };
        let json = Problem::new(kind, detail).json();
        let (before, after): (&[u8], &[u8]) = match format {
            StreamFormat::Sse => (b"event: error\ndata: ", b"\n\n"),
            StreamFormat::Lines => (b"", b"\n"),
        };
        [before, &json, after].concat().into()
    }
}
