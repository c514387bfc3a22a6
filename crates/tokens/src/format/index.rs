//! Megatron's `.idx`: which bytes of `.bin` are which document.
//!
//! 9 bytes `MMIDIDX\0\0`; u64 version 1; u8 type code; u64 N sequences; u64 D document indices; then
//! i32 lengths[N], i64 byte pointers[N], i64 document indices[D]. We write one sequence a document, so
//! D = N + 1, pointers are the running sum of lengths, and document indices count from 0 to N. The i64
//! arrays start unaligned.

use eagleray_base::{Error, Result};

use super::{Cursor, TokenType};

/// The first bytes of every `.idx`.
pub const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";

/// Bytes before the lengths.
pub const HEADER_BYTES: u64 = 9 + 8 + 1 + 8 + 8;

/// Where the length of a document lies in the `.idx`: `(byte offset, bytes)` of `count` lengths from
/// `first` on, so that a reader needs no other part of the file.
pub const fn lengths_range(first: u64, count: u64) -> (u64, u64) {
    (HEADER_BYTES + 4 * first, 4 * count)
}

/// The lengths in bytes that [`lengths_range`] pointed at.
pub fn parse_lengths(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The bytes of an `.idx` for documents of these lengths in tokens.
pub fn encode(token_type: TokenType, lengths: &[u32]) -> Vec<u8> {
    let count = lengths.len() as u64;
    let mut bytes = Vec::with_capacity(HEADER_BYTES as usize + lengths.len() * 20 + 8);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&1_u64.to_le_bytes());
    bytes.push(token_type.megatron_code());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&(count + 1).to_le_bytes());
    bytes.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
    let mut pointer = 0_u64;
    for length in lengths {
        bytes.extend_from_slice(&pointer.to_le_bytes());
        pointer += u64::from(*length) * token_type.bytes() as u64;
    }
    bytes.extend((0..=count).flat_map(u64::to_le_bytes));
    bytes
}

/// A parsed `.idx`, checked to be one sequence a document and without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// How tokens are stored.
    pub token_type: TokenType,
    /// Tokens of each document, its end-of-document token included.
    pub lengths: Vec<u32>,
}

impl Index {
    /// Parses and checks the whole file.
    ///
    /// # Errors
    /// `Corrupt` where the bytes are not such an index, saying where.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        if cursor.take(MAGIC.len(), "the magic")? != MAGIC {
            return Err(Error::corrupt("is not a Megatron index: it does not begin with `MMIDIDX`"));
        }
        let version = cursor.u64("the version")?;
        if version != 1 {
            return Err(Error::corrupt(format!("has index version {version}: expected 1")));
        }
        let token_type = match cursor.take(1, "the type code")?[0] {
            8 => TokenType::U16,
            4 => TokenType::I32,
            code => return Err(Error::corrupt(format!("has type code {code}: expected 8 (u16) or 4 (i32)"))),
        };
        let count = cursor.u64("the number of sequences")?;
        let documents = cursor.u64("the number of document indices")?;
        if documents.checked_sub(1) != Some(count) {
            return Err(Error::corrupt(format!(
                "has {documents} document indices for {count} sequences: expected one sequence a document"
            )));
        }
        let expected = u128::from(HEADER_BYTES) + 20 * u128::from(count) + 8;
        if bytes.len() as u128 != expected {
            return Err(Error::corrupt(format!("has {} bytes: expected {expected}", bytes.len())));
        }
        let lengths = parse_lengths(cursor.take(4 * count as usize, "the lengths")?);
        let mut pointer = 0;
        for (document, length) in lengths.iter().enumerate() {
            let found = cursor.u64("the pointers")?;
            if found != pointer {
                return Err(Error::corrupt(format!(
                    "points document {document} at byte {found}: expected {pointer}"
                )));
            }
            pointer += u64::from(*length) * token_type.bytes() as u64;
        }
        for expected in 0..=count {
            let found = cursor.u64("the document indices")?;
            if found != expected {
                return Err(Error::corrupt(format!("has document index {found}: expected {expected}")));
            }
        }
        Ok(Self { token_type, lengths })
    }
}
