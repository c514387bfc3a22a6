//! The parts of a resolved run that the build reads.

use std::collections::HashMap;

use eagleray_base::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

use super::LongDocuments;

#[derive(Deserialize)]
pub(super) struct Resolved {
    pub(super) spec: Spec,
}

#[derive(Deserialize)]
pub(super) struct Spec {
    pub(super) data: Data,
    #[serde(default)]
    pub(super) model: Option<Model>,
}

#[derive(Deserialize)]
pub(super) struct Model {
    #[serde(default)]
    pub(super) config: Option<ModelConfig>,
}

#[derive(Deserialize)]
pub(super) struct ModelConfig {
    #[serde(default)]
    pub(super) vocab_size: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Data {
    pub(super) tokenizer: String,
    pub(super) sequence_length: u64,
    pub(super) shuffle_key: String,
    #[serde(default = "text")]
    pub(super) text_default: String,
    pub(super) long_documents: LongDocuments,
    pub(super) bad_records: BadRecords,
    #[serde(default)]
    pub(super) end_of_document: Option<String>,
    #[serde(default)]
    pub(super) chat_template: Option<String>,
    pub(super) built: String,
    #[serde(default)]
    pub(super) sources: HashMap<String, Source>,
    #[serde(default)]
    pub(super) validation: HashMap<String, Source>,
}

fn text() -> String {
    "text".to_owned()
}

#[derive(Deserialize)]
pub(super) struct BadRecords {
    pub(super) max_fraction: f64,
}

#[derive(Deserialize)]
pub(super) struct Source {
    #[serde(default)]
    pub(super) documents: Vec<String>,
    #[serde(default)]
    pub(super) tokens: Option<String>,
    #[serde(default)]
    pub(super) text: Option<String>,
    #[serde(default)]
    pub(super) chat: Option<String>,
    #[serde(default)]
    pub(super) filters: Vec<Value>,
    #[serde(default)]
    pub(super) format: Option<String>,
}

impl Resolved {
    pub(super) fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| {
            Error::invalid(format!("cannot read the resolved run: {error}"))
                .with_hint("resolve the run spec with this version of the program")
        })
    }
}

impl Source {
    /// Refuses, by name, what this build cannot do.
    pub(super) fn refuse_unavailable(&self, name: &str) -> Result<()> {
        let Some(filter) = self.filters.first() else { return Ok(()) };
        let filter = filter.as_object().and_then(|f| f.keys().next()).map_or("filters", String::as_str);
        Err(Error::invalid(format!("source `{name}`: filter `{filter}` is not available in this build"))
            .with_hint("take `filters` out, and filter the documents beforehand"))
    }
}
