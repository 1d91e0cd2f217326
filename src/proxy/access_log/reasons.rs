//! Reasons that the access log and the metrics report: one enum per question, with the word for
//! the log and the metric label, and a sentence for people.

use crate::proxy::downstream::problem::ProblemKind;
use crate::stream::reader::StreamEnd;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// The complete response of a provider, of the cache or of the policy.
    Complete,
    /// A problem response of Outrigger.
    LocalResponse(ProblemKind),
    /// The response broke after its first byte.
    Interrupted(Interruption),
    ClientDisconnected,
}

/// Why a response broke after its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    Broken,
    Idle,
    ErrorEvent,
    NoEnd(StreamEnd),
    UpgradeFailed,
    /// The provider switched protocols although the client requested no upgrade.
    UpgradeNotRequested,
    /// A fault of Outrigger.
    Panic,
}

impl RequestEnd {
    pub fn as_str(self) -> &'static str {
        match self {
            RequestEnd::Complete => "complete",
            RequestEnd::LocalResponse(_) => "local_response",
            RequestEnd::Interrupted(_) => "interrupted",
            RequestEnd::ClientDisconnected => "client_disconnected",
        }
    }

    pub fn reason(self) -> Option<&'static str> {
        match self {
            RequestEnd::LocalResponse(kind) => Some(kind.name()),
            RequestEnd::Interrupted(interruption) => Some(interruption.as_str()),
            RequestEnd::Complete | RequestEnd::ClientDisconnected => None,
        }
    }
}

impl Interruption {
    pub fn as_str(self) -> &'static str {
        match self {
            Interruption::Broken => "broken",
            Interruption::Idle => "idle",
            Interruption::ErrorEvent => "error_event",
            Interruption::NoEnd(_) => "no_end",
            Interruption::UpgradeFailed => "upgrade_failed",
            Interruption::UpgradeNotRequested => "upgrade_not_requested",
            Interruption::Panic => "panic",
        }
    }
}

/// Why no further attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDenied {
    MayHaveBeenProcessed,
    /// With the reason, if it is known.
    NotReplayable(Option<NotReplayable>),
    RetryBudget,
    CostBudget,
    Deadline,
    AttemptsSpent,
    /// `retry: none`.
    RetriesDisabled,
    /// `retry_on` does not contain the class of the last attempt.
    ClassNotRetried,
    /// The last provider cannot serve the request, and no `fallback` is left.
    NoFallback,
    NoEndpointLeft,
    /// No attempt was admitted; the problem says why.
    NotAdmitted(ProblemKind),
}

impl RetryDenied {
    pub fn as_str(self) -> &'static str {
        match self {
            RetryDenied::MayHaveBeenProcessed => "may_have_been_processed",
            RetryDenied::NotReplayable(_) => "not_replayable",
            RetryDenied::RetryBudget => "budget",
            RetryDenied::CostBudget => "cost_budget",
            RetryDenied::Deadline => "deadline",
            RetryDenied::AttemptsSpent => "attempts_spent",
            RetryDenied::RetriesDisabled => "retries_disabled",
            RetryDenied::ClassNotRetried => "class_not_retried",
            RetryDenied::NoFallback => "no_fallback",
            RetryDenied::NoEndpointLeft => "no_endpoint_left",
            RetryDenied::NotAdmitted(kind) => kind.name(),
        }
    }

    pub fn explanation(self) -> &'static str {
        match self {
            RetryDenied::MayHaveBeenProcessed => "the provider may have processed the request",
            RetryDenied::NotReplayable(reason) => reason
                .map_or("the request body could be sent only once", NotReplayable::explanation),
            RetryDenied::RetryBudget => "the route's retry budget is spent",
            RetryDenied::CostBudget => "the route's cost budget is spent",
            RetryDenied::Deadline | RetryDenied::NotAdmitted(ProblemKind::Deadline) => {
                "the route's timeout, or the client's own, passed"
            }
            RetryDenied::AttemptsSpent => "all attempts that the retry policy allows were made",
            RetryDenied::RetriesDisabled => "the policy allows no retry (`retry: none`)",
            RetryDenied::ClassNotRetried => {
                "`retry_on` does not contain the class of the last attempt"
            }
            RetryDenied::NoFallback => {
                "the provider cannot serve the request, and the route has no other `fallback` for it"
            }
            RetryDenied::NotAdmitted(
                ProblemKind::QueueFull | ProblemKind::QueueShare | ProblemKind::QueueWaitTooLong,
            ) => "the queue has no room for the request to wait again",
            RetryDenied::NoEndpointLeft | RetryDenied::NotAdmitted(_) => {
                "no other endpoint was available"
            }
        }
    }
}

/// Why a request's body can be sent only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReplayable {
    LargerThanReplay,
    StillArriving,
    BuffersFull,
    Trailers,
}

impl NotReplayable {
    pub fn as_str(self) -> &'static str {
        match self {
            NotReplayable::LargerThanReplay => "larger_than_replay",
            NotReplayable::StillArriving => "still_arriving",
            NotReplayable::BuffersFull => "buffers_full",
            NotReplayable::Trailers => "trailers",
        }
    }

    pub fn explanation(self) -> &'static str {
        match self {
            NotReplayable::LargerThanReplay => {
                "the request body could be sent only once, because it is larger than the route's `replay`"
            }
            NotReplayable::StillArriving => {
                "the request body could be sent only once, because it had no length and arrived slowly"
            }
            NotReplayable::BuffersFull => {
                "the request body could be sent only once, because `server.buffered` was full"
            }
            NotReplayable::Trailers => {
                "the request body could be sent only once, because it has trailers"
            }
        }
    }
}

/// Why a queue rejected a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedReason {
    Full,
    /// The queue is full, and the request's flow has its share of it.
    Share,
    /// It would wait for too long.
    Late,
    /// Another request took its place.
    Displaced,
    /// It waited until its time was over.
    Waited,
}

impl ShedReason {
    pub fn as_str(self) -> &'static str {
        match self {
            ShedReason::Full => "full",
            ShedReason::Share => "share",
            ShedReason::Late => "late",
            ShedReason::Displaced => "displaced",
            ShedReason::Waited => "waited",
        }
    }

    pub fn problem(self) -> ProblemKind {
        match self {
            ShedReason::Full | ShedReason::Displaced => ProblemKind::QueueFull,
            ShedReason::Share => ProblemKind::QueueShare,
            ShedReason::Late => ProblemKind::QueueWaitTooLong,
            ShedReason::Waited => ProblemKind::NoCapacity,
        }
    }
}
