//! What all checks share: where problems go, bounds of quantities, what is read from outside.
//!
//! A check never stops at a problem: it reports and goes on with a stand-in, since a policy with
//! a problem is not used anyway and people want to see them all.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::policy::Sources;
use crate::policy::sections::model::Pem;
use crate::policy::text::suggest::{did_you_mean, listed};
use crate::policy::yaml::diagnostic::Problem;
use crate::policy::yaml::tree::{NodeId, Tree};
use crate::policy::yaml::types::{At, Count, Length, Number, Share, Size};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const DAY: Duration = Duration::from_secs(86400);

pub(crate) struct Check<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) sources: &'a dyn Sources,
    pub(crate) problems: Vec<Problem>,
    pub(crate) files_read: BTreeSet<PathBuf>,
    /// Of each file that could be read.
    pub(crate) roots: Vec<NodeId>,
    /// Some file could not be read: what seems to be missing may stand in it.
    pub(crate) incomplete: bool,
}

impl Check<'_> {
    pub(crate) fn error(&mut self, id: NodeId, message: impl Into<String>) {
        self.problems.push(self.tree.on_value(id, message));
    }

    /// The value behind these keys, in whichever file it stands.
    pub(crate) fn find(&self, keys: &[&str]) -> Option<NodeId> {
        self.roots.iter().find_map(|root| self.tree.below(*root, keys))
    }

    /// A key that has to be there; silent where it is, but was reported.
    pub(crate) fn missing(&mut self, id: NodeId, key: &str, message: impl Into<String>) {
        if self.tree.child(id, key).is_none() {
            self.problems.push(self.tree.on_key(id, message));
        }
    }

    pub(crate) fn unknown_word(&mut self, id: NodeId, word: &str, known: &[&str]) {
        let message = format!("unknown word `{word}`: expected {}", listed(known.iter().copied()));
        let problem =
            self.tree.on_value(id, message).label(did_you_mean(word, known.iter().copied()));
        self.problems.push(problem);
    }

    pub(crate) fn length(
        &mut self,
        at: &Option<At<Length>>,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(at) = at else { return default };
        if !bounds.contains(&at.value.0) {
            let (low, high) = (show(*bounds.start()), show(*bounds.end()));
            self.out_of_bounds(at.id, "length", &low, &high);
        }
        at.value.0
    }

    pub(crate) fn count<T>(
        &mut self,
        at: &Option<At<Count>>,
        default: T,
        bounds: RangeInclusive<u64>,
    ) -> T
    where
        T: TryFrom<u64>,
    {
        let found = at.as_ref().map(|at| (at.id, at.value.0));
        self.whole(found, ("count", |number| number.to_string()), default, bounds)
    }

    pub(crate) fn size<T>(
        &mut self,
        at: &Option<At<Size>>,
        default: T,
        bounds: RangeInclusive<u64>,
    ) -> T
    where
        T: TryFrom<u64>,
    {
        let found = at.as_ref().map(|at| (at.id, at.value.0));
        self.whole(found, ("size", show_size), default, bounds)
    }

    fn whole<T>(
        &mut self,
        found: Option<(NodeId, u64)>,
        (what, shown): (&str, fn(u64) -> String),
        default: T,
        bounds: RangeInclusive<u64>,
    ) -> T
    where
        T: TryFrom<u64>,
    {
        let Some((id, number)) = found else { return default };
        match T::try_from(number) {
            Ok(value) if bounds.contains(&number) => value,
            _ => {
                self.out_of_bounds(id, what, &shown(*bounds.start()), &shown(*bounds.end()));
                default
            }
        }
    }

    /// More than nothing.
    pub(crate) fn share(&mut self, at: &Option<At<Share>>, default: f64) -> f64 {
        let Some(at) = at else { return default };
        if at.value.0 <= 0.0 {
            self.error(at.id, "a share of nothing: expected more than `0`, up to `1`");
        }
        at.value.0
    }

    pub(crate) fn number(
        &mut self,
        at: &Option<At<Number>>,
        default: f64,
        bounds: RangeInclusive<f64>,
    ) -> f64 {
        let Some(at) = at else { return default };
        if !bounds.contains(&at.value.0) {
            let (low, high) = (bounds.start().to_string(), bounds.end().to_string());
            self.out_of_bounds(at.id, "number", &low, &high);
        }
        at.value.0
    }

    fn out_of_bounds(&mut self, id: NodeId, what: &str, low: &str, high: &str) {
        let found = self.tree.text(id).unwrap_or_default();
        self.error(
            id,
            format!("`{found}` is out of bounds: expected a {what} from `{low}` to `{high}`"),
        );
    }

    /// A PEM file with at least one block whose name ends in `block`.
    pub(crate) fn pem(&mut self, at: &At<String>, block: &str) -> Option<Pem> {
        let path = PathBuf::from(at.as_str());
        let bytes = self.file(at.id, &path)?;
        let text = String::from_utf8_lossy(&bytes);
        if !text.lines().any(|line| {
            line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{block}-----"))
        }) {
            self.error(
                at.id,
                format!(
                    "`{}` holds no {}: expected a PEM file",
                    path.display(),
                    block.to_lowercase()
                ),
            );
            return None;
        }
        Some(Pem { path, bytes })
    }

    pub(crate) fn file(&mut self, id: NodeId, path: &Path) -> Option<Vec<u8>> {
        self.files_read.insert(path.to_owned());
        match self.sources.file(path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.error(id, format!("cannot read the file `{}`: {error}", path.display()));
                None
            }
        }
    }

    /// Names become labels, keys of state and parts of paths.
    pub(crate) fn name(&mut self, problem: impl Fn(&Tree, String) -> Problem, name: &str) {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) || name == "none" {
            let message = match name {
                "none" => "`none` is no name: it switches a feature off".to_owned(),
                _ => format!(
                    "`{name}` is no name: expected up to 64 letters, digits, `-`, `_` and `.`"
                ),
            };
            self.problems.push(problem(self.tree, message));
        }
    }
}

/// As it would be written.
pub(crate) fn show(length: Duration) -> String {
    match length.as_secs() {
        _ if length.subsec_millis() > 0 => format!("{}ms", length.as_millis()),
        seconds if seconds > 0 && seconds % 86400 == 0 => format!("{}d", seconds / 86400),
        seconds if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

pub(crate) fn show_size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = units.into_iter().find(|(_, bits)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    fits.map_or_else(|| bytes.to_string(), |(unit, bits)| format!("{}{unit}", bytes >> bits))
}
