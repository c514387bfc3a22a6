//! An immutable token dataset on a store: open, locate, verify.

use bytes::Bytes;
use eagleray_base::{Digest, Error, Result, crc32c};
use eagleray_store::Store;
use serde::Serialize;

use crate::format::blocks::{BlockRecord, BlocksHeader, HEADER_BYTES, RECORD_BYTES};
use crate::format::index::Index;
use crate::format::manifest::{self, Manifest, SUFFIXES, Shard};
use crate::format::{BLOCK_BYTES, TokenType};

/// Blocks that `verify` reads at a time.
const VERIFY_BLOCKS: usize = 4096;
/// Where the tokenizers lie that gave these very tokens too, beside the one that the manifest names.
const TOKENIZERS: &str = "tokenizers";

/// A dataset: its manifest and where each shard begins.
#[derive(Clone, Debug)]
pub struct Dataset {
    store: Store,
    manifest: Manifest,
    token_type: TokenType,
    /// Tokens before each shard, and the total at the end.
    starts: Vec<u64>,
}

/// What `verify` read and found right.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Verified {
    /// The dataset hash, recomputed from the bytes.
    pub dataset_hash: Digest,
    /// Shards read.
    pub shards: u64,
    /// Blocks checked.
    pub blocks: u64,
    /// Tokens read.
    pub tokens: u64,
    /// Documents listed.
    pub documents: u64,
    /// Bytes read.
    pub bytes: u64,
}

impl Dataset {
    /// Opens the dataset whose folder is the root of `store`; reads its manifest, nothing else.
    ///
    /// # Errors
    /// `NotFound` where there is no manifest; as [`Manifest::parse`], with the object's name.
    pub fn open(store: &Store) -> Result<Self> {
        let object = store.url_of(manifest::NAME);
        if store.head(manifest::NAME)?.is_none() {
            return Err(Error::not_found(format!(
                "`{}` is not a token dataset: it has no `manifest`",
                store.url()
            ))
            .with_hint("give the folder that `eagleray tokens build` printed"));
        }
        let manifest =
            Manifest::parse(&store.get(manifest::NAME)?).map_err(|error| error.at(format!("`{object}`")))?;
        Self::with_manifest(store.clone(), manifest)
    }

    fn with_manifest(store: Store, manifest: Manifest) -> Result<Self> {
        let mut starts = vec![0];
        let mut total = 0;
        for shard in 0..manifest.shards.len() {
            total += manifest.shards.tokens(shard);
            starts.push(total);
        }
        let token_type = manifest.token_type()?;
        Ok(Self { store, manifest, token_type, starts })
    }

    /// The store whose root is this dataset's folder.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether the tokens are those of a tokenizer: the manifest's, or one that gave the same later.
    ///
    /// # Errors
    /// As the store.
    pub fn is_of(&self, tokenizer: Digest) -> Result<bool> {
        let named = self.manifest.tokenizer_hash == tokenizer;
        Ok(named || self.store.head(&format!("{TOKENIZERS}/{tokenizer}.json"))?.is_some())
    }

    /// The hashes of all tokenizers that gave these tokens, the manifest's first.
    ///
    /// # Errors
    /// As the store.
    pub fn tokenizers(&self) -> Result<Vec<Digest>> {
        let listed = self.store.list(TOKENIZERS)?;
        let names = listed.iter().filter_map(|object| object.path.rsplit('/').next()?.strip_suffix(".json"));
        let others = names.filter_map(|name| name.parse().ok());
        Ok(std::iter::once(self.manifest.tokenizer_hash).chain(others).collect())
    }

    /// Notes that a tokenizer, `bytes` as it was given, gave these tokens.
    ///
    /// # Errors
    /// As the store.
    pub fn add_tokenizer(&self, tokenizer: Digest, bytes: Bytes) -> Result<()> {
        if self.is_of(tokenizer)? {
            return Ok(());
        }
        self.store.put(&format!("{TOKENIZERS}/{tokenizer}.json"), bytes)
    }

    /// How tokens are stored.
    pub const fn token_type(&self) -> TokenType {
        self.token_type
    }

    /// Whole samples of `sequence_length` inputs and as many labels shifted by one: ⌊(T − 1) / S⌋.
    pub const fn num_samples(&self, sequence_length: u64) -> u64 {
        self.manifest.tokens.saturating_sub(1) / sequence_length
    }

    /// The shard that holds a token, and the token's place in it; O(log shards).
    ///
    /// # Panics
    /// Where the offset is not below the total: the caller asks for a sample that does not exist.
    pub fn locate(&self, token_offset: u64) -> (usize, u64) {
        assert!(token_offset < self.manifest.tokens, "token {token_offset} is past the end");
        let shard = self.starts.partition_point(|&start| start <= token_offset) - 1;
        (shard, token_offset - self.starts[shard])
    }

    /// Tokens before a shard.
    pub fn shard_start(&self, shard: usize) -> u64 {
        self.starts[shard]
    }

    /// The path of one of a shard's objects: `.bin`, `.idx` or `.blocks`.
    pub fn path(&self, shard: usize, suffix: &str) -> String {
        format!("{}{suffix}", self.manifest.shards.path(shard))
    }

    /// Reads everything and checks every block, index, checksum and hash.
    ///
    /// # Errors
    /// `Corrupt` naming the first object, block and token offset that is not what was written.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<Verified> {
        self.verify_hash()?;
        let mut blocks = 0;
        let mut bytes = 0;
        for (number, shard) in self.manifest.shards.iter().enumerate() {
            blocks += self.verify_shard(number, &shard, progress)?;
            bytes += shard.bytes.iter().sum::<u64>();
        }
        Ok(Verified {
            dataset_hash: self.manifest.dataset_hash,
            shards: self.manifest.shards.len() as u64,
            blocks,
            tokens: self.manifest.tokens,
            documents: self.manifest.documents,
            bytes,
        })
    }

    /// That the shards' digests give the dataset hash, under which the dataset is known.
    fn verify_hash(&self) -> Result<()> {
        let hash = self.manifest.shards.dataset_hash();
        if hash != self.manifest.dataset_hash {
            let (object, stated) = (self.store.url_of(manifest::NAME), self.manifest.dataset_hash);
            return Err(damaged(format!(
                "`{object}` states dataset hash {stated}, but its shards give {hash}"
            )));
        }
        Ok(())
    }

    fn verify_shard(&self, number: usize, shard: &Shard, progress: &mut dyn FnMut(u64)) -> Result<u64> {
        let mut small = Vec::new();
        for part in [1, 2] {
            let path = self.path(number, SUFFIXES[part]);
            let bytes = self.store.get(&path)?;
            if bytes.len() as u64 != shard.bytes[part] || crc32c(&bytes) != shard.crc32c[part] {
                let url = self.store.url_of(&path);
                return Err(damaged(format!("`{url}` does not match the size and checksum in the manifest")));
            }
            small.push(bytes);
        }
        let at = |suffix: &str| format!("`{}`", self.store.url_of(&self.path(number, suffix)));
        let index = Index::parse(&small[0]).map_err(|error| error.at(at(".idx")))?;
        let header = BlocksHeader::parse(&small[1]).map_err(|error| error.at(at(".blocks")))?;
        let tokens: u64 = index.lengths.iter().map(|&length| u64::from(length)).sum();
        let stated = (shard.tokens, shard.documents);
        if (tokens, index.lengths.len() as u64) != stated || (header.tokens, header.documents) != stated {
            return Err(damaged(format!(
                "{}: index, side table and manifest disagree on the totals",
                at("")
            )));
        }
        self.verify_blocks(number, shard, &index, &small[1][HEADER_BYTES..], progress)?;
        Ok(header.num_blocks)
    }

    /// Checks `.bin` against the side table block by block, and the borders against the index.
    fn verify_blocks(
        &self,
        number: usize,
        shard: &Shard,
        index: &Index,
        records: &[u8],
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let path = self.path(number, ".bin");
        let url = self.store.url_of(&path);
        let mut hasher = blake3::Hasher::new();
        let mut borders = Borders::new(&index.lengths, self.token_type.block_tokens() as u64);
        let mut offset = 0;
        for records in records.chunks(VERIFY_BLOCKS * RECORD_BYTES) {
            let wanted = (records.len() / RECORD_BYTES * BLOCK_BYTES) as u64;
            let length = wanted.min(shard.bytes[0].saturating_sub(offset));
            let bytes = self.store.get_range(&path, offset, length)?;
            hasher.update(&bytes);
            for (record, block) in records.chunks(RECORD_BYTES).zip(bytes.chunks(BLOCK_BYTES)) {
                let record = BlockRecord::parse(record)?;
                let place = || format!("`{url}` at byte {offset}");
                if !record.verify(block) {
                    return Err(damaged(format!("{}: a block does not match its checksum", place())));
                }
                if record != BlockRecord::new(block, borders.first_document, &borders.next_block()) {
                    return Err(damaged(format!(
                        "{}: the side table's borders are not the index's",
                        place()
                    )));
                }
                offset += block.len() as u64;
            }
            progress(length);
        }
        let lengths: Vec<u8> = index.lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
        let digests = (Digest::from_bytes(*hasher.finalize().as_bytes()), Digest::of(&lengths));
        if offset != shard.bytes[0] || digests != (shard.bin_digest, shard.lengths_digest) {
            return Err(damaged(format!("`{url}` is not what the manifest says")));
        }
        Ok(())
    }
}

/// Walks the borders of documents block by block, from lengths alone.
struct Borders<'a> {
    lengths: &'a [u32],
    block_tokens: u64,
    /// The document that holds the next block's first token.
    first_document: u32,
    next: usize,
    /// Where document `next` starts, and where the next block does.
    next_start: u64,
    block_start: u64,
}

impl<'a> Borders<'a> {
    fn new(lengths: &'a [u32], block_tokens: u64) -> Self {
        Self { lengths, block_tokens, first_document: 0, next: 0, next_start: 0, block_start: 0 }
    }

    fn next_block(&mut self) -> Vec<u16> {
        let end = self.block_start + self.block_tokens;
        let mut starts = Vec::new();
        while self.next < self.lengths.len() && self.next_start < end {
            starts.push((self.next_start - self.block_start) as u16);
            self.next_start += u64::from(self.lengths[self.next]);
            self.next += 1;
        }
        self.block_start = end;
        self.first_document = (if self.next_start > end { self.next - 1 } else { self.next }) as u32;
        starts
    }
}

fn damaged(message: String) -> Error {
    Error::corrupt(message).with_hint("copy the dataset again, or delete its folder and build it again")
}
