//! Reuse of connections, its limits, and waiting for a connection.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::test_server::*;
use super::{DialTarget, OutgoingBody, OutgoingRequest, SendError};
use crate::clock;
use crate::policy::sections::model::ClientTls;

const PEEK_AFTER: Duration = Duration::from_millis(100);

#[test]
fn a_connection_is_reused() {
    worker(async {
        let (address, accepted) = origin(hello).await;
        let (pools, target) = (pools(), target(address, 8));
        assert!(pools.idle(&target, clock::now()).is_none());
        let first = pools.dial(&target).await.expect("a connection");
        assert_eq!((first.peer(), first.is_reused()), (Some(address), false));
        assert_eq!(exchange(first).await, "hi");
        for _ in 0..3 {
            pools.age(&target, PEEK_AFTER);
            let again = pools.idle(&target, clock::now()).expect("an idle connection");
            assert!(again.is_reused());
            assert_eq!(exchange(again).await, "hi");
        }
        assert_eq!((accepted.get(), pools.open_connections(&target)), (1, 1));
    });
}

#[test]
fn a_complete_body_is_sent_with_its_length() {
    worker(async {
        let (address, _) = origin(|mut stream| async move {
            let head = head(&mut stream).await.expect("a head");
            assert!(head.contains("content-length: 4\r\n"), "{head}");
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.expect("a body");
            stream.write_all(HI).await.expect("written");
        })
        .await;
        let connection = pools().dial(&target(address, 1)).await.expect("a connection");
        let request =
            OutgoingRequest { body: OutgoingBody::full(Bytes::from_static(b"ping")), ..get() };
        let (_, body) = connection.send(request, line).await.expect("a response");
        assert_eq!(body.collect().await.expect("a body").to_bytes(), "hi");
    });
}

/// An origin on its own thread. It responds once, then runs `then` when the returned function is
/// called.
fn on_a_thread(
    then: impl FnOnce(std::net::TcpStream) + Send + 'static,
) -> (SocketAddr, impl FnOnce()) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (start, started) = mpsc::channel();
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).expect("a request") > 0);
        stream.write_all(HI).expect("written");
        started.recv().expect("started");
        then(stream);
        done.send(()).expect("received");
        drop(listener);
    });
    (address, move || {
        start.send(()).expect("sent");
        finished.recv().expect("finished");
    })
}

#[test]
fn a_connection_that_was_closed_while_idle_is_not_reused() {
    worker(async {
        let (address, close) = on_a_thread(drop);
        let (pools, target) = (pools(), target(address, 1));
        exchange(pools.dial(&target).await.expect("a connection")).await;
        // The runtime does not run meanwhile: only a peek at the socket can detect it.
        close();
        pools.age(&target, PEEK_AFTER);
        assert!(pools.idle(&target, clock::now()).is_none());
        until(|| pools.may_dial(&target)).await;
    });
}

#[test]
fn a_connection_with_input_while_idle_is_not_reused() {
    worker(async {
        let (keep, kept) = mpsc::channel();
        let (address, speak) = on_a_thread(move |mut stream| {
            stream.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").expect("written");
            keep.send(stream).expect("kept");
        });
        let (pools, target) = (pools(), target(address, 1));
        exchange(pools.dial(&target).await.expect("a connection")).await;
        speak();
        pools.age(&target, PEEK_AFTER);
        assert!(pools.idle(&target, clock::now()).is_none());
        until(|| pools.open_connections(&target) == 0).await;
        drop(kept);
    });
}

#[test]
fn the_slot_is_released_when_an_idle_connection_ends() {
    worker(async {
        let (address, _) = origin(|mut stream| async move {
            head(&mut stream).await;
            stream.write_all(HI).await.expect("written");
        })
        .await;
        let (pools, target) = (pools(), target(address, 1));
        exchange(pools.dial(&target).await.expect("a connection")).await;
        until(|| {
            pools.sweep(clock::now());
            pools.open_connections(&target) == 0
        })
        .await;
    });
}

#[test]
fn the_body_of_an_unsent_request_is_returned() {
    worker(async {
        let (address, close) = on_a_thread(drop);
        let (pools, target) = (pools(), target(address, 1));
        exchange(pools.dial(&target).await.expect("a connection")).await;
        let mut connection = pools.idle(&target, clock::now()).expect("an idle connection");
        close();
        until(|| connection.is_closed()).await;
        let request =
            OutgoingRequest { body: OutgoingBody::full(Bytes::from_static(b"once")), ..get() };
        match connection.send(request, line).await {
            Err(SendError::Unsent(body, _)) => {
                assert_eq!(body.collect().await.expect("a body").to_bytes(), "once");
            }
            other => panic!("{other:?}"),
        }
        until(|| pools.open_connections(&target) == 0).await;
    });
}

#[test]
fn the_body_of_a_started_request_is_not_returned() {
    worker(async {
        let (address, _) = origin(|mut stream| async move { drop(head(&mut stream).await) }).await;
        let connection = pools().dial(&target(address, 1)).await.expect("a connection");
        assert!(matches!(connection.send(get(), line).await, Err(SendError::Failed(_))));
    });
}

#[test]
fn attempts_beyond_the_limit_wait_in_order() {
    worker(async {
        let (address, accepted) = origin(hello).await;
        let (pools, target) = (pools(), target(address, 1));
        let held = pools.dial(&target).await.expect("a connection");
        assert!(!pools.may_dial(&target) && pools.idle(&target, clock::now()).is_none());
        let order = std::rc::Rc::default();
        let waiters: Vec<_> = (0..3)
            .map(|number| {
                let (pools, target) = (pools.clone(), target.clone());
                let order: std::rc::Rc<std::cell::RefCell<Vec<i32>>> = std::rc::Rc::clone(&order);
                tokio::task::spawn_local(async move {
                    pools.wait_for_capacity(&target).await;
                    let connection =
                        pools.idle(&target, clock::now()).expect("the returned connection");
                    order.borrow_mut().push(number);
                    exchange(connection).await;
                })
            })
            .collect();
        tokio::task::yield_now().await;
        exchange(held).await;
        // It is idle, but reserved for the first waiter.
        assert!(pools.idle(&target, clock::now()).is_none() && !pools.may_dial(&target));
        for waiter in waiters {
            waiter.await.expect("no panic");
        }
        assert_eq!(*order.borrow(), [0, 1, 2]);
        assert_eq!(accepted.get(), 1);
    });
}

#[test]
fn a_waiter_that_is_dropped_passes_its_claim_on() {
    worker(async {
        let (address, _) = origin(hello).await;
        let (pools, target) = (pools(), target(address, 1));
        let held = pools.dial(&target).await.expect("a connection");
        let (mut first, mut second) =
            (pools.wait_for_capacity(&target), pools.wait_for_capacity(&target));
        let pending = std::future::poll_fn(|cx| {
            use std::{future::Future, pin::Pin};
            let pending = Pin::new(&mut first).poll(cx).is_pending();
            std::task::Poll::Ready(pending && Pin::new(&mut second).poll(cx).is_pending())
        });
        assert!(pending.await);
        exchange(held).await;
        // Nothing else can happen that would wake the second.
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        drop(first);
        second.await;
        assert!(pools.idle(&target, clock::now()).is_some());
    });
}

#[test]
fn a_failed_dial_wakes_a_waiter() {
    worker(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = target(listener.local_addr().expect("an address"), 1);
        drop(listener);
        let pools = pools();
        let dial = pools.dial(&target);
        assert!(!pools.may_dial(&target));
        pools.wait_for_capacity(&target).await;
        assert!(pools.may_dial(&target));
        assert!(dial.await.is_err());
    });
}

#[test]
fn a_dial_completes_when_its_caller_leaves() {
    worker(async {
        let (address, accepted) = origin(hello).await;
        let (pools, target) = (pools(), target(address, 1));
        drop(pools.dial(&target));
        pools.wait_for_capacity(&target).await;
        let connection =
            pools.idle(&target, clock::now()).expect("the connection of the dropped dial");
        assert_eq!(exchange(connection).await, "hi");
        assert_eq!(accepted.get(), 1);
    });
}

#[test]
fn a_request_that_is_cancelled_closes_its_connection() {
    worker(async {
        let (closed, closing) = tokio::sync::oneshot::channel();
        let closed = std::cell::Cell::new(Some(closed));
        let (address, _) = origin(move |mut stream| {
            let closed = closed.take().expect("one connection");
            async move {
                head(&mut stream).await;
                assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
                closed.send(()).expect("received");
            }
        })
        .await;
        let (pools, target) = (pools(), target(address, 1));
        let connection = pools.dial(&target).await.expect("a connection");
        tokio::select! {
            biased;
            _ = connection.send(get(), line) => panic!("unexpected response"),
            () = tokio::task::yield_now() => {}
        }
        closing.await.expect("closed");
        until(|| pools.may_dial(&target)).await;
    });
}

#[test]
fn a_body_that_is_dropped_early_releases_its_slot() {
    worker(async {
        let (address, _) = origin(|mut stream| async move {
            head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf").await;
            let _ = stream.read(&mut [0]).await;
        })
        .await;
        let (pools, target) = (pools(), target(address, 1));
        let connection = pools.dial(&target).await.expect("a connection");
        drop(connection.send(get(), line).await.expect("a response"));
        pools.wait_for_capacity(&target).await;
        assert!(pools.idle(&target, clock::now()).is_none() && pools.may_dial(&target));
    });
}

#[test]
fn a_tunnel_keeps_its_slot() {
    worker(async {
        let (address, _) = origin(|mut stream| async move {
            head(&mut stream).await;
            let switching =
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(switching).await.expect("written");
            let byte = stream.read_u8().await.expect("a byte");
            stream.write_u8(byte).await.expect("written");
        })
        .await;
        let (pools, target) = (pools(), target(address, 1));
        let connection = pools.dial(&target).await.expect("a connection");
        let head = |out: &mut Vec<u8>| {
            line(out);
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        };
        let (_, body) = connection
            .send(OutgoingRequest { is_upgrade: true, ..get() }, head)
            .await
            .expect("a response");
        let mut tunnel = body.into_tunnel().expect("a tunnel");
        tunnel.write_u8(7).await.expect("written");
        assert_eq!(tunnel.read_u8().await.expect("a byte"), 7);
        assert_eq!((pools.open_connections(&target), pools.may_dial(&target)), (1, false));
        drop(tunnel);
        assert_eq!(pools.open_connections(&target), 0);
    });
}

#[test]
fn connections_that_idled_for_too_long_are_closed() {
    worker(async {
        let (address, _) = origin(hello).await;
        let (pools, target) = (pools(), target(address, 1));
        exchange(pools.dial(&target).await.expect("a connection")).await;
        pools.sweep(clock::now());
        assert_eq!(pools.open_connections(&target), 1);
        pools.sweep(clock::now() + Duration::from_secs(30));
        until(|| pools.open_connections(&target) == 0).await;
        pools.sweep(clock::now());
        assert_eq!(format!("{pools:?}"), "Pools(0)");
    });
}

#[test]
fn a_connection_is_not_reused_after_the_time_that_the_server_grants() {
    worker(async {
        let (address, _) = origin(|mut stream| async move {
            while head(&mut stream).await.is_some() {
                let response =
                    b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=3\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(response).await.expect("written");
            }
        })
        .await;
        let (pools, target) = (pools(), target(address, 1));
        exchange(pools.dial(&target).await.expect("a connection")).await;
        pools.age(&target, Duration::from_secs(1));
        exchange(pools.idle(&target, clock::now()).expect("within two seconds")).await;
        pools.age(&target, Duration::from_secs(2));
        assert!(pools.idle(&target, clock::now()).is_none());
    });
}

#[test]
fn a_connection_to_an_address_that_disappeared_is_not_reused() {
    worker(async {
        let (address, _) = origin(hello).await;
        let resolver = resolves_to(&["127.0.0.1"]);
        let url = url("http", "api.test", address.port());
        let target = DialTarget::new(&url, &ClientTls::default(), None, CONNECT, 4, &resolver)
            .expect("a target");
        let pools = pools();
        exchange(pools.dial(&target).await.expect("a connection")).await;
        let both = ["127.0.0.9", "127.0.0.1"].map(|text| text.parse().expect("an address"));
        resolver.entry("api.test").publish(Ok(both.to_vec()));
        exchange(pools.idle(&target, clock::now()).expect("the address is still there")).await;
        resolver.entry("api.test").publish(Ok(both[..1].to_vec()));
        assert!(pools.idle(&target, clock::now()).is_none());
    });
}

#[test]
fn a_pool_survives_a_reload_that_changes_only_its_limits() {
    worker(async {
        let (address, _) = origin(hello).await;
        let pools = pools();
        let before = target(address, 2);
        exchange(pools.dial(&before).await.expect("a connection")).await;
        let after = target(address, 1);
        assert_eq!(before.id(), after.id());
        assert!(!pools.may_dial(&after));
        assert!(pools.idle(&after, clock::now()).is_some());
    });
}

#[test]
fn a_connection_that_is_closed_at_once_is_not_reported_as_reused() {
    worker(async {
        let (address, _) = origin(|stream| async move { drop(stream) }).await;
        let mut connection = dialled(&target(address, 1)).await.expect("a connection");
        until(|| connection.is_closed()).await;
        assert!(!connection.is_reused());
        assert!(matches!(connection.send(get(), line).await, Err(SendError::Unsent(..))));
    });
}
