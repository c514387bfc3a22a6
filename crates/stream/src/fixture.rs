//! Datasets of any size that take the space of one shard, for benchmarks and tests.

use eagleray_base::{Error, Result, mix64};
use eagleray_store::Store;
use eagleray_tokens::Dataset;
use eagleray_tokens::fixture::{Options, write_dataset};
use eagleray_tokens::format::manifest;

/// Rewrites the manifest of a dataset to list its shards `times` over: reads and checksums stay real, the
/// number of samples is whatever is wanted.
///
/// # Errors
/// As [`Dataset::open`] and the store.
pub fn repeat_shards(store: &Store, times: u64) -> Result<Dataset> {
    let mut manifest = Dataset::open(store)?.manifest().clone();
    let count = manifest.shards.len().checked_mul(times as usize).filter(|&count| count > 0);
    let count = count.ok_or_else(|| Error::invalid(format!("{times} times the shards of a dataset")))?;
    manifest.shards = manifest.shards.iter().cycle().take(count).collect();
    manifest.tokens *= times;
    manifest.documents *= times;
    manifest.dataset_hash = manifest.shards.dataset_hash();
    store.put(manifest::NAME, manifest.encode()?)?;
    Dataset::open(store)
}

/// Writes a dataset of one shard of about `shard_tokens` tokens in documents of 100 to 2,000, then lists that
/// shard `times` over.
///
/// # Errors
/// As the store.
pub fn write_repeated(store: &Store, shard_tokens: u64, times: u64) -> Result<Dataset> {
    let options = Options::default();
    let (mut documents, mut tokens) = (Vec::new(), 0);
    while tokens < shard_tokens {
        let length = 100 + mix64(tokens + 1) % 1900;
        documents
            .push((0..length).map(|i| (mix64((tokens << 16) + i) % options.vocab_size) as u32).collect());
        tokens += length + 1;
    }
    let hash = write_dataset(store, &options, &[documents])?;
    repeat_shards(&store.child(&hash.to_string()), times)
}
