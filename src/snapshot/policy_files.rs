//! The files of a policy: which there are, and what they hold.
//!
//! A policy is every `*.yaml` and `*.yml` below a directory. Hidden files and folders are skipped
//! (a ConfigMap keeps its versions in `..2024_...` and git in `.git`), symbolic links are
//! followed, since that is how both swap versions; a folder that is its own ancestor is entered
//! once. A single file is a policy too. Everything that cannot be read is a problem: a policy
//! that lost one of its files would be valid and wrong.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::policy::yaml::diagnostic::Problem;
use crate::policy::{FILE_BYTES, SourceFile, Sources};

/// Folders below each other, and files, of one policy.
const DEPTH: usize = 32;
const FILES: usize = 1000;

/// All files of the policy at `path`, a folder or a file, in the order of their names.
pub fn read_dir(path: &Path) -> Result<Vec<SourceFile>, Vec<Problem>> {
    let mut found = PolicyFileSearch::default();
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => found.folder(path, &mut Vec::new()),
        Ok(_) => found.file(path),
        Err(error) => found.problem(path, format!("cannot read this policy: {error}")),
    }
    if found.files.is_empty() && found.problems.is_empty() {
        found.problem(path, "there is no policy file: expected at least one `*.yaml`".to_owned());
    }
    if !found.problems.is_empty() {
        return Err(found.problems);
    }
    found.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found.files)
}

#[derive(Default)]
struct PolicyFileSearch {
    files: Vec<SourceFile>,
    problems: Vec<Problem>,
}

impl PolicyFileSearch {
    fn problem(&mut self, path: &Path, message: String) {
        self.problems.push(Problem::of_file(path.display().to_string(), message));
    }

    /// `above`: the folders that we are in, as they really are.
    fn folder(&mut self, folder: &Path, above: &mut Vec<PathBuf>) {
        let real = match folder.canonicalize() {
            Ok(real) if above.contains(&real) => return,
            Ok(real) => real,
            Err(error) => return self.problem(folder, format!("cannot read this folder: {error}")),
        };
        if above.len() >= DEPTH {
            return self.problem(folder, format!("folders more than {DEPTH} deep"));
        }
        let entries: io::Result<Vec<_>> = fs::read_dir(folder).and_then(Iterator::collect);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.problem(folder, format!("cannot read this folder: {error}")),
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
        let named =
            path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() && named => {
                self.problem(path, "a folder in place of a file: expected YAML here".to_owned());
            }
            Ok(metadata) if metadata.is_dir() => self.folder(path, above),
            Ok(_) if named => self.file(path),
            Err(error) if named => self.problem(path, format!("cannot read this file: {error}")),
            _ => {}
        }
    }

    /// Reads one byte more than is allowed, so that the reader can tell.
    fn file(&mut self, path: &Path) {
        if self.files.len() >= FILES {
            if self.files.len() == FILES && self.problems.is_empty() {
                self.problem(path, format!("more than {FILES} policy files"));
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

/// At most one byte more than `most`; a pipe or device is not waited for.
fn bounded(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Secrets and certificates from the environment and from files below `base`.
#[derive(Clone, Debug)]
pub struct DiskSources {
    base: PathBuf,
}

impl DiskSources {
    /// Relative paths of the policy begin at `base`: the folder that it stands in.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    /// Where a file that the policy names is.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }
}

impl Sources for DiskSources {
    fn env(&self, name: &str) -> Option<String> {
        // `var` panics on neither, but a name of these forms can never be set.
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
    fn every_yaml_file_that_is_not_hidden_is_found_in_the_order_of_names() {
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
    fn links_are_followed_but_never_in_circles() {
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
    fn what_cannot_be_read_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            messages(dir.path()),
            ["there is no policy file: expected at least one `*.yaml`"]
        );
        fs::create_dir(dir.path().join("x.yaml")).unwrap();
        assert_eq!(messages(dir.path()), ["a folder in place of a file: expected YAML here"]);
        assert!(messages(&dir.path().join("gone"))[0].starts_with("cannot read this policy"));
    }

    #[test]
    fn a_large_file_is_read_as_far_as_is_needed_to_refuse_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), vec![b' '; FILE_BYTES + 5]).unwrap();
        assert_eq!(read_dir(dir.path()).unwrap()[0].bytes.len(), FILE_BYTES + 1);
        let disk = DiskSources::new(dir.path());
        assert!(disk.file(Path::new("a.yaml")).is_err());
        assert!(disk.file(Path::new(".")).is_err());
        assert_eq!(disk.env("A=B"), None);
    }
}
