//! Which saves there are, and which commit a run goes on from.
//!
//! The newest checkpoint of a run is the newest commit of its newest attempt; an attempt without one goes
//! on from what it resumed from, and so on back. A commit of an older attempt past the point at which the
//! next attempt took over is an orphan: its driver did not know that it had been replaced.

use std::collections::BTreeMap;

use eagleray_base::{Error, Result};
use eagleray_store::Store;
use serde::{Deserialize, Serialize};

use crate::format::{Commit, read_commit};
use crate::place::{ATTEMPTS, COMMIT, FOLDER, Place, claim_number};

/// What a save is to its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveState {
    /// A checkpoint of the run.
    Committed,
    /// A commit that no later attempt went on from.
    Orphan,
    /// No commit: still being written, or torn.
    Uncommitted,
}

/// A save as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Save {
    /// The folder, below the run's store.
    pub dir: String,
    /// Where it lies.
    #[serde(skip)]
    pub place: Place,
    /// Steps done.
    pub step: u64,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// What it is to its run.
    pub state: SaveState,
    /// Whether the run would go on from it.
    pub newest: bool,
    /// Objects and bytes.
    pub files: u64,
    /// Bytes of all objects.
    pub bytes: u64,
    /// The last change of any object, microseconds since the Unix epoch.
    pub modified_us: u64,
}

/// All saves of a run, by step, attempt and save.
///
/// # Errors
/// As the store; `Corrupt` naming a claim that cannot be read.
pub fn list(store: &Store) -> Result<Vec<Save>> {
    let mut saves: BTreeMap<Place, Save> = BTreeMap::new();
    for object in store.list(FOLDER)? {
        let Some(place) = Place::parse(&object.path) else { continue };
        let save = saves.entry(place).or_insert_with(|| Save::empty(place));
        save.files += 1;
        save.bytes += object.bytes;
        save.modified_us = save.modified_us.max(object.modified_us);
        if object.path == format!("{}/{COMMIT}", place.dir()) {
            save.state = SaveState::Orphan;
        }
    }
    let committed: Vec<Place> =
        saves.values().filter(|save| save.state == SaveState::Orphan).map(|save| save.place).collect();
    for (number, place) in lineage(&committed, &claims(store)?).into_iter().enumerate() {
        if let Some(save) = saves.get_mut(&place) {
            save.state = SaveState::Committed;
            save.newest = number == 0;
        }
    }
    Ok(saves.into_values().collect())
}

/// The commit that the run goes on from.
///
/// # Errors
/// As the store; `Corrupt` naming a damaged commit or claim.
pub fn newest(store: &Store) -> Result<Option<Commit>> {
    let newest = list(store)?.into_iter().find(|save| save.newest);
    newest
        .map(|save| {
            read_commit(store, &save.dir).map_err(|error| match error.hint() {
                Some(_) => error,
                None => error.with_hint(format!(
                    "delete `{}` to go on from the checkpoint before it",
                    store.url_of(&save.dir)
                )),
            })
        })
        .transpose()
}

impl Save {
    fn empty(place: Place) -> Self {
        Self {
            dir: place.dir(),
            place,
            step: place.step,
            attempt: place.attempt,
            state: SaveState::Uncommitted,
            newest: false,
            files: 0,
            bytes: 0,
            modified_us: 0,
        }
    }
}

/// What each attempt resumed from, by number.
type Claims = BTreeMap<u32, Option<Place>>;

#[derive(Deserialize)]
struct Claim {
    #[serde(default)]
    resumed_from: Option<String>,
}

fn claims(store: &Store) -> Result<Claims> {
    let mut claims = Claims::new();
    for object in store.list(ATTEMPTS)? {
        let Some(number) = claim_number(&object.path) else { continue };
        let claim: Claim = serde_json::from_slice(&store.get(&object.path)?).map_err(|error| {
            Error::corrupt(format!("`{}` is not a claim: {error}", store.url_of(&object.path)))
        })?;
        claims.insert(number, claim.resumed_from.as_deref().and_then(Place::parse));
    }
    Ok(claims)
}

/// The commits that count, newest first. Pure: the rule of this module's head.
fn lineage(committed: &[Place], claims: &Claims) -> Vec<Place> {
    let last_claim = claims.keys().next_back().copied();
    let last_commit = committed.iter().map(|place| place.attempt).max();
    let mut chain = Vec::new();
    let mut attempt = last_claim.max(last_commit);
    let mut limit: Option<Place> = None;
    while let Some(number) = attempt {
        let counts = |place: &&Place| place.attempt == number && limit.is_none_or(|limit| **place <= limit);
        let mut own: Vec<Place> = committed.iter().filter(counts).copied().collect();
        own.sort_by(|a, b| b.cmp(a));
        chain.extend(own);
        limit = claims.get(&number).copied().flatten();
        // An attempt can only have resumed from one before it; anything else would turn in a circle.
        attempt = limit.map(|place| place.attempt).filter(|&before| before < number);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(step: u64, attempt: u32, save: u32) -> Place {
        Place { step, attempt, save }
    }

    #[test]
    fn the_newest_attempt_with_a_commit_decides() {
        let committed = [place(100, 1, 1), place(200, 1, 2), place(150, 2, 1)];
        let claims = Claims::from([(1, None), (2, Some(place(100, 1, 1)))]);
        assert_eq!(lineage(&committed, &claims), [place(150, 2, 1), place(100, 1, 1)]);
    }

    #[test]
    fn an_attempt_without_a_commit_stands_where_it_resumed() {
        let committed = [place(100, 1, 1), place(200, 1, 2)];
        let claims = Claims::from([(1, None), (2, Some(place(100, 1, 1))), (3, Some(place(100, 1, 1)))]);
        assert_eq!(lineage(&committed, &claims), [place(100, 1, 1)]);
    }

    #[test]
    fn an_attempt_that_began_anew_ignores_what_older_ones_commit_later() {
        let committed = [place(100, 1, 1)];
        let claims = Claims::from([(1, None), (2, None)]);
        assert!(lineage(&committed, &claims).is_empty());
    }

    #[test]
    fn saves_without_claims_count_by_attempt() {
        assert_eq!(
            lineage(&[place(5, 1, 1), place(9, 1, 2)], &Claims::new()),
            [place(9, 1, 2), place(5, 1, 1)]
        );
        assert!(lineage(&[], &Claims::new()).is_empty());
    }
}
