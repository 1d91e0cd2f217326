//! libfaketime, which changes the clock that a process sees.

use std::fs;
use std::path::PathBuf;

/// The path of the library: `/usr/lib/<machine>/faketime/`.
pub fn library(name: &str) -> PathBuf {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime").join(name));
    found.find(|path| path.exists()).unwrap_or_else(|| {
        panic!("libfaketime is not installed: this test needs it (apt-get install faketime)")
    })
}
