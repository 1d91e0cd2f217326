//! The policy language: text in, a valid [`Policy`] or every [`Diagnostic`] out.
//!
//! Nothing is read from the outside here: files are passed in, and secrets and certificates come
//! through [`Sources`]. Three steps, each of which reports every problem that it finds:
//!
//! 1. `yaml/parse.rs`: the text of each file becomes a tree whose values know their locations.
//! 2. `presets/`: a preset's keys are added to those of each provider that names it.
//! 3. `validate.rs`: the tree becomes a [`Policy`], whose types cannot hold a wrong value. Each key
//!    is declared once, in `sections/`, with its form, default, bounds and meaning.
//!
//! A problem in one step does not hide those of the next, except where they would follow from it.
//! `diff`, `fingerprint` and `outrigger explain` work on the display of a policy
//! (`section/display.rs`), the JSON Schema and the reference on its description
//! (`section/describe.rs`); both follow from the declarations.

mod benchmark_costs;
mod credentials;
pub mod diff;
#[cfg(test)]
mod diff_tests;
mod endpoint_lints;
pub mod fingerprint;
pub mod json_schema;
mod lints;
pub mod presets;
pub mod section;
pub mod sections;
pub mod text;
pub mod validate;
pub mod yaml;

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use section::checker::Sources;
pub use sections::Policy;
pub use yaml::diagnostic::{Diagnostic, Severity};
pub use yaml::locations::Locations;
use yaml::tree::Tree;

/// The largest file that is read.
pub const FILE_BYTES: usize = 1 << 20;

/// One file of a policy, as it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path as shown to people.
    pub name: String,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Loaded {
    pub policy: Policy,
    pub warnings: Vec<Diagnostic>,
    pub locations: Locations,
    /// SHA-256 of names and contents, in hex; people see the first twelve digits.
    pub hash: String,
    /// Secrets, certificates and keys that were read, to be watched; as the policy names them.
    pub files_read: Vec<PathBuf>,
}

impl fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceFile({}, {} bytes)", self.name, self.bytes.len())
    }
}

/// Warnings come along in both cases; among the problems of an `Err` is at least one error.
pub fn load(files: &[SourceFile], sources: &dyn Sources) -> Result<Loaded, Vec<Diagnostic>> {
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    if sorted.is_empty() {
        return Err(vec![Diagnostic::of_file(
            "policy",
            "there is no policy file: expected at least one `*.yaml`",
        )]);
    }
    let (mut tree, mut problems, mut roots) = (Tree::default(), Vec::new(), Vec::new());
    let mut incomplete = false;
    for file in &sorted {
        let text = text_of(file).map_err(|problem| problems.push(*problem)).ok();
        match text.map(|text| tree.parse(&file.name, text, &mut problems)) {
            Some(Ok(root)) => roots.push(root),
            _ => incomplete = true,
        }
    }
    presets::apply(&mut tree, &roots, &mut problems);
    let failed = !problems.is_empty();
    let outcome = validate::validate(&tree, roots.clone(), sources, incomplete, failed);
    problems.extend(outcome.problems);
    problems
        .sort_by(|a, b| (&a.spot.file, a.spot.span.start).cmp(&(&b.spot.file, b.spot.span.start)));
    problems.dedup();
    match outcome.policy {
        Some(policy) if problems.iter().all(|problem| problem.severity == Severity::Warning) => {
            let (locations, hash) = (Locations::of(&tree, &roots), hash(&sorted));
            Ok(Loaded {
                policy,
                warnings: problems,
                locations,
                hash,
                files_read: outcome.files_read,
            })
        }
        _ => Err(problems),
    }
}

fn text_of(file: &SourceFile) -> Result<String, Box<Diagnostic>> {
    if file.bytes.len() > FILE_BYTES {
        let message = "the file is larger than 1 MiB: split it, files are merged";
        return Err(Box::new(Diagnostic::of_file(&file.name, message)));
    }
    String::from_utf8(file.bytes.clone()).map_err(|error| {
        let good = &file.bytes[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = good.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&good[start..]).chars().count() + 1;
        let mut problem =
            Diagnostic::of_file(&file.name, "the file is not UTF-8: save it in that encoding");
        (problem.spot.line, problem.spot.column, problem.spot.span) =
            (line, column, good.len()..good.len());
        Box::new(problem)
    })
}

/// Of what the files say and are called below their folder: hosts that keep the same policy at
/// different locations have the same hash.
fn hash(files: &[&SourceFile]) -> String {
    let mut hasher = Sha256::new();
    let folder = common_folder(files);
    for file in files {
        let name = Path::new(&file.name).strip_prefix(folder).unwrap_or(Path::new(&file.name));
        for part in [name.as_os_str().as_encoded_bytes(), &file.bytes] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The deepest folder that all of them lie in.
fn common_folder<'f>(files: &[&'f SourceFile]) -> &'f Path {
    let first = files.first().and_then(|file| Path::new(&file.name).parent());
    let holds_all =
        |folder: &&Path| files.iter().all(|file| Path::new(&file.name).starts_with(folder));
    first.unwrap_or(Path::new("")).ancestors().find(holds_all).unwrap_or(Path::new(""))
}
