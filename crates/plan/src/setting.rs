//! What the memory of a device depends on, beside the model.

use eagleray_base::{Error, Result};
use eagleray_spec::types::train::Mesh;
use eagleray_spec::types::{NamedStrategy, Offload, Pipeline, Precision, Recompute, Strategy};
use serde::{Deserialize, Serialize};

use crate::shape::Shape;

/// What runs a model of which there is no plan of parts.
pub(crate) const WHOLE_ONLY: &str =
    "there are `ddp`, `fsdp2`, `zero3`, and meshes of `dp_replicate` and `dp_shard`";

/// How a model lies on its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Layout {
    /// Every worker holds the whole model.
    Ddp,
    /// Parameters, gradients and moments are sharded over all workers.
    Fsdp2,
    /// Moments and the parameters that they belong to are sharded, by `DeepSpeed`; all compute with whole ones.
    Zero1,
    /// So are gradients.
    Zero2,
    /// `fsdp2` by `DeepSpeed`, which keeps bf16 parameters beside fp32 ones.
    Zero3,
    /// The axes of a mesh; workers beyond its product are further replicas.
    Mesh(Mesh),
}

impl Layout {
    /// The layout of a strategy; `None` for `auto`, which is none yet.
    pub const fn of(strategy: Strategy) -> Option<Self> {
        match strategy {
            Strategy::Named(NamedStrategy::Auto) => None,
            Strategy::Named(NamedStrategy::Ddp) => Some(Self::Ddp),
            Strategy::Named(NamedStrategy::Fsdp2) => Some(Self::Fsdp2),
            Strategy::Named(NamedStrategy::Zero1) => Some(Self::Zero1),
            Strategy::Named(NamedStrategy::Zero2) => Some(Self::Zero2),
            Strategy::Named(NamedStrategy::Zero3) => Some(Self::Zero3),
            Strategy::Mesh(mesh) => Some(Self::Mesh(mesh)),
        }
    }

    /// The strategy, as a spec writes it.
    pub const fn strategy(self) -> Strategy {
        match self {
            Self::Ddp => Strategy::Named(NamedStrategy::Ddp),
            Self::Fsdp2 => Strategy::Named(NamedStrategy::Fsdp2),
            Self::Zero1 => Strategy::Named(NamedStrategy::Zero1),
            Self::Zero2 => Strategy::Named(NamedStrategy::Zero2),
            Self::Zero3 => Strategy::Named(NamedStrategy::Zero3),
            Self::Mesh(mesh) => Strategy::Mesh(mesh),
        }
    }

    /// `fsdp2`, or `{dp_shard: 8, tp: 4}`: the axes that are more than 1.
    pub fn show(self) -> String {
        match self {
            Self::Mesh(mesh) => {
                let axes = mesh.axes().into_iter().filter(|(_, size)| *size != 1);
                let axes: Vec<String> = axes.map(|(axis, size)| format!("{axis}: {size}")).collect();
                format!("{{{}}}", axes.join(", "))
            }
            Self::Ddp => "ddp".into(),
            Self::Fsdp2 => "fsdp2".into(),
            Self::Zero1 => "zero1".into(),
            Self::Zero2 => "zero2".into(),
            Self::Zero3 => "zero3".into(),
        }
    }
}

/// What computes: the kernels differ in what they keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// A GPU: norms are one kernel, so is the optimizer's step.
    #[default]
    Gpu,
    /// The CPU: a norm also keeps its normalised input, the optimizer takes tensor by tensor.
    Cpu,
}

/// What the memory of a device depends on, beside the model.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Setting {
    /// How the model lies on its workers.
    pub layout: Layout,
    /// The workers.
    pub world: u32,
    /// The tokens of a sample.
    pub sequence_length: u32,
    /// The samples that a worker takes through the model at once.
    pub micro_batch: u32,
    /// The samples of a step; a pipeline cannot hold more micro batches than it gets. As many as it holds where
    /// it is left out.
    #[serde(default)]
    pub global_batch: Option<u32>,
    /// The precision of the computation.
    pub precision: Precision,
    /// What is computed again.
    #[serde(default)]
    pub recompute: Recompute,
    /// How the stages of a pipeline take turns.
    #[serde(default)]
    pub pipeline: Pipeline,
    /// Where parameters, gradients and moments lie.
    #[serde(default)]
    pub offload: Offload,
    /// What computes.
    #[serde(default)]
    pub device: Device,
}

/// The numbers behind a layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axes {
    pub(crate) pp: u64,
    pub(crate) cp: u64,
    pub(crate) tp: u64,
    /// The workers that parameters are sharded over; 1 where each holds them whole.
    pub(crate) shards: u64,
    /// The workers that read samples of their own; each of them is `cp` × `tp` × `pp` workers.
    pub(crate) readers: u64,
    /// The micro batches that a pipeline gets in a step.
    pub(crate) micro_batches: u64,
    /// The stages of each rank along `pp`.
    pub(crate) stages: u64,
}

impl Setting {
    /// Refuses what no world can run, with what it nearly was.
    ///
    /// # Errors
    /// `Invalid`, with the nearest legal choices as its hint.
    pub fn check(&self, shape: &Shape) -> Result<()> {
        shape.check()?;
        let sizes = [
            ("world", self.world),
            ("sequence_length", self.sequence_length),
            ("micro_batch", self.micro_batch),
            ("global_batch", self.global_batch.unwrap_or(1)),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(Error::invalid(format!("expected `{name}` of 1 or more, found 0")));
        }
        if let Some(fault) = eagleray_spec::mesh::offload_fault(self.layout.strategy(), self.offload) {
            return Err(Error::invalid(fault.message).with_hint(fault.hint));
        }
        let Layout::Mesh(mesh) = self.layout else { return Ok(()) };
        let workers = eagleray_spec::types::values::Count::exactly(self.world);
        if (mesh.pp > 1 || mesh.cp > 1 || mesh.tp > 1) && !shape.can_be_split() {
            return Err(
                Error::invalid("a model of type `gpt2` has no plan of its parts").with_hint(WHOLE_ONLY)
            );
        }
        let config = shape.config();
        let length = Some(self.sequence_length);
        let flow = eagleray_spec::mesh::Flow {
            // One stage is no pipeline, whatever its schedule would be.
            pipeline: if mesh.pp > 1 { self.pipeline } else { Pipeline::default() },
            workers,
            global_batch: self.global_batch,
            micro_batch: self.micro_batch,
        };
        let faults = eagleray_spec::mesh::faults(&mesh, workers, length, Some(&config));
        let schedule = || eagleray_spec::mesh::schedule_fault(&mesh, &flow, Some(&config));
        match faults.into_iter().next().or_else(schedule) {
            None => Ok(()),
            Some(fault) => Err(Error::invalid(fault.message).with_hint(fault.hint)),
        }
    }

    /// Parameters and tensors in the precision of the computation.
    pub(crate) fn compute_bytes(&self) -> f64 {
        match self.precision {
            Precision::Fp32 => 4.0,
            Precision::Bf16 => 2.0,
        }
    }

    pub(crate) fn axes(&self) -> Axes {
        let world = u64::from(self.world);
        let (mesh, shards) = match self.layout {
            Layout::Ddp => (Mesh::default(), 1),
            Layout::Fsdp2 | Layout::Zero1 | Layout::Zero2 | Layout::Zero3 => (Mesh::default(), world),
            Layout::Mesh(mesh) => (mesh, u64::from(mesh.dp_shard) * u64::from(mesh.cp)),
        };
        let (pp, cp, tp) = (u64::from(mesh.pp), u64::from(mesh.cp), u64::from(mesh.tp));
        let readers = (world / (pp * cp * tp)).max(1);
        let samples = self.global_batch.map_or(u64::MAX, u64::from);
        let micro_batches = samples.div_ceil(readers.saturating_mul(self.micro_batch.into())).max(1);
        let stages = if pp > 1 { u64::from(self.pipeline.stages_per_worker()) } else { 1 };
        Axes { pp, cp, tp, shards, readers, micro_batches, stages }
    }
}
