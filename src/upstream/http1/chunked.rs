//! Chunked transfer coding (RFC 9112, 7.1): read wherever the pieces of it end, and written.
//!
//! Strict about what frames the message: a size is hexadecimal digits and nothing else, each line
//! ends in CRLF. What a lax reader makes of another byte is how answers are smuggled.

use std::io::Write;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::exchange::ExchangeError;

/// Longest line of a size with its extensions, and all trailers together.
const LONGEST: usize = 16 * 1024;
const TRAILERS: usize = 64;

/// A reader, between two pieces.
#[derive(Debug)]
pub(crate) struct Chunked {
    at: At,
    /// Bytes of the size's line so far.
    line: usize,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size { size: u64, digits: u32 },
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    Trailers,
    End,
}

/// What a piece gave.
#[derive(Debug)]
pub(crate) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// The piece is used up.
    More,
}

impl Chunked {
    pub(crate) fn new() -> Self {
        Chunked { at: At::Size { size: 0, digits: 0 }, line: 0, trailers: Vec::new() }
    }

    /// Takes what it can from the front.
    pub(crate) fn next(&mut self, front: &mut Bytes) -> Result<Step, ExchangeError> {
        loop {
            match self.at {
                At::End => return Ok(Step::End),
                _ if front.is_empty() => return Ok(Step::More),
                At::Data(left) => {
                    let size = usize::try_from(left).map_or(front.len(), |n| n.min(front.len()));
                    let data = front.split_to(size);
                    let left = left - size as u64;
                    self.at = if left == 0 { At::DataCr } else { At::Data(left) };
                    return Ok(Step::Data(data));
                }
                At::Trailers => {
                    if let Some(trailers) = self.trailers(front)? {
                        self.at = At::End;
                        return Ok(trailers.map_or(Step::End, Step::Trailers));
                    }
                }
                at => {
                    let byte = front[0];
                    front.advance(1);
                    self.at = self.after(at, byte)?;
                }
            }
        }
    }

    /// One byte of what stands between the data.
    fn after(&mut self, at: At, byte: u8) -> Result<At, ExchangeError> {
        self.line += 1;
        if self.line > LONGEST {
            return Err(ExchangeError::TooLarge("the line of a chunk's size"));
        }
        let malformed = Err(ExchangeError::Malformed("the size of a chunk"));
        Ok(match (at, byte) {
            (At::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                if digits == 16 {
                    return malformed;
                }
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                At::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (At::Size { digits: 0, .. }, _) => return malformed,
            (At::Size { size, .. }, b'\r') | (At::Extension(size), b'\r') => At::SizeLf(size),
            (At::Size { size, .. }, b';' | b' ' | b'\t') => At::Extension(size),
            (At::Extension(_), b'\n') => return malformed,
            (At::Extension(size), _) => At::Extension(size),
            (At::SizeLf(0), b'\n') => At::Trailers,
            (At::SizeLf(size), b'\n') => At::Data(size),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => {
                self.line = 0;
                At::Size { size: 0, digits: 0 }
            }
            _ => return malformed,
        })
    }

    /// Gathers up to the empty line; what it holds then, if it is anything.
    fn trailers(&mut self, front: &mut Bytes) -> Result<Option<Option<HeaderMap>>, ExchangeError> {
        while front.has_remaining() {
            self.trailers.push(front.get_u8());
            if self.trailers == b"\r\n" {
                return Ok(Some(None));
            }
            if self.trailers.ends_with(b"\r\n\r\n") {
                return self.parsed().map(|trailers| Some(Some(trailers)));
            }
            if self.trailers.len() > LONGEST {
                return Err(ExchangeError::TooLarge("the trailers"));
            }
        }
        Ok(None)
    }

    fn parsed(&self) -> Result<HeaderMap, ExchangeError> {
        let mut lines = [httparse::EMPTY_HEADER; TRAILERS];
        let malformed = || ExchangeError::Malformed("a trailer");
        let parsed =
            httparse::parse_headers(&self.trailers, &mut lines).map_err(|_| malformed())?;
        let httparse::Status::Complete((end, lines)) = parsed else { return Err(malformed()) };
        if end != self.trailers.len() {
            return Err(malformed());
        }
        let mut trailers = HeaderMap::with_capacity(lines.len());
        for line in lines {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| malformed())?;
            let value = HeaderValue::from_bytes(line.value).map_err(|_| malformed())?;
            trailers.append(name, value);
        }
        Ok(trailers)
    }
}

/// The line before a chunk's data.
pub(crate) fn write_size(out: &mut Vec<u8>, size: usize) {
    // Into memory, which takes everything.
    let _ = write!(out, "{size:x}\r\n");
}

/// The last chunk, with the trailers that there are.
pub(crate) fn write_end(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What comes of bytes that arrive in these pieces: data, trailers, and what is left.
    fn read(text: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Option<HeaderMap>, usize), String> {
        let (mut chunked, mut data, mut found) = (Chunked::new(), Vec::new(), None);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        for piece in cuts.windows(2) {
            let mut front = Bytes::copy_from_slice(&text[piece[0]..piece[1]]);
            loop {
                match chunked.next(&mut front).map_err(|error| error.to_string())? {
                    Step::Data(bytes) => data.extend_from_slice(&bytes),
                    Step::Trailers(trailers) => found = Some(trailers),
                    Step::End => return Ok((data, found, text.len() - piece[1] + front.len())),
                    Step::More => break,
                }
            }
        }
        Err("it did not end".to_owned())
    }

    #[test]
    fn extensions_and_trailers_are_read_and_what_follows_is_left() {
        let text = b"4;a=\"b\"\r\nwiki\r\nA \r\n0123456789\r\n0\r\nx-sum: 1\r\n\r\nHTTP";
        let (data, trailers, left) = read(text, &[]).expect("well formed");
        assert_eq!((data.as_slice(), left), (&b"wiki0123456789"[..], 4));
        assert_eq!(trailers.expect("trailers")["x-sum"], "1");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1;a\na\r\n",
            "11111111111111111\r\n",
            "1\r\na\r0\r\n",
            "0\r\nx: y\n\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert!(read(text.as_bytes(), &[]).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_of_what_was_written_reads_the_same(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(0usize..400, 0..20), with_trailers in any::<bool>(),
        ) {
            let mut text = Vec::new();
            for piece in &pieces {
                write_size(&mut text, piece.len());
                text.extend_from_slice(piece);
                text.extend_from_slice(b"\r\n");
            }
            let name = HeaderName::from_static("x-sum");
            let trailers = HeaderMap::from_iter([(name, HeaderValue::from_static("1"))]);
            let trailers = with_trailers.then_some(trailers);
            write_end(&mut text, trailers.as_ref());
            text.extend_from_slice(b"next");
            prop_assert_eq!(read(&text, &cuts), Ok((pieces.concat(), trailers, 4)));
        }

        #[test]
        fn nothing_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(0usize..200, 0..9)) {
            let _ = read(&text, &cuts);
        }
    }
}
