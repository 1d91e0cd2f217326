//! A provider on a port of its own, which can be broken in every way that providers break.

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

use crate::chat::{self, Manner, Reply};

#[derive(Debug)]
pub struct Provider {
    pub name: &'static str,
    pub port: u16,
    thinking: Duration,
    /// 0: never by itself.
    fails_every: u32,
    fault: watch::Sender<Fault>,
    asked: AtomicU32,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Mended,
    /// Each answer is a 500.
    Error,
    /// Each answer is a 429 that asks to wait.
    Throttle,
    /// It takes requests and says nothing.
    Hang,
    /// It breaks the connection when a request comes.
    Reset,
    /// Nobody listens.
    Refuse,
    /// Its answers break in the middle.
    Cut,
    /// Every third answer is a 500.
    Third,
}

impl Fault {
    pub const ALL: [(&'static str, Fault); 8] = [
        ("mend", Fault::Mended),
        ("500", Fault::Error),
        ("429", Fault::Throttle),
        ("hang", Fault::Hang),
        ("reset", Fault::Reset),
        ("refuse", Fault::Refuse),
        ("cut", Fault::Cut),
        ("third", Fault::Third),
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Mended => "is well",
            Fault::Error => "answers 500",
            Fault::Throttle => "answers 429, Retry-After: 10",
            Fault::Hang => "takes requests and says nothing",
            Fault::Reset => "resets the connection of each request",
            Fault::Refuse => "refuses connections",
            Fault::Cut => "breaks off in the middle of each answer",
            Fault::Third => "answers 500 every third time",
        })
    }
}

// === impl Provider ===

impl Provider {
    pub fn new(name: &'static str, port: u16) -> Self {
        let (fault, _) = watch::channel(Fault::Mended);
        let thinking = Duration::from_millis(30);
        Self { name, port, thinking, fails_every: 0, fault, asked: AtomicU32::new(0) }
    }

    pub fn failing_every(self, fails_every: u32) -> Self {
        Self { fails_every, ..self }
    }

    pub fn thinking_for(self, thinking: Duration) -> Self {
        Self { thinking, ..self }
    }

    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    pub fn fault(&self) -> Fault {
        *self.fault.borrow()
    }

    /// Requests that came so far.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Serves for ever. `port` is where it listens first; a provider that refuses gives it up.
    pub async fn serve(self: &Arc<Self>, mut port: TcpListener) -> io::Result<()> {
        let mut fault = self.fault.subscribe();
        loop {
            tokio::select! {
                accepted = port.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    tokio::spawn(Arc::clone(self).connection(stream));
                }
                () = until(&mut fault, |fault| fault == Fault::Refuse) => {
                    drop(port);
                    until(&mut fault, |fault| fault != Fault::Refuse).await;
                    port = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let reset = Arc::new(Notify::new());
        let mut fault = self.fault.subscribe();
        let answer = service_fn(|request| {
            let (provider, reset) = (Arc::clone(&self), Arc::clone(&reset));
            async move { Ok::<_, Infallible>(provider.answer(request, &reset).await) }
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), answer);
        tokio::select! {
            // How it ended is its client's affair.
            _ = &mut connection => {}
            () = until(&mut fault, |fault| fault == Fault::Refuse) => {}
            () = reset.notified() => {
                // Nothing waits to be sent: closing sends a reset.
                let _ = connection.into_parts().io.into_inner().set_zero_linger();
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, reset: &Notify) -> Response<Reply> {
        let nth = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let refuse = |status, message| chat::refusal(status, self.name, message);
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return refuse(StatusCode::BAD_REQUEST, "the request's body broke off");
        };
        let fault = self.fault();
        match fault {
            Fault::Error => refuse(StatusCode::INTERNAL_SERVER_ERROR, "broken by hand"),
            Fault::Throttle => refuse(StatusCode::TOO_MANY_REQUESTS, "throttled by hand"),
            Fault::Hang => std::future::pending().await,
            Fault::Reset => {
                reset.notify_one();
                std::future::pending().await
            }
            Fault::Third if nth.is_multiple_of(3) => {
                refuse(StatusCode::INTERNAL_SERVER_ERROR, "broken by hand, every third time")
            }
            _ if self.fails_every > 0 && nth.is_multiple_of(self.fails_every) => {
                refuse(StatusCode::INTERNAL_SERVER_ERROR, "flaky, as every third time")
            }
            _ if (head.method, head.uri.path()) == (Method::POST, "/v1/chat/completions") => {
                let between_words = Duration::from_millis(80);
                let manner =
                    Manner { thinking: self.thinking, between_words, cut: fault == Fault::Cut };
                chat::answer(self.name, &body.to_bytes(), manner).await
            }
            _ => refuse(StatusCode::NOT_FOUND, "only POST /v1/chat/completions is known here"),
        }
    }
}

/// Waits until the fault is as wanted; for ever, when it can no longer change.
async fn until(fault: &mut watch::Receiver<Fault>, mut wanted: impl FnMut(Fault) -> bool) {
    if fault.wait_for(|fault| wanted(*fault)).await.is_err() {
        std::future::pending().await
    }
}
