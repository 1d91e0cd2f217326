//! Panics: each is logged and counted. It ends one request, or else the process.
//!
//! Code that handles one request, one job or one policy runs within [`contain`] or [`Contained`],
//! which turn a panic into an error. State that such code shares is consistent between calls:
//! atomics, and state machines behind short locks. A panic anywhere else would leave a thread or a
//! background task missing without a sign, so the hook ends the process with [`EXIT_CODE`], and the
//! supervisor starts it again. A future `spawn` is covered by this rule without a change.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use prometheus_client::metrics::counter::Counter;

use super::logging;
use crate::clock;

/// Exit code of a process that a panic ended; the same as of any other Rust program.
pub const EXIT_CODE: u8 = 101;

static PANICS: LazyLock<Counter> = LazyLock::new(Counter::default);

thread_local! {
    /// This thread runs code whose panics are contained.
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
    /// The panic that this thread is cleaning up after.
    static CURRENT: Cell<Option<PanicId>> = const { Cell::new(None) };
}

/// Names a panic in the log, in the access log and in the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanicId(u64);

impl fmt::Display for PanicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The number of panics so far.
pub fn counter() -> Counter {
    PANICS.clone()
}

/// The panic that this thread is unwinding from or cleaning up after.
pub fn current() -> Option<PanicId> {
    CURRENT.get().or_else(|| std::thread::panicking().then(name_current))
}

/// Gives the panic an id, unless the hook has done so.
fn name_current() -> PanicId {
    let id = CURRENT.get().unwrap_or_else(|| PanicId(clock::random()));
    CURRENT.set(Some(id));
    id
}

/// Logs every panic. The default hook writes to standard error, which may block.
pub(super) fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        let id = PanicId(clock::random());
        PANICS.inc();
        // A thread that is ending has lost both values.
        let _ = CURRENT.try_with(|current| current.set(Some(id)));
        let is_contained = IS_CONTAINED.try_with(Cell::get).unwrap_or(false);
        log(id, info, is_contained);
        if !is_contained {
            logging::flush();
            std::process::exit(i32::from(EXIT_CODE));
        }
    }));
}

fn log(id: PanicId, info: &PanicHookInfo<'_>, is_contained: bool) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("-");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let message = info.payload_as_str().unwrap_or("-");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    let backtrace = backtrace.map(|backtrace| backtrace.to_string());
    let consequence = if is_contained {
        "panic: the request, job run or policy load is ended"
    } else {
        "panic: the process ends"
    };
    tracing::error!(panic = %id, thread, location, message, backtrace, "{consequence}");
}

/// Calls a function and returns its panic as an error.
///
/// # Errors
/// When the function panicked.
pub fn contain<T>(function: impl FnOnce() -> T) -> Result<T, PanicId> {
    catch(function).inspect_err(|_| CURRENT.set(None))
}

/// As [`contain`], but [`current`] still names the panic afterwards.
fn catch<T>(function: impl FnOnce() -> T) -> Result<T, PanicId> {
    let outer = IS_CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(function));
    IS_CONTAINED.set(outer);
    result.map_err(|payload| {
        // Its destructor may panic as well, and a leak is harmless.
        std::mem::forget(payload);
        name_current()
    })
}

pin_project! {
    /// A future whose panic is its error. After a panic it has dropped the inner future.
    pub struct Contained<F> {
        #[pin]
        inner: Option<F>,
    }
}

impl<F> Contained<F> {
    pub fn new(inner: F) -> Self {
        Contained { inner: Some(inner) }
    }
}

impl<F> fmt::Debug for Contained<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Contained")
    }
}

impl<F: Future> Future for Contained<F> {
    type Output = Result<F::Output, PanicId>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut inner = self.project().inner;
        let mut poll = || inner.as_mut().as_pin_mut().map(|future| future.poll(cx));
        match catch(&mut poll) {
            Ok(Some(polled)) => polled.map(Ok),
            // It has panicked before.
            Ok(None) => Poll::Pending,
            Err(id) => {
                let _ = catch(|| inner.set(None));
                CURRENT.set(None);
                Poll::Ready(Err(id))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::task::Waker;

    /// A value that records which panic its destructor sees.
    struct Witness<'a>(&'a Cell<Option<PanicId>>);

    impl Drop for Witness<'_> {
        fn drop(&mut self) {
            self.0.set(current());
        }
    }

    #[test]
    fn a_contained_panic_is_an_error_that_destructors_can_name() {
        let (local, captured) = (Cell::new(None), Cell::new(None));
        let witness = Witness(&captured);
        let panics = std::future::poll_fn(|_| -> Poll<()> {
            let _ = (&witness, Witness(&local));
            panic!("expected in this test");
        });
        let captured_by = async {
            let _witness = Witness(&captured);
            panics.await;
        };
        let mut future = Box::pin(Contained::new(captured_by));
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Err(id)) = future.as_mut().poll(&mut cx) else { panic!("no error") };
        assert!(future.as_mut().poll(&mut cx).is_pending(), "it is not polled again");
        assert_eq!(current(), None);
        let inner = contain(|| contain(|| panic!("expected in this test")).is_err());
        assert_eq!(inner.map_err(|inner| inner == id), Ok(true));
        assert_eq!(contain(|| 1), Ok(1));
    }

    /// Runs this test again in a process of its own, in which the variable is set.
    const CHILD: &str = "OUTRIGGER_TEST_PANIC";

    #[test]
    fn a_panic_outside_a_request_is_logged_and_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            logging::init(logging::DaemonLogFormat::Text, tracing::Level::INFO.into())
                .expect("the log starts");
            let _ = contain(|| panic!("the first"));
            let thread = std::thread::Builder::new().name("background".into());
            let _ = thread.spawn(|| panic!("the second")).map(|thread| thread.join().is_err());
            unreachable!("the process has ended");
        }
        let name =
            "telemetry::panics::tests::a_panic_outside_a_request_is_logged_and_ends_the_process";
        let mut child = Command::new(std::env::current_exe().expect("this test"));
        child.args(["--exact", name, "--nocapture"]).env(CHILD, "1");
        let output = child.output().expect("this test runs again");
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(EXIT_CODE)), "{log}");
        let lines: Vec<_> = log.lines().filter(|line| line.contains("ERROR panic")).collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines[0].contains("policy load is ended") && lines[0].contains("the first"));
        assert!(lines[1].contains("the process ends") && lines[1].contains("\"background\""));
    }
}
