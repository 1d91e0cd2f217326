//! CONNECT: a way through a forward proxy (RFC 9110, 9.3.6).
//!
//! The answer's head is all that is read, within 8 KiB. Nothing may follow it: the provider
//! speaks only when it is spoken to, and a byte that came early is not what we would take it for.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::io::Wire;
use crate::policy::sections::model::{ForwardProxy, Url};

const HEAD_MAX: usize = 8 * 1024;

/// Why the proxy gave no way through.
#[derive(Debug)]
pub(crate) enum Refusal {
    Status(u16),
    Malformed(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(crate) async fn connect(
    wire: &mut Wire,
    proxy: &ForwardProxy,
    to: &Url,
) -> Result<(), Refusal> {
    wire.write_all(&request(proxy, to)).await?;
    let mut head = Vec::with_capacity(512);
    loop {
        if wire.read_buf(&mut head).await? == 0 {
            return Err(Refusal::Malformed("it closed the connection without an answer"));
        }
        if let Some(end) = end_of(&head) {
            return judge(&head, end);
        }
        if head.len() > HEAD_MAX {
            return Err(Refusal::Malformed("the head of its answer is over 8 KiB"));
        }
    }
}

fn request(proxy: &ForwardProxy, to: &Url) -> Vec<u8> {
    let host = if to.host.contains(':') { format!("[{}]", to.host) } else { to.host.clone() };
    let authority = format!("{host}:{}", to.port);
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request
}

fn end_of(head: &[u8]) -> Option<usize> {
    head.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn judge(head: &[u8], end: usize) -> Result<(), Refusal> {
    match status(head) {
        Some(200..=299) if end == head.len() => Ok(()),
        Some(200..=299) => Err(Refusal::Malformed("bytes follow the head of its answer")),
        Some(status) => Err(Refusal::Status(status)),
        None => Err(Refusal::Malformed("its answer is not HTTP/1")),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, after) = rest.split_first_chunk::<3>()?;
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (digits.iter().all(u8::is_ascii_digit) && matches!(after.first(), Some(b' ' | b'\r')))
        .then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_status_line_of_http_1_is_read() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407\r\n\r\n"), Some(407));
        assert_eq!(status(b"HTTP/1.1 +20 OK\r\n\r\n"), None);
        assert_eq!(status(b"HTTP/1.1 2000 OK\r\n\r\n"), None);
        assert_eq!(status(b"SSH-2.0-OpenSSH\r\n\r\n"), None);
    }

    #[test]
    fn a_byte_behind_the_head_is_refused() {
        let head = b"HTTP/1.1 200 OK\r\n\r\n!";
        let end = end_of(head).expect("a head");
        assert!(matches!(judge(head, end), Err(Refusal::Malformed(_))));
    }
}
