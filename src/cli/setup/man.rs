//! `outrigger man` and `outrigger completions`: manual pages and completions, for packages.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap_complete::Shell;

/// Write the manual pages, one for each command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  outrigger man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The directory to write to; it is created if it does not exist.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Print the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    outrigger completions bash > /etc/bash_completion.d/outrigger\n  \
    outrigger completions fish > ~/.config/fish/completions/outrigger.fish")]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// `command`: the definition of the whole command line.
pub fn man(args: &ManArgs, command: clap::Command) -> Result<String, String> {
    let directory = &args.directory;
    let failed =
        |error: std::io::Error| format!("cannot write to {}: {error}", directory.display());
    std::fs::create_dir_all(directory).map_err(failed)?;
    let command = command.disable_help_subcommand(true);
    clap_mangen::generate_to(command, directory).map_err(failed)?;
    Ok(format!("wrote the manual pages to {}", directory.display()))
}

/// `command`: the definition of the whole command line.
pub fn completions(args: &CompletionsArgs, mut command: clap::Command) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "outrigger", &mut text);
    // A closed pipe is not an error.
    let _ = std::io::stdout().lock().write_all(&text);
    ExitCode::SUCCESS
}
