//! What a run is at right now, out of the end of its newest attempt's ledger.

use std::collections::VecDeque;

use eagleray_base::Result;
use eagleray_store::Store;
use serde::Serialize;

use crate::account;
use crate::claim;
use crate::event::Event;
use crate::ledger::read_object;
use crate::paths;
use crate::runs::{RunState, state_of};

/// Flushes that may pass without a step before nobody looks further back.
const OBJECTS_MAX: usize = 32;

/// Over so many steps the speed is told: one step alone may have waited for a save.
const STEPS: usize = 20;

/// What a run is at.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Recent {
    /// What has become of it.
    pub state: RunState,
    /// The newest attempt, from 1; 0 where there is none.
    pub attempt: u32,
    /// The last step done, else that it resumed from.
    pub step: u64,
    /// Steps asked for; 0 where nobody says.
    pub steps_planned: u64,
    /// Tokens a second over the last steps; 0 where there are none.
    pub tokens_per_second: f64,
    /// The loss after the last step.
    pub loss: Option<f64>,
    /// Ranks of the newest world.
    pub ranks: u32,
    /// When the last step ended, seconds since the epoch.
    pub stepped: Option<f64>,
    /// When the newest world was begun, where it has done no step yet.
    pub forming: Option<f64>,
    /// What broke the world before, where the newest has done no step yet.
    pub failure: Option<String>,
    /// How the attempt ended, where it has.
    pub outcome: Option<String>,
}

/// What a run is at. Of its ledger only the end is read.
///
/// # Errors
/// As the store; `Corrupt` naming what cannot be read.
pub fn recent(store: &Store) -> Result<Recent> {
    let claims = claim::all(store)?;
    let Some(newest) = claims.last() else { return Ok(Recent::default()) };
    let end = claim::end_of(store, newest.attempt)?;
    let mut recent = of_events(&newest_events(store, newest.attempt, OBJECTS_MAX)?);
    recent.state = state_of(store, Some(newest), end.as_ref())?;
    recent.attempt = newest.attempt;
    if recent.stepped.is_none() {
        recent.step = account::resumed_step(newest);
    }
    if let Some(end) = end {
        recent.step = recent.step.max(end.step);
        recent.outcome = Some(end.outcome);
    }
    if recent.steps_planned == 0 {
        recent.steps_planned = account::resolved(store)?["spec"]["train"]["steps"].as_u64().unwrap_or(0);
    }
    Ok(recent)
}

/// The newest events of an attempt, in the order in which they were written: of its ledger's objects the last that
/// speaks of a step and those after it, at most so many.
pub(crate) fn newest_events(store: &Store, attempt: u32, objects_max: usize) -> Result<Vec<Event>> {
    let mut events = VecDeque::new();
    for path in newest_objects(store, attempt, 0)?.take(objects_max) {
        let read = read_object(store, &path, attempt)?;
        let enough = read.iter().any(|event| event.kind == "step");
        for event in read.into_iter().rev() {
            events.push_front(event);
        }
        if enough {
            break;
        }
    }
    Ok(events.into())
}

/// The paths of an attempt's ledger after the object of number `after`, the newest first. A week of flushes is tens of
/// thousands of objects, so they are not listed: one writer numbers them without gaps, and the last is sought.
pub(crate) fn newest_objects(
    store: &Store,
    attempt: u32,
    after: u64,
) -> Result<impl Iterator<Item = String> + use<>> {
    let first = store.first(&paths::ledger(attempt))?;
    let parts = first.as_ref().and_then(|object| paths::parts_of_ledger_object(&object.path));
    let writer = parts.map_or("", |(_, writer, _)| writer);
    let mut last = after;
    let path = |number: u64| paths::ledger_object(attempt, writer, number);
    // Doubled until it is too far, then halved back.
    let mut stride = u64::from(!writer.is_empty());
    while stride > 0 && store.head(&path(last + stride))?.is_some() {
        last += stride;
        stride *= 2;
    }
    while stride > 1 {
        stride /= 2;
        if store.head(&path(last + stride))?.is_some() {
            last += stride;
        }
    }
    let writer = writer.to_owned();
    Ok((after + 1..=last).rev().map(move |number| paths::ledger_object(attempt, &writer, number)))
}

/// The same of events in the order in which they were written; state, attempt and end are the caller's.
fn of_events(events: &[Event]) -> Recent {
    let mut recent = Recent::default();
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for event in events {
        match event.kind.as_str() {
            // Every rank tells of a step, and each of the whole batch.
            "step" if event.rank.unwrap_or(0) == 0 => {
                let (start, end) = (event.start.unwrap_or(event.t), event.end.unwrap_or(event.t));
                recent.step = event.step.unwrap_or(recent.step);
                recent.loss = event.number("loss");
                recent.stepped = Some(end);
                (recent.forming, recent.failure) = (None, None);
                recent.ranks = event.number("world").map_or(recent.ranks, |world| world as u32);
                let planned = event.number("total_steps").map_or(0, |steps| steps as u64);
                recent.steps_planned = recent.steps_planned.max(planned);
                steps.push((event.number("tokens").unwrap_or(0.0), (end - start).max(0.0)));
            }
            "generation" => {
                recent.ranks = event.number("world").map_or(recent.ranks, |world| world as u32);
                recent.forming = Some(event.t);
            }
            "failure" => {
                recent.failure = event.text("reason").map(str::to_owned);
                recent.forming = Some(event.t);
            }
            _ => {}
        }
    }
    let last = &steps[steps.len().saturating_sub(STEPS)..];
    let (tokens, seconds) =
        last.iter().fold((0.0, 0.0), |(tokens, seconds), step| (tokens + step.0, seconds + step.1));
    if seconds > 0.0 {
        recent.tokens_per_second = tokens / seconds;
    }
    recent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(lines: &[&str]) -> Vec<Event> {
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    const STEP: &str = r#"{"t":12,"kind":"step","rank":0,"step":7,"start":10,"end":12,"tokens":4000,"world":8,"loss":2.5,"total_steps":60}"#;

    #[test]
    fn a_step_says_speed_ranks_and_loss() {
        let recent = of_events(&events(&[STEP]));
        assert_eq!((recent.step, recent.steps_planned, recent.ranks), (7, 60, 8));
        assert!((recent.tokens_per_second - 2_000.0).abs() < 1e-9);
        assert_eq!((recent.loss, recent.stepped, recent.forming), (Some(2.5), Some(12.0), None));
    }

    #[test]
    fn a_world_that_broke_forms_again_until_its_first_step() {
        let failure = r#"{"t":13,"kind":"failure","generation":0,"reason":"a worker died"}"#;
        let generation = r#"{"t":20,"kind":"generation","generation":1,"world":4,"reason":"a worker died"}"#;
        let broken = of_events(&events(&[STEP, failure, generation]));
        assert_eq!((broken.failure.as_deref(), broken.forming), (Some("a worker died"), Some(20.0)));
        assert_eq!((broken.step, broken.ranks), (7, 4));
        let after = r#"{"t":30,"kind":"step","rank":0,"step":8,"start":28,"end":30,"tokens":4000,"world":4}"#;
        let mended = of_events(&events(&[STEP, failure, generation, after]));
        assert_eq!((mended.failure, mended.forming, mended.step), (None, None, 8));
    }

    #[test]
    fn the_newest_objects_of_a_ledger_are_found_without_a_listing() {
        for count in (0..20_u64).chain([100, 127, 128, 129]) {
            let store = Store::open(&format!("memory://recent-newest-{count}")).unwrap();
            for number in 1..=count {
                store.put(&paths::ledger_object(1, "driver", number), "").unwrap();
            }
            for after in [0, count / 2, count] {
                let found: Vec<String> = newest_objects(&store, 1, after).unwrap().collect();
                let wanted: Vec<String> = (after + 1..=count)
                    .rev()
                    .map(|number| paths::ledger_object(1, "driver", number))
                    .collect();
                assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn a_run_without_attempts_is_new() {
        let store = Store::open("memory://recent-none").unwrap();
        assert_eq!(recent(&store).unwrap(), Recent::default());
    }
}
