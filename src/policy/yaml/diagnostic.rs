//! Problems of a policy: the message, the position, and a suggestion.
//!
//! A problem includes the line that it quotes, so that it can be stored, sent and rendered after the
//! text has been dropped. Secrets in the line are masked (`locations.rs`).
//!
//! Problems are rendered for people by rustc's renderer, and for machines as JSON, as GitHub's
//! workflow commands, or as SARIF 2.1.0 (OASIS), which code hosts show at the line.

use std::ops::Range;

use annotate_snippets::{
    AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str,
};
use serde_json::{Value, json};

use super::tree::{NodeId, Tree};

/// A message quotes the policy; a longer one is cut.
const MESSAGE: usize = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Error,
    Warning,
}

/// A position in a file, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    pub file: String,
    /// From 1; 0 for a problem with the file as a whole.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Bytes of the file.
    pub span: Range<usize>,
    /// The line, with secrets masked.
    pub excerpt: Option<Excerpt>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    pub text: String,
    /// Bytes of `text`.
    pub span: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    pub spot: Spot,
    /// `providers.openai.timeouts.connect`; empty if the problem concerns no key.
    pub path: String,
    /// After the marks: ``did you mean `recovery_timeout`?``
    pub label: Option<String>,
    /// Below the snippet.
    pub help: Option<String>,
    /// Another position, and its relation: `first defined here`.
    pub also: Option<Box<(Spot, String)>>,
}

// === impl Problem ===

impl Diagnostic {
    pub fn new(severity: Severity, message: impl Into<String>, spot: Spot) -> Self {
        let (mut message, path) = (message.into(), String::new());
        if let Some((end, _)) = message.char_indices().nth(MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        Self { severity, message, spot, path, label: None, help: None, also: None }
    }

    /// A problem with a file or a folder as a whole.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        let spot = Spot { file: file.into(), line: 0, column: 0, span: 0..0, excerpt: None };
        Self::new(Severity::Error, message, spot)
    }

    pub(crate) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    pub(crate) fn label(mut self, label: Option<impl Into<String>>) -> Self {
        self.label = label.map(Into::into);
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn with(mut self, tree: &Tree, other: NodeId, what: &str) -> Self {
        self.also = Some(Box::new((tree.on_key(other, "").spot, what.to_owned())));
        self
    }

    /// In the format of a compiler; `colour` for a terminal. Quoted lines are cut to `width`.
    fn render(&self, colour: bool, width: Option<usize>) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let group = Group::with_title(level.primary_title(self.message.as_str()));
        let mut group = annotate(group, &self.spot, self.label.as_deref(), AnnotationKind::Primary);
        if let Some((spot, what)) = self.also.as_deref() {
            group = annotate(group, spot, Some(what), AnnotationKind::Context);
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let renderer = match width {
            Some(width) => renderer.term_width(width),
            None => renderer,
        };
        renderer.render(&[group])
    }

    pub fn to_json(&self) -> Value {
        let also = self.also.as_deref().map(|(spot, what)| {
            json!({ "file": spot.file, "line": spot.line, "column": spot.column, "message": what })
        });
        json!({
            "severity": self.severity.as_str(), "message": self.message, "file": self.spot.file,
            "line": self.spot.line, "column": self.spot.column, "path": self.path,
            "label": self.label, "help": self.help, "also": also,
        })
    }

    /// A workflow command: GitHub shows it at the line.
    pub fn to_github(&self) -> String {
        let (kind, file) = (self.severity.as_str(), escape_github(&self.spot.file, true));
        let at = match self.spot.line {
            0 => String::new(),
            line => format!(",line={line},col={}", self.spot.column),
        };
        format!("::{kind} file={file}{at}::{}", escape_github(&self.whole_message(), false))
    }

    fn to_sarif(&self) -> Value {
        let also = self.also.as_deref().map(|(spot, what)| {
            let mut location = location(spot);
            location["message"] = json!({ "text": what });
            vec![location]
        });
        json!({
            "ruleId": "policy", "level": self.severity.as_str(),
            "message": { "text": self.whole_message() },
            "locations": [location(&self.spot)],
            "relatedLocations": also.unwrap_or_default(),
        })
    }

    /// The message, the label and the help on one line.
    fn whole_message(&self) -> String {
        let more = self.label.iter().chain(&self.help);
        more.fold(self.message.clone(), |text, more| format!("{text}: {more}"))
    }
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl std::fmt::Display for Diagnostic {
    /// On one line, for a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.spot.line, self.spot.column) {
            (0, _) => write!(f, "{}: {}", self.spot.file, self.whole_message()),
            (line, column) => {
                write!(f, "{}:{line}:{column}: {}", self.spot.file, self.whole_message())
            }
        }
    }
}

/// All problems, ready to print.
pub fn render(problems: &[Diagnostic], colour: bool) -> String {
    render_within(problems, colour, None)
}

/// As [`render`], with quoted lines cut to the width of a terminal.
pub fn render_within(problems: &[Diagnostic], colour: bool, width: Option<usize>) -> String {
    let parts: Vec<_> = problems.iter().map(|problem| problem.render(colour, width)).collect();
    parts.join("\n\n")
}

/// A list, in the given order.
pub fn to_json(problems: &[Diagnostic]) -> Value {
    problems.iter().map(Diagnostic::to_json).collect()
}

/// One workflow command per line.
pub fn to_github(problems: &[Diagnostic]) -> String {
    let lines: Vec<_> = problems.iter().map(Diagnostic::to_github).collect();
    lines.join("\n")
}

/// A whole SARIF 2.1.0 log.
pub fn to_sarif(problems: &[Diagnostic]) -> Value {
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "outrigger", "version": env!("CARGO_PKG_VERSION"), "rules": [{ "id": "policy" }],
            } },
            "results": problems.iter().map(Diagnostic::to_sarif).collect::<Vec<_>>(),
        }],
    })
}

/// Adds a position to a rendered problem.
fn annotate<'a>(
    group: Group<'a>,
    spot: &'a Spot,
    label: Option<&'a str>,
    kind: AnnotationKind,
) -> Group<'a> {
    let Some(excerpt) = &spot.excerpt else {
        let origin = Origin::path(spot.file.as_str());
        return group.element(match spot.line {
            0 => origin,
            line => origin.line(line).char_column(spot.column),
        });
    };
    let annotation = kind.span(excerpt.span.clone()).label(label);
    let snippet =
        Snippet::source(excerpt.text.as_str()).line_start(spot.line).path(spot.file.as_str());
    group.element(snippet.annotation(annotation))
}

fn location(spot: &Spot) -> Value {
    let mut physical = json!({ "artifactLocation": { "uri": spot.file } });
    if spot.line > 0 {
        let region = json!({ "startLine": spot.line, "startColumn": spot.column,
            "byteOffset": spot.span.start, "byteLength": spot.span.len() });
        physical["region"] = region;
    }
    json!({ "physicalLocation": physical })
}

/// Text of a workflow command; `property` for the part before its second `::`.
pub fn escape_github(text: &str, property: bool) -> String {
    let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    if property { text.replace(':', "%3A").replace(',', "%2C") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Diagnostic {
        let text = "    recovery_timout: 5s".to_owned();
        let excerpt = Some(Excerpt { text, span: 4..19 });
        let file = "policies/llm.yaml".to_owned();
        let spot = Spot { file, line: 41, column: 5, span: 900..915, excerpt };
        Diagnostic::new(Severity::Error, "unknown key `recovery_timout`", spot)
            .label(Some("did you mean `recovery_timeout`?"))
    }

    #[test]
    fn a_problem_is_shown_with_its_line_and_a_suggestion() {
        let expected = "\
error: unknown key `recovery_timout`
  --> policies/llm.yaml:41:5
   |
41 |     recovery_timout: 5s
   |     ^^^^^^^^^^^^^^^ did you mean `recovery_timeout`?";
        assert_eq!(problem().render(false, None), expected);
        assert!(problem().render(true, None).contains("\u{1b}["));
    }

    #[test]
    fn machine_formats_hold_the_same() {
        let problem = problem();
        assert_eq!(
            problem.to_github(),
            "::error file=policies/llm.yaml,line=41,col=5::unknown key `recovery_timout`: did you mean `recovery_timeout`?"
        );
        assert_eq!(to_json(std::slice::from_ref(&problem))[0]["line"], 41);
        let sarif = to_sarif(&[problem]);
        let region = &sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"];
        assert_eq!((&region["startLine"], &region["byteLength"]), (&json!(41), &json!(15)));
    }

    #[test]
    fn a_file_as_a_whole_has_no_line() {
        let problem = Diagnostic::of_file("policies", "no policy file here");
        assert_eq!(problem.render(false, None), "error: no policy file here\n--> policies");
        assert_eq!(problem.to_github(), "::error file=policies::no policy file here");
    }
}
