//! Conditions made of others, whatever they are made of in the end.

/// A tree of conditions; `S` is what can be seen to be so or not.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition<S> {
    /// At least one of them; of none it does not hold.
    Any(Vec<Condition<S>>),
    /// Each of them; of none it does not hold.
    All(Vec<Condition<S>>),
    Is(S),
}

impl<S> Condition<S> {
    /// Whether it holds, where `is` says so of each sign. Every sign that matters is asked, in order.
    pub fn holds(&self, is: &mut impl FnMut(&S) -> bool) -> bool {
        match self {
            Condition::Any(of) => of.iter().any(|one| one.holds(is)),
            Condition::All(of) => !of.is_empty() && of.iter().all(|one| one.holds(is)),
            Condition::Is(sign) => is(sign),
        }
    }

    /// The same tree of what `of` makes of each sign, in order.
    pub fn map_signals<T>(&self, of: &mut impl FnMut(&S) -> T) -> Condition<T> {
        let mut each = |all: &[Condition<S>]| all.iter().map(|one| one.map_signals(of)).collect();
        match self {
            Condition::Any(all) => Condition::Any(each(all)),
            Condition::All(all) => Condition::All(each(all)),
            Condition::Is(sign) => Condition::Is(of(sign)),
        }
    }

    /// All signs, from the first to the last as they were written.
    pub fn signals(&self) -> Vec<&S> {
        match self {
            Condition::Any(of) | Condition::All(of) => {
                of.iter().flat_map(Condition::signals).collect()
            }
            Condition::Is(sign) => vec![sign],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Condition::{All, Any, Is};

    #[test]
    fn any_and_all_are_as_their_names_say() {
        let tree = Any(vec![All(vec![Is(1), Is(2)]), Is(3)]);
        for (so, holds) in
            [(&[1][..], false), (&[1, 2], true), (&[3], true), (&[2], false), (&[], false)]
        {
            assert_eq!(tree.holds(&mut |sign| so.contains(sign)), holds, "{so:?}");
        }
        assert_eq!(tree.signals(), [&1, &2, &3]);
        let doubled = tree.map_signals(&mut |sign| sign * 2);
        assert_eq!(doubled, Any(vec![All(vec![Is(2), Is(4)]), Is(6)]));
    }

    #[test]
    fn of_nothing_neither_holds() {
        assert!(!Any::<()>(vec![]).holds(&mut |()| true));
        assert!(!All::<()>(vec![]).holds(&mut |()| true));
    }
}
