//! The story of one request: what was asked, where it went and why, how it ended.
//!
//! Told once, when the answer's last byte was handed over or the request's future was dropped (the
//! client left): one line of the access log, and the route's metrics. Query values and credentials
//! are never part of it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Uri};

use super::json::{key, millis, number, plain, string, text};
use super::reasons::{NotReplayable, RetryDenied};
use crate::clock;
use crate::live::quota::usage_meter::AttemptKind;
use crate::policy::sections::model::LogFormat;
use crate::proxy::degradation::effects::DegradationEffects;
use crate::proxy::downstream::connection::Client;
use crate::proxy::downstream::worker::Worker;
use crate::resilience::outcome::AttemptClass;
use crate::snapshot::Route;
use crate::store::JobId;
use crate::telemetry::metrics::{NO_ROUTE, ReasonLabels};

/// One attempt, as it is told.
#[derive(Debug)]
pub struct AttemptRecord {
    /// provider/address.
    pub to: Arc<crate::snapshot::Endpoint>,
    /// Which of several credentials.
    pub credential: Option<usize>,
    pub class: AttemptClass,
    /// 0: no answer came.
    pub status: u16,
    pub took: Duration,
    pub probe: bool,
    pub turn: AttemptKind,
    pub error: Option<String>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The provider's answer, whole.
    Answered,
    /// An answer of ours.
    Refused(&'static str),
    /// The answer broke after its first byte.
    Cut(&'static str),
    ClientLeft,
}

#[derive(Debug)]
pub struct AccessRecord {
    worker: Rc<Worker>,
    client: Rc<Client>,
    pub route: Option<Arc<Route>>,
    method: Method,
    uri: Uri,
    pub started: Instant,
    pub attempts: Vec<AttemptRecord>,
    pub waited: Duration,
    pub status: u16,
    pub first_byte: Option<Duration>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Why the body could go only once.
    pub once: Option<NotReplayable>,
    /// What forbade another attempt.
    pub stopped: Option<RetryDenied>,
    pub end: Option<End>,
    /// Tokens in and out, and what they cost, over all attempts.
    pub tokens: Option<(u64, u64)>,
    pub cost: Option<f64>,
    /// The body's, where an answer is still to be put down to it.
    pub model: Option<String>,
    /// What its route's cache did.
    pub cache: Option<&'static str>,
    /// What modes in force did to it.
    pub effects: Option<Box<DegradationEffects>>,
    /// The job that it became, or is a run of.
    pub job: Option<JobId>,
    reported: bool,
}

impl AccessRecord {
    pub fn new(
        worker: &Rc<Worker>,
        client: &Rc<Client>,
        route: Option<Arc<Route>>,
        method: Method,
        uri: Uri,
        started: Instant,
    ) -> Box<Self> {
        Box::new(AccessRecord {
            worker: Rc::clone(worker),
            client: Rc::clone(client),
            route,
            method,
            uri,
            started,
            attempts: Vec::new(),
            waited: Duration::ZERO,
            status: 0,
            first_byte: None,
            bytes_in: 0,
            bytes_out: 0,
            once: None,
            stopped: None,
            end: None,
            tokens: None,
            cost: None,
            model: None,
            cache: None,
            effects: None,
            job: None,
            reported: false,
        })
    }

    /// One for what stands beside this request: it is never told by itself.
    pub fn aside(&self) -> Box<Self> {
        let (method, uri) = (self.method.clone(), self.uri.clone());
        let route = self.route.clone();
        let mut record =
            AccessRecord::new(&self.worker, &self.client, route, method, uri, self.started);
        record.reported = true;
        record
    }

    /// Takes over what one beside it has learned.
    pub fn join(&mut self, aside: &mut AccessRecord) {
        self.attempts.append(&mut aside.attempts);
        self.stopped = self.stopped.or(aside.stopped);
        if let Some(tokens) = aside.tokens.take() {
            self.took(tokens, aside.cost.take());
        }
    }

    /// It is not told, unless it begins anew.
    pub fn hush(&mut self) {
        self.reported = true;
    }

    /// It is not told, or was already.
    pub fn is_hushed(&self) -> bool {
        self.reported
    }

    /// It begins now; what came before is not told.
    pub fn begins(&mut self, now: Instant) {
        self.reported = false;
        self.end = None;
        self.started = now;
        self.waited = Duration::ZERO;
    }

    /// What an attempt took and cost.
    pub fn took(&mut self, (input, output): (u64, u64), cost: Option<f64>) {
        let (i, o) = self.tokens.unwrap_or_default();
        self.tokens = Some((i + input, o + output));
        if let Some(cost) = cost {
            self.cost = Some(self.cost.unwrap_or_default() + cost);
        }
    }

    /// Lets go of the buffer that the request's head was read into, before a long answer.
    pub fn lighten(&mut self) {
        if let Ok(uri) = Uri::try_from(self.uri.path()) {
            self.uri = uri;
        }
    }

    /// Since the request's head was here.
    pub fn so_far(&self) -> Duration {
        clock::since(self.started)
    }

    /// Ends the story; a story that is dropped before ends with the client's leaving.
    pub fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        self.client.end_request();
        let now = clock::now();
        let took = now.saturating_duration_since(self.started);
        if end == End::Answered {
            self.first_byte.get_or_insert(took);
        }
        if end == End::ClientLeft && self.status == 0 {
            self.status = 499;
        }
        if let End::Refused(reason) = end {
            let route = self.route.as_ref().map_or(NO_ROUTE, |route| &route.policy.name).to_owned();
            self.worker.live.metrics.local_responses.with(&ReasonLabels { route, reason }).inc();
        }
        if let (Some(effects), End::Answered | End::Refused(_)) = (&self.effects, end) {
            effects.answered(self.status);
        }
        let snapshot;
        let log = match &self.route {
            Some(route) => {
                route.metrics.requests_with(self.status).inc();
                route.metrics.seconds.observe(took.as_secs_f64());
                route.access_log.as_ref()
            }
            None => {
                snapshot = self.worker.snapshot();
                snapshot.access_log.as_ref()
            }
        };
        let Some(log) = log else { return };
        self.worker.log_line(log, now, |out, at| match log.1 {
            LogFormat::Json => self.write_json(out, at, end, took),
            LogFormat::Text => self.write_text(out, at, end, took),
        });
    }

    fn write_json(&self, out: &mut Vec<u8>, at: &[u8], end: End, took: Duration) {
        out.extend_from_slice(b"{\"at\":\"");
        out.extend_from_slice(at);
        out.push(b'"');
        text(out, key!("route"), self.route.as_ref().map_or("-", |r| &r.policy.name));
        plain(out, key!("method"), self.method.as_str());
        text(out, key!("path"), self.uri.path());
        number(out, key!("status"), u64::from(self.status));
        let (name, detail) = end.words();
        plain(out, key!("end"), name);
        if let Some(detail) = detail {
            text(out, key!("why"), detail);
        }
        millis(out, key!("ms"), took);
        if let Some(first_byte) = self.first_byte {
            millis(out, key!("first_byte_ms"), first_byte);
        }
        if !self.waited.is_zero() {
            millis(out, key!("waited_ms"), self.waited);
        }
        out.extend_from_slice(b",\"attempts\":[");
        for (i, attempt) in self.attempts.iter().enumerate() {
            out.extend_from_slice(if i == 0 { b"{" } else { b",{" });
            attempt.write_json(out);
            out.push(b'}');
        }
        out.push(b']');
        let words = [
            (key!("once"), self.once.map(NotReplayable::as_str)),
            (key!("not_repeated"), self.stopped.map(RetryDenied::as_str)),
            (key!("cache"), self.cache),
        ];
        for (key, value) in words {
            if let Some(value) = value {
                text(out, key, value);
            }
        }
        self.write_amounts(out);
        if let Some(route) = &self.route {
            if self.attempts.len() > 1 || self.stopped.is_some() {
                let left = route.live.balance(clock::now());
                out.extend_from_slice(format!(",\"budget\":{left:.1}").as_bytes());
            }
            plain(out, key!("policy"), &route.policy_hash);
        }
        out.push(b'}');
    }

    fn write_amounts(&self, out: &mut Vec<u8>) {
        if let Some(effects) = &self.effects {
            effects.write_json(out);
        }
        if let Some(job) = &self.job {
            plain(out, key!("job"), &job.to_string());
        }
        number(out, key!("bytes_in"), self.bytes_in);
        number(out, key!("bytes_out"), self.bytes_out);
        if let Some((input, output)) = self.tokens {
            number(out, key!("tokens_in"), input);
            number(out, key!("tokens_out"), output);
        }
        if let Some(cost) = self.cost {
            out.extend_from_slice(format!(",\"cost\":{cost:.9}").as_bytes());
        }
    }

    fn write_text(&self, out: &mut Vec<u8>, at: &[u8], end: End, took: Duration) {
        use std::io::Write as _;
        out.extend_from_slice(at);
        let route = self.route.as_ref().map_or("-", |r| &r.policy.name);
        let (name, detail) = end.words();
        let _ = write!(
            out,
            " route={route} method={} path={} status={} end={name} ms={:.3}",
            self.method,
            self.uri.path(),
            self.status,
            took.as_secs_f64() * 1e3
        );
        if let Some(detail) = detail {
            let _ = write!(out, " why={detail}");
        }
        for attempt in &self.attempts {
            let _ = write!(
                out,
                " to={} class={} answer={} took_ms={:.3}",
                attempt.to.key,
                attempt.class.as_str(),
                attempt.status,
                attempt.took.as_secs_f64() * 1e3
            );
        }
        let words = [
            ("once", self.once.map(NotReplayable::as_str)),
            ("not_repeated", self.stopped.map(RetryDenied::as_str)),
            ("cache", self.cache),
        ];
        for (key, value) in words {
            if let Some(value) = value {
                let _ = write!(out, " {key}={value}");
            }
        }
        if let Some(effects) = &self.effects {
            effects.write_text(out);
        }
        if let Some(job) = &self.job {
            let _ = write!(out, " job={job}");
        }
        let _ = write!(out, " bytes_in={} bytes_out={}", self.bytes_in, self.bytes_out);
        if let Some((input, output)) = self.tokens {
            let _ = write!(out, " tokens_in={input} tokens_out={output}");
        }
        if let Some(cost) = self.cost {
            let _ = write!(out, " cost={cost:.9}");
        }
        if let Some(route) = &self.route {
            let _ = write!(out, " policy={}", route.policy_hash);
        }
    }
}

impl AttemptRecord {
    fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"to\":");
        string(out, &self.to.key);
        if let Some(index) = self.credential
            && let crate::policy::sections::model::Auth::Credentials(all) = &self.to.policy.auth
            && let Some(credential) = all.get(index)
            && all.len() > 1
        {
            text(out, key!("credential"), &credential.reference);
        }
        plain(out, key!("class"), self.class.as_str());
        if self.status > 0 {
            number(out, key!("status"), u64::from(self.status));
        }
        millis(out, key!("ms"), self.took);
        if self.probe {
            out.extend_from_slice(b",\"probe\":true");
        }
        if matches!(self.turn, AttemptKind::Hedge | AttemptKind::Continuation) {
            plain(out, key!("turn"), self.turn.as_str());
        }
        if let Some(error) = &self.error {
            text(out, key!("error"), error);
        }
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        self.finish(End::ClientLeft);
    }
}

impl End {
    fn words(self) -> (&'static str, Option<&'static str>) {
        match self {
            End::Answered => ("answered", None),
            End::Refused(why) => ("refused", Some(why)),
            End::Cut(why) => ("cut", Some(why)),
            End::ClientLeft => ("client_left", None),
        }
    }
}
