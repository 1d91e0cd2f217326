//! The address of the fleet's Redis: `--redis URL`, `--redis env:NAME` or `--redis file:PATH`.
//!
//! | URL | server |
//! | --- | --- |
//! | `redis://[user:password@]host[:6379][/db]` | one server |
//! | `rediss://...` | the same over TLS |
//! | `unix:///path/to/redis.sock[?db=0&user=u&pass=p]` | one server, through a socket |
//! | `redis+sentinel://[user:password@]host:26379[,host2:26379]/name[/db]` | a server found through Sentinels |
//! | `redis+cluster://[user:password@]host:6379[,host2:6379]` | a cluster |
//!
//! `rediss+sentinel` and `rediss+cluster` are the TLS forms. With TLS, `?ca=FILE&cert=FILE&key=FILE`
//! set a certificate authority instead of the system's, and a client certificate and its key.
//! `?sentinel_password=...` is for Sentinels that require one. Secrets in a URL are never shown.

use std::time::Duration;
use std::{fmt, fs};

use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisError,
    TlsCertificates, TlsMode,
};
use thiserror::Error;

use crate::policy::sections::url::percent_decoded;

const SERVER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a URL is rejected.
#[derive(Debug, Error)]
pub enum RedisUrlError {
    #[error("--redis: {0} (expected a URL such as redis://127.0.0.1:6379)")]
    Source(String),
    #[error(
        "--redis: `{0}` is not a scheme for Redis (expected redis, rediss, unix, redis+sentinel or redis+cluster)"
    )]
    Scheme(String),
    #[error("--redis: {0}")]
    Url(String),
    #[error("--redis: `{name}={path}` cannot be read: {source}")]
    File { name: &'static str, path: String, source: std::io::Error },
}

/// The address of a Redis.
#[derive(Clone)]
pub struct RedisAddress {
    topology: Topology,
    /// The URL without secrets.
    display: String,
}

#[derive(Clone)]
enum Topology {
    Single(Box<Client>),
    Sentinel(Box<SentinelSet>),
    Cluster(Box<ClusterClient>),
}

/// A Sentinel client needs `&mut`, so each connection gets one of its own.
#[derive(Clone)]
struct SentinelSet {
    url: RedisUrl,
    name: String,
    db: i64,
}

/// A connection to a single server or a cluster.
#[derive(Clone)]
pub enum RedisConnection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

#[derive(Clone)]
struct HostPort {
    host: String,
    port: Option<u16>,
}

/// The parts of a URL.
#[derive(Clone)]
struct RedisUrl {
    tls: bool,
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<HostPort>,
    path: String,
    certificates: Option<TlsCertificates>,
    sentinel_password: Option<String>,
}

impl RedisAddress {
    /// Reads `env:NAME`, `file:PATH`, or the URL itself.
    ///
    /// # Errors
    /// If there is no valid URL.
    pub fn read(source: &str) -> Result<RedisAddress, RedisUrlError> {
        let text = match source.split_once(':') {
            Some(("env", name)) => std::env::var(name)
                .map_err(|_| RedisUrlError::Source(format!("the variable `{name}` is not set")))?,
            Some(("file", path)) if !path.starts_with("//") => fs::read_to_string(path)
                .map_err(|error| RedisUrlError::Source(format!("{path}: {error}")))?,
            _ => source.to_owned(),
        };
        RedisAddress::parse(text.trim())
    }

    fn parse(text: &str) -> Result<RedisAddress, RedisUrlError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(RedisUrlError::Source("it has no `://`".to_owned()));
        };
        if let "unix" | "redis+unix" = scheme {
            let path = rest.split('?').next().unwrap_or_default();
            let client = Client::open(text).map_err(|error| url_error(&error))?;
            let display = format!("unix://{path}");
            return Ok(RedisAddress { topology: Topology::Single(Box::new(client)), display });
        }
        let topology: fn(RedisUrl) -> Result<Topology, RedisUrlError> = match scheme {
            "redis" | "rediss" => |url| Ok(Topology::Single(Box::new(url.single()?))),
            "redis+sentinel" | "rediss+sentinel" => {
                |url| Ok(Topology::Sentinel(Box::new(SentinelSet::new(url)?)))
            }
            "redis+cluster" | "rediss+cluster" => {
                |url| Ok(Topology::Cluster(Box::new(url.cluster()?)))
            }
            other => return Err(RedisUrlError::Scheme(other.to_owned())),
        };
        let url = RedisUrl::parse(rest, scheme.starts_with("rediss"))?;
        let hosts: Vec<String> = url.hosts.iter().map(HostPort::to_string).collect();
        let display = format!("{scheme}://{}{}", hosts.join(","), url.path);
        Ok(RedisAddress { topology: topology(url)?, display })
    }

    /// The URL without secrets.
    pub fn display(&self) -> &str {
        &self.display
    }

    /// Connects; `reply_timeout` applies to each reply.
    ///
    /// # Errors
    /// If there is no server, or it rejects the login.
    pub async fn connect(&self, reply_timeout: Duration) -> Result<RedisConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(reply_timeout));
        match &self.topology {
            Topology::Single(client) => client
                .get_multiplexed_async_connection_with_config(&config)
                .await
                .map(RedisConnection::Single),
            Topology::Sentinel(sentinels) => {
                let mut client = sentinels.client()?;
                client.get_async_connection_with_config(&config).await.map(RedisConnection::Single)
            }
            Topology::Cluster(client) => {
                let config = redis::cluster::ClusterConfig::new()
                    .set_connection_timeout(CONNECT_TIMEOUT)
                    .set_response_timeout(reply_timeout);
                client.get_async_connection_with_config(config).await.map(RedisConnection::Cluster)
            }
        }
    }
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RedisConnection::Single(_) => "Single",
            RedisConnection::Cluster(_) => "Cluster",
        })
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.display)
    }
}

fn url_error(error: &RedisError) -> RedisUrlError {
    RedisUrlError::Url(error.category().to_owned())
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl RedisUrl {
    fn parse(rest: &str, tls: bool) -> Result<RedisUrl, RedisUrlError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let non_empty = |text: &str| {
            let text = percent_decode(text)?;
            Ok::<_, RedisUrlError>((!text.is_empty()).then_some(text))
        };
        let hosts = hosts.split(',').map(HostPort::parse).collect::<Result<Vec<_>, _>>()?;
        let mut url = RedisUrl {
            tls,
            user: non_empty(user)?,
            password: non_empty(password)?,
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
            let value = percent_decode(value)?;
            match name {
                "ca" => ca = Some(file("ca", &value)?),
                "cert" => cert = Some(file("cert", &value)?),
                "key" => key = Some(file("key", &value)?),
                "sentinel_password" => self.sentinel_password = Some(value),
                _ => {
                    let message = format!(
                        "`{name}` is not an option (expected ca, cert, key or sentinel_password)"
                    );
                    return Err(RedisUrlError::Url(message));
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
                let message = "certificates without TLS (expected rediss:// instead of redis://)";
                return Err(RedisUrlError::Url(message.to_owned()));
            }
            self.certificates = Some(TlsCertificates { client_tls, root_cert: ca });
        }
        Ok(())
    }

    fn address(&self, host: &HostPort, default_port: u16) -> ConnectionAddr {
        let (host, port) = (host.host.clone(), host.port.unwrap_or(default_port));
        if self.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    fn single(&self) -> Result<Client, RedisUrlError> {
        let [host] = &self.hosts[..] else {
            let message = "several hosts (expected redis+sentinel:// or redis+cluster://)";
            return Err(RedisUrlError::Url(message.to_owned()));
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
        let mut builder =
            ClusterClientBuilder::new(nodes).retries(2).connection_timeout(CONNECT_TIMEOUT);
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
    fn new(url: RedisUrl) -> Result<SentinelSet, RedisUrlError> {
        let mut parts = url.path.trim_start_matches('/').splitn(2, '/');
        let name = parts.next().unwrap_or_default().to_owned();
        if name.is_empty() {
            let message = "no server name (expected redis+sentinel://host:26379/NAME)";
            return Err(RedisUrlError::Url(message.to_owned()));
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
            RedisUrlError::Url(format!("`{text}` is not a database (expected a number, such as 0)"))
        }),
    }
}

impl HostPort {
    fn parse(text: &str) -> Result<HostPort, RedisUrlError> {
        let invalid =
            || RedisUrlError::Url(format!("`{text}` is not a host (expected HOST or HOST:PORT)"));
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(|port| port.parse().map_err(|_| invalid())).transpose()?;
        if host.is_empty() { Err(invalid()) } else { Ok(HostPort { host: host.to_owned(), port }) }
    }
}

fn file(name: &'static str, path: &str) -> Result<Vec<u8>, RedisUrlError> {
    fs::read(path).map_err(|source| RedisUrlError::File { name, path: path.to_owned(), source })
}

fn percent_decode(text: &str) -> Result<String, RedisUrlError> {
    let bytes = percent_decoded(text)
        .ok_or_else(|| RedisUrlError::Url("a `%` without two hexadecimal digits".to_owned()))?;
    String::from_utf8(bytes)
        .map_err(|_| RedisUrlError::Url("percent-encoded bytes are not UTF-8".into()))
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
