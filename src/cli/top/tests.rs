use std::ops::ControlFlow;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::draw::draw;
use super::feed::TopUpdate;
use super::state::TopState;

fn provider(name: &str, rate: f64, ok: f64, obstacle: Option<&str>) -> Value {
    json!({
        "name": name, "in_flight": 3, "limit": 64, "waiting": 1,
        "endpoints": [{ "name": "api:443", "pending": 3, "selected": 9, "obstacle": obstacle }],
        "rates": {
            "attempts_per_second": rate, "success_share": ok, "share_wanted": 0.75,
            "share_seen": 0.7, "p50_ms": 310.0, "p95_ms": 800.0, "p99_ms": 1200.0,
            "first_content_ms": 250.0, "capacity_used": 0.05, "cost_per_hour": { "USD": 1.25 },
        },
    })
}

fn status() -> Value {
    json!({
        "version": "0.1.0", "summary": "1 problem: the breaker of anthropic is open",
        "problems": [{
            "severity": "critical", "code": "breaker_open", "subject": "anthropic",
            "what": "open", "command": "outrigger breakers",
        }],
        "uptime_seconds": 3700, "ready": true, "listener": "http://127.0.0.1:8700",
        "policy": "0123456789ab", "connections": 4, "buffered_bytes": 0,
        "providers": [
            provider("anthropic", 1.5, 0.5, Some("breaker open")),
            provider("openai", 12.0, 0.998, None),
        ],
        "routes": [{
            "name": "chat", "balance": "weighted", "budget": 9.5,
            "rates": {
                "requests_per_second": 13.2, "failed_share": 0.004, "p50_ms": 320.0,
                "p95_ms": 900.0, "p99_ms": 2500.0,
            },
        }],
        "rates": {
            "window_seconds": 60, "requests_per_second": 13.2, "failed_share": 0.004,
            "p50_ms": 320.0, "p95_ms": 900.0, "p99_ms": 2500.0, "retries_per_second": 0.3,
            "cost_per_hour": { "USD": 2.5 },
        },
    })
}

fn record(id: &str, status: u16) -> Value {
    json!({
        "time": "2026-03-01T12:00:01.250Z", "status": status, "route": "chat", "method": "POST",
        "path": "/v1/chat/completions", "model": "gpt-4o", "duration_ms": 640.0, "request_id": id,
        "attempts": [
            { "endpoint": "openai/api:443", "class": "failure", "status": 503 },
            { "endpoint": "anthropic/api:443", "class": "success", "status": 200 },
        ],
    })
}

fn state() -> TopState {
    let mut state = TopState::new(false);
    let status = serde_json::from_value(status()).expect("a status");
    assert!(state.apply(TopUpdate::Status(Box::new(status))).is_continue());
    for (id, status) in [("one", 200), ("two", 502)] {
        assert!(state.apply(TopUpdate::Request(record(id, status))).is_continue());
    }
    state
}

fn screen(state: &TopState, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, state)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let cells: Vec<_> = buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect();
    let lines = cells.chunks(usize::from(width)).map(|line| line.concat());
    lines.map(|line| line.trim_end().to_owned()).collect()
}

fn press(state: &mut TopState, code: KeyCode) -> ControlFlow<()> {
    state.on_key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn type_keys(state: &mut TopState, keys: &str) {
    keys.chars().for_each(|key| assert!(press(state, KeyCode::Char(key)).is_continue()));
}

#[test]
fn the_overview_fits_80_columns() {
    let lines = screen(&state(), 80, 24);
    assert_eq!(
        lines,
        [
            "outrigger 0.1.0 on http://127.0.0.1:8700: ready, up 1h01m, policy 0123456789ab",
            "13 requests/s  0.4% failed  0.3 retries/s  p50 320ms  p95 900ms  p99 2500ms",
            "1 problem: the breaker of anthropic is open",
            "",
            "PROVIDER   ATTEMPTS/S  OK     P50    P95    SEEN  IN FLIGHT  STATE",
            "openai     12          99.8%  310ms  800ms  70%   3 of 64    ok",
            "anthropic  1.5         50%    310ms  800ms  70%   3 of 64    breaker open",
            "",
            "ROUTE  REQUESTS/S  FAILED  P50    P95    P99     BALANCE   RETRIES LEFT",
            "chat   13          0.4%    320ms  900ms  2500ms  weighted  9.5",
            "",
            "ENDED     STATUS  ROUTE  ATTEMPTS                   TOOK   REQUEST",
            "12:00:01  502     chat   openai 503, anthropic 200  640ms  POST /v1/chat/comple…",
            "12:00:01  200     chat   openai 503, anthropic 200  640ms  POST /v1/chat/comple…",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "/ filter  s order: rate  p pause  b breakers  q queues  d degradation  ? help",
        ]
    );
}

#[test]
fn a_wide_screen_shows_every_column() {
    let text = screen(&state(), 200, 24).join("\n");
    for part in [
        "P99",
        "CONTENT",
        "WANTED",
        "SEEN",
        "COST/H",
        "1.25 USD",
        "75%",
        "RETRIES LEFT",
        "MODEL",
        "POST /v1/chat/completions",
        "2.50 USD/h",
        "breaker open",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(text.lines().any(|line| line.ends_with("one")), "{text}");
}

#[test]
fn no_size_of_the_screen_panics() {
    let mut state = state();
    for view in ["", "b", "q", "d", "?"] {
        type_keys(&mut state, view);
        for (width, height) in [(1, 1), (3, 2), (10, 5), (40, 10), (500, 100)] {
            screen(&state, width, height);
        }
    }
}

#[test]
fn keys_filter_sort_and_pause() {
    let mut state = state();
    let line = |state: &TopState, at: usize| screen(state, 120, 24)[at].clone();
    type_keys(&mut state, "ss");
    assert!(line(&state, 23).contains("s order: failures"), "{}", line(&state, 23));
    assert!(line(&state, 5).starts_with("anthropic"), "{}", line(&state, 5));
    type_keys(&mut state, "/openAI");
    assert!(line(&state, 23).starts_with("/openAI_"), "{}", line(&state, 23));
    assert!(press(&mut state, KeyCode::Enter).is_continue());
    assert!(!screen(&state, 120, 24)[5..7].join("").contains("breaker open"));
    assert!(press(&mut state, KeyCode::Esc).is_continue());
    type_keys(&mut state, "p");
    assert!(line(&state, 0).ends_with("PAUSED"), "{}", line(&state, 0));
    assert!(state.apply(TopUpdate::Request(record("three", 200))).is_continue());
    assert_eq!(state.requests.len(), 2);
    type_keys(&mut state, "?");
    assert!(screen(&state, 80, 24).join("\n").contains("Ctrl-C  quit"));
    let quit = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert!(state.on_key(quit).is_break());
}

#[test]
fn a_sidecar_that_is_gone_is_reported_until_it_is_back() {
    let mut state = state();
    let why = "127.0.0.1:8701: connection refused".to_owned();
    assert!(state.apply(TopUpdate::Failed(why)).is_continue());
    let lines = screen(&state, 80, 24);
    assert_eq!(lines[2], "NO CONNECTION, trying again: 127.0.0.1:8701: connection refused");
    let status = serde_json::from_value(status()).expect("a status");
    assert!(state.apply(TopUpdate::Status(Box::new(status))).is_continue());
    assert!(!screen(&state, 80, 24).join("\n").contains("NO CONNECTION"));
    assert!(state.apply(TopUpdate::Stop).is_break());
}

#[test]
fn a_name_cannot_control_the_terminal() {
    let mut state = state();
    let mut hostile = record("x", 200);
    hostile["model"] = "a\u{1b}[2Jb".into();
    assert!(state.apply(TopUpdate::Request(hostile)).is_continue());
    let text = screen(&state, 200, 24).join("\n");
    assert!(text.contains("a\\u001b[2Jb"), "{text}");
}
