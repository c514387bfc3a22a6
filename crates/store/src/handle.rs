//! An object opened for many ranged reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use eagleray_base::{Error, Result};

use crate::Store;
use crate::faults::Operation;

/// One object of a store; the file of a local one stays open, so that a read is one system call.
#[derive(Debug)]
pub struct Handle {
    store: Store,
    path: String,
    file: Option<File>,
}

impl Handle {
    pub(crate) fn new(store: Store, path: String) -> Result<Self> {
        let file = match store.local_path(&path) {
            Some(local) => Some(File::open(local).map_err(|error| store.place(&path, error.into()))?),
            None => None,
        };
        Ok(Self { store, path, file })
    }

    /// The object's URL, for messages.
    pub fn url(&self) -> String {
        self.store.url_of(&self.path)
    }

    /// Whether reads are system calls on a local file, to be made on a thread that may block.
    pub const fn is_local(&self) -> bool {
        self.file.is_some()
    }

    /// Fills `buffer` from byte `start` on; blocks.
    ///
    /// # Errors
    /// As [`Store::get_range`].
    pub fn read_into(&self, start: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(file) = &self.file else {
            let bytes = self.store.get_range(&self.path, start, buffer.len() as u64)?;
            buffer.copy_from_slice(&bytes);
            return Ok(());
        };
        self.store.faults.before(Operation::Get, &self.path)?;
        let filled =
            read_full(file, start, buffer).map_err(|error| self.store.place(&self.path, error.into()))?;
        self.store.count_read(filled);
        if filled == buffer.len() {
            return Ok(());
        }
        let end = |bytes: usize| start.saturating_add(bytes as u64);
        Err(self.store.too_short(&self.path, end(buffer.len()), end(filled)))
    }

    /// `length` bytes from `start`, for callers on an async runtime; a local read runs on the calling thread.
    ///
    /// # Errors
    /// As [`Store::get_range`].
    pub async fn read_async(&self, start: u64, length: u64) -> Result<Bytes> {
        self.store.get_range_async(&self.path, start, length).await
    }
}

fn read_full(file: &File, start: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], start + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl Store {
    /// Opens an object for many ranged reads.
    ///
    /// # Errors
    /// `NotFound` where a local store has no such object; another backend says so at the first read.
    pub fn handle(&self, path: &str) -> Result<Handle> {
        Handle::new(self.clone(), path.to_owned())
    }

    pub(crate) fn too_short(&self, path: &str, expected: u64, found: u64) -> Error {
        let url = self.url_of(path);
        Error::corrupt(format!("`{url}` is too short: expected at least {expected} bytes, found {found}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_reads_like_the_store_and_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let local = Store::open(folder.path().to_str().unwrap()).unwrap();
        for store in [local, Store::open("memory://handle").unwrap()] {
            store.put("a/b", "0123456789").unwrap();
            let before = store.counters();
            let handle = store.handle("a/b").unwrap();
            let mut buffer = [0; 4];
            handle.read_into(3, &mut buffer).unwrap();
            assert_eq!(&buffer, b"3456");
            let error = handle.read_into(8, &mut buffer).unwrap_err();
            assert_eq!(error.kind(), eagleray_base::Kind::Corrupt);
            assert!(error.message().contains("a/b") && error.message().contains("12 bytes, found 10"));
            let after = store.counters();
            assert_eq!((after.gets - before.gets, after.bytes_read - before.bytes_read), (2, 6));
        }
        let folder = Store::open(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(folder.handle("none").unwrap_err().kind(), eagleray_base::Kind::NotFound);
    }
}
