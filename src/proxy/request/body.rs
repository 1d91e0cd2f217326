//! The request's body: kept in the replay buffer if the route's `replay` allows it, else streamed.
//!
//! A streamed body can be sent only once. A body is streamed if it is larger than `replay`, is still
//! arriving after a second without a known length, has trailers, or if `server.buffered` is full. The
//! reason is logged and counted, because such a request cannot be retried after a failure.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::body_intake::{BodyRate, IntakeLimits, Prefix, receive};
use super::headers;
use super::model_name::{ModelName, UnknownModel, unknown_model};
use super::rewrite;
use super::stream_flag::StreamFlag;
use super::streaming_body::{StreamingBody, UploadProgress};
use crate::clock;
use crate::live::buffers::Reservation;
use crate::policy::sections::model;
use crate::proxy::access_log::reasons::NotReplayable;
use crate::proxy::downstream::content_coding::{ContentCoding, Undecodable};
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::downstream::timer::Timer;
use crate::upstream::OutgoingBody;

/// The body of a request, for all its attempts.
#[derive(Debug)]
pub struct RequestBody {
    state: State,
    /// Unset: the body was not searched for it.
    model: OnceCell<Option<ModelName>>,
    stream_flag: StreamFlag,
    /// Why it cannot be read, if it has a `Content-Encoding`.
    undecodable: Option<Undecodable>,
    /// As received, if the kept body is decoded.
    encoded: Option<Bytes>,
    /// The body that is sent is decoded, although it arrived encoded.
    is_sent_decoded: bool,
    /// When it was complete, or known to be streamed.
    received_at: Instant,
    /// Set for a streamed body.
    upload: Option<Rc<UploadProgress>>,
    /// The body as received, if another one is sent in its place.
    original: Option<Bytes>,
    not_replayable: Option<NotReplayable>,
    /// Of a streamed body, in bytes per second.
    minimum_rate: u64,
}

#[derive(Debug)]
enum State {
    Empty,
    Buffered {
        bytes: Bytes,
        room: Reservation,
    },
    Streamed {
        first: VecDeque<Frame<Bytes>>,
        rest: Option<Incoming>,
        room: Reservation,
    },
    /// Returned unsent by an attempt; rewritten for that provider.
    Returned {
        body: OutgoingBody,
        provider: String,
    },
    Sent,
}

impl RequestBody {
    /// Receives the body.
    ///
    /// # Errors
    /// When the body breaks, stalls for longer than `timeouts.idle`, or is slower than
    /// `server.body_rate`.
    pub async fn read(
        timer: &Timer,
        mut body: Incoming,
        limits: IntakeLimits,
        mut room: Reservation,
        began: Instant,
    ) -> Result<RequestBody, Problem> {
        if body.is_end_stream() {
            return Ok(RequestBody::new(State::Empty, OnceCell::new()));
        }
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length > limits.replay) && !limits.reads_body {
            let state = State::Streamed { first: VecDeque::new(), rest: Some(body), room };
            let mut body = RequestBody::new(state, OnceCell::new()).limited_to(limits.rate);
            body.stream_flag = StreamFlag::Unknown;
            return Ok(body.sent_once(NotReplayable::LargerThanReplay));
        }
        let mut prefix = Prefix::new(length, limits.replay);
        let streamed = receive(timer, &mut body, limits, &mut room, &mut prefix, began).await?;
        room.shrink_to(prefix.len());
        Ok(match streamed {
            None => RequestBody::buffered(prefix, room, limits.reads_body),
            Some(reason) => {
                let body = RequestBody::streamed(prefix, body, room, limits.reads_body);
                body.limited_to(limits.rate).sent_once(reason)
            }
        })
    }

    /// A complete body; `room` is its buffer space.
    pub fn of(bytes: Bytes, room: Reservation, reads_body: bool) -> RequestBody {
        if bytes.is_empty() {
            return RequestBody::new(State::Empty, OnceCell::new());
        }
        let prefix = Prefix::whole(bytes);
        RequestBody::buffered(prefix, room, reads_body)
    }

    /// The body as received; `None` if it is streamed.
    pub fn complete(&self) -> Option<Bytes> {
        match self.state {
            State::Empty => Some(Bytes::new()),
            _ => self.encoded.as_ref().or(self.original()).cloned(),
        }
    }

    /// For a request without a body, or before its body is received.
    pub fn empty(received_at: Instant) -> RequestBody {
        RequestBody {
            state: State::Empty,
            model: OnceCell::new(),
            stream_flag: StreamFlag::Absent,
            undecodable: None,
            encoded: None,
            is_sent_decoded: false,
            received_at,
            upload: None,
            original: None,
            not_replayable: None,
            minimum_rate: 0,
        }
    }

    fn new(state: State, model: OnceCell<Option<ModelName>>) -> RequestBody {
        let received_at = clock::now();
        let upload = matches!(state, State::Streamed { .. })
            .then(|| Rc::new(UploadProgress::new(received_at)));
        RequestBody { state, model, upload, ..RequestBody::empty(received_at) }
    }

    fn buffered(prefix: Prefix, room: Reservation, reads_body: bool) -> RequestBody {
        let bytes = prefix.bytes();
        let model = read_model(reads_body, &bytes);
        let stream_flag = StreamFlag::of(&bytes, true);
        let body = RequestBody::new(State::Buffered { bytes, room }, model);
        RequestBody { stream_flag, ..body }
    }

    fn streamed(
        mut prefix: Prefix,
        rest: Incoming,
        room: Reservation,
        reads_body: bool,
    ) -> RequestBody {
        let trailers = prefix.trailers.take();
        let bytes = prefix.bytes();
        let model = read_model(reads_body, &bytes);
        let stream_flag = StreamFlag::of(&bytes, false);
        let data = (!bytes.is_empty()).then(|| Frame::data(bytes));
        let first = data.into_iter().chain(trailers).collect();
        let rest = (!rest.is_end_stream()).then_some(rest);
        let body = RequestBody::new(State::Streamed { first, rest, room }, model);
        RequestBody { stream_flag, ..body }
    }

    fn limited_to(mut self, rate: BodyRate) -> RequestBody {
        self.minimum_rate = rate.minimum;
        self
    }

    fn sent_once(mut self, reason: NotReplayable) -> RequestBody {
        self.not_replayable = Some(reason);
        self
    }

    /// Why the body can be sent only once; `None` if it was kept.
    pub fn not_replayable(&self) -> Option<NotReplayable> {
        self.not_replayable
    }

    /// The body's `/model`, by the client's name for it, if the body was searched for it.
    pub fn model(&self) -> Option<&str> {
        self.named().map(|model| &*model.name)
    }

    fn named(&self) -> Option<&ModelName> {
        self.model.get()?.as_ref()
    }

    /// The body's `/stream`.
    pub fn stream_flag(&self) -> StreamFlag {
        self.stream_flag
    }

    /// The body has a `Content-Encoding`, so that it cannot be read.
    pub fn set_undecodable(&mut self, why: Undecodable) {
        (self.undecodable, self.stream_flag) = (Some(why), StreamFlag::Unknown);
    }

    pub fn is_encoded(&self) -> bool {
        self.undecodable.is_some()
    }

    /// Decodes a body that was kept, so that it can be read. `limit` is its largest size.
    pub async fn decode(&mut self, coding: Option<ContentCoding>, limit: u64, reads_body: bool) {
        let State::Buffered { bytes, room } = &mut self.state else { return };
        let content = match coding {
            Some(coding) => coding.decode(bytes.clone(), limit, room).await,
            None => Err(Undecodable::UnknownCoding),
        };
        match content {
            Ok(content) => {
                self.undecodable = None;
                self.model = read_model(reads_body, &content);
                self.stream_flag = StreamFlag::of(&content, true);
                self.encoded = Some(std::mem::replace(bytes, content));
            }
            Err(why) => {
                room.shrink_to(bytes.len() as u64);
                self.undecodable = Some(why);
            }
        }
    }

    /// The body that was taken last is decoded, so that its `Content-Encoding` ends here.
    pub fn is_sent_decoded(&self) -> bool {
        self.is_sent_decoded
    }

    /// Why the model is unknown although the body may name one.
    fn unknown_model(&self) -> Option<UnknownModel> {
        let (kept, is_whole) = match &self.state {
            State::Buffered { bytes, .. } => (Some(bytes), true),
            State::Streamed { first, rest, .. } => {
                (first.front().and_then(Frame::data_ref), rest.is_none())
            }
            State::Empty | State::Returned { .. } | State::Sent => return None,
        };
        if self.named().is_some() {
            return None;
        }
        unknown_model(kept.map_or(&[][..], |kept| kept), is_whole, self.undecodable)
    }

    /// The body can still be sent.
    pub fn can_be_sent(&self) -> bool {
        !matches!(self.state, State::Sent)
    }

    /// The body as received and decoded, if it was buffered.
    pub fn original(&self) -> Option<&Bytes> {
        match &self.state {
            State::Buffered { .. } if self.original.is_some() => self.original.as_ref(),
            State::Buffered { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// Sends another body in place of a buffered one.
    pub fn replace(&mut self, body: Bytes) {
        if let State::Buffered { bytes, .. } = &mut self.state {
            self.model = OnceCell::from(ModelName::find(&body));
            let before = std::mem::replace(bytes, body);
            self.original.get_or_insert(before);
            self.is_sent_decoded |= self.encoded.take().is_some();
        }
    }

    /// Rewrites the body for all attempts. False if it is streamed, or is not JSON.
    pub fn rewrite(&mut self, models: &[(String, String)], rewrite: &model::Rewrite) -> bool {
        self.find_model();
        if self.is_encoded() {
            return false;
        }
        let State::Buffered { bytes, .. } = &mut self.state else { return false };
        let named = rewrite::model(bytes, self.model.get().and_then(Option::as_ref), models);
        let Ok(body) = rewrite::body(&named, rewrite) else { return false };
        (self.model, *bytes) = (OnceCell::from(ModelName::find(&body)), body);
        self.is_sent_decoded |= self.encoded.take().is_some();
        true
    }

    /// The body's model. Searches the body if the route did not need it so far.
    pub fn find_model(&self) -> Option<&Rc<str>> {
        if let State::Buffered { bytes, .. } = &self.state
            && !self.is_encoded()
        {
            self.model.get_or_init(|| ModelName::find(bytes));
        }
        self.named().map(|model| &model.name)
    }

    pub fn is_empty(&self) -> bool {
        matches!(self.state, State::Empty)
    }

    /// A copy for a hedge; `None` if the body is streamed.
    pub fn duplicate(&self, room: Reservation) -> Option<RequestBody> {
        let state = match &self.state {
            State::Empty => State::Empty,
            State::Buffered { bytes, .. } => State::Buffered { bytes: bytes.clone(), room },
            _ => return None,
        };
        Some(RequestBody {
            state,
            model: self.model.clone(),
            stream_flag: self.stream_flag,
            undecodable: self.undecodable,
            encoded: self.encoded.clone(),
            is_sent_decoded: self.is_sent_decoded,
            ..RequestBody::empty(self.received_at)
        })
    }

    /// Takes back a body that was not sent.
    pub fn restore(&mut self, body: OutgoingBody, provider: &model::ProviderPolicy) {
        if matches!(self.state, State::Sent) {
            self.state = State::Returned { body, provider: provider.name.clone() };
        }
    }

    /// Bytes of a buffered body; bytes sent so far of a streamed one.
    pub fn len(&self) -> u64 {
        match &self.state {
            State::Buffered { bytes, .. } => self.encoded.as_ref().unwrap_or(bytes).len() as u64,
            _ => self.upload.as_ref().map_or(0, |upload| upload.bytes.get()),
        }
    }

    pub fn upload(&self) -> Option<&UploadProgress> {
        self.upload.as_deref()
    }

    /// When the body was complete, or known to be streamed.
    pub fn received_at(&self) -> Instant {
        self.received_at
    }

    /// The body for an attempt at this provider.
    ///
    /// # Errors
    /// When the policy changes values in the body, and the body is streamed or is not JSON.
    pub fn take(
        &mut self,
        provider: &model::ProviderPolicy,
        idle: Duration,
    ) -> Result<OutgoingBody, Problem> {
        let model = self.model.get().and_then(Option::as_ref);
        let changes = provider.rewrite.changes_body();
        if !provider.models.is_empty()
            && let Some(unknown) = self.unknown_model()
        {
            return Err(not_mappable(provider, unknown));
        }
        match &self.state {
            State::Empty | State::Sent => Ok(OutgoingBody::Empty),
            State::Returned { provider: rewritten_for, .. }
                if *rewritten_for != provider.name && !provider.models.is_empty() =>
            {
                Err(not_rewritable(
                    provider,
                    "it was prepared for another provider and is not kept",
                ))
            }
            State::Returned { .. } => match std::mem::replace(&mut self.state, State::Sent) {
                State::Returned { body, .. } => Ok(body),
                _ => Ok(OutgoingBody::Empty),
            },
            State::Buffered { bytes, .. } => {
                if let Some(encoded) = &self.encoded {
                    self.is_sent_decoded = changes || maps(provider, model);
                    if !self.is_sent_decoded {
                        return Ok(OutgoingBody::full(encoded.clone()));
                    }
                }
                let bytes = rewrite::model(bytes, model, &provider.models);
                let why = self.undecodable.map_or("it is not a JSON object", Undecodable::explain);
                let bytes = rewrite::body(&bytes, &provider.rewrite)
                    .map_err(|_| not_rewritable(provider, why))?;
                Ok(OutgoingBody::full(bytes))
            }
            State::Streamed { .. } if changes => {
                let why = self.not_replayable.map_or("it was not kept", NotReplayable::explanation);
                Err(not_rewritable(provider, why))
            }
            State::Streamed { .. } => Ok(self.take_streamed(provider, idle)),
        }
    }

    /// A streamed body, with the model's name for this provider.
    fn take_streamed(&mut self, provider: &model::ProviderPolicy, idle: Duration) -> OutgoingBody {
        let model = self.model.get().and_then(Option::as_ref);
        let (State::Streamed { mut first, rest, room }, Some(upload)) =
            (std::mem::replace(&mut self.state, State::Sent), self.upload.clone())
        else {
            return OutgoingBody::Empty;
        };
        if let Some(bytes) = first.front().and_then(Frame::data_ref)
            && maps(provider, model)
        {
            let bytes = rewrite::model(bytes, model, &provider.models);
            first[0] = Frame::data(bytes);
        }
        let reserved = headers::reserved_by(provider);
        let rate = BodyRate { idle, minimum: self.minimum_rate };
        OutgoingBody::stream(StreamingBody::new(first, rest, upload, reserved, rate, room))
    }
}

/// The model, if the route needs it.
fn read_model(reads_body: bool, bytes: &[u8]) -> OnceCell<Option<ModelName>> {
    if reads_body { OnceCell::from(ModelName::find(bytes)) } else { OnceCell::new() }
}

/// Whether the provider has its own name for the model.
fn maps(provider: &model::ProviderPolicy, model: Option<&ModelName>) -> bool {
    model.is_some_and(|model| provider.models.iter().any(|(ours, _)| **ours == *model.name))
}

fn not_rewritable(provider: &model::ProviderPolicy, why: &str) -> Problem {
    let detail = format!("provider `{}` changes values in the body, but {why}", provider.name);
    Problem::new(ProblemKind::NotRewritable, detail)
}

fn not_mappable(provider: &model::ProviderPolicy, unknown: UnknownModel) -> Problem {
    let (name, why) = (&provider.name, unknown.explain());
    let detail = format!("provider `{name}` maps names of models, but the model is unknown: {why}");
    Problem::new(ProblemKind::NotRewritable, detail)
}
