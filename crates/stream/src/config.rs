//! What a stream is told: one JSON object, handed over from Python.

use eagleray_base::{Error, Result};
use serde::{Deserialize, Serialize};

/// Prefetched bytes of batches, where nothing else is said.
pub const PREFETCH_BYTES_DEFAULT: u64 = 64 << 20;

/// A source of the mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Its name in the run spec.
    pub name: String,
    /// The folder of its token dataset.
    pub url: String,
    /// Its share of the tokens, relative to the others'.
    pub weight: f64,
}

/// A rank's stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// The mixture.
    pub sources: Vec<SourceConfig>,
    /// Tokens of a sample.
    pub sequence_length: u64,
    /// The run's seed.
    pub seed: u64,
    /// Samples of a step, over all ranks.
    #[serde(default = "one")]
    pub global_batch: u64,
    /// Samples of a batch that `next` returns, at most.
    #[serde(default = "one")]
    pub micro_batch: u64,
    /// This rank.
    #[serde(default)]
    pub rank: u64,
    /// Ranks in all.
    #[serde(default = "one")]
    pub world: u64,
    /// The first position; a step begins here.
    #[serde(default)]
    pub position: u64,
    /// The position to end before; without it the stream goes on through epoch after epoch.
    #[serde(default)]
    pub end_position: Option<u64>,
    /// Bytes of batches to read ahead.
    #[serde(default = "prefetch_bytes_default")]
    pub prefetch_bytes: u64,
    /// A state to go on from, instead of `position`.
    #[serde(default)]
    pub state: Option<serde_json::Value>,
}

impl StreamConfig {
    /// Parses and checks a configuration.
    ///
    /// # Errors
    /// `Invalid` naming what is missing, unknown or out of range.
    pub fn from_json(json: &str) -> Result<Self> {
        let config: Self = serde_json::from_str(json)
            .map_err(|error| Error::invalid(format!("not the configuration of a stream: {error}")))?;
        config.check()?;
        Ok(config)
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// `Invalid` naming what is out of range.
    pub fn check(&self) -> Result<()> {
        let positive = [
            ("sequence_length", self.sequence_length),
            ("global_batch", self.global_batch),
            ("micro_batch", self.micro_batch),
            ("world", self.world),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::invalid(format!("`{name}` is 0: expected at least 1")));
        }
        if self.rank >= self.world {
            return Err(Error::invalid(format!("rank {} in a world of {}", self.rank, self.world)));
        }
        let end = self.end_position.unwrap_or(0);
        if self.position.max(end) >= eagleray_order::POSITION_MAX {
            return Err(Error::invalid(format!("position {} is out of range", self.position.max(end))));
        }
        Ok(())
    }
}

const fn one() -> u64 {
    1
}

const fn prefetch_bytes_default() -> u64 {
    PREFETCH_BYTES_DEFAULT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_or_unknown_is_named() {
        let base = r#"{"sources":[],"sequence_length":8,"seed":1"#;
        let error = |rest: &str| StreamConfig::from_json(&format!("{base}{rest}}}")).unwrap_err().to_string();
        assert!(StreamConfig::from_json(&format!("{base}}}")).is_ok());
        assert!(error(r#","world":2,"rank":2"#).contains("rank 2 in a world of 2"));
        assert!(error(r#","micro_batch":0"#).contains("`micro_batch` is 0"));
        assert!(error(r#","prefech_bytes":1"#).contains("prefech_bytes"));
        assert!(error(r#","position":9223372036854775807"#).contains("out of range"));
    }
}
