//! `eagleray migrate`: jobs of Kubeflow → run specs, with an account of every field.

use std::fmt::Write as _;
use std::path::PathBuf;

use eagleray_base::{Error, Result};
use eagleray_kube::migrate::{
    Input, Migration, Options, Refused, Run, SPEC_FILE, migrate, migrate_live, place,
};
use eagleray_launch::live::jobs;
use serde_json::json;

use super::init;
use super::live::{LIVE, LiveArgs};
use crate::output::Output;

/// How the names of manifests end.
const ENDINGS: [&str; 5] = [".yaml", ".yml", ".yaml-template", ".yml-template", ".json"];

/// The loss report of a run.
const REPORT_FILE: &str = "migration.md";

/// Turn training jobs of Kubeflow into run specs, with an account of every field.
#[derive(clap::Args)]
pub(crate) struct Migrate {
    /// A file of `PyTorchJobs` or `TrainJobs`, or a folder of such files; or `live`, those of a cluster
    #[arg(value_name = "FILE|DIR|live")]
    path: PathBuf,
    /// Where the runs go: OUT/NAME/run.yaml, Dockerfile and migration.md for each job
    #[arg(short = 'o', long = "output", value_name = "OUT")]
    out: PathBuf,
    /// The value of a variable of a template; may be repeated
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<(String, String)>,
    /// The EC2 instance type of the nodes, where a job does not say it, or another
    #[arg(long, value_name = "TYPE")]
    instance: Option<String>,
    /// Where each run keeps what it leaves: a folder that all nodes see [default: on the job's first claim]
    #[arg(long, value_name = "DIR")]
    store: Option<String>,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    live: LiveArgs,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Migrate {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let options = Options {
            variables: self.variables.clone(),
            instance: self.instance.clone(),
            store: self.store.clone(),
        };
        let migration = if self.path.as_os_str() == LIVE {
            self.of_cluster(&options, output)?
        } else {
            self.live.refuse_beside_files()?;
            let files = self.files()?;
            let inputs: Vec<Input<'_>> = files.iter().map(|(name, text)| Input { name, text }).collect();
            migrate(&inputs, &options)?
        };
        self.write(&migration)?;
        if output.is_json() {
            output.json(&json!({"output": self.out.display().to_string(), "migration": migration}));
        } else if !migration.runs.is_empty() {
            output.print(&self.summary(&migration));
        }
        if migration.refused.is_empty() {
            return Ok(());
        }
        let error = refused(&migration.refused);
        Err(if output.is_json() { output.reported(error) } else { error })
    }

    fn of_cluster(&self, options: &Options, output: &Output) -> Result<Migration> {
        let (cluster, namespace) = self.live.connect()?;
        let seen = jobs(&cluster, namespace.as_deref())?;
        for note in &seen.notes {
            output.note(note);
        }
        if seen.objects.is_empty() {
            let place =
                namespace.map_or_else(|| "the cluster".to_owned(), |name| format!("namespace `{name}`"));
            return Err(Error::not_found(format!("no PyTorchJob and no TrainJob in {place}")).with_hint(
                "`--namespace NS` or `--all-namespaces` looks elsewhere; a folder of this name is `./live`",
            ));
        }
        migrate_live(&seen.objects, options)
    }

    /// Names and texts of the manifests.
    fn files(&self) -> Result<Vec<(String, String)>> {
        let path = &self.path;
        let mut paths = vec![path.clone()];
        if path.is_dir() {
            let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let entries = std::fs::read_dir(path)
                .map_err(|error| Error::from(error).at(format!("`{}`", path.display())))?;
            paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
            paths.retain(|path| path.is_file() && ENDINGS.iter().any(|ending| name(path).ends_with(ending)));
            paths.sort();
        }
        if paths.is_empty() {
            let message = format!("`{}` holds no manifests", path.display());
            return Err(
                Error::not_found(message).with_hint(format!("their names end with {}", ENDINGS.join(", ")))
            );
        }
        let read = |path: PathBuf| {
            let name = path.display().to_string();
            let text =
                std::fs::read_to_string(&path).map_err(|error| Error::from(error).at(format!("`{name}`")))?;
            Ok((name, text))
        };
        paths.into_iter().map(read).collect()
    }

    fn write(&self, migration: &Migration) -> Result<()> {
        let files: Vec<(PathBuf, String)> = migration
            .runs
            .iter()
            .flat_map(|run| {
                let folder = self.out.join(&run.name);
                [
                    (folder.join("Dockerfile"), run.dockerfile.clone()),
                    (folder.join(REPORT_FILE), migration.markdown(run)),
                    // The spec last: where it is, all of its folder is.
                    (folder.join(SPEC_FILE), run.spec.clone()),
                ]
            })
            .collect();
        // What is refused is refused before anything is written.
        if let Some((path, _)) = files.iter().find(|(path, _)| !self.force && path.exists()) {
            return Err(init::at(Error::conflict("exists"), path));
        }
        for (path, text) in &files {
            init::write(path, text, self.force).map_err(|error| init::at(error, path))?;
        }
        Ok(())
    }

    fn summary(&self, migration: &Migration) -> String {
        let mut text = String::new();
        for run in &migration.runs {
            let folder = self.out.join(&run.name);
            let Run { file, line, kind, nodes, workers, .. } = run;
            let [carried, replaced, lost] = run.counts();
            let _ = writeln!(
                text,
                "{}: {kind} of {}, {nodes} nodes, {workers} workers; {carried} fields carried, {replaced} replaced, {lost} lost",
                folder.join(SPEC_FILE).display(),
                place(file, *line)
            );
        }
        let first = migration.runs.first().map(|run| self.out.join(&run.name)).unwrap_or_default();
        let _ = write!(
            text,
            "next: read `{}`, then `eagleray check {}`; `eagleray render` writes the manifests",
            first.join(REPORT_FILE).display(),
            first.join(SPEC_FILE).display()
        );
        text
    }
}

/// Every job that became no run, each with all its reasons.
fn refused(refused: &[Refused]) -> Error {
    let mut lines = Vec::new();
    for job in refused {
        for problem in &job.problems {
            let hint =
                if problem.hint.is_empty() { String::new() } else { format!("\n    {}", problem.hint) };
            let place = place(&job.file, problem.line);
            lines.push(format!("  {place}: {} `{}`: {}{hint}", job.kind, job.name, problem.message));
        }
    }
    let jobs = if refused.len() == 1 { "job becomes" } else { "jobs become" };
    Error::invalid(format!("{} {jobs} no run\n{}", refused.len(), lines.join("\n")))
}
