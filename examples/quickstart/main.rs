//! Three small providers with an LLM API, and the sidecar in front of them, for experiments.
//!
//! `cargo quickstart` needs nothing else and writes no file. It runs with the policy
//! `examples/policies/quickstart.yaml`, which you can edit meanwhile. `-- brownout` runs with
//! `examples/policies/brownout.yaml` and walks through its degradation modes. `-- regression` slows a
//! provider down by 30 % and shows how that is detected, reported and acted on. Ctrl-C ends it.
//!
//! The providers run on a thread of their own. The sidecar runs in this process and is the same
//! that `outrigger run` starts.

// A program beside the sidecar reads the clock itself.
#![allow(clippy::disallowed_methods)]

mod chat;
mod provider;
mod regression;
mod switchboard;

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outrigger::app::{self, ListenAddress, Options, StartError, StoreDir};
use outrigger::policy::yaml::diagnostic::render;
use outrigger::telemetry::logging::{self, DaemonLogFormat};
use tracing_subscriber::filter::LevelFilter;

use provider::Provider;

const POLICIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/policies");
const LISTEN: u16 = 8700;
const ADMIN: u16 = 8701;
const SWITCHBOARD: u16 = 8710;
const STEADY: u16 = 8714;
const STEADY_DELAY: Duration = Duration::from_millis(120);

/// A provider, and its listener until it is served.
struct BoundProvider {
    provider: Arc<Provider>,
    listener: TcpListener,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            print(&format!("quickstart: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

/// A policy, and the instructions that are printed when it is in force.
#[derive(Clone, Copy)]
struct Scenario {
    policy: &'static str,
    instructions: &'static str,
    /// Whether the provider `steady` is called and slowed down.
    slows_down: bool,
}

impl Scenario {
    const QUICKSTART: Scenario =
        Scenario { policy: "quickstart.yaml", instructions: QUICKSTART, slows_down: false };
    const BROWNOUT: Scenario =
        Scenario { policy: "brownout.yaml", instructions: BROWNOUT, slows_down: false };
    const REGRESSION: Scenario =
        Scenario { policy: "regression.yaml", instructions: REGRESSION, slows_down: true };
}

fn scenario(arguments: &[String]) -> Result<Scenario> {
    match arguments {
        [] => Ok(Scenario::QUICKSTART),
        [name] if name == "brownout" => Ok(Scenario::BROWNOUT),
        [name] if name == "regression" => Ok(Scenario::REGRESSION),
        _ => bail!("expected no argument, `brownout` or `regression` (cargo quickstart brownout)"),
    }
}

fn run() -> Result<ExitCode> {
    let scenario = scenario(&std::env::args().skip(1).collect::<Vec<_>>())?;
    for (port, what) in [(LISTEN, "the sidecar"), (ADMIN, "the sidecar's admin side")] {
        drop(open(port, what)?);
    }
    let switchboard = open(SWITCHBOARD, "the switchboard")?;
    let providers = [
        Provider::new("flaky", 8711).failing_every(3),
        Provider::new("slow", 8712).with_first_delay(Duration::from_millis(1200)),
        Provider::new("sound", 8713),
        Provider::new("steady", STEADY).with_first_delay(STEADY_DELAY).with_jitter(0.15),
    ]
    .map(|provider| {
        let listener = open(provider.port, &format!("the provider `{}`", provider.name))?;
        Ok(BoundProvider { provider: Arc::new(provider), listener })
    });
    let providers = providers.into_iter().collect::<Result<Vec<_>>>()?;
    let data = tempfile::tempdir()?;
    let steady = providers.iter().find(|bound| bound.provider.port == STEADY);
    if let Some(bound) = steady.filter(|_| scenario.slows_down) {
        regression::learn(data.path(), &bound.provider)?;
    }
    thread::Builder::new().name("providers".into()).spawn(move || {
        if let Err(error) = serve(switchboard, providers, scenario) {
            print(&format!("quickstart: the providers stopped: {error:#}\n"));
        }
    })?;
    sidecar(scenario, data.path())
}

/// Runs until Ctrl-C.
fn sidecar(scenario: Scenario, data: &Path) -> Result<ExitCode> {
    logging::init(DaemonLogFormat::Text, LevelFilter::INFO)?;
    let options = Options {
        policies: Path::new(POLICIES).join(scenario.policy),
        listen: ListenAddress::Tcp((Ipv4Addr::LOCALHOST, LISTEN).into()),
        admin_token: None,
        admin: Some((Ipv4Addr::LOCALHOST, ADMIN).into()),
        metrics: None,
        workers: 2,
        watch: true,
        poll: Duration::from_secs(10),
        data: match scenario.slows_down {
            true => StoreDir::Explicit(data.to_owned()),
            false => StoreDir::Disabled,
        },
        fleet: None,
    };
    match app::run(&options) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(StartError::Policy(problems)) => {
            bail!("the policy is not valid\n\n{}", render(&problems, false))
        }
        Err(error) => Err(error.into()),
    }
}

fn open(port: u16, what: &str) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
        format!(
            "{what} needs port {port} (is another quickstart running? end it, or find the process \
             that uses the port: ss -ltnp 'sport = :{port}')"
        )
    })
}

#[tokio::main(flavor = "current_thread")]
async fn serve(
    switchboard: TcpListener,
    bound: Vec<BoundProvider>,
    scenario: Scenario,
) -> Result<()> {
    let providers: Vec<_> = bound.iter().map(|bound| Arc::clone(&bound.provider)).collect();
    let steady = providers.iter().find(|provider| provider.port == STEADY).cloned();
    for BoundProvider { provider, listener } in bound {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::spawn(async move {
            if let Err(error) = provider.serve(listener).await {
                print(&format!("quickstart: the provider `{}` stopped: {error}\n", provider.name));
            }
        });
    }
    tokio::spawn(async move {
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, LISTEN)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        print(scenario.instructions);
        let steady = steady.filter(|_| scenario.slows_down);
        if let Some(provider) = steady
            && let Err(error) = regression::demonstrate(provider).await
        {
            print(&format!("quickstart: the demonstration stopped: {error:#}\n"));
        }
    });
    switchboard.set_nonblocking(true)?;
    switchboard::serve(tokio::net::TcpListener::from_std(switchboard)?, &providers).await
}

/// Prints to standard error, like the log, and ignores a closed stream.
fn print(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

const QUICKSTART: &str = r#"
  Outrigger listens on http://127.0.0.1:8700. It balances requests over the providers flaky (every
  third response is a 500) and slow (1.2 s to the first word), and fails over to sound.

  Send a few requests, and watch here which provider served them and what was retried:

    curl -i localhost:8700/v1/chat/completions -d '{"model":"demo","messages":[{"role":"user","content":"hi"}]}'
    curl -N localhost:8700/v1/chat/completions -d '{"model":"demo","stream":true,"messages":[]}'

  Break a provider and send more; repair it, and see traffic return:

    curl -X POST localhost:8710/slow/refuse      # or 500, 429, hang, reset, cut, third; flaky, slow, sound
    curl -X POST localhost:8710/slow/mend
    curl localhost:8710                          # the state of each provider

  Edit the policy while it runs; a saved change takes effect at once:

    examples/policies/quickstart.yaml                     # `balance: round_robin` to `latency`; then try a typing error

  Inspect its state:

    curl localhost:8701/api/circuit-breakers     # which breaker is open, why and until when
    curl localhost:8701/api/policies             # the policy in force, and why the last change was rejected
    curl localhost:8701/metrics
    cargo run -- explain --policies examples/policies/quickstart.yaml POST /v1/chat/completions

  Ctrl-C drains and ends it; a second Ctrl-C ends it at once.

"#;

const BROWNOUT: &str = r#"
  Outrigger listens on http://127.0.0.1:8700 with the policy examples/policies/brownout.yaml, whose comments
  explain these steps. Keep sending requests in another terminal, and see which provider serves them:

    while sleep 0.2; do curl -s -D- localhost:8700/v1/chat/completions -d '{"model":"demo","messages":[{"role":"user","content":"'$((RANDOM % 3))'"}]}' |
      grep -iE '^(HTTP|outrigger-degraded|cache-status)|"content"|message'; done

  1. Every third response fails: requests soon go to a smaller model. Repair it, and the mode ends ten seconds later.

    curl -X POST localhost:8710/sound/third
    curl -X POST localhost:8710/sound/mend

  2. The provider is down: repeated requests are served from the cache, the others by the fallback.

    curl -X POST localhost:8710/sound/refuse

  3. The fallback is down too: repeated requests are still served, the others are rejected with 503.

    curl -X POST localhost:8710/slow/refuse

  4. Both recover, and the modes end one after the other:

    curl -X POST localhost:8710/sound/mend; curl -X POST localhost:8710/slow/mend

  Meanwhile: cargo run -- degrade            # which modes are in force, why, and how many requests they affected
             cargo run -- cache

  Ctrl-C drains and ends it; a second Ctrl-C ends it at once.

"#;

const REGRESSION: &str = r#"
  Outrigger listens on http://127.0.0.1:8700 with the policy examples/policies/regression.yaml. This example sends 20
  requests a second to the provider steady, which responds after 120 ms, more or less. In production a day of calls is
  needed to learn what is usual; this day was simulated, and the sidecar has restored what was learned from it.

  After 30 s the provider becomes 30 % slower. Watch how that is detected, and what the sidecar does about it:

"#;
