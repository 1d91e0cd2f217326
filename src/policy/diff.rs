//! The differences of two policies, in one line each.
//!
//! `providers.openai.timeouts.connect: 2s -> 1s`: a log line of a reload says what changed. All
//! values are compared (`section/display.rs`), those of secrets by their digests, and none is
//! printed that may be a secret. Where a name changes (`retry: slow -> fast`), the values that
//! differ between the two follow.

use std::collections::{BTreeMap, BTreeSet};

use super::section::display::{Entry, Row};
use super::sections::Policy;

/// The differences, a line each; empty when both policies do the same.
pub fn changes(before: &Policy, after: &Policy) -> Vec<String> {
    let (old_names, new_names) = (
        |section: &str, index: usize| before.name(section, index),
        |section: &str, index: usize| after.name(section, index),
    );
    let (old, new) = (before.show(&old_names), after.show(&new_names));
    let old = Compared { rows: &old.rows, entries: &old.entries };
    let new = Compared { rows: &new.rows, entries: &new.entries };
    let mut found = removed(&old, &new);
    found.extend(added(&old, &new));
    found.extend(changed(&old, &new));
    found.extend(moved(&old, &new));
    found
}

#[derive(Clone, Copy)]
struct Compared<'a> {
    rows: &'a [Row],
    entries: &'a [Entry],
}

impl<'a> Compared<'a> {
    fn has_entry(&self, path: &str) -> bool {
        self.entries.iter().any(|entry| entry.path == path)
    }

    /// The rows below `path`, under their paths from there.
    fn below(&self, path: &str) -> BTreeMap<&'a str, &'a Row> {
        let below = self.rows.iter().filter_map(|row| Some((relative(&row.path, path)?, row)));
        below.collect()
    }
}

fn relative<'r>(row: &'r str, path: &str) -> Option<&'r str> {
    row.strip_prefix(path)?.strip_prefix('.')
}

/// The outermost entries of `one` that `other` lacks.
fn only_in<'a>(one: &Compared<'a>, other: &Compared<'a>) -> Vec<&'a Entry> {
    let mut found: Vec<&Entry> = Vec::new();
    for entry in one.entries.iter().filter(|entry| !other.has_entry(&entry.path)) {
        if found.iter().all(|outer| relative(&entry.path, &outer.path).is_none()) {
            found.push(entry);
        }
    }
    found
}

fn removed(old: &Compared<'_>, new: &Compared<'_>) -> Vec<String> {
    let gone = only_in(old, new);
    gone.into_iter().map(|entry| format!("{}: removed", entry.path)).collect()
}

/// Entries that only `new` has, each with its most important value, and its position if the order counts.
fn added(old: &Compared<'_>, new: &Compared<'_>) -> Vec<String> {
    let line = |entry: &Entry| {
        let mut rows =
            new.rows.iter().filter_map(|row| Some((relative(&row.path, &entry.path)?, row)));
        let first = rows.clone().find(|(key, _)| *key == "providers");
        let first = first.or_else(|| rows.find(|(key, _)| *key != "preset"));
        let with = first.map_or_else(String::new, |(key, row)| format!(" ({key}: {})", row.text));
        let position = match entry.list.as_str() {
            "routes" => format!(" {}", position(new, entry)),
            _ => String::new(),
        };
        format!("{}: added{position}{with}", entry.path)
    };
    only_in(new, old).into_iter().map(line).collect()
}

fn changed(old: &Compared<'_>, new: &Compared<'_>) -> Vec<String> {
    let lone: Vec<_> = [only_in(old, new), only_in(new, old)].concat();
    let inside = |row: &&Row| lone.iter().all(|entry| relative(&row.path, &entry.path).is_none());
    let by_path: BTreeMap<_, _> = old.rows.iter().map(|row| (row.path.as_str(), row)).collect();
    let paths: BTreeSet<_> = new.rows.iter().map(|row| row.path.as_str()).collect();
    let mut found = Vec::new();
    for row in new.rows.iter().filter(inside) {
        let before = by_path.get(row.path.as_str()).copied();
        found.extend(change(&row.path, before, Some(row)).map(|line| {
            let brought = before.map_or_else(Vec::new, |before| brings(old, before, new, row));
            std::iter::once(line).chain(brought).collect::<Vec<_>>().join(", ")
        }));
    }
    for row in old.rows.iter().filter(inside).filter(|row| !paths.contains(row.path.as_str())) {
        found.extend(change(&row.path, Some(row), None));
    }
    found
}

/// `path: old -> new`; a value that only one side has is `none` on the other.
fn change(path: &str, old: Option<&Row>, new: Option<&Row>) -> Option<String> {
    let text = |row: Option<&Row>| row.map_or("none".to_owned(), |row| row.text.clone());
    let (before, after) = (text(old), text(new));
    if before != after {
        return Some(format!("{path}: {before} -> {after}"));
    }
    let digest = |row: Option<&Row>| row.and_then(|row| row.digest);
    (digest(old) != digest(new)).then(|| format!("{path}: changed ({after})"))
}

/// Where one name replaced another: the differences of the two entries.
fn brings(old: &Compared<'_>, before: &Row, new: &Compared<'_>, after: &Row) -> Vec<String> {
    let ([was], [is]) = (before.names.as_slice(), after.names.as_slice()) else {
        return Vec::new();
    };
    if was == is || before.text == after.text {
        return Vec::new();
    }
    let (was, is) = (old.below(was), new.below(is));
    let keys: BTreeSet<_> = was.keys().chain(is.keys()).copied().collect();
    let of = |side: &BTreeMap<&str, &'_ Row>, key: &str| side.get(key).map(|row| (*row).clone());
    let lines = keys
        .into_iter()
        .filter_map(|key| change(key, of(&was, key).as_ref(), of(&is, key).as_ref()));
    lines.collect()
}

// === order ===

/// The entries that both sides have and that moved within their list: as few as possible.
fn moved(old: &Compared<'_>, new: &Compared<'_>) -> Vec<String> {
    let lists: BTreeSet<_> = new.entries.iter().map(|entry| entry.list.as_str()).collect();
    let mut found = Vec::new();
    for list in lists {
        let of = |side: &Compared<'_>| -> Vec<String> {
            let entries = side.entries.iter().filter(|entry| entry.list == list);
            entries.map(|entry| entry.path.clone()).collect()
        };
        let (before, after) = (of(old), of(new));
        let movers = out_of_order(&before, &after);
        for entry in new.entries.iter().filter(|entry| movers.contains(&entry.path)) {
            found.push(format!("{}: moved {}", entry.path, position(new, entry)));
        }
    }
    found
}

/// `before `chat``, or `at the end`.
fn position(side: &Compared<'_>, entry: &Entry) -> String {
    let mut list = side.entries.iter().filter(|other| other.list == entry.list);
    let next = list.by_ref().skip_while(|other| *other != entry).nth(1);
    let name = |next: &Entry| relative(&next.path, &next.list).unwrap_or(&next.path).to_owned();
    next.map_or_else(|| "at the end".to_owned(), |next| format!("before `{}`", name(next)))
}

fn out_of_order(before: &[String], after: &[String]) -> Vec<String> {
    let old = |name: &String| before.iter().position(|other| other == name);
    let common: Vec<_> = after.iter().filter_map(|name| Some((old(name)?, name))).collect();
    // The longest run that rises stays where it is (quadratic; lists are short).
    let mut longest: Vec<(usize, Option<usize>)> = Vec::with_capacity(common.len());
    for (index, (at, _)) in common.iter().enumerate() {
        let earlier = (0..index).filter(|other| common[*other].0 < *at);
        let best = earlier.max_by_key(|other| longest[*other].0);
        longest.push((best.map_or(1, |other| longest[other].0 + 1), best));
    }
    let mut stays = vec![false; common.len()];
    let mut next = (0..common.len()).max_by_key(|index| longest[*index].0);
    while let Some(index) = next {
        stays[index] = true;
        next = longest[index].1;
    }
    let movers = common.iter().zip(stays).filter(|(_, stays)| !stays);
    movers.map(|((_, name), _)| (*name).clone()).collect()
}
