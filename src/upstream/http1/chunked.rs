//! Chunked transfer coding (RFC 9112, 7.1): an incremental decoder, and the encoder.
//!
//! The decoder is strict about framing: a chunk size is hexadecimal digits and nothing else, and
//! each line ends in CRLF. Extensions have no control characters. Lenient readers make response smuggling possible.

use std::io::Write;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::exchange::ExchangeError;

/// Longest chunk-size line with its extensions, and longest trailer section.
const MAX_LINE: usize = 16 * 1024;
const MAX_TRAILERS: usize = 64;

/// The state between two pieces of input.
#[derive(Debug)]
pub(crate) struct ChunkedDecoder {
    state: ChunkedState,
    /// Bytes of the current chunk-size line.
    line: usize,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkedState {
    Size {
        size: u64,
        digits: u32,
    },
    /// White space behind the size.
    SizeSpace(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    Trailers,
    End,
}

/// The result of decoding a piece of input.
#[derive(Debug)]
pub(crate) enum ChunkedPart {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// The piece is used up and the body has not ended.
    More,
}

impl ChunkedDecoder {
    pub(crate) fn new() -> Self {
        ChunkedDecoder {
            state: ChunkedState::Size { size: 0, digits: 0 },
            line: 0,
            trailers: Vec::new(),
        }
    }

    /// Decodes the next part from the start of `front`.
    pub(crate) fn next(&mut self, front: &mut Bytes) -> Result<ChunkedPart, ExchangeError> {
        loop {
            match self.state {
                ChunkedState::End => return Ok(ChunkedPart::End),
                _ if front.is_empty() => return Ok(ChunkedPart::More),
                ChunkedState::Data(left) => {
                    let size = usize::try_from(left).map_or(front.len(), |n| n.min(front.len()));
                    let data = front.split_to(size);
                    let left = left - size as u64;
                    self.state =
                        if left == 0 { ChunkedState::DataCr } else { ChunkedState::Data(left) };
                    return Ok(ChunkedPart::Data(data));
                }
                ChunkedState::Trailers => {
                    if let Some(trailers) = self.trailers(front)? {
                        self.state = ChunkedState::End;
                        return Ok(trailers.map_or(ChunkedPart::End, ChunkedPart::Trailers));
                    }
                }
                at => {
                    let byte = front[0];
                    front.advance(1);
                    self.state = self.after(at, byte)?;
                }
            }
        }
    }

    /// The state after one byte of framing.
    fn after(&mut self, at: ChunkedState, byte: u8) -> Result<ChunkedState, ExchangeError> {
        self.line += 1;
        if self.line > MAX_LINE {
            return Err(ExchangeError::TooLarge("a chunk-size line"));
        }
        let malformed = Err(ExchangeError::Malformed("a chunk size"));
        Ok(match (at, byte) {
            (ChunkedState::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                if digits == 16 {
                    return malformed;
                }
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                ChunkedState::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (ChunkedState::Size { digits: 0, .. }, _) => return malformed,
            (
                ChunkedState::Size { size, .. }
                | ChunkedState::SizeSpace(size)
                | ChunkedState::Extension(size),
                b'\r',
            ) => ChunkedState::SizeLf(size),
            (ChunkedState::Size { size, .. } | ChunkedState::SizeSpace(size), b' ' | b'\t') => {
                ChunkedState::SizeSpace(size)
            }
            (ChunkedState::Size { size, .. } | ChunkedState::SizeSpace(size), b';') => {
                ChunkedState::Extension(size)
            }
            (ChunkedState::Extension(size), b'\t') => ChunkedState::Extension(size),
            (ChunkedState::Extension(size), byte) if !byte.is_ascii_control() => {
                ChunkedState::Extension(size)
            }
            (ChunkedState::SizeLf(0), b'\n') => ChunkedState::Trailers,
            (ChunkedState::SizeLf(size), b'\n') => ChunkedState::Data(size),
            (ChunkedState::DataCr, b'\r') => ChunkedState::DataLf,
            (ChunkedState::DataLf, b'\n') => {
                self.line = 0;
                ChunkedState::Size { size: 0, digits: 0 }
            }
            _ => return malformed,
        })
    }

    /// Collects the trailer section. Returns the trailers, if there are any, after its empty line.
    fn trailers(&mut self, front: &mut Bytes) -> Result<Option<Option<HeaderMap>>, ExchangeError> {
        while front.has_remaining() {
            self.trailers.push(front.get_u8());
            if self.trailers == b"\r\n" {
                return Ok(Some(None));
            }
            if self.trailers.ends_with(b"\r\n\r\n") {
                return self.parse_trailers().map(|trailers| Some(Some(trailers)));
            }
            if self.trailers.len() > MAX_LINE {
                return Err(ExchangeError::TooLarge("the trailers"));
            }
        }
        Ok(None)
    }

    fn parse_trailers(&self) -> Result<HeaderMap, ExchangeError> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_TRAILERS];
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

/// Writes the line before the data of a chunk.
pub(crate) fn write_size(out: &mut Vec<u8>, size: usize) {
    // Writing to memory cannot fail.
    let _ = write!(out, "{size:x}\r\n");
}

/// Writes the last chunk and the trailers.
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

    /// Decodes a text that arrives in pieces: the data, the trailers and the bytes left over.
    fn read(text: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Option<HeaderMap>, usize), String> {
        let (mut chunked, mut data, mut found) = (ChunkedDecoder::new(), Vec::new(), None);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        for piece in cuts.windows(2) {
            let mut front = Bytes::copy_from_slice(&text[piece[0]..piece[1]]);
            loop {
                match chunked.next(&mut front).map_err(|error| error.to_string())? {
                    ChunkedPart::Data(bytes) => data.extend_from_slice(&bytes),
                    ChunkedPart::Trailers(trailers) => found = Some(trailers),
                    ChunkedPart::End => {
                        return Ok((data, found, text.len() - piece[1] + front.len()));
                    }
                    ChunkedPart::More => break,
                }
            }
        }
        Err("it did not end".to_owned())
    }

    #[test]
    fn extensions_and_trailers_are_read_and_the_following_bytes_are_left() {
        let text = b"4;a=\"b\"\r\nwiki\r\nA \r\n0123456789\r\n0\r\nx-sum: 1\r\n\r\nHTTP";
        let (data, trailers, left) = read(text, &[]).expect("well formed");
        assert_eq!((data.as_slice(), left), (&b"wiki0123456789"[..], 4));
        assert_eq!(trailers.expect("trailers")["x-sum"], "1");
    }

    #[test]
    fn malformed_framing_is_rejected() {
        for text in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1;a\na\r\n",
            "1;a\0\r\na\r\n",
            "1;a\x7f\r\na\r\n",
            "1 1\r\na\r\n",
            "1 a\r\na\r\n",
            "11111111111111111\r\n",
            "1\r\na\r0\r\n",
            "0\r\nx: y\n\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert!(read(text.as_bytes(), &[]).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn an_encoded_body_decodes_the_same_however_it_is_split(
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
        fn no_input_causes_a_panic(text in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(0usize..200, 0..9)) {
            let _ = read(&text, &cuts);
        }
    }
}
