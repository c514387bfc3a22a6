//! The reduce task: all runs of one shard → its objects.

use std::io::{BufWriter, Write};

use eagleray_base::{Digest, Error, Result, crc32c};
use eagleray_store::Store;
use serde::{Deserialize, Serialize};

use super::run_file::{DocumentHash, read_segment};
use super::{ReduceTask, from_json, paths, to_json};
use crate::format::manifest::SUFFIXES;
use crate::format::shard::ShardEncoder;

/// What a reduce task wrote, for the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReduceStats {
    /// The shard's number.
    pub shard: u32,
    /// Tokens.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// Sizes of `.bin`, `.idx` and `.blocks`.
    pub bytes: [u64; 3],
    /// Their CRC-32C.
    pub crc32c: [u32; 3],
    /// BLAKE3 of `.bin`.
    pub bin_digest: Digest,
    /// BLAKE3 of the lengths.
    pub lengths_digest: Digest,
}

/// Runs a reduce task, or finds that it was done.
///
/// # Errors
/// As the store; `Corrupt` where a run is not what was written; `Internal` before all maps are done.
pub fn run_reduce(task: &ReduceTask) -> Result<ReduceStats> {
    let work = Store::open(&task.work)?;
    let done = paths::shard_done(task.shard);
    if work.head(&done)?.is_some() {
        return from_json(&work.get(&done)?, &format!("`{}`", work.url_of(&done)));
    }
    let maps = work.list(paths::MAP)?.len();
    if maps != task.map_tasks as usize {
        return Err(Error::internal(format!("{maps} of {} map tasks are done", task.map_tasks)));
    }
    let mut segments = Vec::new();
    let mut order: Vec<(DocumentHash, u32, u32, u32)> = Vec::new();
    for run in work.list(paths::RUNS)? {
        let (bytes, entries) = read_segment(&work, &run.path, task.shard)?;
        let segment = segments.len() as u32;
        order.extend(entries.into_iter().map(|(hash, at)| (hash, segment, at.start as u32, at.end as u32)));
        segments.push(bytes);
    }
    let tokens = |entry: &(DocumentHash, u32, u32, u32)| {
        &segments[entry.1 as usize][entry.2 as usize..entry.3 as usize]
    };
    order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| tokens(a).cmp(tokens(b))));
    let path = paths::shard(task.shard);
    let bin = BufWriter::with_capacity(1 << 20, work.writer(&format!("{path}{}", SUFFIXES[0]))?);
    let mut encoder = ShardEncoder::new(bin, task.settings.token_type());
    for entry in &order {
        encoder.push(tokens(entry))?;
    }
    let (mut bin, parts) = encoder.finish();
    bin.flush()?;
    let bin = bin.into_inner().map_err(|error| Error::from(error.into_error()))?.finish()?;
    let stats = ReduceStats {
        shard: task.shard,
        tokens: parts.tokens,
        documents: parts.documents,
        bytes: [bin.bytes, parts.index.len() as u64, parts.blocks.len() as u64],
        crc32c: [bin.crc32c, crc32c(&parts.index), crc32c(&parts.blocks)],
        bin_digest: parts.bin_digest,
        lengths_digest: parts.lengths_digest,
    };
    work.put(&format!("{path}{}", SUFFIXES[1]), parts.index)?;
    work.put(&format!("{path}{}", SUFFIXES[2]), parts.blocks)?;
    work.put(&done, to_json(&stats)?)?;
    Ok(stats)
}
