//! A client of the admin API of a running sidecar.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::admin::change::ChangeRequest;
use crate::admin::error::ApiProblem;
use crate::admin::history::sse::LAST_EVENT_ID;

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_RESPONSE: usize = 64 << 20;

/// How to reach the sidecar, and how to print its response.
#[derive(Debug, clap::Args)]
pub struct AdminArgs {
    /// Address of the sidecar's admin listener.
    #[arg(
        long,
        env = "OUTRIGGER_ADMIN",
        default_value = "127.0.0.1:8701",
        value_name = "ADDR",
        global = true
    )]
    admin: String,
    /// The sidecar's admin token: env:NAME, file:PATH, or the token itself.
    #[arg(
        long,
        env = "OUTRIGGER_ADMIN_TOKEN",
        hide_env_values = true,
        value_name = "SOURCE",
        global = true
    )]
    admin_token: Option<String>,
    /// Print JSON: the response of the admin API.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// How long a change lasts, and the note for the audit log.
#[derive(Debug, clap::Args)]
pub struct ChangeArgs {
    /// How long the change lasts, such as 10m or 1h30m; at most 30d.
    #[arg(long = "for", value_name = "TIME")]
    duration: Option<String>,
    #[command(flatten)]
    note: NoteArgs,
}

/// The note for the audit log.
#[derive(Debug, clap::Args)]
pub struct NoteArgs {
    /// The reason; shown in the sidecar's log, events and status.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Your name; shown with the reason.
    #[arg(long, env = "USER", value_name = "NAME")]
    by: Option<String>,
}

/// A response of the admin API.
#[derive(Debug)]
pub struct Reply {
    body: Bytes,
    /// Print it as it is.
    json: bool,
}

impl ChangeArgs {
    pub fn request(&self) -> ChangeRequest {
        ChangeRequest { duration: self.duration.clone(), ..self.note.request() }
    }
}

impl NoteArgs {
    pub fn request(&self) -> ChangeRequest {
        let (by, reason) = (self.by.clone(), self.reason.clone());
        ChangeRequest { by, reason, ..ChangeRequest::default() }
    }
}

impl Reply {
    /// A response of one line of text.
    pub fn line(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// The response as a value.
    ///
    /// # Errors
    /// When the sidecar is of another version and its response has another form.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.body).map_err(|error| unexpected(&error))
    }

    /// The text for the terminal: made by `text`, or the JSON itself with `--json`.
    ///
    /// # Errors
    /// When the sidecar is of another version and its response has another form.
    pub fn print<T: DeserializeOwned>(
        &self,
        text: impl FnOnce(&T) -> String,
    ) -> Result<String, String> {
        match self.json {
            true => self.read::<Value>().map(|value| format!("{value:#}")),
            false => self.read().map(|body| text(&body)),
        }
    }
}

impl AdminArgs {
    /// For requests that need no token.
    pub fn without_token(admin: &str) -> AdminArgs {
        AdminArgs { admin: admin.to_owned(), admin_token: None, json: false }
    }

    pub fn get(&self, path: &str) -> Result<Reply, String> {
        self.send(Method::GET, path, None)
    }

    pub fn post(&self, path: &str, body: &impl Serialize) -> Result<Reply, String> {
        self.change(Method::POST, path, body)
    }

    pub fn put(&self, path: &str, body: &impl Serialize) -> Result<Reply, String> {
        self.change(Method::PUT, path, body)
    }

    pub fn delete(&self, path: &str, body: &impl Serialize) -> Result<Reply, String> {
        self.change(Method::DELETE, path, body)
    }

    fn change(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Reply, String> {
        let body = serde_json::to_vec(body).map_err(|e| e.to_string())?;
        self.send(method, path, Some(body.into()))
    }

    fn send(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Reply, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let exchange = self.exchange(method, path, body);
            tokio::time::timeout(TIMEOUT, exchange)
                .await
                .unwrap_or_else(|_| Err(format!("{}: no response within {TIMEOUT:?}", self.admin)))
        })
    }

    /// Opens a stream of events after the one with this id.
    ///
    /// # Errors
    /// If the sidecar cannot be reached or rejects the request.
    pub async fn open(&self, path: &str, after: Option<&str>) -> Result<Incoming, String> {
        let mut request = self.request(self.address(), Method::GET, path, None)?;
        if let Some(Ok(after)) = after.map(HeaderValue::from_str) {
            request.headers_mut().insert(LAST_EVENT_ID, after);
        }
        let response = tokio::time::timeout(TIMEOUT, self.call(request)).await;
        let response = response
            .unwrap_or_else(|_| Err(format!("{}: no response within {TIMEOUT:?}", self.admin)))?;
        match response.status().is_success() {
            true => Ok(response.into_body()),
            false => Err(self.rejected(response).await),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Reply, String> {
        let response = self.call(self.request(self.address(), method, path, body)?).await?;
        if !response.status().is_success() {
            return Err(self.rejected(response).await);
        }
        let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
        let body = body.map_err(|error| self.failed(&error))?.to_bytes();
        Ok(Reply { body, json: self.json })
    }

    fn address(&self) -> &str {
        self.admin.trim_start_matches("http://").trim_end_matches('/')
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> String {
        let hint = "is a sidecar running there? choose its address with --admin";
        format!("{}: {error} ({hint})", self.admin)
    }

    /// Sends a request over a connection of its own.
    async fn call(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        let stream = TcpStream::connect(self.address()).await.map_err(|e| self.failed(&e))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.failed(&e))?;
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|e| self.failed(&e))
    }

    /// The reason that the sidecar gave.
    async fn rejected(&self, response: Response<Incoming>) -> String {
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
        let body = body.map(Collected::to_bytes).unwrap_or_default();
        let problem = serde_json::from_slice::<ApiProblem>(&body);
        let text = || match String::from_utf8_lossy(&body).trim() {
            "" => "no reason given".to_owned(),
            text => text.to_owned(),
        };
        let detail = problem.map_or_else(|_| text(), |problem| problem.detail);
        format!("{}: {status}: {detail}", self.admin)
    }

    fn request(
        &self,
        address: &str,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, address);
        if let Some(source) = &self.admin_token {
            let token = crate::admin::read_token(source);
            let token = token.map_err(|error| error.to_string())?;
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        request.map_err(|error| error.to_string())
    }
}

fn unexpected(error: &serde_json::Error) -> String {
    let hint = "is the sidecar of another version? try --json";
    format!("unexpected response of the admin API: {error} ({hint})")
}

/// Percent-encodes a key for a path or a query. Slashes stay.
pub fn encode(key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:@".contains(&b);
    key.bytes().fold(String::with_capacity(key.len()), |mut text, b| {
        if plain(b) {
            text.push(char::from(b));
        } else {
            text.push_str(&format!("%{b:02X}"));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_key_keeps_slashes_and_escapes_delimiters() {
        assert_eq!(encode("a/b:1/m v?#%"), "a/b:1/m%20v%3F%23%25");
    }
}
