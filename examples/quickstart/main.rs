//! Three small providers that speak like an LLM's API, and the sidecar before them, to play with.
//!
//! `cargo run --example quickstart` needs nothing else, writes no file and runs on the policy in
//! `policies/quickstart.yaml`, which may be edited meanwhile; `-- brownout` on
//! `policies/brownout.yaml`, whose story it plays. Ctrl-C ends it.
//!
//! The providers live on a thread of their own; the sidecar is the one that `outrigger run` starts,
//! in this process.

mod chat;
mod provider;
mod switchboard;

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outrigger::app::{self, ListenAddress, Options, StartError};
use outrigger::policy::yaml::diagnostic::render;
use outrigger::telemetry::logging::{self, DaemonLogFormat};
use tracing_subscriber::filter::LevelFilter;

use provider::Provider;

const POLICIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/policies");
const LISTEN: u16 = 8700;
const ADMIN: u16 = 8701;
const SWITCHBOARD: u16 = 8710;

/// A provider, and the port where it waits for the thread that serves it.
type Opened = (Arc<Provider>, TcpListener);

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("quickstart: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

/// What is played: a policy, and what is told when it is in force.
#[derive(Clone, Copy)]
struct Play {
    policy: &'static str,
    welcome: &'static str,
}

fn play(arguments: &[String]) -> Result<Play> {
    match arguments {
        [] => Ok(Play { policy: "quickstart.yaml", welcome: WELCOME }),
        [name] if name == "brownout" => Ok(Play { policy: "brownout.yaml", welcome: BROWNOUT }),
        _ => bail!("expected nothing or `brownout` (cargo run --example quickstart -- brownout)"),
    }
}

fn run() -> Result<ExitCode> {
    let play = play(&std::env::args().skip(1).collect::<Vec<_>>())?;
    for (port, what) in [(LISTEN, "the sidecar"), (ADMIN, "the sidecar's admin side")] {
        drop(open(port, what)?);
    }
    let switchboard = open(SWITCHBOARD, "the switchboard")?;
    let opened = [
        Provider::new("flaky", 8711).failing_every(3),
        Provider::new("slow", 8712).thinking_for(Duration::from_millis(1200)),
        Provider::new("sound", 8713),
    ]
    .map(|provider| {
        let port = open(provider.port, &format!("the provider `{}`", provider.name))?;
        Ok((Arc::new(provider), port))
    });
    let opened = opened.into_iter().collect::<Result<Vec<Opened>>>()?;
    thread::Builder::new().name("providers".into()).spawn(move || {
        if let Err(error) = serve(switchboard, opened, play.welcome) {
            tell(&format!("quickstart: the providers stopped: {error:#}\n"));
        }
    })?;
    sidecar(play.policy)
}

/// Runs until Ctrl-C.
fn sidecar(policy: &str) -> Result<ExitCode> {
    logging::init(DaemonLogFormat::Text, LevelFilter::INFO);
    let options = Options {
        policies: Path::new(POLICIES).join(policy),
        listen: ListenAddress::Tcp((Ipv4Addr::LOCALHOST, LISTEN).into()),
        admin_token: None,
        admin: Some((Ipv4Addr::LOCALHOST, ADMIN).into()),
        metrics: None,
        workers: 2,
        watch: true,
        poll: Duration::from_secs(10),
        data: outrigger::app::StoreDir::Disabled,
        fleet: None,
    };
    match app::run(&options) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(StartError::Policy(problems)) => {
            bail!("its policy is not valid\n\n{}", render(&problems, false))
        }
        Err(error) => Err(error.into()),
    }
}

fn open(port: u16, what: &str) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
        format!(
            "{what} needs port {port} (is another quickstart running? end it, or find who has the \
             port: ss -ltnp 'sport = :{port}')"
        )
    })
}

#[tokio::main(flavor = "current_thread")]
async fn serve(switchboard: TcpListener, opened: Vec<Opened>, welcome: &'static str) -> Result<()> {
    let providers: Vec<_> = opened.iter().map(|(provider, _)| Arc::clone(provider)).collect();
    for (provider, port) in opened {
        port.set_nonblocking(true)?;
        let port = tokio::net::TcpListener::from_std(port)?;
        tokio::spawn(async move {
            if let Err(error) = provider.serve(port).await {
                tell(&format!("quickstart: the provider `{}` stopped: {error}\n", provider.name));
            }
        });
    }
    tokio::spawn(async move {
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, LISTEN)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tell(welcome);
    });
    switchboard.set_nonblocking(true)?;
    switchboard::serve(tokio::net::TcpListener::from_std(switchboard)?, &providers).await
}

/// To standard error, where the log goes too. Who closed it does not want to hear.
fn tell(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

const WELCOME: &str = r#"
  Outrigger listens on http://127.0.0.1:8700. Before it: flaky (every third answer is a 500) and
  slow (1.2 s to its first word), asked by turns; sound stands behind them.

  Ask, some times, and watch here which provider answered and what was repeated:

    curl -i localhost:8700/v1/chat/completions -d '{"model":"demo","messages":[{"role":"user","content":"hi"}]}'
    curl -N localhost:8700/v1/chat/completions -d '{"model":"demo","stream":true,"messages":[]}'

  Break a provider and ask again; mend it, and see traffic come back:

    curl -X POST localhost:8710/slow/refuse      # or 500, 429, hang, reset, cut, third; flaky, slow, sound
    curl -X POST localhost:8710/slow/mend
    curl localhost:8710                          # how each of them does

  Change the policy while it runs; what you save is in force at once:

    policies/quickstart.yaml                     # `balance: round_robin` to `latency`; then try a typing error

  See what it thinks:

    curl localhost:8701/api/circuit-breakers     # which provider is left alone, why, until when
    curl localhost:8701/api/policies             # what is in force, and why the last change was refused
    curl localhost:8701/metrics
    cargo run -- explain --policies policies/quickstart.yaml POST /v1/chat/completions

  Ctrl-C ends it; a second one at once.

"#;

const BROWNOUT: &str = r#"
  Outrigger listens on http://127.0.0.1:8700 with the policy policies/brownout.yaml, whose comments
  tell this story too. Keep somebody asking, in another terminal, and see who answers:

    while sleep 0.2; do curl -s -D- localhost:8700/v1/chat/completions -d '{"model":"demo","messages":[{"role":"user","content":"'$((RANDOM % 3))'"}]}' |
      grep -iE '^(HTTP|outrigger-degraded|cache-status)|"content"|message'; done

  1. Every third answer fails: soon each is asked of a smaller model. Mend it, and ten seconds later it is over.

    curl -X POST localhost:8710/sound/third
    curl -X POST localhost:8710/sound/mend

  2. The provider is gone: what was answered before is answered again, the rest by the spare one.

    curl -X POST localhost:8710/sound/refuse

  3. The spare one too: what is known is still answered, the rest gets an honest no.

    curl -X POST localhost:8710/slow/refuse

  4. They come back, and everything is left in its turn:

    curl -X POST localhost:8710/sound/mend; curl -X POST localhost:8710/slow/mend

  Meanwhile: cargo run -- degrade            # what is in force, why, and whom it touched
             cargo run -- cache

  Ctrl-C ends it; a second one at once.

"#;
