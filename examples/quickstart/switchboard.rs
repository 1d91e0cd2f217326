//! Sets the faults of the providers: `POST /NAME/FAULT`. `GET /` lists their states.
//!
//! It has its own port, so that a provider which refuses connections can be repaired. It also
//! receives the notifications of degradation modes at `/alerts` and prints them.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;

use anyhow::Result;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::chat::{ChatBody, response};
use crate::print;
use crate::provider::{Fault, Provider};

/// Longest notification that is accepted.
const MAX_NOTIFICATION: usize = 64 << 10;

pub async fn serve(listener: TcpListener, providers: &[Arc<Provider>]) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let providers = providers.to_vec();
        let service = service_fn(move |request: Request<Incoming>| {
            let providers = providers.clone();
            async move {
                let response = match request.uri().path() {
                    "/alerts" => notification(request).await,
                    path => respond(request.method(), path, &providers),
                };
                Ok::<_, Infallible>(response)
            }
        });
        let stream = TokioIo::new(stream);
        let mut http = http1::Builder::new();
        tokio::spawn(http.timer(TokioTimer::new()).serve_connection(stream, service));
    }
}

/// Prints a notification as a chat program would.
async fn notification(request: Request<Incoming>) -> Response<ChatBody> {
    let body = Limited::new(request.into_body(), MAX_NOTIFICATION).collect().await;
    let json = body.ok().and_then(|body| serde_json::from_slice::<Value>(&body.to_bytes()).ok());
    match json.as_ref().and_then(|json| json["text"].as_str()) {
        Some(text) => {
            print(&format!("\n  ALERT  {text}\n\n"));
            plain(StatusCode::OK, "printed\n")
        }
        None => plain(StatusCode::BAD_REQUEST, "expected JSON with a `text`\n"),
    }
}

fn respond(method: &Method, path: &str, providers: &[Arc<Provider>]) -> Response<ChatBody> {
    if path == "/" {
        return plain(StatusCode::OK, &states(providers));
    }
    let Some((provider, fault)) = parse(path, providers) else {
        return plain(StatusCode::NOT_FOUND, &usage(providers));
    };
    if method != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, &usage(providers));
    }
    provider.set_fault(fault);
    plain(StatusCode::OK, &format!("{} {fault}\n", provider.name))
}

/// Parses `/NAME/FAULT`.
fn parse<'a>(path: &str, providers: &'a [Arc<Provider>]) -> Option<(&'a Provider, Fault)> {
    let (name, word) = path.strip_prefix('/')?.split_once('/')?;
    let provider = providers.iter().find(|provider| provider.name == name)?;
    let (_, fault) = Fault::ALL.into_iter().find(|(known, _)| *known == word)?;
    Some((provider, fault))
}

fn states(providers: &[Arc<Provider>]) -> String {
    let mut text = String::new();
    for p in providers {
        let _ = writeln!(text, "{:<6} {} ({} requests so far)", p.name, p.fault(), p.requests());
    }
    text
}

fn usage(providers: &[Arc<Provider>]) -> String {
    let names: Vec<_> = providers.iter().map(|provider| provider.name).collect();
    let faults = Fault::ALL.map(|(word, _)| word);
    format!(
        "curl -X POST localhost:8710/NAME/FAULT\nNAME: {}\nFAULT: {}\n",
        names.join(", "),
        faults.join(", ")
    )
}

fn plain(status: StatusCode, text: &str) -> Response<ChatBody> {
    response(status, "switchboard", "text/plain; charset=utf-8", ChatBody::whole(text))
}
