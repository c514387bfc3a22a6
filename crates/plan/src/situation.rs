//! A run's model, its setting and its devices, out of a spec.

use std::cell::RefCell;

use eagleray_base::{Error, Result};
use eagleray_spec::types::{Count, RunSpec};
use eagleray_spec::{Problems, Resolved, Source, resolved};
use serde::Deserialize;
use serde_json::Value;

use crate::accelerator::{Node, instance};
use crate::choose::{Choice, choose};
use crate::huggingface;
use crate::setting::{Device, Layout, Setting};
use crate::shape::Shape;

/// What decides about a run's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Situation {
    /// The model.
    pub shape: Shape,
    /// How it is trained, at the fewest workers.
    pub setting: Setting,
    /// The workers.
    pub workers: Count,
    /// The smallest accelerators of all groups, where the spec names some.
    pub node: Option<Node>,
}

impl Situation {
    /// The situation of a resolved run.
    ///
    /// # Errors
    /// `Invalid` where the run does not say what its memory depends on: its own code, a Hugging Face folder
    /// that was not read; and of adapters.
    pub fn of(resolved: &Resolved) -> Result<Self> {
        let spec = &resolved.spec;
        let shape = match &spec.model {
            Some(resolved::Model::Llama { config, .. }) => Shape::new(config, None),
            Some(resolved::Model::Huggingface { lora: Some(_), .. }) => {
                return Err(Error::invalid("the memory of `model.lora` is not known to this build")
                    .with_hint("without `lora` the same command shows what training the whole model needs"));
            }
            Some(resolved::Model::Huggingface { config: Some(config), .. }) => huggingface::shape(config)?,
            _ => {
                return Err(Error::invalid(
                    "the memory of a model needs its shape: a `preset`, a `config` or a `huggingface` folder",
                ));
            }
        };
        let Some(data) = &spec.data else {
            return Err(Error::invalid("the memory of a run needs the length of its samples")
                .with_hint("add `data` with a `sequence_length`"));
        };
        let layout = Layout::deserialize(&spec.train.strategy)
            .map_err(|error| Error::invalid(format!("`train.strategy`: {error}")))?;
        let workers = Count { min: spec.cluster.workers.min, max: spec.cluster.workers.max };
        let groups = spec.cluster.eks.as_ref().and_then(|eks| eks["groups"].as_array());
        let instances = groups.into_iter().flatten().filter_map(|group| group["instance"].as_str());
        Ok(Self {
            shape,
            setting: Setting {
                layout,
                world: workers.min,
                sequence_length: data.sequence_length,
                micro_batch: spec.train.micro_batch,
                global_batch: spec.train.global_batch,
                precision: spec.train.precision,
                recompute: spec.train.recompute,
                pipeline: spec.train.pipeline,
                offload: spec.train.offload,
                device: Device::Gpu,
            },
            workers,
            node: smallest(instances),
        })
    }

    /// The situation of a spec whose strategy is to be found; `None` where it does not say enough.
    fn to_choose(spec: &RunSpec, read: impl Fn() -> Option<Value>) -> Option<(Self, Node)> {
        let groups = spec.cluster.eks.as_ref()?.groups.iter();
        let node = smallest(groups.map(|group| group.instance.as_str()))?;
        let setting = Setting {
            layout: Layout::Ddp,
            world: spec.cluster.workers.min,
            sequence_length: spec.data.as_ref()?.sequence_length,
            micro_batch: spec.train.micro_batch,
            global_batch: spec.train.global_batch,
            precision: spec.train.precision,
            recompute: spec.train.recompute,
            pipeline: spec.train.pipeline,
            offload: spec.train.offload,
            device: Device::Gpu,
        };
        let model = spec.model.as_ref()?;
        let shape = match model.shape() {
            Some(config) => Shape::new(&config, None),
            // Adapters need far less than the model does.
            None if model.lora.is_some() => return None,
            None => huggingface::shape(&read()?).ok()?,
        };
        Some((Self { shape, setting, workers: spec.cluster.workers, node: Some(node) }, node))
    }
}

/// The smallest accelerators of all instances; `None` where one has none, or is not known.
fn smallest<'a>(instances: impl Iterator<Item = &'a str>) -> Option<Node> {
    let nodes: Option<Vec<Node>> = instances.map(instance).collect();
    let nodes = nodes?;
    let num_accelerators = nodes.iter().map(|node| node.num_accelerators).min()?;
    let accelerator = nodes.iter().map(|node| node.accelerator).min_by_key(|kind| kind.memory_bytes)?;
    Some(Node { accelerator, num_accelerators })
}

/// A resolved run, with what was decided on the way.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The run.
    pub resolved: Resolved,
    /// What `auto` stands for and why, where accelerators are known.
    pub choice: Option<Choice>,
}

/// Reads, checks and resolves a spec; `auto` becomes the simplest strategy that fits its accelerators.
///
/// Where the spec names no accelerator, or no shape, the rule of [`eagleray_spec::resolve`] stands.
///
/// # Errors
/// Everything that is wrong with it, each with its place; that nothing fits is wrong too.
pub fn resolve(source: &Source<'_>) -> Result<Planned, Problems> {
    resolve_reading(source, &|_| None)
}

/// As [`resolve`], where `read` gives the `config.json` of a Hugging Face folder, or `None` where it cannot.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_reading(
    source: &Source<'_>,
    read: &dyn Fn(&str) -> Option<Value>,
) -> Result<Planned, Problems> {
    let choice = RefCell::new(None);
    let resolved = eagleray_spec::resolve_with(source, &|spec, folder| {
        let (situation, node) = Situation::to_choose(spec, || read(folder?))?;
        let found = choose(&situation.shape, &situation.setting, situation.workers, node);
        Some(found.map(|found| choice.borrow_mut().insert(found).chosen.strategy.strategy()))
    })?;
    Ok(Planned { resolved, choice: choice.into_inner() })
}
