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
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use eagleray_base::{Error, Result};

use crate::ObjectInfo;
use crate::writer::Sink;

/// What the name of every hidden file begins with.
const HIDDEN: &str = ".tmp-";

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

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden_files(folder: &Path) -> usize {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(HIDDEN)).count()
    }

    #[test]
    fn a_hidden_name_in_use_is_left_alone_and_another_taken() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("data");
        fs::write(&target, "live").unwrap();
        // What a process killed within a copy leaves: a hidden name of live data.
        let left_over = folder.path().join(format!("{HIDDEN}{:016x}-data", 7));
        fs::hard_link(&target, &left_over).unwrap();
        let create = |hidden: &Path| File::create_new(hidden);
        let mut numbers = [7, 7, 8].into_iter();
        let (_, hidden) = under_fresh_name(&target, || numbers.next().unwrap(), create).unwrap();
        assert_eq!(hidden, folder.path().join(format!("{HIDDEN}{:016x}-data", 8)));
        assert_eq!(fs::read(&target).unwrap(), b"live");
        let mut numbers = [8, 7, 9].into_iter();
        let link = |hidden: &Path| fs::hard_link(&target, hidden);
        let ((), hidden) = under_fresh_name(&target, || numbers.next().unwrap(), link).unwrap();
        assert_eq!(fs::read(hidden).unwrap(), b"live");
    }

    #[test]
    fn hidden_names_differ_between_calls_and_threads() {
        let draw = || (0..100).map(|_| random()).collect::<Vec<_>>();
        let mut drawn = draw();
        drawn.extend(std::thread::spawn(draw).join().unwrap());
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 200);
    }

    #[test]
    fn every_write_takes_its_hidden_name_away_and_a_left_over_goes_with_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::new(folder.path().to_owned());
        local.put("x/a", b"1").unwrap();
        assert!(local.put_if_absent("x/b", b"2").unwrap());
        assert!(!local.put_if_absent("x/b", b"3").unwrap());
        local.copy("x/a", "x/c").unwrap();
        local.copy("x/a", "x/c").unwrap();
        local.copy("x/absent", "x/c").unwrap_err();
        assert_eq!(hidden_files(&folder.path().join("x")), 0);
        std::mem::forget(Pending::create(&local.path("x/d")).unwrap());
        assert_eq!(hidden_files(&folder.path().join("x")), 1);
        assert_eq!(local.list("").unwrap().len(), 3);
        local.delete_prefix("x").unwrap();
        assert!(!folder.path().join("x").exists());
    }
}
