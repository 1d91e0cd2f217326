//! A minimal client of Redis: one command, one reply (RESP 2).
//!
//! It does not use the crate of the sidecar, so that the tests do not share its bugs.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::PATIENCE;

#[derive(Debug)]
pub struct RespClient {
    stream: BufReader<UnixStream>,
}

/// A reply of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Text(String),
    Error(String),
    Number(i64),
    Bytes(Vec<u8>),
    Nil,
    List(Vec<Reply>),
}

// === impl RespClient ===

impl RespClient {
    pub fn by_socket(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The reply to a command; panics when none comes.
    #[track_caller]
    pub fn execute(&mut self, command: &[&str]) -> Reply {
        let reply = self.try_execute(command);
        reply.unwrap_or_else(|error| panic!("no reply to {command:?}: {error}"))
    }

    pub fn try_execute(&mut self, command: &[&str]) -> io::Result<Reply> {
        self.try_execute_bytes(&command.iter().map(|part| part.as_bytes()).collect::<Vec<_>>())
    }

    pub fn try_execute_bytes(&mut self, command: &[&[u8]]) -> io::Result<Reply> {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&bytes)?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at(1.min(line.len()));
        Ok(match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Number(number(rest)?),
            "$" => match number(rest)? {
                length if length < 0 => Reply::Nil,
                length => Reply::Bytes(self.bytes(length)?),
            },
            "*" => match number(rest)? {
                length if length < 0 => Reply::Nil,
                length => Reply::List((0..length).map(|_| self.reply()).collect::<Result<_, _>>()?),
            },
            _ => return Err(strange(&line)),
        })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn bytes(&mut self, length: i64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }
}

// === impl Reply ===

impl Reply {
    /// The text of a reply that is text, bytes or a number.
    #[track_caller]
    pub fn text(&self) -> String {
        match self {
            Reply::Text(text) | Reply::Error(text) => text.clone(),
            Reply::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Reply::Number(number) => number.to_string(),
            other => panic!("expected a text, found {other:?}"),
        }
    }

    #[track_caller]
    pub fn items(&self) -> &[Reply] {
        match self {
            Reply::List(items) => items,
            other => panic!("expected a list, found {other:?}"),
        }
    }

    /// The value after this name in a list of names and values.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<String> {
        let mut pairs = self.items().chunks_exact(2);
        pairs.find(|pair| pair[0].text() == name).map(|pair| pair[1].text())
    }
}

fn number(text: &str) -> io::Result<i64> {
    text.parse().map_err(|_| strange(text))
}

fn strange(line: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("no reply of redis: `{line}`"))
}
