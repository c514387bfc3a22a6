//! Position to sample: a pure function of seed, datasets and weights.
//!
//! A run's only cursor is its *position*, the index of a sample in the whole run. [`Order::sample`] says in
//! constant time which sample of which source stands there, and [`Order::position`] where a given sample
//! stands. Nothing is built, loaded or broadcast at start-up, so a resume costs the same at position 0 and
//! 10¹², for 10⁶ and 10¹⁰ samples; world size, ranks and batch size do not appear.
//!
//! Why not a shuffled list of indices, as most loaders keep: at 10⁹ samples it takes minutes and gigabytes
//! on every rank at every start. Why not an affine map or a linear congruence: their low bits are not random
//! (the tests here show what that means and hold the bar).
//!
//! ```
//! use eagleray_base::Digest;
//! use eagleray_order::{Order, OrderSpec, SourceSpec};
//!
//! let source = |name: &str, num_samples, weight| SourceSpec {
//!     name: name.to_owned(), dataset_hash: Digest::of(name.as_bytes()), num_samples, weight,
//! };
//! let order = Order::new(OrderSpec {
//!     seed: 17,
//!     sequence_length: 2048,
//!     packing: "concat".to_owned(),
//!     sources: vec![source("web", 1_000_000, 0.9), source("code", 1_000, 0.1)],
//! })?;
//! let sample = order.sample(1_000_000_000_000);
//! assert_eq!(order.position(sample.source, sample.epoch, sample.index), Some(1_000_000_000_000));
//! # Ok::<(), eagleray_base::Error>(())
//! ```
//!
//! Map: [`permutation`] the keyed bijection within a source · [`mixture`] how positions are shared between
//! sources · [`digest`] what every step is checked by · [`state`] what a resume needs.

pub mod digest;
pub mod mixture;
pub mod permutation;
pub mod state;

use eagleray_base::{Digest, Error, Result};
use serde::{Deserialize, Serialize};

use mixture::{Draw, Mixture};
use permutation::Permutation;

/// Positions are below this, so that no arithmetic here can overflow.
pub const POSITION_MAX: u64 = 1 << 62;

/// One source of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceSpec {
    /// Its name in the run spec.
    pub name: String,
    /// The hash of its token dataset.
    pub dataset_hash: Digest,
    /// Samples an epoch has.
    pub num_samples: u64,
    /// Its share of the tokens, relative to the others'.
    pub weight: f64,
}

/// Everything that the order of a run depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrderSpec {
    /// The run's seed.
    pub seed: u64,
    /// Tokens of a sample.
    pub sequence_length: u64,
    /// How samples were cut: `concat`.
    pub packing: String,
    /// The sources; their listing order does not matter.
    pub sources: Vec<SourceSpec>,
}

/// What stands at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Index into [`Order::sources`].
    pub source: usize,
    /// How often the source has been gone through before.
    pub epoch: u64,
    /// The sample's index in its dataset.
    pub index: u64,
}

/// The order of one run.
#[derive(Clone, Debug)]
pub struct Order {
    spec: OrderSpec,
    keys: Vec<u64>,
    mixture: Mixture,
}

impl Order {
    /// Checks a specification and makes its order.
    ///
    /// # Errors
    /// `Invalid` without sources, with two of one name, with weights that are no weights, or with a source
    /// that is too short for one sample.
    pub fn new(mut spec: OrderSpec) -> Result<Self> {
        spec.sources.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = spec.sources.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::invalid(format!("two sources are named `{}`", pair[0].name)));
        }
        if let Some(short) = spec.sources.iter().find(|source| source.num_samples == 0) {
            let message = format!(
                "source `{}` is too short: it does not hold one sample of {} tokens and its labels",
                short.name, spec.sequence_length
            );
            return Err(Error::invalid(message)
                .with_hint("lower `data.sequence_length`, or give the source more text"));
        }
        let weights: Vec<_> =
            spec.sources.iter().map(|source| (source.name.as_str(), source.weight)).collect();
        let mixture = Mixture::new(spec.seed, &weights)?;
        let keys = spec.sources.iter().map(|source| digest::source_key(&source.name)).collect();
        Ok(Self { spec, keys, mixture })
    }

    /// The sources, sorted by name.
    pub fn sources(&self) -> &[SourceSpec] {
        &self.spec.sources
    }

    /// The specification, its sources sorted by name.
    pub const fn spec(&self) -> &OrderSpec {
        &self.spec
    }

    /// The key of a source in digests.
    pub fn source_key(&self, source: usize) -> u64 {
        self.keys[source]
    }

    /// Samples of one epoch of all sources.
    pub fn num_samples(&self) -> u64 {
        self.spec.sources.iter().map(|source| source.num_samples).sum()
    }

    /// The sample at a position.
    ///
    /// # Panics
    /// Where `position` is not below [`POSITION_MAX`].
    pub fn sample(&self, position: u64) -> Sample {
        assert!(position < POSITION_MAX, "position {position} is out of range");
        let Draw { source, number } = self.mixture.draw(position);
        let num_samples = self.spec.sources[source].num_samples;
        let (epoch, rank) = (number / num_samples, number % num_samples);
        Sample { source, epoch, index: self.permutation(source, epoch).apply(rank) }
    }

    /// The position at which a sample stands, where that is below [`POSITION_MAX`].
    pub fn position(&self, source: usize, epoch: u64, index: u64) -> Option<u64> {
        let num_samples = self.spec.sources.get(source)?.num_samples;
        if index >= num_samples {
            return None;
        }
        let rank = self.permutation(source, epoch).invert(index);
        let number = epoch.checked_mul(num_samples)?.checked_add(rank)?;
        self.mixture.position(Draw { source, number }).filter(|&position| position < POSITION_MAX)
    }

    /// How many samples of each source positions `0..position` hold.
    pub fn cursor(&self, position: u64) -> Vec<u64> {
        self.mixture.cursor(position)
    }

    /// The order digest of positions `from..to`: the wrapping sum of their samples' digests.
    pub fn order_digest(&self, from: u64, to: u64) -> u64 {
        (from..to).fold(0, |sum: u64, position| {
            let sample = self.sample(position);
            sum.wrapping_add(digest::order_digest(
                position,
                self.keys[sample.source],
                sample.epoch,
                sample.index,
            ))
        })
    }

    fn permutation(&self, source: usize, epoch: u64) -> Permutation {
        let source = &self.spec.sources[source];
        let key = Digest::of_parts(&[
            b"eagleray order 1",
            &self.spec.seed.to_le_bytes(),
            source.dataset_hash.as_bytes(),
            self.spec.packing.as_bytes(),
            &self.spec.sequence_length.to_le_bytes(),
            &epoch.to_le_bytes(),
            source.name.as_bytes(),
        ]);
        Permutation::new(source.num_samples, &key)
    }
}

#[cfg(test)]
mod tests;
