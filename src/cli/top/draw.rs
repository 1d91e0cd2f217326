//! Draws the screen.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::state::{TopState, TopView};
use super::tables::{
    BREAKERS, GAP, MODES, PROVIDERS, QUEUES, REQUESTS, ROUTES, TopColumn, TopRow, breakers, minute,
    modes, providers, queues, requests, routes,
};
use crate::cli::output::duration;
use crate::telemetry::escape::escape;

/// The least width of the last column.
const LEAST: usize = 16;

const HELP: &[&str] = &[
    "/       show only rows that contain a text; Enter keeps it, Esc removes it",
    "s       change the order of providers and routes: rate, name, failures, p95",
    "p       pause, and go on",
    "b       circuit breakers",
    "q       queues",
    "d       degradation modes",
    "?       this help",
    "Esc     back to providers, routes and requests",
    "Ctrl-C  quit",
    "",
    "Rates, shares and percentiles are of the last minute. Times of a provider are times to the",
    "first byte; CONTENT is the median time to the first content of a stream. Times of a route are",
    "those of whole requests. WANTED and SEEN are shares of the attempts. OK is the share of the",
    "attempts that succeeded; CLIENTS OK that of the requests sent to the provider that ended well",
    "for the application, perhaps at another one.",
];

/// Lines from the top to the bottom of the screen.
struct TopScreen<'s> {
    state: &'s TopState,
    width: usize,
    lines: Vec<Line<'static>>,
}

pub(super) fn draw(frame: &mut Frame<'_>, state: &TopState) {
    let area = frame.area();
    let mut page = TopScreen { state, width: usize::from(area.width), lines: Vec::new() };
    let height = usize::from(area.height);
    page.head();
    page.body(height.saturating_sub(1));
    let bottom = page.bottom();
    page.lines.truncate(height.saturating_sub(1));
    frame.render_widget(Paragraph::new(page.lines), area);
    if let Some(row) = area.height.checked_sub(1) {
        let last = Rect { y: area.y + row, height: 1, ..area };
        frame.render_widget(Paragraph::new(bottom), last);
    }
}

/// The text without what could change the terminal, cut to a width.
fn cut(text: &str, width: usize) -> String {
    let text = escape(text);
    if text.chars().count() <= width {
        return text.into_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.extend((width > 0).then_some('\u{2026}'));
    short
}

impl TopScreen<'_> {
    fn style(&self, colour: Color) -> Style {
        if self.state.is_coloured { Style::new().fg(colour) } else { Style::new() }
    }

    fn bold(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn add(&mut self, text: &str, style: Style) {
        let text = cut(text, self.width);
        self.lines.push(Line::from(Span::styled(text, style)));
    }

    fn head(&mut self) {
        let state = self.state;
        let Some(status) = &state.status else {
            self.add("outrigger top: waiting for the sidecar", self.bold());
            self.failure();
            return;
        };
        let ready = if status.ready { "ready" } else { "NOT READY" };
        let uptime = duration(status.uptime_seconds * 1000);
        let paused = if state.is_paused { "  PAUSED" } else { "" };
        let title = format!(
            "outrigger {} on {}: {ready}, up {uptime}, policy {}{paused}",
            status.version, status.listener, status.policy
        );
        self.add(&title, self.bold());
        let parts = minute(status);
        let widths = parts.iter().scan(0, |end, part| {
            *end += part.chars().count() + GAP;
            Some(*end)
        });
        let fitting = widths.filter(|end| *end <= self.width + GAP).count().max(1);
        self.add(&parts[..fitting.min(parts.len())].join("  "), Style::new());
        match (&state.failure, status.problems.is_empty()) {
            (Some(_), _) => self.failure(),
            (None, true) => self.add(&status.summary, self.style(Color::Green)),
            (None, false) => self.add(&status.summary, self.style(Color::Red)),
        }
    }

    /// The sidecar is gone: the figures on the screen are old.
    fn failure(&mut self) {
        if let Some(why) = &self.state.failure {
            let text = format!("NO CONNECTION, trying again: {why}");
            self.add(&text, self.style(Color::Red).add_modifier(Modifier::BOLD));
        }
    }

    fn body(&mut self, height: usize) {
        let state = self.state;
        self.lines.push(Line::default());
        match state.view {
            TopView::Overview => self.overview(height),
            TopView::Breakers => self.table(&BREAKERS, &breakers(state), "no breaker"),
            TopView::Queues => self.table(&QUEUES, &queues(state), "no queue"),
            TopView::Degradation => self.table(&MODES, &modes(state), "no degradation mode"),
            TopView::Help => HELP.iter().for_each(|line| self.add(line, Style::new())),
        }
    }

    /// Providers and routes get a third of the screen each at most, and requests the rest.
    fn overview(&mut self, height: usize) {
        let most = (height / 3).saturating_sub(2).max(1);
        for (columns, mut rows) in
            [(&PROVIDERS[..], providers(self.state)), (&ROUTES[..], routes(self.state))]
        {
            let hidden = rows.len().saturating_sub(most);
            rows.truncate(most);
            self.table(columns, &rows, "none");
            if hidden > 0 {
                self.add(&format!("... and {hidden} more (/ filters)"), Style::new());
            }
            self.lines.push(Line::default());
        }
        let left = height.saturating_sub(self.lines.len() + 1);
        self.table(&REQUESTS, &requests(self.state, left), "no request yet");
    }

    fn table(&mut self, columns: &[TopColumn], rows: &[TopRow], none: &str) {
        let layout = layout(columns, rows, self.width);
        let line = |cell: &dyn Fn(usize) -> String| {
            let mut text = String::new();
            for (column, width) in &layout {
                let cell = cut(&cell(*column), *width);
                text.push_str(&format!("{cell:<width$}{:GAP$}", ""));
            }
            text.trim_end().to_owned()
        };
        let header = line(&|column| columns[column].header.to_owned());
        self.add(&header, self.bold());
        if rows.is_empty() {
            self.add(none, Style::new());
        }
        for row in rows {
            let text = line(&|column| row.get(column).cloned().unwrap_or_default());
            self.add(&text, self.row_style(columns, row));
        }
    }

    /// The colour of a row follows from its status or its state.
    fn row_style(&self, columns: &[TopColumn], row: &TopRow) -> Style {
        let cell = |header: &str| {
            let at = columns.iter().position(|column| column.header == header)?;
            row.get(at).map(String::as_str)
        };
        let status = cell("STATUS").and_then(|status| status.parse::<u16>().ok());
        match (status, cell("STATE").or(cell("IN FORCE"))) {
            (Some(500..), _) => self.style(Color::Red),
            (Some(400..500), _) => self.style(Color::Yellow),
            (None, Some(state)) if !matches!(state, "ok" | "closed" | "no") => {
                self.style(Color::Yellow)
            }
            _ => Style::new(),
        }
    }

    fn bottom(&self) -> Line<'static> {
        let TopState { filter, order, edits_filter, .. } = self.state;
        let text = if *edits_filter {
            format!("/{filter}_   Enter keeps it, Esc removes it")
        } else {
            let filter = if filter.is_empty() { String::new() } else { format!(" [{filter}]") };
            format!(
                "/ filter{filter}  s order: {}  p pause  b breakers  q queues  d degradation  ? help",
                order.as_str()
            )
        };
        Line::from(Span::styled(cut(&text, self.width), self.style(Color::Cyan)))
    }
}

/// The columns that fit, each with its width: those of the highest rank are left out first, and the
/// last one is cut.
fn layout(columns: &[TopColumn], rows: &[TopRow], width: usize) -> Vec<(usize, usize)> {
    let natural = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| escape(cell).chars().count()).max().unwrap_or(0);
        widest.max(columns[column].header.len())
    };
    let has_value = |column: &usize| {
        rows.is_empty() || rows.iter().any(|row| row.get(*column).is_some_and(|cell| cell != "-"))
    };
    let mut shown: Vec<usize> = (0..columns.len()).filter(has_value).collect();
    let needed = |shown: &[usize]| {
        let last = shown.last().map_or(0, |last| natural(*last).min(LEAST));
        let others = shown.iter().rev().skip(1).map(|column| natural(*column) + GAP);
        others.sum::<usize>() + last
    };
    while needed(&shown) > width {
        let rank = |at: &usize| (columns[shown[*at]].rank, *at);
        let Some(at) = (1..shown.len()).filter(|at| rank(at).0 > 0).max_by_key(rank) else { break };
        shown.remove(at);
    }
    let mut left = width;
    let mut layout = Vec::with_capacity(shown.len());
    for column in shown {
        let width = natural(column).min(left);
        layout.push((column, width));
        left = left.saturating_sub(width + GAP);
    }
    layout
}
