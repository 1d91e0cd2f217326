//! Finds and reads the files of a policy.
//!
//! A policy is every `*.yaml` and `*.yml` file below a directory, or a single file. Hidden files
//! and directories are skipped, because a ConfigMap keeps its versions in `..2024_...` and git in
//! `.git`. Symbolic links are followed, because both swap versions with them; a directory that is
//! its own ancestor is entered once. A file that cannot be read is an error, because a policy
//! without one of its files might be valid and wrong.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::policy::yaml::diagnostic::Diagnostic;
use crate::policy::{FILE_BYTES, SourceFile, Sources};

/// The way to a first policy.
const START: &str = "`outrigger init` writes a policy to start with";
/// Limits of the directory depth and of the number of files.
const DEPTH: usize = 32;
const FILES: usize = 1000;

/// Reads all files of the policy at `path`, a directory or a file, in the order of their names.
pub fn read_dir(path: &Path) -> Result<Vec<SourceFile>, Vec<Diagnostic>> {
    let mut search = PolicyFileSearch::default();
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => search.folder(path, &mut Vec::new()),
        Ok(_) => search.file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            search.problem(path, format!("there is no such file or directory ({START})"));
        }
        Err(error) => search.problem(path, format!("cannot read this policy: {error}")),
    }
    if search.files.is_empty() && search.problems.is_empty() {
        search.problem(
            path,
            format!("there is no policy file: expected at least one `*.yaml` ({START})"),
        );
    }
    if !search.problems.is_empty() {
        return Err(search.problems);
    }
    search.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(search.files)
}

#[derive(Default)]
struct PolicyFileSearch {
    files: Vec<SourceFile>,
    problems: Vec<Diagnostic>,
}

impl PolicyFileSearch {
    fn problem(&mut self, path: &Path, message: String) {
        self.problems.push(Diagnostic::of_file(path.display().to_string(), message));
    }

    /// `above`: the canonical paths of the ancestors.
    fn folder(&mut self, folder: &Path, above: &mut Vec<PathBuf>) {
        let real = match folder.canonicalize() {
            Ok(real) if above.contains(&real) => return,
            Ok(real) => real,
            Err(error) => {
                return self.problem(folder, format!("cannot read this directory: {error}"));
            }
        };
        if above.len() >= DEPTH {
            return self
                .problem(folder, format!("directories nested more than {DEPTH} levels deep"));
        }
        let entries: io::Result<Vec<_>> = fs::read_dir(folder).and_then(Iterator::collect);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                return self.problem(folder, format!("cannot read this directory: {error}"));
            }
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        above.push(real);
        for entry in entries {
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                self.entry(&entry.path(), above);
            }
        }
        above.pop();
    }

    fn entry(&mut self, path: &Path, above: &mut Vec<PathBuf>) {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() && is_yaml(path) => {
                self.problem(path, "expected a YAML file, found a directory".to_owned());
            }
            Ok(metadata) if metadata.is_dir() => self.folder(path, above),
            Ok(_) if is_yaml(path) => self.file(path),
            Err(error) if is_yaml(path) => {
                self.problem(path, format!("cannot read this file: {error}"))
            }
            _ => {}
        }
    }

    /// Reads one byte more than is allowed, so that the validation detects an oversized file.
    fn file(&mut self, path: &Path) {
        if self.files.len() >= FILES {
            if self.files.len() == FILES && self.problems.is_empty() {
                self.problem(
                    path,
                    format!("more than {FILES} policy files: is this the right directory?"),
                );
            }
            return;
        }
        match bounded(path, FILE_BYTES) {
            Ok(bytes) if path.to_str().is_some() => {
                self.files.push(SourceFile { name: path.display().to_string(), bytes });
            }
            Ok(_) => self.problem(path, "the file's name is not UTF-8".to_owned()),
            Err(error) => self.problem(path, format!("cannot read this file: {error}")),
        }
    }
}

/// Whether the name ends in `.yaml` or `.yml`.
pub(super) fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// The directory to which paths in the policy are relative.
pub(super) fn base_dir(policy: &Path) -> &Path {
    if policy.is_dir() { policy } else { policy.parent().unwrap_or(Path::new("")) }
}

/// Reads at most one byte more than `limit`, and only from a regular file, which does not block.
fn bounded(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads secrets and certificates from the environment and from files.
#[derive(Clone, Debug)]
pub struct DiskSources {
    base: PathBuf,
}

impl DiskSources {
    /// Paths in the policy are relative to `base`, the policy's directory.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    pub fn of_policy(path: &Path) -> Self {
        Self::new(base_dir(path))
    }

    /// The path of a file that the policy refers to.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }
}

impl Sources for DiskSources {
    fn env(&self, name: &str) -> Option<String> {
        // Variables with such names cannot be set.
        if name.is_empty() || name.contains(['=', '\0']) {
            return None;
        }
        std::env::var(name).ok()
    }

    fn file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let bytes = bounded(&self.resolve(path), FILE_BYTES)?;
        if bytes.len() > FILE_BYTES {
            return Err(io::Error::other("it is larger than 1 MiB"));
        }
        Ok(bytes)
    }
}

/// The placeholder for a missing secret.
const PLACEHOLDER: &str = "missing-secret";

/// Reads secrets and certificates, and puts a placeholder where one is missing: a policy can then be
/// checked where it does not run.
#[derive(Debug)]
pub struct PlaceholderSources {
    disk: DiskSources,
    missing: RefCell<BTreeSet<String>>,
}

impl PlaceholderSources {
    pub fn new(disk: DiskSources) -> Self {
        Self { disk, missing: RefCell::default() }
    }

    /// The references that were missing, like `env:NAME`.
    pub fn into_missing(self) -> BTreeSet<String> {
        self.missing.into_inner()
    }
}

impl Sources for PlaceholderSources {
    fn env(&self, name: &str) -> Option<String> {
        Some(self.disk.env(name).unwrap_or_else(|| {
            self.missing.borrow_mut().insert(format!("env:{name}"));
            PLACEHOLDER.to_owned()
        }))
    }

    fn file(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.disk.file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missing.borrow_mut().insert(format!("file:{}", path.display()));
                Ok(PLACEHOLDER.into())
            }
            read => read,
        }
    }

    fn data_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let strip = |file: SourceFile| file.name[dir.to_str().unwrap().len() + 1..].to_owned();
        read_dir(dir).unwrap().into_iter().map(strip).collect()
    }

    fn messages(dir: &Path) -> Vec<String> {
        read_dir(dir).unwrap_err().into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn yaml_files_that_are_not_hidden_are_found_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["sub", ".git", "..data"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for name in [
            "b.yaml",
            "a.yml",
            "sub/c.yaml",
            ".hidden.yaml",
            ".git/d.yaml",
            "..data/e.yaml",
            "README.md",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(names(dir.path()), ["a.yml", "b.yaml", "sub/c.yaml"]);
        let one = read_dir(&dir.path().join("b.yaml")).unwrap();
        assert_eq!(one.len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_links_are_followed_but_never_in_circles() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("..v1")).unwrap();
        fs::write(dir.path().join("..v1/a.yaml"), "").unwrap();
        symlink("..v1", dir.path().join("..data")).unwrap();
        symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
        symlink(".", dir.path().join("loop")).unwrap();
        assert_eq!(names(dir.path()), ["a.yaml"]);
        symlink("nowhere", dir.path().join("b.yaml")).unwrap();
        assert!(messages(dir.path())[0].starts_with("cannot read this file"));
    }

    #[test]
    fn an_unreadable_file_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            messages(dir.path()),
            [format!("there is no policy file: expected at least one `*.yaml` ({START})")]
        );
        fs::create_dir(dir.path().join("x.yaml")).unwrap();
        assert_eq!(messages(dir.path()), ["expected a YAML file, found a directory"]);
        assert!(messages(&dir.path().join("gone"))[0].starts_with("there is no such file"));
    }

    #[test]
    fn an_oversized_file_is_read_only_as_far_as_needed_to_reject_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), vec![b' '; FILE_BYTES + 5]).unwrap();
        assert_eq!(read_dir(dir.path()).unwrap()[0].bytes.len(), FILE_BYTES + 1);
        let disk = DiskSources::new(dir.path());
        assert!(disk.file(Path::new("a.yaml")).is_err());
        assert!(disk.file(Path::new(".")).is_err());
        assert_eq!(disk.env("A=B"), None);
    }
}
