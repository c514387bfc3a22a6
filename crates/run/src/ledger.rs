//! Writing and reading events: lines of JSON, one object per flush and writer, since S3 cannot append.

use eagleray_base::{Error, Result};
use eagleray_store::{ObjectInfo, Store};
use serde::Serialize;
use serde_json::Value;

use crate::claim;
use crate::event::Event;
use crate::paths;

/// A day of flushes is tens of thousands of objects: from S3 they are read by this many threads.
const READERS_MAX: usize = 32;
/// Fewer objects than this are not worth a thread.
const READER_OBJECTS_MIN: usize = 8;

/// The events of one writer of an attempt. Each flush is one object; nothing is ever changed.
pub struct Ledger {
    store: Store,
    attempt: u32,
    writer: String,
    next: u64,
    lines: String,
}

impl Ledger {
    /// Opens the ledger of a writer; one that wrote before goes on after what is there.
    ///
    /// # Errors
    /// As the store.
    pub fn open(store: &Store, attempt: u32, writer: &str) -> Result<Self> {
        let objects = store.list(&paths::ledger(attempt))?;
        let numbers = objects.iter().filter_map(|object| paths::parts_of_ledger_object(&object.path));
        let last = numbers.filter(|(_, by, _)| *by == writer).map(|(_, _, number)| number).max();
        let next = last.map_or(1, |last| last + 1);
        Ok(Self { store: store.clone(), attempt, writer: writer.to_owned(), next, lines: String::new() })
    }

    /// Adds an event, or a list of events, given as JSON; nothing is written yet.
    ///
    /// # Errors
    /// `Internal` where it is not an event.
    pub fn append(&mut self, json: &str) -> Result<()> {
        let value: Value =
            serde_json::from_str(json).map_err(|error| Error::internal(format!("an event: {error}")))?;
        let events = if let Value::Array(events) = value { events } else { vec![value] };
        for event in events {
            let line = event.to_string();
            serde_json::from_str::<Event>(&line)
                .map_err(|error| Error::internal(format!("an event: {error}: {line}")))?;
            self.lines.push_str(&line);
            self.lines.push('\n');
        }
        Ok(())
    }

    /// Writes what was added as one object. Where that fails the events stay, for the next flush.
    ///
    /// # Errors
    /// As the store.
    pub fn flush(&mut self) -> Result<()> {
        while !self.lines.is_empty() {
            let path = paths::ledger_object(self.attempt, &self.writer, self.next);
            let written = if self.store.put_if_absent(&path, self.lines.clone())? {
                self.lines.len()
            } else {
                // A put whose answer was lost finds its own object when it is tried again, and what was added
                // since goes into the next; anything else there is another writer's.
                let found = self.store.get(&path)?;
                if self.lines.as_bytes().starts_with(&found) { found.len() } else { 0 }
            };
            self.lines.drain(..written);
            self.next += 1;
        }
        Ok(())
    }
}

/// All events that count, by attempt and time. What an attempt wrote after a newer one was claimed does not.
///
/// # Errors
/// As the store; `Corrupt` naming object and line.
pub fn read_ledger(store: &Store) -> Result<Vec<Event>> {
    let mut events: Vec<Event> = each_object(store, |events| events)?.into_iter().flatten().collect();
    sort(&mut events);
    Ok(events)
}

/// What a new attempt must know of those before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Before {
    /// The last step that any of them took, since what is done again is recomputation; 0 where there was none.
    pub reached: u64,
    /// Their anomalies, by attempt and time.
    pub anomalies: Vec<Event>,
}

/// What all attempts so far have come to, without holding their events: those of 512 ranks are 2 million an hour.
///
/// # Errors
/// As the store; `Corrupt` naming object and line.
pub fn read_before(store: &Store) -> Result<Before> {
    let parts = each_object(store, |events| Before {
        reached: events
            .iter()
            .filter(|event| event.kind == "step")
            .filter_map(|event| event.step)
            .max()
            .unwrap_or(0),
        anomalies: events.into_iter().filter(|event| event.kind == "anomaly").collect(),
    })?;
    let mut before = Before::default();
    for part in parts {
        before.reached = before.reached.max(part.reached);
        before.anomalies.extend(part.anomalies);
    }
    sort(&mut before.anomalies);
    Ok(before)
}

fn sort(events: &mut [Event]) {
    events.sort_by(|a, b| a.attempt.cmp(&b.attempt).then(a.t.total_cmp(&b.t)));
}

/// What `keep` leaves of the events that count of each object, in no order that means anything.
fn each_object<T: Send>(store: &Store, keep: impl Fn(Vec<Event>) -> T + Sync) -> Result<Vec<T>> {
    let claims = claim::all(store)?;
    let objects = store.list(paths::LEDGER)?;
    let read = |&(attempt, path): &(u32, &str)| {
        let superseded =
            claims.iter().filter(|claim| claim.attempt > attempt).map(|claim| claim.claimed_us).min();
        let until = superseded.map_or(f64::INFINITY, |us| us as f64 / 1e6);
        let mut events = read_object(store, path, attempt)?;
        events.retain(|event| event.t <= until);
        Ok(keep(events))
    };
    read_objects(&objects, &read).into_iter().collect()
}

/// The events of one object.
///
/// # Errors
/// As the store; `Corrupt` naming object and line.
pub(crate) fn read_object(store: &Store, path: &str, attempt: u32) -> Result<Vec<Event>> {
    let bytes = store.get(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut events = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut event: Event = serde_json::from_str(line).map_err(|error| {
            Error::corrupt(format!("`{}` line {}: not an event: {error}", store.url_of(path), number + 1))
        })?;
        event.attempt = attempt;
        events.push(event);
    }
    Ok(events)
}

/// What `read` makes of every ledger object and its attempt, in the order of `objects`; many are read at once.
fn read_objects<T: Send>(
    objects: &[ObjectInfo],
    read: &(impl Fn(&(u32, &str)) -> Result<T> + Sync),
) -> Vec<Result<T>> {
    let wanted: Vec<(u32, &str)> = objects
        .iter()
        .filter_map(|object| {
            paths::parts_of_ledger_object(&object.path).map(|parts| (parts.0, object.path.as_str()))
        })
        .collect();
    let share = wanted.len().div_ceil(READERS_MAX).max(READER_OBJECTS_MIN);
    if wanted.len() <= share {
        return wanted.iter().map(read).collect();
    }
    std::thread::scope(|scope| {
        let readers: Vec<_> = wanted
            .chunks(share)
            .map(|share| scope.spawn(move || share.iter().map(read).collect::<Vec<_>>()))
            .collect();
        let joined = readers.into_iter().map(|reader| match reader.join() {
            Ok(events) => events,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.flatten().collect()
    })
}
