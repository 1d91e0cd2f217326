//! Dials that succeed in spite of failures, and the error messages of dials that fail.

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::dns::LookupFuture;
use super::test_server::*;
use super::tls_tests::{Authority, acceptor, tls_origin};
use super::{AddressScope, DialError, DialPhase, DialTarget, Resolver, TargetError};
use crate::policy::sections::model::{ClientTls, ForwardProxy};

const SHORT: Duration = Duration::from_millis(50);

fn named(port: u16, connect: Duration, resolver: &Resolver) -> Arc<DialTarget> {
    DialTarget::new(
        &url("http", "api.test", port),
        &ClientTls::default(),
        None,
        connect,
        8,
        resolver,
    )
    .expect("a target")
}

fn refusing_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

// === addresses ===

#[test]
fn an_address_that_refuses_is_skipped() {
    worker(async {
        let (address, _) = origin(hello).await;
        let resolver = resolves_to(&["127.0.0.2", "127.0.0.3", "127.0.0.1"]);
        let connection =
            dialled(&named(address.port(), CONNECT, &resolver)).await.expect("a connection");
        assert_eq!(connection.peer(), Some(address));
        assert_eq!(exchange(connection).await, "hi");
    });
}

#[test]
fn a_public_target_is_never_dialled_at_a_private_address() {
    worker(async {
        let (address, requests) = origin(hello).await;
        let public = |addresses| {
            let (url, tls) = (url("http", "hooks.test", address.port()), ClientTls::default());
            let (scope, resolver) = (AddressScope::Public, resolves_to(addresses));
            DialTarget::within(scope, &url, &tls, None, SHORT, 8, &resolver).expect("a target")
        };
        let error = dialled(&public(&["127.0.0.1", "::1"])).await.expect_err("refused");
        assert_eq!(
            error.to_string(),
            "hooks.test has a private address (127.0.0.1), which the policy does not allow"
        );
        // 192.0.2.1 is not public either (RFC 5737); a public address is dialled, here in vain.
        let error = dialled(&public(&["127.0.0.1", "192.0.2.1", "2606:4700::1"])).await;
        assert!(!matches!(error, Err(DialError::PrivateAddress { .. }) | Ok(_)));
        assert_eq!(requests.get(), 0);
    });
}

#[test]
fn if_all_addresses_refuse_the_error_names_one() {
    worker(async {
        let port = refusing_port();
        let target = named(port, CONNECT, &resolves_to(&["127.0.0.1", "127.0.0.2"]));
        let error = dialled(&target).await.expect_err("no connection").to_string();
        assert!(error.starts_with("cannot connect to api.test (127.0.0.2:"), "{error}");
        assert!(error.contains("Connection refused"), "{error}");
    });
}

/// A listener with a full backlog: connecting to it times out.
fn black_hole(address: &str) -> (SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener
        .bind(&format!("{address}:0").parse::<SocketAddr>().expect("an address").into())
        .expect("bound");
    listener.listen(0).expect("listening");
    let bound = listener.local_addr().expect("an address");
    let mut sockets = vec![listener];
    loop {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let connected = filler.connect_timeout(&bound, SHORT);
        sockets.push(filler);
        if connected.is_err() {
            return (bound.as_socket().expect("an address"), sockets);
        }
    }
}

#[test]
fn a_black_hole_times_out_within_the_connect_timeout() {
    worker(async {
        let (address, _sockets) = black_hole("127.0.0.1");
        let (pools, target) = (pools(), named(address.port(), SHORT, &resolves_to(&["127.0.0.1"])));
        let error = pools.dial(&target).await.expect_err("no connection");
        assert_eq!(error.to_string(), "no connection to api.test within 50ms, waiting for TCP");
        assert_eq!(pools.open_connections(&target), 0);
    });
}

#[test]
fn a_black_hole_does_not_delay_the_next_address_for_long() {
    worker(async {
        let (address, _sockets) = black_hole("127.0.0.2");
        let beside =
            tokio::net::TcpListener::bind(("127.0.0.1", address.port())).await.expect("the port");
        let target = named(address.port(), CONNECT, &resolves_to(&["127.0.0.2", "127.0.0.1"]));
        let connection = dialled(&target).await.expect("a connection");
        assert_eq!(connection.peer(), beside.local_addr().ok());
    });
}

// === names ===

#[test]
fn an_unresolvable_name_has_a_clear_error() {
    worker(async {
        let lookup =
            |_| -> LookupFuture { Box::pin(async { Err(io::Error::other("no such host")) }) };
        let resolver = Resolver::with_lookup(Handle::current(), lookup);
        let error = dialled(&named(80, CONNECT, &resolver)).await.expect_err("no connection");
        assert!(matches!(&error, DialError::Dns { host, .. } if host == "api.test"));
        assert_eq!(error.to_string(), "cannot resolve api.test: no such host");
    });
}

#[test]
fn dials_share_one_lookup_and_wait_for_it_within_the_connect_timeout() {
    worker(async {
        let lookups = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lookups);
        let lookup = move |_| -> LookupFuture {
            count.fetch_add(1, Ordering::SeqCst);
            Box::pin(pending())
        };
        let resolver = Resolver::with_lookup(Handle::current(), lookup);
        let (pools, target) = (pools(), named(80, SHORT, &resolver));
        let (first, second) = tokio::join!(pools.dial(&target), pools.dial(&target));
        for error in [first.expect_err("a timeout"), second.expect_err("a timeout")] {
            assert!(matches!(error, DialError::Timeout { phase: DialPhase::Dns, .. }), "{error}");
        }
        assert_eq!(lookups.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn localhost_is_resolved_by_the_system() {
    worker(async {
        let (address, _) = origin(hello).await;
        let resolver = Resolver::new(Handle::current());
        let url = url("http", "localhost", address.port());
        let target = DialTarget::new(&url, &ClientTls::default(), None, CONNECT, 1, &resolver)
            .expect("a target");
        assert_eq!(exchange(dialled(&target).await.expect("a connection")).await, "hi");
        let addresses = resolver.entry("localhost").addresses().await.expect("addresses");
        assert!(addresses.iter().all(IpAddr::is_loopback));
    });
}

// === a forward proxy ===

/// A proxy that requires `authorization` and always connects to `to`.
async fn forward_proxy(
    authorization: &'static str,
    to: SocketAddr,
) -> (SocketAddr, Rc<RefCell<Vec<String>>>) {
    let heads = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&heads);
    let serve = move |mut stream: TcpStream| {
        let seen = Rc::clone(&seen);
        async move {
            let head = head(&mut stream).await.expect("a head");
            let admitted = head.contains(authorization);
            seen.borrow_mut().push(head);
            if !admitted {
                let rejection =
                    b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
                return stream.write_all(rejection).await.expect("written");
            }
            let mut upstream = TcpStream::connect(to).await.expect("the origin");
            stream
                .write_all(b"HTTP/1.1 200 Connection established\r\nvia: p\r\n\r\n")
                .await
                .expect("written");
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
        }
    };
    (origin(serve).await.0, heads)
}

fn through(proxy: SocketAddr, authorization: Option<&'static str>) -> ForwardProxy {
    ForwardProxy {
        url: url("http", "127.0.0.1", proxy.port()),
        authorization: authorization.map(HeaderValue::from_static),
    }
}

/// A target behind the proxy, which resolves the name.
fn target_through(
    proxy: &ForwardProxy,
    scheme: &str,
    tls: &ClientTls,
) -> Result<Arc<DialTarget>, TargetError> {
    let port = if scheme == "https" { 443 } else { 80 };
    let url = url(scheme, "api.test", port);
    DialTarget::new(&url, tls, Some(proxy), CONNECT, 1, &resolves_to(&[]))
}

fn plain_through(proxy: &ForwardProxy) -> Arc<DialTarget> {
    target_through(proxy, "http", &ClientTls::default()).expect("a target")
}

#[test]
fn a_proxy_receives_connect_with_its_credentials() {
    worker(async {
        let (address, _) = origin(hello).await;
        let (proxy, heads) = forward_proxy("Proxy-Authorization: Basic dTpw\r\n", address).await;
        let proxy = through(proxy, Some("Basic dTpw"));
        let target = plain_through(&proxy);
        assert_eq!(exchange(dialled(&target).await.expect("a connection")).await, "hi");
        assert!(
            heads.borrow()[0].starts_with("CONNECT api.test:80 HTTP/1.1\r\nHost: api.test:80\r\n")
        );
    });
}

#[test]
fn tls_goes_through_the_proxy_to_the_provider() {
    worker(async {
        let authority = Authority::new();
        let address = tls_origin(acceptor(&authority, None)).await;
        let (proxy, _) = forward_proxy("", address).await;
        let tls = ClientTls { ca: Some(authority.pem()), ..ClientTls::default() };
        let target = target_through(&through(proxy, None), "https", &tls).expect("a target");
        assert_eq!(exchange(dialled(&target).await.expect("a connection")).await, "hi");
    });
}

#[test]
fn the_error_of_a_proxy_that_rejects_the_credentials_does_not_contain_them() {
    worker(async {
        let (proxy, _) =
            forward_proxy("Proxy-Authorization: Basic dTpw\r\n", ([127, 0, 0, 1], 9).into()).await;
        let proxy = through(proxy, Some("Basic c2VjcmV0"));
        let target = plain_through(&proxy);
        let error = dialled(&target).await.expect_err("refused");
        assert!(matches!(error, DialError::Proxy { status: Some(407), .. }));
        assert!(error.to_string().contains("it requires credentials, 407"), "{error}");
        assert!(!format!("{error:?} {error} {target:?} {proxy:?}").contains("c2VjcmV0"));
    });
}

#[test]
fn the_head_of_a_proxys_response_is_bounded() {
    worker(async {
        let (proxy, _) = origin(|mut stream| async move {
            head(&mut stream).await;
            while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
        })
        .await;
        let proxy = through(proxy, None);
        let target = plain_through(&proxy);
        let error = dialled(&target).await.expect_err("refused").to_string();
        assert!(error.ends_with("the head of its response is over 8 KiB"), "{error}");
    });
}

#[test]
fn a_proxy_over_tls_is_rejected_when_the_policy_is_loaded() {
    worker(async {
        let mut proxy = through(([127, 0, 0, 1], 3128).into(), None);
        proxy.url.https = true;
        let rejected = target_through(&proxy, "http", &ClientTls::default());
        assert!(matches!(rejected, Err(TargetError::ProxyScheme { .. })));
    });
}
