//! CONNECT: a tunnel through a forward proxy (RFC 9110, 9.3.6).
//!
//! Only the head of the proxy's response is read, up to 8 KiB. No byte may follow it, because
//! neither TLS nor HTTP servers speak first.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::io::SharedSocket;
use crate::policy::sections::model::{ForwardProxy, Url};

const MAX_HEAD: usize = 8 * 1024;

/// Why there is no tunnel.
#[derive(Debug)]
pub(crate) enum ProxyConnectError {
    Status(u16),
    Malformed(&'static str),
    Io(io::Error),
}

impl From<io::Error> for ProxyConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(crate) async fn connect(
    wire: &mut SharedSocket,
    proxy: &ForwardProxy,
    to: &Url,
) -> Result<(), ProxyConnectError> {
    wire.write_all(&request(proxy, to)).await?;
    let mut head = Vec::with_capacity(512);
    loop {
        if wire.read_buf(&mut head).await? == 0 {
            return Err(ProxyConnectError::Malformed(
                "it closed the connection without a response",
            ));
        }
        if let Some(end) = head_end(&head) {
            return check_response(&head, end);
        }
        if head.len() > MAX_HEAD {
            return Err(ProxyConnectError::Malformed("the head of its response is over 8 KiB"));
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

fn head_end(head: &[u8]) -> Option<usize> {
    head.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn check_response(head: &[u8], end: usize) -> Result<(), ProxyConnectError> {
    match status(head) {
        Some(200..=299) if end == head.len() => Ok(()),
        Some(200..=299) => {
            Err(ProxyConnectError::Malformed("bytes follow the head of its response"))
        }
        Some(status) => Err(ProxyConnectError::Status(status)),
        None => Err(ProxyConnectError::Malformed("its response is not HTTP/1")),
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
    fn only_an_http_1_status_line_is_accepted() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407\r\n\r\n"), Some(407));
        assert_eq!(status(b"HTTP/1.1 +20 OK\r\n\r\n"), None);
        assert_eq!(status(b"HTTP/1.1 2000 OK\r\n\r\n"), None);
        assert_eq!(status(b"SSH-2.0-OpenSSH\r\n\r\n"), None);
    }

    #[test]
    fn a_byte_behind_the_head_is_rejected() {
        let head = b"HTTP/1.1 200 OK\r\n\r\n!";
        let end = head_end(head).expect("a head");
        assert!(matches!(check_response(head, end), Err(ProxyConnectError::Malformed(_))));
    }
}
