//! Streamed writes: checksummed on the way, visible at the end.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use eagleray_base::{Crc32c, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};

use crate::failure::Answered;
use crate::local::Pending;
use crate::{Store, runtime};

/// Bytes of one part of a multipart upload; S3 takes at most 10,000 parts, so 160 GB an object.
const PART_BYTES: usize = 16 << 20;
/// Parts in flight for one object.
const PARTS_IN_FLIGHT: usize = 4;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The size in bytes.
    pub bytes: u64,
    /// CRC-32C of all bytes, computed as they passed.
    pub crc32c: u32,
}

pub(crate) enum Sink {
    Local(Pending),
    Object(Multipart),
}

/// A write in progress. Nothing is visible before [`Writer::finish`]; dropping it leaves nothing.
pub struct Writer {
    store: Store,
    path: String,
    sink: Sink,
    crc: Crc32c,
    bytes: u64,
}

impl Writer {
    pub(crate) fn new(store: Store, path: String, sink: Sink) -> Self {
        Self { store, path, sink, crc: Crc32c::default(), bytes: 0 }
    }

    /// Adds bytes, with errors of this crate.
    ///
    /// # Errors
    /// `Exhausted` when the device is full; `Unavailable` when the backend does not answer.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let outcome = match &mut self.sink {
            Sink::Local(pending) => pending.file.write_all(bytes).map_err(Into::into),
            Sink::Object(upload) => upload.push(bytes),
        };
        outcome.map_err(|error: eagleray_base::Error| self.store.place(&self.path, error))?;
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes the object visible, durable on a local device.
    ///
    /// # Errors
    /// As [`Writer::push`]; then nothing is visible.
    pub fn finish(self) -> Result<Written> {
        let written = Written { bytes: self.bytes, crc32c: self.crc.value() };
        let outcome = match self.sink {
            Sink::Local(pending) => pending.publish(),
            Sink::Object(upload) => upload.finish(),
        };
        outcome.map_err(|error| self.store.place(&self.path, error))?;
        self.store.count_written(written.bytes as usize);
        Ok(written)
    }
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.push(buffer).map_err(io::Error::other)?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An upload that is one PUT while it fits one part, and a multipart upload from then on.
pub(crate) struct Multipart {
    store: Arc<dyn ObjectStore>,
    answered: Answered,
    path: Path,
    buffer: Vec<u8>,
    upload: Option<WriteMultipart>,
}

impl Multipart {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, answered: Answered, path: Path) -> Self {
        Self { store, answered, path, buffer: Vec::new(), upload: None }
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = PART_BYTES - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == PART_BYTES {
                self.send_part()?;
            }
        }
        Ok(())
    }

    fn send_part(&mut self) -> Result<()> {
        let part = Bytes::from(std::mem::take(&mut self.buffer));
        let sent = runtime().block_on(async {
            if self.upload.is_none() {
                let upload = self.store.put_multipart(&self.path).await?;
                self.upload = Some(WriteMultipart::new_with_chunk_size(upload, PART_BYTES));
            }
            if let Some(upload) = &mut self.upload {
                upload.wait_for_capacity(PARTS_IN_FLIGHT).await?;
                upload.put(part);
            }
            Ok(())
        });
        self.answered.check(sent)
    }

    fn finish(mut self) -> Result<()> {
        let rest = Bytes::from(std::mem::take(&mut self.buffer));
        let upload = self.upload.take();
        let finished = runtime().block_on(async {
            let Some(mut upload) = upload else {
                return self.store.put(&self.path, rest.into()).await.map(drop);
            };
            upload.put(rest);
            upload.finish().await.map(drop)
        });
        self.answered.check(finished)
    }
}

impl Drop for Multipart {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            // Best effort: an upload that cannot be aborted is invisible and ends by the bucket's lifecycle rule.
            let _ = runtime().block_on(upload.abort());
        }
    }
}
