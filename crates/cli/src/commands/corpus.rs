//! `eagleray corpus`: raw text out of files.

use eagleray_base::{Error, Result, units};
use eagleray_store::Store;
use eagleray_tokens::corpus::{self, Options};
use serde_json::json;

use crate::output::Output;

/// Corpora of raw text.
#[derive(clap::Subcommand)]
pub(crate) enum Corpus {
    /// Collect the files of a folder into training documents and documents held out by their hash
    Collect(Collect),
}

impl Corpus {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        match self {
            Self::Collect(command) => command.run(output),
        }
    }
}

/// Collect the files of a folder.
#[derive(clap::Args)]
pub(crate) struct Collect {
    /// The folder with the files
    #[arg(value_name = "DIR")]
    from: String,
    /// Where `train/*.jsonl.zst` and `validation/*.jsonl` go
    #[arg(short = 'o', long = "output", value_name = "OUT")]
    to: String,
    /// Endings of the files to take
    #[arg(long, value_delimiter = ',', default_value = ".txt,.md")]
    suffix: Vec<String>,
    /// The share of documents to hold out
    #[arg(long, default_value_t = 0.01)]
    holdout: f64,
    /// Text to collect at most, such as 48MB
    #[arg(long, value_name = "SIZE")]
    max_bytes: Option<String>,
}

impl Collect {
    fn run(self, output: &Output) -> Result<()> {
        if !(0.0..1.0).contains(&self.holdout) {
            return Err(Error::invalid(format!("`--holdout {}` is no share of documents", self.holdout))
                .with_hint("give a number from 0 to below 1, such as 0.01"));
        }
        let limit = self.max_bytes.as_deref().map(units::parse_bytes).transpose()?;
        let options =
            Options { suffixes: self.suffix, holdout: self.holdout, bytes_max: limit.unwrap_or(u64::MAX) };
        let bar = output.progress("collect", limit.unwrap_or(0), true);
        let (from, to) = (Store::open(&self.from)?, Store::open(&self.to)?);
        let collected = corpus::collect(&from, &to, &options, &mut |bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        if output.is_json() {
            output.json(&json!(collected));
        } else {
            output.print(&collected.to_text());
        }
        Ok(())
    }
}
