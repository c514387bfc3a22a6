//! What to train on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Location, Named, OneOrMany};

/// What to train on.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// A `tokenizer.json`, or a Hugging Face folder with one.
    pub tokenizer: Location,
    /// The token that ends every document, as its tokenizer writes it; the first of `<|endoftext|>`,
    /// `<|end_of_text|>`, `</s>` and `<eos>` that there is where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_of_document: Option<String>,
    /// The Jinja template of `chat` sources; that of the tokenizer's folder where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<Location>,
    /// The tokens of one sample.
    pub sequence_length: u32,
    /// How documents fill samples: `concat` cuts them one after the other, `best_fit` keeps them whole.
    #[serde(default)]
    pub packing: Packing,
    /// `global` shuffles the finished dataset exactly, `era` trains while it is built.
    #[serde(default)]
    pub order: Order,
    /// The key of the shuffle of documents at the build; part of the dataset, not of the run.
    #[serde(default = "shuffle_key")]
    pub shuffle_key: String,
    /// What happens to a document that is longer than a sample.
    #[serde(default)]
    pub long_documents: LongDocuments,
    /// How many broken records a build may leave out.
    #[serde(default)]
    pub bad_records: BadRecords,
    /// The texts, by name; their order is kept.
    pub sources: Named<Text>,
    /// Where token datasets go, by content; `built` inside `store` where it is left out.
    #[serde(default)]
    pub built: Option<Location>,
    /// Held-out texts, by name.
    #[serde(default)]
    pub validation: Named<Validation>,
}

fn shuffle_key() -> String {
    "eagleray".into()
}

/// One source: exactly one of `documents`, `tokens` and `ray_data`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Raw text: a path or glob, or a list of them.
    #[serde(default)]
    pub documents: Option<OneOrMany>,
    /// A token dataset built before.
    #[serde(default)]
    pub tokens: Option<Location>,
    /// `package.module:function`, which returns a `ray.data.Dataset` with a text column.
    #[serde(default)]
    pub ray_data: Option<String>,
    /// The field that holds the text, or a dotted path to it.
    #[serde(default = "text_field")]
    pub text: String,
    /// Instead of `text`, the field that holds a conversation: a list of `{role, content}`. Only what the assistant says is learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<String>,
    /// How the objects are read; by their names where it is left out.
    #[serde(default)]
    pub format: Option<Format>,
    /// Steps that every document passes before it is tokenised, in order.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// The share of tokens, relative to the other sources.
    #[serde(default = "weight")]
    pub weight: f64,
}

pub(crate) fn text_field() -> String {
    "text".into()
}

fn weight() -> f64 {
    1.0
}

/// One held-out text: exactly one of `documents` and `tokens`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// Raw text: a path or glob, or a list of them.
    #[serde(default)]
    pub documents: Option<OneOrMany>,
    /// A token dataset built before.
    #[serde(default)]
    pub tokens: Option<Location>,
    /// The field that holds the text, or a dotted path to it.
    #[serde(default = "text_field")]
    pub text: String,
    /// Instead of `text`, the field that holds a conversation: a list of `{role, content}`. Only what the assistant says is learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<String>,
    /// How the objects are read; by their names where it is left out.
    #[serde(default)]
    pub format: Option<Format>,
    /// The steps between two measurements.
    #[serde(default = "every_steps")]
    pub every_steps: u64,
    /// The samples of one measurement; all there are, where there are fewer.
    #[serde(default = "samples")]
    pub samples: u64,
}

fn every_steps() -> u64 {
    500
}

fn samples() -> u64 {
    512
}

/// How documents fill samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// One after the other, cut every `sequence_length` tokens.
    #[default]
    Concat,
    /// Whole documents, by best fit within a block.
    BestFit,
}

/// In which order samples come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// An exact shuffle of the finished dataset.
    #[default]
    Global,
    /// Shuffled within eras, so that training starts before the build has ended.
    Era,
}

/// What happens to a document that is longer than a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LongDocuments {
    /// Its tokens go on in the next sample.
    #[default]
    Split,
    /// What is too long is left out.
    Truncate,
    /// The document is left out.
    Drop,
}

/// How many broken records a build may leave out.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BadRecords {
    /// The share of records that may be broken; above it the build stops. Each is counted and listed.
    pub max_fraction: f64,
}

impl Default for BadRecords {
    fn default() -> Self {
        Self { max_fraction: 0.0 }
    }
}

/// How an object is read; compression goes by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON record a line.
    Jsonl,
    /// One document an object.
    Txt,
    /// Rows of a Parquet file.
    Parquet,
}

/// One step that a document passes.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Keeps documents whose number of characters lies in a range.
    Length(Length),
    /// Keeps documents whose share of letters of a script lies in a range, by the script's name.
    Script(Named<Share>),
    /// Replaces what a regular expression matches.
    Replace(Replace),
    /// Keeps documents that do not repeat themselves.
    Repetition(Repetition),
    /// Keeps the first of documents with equal text.
    Dedup(Dedup),
}

/// A range of characters.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Length {
    /// The fewest characters.
    pub min_chars: Option<u64>,
    /// The most characters.
    pub max_chars: Option<u64>,
}

/// A range of shares, 0 to 1.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Share {
    /// The least share.
    pub min: Option<f64>,
    /// The greatest share.
    pub max: Option<f64>,
}

/// A replacement.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// The regular expression.
    pub pattern: String,
    /// What stands in its place.
    #[serde(default)]
    pub with: String,
}

/// A bound on repetition.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repetition {
    /// The greatest share of lines that occurred before in the document.
    pub max_line_share: f64,
}

/// Exact deduplication has nothing to set.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dedup {}
