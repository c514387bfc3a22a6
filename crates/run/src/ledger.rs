//! Writing and reading events: lines of JSON, one object per flush and writer, since S3 cannot append.

use std::collections::BTreeMap;

use eagleray_base::{Error, Result};
use eagleray_store::Store;
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
    let parts = fold_objects(store, |_| Vec::new(), |all: &mut Vec<Event>, events| all.extend(events))?;
    let mut events: Vec<Event> = parts.into_iter().flatten().collect();
    sort(&mut events);
    Ok(events)
}

/// The events that count as an account needs them: steps of other ranks than 0 that follow each other are one, and
/// steps hold what an account takes of them. Memory grows with ranks and rank 0's steps, not with their product.
///
/// # Errors
/// As the store; `Corrupt` naming object and line.
pub(crate) fn read_joined(store: &Store) -> Result<Vec<Event>> {
    let parts = fold_objects(store, Joined::of_objects, Joined::extend)?;
    let mut events: Vec<Event> = parts.into_iter().flat_map(Joined::into_events).collect();
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
    let look = |before: &mut Before, events: Vec<Event>| {
        let steps = events.iter().filter(|event| event.kind == "step").filter_map(|event| event.step);
        before.reached = steps.fold(before.reached, u64::max);
        before.anomalies.extend(events.into_iter().filter(|event| event.kind == "anomaly"));
    };
    let parts = fold_objects(store, |_| Before::default(), look)?;
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

/// The events that count, object by object in the order of time, folded into several parts: many objects are read at
/// once. `begin` is told how many objects there are in all.
fn fold_objects<T: Send>(
    store: &Store,
    begin: impl Fn(usize) -> T + Sync,
    fold: impl Fn(&mut T, Vec<Event>) + Sync,
) -> Result<Vec<T>> {
    let claims = claim::all(store)?;
    let objects = store.list(paths::LEDGER)?;
    let wanted: Vec<(u32, &str)> = objects
        .iter()
        .filter_map(|object| {
            paths::parts_of_ledger_object(&object.path).map(|parts| (parts.0, object.path.as_str()))
        })
        .collect();
    let read = |share: &[(u32, &str)]| {
        let mut part = begin(wanted.len());
        for &(attempt, path) in share {
            let superseded =
                claims.iter().filter(|claim| claim.attempt > attempt).map(|claim| claim.claimed_us).min();
            let until = superseded.map_or(f64::INFINITY, |us| us as f64 / 1e6);
            let mut events = read_object(store, path, attempt)?;
            events.retain(|event| event.t <= until);
            fold(&mut part, events);
        }
        Ok(part)
    };
    let share = wanted.len().div_ceil(READERS_MAX).max(READER_OBJECTS_MIN);
    if wanted.len() <= share {
        return Ok(vec![read(&wanted)?]);
    }
    std::thread::scope(|scope| {
        let readers: Vec<_> = wanted.chunks(share).map(|share| scope.spawn(|| read(share))).collect();
        let joined = readers.into_iter().map(|reader| match reader.join() {
            Ok(part) => part,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}

/// Steps of one rank that lie so close, in seconds, have nothing of their own between them.
const GAP_MAX: f64 = 0.01;
/// Steps are joined to at least so many seconds.
const JOINED_SECONDS_MIN: f64 = 10.0;
/// Of a run's time at most this share is joined into one: a band of a report, so that memory does not grow with time.
const JOINED_SHARE: f64 = 1.0 / crate::timeline::BANDS as f64;
/// What an account takes of a step.
const STEP_FIELDS: [&str; 9] = [
    "data_wait",
    "compute",
    "checkpoint_stall",
    "recompute",
    "loss",
    "tokens",
    "total_steps",
    "order_digest",
    "token_digest",
];
const SPENT: [&str; 3] = ["data_wait", "compute", "checkpoint_stall"];

/// Events of which steps that follow each other are one.
struct Joined {
    seconds_max: f64,
    events: Vec<Event>,
    /// The last steps of each rank, to which the next may be joined.
    open: BTreeMap<u32, Event>,
}

impl Joined {
    /// Flushes are a second apart at least, so their number says how long a run is.
    fn of_objects(count: usize) -> Self {
        let seconds_max = (count as f64 * JOINED_SHARE).max(JOINED_SECONDS_MIN);
        Self { seconds_max, events: Vec::new(), open: BTreeMap::new() }
    }

    fn extend(&mut self, events: Vec<Event>) {
        for mut event in events {
            if event.kind != "step" {
                self.events.push(event);
                continue;
            }
            event.other.retain(|name, _| STEP_FIELDS.contains(&name.as_str()));
            match event.rank {
                None | Some(0) => self.events.push(event),
                Some(rank) => self.join(rank, event),
            }
        }
    }

    fn join(&mut self, rank: u32, event: Event) {
        match self.open.get_mut(&rank) {
            Some(open) if follows(open, &event, self.seconds_max) => {
                for name in SPENT {
                    let sum = open.number(name).unwrap_or(0.0) + event.number(name).unwrap_or(0.0);
                    open.other.insert(name.to_owned(), Value::from(sum));
                }
                (open.t, open.end, open.step) = (event.t, event.end, event.step);
            }
            _ => self.events.extend(self.open.insert(rank, event)),
        }
    }

    fn into_events(self) -> impl Iterator<Item = Event> {
        self.events.into_iter().chain(self.open.into_values())
    }
}

/// Whether a step begins where `before`, of the same rank, ended, and both may be told as one.
fn follows(before: &Event, event: &Event, seconds_max: f64) -> bool {
    let (Some(start), Some(end), Some(next), Some(until)) =
        (before.start, before.end, event.start, event.end)
    else {
        return false;
    };
    (before.attempt, before.generation, before.is_recompute())
        == (event.attempt, event.generation, event.is_recompute())
        && (0.0..=GAP_MAX).contains(&(next - end))
        && (next..=start + seconds_max).contains(&until)
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
