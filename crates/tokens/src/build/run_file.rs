//! A run: tokenised documents of one map task, by output shard and sorted within.
//!
//! Magic `ERRUN\0\0\0`; u32 version 1; u32 shards; u64 offset of each shard's segment, and of the end.
//! A segment is records (16 bytes of the document's hash, u32 bytes of tokens, the tokens) and u32
//! crc32c of them; a shard without documents has a segment of no bytes. Runs live only while a build
//! does.

use std::io::Write;

use eagleray_base::{Error, Result, crc32c};
use eagleray_store::Store;

use crate::format::Cursor;

const MAGIC: &[u8; 8] = b"ERRUN\0\0\0";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 16;
const RECORD_BYTES: usize = 20;

/// The keyed hash of a document's text: its place in the dataset.
pub(super) type DocumentHash = u128;

/// The shard of a hash: its top bits, so that the order of hashes is the order of shards.
pub(super) fn shard_of(hash: DocumentHash, shards: u32) -> u32 {
    (((hash >> 64) * u128::from(shards)) >> 64) as u32
}

/// Collects documents in memory and writes them as a run.
pub(super) struct RunBuilder {
    tokens: Vec<u8>,
    entries: Vec<(DocumentHash, usize, usize)>,
    shards: u32,
}

impl RunBuilder {
    pub(super) fn new(shards: u32) -> Self {
        Self { tokens: Vec::new(), entries: Vec::new(), shards }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.tokens.len() + self.entries.len() * size_of::<(DocumentHash, usize, usize)>()
    }

    /// Adds a document; `write` appends its tokens.
    pub(super) fn push(&mut self, hash: DocumentHash, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.tokens.len();
        write(&mut self.tokens);
        self.entries.push((hash, start, self.tokens.len()));
    }

    /// Writes the run as one object, and is empty again.
    pub(super) fn spill(&mut self, store: &Store, path: &str) -> Result<()> {
        let tokens = &self.tokens;
        self.entries.sort_unstable_by(|a, b| (a.0, &tokens[a.1..a.2]).cmp(&(b.0, &tokens[b.1..b.2])));
        let mut offsets = Vec::with_capacity(self.shards as usize + 1);
        let mut offset = HEADER_BYTES + 8 * (u64::from(self.shards) + 1);
        let mut rest = &self.entries[..];
        let mut segments = Vec::new();
        for shard in 0..self.shards {
            offsets.push(offset);
            let count = rest.partition_point(|entry| shard_of(entry.0, self.shards) <= shard);
            let (segment, later) = rest.split_at(count);
            rest = later;
            let bytes: usize = segment.iter().map(|entry| RECORD_BYTES + entry.2 - entry.1).sum();
            offset += if segment.is_empty() { 0 } else { bytes as u64 + 4 };
            segments.push((segment, bytes));
        }
        offsets.push(offset);
        let mut writer = store.writer(path)?;
        writer.push(MAGIC)?;
        writer.push(&[VERSION.to_le_bytes(), self.shards.to_le_bytes()].concat())?;
        writer.push(&offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect::<Vec<u8>>())?;
        for (segment, bytes) in segments {
            if segment.is_empty() {
                continue;
            }
            let mut buffer = Vec::with_capacity(bytes + 4);
            for (hash, start, end) in segment {
                buffer.extend_from_slice(&hash.to_be_bytes());
                buffer.extend_from_slice(&((end - start) as u32).to_le_bytes());
                buffer.extend_from_slice(&tokens[*start..*end]);
            }
            let checksum = crc32c(&buffer);
            buffer.extend_from_slice(&checksum.to_le_bytes());
            writer.push(&buffer)?;
        }
        writer.flush()?;
        writer.finish()?;
        self.tokens.clear();
        self.entries.clear();
        Ok(())
    }
}

/// One document of a segment: its hash, and where its tokens lie in the segment.
pub(super) type Entry = (DocumentHash, std::ops::Range<usize>);

/// Reads the segment of one shard from a run; the entries point into the bytes.
pub(super) fn read_segment(store: &Store, path: &str, shard: u32) -> Result<(bytes::Bytes, Vec<Entry>)> {
    let place = |error: Error| error.at(format_args!("`{}`", store.url_of(path)));
    let table = store.get_range(path, HEADER_BYTES + 8 * u64::from(shard), 16)?;
    let mut cursor = Cursor::new(&table);
    let (start, end) = (cursor.u64("the table").map_err(place)?, cursor.u64("the table").map_err(place)?);
    if end < start + 4 {
        return Ok((bytes::Bytes::new(), Vec::new()));
    }
    let bytes = store.get_range(path, start, end - start)?;
    let body = bytes.len() - 4;
    if crc32c(&bytes[..body]).to_le_bytes() != bytes[body..] {
        return Err(place(Error::corrupt("a segment does not match its checksum"))
            .with_hint("delete the build's `work` folder and build again"));
    }
    let mut entries = Vec::new();
    let mut cursor = Cursor::new(&bytes[..body]);
    while cursor.position() < body {
        let mut hash = [0; 16];
        hash.copy_from_slice(cursor.take(16, "a record").map_err(place)?);
        let length = cursor.u32("a record").map_err(place)? as usize;
        let at = cursor.position();
        cursor.take(length, "a record").map_err(place)?;
        entries.push((u128::from_be_bytes(hash), at..at + length));
    }
    Ok((bytes, entries))
}
