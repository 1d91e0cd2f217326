//! The text of `docs/reference/cli.md`, from the definition of the command line.

use std::fmt::Write;

use clap::builder::StyledStr;
use clap::{Arg, Command};
use outrigger::cli::{EXIT_CODES, command};

const HEADER: &str = "\
# Command line

Each command with its arguments, environment variables and defaults, as `outrigger COMMAND --help` prints them. An \
argument takes precedence over its environment variable. This file is generated from the source: \
`UPDATE_DOCS=1 cargo test --test reference`.

## Exit codes

| code | meaning |
| --- | --- |
";

const COMMON: &str = "
## Connecting to a sidecar

All commands but `run`, `init`, `check`, `schema`, `backup`, `healthcheck`, `man` and `completions`, and `explain` without `--live`, talk to the admin API of a running sidecar and take \
these arguments:
";

/// The reference as Markdown.
pub fn reference() -> String {
    let mut text = HEADER.to_owned();
    for (code, meaning) in EXIT_CODES {
        let _ = writeln!(text, "| {code} | {meaning} |");
    }
    let mut root = command().disable_help_subcommand(true);
    root.build();
    text.push_str(COMMON);
    let status = root.find_subcommand("status").into_iter().flat_map(Command::get_arguments);
    table(&mut text, status.filter(|argument| argument.is_global_set()));
    for command in root.get_subcommands() {
        section(&mut text, command, "##");
    }
    text
}

fn section(text: &mut String, command: &Command, heading: &str) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let about = command.get_long_about().or(command.get_about()).map(StyledStr::to_string);
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let _ = write!(text, "\n{heading} `{name}`\n\n{}\n\n", about.unwrap_or_default());
    let _ = writeln!(text, "```text\n{usage}\n```");
    table(text, command.get_arguments().filter(|argument| !argument.is_global_set()));
    if let Some(examples) = command.get_after_help() {
        let examples = examples.to_string();
        let lines = examples.lines().skip(1).map(str::trim).collect::<Vec<_>>();
        let _ = write!(text, "\n```sh\n{}\n```\n", lines.join("\n"));
    }
    for command in command.get_subcommands() {
        section(text, command, "###");
    }
}

fn table<'a>(text: &mut String, arguments: impl Iterator<Item = &'a Arg>) {
    let is_listed = |argument: &&Arg| {
        !argument.is_hide_set() && !matches!(argument.get_id().as_str(), "help" | "version")
    };
    let rows: String = arguments.filter(is_listed).map(row).collect();
    if !rows.is_empty() {
        let header = "| argument | environment | default | meaning |\n| --- | --- | --- | --- |\n";
        let _ = write!(text, "\n{header}{rows}");
    }
}

fn row(argument: &Arg) -> String {
    let code = |text: String| if text.is_empty() { text } else { format!("`{text}`") };
    let environment = argument.get_env().map(|name| name.to_string_lossy().into_owned());
    let default = argument.get_default_values().iter().map(|value| value.to_string_lossy());
    let default = match argument.get_action().takes_values() {
        true => default.collect::<Vec<_>>().join(" "),
        false => String::new(),
    };
    let cells = [
        code(syntax(argument)),
        code(environment.unwrap_or_default()),
        code(default),
        meaning(argument),
    ];
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

/// `PATH`, `--admin ADDR` or `-H, --header NAME: VALUE`.
fn syntax(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    let value = match argument.get_action().takes_values() {
        true => names.join(" "),
        false => String::new(),
    };
    let short = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let long = argument.get_long().map(|long| format!("--{long} ")).unwrap_or_default();
    format!("{short}{long}{value}").trim_end().to_owned()
}

fn meaning(argument: &Arg) -> String {
    let help = argument.get_help().map(StyledStr::to_string).unwrap_or_default();
    let help = if help.is_empty() || help.ends_with('.') { help } else { help + "." };
    let values = argument.get_possible_values();
    let values = values.iter().filter(|_| argument.get_action().takes_values());
    let values: Vec<_> = values
        .map(|value| match value.get_help() {
            Some(help) => format!("`{}` ({help})", value.get_name()),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    let values = if values.is_empty() { String::new() } else { format!(" {}.", values.join(", ")) };
    (help.replace('\n', " ") + &values).trim().to_owned()
}
