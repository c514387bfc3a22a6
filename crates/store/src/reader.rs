//! Sequential readers: over ranged reads, and over a local file with its bytes counted.

use std::io::{self, Read};

use bytes::Bytes;

use crate::Store;

/// Bytes that [`Store::reader`] asks an object store for at once.
pub const CHUNK_BYTES: u64 = 8 << 20;

pub(crate) struct RangeReader {
    store: Store,
    path: String,
    size: u64,
    next: u64,
    chunk: Bytes,
}

impl RangeReader {
    pub(crate) fn new(store: Store, path: String, size: u64) -> Self {
        Self { store, path, size, next: 0, chunk: Bytes::new() }
    }
}

impl Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            let length = CHUNK_BYTES.min(self.size - self.next);
            if length == 0 {
                return Ok(0);
            }
            self.chunk = self.store.get_range(&self.path, self.next, length).map_err(io::Error::other)?;
            self.next += length;
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

pub(crate) struct CountedReader {
    inner: Box<dyn Read + Send>,
    store: Store,
}

impl CountedReader {
    pub(crate) fn new(inner: Box<dyn Read + Send>, store: Store) -> Self {
        Self { inner, store }
    }
}

impl Read for CountedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.store.count_read(count);
        Ok(count)
    }
}
