//! The words of the language, and what each means in the model.
//!
//! The type that a decision works with has no serde of its own (`resilience/` is std only), so
//! the vocabulary stands here, once for reading, for the schema and for near misses.

use super::model::{Accept, BodyCheck, Commit, Forwarded, LogFormat, OnCut, Scope};
use crate::policy::yaml::types::Vocabulary;
use crate::resilience::balance::balancer::BalanceAlgorithm;
use crate::resilience::breaker::EnforcementMode;
use crate::resilience::outcome::{AttemptClass, Idempotence};
use crate::resilience::retry::backoff::Jitter;

/// What `x-outrigger-*` headers may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Override {
    Timeout,
    Retry,
    Idempotent,
    Priority,
}

macro_rules! vocabulary {
    ($($name:ident { $($word:literal => $meaning:ident,)* })*) => {$(
        impl Vocabulary for $name {
            const NAME: &'static str = stringify!($name);
            const WORDS: &'static [&'static str] = &[$($word),*];
            const MEANINGS: &'static [Self] = &[$($name::$meaning),*];
        }
    )*};
}

vocabulary! {
    Forwarded { "off" => Off, "append" => Append, }
    LogFormat { "json" => Json, "text" => Text, }
    Scope { "address" => Address, "model" => Model, }
    BodyCheck { "empty" => Empty, "invalid_json" => InvalidJson, }
    Commit { "headers" => Headers, "first_content" => FirstContent, "complete" => Complete, }
    OnCut { "error_event" => ErrorEvent, "abort" => Abort, "continue" => Continue, }
    Jitter { "full" => Full, "equal" => Equal, "none" => None, }
    BalanceAlgorithm {
        "latency" => Latency,
        "least_connections" => LeastConnections,
        "round_robin" => RoundRobin,
        "weighted" => Weighted,
        "first" => First,
    }
    EnforcementMode { "enforce" => Enforce, "shadow" => Shadow, }
    Idempotence { "auto" => Auto, "always" => Always, "never" => Never, }
    Override {
        "timeout" => Timeout,
        "retry" => Retry,
        "idempotent" => Idempotent,
        "priority" => Priority,
    }
    Accept { "prefer" => Prefer, "always" => Always, "never" => Never, }
    AttemptClass {
        "success" => Success,
        "unsent" => Unsent,
        "throttled" => Throttled,
        "failure" => Failure,
        "credential" => Credential,
        "too_large" => TooLarge,
        "ignored" => Ignored,
    }
}

/// The word for it, as it is written.
pub fn word<T: Vocabulary + PartialEq>(meant: T) -> &'static str {
    let found = T::WORDS.iter().zip(T::MEANINGS).find(|(_, meaning)| **meaning == meant);
    found.map_or("", |(word, _)| word)
}
