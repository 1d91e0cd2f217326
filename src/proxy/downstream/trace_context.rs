//! The trace that a request belongs to, and the ids of its spans (W3C Trace Context).
//!
//! Without `server.traces`, `traceparent` passes unchanged, and the access log has the trace id of a
//! valid one. With it, the request is a span of that trace, or of a new one, and each attempt is a
//! span below it, whose id the provider receives. The ids are fixed when the request begins: an
//! attempt's id is computed from the request's, the endpoint and the time of its start, so nothing
//! has to be kept for it until its record is written.

use std::fmt;
use std::time::Instant;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::request_id::hex_digits;
use crate::clock;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The part of a `traceparent` that every version has.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;
/// The flags that are passed on: sampled, and random trace id (Trace Context level 2).
const PASSED_FLAGS: u8 = SAMPLED | 2;

/// The id of a trace: hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

/// The id of a span; not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(u64);

/// A valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TraceParent {
    trace_id: TraceId,
    span: SpanId,
    flags: u8,
}

/// The span of a request, and the facts of its attempts that only spans have.
#[derive(Clone, Debug)]
pub struct RequestTrace {
    pub trace_id: TraceId,
    pub span: SpanId,
    /// The span of the client, or of the request that became the job.
    pub parent: Option<SpanId>,
    flags: u8,
    began: Instant,
    facts: Vec<AttemptFacts>,
}

/// Facts about an attempt, known by its start.
#[derive(Clone, Copy, Debug)]
pub struct AttemptFacts {
    began: Instant,
    /// Input and output.
    pub tokens: Option<(u64, u64)>,
    /// The attempt lasted until the first content of its stream.
    pub is_stream: bool,
}

/// The span of an attempt, for the head of its request.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTrace<'a> {
    trace: &'a RequestTrace,
    span: SpanId,
}

impl TraceId {
    /// The trace id of a valid `traceparent`; of a later version, of the part that is known.
    pub fn of(headers: &HeaderMap) -> Option<TraceId> {
        known_part(headers)?[3..35].try_into().ok().map(TraceId)
    }

    fn made() -> TraceId {
        // Not zero, which is invalid.
        let low = clock::random() | 1;
        TraceId(hex_digits(u128::from(clock::random()) << 64 | u128::from(low)))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

impl SpanId {
    fn of(bits: u64) -> SpanId {
        SpanId(bits.max(1))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl TraceParent {
    fn of(headers: &HeaderMap) -> Option<TraceParent> {
        let known = known_part(headers)?;
        let number = |part: &[u8]| u64::from_str_radix(std::str::from_utf8(part).ok()?, 16).ok();
        let flags = u8::try_from(number(&known[53..])?).ok()?;
        Some(TraceParent {
            trace_id: TraceId::of(headers)?,
            span: SpanId(number(&known[36..52])?),
            flags,
        })
    }
}

/// The known part of the `traceparent`, if it is valid and the only one.
fn known_part(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let text = all.next()?.as_bytes();
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let [version, trace, parent, flags] =
        [&known[..2], &known[3..35], &known[36..52], &known[53..]];
    let is_hex = |part: &&[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|b| *b == b'0');
    let is_valid = [2, 35, 52].iter().all(|at| known[*at] == b'-')
        && [version, trace, parent, flags].iter().all(is_hex)
        && version != b"ff"
        && !is_zero(trace)
        && !is_zero(parent)
        && (rest.is_empty() || version != b"00" && rest[0] == b'-')
        && all.next().is_none();
    is_valid.then_some(known)
}

impl RequestTrace {
    /// Continues the trace of these headers, or begins one, which is recorded with the probability
    /// `sample`. Removes `traceparent`, because each attempt gets its own, and a `tracestate` that
    /// belongs to no valid one.
    pub fn begin(headers: &mut HeaderMap, sample: f64, began: Instant) -> RequestTrace {
        let incoming = TraceParent::of(headers);
        headers.remove(TRACEPARENT);
        if incoming.is_none() {
            headers.remove(TRACESTATE);
        }
        let (trace_id, flags) = match incoming {
            Some(TraceParent { trace_id, flags, .. }) => (trace_id, flags & PASSED_FLAGS),
            None => (TraceId::made(), if clock::draw() < sample { SAMPLED } else { 0 }),
        };
        RequestTrace {
            trace_id,
            span: SpanId::of(clock::random()),
            parent: incoming.map(|incoming| incoming.span),
            flags,
            began,
            facts: Vec::new(),
        }
    }

    /// The spans are to be exported.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The span of an attempt that began then.
    pub fn attempt(&self, endpoint: u32, began: Instant) -> SpanId {
        let since = began.saturating_duration_since(self.began).as_nanos() as u64;
        let seed = self.span.0 ^ mixed(since) ^ mixed(!u64::from(endpoint));
        SpanId::of(mixed(seed))
    }

    /// The same for the head of its request.
    pub fn attempt_trace(&self, endpoint: u32, began: Instant) -> AttemptTrace<'_> {
        AttemptTrace { trace: self, span: self.attempt(endpoint, began) }
    }

    /// Names this span as the parent, in the headers of a request that has no span of its own yet.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        let mut text = Vec::with_capacity(LENGTH);
        AttemptTrace { trace: self, span: self.span }.write(&mut text);
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// The facts of the attempt that began then.
    pub fn facts(&self, began: Instant) -> Option<&AttemptFacts> {
        self.facts.iter().find(|facts| facts.began == began)
    }

    /// Notes the tokens of an attempt.
    pub fn note_tokens(&mut self, began: Instant, input: u64, output: u64) {
        self.facts_mut(began).tokens = Some((input, output));
    }

    /// Notes that an attempt lasted until the first content of its stream.
    pub fn note_stream(&mut self, began: Instant) {
        self.facts_mut(began).is_stream = true;
    }

    /// Takes over the facts of a hedge.
    pub fn absorb(&mut self, hedge: &RequestTrace) {
        self.facts.extend_from_slice(&hedge.facts);
    }

    fn facts_mut(&mut self, began: Instant) -> &mut AttemptFacts {
        let known = self.facts.iter().position(|facts| facts.began == began);
        let at = known.unwrap_or_else(|| {
            self.facts.push(AttemptFacts { began, tokens: None, is_stream: false });
            self.facts.len() - 1
        });
        &mut self.facts[at]
    }
}

impl AttemptTrace<'_> {
    /// Writes the value of a `traceparent` header.
    pub fn write(self, out: &mut Vec<u8>) {
        let AttemptTrace { trace: RequestTrace { trace_id, flags, .. }, span } = self;
        out.extend_from_slice(format!("00-{trace_id}-{span}-{flags:02x}").as_bytes());
    }
}

/// The finalizer of SplitMix64: similar numbers get ids that look unrelated.
fn mixed(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn invalid() -> Vec<String> {
        vec![
            String::new(),
            TRACE.to_owned(),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("00-{TRACE}-{PARENT}-01x"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00_{TRACE}-{PARENT}-01"),
        ]
    }

    #[test]
    fn a_trace_id_is_that_of_a_valid_traceparent() {
        let of = |text: &str| TraceId::of(&headers(&[(TRACEPARENT, text)]));
        for valid in [
            format!("00-{TRACE}-{PARENT}-01"),
            format!("cc-{TRACE}-{PARENT}-01"),
            format!("01-{TRACE}-{PARENT}-01-more"),
        ] {
            assert_eq!(of(&valid).expect("valid").as_bytes(), TRACE.as_bytes(), "{valid}");
        }
        for invalid in invalid() {
            assert_eq!(of(&invalid), None, "{invalid}");
        }
        let two = format!("00-{TRACE}-{PARENT}-01");
        assert_eq!(TraceId::of(&headers(&[(TRACEPARENT, &two), (TRACEPARENT, &two)])), None);
    }

    #[test]
    fn a_valid_traceparent_is_continued_with_its_flags_not_by_the_share() {
        for (flags, sample, is_sampled, passed) in
            [("01", 0.0, true, 1), ("00", 1.0, false, 0), ("ff", 0.0, true, 3)]
        {
            let parent = format!("00-{TRACE}-{PARENT}-{flags}");
            let mut headers = headers(&[(TRACEPARENT, &parent), (TRACESTATE, "a=b")]);
            let trace = RequestTrace::begin(&mut headers, sample, clock::now());
            assert_eq!(trace.trace_id.to_string(), TRACE);
            assert_eq!(trace.parent.map(|parent| parent.to_string()).as_deref(), Some(PARENT));
            assert_ne!(trace.span.to_string(), PARENT);
            assert_eq!((trace.is_sampled(), trace.flags), (is_sampled, passed));
            assert_eq!(headers.get(TRACESTATE).map(HeaderValue::as_bytes), Some(&b"a=b"[..]));
            assert!(!headers.contains_key(TRACEPARENT));
        }
    }

    #[test]
    fn an_invalid_traceparent_begins_a_new_trace_without_its_tracestate() {
        for invalid in invalid() {
            let mut headers = headers(&[(TRACEPARENT, &invalid), (TRACESTATE, "a=b")]);
            let trace = RequestTrace::begin(&mut headers, 1.0, clock::now());
            assert_ne!(trace.trace_id.to_string(), TRACE);
            assert!(trace.parent.is_none() && trace.is_sampled() && headers.is_empty());
        }
    }

    #[test]
    fn new_traces_are_sampled_by_their_share() {
        let sampled = |sample: f64| {
            let begin = |_| RequestTrace::begin(&mut HeaderMap::new(), sample, clock::now());
            (0..2000).map(begin).filter(RequestTrace::is_sampled).count()
        };
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 2000));
        // Ten standard deviations.
        assert!((300..=700).contains(&sampled(0.25)));
    }

    #[test]
    fn attempts_have_ids_of_their_own_that_can_be_computed_again() {
        let now = clock::now();
        let trace = RequestTrace::begin(&mut HeaderMap::new(), 1.0, now);
        let starts = (0..100u64).map(|nanos| now + Duration::from_nanos(nanos));
        let pairs: Vec<_> = starts.flat_map(|at| (0..4).map(move |one| (one, at))).collect();
        let ids: HashSet<_> = pairs.iter().map(|(e, at)| trace.attempt(*e, *at).0).collect();
        assert_eq!(ids.len(), pairs.len());
        let mut text = Vec::new();
        trace.attempt_trace(1, now).write(&mut text);
        let expected = format!("00-{}-{}-01", trace.trace_id, trace.attempt(1, now));
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }

    #[test]
    fn a_job_continues_the_trace_of_its_request() {
        let mut headers = HeaderMap::new();
        let request = RequestTrace::begin(&mut headers, 1.0, clock::now());
        request.add_to(&mut headers);
        let run = RequestTrace::begin(&mut headers, 0.0, clock::now());
        assert_eq!((run.trace_id, run.parent), (request.trace_id, Some(request.span)));
        assert!(run.is_sampled() && headers.is_empty());
    }
}
