//! A local folder with an object store's promises.
//!
//! An object is written beside its place under a hidden name, synced, and moved there by `rename` (or
//! `link` where it must not replace another); then the folder is synced. After a crash there is the
//! old object or the new one, and at worst a hidden file that no listing shows.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use eagleray_base::{Error, Result};

use crate::ObjectInfo;
use crate::writer::Sink;

const HIDDEN: &str = ".tmp-";

static SERIAL: AtomicU64 = AtomicU64::new(0);

#[derive(Clone)]
pub(crate) struct Local {
    root: PathBuf,
}

impl Local {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn child(&self, path: &str) -> Self {
        Self { root: self.path(path) }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Bytes> {
        Ok(fs::read(self.path(path))?.into())
    }

    pub(crate) fn get_range(&self, path: &str, start: u64, length: u64) -> Result<Bytes> {
        let file = File::open(self.path(path))?;
        let mut bytes = vec![0; length as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], start + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    }

    pub(crate) fn reader(&self, path: &str) -> Result<Box<dyn Read + Send>> {
        let path = self.path(path);
        if path.is_dir() {
            return Err(Error::invalid("is a folder, not a file"));
        }
        Ok(Box::new(File::open(path)?))
    }

    pub(crate) fn head(&self, path: &str) -> Result<Option<ObjectInfo>> {
        match fs::metadata(self.path(path)) {
            Ok(metadata) if metadata.is_file() => Ok(Some(info(path.to_owned(), &metadata))),
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut pending = Pending::create(&self.path(path))?;
        pending.file.write_all(bytes)?;
        pending.publish()
    }

    pub(crate) fn put_if_absent(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        let mut pending = Pending::create(&self.path(path))?;
        pending.file.write_all(bytes)?;
        pending.publish_if_absent()
    }

    /// Links rather than copies: objects are never changed in place.
    pub(crate) fn copy(&self, from: &str, to: &str) -> Result<()> {
        let pending = Pending::create(&self.path(to))?;
        fs::remove_file(&pending.hidden)?;
        fs::hard_link(self.path(from), &pending.hidden)?;
        fs::rename(&pending.hidden, &pending.target)?;
        // Dropping `pending` removes the hidden name, which stays where both were one file already.
        sync_folder(&self.path(to))
    }

    pub(crate) fn writer(&self, path: &str) -> Result<Sink> {
        Ok(Sink::Local(Pending::create(&self.path(path))?))
    }

    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        let mut folders = vec![prefix.trim_matches('/').to_owned()];
        while let Some(folder) = folders.pop() {
            for (name, metadata) in self.entries(&folder)? {
                let path = join(&folder, &name);
                if metadata.is_dir() {
                    folders.push(path);
                } else {
                    found.push(info(path, &metadata));
                }
            }
        }
        Ok(found)
    }

    pub(crate) fn list_dirs(&self, prefix: &str) -> Result<Vec<String>> {
        let entries = self.entries(prefix.trim_matches('/'))?;
        Ok(entries.into_iter().filter(|(_, metadata)| metadata.is_dir()).map(|(name, _)| name).collect())
    }

    pub(crate) fn delete(&self, path: &str) -> Result<()> {
        match fs::remove_file(self.path(path)) {
            Err(error) if !is_absent(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn delete_prefix(&self, prefix: &str) -> Result<()> {
        match fs::remove_dir_all(self.path(prefix)) {
            Err(error) if !is_absent(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The visible entries of a folder; a folder or entry that vanishes meanwhile is not there.
    fn entries(&self, folder: &str) -> Result<Vec<(String, fs::Metadata)>> {
        let reading = match fs::read_dir(self.path(folder)) {
            Ok(reading) => reading,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut entries = Vec::new();
        for entry in reading {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with(HIDDEN) {
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(metadata) => entries.push((name, metadata)),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(entries)
    }
}

/// A file under a hidden name, on its way to its place.
pub(crate) struct Pending {
    pub(crate) file: File,
    hidden: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Pending {
    fn create(target: &Path) -> Result<Self> {
        let folder = target.parent().ok_or_else(|| Error::invalid("has no parent folder"))?;
        fs::create_dir_all(folder)?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let hidden = folder.join(format!("{HIDDEN}{}-{serial}-{name}", std::process::id()));
        let file = File::create(&hidden)?;
        Ok(Self { file, hidden, target: target.to_owned(), done: false })
    }

    pub(crate) fn publish(mut self) -> Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.hidden, &self.target)?;
        self.done = true;
        sync_folder(&self.target)
    }

    fn publish_if_absent(self) -> Result<bool> {
        self.file.sync_all()?;
        match fs::hard_link(&self.hidden, &self.target) {
            Ok(()) => sync_folder(&self.target).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.done {
            // The hidden name is never read; a failure to remove it costs only its space.
            let _ = fs::remove_file(&self.hidden);
        }
    }
}

fn sync_folder(path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn info(path: String, metadata: &fs::Metadata) -> ObjectInfo {
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let modified_us = modified.map_or(0, |age| age.as_micros() as u64);
    ObjectInfo { path, bytes: metadata.len(), etag: None, modified_us }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
