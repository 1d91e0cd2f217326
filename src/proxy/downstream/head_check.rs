//! Rules for the bytes of a request head that hyper's parser does not enforce (RFC 9112, 2.2, 3.2).
//!
//! The parser ends a line at a bare line feed and drops a fragment of the target; another program
//! may read such a head differently. A byte that breaks a rule becomes NUL, which the parser
//! rejects.
//!
//! The parser rejects a carriage return that no line feed follows. So a head with as many of one as
//! of the other has no bare line feed, and a vectorized sum decides about most heads.
//!
//! A head is checked if its first read begins with its request line. One that was sent together with
//! the request before it is read as the parser reads it.

use std::ops::Range;

use memchr::memchr;

/// The rule that a head breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadFault {
    BareLineFeed,
    Fragment,
}

impl HeadFault {
    pub(super) fn explain(self) -> &'static str {
        match self {
            HeadFault::BareLineFeed => "a line of the head ends without a carriage return",
            HeadFault::Fragment => "the target has a fragment (`#`): send it without",
        }
    }
}

/// A longer piece contains a body, so that counting costs more than looking at each line.
const COUNTED: usize = 2048;
const BLOCK: usize = 64;

/// The check of a head between two reads.
#[derive(Debug, Default)]
pub(super) struct HeadCheck(LineState);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LineState {
    /// The bytes belong to no head that is checked.
    #[default]
    Unchecked,
    /// In a line that is empty but perhaps for a carriage return.
    Empty {
        after_cr: bool,
    },
    Inside {
        after_cr: bool,
    },
}

impl HeadCheck {
    /// Checks the first bytes of a head, of which `line` is the request line.
    pub(super) fn begin(
        &mut self,
        bytes: &mut [u8],
        line: Option<Range<usize>>,
    ) -> Option<HeadFault> {
        self.0 = LineState::Unchecked;
        let line = line?;
        if let Some(at) = fragment(bytes, &line) {
            bytes[at] = 0;
            return Some(HeadFault::Fragment);
        }
        if bytes.len() <= COUNTED && is_balanced(bytes) {
            self.0 = match bytes.last() {
                Some(b'\n') => LineState::Empty { after_cr: false },
                _ => LineState::Inside { after_cr: false },
            };
            return None;
        }
        for at in 0..line.start {
            if bytes[at] == b'\n' && (at == 0 || bytes[at - 1] != b'\r') {
                bytes[at] = 0;
                return Some(HeadFault::BareLineFeed);
            }
        }
        self.0 = LineState::Empty { after_cr: false };
        self.resume(&mut bytes[line.start..])
    }

    /// Checks more bytes of the head that began before.
    pub(super) fn resume(&mut self, bytes: &mut [u8]) -> Option<HeadFault> {
        let mut start = 0;
        while self.0 != LineState::Unchecked
            && let Some(length) = memchr(b'\n', &bytes[start..])
        {
            let at = start + length;
            let (is_empty, after_cr) = match (self.0, &bytes[start..at]) {
                (LineState::Empty { after_cr }, []) => (true, after_cr),
                (LineState::Inside { after_cr }, []) => (false, after_cr),
                (LineState::Empty { after_cr: false }, b"\r") => (true, true),
                (_, line) => (false, line.ends_with(b"\r")),
            };
            if !after_cr {
                bytes[at] = 0;
                return Some(HeadFault::BareLineFeed);
            }
            // An empty line ends the head.
            self.0 = match is_empty {
                true => LineState::Unchecked,
                false => LineState::Empty { after_cr: false },
            };
            start = at + 1;
        }
        if let (true, Some(last)) = (self.0 != LineState::Unchecked, bytes[start..].last()) {
            let after_cr = *last == b'\r';
            let is_empty =
                self.0 == LineState::Empty { after_cr: false } && bytes.len() == start + 1;
            self.0 = match is_empty && after_cr {
                true => LineState::Empty { after_cr },
                false => LineState::Inside { after_cr },
            };
        }
        None
    }
}

/// The `#` in a request line. A block that has none is searched fastest.
fn fragment(bytes: &[u8], line: &Range<usize>) -> Option<usize> {
    let has_mark =
        |block: &[u8; BLOCK]| block.iter().fold(false, |any, byte| any | (*byte == b'#'));
    match bytes.first_chunk() {
        Some(block) if line.end <= BLOCK && !has_mark(block) => None,
        _ => memchr(b'#', &bytes[line.clone()]).map(|at| line.start + at),
    }
}

/// Whether there are as many line feeds as carriage returns.
fn is_balanced(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks();
    let mut last = [0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    blocks.iter().map(surplus).sum::<i32>() + surplus(&last) == 0
}

/// Line feeds less carriage returns. The sum of a block fits in a byte, so that the compiler adds
/// sixteen at once.
fn surplus(block: &[u8; BLOCK]) -> i32 {
    let add = |sum: i8, byte: &u8| {
        sum.wrapping_add((*byte == b'\n').into()).wrapping_sub((*byte == b'\r').into())
    };
    block.iter().fold(0, add).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first fault of a head that arrives in pieces.
    fn fault(pieces: &[&str]) -> Option<HeadFault> {
        let mut check = HeadCheck::default();
        pieces.iter().enumerate().find_map(|(index, piece)| {
            let mut bytes = piece.as_bytes().to_vec();
            if index > 0 {
                return check.resume(&mut bytes);
            }
            let start = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(0);
            let end = memchr(b'\n', &bytes[start..]).map(|end| start + end);
            check.begin(&mut bytes, end.map(|end| start..end))
        })
    }

    #[test]
    fn a_bare_line_feed_is_found_in_a_head_and_ignored_in_a_body() {
        for head in [
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\n",
            "\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "\r\n\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        ] {
            assert_eq!(fault(&[head]), Some(HeadFault::BareLineFeed), "{head:?}");
            let long = format!("{head}{}", "x".repeat(COUNTED));
            assert_eq!(fault(&[&long]), Some(HeadFault::BareLineFeed), "{head:?}");
        }
        for head in ["", "\r\n", "\r\n\r\n"] {
            for body in ["", "{\n}", "\n", "\r", "\r\n\n"] {
                let head = format!("{head}POST / HTTP/1.1\r\nhost: a\r\n\r\n{body}");
                assert_eq!(fault(&[&head]), None, "{head:?}");
            }
        }
    }

    #[test]
    fn a_fragment_is_found_in_the_request_line_alone() {
        assert_eq!(fault(&["GET /#a HTTP/1.1\r\nhost: a\r\n\r\n"]), Some(HeadFault::Fragment));
        assert_eq!(fault(&["GET / HTTP/1.1\r\nhost: a\r\nx: #\r\n\r\n#"]), None);
    }

    proptest! {
        #[test]
        fn pieces_are_checked_as_the_whole(
            lines in prop::collection::vec("[a-c]{0,3}", 0..6), bare in 0usize..12,
            at in 0usize..40, body in "[\r\nx]{0,6}",
        ) {
            let ends = |index| if index == bare { "\n" } else { "\r\n" };
            let lines: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).collect();
            let mut rest = String::new();
            for (index, line) in lines.iter().map(String::as_str).chain([""]).enumerate() {
                rest += line;
                rest += ends(index);
            }
            let expected = (bare <= lines.len()).then_some(HeadFault::BareLineFeed);
            let at = at.min(rest.len());
            let first = format!("GET / HTTP/1.1\r\n{}", &rest[..at]);
            let second = format!("{}{}", &rest[at..], if at == rest.len() { "" } else { &*body });
            prop_assert_eq!(fault(&[&first, &second]), expected);
        }
    }
}
