//! Asking the driver of a run to save and stop, from anywhere that reaches the run's store.
//!
//! A signal needs the machine, and a cluster's network lets nobody in: the store is what driver and user share.

use eagleray_base::Result;
use eagleray_store::Store;

use crate::claim::{self, Claim};
use crate::paths;

/// Asks the driver of the newest attempt, which looks with every sign of life; none where no attempt is open.
///
/// # Errors
/// As the store.
pub fn ask(store: &Store) -> Result<Option<Claim>> {
    let Some(newest) = claim::all(store)?.pop() else { return Ok(None) };
    if claim::end_of(store, newest.attempt)?.is_some() {
        return Ok(None);
    }
    store.put(&paths::stop(newest.attempt), "stop\n")?;
    Ok(Some(newest))
}

/// Whether somebody has asked an attempt's driver to stop.
///
/// # Errors
/// As the store.
pub fn is_asked(store: &Store, attempt: u32) -> Result<bool> {
    Ok(store.head(&paths::stop(attempt))?.is_some())
}
