//! A provider with its own port and switchable faults, one for each way in which providers fail.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::chat::{self, ChatBody, Delivery};

#[derive(Debug)]
pub struct Provider {
    pub name: &'static str,
    pub port: u16,
    first_delay: Duration,
    /// Standard deviation of the logarithm of the delay.
    jitter: f64,
    /// 0: never.
    fails_every: u32,
    fault: watch::Sender<Fault>,
    requests: AtomicU32,
}

/// A fault of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Each response is a 500.
    Error,
    /// Each response is a 429 with Retry-After.
    Throttle,
    /// It accepts requests and does not respond.
    Hang,
    /// It resets the connection of each request.
    Reset,
    /// Its port is closed.
    Refuse,
    /// Each response is interrupted in the middle.
    Interrupt,
    /// Every third response is a 500.
    Third,
    /// It takes 30 % longer.
    Slow,
}

impl Fault {
    pub const ALL: [(&'static str, Fault); 9] = [
        ("mend", Fault::None),
        ("500", Fault::Error),
        ("429", Fault::Throttle),
        ("hang", Fault::Hang),
        ("reset", Fault::Reset),
        ("refuse", Fault::Refuse),
        ("cut", Fault::Interrupt),
        ("third", Fault::Third),
        ("slow", Fault::Slow),
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::None => "is healthy",
            Fault::Error => "returns 500",
            Fault::Throttle => "returns 429 with Retry-After: 10",
            Fault::Hang => "accepts requests and does not respond",
            Fault::Reset => "resets the connection of each request",
            Fault::Refuse => "refuses connections",
            Fault::Interrupt => "interrupts each response in the middle",
            Fault::Third => "returns 500 every third time",
            Fault::Slow => "is 30 % slower",
        })
    }
}

// === impl Provider ===

impl Provider {
    pub fn new(name: &'static str, port: u16) -> Self {
        let (fault, _) = watch::channel(Fault::None);
        let first_delay = Duration::from_millis(30);
        let requests = AtomicU32::new(0);
        Self { name, port, first_delay, jitter: 0.0, fails_every: 0, fault, requests }
    }

    pub fn failing_every(self, fails_every: u32) -> Self {
        Self { fails_every, ..self }
    }

    pub fn with_first_delay(self, first_delay: Duration) -> Self {
        Self { first_delay, ..self }
    }

    pub fn with_jitter(self, jitter: f64) -> Self {
        Self { jitter, ..self }
    }

    /// A delay to the first word, while it is healthy.
    pub fn draw_delay(&self) -> Duration {
        // A sum of uniform numbers is nearly normal.
        let normal = (0..12).map(|_| fastrand::f64()).sum::<f64>() - 6.0;
        self.first_delay.mul_f64((self.jitter * normal).exp())
    }

    pub fn set_fault(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    pub fn fault(&self) -> Fault {
        *self.fault.borrow()
    }

    /// The number of requests so far.
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Serves until the process ends. The listener is closed while the fault is `Refuse`.
    pub async fn serve(self: &Arc<Self>, mut listener: TcpListener) -> io::Result<()> {
        let mut fault = self.fault.subscribe();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    tokio::spawn(Arc::clone(self).connection(stream));
                }
                () = until(&mut fault, |fault| fault == Fault::Refuse) => {
                    drop(listener);
                    until(&mut fault, |fault| fault != Fault::Refuse).await;
                    listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let reset = Arc::new(Notify::new());
        let mut fault = self.fault.subscribe();
        let service = service_fn(|request| {
            let (provider, reset) = (Arc::clone(&self), Arc::clone(&reset));
            async move { Ok::<_, Infallible>(provider.respond(request, &reset).await) }
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // An error here concerns only the client.
            _ = &mut connection => {}
            () = until(&mut fault, |fault| fault == Fault::Refuse) => {}
            () = reset.notified() => {
                // With no unsent bytes and no linger, closing sends a reset.
                let _ = connection.into_parts().io.into_inner().set_zero_linger();
            }
        }
    }

    async fn respond(&self, request: Request<Incoming>, reset: &Notify) -> Response<ChatBody> {
        let nth = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let error = |status, message| chat::error(status, self.name, message);
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return error(StatusCode::BAD_REQUEST, "the request body is incomplete");
        };
        let fault = self.fault();
        match fault {
            Fault::Error => error(StatusCode::INTERNAL_SERVER_ERROR, "set to fail"),
            Fault::Throttle => error(StatusCode::TOO_MANY_REQUESTS, "set to throttle"),
            Fault::Hang => std::future::pending().await,
            Fault::Reset => {
                reset.notify_one();
                std::future::pending().await
            }
            Fault::Third if nth.is_multiple_of(3) => {
                error(StatusCode::INTERNAL_SERVER_ERROR, "set to fail every third time")
            }
            _ if self.fails_every > 0 && nth.is_multiple_of(self.fails_every) => {
                error(StatusCode::INTERNAL_SERVER_ERROR, "flaky: every third request fails")
            }
            _ if (head.method, head.uri.path()) == (Method::POST, "/v1/chat/completions") => {
                let slowdown = if fault == Fault::Slow { 1.3 } else { 1.0 };
                let delivery = Delivery {
                    first_delay: self.draw_delay().mul_f64(slowdown),
                    word_delay: Duration::from_millis(80),
                    is_interrupted: fault == Fault::Interrupt,
                };
                chat::respond(self.name, &body.to_bytes(), delivery).await
            }
            _ => error(StatusCode::NOT_FOUND, "only POST /v1/chat/completions exists here"),
        }
    }
}

/// Waits until the fault meets the condition, or forever if it can no longer change.
async fn until(fault: &mut watch::Receiver<Fault>, mut wanted: impl FnMut(Fault) -> bool) {
    if fault.wait_for(|fault| wanted(*fault)).await.is_err() {
        std::future::pending().await
    }
}
