//! Where the fleet's Redis is: `--redis URL`, or where the URL is kept.
//!
//! | URL | what |
//! | --- | --- |
//! | `redis://[user:password@]host[:6379][/db]` | one server |
//! | `rediss://...` | the same over TLS |
//! | `unix:///path/to/redis.sock[?db=0&user=u&pass=p]` | one server, by a socket |
//! | `redis+sentinel://[user:password@]host:26379[,host2:26379]/name[/db]` | the server that Sentinels name |
//! | `redis+cluster://[user:password@]host:6379[,host2:6379]` | a cluster |
//!
//! `rediss+sentinel` and `rediss+cluster` are their TLS forms. With TLS, `?ca=FILE&cert=FILE&key=FILE` name
//! a certificate authority instead of the system's, and a client's certificate and key; for Sentinels that want
//! one, `?sentinel_password=...`. What is secret in a URL is told nowhere.

use std::fs;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisError,
    TlsCertificates, TlsMode,
};
use thiserror::Error;

const SERVER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// A connection that is not there by then is given up.
const CONNECT: Duration = Duration::from_secs(3);

/// Why a URL names no Redis.
#[derive(Debug, Error)]
pub enum RedisUrlError {
    #[error("--redis: {0} (expected a URL such as redis://127.0.0.1:6379)")]
    Source(String),
    #[error(
        "--redis: `{0}` is no scheme of a Redis (expected redis, rediss, unix, redis+sentinel or redis+cluster)"
    )]
    Scheme(String),
    #[error("--redis: {0}")]
    Url(String),
    #[error("--redis: `{name}={path}` cannot be read: {source}")]
    File { name: &'static str, path: String, source: std::io::Error },
}

/// A Redis that can be connected to.
#[derive(Clone)]
pub struct RedisAddress {
    place: Topology,
    /// The URL without what is secret in it.
    shown: String,
}

#[derive(Clone)]
enum Topology {
    One(Box<Client>),
    Sentinel(Box<SentinelSet>),
    Cluster(Box<ClusterClient>),
}

/// A client of Sentinels keeps what it learned behind `&mut`, so one is made for each connection.
#[derive(Clone)]
struct SentinelSet {
    url: RedisUrl,
    name: String,
    db: i64,
}

/// A connection of either kind.
#[derive(Clone)]
pub enum RedisConnection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A URL in its parts.
#[derive(Clone)]
struct RedisUrl {
    tls: bool,
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<(String, Option<u16>)>,
    path: String,
    certificates: Option<TlsCertificates>,
    sentinel_password: Option<String>,
}

impl RedisAddress {
    /// Reads `env:NAME`, `file:PATH`, or the URL itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(source: &str) -> Result<RedisAddress, RedisUrlError> {
        let text = match source.split_once(':') {
            Some(("env", name)) => std::env::var(name)
                .map_err(|_| RedisUrlError::Source(format!("there is no variable `{name}`")))?,
            Some(("file", path)) if !path.starts_with("//") => fs::read_to_string(path)
                .map_err(|error| RedisUrlError::Source(format!("{path}: {error}")))?,
            _ => source.to_owned(),
        };
        RedisAddress::parse(text.trim())
    }

    fn parse(text: &str) -> Result<RedisAddress, RedisUrlError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(RedisUrlError::Source("there is no `://` in it".to_owned()));
        };
        let (kind, tls) = match scheme {
            "redis" => ("one", false),
            "rediss" => ("one", true),
            "unix" | "redis+unix" => ("unix", false),
            "redis+sentinel" => ("sentinel", false),
            "rediss+sentinel" => ("sentinel", true),
            "redis+cluster" => ("cluster", false),
            "rediss+cluster" => ("cluster", true),
            other => return Err(RedisUrlError::Scheme(other.to_owned())),
        };
        if kind == "unix" {
            let path = rest.split('?').next().unwrap_or_default();
            let client = Client::open(text).map_err(|error| url_error(&error))?;
            return Ok(RedisAddress {
                place: Topology::One(Box::new(client)),
                shown: format!("unix://{path}"),
            });
        }
        let url = RedisUrl::read(rest, tls)?;
        let hosts: Vec<String> = url.hosts.iter().map(shown_host).collect();
        let shown = format!("{scheme}://{}{}", hosts.join(","), url.path);
        let place = match kind {
            "sentinel" => Topology::Sentinel(Box::new(SentinelSet::of(url)?)),
            "cluster" => Topology::Cluster(Box::new(url.cluster()?)),
            _ => Topology::One(Box::new(url.one()?)),
        };
        Ok(RedisAddress { place, shown })
    }

    /// Without what is secret in it.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Connects; `answer`: how long any answer may take on it.
    ///
    /// # Errors
    /// When nobody is there, or it does not let us in.
    pub async fn connect(&self, answer: Duration) -> Result<RedisConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(answer));
        match &self.place {
            Topology::One(client) => client
                .get_multiplexed_async_connection_with_config(&config)
                .await
                .map(RedisConnection::One),
            Topology::Sentinel(sentinels) => {
                let mut client = sentinels.client()?;
                client.get_async_connection_with_config(&config).await.map(RedisConnection::One)
            }
            Topology::Cluster(client) => {
                let config = redis::cluster::ClusterConfig::new()
                    .set_connection_timeout(CONNECT)
                    .set_response_timeout(answer);
                client.get_async_connection_with_config(config).await.map(RedisConnection::Cluster)
            }
        }
    }
}

impl std::fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RedisConnection::One(_) => "One",
            RedisConnection::Cluster(_) => "Cluster",
        })
    }
}

impl std::fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({})", self.shown)
    }
}

fn url_error(error: &RedisError) -> RedisUrlError {
    RedisUrlError::Url(error.category().to_owned())
}

fn shown_host((host, port): &(String, Option<u16>)) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    port.map_or(host.clone(), |port| format!("{host}:{port}"))
}

// === impl Url ===

impl RedisUrl {
    fn read(rest: &str, tls: bool) -> Result<RedisUrl, RedisUrlError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let some = |text: &str| {
            let text = decoded(text)?;
            Ok::<_, RedisUrlError>((!text.is_empty()).then_some(text))
        };
        let hosts = hosts.split(',').map(host).collect::<Result<Vec<_>, _>>()?;
        let mut url = RedisUrl {
            tls,
            user: some(user)?,
            password: some(password)?,
            hosts,
            path: path.to_owned(),
            certificates: None,
            sentinel_password: None,
        };
        url.options(query)?;
        Ok(url)
    }

    fn options(&mut self, query: &str) -> Result<(), RedisUrlError> {
        let (mut ca, mut cert, mut key) = (None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value)?;
            match name {
                "ca" => ca = Some(file("ca", &value)?),
                "cert" => cert = Some(file("cert", &value)?),
                "key" => key = Some(file("key", &value)?),
                "sentinel_password" => self.sentinel_password = Some(value),
                _ => {
                    let what = format!(
                        "`{name}` is no option (expected ca, cert, key or sentinel_password)"
                    );
                    return Err(RedisUrlError::Url(what));
                }
            }
        }
        let client_tls = match (cert, key) {
            (Some(client_cert), Some(client_key)) => {
                Some(ClientTlsConfig { client_cert, client_key })
            }
            (None, None) => None,
            _ => return Err(RedisUrlError::Url("expected `cert` and `key` together".to_owned())),
        };
        if ca.is_some() || client_tls.is_some() {
            if !self.tls {
                let what = "certificates without TLS (expected rediss:// in place of redis://)";
                return Err(RedisUrlError::Url(what.to_owned()));
            }
            self.certificates = Some(TlsCertificates { client_tls, root_cert: ca });
        }
        Ok(())
    }

    fn address(&self, (host, port): &(String, Option<u16>), usual: u16) -> ConnectionAddr {
        let (host, port) = (host.clone(), port.unwrap_or(usual));
        if self.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    fn one(&self) -> Result<Client, RedisUrlError> {
        let [host] = &self.hosts[..] else {
            let what = "several hosts (expected redis+sentinel:// or redis+cluster:// for them)";
            return Err(RedisUrlError::Url(what.to_owned()));
        };
        let info = self.address(host, SERVER_PORT).into_connection_info();
        let info = info.map_err(|error| url_error(&error))?;
        let mut login = info.redis_settings().clone().set_db(db(&self.path)?);
        if let Some(user) = &self.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        let info = info.set_redis_settings(login);
        match &self.certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        }
        .map_err(|error| url_error(&error))
    }

    fn cluster(&self) -> Result<ClusterClient, RedisUrlError> {
        let nodes = self.hosts.iter().map(|host| self.address(host, SERVER_PORT));
        let mut builder = ClusterClientBuilder::new(nodes).retries(2).connection_timeout(CONNECT);
        if let Some(user) = &self.user {
            builder = builder.username(user);
        }
        if let Some(password) = &self.password {
            builder = builder.password(password);
        }
        if self.tls {
            builder = builder.tls(TlsMode::Secure);
        }
        if let Some(certificates) = &self.certificates {
            builder = builder.certs(certificates.clone());
        }
        builder.build().map_err(|error| url_error(&error))
    }
}

impl SentinelSet {
    fn of(url: RedisUrl) -> Result<SentinelSet, RedisUrlError> {
        let mut parts = url.path.trim_start_matches('/').splitn(2, '/');
        let name = parts.next().unwrap_or_default().to_owned();
        if name.is_empty() {
            let what = "no name of a server (expected redis+sentinel://host:26379/NAME)";
            return Err(RedisUrlError::Url(what.to_owned()));
        }
        let db = db(parts.next().unwrap_or_default())?;
        Ok(SentinelSet { url, name, db })
    }

    fn client(&self) -> Result<redis::sentinel::SentinelClient, RedisError> {
        let url = &self.url;
        let nodes = url.hosts.iter().map(|host| url.address(host, SENTINEL_PORT));
        let mut builder =
            SentinelClientBuilder::new(nodes, &self.name, SentinelServerType::Master)?
                .set_client_to_redis_db(self.db);
        if let Some(user) = &url.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &url.password {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(password) = &url.sentinel_password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if url.tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = &url.certificates {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        builder.build()
    }
}

fn db(path: &str) -> Result<i64, RedisUrlError> {
    match path.trim_matches('/') {
        "" => Ok(0),
        text => text.parse().map_err(|_| {
            RedisUrlError::Url(format!("`{text}` is no database (expected a number, such as 0)"))
        }),
    }
}

fn host(text: &str) -> Result<(String, Option<u16>), RedisUrlError> {
    let none = || RedisUrlError::Url(format!("`{text}` is no host (expected HOST or HOST:PORT)"));
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(|port| port.parse().map_err(|_| none())).transpose()?;
    if host.is_empty() { Err(none()) } else { Ok((host.to_owned(), port)) }
}

fn file(name: &'static str, path: &str) -> Result<Vec<u8>, RedisUrlError> {
    fs::read(path).map_err(|source| RedisUrlError::File { name, path: path.to_owned(), source })
}

/// `%41` is `A`.
fn decoded(text: &str) -> Result<String, RedisUrlError> {
    let none = || RedisUrlError::Url("a `%` without two hexadecimal digits behind it".to_owned());
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit().ok_or_else(none)?, digit().ok_or_else(none)?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes)
        .map_err(|_| RedisUrlError::Url("what `%` stands for is no text".into()))
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
