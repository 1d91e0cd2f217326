//! Text for the terminal: tables, figures, durations and manual overrides.

use std::io::IsTerminal;
use std::time::Duration;

use crate::live::operator_override::ActiveOverride;
use crate::policy::Diagnostic;
use crate::policy::yaml::diagnostic::render_within;
use crate::policy::yaml::units::show_elapsed;
use crate::telemetry::escape::escape;

/// Stands for a missing value.
pub const NONE: &str = "-";

/// Narrower columns are not worth a line of their own.
const NARROWEST: usize = 8;
const GAP: usize = 2;

/// Rows below a header, as wide as the terminal at most.
///
/// Names come from policies and providers, so a cell may contain anything.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    table_within(header, rows, terminal_width())
}

/// As [`table`], within `limit`. Each column is as wide as its widest cell. A column without a value is left out. In a table wider
/// than `limit` the widest columns are wrapped; if that is not enough, each row is a list of fields.
pub fn table_within(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    limit: Option<usize>,
) -> String {
    let escaped = |row: Vec<String>| row.iter().map(|cell| escape(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.into_iter().map(escaped).collect();
    let has_value = |column: &usize| {
        rows.is_empty() || rows.iter().any(|row| row.get(*column).is_some_and(|cell| cell != NONE))
    };
    let columns: Vec<usize> = (0..header.len()).filter(has_value).collect();
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let widest = |column: &usize| {
        let lengths = cells(*column).map(|cell| length(cell));
        lengths.chain([header[*column].len()]).max().unwrap_or(0)
    };
    let narrowest = |column: &usize| {
        let pieces =
            cells(*column).flat_map(|cell| pieces(cell)).map(|piece| length(piece.trim_end()));
        pieces.chain([header[*column].len(), NARROWEST]).max().unwrap_or(0)
    };
    let natural: Vec<usize> = columns.iter().map(widest).collect();
    let least: Vec<usize> = columns.iter().map(narrowest).collect();
    let Some(widths) = fit(natural, &least, limit) else {
        return fields(header, &columns, &rows, limit);
    };
    let mut lines = vec![line(columns.iter().map(|column| header[*column]), &widths)];
    for row in &rows {
        let wrapped: Vec<Vec<String>> = columns
            .iter()
            .zip(&widths)
            .map(|(column, width)| wrap(&row[*column], *width))
            .collect();
        for n in 0..wrapped.iter().map(Vec::len).max().unwrap_or(0) {
            let cells = wrapped.iter().map(|cell| cell.get(n).map_or("", String::as_str));
            lines.push(line(cells, &widths));
        }
    }
    lines.join("\n")
}

/// The widths with the widest columns reduced to the limit; none if they would be too narrow.
fn fit(mut widths: Vec<usize>, least: &[usize], limit: Option<usize>) -> Option<Vec<usize>> {
    let Some(limit) = limit else { return Some(widths) };
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        let reducible = widths.iter_mut().zip(least).filter(|(width, least)| **width > **least);
        let (width, _) = reducible.max_by_key(|(width, _)| **width)?;
        *width -= 1;
    }
    Some(widths)
}

fn line<'c>(cells: impl Iterator<Item = &'c str>, widths: &[usize]) -> String {
    let padded = cells.zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    padded.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end().to_owned()
}

/// A block for each row: the names of its fields, and the values.
fn fields(
    header: &[&str],
    columns: &[usize],
    rows: &[Vec<String>],
    limit: Option<usize>,
) -> String {
    let names = columns.iter().map(|column| header[*column].len()).max().unwrap_or(0);
    let values = limit.map_or(usize::MAX, |limit| limit.saturating_sub(names + GAP));
    let field = |row: &Vec<String>, column: &usize| {
        let value = wrap(&row[*column], values).into_iter().enumerate();
        let name = |n: usize| if n == 0 { header[*column] } else { "" };
        let lines = value.map(|(n, part)| line([name(n), &part].into_iter(), &[names, 0]));
        lines.collect::<Vec<_>>().join("\n")
    };
    let block = |row: &Vec<String>| {
        let present = columns.iter().filter(|column| row[**column] != NONE);
        present.map(|column| field(row, column)).collect::<Vec<_>>().join("\n")
    };
    rows.iter().map(block).collect::<Vec<_>>().join("\n\n")
}

/// The parts between which a cell may be wrapped: after a blank, a comma or a slash.
fn pieces(cell: &str) -> impl Iterator<Item = &str> {
    cell.split_inclusive([' ', ',', '/'])
}

/// Lines of at most `width` characters, unless a piece is longer.
pub fn wrap(cell: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for piece in pieces(cell) {
        let last = lines.last().map_or(0, |line| length(line));
        if last > 0 && last + length(piece.trim_end()) > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(piece);
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// A paragraph beside a mark, within the width of the terminal.
pub fn indented(mark: &str, text: &str) -> String {
    const INDENT: usize = 10;
    let width = terminal_width().map_or(usize::MAX, |width| width.saturating_sub(INDENT).max(20));
    let lines = wrap(text, width);
    let line = |(at, line): (usize, &String)| {
        let mark = if at == 0 { mark } else { "" };
        format!("{mark:<INDENT$}{line}").trim_end().to_owned()
    };
    lines.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// `COLUMNS`, or the width of the terminal; none where standard output is no terminal.
pub fn terminal_width() -> Option<usize> {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    columns.filter(|columns| *columns > 0).or_else(terminal)
}

/// Problems of a policy for the terminal behind `stream`.
pub fn problems(problems: &[Diagnostic], stream: &impl IsTerminal) -> String {
    render_within(problems, is_coloured(stream), terminal_width())
}

/// Whether to write colours: to a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
pub fn is_coloured(stream: &impl IsTerminal) -> bool {
    let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !declined && stream.is_terminal()
}

/// A table, unless there are no rows.
pub fn optional_table(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Option<String> {
    let mut rows = rows.into_iter().peekable();
    rows.peek().is_some().then(|| table(header, rows))
}

/// A duration in at most two units.
pub fn duration(ms: u64) -> String {
    show_elapsed(Duration::from_millis(ms))
}

/// Rounded, and never `-0`.
pub fn decimal(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.strip_prefix('-') {
        Some(zero) if zero.chars().all(|c| matches!(c, '0' | '.')) => zero.to_owned(),
        _ => text,
    }
}

/// `850 B`, `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, bits)| bytes >> bits > 0) {
        Some((unit, bits)) => {
            let text = decimal(bytes as f64 / f64::from(1u32 << bits), 1);
            format!("{} {unit}", text.trim_end_matches(".0"))
        }
        None => format!("{bytes} B"),
    }
}

/// `1 request`, `2 requests`.
pub fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// A time of the admin API to the second: `2026-11-30 04:20:22Z`.
pub fn time(rfc3339: &str) -> String {
    match rfc3339.split_once('T').zip(rfc3339.get(..19)) {
        Some(((date, _), seconds)) => format!("{date} {}Z", &seconds[date.len() + 1..]),
        None => rfc3339.to_owned(),
    }
}

pub fn optional_duration(ms: Option<u64>) -> String {
    ms.map_or_else(|| NONE.to_owned(), duration)
}

/// `open for 9m58s`.
pub fn forced_state(active: &ActiveOverride) -> String {
    let ActiveOverride { state, remaining_ms, .. } = active;
    let remaining = remaining_ms.map(|ms| format!(" for {}", duration(ms))).unwrap_or_default();
    format!("{state}{remaining}")
}

/// An override in one cell: `open for 9m58s by ann: maintenance`.
pub fn manual_override(active: Option<&ActiveOverride>) -> String {
    let text = |active: &ActiveOverride| forced_state(active) + &active.note.suffix();
    active.map_or_else(|| NONE.to_owned(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(cells: &[[&str; 3]]) -> Vec<Vec<String>> {
        cells.iter().map(|row| row.map(str::to_owned).to_vec()).collect()
    }

    #[test]
    fn a_cell_cannot_control_the_terminal_or_forge_a_row() {
        let rows = [vec!["a\x1b[2J\nb\u{202e}".to_owned(), "1".to_owned()]];
        let table = table_within(&["K", "N"], rows, None);
        assert_eq!(table.lines().nth(1), Some("a\\u001b[2J\\u000ab\\u202e  1"));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_empty_ones_are_left_out() {
        let cells = rows(&[["a", NONE, "1"], ["long", NONE, "2"]]);
        assert_eq!(
            table_within(&["KEY", "NOTE", "N"], cells, Some(80)),
            "KEY   N\na     1\nlong  2"
        );
    }

    #[test]
    fn a_table_wider_than_the_terminal_is_wrapped_or_becomes_a_list() {
        let cells =
            || rows(&[["openai/api.openai.com:443/gpt-4o", "open", "by ann: key rotation"]]);
        let header = ["BREAKER", "STATE", "OVERRIDE"];
        assert_eq!(table_within(&header, cells(), None).lines().count(), 2);
        assert_eq!(
            table_within(&header, cells(), Some(44)),
            "BREAKER              STATE  OVERRIDE\n\
             openai/              open   by ann: key\n\
             api.openai.com:443/         rotation\n\
             gpt-4o"
        );
        assert_eq!(
            table_within(&header, cells(), Some(30)),
            "BREAKER   openai/\n          api.openai.com:443/\n          gpt-4o\nSTATE     open\n\
             OVERRIDE  by ann: key rotation"
        );
    }

    #[test]
    fn figures_are_rounded_for_people() {
        assert_eq!([-0.04, 0.04, -1.25].map(|value| decimal(value, 1)), ["0.0", "0.0", "-1.2"]);
        assert_eq!(
            [0, 1023, 1024, 67_108_864, 1_610_612_736].map(size),
            ["0 B", "1023 B", "1 KiB", "64 MiB", "1.5 GiB"]
        );
        assert_eq!(time("2026-11-30T04:20:22.123Z"), "2026-11-30 04:20:22Z");
        assert_eq!(time("never"), "never");
    }

    #[test]
    fn durations_have_at_most_two_units() {
        let texts = [850, 12_000, 200_000, 14_400_000, 600_000_000].map(duration);
        assert_eq!(texts, ["850ms", "12s", "3m20s", "4h00m", "6d22h"]);
    }
}
