//! Sentences in doc comments and documents: they begin with a subject, not with a noun clause.

use crate::source::Tree;

/// First words of a noun clause or of a riddle.
const BANNED_STARTS: [&str; 5] = ["What", "Who", "Whoever", "Whatever", "Nobody"];

/// A word of a paragraph, and its line in the file.
type Word<'a> = (usize, &'a str);

pub fn sentences(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    for source in tree.all_sources() {
        broken.extend(banned_sentences(&source.path, &doc_comments(&source.raw)));
    }
    for (path, text) in &tree.documents {
        let lines: Vec<_> = text.lines().map(Some).collect();
        broken.extend(banned_sentences(path, &lines));
    }
    broken
}

/// The text of each line of a Rust file that is a doc comment.
fn doc_comments(text: &str) -> Vec<Option<&str>> {
    let comment = |line: &'_ str| -> Option<usize> {
        let indent = line.len() - line.trim_start().len();
        let is_doc = ["///", "//!"].iter().any(|mark| line[indent..].starts_with(mark));
        is_doc.then_some(indent + 3)
    };
    text.lines().map(|line| comment(line).map(|start| &line[start..])).collect()
}

fn banned_sentences(path: &str, lines: &[Option<&str>]) -> Vec<String> {
    let mut broken = Vec::new();
    for paragraph in paragraphs(lines) {
        let ends = |(_, word): &Word<'_>| {
            word.trim_end_matches(['"', '\'', ')', '*', '_']).ends_with(['.', '!', '?', ':'])
        };
        for sentence in paragraph.split_inclusive(ends) {
            let [(line, first), .., (_, last)] = sentence else { continue };
            let first = first.trim_start_matches(['"', '(', '*', '_']);
            if BANNED_STARTS.contains(&first) && !last.contains('?') {
                let rule = "start with the subject: who or what does it";
                broken.push(format!("{path}:{line}: a sentence starts with \"{first}\"; {rule}"));
            }
        }
    }
    broken
}

/// The words of each paragraph, list item and table cell. Headings and code blocks are left out.
fn paragraphs<'a>(lines: &[Option<&'a str>]) -> Vec<Vec<Word<'a>>> {
    let mut paragraphs = vec![Vec::new()];
    let mut in_code = false;
    for (number, line) in lines.iter().enumerate() {
        let line = line.unwrap_or_default().trim();
        let is_fence = line.starts_with("```");
        in_code ^= is_fence;
        let is_item = ["- ", "* ", "> ", "|"].iter().any(|mark| line.starts_with(mark))
            || line.split_once(". ").is_some_and(|(n, _)| n.parse::<u8>().is_ok());
        if line.is_empty() || is_item || is_fence {
            paragraphs.push(Vec::new());
        }
        if in_code || is_fence || line.starts_with('#') {
            continue;
        }
        let skipped = if is_item { line.find([' ', '|']).map_or(0, |mark| mark + 1) } else { 0 };
        for (i, cell) in line[skipped..].split('|').enumerate() {
            if i > 0 {
                paragraphs.push(Vec::new());
            }
            let words = cell.split_whitespace().map(|word| (number + 1, word));
            paragraphs.last_mut().expect("one paragraph at least").extend(words);
        }
    }
    paragraphs
}

mod the_checker {
    use super::*;
    use crate::assert_failures;

    fn assert_docs(text: &str, expected: &[&str]) {
        assert_failures(&sentences(&Tree::of(&[("src/live/a.rs", text)])), expected);
    }

    #[test]
    fn a_sentence_does_not_start_with_a_noun_clause() {
        assert_docs(
            "//! What a client sends.",
            &["src/live/a.rs:1: a sentence starts with \"What\""],
        );
        assert_docs(
            "fn f() {}\n/// A limit. Who waits\n/// gets in.",
            &["a.rs:2: a sentence starts with \"Who\""],
        );
        assert_docs("/// A limit (see\n/// b). Nobody\n/// waits.", &["a.rs:2: a sentence"]);
        assert_docs("/// - *Whatever* comes\n/// - Whoever comes", &["a.rs:2: a sentence"]);
        assert_docs("/// | a | What it is |", &["a.rs:1: a sentence"]);
        assert_docs("/// Says\n/// What it is", &[]);
        assert_docs("/// A limit\n\n/// What it is", &["a.rs:3: a sentence"]);
    }

    #[test]
    fn questions_headings_and_code_may() {
        assert_docs("/// What is sent? Who\n/// waits?", &[]);
        assert_docs("/// # What it does\n/// ```\n/// What x\n/// ```", &[]);
        assert_docs("// What is not a doc comment\nlet x = \"What it is\";", &[]);
        assert_docs("/// The error says what happened. Whatever's left is dropped.", &[]);
    }

    #[test]
    fn documents_are_read_too() {
        let mut tree = Tree::of(&[]);
        tree.documents = vec![("docs/a.md".to_owned(), "# A\n\nText.\n1. What is sent".to_owned())];
        assert_failures(&sentences(&tree), &["docs/a.md:4: a sentence starts with \"What\""]);
    }
}
