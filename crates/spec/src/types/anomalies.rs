//! What follows from a step whose loss jumps, or is no number.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What follows from a step whose loss jumps, or is no number.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Anomalies {
    /// What follows from a loss or a gradient that is not finite: `stop`, `skip` (go on without the update) or `rollback` (to the newest checkpoint, and on with other data).
    pub not_finite: Then,
    /// When a loss counts as a jump; `null`: never.
    pub loss_spike: Option<LossSpike>,
    /// What is left out at a rollback, beyond the data up to the step.
    pub rollback: Rollback,
    /// More anomalies than this stop the run.
    pub limit: Limit,
}

/// What follows from an anomaly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The run ends with an error that names the step and its positions.
    #[default]
    Stop,
    /// The step counts, its update is left out.
    Skip,
    /// The run goes back to its newest checkpoint, and on with the data after the step.
    Rollback,
}

/// When a loss counts as a jump.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LossSpike {
    /// How far above the median of the window: in standard deviations, by the median of differences.
    pub sigmas: f64,
    /// The steps in health that it is compared with; none is judged before there are so many.
    pub window: u32,
    /// What follows.
    pub then: Then,
}

impl Default for LossSpike {
    fn default() -> Self {
        Self { sigmas: 8.0, window: 128, then: Then::Skip }
    }
}

/// What is left out at a rollback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rollback {
    /// Further steps' data to leave out, after that of the step that was the anomaly.
    pub beyond_steps: u64,
}

/// How many anomalies a run goes on after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// So many …
    pub count: u32,
    /// … within so many steps.
    pub steps: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self { count: 5, steps: 1000 }
    }
}
