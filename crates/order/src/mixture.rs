//! How positions are shared between sources, in closed form and exact integers.
//!
//! Weights become integers `w` with sum `W`. Of the first `n` positions source `k` owns
//! `⌊n·P(k) / W⌋ − ⌊n·P(k−1) / W⌋`, where `P` are the prefix sums of `w`: the counts add up to `n` and differ
//! from `n·w/W` by less than one. They hold at the borders of *blocks* of positions, large enough that no
//! count shrinks from one border to the next. Within a block a keyed bijection deals the positions out, so
//! that sources are interleaved. A source's cursor at any border is two divisions, and its inverse a search
//! by halves.

use eagleray_base::{Digest, Error, Result};

use crate::permutation::Permutation;

/// Positions of the smallest block.
const BLOCK_POSITIONS_MIN: u64 = 1024;
/// The sum of the integer weights.
pub const WEIGHT_SUM: u64 = 1 << 32;

/// The `number`-th draw from a source, counted over all its epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Index of the source.
    pub source: usize,
    /// How many draws from it came before.
    pub number: u64,
}

/// A fixed-weight mixture.
#[derive(Clone, Debug)]
pub struct Mixture {
    seed: u64,
    block: u64,
    /// Prefix sums of the integer weights, from 0 to [`WEIGHT_SUM`].
    prefix: Vec<u64>,
}

impl Mixture {
    /// A mixture of named weights, relative to each other.
    ///
    /// # Errors
    /// `Invalid` without sources, with a weight that is negative or not finite, or where all are zero.
    pub fn new(seed: u64, weights: &[(&str, f64)]) -> Result<Self> {
        let units = integer_weights(weights)?;
        let smallest = units.iter().copied().filter(|&unit| unit > 0).min().unwrap_or(WEIGHT_SUM);
        let block = WEIGHT_SUM.div_ceil(smallest).next_power_of_two().max(BLOCK_POSITIONS_MIN);
        let mut prefix = vec![0];
        for unit in units {
            prefix.push(prefix.last().copied().unwrap_or(0) + unit);
        }
        Ok(Self { seed, block, prefix })
    }

    /// Positions of a block.
    pub const fn block_positions(&self) -> u64 {
        self.block
    }

    /// The integer weight of a source, of [`WEIGHT_SUM`].
    pub fn weight(&self, source: usize) -> u64 {
        self.prefix[source + 1] - self.prefix[source]
    }

    /// What a position draws.
    pub fn draw(&self, position: u64) -> Draw {
        let (block, place) = (position / self.block, position % self.block);
        let slot = self.dealing(block).map_or(place, |dealing| dealing.apply(place));
        let source =
            (0..self.num_sources()).find(|&source| slot < self.slots_until(block, source)).unwrap_or(0);
        let first_slot = self.slots_until_before(block, source);
        Draw { source, number: self.count(source, block * self.block) + (slot - first_slot) }
    }

    /// The position of a draw; `None` where the source is never drawn or the position does not fit 64 bits.
    pub fn position(&self, draw: Draw) -> Option<u64> {
        let weight = self.weight(draw.source);
        if weight == 0 {
            return None;
        }
        // count(n) > n·w/W − 1, so by this border more than `number` have been drawn.
        let border = (u128::from(draw.number) + 2) * u128::from(WEIGHT_SUM) / u128::from(weight);
        let (mut low, mut high) = (0, u64::try_from(border / u128::from(self.block) + 1).ok()?);
        high.checked_mul(self.block)?;
        while low < high {
            let middle = low + (high - low) / 2;
            if self.count(draw.source, (middle + 1) * self.block) > draw.number {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let first_slot = self.slots_until_before(low, draw.source);
        let slot = first_slot + (draw.number - self.count(draw.source, low * self.block));
        let place = self.dealing(low).map_or(slot, |dealing| dealing.invert(slot));
        Some(low * self.block + place)
    }

    /// How often each source was drawn by positions `0..position`; costs at most one block.
    pub fn cursor(&self, position: u64) -> Vec<u64> {
        let border = position / self.block * self.block;
        let mut counts: Vec<u64> = (0..self.num_sources()).map(|source| self.count(source, border)).collect();
        for position in border..position {
            counts[self.draw(position).source] += 1;
        }
        counts
    }

    fn num_sources(&self) -> usize {
        self.prefix.len() - 1
    }

    /// Draws from sources `0..=source` among the first `border` positions.
    fn drawn_until(&self, source: usize, border: u64) -> u64 {
        (u128::from(border) * u128::from(self.prefix[source + 1]) / u128::from(WEIGHT_SUM)) as u64
    }

    /// Draws from `source` among the first `border` positions.
    fn count(&self, source: usize, border: u64) -> u64 {
        let before = if source == 0 { 0 } else { self.drawn_until(source - 1, border) };
        self.drawn_until(source, border) - before
    }

    /// Slots of a block that belong to sources `0..=source`.
    fn slots_until(&self, block: u64, source: usize) -> u64 {
        self.drawn_until(source, (block + 1) * self.block) - self.drawn_until(source, block * self.block)
    }

    fn slots_until_before(&self, block: u64, source: usize) -> u64 {
        if source == 0 { 0 } else { self.slots_until(block, source - 1) }
    }

    /// The bijection of a block's places to slots; with one source there is nothing to deal.
    fn dealing(&self, block: u64) -> Option<Permutation> {
        if self.num_sources() == 1 {
            return None;
        }
        let parts: [&[u8]; 3] = [b"eagleray mixture 1", &self.seed.to_le_bytes(), &block.to_le_bytes()];
        Some(Permutation::new(self.block, &Digest::of_parts(&parts)))
    }
}

/// Weights as integers with sum [`WEIGHT_SUM`], by largest remainder; none that is positive becomes zero.
fn integer_weights(weights: &[(&str, f64)]) -> Result<Vec<u64>> {
    if let Some((name, weight)) = weights.iter().find(|(_, weight)| !(weight.is_finite() && *weight >= 0.0)) {
        return Err(Error::invalid(format!(
            "source `{name}` has weight {weight}: expected a finite number, 0 or more"
        )));
    }
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    if !(total.is_finite() && total > 0.0) {
        return Err(Error::invalid(format!("the weights of {} sources sum to {total}", weights.len()))
            .with_hint("give at least one source a weight above 0"));
    }
    let exact: Vec<f64> = weights.iter().map(|(_, weight)| weight / total * WEIGHT_SUM as f64).collect();
    let mut units: Vec<u64> =
        exact.iter().map(|&share| if share > 0.0 { (share as u64).max(1) } else { 0 }).collect();
    let mut by_remainder: Vec<usize> = (0..units.len()).filter(|&i| units[i] > 0).collect();
    by_remainder.sort_by(|&a, &b| (exact[b] - exact[b].floor()).total_cmp(&(exact[a] - exact[a].floor())));
    let sum: u64 = units.iter().sum();
    if sum <= WEIGHT_SUM {
        for turn in 0..(WEIGHT_SUM - sum) as usize {
            units[by_remainder[turn % by_remainder.len()]] += 1;
        }
    } else {
        // Tiny weights were raised to one unit: the largest pays for them.
        let largest = (0..units.len()).max_by_key(|&i| units[i]).unwrap_or(0);
        units[largest] -= sum - WEIGHT_SUM;
    }
    Ok(units)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mixture(weights: &[f64]) -> Mixture {
        let named: Vec<_> = weights.iter().map(|&weight| ("s", weight)).collect();
        Mixture::new(17, &named).unwrap()
    }

    #[test]
    fn counts_stay_within_one_of_the_weights_at_every_border() {
        let weights = [0.6, 0.25, 0.1, 0.05, 0.0];
        let mixture = mixture(&weights);
        for block in (0..200).chain([1 << 20, 1 << 40]) {
            let border = block * mixture.block_positions();
            let counts = mixture.cursor(border);
            assert_eq!(counts.iter().sum::<u64>(), border);
            for (count, weight) in counts.iter().zip(weights) {
                let ideal = border as f64 * weight;
                assert!((*count as f64 - ideal).abs() <= 1.0 + ideal * 1e-9, "{count} of {ideal}");
            }
        }
    }

    #[test]
    fn a_block_deals_every_source_its_share_and_mixes_them() {
        let mixture = mixture(&[0.5, 0.5]);
        let sources: Vec<usize> = (0..1024).map(|position| mixture.draw(position).source).collect();
        assert_eq!(sources.iter().filter(|&&source| source == 0).count(), 512);
        let changes = sources.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!((440..=584).contains(&changes), "{changes} changes of source");
    }

    #[test]
    fn draws_of_a_source_are_numbered_without_gaps() {
        let mixture = mixture(&[0.7, 0.2999, 0.0001]);
        let mut numbers = vec![Vec::new(); 3];
        for position in 0..mixture.block_positions() * 3 {
            let draw = mixture.draw(position);
            numbers[draw.source].push(draw.number);
        }
        for mut drawn in numbers {
            drawn.sort_unstable();
            assert!(drawn.iter().enumerate().all(|(i, &number)| number == i as u64));
        }
    }

    #[test]
    fn weights_that_are_none_are_refused() {
        for weights in
            [&[][..], &[("a", 0.0)], &[("a", f64::NAN)], &[("a", -1.0), ("b", 2.0)], &[("a", f64::INFINITY)]]
        {
            assert!(Mixture::new(0, weights).is_err(), "{weights:?}");
        }
    }

    proptest! {
        #[test]
        fn a_draw_leads_back_to_its_position(
            weights in prop::collection::vec(0.0_f64..1.0, 1..6), position in 0_u64..(1 << 50),
        ) {
            prop_assume!(weights.iter().sum::<f64>() > 0.01);
            let mixture = mixture(&weights);
            prop_assert_eq!(mixture.position(mixture.draw(position)), Some(position));
        }

        #[test]
        fn integer_weights_always_have_the_same_sum(weights in prop::collection::vec(0.0_f64..1e6, 1..50)) {
            prop_assume!(weights.iter().sum::<f64>() > 0.0);
            let named: Vec<_> = weights.iter().map(|&weight| ("s", weight)).collect();
            let units = integer_weights(&named).unwrap();
            prop_assert_eq!(units.iter().sum::<u64>(), WEIGHT_SUM);
            for (unit, weight) in units.iter().zip(&weights) {
                prop_assert_eq!(*unit > 0, *weight > 0.0);
            }
        }
    }
}
