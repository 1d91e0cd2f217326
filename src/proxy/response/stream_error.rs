//! The final event of a stream that broke after its first byte.

use std::time::Duration;

use bytes::Bytes;

use crate::proxy::access_log::reasons::Interruption;
use crate::proxy::attempt::inspect::explain_end;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::downstream::request_id::RequestId;
use crate::stream::api::{self, StreamError, StreamTail};

/// The event that reports the interruption, in the form of the stream that it ends.
pub fn error_event(
    cause: Interruption,
    tail: &StreamTail,
    idle: Duration,
    id: Option<&RequestId>,
) -> Bytes {
    let problem = problem(cause, idle);
    let (status, name) = (problem.kind.status().as_u16(), problem.kind.name());
    let json = problem.json(id);
    let error = StreamError { status, name, message: &problem.message(), problem: &json };
    api::error_event(tail, error).into()
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
