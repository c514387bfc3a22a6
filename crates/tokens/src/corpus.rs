//! A folder of files → a corpus: training documents, and documents held out by their hash.
//!
//! Which documents are held out depends on their text alone, so that a corpus collected again, in another
//! place or from more files, holds out the same ones, and a text that occurs twice is on one side only.
//!
//! Parts are written to a work folder and put in their place when all are whole: a collection that is cut
//! short before leaves the corpus that was there, and one that is cut short while its parts are put in place
//! leaves a mark beside them, at which a build stops.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use eagleray_base::limits::DOCUMENT_BYTES_MAX;
use eagleray_base::{Digest, Error, Result, units};
use eagleray_store::{ObjectInfo, Store, Writer};
use serde::Serialize;

/// Text in one object of training documents.
const OBJECT_BYTES: u64 = 32 << 20;
/// Zstandard's level: its default, a third of the time of what the disk takes.
const LEVEL: i32 = 3;
/// What the held-out documents are chosen by.
const HOLDOUT_KEY: &str = "eagleray.holdout.v1";
/// The folders of a corpus; training documents are put in place last.
const FOLDERS: [&str; 2] = ["validation", "train"];
/// Where parts lie until all are whole, inside the corpus' folder.
pub(crate) const WORK: &str = ".collecting";
/// What lies in each of [`FOLDERS`] while its parts are put in place; named to match what names the parts.
pub(crate) const MARKS: [&str; 2] = ["validation/unfinished.jsonl", "train/unfinished.jsonl.zst"];

/// What to collect.
#[derive(Clone, Debug)]
pub struct Options {
    /// Endings of the files to take, with their dots.
    pub suffixes: Vec<String>,
    /// The share of documents to hold out.
    pub holdout: f64,
    /// Text to collect at most.
    pub bytes_max: u64,
}

/// What was collected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Training documents.
    pub train_documents: u64,
    /// Bytes of their text.
    pub train_bytes: u64,
    /// Documents held out.
    pub validation_documents: u64,
    /// Bytes of their text.
    pub validation_bytes: u64,
    /// Files left out, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
}

/// Collects the files of `from` into `train/*.jsonl.zst` and `validation/00000.jsonl` of `to`. Files are
/// taken in the order of a hash of their paths, so that a limit of bytes takes a fair sample.
///
/// Parts of an earlier collection are replaced.
///
/// # Errors
/// `NotFound` where no file has one of the endings; `Invalid` where nothing is left to train on.
pub fn collect(
    from: &Store,
    to: &Store,
    options: &Options,
    progress: &mut dyn FnMut(u64),
) -> Result<Collected> {
    to.delete_prefix(WORK)?;
    let collected = gather(from, &to.child(WORK), options, progress)
        .and_then(|collected| publish(to).map(|()| collected));
    // What was not put in place must not fill the disk; the first error is the one to tell.
    let swept = to.delete_prefix(WORK);
    let collected = collected?;
    swept?;
    Ok(collected)
}

/// Puts the parts in place of those that are there.
fn publish(to: &Store) -> Result<()> {
    for mark in MARKS {
        to.put(mark, "this corpus is not whole: run `eagleray corpus collect` again\n")?;
    }
    for folder in FOLDERS {
        for old in to.list(folder)?.iter().filter(|object| is_part(folder, &object.path)) {
            to.delete(&old.path)?;
        }
    }
    for folder in FOLDERS {
        for part in to.child(WORK).list(folder)? {
            to.copy(&format!("{WORK}/{}", part.path), &part.path)?;
        }
    }
    MARKS.iter().try_for_each(|mark| to.delete(mark))
}

/// Whether an object of a folder is a part that we wrote there: five digits or more, `.jsonl` or `.jsonl.zst`.
fn is_part(folder: &str, path: &str) -> bool {
    let name = path.strip_prefix(folder).and_then(|path| path.strip_prefix('/'));
    let stem = name.map(|name| name.strip_suffix(".zst").unwrap_or(name));
    stem.and_then(|stem| stem.strip_suffix(".jsonl"))
        .is_some_and(|number| number.len() >= 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn gather(from: &Store, to: &Store, options: &Options, progress: &mut dyn FnMut(u64)) -> Result<Collected> {
    let mut files: Vec<ObjectInfo> = from.list("")?;
    files.retain(|file| options.suffixes.iter().any(|suffix| file.path.ends_with(suffix.as_str())));
    if files.is_empty() {
        return Err(Error::not_found(format!(
            "no file below `{}` ends in `{}`",
            from.url(),
            options.suffixes.join("`, `")
        ))
        .with_hint("name the endings with `--suffix .py,.md`"));
    }
    files.sort_by_cached_key(|file| *Digest::of(file.path.as_bytes()).as_bytes());
    let mut train = Parts::new(to, "train", true);
    let mut validation = Parts::new(to, "validation", false);
    let mut collected = Collected::default();
    let holdout = (options.holdout.clamp(0.0, 1.0) * 2_f64.powi(53)) as u64;
    for file in files {
        if collected.train_bytes + collected.validation_bytes >= options.bytes_max {
            *collected.left_out.entry("over the limit of bytes").or_default() += 1;
            continue;
        }
        let text = match read(from, &file)? {
            Ok(text) => text,
            Err(reason) => {
                *collected.left_out.entry(reason).or_default() += 1;
                continue;
            }
        };
        let bytes = text.len() as u64;
        let held_out = Digest::of_parts(&[HOLDOUT_KEY.as_bytes(), text.as_bytes()]).as_key() >> 11 < holdout;
        if held_out {
            validation.push(&text)?;
            collected.validation_documents += 1;
            collected.validation_bytes += bytes;
        } else {
            train.push(&text)?;
            collected.train_documents += 1;
            collected.train_bytes += bytes;
        }
        progress(bytes);
    }
    if collected.train_documents == 0 {
        return Err(Error::invalid(format!("no document of `{}` is left to train on", from.url()))
            .with_hint("lower `--holdout`, or name other endings with `--suffix`"));
    }
    train.finish()?;
    validation.finish()?;
    Ok(collected)
}

/// A file's text, or why it is left out.
fn read(from: &Store, file: &ObjectInfo) -> Result<Result<String, &'static str>> {
    if file.bytes > DOCUMENT_BYTES_MAX {
        return Ok(Err("too long"));
    }
    let mut bytes = Vec::with_capacity(file.bytes as usize);
    from.reader(&file.path)?
        .read_to_end(&mut bytes)
        .map_err(|error| Error::from(error).at(format_args!("`{}`", from.url_of(&file.path))))?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) if text.trim().is_empty() => Err("empty"),
        Ok(text) => Ok(text),
        Err(_) => Err("not UTF-8"),
    })
}

/// JSON lines in numbered objects of bounded size.
struct Parts<'a> {
    to: &'a Store,
    folder: &'static str,
    compressed: bool,
    open: Option<Part>,
    bytes: u64,
    number: u32,
}

enum Part {
    Plain(Box<Writer>),
    Zstd(Box<zstd::Encoder<'static, Writer>>),
}

impl Write for Part {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(writer) => writer.write(buffer),
            Self::Zstd(encoder) => encoder.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> Parts<'a> {
    const fn new(to: &'a Store, folder: &'static str, compressed: bool) -> Self {
        Self { to, folder, compressed, open: None, bytes: 0, number: 0 }
    }

    fn push(&mut self, text: &str) -> Result<()> {
        let part = if let Some(part) = &mut self.open {
            part
        } else {
            let ending = if self.compressed { ".zst" } else { "" };
            let writer = self.to.writer(&format!("{}/{:05}.jsonl{ending}", self.folder, self.number))?;
            self.open.insert(if self.compressed {
                let mut encoder = zstd::Encoder::new(writer, LEVEL)?;
                encoder.include_checksum(true)?;
                Part::Zstd(Box::new(encoder))
            } else {
                Part::Plain(Box::new(writer))
            })
        };
        let mut line = serde_json::to_vec(&serde_json::json!({ "text": text }))
            .map_err(|error| Error::internal("cannot write JSON").with_source(error))?;
        line.push(b'\n');
        part.write_all(&line).map_err(crate::format::shard::unwrap_store_error)?;
        self.bytes += text.len() as u64;
        if self.bytes >= OBJECT_BYTES { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<()> {
        match self.open.take() {
            None => return Ok(()),
            Some(Part::Plain(writer)) => writer.finish()?,
            Some(Part::Zstd(encoder)) => {
                encoder.finish().map_err(crate::format::shard::unwrap_store_error)?.finish()?
            }
        };
        self.number += 1;
        self.bytes = 0;
        Ok(())
    }
}

impl Collected {
    /// A line a fact, for people.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "train: {} documents, {}\nvalidation: {} documents, {}\n",
            self.train_documents,
            units::format_bytes(self.train_bytes),
            self.validation_documents,
            units::format_bytes(self.validation_bytes),
        );
        for (reason, count) in &self.left_out {
            text.push_str("left out: ");
            text.push_str(&count.to_string());
            text.push_str(" files, ");
            text.push_str(reason);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests;
