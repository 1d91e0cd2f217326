//! Where providers are broken and mended: `POST /NAME/FAULT`; `GET /` tells how they do.
//!
//! What a mode of degradation posts to `/alerts` is printed.
//!
//! A port of its own, so that a provider which refuses connections can still be mended.

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

use crate::chat::{Reply, response};
use crate::provider::{Fault, Provider};
use crate::tell;

/// The longest alert that is read.
const ALERT: usize = 64 << 10;

pub async fn serve(port: TcpListener, providers: &[Arc<Provider>]) -> Result<()> {
    loop {
        let (stream, _) = port.accept().await?;
        let providers = providers.to_vec();
        let answer = service_fn(move |request: Request<Incoming>| {
            let providers = providers.clone();
            async move {
                let answer = match request.uri().path() {
                    "/alerts" => alert(request).await,
                    path => answer(request.method(), path, &providers),
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let stream = TokioIo::new(stream);
        let mut http = http1::Builder::new();
        tokio::spawn(http.timer(TokioTimer::new()).serve_connection(stream, answer));
    }
}

/// Shows what a chat would show.
async fn alert(request: Request<Incoming>) -> Response<Reply> {
    let body = Limited::new(request.into_body(), ALERT).collect().await;
    let alert = body.ok().and_then(|body| serde_json::from_slice::<Value>(&body.to_bytes()).ok());
    let text = alert.as_ref().and_then(|alert| alert["text"].as_str());
    match text {
        Some(text) => {
            tell(&format!("\n  ALERT  {text}\n\n"));
            say(StatusCode::OK, "shown\n")
        }
        None => say(StatusCode::BAD_REQUEST, "expected JSON with a `text`\n"),
    }
}

fn answer(method: &Method, path: &str, providers: &[Arc<Provider>]) -> Response<Reply> {
    if path == "/" {
        return say(StatusCode::OK, &state(providers));
    }
    let Some((provider, fault)) = switch(path, providers) else {
        return say(StatusCode::NOT_FOUND, &usage(providers));
    };
    if method != Method::POST {
        return say(StatusCode::METHOD_NOT_ALLOWED, &usage(providers));
    }
    provider.set(fault);
    say(StatusCode::OK, &format!("{} {fault}\n", provider.name))
}

/// The provider and the fault that `/NAME/FAULT` stands for.
fn switch<'a>(path: &str, providers: &'a [Arc<Provider>]) -> Option<(&'a Provider, Fault)> {
    let (name, word) = path.strip_prefix('/')?.split_once('/')?;
    let provider = providers.iter().find(|provider| provider.name == name)?;
    let (_, fault) = Fault::ALL.into_iter().find(|(known, _)| *known == word)?;
    Some((provider, fault))
}

fn state(providers: &[Arc<Provider>]) -> String {
    let mut text = String::new();
    for p in providers {
        let _ = writeln!(text, "{:<6} {} ({} requests so far)", p.name, p.fault(), p.asked());
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

fn say(status: StatusCode, text: &str) -> Response<Reply> {
    response(status, "switchboard", "text/plain; charset=utf-8", Reply::whole(text))
}
