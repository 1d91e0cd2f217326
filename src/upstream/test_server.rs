//! Helpers for the tests: origins on local sockets, and waiting.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use super::dns::LookupFuture;
use super::{Connection, DialError, DialTarget, OutgoingBody, OutgoingRequest, Pools, Resolver};
use crate::policy::sections::model::{ClientTls, Url};

pub(super) const HI: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// Runs a test on a runtime like that of a worker.
pub(super) fn worker(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test ends in time");
    });
}

/// Lets the other tasks run until the condition holds.
pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// Starts an origin. Returns its address and the count of accepted connections.
pub(super) async fn origin<F: Future<Output = ()> + 'static>(
    serve: impl Fn(TcpStream) -> F + 'static,
) -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let accepted = Rc::new(Cell::new(0));
    let count = Rc::clone(&accepted);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.set(count.get() + 1);
            tokio::task::spawn_local(serve(stream));
        }
    });
    (address, accepted)
}

/// Responds to each request with `HI`.
pub(super) async fn hello(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    while head(&mut stream).await.is_some() {
        if stream.write_all(HI).await.is_err() {
            return;
        }
    }
}

/// Reads up to the empty line.
pub(super) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

pub(super) fn url(scheme: &str, host: &str, port: u16) -> Url {
    Url {
        https: scheme == "https",
        host: host.to_owned(),
        port,
        authority: format!("{host}:{port}"),
        path: String::new(),
    }
}

/// A resolver that resolves every name to `addresses`.
pub(super) fn resolves_to(addresses: &[&str]) -> Resolver {
    let found: Vec<IpAddr> =
        addresses.iter().map(|text| text.parse().expect("an address")).collect();
    let lookup =
        move |_| -> LookupFuture { Box::pin(std::future::ready(io::Result::Ok(found.clone()))) };
    Resolver::with_lookup(Handle::current(), lookup)
}

pub(super) fn target(address: SocketAddr, connections: usize) -> Arc<DialTarget> {
    let resolver = Resolver::new(Handle::current());
    let url = url("http", &address.ip().to_string(), address.port());
    DialTarget::new(&url, &ClientTls::default(), None, CONNECT, connections, &resolver)
        .expect("a target")
}

pub(super) fn pools() -> Pools {
    Pools::new(Duration::from_secs(30))
}

pub(super) fn get() -> OutgoingRequest {
    OutgoingRequest {
        is_head: false,
        is_upgrade: false,
        fails_over: false,
        sends_zero_length: false,
        body: OutgoingBody::Empty,
    }
}

/// The head of `get`.
pub(super) fn line(out: &mut Vec<u8>) {
    out.extend_from_slice(b"GET / HTTP/1.1\r\nhost: origin.test\r\n");
}

/// Sends `get` and reads the response.
pub(super) async fn exchange(connection: Connection) -> String {
    let (_, body) = connection.send(get(), line).await.expect("a response");
    let body = body.collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

pub(super) async fn dialled(target: &Arc<DialTarget>) -> Result<Connection, DialError> {
    pools().dial(target).await
}
