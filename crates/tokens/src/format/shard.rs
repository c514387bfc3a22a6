//! Writing a shard: documents in, `.bin` streamed out, `.idx` and `.blocks` at the end.

use std::io::Write;

use eagleray_base::{Digest, Error, Result, crc32c};

use super::blocks::{BlockRecord, BlocksHeader};
use super::{BLOCK_BYTES, TokenType, index};

/// What a finished shard consists of beside its `.bin`.
#[derive(Clone, Debug)]
pub struct ShardParts {
    /// The bytes of `.idx`.
    pub index: Vec<u8>,
    /// The bytes of `.blocks`.
    pub blocks: Vec<u8>,
    /// Tokens, end-of-document tokens included.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// BLAKE3 of `.bin`.
    pub bin_digest: Digest,
    /// BLAKE3 of the i32 lengths.
    pub lengths_digest: Digest,
}

/// Writes documents to a shard; only block borders and lengths are kept in memory.
pub struct ShardEncoder<W> {
    out: W,
    token_type: TokenType,
    lengths: Vec<u32>,
    records: Vec<u8>,
    block: Vec<u8>,
    starts: Vec<u16>,
    first_document: u32,
    hasher: blake3::Hasher,
    tokens: u64,
}

impl<W: Write> ShardEncoder<W> {
    /// A shard whose `.bin` goes to `out`.
    pub fn new(out: W, token_type: TokenType) -> Self {
        Self {
            out,
            token_type,
            lengths: Vec::new(),
            records: Vec::new(),
            block: Vec::with_capacity(BLOCK_BYTES),
            starts: Vec::new(),
            first_document: 0,
            hasher: blake3::Hasher::new(),
            tokens: 0,
        }
    }

    /// Adds a document: its token bytes as stored, the end-of-document token included.
    ///
    /// # Errors
    /// As writing to the output; `Exhausted` where the shard holds too many documents or tokens.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        let width = self.token_type.bytes();
        assert!(bytes.len().is_multiple_of(width) && !bytes.is_empty());
        let length = i32::try_from(bytes.len() / width)
            .map_err(|_| Error::exhausted("a document has more than 2³¹ tokens"))?;
        let document = u32::try_from(self.lengths.len())
            .map_err(|_| Error::exhausted("a shard has more than 2³² documents"))?;
        self.lengths.push(length as u32);
        self.tokens += length as u64;
        self.hasher.update(bytes);
        self.out.write_all(bytes).map_err(unwrap_store_error)?;
        if self.block.is_empty() {
            self.first_document = document;
        }
        self.starts.push((self.block.len() / width) as u16);
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - self.block.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK_BYTES {
                self.close_block();
                self.first_document = document;
            }
        }
        Ok(())
    }

    fn close_block(&mut self) {
        let record = BlockRecord::new(&self.block, self.first_document, &self.starts);
        self.records.extend_from_slice(&record.encode());
        self.block.clear();
        self.starts.clear();
    }

    /// Closes the shard and hands back the output with the other parts.
    pub fn finish(mut self) -> (W, ShardParts) {
        if !self.block.is_empty() {
            self.close_block();
        }
        let header = BlocksHeader {
            num_blocks: (self.records.len() / super::blocks::RECORD_BYTES) as u64,
            tokens: self.tokens,
            documents: self.lengths.len() as u64,
            token_type: self.token_type,
            records_crc32c: crc32c(&self.records),
        };
        let mut blocks = header.encode().to_vec();
        blocks.append(&mut self.records);
        let lengths: Vec<u8> = self.lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
        let parts = ShardParts {
            index: index::encode(self.token_type, &self.lengths),
            blocks,
            tokens: header.tokens,
            documents: header.documents,
            bin_digest: Digest::from_bytes(*self.hasher.finalize().as_bytes()),
            lengths_digest: Digest::of(&lengths),
        };
        (self.out, parts)
    }
}

/// A store's writer wraps its own error in an I/O error; this takes it out again.
pub(crate) fn unwrap_store_error(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(inner) => inner,
        Err(error) => error.into(),
    }
}
