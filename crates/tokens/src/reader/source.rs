//! Where bytes come from: a part of an object, or a decompressor.

use std::io::{self, BufReader, Read};

use bytes::{Buf, Bytes};
use eagleray_base::{Error, Result};
use eagleray_store::Store;

use super::{Compression, Source};

/// Bytes asked for at once.
pub(crate) const CHUNK_BYTES: u64 = 4 << 20;

/// Reads an object from an offset to its end, a chunk at a time.
pub struct RangeReader {
    store: Store,
    path: String,
    next: u64,
    end: u64,
    chunk: Bytes,
    chunk_bytes: u64,
}

impl RangeReader {
    /// A reader from `start` on.
    ///
    /// # Errors
    /// `NotFound` where there is no object; as the store.
    pub fn new(store: Store, path: String, start: u64) -> Result<Self> {
        let Some(info) = store.head(&path)? else {
            return Err(Error::not_found(format!("`{}` does not exist", store.url_of(&path))));
        };
        Ok(Self { store, path, next: start, end: info.bytes, chunk: Bytes::new(), chunk_bytes: CHUNK_BYTES })
    }

    /// The same, asking for other chunks: who stops early should not pay for more.
    #[must_use]
    pub fn in_chunks_of(mut self, bytes: u64) -> Self {
        self.chunk_bytes = bytes.max(1);
        self
    }
}

impl Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() && self.next < self.end {
            let length = self.chunk_bytes.min(self.end - self.next);
            self.chunk = self.store.get_range(&self.path, self.next, length).map_err(io::Error::other)?;
            self.next += length;
        }
        let count = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Puts the decompressor in front of a source.
///
/// # Errors
/// `Exhausted` where the decompressor gets no memory.
pub fn decompress(source: Source, compression: Compression) -> Result<Source> {
    Ok(match compression {
        Compression::None => source,
        Compression::Zstd => Box::new(zstd::Decoder::new(source)?),
        Compression::Gzip => {
            Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(256 << 10, source)))
        }
    })
}
