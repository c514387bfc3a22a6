//! The protocol of a save: a free folder, segments, and one conditional commit.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use eagleray_base::{Error, Result};
use eagleray_store::Store;

use crate::format::{Commit, Fields, File, Segment, read_segment};
use crate::place::{ATTEMPTS, BEGUN, COMMIT, FOLDER, Place, claim_number, segment_name};

/// Segments are read by this many threads at most, each of which reads several.
const READERS_MAX: u32 = 32;
const READER_SEGMENTS_MIN: u32 = 8;

/// Takes the folder of the next save of an attempt: no other caller is ever given the same one.
///
/// A rank of a worker group that was given up may still be there, saving the same step of the same attempt.
///
/// # Errors
/// As the store.
pub fn next_save(store: &Store, attempt: u32, step: u64) -> Result<String> {
    let objects = store.list(FOLDER)?;
    let saves = objects.iter().filter_map(|object| Place::parse(&object.path));
    let last = saves.filter(|place| place.attempt == attempt).map(|place| place.save).max().unwrap_or(0);
    let mut place = Place { step, attempt, save: last + 1 };
    while !store.put_if_absent(&format!("{}/{BEGUN}", place.dir()), begun()?)? {
        place.save += 1;
    }
    Ok(place.dir())
}

/// What is put into the object that takes a folder: who, for people who wonder.
fn begun() -> Result<Vec<u8>> {
    let text = serde_json::json!({"pid": std::process::id(), "begun_us": now_us()});
    serde_json::to_vec(&text).map_err(|error| Error::internal(format!("the beginning of a save: {error}")))
}

fn now_us() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a save says when it was begun and committed")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_micros() as u64)
}

/// Writes what a rank wrote.
///
/// # Errors
/// As the store.
pub fn write_segment(store: &Store, dir: &str, segment: &Segment) -> Result<()> {
    let bytes =
        serde_json::to_vec(segment).map_err(|error| Error::internal(format!("a segment: {error}")))?;
    store.put(&format!("{dir}/{}", segment_name(segment.rank)), bytes)
}

/// Makes a save real, once every rank's segment is there and every file has its size.
///
/// # Errors
/// `Conflict` where a newer attempt has claimed the run, or the save is committed already; `Corrupt` naming
/// the segment or file that is missing or short.
pub fn commit(store: &Store, dir: &str, fields: Fields) -> Result<Commit> {
    let place =
        Place::parse(dir).ok_or_else(|| Error::invalid(format!("`{dir}` is not the folder of a save")))?;
    if place.step != fields.step {
        return Err(Error::invalid(format!("`{dir}` cannot hold step {}", fields.step)));
    }
    if fields.world == 0 {
        return Err(Error::invalid(format!(
            "`{dir}` cannot be a save of no ranks: expected `world` above 0"
        )));
    }
    // Before the files, as a newer attempt may have swept them; and after them, as that takes a while.
    require_current(store, place.attempt)?;
    let files = collect_files(store, dir, fields.world)?;
    require_current(store, place.attempt)?;
    let commit = Commit::new(place, now_us(), files, fields);
    let (path, bytes) = (format!("{dir}/{COMMIT}"), commit.encode()?);
    // A put whose answer was lost finds its own commit there when it is tried again.
    if !store.put_if_absent(&path, bytes.clone())? && store.get(&path)? != bytes {
        return Err(Error::conflict(format!("`{}` is committed already", store.url_of(dir))));
    }
    Ok(commit)
}

/// Every file of every segment, in the order of names, each of its size on the store.
pub(crate) fn collect_files(store: &Store, dir: &str, world: u32) -> Result<Vec<File>> {
    let prefix = format!("{dir}/");
    let objects = store.list(dir)?;
    let sizes: HashMap<&str, u64> = objects
        .iter()
        .filter_map(|object| Some((object.path.strip_prefix(&prefix)?, object.bytes)))
        .collect();
    if let Some(rank) = (0..world).find(|&rank| !sizes.contains_key(segment_name(rank).as_str())) {
        let path = store.url_of(&format!("{dir}/{}", segment_name(rank)));
        return Err(Error::corrupt(format!(
            "rank {rank} of {world} has left no segment: `{path}` is missing"
        )));
    }
    let mut files = read_segments(store, dir, world)?;
    for file in &files {
        let found = sizes.get(file.name.as_str()).copied();
        if found != Some(file.bytes) {
            let found = found.map_or_else(|| "nothing".to_owned(), |bytes| format!("{bytes} bytes"));
            let url = store.url_of(&format!("{dir}/{}", file.name));
            return Err(Error::corrupt(format!("`{url}`: expected {} bytes, found {found}", file.bytes)));
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = files.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Error::corrupt(format!("two ranks wrote `{dir}/{}`", pair[0].name)));
    }
    Ok(files)
}

/// The files of every rank's segment; from S3 each segment is a round trip, so many are read at once.
fn read_segments(store: &Store, dir: &str, world: u32) -> Result<Vec<File>> {
    let read = |ranks: Range<u32>| -> Result<Vec<File>> {
        let segments = ranks.map(|rank| read_segment(store, dir, rank)).collect::<Result<Vec<_>>>()?;
        Ok(segments.into_iter().flat_map(|segment| segment.files).collect())
    };
    let share = world.div_ceil(READERS_MAX).max(READER_SEGMENTS_MIN);
    if world <= share {
        return read(0..world);
    }
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..world)
            .step_by(share as usize)
            .map(|first| scope.spawn(move || read(first..world.min(first + share))))
            .collect();
        let joined = readers.into_iter().map(|reader| match reader.join() {
            Ok(files) => files,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<Result<Vec<_>>>().map(|files| files.into_iter().flatten().collect())
    })
}

/// Refuses where a newer attempt has claimed the run.
fn require_current(store: &Store, attempt: u32) -> Result<()> {
    let newest = store.list(ATTEMPTS)?.iter().filter_map(|object| claim_number(&object.path)).max();
    match newest {
        Some(newest) if newest > attempt => Err(Error::conflict(format!(
            "attempt {attempt} was superseded: attempt {newest} has claimed `{}`",
            store.url()
        ))),
        _ => Ok(()),
    }
}
