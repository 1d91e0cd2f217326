//! Text for the terminal: tables, durations and manual overrides.

use crate::live::operator_override::{ActiveOverride, AuditNote};
use crate::telemetry::escape::escape;

/// Stands for a missing value.
pub const NONE: &str = "-";

/// Rows below a header; each column is as wide as its widest cell.
///
/// Names come from policies and providers, so a cell may contain anything.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let escaped = |row: Vec<String>| row.iter().map(|cell| escape(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.into_iter().map(escaped).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(header.get(column).map(|name| name.len())).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// A table, unless there are no rows.
pub fn optional_table(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Option<String> {
    let mut rows = rows.into_iter().peekable();
    rows.peek().is_some().then(|| table(header, rows))
}

/// A duration in at most two units: `850ms`, `12s`, `3m20s`, `4h00m`.
pub fn duration(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match (hours, minutes, seconds) {
        (0, 0, 0) => format!("{ms}ms"),
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{:02}s", seconds % 60),
        (hours, minutes, _) => format!("{hours}h{:02}m", minutes % 60),
    }
}

pub fn optional_duration(ms: Option<u64>) -> String {
    ms.map_or_else(|| NONE.to_owned(), duration)
}

/// An override in one cell: `open for 9m58s by ann: maintenance`.
pub fn manual_override(active: Option<&ActiveOverride>) -> String {
    let Some(ActiveOverride { state, remaining_ms, note }) = active else {
        return NONE.to_owned();
    };
    let remaining = remaining_ms.map(|ms| format!(" for {}", duration(ms))).unwrap_or_default();
    format!("{state}{remaining}{}", note_text(note))
}

/// ` by ann: maintenance`.
pub fn note_text(note: &AuditNote) -> String {
    let AuditNote { by, reason, .. } = note;
    let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    by + &reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_cannot_control_the_terminal_or_forge_a_row() {
        let rows = [vec!["a\x1b[2J\nb\u{202e}".to_owned(), "1".to_owned()]];
        assert_eq!(table(&["K", "N"], rows).lines().nth(1), Some("a\\u001b[2J\\u000ab\\u202e  1"));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["KEY", "N"], rows), "KEY   N\na     1\nlong  2");
    }

    #[test]
    fn durations_have_at_most_two_units() {
        let texts = [850, 12_000, 200_000, 14_400_000].map(duration);
        assert_eq!(texts, ["850ms", "12s", "3m20s", "4h00m"]);
    }
}
