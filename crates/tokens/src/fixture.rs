//! Small valid datasets, for the tests of this and other crates.

use eagleray_base::{Digest, Result, crc32c};
use eagleray_store::Store;

use crate::format::TokenType;
use crate::format::manifest::{self, Manifest, Shard, Shards};
use crate::format::shard::ShardEncoder;

/// What a fixture states about its tokens.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ids are below this; decides between 2 and 4 bytes a token.
    pub vocab_size: u64,
    /// Added at the end of every document.
    pub eod_id: u32,
    /// Stated as the tokenizer's hash.
    pub tokenizer_hash: Digest,
}

impl Default for Options {
    fn default() -> Self {
        Self { vocab_size: 50_257, eod_id: 0, tokenizer_hash: Digest::of(b"fixture") }
    }
}

/// Writes `<dataset hash>/…` below `store` from the ids of each shard's documents, and returns the hash.
/// An end-of-document token is added to each document.
///
/// # Errors
/// As the store.
pub fn write_dataset(store: &Store, options: &Options, shards: &[Vec<Vec<u32>>]) -> Result<Digest> {
    let token_type = TokenType::for_vocabulary(options.vocab_size);
    let mut written = Vec::new();
    for (number, documents) in shards.iter().enumerate() {
        let mut encoder = ShardEncoder::new(Vec::new(), token_type);
        for document in documents {
            let mut bytes = Vec::new();
            token_type.encode(document, &mut bytes);
            token_type.encode(&[options.eod_id], &mut bytes);
            encoder.push(&bytes)?;
        }
        let (bin, parts) = encoder.finish();
        let shard = Shard {
            path: format!("shards/{number:05}"),
            tokens: parts.tokens,
            documents: parts.documents,
            bytes: [bin.len() as u64, parts.index.len() as u64, parts.blocks.len() as u64],
            crc32c: [crc32c(&bin), crc32c(&parts.index), crc32c(&parts.blocks)],
            bin_digest: parts.bin_digest,
            lengths_digest: parts.lengths_digest,
        };
        written.push((shard, [bin, parts.index, parts.blocks]));
    }
    let shards: Shards = written.iter().map(|(shard, _)| shard.clone()).collect();
    let hash = shards.dataset_hash();
    let folder = store.child(&hash.to_string());
    for (shard, objects) in &mut written {
        for (suffix, bytes) in manifest::SUFFIXES.iter().zip(objects) {
            folder.put(&format!("{}{suffix}", shard.path), std::mem::take(bytes))?;
        }
    }
    let manifest = Manifest {
        dataset_hash: hash,
        tokenizer_hash: options.tokenizer_hash,
        engine: "fixture".to_owned(),
        vocab_size: options.vocab_size,
        eod_id: options.eod_id,
        token_bytes: token_type.bytes() as u32,
        loss_mask: false,
        tokens: written.iter().map(|(shard, _)| shard.tokens).sum(),
        documents: written.iter().map(|(shard, _)| shard.documents).sum(),
        shards,
    };
    folder.put(manifest::NAME, manifest.encode()?)?;
    Ok(hash)
}
