//! From an answer's head to the commit: how much of the body is read first, which class of outcome
//! it is, and what is told to breaker, hold, balancer and log.
//!
//! A JSON answer is held until it is whole, where it fits the bounds, and an event stream until
//! its first frame: until then another attempt is possible, after it never.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::response::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use http_body::{Body, Frame};

use super::attempt::chain;
use super::choose::Pick;
use super::classify::Head;
use super::dial::self_delay;
use super::error::{Kind, Problem};
use super::gather::{self, Cut, Gathered, Limits, gather};
use super::request::{Again, Ask};
use super::story::Told;
use crate::clock;
use crate::live::buffers::Reservation;
use crate::live::permit::{Afterwards, Flight};
use crate::resilience::outcome::{Class, Outcome, Reach};
use crate::snapshot::Route;
use crate::upstream::AnswerBody;

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

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

/// A provider's answer, ready for the application.
#[derive(Debug)]
pub struct Ready {
    pub head: Parts,
    pub body: ReadyBody,
    pub idle: Duration,
}

#[derive(Debug)]
pub enum ReadyBody {
    Whole(Bytes, Option<HeaderMap>),
    Stream {
        first: VecDeque<Frame<Bytes>>,
        rest: AnswerBody,
        flight: Flight,
        afterwards: Option<Afterwards>,
        room: Reservation,
    },
    /// 101: both sides speak another protocol from here on.
    Tunnel {
        flight: Flight,
        rest: AnswerBody,
    },
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
}

/// What an attempt taught.
struct Lesson {
    class: Class,
    status: u16,
    took: Duration,
    retry_after: Option<Duration>,
    timed_out: bool,
    error: Option<String>,
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
        // Only an error says when to come back.
        let refused = answer.head.status.as_u16() >= 300;
        let retry_after =
            if refused { retry_after(&answer.head.headers, clock::wall) } else { None };
        let head = Head {
            status,
            has_retry_after: retry_after.is_some(),
            our_credential: candidate.address.credentials() > 0,
        };
        let by_head = head.class(rules);
        let mut room = self.worker.live.buffers.reservation();
        let gathered = match self.bounds(&answer, by_head) {
            Some(bounds) => {
                gather(&self.client.timer, &mut answer.body, bounds, answer.limits, &mut room).await
            }
            None => Gathered::Part(VecDeque::new()),
        };
        let class = match (by_head, &gathered) {
            (Some(class), _) => class,
            (None, Gathered::Whole(bytes, _)) => head.class_of(rules, bytes),
            (None, _) => Class::of_status(status, head.has_retry_after),
        };
        let lesson =
            Lesson { class, status, took: answer.took, retry_after, timed_out: false, error: None };
        match gathered {
            Gathered::Cut(cut) => self.cut(route, answer, cut, lesson),
            Gathered::Whole(bytes, trailers) => {
                self.report(route, &mut answer.pick, lesson);
                self.ready(class, answer, ReadyBody::Whole(bytes, trailers))
            }
            Gathered::Part(first) => self.streaming(route, answer, first, lesson, room),
        }
    }

    /// How much of the body is read before the commit.
    fn bounds(&self, answer: &Answer, class: Option<Class>) -> Option<gather::Bounds> {
        if self.method == Method::HEAD || answer.body.is_end_stream() && class.is_some() {
            return None;
        }
        let content_type = answer.head.headers.get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        match class {
            None => Some(gather::WHOLE),
            Some(Class::Success) if is_json(content_type) => Some(gather::WHOLE),
            Some(Class::Success) if is_event_stream(content_type) => Some(gather::FIRST),
            Some(Class::Success) => None,
            Some(class) => self.could_follow(class, &answer.pick).then_some(gather::REFUSED),
        }
    }

    /// Whether another attempt after this class is conceivable.
    fn could_follow(&self, class: Class, pick: &Pick) -> bool {
        let more =
            self.left_in(&self.route, pick.tier) > 0 || pick.tier + 1 < self.route.tiers.len();
        more && self.reach(class) != Reach::Nowhere && self.payload.may_go()
    }

    fn streaming(
        &mut self,
        route: &Route,
        mut answer: Answer,
        first: VecDeque<Frame<Bytes>>,
        mut lesson: Lesson,
        room: Reservation,
    ) -> Tried {
        let class = lesson.class;
        if !first.is_empty() {
            lesson.took = clock::since(answer.pick.started);
        }
        if first.is_empty() && answer.body.is_end_stream() {
            self.report(route, &mut answer.pick, lesson);
            return self.ready(class, answer, ReadyBody::Whole(Bytes::new(), None));
        }
        let afterwards = self.report(route, &mut answer.pick, lesson);
        let Answer { head, body, pick, limits, .. } = answer;
        let body = ReadyBody::Stream { first, rest: body, flight: pick.flight, afterwards, room };
        Self::tried(class, Ready { head, body, idle: limits.idle })
    }

    fn ready(&self, class: Class, answer: Answer, body: ReadyBody) -> Tried {
        Self::tried(class, Ready { head: answer.head, body, idle: answer.limits.idle })
    }

    fn tried(class: Class, ready: Ready) -> Tried {
        match class {
            Class::Success | Class::Ignored => Tried::Commit(Box::new(ready)),
            class => Tried::Failed(class, AtHand::Theirs(Box::new(ready))),
        }
    }

    fn switched(&mut self, route: &Route, mut answer: Answer) -> Tried {
        let lesson = Lesson::answered(Class::Success, 101, answer.took);
        self.report(route, &mut answer.pick, lesson);
        let Answer { head, body, pick, limits, .. } = answer;
        let body = ReadyBody::Tunnel { flight: pick.flight, rest: body };
        Tried::Commit(Box::new(Ready { head, body, idle: limits.idle }))
    }

    /// The answer broke, or fell silent, before the commit.
    fn cut(&mut self, route: &Route, mut answer: Answer, cut: Cut, lesson: Lesson) -> Tried {
        let key = Self::candidate(route, answer.pick.tier, answer.pick.index).address.key.clone();
        let (kind, what, timed_out) = match cut {
            Cut::Broken(error) => (Kind::ConnectionLost, chain(&error), false),
            Cut::FirstByte => {
                (Kind::AnswerTimeout, "headers came, but no body in time".into(), true)
            }
            Cut::Idle => (Kind::AnswerTimeout, "the body stalled".into(), true),
            Cut::Deadline => (Kind::Deadline, "the route's timeout passed".into(), true),
        };
        let class = if lesson.class == Class::Success { Class::Failure } else { lesson.class };
        let detail = format!("{key}: {what}");
        let took = clock::since(answer.pick.started);
        let lesson = Lesson { class, took, timed_out, error: Some(what), ..lesson };
        self.report(route, &mut answer.pick, lesson);
        Tried::Failed(class, AtHand::Ours(Problem::new(kind, detail)))
    }

    /// No response came. What the application's side broke is nobody's failure.
    pub fn lost(&mut self, route: &Route, mut pick: Box<Pick>, problem: Problem) -> Tried {
        let ours = matches!(problem.kind, Kind::RequestBroken | Kind::RequestTimeout);
        let class = if ours { Class::Ignored } else { Class::Failure };
        let lesson = Lesson {
            timed_out: problem.kind == Kind::AnswerTimeout,
            error: Some(problem.detail.clone()),
            ..Lesson::answered(class, 0, clock::since(pick.started))
        };
        self.report(route, &mut pick, lesson);
        Tried::Failed(class, AtHand::Ours(problem))
    }

    /// Tells breaker, hold, balancer, metrics and story, once.
    fn report(&mut self, route: &Route, pick: &mut Pick, lesson: Lesson) -> Option<Afterwards> {
        let now = clock::now();
        let candidate = Self::candidate(route, pick.tier, pick.index);
        let Lesson { class, status, took, retry_after, timed_out, error } = lesson;
        let probe = pick.permit.is_probe();
        self.hold(route, pick, class, status, retry_after, now);
        let afterwards = pick.permit.report(class.outcome(), took, now);
        match class.outcome() {
            Outcome::Failure | Outcome::Throttled => candidate.address.live.failed(took, now),
            Outcome::Success if probe => candidate.address.live.recovered(took, now),
            Outcome::Success if class == Class::Success => {
                candidate.address.live.answered(took, now)
            }
            Outcome::Success | Outcome::Ignored => {}
        }
        candidate.address.attempts[class.index()].inc();
        if status > 0 {
            candidate.provider.first_byte.observe(took.as_secs_f64());
        }
        let never = timed_out
            || matches!(
                class,
                Class::Success | Class::Ignored | Class::Credential | Class::TooLarge
            );
        let again = |times| match never {
            true => Again::Never,
            false => Again::At(now + self_delay(route, candidate, times)),
        };
        self.tries.end(pick.tier, pick.index, pick.credential, again);
        let (to, credential) = (Arc::clone(&candidate.address), Some(pick.credential));
        self.story.attempts.push(Told { to, credential, class, status, took, probe, error });
        afterwards
    }

    /// A provider that asked to wait is not asked before.
    fn hold(
        &self,
        route: &Route,
        pick: &Pick,
        class: Class,
        status: u16,
        retry_after: Option<Duration>,
        now: Instant,
    ) {
        let candidate = Self::candidate(route, pick.tier, pick.index);
        let Some(hold) = pick.permit.hold() else { return };
        match class {
            Class::Throttled => {
                let respected = self.retry(route).respect_retry_after;
                let until = hold.throttled(retry_after.filter(|_| respected), now);
                candidate.address.holds.inc();
                let left = until.saturating_duration_since(now);
                tracing::info!(
                    endpoint = hold.key(),
                    status,
                    ?left,
                    "held: the provider asked to wait"
                );
            }
            Class::Credential => {
                let alone = route.tiers.len() == 1
                    && route.tiers[0].candidates.len() == 1
                    && candidate.address.credentials() <= 1;
                if !alone && let Some(until) = hold.credential(status, now) {
                    candidate.address.holds.inc();
                    let left = until.saturating_duration_since(now);
                    tracing::warn!(
                        endpoint = hold.key(),
                        status,
                        ?left,
                        "held: the provider refused the credential"
                    );
                }
            }
            _ => {}
        }
    }
}

impl Lesson {
    fn answered(class: Class, status: u16, took: Duration) -> Lesson {
        Lesson { class, status, took, retry_after: None, timed_out: false, error: None }
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || essence.len() > 5
            && essence.as_bytes()[essence.len() - 5..].eq_ignore_ascii_case(b"+json")
}

fn is_event_stream(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("text/event-stream")
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), or `retry-after-ms`.
fn retry_after(headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let millis = text(RETRY_AFTER_MS).and_then(|ms| ms.parse::<f64>().ok());
    if let Some(millis) = millis.filter(|ms| (0.0..1e9).contains(ms)) {
        return Some(Duration::from_secs_f64(millis / 1e3));
    }
    let value = text(RETRY_AFTER)?;
    if let Some(seconds) = value.parse::<f64>().ok().filter(|s| (0.0..1e9).contains(s)) {
        return Some(Duration::from_secs_f64(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_each_of_its_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (name, value, expected) in [
            ("retry-after", "7", Some(7_000)),
            ("retry-after", "1.5", Some(1_500)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", Some(10_000)),
            ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("retry-after", "-1", None),
            ("retry-after", "1e300", None),
            ("retry-after", "soon", None),
            ("retry-after-ms", "250", Some(250)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            let expected = expected.map(Duration::from_millis);
            assert_eq!(retry_after(&headers, || now), expected, "{name}: {value}");
        }
    }

    #[test]
    fn json_is_known_by_its_content_type() {
        assert!(is_json("application/json; charset=utf-8") && is_json("application/problem+JSON"));
        assert!(!is_json("text/html") && !is_json("+json") && !is_json(""));
    }
}
