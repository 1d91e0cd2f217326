//! Classification of attempts, and whether a request may be sent again.
//!
//! Three questions that are often mixed up are kept apart:
//!
//! - [`AttemptClass`]: what came back? Decided by the built-in table or by the policy.
//! - [`Outcome`]: what does that say about the *endpoint*? An endpoint that rejects a
//!   credential or cannot serve a request is healthy.
//! - [`RetryScope`]: where may the *request* be sent again? That depends on the cost of
//!   executing it twice (RFC 9110, 9.2.2; the Idempotency-Key draft of the IETF httpapi
//!   group).
//!
//! A POST that failed may have been processed. With an `Idempotency-Key` the same provider may
//! receive it again; another provider does not know the key and would process the request a
//! second time. A request that only generates a response, such as a chat, costs tokens the second
//! time and does no other harm.

use crate::resilience::words::words;

words! {
    /// The evidence of an attempt about its endpoint.
    pub enum Outcome {
        Success = "success",
        Failure = "failure",
        /// The endpoint is healthy and over its quota.
        Throttled = "throttled",
        /// The attempt says nothing about the endpoint.
        Ignored = "ignored",
    }

    /// The result of an attempt; see [`AttemptClass::meaning`].
    pub enum AttemptClass {
        Success = "success",
        Unsent = "unsent",
        Throttled = "throttled",
        Failure = "failure",
        Credential = "credential",
        Unsupported = "unsupported",
        Ignored = "ignored",
    }
}

/// A set of classes, as in `retry_on` and `fallback_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClassSet(u8);

words! {
    /// Whether the policy or the application allows a request to be repeated.
    pub enum Idempotence {
        /// Decided by the method and the `Idempotency-Key`.
        Auto = "auto",
        Always = "always",
        Never = "never",
    }
}

/// Where a request may be sent again. Ordered: a later variant permits more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetryScope {
    Nowhere,
    /// Any endpoint of the provider that already received it.
    SameProvider,
    /// Any provider that is known to only generate the response.
    Generating,
    Anywhere,
}

/// Where a request may be sent again after an attempt that ended in `class`.
///
/// `idempotent_method`: GET, HEAD, OPTIONS, TRACE, PUT or DELETE; `has_key`: the request
/// carries an `Idempotency-Key`; `only_generates`: the provider of the attempt is known to
/// generate a response to it and to do nothing else.
pub fn retry_scope(
    idempotence: Idempotence,
    idempotent_method: bool,
    has_key: bool,
    class: AttemptClass,
    only_generates: impl FnOnce() -> bool,
) -> RetryScope {
    match (class, idempotence) {
        (AttemptClass::Success | AttemptClass::Ignored, _) => RetryScope::Nowhere,
        (AttemptClass::Unsent, _) => RetryScope::Anywhere,
        (_, Idempotence::Never) => RetryScope::Nowhere,
        (AttemptClass::Throttled | AttemptClass::Credential | AttemptClass::Unsupported, _) => {
            RetryScope::Anywhere
        }
        (AttemptClass::Failure, Idempotence::Always) => RetryScope::Anywhere,
        (AttemptClass::Failure, Idempotence::Auto) if idempotent_method => RetryScope::Anywhere,
        (AttemptClass::Failure, Idempotence::Auto) if only_generates() => RetryScope::Generating,
        (AttemptClass::Failure, Idempotence::Auto) if has_key => RetryScope::SameProvider,
        (AttemptClass::Failure, Idempotence::Auto) => RetryScope::Nowhere,
    }
}

impl AttemptClass {
    /// The built-in table, for a response that the policy's `classify` does not name.
    pub const fn of_status(status: u16, has_retry_after: bool) -> AttemptClass {
        match status {
            401..=403 => AttemptClass::Credential,
            413 => AttemptClass::Unsupported,
            429 | 529 => AttemptClass::Throttled,
            503 if has_retry_after => AttemptClass::Throttled,
            408 | 425 => AttemptClass::Failure,
            // The endpoint understood the request and will never support it.
            501 | 505 => AttemptClass::Success,
            500..=599 => AttemptClass::Failure,
            100..=499 => AttemptClass::Success,
            // Not an HTTP status (RFC 9110, 15): the response is malformed.
            _ => AttemptClass::Failure,
        }
    }

    /// The meaning, for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            AttemptClass::Success => "the response is forwarded",
            AttemptClass::Unsent => "no byte of the request reached the provider",
            AttemptClass::Throttled => "the provider is over its quota and is held",
            AttemptClass::Failure => "the provider failed; its breaker counts it",
            AttemptClass::Credential => "the provider rejected the policy's credential",
            AttemptClass::Unsupported => {
                "the provider is healthy and cannot serve this request, such as one that is too long \
                 or names an unknown model; `fallback` may"
            }
            AttemptClass::Ignored => {
                "the response is forwarded and says nothing about the provider"
            }
        }
    }

    pub const fn outcome(self) -> Outcome {
        match self {
            AttemptClass::Success | AttemptClass::Credential | AttemptClass::Unsupported => {
                Outcome::Success
            }
            AttemptClass::Unsent | AttemptClass::Failure => Outcome::Failure,
            AttemptClass::Throttled => Outcome::Throttled,
            AttemptClass::Ignored => Outcome::Ignored,
        }
    }

    /// The position in [`AttemptClass::ALL`], for tables of counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl ClassSet {
    pub const fn of(classes: &[AttemptClass]) -> ClassSet {
        let (mut bits, mut next) = (0, 0);
        while next < classes.len() {
            bits |= classes[next].bit();
            next += 1;
        }
        ClassSet(bits)
    }

    pub const fn contains(self, class: AttemptClass) -> bool {
        self.0 & class.bit() != 0
    }

    /// In the order of [`AttemptClass::ALL`].
    pub fn iter(self) -> impl Iterator<Item = AttemptClass> {
        AttemptClass::ALL.into_iter().filter(move |class| self.contains(*class))
    }
}

impl AttemptClass {
    const fn bit(self) -> u8 {
        1 << self.index()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn statuses_are_classified_row_by_row() {
        let rows: &[(&[u16], bool, AttemptClass)] = &[
            (&[100, 101, 200, 201, 204, 206, 301, 304, 399], false, AttemptClass::Success),
            (&[400, 404, 409, 410, 422, 428, 431, 451, 499], false, AttemptClass::Success),
            (&[400, 404], true, AttemptClass::Success),
            (&[413], true, AttemptClass::Unsupported),
            (&[413], false, AttemptClass::Unsupported),
            (&[429, 529], false, AttemptClass::Throttled),
            (&[429, 529, 503], true, AttemptClass::Throttled),
            (&[503], false, AttemptClass::Failure),
            (&[500, 502, 504, 507, 520, 599], true, AttemptClass::Failure),
            (&[501, 505], false, AttemptClass::Success),
            (&[408, 425], false, AttemptClass::Failure),
            (&[401, 402, 403], false, AttemptClass::Credential),
            (&[0, 99, 600, 999], false, AttemptClass::Failure),
        ];
        for (statuses, has_retry_after, class) in rows {
            for status in *statuses {
                assert_eq!(AttemptClass::of_status(*status, *has_retry_after), *class, "{status}");
            }
        }
    }

    #[test]
    fn retry_scopes_row_by_row() {
        use {Idempotence::*, RetryScope::*};
        // Results for GET, POST, and POST with a key.
        let rows: &[(Idempotence, AttemptClass, [RetryScope; 3])] = &[
            (Auto, AttemptClass::Success, [Nowhere, Nowhere, Nowhere]),
            (Auto, AttemptClass::Unsent, [Anywhere, Anywhere, Anywhere]),
            (Auto, AttemptClass::Throttled, [Anywhere, Anywhere, Anywhere]),
            (Auto, AttemptClass::Failure, [Anywhere, Nowhere, SameProvider]),
            (Auto, AttemptClass::Credential, [Anywhere, Anywhere, Anywhere]),
            (Auto, AttemptClass::Unsupported, [Anywhere, Anywhere, Anywhere]),
            (Auto, AttemptClass::Ignored, [Nowhere, Nowhere, Nowhere]),
            (Always, AttemptClass::Success, [Nowhere, Nowhere, Nowhere]),
            (Always, AttemptClass::Unsent, [Anywhere, Anywhere, Anywhere]),
            (Always, AttemptClass::Throttled, [Anywhere, Anywhere, Anywhere]),
            (Always, AttemptClass::Failure, [Anywhere, Anywhere, Anywhere]),
            (Always, AttemptClass::Credential, [Anywhere, Anywhere, Anywhere]),
            (Always, AttemptClass::Unsupported, [Anywhere, Anywhere, Anywhere]),
            (Always, AttemptClass::Ignored, [Nowhere, Nowhere, Nowhere]),
            (Never, AttemptClass::Success, [Nowhere, Nowhere, Nowhere]),
            (Never, AttemptClass::Unsent, [Anywhere, Anywhere, Anywhere]),
            (Never, AttemptClass::Throttled, [Nowhere, Nowhere, Nowhere]),
            (Never, AttemptClass::Failure, [Nowhere, Nowhere, Nowhere]),
            (Never, AttemptClass::Credential, [Nowhere, Nowhere, Nowhere]),
            (Never, AttemptClass::Unsupported, [Nowhere, Nowhere, Nowhere]),
            (Never, AttemptClass::Ignored, [Nowhere, Nowhere, Nowhere]),
        ];
        for (idempotence, class, expected) in rows {
            let requests = [(true, false), (false, false), (false, true)];
            let found = requests
                .map(|(method, key)| retry_scope(*idempotence, method, key, *class, || false));
            assert_eq!(found, *expected, "{idempotence:?} {class:?}");
        }
    }

    #[test]
    fn an_idempotent_method_needs_no_key_and_is_not_narrowed_by_one() {
        let found = retry_scope(Idempotence::Auto, true, true, AttemptClass::Failure, || true);
        assert_eq!(found, RetryScope::Anywhere);
    }

    #[test]
    fn a_post_that_only_generates_is_repeated_where_that_is_known() {
        use {Idempotence::*, RetryScope::*};
        let scope = |idempotence, class| retry_scope(idempotence, false, true, class, || true);
        assert_eq!(scope(Auto, AttemptClass::Failure), Generating);
        assert_eq!(scope(Never, AttemptClass::Failure), Nowhere);
        assert_eq!(scope(Always, AttemptClass::Failure), Anywhere);
        assert_eq!(scope(Auto, AttemptClass::Throttled), Anywhere);
    }

    #[test]
    fn an_endpoint_that_rejects_a_request_is_healthy() {
        let outcomes = AttemptClass::ALL.map(AttemptClass::outcome);
        use Outcome::*;
        assert_eq!(outcomes, [Success, Failure, Throttled, Failure, Success, Success, Ignored]);
    }

    #[test]
    fn index_is_the_position_in_all() {
        for (position, class) in AttemptClass::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), position);
        }
    }

    fn any_class() -> impl Strategy<Value = AttemptClass> {
        prop::sample::select(AttemptClass::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn a_set_contains_exactly_its_members(
            classes in prop::collection::vec(any_class(), 0..10)
        ) {
            let set = ClassSet::of(&classes);
            for class in AttemptClass::ALL {
                prop_assert_eq!(set.contains(class), classes.contains(&class));
            }
            prop_assert_eq!(ClassSet::of(&set.iter().collect::<Vec<_>>()), set);
        }

        #[test]
        fn a_more_permissive_policy_never_narrows_the_scope(
            class in any_class(), method: bool, key: bool, generates: bool
        ) {
            use Idempotence::*;
            let scope = |idempotence, method, key, generates: bool| {
                retry_scope(idempotence, method, key, class, || generates)
            };
            let [never, auto, always] =
                [Never, Auto, Always].map(|idempotence| scope(idempotence, method, key, generates));
            prop_assert!(never <= auto && auto <= always);
            prop_assert!(scope(Auto, method, false, generates) <= auto);
            prop_assert!(scope(Auto, false, key, generates) <= auto);
            prop_assert!(scope(Auto, method, key, false) <= auto);
            prop_assert_eq!(scope(Never, method, key, true), scope(Never, method, key, false));
        }
    }
}
