//! Which positions a rank trains on, step by step and micro batch by micro batch: pure arithmetic.
//!
//! Of the `B` samples of a step, rank `r` of `W` gets a contiguous slice; slices differ by at most one
//! sample, the first ranks having the longer ones. Every rank makes the same number of micro batches, so
//! that collectives meet; one that has run out of samples makes empty ones.

use std::ops::Range;

use crate::StreamConfig;

/// One micro batch of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicroBatch {
    /// The positions of its samples; may be empty.
    pub positions: Range<u64>,
    /// Its number within the step.
    pub index: u64,
    /// Micro batches of the step.
    pub count: u64,
    /// Where the step begins, and where the next one does.
    pub step: Range<u64>,
}

/// The micro batches of a rank, in order.
#[derive(Clone, Debug)]
pub struct Slices {
    rank: u64,
    world: u64,
    global_batch: u64,
    micro_batch: u64,
    position: u64,
    end: u64,
    index: u64,
}

/// The slice of `step` that a rank gets.
pub fn slice_of(step: &Range<u64>, rank: u64, world: u64) -> Range<u64> {
    let samples = step.end - step.start;
    let (base, rest) = (samples / world, samples % world);
    let start = step.start + rank * base + rank.min(rest);
    start..start + base + u64::from(rank < rest)
}

impl Slices {
    /// The micro batches from `position` on, the first `skipped` of that step left out.
    pub fn new(config: &StreamConfig, position: u64, skipped: u64) -> Self {
        Self {
            rank: config.rank,
            world: config.world,
            global_batch: config.global_batch,
            micro_batch: config.micro_batch,
            position,
            end: config.end_position.unwrap_or(eagleray_order::POSITION_MAX),
            index: skipped,
        }
    }
}

impl Iterator for Slices {
    type Item = MicroBatch;

    fn next(&mut self) -> Option<MicroBatch> {
        if self.position >= self.end {
            return None;
        }
        let step = self.position..self.end.min(self.position + self.global_batch);
        let count = (step.end - step.start).div_ceil(self.world).div_ceil(self.micro_batch);
        let slice = slice_of(&step, self.rank, self.world);
        let start = slice.end.min(slice.start + self.index * self.micro_batch);
        let positions = start..slice.end.min(start + self.micro_batch);
        let index = self.index;
        self.index += 1;
        if self.index >= count {
            (self.index, self.position) = (0, step.end);
        }
        Some(MicroBatch { positions, index, count, step })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slices(rank: u64, world: u64, batch: u64, micro: u64, range: Range<u64>) -> Vec<MicroBatch> {
        let config = StreamConfig {
            sources: Vec::new(),
            sequence_length: 1,
            seed: 0,
            global_batch: batch,
            micro_batch: micro,
            rank,
            world,
            position: range.start,
            end_position: Some(range.end),
            prefetch_bytes: 0,
            state: None,
        };
        Slices::new(&config, range.start, 0).collect()
    }

    proptest! {
        #[test]
        fn all_ranks_together_make_every_step_once_and_in_step(
            world in 1_u64..7, batch in 1_u64..40, micro in 1_u64..9, start in 0_u64..1000, length in 0_u64..100,
        ) {
            let ranks: Vec<_> = (0..world).map(|rank| slices(rank, world, batch, micro, start..start + length)).collect();
            let mut seen = Vec::new();
            for made in &ranks {
                prop_assert_eq!(made.len(), ranks[0].len());
                for (mine, first) in made.iter().zip(&ranks[0]) {
                    prop_assert_eq!((mine.index, mine.count, &mine.step), (first.index, first.count, &first.step));
                    prop_assert!(mine.positions.clone().count() as u64 <= micro);
                    seen.extend(mine.positions.clone());
                }
            }
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(start..start + length));
        }
    }

    #[test]
    fn the_first_ranks_get_the_longer_slices() {
        let sizes: Vec<u64> =
            (0..3).map(|rank| slice_of(&(10..18), rank, 3)).map(|slice| slice.end - slice.start).collect();
        assert_eq!(sizes, [3, 3, 2]);
        let last = slices(2, 3, 8, 2, 10..18);
        assert_eq!(last.iter().map(|made| made.positions.clone()).collect::<Vec<_>>(), [16..18, 18..18]);
    }
}
