//! A slice of a corpus, read before the whole is: what it holds, what is wrong with it, how fast it goes.
//!
//! ```text
//! plan      list the objects, choose places in them by the hash of their URLs, check the tokenizer   (once)
//! run       read and tokenise the places of one task                                        (in parallel)
//! findings  all outcomes → counts, quantiles, samples, faults with their places, rates               (once)
//! ```
//!
//! The places lie over the whole corpus, so that the head of its first file does not speak for it, and the
//! same corpus gives the same places. What is counted is what a build would count, by the same readers and the
//! same tokenizer. Nothing is written.

mod choose;
mod findings;
mod outcome;
mod plan;
mod read;
mod show;

use eagleray_base::Digest;
use serde::{Deserialize, Serialize};

use crate::reader::{Compression, Format, Piece};

pub use choose::quantile;
pub use findings::{Findings, Listed, Rates, Sample, findings};
pub use outcome::{Drawn, Fault, Outcome, Spot};
pub use plan::plan;
pub use read::run;
pub use show::{escaped, show};

/// The most documents that a trial takes: more is a build.
pub const DOCUMENTS_MAX: u64 = 2_000_000;

/// Text to read, as a spec or a command line names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Patterns, objects or folders.
    pub patterns: Vec<String>,
    /// The field of a record that holds the text; dots reach into objects.
    pub text_field: String,
    /// The format, where names do not tell it.
    pub format: Option<String>,
}

/// What to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What to read.
    pub sources: Vec<Source>,
    /// A `tokenizer.json` or a folder with one; without it only reading is measured.
    pub tokenizer: Option<String>,
    /// Documents to take at most.
    pub documents_max: u64,
    /// Bytes on the store to take, about.
    pub bytes_max: u64,
    /// Documents to show.
    pub samples: u32,
    /// Documents with more tokens are long.
    pub sequence_length: u64,
}

/// Objects of one format and compression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// How they are cut into documents.
    pub format: Format,
    /// How they are compressed.
    pub compression: Compression,
    /// How many they are.
    pub objects: u64,
    /// Their bytes on the store.
    pub bytes: u64,
}

/// What the patterns name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Objects that can be read.
    pub objects: u64,
    /// Their bytes on the store.
    pub bytes: u64,
    /// The same by format and compression, the largest first.
    pub kinds: Vec<Kind>,
    /// The most bytes that one task of a build reads alone: compressed objects and texts are not cut.
    pub uncut_bytes_max: u64,
    /// Requests that reading all of them takes: looks and ranges, as a build makes them.
    pub gets: u64,
    /// Objects without a byte.
    pub empty_objects: u64,
    /// Objects whose names tell no format, at which a build stops.
    pub unnamed: u64,
    /// The first of them.
    pub unnamed_listed: Vec<String>,
}

/// The tokenizer of a trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerUse {
    /// Where it was found.
    pub location: String,
    /// Its canonical hash.
    pub hash: Digest,
    /// The engine chosen for it.
    pub engine: String,
    /// Ids are below this.
    pub vocab_size: u64,
    /// The bytes that a dataset stores a token in.
    pub token_bytes: u64,
}

/// What every task of a trial must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The tokenizer, where there is one.
    pub tokenizer: Option<TokenizerUse>,
    /// Documents to show.
    pub samples: u32,
    /// Documents with more tokens are long.
    pub sequence_length: u64,
}

/// A place to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draw {
    /// An object, or the lines that start in a part of it.
    pub piece: Piece,
    /// The field of a record that holds the text.
    pub text_field: String,
    /// Stop behind so many bytes on the store.
    pub bytes_max: u64,
    /// Stop behind so many documents.
    pub documents_max: u64,
}

/// Places that one worker reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What every task must know.
    pub settings: Settings,
    /// What to read.
    pub draws: Vec<Draw>,
}

/// A planned trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// What the patterns name.
    pub survey: Survey,
    /// What every task must know.
    pub settings: Settings,
    /// Bytes that the places hold.
    pub bytes: u64,
    /// Whether the places are the whole corpus.
    pub whole: bool,
    /// What to do.
    pub tasks: Vec<Task>,
}

#[cfg(test)]
mod tests;
