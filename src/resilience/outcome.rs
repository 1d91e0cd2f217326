//! What became of an attempt, what that teaches, and whether it may be made again.
//!
//! Three questions are often mixed up and are kept apart here:
//!
//! - [`Class`]: what came back? Decided by the built-in table below or by the policy.
//! - [`Outcome`]: what does it say about the *endpoint*? A refused credential or a request
//!   that is too large was answered, so the endpoint is well.
//! - [`Reach`]: where may the *request* go again? That depends on what a second execution
//!   would cost (RFC 9110, 9.2.2; the Idempotency-Key draft of the IETF httpapi group).
//!
//! A POST that failed may have been carried out. With an `Idempotency-Key` the provider that
//! saw the key may be asked again; another one does not know it and would do the work twice.

/// What an attempt taught us about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Success,
    Failure,
    /// Well, but asked to be left alone.
    Throttled,
    /// Nothing was learned.
    Ignored,
}

/// What came back from an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Success,
    /// Not one byte of the request was taken.
    Unsent,
    Throttled,
    Failure,
    /// The provider refused our credential, and did nothing.
    Credential,
    /// The provider refused the request for its size, and did nothing.
    TooLarge,
    Ignored,
}

/// Some of the classes, as in `retry_on` and `fallback_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClassSet(u8);

/// What the policy, or the application, says of repeating a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Idempotence {
    /// By its method and its key.
    Auto,
    Always,
    Never,
}

/// Where a request may go again. Ordered: a later one permits more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    Nowhere,
    /// Any endpoint of the provider that has it already.
    SameProvider,
    Anywhere,
}

/// Where a request whose attempt ended in `class` may go again.
///
/// `idempotent_method`: GET, HEAD, OPTIONS, TRACE, PUT or DELETE; `has_key`: the request
/// bears an `Idempotency-Key`.
pub fn reach(
    idempotence: Idempotence,
    idempotent_method: bool,
    has_key: bool,
    class: Class,
) -> Reach {
    match (class, idempotence) {
        (Class::Success | Class::Ignored, _) => Reach::Nowhere,
        (Class::Unsent, _) => Reach::Anywhere,
        (_, Idempotence::Never) => Reach::Nowhere,
        (Class::Throttled | Class::Credential | Class::TooLarge, _) => Reach::Anywhere,
        (Class::Failure, Idempotence::Always) => Reach::Anywhere,
        (Class::Failure, Idempotence::Auto) if idempotent_method => Reach::Anywhere,
        (Class::Failure, Idempotence::Auto) if has_key => Reach::SameProvider,
        (Class::Failure, Idempotence::Auto) => Reach::Nowhere,
    }
}

// === impl Outcome ===

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failure => "failure",
            Outcome::Throttled => "throttled",
            Outcome::Ignored => "ignored",
        }
    }
}

// === impl Class ===

impl Class {
    pub const ALL: [Class; 7] = [
        Class::Success,
        Class::Unsent,
        Class::Throttled,
        Class::Failure,
        Class::Credential,
        Class::TooLarge,
        Class::Ignored,
    ];

    /// The built-in table, for a response that the policy's `classify` does not name.
    pub const fn of_status(status: u16, has_retry_after: bool) -> Class {
        match status {
            401..=403 => Class::Credential,
            429 | 529 => Class::Throttled,
            503 if has_retry_after => Class::Throttled,
            408 | 425 => Class::Failure,
            // The endpoint understood, and will never do it.
            501 | 505 => Class::Success,
            500..=599 => Class::Failure,
            100..=499 => Class::Success,
            // No status of HTTP (RFC 9110, 15): the response is malformed.
            _ => Class::Failure,
        }
    }

    pub const fn outcome(self) -> Outcome {
        match self {
            Class::Success | Class::Credential | Class::TooLarge => Outcome::Success,
            Class::Unsent | Class::Failure => Outcome::Failure,
            Class::Throttled => Outcome::Throttled,
            Class::Ignored => Outcome::Ignored,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Success => "success",
            Class::Unsent => "unsent",
            Class::Throttled => "throttled",
            Class::Failure => "failure",
            Class::Credential => "credential",
            Class::TooLarge => "too_large",
            Class::Ignored => "ignored",
        }
    }

    /// Its position in [`Class::ALL`], for tables of counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

// === impl ClassSet ===

impl ClassSet {
    pub const fn of(classes: &[Class]) -> ClassSet {
        let (mut bits, mut next) = (0, 0);
        while next < classes.len() {
            bits |= classes[next].bit();
            next += 1;
        }
        ClassSet(bits)
    }

    pub const fn contains(self, class: Class) -> bool {
        self.0 & class.bit() != 0
    }

    /// In the order of [`Class::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Class> {
        Class::ALL.into_iter().filter(move |class| self.contains(*class))
    }
}

impl Class {
    const fn bit(self) -> u8 {
        1 << self.index()
    }
}

// === impl Idempotence ===

impl Idempotence {
    pub const fn as_str(self) -> &'static str {
        match self {
            Idempotence::Auto => "auto",
            Idempotence::Always => "always",
            Idempotence::Never => "never",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_built_in_table_of_statuses_row_by_row() {
        let rows: &[(&[u16], bool, Class)] = &[
            (&[100, 101, 200, 201, 204, 206, 301, 304, 399], false, Class::Success),
            (&[400, 404, 409, 410, 413, 422, 428, 431, 451, 499], false, Class::Success),
            (&[400, 404, 413], true, Class::Success),
            (&[429, 529], false, Class::Throttled),
            (&[429, 529, 503], true, Class::Throttled),
            (&[503], false, Class::Failure),
            (&[500, 502, 504, 507, 520, 599], true, Class::Failure),
            (&[501, 505], false, Class::Success),
            (&[408, 425], false, Class::Failure),
            (&[401, 402, 403], false, Class::Credential),
            (&[0, 99, 600, 999], false, Class::Failure),
        ];
        for (statuses, has_retry_after, class) in rows {
            for status in *statuses {
                assert_eq!(Class::of_status(*status, *has_retry_after), *class, "{status}");
            }
        }
    }

    #[test]
    fn the_table_of_what_may_be_repeated_row_by_row() {
        use {Idempotence::*, Reach::*};
        // Says what follows GET, POST, and POST with a key.
        let rows: &[(Idempotence, Class, [Reach; 3])] = &[
            (Auto, Class::Success, [Nowhere, Nowhere, Nowhere]),
            (Auto, Class::Unsent, [Anywhere, Anywhere, Anywhere]),
            (Auto, Class::Throttled, [Anywhere, Anywhere, Anywhere]),
            (Auto, Class::Failure, [Anywhere, Nowhere, SameProvider]),
            (Auto, Class::Credential, [Anywhere, Anywhere, Anywhere]),
            (Auto, Class::TooLarge, [Anywhere, Anywhere, Anywhere]),
            (Auto, Class::Ignored, [Nowhere, Nowhere, Nowhere]),
            (Always, Class::Success, [Nowhere, Nowhere, Nowhere]),
            (Always, Class::Unsent, [Anywhere, Anywhere, Anywhere]),
            (Always, Class::Throttled, [Anywhere, Anywhere, Anywhere]),
            (Always, Class::Failure, [Anywhere, Anywhere, Anywhere]),
            (Always, Class::Credential, [Anywhere, Anywhere, Anywhere]),
            (Always, Class::TooLarge, [Anywhere, Anywhere, Anywhere]),
            (Always, Class::Ignored, [Nowhere, Nowhere, Nowhere]),
            (Never, Class::Success, [Nowhere, Nowhere, Nowhere]),
            (Never, Class::Unsent, [Anywhere, Anywhere, Anywhere]),
            (Never, Class::Throttled, [Nowhere, Nowhere, Nowhere]),
            (Never, Class::Failure, [Nowhere, Nowhere, Nowhere]),
            (Never, Class::Credential, [Nowhere, Nowhere, Nowhere]),
            (Never, Class::TooLarge, [Nowhere, Nowhere, Nowhere]),
            (Never, Class::Ignored, [Nowhere, Nowhere, Nowhere]),
        ];
        for (idempotence, class, expected) in rows {
            let requests = [(true, false), (false, false), (false, true)];
            let found = requests.map(|(method, key)| reach(*idempotence, method, key, *class));
            assert_eq!(found, *expected, "{idempotence:?} {class:?}");
        }
    }

    #[test]
    fn an_idempotent_method_needs_no_key_and_is_not_narrowed_by_one() {
        let found = reach(Idempotence::Auto, true, true, Class::Failure);
        assert_eq!(found, Reach::Anywhere);
    }

    #[test]
    fn an_endpoint_that_refused_is_well() {
        let taught = Class::ALL.map(Class::outcome);
        use Outcome::*;
        assert_eq!(taught, [Success, Failure, Throttled, Failure, Success, Success, Ignored]);
    }

    #[test]
    fn index_is_the_position_in_all() {
        for (position, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), position);
        }
    }

    fn any_class() -> impl Strategy<Value = Class> {
        prop::sample::select(Class::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_in_and_nothing_else(
            classes in prop::collection::vec(any_class(), 0..10)
        ) {
            let set = ClassSet::of(&classes);
            for class in Class::ALL {
                prop_assert_eq!(set.contains(class), classes.contains(&class));
            }
            prop_assert_eq!(ClassSet::of(&set.iter().collect::<Vec<_>>()), set);
        }

        #[test]
        fn more_leave_never_reaches_less(
            class in any_class(), method: bool, key: bool
        ) {
            use Idempotence::*;
            let [never, auto, always] =
                [Never, Auto, Always].map(|leave| reach(leave, method, key, class));
            prop_assert!(never <= auto && auto <= always);
            prop_assert!(reach(Auto, method, false, class) <= auto);
            prop_assert!(reach(Auto, false, key, class) <= auto);
        }
    }
}
