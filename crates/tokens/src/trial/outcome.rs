//! What reading one place gave, as it travels from a worker to the driver.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where a record lies in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Spot {
    /// Its line, counted from 1; not known where an object was entered in the middle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Its first byte, after decompression.
    pub offset: u64,
}

/// A record that is not a document, or a document without text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Where.
    pub spot: Spot,
    /// What is wrong, to be read after the place.
    pub reason: String,
}

/// A document that may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// The hash of its text: the lowest ones are shown.
    pub hash: u64,
    /// Where.
    pub spot: Spot,
    /// Its first characters.
    pub text: String,
    /// Bytes of all its text.
    pub bytes: u64,
    /// All its tokens, its end included.
    pub tokens: u64,
    /// The first ids.
    pub ids: Vec<u32>,
}

/// What reading a place gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The object's URL.
    pub object: String,
    /// Bytes on the store that the records read take there.
    pub raw_bytes: u64,
    /// Documents with text.
    pub documents: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Their tokens, the end of each document included.
    pub tokens: u64,
    /// Documents with more tokens than a sample.
    pub long: u64,
    /// Tokens that stand for what the vocabulary lacks.
    pub unknown_tokens: u64,
    /// Tokens that stand for single bytes, of a vocabulary that falls back on them.
    pub fallback_tokens: u64,
    /// Documents by their tokens; by their text's bytes where there is no tokenizer.
    pub lengths: BTreeMap<u64, u64>,
    /// Documents with text, by hash.
    pub seen: Vec<(u64, Spot)>,
    /// Documents to show.
    pub samples: Vec<Drawn>,
    /// Records that are no documents.
    pub bad: u64,
    /// The first of them.
    pub bad_listed: Vec<Fault>,
    /// Documents without text.
    pub empty: u64,
    /// The first of them.
    pub empty_listed: Vec<Fault>,
    /// What ended the object before its end.
    pub damaged: Option<String>,
    /// CPU seconds of the process, but for tokenising: reading, decompressing, cutting, hashing.
    pub read_cpu_seconds: f64,
    /// CPU seconds of tokenising.
    pub tokenise_cpu_seconds: f64,
    /// Seconds that passed.
    pub wall_seconds: f64,
    /// Requests made.
    pub gets: u64,
}
