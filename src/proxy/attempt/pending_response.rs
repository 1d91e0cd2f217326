//! What is ready for the application: a head, and a body that is whole, under way, or from the cache.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::response::Parts;
use http_body::Frame;

use super::report::UsageKey;
use crate::cache::recorder::ResponseRecorder;
use crate::cache::shared_body::BodyReader;
use crate::live::buffers::Reservation;
use crate::live::permit::{AttemptSlot, ReportedPermit};
use crate::live::quota::provider_quota::QuotaCharge;
use crate::live::quota::usage_meter::AttemptKind;
use crate::proxy::response::stored::Replay;
use crate::stream::framing::StreamFormat;
use crate::stream::reader::StreamReader as EventReader;
use crate::upstream::IncomingBody;

/// A provider's answer, ready for the application.
#[derive(Debug)]
pub struct PendingResponse {
    pub head: Parts,
    pub body: PendingBody,
    pub idle: Duration,
    pub usage_key: UsageKey,
    pub credential: usize,
    /// No provider gave it to this request: it is from the cache, or of our own.
    pub ours: bool,
}

#[derive(Debug)]
pub enum PendingBody {
    Whole(Bytes, Option<HeaderMap>),
    Stream(Box<PendingStream>),
    /// From the cache.
    Stored(Replay),
    /// Another request's.
    Followed(BodyReader),
    /// 101: both sides speak another protocol from here on.
    Tunnel {
        flight: AttemptSlot,
        rest: IncomingBody,
    },
}

/// A body that has begun.
#[derive(Debug)]
pub struct PendingStream {
    pub first: VecDeque<Frame<Bytes>>,
    pub rest: IncomingBody,
    pub flight: AttemptSlot,
    pub afterwards: Option<ReportedPermit>,
    pub room: Reservation,
    /// Of what has events.
    pub reader: Option<(StreamFormat, Box<EventReader>)>,
    /// By when its first content has to be here, where it is not yet.
    pub content_by: Option<Instant>,
    /// An event that says that it failed is among the first.
    pub failed: bool,
    /// It is written down for the cache.
    pub record: Option<Box<ResponseRecorder>>,
}

impl PendingResponse {
    /// One that no provider gave to this request.
    pub fn of_nobody(head: Parts, body: PendingBody) -> Box<PendingResponse> {
        let usage_key = UsageKey {
            tier: 0,
            index: 0,
            turn: AttemptKind::First,
            charge: QuotaCharge::default(),
        };
        Box::new(PendingResponse {
            head,
            body,
            idle: Duration::ZERO,
            usage_key,
            credential: 0,
            ours: true,
        })
    }
}
