//! Finding the raw objects of a source and what their content is.

use std::collections::BTreeMap;
use std::io::Read;

use eagleray_base::{Crc32c, Digest, Error, Result};
pub use eagleray_store::glob_matches;
use eagleray_store::{ObjectInfo, Store};
use serde::{Deserialize, Serialize};

use super::{RawObject, from_json, to_json};
use crate::corpus;
use crate::reader::{self, Compression, Format, Piece, Version};

/// A file changed this recently could change again within the same time stamp, so its checksum is not
/// remembered.
const SETTLED_US: u64 = 2_000_000;

/// Names in a folder that a hint lists.
const NAMES_SHOWN: usize = 5;

/// An object found by a source's patterns.
pub(super) struct Input {
    pub(super) root: String,
    pub(super) path: String,
    pub(super) format: Format,
    pub(super) compression: Compression,
    pub(super) object: RawObject,
    pub(super) version: Version,
}

/// Splits a location into the folder that a store can open and the rest.
pub(crate) fn split_location(location: &str) -> (&str, &str) {
    let trimmed = location.trim_end_matches('/');
    let scheme_end = trimmed.find("://").map_or(0, |at| at + 3);
    match trimmed.rfind('/') {
        Some(0) => ("/", &trimmed[1..]),
        Some(at) if at >= scheme_end => (&trimmed[..at], &trimmed[at + 1..]),
        _ if scheme_end > 0 => (trimmed, ""),
        _ => (".", trimmed),
    }
}

/// Finds what the patterns name, in the order of URLs, each once.
///
/// # Errors
/// `NotFound` for a pattern without a match; `Invalid` for a name that tells no format.
pub(super) fn find(patterns: &[String], format: Option<&str>, built: &Store) -> Result<Vec<Input>> {
    let found = match_all(patterns)?;
    let mut tags = Tags::load(patterns, built)?;
    let mut inputs = Vec::with_capacity(found.len());
    for (url, (store, info)) in found {
        let (format, compression) = reader::detect(&url, format)?;
        let tag = tags.tag(&store, &info, &url)?;
        let version = Version::of(&info);
        let object = RawObject { url, bytes: info.bytes, tag };
        inputs.push(Input {
            root: store.url().to_owned(),
            path: info.path,
            format,
            compression,
            object,
            version,
        });
    }
    tags.save(built)?;
    Ok(inputs)
}

/// What the patterns name, each object as one piece, in the order of URLs; a folder is all objects in it.
///
/// # Errors
/// `NotFound` for a pattern without a match; `Invalid` for a name that tells no format.
pub fn pieces(patterns: &[String]) -> Result<Vec<Piece>> {
    let pieces = match_all(&within_folders(patterns)?)?.into_iter().map(|(url, (store, info))| {
        let (format, compression) = reader::detect(&url, None)?;
        let root = store.url().to_owned();
        Ok(Piece {
            root,
            path: info.path,
            format,
            compression,
            range: None,
            bytes: info.bytes,
            version: None,
        })
    });
    pieces.collect()
}

/// What the patterns name, in the order of URLs; a folder is all objects in it.
///
/// # Errors
/// `NotFound` for a pattern without a match.
pub(crate) fn listing(patterns: &[String]) -> Result<Vec<(String, Store, ObjectInfo)>> {
    let found = match_all(&within_folders(patterns)?)?;
    Ok(found.into_iter().map(|(url, (store, info))| (url, store, info)).collect())
}

fn within_folders(patterns: &[String]) -> Result<Vec<String>> {
    let opened = patterns.iter().map(|pattern| {
        let (root, rest) = split_pattern(pattern);
        let store = Store::open(&root)?;
        let folder = !has_wildcard(&rest) && store.head(&rest)?.is_none() && !store.list(&rest)?.is_empty();
        Ok(if folder { format!("{}/**", pattern.trim_end_matches('/')) } else { pattern.clone() })
    });
    opened.collect()
}

fn match_all(patterns: &[String]) -> Result<BTreeMap<String, (Store, ObjectInfo)>> {
    let mut found = BTreeMap::new();
    for pattern in patterns {
        let (root, rest) = split_pattern(pattern);
        let store = Store::open(&root)?;
        let matches = matching(&store, &rest)?;
        if matches.is_empty() {
            return Err(nothing(pattern, &store, &rest)?);
        }
        for info in matches {
            let url = store.url_of(&info.path);
            if let Some(corpus) = corpus::MARKS.iter().find_map(|mark| url.strip_suffix(mark)) {
                return Err(unfinished(corpus));
            }
            found.insert(url, (store.clone(), info));
        }
    }
    Ok(found)
}

fn matching(store: &Store, rest: &str) -> Result<Vec<ObjectInfo>> {
    if has_wildcard(rest) {
        let mut found = store.list_matching(rest)?;
        found.retain(|object| object.path.split('/').all(|name| name != corpus::WORK));
        return Ok(found);
    }
    Ok(store.head(rest)?.into_iter().collect())
}

/// The error for a corpus whose parts are not all in place.
fn unfinished(corpus: &str) -> Error {
    Error::conflict(format!("the corpus in `{}` is not whole", corpus.trim_end_matches('/')))
        .with_hint("where no `eagleray corpus collect` runs there now, one was cut short: run it again")
}

/// The error for a pattern that names nothing.
fn nothing(pattern: &str, store: &Store, rest: &str) -> Result<Error> {
    if has_wildcard(rest) {
        return Ok(Error::not_found(format!("no object matches `{pattern}`")).with_hint(format!(
            "check the path; `*` stays within a folder, `**` goes into folders below{}",
            nearest(store).map_or_else(String::new, |near| format!("; {near}"))
        )));
    }
    if !store.list(rest)?.is_empty() {
        return Ok(Error::invalid(format!("`{pattern}` is a folder"))
            .with_hint(format!("name its objects: `{}/**/*.jsonl`", pattern.trim_end_matches('/'))));
    }
    Ok(Error::not_found(format!("`{pattern}` does not exist")).with_hint("check the path of the source"))
}

/// The deepest folder in front of a pattern that is there, and some of what it holds: where a path went wrong.
fn nearest(store: &Store) -> Option<String> {
    let mut root = store.url().trim_end_matches('/').to_owned();
    loop {
        let store = Store::open(&root).ok()?;
        let there = store
            .local_path("")
            .map_or_else(|| store.first("").is_ok_and(|first| first.is_some()), |path| path.is_dir());
        if there {
            return Some(format!("`{root}` is there{}", held(&store)));
        }
        let (above, name) = split_location(&root);
        if name.is_empty() || above == root {
            return None;
        }
        root = above.to_owned();
    }
}

/// The first names in a folder.
fn held(store: &Store) -> String {
    let folders = store.list_dirs("").unwrap_or_default().into_iter().map(|name| format!("`{name}/`"));
    let objects =
        store.list_matching("*").unwrap_or_default().into_iter().map(|info| format!("`{}`", info.path));
    let names: Vec<String> = folders.chain(objects).take(NAMES_SHOWN + 1).collect();
    match names.len() {
        0 => " and holds nothing".to_owned(),
        count if count > NAMES_SHOWN => format!(", with {} and more", names[..NAMES_SHOWN].join(", ")),
        _ => format!(", with {}", names.join(", ")),
    }
}

fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '{'])
}

/// The folder in front of the first wildcard, and the rest.
fn split_pattern(pattern: &str) -> (String, String) {
    let Some(wildcard) = pattern.find(['*', '?', '{']) else {
        let (root, name) = split_location(pattern);
        return (root.to_owned(), name.to_owned());
    };
    match pattern[..wildcard].rfind('/') {
        Some(0) => ("/".to_owned(), pattern[1..].to_owned()),
        Some(at) => (pattern[..at].to_owned(), pattern[at + 1..].to_owned()),
        None => (".".to_owned(), pattern.to_owned()),
    }
}

/// Checksums of local files, remembered by size and time of change as Git's index does, so that a second
/// start does not read a corpus again.
struct Tags {
    path: String,
    saved_us: u64,
    known: BTreeMap<String, Tag>,
    changed: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct Tag {
    bytes: u64,
    modified_us: u64,
    crc32c: u32,
}

impl Tags {
    fn load(patterns: &[String], built: &Store) -> Result<Self> {
        let parts: Vec<&[u8]> = patterns.iter().map(String::as_bytes).collect();
        let path = format!("inputs/{}.json", Digest::of_parts(&parts));
        let info = built.head(&path)?;
        let known = match &info {
            // A memory that cannot be read is forgotten: the files are read again.
            Some(_) => from_json(&built.get(&path)?, "the remembered checksums").unwrap_or_default(),
            None => BTreeMap::new(),
        };
        Ok(Self { path, saved_us: info.map_or(0, |info| info.modified_us), known, changed: false })
    }

    fn tag(&mut self, store: &Store, info: &ObjectInfo, url: &str) -> Result<String> {
        if let Some(etag) = &info.etag {
            return Ok(format!("etag:{etag}"));
        }
        if let Some(tag) = self.known.get(url)
            && (tag.bytes, tag.modified_us) == (info.bytes, info.modified_us)
            && info.modified_us + SETTLED_US < self.saved_us
        {
            return Ok(format!("crc32c:{:08x}", tag.crc32c));
        }
        let crc32c = checksum(store, &info.path)?;
        self.changed = true;
        let tag = Tag { bytes: info.bytes, modified_us: info.modified_us, crc32c };
        self.known.insert(url.to_owned(), tag);
        Ok(format!("crc32c:{crc32c:08x}"))
    }

    fn save(&self, built: &Store) -> Result<()> {
        if self.changed { built.put(&self.path, to_json(&self.known)?) } else { Ok(()) }
    }
}

fn checksum(store: &Store, path: &str) -> Result<u32> {
    let mut reader = store.reader(path)?;
    let mut crc = Crc32c::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(crc.value()),
            Ok(count) => crc.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::from(error).at(format_args!("`{}`", store.url_of(path)))),
        }
    }
}
