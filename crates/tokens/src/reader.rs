//! Raw objects → documents, as a stream with bounded memory.
//!
//! A reader hands out one record at a time, borrowed: a document's text, or what is wrong with the
//! record, with its byte offset in the object (after decompression). A bad record never ends the
//! stream; an object that cannot be read to its end does, with an error that names it.
//!
//! | name | a document is |
//! | --- | --- |
//! | `.jsonl`, `.ndjson` | a line: a JSON object whose text field is a string; empty lines are none |
//! | `.txt` | the whole file |
//!
//! Either may end in `.zst` or `.gz` too.

mod jsonl;
mod lines;
mod source;
mod text;

use std::io::Read;

use eagleray_base::{Error, Result};
use eagleray_store::{ObjectInfo, Store};
use serde::{Deserialize, Serialize};

pub use jsonl::Jsonl;
pub(crate) use source::CHUNK_BYTES;
pub use source::{RangeReader, decompress};
pub use text::Text;

/// How an object is cut into documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A JSON object a line.
    Jsonl,
    /// One document a file.
    Txt,
}

/// How an object is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// Zstandard, one frame or several.
    Zstd,
    /// Gzip, one member or several.
    Gzip,
}

/// One record of an object.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A document.
    Document {
        /// Where it begins in the object, after decompression.
        offset: u64,
        /// Its text.
        text: &'a str,
    },
    /// A record that is not a document.
    Bad {
        /// Where it begins in the object, after decompression.
        offset: u64,
        /// What is wrong, to be read after the object's name.
        reason: String,
    },
}

/// A stream of records; every reader must pass the conformance tests of this module.
pub trait DocumentReader {
    /// The next record, `None` at the end.
    ///
    /// # Errors
    /// What ends the stream: the store's errors, and `Corrupt` where a compressed object is cut off or
    /// damaged.
    fn next(&mut self) -> Result<Option<Record<'_>>>;

    /// The line of the last record, counted from 1 where this reader begins.
    fn line(&self) -> u64 {
        1
    }
}

/// What is known of an object without reading it: when this is another, the object is another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its size.
    pub bytes: u64,
    /// The store's tag of it, without quotes, or its last change in microseconds where the store has no tags.
    pub tag: String,
}

impl Version {
    /// The version of an object as a listing or a look at it tells.
    pub fn of(info: &ObjectInfo) -> Self {
        // A listing and a look at the object may write the same tag in two ways.
        let tag = info.etag.as_ref().map_or_else(
            || format!("{}", info.modified_us),
            |etag| etag.trim_start_matches("W/").trim_matches('"').to_owned(),
        );
        Self { bytes: info.bytes, tag }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of version {}", self.bytes, self.tag)
    }
}

/// What to read: an object, or the lines that start in a part of an uncompressed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The store's root.
    pub root: String,
    /// The object below it.
    pub path: String,
    /// How it is cut.
    pub format: Format,
    /// How it is compressed.
    pub compression: Compression,
    /// Records that start in `[start, end)` are this piece's; `None` is the whole object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
    /// Bytes of this piece on the store.
    pub bytes: u64,
    /// The object that was found when the work was planned; another one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
}

impl Piece {
    /// Checks that the object still is the one that was found.
    ///
    /// # Errors
    /// `Conflict` where it changed or is gone; as the store.
    pub fn check_unchanged(&self, store: &Store) -> Result<()> {
        let Some(expected) = &self.version else { return Ok(()) };
        let found = store.head(&self.path)?.map(|info| Version::of(&info));
        if found.as_ref() == Some(expected) {
            return Ok(());
        }
        let found = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
        let url = store.url_of(&self.path);
        Err(Error::conflict(format!("`{url}` changed while it was read: expected {expected}, found {found}"))
            .with_hint("build again when nothing writes there any more"))
    }
}

/// Tells format and compression by an object's name, or by the spec's own word.
///
/// # Errors
/// `Invalid` where neither says.
pub fn detect(path: &str, stated: Option<&str>) -> Result<(Format, Compression)> {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let (stem, compression) = match name.rsplit_once('.') {
        Some((stem, "zst" | "zstd")) => (stem, Compression::Zstd),
        Some((stem, "gz")) => (stem, Compression::Gzip),
        _ => (name.as_str(), Compression::None),
    };
    let ending = stem.rsplit_once('.').map_or("", |(_, ending)| ending);
    match stated.unwrap_or(ending) {
        "jsonl" | "ndjson" => Ok((Format::Jsonl, compression)),
        "txt" => Ok((Format::Txt, compression)),
        other if stated.is_some() => Err(Error::invalid(format!(
            "format `{other}` is not available in this build"
        ))
        .with_hint("use `jsonl` or `txt`")),
        _ => Err(Error::invalid(format!("`{path}` has an ending that names no format"))
            .with_hint("name files `.jsonl` or `.txt`, with `.zst` or `.gz` behind it where compressed, or set the source's `format`")),
    }
}

/// In the place of a text field: a document is the whole record, as JSON.
pub const WHOLE_RECORD: &str = "";

/// Opens a piece; `text_field` is a key, keys with dots between, or [`WHOLE_RECORD`].
///
/// # Errors
/// As the store.
pub fn open(store: &Store, piece: &Piece, text_field: &str) -> Result<Box<dyn DocumentReader + Send>> {
    let url = store.url_of(&piece.path);
    if let (Some((start, end)), Compression::None, Format::Jsonl) =
        (piece.range, piece.compression, piece.format)
    {
        let from = start.saturating_sub(1);
        let source = RangeReader::new(store.clone(), piece.path.clone(), from)?;
        return Ok(Box::new(Jsonl::ranged(Box::new(source), url, text_field, start, end)));
    }
    let source = decompress(store.reader(&piece.path)?, piece.compression)?;
    Ok(match piece.format {
        Format::Jsonl => Box::new(Jsonl::new(source, url, text_field)),
        Format::Txt => Box::new(Text::new(source, url)),
    })
}

/// What a reader reads from.
pub type Source = Box<dyn Read + Send>;

/// An I/O error of a source as one of ours, named.
fn place(error: std::io::Error, url: &str, offset: u64) -> Error {
    use std::io::ErrorKind;
    match error.downcast::<Error>() {
        Ok(inner) => inner,
        Err(error) => match error.kind() {
            ErrorKind::UnexpectedEof => Error::corrupt(format!(
                "`{url}` is cut off: it ends within a compressed frame, {offset} bytes of text in"
            ))
            .with_hint("copy the object again, or take it out of the source"),
            ErrorKind::Other | ErrorKind::InvalidInput | ErrorKind::InvalidData => {
                Error::corrupt(format!("`{url}` is damaged {offset} bytes of text in: {error}"))
                    .with_hint("copy the object again, or take it out of the source")
            }
            _ => Error::from(error).at(format_args!("`{url}`")),
        },
    }
}

#[cfg(test)]
mod tests;
