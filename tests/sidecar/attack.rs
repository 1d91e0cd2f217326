//! The tables of `tests/drill attack` against a sidecar: raw requests, and responses of a hostile
//! provider. A case fails if its outcome is neither a pass nor a warning in its table.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::fixtures::{policy, route};
use crate::support::message::find;
use crate::support::{Behaviour, Origin, PATIENCE, Sidecar};

const REQUESTS: &str = include_str!("../drills/cases/requests.txt");
const RESPONSES: &str = include_str!("../drills/cases/responses.txt");
/// A connection on which nothing arrives for this long is waiting.
const QUIET: Duration = Duration::from_millis(700);
const THREADS: usize = 12;

struct Case {
    name: &'static str,
    allowed: Vec<&'static str>,
    bytes: Vec<u8>,
}

fn cases(table: &'static str) -> Vec<Case> {
    let lines = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut fields =
                line.splitn(4, '|').map(|field| field.strip_prefix(' ').unwrap_or(field));
            let mut next = || fields.next().unwrap_or_else(|| panic!("four fields in `{line}`"));
            let (name, pass, warn) = (next().trim(), next(), next());
            let allowed = pass.split_whitespace().chain(warn.split_whitespace()).collect();
            Case { name, allowed, bytes: unescape(next()) }
        })
        .collect()
}

/// The bytes of a case: `~` is CRLF, escapes as in C, `{x*9}` repeats.
fn unescape(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        if let Some((repeated, after)) = repetition(rest) {
            out.extend(repeated);
            rest = after;
            continue;
        }
        rest = &rest[first.len_utf8()..];
        let byte = match first {
            '~' => {
                out.extend(b"\r\n");
                continue;
            }
            '\\' => {
                let escape = rest.chars().next().expect("an escape");
                rest = &rest[1..];
                match escape {
                    'r' => b'\r',
                    'n' => b'\n',
                    't' => b'\t',
                    '0' => 0,
                    'x' => {
                        let byte = u8::from_str_radix(&rest[..2], 16).expect("two digits");
                        rest = &rest[2..];
                        byte
                    }
                    other => other as u8,
                }
            }
            other => u8::try_from(other).expect("ASCII"),
        };
        out.push(byte);
    }
    out
}

fn repetition(text: &str) -> Option<(Vec<u8>, &str)> {
    let (inside, after) = text.strip_prefix('{')?.split_once('}')?;
    let (repeated, count) = inside.rsplit_once('*')?;
    Some((unescape(repeated).repeat(count.parse().ok()?), after))
}

/// Runs each case on one of several threads and returns the failures.
fn failures(cases: Vec<Case>, run: impl Fn(&Case) -> String + Sync) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failed = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = run(case);
            if !case.allowed.iter().any(|allowed| allows(allowed, &outcome)) {
                failed.push(format!("{}: {outcome}, not {:?}", case.name, case.allowed));
            }
        }
        failed
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// A status alone allows any body.
fn allows(allowed: &str, outcome: &str) -> bool {
    allowed == outcome
        || !allowed.contains(['=', '!']) && outcome.split('=').next() == Some(allowed)
}

/// A response as far as it was received.
struct Received {
    status: String,
    body: Vec<u8>,
    is_complete: bool,
}

/// Reads one response. `None` if the connection is quiet or closed before its head.
fn read_response(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    is_head: bool,
) -> Result<Received, &'static str> {
    let end = loop {
        match find(buffer, b"\r\n\r\n") {
            Some(at) => break at + 4,
            None => read_more(stream, buffer)?,
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
    buffer.drain(..end);
    let status = head[9..12].to_owned();
    let field =
        |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name).map(str::trim));
    let mut body = Vec::new();
    let has_no_body = is_head || status.starts_with('1') || status == "204" || status == "304";
    let is_complete = if has_no_body {
        true
    } else if let Some(length) = field("content-length:") {
        let length: usize = length.parse().expect("one length");
        take(stream, buffer, length, &mut body)
    } else if field("transfer-encoding:") == Some("chunked") {
        read_chunks(stream, buffer, &mut body)
    } else {
        while read_more(stream, buffer).is_ok() {}
        body.append(buffer);
        true
    };
    Ok(Received { status, body, is_complete })
}

fn take(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize, body: &mut Vec<u8>) -> bool {
    while buffer.len() < length {
        if read_more(stream, buffer).is_err() {
            return false;
        }
    }
    body.extend(buffer.drain(..length));
    true
}

fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>, body: &mut Vec<u8>) -> bool {
    loop {
        let Some(end) = find(buffer, b"\r\n") else {
            match read_more(stream, buffer) {
                Ok(()) => continue,
                Err(_) => return false,
            }
        };
        let line: Vec<u8> = buffer.drain(..end + 2).collect();
        let line = String::from_utf8_lossy(&line[..end]).into_owned();
        let size = usize::from_str_radix(&line, 16).expect("a chunk size");
        let mut data = Vec::new();
        if size == 0 {
            // The trailers, if there are any, end with an empty line.
            while !buffer.starts_with(b"\r\n") && find(buffer, b"\r\n\r\n").is_none() {
                if read_more(stream, buffer).is_err() {
                    return false;
                }
            }
            let end = if buffer.starts_with(b"\r\n") {
                2
            } else {
                find(buffer, b"\r\n\r\n").unwrap_or(0) + 4
            };
            buffer.drain(..end);
            return true;
        }
        if !take(stream, buffer, size + 2, &mut data) {
            return false;
        }
        body.extend(&data[..size]);
    }
}

fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut piece = [0; 64 * 1024];
    match stream.read(&mut piece) {
        Ok(0) => Err("close"),
        Ok(count) => {
            buffer.extend(&piece[..count]);
            Ok(())
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err("wait")
        }
        Err(_) => Err("close"),
    }
}

fn connect(sidecar: &Sidecar) -> TcpStream {
    let url = sidecar.url("");
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let stream = TcpStream::connect(host).expect("the sidecar can be connected to");
    stream.set_nodelay(true).expect("TCP_NODELAY can be set");
    stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout can be set");
    stream
}

/// The statuses of all responses to a case. A response without which no outcome is allowed may take
/// its time; the absence of any other is established soon.
fn statuses(sidecar: &Sidecar, case: &Case) -> String {
    let bytes = &case.bytes[..];
    let responses = |outcome: &&str| match *outcome {
        "wait" | "close" => 0,
        statuses => statuses.split('+').count(),
    };
    let may_wait = case.allowed.contains(&"wait");
    let least = case.allowed.iter().map(responses).min().unwrap_or_default();
    let mut stream = connect(sidecar);
    let _ = stream.write_all(bytes);
    let (mut buffer, mut statuses) = (Vec::new(), Vec::<String>::new());
    let is_head = bytes.starts_with(b"HEAD");
    loop {
        let is_awaited = statuses
            .last()
            .map_or(!may_wait, |last| last.starts_with('1') || statuses.len() < least);
        let patience = match is_awaited {
            true => PATIENCE,
            false if statuses.is_empty() => QUIET,
            false => QUIET / 7,
        };
        stream.set_read_timeout(Some(patience)).expect("a read timeout can be set");
        match read_response(&mut stream, &mut buffer, is_head) {
            Ok(response) => statuses.push(response.status),
            Err(end) if statuses.is_empty() => return end.to_owned(),
            Err(_) => return statuses.join("+"),
        }
    }
}

#[test]
fn each_raw_request_has_an_allowed_outcome() {
    let a = Origin::start(Behaviour::Chat);
    let rest = route("providers: [a]");
    let yaml = policy(&[("a", &a.url(), "breaker: none")], &rest);
    let sidecar = Sidecar::builder().policy("policy", &yaml).start();
    let cases = cases(REQUESTS);
    assert!(cases.len() >= 183, "{} cases", cases.len());
    let failed = failures(cases, |case| statuses(&sidecar, case));
    assert!(failed.is_empty(), "{} failures:\n{}", failed.len(), failed.join("\n"));
    for request in a.requests() {
        let frames = ["content-length", "transfer-encoding"].map(|name| request.headers.has(name));
        assert!(!request.path.starts_with("/smuggled") && frames != [true, true], "{request:?}");
        assert!(request.path.starts_with('/') || request.path == "*", "{request:?}");
    }
}

/// A provider that sends the bytes of a case to `/INDEX`, and its own path to any other target.
fn hostile_provider(cases: Arc<Vec<Vec<u8>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let cases = Arc::clone(&cases);
            thread::spawn(move || serve_hostile(stream, &cases));
        }
    });
    url
}

fn serve_hostile(mut stream: TcpStream, cases: &[Vec<u8>]) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout can be set");
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            match find(&buffer, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if read_more(&mut stream, &mut buffer).is_err() => return,
                None => {}
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let index = path.strip_prefix("/case/").and_then(|index| index.parse::<usize>().ok());
        let Some(index) = index else {
            let length = path.len();
            let good = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{path}");
            if stream.write_all(good.as_bytes()).is_err() {
                return;
            }
            continue;
        };
        let bytes = &cases[index];
        let (bytes, closes) = match bytes.strip_suffix(b"<close>") {
            Some(bytes) => (bytes, true),
            None => (&bytes[..], false),
        };
        if stream.write_all(bytes).is_err() || closes {
            return;
        }
    }
}

/// The client's view of a case, and of the request after it.
fn view(sidecar: &Sidecar, index: usize) -> String {
    let mut stream = connect(sidecar);
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout can be set");
    let mut buffer = Vec::new();
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    stream.write_all(request(&format!("/case/{index}")).as_bytes()).expect("written");
    let outcome = match read_response(&mut stream, &mut buffer, false) {
        Ok(response) if response.is_complete => {
            format!("{}={}", response.status, String::from_utf8_lossy(&response.body))
        }
        Ok(response) => format!("{}!", response.status),
        Err(end) => end.to_owned(),
    };
    let path = format!("/after/{index}");
    if outcome.ends_with('!')
        || stream.write_all(request(&path).as_bytes()).is_err()
        || !buffer.is_empty()
    {
        (stream, buffer) = (connect(sidecar), Vec::new());
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout can be set");
        stream.write_all(request(&path).as_bytes()).expect("written");
    }
    match read_response(&mut stream, &mut buffer, false) {
        Ok(response) if response.body == path.as_bytes() => outcome,
        Ok(response) => format!("{outcome}, then {}", String::from_utf8_lossy(&response.body)),
        Err(end) => format!("{outcome}, then {end}"),
    }
}

#[test]
fn each_hostile_response_has_an_allowed_outcome() {
    let cases = cases(RESPONSES);
    let url = hostile_provider(Arc::new(cases.iter().map(|case| case.bytes.clone()).collect()));
    let more = "breaker: none, timeouts: { idle: 300ms, headers: 500ms }";
    let yaml = policy(
        &[("a", &url, more)],
        &route("providers: [a], retry: none, stream: { commit: headers }"),
    );
    let sidecar = Sidecar::builder().policy("policy", &yaml).start();
    let indices: Vec<_> = cases.iter().map(|case| case.name).collect();
    let failed = failures(cases, |case| {
        let index = indices.iter().position(|name| *name == case.name);
        view(&sidecar, index.expect("each case has a name of its own"))
    });
    assert!(failed.is_empty(), "{} failures:\n{}", failed.len(), failed.join("\n"));
}
