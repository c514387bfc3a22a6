//! What a run needs of its devices, and what it will take and cost, before anything is paid for.
//!
//! The memory model says what the fullest device of a world holds, term by term, at each moment of a
//! step: parameters, gradients and moments, parameters gathered for a layer, activations under three
//! kinds of recomputation, logits, a pipeline's micro batches in flight. `auto` asks it for the simplest
//! strategy that fits. Every formula stands in `docs/memory.md`, with its source.
//!
//! Why not measure? A measurement needs the devices that the question is about, and says nothing about
//! the next larger model. Why not a rule of thumb? Sixteen bytes a parameter says when a model is too
//! large for one device, not whether eight hold it with samples of 8,192 tokens: there activations and
//! logits decide. Formulas can be held to account: tests compare them with the bytes of tensors that
//! small models really hold.
//!
//! This crate is a floor: it opens no file and asks no device.
//!
//! ```
//! use eagleray_plan::{Layout, Recompute, Setting, Shape, memory};
//! use eagleray_spec::types::{Offload, Pipeline, Precision, model};
//!
//! let shape = Shape::new(&model::preset("llama-8b").unwrap(), Some(128_256));
//! assert_eq!(shape.parameters(), 8_030_261_248);
//! let setting = Setting {
//!     layout: Layout::Fsdp2,
//!     world: 8,
//!     sequence_length: 4096,
//!     micro_batch: 1,
//!     global_batch: None,
//!     precision: Precision::Bf16,
//!     recompute: Recompute::Full,
//!     pipeline: Pipeline::default(),
//!     offload: Offload::None,
//!     device: Default::default(),
//! };
//! let peak = memory(&shape, &setting).unwrap().peak;
//! assert_eq!(peak.bytes >> 30, 23);
//! ```
//!
//! Map: [`Shape`] parameters of a model and of parts of it · [`Setting`] what memory depends on ·
//! `activation` bytes of a token · [`memory`] all terms · [`accelerator`] GPUs and instances ·
//! [`choose`] what `auto` stands for · [`huggingface`] the shape that a `config.json` describes ·
//! [`Situation`] all that out of a run's spec · [`Instance`], [`Head`] what
//! nodes offer · [`prices`] what they cost · [`outlook`] what a run will need, take and cost ·
//! [`corpus`] what reading all of a corpus takes, from a slice of it.

pub mod accelerator;
mod activation;
mod band;
mod choose;
pub mod corpus;
mod head;
pub mod huggingface;
mod instance;
mod memory;
pub mod outlook;
pub mod prices;
mod setting;
mod shape;
mod situation;
#[cfg(test)]
mod tests;

use eagleray_base::{Error, Result};
use serde::Deserialize;

pub use band::Band;
pub use choose::{Candidate, Choice, choose, fewest, show_gib};
pub use eagleray_spec::types::Recompute;
pub use head::Head;
pub use instance::Instance;
pub use memory::{Memory, Moment, Term, Usage, memory};
pub use outlook::needs_build;
pub use setting::{Device, Layout, Setting};
pub use shape::{Part, Shape, Traits};
pub use situation::{Planned, Situation, resolve, resolve_reading};

#[derive(Deserialize)]
struct Request {
    model: Shape,
    setting: Setting,
}

/// The memory of a model in a setting: both, and the answer, as JSON.
///
/// # Errors
/// `Invalid` where the request cannot be read, or no world can run it.
pub fn memory_json(request: &str) -> Result<String> {
    let Request { model, setting } = serde_json::from_str(request)
        .map_err(|error| Error::invalid(format!("a request for memory cannot be read: {error}")))?;
    serde_json::to_string(&memory(&model, &setting)?)
        .map_err(|error| Error::internal("cannot write JSON").with_source(error))
}
