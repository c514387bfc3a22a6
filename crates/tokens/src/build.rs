//! The parallel build: raw text → token dataset, the same bytes however it is run.
//!
//! ```text
//! plan      inputs, tokenizer and options → build key, map tasks, reduce tasks          (once)
//! run_map   pieces of raw objects → runs: token ids by output shard, sorted             (in parallel)
//! check_map bad records against the spec's limit, an empty corpus                       (once)
//! run_reduce all runs of one shard → `.bin`, `.idx`, `.blocks`                          (in parallel)
//! finish    dataset hash, `<built>/<hash>/…`, manifest last, then `<built>/keys/<key>`  (once)
//! ```
//!
//! Documents are shuffled globally: each goes where the keyed BLAKE3 of its text says, the shard by the
//! hash's top bits and the place in it by the whole, so that the order depends on texts and key alone and
//! not on files, tasks or workers. Everything on the way lies under `<built>/work/<build key>/<engine>/` in whole
//! objects with fixed names, apart for each engine and its version: a task that was killed is run again and writes the same bytes, a task that
//! was done is skipped, and two builders at once do no harm.
//!
//! Why not Ray Data's own shuffle: it keeps order by scheduling, not by content, reads whole files into
//! memory, and cannot take up a half-finished build.

mod finish;
mod inputs;
mod map;
mod plan;
mod reduce;
mod resolved;
mod run_file;

use eagleray_base::{Digest, Error, Result};
use serde::{Deserialize, Serialize};

use crate::chat;
use crate::format::TokenType;
use crate::reader::Piece;

pub use finish::{check_map, finish};
pub use inputs::{glob_matches, pieces};
pub(crate) use inputs::{listing, split_location};
pub use map::{BadRecord, MapStats, run_map};
pub(crate) use plan::MAP_BYTES;
pub use plan::{Role, plan};
pub use reduce::{ReduceStats, run_reduce};

/// The version of the build: a part of every build key, raised when equal inputs give other bytes.
pub const BUILD_VERSION: u32 = 1;

/// What becomes of a document with more tokens than a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongDocuments {
    /// It is kept whole, and samples cut it.
    Split,
    /// Its first tokens are kept, as many as a sample holds.
    Truncate,
    /// It is left out.
    Drop,
}

/// What every task of a build must know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// The canonical hash of the tokenizer, which lies at `tokenizer.json` in the work folder.
    pub tokenizer_hash: Digest,
    /// The engine chosen when the build was planned.
    pub engine: String,
    /// Ids are below this.
    pub vocab_size: u64,
    /// Ends every document.
    pub eod_id: u32,
    /// Keys the shuffle of documents.
    pub shuffle_key: String,
    /// The field of a record that holds the text; dots reach into objects.
    pub text_field: String,
    /// How conversations are read, where records hold some instead of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<chat::Settings>,
    /// What becomes of long documents.
    pub long_documents: LongDocuments,
    /// Documents with more tokens are long.
    pub sequence_length: u64,
    /// The share of records that may be bad.
    pub bad_fraction_max: f64,
    /// Output shards.
    pub shards: u32,
}

impl Settings {
    /// How tokens are stored.
    pub const fn token_type(&self) -> TokenType {
        if self.chat.is_some() { TokenType::I32Masked } else { TokenType::for_vocabulary(self.vocab_size) }
    }
}

/// One raw object, as the provenance lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawObject {
    /// Its URL.
    pub url: String,
    /// Its size on the store.
    pub bytes: u64,
    /// Its content's tag: `crc32c:…` of a local file, `etag:…` of an object.
    pub tag: String,
}

/// A planned build, or what was found in its place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The source's name in the spec.
    pub source: String,
    /// Training data or a validation set.
    pub role: Role,
    /// Where datasets go.
    pub built: String,
    /// The hash of what goes in.
    pub build_key: Digest,
    /// The folder of intermediate objects.
    pub work: String,
    /// The dataset's hash, where it is built already.
    pub done: Option<Digest>,
    /// The dataset's URL, where it is built already.
    pub dataset: Option<String>,
    /// What every task must know.
    pub settings: Settings,
    /// Bytes of all raw objects.
    pub total_bytes: u64,
    /// The raw objects.
    pub objects: Vec<RawObject>,
    /// The map tasks.
    pub map: Vec<MapTask>,
    /// The reduce tasks.
    pub reduce: Vec<ReduceTask>,
}

/// Tokenise some pieces.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MapTask {
    /// The folder of intermediate objects.
    pub work: String,
    /// What every task must know.
    pub settings: Settings,
    /// The task's number.
    pub index: u32,
    /// What to read.
    pub pieces: Vec<Piece>,
    /// Bytes of the pieces on their store.
    pub bytes: u64,
}

/// Write one shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReduceTask {
    /// The folder of intermediate objects.
    pub work: String,
    /// What every task must know.
    pub settings: Settings,
    /// The shard's number.
    pub shard: u32,
    /// Map tasks that must be done.
    pub map_tasks: u32,
}

/// Where a build on its way lies below `<built>`, and where its tasks write below that.
mod paths {
    use eagleray_base::Digest;

    /// The work of a build key, whatever engine does it.
    pub(super) fn works(build_key: Digest) -> String {
        format!("work/{build_key}")
    }

    /// The work of one engine: tasks done by another one are not taken up, since its ids could be others.
    pub(super) fn work(build_key: Digest, engine: &str) -> String {
        format!("{}/{}", works(build_key), engine.replace(' ', "-"))
    }

    pub(super) const TOKENIZER: &str = "tokenizer.json";
    pub(super) const RUNS: &str = "runs";
    pub(super) const MAP: &str = "map";

    pub(super) fn run(task: u32, serial: u32) -> String {
        format!("{RUNS}/{task:06}-{serial:04}.run")
    }

    pub(super) fn map_done(task: u32) -> String {
        format!("{MAP}/{task:06}.json")
    }

    pub(super) fn shard(shard: u32) -> String {
        format!("shards/{shard:05}")
    }

    pub(super) fn shard_done(shard: u32) -> String {
        format!("reduce/{shard:05}.json")
    }
}

/// A value as JSON.
fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::internal("cannot write JSON").with_source(error))
}

/// A value from JSON that we wrote; `what` names it.
fn from_json<T: for<'a> Deserialize<'a>>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::corrupt(format!("{what} cannot be read: {error}")).with_source(error))
}

#[cfg(test)]
mod tests;
