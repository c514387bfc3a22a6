//! The manifest's table of shards, kept as it is stored: a shard is decoded when it is asked for.

use eagleray_base::{Digest, Error, Result};

use super::Shard;

/// Bytes of a shard's row over all columns, without its path.
const ROW_BYTES: usize = WIDE + 3 * 4 + 2 * 32;
/// The u64 columns: end of the path, tokens, documents, three sizes.
const WIDE: usize = 6 * 8;

/// Where a column begins, in bytes of a row: the columns follow each other, each as long as the table.
mod column {
    pub(super) const PATH_END: usize = 0;
    pub(super) const TOKENS: usize = 8;
    pub(super) const DOCUMENTS: usize = 16;
    pub(super) const BYTES: [usize; 3] = [24, 32, 40];
    pub(super) const CRC32C: [usize; 3] = [48, 52, 56];
    pub(super) const BIN_DIGEST: usize = 60;
    pub(super) const LENGTHS_DIGEST: usize = 92;
}

/// The shards of a dataset, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    count: usize,
    /// The columns, then the string heap; checked when made.
    bytes: Vec<u8>,
}

impl Shards {
    /// Number of shards.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A shard, decoded.
    ///
    /// # Panics
    /// As a slice, past the end.
    pub fn get(&self, shard: usize) -> Shard {
        Shard {
            path: self.path(shard).to_owned(),
            tokens: self.tokens(shard),
            documents: self.documents(shard),
            bytes: column::BYTES.map(|column| self.u64(column, shard)),
            crc32c: column::CRC32C.map(|column| u32::from_le_bytes(self.cell(column, shard))),
            bin_digest: Digest::from_bytes(self.cell(column::BIN_DIGEST, shard)),
            lengths_digest: Digest::from_bytes(self.cell(column::LENGTHS_DIGEST, shard)),
        }
    }

    /// All shards, decoded one by one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Shard> + Clone + '_ {
        (0..self.count).map(|shard| self.get(shard))
    }

    /// The dataset hash: BLAKE3 over each shard's digests of `.bin` and of the lengths, in order.
    pub fn dataset_hash(&self) -> Digest {
        // In one piece: BLAKE3 is several times slower on pieces of 32 bytes.
        let digests: Vec<u8> = (0..self.count)
            .flat_map(|shard| {
                [column::BIN_DIGEST, column::LENGTHS_DIGEST].map(|column| self.cell(column, shard))
            })
            .flat_map(|digest: [u8; 32]| digest)
            .collect();
        Digest::of(&digests)
    }

    /// The path of a shard, without its ending.
    pub fn path(&self, shard: usize) -> &str {
        let start = if shard == 0 { 0 } else { self.u64(column::PATH_END, shard - 1) as usize };
        let heap = &self.bytes[self.count * ROW_BYTES..];
        let path = &heap[start..self.u64(column::PATH_END, shard) as usize];
        // Checked when the table was made; an empty path would only name an object that is not there.
        std::str::from_utf8(path).unwrap_or_default()
    }

    /// Tokens of a shard.
    pub fn tokens(&self, shard: usize) -> u64 {
        self.u64(column::TOKENS, shard)
    }

    /// Documents of a shard.
    pub fn documents(&self, shard: usize) -> u64 {
        self.u64(column::DOCUMENTS, shard)
    }

    /// Size of a shard's `.bin`.
    pub fn bin_bytes(&self, shard: usize) -> u64 {
        self.u64(column::BYTES[0], shard)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The table at the end of a manifest.
    ///
    /// # Errors
    /// `Corrupt` where the bytes have no room for that many shards, or the paths are not in order or not UTF-8.
    pub(super) fn parse(bytes: &[u8], count: u64) -> Result<Self> {
        let columns = count.checked_mul(ROW_BYTES as u64).filter(|&columns| columns <= bytes.len() as u64);
        let Some(columns) = columns else {
            return Err(Error::corrupt(format!("states {count} shards, more than it has room for")));
        };
        let table = Self { count: count as usize, bytes: bytes.to_vec() };
        let heap = std::str::from_utf8(&bytes[columns as usize..])
            .map_err(|_| Error::corrupt("has a path that is not UTF-8"))?;
        let mut start = 0;
        for shard in 0..table.count {
            let end = table.u64(column::PATH_END, shard);
            if end < start || !usize::try_from(end).is_ok_and(|end| heap.is_char_boundary(end)) {
                return Err(Error::corrupt("has paths out of order"));
            }
            start = end;
        }
        if start != heap.len() as u64 {
            return Err(Error::corrupt("has more names than shards"));
        }
        Ok(table)
    }

    fn u64(&self, column: usize, shard: usize) -> u64 {
        u64::from_le_bytes(self.cell(column, shard))
    }

    fn cell<const N: usize>(&self, column: usize, shard: usize) -> [u8; N] {
        assert!(shard < self.count, "shard {shard} of {}", self.count);
        let at = column * self.count + shard * N;
        let mut cell = [0; N];
        cell.copy_from_slice(&self.bytes[at..at + N]);
        cell
    }
}

impl FromIterator<Shard> for Shards {
    fn from_iter<T: IntoIterator<Item = Shard>>(shards: T) -> Self {
        let shards: Vec<Shard> = shards.into_iter().collect();
        let mut bytes = Vec::with_capacity(shards.len() * (ROW_BYTES + 16));
        let mut end = 0;
        for shard in &shards {
            end += shard.path.len() as u64;
            bytes.extend_from_slice(&end.to_le_bytes());
        }
        let mut wide = |get: fn(&Shard) -> u64| {
            bytes.extend(shards.iter().flat_map(|shard| get(shard).to_le_bytes()));
        };
        wide(|shard| shard.tokens);
        wide(|shard| shard.documents);
        wide(|shard| shard.bytes[0]);
        wide(|shard| shard.bytes[1]);
        wide(|shard| shard.bytes[2]);
        for part in 0..3 {
            bytes.extend(shards.iter().flat_map(|shard| shard.crc32c[part].to_le_bytes()));
        }
        bytes.extend(shards.iter().flat_map(|shard| *shard.bin_digest.as_bytes()));
        bytes.extend(shards.iter().flat_map(|shard| *shard.lengths_digest.as_bytes()));
        bytes.extend(shards.iter().flat_map(|shard| shard.path.bytes()));
        Self { count: shards.len(), bytes }
    }
}
