//! `outrigger init`: writes a policy to start with.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

const STARTER: &str = include_str!("../../../policies/outrigger.yaml");

/// Write a commented policy to start with: OpenAI, with the next steps commented out.
///
/// Nothing is overwritten. `outrigger run` reads every policy file of the directory `policies`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  outrigger init && OPENAI_API_KEY=... outrigger run")]
pub struct InitArgs {
    /// The file to write.
    #[arg(default_value = "policies/outrigger.yaml", value_name = "FILE")]
    file: PathBuf,
}

pub fn run(args: &InitArgs) -> Result<String, String> {
    let file = args.file.display();
    let failed = |error| format!("cannot write {file}: {error}");
    if let Some(folder) = args.file.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut opened = match OpenOptions::new().write(true).create_new(true).open(&args.file) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(format!("{file} exists and is left as it is (name another file)"));
        }
        opened => opened.map_err(failed)?,
    };
    opened.write_all(STARTER.as_bytes()).map_err(failed)?;
    Ok(format!("wrote {file}; set OPENAI_API_KEY, then: outrigger run --policies {file}"))
}
