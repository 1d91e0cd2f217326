//! The final event of a stream that broke after its first byte.

use std::time::Duration;

use bytes::Bytes;

use crate::proxy::access_log::reasons::Interruption;
use crate::proxy::attempt::inspect::explain_end;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::stream::framing::StreamFormat;

/// The event that reports the interruption.
pub fn error_event(cause: Interruption, format: StreamFormat, idle: Duration) -> Bytes {
    let json = problem(cause, idle).json();
    let (before, after): (&[u8], &[u8]) = match format {
        StreamFormat::Sse => (b"event: error\ndata: ", b"\n\n"),
        StreamFormat::Lines => (b"", b"\n"),
    };
    [before, &json, after].concat().into()
}

fn problem(cause: Interruption, idle: Duration) -> Problem {
    use Interruption::*;
    match cause {
        Broken | UpgradeFailed | UpgradeNotRequested | Panic => {
            Problem::new(ProblemKind::ConnectionLost, "the connection broke during the response")
        }
        Idle => {
            let detail = format!("nothing more arrived within {idle:?}");
            Problem::new(ProblemKind::ResponseTimeout, detail)
        }
        ErrorEvent => Problem::new(ProblemKind::BadResponse, "the provider sent an error event"),
        NoEnd(ended) => Problem::new(ProblemKind::BadResponse, explain_end(ended)),
    }
}
