//! The runs of a folder, and what has become of each.

use std::time::{SystemTime, UNIX_EPOCH};

use eagleray_base::Result;
use eagleray_store::Store;
use serde::Serialize;

use crate::claim::{self, Claim, End};
use crate::{account, paths};

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
    /// Seconds since its last event.
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

/// The summary of a run.
///
/// # Errors
/// As the store.
pub fn summary(store: &Store) -> Result<Summary> {
    let account = account::of_store(store)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |age| age.as_secs_f64());
    Ok(Summary {
        store: store.url().to_owned(),
        name: account.name,
        state: account.state,
        steps: account.steps,
        steps_planned: account.steps_planned,
        attempts: account.attempts.len(),
        age_seconds: (now - account.ended).max(0.0),
    })
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
fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
