//! Commits and segments as bytes.
//!
//! A commit is one line of JSON and a second line `crc32c=xxxxxxxx`, the checksum of the first without its
//! line break. A segment is JSON.

use eagleray_base::{Error, Result, crc32c, limits};
use eagleray_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::place::{COMMIT, segment_name};

/// What a commit says it is.
pub const FORMAT: &str = "eagleray.commit";
/// The version written, and the newest that is read.
pub const VERSION: u32 = 1;

/// A file of a save. The checksum is written as eight hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name in the save's folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// CRC-32C of its bytes.
    #[serde(with = "hex")]
    pub crc32c: u32,
}

/// What one rank wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The rank.
    pub rank: u32,
    /// Its files.
    pub files: Vec<File>,
}

/// What whoever saves knows; the protocol adds the rest. Unknown fields are kept as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fields {
    /// What wrote the files: `torch.dcp`.
    pub engine: String,
    /// Steps done.
    pub step: u64,
    /// Ranks that wrote a segment.
    pub world: u32,
    /// Everything else: position, strategy, hashes, stream state, …
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Fields {
    /// The least that a commit needs.
    pub fn new(engine: &str, step: u64, world: u32) -> Self {
        Self { engine: engine.to_owned(), step, world, other: Map::new() }
    }
}

/// A commit: the one object that makes a save a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    format: String,
    format_version: u32,
    /// The folder, below the run's store; a moved run keeps it.
    pub dir: String,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// The number of the save within the attempt.
    pub save: u32,
    /// When, in microseconds since the Unix epoch, by the clock of whoever committed.
    pub committed_us: u64,
    /// All files, by name.
    pub files: Vec<File>,
    /// What whoever saved said.
    #[serde(flatten)]
    pub fields: Fields,
}

impl Commit {
    pub(crate) fn new(place: crate::Place, committed_us: u64, files: Vec<File>, fields: Fields) -> Self {
        let (format, dir) = (FORMAT.to_owned(), place.dir());
        Self {
            format,
            format_version: VERSION,
            dir,
            attempt: place.attempt,
            save: place.save,
            committed_us,
            files,
            fields,
        }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The stored form.
    ///
    /// # Errors
    /// `Internal` where a value cannot be JSON.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes =
            serde_json::to_vec(self).map_err(|error| Error::internal(format!("a commit: {error}")))?;
        let checksum = format!("\ncrc32c={:08x}\n", crc32c(&bytes));
        bytes.extend_from_slice(checksum.as_bytes());
        Ok(bytes)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `Corrupt` where it is not what was written; `Invalid` where it is of a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::corrupt("is damaged: it is not a line of JSON and its checksum");
        let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
        let (json, checksum) =
            text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n')).ok_or_else(damaged)?;
        if checksum.strip_prefix("crc32c=") != Some(&format!("{:08x}", crc32c(json.as_bytes()))) {
            return Err(Error::corrupt("does not match its own checksum"));
        }
        let version: Version = serde_json::from_str(json).map_err(|_| damaged())?;
        if version.format != FORMAT || version.format_version > VERSION {
            let found = format!("`{}` version {}", version.format, version.format_version);
            return Err(Error::invalid(format!(
                "is {found}: expected `{FORMAT}` version {VERSION} or older"
            ))
            .with_hint("read it with the version of eagleray that wrote it, or a newer one"));
        }
        serde_json::from_str(json).map_err(|error| Error::corrupt(format!("has fields missing: {error}")))
    }
}

#[derive(Deserialize)]
struct Version {
    format: String,
    format_version: u32,
}

/// Reads the commit of a save's folder.
///
/// # Errors
/// `NotFound` where the save was never committed; as [`Commit::parse`], with the object's name.
pub fn read_commit(store: &Store, dir: &str) -> Result<Commit> {
    let path = format!("{dir}/{COMMIT}");
    let place = format!("`{}`", store.url_of(&path));
    let size = store.head(&path)?.map_or(0, |info| info.bytes);
    if size > limits::METADATA_BYTES_MAX {
        return Err(Error::corrupt(format!("{place} has {size} bytes: that is no commit")));
    }
    let mut commit = Commit::parse(&store.get(&path)?).map_err(|error| error.at(place))?;
    // Where it was found is where it is: a save may have been copied elsewhere by itself.
    dir.clone_into(&mut commit.dir);
    Ok(commit)
}

pub(crate) fn read_segment(store: &Store, dir: &str, rank: u32) -> Result<Segment> {
    let path = format!("{dir}/{}", segment_name(rank));
    let segment: Segment = serde_json::from_slice(&store.get(&path)?)
        .map_err(|error| Error::corrupt(format!("`{}` is not a segment: {error}", store.url_of(&path))))?;
    if segment.rank != rank {
        return Err(Error::corrupt(format!("`{}` is of rank {}", store.url_of(&path), segment.rank)));
    }
    Ok(segment)
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    pub(super) fn serialize<S: Serializer>(value: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:08x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        u32::from_str_radix(&text, 16).map_err(|_| D::Error::custom(format!("`{text}` is not a checksum")))
    }
}
