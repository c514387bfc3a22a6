//! The runs of a folder, and what has become of each.

use std::time::{SystemTime, UNIX_EPOCH};

use eagleray_base::Result;
use eagleray_store::Store;
use serde::Serialize;

use crate::claim::{self, Claim, End};
use crate::recent::{newest_events, newest_objects};
use crate::{account, paths};

/// Flushes that may pass without a step before a listing looks no further.
const OBJECTS_MAX: usize = 64;

/// What has become of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// No attempt has been made.
    #[default]
    New,
    /// Its driver is alive.
    Running,
    /// All steps are done.
    Completed,
    /// Somebody stopped it; the same command goes on.
    Stopped,
    /// It ended with an error.
    Failed,
    /// Its driver is gone without a word; the same command goes on.
    Dead,
}

impl RunState {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Dead => "dead",
        }
    }
}

/// A run as a listing shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its folder.
    pub store: String,
    /// Its name.
    pub name: String,
    /// What has become of it.
    pub state: RunState,
    /// Steps done.
    pub steps: u64,
    /// Steps asked for.
    pub steps_planned: u64,
    /// Drivers' lives.
    pub attempts: usize,
    /// Seconds since it last wrote.
    pub age_seconds: f64,
}

/// Whether a folder is a run's store.
///
/// # Errors
/// As the store.
pub fn is_run(store: &Store) -> Result<bool> {
    Ok(store.head(paths::RESOLVED)?.is_some() || !store.list(paths::ATTEMPTS)?.is_empty())
}

/// The runs at a folder: itself, or those right below it and one deeper.
///
/// # Errors
/// As the store.
pub fn find(store: &Store) -> Result<Vec<Store>> {
    if is_run(store)? {
        return Ok(vec![store.clone()]);
    }
    let mut found = Vec::new();
    for name in store.list_dirs("")? {
        let child = store.child(&name);
        if is_run(&child)? {
            found.push(child);
            continue;
        }
        for deeper in child.list_dirs("")? {
            let deeper = child.child(&deeper);
            if is_run(&deeper)? {
                found.push(deeper);
            }
        }
    }
    Ok(found)
}

/// The summary of a run; of its ledger only the end is read.
///
/// # Errors
/// As the store; `Corrupt` naming what cannot be read.
pub fn summary(store: &Store) -> Result<Summary> {
    let claims = claim::all(store)?;
    let newest = claims.last();
    let end = newest.map(|claim| claim::end_of(store, claim.attempt)).transpose()?.flatten();
    let resolved = account::resolved(store)?;
    let written = newest.map(|claim| written_us(store, claim.attempt)).transpose()?.flatten();
    let last_us = [written, newest.map(|claim| claim.claimed_us), end.as_ref().map(|end| end.ended_us)];
    #[expect(clippy::disallowed_methods, reason = "ages are told against the clock of whoever asks")]
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_micros() as u64);
    Ok(Summary {
        store: store.url().to_owned(),
        name: account::name_of(store, &resolved),
        state: state_of(store, newest, end.as_ref())?,
        steps: newest.map_or(Ok(0), |claim| steps_of(store, claim))?,
        steps_planned: resolved["spec"]["train"]["steps"].as_u64().unwrap_or(0),
        attempts: claims.len(),
        age_seconds: now_us.saturating_sub(last_us.into_iter().flatten().max().unwrap_or(0)) as f64 / 1e6,
    })
}

/// When an attempt last wrote into its ledger.
fn written_us(store: &Store, attempt: u32) -> Result<Option<u64>> {
    let Some(path) = newest_objects(store, attempt, 0)?.next() else { return Ok(None) };
    Ok(store.head(&path)?.map(|object| object.modified_us))
}

/// The last step that an attempt speaks of, else that it resumed from. Its newest objects are read first.
fn steps_of(store: &Store, claim: &Claim) -> Result<u64> {
    let events = newest_events(store, claim.attempt, OBJECTS_MAX)?;
    let last = events.iter().filter(|event| event.kind == "step").filter_map(|event| event.step).max();
    Ok(last.unwrap_or_else(|| account::resumed_step(claim)))
}

/// What has become of a run whose newest attempt and its end are these.
///
/// # Errors
/// As the store.
pub fn state_of(store: &Store, newest: Option<&Claim>, end: Option<&End>) -> Result<RunState> {
    let Some(newest) = newest else { return Ok(RunState::New) };
    Ok(match end.map(|end| end.outcome.as_str()) {
        Some("completed") => RunState::Completed,
        Some("stopped") => RunState::Stopped,
        Some(_) => RunState::Failed,
        None if claim::is_alive(store, newest, &this_host())? => RunState::Running,
        None => RunState::Dead,
    })
}

/// This machine's name, as Python's `platform.node()` gives it.
pub fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
