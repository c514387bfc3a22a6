//! `eagleray tokens`: build token datasets, and look at them.

use std::path::Path;

use eagleray_base::{Error, Result, units};
use eagleray_spec::Purpose;
use eagleray_store::Store;
use eagleray_tokens::Dataset;
use serde_json::json;

use super::SpecArgs;
use crate::output::Output;
use crate::python::{self, Handover};

/// Token datasets: build, verify, list.
#[derive(clap::Subcommand)]
pub(crate) enum Tokens {
    /// Build the datasets of a run, in parallel; what is there is found, what was begun goes on
    Build(Build),
    /// Read a whole dataset and check every block, index and hash
    Verify(Verify),
    /// Show the datasets below a folder or bucket
    Ls(Ls),
}

impl Tokens {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        match self {
            Self::Build(command) => command.run(output),
            Self::Verify(command) => command.run(output),
            Self::Ls(command) => command.run(output),
        }
    }
}

/// Build the datasets of a run.
#[derive(clap::Args)]
pub(crate) struct Build {
    #[command(flatten)]
    spec: SpecArgs,
    /// Tasks at once; one a CPU of the cluster by default; 0 runs them in one process without Ray
    #[arg(long)]
    workers: Option<u32>,
}

impl Build {
    fn run(self, output: &Output) -> Result<()> {
        let resolved = self.spec.resolve()?;
        resolved.refuse_unavailable(Purpose::Build)?;
        let handover = Handover::new(&resolved)?;
        let mut arguments = vec!["--resolved".to_owned(), handover.path()];
        if let Some(workers) = self.workers {
            arguments.extend(["--workers".to_owned(), workers.to_string()]);
        }
        if output.is_quiet() {
            arguments.push("--quiet".to_owned());
        }
        python::exec("data.build", &arguments, output)
    }
}

/// Read a whole dataset and check it.
#[derive(clap::Args)]
pub(crate) struct Verify {
    /// The dataset's folder: a path or s3://…
    path: String,
}

impl Verify {
    fn run(self, output: &Output) -> Result<()> {
        let dataset = Dataset::open(&Store::open(&self.path)?)?;
        let shards = &dataset.manifest().shards;
        let total = (0..shards.len()).map(|shard| shards.bin_bytes(shard)).sum();
        let bar = output.progress("verify", total, true);
        let verified = dataset.verify(&mut |bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        let named = Path::new(&self.path).file_name().map(|name| name.to_string_lossy().into_owned());
        let hash = verified.dataset_hash.to_string();
        if named.as_ref().is_some_and(|named| named.len() == hash.len() && *named != hash) {
            return Err(Error::corrupt(format!("`{}` holds the dataset {hash}", self.path))
                .with_hint("a dataset's folder has the dataset's hash as its name: rename it"));
        }
        if output.is_json() {
            output.json(&json!(verified));
        } else {
            output.print(&format!(
                "{hash}: {} shards, {} documents, {} tokens, {} read in {} blocks: all as written",
                verified.shards,
                verified.documents,
                verified.tokens,
                units::format_bytes(verified.bytes),
                verified.blocks,
            ));
        }
        Ok(())
    }
}

/// Show the datasets below a folder or bucket.
#[derive(clap::Args)]
pub(crate) struct Ls {
    /// Where datasets lie (`data.built` of a run), or one dataset
    path: String,
}

impl Ls {
    fn run(self, output: &Output) -> Result<()> {
        let store = Store::open(&self.path)?;
        let mut datasets = Vec::new();
        if let Ok(dataset) = Dataset::open(&store) {
            datasets.push(dataset);
        } else {
            for name in store.list_dirs("")? {
                let folder = store.child(&name);
                if folder.head("manifest")?.is_some() {
                    datasets.push(Dataset::open(&folder)?);
                }
            }
        }
        if datasets.is_empty() {
            return Err(Error::not_found(format!("there is no token dataset in `{}`", store.url()))
                .with_hint("give the folder that `data.built` names"));
        }
        if output.is_json() {
            output.json(&json!(datasets.iter().map(described).collect::<Vec<_>>()));
            return Ok(());
        }
        for dataset in &datasets {
            let manifest = dataset.manifest();
            output.print(&format!(
                "{}  {:>12} tokens  {:>10} documents  {:>6} shards  {:>7} ids  {}",
                manifest.dataset_hash,
                manifest.tokens,
                manifest.documents,
                manifest.shards.len(),
                manifest.vocab_size,
                manifest.engine,
            ));
        }
        Ok(())
    }
}

fn described(dataset: &Dataset) -> serde_json::Value {
    let manifest = dataset.manifest();
    json!({
        "url": dataset.store().url(),
        "dataset_hash": manifest.dataset_hash,
        "tokenizer_hash": manifest.tokenizer_hash,
        "engine": manifest.engine,
        "vocab_size": manifest.vocab_size,
        "eod_id": manifest.eod_id,
        "token_bytes": manifest.token_bytes,
        "loss_mask": manifest.loss_mask,
        "tokens": manifest.tokens,
        "documents": manifest.documents,
        "shards": manifest.shards.len(),
    })
}
