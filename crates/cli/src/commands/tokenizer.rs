//! `eagleray tokenizer`: train one.

use eagleray_base::{Error, Result};
use eagleray_store::Store;
use eagleray_tokens::tokenizer::{Definition, train};
use serde_json::json;

use crate::output::Output;

/// Tokenizers.
#[derive(clap::Subcommand)]
pub(crate) enum Tokenizer {
    /// Train a byte-level BPE tokenizer on documents; equal documents give equal bytes
    Train(Train),
}

impl Tokenizer {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        match self {
            Self::Train(command) => command.run(output),
        }
    }
}

/// Train a byte-level BPE tokenizer.
#[derive(clap::Args)]
pub(crate) struct Train {
    /// Documents: paths, patterns or s3://…, as a run's `documents`
    #[arg(required = true, value_name = "FILES")]
    documents: Vec<String>,
    /// The tokenizer.json to write
    #[arg(short = 'o', long = "output", value_name = "FILE", default_value = "tokenizer.json")]
    to: String,
    /// Tokens, the end of a document included
    #[arg(long, default_value_t = 8192)]
    vocab_size: usize,
    /// The field of a record that holds the text
    #[arg(long, default_value = "text")]
    text: String,
}

impl Train {
    fn run(self, output: &Output) -> Result<()> {
        output.note("reading documents and training: about a minute for 50 MB");
        let mut documents = train::Documents::open(&self.documents, &self.text)?;
        let trained = train::byte_level_bpe(&mut documents, self.vocab_size);
        documents.finish()?;
        let bytes = trained?;
        let (root, name) = self.to.rsplit_once('/').unwrap_or((".", &self.to));
        let store = Store::open(if root.is_empty() { "/" } else { root })?;
        if name.is_empty() {
            return Err(Error::invalid(format!("`{}` names no file to write", self.to)));
        }
        store.put(name, bytes.clone())?;
        let definition = Definition::parse(bytes, &self.to)?;
        if output.is_json() {
            let size = definition.vocab_size();
            output.json(&json!({"path": self.to, "hash": definition.hash(), "vocab_size": size}));
        } else {
            output.print(&format!(
                "{}: {} tokens, hash {}",
                self.to,
                definition.vocab_size(),
                definition.hash()
            ));
        }
        Ok(())
    }
}
