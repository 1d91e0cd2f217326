//! Responses of an LLM API: a chat completion, whole or as an event stream, and an error.

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

/// A response body whose frames come through a channel.
#[derive(Debug)]
pub struct ChatBody(mpsc::Receiver<io::Result<Frame<Bytes>>>);

/// How a response is sent.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// Before the first word.
    pub first_delay: Duration,
    pub word_delay: Duration,
    /// The connection fails in the middle.
    pub is_interrupted: bool,
}

/// Responds to a chat request; `body` is its JSON.
pub async fn respond(provider: &str, body: &[u8], delivery: Delivery) -> Response<ChatBody> {
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return error(StatusCode::BAD_REQUEST, provider, "the request body is not JSON");
    };
    let model = request["model"].as_str().unwrap_or("demo").to_owned();
    let text =
        format!("Hello from {provider}, which runs the model {model}: here is your response.");
    if request["stream"] == true {
        return streamed(provider, &model, &text, delivery);
    }
    let message = json!({ "role": "assistant", "content": text });
    let completion = json!({
        "id": "chatcmpl-quickstart", "object": "chat.completion", "created": 0, "model": model,
        "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15 },
    });
    let text = format!("{completion}\n");
    sleep(delivery.first_delay).await;
    let delivery = Delivery { first_delay: Duration::ZERO, ..delivery };
    let (start, end) = text.split_at(text.len() / 2);
    let parts =
        if delivery.is_interrupted { vec![start.to_owned(), end.to_owned()] } else { vec![text] };
    response(StatusCode::OK, provider, "application/json", ChatBody::in_parts(parts, delivery))
}

fn streamed(provider: &str, model: &str, text: &str, delivery: Delivery) -> Response<ChatBody> {
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
    response(StatusCode::OK, provider, "text/event-stream", ChatBody::in_parts(events, delivery))
}

/// An error in the form of these APIs.
pub fn error(status: StatusCode, provider: &str, message: &str) -> Response<ChatBody> {
    let text = json!({ "error": { "message": message, "type": "quickstart", "code": null } });
    let body = ChatBody::whole(&format!("{text}\n"));
    let mut response = response(status, provider, "application/json", body);
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, 10.into());
    }
    response
}

/// Any other response.
pub fn response(
    status: StatusCode,
    provider: &str,
    media: &'static str,
    body: ChatBody,
) -> Response<ChatBody> {
    let head = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, media)
        .header("x-provider", provider);
    head.body(body).expect("names without control characters")
}

// === impl ChatBody ===

impl ChatBody {
    pub fn whole(text: &str) -> Self {
        let (send, receive) = mpsc::channel(1);
        let frame = Frame::data(Bytes::copy_from_slice(text.as_bytes()));
        send.try_send(Ok(frame)).expect("the channel has room for one");
        Self(receive)
    }

    /// Sends the parts one after the other, and only half of them before an interruption.
    fn in_parts(parts: Vec<String>, delivery: Delivery) -> Self {
        let (send, receive) = mpsc::channel(1);
        let count = if delivery.is_interrupted { parts.len() / 2 } else { parts.len() };
        tokio::spawn(async move {
            let mut pause = delivery.first_delay;
            for part in parts.into_iter().take(count) {
                sleep(pause).await;
                if send.send(Ok(Frame::data(part.into()))).await.is_err() {
                    return;
                }
                pause = delivery.word_delay;
            }
            if delivery.is_interrupted {
                sleep(pause).await;
                let _ = send.send(Err(io::ErrorKind::ConnectionReset.into())).await;
            }
        });
        Self(receive)
    }
}

impl Body for ChatBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}
