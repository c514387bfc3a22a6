//! Datasets of any size that take the space of one shard, for benchmarks and tests.

use eagleray_base::{Error, Result};
use eagleray_store::Store;
use eagleray_tokens::Dataset;
use eagleray_tokens::format::manifest;
use eagleray_tokens::format::shard::dataset_hash;

/// Rewrites the manifest of a dataset to list its shards `times` over: reads and checksums stay real, the
/// number of samples is whatever is wanted.
///
/// # Errors
/// As [`Dataset::open`] and the store.
pub fn repeat_shards(store: &Store, times: u64) -> Result<Dataset> {
    let mut manifest = Dataset::open(store)?.manifest().clone();
    let count = manifest.shards.len().checked_mul(times as usize).filter(|&count| count > 0);
    let count = count.ok_or_else(|| Error::invalid(format!("{times} times the shards of a dataset")))?;
    manifest.shards = manifest.shards.iter().cycle().take(count).cloned().collect();
    manifest.tokens *= times;
    manifest.documents *= times;
    manifest.dataset_hash =
        dataset_hash(manifest.shards.iter().map(|shard| (&shard.bin_digest, &shard.lengths_digest)));
    store.put(manifest::NAME, manifest.encode()?)?;
    Dataset::open(store)
}
