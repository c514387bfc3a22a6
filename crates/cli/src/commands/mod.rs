//! One file a noun: its arguments and what it does.

mod check;
mod checkpoint;
mod corpus;
mod data;
mod doctor;
mod exec;
mod grow;
mod init;
mod launch;
mod leaks;
mod lint;
mod live;
mod logs;
mod migrate;
mod plan;
mod render;
mod report;
mod runs;
mod shell;
mod stop;
mod tokenizer;
mod tokens;
mod train;
mod watch;

use std::path::{Path, PathBuf};

use eagleray_base::{Error, Result};
use eagleray_plan::Planned;
use eagleray_run::huggingface;
use eagleray_spec::{Problems, Resolved, Source};

use crate::output::Output;

/// The commands, in the order of a run's life.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Write a commented run.yaml to start from
    Init(init::Init),
    /// Turn training jobs of Kubeflow into run specs, with an account of every field
    Migrate(migrate::Migrate),
    /// Check a run spec: every error with its line and a hint
    Check(check::Check),
    /// Look at a corpus before it is built
    #[command(subcommand)]
    Data(data::Data),
    /// Raw text out of files
    #[command(subcommand)]
    Corpus(corpus::Corpus),
    /// Train a tokenizer
    #[command(subcommand)]
    Tokenizer(tokenizer::Tokenizer),
    /// Token datasets: build, verify, list
    #[command(subcommand)]
    Tokens(tokens::Tokens),
    /// Show what a run needs, takes and costs, before it runs
    Plan(plan::Plan),
    /// Write the manifests of a run on EKS
    Render(render::Render),
    /// Find what is wrong with manifests of Ray, Karpenter and Kueue
    Lint(lint::Lint),
    /// Find what a cluster, an identity or a store lacks for a launch
    Doctor(doctor::Doctor),
    /// Show what a launch would change on the cluster
    Diff(launch::Diff),
    /// Put a run on its cluster
    Launch(launch::Launch),
    /// Say what a launch waits for, or what it does
    Watch(watch::Watch),
    /// Show what the driver or a pod of a launch says
    Logs(logs::Logs),
    /// Have a run save and stop, and delete its launches
    Stop(stop::Stop),
    /// Go on with a run whose launch has ended, as its next launch
    Resume(launch::Resume),
    /// Raise the worker groups of a Ray cluster to the most that they may have
    #[command(hide = true)]
    Grow(grow::Grow),
    /// Train, or go on where the run stopped
    Train(train::Train),
    /// A Python prompt whose statements run beside all workers of a running run
    Shell(shell::Shell),
    /// Run a program beside all workers of a running run
    Exec(exec::Exec),
    /// Look at the checkpoints of a run
    Checkpoint(checkpoint::Checkpoint),
    /// Tell what happened in a run: losses, speed, and where the time went
    Report(report::Report),
    /// List the runs of a folder or bucket, or what is held for nothing on a cluster
    Runs(runs::Runs),
}

impl Command {
    /// Whether its results can be printed for code scanners.
    pub(crate) const fn prints_sarif(&self) -> bool {
        matches!(self, Self::Lint(_))
    }

    pub(crate) fn run(self, output: &Output) -> Result<()> {
        match self {
            Self::Init(command) => command.run(output),
            Self::Migrate(command) => command.run(output),
            Self::Check(command) => command.run(output),
            Self::Data(command) => command.run(output),
            Self::Corpus(command) => command.run(output),
            Self::Tokenizer(command) => command.run(output),
            Self::Tokens(command) => command.run(output),
            Self::Plan(command) => command.run(output),
            Self::Render(command) => command.run(output),
            Self::Lint(command) => command.run(output),
            Self::Doctor(command) => command.run(output),
            Self::Diff(command) => command.run(output),
            Self::Launch(command) => command.run(output),
            Self::Watch(command) => command.run(output),
            Self::Logs(command) => command.run(output),
            Self::Stop(command) => command.run(output),
            Self::Resume(command) => command.run(output),
            Self::Grow(command) => command.run(output),
            Self::Train(command) => command.run(output),
            Self::Shell(command) => command.run(output),
            Self::Exec(command) => command.run(output),
            Self::Checkpoint(command) => command.run(output),
            Self::Report(command) => command.run(output),
            Self::Runs(command) => command.run(output),
        }
    }
}

/// A run spec on the command line.
#[derive(clap::Args)]
pub(crate) struct SpecArgs {
    /// The run spec
    #[arg(value_name = "RUN.YAML")]
    pub(crate) path: PathBuf,
    /// Override one value of the spec, such as train.steps=200; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

impl SpecArgs {
    /// The resolved run, or every problem as one error.
    pub(crate) fn resolve(&self) -> Result<Resolved> {
        Ok(self.plan()?.resolved)
    }

    /// The same, with why `auto` is what it is.
    pub(crate) fn plan(&self) -> Result<Planned> {
        resolve(&self.path, &self.overrides)?.map_err(Problems::into_error)
    }
}

/// Reads and resolves a spec; the outer error is of the file, the inner one of what it says.
pub(crate) fn resolve(path: &Path, overrides: &[String]) -> Result<Result<Planned, Problems>> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| cannot_read(error, &name))?;
    let absolute = std::path::absolute(path)?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    let environment = |name: &str| std::env::var(name).ok();
    let source = Source { name: &name, text: &text, base, overrides, environment: &environment };
    let folder = |path: &str| huggingface::read(path).ok().map(|model| model.config);
    Ok(eagleray_plan::resolve_reading(&source, &folder))
}

fn cannot_read(error: std::io::Error, name: &str) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => "`eagleray init DIR` writes one to start from",
        std::io::ErrorKind::InvalidData => "a run spec is YAML in UTF-8",
        std::io::ErrorKind::IsADirectory => "name the file: `DIR/run.yaml`",
        _ => return Error::from(error).at(format!("`{name}`")),
    };
    Error::from(error).at(format!("`{name}`")).with_hint(hint)
}
