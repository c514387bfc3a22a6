//! Writing and reading events: lines of JSON, one object per flush and writer, since S3 cannot append.

use std::collections::BTreeMap;

use eagleray_base::{Error, Result};
use eagleray_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::claim::{self, Claim};
use crate::event::Event;
use crate::paths;
use crate::recent::newest_objects;

/// A day of flushes is tens of thousands of objects: from S3 they are read by this many threads.
const READERS_MAX: usize = 32;
/// Fewer objects than this are not worth a thread.
const READER_OBJECTS_MIN: usize = 8;

/// After so many objects what they come to is put again: a new attempt reads that, and the objects since.
const TOLD_OBJECTS: u64 = 256;

/// The events of one writer of an attempt. Each flush is one object; nothing is ever changed.
pub struct Ledger {
    store: Store,
    attempt: u32,
    writer: String,
    next: u64,
    lines: String,
    told: Told,
}

impl Ledger {
    /// Opens the ledger of a writer; one that wrote before goes on after what is there.
    ///
    /// # Errors
    /// As the store.
    pub fn open(store: &Store, attempt: u32, writer: &str) -> Result<Self> {
        let told = Told::of(store, attempt, f64::INFINITY)?;
        let next = told.objects + 1;
        Ok(Self {
            store: store.clone(),
            attempt,
            writer: writer.to_owned(),
            next,
            lines: String::new(),
            told,
        })
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
            let event = serde_json::from_str(&line)
                .map_err(|error| Error::internal(format!("an event: {error}: {line}")))?;
            self.told.add(event);
            self.lines.push_str(&line);
            self.lines.push('\n');
        }
        Ok(())
    }

    /// Writes what was added as one object. Where that fails the events stay, for the next flush. Once in a while puts
    /// what all of them come to, too.
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
        if self.next > self.told.objects + TOLD_OBJECTS {
            let told = Told { objects: self.next - 1, ..self.told.clone() };
            self.store.put(&paths::told(self.attempt), told.to_json())?;
            self.told = told;
        }
        Ok(())
    }
}

/// All events that count, by attempt and time. What an attempt wrote after a newer one was claimed does not.
///
/// # Errors
/// As the store; `Corrupt` naming object and line.
pub fn read_ledger(store: &Store) -> Result<Vec<Event>> {
    let claims = claim::all(store)?;
    let until = |attempt| counts_until(&claims, attempt);
    let add = |all: &mut Vec<Event>, events| all.extend(events);
    let parts = fold_objects(store, &all_objects(store)?, until, Vec::new, add)?;
    let mut events: Vec<Event> = parts.into_iter().flatten().collect();
    sort(&mut events);
    Ok(events)
}

/// The events that count by a run's claims, as an account needs them: steps of other ranks than 0 that follow each other are one, and
/// steps hold what an account takes of them. Memory grows with ranks and rank 0's steps, not with their product.
///
/// # Errors
/// As the store; `Corrupt` naming object and line.
pub(crate) fn read_joined(store: &Store, claims: &[Claim]) -> Result<Vec<Event>> {
    let objects = all_objects(store)?;
    let moment = |object: Option<&(u32, String)>| -> Result<Option<f64>> {
        let events = object.map(|(attempt, path)| read_object(store, path, *attempt)).transpose()?;
        Ok(events.and_then(|events| events.last().map(|event| event.t)))
    };
    let seconds = match (moment(objects.first())?, moment(objects.last())?) {
        (Some(first), Some(last)) => last - first,
        _ => 0.0,
    };
    let until = |attempt| counts_until(claims, attempt);
    let parts = fold_objects(store, &objects, until, || Joined::over(seconds), Joined::extend)?;
    let mut events: Vec<Event> = parts.into_iter().flat_map(Joined::into_events).collect();
    sort(&mut events);
    Ok(events)
}

/// What a new attempt must know of those before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// The last step that any of them took, since what is done again is recomputation; 0 where there was none.
    pub reached: u64,
    /// Their anomalies, by attempt and time.
    pub anomalies: Vec<Event>,
}

impl Before {
    fn add(&mut self, event: Event) {
        match event.kind.as_str() {
            "step" => self.reached = self.reached.max(event.step.unwrap_or(0)),
            "anomaly" => self.anomalies.push(event),
            _ => {}
        }
    }

    fn join(&mut self, other: Self) {
        self.reached = self.reached.max(other.reached);
        self.anomalies.extend(other.anomalies);
    }
}

/// What all attempts so far have come to, without holding their events: those of 512 ranks are 2 million an hour.
/// Of each attempt's ledger only the end is read.
///
/// # Errors
/// As the store; `Corrupt` naming object and line.
pub fn read_before(store: &Store) -> Result<Before> {
    let claims = claim::all(store)?;
    let mut before = Before::default();
    for claim in &claims {
        before.join(Told::of(store, claim.attempt, counts_until(&claims, claim.attempt))?.before);
    }
    sort(&mut before.anomalies);
    Ok(before)
}

/// What the first objects of an attempt's ledger come to. Follows from them, so that it may be missing at any time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Told {
    format: String,
    format_version: u32,
    /// The number of the last object that it speaks of.
    objects: u64,
    /// The time of the last event.
    t: f64,
    #[serde(flatten)]
    before: Before,
}

impl Told {
    const FORMAT: &str = "eagleray.told";
    const VERSION: u32 = 1;

    /// What the events of an attempt until `until` come to: what was put, and the objects since.
    fn of(store: &Store, attempt: u32, until: f64) -> Result<Self> {
        let mut told = Self::put_by(store, attempt)?.filter(|told| told.t <= until).unwrap_or_default();
        let mut since: Vec<(u32, String)> =
            newest_objects(store, attempt, told.objects)?.map(|path| (attempt, path)).collect();
        since.reverse();
        told.objects += since.len() as u64;
        let add = |told: &mut Self, events: Vec<Event>| events.into_iter().for_each(|event| told.add(event));
        for part in fold_objects(store, &since, |_| until, Self::default, add)? {
            told.t = told.t.max(part.t);
            told.before.join(part.before);
        }
        Ok(told)
    }

    /// What a ledger has put; what cannot be read is as good as missing.
    fn put_by(store: &Store, attempt: u32) -> Result<Option<Self>> {
        let path = paths::told(attempt);
        if store.head(&path)?.is_none() {
            return Ok(None);
        }
        let read: Option<Self> = serde_json::from_slice(&store.get(&path)?).ok();
        Ok(read.filter(|told| told.format == Self::FORMAT && told.format_version == Self::VERSION))
    }

    fn add(&mut self, event: Event) {
        self.t = self.t.max(event.t);
        self.before.add(event);
    }

    fn to_json(&self) -> Vec<u8> {
        let told = Self { format: Self::FORMAT.to_owned(), format_version: Self::VERSION, ..self.clone() };
        serde_json::to_vec(&told).expect("numbers and text")
    }
}

/// Until when the events of an attempt count: until a newer one was claimed.
fn counts_until(claims: &[Claim], attempt: u32) -> f64 {
    let newer = claims.iter().filter(|claim| claim.attempt > attempt).map(|claim| claim.claimed_us).min();
    newer.map_or(f64::INFINITY, |us| us as f64 / 1e6)
}

fn sort(events: &mut [Event]) {
    events.sort_by(|a, b| a.attempt.cmp(&b.attempt).then(a.t.total_cmp(&b.t)));
}

/// The objects of all attempts, in the order of time.
fn all_objects(store: &Store) -> Result<Vec<(u32, String)>> {
    let objects = store.list(paths::LEDGER)?.into_iter();
    let ours = objects.filter_map(|object| {
        let (attempt, ..) = paths::parts_of_ledger_object(&object.path)?;
        Some((attempt, object.path))
    });
    Ok(ours.collect())
}

/// Folds the events of `objects` that count, object by object, into several parts: many are read at once. `until` says
/// of an attempt until when its events do.
fn fold_objects<T: Send>(
    store: &Store,
    objects: &[(u32, String)],
    until: impl Fn(u32) -> f64 + Sync,
    begin: impl Fn() -> T + Sync,
    fold: impl Fn(&mut T, Vec<Event>) + Sync,
) -> Result<Vec<T>> {
    let read = |share: &[(u32, String)]| {
        let mut part = begin();
        for (attempt, path) in share {
            let mut events = read_object(store, path, *attempt)?;
            let until = until(*attempt);
            events.retain(|event| event.t <= until);
            fold(&mut part, events);
        }
        Ok(part)
    };
    let share = objects.len().div_ceil(READERS_MAX).max(READER_OBJECTS_MIN);
    if objects.len() <= share {
        return Ok(vec![read(objects)?]);
    }
    std::thread::scope(|scope| {
        let readers: Vec<_> = objects.chunks(share).map(|share| scope.spawn(|| read(share))).collect();
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
    /// For a run of so many seconds.
    fn over(seconds: f64) -> Self {
        let seconds_max = (seconds * JOINED_SHARE).max(JOINED_SECONDS_MIN);
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
