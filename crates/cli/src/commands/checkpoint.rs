//! `eagleray checkpoint`: what a run has saved, and whether it is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use eagleray_base::{Error, Result, units};
use eagleray_checkpoint::{self as checkpoint, Commit, Save, SaveState, Share};
use eagleray_store::Store;
use serde_json::json;

use crate::output::Output;
use crate::python;

/// Look at the checkpoints of a run.
#[derive(clap::Args)]
pub(crate) struct Checkpoint {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the saves of a run
    Ls(Target),
    /// Read a checkpoint whole and compare every file with its commit
    Verify(Verify),
    /// Write the model of a checkpoint as a folder that other programs load
    Export(Export),
    /// Write the mean of the models of several checkpoints as such a folder
    Average(Average),
}

#[derive(clap::Args)]
struct Target {
    /// The run's store
    #[arg(value_name = "RUN")]
    path: String,
}

#[derive(clap::Args)]
struct Verify {
    /// The run's store (its newest checkpoint), or the folder of one save
    #[arg(value_name = "PATH")]
    path: String,
    /// Verify every checkpoint of the run, not only the newest
    #[arg(long)]
    all: bool,
}

#[derive(clap::Args)]
struct Export {
    /// The run's store (its newest checkpoint), or the folder of one save
    #[arg(value_name = "PATH")]
    path: String,
    /// The form and the folder, which must not be there or be empty
    #[arg(long, num_args = 2, value_names = ["FORM", "DIR"], required = true)]
    to: Vec<String>,
    /// What weights are rounded to [default: as they were trained, fp32]
    #[arg(long, value_parser = ["bf16", "fp32"])]
    dtype: Option<String>,
    /// The adapters of a run with `model.lora` alone, as peft loads them [default: merged into the base]
    #[arg(long)]
    adapter: bool,
}

#[derive(clap::Args)]
struct Average {
    /// The run's store
    #[arg(value_name = "RUN")]
    path: String,
    /// The newest so many checkpoints
    #[arg(long, value_name = "N", required_unless_present = "steps", conflicts_with = "steps")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// The checkpoints of these steps
    #[arg(long, value_name = "STEP,…", value_delimiter = ',')]
    steps: Vec<u64>,
    /// The form and the folder, which must not be there or be empty
    #[arg(long, num_args = 2, value_names = ["FORM", "DIR"], required = true)]
    to: Vec<String>,
    /// What weights are rounded to [default: as they were trained, fp32]
    #[arg(long, value_parser = ["bf16", "fp32"])]
    dtype: Option<String>,
}

impl Checkpoint {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        match self.action {
            Action::Ls(target) => ls(&target.path, output),
            Action::Verify(verify) => verify.run(output),
            Action::Export(export) => export.run(output),
            Action::Average(average) => average.run(output),
        }
    }
}

fn ls(path: &str, output: &Output) -> Result<()> {
    let store = Store::open(path)?;
    let saves = checkpoint::list(&store)?;
    if saves.is_empty() && !eagleray_run::runs::is_run(&store)? {
        return Err(no_run(&store));
    }
    if output.is_json() {
        output.json(&json!({"store": store.url(), "saves": saves}));
        return Ok(());
    }
    if saves.is_empty() {
        output.print(&format!("no checkpoints in {}", store.url()));
        return Ok(());
    }
    let mut shown = format!("{:>10}  {:>7}  {:>10}  {:<12}  folder\n", "step", "attempt", "size", "state");
    for save in &saves {
        let Save { step, attempt, dir, .. } = save;
        let size = units::format_bytes(save.bytes);
        let _ = writeln!(shown, "{step:>10}  {attempt:>7}  {size:>10}  {:<12}  {dir}", state(save));
    }
    output.print(&shown);
    Ok(())
}

fn state(save: &Save) -> &'static str {
    match (save.state, save.newest) {
        (SaveState::Committed, true) => "newest",
        (SaveState::Committed, false) => "committed",
        (SaveState::Orphan, _) => "orphan",
        (SaveState::Uncommitted, _) => "uncommitted",
    }
}

impl Verify {
    fn run(self, output: &Output) -> Result<()> {
        let (store, commits) = self.commits()?;
        let total = commits.iter().map(Commit::bytes).sum();
        let bar = output.progress("verifying", total, true);
        for commit in &commits {
            checkpoint::verify(&store, commit, Share::ALL, &mut |bytes| bar.inc(bytes))?;
        }
        bar.finish_and_clear();
        if output.is_json() {
            let verified: Vec<_> = commits.iter().map(|commit| json!({"dir": commit.dir, "step": commit.fields.step, "files": commit.files.len(), "bytes": commit.bytes()})).collect();
            output.json(&json!({"store": store.url(), "verified": verified}));
            return Ok(());
        }
        for commit in &commits {
            let (files, bytes) = (commit.files.len(), units::format_bytes(commit.bytes()));
            output.print(&format!(
                "{}: step {}, {files} file{}, {bytes}, every byte as committed",
                commit.dir,
                commit.fields.step,
                if files == 1 { "" } else { "s" }
            ));
        }
        Ok(())
    }

    /// The commits asked for, and the store below which their folders lie.
    fn commits(&self) -> Result<(Store, Vec<Commit>)> {
        let store = Store::open(&self.path)?;
        if !self.all || store.head("COMMIT")?.is_some() {
            let (store, commit) = commit_at(store)?;
            return Ok((store, vec![commit]));
        }
        let saves = checkpoint::list(&store)?;
        let committed = saves.iter().filter(|save| save.state == SaveState::Committed);
        let commits =
            committed.map(|save| checkpoint::read_commit(&store, &save.dir)).collect::<Result<Vec<_>>>()?;
        if commits.is_empty() {
            return Err(no_checkpoint(&store));
        }
        Ok((store, commits))
    }
}

impl Export {
    fn run(self, output: &Output) -> Result<()> {
        let folder = folder_of(&self.to)?;
        let (store, commit) = commit_at(Store::open(&self.path)?)?;
        // What the model is stands with the run, above the folder of a save.
        let whole = format!("{}/{}", store.url(), commit.dir);
        let (run, dir) = match whole.rfind("/checkpoints/") {
            Some(at) => (&whole[..at], &whole[at + 1..]),
            None => return Err(Error::invalid(format!("`{whole}` is not below a run's `checkpoints`"))),
        };
        let mut arguments = vec!["--store", run, "--directory", dir, "--to", folder];
        if let Some(dtype) = &self.dtype {
            arguments.extend(["--dtype", dtype]);
        }
        if self.adapter {
            arguments.push("--adapter");
        }
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        python::exec("checkpoint.export", &arguments, output)
    }
}

impl Average {
    fn run(self, output: &Output) -> Result<()> {
        let folder = folder_of(&self.to)?;
        let store = Store::open(&self.path)?;
        let commits = self.commits(&store)?;
        let mut arguments = vec!["--store", store.url(), "--to", folder];
        for commit in &commits {
            arguments.extend(["--directory", &commit.dir]);
        }
        if let Some(dtype) = &self.dtype {
            arguments.extend(["--dtype", dtype]);
        }
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        python::exec("checkpoint.export", &arguments, output)
    }

    /// The checkpoints asked for, in order of steps, all of one model.
    fn commits(&self, store: &Store) -> Result<Vec<Commit>> {
        let saves = checkpoint::list(store)?;
        // Of two saves of one step the later one counts, as for whoever goes on from there.
        let by_step: BTreeMap<u64, &Save> = saves
            .iter()
            .filter(|save| save.state == SaveState::Committed)
            .map(|save| (save.step, save))
            .collect();
        let there = by_step.keys().map(u64::to_string).collect::<Vec<_>>().join(", ");
        if by_step.is_empty() {
            return Err(no_checkpoint(store));
        }
        let wanted: BTreeSet<u64> = match self.last {
            Some(last) => by_step.keys().rev().take(last as usize).copied().collect(),
            None => self.steps.iter().copied().collect(),
        };
        if self.last.is_some_and(|last| wanted.len() < last as usize) {
            let (last, found) = (self.last.unwrap_or_default(), wanted.len());
            return Err(Error::not_found(format!(
                "`{}` has the checkpoints of {found} steps, fewer than {last}: {there}",
                store.url()
            ))
            .with_hint("`checkpoint.keep.last` in the spec says how many are kept"));
        }
        let missing: Vec<String> =
            wanted.iter().filter(|step| !by_step.contains_key(step)).map(u64::to_string).collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(Error::not_found(format!("`{}` has no checkpoint of step {missing}", store.url()))
                .with_hint(format!("there are those of step {there}")));
        }
        let commits = wanted.iter().filter_map(|step| by_step.get(step));
        let commits =
            commits.map(|save| checkpoint::read_commit(store, &save.dir)).collect::<Result<Vec<_>>>()?;
        for commit in &commits {
            let (first, other) = (&commits[0], commit);
            if first.fields.other.get("model_hash") != other.fields.other.get("model_hash") {
                return Err(Error::invalid(format!(
                    "the checkpoints of steps {} and {} are of different models",
                    first.fields.step, other.fields.step
                )));
            }
        }
        Ok(commits)
    }
}

/// The folder of `--to FORM DIR`.
fn folder_of(to: &[String]) -> Result<&str> {
    let [form, folder] = to else { return Err(Error::internal("two values were asked for")) };
    if form != "huggingface" {
        return Err(Error::invalid(format!("`--to {form}` is not a form that is written"))
            .with_hint("there is `--to huggingface DIR`"));
    }
    Ok(folder)
}

/// The newest commit of a run's store, or that of the folder of one save; and the store below which its folder lies.
fn commit_at(store: Store) -> Result<(Store, Commit)> {
    if store.head("COMMIT")?.is_some() {
        let (parent, name) = split(store.url())?;
        let parent = Store::open(parent)?;
        let commit = checkpoint::read_commit(&parent, name)?;
        return Ok((parent, commit));
    }
    let newest = checkpoint::newest(&store)?.ok_or_else(|| no_checkpoint(&store))?;
    Ok((store, newest))
}

fn no_run(store: &Store) -> Error {
    Error::not_found(format!("`{}` is not a run's store", store.url()))
        .with_hint("give the `store` of the run's spec; `eagleray runs DIR` lists runs")
}

fn no_checkpoint(store: &Store) -> Error {
    Error::not_found(format!("`{}` has no checkpoint", store.url()))
        .with_hint("give a run's store, or the folder of a save that holds a `COMMIT`")
}

fn split(url: &str) -> Result<(&str, &str)> {
    url.rsplit_once('/').ok_or_else(|| Error::invalid(format!("`{url}` is not the folder of a save")))
}
