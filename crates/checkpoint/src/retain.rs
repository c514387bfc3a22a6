//! What is kept and what goes.

use eagleray_base::Result;
use eagleray_store::Store;
use serde::{Deserialize, Serialize};

use crate::lineage::{Save, SaveState, list};
use crate::place::COMMIT;

/// A torn save may belong to a driver that still lives; it is left alone this long.
const TORN_AGE_MIN_US: u64 = 3600 * 1_000_000;

/// What to keep; the newest checkpoint is always kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// The last so many; all where it is absent.
    #[serde(default)]
    pub last: Option<usize>,
    /// And each whose step is a multiple of this.
    #[serde(default)]
    pub every_steps: Option<u64>,
}

/// Deletes what need not be kept, as seen by an attempt at a time; returns the folders that went.
///
/// A commit goes first, so that a sweep cut short leaves no checkpoint with files missing.
///
/// # Errors
/// As the store.
pub fn sweep(store: &Store, keep: Keep, attempt: u32, now_us: u64) -> Result<Vec<String>> {
    let going = expired(&list(store)?, keep, attempt, now_us);
    for dir in &going {
        store.delete(&format!("{dir}/{COMMIT}"))?;
        store.delete_prefix(dir)?;
    }
    Ok(going)
}

/// The folders that may go. Pure.
fn expired(saves: &[Save], keep: Keep, attempt: u32, now_us: u64) -> Vec<String> {
    // An attempt has one save in flight; those that it began before are committed or torn.
    let in_flight = saves.iter().filter(|save| save.attempt == attempt).map(|save| save.place.save).max();
    let mut kept = 0;
    let mut going = Vec::new();
    for save in saves.iter().rev() {
        let goes = match save.state {
            SaveState::Committed => {
                kept += 1;
                let recent = keep.last.is_none_or(|last| kept <= last.max(1));
                let marked =
                    keep.every_steps.is_some_and(|every| every > 0 && save.step.is_multiple_of(every));
                !(save.newest || recent || marked)
            }
            SaveState::Orphan => save.attempt < attempt,
            SaveState::Uncommitted => {
                let old = save.modified_us + TORN_AGE_MIN_US < now_us;
                let over = save.attempt < attempt || Some(save.place.save) != in_flight;
                old && over && save.attempt <= attempt
            }
        };
        if goes {
            going.push(save.dir.clone());
        }
    }
    going
}
