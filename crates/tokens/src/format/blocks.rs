//! The side table `.blocks`: checksum and document borders of every 4 KiB of `.bin`.
//!
//! Header, 64 bytes: magic `ERBLOCKS`; u32 version 1; u32 block bytes 4096; u64 blocks; u64 tokens;
//! u64 documents; u32 bytes a token; u32 crc32c of all records; 12 zero bytes; u32 crc32c of the 60
//! bytes before. Then a record of 32 bytes a block: u32 crc32c of the block's token bytes followed by
//! the record's other 28 bytes; u32 index in the shard of the document that holds the block's first
//! token; u16 number of documents that start in the block; u16 × 11 their token offsets in the block,
//! `0xFFFF` where unused. Where more than 11 start, the offsets come from the `.idx` lengths.

use eagleray_base::{Error, Result, crc32c, crc32c_append};

use super::{BLOCK_BYTES, Cursor, TokenType};

/// The first bytes of every side table.
pub const MAGIC: &[u8; 8] = b"ERBLOCKS";
/// The version written.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a record.
pub const RECORD_BYTES: usize = 32;
/// Document starts that a record can list.
pub const STARTS_MAX: usize = 11;
/// An unused start.
const UNUSED: u16 = 0xFFFF;

/// Where records lie: `(byte offset, bytes)` of `count` records from block `first` on.
pub const fn records_range(first: u64, count: u64) -> (u64, u64) {
    (HEADER_BYTES as u64 + first * RECORD_BYTES as u64, count * RECORD_BYTES as u64)
}

/// The header of a side table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlocksHeader {
    /// Blocks, the last one perhaps short.
    pub num_blocks: u64,
    /// Tokens of the shard.
    pub tokens: u64,
    /// Documents of the shard.
    pub documents: u64,
    /// How tokens are stored.
    pub token_type: TokenType,
    /// CRC-32C of all records.
    pub records_crc32c: u32,
}

impl BlocksHeader {
    /// The stored form.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(BLOCK_BYTES as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.num_blocks.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.documents.to_le_bytes());
        bytes[40..44].copy_from_slice(&(self.token_type.bytes() as u32).to_le_bytes());
        bytes[44..48].copy_from_slice(&self.records_crc32c.to_le_bytes());
        let checksum = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Parses and checks a header.
    ///
    /// # Errors
    /// `Corrupt` where the bytes are not such a header.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        let header = cursor.take(HEADER_BYTES, "the header")?;
        let mut cursor = Cursor::new(header);
        if cursor.take(8, "the magic")? != MAGIC {
            return Err(Error::corrupt("is not a side table: it does not begin with `ERBLOCKS`"));
        }
        let version = cursor.u32("the version")?;
        if version != VERSION {
            return Err(Error::corrupt(format!("has side table version {version}: expected {VERSION}")));
        }
        if crc32c(&header[..60]).to_le_bytes() != header[60..] {
            return Err(Error::corrupt("has a header that does not match its checksum"));
        }
        let block_bytes = cursor.u32("the block size")?;
        if block_bytes as usize != BLOCK_BYTES {
            return Err(Error::corrupt(format!("has blocks of {block_bytes} bytes: expected {BLOCK_BYTES}")));
        }
        Ok(Self {
            num_blocks: cursor.u64("the number of blocks")?,
            tokens: cursor.u64("the number of tokens")?,
            documents: cursor.u64("the number of documents")?,
            token_type: TokenType::from_bytes(u64::from(cursor.u32("the token size")?))?,
            records_crc32c: cursor.u32("the checksum of the records")?,
        })
    }
}

/// The record of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRecord {
    /// CRC-32C of the block's token bytes, then the record's other bytes.
    pub crc32c: u32,
    /// Index in the shard of the document that holds the block's first token.
    pub first_document: u32,
    /// Documents that start in this block, those the record has no room for included.
    pub num_starts: u16,
    starts: [u16; STARTS_MAX],
}

impl BlockRecord {
    /// The record of a block, its checksum computed.
    pub fn new(block: &[u8], first_document: u32, starts: &[u16]) -> Self {
        let mut kept = [UNUSED; STARTS_MAX];
        let count = starts.len().min(STARTS_MAX);
        kept[..count].copy_from_slice(&starts[..count]);
        let mut record = Self { crc32c: 0, first_document, num_starts: starts.len() as u16, starts: kept };
        record.crc32c = crc32c_append(&[block, &record.encode()[4..]]);
        record
    }

    /// The stored form.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..4].copy_from_slice(&self.crc32c.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.first_document.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.num_starts.to_le_bytes());
        for (pair, start) in bytes[10..].chunks_exact_mut(2).zip(self.starts) {
            pair.copy_from_slice(&start.to_le_bytes());
        }
        bytes
    }

    /// Parses a record; it is checked against its block by [`BlockRecord::verify`].
    ///
    /// # Errors
    /// `Corrupt` where there are fewer than 32 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        let crc32c = cursor.u32("a block record")?;
        let first_document = cursor.u32("a block record")?;
        let num_starts = cursor.u16("a block record")?;
        let mut starts = [UNUSED; STARTS_MAX];
        for start in &mut starts {
            *start = cursor.u16("a block record")?;
        }
        Ok(Self { crc32c, first_document, num_starts, starts })
    }

    /// Whether block and record are what was written.
    pub fn verify(&self, block: &[u8]) -> bool {
        crc32c_append(&[block, &self.encode()[4..]]) == self.crc32c
    }

    /// The first starts, as many as the record lists.
    pub fn listed_starts(&self) -> &[u16] {
        &self.starts[..STARTS_MAX.min(usize::from(self.num_starts))]
    }

    /// The token offsets in the block at which documents start, ascending; `None` where there are more
    /// than the record can list, and the `.idx` lengths must be asked.
    pub fn starts(&self) -> Option<&[u16]> {
        self.starts.get(..usize::from(self.num_starts))
    }
}
