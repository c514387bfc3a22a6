//! The form of ledger events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One line of the ledger. Which fields are there depends on `kind`; those without a name here are in `other`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When it was written, seconds since the Unix epoch.
    pub t: f64,
    /// `span`, `step`, `validation`, `checkpoint`, `generation`, `failure`, `anomaly`, `attempt_start` or `attempt_end`.
    pub kind: String,
    /// The attempt.
    #[serde(default)]
    pub attempt: u32,
    /// Who measured it; `None` for the whole world.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// Which worker group of the attempt, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
    /// Steps done, after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a second can be spent on, in the order in which a report shows it.
pub const CAUSES: [&str; 11] = [
    "compute",
    "data_wait",
    "checkpoint_stall",
    "validation",
    "setup",
    "load",
    "recompute",
    "detection",
    "reform",
    "idle",
    UNATTRIBUTED,
];
/// What no span covers.
pub const UNATTRIBUTED: &str = "unattributed";

impl Event {
    /// A number among the other fields.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.other.get(name).and_then(Value::as_f64)
    }

    /// A text among the other fields.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.other.get(name).and_then(Value::as_str)
    }

    /// Whether this step had been done before, by an attempt or worker group whose work was lost.
    pub fn is_recompute(&self) -> bool {
        self.other.get("recompute").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Start, end, and seconds by cause in between; `None` for events that take no time.
    pub fn seconds(&self) -> Option<(f64, f64, BTreeMap<&'static str, f64>)> {
        let (start, end) = (self.start?, self.end?);
        if !(start.is_finite() && end.is_finite() && end >= start) {
            return None;
        }
        let mut seconds = BTreeMap::new();
        match self.kind.as_str() {
            "span" => {
                let cause = self.text("cause").unwrap_or_default();
                // A cause that this version does not know is not hidden among those it does.
                let known = CAUSES.iter().find(|known| **known == cause).copied().unwrap_or(UNATTRIBUTED);
                seconds.insert(known, end - start);
            }
            "step" => {
                let useful = if self.is_recompute() { "recompute" } else { "compute" };
                for (field, cause) in [
                    ("data_wait", "data_wait"),
                    ("compute", useful),
                    ("checkpoint_stall", "checkpoint_stall"),
                ] {
                    *seconds.entry(cause).or_insert(0.0) += self.number(field).unwrap_or(0.0).max(0.0);
                }
            }
            _ => return None,
        }
        Some((start, end, seconds))
    }
}
