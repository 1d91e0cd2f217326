//! What an LLM's API says: a chat completion, whole or as an event stream, and an error.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// The body of an answer: what comes through a channel, until it ends or breaks.
#[derive(Debug)]
pub struct Reply(mpsc::Receiver<io::Result<Frame<Bytes>>>);

/// How an answer is told.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Before the first word.
    pub thinking: Duration,
    pub between_words: Duration,
    /// The connection breaks in the middle.
    pub cut: bool,
}

/// Answers a chat request; `body` is its JSON.
pub async fn answer(provider: &str, body: &[u8], manner: Manner) -> Response<Reply> {
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return refusal(StatusCode::BAD_REQUEST, provider, "the request's body is no JSON");
    };
    let model = request["model"].as_str().unwrap_or("demo").to_owned();
    let text =
        format!("Hello from {provider}, whose model is called {model}: here is your answer.");
    if request["stream"] == true {
        return streamed(provider, &model, &text, manner);
    }
    let message = json!({ "role": "assistant", "content": text });
    let answer = json!({
        "id": "chatcmpl-quickstart", "object": "chat.completion", "created": 0, "model": model,
        "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15 },
    });
    let text = format!("{answer}\n");
    sleep(manner.thinking).await;
    let manner = Manner { thinking: Duration::ZERO, ..manner };
    let (start, end) = text.split_at(text.len() / 2);
    let parts = if manner.cut { vec![start.to_owned(), end.to_owned()] } else { vec![text] };
    response(StatusCode::OK, provider, "application/json", Reply::spoken(parts, manner))
}

fn streamed(provider: &str, model: &str, text: &str, manner: Manner) -> Response<Reply> {
    let chunk = |delta: Value, finish: Option<&str>| {
        let chunk = json!({
            "id": "chatcmpl-quickstart", "object": "chat.completion.chunk", "created": 0, "model": model,
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }],
        });
        format!("data: {chunk}\n\n")
    };
    let mut events = vec![chunk(json!({ "role": "assistant", "content": "" }), None)];
    events.extend(text.split_inclusive(' ').map(|word| chunk(json!({ "content": word }), None)));
    events.push(chunk(json!({}), Some("stop")));
    events.push("data: [DONE]\n\n".to_owned());
    response(StatusCode::OK, provider, "text/event-stream", Reply::spoken(events, manner))
}

/// An error as these APIs tell it.
pub fn refusal(status: StatusCode, provider: &str, message: &str) -> Response<Reply> {
    let text = json!({ "error": { "message": message, "type": "quickstart", "code": null } });
    let body = Reply::whole(&format!("{text}\n"));
    let mut response = response(status, provider, "application/json", body);
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, 10.into());
    }
    response
}

/// Anything else that is said.
pub fn response(
    status: StatusCode,
    provider: &str,
    media: &'static str,
    body: Reply,
) -> Response<Reply> {
    let head = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, media)
        .header("x-provider", provider);
    head.body(body).expect("names without control characters")
}

// === impl Reply ===

impl Reply {
    pub fn whole(text: &str) -> Self {
        let (send, receive) = mpsc::channel(1);
        let frame = Frame::data(Bytes::copy_from_slice(text.as_bytes()));
        send.try_send(Ok(frame)).expect("the channel has room for one");
        Self(receive)
    }

    /// One part after the other; half of them, where the answer is to be cut.
    fn spoken(parts: Vec<String>, manner: Manner) -> Self {
        let (send, receive) = mpsc::channel(1);
        let until = if manner.cut { parts.len() / 2 } else { parts.len() };
        tokio::spawn(async move {
            let mut pause = manner.thinking;
            for part in parts.into_iter().take(until) {
                sleep(pause).await;
                if send.send(Ok(Frame::data(part.into()))).await.is_err() {
                    return;
                }
                pause = manner.between_words;
            }
            if manner.cut {
                sleep(pause).await;
                let _ = send.send(Err(io::ErrorKind::ConnectionReset.into())).await;
            }
        });
        Self(receive)
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}
