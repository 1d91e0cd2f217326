//! Chat streams for `tests/drill streams`: a provider, and a client that verifies the streams.
//!
//! `provide` responds to each POST like an LLM: first an event with only the role, then frames of
//! about 200 bytes at an interval, then the finish and `[DONE]`, each in its own chunk and write.
//! `take` opens many streams, each on its own connection and with evenly spread starts, and checks
//! every byte that an application would read: each frame belongs to its stream, is complete and
//! follows its predecessor.
//!
//! A frame contains the time between the end of the request and its own write. The time to first
//! content is measured without it, so that it shows the delay between provider and client alone.
//! Each side has one thread, so that a drill can pin it to a core. `take` prints one line of JSON.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::io;
use std::str;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
                    transfer-encoding: chunked\r\n\r\n";
const DONE: &str = "[DONE]";
/// A stream that takes so much longer than expected counts as incomplete.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Parser)]
enum Command {
    /// Run the provider on this port of the loopback address
    Provide {
        port: u16,
        #[command(flatten)]
        shape: StreamShape,
    },
    /// Read streams from this port of the loopback address, and print a report
    Take {
        port: u16,
        #[arg(long, default_value_t = 512)]
        streams: usize,
        /// Milliseconds between the first start and the last
        #[arg(long, default_value_t = 10_000)]
        spread: u64,
        #[command(flatten)]
        shape: StreamShape,
    },
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct StreamShape {
    /// Frames with content in each stream
    #[arg(long, default_value_t = 200)]
    frames: usize,
    /// Milliseconds between two frames
    #[arg(long, default_value_t = 60)]
    every: u64,
}

/// The result of one stream.
#[derive(Debug, Default)]
struct StreamResult {
    stream: usize,
    /// Which frames arrived.
    frames: Vec<bool>,
    reordered: usize,
    /// Time to the first content, without the provider's own delay.
    first: Option<Duration>,
    is_finished: bool,
    is_done: bool,
    /// It contained something unexpected.
    is_corrupt: bool,
    /// The response ended with its last chunk.
    is_closed: bool,
}

fn main() -> io::Result<()> {
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Provide { port, shape } => provide(port, shape).await,
            Command::Take { port, streams, spread, shape } => {
                take_all(port, streams, Duration::from_millis(spread), shape).await
            }
        }
    })
}

// === events ===

fn chunk_of(stream: usize, after: Duration, delta: &str, finish: &str) -> String {
    let after = after.as_micros();
    format!(
        r#"{{"id":"chatcmpl-{stream:05}","object":"chat.completion.chunk","after_us":"{after:09}","model":"gpt-4o","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#
    )
}

fn role(stream: usize) -> String {
    chunk_of(stream, Duration::ZERO, r#"{"role":"assistant","content":""}"#, "null")
}

fn frame(stream: usize, number: usize, after: Duration) -> String {
    let delta = format!(r#"{{"content":"frame {number:05}, and some words"}}"#);
    chunk_of(stream, after, &delta, "null")
}

fn finish(stream: usize) -> String {
    chunk_of(stream, Duration::ZERO, "{}", r#""stop""#)
}

/// Parses the digits that follow the prefix.
fn number_after(text: &str, prefix: &str) -> Option<u64> {
    let rest = &text[text.find(prefix)? + prefix.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

// === the provider ===

async fn provide(port: u16, shape: StreamShape) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (connection, _) = listener.accept().await?;
        // A client that disconnects ends its stream.
        tokio::spawn(serve(connection, shape));
    }
}

async fn serve(mut connection: TcpStream, shape: StreamShape) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut read = BytesMut::new();
    while let Some(request) = request(&mut connection, &mut read).await? {
        let start = tokio::time::Instant::now();
        let stream = number_after(&request, r#""user":""#).ok_or(io::ErrorKind::InvalidData)?;
        let stream = stream as usize;
        connection.write_all(format!("{HEAD}{}", chunked(&role(stream))).as_bytes()).await?;
        for number in 0..shape.frames {
            let due = Duration::from_millis(shape.every) * (number + 1) as u32;
            tokio::time::sleep_until(start + due).await;
            let frame = frame(stream, number, start.elapsed());
            connection.write_all(chunked(&frame).as_bytes()).await?;
        }
        connection.write_all(chunked(&finish(stream)).as_bytes()).await?;
        connection.write_all(format!("{}0\r\n\r\n", chunked(DONE)).as_bytes()).await?;
    }
    Ok(())
}

fn chunked(data: &str) -> String {
    format!("{:x}\r\ndata: {data}\n\n\r\n", "data: \n\n".len() + data.len())
}

/// Reads the next request, head and body; `None` when the connection ends.
async fn request(connection: &mut TcpStream, read: &mut BytesMut) -> io::Result<Option<String>> {
    loop {
        let text = String::from_utf8_lossy(read);
        if let Some(end) = text.find("\r\n\r\n") {
            let length = number_after(&text[..end + 2].to_ascii_lowercase(), "content-length: ");
            let size = end + 4 + length.unwrap_or(0) as usize;
            if read.len() >= size {
                return Ok(Some(String::from_utf8_lossy(&read.split_to(size)).into_owned()));
            }
        }
        if connection.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}

// === the application ===

async fn take_all(
    port: u16,
    streams: usize,
    spread: Duration,
    shape: StreamShape,
) -> io::Result<()> {
    let (start, open) = (tokio::time::Instant::now(), Arc::new(AtomicUsize::new(0)));
    let whole = spread + Duration::from_millis(shape.every) * shape.frames as u32;
    let mut tasks = JoinSet::new();
    for stream in 0..streams {
        let (open, delay) = (Arc::clone(&open), spread * stream as u32 / streams as u32);
        let frames = vec![false; shape.frames];
        let mut result = StreamResult { stream, frames, ..StreamResult::default() };
        tasks.spawn(async move {
            tokio::time::sleep_until(start + delay).await;
            let now_open = open.fetch_add(1, Ordering::Relaxed) + 1;
            let deadline = start + whole + PATIENCE;
            // An error shows as missing frames.
            let _ = tokio::time::timeout_at(deadline, result.read(port)).await;
            open.fetch_sub(1, Ordering::Relaxed);
            (result, now_open)
        });
    }
    let (results, open): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().unzip();
    let mut first: Vec<_> = results.iter().filter_map(|result| result.first).collect();
    first.sort();
    let sum = |count: fn(&StreamResult) -> usize| results.iter().map(count).sum::<usize>();
    let report = serde_json::json!({
        "streams": streams,
        "whole": sum(|result| usize::from(result.is_complete())),
        "open": open.into_iter().max(),
        "frames": sum(|result| result.frames.iter().filter(|arrived| **arrived).count()),
        "lost": sum(|result| result.frames.iter().filter(|arrived| !**arrived).count()),
        "reordered": sum(|result| result.reordered),
        "ttft_p50_ms": percentile(&first, 0.50),
        "ttft_p99_ms": percentile(&first, 0.99),
        "seconds": start.elapsed().as_secs_f64(),
    });
    println!("{report}");
    Ok(())
}

/// A percentile in milliseconds; `None` without values.
fn percentile(sorted: &[Duration], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map(|took| took.as_secs_f64() * 1e3)
}

impl StreamResult {
    fn is_complete(&self) -> bool {
        let has_ended = self.is_finished && self.is_done && self.is_closed;
        let has_all = self.frames.iter().all(|arrived| *arrived);
        has_ended && has_all && !self.is_corrupt && self.reordered == 0
    }

    async fn read(&mut self, port: u16) -> io::Result<()> {
        let start = Instant::now();
        let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
        connection.set_nodelay(true)?;
        let body = format!(
            r#"{{"model":"gpt-4o","stream":true,"user":"{:05}","messages":[{{"role":"user","content":"Tell me of the sea."}}]}}"#,
            self.stream
        );
        let head =
            "POST /v1/chat/completions HTTP/1.1\r\nhost: drill\r\ncontent-type: application/json";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        connection.write_all(request.as_bytes()).await?;
        let (mut read, mut text, mut is_in_body) = (BytesMut::new(), BytesMut::new(), false);
        while !self.is_closed {
            if connection.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
            if !is_in_body {
                let Some(end) = find(&read, b"\r\n\r\n") else { continue };
                self.is_corrupt |= !read.starts_with(b"HTTP/1.1 200 ");
                read.advance(end + 4);
                is_in_body = true;
            }
            self.is_closed = unchunk(&mut read, &mut text)?;
            while let Some(end) = find(&text, b"\n\n") {
                let event = text.split_to(end + 2);
                self.event(str::from_utf8(&event[..end]).unwrap_or_default(), start.elapsed());
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &str, took: Duration) {
        match event.strip_prefix("data: ") {
            Some(DONE) => self.is_done = self.is_finished,
            Some(data) if data == role(self.stream) => {}
            Some(data) if data == finish(self.stream) => self.is_finished = true,
            Some(data) => self.frame(data, took),
            None => self.is_corrupt = true,
        }
    }

    fn frame(&mut self, data: &str, took: Duration) {
        let number = number_after(data, r#""content":"frame "#).unwrap_or(u64::MAX) as usize;
        let after = Duration::from_micros(number_after(data, r#""after_us":""#).unwrap_or(0));
        if number >= self.frames.len() || data != frame(self.stream, number, after) {
            self.is_corrupt = true;
            return;
        }
        // It arrived twice, or after a later frame.
        self.reordered += usize::from(self.frames[number..].contains(&true));
        self.frames[number] = true;
        self.first.get_or_insert(took.saturating_sub(after));
    }
}

/// Decodes complete chunks from `read` to `text`. True after the last chunk.
fn unchunk(read: &mut BytesMut, text: &mut BytesMut) -> io::Result<bool> {
    while let Some(end) = find(read, b"\r\n") {
        let size =
            str::from_utf8(&read[..end]).ok().and_then(|s| usize::from_str_radix(s, 16).ok());
        let size = size.ok_or(io::ErrorKind::InvalidData)?;
        if read.len() < end + 2 + size + 2 {
            break;
        }
        text.extend_from_slice(&read[end + 2..][..size]);
        read.advance(end + 2 + size + 2);
        if size == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}
