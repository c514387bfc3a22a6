//! What lies on the store, byte by byte; everything is little-endian.
//!
//! `docs/formats/token-dataset.md` describes the same for readers in other languages.

pub mod blocks;
pub mod index;
pub mod manifest;
pub mod shard;

use eagleray_base::{Error, Result};

/// Bytes of `.bin` that one record of the side table covers.
pub const BLOCK_BYTES: usize = 4096;

/// From this size of vocabulary on, ids are stored as `i32`, below as `u16` (Megatron's own rule).
pub const VOCABULARY_I32_MIN: u64 = 65_500;

/// How a token id is stored in `.bin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenType {
    /// Two bytes, unsigned.
    U16,
    /// Four bytes, signed; ids are never negative.
    I32,
    /// As `I32`, with a loss mask: a token that no loss counts is stored as its id's complement, `-1 - id`.
    I32Masked,
}

/// What stands in a document's ids, while they are made, for `id` as a token that no loss counts.
pub const fn uncounted(id: u32) -> u32 {
    !id
}

/// The id of a token, whether a loss counts it or not.
pub const fn id_of(stored: u32) -> u32 {
    if (stored as i32) < 0 { !stored } else { stored }
}

impl TokenType {
    /// The type for a vocabulary of this size.
    pub const fn for_vocabulary(vocab_size: u64) -> Self {
        if vocab_size < VOCABULARY_I32_MIN { Self::U16 } else { Self::I32 }
    }

    /// The type of this width.
    ///
    /// # Errors
    /// `Corrupt` for a width other than 2 and 4.
    pub fn from_bytes(bytes: u64) -> Result<Self> {
        match bytes {
            2 => Ok(Self::U16),
            4 => Ok(Self::I32),
            other => Err(Error::corrupt(format!("a token of {other} bytes: expected 2 or 4"))),
        }
    }

    /// Bytes of one token.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::I32 | Self::I32Masked => 4,
        }
    }

    /// Tokens in a block of the side table.
    pub const fn block_tokens(self) -> usize {
        BLOCK_BYTES / self.bytes()
    }

    /// The code of this type in Megatron's `.idx`.
    pub const fn megatron_code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::I32 | Self::I32Masked => 4,
        }
    }

    /// What ends a document, as it is stored: with a mask, no loss counts it.
    pub const fn end_of_document(self, eod_id: u32) -> u32 {
        match self {
            Self::U16 | Self::I32 => eod_id,
            Self::I32Masked => uncounted(eod_id),
        }
    }

    /// Appends ids as they are stored. An id that does not fit is a defect of the caller.
    pub fn encode(self, ids: &[u32], into: &mut Vec<u8>) {
        match self {
            Self::U16 => into.extend(ids.iter().flat_map(|&id| {
                debug_assert!(u16::try_from(id).is_ok());
                (id as u16).to_le_bytes()
            })),
            Self::I32 | Self::I32Masked => into.extend(ids.iter().flat_map(|&id| id.to_le_bytes())),
        }
    }

    /// Appends the ids stored in `bytes`, masked ones as they are stored; a trailing part of a token is left out.
    pub fn decode(self, bytes: &[u8], into: &mut Vec<u32>) {
        match self {
            Self::U16 => {
                into.extend(bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))));
            }
            Self::I32 | Self::I32Masked => {
                into.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            }
        }
    }
}

/// A little-endian reader over a byte slice that names what it could not read.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            let have = self.bytes.len();
            return Err(Error::corrupt(format!("is too short: {what} would end past its {have} bytes")));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn u16(&mut self, what: &str) -> Result<u16> {
        let bytes = self.take(2, what)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests;
