//! From an answer's head to the commit: how much of the body is read first, and which class of
//! outcome it is.
//!
//! A JSON answer is held until it is whole, where it fits the route's buffer, and an event stream
//! until its first content, unless the route's `commit` says otherwise: until then another attempt
//! is possible, after it never.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{Method, StatusCode};
use http_body::Body;

use super::classify::Head;
use super::content_type::{self, Nature};
use super::pending_response::{Ready, ReadyBody, Stream};
use super::prebuffer::{self, Cut, Gathered, Hold, Limits, Until, gather};
use super::quota_headers::left;
use super::report::Lesson;
use super::select::Pick;
use super::send::chain;
use crate::clock;
use crate::live::buffers::Reservation;
use crate::policy::sections::model::Commit;
use crate::proxy::downstream::error::{Kind, Problem};
use crate::proxy::downstream::timer::Timer;
use crate::proxy::request::context::Ask;
use crate::resilience::outcome::{Class, Reach};
use crate::snapshot::Route;
use crate::stream::framing::Format;
use crate::stream::reader::{Ended, Reader};
use crate::upstream::AnswerBody;

/// The most that is kept of what an answer said, to go on from.
const SAID: usize = 256 << 10;

/// What came of an attempt.
#[derive(Debug)]
pub enum Tried {
    /// This goes to the application.
    Commit(Box<Ready>),
    /// Another attempt may follow; if none does, this is the answer.
    Failed(Class, AtHand),
}

/// The answer, unless a better one comes.
#[derive(Debug)]
pub enum AtHand {
    Theirs(Box<Ready>),
    Ours(Problem),
}

/// A provider's answer of which the head was read.
#[derive(Debug)]
pub struct Answer {
    pub head: Parts,
    pub body: AnswerBody,
    pub pick: Box<Pick>,
    /// To the head.
    pub took: Duration,
    pub limits: Limits,
    pub nature: Nature,
    /// Of what has events.
    pub reader: Option<(Format, Box<Reader>)>,
    /// For what is withheld.
    pub room: Reservation,
}

impl Ask {
    /// Reads what has to be read before the commit, and classifies.
    pub async fn answered(&mut self, route: &Route, mut answer: Answer) -> Tried {
        let candidate = Self::candidate(route, answer.pick.tier, answer.pick.index);
        let rules = &candidate.provider.policy.classify;
        let status = answer.head.status.as_u16();
        if answer.head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switched(route, answer);
        }
        if candidate.provider.policy.capacity.follow_headers {
            let left = left(&answer.head.headers, clock::wall);
            if left.requests.is_some() || left.tokens.is_some() {
                let charge = answer.pick.flight.charge();
                candidate.provider.live.told(charge, [left.requests, left.tokens]);
            }
        }
        // Only an error says when to come back.
        let retry_after = match status >= 300 {
            true => content_type::retry_after(&answer.head.headers, clock::wall),
            false => None,
        };
        let head = Head {
            status,
            has_retry_after: retry_after.is_some(),
            our_credential: candidate.address.credentials() > 0,
            nature: answer.nature,
        };
        let by_head = head.class(rules);
        answer.reader = self.reader(route, &answer, by_head);
        if answer.reader.is_some() {
            // Events may be left out, or put in.
            answer.head.headers.remove(CONTENT_LENGTH);
        }
        let gathered = match self.held_until(route, &answer, by_head) {
            Some(hold) => answer.gather(&self.timer, hold).await,
            None => Gathered::Part(VecDeque::new()),
        };
        let class = match (by_head, &gathered) {
            (_, Gathered::Error(class, _)) => *class,
            (Some(class), _) => class,
            (None, Gathered::Whole(bytes, _)) => head.class_of(rules, bytes),
            (None, _) => head.built_in(),
        };
        let lesson =
            Lesson { class, status, took: answer.took, retry_after, timed_out: false, error: None };
        if self.partial.is_some() && answer.reader.is_none() && lesson.commits() {
            return self.unfit(route, answer, lesson);
        }
        self.gathered(route, answer, gathered, lesson)
    }

    /// The events of an answer that has some.
    fn reader(
        &self,
        route: &Route,
        answer: &Answer,
        class: Option<Class>,
    ) -> Option<(Format, Box<Reader>)> {
        let format = answer.nature.events().filter(|_| class == Some(Class::Success))?;
        let candidate = Self::candidate(route, answer.pick.tier, answer.pick.index);
        let reading = Arc::clone(&candidate.reading);
        // A stream that is fetched and not asked for with a body is no model's answer.
        let wanted = self.method == Method::POST || reading.is_asked();
        let status = answer.head.status;
        let is_read = wanted && status == StatusCode::OK && self.method != Method::HEAD;
        if !is_read || self.partial.is_some() && format != Format::Sse {
            return None;
        }
        let reader = match &self.partial {
            Some(partial) => Reader::continuing(reading, format, SAID, partial.clone()),
            None => {
                let said = self.goes_on().then_some(SAID);
                Reader::new(reading, format, status.as_u16(), said)
            }
        };
        Some((format, Box::new(reader)))
    }

    /// How much of the body is read before the commit.
    fn held_until(&self, route: &Route, answer: &Answer, class: Option<Class>) -> Option<Hold> {
        let nature = answer.nature;
        let stream = &route.policy.stream;
        let events = matches!(nature.kind, content_type::Kind::Events(_));
        let ended = answer.body.is_end_stream() && class.is_some() && !events;
        if self.method == Method::HEAD || ended {
            return None;
        }
        let hold = |until| Some(Hold { until, within: stream.buffer });
        match class {
            None => hold(Until::End),
            Some(Class::Success) => match stream.commit {
                Some(Commit::Complete) => hold(Until::End),
                Some(Commit::Headers) => None,
                None if nature.kind == content_type::Kind::Json => hold(Until::End),
                None if !events => None,
                Some(Commit::FirstContent) | None if answer.reader.is_some() => {
                    hold(Until::Content)
                }
                Some(Commit::FirstContent) | None => hold(Until::Frame),
            },
            Some(class) => self.could_follow(class, &answer.pick).then_some(prebuffer::REFUSED),
        }
    }

    /// Whether another attempt after this class is conceivable.
    fn could_follow(&self, class: Class, pick: &Pick) -> bool {
        let more =
            self.left_in(&self.route, pick.tier) > 0 || pick.tier + 1 < self.route.tiers.len();
        more && self.reach(class) != Reach::Nowhere && self.payload.may_go()
    }

    fn gathered(
        &mut self,
        route: &Route,
        mut answer: Answer,
        gathered: Gathered,
        mut lesson: Lesson,
    ) -> Tried {
        let failed = matches!(gathered, Gathered::Error(..));
        let first = match gathered {
            Gathered::Cut(cut) => {
                self.read(&answer);
                return self.cut(route, answer, cut, lesson);
            }
            Gathered::Whole(bytes, trailers) => {
                let class = lesson.class;
                self.read(&answer);
                self.read_whole(route, &answer, &bytes);
                self.report(route, &mut answer.pick, lesson);
                return ready(class, answer, ReadyBody::Whole(bytes, trailers));
            }
            Gathered::Error(_, first) => {
                lesson.error = Some("an event of the answer says that it failed".to_owned());
                first
            }
            Gathered::Part(first) => first,
        };
        let class = lesson.class;
        if !first.is_empty() {
            lesson.took = clock::since(answer.pick.started);
        }
        if first.is_empty() && answer.body.is_end_stream() {
            self.report(route, &mut answer.pick, lesson);
            return ready(class, answer, ReadyBody::Whole(Bytes::new(), None));
        }
        let afterwards = self.report(route, &mut answer.pick, lesson);
        let Answer { head, body: rest, pick, limits, reader, room, .. } = answer;
        let unready = reader.as_ref().is_some_and(|(_, reader)| !reader.ready());
        let (bill, credential) = (pick.bill(), pick.credential);
        let content_by = unready.then_some(limits.content);
        let flight = pick.flight;
        let record = None;
        let stream =
            Stream { first, rest, flight, afterwards, room, reader, content_by, failed, record };
        let body = ReadyBody::Stream(Box::new(stream));
        tried(class, Ready { head, body, idle: limits.idle, bill, credential, ours: false })
    }

    /// What an answer's events said of tokens, and how many could not be read.
    fn read(&mut self, answer: &Answer) {
        let Some((_, reader)) = &answer.reader else { return };
        self.settle(answer.pick.bill(), reader.tokens());
        self.route.metrics.events_dropped.inc_by(reader.dropped());
    }

    /// What a whole answer says of tokens. Only what is asked for with a body is looked at.
    fn read_whole(&mut self, route: &Route, answer: &Answer, bytes: &[u8]) {
        if self.method != Method::POST || !answer.nature.is_json() {
            return;
        }
        let candidate = Self::candidate(route, answer.pick.tier, answer.pick.index);
        let tokens = candidate.reading.whole(bytes, &mut self.worker.found.borrow_mut());
        self.settle(answer.pick.bill(), tokens);
    }

    /// Puts down an answer that is thrown away for a better one.
    pub fn put_down(&mut self, hand: &AtHand) {
        let AtHand::Theirs(ready) = hand else { return };
        let ReadyBody::Stream(stream) = &ready.body else { return };
        let Some((_, reader)) = &stream.reader else { return };
        self.settle(ready.bill, reader.tokens());
        self.route.metrics.events_dropped.inc_by(reader.dropped());
    }

    /// An answer that no stream can be joined on to.
    fn unfit(&mut self, route: &Route, mut answer: Answer, lesson: Lesson) -> Tried {
        let key = Self::candidate(route, answer.pick.tier, answer.pick.index).address.key.clone();
        self.report(route, &mut answer.pick, lesson);
        let problem = Problem::new(Kind::BadAnswer, format!("{key}: it does not go on"));
        Tried::Failed(Class::Failure, AtHand::Ours(problem))
    }

    fn switched(&mut self, route: &Route, mut answer: Answer) -> Tried {
        let lesson = Lesson::answered(Class::Success, 101, answer.took);
        self.report(route, &mut answer.pick, lesson);
        let Answer { head, body, pick, limits, .. } = answer;
        let (bill, credential) = (pick.bill(), pick.credential);
        let body = ReadyBody::Tunnel { flight: pick.flight, rest: body };
        Tried::Commit(Box::new(Ready {
            head,
            body,
            idle: limits.idle,
            bill,
            credential,
            ours: false,
        }))
    }

    /// The answer broke, or fell silent, before the commit.
    fn cut(&mut self, route: &Route, mut answer: Answer, cut: Cut, lesson: Lesson) -> Tried {
        let key = Self::candidate(route, answer.pick.tier, answer.pick.index).address.key.clone();
        let (kind, what) = cut.words();
        let timed_out = matches!(kind, Kind::AnswerTimeout | Kind::Deadline);
        let class = if lesson.class == Class::Success { Class::Failure } else { lesson.class };
        let detail = format!("{key}: {what}");
        let took = clock::since(answer.pick.started);
        let lesson = Lesson { class, took, timed_out, error: Some(what), ..lesson };
        self.report(route, &mut answer.pick, lesson);
        Tried::Failed(class, AtHand::Ours(Problem::new(kind, detail)))
    }
}

impl Answer {
    pub fn new(
        head: Parts,
        body: AnswerBody,
        pick: Box<Pick>,
        took: Duration,
        limits: Limits,
        room: Reservation,
    ) -> Answer {
        let nature = Nature::of(&head.headers);
        Answer { head, body, pick, took, limits, nature, reader: None, room }
    }

    async fn gather(&mut self, timer: &Timer, hold: Hold) -> Gathered {
        let reader = self.reader.as_mut().map(|(_, reader)| &mut **reader);
        gather(timer, &mut self.body, hold, self.limits, &mut self.room, reader).await
    }
}

impl Cut {
    fn words(&self) -> (Kind, String) {
        let (kind, what) = match self {
            Cut::Broken(error) => return (Kind::ConnectionLost, chain(error)),
            Cut::FirstByte => (Kind::AnswerTimeout, "headers came, but no body in time"),
            Cut::Content => (Kind::AnswerTimeout, "the stream began, but no content in time"),
            Cut::Idle => (Kind::AnswerTimeout, "the body stalled"),
            Cut::Deadline => (Kind::Deadline, "the route's timeout passed"),
            Cut::Ended(ended) => (Kind::BadAnswer, ended_words(*ended)),
        };
        (kind, what.to_owned())
    }
}

/// What is wrong with a stream that ended so.
pub fn ended_words(ended: Ended) -> &'static str {
    match ended {
        Ended::Whole => "the stream is whole",
        Ended::NoEnd => "the stream ended without what ends one",
        Ended::Malformed => "nothing of the stream could be read",
        Ended::Empty => "the stream had no event",
    }
}

fn ready(class: Class, answer: Answer, body: ReadyBody) -> Tried {
    let (bill, credential) = (answer.pick.bill(), answer.pick.credential);
    tried(
        class,
        Ready { head: answer.head, body, idle: answer.limits.idle, bill, credential, ours: false },
    )
}

fn tried(class: Class, ready: Ready) -> Tried {
    match class {
        Class::Success | Class::Ignored => Tried::Commit(Box::new(ready)),
        class => Tried::Failed(class, AtHand::Theirs(Box::new(ready))),
    }
}
