//! How a subcommand asks the admin side of a running sidecar.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST: usize = 64 << 20;

/// Where the sidecar is, and how what it says is printed.
#[derive(Debug, clap::Args)]
pub struct Ask {
    /// The admin side of the sidecar.
    #[arg(long, env = "OUTRIGGER_ADMIN", default_value = "127.0.0.1:8701", value_name = "ADDR")]
    admin: String,
    /// As the sidecar's: env:NAME, file:PATH or the token itself.
    #[arg(long, env = "OUTRIGGER_ADMIN_TOKEN", hide_env_values = true, value_name = "SOURCE")]
    admin_token: Option<String>,
    /// Print what the sidecar said, as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What is said with a change.
#[derive(Debug, clap::Args)]
pub struct Change {
    /// For how long, such as 10m; without, until it is taken off.
    #[arg(long = "for", value_name = "TIME")]
    length: Option<String>,
    /// Why; it stands in the sidecar's log and events.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who; by default the name of the user.
    #[arg(long, env = "USER", value_name = "NAME")]
    by: Option<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Failed(pub String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Change {
    fn body(&self) -> Value {
        let fields = [("for", &self.length), ("reason", &self.reason), ("by", &self.by)];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        given.map(|(name, value)| (name.to_owned(), Value::from(value))).collect()
    }
}

impl Ask {
    /// # Errors
    /// What to tell the user: nobody is there, or what the sidecar said.
    pub fn get(&self, path: &str) -> Result<Value, Failed> {
        self.ask(Method::GET, path, None)
    }

    /// # Errors
    /// As `get`.
    pub fn post(&self, path: &str, change: &Change) -> Result<Value, Failed> {
        self.ask(Method::POST, path, Some(change.body()))
    }

    /// The same at every host of the fleet.
    ///
    /// # Errors
    /// As `get`.
    pub fn post_to_fleet(&self, path: &str, change: &Change) -> Result<Value, Failed> {
        let mut body = change.body();
        body["fleet"] = Value::from(true);
        self.ask(Method::POST, path, Some(body))
    }

    fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failed(error.to_string()))?;
        let limit = async {
            let asked = self.exchange(method, path, body);
            tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
                Err(Failed(format!("{}: no answer within {PATIENCE:?}", self.admin)))
            })
        };
        runtime.block_on(limit)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Failed> {
        let failed = |error: &dyn fmt::Display| {
            Failed(format!("{}: {error} (is a sidecar running there? see --admin)", self.admin))
        };
        let address = self.admin.trim_start_matches("http://").trim_end_matches('/');
        let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| failed(&e))?;
        tokio::spawn(connection);
        let request = self.request(address, method, path, body)?;
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), LARGEST).collect().await;
        let bytes = bytes.map_err(|e| failed(&e))?.to_bytes();
        let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(said);
        }
        let detail = said["detail"].as_str().unwrap_or("no reason was given");
        Err(Failed(format!("{}: {status}: {detail}", self.admin)))
    }

    fn request(
        &self,
        address: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Request<Full<Bytes>>, Failed> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, address);
        if let Some(source) = &self.admin_token {
            let token = crate::admin::token_text(source).map_err(|e| Failed(e.to_string()))?;
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        request.body(Full::new(body)).map_err(|error| Failed(error.to_string()))
    }
}

/// A key as a path's last parts; slashes stay.
pub fn escaped(key: &str) -> String {
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

/// Rows under their heads, each column as wide as its widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|name| name.len())).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// A length as people say it: `850ms`, `12s`, `3m20s`, `4h`.
pub fn length(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match (hours, minutes, seconds) {
        (0, 0, 0) => format!("{ms}ms"),
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{:02}s", seconds % 60),
        (hours, minutes, _) => format!("{hours}h{:02}m", minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["KEY", "N"], &rows), "KEY   N\na     1\nlong  2");
    }

    #[test]
    fn a_key_keeps_its_slashes_and_nothing_else_that_a_path_would_read() {
        assert_eq!(escaped("a/b:1/m v?#%"), "a/b:1/m%20v%3F%23%25");
    }

    #[test]
    fn lengths_are_said_in_two_units_at_most() {
        let said = [850, 12_000, 200_000, 14_400_000].map(length);
        assert_eq!(said, ["850ms", "12s", "3m20s", "4h00m"]);
    }
}
