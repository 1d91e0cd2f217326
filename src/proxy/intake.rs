//! The request's body, taken in: kept for another attempt where the route's `replay` allows it,
//! else passed on once.
//!
//! A body goes once when it is larger than `replay`, still arriving after a second without a
//! known length, has trailers, or when `server.buffered` is full. Which of these is told in the
//! access log and counted, because such a request cannot be repeated after a failure.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::deadline::{Passed, frame};
use super::error::{Kind, Problem};
use super::json;
use super::rewrite;
use crate::clock;
use crate::live::buffers::Reservation;
use crate::policy::model;
use crate::upstream::{BoxError, ReqBody};

/// A body without a known length that is not whole after this long goes once.
const STILL_ARRIVING: Duration = Duration::from_secs(1);

/// The body of a request, for one attempt after another.
#[derive(Debug)]
pub struct Payload {
    state: State,
    model: Option<Model>,
    /// When it was whole, or known to go once.
    taken: Instant,
    /// Of a body that goes once.
    upload: Option<Rc<Upload>>,
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
    Back(ReqBody, String),
    Spent,
}

/// The top-level `model` of a JSON body.
#[derive(Debug)]
struct Model {
    name: String,
    at: Range<usize>,
}

/// How far a body that goes once has come.
#[derive(Debug)]
pub struct Upload {
    last: Cell<Instant>,
    pub whole: Cell<bool>,
    /// The application's side failed: not the provider's fault.
    pub broken: Cell<Option<Kind>>,
    pub bytes: Cell<u64>,
}

/// What intake needs to know of the route.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub replay: u64,
    pub reads_body: bool,
    pub idle: Duration,
}

impl Payload {
    /// Takes the body in. The second value says why it can go only once.
    ///
    /// # Errors
    /// When the body breaks, or stalls for longer than `idle`.
    pub async fn read(
        mut body: Incoming,
        bounds: Bounds,
        mut room: Reservation,
        began: Instant,
    ) -> Result<(Payload, Option<&'static str>), Problem> {
        if body.is_end_stream() {
            return Ok((Payload::new(State::Empty, None), None));
        }
        let length = body.size_hint().exact();
        let mut first = VecDeque::new();
        if length.is_some_and(|length| length > bounds.replay) && !bounds.reads_body {
            let state = State::Once { first, rest: Some(body), _room: room };
            return Ok((Payload::new(state, None), Some("larger_than_replay")));
        }
        let taken = take_in(&mut body, bounds, &mut room, &mut first, began).await?;
        Ok(match taken {
            None => (Payload::kept(first, room, bounds.reads_body), None),
            Some(why) => (Payload::once(first, body, room, bounds.reads_body), Some(why)),
        })
    }

    fn new(state: State, model: Option<Model>) -> Payload {
        let taken = clock::now();
        let upload = matches!(state, State::Once { .. }).then(|| {
            Rc::new(Upload {
                last: Cell::new(taken),
                whole: Cell::new(false),
                broken: Cell::new(None),
                bytes: Cell::new(0),
            })
        });
        Payload { state, model, taken, upload }
    }

    fn kept(frames: VecDeque<Frame<Bytes>>, room: Reservation, reads_body: bool) -> Payload {
        let bytes = joined(frames);
        let model = if reads_body { Model::find(&bytes) } else { None };
        Payload::new(State::Kept { bytes, _room: room }, model)
    }

    fn once(
        frames: VecDeque<Frame<Bytes>>,
        rest: Incoming,
        room: Reservation,
        reads_body: bool,
    ) -> Payload {
        let (data, other): (VecDeque<_>, VecDeque<_>) =
            frames.into_iter().partition(Frame::is_data);
        let bytes = joined(data);
        let model = if reads_body { Model::find(&bytes) } else { None };
        let mut first = other;
        if !bytes.is_empty() {
            first.push_front(Frame::data(bytes));
        }
        let rest = (!rest.is_end_stream()).then_some(rest);
        Payload::new(State::Once { first, rest, _room: room }, model)
    }

    /// The body's `/model`, as the application calls it.
    pub fn model(&self) -> Option<&str> {
        self.model.as_ref().map(|model| model.name.as_str())
    }

    /// There is something left to send.
    pub fn may_go(&self) -> bool {
        !matches!(self.state, State::Spent)
    }

    /// Takes back a body of which nothing was sent.
    pub fn put_back(&mut self, body: ReqBody, provider: &model::Provider) {
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

    pub fn upload(&self) -> Option<&Upload> {
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
    pub fn take(&mut self, provider: &model::Provider, idle: Duration) -> Result<ReqBody, Problem> {
        let model = self.model.as_ref();
        let (at, name) = (model.map(|m| &m.at), model.map(|m| m.name.as_str()));
        let changes = provider.rewrite.changes_body();
        match &self.state {
            State::Empty | State::Spent => Ok(ReqBody::Empty),
            State::Back(_, made_for)
                if *made_for != provider.name && !provider.models.is_empty() =>
            {
                Err(not_rewritable(provider, "it was begun for another provider"))
            }
            State::Back(..) => match std::mem::replace(&mut self.state, State::Spent) {
                State::Back(body, _) => Ok(body),
                _ => Ok(ReqBody::Empty),
            },
            State::Kept { bytes, .. } => {
                let bytes = rewrite::model(bytes, at, name, provider);
                let bytes = rewrite::body(&bytes, &provider.rewrite)
                    .map_err(|_| not_rewritable(provider, "it is no JSON object"))?;
                Ok(ReqBody::full(bytes))
            }
            State::Once { .. } if changes => {
                Err(not_rewritable(provider, "it is larger than the route's `replay`"))
            }
            State::Once { .. } => {
                let (State::Once { mut first, rest, _room }, Some(upload)) =
                    (std::mem::replace(&mut self.state, State::Spent), self.upload.clone())
                else {
                    return Ok(ReqBody::Empty);
                };
                if let Some(bytes) = first.front().and_then(Frame::data_ref)
                    && name.is_some_and(|name| provider.models.iter().any(|(m, _)| m == name))
                {
                    let bytes = rewrite::model(bytes, at, name, provider);
                    first[0] = Frame::data(bytes);
                }
                Ok(ReqBody::stream(OnceBody { first, rest, upload, idle, timer: None, _room }))
            }
        }
    }
}

impl Model {
    fn find(bytes: &[u8]) -> Option<Model> {
        let at = json::top_level_string(bytes, "model")?;
        Some(Model { name: json::unescaped(bytes, &at)?, at })
    }
}

impl Upload {
    /// When bytes last moved, or the whole was there.
    pub fn last(&self) -> Instant {
        self.last.get()
    }

    fn moved(&self, bytes: u64) {
        self.last.set(clock::now());
        self.bytes.set(self.bytes.get() + bytes);
    }
}

/// Reads into `first` to the body's end; else says why the body can go only once.
async fn take_in(
    body: &mut Incoming,
    bounds: Bounds,
    room: &mut Reservation,
    first: &mut VecDeque<Frame<Bytes>>,
    mut moved: Instant,
) -> Result<Option<&'static str>, Problem> {
    let known = body.size_hint().exact().is_some();
    let give_up = moved + STILL_ARRIVING;
    let mut kept = 0;
    loop {
        let limit = if known { moved + bounds.idle } else { give_up };
        let frame = match frame(body, limit).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(broken(&error)),
            Err(Passed) if known => return Err(stalled(bounds.idle)),
            Err(Passed) => return Ok(Some("still_arriving")),
        };
        let size = frame.data_ref().map_or(0, |data| data.len() as u64);
        let trailers = frame.is_trailers();
        kept += size;
        first.push_back(frame);
        if trailers {
            return Ok(Some("trailers"));
        }
        if kept > bounds.replay {
            return Ok(Some("larger_than_replay"));
        }
        if !room.grow(size) {
            return Ok(Some("buffers_full"));
        }
        if body.is_end_stream() {
            return Ok(None);
        }
        moved = clock::now();
    }
}

/// Data frames as one piece; a single one is not copied.
fn joined(mut frames: VecDeque<Frame<Bytes>>) -> Bytes {
    if frames.len() == 1 {
        return frames.pop_front().and_then(|f| f.into_data().ok()).unwrap_or_default();
    }
    let mut whole = BytesMut::new();
    for data in frames.into_iter().filter_map(|frame| frame.into_data().ok()) {
        whole.extend_from_slice(&data);
    }
    whole.freeze()
}

fn broken(error: &hyper::Error) -> Problem {
    Problem::new(Kind::RequestBroken, error.to_string())
}

fn stalled(idle: Duration) -> Problem {
    Problem::new(Kind::RequestTimeout, format!("nothing arrived for {idle:?}"))
}

fn not_rewritable(provider: &model::Provider, why: &str) -> Problem {
    let detail = format!("provider `{}` changes values in the body, but {why}", provider.name);
    Problem::new(Kind::NotRewritable, detail)
}

/// A body that is passed on as it comes.
struct OnceBody {
    first: VecDeque<Frame<Bytes>>,
    rest: Option<Incoming>,
    upload: Rc<Upload>,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    _room: Reservation,
}

impl Body for OnceBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(frame) = this.first.pop_front() {
            this.upload.moved(frame.data_ref().map_or(0, |data| data.len() as u64));
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(rest) = this.rest.as_mut() else {
            this.upload.whole.set(true);
            return Poll::Ready(None);
        };
        match Pin::new(rest).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.timer = None;
                this.upload.moved(frame.data_ref().map_or(0, |data| data.len() as u64));
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.upload.broken.set(Some(Kind::RequestBroken));
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.upload.moved(0);
                this.upload.whole.set(true);
                Poll::Ready(None)
            }
            Poll::Pending => {
                let idle = this.idle;
                let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
                ready!(timer.as_mut().poll(cx));
                this.upload.broken.set(Some(Kind::RequestTimeout));
                let error = format!("the application sent nothing for {idle:?}");
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let first: u64 =
            self.first.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        match self.rest.as_ref().map_or(Some(0), |rest| rest.size_hint().exact()) {
            Some(rest) if !self.first.iter().any(Frame::is_trailers) => {
                SizeHint::with_exact(first + rest)
            }
            _ => SizeHint::default(),
        }
    }
}
