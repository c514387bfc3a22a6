//! `eagleray checkpoint`: what a run has saved, and whether it is whole.

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
}

impl Checkpoint {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        match self.action {
            Action::Ls(target) => ls(&target.path, output),
            Action::Verify(verify) => verify.run(output),
            Action::Export(export) => export.run(output),
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
        let [form, folder] = &self.to[..] else { return Err(Error::internal("two values were asked for")) };
        if form != "huggingface" {
            return Err(Error::invalid(format!("`--to {form}` is not a form that is written"))
                .with_hint("there is `--to huggingface DIR`"));
        }
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
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        python::exec("checkpoint.export", &arguments, output)
    }
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
