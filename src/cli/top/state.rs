//! The state of the screen: the last news, and what the keys have chosen.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value;

use super::feed::TopUpdate;
use crate::admin::breakers::BreakerList;
use crate::admin::degradation::DegradationStatus;
use crate::admin::queue::QueueList;
use crate::admin::status::SidecarStatus;
use crate::resilience::words::words;

/// Requests that are kept.
const KEPT: usize = 500;
/// Characters of a filter.
const MAX_FILTER: usize = 60;

words! {
    pub enum TopView {
        Overview = "overview",
        Breakers = "breakers",
        Queues = "queues",
        Degradation = "degradation",
        Help = "help",
    }
}

words! {
    /// The order of providers and routes.
    pub enum TopOrder {
        Rate = "rate",
        Name = "name",
        Failures = "failures",
        Latency = "p95",
    }
}

#[derive(Debug)]
pub(super) struct TopState {
    pub is_coloured: bool,
    pub status: Option<Box<SidecarStatus>>,
    pub breakers: Option<BreakerList>,
    pub queues: Option<QueueList>,
    pub degradation: Option<DegradationStatus>,
    /// Access records, newest first.
    pub requests: VecDeque<Value>,
    /// Why the figures are old.
    pub failure: Option<String>,
    pub view: TopView,
    pub order: TopOrder,
    pub is_paused: bool,
    pub filter: String,
    /// Keys go to the filter.
    pub edits_filter: bool,
}

impl TopState {
    pub fn new(is_coloured: bool) -> TopState {
        TopState {
            is_coloured,
            status: None,
            breakers: None,
            queues: None,
            degradation: None,
            requests: VecDeque::new(),
            failure: None,
            view: TopView::Overview,
            order: TopOrder::Rate,
            is_paused: false,
            filter: String::new(),
            edits_filter: false,
        }
    }

    /// Takes an update; breaks if the command is to end.
    pub fn apply(&mut self, update: TopUpdate) -> ControlFlow<()> {
        match update {
            TopUpdate::Stop => return ControlFlow::Break(()),
            TopUpdate::Failed(why) => self.failure = Some(why),
            _ if self.is_paused => {}
            TopUpdate::Status(status) => {
                (self.status, self.failure) = (Some(status), None);
            }
            TopUpdate::Breakers(breakers) => self.breakers = Some(breakers),
            TopUpdate::Queues(queues) => self.queues = Some(queues),
            TopUpdate::Degradation(degradation) => self.degradation = Some(degradation),
            TopUpdate::Request(record) => {
                self.requests.push_front(record);
                self.requests.truncate(KEPT);
            }
        }
        ControlFlow::Continue(())
    }

    /// Follows a key; breaks if the command is to end.
    pub fn on_key(&mut self, key: KeyEvent) -> ControlFlow<()> {
        if key.kind == KeyEventKind::Release {
            return ControlFlow::Continue(());
        }
        let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if with_control => return ControlFlow::Break(()),
            code if self.edits_filter => self.edit_filter(code),
            KeyCode::Char('/') => self.edits_filter = true,
            KeyCode::Char('s') => self.order = next_order(self.order),
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Char('b') => self.switch(TopView::Breakers),
            KeyCode::Char('q') => self.switch(TopView::Queues),
            KeyCode::Char('d') => self.switch(TopView::Degradation),
            KeyCode::Char('?') => self.switch(TopView::Help),
            KeyCode::Esc if self.view == TopView::Overview => self.filter.clear(),
            KeyCode::Esc => self.view = TopView::Overview,
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn edit_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.edits_filter = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.edits_filter = false;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.chars().count() < MAX_FILTER => self.filter.push(c),
            _ => {}
        }
    }

    /// The key of a view that is shown leads back.
    fn switch(&mut self, view: TopView) {
        self.view = if self.view == view { TopView::Overview } else { view };
    }

    /// Whether a row with this text is shown.
    pub fn admits(&self, text: &str) -> bool {
        text.to_lowercase().contains(&self.filter.to_lowercase())
    }
}

fn next_order(order: TopOrder) -> TopOrder {
    let at = TopOrder::ALL.iter().position(|one| *one == order).unwrap_or_default();
    TopOrder::ALL[(at + 1) % TopOrder::ALL.len()]
}
