//! One attempt: a connection, the request as this provider wants it, the answer's head in time.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{Method, Uri};

use super::inspect::{AttemptResult, LastResponse, ReceivedResponse};
use super::prebuffer::BodyDeadlines;
use super::select::Selection;
use crate::clock;
use crate::policy::sections::model::Timeouts;
use crate::proxy::downstream::error::{Kind, Problem};
use crate::proxy::request::context::ProxyRequest;
use crate::proxy::request::headers;
use crate::proxy::request::rewrite;
use crate::resilience::outcome::Class;
use crate::snapshot::{EndpointCandidate, Route};
use crate::upstream::{
    Connection, DialError, ExchangeError, IncomingBody, OutgoingRequest, SendError,
};

impl ProxyRequest {
    /// Makes one attempt at a pick, or at one that connects sooner.
    pub async fn attempt(&mut self, route: &Route, mut selection: Box<Selection>) -> AttemptResult {
        self.attempts.begin(selection.tier, selection.index, selection.credential);
        let mut now = selection.started;
        loop {
            let connection = match self.idle_connection(route, &selection, now) {
                Some(connection) => connection,
                None => match Box::pin(self.new_connection(route, selection)).await {
                    Ok((connected, connection)) => {
                        selection = connected;
                        self.attempts.went((selection.tier, selection.index));
                        now = clock::now();
                        connection
                    }
                    Err(problem) => {
                        return AttemptResult::Failed(Class::Unsent, LastResponse::Ours(problem));
                    }
                },
            };
            match self.send(route, selection, connection, now).await {
                Ok(tried) => return tried,
                Err(unsent) => {
                    selection = unsent;
                    now = clock::now();
                }
            }
        }
    }

    /// Sends on a connection. One that closed before the request began hands it back: `Err`.
    async fn send(
        &mut self,
        route: &Route,
        selection: Box<Selection>,
        connection: Connection,
        sent: Instant,
    ) -> Result<AttemptResult, Box<Selection>> {
        let candidate = Self::candidate(route, selection.tier, selection.index);
        let timeouts = candidate.provider.policy.timeouts;
        let (target, mut request) = match self.request(route, candidate) {
            Ok(request) => request,
            Err(problem) => {
                return Ok(AttemptResult::Failed(Class::Ignored, LastResponse::Ours(problem)));
            }
        };
        let cut = self.another_is_left(route, &selection);
        request.fails_over = cut;
        let head = |out: &mut Vec<u8>| {
            headers::write_line(out, &self.method, &target);
            let provider = &candidate.provider.policy;
            headers::write(out, &self.headers, provider, &candidate.endpoint, selection.credential);
        };
        let (reused, peer) = (connection.is_reused(), connection.peer());
        let sending = connection.send(request, head);
        let by = self.by(sent, timeouts.headers, cut);
        match self.head(sending, by, &timeouts).await {
            Some(Ok((head, body))) => {
                let limits = self.limits(sent, &timeouts, cut);
                let took = clock::since(sent);
                let answer =
                    ReceivedResponse::new(head, body, selection, took, limits, self.reservation());
                Ok(self.answered(route, answer).await)
            }
            Some(Err(SendError::Unsent(body, _))) => {
                self.body.put_back(body, &candidate.provider.policy);
                if reused {
                    Err(selection)
                } else {
                    Ok(self.closed_at_once(route, selection, peer))
                }
            }
            Some(Err(SendError::Failed(error))) => {
                let problem = self.broken(candidate, &error);
                Ok(self.lost(route, selection, problem))
            }
            None => {
                let (key, waited) = (&candidate.endpoint.key, clock::since(sent));
                let detail = format!("{key}: no response within {waited:.1?}");
                let problem = Problem::new(Kind::AnswerTimeout, detail);
                Ok(self.lost(route, selection, problem))
            }
        }
    }

    /// An endpoint that takes connections and closes them is as good as unreachable.
    fn closed_at_once(
        &mut self,
        route: &Route,
        selection: Box<Selection>,
        peer: Option<SocketAddr>,
    ) -> AttemptResult {
        let candidate = Self::candidate(route, selection.tier, selection.index);
        let error = DialError::closed(&candidate.endpoint.policy.url.host, peer);
        let problem = self.unreachable(route, selection, &error);
        AttemptResult::Failed(Class::Unsent, LastResponse::Ours(problem))
    }

    /// The request's target and body as the provider wants them.
    fn request(
        &mut self,
        route: &Route,
        candidate: &EndpointCandidate,
    ) -> Result<(Uri, OutgoingRequest), Problem> {
        let provider = &candidate.provider.policy;
        let strip = route.policy.strip_prefix.as_deref();
        let url = &candidate.endpoint.policy.url;
        let uri = rewrite::uri(&self.uri, strip, url, &provider.rewrite).map_err(|error| {
            let detail =
                format!("provider `{}` rewrites the path to no path: {error}", provider.name);
            Problem::new(Kind::BadRequest, detail)
        })?;
        let body = self.body.take(provider, provider.timeouts.idle)?;
        let usual = matches!(self.method, Method::POST | Method::PUT | Method::PATCH);
        let sized = usual || self.headers.contains_key(CONTENT_LENGTH);
        let (head, upgrade) = (self.method == Method::HEAD, self.upgrade.is_some());
        Ok((
            uri,
            OutgoingRequest {
                is_head: head,
                is_upgrade: upgrade,
                fails_over: false,
                sends_zero_length: sized,
                body,
            },
        ))
    }

    /// When something has to be there: `limit` after the request was sent, and while another
    /// candidate is left not later than half way to the deadline.
    fn by(&self, sent: Instant, limit: Duration, cut: bool) -> Instant {
        let left = self.deadline.saturating_duration_since(sent);
        let most = if cut { left / 2 } else { left };
        sent + limit.min(most)
    }

    /// When the body has to come.
    fn limits(&self, sent: Instant, timeouts: &Timeouts, cut: bool) -> BodyDeadlines {
        BodyDeadlines {
            first_byte: self.by(sent, timeouts.first_byte, cut),
            content: sent + timeouts.first_byte,
            idle: timeouts.idle,
            deadline: self.deadline,
        }
    }

    /// Awaits the response's head. While the application still sends its body, only a stall counts.
    async fn head(
        &self,
        sending: impl Future<Output = Result<(Parts, IncomingBody), SendError>>,
        mut by: Instant,
        timeouts: &Timeouts,
    ) -> Option<Result<(Parts, IncomingBody), SendError>> {
        let mut sending = pin!(sending);
        let upload = self.body.upload();
        loop {
            if let Ok(sent) = self.timer.until(by, sending.as_mut()).await {
                return Some(sent);
            }
            let upload = upload?;
            let limit = if upload.whole.get() { timeouts.headers } else { timeouts.idle };
            let later = (upload.last() + limit).min(self.deadline);
            if later <= clock::now() {
                return None;
            }
            by = later;
        }
    }

    /// Whose fault a broken exchange was.
    fn broken(&self, candidate: &EndpointCandidate, error: &ExchangeError) -> Problem {
        if let Some(kind) = self.body.upload().and_then(|upload| upload.broken.get()) {
            return Problem::new(kind, "the body of the request did not arrive whole");
        }
        if error.is_unacknowledged() {
            let key = &candidate.endpoint.key;
            let detail = format!("{key}: nothing that was sent was acknowledged in time");
            return Problem::new(Kind::AnswerTimeout, detail);
        }
        let kind = if error.is_malformed() { Kind::BadAnswer } else { Kind::ConnectionLost };
        Problem::new(kind, format!("{}: {}", candidate.endpoint.key, chain(error)))
    }
}

/// An error with what caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
