//! How to train.

use std::borrow::Cow;
use std::fmt;

use eagleray_base::Error;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::anomalies::Anomalies;
use super::values::Location;

/// How to train.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// How the model is laid over the workers: `auto`, `ddp`, `fsdp2`, `zero1`, `zero2`, `zero3`, or a mesh of `pp`, `dp_replicate`, `dp_shard`, `cp`, `tp`.
    #[serde(default)]
    pub strategy: Strategy,
    /// The samples of a step, whatever the number of workers; required with `data`.
    #[serde(default)]
    pub global_batch: Option<u32>,
    /// The samples a worker takes through the model at once.
    #[serde(default = "micro_batch")]
    pub micro_batch: u32,
    /// The steps of the run; required without `script`.
    #[serde(default)]
    pub steps: Option<u64>,
    /// How gradients become updates.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// How the learning rate moves.
    #[serde(default)]
    pub schedule: Schedule,
    /// The precision of the computation; parameters and moments stay fp32.
    #[serde(default)]
    pub precision: Precision,
    /// What of the forward pass is computed again in the backward pass instead of kept (activation checkpointing).
    #[serde(default)]
    pub recompute: Recompute,
    /// How the stages of a pipeline take turns.
    #[serde(default)]
    pub pipeline: Pipeline,
    /// Whether `torch.compile` makes each layer's kernels.
    #[serde(default)]
    pub compile: bool,
    /// Whether parameters, gradients and moments lie on the host while nothing computes with them.
    #[serde(default)]
    pub offload: Offload,
    /// The norm that gradients are scaled down to; `null` leaves them as they are.
    #[serde(default = "clip_grad_norm")]
    pub clip_grad_norm: Option<f64>,
    /// What follows from a step whose loss jumps, or is no number.
    #[serde(default)]
    pub anomalies: Anomalies,
    /// How many failures in a row, without a step further in between, the run survives; lost nodes of a run that gets on cost nothing.
    #[serde(default = "max_failures")]
    pub max_failures: u32,
    /// What stands over the generated configuration of `DeepSpeed` under `zero1`, `zero2` and `zero3`: how it gathers and reduces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deepspeed: Option<serde_json::Map<String, serde_json::Value>>,
    /// Your own script, started on every worker.
    #[serde(default)]
    pub script: Option<Script>,
    /// Your own `package.module:function`, called on every worker with the context.
    #[serde(default)]
    pub function: Option<String>,
}

fn micro_batch() -> u32 {
    1
}

#[allow(clippy::unnecessary_wraps, reason = "serde wants the field's own type")]
fn clip_grad_norm() -> Option<f64> {
    Some(1.0)
}

fn max_failures() -> u32 {
    3
}

/// How the model is laid over the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// By name.
    Named(NamedStrategy),
    /// By the axes of a mesh.
    Mesh(Mesh),
}

impl Strategy {
    /// The stage of `ZeRO`, where it is one.
    pub const fn zero_stage(self) -> Option<u8> {
        match self {
            Self::Named(NamedStrategy::Zero1) => Some(1),
            Self::Named(NamedStrategy::Zero2) => Some(2),
            Self::Named(NamedStrategy::Zero3) => Some(3),
            Self::Named(NamedStrategy::Auto | NamedStrategy::Ddp | NamedStrategy::Fsdp2) | Self::Mesh(_) => {
                None
            }
        }
    }
}

impl std::str::FromStr for Strategy {
    type Err = Error;

    /// As a spec writes it: a name, or a mesh such as `{dp_shard: 8, tp: 4}`.
    fn from_str(text: &str) -> Result<Self, Error> {
        serde_saphyr::from_str(text).map_err(|_| {
            Error::invalid(format!("`{text}` is not a strategy")).with_hint(
                "write `ddp`, `fsdp2`, `zero1`, `zero2`, `zero3`, or a mesh of `pp`, `dp_replicate`, `dp_shard`, `cp`, `tp` such as `{dp_shard: 8, tp: 4}`",
            )
        })
    }
}

impl Default for Strategy {
    fn default() -> Self {
        Self::Named(NamedStrategy::Auto)
    }
}

/// A strategy by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NamedStrategy {
    /// The simplest that fits the accelerators; without known ones `ddp` for small models, else `fsdp2`.
    Auto,
    /// Every worker holds the whole model.
    Ddp,
    /// Parameters, gradients and moments are sharded over the workers.
    Fsdp2,
    /// Moments are sharded over the workers, by `DeepSpeed`.
    Zero1,
    /// Gradients and moments are sharded over the workers, by `DeepSpeed`.
    Zero2,
    /// `DeepSpeed`'s form of `fsdp2`.
    Zero3,
}

impl NamedStrategy {
    /// The name as written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ddp => "ddp",
            Self::Fsdp2 => "fsdp2",
            Self::Zero1 => "zero1",
            Self::Zero2 => "zero2",
            Self::Zero3 => "zero3",
        }
    }
}

/// The axes of a mesh; their product is the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mesh {
    /// Pipeline stages.
    pub pp: u32,
    /// Replicas of the data.
    pub dp_replicate: u32,
    /// Shards of the parameters, each with its own data.
    pub dp_shard: u32,
    /// Parts of a sequence.
    pub cp: u32,
    /// Parts of a tensor.
    pub tp: u32,
}

impl Default for Mesh {
    fn default() -> Self {
        Self { pp: 1, dp_replicate: 1, dp_shard: 1, cp: 1, tp: 1 }
    }
}

impl Mesh {
    /// The axes by name, outermost first.
    pub const fn axes(&self) -> [(&'static str, u32); 5] {
        [
            ("pp", self.pp),
            ("dp_replicate", self.dp_replicate),
            ("dp_shard", self.dp_shard),
            ("cp", self.cp),
            ("tp", self.tp),
        ]
    }

    /// The workers of one mesh.
    pub fn size(&self) -> u64 {
        self.axes().iter().fold(1, |size, (_, axis)| u64::from(*axis).saturating_mul(size))
    }
}

impl<'de> Deserialize<'de> for Strategy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Strategy;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`auto`, `ddp`, `fsdp2`, `zero1`, `zero2`, `zero3`, or a mesh such as `{dp_shard: 8, tp: 4}`")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Strategy, E> {
                NamedStrategy::deserialize(de::value::StrDeserializer::new(name)).map(Strategy::Named)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Strategy, A::Error> {
                Mesh::deserialize(de::value::MapAccessDeserializer::new(map)).map(Strategy::Mesh)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for Strategy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Named(name) => name.serialize(serializer),
            Self::Mesh(mesh) => mesh.serialize(serializer),
        }
    }
}

impl JsonSchema for Strategy {
    fn schema_name() -> Cow<'static, str> {
        "Strategy".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (named, mesh) = (generator.subschema_for::<NamedStrategy>(), generator.subschema_for::<Mesh>());
        json_schema!({"description": "A strategy by name, or the axes of a mesh.", "anyOf": [named, mesh]})
    }
}

/// How gradients become updates.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::AdamW(AdamW::default())
    }
}

/// Adam with decoupled weight decay.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// The highest learning rate.
    pub lr: f64,
    /// The decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// What is added to the root of the second moment.
    pub eps: f64,
    /// The decay of weights; norms and biases have none.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { lr: 3e-4, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 }
    }
}

/// How the learning rate moves.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Up in a line, down along a cosine until the last step.
    Cosine(Cosine),
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Cosine(Cosine::default())
    }
}

/// Up in a line, down along a cosine until the last step.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cosine {
    /// The steps until the highest learning rate.
    pub warmup_steps: u64,
    /// The last learning rate, as a share of the highest.
    pub final_lr_ratio: f64,
}

impl Default for Cosine {
    fn default() -> Self {
        Self { warmup_steps: 0, final_lr_ratio: 0.1 }
    }
}

/// The precision of the computation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits throughout.
    Fp32,
    /// Products in bfloat16.
    #[default]
    Bf16,
}

/// What of the forward pass is computed again in the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing: everything that a gradient needs is kept.
    #[default]
    None,
    /// All but attention and every second matrix product.
    Selective,
    /// Whole layers: only the input of each is kept.
    Full,
}

impl Recompute {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::None, Self::Selective, Self::Full];

    /// The name as written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Selective => "selective",
            Self::Full => "full",
        }
    }
}

/// How the stages of a pipeline take turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Pipeline {
    /// One micro batch forward, one backward: a stage holds as many as there are stages after it.
    #[default]
    #[serde(rename = "1f1b")]
    OneForwardOneBackward,
    /// All forward, then all backward: a stage holds every micro batch of the step.
    #[serde(rename = "gpipe")]
    Gpipe,
    /// As `1f1b`, where each worker has two stages that lie apart: less idle time, more micro batches held.
    #[serde(rename = "interleaved")]
    Interleaved,
}

impl Pipeline {
    /// All of them, the usual one first.
    pub const ALL: [Self; 3] = [Self::OneForwardOneBackward, Self::Gpipe, Self::Interleaved];

    /// The name as written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneForwardOneBackward => "1f1b",
            Self::Gpipe => "gpipe",
            Self::Interleaved => "interleaved",
        }
    }

    /// The stages of each worker along `pp`.
    pub const fn stages_per_worker(self) -> u32 {
        match self {
            Self::OneForwardOneBackward | Self::Gpipe => 1,
            Self::Interleaved => 2,
        }
    }
}

/// Where parameters, gradients and moments lie while nothing computes with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// On the accelerator.
    #[default]
    None,
    /// In the host's memory, where the optimizer's step is computed too.
    Cpu,
}

impl Offload {
    /// Whether all stays on the accelerator.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Your own script.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The file.
    pub path: Location,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// What starts it.
    #[serde(default)]
    pub launcher: Launcher,
    /// The configuration of Accelerate.
    #[serde(default)]
    pub accelerate_config: Option<Location>,
}

/// What starts a script.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Launcher {
    /// Python alone.
    #[default]
    Python,
    /// As Accelerate would.
    Accelerate,
}
