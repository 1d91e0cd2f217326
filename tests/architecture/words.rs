//! Words that are not used in file names and identifiers, because the field has a better one.
//!
//! Every identifier is checked where it first occurs in a file. None of the words occurs in the
//! interfaces of the dependencies that the crate uses.

use std::collections::BTreeSet;

use crate::source::{Source, Tree, is_identifier};

/// Banned words, and what to say instead.
const BANNED: &[(&str, &str)] = &[
    ("answer answers answered answering unanswered", "response, respond, reply"),
    ("ask asks asked asker asking unasked", "request, send"),
    ("told tell tells telling teller untold tellable", "report, notify, record"),
    ("who whom whoever nobody somebody anybody everybody", "the name of the thing"),
    ("someone anyone everyone whatever", "the name of the thing"),
    ("hand hands handed", "override, manual, current, return"),
    ("story stories", "access record"),
    ("sought", "cache key, lookup"),
    ("marked touched", "invalidated, effects, changed"),
    ("wish wishes", "preference"),
    ("errand errands", "fetch, call"),
    ("lesson lessons", "report, outcome"),
    ("bill bills", "usage key, cost"),
    ("letter letters", "payload, notification"),
    ("ahead", "prefetch, fan-out, in front"),
    ("gather gathered", "prebuffer, collect"),
    ("heard", "transcript, received"),
    ("desk", "dispatcher"),
    ("crowd", "waiters, load"),
    ("scene", "fixture"),
    ("town", "peers, fleet"),
    ("door", "listener, TLS server"),
    ("talk", "protocol, RESP"),
    ("nature", "content type, kind"),
    ("fate", "outcome"),
    ("luck", "draw"),
    ("floors house", "layers"),
];

/// Banned sequences of words.
const BANNED_PHRASES: &[(&str, &str)] = &[
    ("go_on goes_on going_on gone_on", "resume, continue"),
    ("take_in", "accept, read"),
    ("hard_times", "degradation"),
];

/// Words that are fine in a longer name but do not name a file.
const BANNED_STEMS: &[&str] = &[
    "left", "next", "past", "near", "known", "shown", "growing", "ready", "recorded", "times",
    "lent", "take", "choose", "go", "look", "forms", "places", "grow", "news",
];

pub fn file_names(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    let mut seen = BTreeSet::new();
    for path in &tree.paths {
        let folders = path.match_indices('/').map(|(at, _)| &path[..at]);
        for part in folders.chain([path.as_str()]).filter(|part| seen.insert(part.to_string())) {
            let name = part.rsplit('/').next().unwrap_or(part);
            let stem = name.split('.').next().unwrap_or(name);
            if BANNED_STEMS.contains(&stem) {
                broken.push(format!(
                    "{part}: `{stem}` is no noun for what it holds; use the field's term"
                ));
            } else if let Some(rule) = banned(stem) {
                broken.push(format!("{part}: the name {rule}"));
            }
        }
    }
    broken
}

pub fn identifiers(tree: &Tree) -> Vec<String> {
    tree.all_sources().flat_map(banned_identifiers).collect()
}

fn banned_identifiers(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    let mut seen = BTreeSet::new();
    for at in 0..source.len() {
        let word = source.word(at);
        if is_identifier(word)
            && seen.insert(word)
            && let Some(rule) = banned(word)
        {
            broken.push(source.failure(at, &format!("`{word}` {rule}")));
        }
    }
    broken
}

/// Says why a name is banned.
fn banned(name: &str) -> Option<String> {
    let words = words(name);
    let has = |word: &str| words.iter().any(|own| own == word);
    for (banned, better) in BANNED {
        if let Some(word) = banned.split(' ').find(|word| has(word)) {
            return Some(format!("has the word `{word}`; use: {better}"));
        }
    }
    let snake = format!("_{}_", words.join("_"));
    for (banned, better) in BANNED_PHRASES {
        let phrase = banned.split(' ').find(|phrase| snake.contains(&format!("_{phrase}_")));
        if let Some(phrase) = phrase {
            return Some(format!("has the words `{phrase}`; use: {better}"));
        }
    }
    let is_clause = words.len() > 2 && words[0] == "what";
    is_clause.then(|| "starts with a noun clause; start with the subject".to_owned())
}

/// The words of a name in snake_case, CamelCase, SCREAMING_CASE or kebab-case, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in name.chars() {
        let is_start = c.is_uppercase() && before.is_lowercase();
        if !c.is_alphanumeric() || is_start {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words.last_mut().expect("one word at least").extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

mod the_checker {
    use super::*;
    use crate::assert_failures;

    #[test]
    fn a_name_is_split_into_its_words() {
        assert_eq!(words("in_handBig2OUT"), ["in", "hand", "big2out"]);
        assert_eq!(words("ASK_AGAIN"), ["ask", "again"]);
        assert_eq!(words("_cache-suite"), ["cache", "suite"]);
    }

    #[test]
    fn banned_words_are_found_in_identifiers_once_per_file() {
        let assert_words = |text: &str, expected: &[&str]| {
            assert_failures(&identifiers(&Tree::of(&[("src/live/a.rs", text)])), expected);
        };
        assert_words("fn f(told: Told) {\n    told\n}", &["a.rs:1: `told`", "a.rs:1: `Told`"]);
        assert_words("\nstruct LastAsk;", &["a.rs:2: `LastAsk` has the word `ask`; use: request"]);
        assert_words("fn going_on() {}", &["has the words `going_on`"]);
        assert_words("fn what_is_new_is_sent() {}", &["starts with a noun clause"]);
        assert_words("fn handle(task: Handshake, shorthand: u8, f: f64) { f.floor() }", &[]);
        assert_words("// told\nlet x = \"told {answer}\";", &[]);
    }

    #[test]
    fn banned_words_are_found_in_the_names_of_files_and_folders() {
        let assert_path = |path: &str, expected: &[&str]| {
            assert_failures(&file_names(&Tree::of(&[(path, "")])), expected);
        };
        assert_path("src/told/by_hand.rs", &["src/told: the name has", "src/told/by_hand.rs: the"]);
        assert_path("src/proxy/left.rs", &["src/proxy/left.rs: `left` is no noun"]);
        assert_path("src/proxy/hard_times_tests.rs", &["has the words `hard_times`"]);
        assert_path("src/proxy/handler.rs", &[]);
        assert_path("src/proxy/next_attempt.rs", &[]);
    }
}
