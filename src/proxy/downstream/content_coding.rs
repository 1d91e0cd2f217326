//! Decoding of a request body with a `Content-Encoding`, so that the policy can read and rewrite it.
//!
//! The body is decoded into memory, at most to the size that the route keeps: a few kilobytes can
//! decode to gigabytes. Two codings on top of each other are not decoded, because the first could
//! expand without bound while the second yields nothing. The decoder runs on the request's worker and
//! lets other requests run in between.

use std::io::{ErrorKind, Read};

use brotli_decompressor::Decompressor as BrotliDecoder;
use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::header::{CONTENT_ENCODING, HeaderMap};
use ruzstd::decoding::StreamingDecoder as ZstdDecoder;

use crate::live::buffers::Reservation;

/// Decoded before other requests may run.
const TURN: usize = 256 << 10;
const PIECE: usize = 64 << 10;
/// The largest window of the coding `zstd` (RFC 9659).
const ZSTD_WINDOW: u64 = 8 << 20;

/// Why the content of a body is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecodable {
    /// Not one of the codings of [`ContentCoding`], or more than one.
    UnknownCoding,
    /// The body was not kept whole, or is not to be read.
    NotKept,
    Malformed,
    TooLarge,
}

impl Undecodable {
    pub fn explain(self) -> &'static str {
        match self {
            Undecodable::UnknownCoding => {
                "its `Content-Encoding` is none of gzip, deflate, br and zstd: send it without one"
            }
            Undecodable::NotKept => {
                "it has a `Content-Encoding` and was not kept whole: send it without one, or raise \
                 the route's `replay`"
            }
            Undecodable::Malformed => "it cannot be decoded by its `Content-Encoding`",
            Undecodable::TooLarge => {
                "it is larger than the route's `replay` without its `Content-Encoding`, or \
                 `server.buffered` is full"
            }
        }
    }
}

/// A coding that can be decoded (RFC 9110, 8.4.1; RFC 7932; RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl ContentCoding {
    /// The only coding of a body.
    pub fn of(headers: &HeaderMap) -> Option<ContentCoding> {
        let lines = headers.get_all(CONTENT_ENCODING).iter().map(|line| line.as_bytes());
        let codings = lines.flat_map(|line| line.split(|b| *b == b',')).map(<[u8]>::trim_ascii);
        let mut codings = codings
            .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"));
        let (first, None) = (codings.next()?, codings.next()) else { return None };
        let named = |name: &[u8]| first.eq_ignore_ascii_case(name);
        match () {
            () if named(b"gzip") || named(b"x-gzip") => Some(ContentCoding::Gzip),
            () if named(b"deflate") => Some(ContentCoding::Deflate),
            () if named(b"br") => Some(ContentCoding::Brotli),
            () if named(b"zstd") => Some(ContentCoding::Zstd),
            () => None,
        }
    }

    /// Decodes a body to at most `limit` bytes, which count as buffered.
    ///
    /// # Errors
    /// When the body is malformed, or decodes to more.
    pub async fn decode(
        self,
        body: Bytes,
        limit: u64,
        room: &mut Reservation,
    ) -> Result<Bytes, Undecodable> {
        let input = body.as_ref();
        match self {
            ContentCoding::Gzip => read(MultiGzDecoder::new(input), limit, room).await,
            ContentCoding::Deflate if is_zlib(input) => {
                read(ZlibDecoder::new(input), limit, room).await
            }
            // Some clients send it without the wrapper of zlib (RFC 9110, 8.4.1.2).
            ContentCoding::Deflate => read(DeflateDecoder::new(input), limit, room).await,
            ContentCoding::Brotli => read(BrotliDecoder::new(input, PIECE), limit, room).await,
            ContentCoding::Zstd => {
                let decoder = ZstdDecoder::new_with_max_window_size(input, ZSTD_WINDOW);
                let decoder = decoder.map_err(|_| Undecodable::Malformed)?;
                read(decoder, limit, room).await
            }
        }
    }
}

/// The header of zlib's format (RFC 1950, 2.2).
fn is_zlib(body: &[u8]) -> bool {
    let [method, flags, ..] = body else { return false };
    method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31)
}

async fn read(
    mut decoder: impl Read,
    limit: u64,
    room: &mut Reservation,
) -> Result<Bytes, Undecodable> {
    let (mut content, mut turn) = (Vec::new(), 0);
    loop {
        let start = content.len();
        content.resize(start + PIECE, 0);
        let read = match decoder.read(&mut content[start..]) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(_) => return Err(Undecodable::Malformed),
        };
        content.truncate(start + read);
        if read == 0 {
            content.shrink_to_fit();
            return Ok(content.into());
        }
        if content.len() as u64 > limit || !room.grow(read as u64) {
            return Err(Undecodable::TooLarge);
        }
        turn += read;
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::live::buffers::Buffers;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use http::HeaderValue;

    fn decode(coding: ContentCoding, body: &[u8], limit: u64) -> Result<Bytes, Undecodable> {
        let buffers = Arc::new(Buffers::new(1 << 30, Default::default()));
        let mut room = buffers.reservation();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let body = Bytes::copy_from_slice(body);
        let content = runtime.block_on(coding.decode(body, limit, &mut room));
        if let Ok(content) = &content {
            assert_eq!(room.bytes(), content.len() as u64);
        }
        content
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn a_small_body_that_decodes_to_a_large_one_is_refused() {
        let content = vec![b'x'; 4 << 20];
        let bomb = gzip(&content);
        assert!(bomb.len() < 8 << 10);
        assert_eq!(decode(ContentCoding::Gzip, &bomb, 1 << 20), Err(Undecodable::TooLarge));
        assert_eq!(decode(ContentCoding::Gzip, &bomb, 4 << 20).expect("content"), content);
    }

    #[test]
    fn each_coding_is_decoded_and_a_cut_or_foreign_body_is_malformed() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(b"hello").expect("memory");
        let zlib = zlib.finish().expect("memory");
        let two_members = [gzip(b"hel"), gzip(b"lo")].concat();
        let brotli = b"\x0b\x02\x80hello\x03";
        let zstd = b"\x28\xb5\x2f\xfd\x20\x05\x29\0\0hello";
        for (coding, body) in [
            (ContentCoding::Gzip, &*gzip(b"hello")),
            (ContentCoding::Gzip, &two_members),
            (ContentCoding::Deflate, &zlib),
            (ContentCoding::Deflate, &zlib[2..zlib.len() - 4]),
            (ContentCoding::Brotli, brotli),
            (ContentCoding::Zstd, zstd),
        ] {
            assert_eq!(decode(coding, body, 5).expect("content"), "hello", "{coding:?}");
            assert_eq!(decode(coding, body, 4), Err(Undecodable::TooLarge), "{coding:?}");
            let cut = decode(coding, &body[..body.len() - 2], 5);
            assert_eq!(cut, Err(Undecodable::Malformed), "{coding:?}");
            assert_eq!(decode(coding, b"{\"a\":1}", 99), Err(Undecodable::Malformed));
        }
    }

    #[test]
    fn only_one_coding_is_decoded() {
        for (value, expected) in [
            ("gzip", Some(ContentCoding::Gzip)),
            ("X-GZIP", Some(ContentCoding::Gzip)),
            ("identity, br", Some(ContentCoding::Brotli)),
            ("zstd,", Some(ContentCoding::Zstd)),
            ("gzip, gzip", None),
            ("compress", None),
            ("identity", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(ContentCoding::of(&headers), expected, "{value}");
        }
    }
}
