//! Rust source read as text: enough to find names, items and the ends of things.
//!
//! Comments and literals are blanked first, so that what is left can be searched. Positions stay.

use std::ops::Range;

pub fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Where `word` stands by itself.
pub fn words(text: &str, word: &str) -> Vec<usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let alone =
        |at: usize| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part);
    text.match_indices(word).map(|(at, _)| at).filter(|at| alone(*at)).collect()
}

/// The first name of a path, or of each path in a group: `a::b` or `{a::b, c::{d, e}}`.
pub fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else { return vec![identifier(path)] };
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(String::new()),
            _ if depth == 0 => parts.last_mut().expect("one part at least").push(c),
            _ => {}
        }
    }
    let names = parts.iter().map(|part| identifier(part.trim()));
    names.filter(|name| !name.is_empty() && name != "self").collect()
}

/// The end of the item that starts at `from`: its `;`, or the brace that closes its first one.
/// `None` for an item without a body.
pub fn item_end(text: &str, from: usize) -> Option<usize> {
    let (mut braces, mut others) = (0, 0);
    for (at, c) in text[from..].char_indices() {
        match c {
            '(' | '[' => others += 1,
            ')' | ']' => others -= 1,
            '{' => braces += 1,
            '}' if braces <= 1 => return (braces == 1).then_some(from + at + 1),
            '}' => braces -= 1,
            ';' if braces == 0 && others == 0 => return None,
            _ => {}
        }
    }
    None
}

pub fn test_items(text: &str) -> Vec<Range<usize>> {
    let starts = text.match_indices("#[cfg(test)]");
    starts.filter_map(|(at, _)| item_end(text, at).map(|end| at..end)).collect()
}

/// Comments and the insides of literals become spaces; lines and positions stay.
pub fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = literal_or_comment(rest, &out);
        let taken = skipped.unwrap_or(c.len_utf8());
        match skipped {
            Some(_) => {
                out.extend(rest[..taken].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }))
            }
            None => out.push(c),
        }
        rest = &rest[taken..];
    }
    out
}

/// The length of the comment or literal that begins here.
fn literal_or_comment(rest: &str, before: &str) -> Option<usize> {
    let to = |from: usize, end: &str| {
        rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len())
    };
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(to(2, "*/"));
    }
    let in_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if rest.starts_with('r') && (!in_word || before.ends_with('b')) {
        let hashes = rest[1..].bytes().take_while(|b| *b == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            return Some(to(hashes + 2, &format!("\"{}", "#".repeat(hashes))));
        }
    }
    match rest.as_bytes() {
        [b'"', ..] => Some(closed(rest, '"')),
        [b'\'', b'\\', ..] => Some(closed(rest, '\'')),
        // 'x' is a character, 'x without its end a lifetime.
        [b'\'', ..] => {
            let mut after = rest.char_indices().skip(2);
            after.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1)
        }
        _ => None,
    }
}

/// The length of a literal with escapes, its quotes included.
fn closed(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}
