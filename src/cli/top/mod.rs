//! `outrigger top`: providers, routes and requests of a running sidecar, live in the terminal.
//!
//! One thread asks for the status each second, one follows the requests, and the main thread draws
//! and reads keys. The terminal is restored on every way out: a key, a signal, an error, a panic.

mod draw;
mod feed;
mod state;
mod tables;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};

use self::draw::draw;
use self::feed::{TopUpdate, start};
use self::state::{TopState, TopView};
use super::admin_client::AdminArgs;
use super::output::is_coloured;

/// How long a key waits at most to be seen, and an update to be drawn.
const TICK: Duration = Duration::from_millis(100);
/// Updates that wait to be drawn; the threads pause when there are more.
const PENDING: usize = 1024;

/// Show providers, routes and requests of a running sidecar, live.
///
/// Keys: / filters by text, s changes the order, p pauses, b shows breakers, q queues, d degradation modes, ? help, Esc goes back, and Ctrl-C quits. Figures are of the last minute, and are read each second.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger top\n  \
    outrigger top --admin 10.0.0.7:8701 --admin-token file:/run/secrets/admin")]
pub struct TopArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

pub fn run(args: TopArgs) -> Result<(), String> {
    if args.admin.json || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let hint = "for a program, use `outrigger status --json` and `outrigger tap --json`";
        return Err(format!("top needs a terminal ({hint})"));
    }
    let is_coloured = is_coloured(&std::io::stdout());
    // An unreachable sidecar is reported before the screen is taken.
    args.admin.get("/api/status")?;
    let (updates, inbox) = sync_channel(PENDING);
    let (views, view_inbox) = channel();
    start(args.admin, &updates, view_inbox)?;
    let mut terminal = ratatui::try_init().map_err(|error| error.to_string())?;
    let ended = show(&mut terminal, TopState::new(is_coloured), &inbox, &views);
    ratatui::try_restore().map_err(|error| error.to_string())?;
    ended
}

fn show(
    terminal: &mut DefaultTerminal,
    mut state: TopState,
    inbox: &Receiver<TopUpdate>,
    views: &Sender<TopView>,
) -> Result<(), String> {
    loop {
        for update in inbox.try_iter() {
            if state.apply(update).is_break() {
                return Ok(());
            }
        }
        terminal.draw(|frame| draw(frame, &state)).map_err(|error| error.to_string())?;
        if !event::poll(TICK).map_err(|error| error.to_string())? {
            continue;
        }
        let Event::Key(key) = event::read().map_err(|error| error.to_string())? else { continue };
        let view = state.view;
        if let ControlFlow::Break(()) = state.on_key(key) {
            return Ok(());
        }
        if state.view != view {
            // The thread has ended only if this one is about to.
            let _ = views.send(state.view);
        }
    }
}
