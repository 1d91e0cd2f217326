//! Minimal HTTP/1.1 framing over bytes already read.
//!
//! Shared by the origin (which reads requests) and the client (which reads responses). It does
//! not use the sidecar's own parser, so that the tests judge its output independently.

/// Header fields as received: order, case and repetition are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of `name`, ignoring case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        let named = self.0.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn is_chunked(&self) -> bool {
        self.all("transfer-encoding").any(|v| v.to_ascii_lowercase().ends_with("chunked"))
    }

    fn length(&self) -> Option<usize> {
        self.get("content-length")?.parse().ok()
    }
}

/// The start line and header fields of a message, and their length in bytes.
#[derive(Clone, Debug)]
pub struct Head {
    pub start: String,
    pub headers: Headers,
    pub len: usize,
}

/// How the end of a body is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    ToClose,
}

/// Parses a head; `None` while its blank line is missing.
pub fn head(bytes: &[u8]) -> Option<Head> {
    let end = find(bytes, b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let fields = lines.map(|line| match line.split_once(':') {
        Some((name, value)) => (name.to_owned(), value.trim().to_owned()),
        None => (line.to_owned(), String::new()),
    });
    Some(Head { start, headers: Headers(fields.collect()), len: end + 4 })
}

/// Parses one chunk: its content (empty for the last one, whose trailers are skipped) and the bytes
/// used. `None` while it is incomplete.
pub fn chunk(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let line = find(bytes, b"\r\n")?;
    let text = std::str::from_utf8(&bytes[..line]).expect("a chunk's size is text");
    let digits = text.split(';').next().unwrap_or_default().trim();
    let size = usize::from_str_radix(digits, 16)
        .unwrap_or_else(|_| panic!("expected a chunk's size, found `{text}`"));
    let start = line + 2;
    if size == 0 {
        let trailers = find(&bytes[line..], b"\r\n\r\n")?;
        return Some((&[], line + trailers + 4));
    }
    let end = start + size;
    (bytes.len() >= end + 2).then(|| (&bytes[start..end], end + 2))
}

impl Framing {
    pub fn of_request(headers: &Headers) -> Self {
        if headers.is_chunked() {
            return Framing::Chunked;
        }
        Framing::Length(headers.length().unwrap_or(0))
    }

    /// RFC 9112, section 6.3.
    pub fn of_response(method: &str, status: u16, headers: &Headers) -> Self {
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Framing::Length(0);
        }
        if headers.is_chunked() {
            return Framing::Chunked;
        }
        headers.length().map_or(Framing::ToClose, Framing::Length)
    }
}

pub fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
