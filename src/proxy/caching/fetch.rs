//! What a cache has no answer for goes to a provider: with the validators of what is stored, and its
//! answer is written down, freshens what is stored, or is replaced by that where it is an error.
//!
//! Errors are what RFC 5861 calls so (500, 502, 503, 504) and that nobody could be reached; an open
//! breaker is one of these, and comes at once. Once an answer has begun nothing replaces it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::invalidate::is_here;
use super::key::Sought;
use super::lookup::{Outcome, did, from_store};
use crate::cache::cache_control::Control;
use crate::cache::coalesce::{Landed, Lead};
use crate::cache::entry::Stored;
use crate::cache::freshness::{Lifetime, Received, Windows};
use crate::cache::recorder::{Draft, Recorder};
use crate::cache::store::Did;
use crate::cache::vary::Selecting;
use crate::clock;
use crate::policy::sections::model::Keeps;
use crate::proxy::attempt::inspect::AtHand;
use crate::proxy::attempt::pending_response::{Ready, ReadyBody};
use crate::proxy::downstream::error::Kind;
use crate::proxy::handler::{run, run_as_it_is};
use crate::proxy::request::context::{Ask, Tries};
use crate::proxy::request::headers;
use crate::proxy::response::cache_status;
use crate::resilience::outcome::Class;
use crate::snapshot::{Route, RouteCache};

/// How long nobody waits for another's answer where the last could not be shared.
const ALONE: Duration = Duration::from_secs(5);

/// What is known of a request when it goes to a provider.
#[derive(Debug)]
pub struct Errand {
    pub sought: Sought,
    /// What is stored for it, and does not serve as it is.
    pub found: Option<Arc<Stored>>,
    /// It asks for others too.
    pub lead: Option<Lead>,
    /// In the words of RFC 9211, 2.2.
    pub why: &'static str,
}

/// Asks a provider. `hurries`: where something stored would serve in its place, nothing is waited for.
pub async fn forward(
    ask: &mut Ask,
    route: &Route,
    cache: &RouteCache,
    mut errand: Errand,
    hurries: bool,
) -> Outcome {
    let (asked, generation) = (clock::now(), cache.live.generation());
    ask.stored = errand.found.clone();
    ask.hurries = hurries && serves(errand.found.as_ref()).is_some();
    let (outcome, validates) = validated(ask, route, cache, &mut errand).await;
    match (outcome, &errand.found) {
        // Of a mode: whoever waits hears of it itself.
        (Ok(ready), _) if ready.ours => {
            land(errand.lead, Landed::Again);
            Ok(ready)
        }
        (Ok(ready), Some(stored)) if validates && ready.head.status == StatusCode::NOT_MODIFIED => {
            let stored = Arc::clone(stored);
            Ok(freshened(ask, cache, errand, &stored, &ready, (asked, generation)))
        }
        (Ok(ready), _) if !is_error(ready.head.status) => {
            Ok(recorded(ask, cache, errand, ready, (asked, generation)))
        }
        (outcome, found) => {
            let landed = landed_as(ask, &outcome);
            let outcome = stale_or(ask, cache, found.as_ref(), outcome);
            match outcome {
                Ok(ready) if !ready.ours => {
                    Ok(recorded(ask, cache, errand, ready, (asked, generation)))
                }
                outcome => {
                    land(errand.lead, landed);
                    outcome
                }
            }
        }
    }
}

/// The answer to a request with the validators of what is stored, and whether it may be about that.
async fn validated(
    ask: &mut Ask,
    route: &Route,
    cache: &RouteCache,
    errand: &mut Errand,
) -> (Outcome, bool) {
    let is_http = errand.sought.uri.is_some();
    let found = errand.found.clone().filter(|stored| is_http && stored.can_be_validated());
    let Some(stored) = found else { return (run(ask, route).await, false) };
    ask.validates(&stored);
    let outcome = run(ask, route).await;
    ask.own_conditions();
    match &outcome {
        Ok(ready) if is_of_another(ready, &stored) => {}
        _ => return (outcome, true),
    }
    // What is stored is not what stands there, and what does is not here.
    cache.live.forget(&errand.sought.key, &stored);
    (errand.found, ask.stored, ask.hurries) = (None, None, false);
    ask.tries = Tries::default();
    (run_as_it_is(ask, route).await, false)
}

/// A provider's 304 that names another answer than it was asked about (RFC 9111, 4.3.4).
fn is_of_another(ready: &Ready, stored: &Stored) -> bool {
    !ready.ours
        && ready.head.status == StatusCode::NOT_MODIFIED
        && !stored.is_meant(&ready.head.headers)
}

fn land(lead: Option<Lead>, landed: Landed) {
    if let Some(lead) = lead {
        lead.ends(landed);
    }
}

/// Lets each ask for itself; the next ones, too, where HTTP says that answers there are for one alone.
fn each_alone(cache: &RouteCache, sought: &Sought, lead: Option<Lead>) {
    if lead.is_some() && sought.uri.is_some() {
        cache.live.alone.set(&sought.key, clock::now() + ALONE);
    }
    land(lead, Landed::Alone);
}

fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// No provider answered; else something about the request itself was wrong.
fn is_nobody(kind: Kind) -> bool {
    use Kind::*;
    matches!(
        kind,
        Unreachable
            | ConnectionLost
            | BadAnswer
            | AnswerTimeout
            | Deadline
            | BreakerOpen
            | Drained
            | Held
            | NoRoom
            | QueueFull
            | QueueShare
            | QueueLate
    )
}

/// What an error is to those who wait: theirs too, or this request's own affair.
fn landed_as(ask: &Ask, outcome: &Outcome) -> Landed {
    match outcome {
        Err(problem) if problem.kind == Kind::Deadline && ask.overrides.timeout.is_some() => {
            Landed::Again
        }
        Err(problem) if !is_nobody(problem.kind) => Landed::Again,
        _ => Landed::Failed,
    }
}

/// What is stored and serves in place of an error.
fn serves(found: Option<&Arc<Stored>>) -> Option<&Arc<Stored>> {
    found.filter(|stored| stored.life.serves_on_error(clock::now()))
}

/// What is stored in place of an error, where it may serve.
pub fn stale_or(
    ask: &mut Ask,
    cache: &RouteCache,
    found: Option<&Arc<Stored>>,
    outcome: Outcome,
) -> Outcome {
    let replaced = match &outcome {
        Ok(ready) => is_error(ready.head.status),
        Err(problem) => is_nobody(problem.kind),
    };
    let Some(stored) = serves(found).filter(|_| replaced) else {
        if outcome.is_err() {
            did(ask, cache, Did::Miss);
        }
        return outcome;
    };
    did(ask, cache, Did::Stale);
    if let Ok(ready) = outcome {
        ask.put_down(&AtHand::Theirs(ready));
    }
    Ok(from_store(ask, Arc::clone(stored), Some("stale-if-error")))
}

/// The provider says that what is stored still is what it was (RFC 9111, 4.3.4).
fn freshened(
    ask: &mut Ask,
    cache: &RouteCache,
    errand: Errand,
    stored: &Arc<Stored>,
    ready: &Ready,
    (asked, generation): (Instant, u64),
) -> Box<Ready> {
    did(ask, cache, Did::Revalidated);
    let Errand { sought, lead, why, .. } = errand;
    let mut served = Arc::clone(stored);
    if let Some(anew) = anew(ask, cache, stored, ready, asked) {
        served = Arc::new(anew.clone());
        if !sought.control.no_store && !ask.reduced {
            cache.live.put(sought.key, anew, generation);
        }
    }
    if served.life.left(clock::now()).is_zero() {
        each_alone(cache, &sought, lead);
    } else {
        land(lead, Landed::Again);
    }
    let mut ready = from_store(ask, served, None);
    cache_status::revalidated(&mut ready.head, why);
    ready
}

/// What is stored with what a 304 says of it; `None` where it forbids to keep it.
fn anew(
    ask: &Ask,
    cache: &RouteCache,
    stored: &Stored,
    ready: &Ready,
    asked: Instant,
) -> Option<Stored> {
    let mut answer = ready.head.headers.clone();
    headers::end_answer_hop(&mut answer, false);
    let anew = stored.freshened(&answer, stored.life.clone(), asked);
    let mut headers = anew.headers.clone();
    headers.extend(answer.remove(AGE).map(|age| (AGE, age)));
    let received = received(stored.status, &headers, asked);
    let life = Lifetime::http(&ask.headers, received, windows(cache))?;
    Some(Stored { life, ..anew })
}

fn windows(cache: &RouteCache) -> Windows {
    Windows {
        if_error: cache.policy.stale_if_error,
        while_revalidate: cache.policy.stale_while_revalidate,
    }
}

fn received(status: StatusCode, headers: &HeaderMap, asked: Instant) -> Received<'_> {
    Received { status, headers, asked, at: clock::now(), wall: clock::wall() }
}

/// Writes an answer down while it passes, where it may be kept.
fn recorded(
    ask: &mut Ask,
    cache: &RouteCache,
    errand: Errand,
    mut ready: Box<Ready>,
    (asked, generation): (Instant, u64),
) -> Box<Ready> {
    did(ask, cache, Did::Miss);
    let Errand { sought, lead, why, .. } = errand;
    let length = match &ready.body {
        ReadyBody::Whole(bytes, None) => Some(bytes.len() as u64),
        _ => length(&ready.head.headers),
    };
    let draft = draft(ask, cache, &sought, &ready, (asked, generation));
    let shared = draft.as_ref().is_some_and(|draft| !draft.life.left(clock::now()).is_zero());
    let recorder = draft.and_then(|draft| Recorder::begin(&cache.live, draft, length));
    let stored = if recorder.is_some() { "; stored" } else { "" };
    cache_status::forwarded(&mut ready.head, why, None, stored);
    let Some(mut recorder) = recorder else {
        each_alone(cache, &sought, lead);
        return ready;
    };
    match lead {
        Some(lead) if shared => recorder.share(lead),
        lead => each_alone(cache, &sought, lead),
    }
    record(&mut ready, recorder);
    ready
}

/// Keeps the answer to a POST that says that it is what a GET of the same would have, and for how long
/// (RFC 9110, 9.3.3).
pub fn keep_for_get(ask: &Ask, cache: &RouteCache, ready: &mut Ready) -> bool {
    let is_http = cache.policy.store == Keeps::Http;
    if !is_http || ask.method != Method::POST || ready.head.status != StatusCode::OK {
        return false;
    }
    let here = ready.head.headers.get(CONTENT_LOCATION);
    let headers = &ready.head.headers;
    let explicit =
        Control::of_answer(headers).is_explicit() || headers.contains_key(http::header::EXPIRES);
    if !explicit || !here.is_some_and(|here| is_here(ask, here)) {
        return false;
    }
    let (sought, asked) = (Sought::by_get(ask, cache), clock::now());
    let drafted = draft(ask, cache, &sought, ready, (asked, cache.live.generation()));
    let length = length(&ready.head.headers);
    let Some(recorder) = drafted.and_then(|draft| Recorder::begin(&cache.live, draft, length))
    else {
        return false;
    };
    record(ready, recorder);
    true
}

fn record(ready: &mut Ready, mut recorder: Recorder) {
    match &mut ready.body {
        ReadyBody::Whole(bytes, _) => {
            recorder.push(bytes);
            recorder.ends();
        }
        ReadyBody::Stream(stream) => stream.record = Some(Box::new(recorder)),
        ReadyBody::Stored(_) | ReadyBody::Followed(_) | ReadyBody::Tunnel { .. } => {}
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What is kept of an answer; `None` where nothing may be.
fn draft(
    ask: &Ask,
    cache: &RouteCache,
    sought: &Sought,
    ready: &Ready,
    (asked, generation): (Instant, u64),
) -> Option<Draft> {
    let whole = matches!(ready.body, ReadyBody::Whole(_, None) | ReadyBody::Stream(_));
    let told = ask.story.attempts.last()?;
    if !whole || sought.head || sought.control.no_store || ask.reduced {
        return None;
    }
    let status = ready.head.status;
    let mut headers = ready.head.headers.clone();
    headers::end_answer_hop(&mut headers, false);
    let (life, selecting) = match &cache.policy.store {
        Keeps::Http => {
            // A good status, and a failure by what it says.
            if status.is_success() && told.class != Class::Success {
                return None;
            }
            let received = received(status, &headers, asked);
            let life = Lifetime::http(&ask.headers, received, windows(cache))?;
            (life, Selecting::of(&ask.headers, &headers, &cache.live.secret)?)
        }
        Keeps::Always { ttl, .. } => {
            if status != StatusCode::OK || told.class != Class::Success {
                return None;
            }
            let life = Lifetime::fixed(clock::now(), *ttl, windows(cache));
            (life, Selecting::of(&ask.headers, &coded(&headers), &cache.live.secret)?)
        }
    };
    let key = sought.key;
    let headers = Stored::kept(headers);
    Some(Draft { key, status, headers, life, selecting, asked, generation })
}

/// Whatever an answer says of what it varies by, one that is compressed is for who can read it.
fn coded(headers: &HeaderMap) -> HeaderMap {
    let mut varies = HeaderMap::new();
    if headers.contains_key(CONTENT_ENCODING) {
        varies.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    varies
}
