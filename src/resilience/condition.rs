//! Boolean conditions over signals of any type.

/// A tree of conditions; `S` is a signal that is either true or false.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition<S> {
    /// True if at least one member is true; false if there are none.
    Any(Vec<Condition<S>>),
    /// True if every member is true; false if there are none.
    All(Vec<Condition<S>>),
    Is(S),
}

impl<S> Condition<S> {
    /// Evaluates the tree, where `is` evaluates one signal. Signals are evaluated in
    /// order, and only as far as needed.
    pub fn holds(&self, is: &mut impl FnMut(&S) -> bool) -> bool {
        match self {
            Condition::Any(of) => of.iter().any(|one| one.holds(is)),
            Condition::All(of) => !of.is_empty() && of.iter().all(|one| one.holds(is)),
            Condition::Is(signal) => is(signal),
        }
    }

    /// The same tree with every signal mapped by `of`, in order.
    pub fn map_signals<T>(&self, of: &mut impl FnMut(&S) -> T) -> Condition<T> {
        let mut each = |all: &[Condition<S>]| all.iter().map(|one| one.map_signals(of)).collect();
        match self {
            Condition::Any(all) => Condition::Any(each(all)),
            Condition::All(all) => Condition::All(each(all)),
            Condition::Is(signal) => Condition::Is(of(signal)),
        }
    }

    /// All signals in the order in which they are written.
    pub fn signals(&self) -> Vec<&S> {
        match self {
            Condition::Any(of) | Condition::All(of) => {
                of.iter().flat_map(Condition::signals).collect()
            }
            Condition::Is(signal) => vec![signal],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Condition::{All, Any, Is};

    #[test]
    fn any_needs_one_member_and_all_needs_every_member() {
        let tree = Any(vec![All(vec![Is(1), Is(2)]), Is(3)]);
        for (is_true, holds) in
            [(&[1][..], false), (&[1, 2], true), (&[3], true), (&[2], false), (&[], false)]
        {
            assert_eq!(tree.holds(&mut |signal| is_true.contains(signal)), holds, "{is_true:?}");
        }
        assert_eq!(tree.signals(), [&1, &2, &3]);
        let doubled = tree.map_signals(&mut |signal| signal * 2);
        assert_eq!(doubled, Any(vec![All(vec![Is(2), Is(4)]), Is(6)]));
    }

    #[test]
    fn an_empty_any_or_all_is_false() {
        assert!(!Any::<()>(vec![]).holds(&mut |()| true));
        assert!(!All::<()>(vec![]).holds(&mut |()| true));
    }
}
