//! The native binary `eagleray`.
//!
//! It parses the command line, does what needs no Python itself, and replaces itself by the Python
//! beside it for the rest. Each noun has a file in [`commands`]; errors are rendered and exit codes
//! chosen here and nowhere else: 0 done, 1 the user's fault or a failed check, 2 unexpected. Ctrl-C
//! ends the process by its signal, which a shell reports as 130; what was half-written stays
//! invisible on the store.

mod commands;
mod output;
mod python;

use std::process::ExitCode;

use clap::Parser;
use eagleray_base::{Error, Kind};

use crate::commands::Command;
use crate::output::{Format, Output};

/// From raw text to a trained language model on Ray.
#[derive(Parser)]
#[command(name = "eagleray", version, propagate_version = false, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(clap::Args)]
struct Global {
    /// How results are printed: for people, or as one JSON document
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Say nothing but results and errors
    #[arg(long, global = true)]
    quiet: bool,
    /// Show tracebacks and the logs of Ray
    #[arg(long, global = true, conflicts_with = "quiet")]
    verbose: bool,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no errors; a closed pipe is none either.
            let _ = error.print();
            return if error.use_stderr() { code(Kind::Invalid) } else { ExitCode::SUCCESS };
        }
    };
    let Global { format, quiet, verbose } = cli.global;
    let output = Output::new(format, quiet, verbose);
    if format == Format::Sarif && !cli.command.prints_sarif() {
        let error =
            Error::invalid("`--format sarif` is for `eagleray lint` alone").with_hint("use `--format json`");
        return fail(&output, &error);
    }
    match cli.command.run(&output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&output, &error),
    }
}

fn fail(output: &Output, error: &Error) -> ExitCode {
    output.error(error);
    code(error.kind())
}

fn code(kind: Kind) -> ExitCode {
    ExitCode::from(kind.exit_code())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// One line a command and a flag, so that a new knob is a decision.
    fn list(command: &clap::Command, path: &str, lines: &mut Vec<String>) {
        lines.push(path.to_owned());
        for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
            let flag = argument
                .get_long()
                .map_or_else(|| format!("<{}>", argument.get_id()), |long| format!("--{long}"));
            let short = argument.get_short().map(|short| format!(", -{short}")).unwrap_or_default();
            let values: Vec<_> =
                argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
            let default = if values.is_empty() { String::new() } else { format!(" = {}", values.join(" ")) };
            let required = if argument.is_required_set() { " (required)" } else { "" };
            lines.push(format!("    {flag}{short}{default}{required}"));
        }
        for inner in command.get_subcommands() {
            list(inner, &format!("{path} {}", inner.get_name()), lines);
        }
    }

    #[test]
    fn every_flag_is_frozen() {
        let command = Cli::command();
        let mut lines = vec!["everywhere".to_owned()];
        lines.extend(
            command.get_arguments().filter_map(|argument| Some(format!("    --{}", argument.get_long()?))),
        );
        list(&command, "eagleray", &mut lines);
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
