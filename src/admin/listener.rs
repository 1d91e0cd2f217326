//! Accepts and serves the connections of the admin or the metrics listener, within bounds.
//!
//! The listeners must not take descriptors or time from the proxy, even under attack. The
//! number of connections is bounded, and so is the time for a head and for a request. When all
//! connections are in use, a new one replaces the one that has been without a request for longest:
//! clients that send nothing cannot keep scrapes and probes out.
//!
//! After an early response the rest of the request's body is read. A connection that closes with unread
//! input is reset, and a client that is still sending loses the response (RFC 9112, 9.6).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::Request;
use axum::http::header::EXPECT;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::error::{ApiError, ApiErrorKind};
use super::state::AdminState;
use crate::clock;
use crate::proxy::downstream::accept::AcceptPauses;
use crate::telemetry::panics::Contained;

/// Time for the head of a request, from the connect or from the end of the last response.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Time for the body of a request and for its handling.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// Time from the head of a request to the end of its response.
const CONNECTION_TIME: Duration = Duration::from_secs(60);
/// Most bytes of a body that are read and dropped after an early response.
const MAX_REST: usize = 16 << 20;
/// Time for them.
const REST_TIME: Duration = Duration::from_secs(2);
/// The largest head.
const HEAD_BYTES: usize = 64 << 10;

/// One listener of the control thread.
pub(super) struct AdminListener {
    listener: TcpListener,
    pauses: AcceptPauses,
    open: Arc<OpenConnections>,
    /// Connections that were closed to make room.
    closed: Counter,
}

#[derive(Debug)]
struct OpenConnections {
    max: usize,
    list: Mutex<Vec<OpenConnection>>,
}

#[derive(Debug)]
struct OpenConnection {
    id: u64,
    /// When it was accepted, or began its last request.
    last_used: Instant,
    is_serving: bool,
    task: AbortHandle,
}

impl AdminListener {
    pub(super) fn new(name: &'static str, listener: TcpListener, state: &AdminState) -> Self {
        let open = OpenConnections { max: state.max_connections, list: Mutex::default() };
        let closed = state.live.metrics.admin_connections_closed.clone();
        AdminListener { listener, pauses: AcceptPauses::new(name), open: Arc::new(open), closed }
    }

    /// Serves connections until the process ends.
    pub(super) async fn serve(mut self, router: Router) {
        let service = TowerToHyperService::new(router);
        for id in 0.. {
            let stream = self.accept().await;
            if self.open.make_room() {
                self.closed.inc();
                // The task of the closed connection must run to free its descriptor.
                tokio::task::yield_now().await;
            }
            self.open.spawn(id, stream, service.clone());
        }
    }

    async fn accept(&mut self) -> TcpStream {
        loop {
            self.pauses.wait().await;
            if let Some((stream, _)) = self.pauses.check(self.listener.accept().await) {
                return stream;
            }
        }
    }
}

impl OpenConnections {
    /// Closes a connection if all are in use. Returns whether it did.
    fn make_room(&self) -> bool {
        let mut list = self.list.lock();
        if list.len() < self.max {
            return false;
        }
        let order = |at: &usize| (list[*at].is_serving, list[*at].last_used);
        if let Some(oldest) = (0..list.len()).min_by_key(order) {
            list.swap_remove(oldest).task.abort();
        }
        true
    }

    /// Serves a connection on its own task.
    fn spawn(self: &Arc<Self>, id: u64, stream: TcpStream, router: TowerToHyperService<Router>) {
        let connection = AdminConnection { id, open: Arc::clone(self) };
        // Held until the connection is in the list, because the task removes it from there.
        let mut list = self.list.lock();
        let task = tokio::spawn(connection.serve(stream, router)).abort_handle();
        list.push(OpenConnection { id, last_used: clock::now(), is_serving: false, task });
    }

    /// Handles one request of a connection.
    async fn handle(
        &self,
        id: u64,
        call: impl Future<Output = Result<Response, Infallible>>,
    ) -> Response {
        self.set_serving(id, true);
        let handled = tokio::time::timeout(REQUEST_TIME, Contained::new(call)).await;
        self.set_serving(id, false);
        match handled {
            Ok(Ok(Ok(response))) => response,
            Ok(Err(panic)) => {
                let detail = format!("a panic ended the request; the log has it as {panic}");
                ApiError::new(ApiErrorKind::Panicked, detail).into_response()
            }
            Err(_) => {
                let detail = format!("the request took longer than {} s", REQUEST_TIME.as_secs());
                ApiError::new(ApiErrorKind::RequestTimeout, detail).into_response()
            }
        }
    }

    fn set_serving(&self, id: u64, is_serving: bool) {
        if let Some(connection) = self.list.lock().iter_mut().find(|it| it.id == id) {
            connection.is_serving = is_serving;
            if is_serving {
                connection.last_used = clock::now();
            }
        }
    }

    /// When the connection began its last request.
    fn last_used(&self, id: u64) -> Option<Instant> {
        self.list.lock().iter().find(|it| it.id == id).map(|it| it.last_used)
    }
}

/// Removes itself from the list when it is dropped.
struct AdminConnection {
    id: u64,
    open: Arc<OpenConnections>,
}

impl AdminConnection {
    async fn serve(self, stream: TcpStream, router: TowerToHyperService<Router>) {
        let service = service_fn(|request: Request<Incoming>| {
            let (parts, body) = request.into_parts();
            // A client that sent `Expect` sends no body after a rejection.
            let is_sent = !parts.headers.contains_key(EXPECT);
            let body = AdminBody::new(body);
            let call = router.call(Request::from_parts(parts, body.clone()));
            let (open, id) = (&self.open, self.id);
            async move {
                let response = open.handle(id, call).await;
                if is_sent {
                    body.drop_rest().await;
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            served = connection => if let Err(error) = served {
                tracing::debug!(%error, "admin connection ended with an error");
            },
            () = self.expire() => {}
        }
    }

    /// Returns when the connection has not begun a request for too long.
    async fn expire(&self) {
        while let Some(last_used) = self.open.last_used(self.id) {
            let until = last_used + CONNECTION_TIME;
            if clock::now() >= until {
                return;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

impl Drop for AdminConnection {
    fn drop(&mut self) {
        self.open.list.lock().retain(|it| it.id != self.id);
    }
}

/// Clones read the same body.
#[derive(Clone, Debug)]
struct AdminBody(Arc<Mutex<Incoming>>);

impl AdminBody {
    fn new(body: Incoming) -> AdminBody {
        AdminBody(Arc::new(Mutex::new(body)))
    }

    /// Reads what the handler left, within bounds.
    async fn drop_rest(mut self) {
        let read = async {
            let mut left = MAX_REST;
            while let Some(Ok(frame)) = self.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        };
        let _ = tokio::time::timeout(REST_TIME, read).await;
    }
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}
