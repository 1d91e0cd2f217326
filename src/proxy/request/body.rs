//! The request's body, taken in: kept for another attempt where the route's `replay` allows it,
//! else passed on once.
//!
//! A body goes once when it is larger than `replay`, still arriving after a second without a
//! known length, has trailers, or when `server.buffered` is full. Which of these is told in the
//! access log and counted, because such a request cannot be repeated after a failure.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::headers;
use super::model_name::ModelName;
use super::rewrite;
use super::streaming_body::{StreamingBody, UploadProgress};
use crate::clock;
use crate::live::buffers::Reservation;
use crate::policy::sections::model;
use crate::proxy::access_log::reasons::NotReplayable;
use crate::proxy::downstream::io;
use crate::proxy::downstream::problem::{Problem, ProblemKind};
use crate::proxy::downstream::timer::{Elapsed, Timer};
use crate::snapshot::Route;
use crate::upstream::OutgoingBody;

/// The largest piece that comes at once.
const PIECE: u64 = io::MAX_READ as u64;
/// A body without a known length that is not whole after this long goes once.
const STILL_ARRIVING: Duration = Duration::from_secs(1);

/// The body of a request, for one attempt after another.
#[derive(Debug)]
pub struct RequestBody {
    state: State,
    model: Option<ModelName>,
    /// When it was whole, or known to go once.
    taken: Instant,
    /// Of a body that goes once.
    upload: Option<Rc<UploadProgress>>,
    /// As it came, where another is sent in its place.
    original: Option<Bytes>,
    not_replayable: Option<NotReplayable>,
}

#[derive(Debug)]
enum State {
    Empty,
    Kept {
        bytes: Bytes,
        _room: Reservation,
    },
    Once {
        first: VecDeque<Frame<Bytes>>,
        rest: Option<Incoming>,
        _room: Reservation,
    },
    /// Handed back untouched, made for the provider of that name.
    Back(OutgoingBody, String),
    Spent,
}

/// What intake needs to know of the route.
#[derive(Clone, Copy, Debug)]
pub struct IntakeLimits {
    pub replay: u64,
    pub reads_body: bool,
    /// It is waited for until it is whole, however long that takes.
    pub whole: bool,
    pub idle: Duration,
}

impl IntakeLimits {
    pub fn of(route: &Route, whole: bool) -> IntakeLimits {
        IntakeLimits {
            replay: route.policy.replay,
            reads_body: route.reads_body,
            whole,
            idle: route.tiers[0].candidates[0].provider.policy.timeouts.idle,
        }
    }
}

impl RequestBody {
    /// Takes the body in. The second value says why it can go only once.
    ///
    /// # Errors
    /// When the body breaks, or stalls for longer than `idle`.
    pub async fn read(
        timer: &Timer,
        mut body: Incoming,
        bounds: IntakeLimits,
        mut room: Reservation,
        began: Instant,
    ) -> Result<RequestBody, Problem> {
        if body.is_end_stream() {
            return Ok(RequestBody::new(State::Empty, None));
        }
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length > bounds.replay) && !bounds.reads_body {
            let state = State::Once { first: VecDeque::new(), rest: Some(body), _room: room };
            return Ok(RequestBody::new(state, None).sent_once(NotReplayable::LargerThanReplay));
        }
        let mut first = Prefix { length, most: bounds.replay, ..Prefix::default() };
        let once = take_in(timer, &mut body, bounds, &mut room, &mut first, began).await?;
        room.shrink_to(first.len());
        Ok(match once {
            None => RequestBody::keep(first, room, bounds.reads_body),
            Some(why) => RequestBody::once(first, body, room, bounds.reads_body).sent_once(why),
        })
    }

    /// One that is here; `room` is what it takes of the buffers.
    pub fn of(bytes: Bytes, room: Reservation, reads_body: bool) -> RequestBody {
        if bytes.is_empty() {
            return RequestBody::new(State::Empty, None);
        }
        let first = Prefix { only: Some(bytes), ..Prefix::default() };
        RequestBody::keep(first, room, reads_body)
    }

    /// As it came; `None` where it is not all here.
    pub fn whole(&self) -> Option<Bytes> {
        match self.state {
            State::Empty => Some(Bytes::new()),
            _ => self.kept().cloned(),
        }
    }

    /// Of a request that has none, or has not been read yet.
    pub fn empty(taken: Instant) -> RequestBody {
        RequestBody {
            state: State::Empty,
            model: None,
            taken,
            upload: None,
            original: None,
            not_replayable: None,
        }
    }

    fn new(state: State, model: Option<ModelName>) -> RequestBody {
        let taken = clock::now();
        let upload =
            matches!(state, State::Once { .. }).then(|| Rc::new(UploadProgress::new(taken)));
        RequestBody { state, model, taken, upload, original: None, not_replayable: None }
    }

    fn keep(first: Prefix, room: Reservation, reads_body: bool) -> RequestBody {
        let bytes = first.bytes();
        let model = if reads_body { ModelName::find(&bytes) } else { None };
        RequestBody::new(State::Kept { bytes, _room: room }, model)
    }

    fn once(mut first: Prefix, rest: Incoming, room: Reservation, reads_body: bool) -> RequestBody {
        let trailers = first.trailers.take();
        let bytes = first.bytes();
        let model = if reads_body { ModelName::find(&bytes) } else { None };
        let data = (!bytes.is_empty()).then(|| Frame::data(bytes));
        let first = data.into_iter().chain(trailers).collect();
        let rest = (!rest.is_end_stream()).then_some(rest);
        RequestBody::new(State::Once { first, rest, _room: room }, model)
    }

    fn sent_once(mut self, reason: NotReplayable) -> RequestBody {
        self.not_replayable = Some(reason);
        self
    }

    /// Why the body can be sent only once; `None` if it was kept.
    pub fn not_replayable(&self) -> Option<NotReplayable> {
        self.not_replayable
    }

    /// The body's `/model`, as the application calls it.
    pub fn model(&self) -> Option<&str> {
        self.model.as_ref().map(|model| model.name.as_str())
    }

    /// There is something left to send.
    pub fn may_go(&self) -> bool {
        !matches!(self.state, State::Spent)
    }

    /// The body as it came, where it was kept.
    pub fn kept(&self) -> Option<&Bytes> {
        match &self.state {
            State::Kept { .. } if self.original.is_some() => self.original.as_ref(),
            State::Kept { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// Puts another body in the place of the one that was kept.
    pub fn replace(&mut self, body: Bytes) {
        if let State::Kept { bytes, .. } = &mut self.state {
            self.model = ModelName::find(&body);
            let before = std::mem::replace(bytes, body);
            self.original.get_or_insert(before);
        }
    }

    /// Changes the body that is sent, for good. False where it was not kept, or is no JSON.
    pub fn reduce(&mut self, models: &[(String, String)], rewrite: &model::Rewrite) -> bool {
        self.find_model();
        let State::Kept { bytes, .. } = &mut self.state else { return false };
        let model = self.model.as_ref().map(|model| (&model.at, model.name.as_str())).unzip();
        let named = rewrite::model(bytes, model.0, model.1, models);
        let Ok(body) = rewrite::body(&named, rewrite) else { return false };
        (self.model, *bytes) = (ModelName::find(&body), body);
        true
    }

    /// Looks for the model where nobody needed to know it so far.
    pub fn find_model(&mut self) {
        if let (State::Kept { bytes, .. }, None) = (&self.state, &self.model) {
            self.model = ModelName::find(bytes);
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self.state, State::Empty)
    }

    /// The same, for an attempt beside another; `None` where it goes only once.
    pub fn duplicate(&self, room: Reservation) -> Option<RequestBody> {
        let state = match &self.state {
            State::Empty => State::Empty,
            State::Kept { bytes, .. } => State::Kept { bytes: bytes.clone(), _room: room },
            _ => return None,
        };
        let (model, taken) = (self.model.clone(), self.taken);
        Some(RequestBody {
            state,
            model,
            taken,
            upload: None,
            original: None,
            not_replayable: None,
        })
    }

    /// Takes back a body of which nothing was sent.
    pub fn put_back(&mut self, body: OutgoingBody, provider: &model::Provider) {
        if matches!(self.state, State::Spent) {
            self.state = State::Back(body, provider.name.clone());
        }
    }

    /// Bytes that were kept.
    pub fn len(&self) -> u64 {
        match &self.state {
            State::Kept { bytes, .. } => bytes.len() as u64,
            _ => self.upload.as_ref().map_or(0, |upload| upload.bytes.get()),
        }
    }

    pub fn upload(&self) -> Option<&UploadProgress> {
        self.upload.as_deref()
    }

    /// When the body was whole, or known to go once.
    pub fn taken(&self) -> Instant {
        self.taken
    }

    /// The body as this provider wants it.
    ///
    /// # Errors
    /// When the policy changes values in the body and the body is not whole, or no JSON.
    pub fn take(
        &mut self,
        provider: &model::Provider,
        idle: Duration,
    ) -> Result<OutgoingBody, Problem> {
        let model = self.model.as_ref();
        let (at, name) = (model.map(|m| &m.at), model.map(|m| m.name.as_str()));
        let changes = provider.rewrite.changes_body();
        match &self.state {
            State::Empty | State::Spent => Ok(OutgoingBody::Empty),
            State::Back(_, made_for)
                if *made_for != provider.name && !provider.models.is_empty() =>
            {
                Err(not_rewritable(provider, "it was begun for another provider"))
            }
            State::Back(..) => match std::mem::replace(&mut self.state, State::Spent) {
                State::Back(body, _) => Ok(body),
                _ => Ok(OutgoingBody::Empty),
            },
            State::Kept { bytes, .. } => {
                let bytes = rewrite::model(bytes, at, name, &provider.models);
                let bytes = rewrite::body(&bytes, &provider.rewrite)
                    .map_err(|_| not_rewritable(provider, "it is no JSON object"))?;
                Ok(OutgoingBody::full(bytes))
            }
            State::Once { .. } if changes => {
                Err(not_rewritable(provider, "it is larger than the route's `replay`"))
            }
            State::Once { .. } => {
                let (State::Once { mut first, rest, _room }, Some(upload)) =
                    (std::mem::replace(&mut self.state, State::Spent), self.upload.clone())
                else {
                    return Ok(OutgoingBody::Empty);
                };
                if let Some(bytes) = first.front().and_then(Frame::data_ref)
                    && name.is_some_and(|name| provider.models.iter().any(|(m, _)| m == name))
                {
                    let bytes = rewrite::model(bytes, at, name, &provider.models);
                    first[0] = Frame::data(bytes);
                }
                let decided = headers::decided(provider);
                Ok(OutgoingBody::stream(StreamingBody::new(
                    first, rest, upload, decided, idle, _room,
                )))
            }
        }
    }
}

/// Reads into `first` to the body's end; else says why the body can go only once.
async fn take_in(
    timer: &Timer,
    body: &mut Incoming,
    bounds: IntakeLimits,
    room: &mut Reservation,
    first: &mut Prefix,
    mut moved: Instant,
) -> Result<Option<NotReplayable>, Problem> {
    let patient = first.length.is_some() || bounds.whole;
    let give_up = moved + STILL_ARRIVING;
    loop {
        let enough = first.len() + first.ahead();
        let full = !room.grow(enough.saturating_sub(room.bytes()));
        // The first piece has been read by hyper already, and may be needed to know the model.
        if full && !(bounds.reads_body && first.len() == 0) {
            return Ok(Some(NotReplayable::BuffersFull));
        }
        let limit = if patient { moved + bounds.idle } else { give_up };
        let frame = match timer.frame(body, limit).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(broken(&error)),
            Err(Elapsed) if patient => return Err(stalled(bounds.idle)),
            Err(Elapsed) => return Ok(Some(NotReplayable::StillArriving)),
        };
        let last = body.is_end_stream();
        match frame.into_data() {
            Ok(data) => first.push(data, last),
            Err(trailers) => {
                first.trailers = Some(trailers);
                return Ok(Some(NotReplayable::Trailers));
            }
        }
        if first.len() > bounds.replay {
            return Ok(Some(NotReplayable::LargerThanReplay));
        }
        if last || full {
            return Ok((!last).then_some(NotReplayable::BuffersFull));
        }
        moved = clock::now();
    }
}

/// What of a body is here.
#[derive(Default)]
struct Prefix {
    /// As the head has it.
    length: Option<u64>,
    /// Past this it is not kept.
    most: u64,
    /// The only piece there is, as it was read.
    only: Option<Bytes>,
    joined: Vec<u8>,
    trailers: Option<Frame<Bytes>>,
}

impl Prefix {
    fn len(&self) -> u64 {
        self.only.as_ref().map_or(self.joined.len(), Bytes::len) as u64
    }

    /// What still comes, or as much as the next piece may be. A body that is half kept when the
    /// room is full has cost as much as one that can be repeated.
    fn ahead(&self) -> u64 {
        self.length.map_or(PIECE, |length| length.min(self.most).saturating_sub(self.len()))
    }

    fn push(&mut self, data: Bytes, last: bool) {
        if last && self.joined.is_empty() {
            self.only = Some(data);
            return;
        }
        if self.joined.is_empty() {
            // At once and exactly: what is not written to costs no memory, and a buffer that grows
            // leaves its smaller selves behind.
            let whole = self.length.map_or(0, |length| length.min(self.most));
            self.joined.reserve_exact(whole.max(data.len() as u64) as usize);
        }
        self.joined.extend_from_slice(&data);
    }

    fn bytes(self) -> Bytes {
        self.only.unwrap_or_else(|| Bytes::from(self.joined))
    }
}

fn broken(error: &hyper::Error) -> Problem {
    Problem::new(ProblemKind::RequestInterrupted, error.to_string())
}

fn stalled(idle: Duration) -> Problem {
    Problem::new(ProblemKind::RequestTimeout, format!("nothing arrived for {idle:?}"))
}

fn not_rewritable(provider: &model::Provider, why: &str) -> Problem {
    let detail = format!("provider `{}` changes values in the body, but {why}", provider.name);
    Problem::new(ProblemKind::NotRewritable, detail)
}
