//! Displays a policy as a list of rows: a path (`providers.openai.timeouts.connect`), and the value in
//! the syntax of the policy.
//!
//! `diff`, `explain` and `fingerprint` read only this list, so all three know every declared key. No
//! row has a secret. A credential is shown by its reference (`env:OPENAI_KEY`); an inline value that
//! may be a credential is not shown. Both have a digest, so that a changed secret is noticed.

use sha2::{Digest, Sha256};

use super::Form;
use crate::policy::yaml::locations::child_path;

pub type SecretDigest = [u8; 32];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub path: String,
    /// The paths under which the key may be declared, as in `Locations`; the first that exists is used.
    pub written: Vec<String>,
    pub text: String,
    /// The digest of a value that is not shown.
    pub digest: Option<Hidden>,
    /// Paths of the entries that the value names: `retries.slow`.
    pub names: Vec<String>,
}

/// A value that is compared and never shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// From the environment or a file: another host may have another.
    Local(SecretDigest),
    /// From the policy: each host with this policy has the same.
    Inline(SecretDigest),
}

impl Hidden {
    fn all(each: impl Iterator<Item = Hidden>) -> Option<Hidden> {
        let (mut bytes, mut local, mut inline) = (Vec::new(), false, false);
        for one in each {
            let (Hidden::Local(digest) | Hidden::Inline(digest)) = one;
            bytes.extend(digest);
            local |= matches!(one, Hidden::Local(_));
            inline |= matches!(one, Hidden::Inline(_));
        }
        match (local, inline) {
            (false, false) => None,
            (true, _) => Some(Hidden::Local(digest(&bytes))),
            (false, true) => Some(Hidden::Inline(digest(&bytes))),
        }
    }
}

/// A named entry of a list or map whose order may matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `providers`
    pub list: String,
    /// `providers.openai`
    pub path: String,
}

/// Collects the rows; `names` gives an entry of a section its name.
pub struct Display<'p> {
    names: &'p dyn Fn(&str, usize) -> String,
    path: String,
    written: Vec<String>,
    pub rows: Vec<Row>,
    pub entries: Vec<Entry>,
}

impl<'p> Display<'p> {
    pub fn new(names: &'p dyn Fn(&str, usize) -> String) -> Self {
        Self {
            names,
            path: String::new(),
            written: vec![String::new()],
            rows: Vec::new(),
            entries: Vec::new(),
        }
    }

    // === values, each a row ===

    /// Adds a row.
    pub fn text(&mut self, text: impl Into<String>) {
        self.row(text.into(), None, Vec::new());
    }

    /// Adds a row for a value that is not set.
    pub fn none(&mut self) {
        self.text("none");
    }

    /// Adds a row for a secret: its reference is shown, and a digest of its value is compared.
    pub fn secret(&mut self, reference: impl Into<String>, value: &[u8]) {
        self.row(reference.into(), Some(Hidden::Local(digest(value))), Vec::new());
    }

    /// Adds a row for an inline value that may be a secret: `text` is shown instead of it.
    pub fn inline(&mut self, text: impl Into<String>, value: &[u8]) {
        self.row(text.into(), Some(Hidden::Inline(digest(value))), Vec::new());
    }

    /// Adds a row with the name of an entry of a section.
    pub fn name(&mut self, section: &str, index: usize) {
        self.name_with(section, index, "");
    }

    /// Adds a row with the name of an entry of a section, followed by `more`.
    pub fn name_with(&mut self, section: &str, index: usize, more: &str) {
        let name = (self.names)(section, index);
        let path = child_path(section, &name);
        self.row(format!("{name}{more}"), None, vec![path]);
    }

    /// The name of an entry of a section.
    pub fn name_of(&self, section: &str, index: usize) -> String {
        (self.names)(section, index)
    }

    /// Adds one row that joins several values.
    pub fn joined<M, F: Form<M>>(&mut self, values: &[M]) {
        let mut out = Display::new(self.names);
        for value in values {
            F::show(value, &mut out);
        }
        let texts: Vec<_> = out.rows.iter().map(|row| row.text.as_str()).collect();
        let names = out.rows.iter().flat_map(|row| row.names.clone()).collect();
        let digests = out.rows.iter().filter_map(|row| row.digest);
        self.row(texts.join(", "), Hidden::all(digests), names);
    }

    fn row(&mut self, text: String, digest: Option<Hidden>, names: Vec<String>) {
        let (path, written) = (self.path.clone(), self.written.clone());
        self.rows.push(Row { path, written, text, digest, names });
    }

    // === keys ===

    /// Adds the rows of a key of a section; `shown` replaces its value.
    pub fn field<M, F: Form<M>>(&mut self, key: &str, value: &M, shown: Option<&'static str>) {
        if F::FLATTENED {
            return F::show(value, self);
        }
        self.key(key, |out| match shown {
            Some(text) => out.text(text),
            None => F::show(value, out),
        });
    }

    /// Adds the rows that `show` adds, below a key.
    pub fn key(&mut self, key: &str, show: impl FnOnce(&mut Self)) {
        let written = self.written.iter().map(|path| child_path(path, key)).collect();
        self.below(child_path(&self.path, key), written, show);
    }

    /// Adds the rows of a list item, identified by its index.
    pub fn item(&mut self, index: usize, show: impl FnOnce(&mut Self)) {
        let written = self.written.iter().map(|path| format!("{path}[{index}]")).collect();
        self.below(format!("{}[{index}]", self.path), written, show);
    }

    /// Adds the rows of an entry of a map or list, identified by its name. It may be declared by its name
    /// or by its index.
    pub fn entry(&mut self, name: &str, index: usize, show: impl FnOnce(&mut Self)) {
        let path = child_path(&self.path, name);
        self.entries.push(Entry { list: self.path.clone(), path: path.clone() });
        let by_name = self.written.iter().map(|path| child_path(path, name));
        let by_index = self.written.iter().map(|path| format!("{path}[{index}]"));
        let written = by_name.chain(by_index).collect();
        self.below(path, written, show);
    }

    /// Adds rows of a value that may also be declared under these paths, outside of its section.
    pub fn also_written(&mut self, paths: &[String], show: impl FnOnce(&mut Self)) {
        let before = self.written.clone();
        self.written.extend_from_slice(paths);
        show(self);
        self.written = before;
    }

    /// The paths under which the current value may be declared.
    pub fn written(&self) -> &[String] {
        &self.written
    }

    fn below(&mut self, path: String, written: Vec<String>, show: impl FnOnce(&mut Self)) {
        let path = std::mem::replace(&mut self.path, path);
        let written = std::mem::replace(&mut self.written, written);
        show(self);
        (self.path, self.written) = (path, written);
    }

    /// The path of the current value.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Shows a value or a whole section on one line: `500/min`, `above 0.5, over 30s`.
    pub fn one_line<M, F: Form<M>>(&self, value: &M) -> String {
        let mut out = Display::new(self.names);
        F::show(value, &mut out);
        one_line(&out.rows)
    }
}

/// Joins rows on one line: `shed low`, `respond { status: 503, body: none }`.
pub fn one_line(rows: &[Row]) -> String {
    let join = |between: &str, skip: usize| {
        let words = rows.iter().map(|row| format!("{}{between}{}", &row.path[skip..], row.text));
        words.collect::<Vec<_>>().join(", ")
    };
    let first = rows.first().map_or("", |row| row.path.as_str());
    match first.split_once('.').map(|(key, _)| key) {
        _ if first.is_empty() => {
            rows.iter().map(|row| row.text.as_str()).collect::<Vec<_>>().join(", ")
        }
        Some(key) if rows.iter().all(|row| row.path.starts_with(&first[..=key.len()])) => {
            format!("{key} {{ {} }}", join(": ", key.len() + 1))
        }
        _ => join(" ", 0),
    }
}

/// The rows of a value that refers to no other part of the policy.
pub fn rows_of<M, F: Form<M>>(value: &M) -> Vec<Row> {
    let mut out = Display::new(&|_, _| String::new());
    F::show(value, &mut out);
    out.rows
}

pub fn text_of<M, F: Form<M>>(value: &M) -> String {
    one_line(&rows_of::<M, F>(value))
}

fn digest(value: &[u8]) -> SecretDigest {
    Sha256::digest(value).into()
}

impl std::fmt::Debug for Display<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Display({} rows)", self.rows.len())
    }
}
