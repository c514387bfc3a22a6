//! One interface to `s3://`, local folders and memory.
//!
//! Everything the product reads or leaves goes through a [`Store`]: a root and paths below it. It has
//! fewer verbs than a file system, and each holds on all backends alike:
//!
//! * an object is whole or absent: [`Store::put`] and [`Writer::finish`] make it visible at once;
//! * [`Store::put_if_absent`] is decided by the backend (`If-None-Match: *`, or a hard link), so that
//!   of two processes exactly one wins;
//! * a read past the end is an error of kind `Corrupt`, never a short answer;
//! * errors name the whole URL, and never a secret.
//!
//! Why not a file system interface: S3 cannot append, rename or lock, and what is built on those verbs
//! is wrong there in ways that show only on a bad day.
//!
//! ```
//! use eagleray_store::Store;
//!
//! let store = Store::open("memory://guide")?;
//! store.put("a/b", "bytes")?;
//! assert!(!store.put_if_absent("a/b", "others")?);
//! assert_eq!(&store.get_range("a/b", 1, 3)?[..], b"yte");
//! # Ok::<(), eagleray_base::Error>(())
//! ```
//!
//! Map: [`Store`] the verbs · `local` and `object` the backends · `failure` what their failures mean ·
//! `credentials` those of the machine · [`Writer`] streamed writes ·
//! `pattern` what a listing may ask for · `reader` sequential reads · [`Handle`] many ranged reads of one object · `faults` what tests inject · `runtime` the one async runtime.

mod credentials;
mod failure;
mod faults;
mod handle;
mod local;
mod location;
mod object;
mod pattern;
mod reader;
mod runtime;
mod writer;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use eagleray_base::{Error, Result};

use faults::{Faults, Operation};
pub use handle::Handle;
use location::Location;
use pattern::Pattern;
pub use pattern::glob_matches;
pub use reader::CHUNK_BYTES as READ_CHUNK_BYTES;
pub use runtime::runtime;
pub use writer::{Writer, Written};

/// What a listing tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The path below the store's root.
    pub path: String,
    /// The size in bytes.
    pub bytes: u64,
    /// The backend's own version tag, where it has one.
    pub etag: Option<String>,
    /// The last change, microseconds since the Unix epoch.
    pub modified_us: u64,
}

/// What went through a store and its children since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads of an object or a range.
    pub gets: u64,
    /// Bytes those reads returned.
    pub bytes_read: u64,
    /// Objects written.
    pub puts: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

#[derive(Default)]
struct Meter {
    gets: AtomicU64,
    bytes_read: AtomicU64,
    puts: AtomicU64,
    bytes_written: AtomicU64,
}

#[derive(Clone)]
enum Backend {
    Local(local::Local),
    Object(object::Objects),
}

/// A root and the objects below it; cheap to clone, safe to share between threads.
#[derive(Clone)]
pub struct Store {
    url: Arc<str>,
    backend: Backend,
    faults: Arc<Faults>,
    meter: Arc<Meter>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.url).finish()
    }
}

impl Store {
    /// Opens a path, `file://…`, `s3://bucket/prefix` or `memory://name`. Nothing is created or read.
    ///
    /// S3 takes endpoint, region and credentials from the usual `AWS_…` environment.
    ///
    /// # Errors
    /// `Invalid` for any other scheme, a URL with a password, or unusable AWS settings.
    pub fn open(url: &str) -> Result<Self> {
        let location = Location::parse(url)?;
        let backend = match &location {
            Location::Local(root) => Backend::Local(local::Local::new(root.clone())),
            Location::S3 { bucket, prefix } => Backend::Object(object::Objects::s3(bucket, prefix)?),
            Location::Memory { name, prefix } => Backend::Object(object::Objects::memory(name, prefix)),
        };
        let faults = Arc::new(Faults::from_environment()?);
        Ok(Self { url: location.to_string().into(), backend, faults, meter: Arc::default() })
    }

    /// The root as a URL or an absolute path, without secrets.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL of an object, for messages.
    pub fn url_of(&self, path: &str) -> String {
        if path.is_empty() {
            self.url.to_string()
        } else {
            format!("{}/{path}", self.url.trim_end_matches('/'))
        }
    }

    /// The same backend and counters with a deeper root.
    #[must_use]
    pub fn child(&self, path: &str) -> Self {
        let backend = match &self.backend {
            Backend::Local(local) => Backend::Local(local.child(path)),
            Backend::Object(objects) => Backend::Object(objects.child(path)),
        };
        Self {
            url: self.url_of(path).into(),
            backend,
            faults: Arc::clone(&self.faults),
            meter: Arc::clone(&self.meter),
        }
    }

    /// The file behind an object, where the store is a local folder.
    pub fn local_path(&self, path: &str) -> Option<PathBuf> {
        match &self.backend {
            Backend::Local(local) => Some(local.path(path)),
            Backend::Object(_) => None,
        }
    }

    /// The counters since this store was opened, its children included.
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            gets: read(&self.meter.gets),
            bytes_read: read(&self.meter.bytes_read),
            puts: read(&self.meter.puts),
            bytes_written: read(&self.meter.bytes_written),
        }
    }

    /// The whole object.
    ///
    /// # Errors
    /// `NotFound` naming the object; `Unavailable` when the backend does not answer.
    pub fn get(&self, path: &str) -> Result<Bytes> {
        self.faults.before(Operation::Get, path)?;
        let bytes = match &self.backend {
            Backend::Local(local) => local.get(path),
            Backend::Object(objects) => runtime().block_on(objects.get(path)),
        }
        .map_err(|error| self.place(path, error))?;
        self.count_read(bytes.len());
        Ok(bytes)
    }

    /// `length` bytes from `start`.
    ///
    /// # Errors
    /// `Corrupt` when the object is shorter; else as [`Store::get`].
    pub fn get_range(&self, path: &str, start: u64, length: u64) -> Result<Bytes> {
        self.faults.before(Operation::Get, path)?;
        let bytes = match &self.backend {
            Backend::Local(local) => local.get_range(path, start, length),
            Backend::Object(objects) => runtime().block_on(objects.get_range(path, start, length)),
        };
        self.checked_range(path, start, length, bytes)
    }

    /// [`Store::get_range`] for callers on an async runtime; a local read runs on the calling thread.
    ///
    /// # Errors
    /// As [`Store::get_range`].
    pub async fn get_range_async(&self, path: &str, start: u64, length: u64) -> Result<Bytes> {
        self.faults.before_async(Operation::Get, path).await?;
        let bytes = match &self.backend {
            Backend::Local(local) => local.get_range(path, start, length),
            Backend::Object(objects) => objects.get_range(path, start, length).await,
        };
        self.checked_range(path, start, length, bytes)
    }

    /// A sequential reader with bounded memory (8 MiB at a time from S3).
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn reader(&self, path: &str) -> Result<Box<dyn Read + Send>> {
        self.faults.before(Operation::Get, path)?;
        match &self.backend {
            Backend::Local(local) => {
                let reader = local.reader(path).map_err(|error| self.place(path, error))?;
                Ok(Box::new(reader::CountedReader::new(reader, self.clone())))
            }
            Backend::Object(_) => {
                let info = self.head(path)?.ok_or_else(|| self.absent(path))?;
                Ok(Box::new(reader::RangeReader::new(self.clone(), path.to_owned(), info.bytes)))
            }
        }
    }

    /// What is known of an object; `None` when there is none.
    ///
    /// # Errors
    /// `Unavailable` when the backend does not answer.
    pub fn head(&self, path: &str) -> Result<Option<ObjectInfo>> {
        match &self.backend {
            Backend::Local(local) => local.head(path),
            Backend::Object(objects) => runtime().block_on(objects.head(path)),
        }
        .map_err(|error| self.place(path, error))
    }

    /// Writes a whole object, over an older one if there is one.
    ///
    /// # Errors
    /// `Exhausted` when the device is full; `Unavailable` when the backend does not answer.
    pub fn put(&self, path: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        self.faults.before(Operation::Put, path)?;
        self.count_written(bytes.len());
        match &self.backend {
            Backend::Local(local) => local.put(path, &bytes),
            Backend::Object(objects) => runtime().block_on(objects.put(path, bytes)),
        }
        .map_err(|error| self.place(path, error))
    }

    /// Writes a whole object unless there is one; `false` when there was. Of two callers one wins.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn put_if_absent(&self, path: &str, bytes: impl Into<Bytes>) -> Result<bool> {
        let bytes = bytes.into();
        self.faults.before(Operation::Put, path)?;
        self.count_written(bytes.len());
        match &self.backend {
            Backend::Local(local) => local.put_if_absent(path, &bytes),
            Backend::Object(objects) => runtime().block_on(objects.put_if_absent(path, bytes)),
        }
        .map_err(|error| self.place(path, error))
    }

    /// Copies an object to another path of this store, over an older one if there is one; the bytes stay
    /// on the backend.
    ///
    /// # Errors
    /// `NotFound` where there is no such object; as [`Store::put`].
    pub fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.faults.before(Operation::Put, to)?;
        match &self.backend {
            Backend::Local(local) => local.copy(from, to),
            Backend::Object(objects) => runtime().block_on(objects.copy(from, to)),
        }
        .map_err(|error| self.place(from, error))
    }

    /// A streamed write that becomes visible at [`Writer::finish`]; dropped before, it leaves nothing.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn writer(&self, path: &str) -> Result<Writer> {
        self.faults.before(Operation::Put, path)?;
        let sink = match &self.backend {
            Backend::Local(local) => local.writer(path).map_err(|error| self.place(path, error))?,
            Backend::Object(objects) => objects.writer(path),
        };
        Ok(Writer::new(self.clone(), path.to_owned(), sink))
    }

    /// All objects below a prefix (a folder), sorted by path; unfinished writes are not shown.
    ///
    /// # Errors
    /// `Unavailable` when the backend does not answer. A prefix without objects gives an empty list.
    pub fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let objects = match &self.backend {
            Backend::Local(local) => {
                local.list(prefix, &Pattern::all()).map_err(|error| self.place_at(error))?
            }
            Backend::Object(objects) => {
                runtime().block_on(objects.list(prefix)).map_err(|error| self.place(prefix, error))?
            }
        };
        Ok(sorted(objects))
    }

    /// Some object below a prefix (a folder), the first where the backend lists by name; one request on S3.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn first(&self, prefix: &str) -> Result<Option<ObjectInfo>> {
        match &self.backend {
            Backend::Local(_) => Ok(self.list(prefix)?.into_iter().next()),
            Backend::Object(objects) => {
                runtime().block_on(objects.first(prefix)).map_err(|error| self.place(prefix, error))
            }
        }
    }

    /// The objects whose paths match a pattern ([`glob_matches`]), sorted by path. Only folders in which
    /// something can match are read.
    ///
    /// # Errors
    /// As [`Store::list`]; for a folder that cannot be read only where the pattern enters it.
    pub fn list_matching(&self, pattern: &str) -> Result<Vec<ObjectInfo>> {
        let pattern = Pattern::new(pattern);
        let objects = match &self.backend {
            Backend::Local(local) => local.list("", &pattern).map_err(|error| self.place_at(error))?,
            Backend::Object(objects) => {
                runtime().block_on(objects.list_matching(&pattern)).map_err(|error| self.place("", error))?
            }
        };
        Ok(sorted(objects))
    }

    /// The names of the folders right below a prefix, sorted.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn list_dirs(&self, prefix: &str) -> Result<Vec<String>> {
        let mut names = match &self.backend {
            Backend::Local(local) => local.list_dirs(prefix).map_err(|error| self.place_at(error))?,
            Backend::Object(objects) => {
                runtime().block_on(objects.list_dirs(prefix)).map_err(|error| self.place(prefix, error))?
            }
        };
        names.sort();
        Ok(names)
    }

    /// Deletes an object; that there is none is fine.
    ///
    /// # Errors
    /// `Unavailable` when the backend does not answer.
    pub fn delete(&self, path: &str) -> Result<()> {
        match &self.backend {
            Backend::Local(local) => local.delete(path),
            Backend::Object(objects) => runtime().block_on(objects.delete(path)),
        }
        .map_err(|error| self.place(path, error))
    }

    /// Deletes all objects below a prefix (a folder); in a local folder also what killed writers left. On S3
    /// the parts of a killed writer's upload stay, unseen, until a lifecycle rule of the bucket removes them.
    ///
    /// # Errors
    /// `Unavailable` when the backend does not answer.
    pub fn delete_prefix(&self, prefix: &str) -> Result<()> {
        match &self.backend {
            Backend::Local(local) => local.delete_prefix(prefix).map_err(|error| self.place(prefix, error)),
            Backend::Object(_) => self.list(prefix)?.iter().try_for_each(|object| self.delete(&object.path)),
        }
    }

    fn checked_range(&self, path: &str, start: u64, length: u64, bytes: Result<Bytes>) -> Result<Bytes> {
        let bytes = bytes.map_err(|error| self.place(path, error))?;
        self.count_read(bytes.len());
        if bytes.len() as u64 != length {
            return Err(self.too_short(
                path,
                start.saturating_add(length),
                start.saturating_add(bytes.len() as u64),
            ));
        }
        Ok(bytes)
    }

    fn absent(&self, path: &str) -> Error {
        Error::not_found(format!("`{}` does not exist", self.url_of(path)))
    }

    fn place(&self, path: &str, error: Error) -> Error {
        if error.kind() == eagleray_base::Kind::NotFound && error.hint().is_none() {
            return self.absent(path);
        }
        error.at(format_args!("`{}`", self.url_of(path)))
    }

    fn place_at(&self, (path, error): local::Misplaced) -> Error {
        self.place(&path, error)
    }

    fn count_read(&self, bytes: usize) {
        self.meter.gets.fetch_add(1, Ordering::Relaxed);
        self.meter.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_written(&self, bytes: usize) {
        self.meter.puts.fetch_add(1, Ordering::Relaxed);
        self.meter.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

fn sorted(mut objects: Vec<ObjectInfo>) -> Vec<ObjectInfo> {
    objects.sort_by(|a, b| a.path.cmp(&b.path));
    objects
}

#[cfg(test)]
mod tests;
