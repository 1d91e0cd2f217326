//! A stream of server-sent events of the admin API, across connections.

use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use http_body_util::BodyExt;

use crate::cli::admin_client::AdminArgs;
use crate::telemetry::escape::escape_lines;

/// The pause before a new connection.
const PAUSE: Duration = Duration::from_millis(200);
/// A line of an event is not longer.
const LONGEST: usize = 1 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Empty for a message without a name.
    pub name: String,
    pub data: String,
}

/// Reads events from bytes as they come (WHATWG HTML, "Server-sent events").
#[derive(Debug, Default)]
struct SseReader {
    rest: Vec<u8>,
    event: SseEvent,
    last_id: Option<String>,
}

/// Calls `on_event` with each event of a stream until it breaks. A stream that ends is opened again
/// after its last event.
///
/// # Errors
/// If the sidecar cannot be reached or rejects the request.
pub fn follow(
    admin: &AdminArgs,
    path: &str,
    mut on_event: impl FnMut(&SseEvent) -> ControlFlow<()>,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut reader = SseReader::default();
        loop {
            let mut body = admin.open(path, reader.last_id.as_deref()).await?;
            reader.rest.clear();
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                for event in reader.read(&data)? {
                    if on_event(&event).is_break() {
                        return Ok(());
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

/// Prints a line; a closed pipe ends the stream and is no error.
pub fn print_line(text: &str) -> ControlFlow<()> {
    match writeln!(std::io::stdout(), "{}", escape_lines(text)) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

impl SseReader {
    fn read(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, String> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                events.extend((!event.data.is_empty()).then_some(event));
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.event.name),
                "id" => self.last_id = Some(value.to_owned()),
                "data" => self.event.data.push_str(value),
                _ => {}
            }
        }
        if self.rest.len() > LONGEST {
            return Err("the sidecar sent an event without an end".to_owned());
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_from_pieces_of_any_size() {
        let text = "retry: 200\n\n:\n\nid: 7\ndata: {\"a\":1}\n\nevent: skipped\ndata: 3\n\n";
        let event = |name: &str, data: &str| SseEvent { name: name.into(), data: data.into() };
        for size in [1, 3, 1000] {
            let mut reader = SseReader::default();
            let pieces = text.as_bytes().chunks(size);
            let events: Vec<_> =
                pieces.flat_map(|piece| reader.read(piece).expect("read")).collect();
            assert_eq!(events, [event("", "{\"a\":1}"), event("skipped", "3")]);
            assert_eq!(reader.last_id.as_deref(), Some("7"));
        }
        assert!(SseReader::default().read(&vec![b'x'; LONGEST + 1]).is_err());
    }
}
