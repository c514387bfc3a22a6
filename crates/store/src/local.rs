//! A local folder with an object store's promises.
//!
//! An object is written beside its place under a hidden name, synced, and moved there by `rename` (or
//! `link` where it must not replace another); then the folder is synced. After a crash there is the
//! old object or the new one, and at worst a hidden file that no listing shows.
//!
//! A hidden name is random and taken only where there is none: writers on other hosts of a shared folder
//! may have the same process id, and a hidden file that a killed process left may be a link to live data.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use eagleray_base::{Error, Result};

use crate::ObjectInfo;
use crate::pattern::Pattern;
use crate::writer::Sink;

/// What the name of every hidden file begins with.
const HIDDEN: &str = ".tmp-";

/// An error and the path that it is about.
pub(crate) type Misplaced = (String, Error);

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
        // No room is made for what the file does not have, however much is asked for.
        let length = length.min(file.metadata()?.len().saturating_sub(start));
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
        let (from, to) = (self.path(from), self.path(to));
        let ((), hidden) = under_fresh_name(&to, random, |hidden| fs::hard_link(&from, hidden))?;
        let renamed = fs::rename(&hidden, &to);
        // Where both were one file already `rename` leaves both names.
        let removed = fs::remove_file(&hidden);
        renamed?;
        match removed {
            Err(error) if !is_absent(&error) => Err(error.into()),
            _ => sync_folder(&to),
        }
    }

    pub(crate) fn writer(&self, path: &str) -> Result<Sink> {
        Ok(Sink::Local(Pending::create(&self.path(path))?))
    }

    /// What matches below a prefix (a folder); folders in which nothing can match are not opened.
    ///
    /// A link to a folder is followed, but not to one that it lies in.
    pub(crate) fn list(&self, prefix: &str, pattern: &Pattern) -> Result<Vec<ObjectInfo>, Misplaced> {
        let mut found = Vec::new();
        let root = prefix.trim_matches('/').to_owned();
        let within = fs::metadata(self.path(&root)).ok().map(|metadata| Within::new(&metadata, None));
        let mut folders = vec![(root, pattern.start(), within)];
        while let Some((folder, place, within)) = folders.pop() {
            let wanted = |name: &str| !pattern.enter(&place, name).is_empty();
            for (name, metadata) in self.entries(&folder, wanted)? {
                let (path, place) = (join(&folder, &name), pattern.enter(&place, &name));
                if !metadata.is_dir() {
                    if pattern.is_match(&place) {
                        found.push(info(path, &metadata));
                    }
                } else if pattern.goes_on(&place) && !Within::holds(within.as_ref(), &metadata) {
                    folders.push((path, place, Some(Within::new(&metadata, within.clone()))));
                }
            }
        }
        Ok(found)
    }

    pub(crate) fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, Misplaced> {
        let entries = self.entries(prefix.trim_matches('/'), |_| true)?;
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

    /// The visible entries of a folder whose names are wanted; a folder or entry that vanishes meanwhile is
    /// not there, and neither is a link that leads nowhere.
    fn entries(
        &self,
        folder: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, fs::Metadata)>, Misplaced> {
        let unreadable = |error: io::Error| (folder.to_owned(), unreadable(error));
        let reading = match fs::read_dir(self.path(folder)) {
            Ok(reading) => reading,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(error)),
        };
        let mut entries = Vec::new();
        for entry in reading {
            let entry = entry.map_err(unreadable)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with(HIDDEN) || !wanted(&name) {
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(metadata) => entries.push((name, metadata)),
                Err(error) if is_absent(&error) || is_loop(&error) => {}
                Err(error) => return Err((join(folder, &name), error.into())),
            }
        }
        Ok(entries)
    }
}

/// The folders that a listing has come through, as the device knows them.
struct Within {
    device: u64,
    inode: u64,
    outer: Option<Rc<Self>>,
}

impl Within {
    fn new(metadata: &fs::Metadata, outer: Option<Rc<Self>>) -> Rc<Self> {
        Rc::new(Self { device: metadata.dev(), inode: metadata.ino(), outer })
    }

    fn holds(innermost: Option<&Rc<Self>>, metadata: &fs::Metadata) -> bool {
        let mut folders = std::iter::successors(innermost, |folder| folder.outer.as_ref());
        folders.any(|folder| (folder.device, folder.inode) == (metadata.dev(), metadata.ino()))
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
        let (file, hidden) = under_fresh_name(target, random, |hidden| File::create_new(hidden))?;
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
            // A network file system may repeat a link whose answer was lost, and then refuse the second.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                is_one_file(&self.hidden, &self.target)
            }
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

/// Makes something beside `target` under a hidden name that nothing had, by an operation that refuses a
/// name in use.
fn under_fresh_name<T>(
    target: &Path,
    mut number: impl FnMut() -> u64,
    make: impl Fn(&Path) -> io::Result<T>,
) -> Result<(T, PathBuf)> {
    let folder = target.parent().ok_or_else(|| Error::invalid("has no parent folder"))?;
    fs::create_dir_all(folder)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let hidden = folder.join(format!("{HIDDEN}{:016x}-{name}", number()));
        match make(&hidden) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok((made?, hidden)),
        }
    }
}

/// 64 bits that differ between calls, processes and hosts: a keyed hash whose key the system gave. The
/// process id parts a forked child from its parent, which share the key.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
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

fn is_one_file(a: &Path, b: &Path) -> Result<bool> {
    let identity = |path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    match (identity(a), identity(b)) {
        (Ok(a), Ok(b)) => Ok(a == b),
        // The other's object has gone meanwhile, and so has not become ours.
        (_, Err(error)) if is_absent(&error) => Ok(false),
        (Err(error), _) | (_, Err(error)) => Err(error.into()),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn is_loop(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn unreadable(error: io::Error) -> Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let error = Error::from(error);
    if denied {
        error.with_hint("give the right to read this folder, or name folders in a way that leaves it out")
    } else {
        error
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests;
