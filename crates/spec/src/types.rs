//! The run spec, version 1, as people write it.
//!
//! The doc comment of each field is its line in `check --show-defaults` and in the JSON schema, and
//! its default here is the only one.

pub mod anomalies;
pub mod cluster;
pub mod data;
pub mod metrics;
pub mod model;
pub mod train;
pub mod values;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use anomalies::{Anomalies, Limit, LossSpike, Rollback, Then};
pub use cluster::{
    Capacity, Cluster, Cpu, Eks, EnvFrom, Group, Karpenter, KubeRay, Redis, ServiceAccount, Volume,
};
pub use data::{BadRecords, Data, Filter, Format, LongDocuments, Order, Packing, Text, Validation};
pub use metrics::{Metrics, Mlflow, Prometheus, Wandb, WandbMode};
pub use model::{LlamaConfig, Lora, Model};
pub use train::{
    AdamW, Cosine, Mesh, NamedStrategy, Offload, Optimizer, Pipeline, Precision, Recompute, Schedule, Script,
    Strategy, Train,
};
pub use values::{Count, Every, Location, Named, OneOrMany};

/// The only version of the spec.
pub const VERSION: u32 = 1;

/// One run: what to train on, what to train, how, where to keep it, and what to run it on.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// The version of this format: 1.
    pub version: u32,
    /// The name of the run: a DNS label of at most 40 characters.
    pub name: String,
    /// What all randomness of the run starts from.
    #[serde(default)]
    pub seed: u64,
    /// Where everything that the run leaves goes: a folder or `s3://bucket/prefix`; `${NAME}` reads the environment.
    pub store: Location,
    /// What to train on; may be left out with `train.script` or `train.function`.
    #[serde(default)]
    pub data: Option<Data>,
    /// What to train; may be left out with `train.script` or `train.function`.
    #[serde(default)]
    pub model: Option<Model>,
    /// How to train.
    pub train: Train,
    /// When to save, and what to keep.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// Where the figures of each step go, beside the ledger.
    #[serde(default)]
    pub metrics: Metrics,
    /// What to run on.
    #[serde(default)]
    pub cluster: Cluster,
}

/// When to save, and what to keep.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// How often: `auto`, `500 steps`, or a duration such as `10m`.
    pub every: Every,
    /// Which checkpoints outlive newer ones.
    pub keep: Keep,
    /// Whether training goes on while a checkpoint is written.
    pub r#async: bool,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: Every::Auto, keep: Keep::default(), r#async: true }
    }
}

/// Which checkpoints outlive newer ones.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// The newest so many.
    pub last: u32,
    /// And each whose step is a multiple of this, for ever; none where it is left out.
    pub every_steps: Option<u64>,
}

impl Default for Keep {
    fn default() -> Self {
        Self { last: 3, every_steps: None }
    }
}
