//! A response that is ready for the client: a head, and a body that is complete, under way, or from
//! the cache.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::response::Parts;
use http_body::Frame;

use super::report::UsageKey;
use super::state::EndpointIndex;
use crate::cache::entry::CachedBody;
use crate::cache::recorder::ResponseRecorder;
use crate::cache::shared_body::BodyReader;
use crate::live::buffers::Reservation;
use crate::live::permit::{AttemptSlot, ReportedPermit};
use crate::live::quota::provider_quota::QuotaCharge;
use crate::live::quota::usage_meter::AttemptKind;
use crate::stream::reader::StreamReader as EventReader;
use crate::upstream::IncomingBody;

#[derive(Debug)]
pub struct PendingResponse {
    pub head: Parts,
    pub body: PendingBody,
    pub idle: Duration,
    /// When the last frame came, if one was read; the idle time counts from then.
    pub last_frame: Option<Instant>,
    pub usage_key: UsageKey,
    /// It comes from the cache or from the policy, not from a provider.
    pub is_local: bool,
}

#[derive(Debug)]
pub enum PendingBody {
    Whole(Bytes, Option<HeaderMap>),
    Stream(Box<PendingStream>),
    Stored(CachedBody),
    /// Fetched by another request.
    Followed(BodyReader),
    /// 101: both sides switch to another protocol.
    Tunnel {
        flight: AttemptSlot,
        rest: IncomingBody,
    },
}

/// A body that has started.
#[derive(Debug)]
pub struct PendingStream {
    pub first: VecDeque<Frame<Bytes>>,
    pub rest: IncomingBody,
    pub flight: AttemptSlot,
    pub reported: Option<ReportedPermit>,
    pub room: Reservation,
    /// Set for an event stream that is read.
    pub reader: Option<Box<EventReader>>,
    /// The first frames contain an error event.
    pub failed: bool,
    pub first_content: Option<FirstContent>,
    /// Stores the body in the cache.
    pub recorder: Option<Box<ResponseRecorder>>,
}

/// When the content of a stream began.
#[derive(Clone, Copy, Debug)]
pub struct FirstContent {
    /// The start of the attempt.
    pub started: Instant,
    pub after: Duration,
}

impl PendingResponse {
    /// A response that no provider sent.
    pub fn local(head: Parts, body: PendingBody) -> Box<PendingResponse> {
        let usage_key = UsageKey {
            endpoint: EndpointIndex::default(),
            credential: 0,
            turn: AttemptKind::First,
            charge: QuotaCharge::default(),
            started: None,
        };
        Box::new(PendingResponse {
            head,
            body,
            idle: Duration::ZERO,
            last_frame: None,
            usage_key,
            is_local: true,
        })
    }
}
