//! A dataset as the stream reads it: which bytes a sample needs, and their verification.

use std::collections::HashMap;
use std::sync::Arc;

use eagleray_base::{Error, Result};
use eagleray_store::{Handle, Store};
use eagleray_tokens::Dataset;
use eagleray_tokens::format::blocks::{BlockRecord, RECORD_BYTES, records_range};
use eagleray_tokens::format::index::lengths_range;
use eagleray_tokens::format::{BLOCK_BYTES, TokenType};
use parking_lot::Mutex;

/// Files kept open per source; a process has 1,024 descriptors by default.
const HANDLES_MAX: usize = 128;

/// Which of a shard's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Tokens,
    Index,
    Blocks,
}

impl Part {
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::Tokens => ".bin",
            Self::Index => ".idx",
            Self::Blocks => ".blocks",
        }
    }
}

/// A range of bytes of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) shard: usize,
    pub(crate) part: Part,
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// The part of a sample that lies in one shard: `count` tokens from `first` on, read as whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) shard: usize,
    pub(crate) first: u64,
    pub(crate) count: u64,
    first_block: u64,
    num_blocks: u64,
    /// Bytes of those blocks; the last block of a shard may be short.
    bytes: u64,
}

pub(crate) struct Source {
    dataset: Dataset,
    token_type: TokenType,
    sequence_length: u64,
    handles: Mutex<HashMap<(usize, Part), Arc<Handle>>>,
}

impl Source {
    pub(crate) fn open(url: &str, sequence_length: u64) -> Result<Self> {
        let dataset = Dataset::open(&Store::open(url)?)?;
        let token_type = dataset.token_type();
        Ok(Self { dataset, token_type, sequence_length, handles: Mutex::default() })
    }

    pub(crate) const fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    pub(crate) const fn token_type(&self) -> TokenType {
        self.token_type
    }

    pub(crate) fn is_local(&self) -> bool {
        self.dataset.store().local_path("").is_some()
    }

    /// An object, opened once; when too many are open all are let go.
    pub(crate) fn handle(&self, shard: usize, part: Part) -> Result<Arc<Handle>> {
        let mut handles = self.handles.lock();
        if let Some(handle) = handles.get(&(shard, part)) {
            return Ok(Arc::clone(handle));
        }
        if handles.len() >= HANDLES_MAX {
            handles.clear();
        }
        let handle = Arc::new(self.dataset.store().handle(&self.dataset.path(shard, part.suffix()))?);
        handles.insert((shard, part), Arc::clone(&handle));
        Ok(handle)
    }

    /// Where sample `index` lies: its inputs and the label of the last, mostly in one shard.
    pub(crate) fn pieces(&self, index: u64, into: &mut Vec<Piece>) {
        into.clear();
        let shards = &self.dataset.manifest().shards;
        let mut offset = index * self.sequence_length;
        let end = offset + self.sequence_length + 1;
        while offset < end {
            let (shard, first) = self.dataset.locate(offset);
            let count = (end - offset).min(shards.tokens(shard) - first);
            let block_tokens = self.token_type.block_tokens() as u64;
            let first_block = first / block_tokens;
            let last_block = (first + count).div_ceil(block_tokens);
            let bytes = shards.bin_bytes(shard).min(last_block * BLOCK_BYTES as u64)
                - first_block * BLOCK_BYTES as u64;
            into.push(Piece {
                shard,
                first,
                count,
                first_block,
                num_blocks: last_block - first_block,
                bytes,
            });
            offset += count;
        }
    }

    pub(crate) fn place(&self, shard: usize, part: Part) -> String {
        self.dataset.store().url_of(&self.dataset.path(shard, part.suffix()))
    }
}

impl Piece {
    pub(crate) const fn tokens_request(&self) -> Request {
        let start = self.first_block * BLOCK_BYTES as u64;
        Request { shard: self.shard, part: Part::Tokens, start, length: self.bytes }
    }

    pub(crate) const fn blocks_request(&self) -> Request {
        let (start, length) = records_range(self.first_block, self.num_blocks);
        Request { shard: self.shard, part: Part::Blocks, start, length }
    }

    /// The stored bytes of exactly this piece's tokens.
    pub(crate) fn cut<'a>(&self, source: &Source, blocks: &'a [u8]) -> &'a [u8] {
        let width = source.token_type.bytes();
        let start =
            (self.first - self.first_block * source.token_type.block_tokens() as u64) as usize * width;
        &blocks[start..start + self.count as usize * width]
    }

    /// Checks every block against its record.
    pub(crate) fn verify(
        &self,
        source: &Source,
        blocks: &[u8],
        records: &[u8],
        into: &mut Vec<BlockRecord>,
    ) -> Result<()> {
        into.clear();
        for (i, (block, record)) in blocks.chunks(BLOCK_BYTES).zip(records.chunks(RECORD_BYTES)).enumerate() {
            let record = BlockRecord::parse(record)?;
            if !record.verify(block) {
                let number = self.first_block + i as u64;
                let start = number * BLOCK_BYTES as u64;
                let url = source.place(self.shard, Part::Tokens);
                let end = start + block.len() as u64;
                return Err(damaged(format!(
                    "`{url}`: block {number} (bytes {start} to {end}) does not match its checksum"
                )));
            }
            into.push(record);
        }
        Ok(())
    }

    /// The lengths to ask the index for, where a record could not list all document starts of its block:
    /// the request, and the document whose length comes first.
    pub(crate) fn index_request(&self, records: &[BlockRecord]) -> Option<(Request, u64)> {
        let mut crowded = records.iter().filter(|record| record.starts().is_none());
        let first = crowded.next()?;
        let last = crowded.next_back().unwrap_or(first);
        // One more at the end: the first document of a block may have begun before it.
        let from = u64::from(first.first_document);
        let count = u64::from(last.first_document) + u64::from(last.num_starts) - from;
        let (start, length) = lengths_range(from, count);
        Some((Request { shard: self.shard, part: Part::Index, start, length }, from))
    }

    /// Appends where documents start within the piece, as token offsets from its first token; blocks and
    /// records are verified.
    pub(crate) fn starts(
        &self,
        source: &Source,
        blocks: &[u8],
        records: &[BlockRecord],
        lengths: Option<(u64, &[u32])>,
        into: &mut Vec<u64>,
    ) -> Result<()> {
        let block_tokens = source.token_type.block_tokens() as u64;
        let crowded = Crowded { token_type: source.token_type, eod_id: source.dataset.manifest().eod_id };
        for (i, (record, block)) in records.iter().zip(blocks.chunks(BLOCK_BYTES)).enumerate() {
            let block_start = (self.first_block + i as u64) * block_tokens;
            let mut push = |offset: u64| {
                let start = block_start + offset;
                if start >= self.first && start < self.first + self.count {
                    into.push(start - self.first);
                }
            };
            match (record.starts(), lengths) {
                (Some(starts), _) => starts.iter().for_each(|&start| push(u64::from(start))),
                (None, Some((from, lengths))) => {
                    let all = crowded.starts(record, block, from, lengths).ok_or_else(|| {
                        let number = self.first_block + i as u64;
                        let (url, first) = (source.place(self.shard, Part::Index), record.first_document);
                        damaged(format!(
                            "`{url}`: the lengths from document {first} on are not those of block {number}"
                        ))
                    })?;
                    all.into_iter().for_each(&mut push);
                }
                (None, None) => return Err(Error::internal("a crowded block without its lengths")),
            }
        }
        Ok(())
    }
}

/// Finds the starts of blocks with more documents than a record lists, from lengths that no checksum covers.
struct Crowded {
    token_type: TokenType,
    eod_id: u32,
}

impl Crowded {
    /// `None` where the lengths contradict what is verified: as many starts as the record counts, the first of
    /// them as it lists them, and each behind a token that ends a document. That fixes them all, since no text
    /// holds that token.
    fn starts(&self, record: &BlockRecord, block: &[u8], from: u64, lengths: &[u32]) -> Option<Vec<u64>> {
        let listed = record.listed_starts();
        let block_tokens = (block.len() / self.token_type.bytes()) as u64;
        let mut start = u64::from(*listed.first()?);
        // The block's first token begins a document, or belongs to one that began before.
        let mut document = u64::from(record.first_document) + u64::from(start > 0) - from;
        let mut starts = Vec::with_capacity(usize::from(record.num_starts));
        for number in 0..usize::from(record.num_starts) {
            let as_listed = listed.get(number).is_none_or(|&listed| u64::from(listed) == start);
            if start >= block_tokens || !as_listed || !self.may_start(block, start) {
                return None;
            }
            starts.push(start);
            if number + 1 < usize::from(record.num_starts) {
                let length = lengths.get(usize::try_from(document).ok()?).filter(|&&length| length > 0)?;
                start += u64::from(*length);
                document += 1;
            }
        }
        Some(starts)
    }

    /// Whether the token before ends a document; what lies before the block, the record tells.
    fn may_start(&self, block: &[u8], start: u64) -> bool {
        let Some(before) = start.checked_sub(1) else { return true };
        let width = self.token_type.bytes();
        let mut id = Vec::with_capacity(1);
        self.token_type.decode(&block[before as usize * width..][..width], &mut id);
        id == [self.token_type.end_of_document(self.eod_id)]
    }
}

fn damaged(message: String) -> Error {
    Error::corrupt(message).with_hint("copy the dataset again, or delete its folder and build it again")
}
