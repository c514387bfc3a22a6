//! Drivers that claim, save, crash, sweep and commit too late, in any order: the run's newest checkpoint is
//! always the one that a model of a few lines says it is, and always whole.

use std::sync::atomic::{AtomicU64, Ordering};

use eagleray_base::Kind;
use eagleray_store::Store;
use proptest::prelude::*;

use super::{Keep, claim, list, newest, next_save, steps, store, sweep, verify_newest};
use crate::format::{Commit, Fields};
use crate::place::{COMMIT, Place};
use crate::save::collect_files;

/// Steps of the protocol before the commit.
const PARTS: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Move {
    /// A new driver claims the next attempt, whether or not the others live.
    Claim,
    /// A driver does the next step of its save.
    Advance(usize),
    /// A driver that was asleep between its last look at the claims and the commit's put wakes up.
    CommitBlindly(usize),
    /// A driver dies.
    Crash(usize),
    /// A driver deletes what need not be kept, this many hours from now.
    Sweep(usize, u64),
}

struct Driver {
    attempt: u32,
    step: u64,
    /// The save in flight and the steps of its protocol that are done.
    save: Option<(String, usize)>,
}

struct World {
    store: Store,
    attempts: u32,
    drivers: Vec<Driver>,
    expected: Option<String>,
}

impl World {
    fn new() -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let store = store(&format!("simulation-{}", SERIAL.fetch_add(1, Ordering::Relaxed)));
        Self { store, attempts: 0, drivers: Vec::new(), expected: None }
    }

    fn play(&mut self, next: Move) {
        match next {
            Move::Claim => {
                self.attempts += 1;
                claim(&self.store, self.attempts, self.expected.as_deref());
                let step = self.expected.as_deref().and_then(Place::parse).map_or(0, |place| place.step);
                self.drivers.push(Driver { attempt: self.attempts, step, save: None });
            }
            Move::Crash(driver) => drop(self.pick(driver).map(|index| self.drivers.remove(index))),
            Move::Advance(driver) => drop(self.pick(driver).map(|index| self.advance(index))),
            Move::CommitBlindly(driver) => drop(self.pick(driver).map(|index| self.commit_blindly(index))),
            Move::Sweep(driver, hours) => drop(self.pick(driver).map(|index| self.sweep(index, hours))),
        }
        let found = newest(&self.store).unwrap().map(|commit| commit.dir);
        assert_eq!(found, self.expected, "after {next:?}");
        if found.is_some() {
            assert_eq!(verify_newest(&self.store).unwrap(), 2000);
        }
    }

    fn pick(&self, driver: usize) -> Option<usize> {
        (!self.drivers.is_empty()).then(|| driver % self.drivers.len())
    }

    fn advance(&mut self, index: usize) {
        let driver = &mut self.drivers[index];
        let (dir, done) = driver.save.take().unwrap_or_else(|| {
            driver.step += 10;
            (next_save(&self.store, driver.attempt, driver.step).unwrap(), 0)
        });
        let outcome = steps(driver.step)[done](&self.store, &dir);
        if done < PARTS {
            outcome.unwrap();
            driver.save = Some((dir, done + 1));
        } else if driver.attempt == self.attempts {
            outcome.unwrap();
            self.expected = Some(dir);
        } else {
            assert_eq!(outcome.unwrap_err().kind(), Kind::Conflict);
            self.drivers.remove(index);
        }
    }

    fn commit_blindly(&mut self, index: usize) {
        let driver = &mut self.drivers[index];
        let Some((dir, PARTS)) = driver.save.clone() else { return };
        driver.save = None;
        let place = Place::parse(&dir).unwrap();
        // A newer driver may have swept the save away.
        let Ok(files) = collect_files(&self.store, &dir, 2) else { return };
        let commit = Commit::new(place, 1, files, Fields::new("torch.dcp", driver.step, 2));
        assert!(self.store.put_if_absent(&format!("{dir}/{COMMIT}"), commit.encode().unwrap()).unwrap());
        if driver.attempt == self.attempts {
            self.expected = Some(dir);
        }
    }

    /// Only the driver that holds the run sweeps; a part of a save that it still writes must survive.
    fn sweep(&self, index: usize, hours: u64) {
        let driver = &self.drivers[index];
        if driver.attempt != self.attempts {
            return;
        }
        let saves = list(&self.store).unwrap();
        let now = saves.iter().map(|save| save.modified_us).max().unwrap_or(0) + hours * super::HOUR_US;
        let keep = Keep { last: Some(2), every_steps: Some(50) };
        let gone = sweep(&self.store, keep, driver.attempt, now).unwrap();
        assert!(!gone.iter().any(|dir| driver.save.as_ref().is_some_and(|(own, _)| own == dir)), "{gone:?}");
    }
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        1 => Just(Move::Claim),
        8 => (0_usize..4).prop_map(Move::Advance),
        1 => (0_usize..4).prop_map(Move::CommitBlindly),
        1 => (0_usize..4).prop_map(Move::Crash),
        1 => (0_usize..4, 0_u64..3).prop_map(|(driver, hours)| Move::Sweep(driver, hours)),
    ]
}

proptest! {
    #[test]
    fn whatever_drivers_do_the_newest_checkpoint_is_whole_and_of_the_run_that_goes_on(
        moves in prop::collection::vec(moves(), 1..120),
    ) {
        let mut world = World::new();
        world.play(Move::Claim);
        for next in moves {
            world.play(next);
        }
    }
}
