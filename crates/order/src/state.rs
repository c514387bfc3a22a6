//! What a resume needs: the position, and enough to refuse data it does not belong to.

use std::collections::BTreeMap;

use eagleray_base::{Digest, Error, Result, limits};
use serde::{Deserialize, Serialize};

use crate::mixture::WEIGHT_SUM;
use crate::{Order, POSITION_MAX, SourceSpec};

const FORMAT: &str = "eagleray.order";
const VERSION: u32 = 1;
/// Hexadecimal digits of a dataset hash that the state shows for people; the fingerprint decides.
const SHOWN_DIGITS: usize = 16;
/// Sources that are listed by name; more are covered by the fingerprint alone, to stay below 4 KB.
const SOURCES_LISTED_MAX: usize = 16;

/// What the state shows of a source; the fingerprint covers the whole hash and every source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShownSource {
    /// The first digits of its dataset hash.
    dataset: String,
    /// Samples an epoch has.
    samples: u64,
    /// Its integer weight, of 2³².
    weight: u64,
}

/// A stretch of positions with one mixture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// The first position.
    pub from_position: u64,
}

/// The state of an order as it is stored in checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: String,
    format_version: u32,
    /// The next position.
    pub position: u64,
    seed: u64,
    sequence_length: u64,
    packing: String,
    /// Digest of everything that the order depends on.
    fingerprint: Digest,
    /// The first sources by name.
    sources: BTreeMap<String, ShownSource>,
    /// The phase log; this version knows one phase.
    phases: Vec<Phase>,
    /// Ranges of positions left out after loss spikes; none in this version.
    skips: Vec<[u64; 2]>,
    /// Samples replaced because they cannot be read; none in this version.
    quarantine: Vec<[u64; 3]>,
}

impl Order {
    /// The state at a position.
    pub fn state(&self, position: u64) -> State {
        let spec = self.spec();
        let shown = |(number, source): (usize, &SourceSpec)| {
            let dataset = source.dataset_hash.to_string()[..SHOWN_DIGITS].to_owned();
            let weight = self.mixture.weight(number);
            (short_name(&source.name), ShownSource { dataset, samples: source.num_samples, weight })
        };
        let listed = spec.sources.iter().enumerate().take(SOURCES_LISTED_MAX);
        State {
            format: FORMAT.to_owned(),
            format_version: VERSION,
            position,
            seed: spec.seed,
            sequence_length: spec.sequence_length,
            packing: spec.packing.clone(),
            fingerprint: self.fingerprint(),
            sources: listed.map(shown).collect(),
            phases: vec![Phase { from_position: 0 }],
            skips: Vec::new(),
            quarantine: Vec::new(),
        }
    }

    /// The digest of everything that the order depends on.
    pub fn fingerprint(&self) -> Digest {
        let spec = self.spec();
        let mut parts: Vec<Vec<u8>> = vec![
            FORMAT.into(),
            VERSION.to_le_bytes().into(),
            spec.seed.to_le_bytes().into(),
            spec.sequence_length.to_le_bytes().into(),
            spec.packing.as_bytes().into(),
        ];
        for (number, source) in spec.sources.iter().enumerate() {
            parts.push(source.name.as_bytes().into());
            parts.push(source.dataset_hash.as_bytes().into());
            parts.push(source.num_samples.to_le_bytes().into());
            parts.push(self.mixture.weight(number).to_le_bytes().into());
        }
        Digest::of_parts(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// Checks that a state belongs to this order and returns its position.
    ///
    /// # Errors
    /// `Invalid` where the state is of another order, saying what differs, or of a newer version.
    pub fn restore(&self, json: &str) -> Result<u64> {
        let version: Version = serde_json::from_str(json).map_err(|error| not_a_state(&error))?;
        if version.format != FORMAT || version.format_version != VERSION {
            let found = format!("`{}` version {}", version.format, version.format_version);
            return Err(Error::invalid(format!(
                "the state is {found}: expected `{FORMAT}` version {VERSION}"
            ))
            .with_hint("resume with the version of eagleray that wrote it, or a newer one"));
        }
        let state: State = serde_json::from_str(json).map_err(|error| not_a_state(&error))?;
        let expected = self.state(state.position);
        if state == expected && state.position < POSITION_MAX {
            return Ok(state.position);
        }
        Err(Error::invalid(format!("the state is of another data order: {}", differences(&expected, &state)))
            .with_hint("restore the spec it was made with, or start a new run in another `store`"))
    }
}

#[derive(Deserialize)]
struct Version {
    format: String,
    format_version: u32,
}

impl State {
    /// The stored form, below 4 KB.
    ///
    /// # Errors
    /// `Internal` where it grew past the limit.
    pub fn to_json(&self) -> Result<String> {
        let json = serde_json::to_string(self).map_err(|error| Error::internal(error.to_string()))?;
        if json.len() > limits::STATE_BYTES_MAX {
            return Err(Error::internal(format!("the order's state has {} bytes", json.len())));
        }
        Ok(json)
    }
}

fn short_name(name: &str) -> String {
    name.chars().take(40).collect()
}

fn not_a_state(error: &serde_json::Error) -> Error {
    Error::invalid(format!("not the state of an order: {error}"))
}

fn differences(expected: &State, found: &State) -> String {
    let mut parts = Vec::new();
    let mut compare = |name: &str, expected: String, found: String| {
        if expected != found {
            parts.push(format!("`{name}`: expected {expected}, found {found}"));
        }
    };
    compare("seed", expected.seed.to_string(), found.seed.to_string());
    compare("sequence_length", expected.sequence_length.to_string(), found.sequence_length.to_string());
    compare("packing", expected.packing.clone(), found.packing.clone());
    for name in expected
        .sources
        .keys()
        .chain(found.sources.keys().filter(|&name| !expected.sources.contains_key(name)))
    {
        compare(
            &format!("sources.{name}"),
            shown(expected.sources.get(name)),
            shown(found.sources.get(name)),
        );
    }
    compare("phases", format!("{:?}", expected.phases), format!("{:?}", found.phases));
    compare("skips", format!("{:?}", expected.skips), format!("{:?}", found.skips));
    compare("quarantine", format!("{:?}", expected.quarantine), format!("{:?}", found.quarantine));
    if parts.is_empty() {
        parts.push(format!("`fingerprint`: expected {}, found {}", expected.fingerprint, found.fingerprint));
    }
    parts.join("; ")
}

fn shown(source: Option<&ShownSource>) -> String {
    source.map_or("none".to_owned(), |ShownSource { dataset, samples, weight }| {
        format!(
            "dataset {dataset}… of {samples} samples and weight {:.6}",
            *weight as f64 / WEIGHT_SUM as f64
        )
    })
}
