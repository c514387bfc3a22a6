//! What `auto` stands for: the simplest strategy that fits.

use eagleray_base::{Error, Result};
use eagleray_spec::mesh;
use eagleray_spec::types::train::Mesh;
use eagleray_spec::types::{Count, Pipeline, Strategy};
use serde::{Serialize, Serializer};

use crate::accelerator::{Accelerator, Node};
use crate::memory::memory;
use crate::setting::{Layout, Setting};
use crate::shape::Shape;

/// The most workers that a table looks through.
const WORLD_MAX: u32 = 1 << 12;

/// A strategy that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// The strategy.
    #[serde(serialize_with = "shown")]
    pub strategy: Layout,
    /// What its fullest device needs.
    pub needed_bytes: u64,
    /// By how much that is beyond the budget; 0 where it fits.
    pub excess_bytes: u64,
}

impl Candidate {
    fn fits(&self) -> bool {
        self.excess_bytes == 0
    }
}

/// What `auto` stands for, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// The strategy that was taken.
    pub chosen: Candidate,
    /// The workers that it was looked at with: the fewest.
    pub world: u32,
    /// The accelerator.
    pub accelerator: Accelerator,
    /// What of its memory may be filled.
    pub budget_bytes: u64,
    /// The simpler ones that do not fit.
    pub rejected: Vec<Candidate>,
}

fn shown<S: Serializer>(layout: &Layout, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&layout.show())
}

/// `12.3 GiB`.
pub fn show_gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1_u64 << 30) as f64)
}

impl Choice {
    /// The reason in a line, and a line for what was rejected.
    pub fn explain(&self) -> Vec<String> {
        let Candidate { strategy, needed_bytes, .. } = &self.chosen;
        let mut lines = vec![format!(
            "strategy auto is {}: {} of {} that may be filled on {} at {} workers",
            strategy.show(),
            show_gib(*needed_bytes),
            show_gib(self.budget_bytes),
            self.accelerator.name,
            self.world,
        )];
        for candidate in &self.rejected {
            lines.push(format!(
                "rejected {}: needs {}, {} too much",
                candidate.strategy.show(),
                show_gib(candidate.needed_bytes),
                show_gib(candidate.excess_bytes),
            ));
        }
        lines
    }
}

/// The simplest strategy whose fullest device leaves the margin free, at the fewest and at the most workers.
///
/// The layout of `setting` and its world do not count. Simple is: whole models, then sharded ones, then
/// tensors cut within a node, then stages.
///
/// # Errors
/// `Exhausted` where none fits, with what the nearest lacks; `Invalid` where the model is none.
pub fn choose(shape: &Shape, setting: &Setting, workers: Count, node: Node) -> Result<Choice> {
    let budget_bytes = node.accelerator.budget_bytes();
    let mut rejected: Vec<Candidate> = Vec::new();
    for layout in candidates(shape, setting, workers, node) {
        let mut needed_bytes = 0;
        for world in [workers.min, workers.max] {
            let peak = memory(shape, &Setting { layout, world, ..*setting })?.peak;
            needed_bytes = needed_bytes.max(peak.bytes);
        }
        let excess_bytes = needed_bytes.saturating_sub(budget_bytes);
        let candidate = Candidate { strategy: layout, needed_bytes, excess_bytes };
        if candidate.fits() {
            let (chosen, accelerator) = (candidate, node.accelerator);
            return Ok(Choice { chosen, world: workers.min, accelerator, budget_bytes, rejected });
        }
        rejected.push(candidate);
    }
    Err(nothing_fits(&rejected, setting, workers, node))
}

fn nothing_fits(rejected: &[Candidate], setting: &Setting, workers: Count, node: Node) -> Error {
    let nearest = rejected.iter().min_by_key(|candidate| candidate.needed_bytes);
    let nearest = nearest.map_or_else(String::new, |candidate| {
        let (needed, excess) = (show_gib(candidate.needed_bytes), show_gib(candidate.excess_bytes));
        format!("; the nearest, `{}`, needs {needed} a device, {excess} too much", candidate.strategy.show())
    });
    let (name, budget) = (node.accelerator.name, show_gib(node.accelerator.budget_bytes()));
    let message =
        format!("`auto` finds no strategy that fits {budget} of {name} at {} workers{nearest}", workers.min);
    let smaller = if setting.micro_batch > 1 { "a smaller `micro_batch`, " } else { "shorter samples, " };
    Error::exhausted(message).with_hint(format!(
        "more workers, {smaller}a larger accelerator; or name a strategy to try it all the same"
    ))
}

/// Strategies, the simplest first, that the workers and the model allow.
fn candidates(shape: &Shape, setting: &Setting, workers: Count, node: Node) -> Vec<Layout> {
    let offloads = !setting.offload.is_none();
    let mut layouts = if offloads { Vec::new() } else { vec![Layout::Ddp] };
    if workers.max > 1 || offloads {
        layouts.push(Layout::Fsdp2);
    }
    let world = mesh::gcd(workers.min.into(), workers.max.into());
    let config = shape.config();
    let tensor_parts = doubles(node.num_accelerators);
    for pp in doubles(config.num_layers) {
        for tp in tensor_parts.iter().copied() {
            let group = u64::from(pp) * u64::from(tp);
            if group == 1 || !world.is_multiple_of(group) || !shape.can_be_split() {
                continue;
            }
            let dp_shard = u32::try_from(world / group).unwrap_or(u32::MAX);
            let mesh = Mesh { pp, dp_shard, tp, ..Mesh::default() };
            let faults = mesh::faults(&mesh, workers, Some(setting.sequence_length), Some(&config));
            let flow = mesh::Flow {
                pipeline: if pp > 1 { setting.pipeline } else { Pipeline::default() },
                workers,
                global_batch: setting.global_batch,
                micro_batch: setting.micro_batch,
            };
            let schedule = mesh::schedule_fault(&mesh, &flow, Some(&config));
            let offload = mesh::offload_fault(Strategy::Mesh(mesh), setting.offload);
            if faults.is_empty() && schedule.is_none() && offload.is_none() {
                layouts.push(Layout::Mesh(mesh));
            }
        }
    }
    layouts
}

/// 1, 2, 4 … `most`.
fn doubles(most: u32) -> Vec<u32> {
    std::iter::successors(Some(1_u32), |size| size.checked_mul(2)).take_while(|size| *size <= most).collect()
}

/// The fewest workers, by doubling, for which a strategy fits; `None` where none of 4,096 does.
pub fn fewest(shape: &Shape, setting: &Setting, node: Node) -> Option<Choice> {
    doubles(WORLD_MAX).into_iter().find_map(|world| choose(shape, setting, Count::exactly(world), node).ok())
}
