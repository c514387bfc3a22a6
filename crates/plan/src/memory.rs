//! The memory of a device, term by term, at each moment of a step.

use eagleray_base::Result;
use eagleray_spec::types::{Pipeline, Precision};
use serde::Serialize;

use crate::activation::PerToken;
use crate::setting::{Axes, Device, Layout, Setting};
use crate::shape::{Part, Shape};

/// Parameters, gradients and each of Adam's two moments are fp32.
const FP32: f64 = 4.0;

/// The parameters that `DeepSpeed` leaves gathered until they are needed again
/// (`stage3_max_live_parameters`), and those that it reduces at once (`reduce_bucket_size`): its defaults.
const ZERO3_LIVE: f64 = 1e9;
const ZERO_BUCKET: f64 = 5e8;

/// What bytes are for. `docs/memory.md` has the formula of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// The parameters that a device keeps.
    Parameters,
    /// Their gradients.
    Gradients,
    /// Adam's two moments.
    Optimizer,
    /// Parameters in the precision of the computation: copies, or gathered from all shards.
    Gathered,
    /// Gradients on their way to their shards.
    Reduced,
    /// What the forward pass keeps for the backward pass.
    Activations,
    /// What cross entropy keeps.
    Logits,
    /// What is needed for a moment only: gradients of activations and logits, roots of second moments.
    Working,
}

impl Term {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Parameters,
        Self::Gradients,
        Self::Optimizer,
        Self::Gathered,
        Self::Reduced,
        Self::Activations,
        Self::Logits,
        Self::Working,
    ];

    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parameters => "parameters",
            Self::Gradients => "gradients",
            Self::Optimizer => "optimizer",
            Self::Gathered => "gathered",
            Self::Reduced => "reduced",
            Self::Activations => "activations",
            Self::Logits => "logits",
            Self::Working => "working",
        }
    }
}

/// A moment of a step at which memory may be fullest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// The forward pass is over, the loss's gradient is being computed.
    Loss,
    /// The backward pass of a layer, everything before it still kept.
    Backward,
    /// The backward pass is over, what is in no layer is reduced.
    Reduce,
    /// The optimizer's step.
    Step,
}

impl Moment {
    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Backward => "backward",
            Self::Reduce => "reduce",
            Self::Step => "step",
        }
    }
}

/// The bytes of a device at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Usage {
    /// The moment.
    pub moment: Moment,
    /// The sum of all terms.
    pub bytes: u64,
    /// Each term, in the order of [`Term::ALL`].
    #[serde(serialize_with = "by_name")]
    pub terms: [u64; Term::ALL.len()],
}

impl Usage {
    fn new(moment: Moment, given: &[(Term, f64)]) -> Self {
        let mut terms = [0; Term::ALL.len()];
        for (term, bytes) in given {
            // A cast from float saturates: what is beyond all devices stays there.
            terms[*term as usize] = bytes.ceil() as u64;
        }
        Self { moment, bytes: terms.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes)), terms }
    }

    /// The bytes of one term.
    pub fn term(&self, term: Term) -> u64 {
        self.terms[term as usize]
    }
}

fn by_name<S: serde::Serializer>(terms: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(Term::ALL.iter().map(|term| term.name()).zip(terms))
}

/// The memory of the fullest device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// The stage of the pipeline that it belongs to, from 0.
    pub stage: u32,
    /// The parameters that it computes with.
    pub parameters: u64,
    /// What of its state lies on the host instead, with what the optimizer's step needs there.
    pub host_bytes: u64,
    /// The fullest moment.
    pub peak: Usage,
    /// Every moment.
    pub moments: Vec<Usage>,
}

/// The memory of the fullest device of a world.
///
/// # Errors
/// `Invalid` where no world can run the setting.
pub fn memory(shape: &Shape, setting: &Setting) -> Result<Memory> {
    setting.check(shape)?;
    let axes = setting.axes();
    // Stages between the first and the last hold no more than the second.
    let mut stages: Vec<u64> = vec![0, 1, axes.pp - 1];
    stages.retain(|stage| *stage < axes.pp);
    stages.dedup();
    let mut fullest = Model::new(shape, setting, &axes, 0).memory();
    for stage in stages.into_iter().skip(1) {
        let memory = Model::new(shape, setting, &axes, stage).memory();
        if memory.peak.bytes > fullest.peak.bytes {
            fullest = memory;
        }
    }
    Ok(fullest)
}

/// The micro batches whose activations a rank holds at most, each of one of its stages.
fn in_flight(setting: &Setting, axes: &Axes, stage: u64) -> u64 {
    match setting.pipeline {
        Pipeline::Interleaved if axes.pp > 1 => {
            // Before the first comes back, a round of every stage but the last, and two for each rank behind.
            let round = axes.micro_batches / (axes.micro_batches / axes.pp).max(1);
            let ahead = (axes.stages - 1) * round + 2 * (axes.pp - 1 - stage);
            (ahead + 1).min(axes.stages.saturating_mul(axes.micro_batches))
        }
        Pipeline::Interleaved => 1,
        // Of a step that is not known, as many as keep every stage at work.
        Pipeline::Gpipe if setting.global_batch.is_none() => axes.pp,
        Pipeline::Gpipe => axes.micro_batches,
        // With fewer than stages, all go forward before the first comes back.
        Pipeline::OneForwardOneBackward if axes.micro_batches < axes.pp => axes.micro_batches,
        Pipeline::OneForwardOneBackward => axes.pp - stage,
    }
}

/// One stage of a model, in numbers.
struct Model<'a> {
    shape: &'a Shape,
    setting: &'a Setting,
    axes: &'a Axes,
    stage: u64,
    part: Part,
    /// Parameters that the stage computes with.
    parameters: f64,
    /// Those of one layer, and those that are in none.
    layer: f64,
    root: f64,
    /// Tokens of a micro batch, and micro batches that wait for their backward pass.
    tokens: f64,
    in_flight: f64,
    /// Those of them whose last norm and logits are kept.
    at_head: f64,
    token: PerToken,
}

impl<'a> Model<'a> {
    fn new(shape: &'a Shape, setting: &'a Setting, axes: &'a Axes, stage: u64) -> Self {
        let part = Part::stages(shape, stage, axes.pp, axes.stages, axes.tp);
        let in_flight = in_flight(setting, axes, stage) as f64;
        let samples = u64::from(setting.micro_batch) * u64::from(setting.sequence_length);
        Self {
            shape,
            setting,
            axes,
            stage,
            part,
            parameters: shape.parameters_of(&part) as f64,
            layer: shape.layer(axes.tp) as f64,
            root: shape.root(&part) as f64,
            tokens: samples as f64 / axes.cp as f64,
            in_flight,
            // What the last of several stages has taken forward comes back at once.
            at_head: if axes.stages > 1 { 1.0 } else { in_flight },
            token: PerToken::new(shape, setting, axes),
        }
    }

    fn memory(&self) -> Memory {
        let mut moments = vec![self.backward(), self.step()];
        if self.part.head {
            moments.insert(0, self.loss());
        }
        if self.is_sharded() || self.is_partitioned() {
            moments.push(self.reduce());
        }
        let mut peak = moments[0];
        for moment in &moments[1..] {
            if moment.bytes > peak.bytes {
                peak = *moment;
            }
        }
        let parameters = self.parameters as u64;
        let host_bytes = self.host().ceil() as u64;
        Memory { stage: self.stage as u32, parameters, host_bytes, peak, moments }
    }

    fn offloads(&self) -> bool {
        !self.setting.offload.is_none()
    }

    /// State, and the roots of one tensor's second moments, on the host: `16P/n + 4 min(P, Vh/tp)/n`; 0 unless offloaded.
    fn host(&self) -> f64 {
        if !self.offloads() {
            return 0.0;
        }
        4.0 * FP32 * self.parameters / self.axes.shards as f64 + FP32 * self.roots()
    }

    /// The second moments whose roots a CPU's step takes at once.
    fn roots(&self) -> f64 {
        let shards = self.axes.shards as f64;
        (self.parameters / shards).min(self.shape.embedding(self.axes.tp) as f64 / shards)
    }

    /// Whether parameters are gathered to be computed with: also by replicas of a mesh, whose shards are whole.
    fn is_sharded(&self) -> bool {
        match self.setting.layout {
            Layout::Ddp | Layout::Zero1 | Layout::Zero2 => false,
            Layout::Fsdp2 | Layout::Zero3 => true,
            Layout::Mesh(_) => self.axes.shards > 1 || self.axes.readers > 1,
        }
    }

    /// Whether parameters are whole, and what updates them is in parts.
    fn is_partitioned(&self) -> bool {
        matches!(self.setting.layout, Layout::Zero1 | Layout::Zero2)
    }

    /// Whether a stage keeps what it has gathered, and whole gradients, until all micro batches are done.
    fn keeps_whole(&self) -> bool {
        self.is_sharded() && self.axes.pp > 1
    }

    /// What a device always holds: `4P/n`, `4P/n`, `8P/n`. `ZeRO-3` adds `2P/n` for its bf16 parameters, the stages
    /// before it `cP` for whole ones; the first has whole gradients.
    fn state(&self) -> [(Term, f64); 3] {
        if self.offloads() {
            return [(Term::Parameters, 0.0), (Term::Gradients, 0.0), (Term::Optimizer, 0.0)];
        }
        let held = self.parameters / self.axes.shards as f64;
        let copies = match self.setting.layout {
            Layout::Zero1 | Layout::Zero2 => self.setting.compute_bytes() * self.parameters,
            Layout::Zero3 if self.setting.precision == Precision::Bf16 => 2.0 * held,
            _ => 0.0,
        };
        let gradients = if self.setting.layout == Layout::Zero1 { self.parameters } else { held };
        [
            (Term::Parameters, FP32 * held + copies),
            (Term::Gradients, FP32 * gradients),
            (Term::Optimizer, 2.0 * FP32 * held),
        ]
    }

    fn usage(&self, moment: Moment, given: &[(Term, f64)]) -> Usage {
        let mut state = self.state();
        if self.keeps_whole() && matches!(moment, Moment::Loss | Moment::Backward) {
            // Shards of gradients are made when the whole ones are reduced.
            state[1].1 = FP32 * self.parameters;
        }
        Usage::new(moment, &[state.as_slice(), given].concat())
    }

    /// Parameters that are whole while `layers` of them are computed with.
    fn gathered(&self, layers: f64) -> f64 {
        let c = self.setting.compute_bytes();
        if self.setting.layout == Layout::Zero3 {
            return c * self.parameters.min(ZERO3_LIVE + 2.0 * self.layer);
        }
        if self.keeps_whole() {
            return c * self.parameters;
        }
        if self.is_sharded() {
            let layers = layers.min(self.part.num_layers as f64);
            // Shards on their way from the host, in fp32 until they are cast and gathered.
            let shards =
                if self.offloads() { FP32 * layers * self.layer / self.axes.shards as f64 } else { 0.0 };
            return shards + c * (self.root + layers * self.layer);
        }
        if self.is_partitioned() {
            return 0.0;
        }
        // Autocast keeps its copy of every weight that multiplies until the backward pass is over.
        if c < FP32 { c * self.shape.multiplied(&self.part) as f64 } else { 0.0 }
    }

    /// Gradients that are whole: the head's wait for the end, a layer's are copied into fp32 to be reduced.
    fn reduced(&self) -> f64 {
        let c = self.setting.compute_bytes();
        match (self.setting.layout, self.is_sharded()) {
            (Layout::Zero3, _) => c * self.parameters.min(ZERO_BUCKET),
            // Made at its full size, and filled when the backward pass is over.
            (Layout::Zero1, _) => FP32 * ZERO_BUCKET,
            // Copied into fp32 to be reduced. In fp32 the part of this micro batch stands beside that of those before.
            (Layout::Zero2, _) => {
                let part = if c < FP32 { 0.0 } else { FP32 * self.parameters / self.axes.shards as f64 };
                c * ZERO_BUCKET + FP32 * self.parameters.min(ZERO_BUCKET) + part
            }
            (_, false) => 0.0,
            (_, true) if self.keeps_whole() => c * self.layer,
            (_, true) => {
                let head = if self.part.head { self.shape.embedding(self.axes.tp) as f64 } else { 0.0 };
                c * head + (c + FP32) * self.layer
            }
        }
    }

    fn activations(&self) -> f64 {
        let ends = if self.part.head { self.at_head * self.token.last } else { 0.0 };
        let kept = self.part.stage_layers as f64 * self.token.layer + self.token.first;
        self.tokens * (self.in_flight * kept + ends)
    }

    /// Bytes of a token's logits that a micro batch keeps; a pipeline also keeps what its last stage gave out.
    fn kept_logits(&self) -> f64 {
        let given = if self.axes.pp > 1 { self.setting.compute_bytes() / FP32 } else { 0.0 };
        self.token.logits * (1.0 + given)
    }

    fn loss(&self) -> Usage {
        self.usage(
            Moment::Loss,
            &[
                (Term::Gathered, self.gathered(0.0)),
                (Term::Activations, self.activations()),
                (Term::Logits, self.at_head * self.tokens * self.kept_logits()),
                (Term::Working, self.tokens * self.token.loss),
            ],
        )
    }

    fn backward(&self) -> Usage {
        self.usage(
            Moment::Backward,
            &[
                // A layer is computed with while the next one is gathered.
                (Term::Gathered, self.gathered(2.0)),
                (Term::Reduced, self.reduced()),
                (Term::Activations, self.activations()),
                (Term::Working, self.tokens * self.token.working),
            ],
        )
    }

    fn reduce(&self) -> Usage {
        let c = self.setting.compute_bytes();
        let reduced = match self.setting.layout {
            Layout::Zero2 | Layout::Zero3 => self.reduced(),
            Layout::Zero1 => self.reduced() + FP32 * self.parameters.min(ZERO_BUCKET),
            _ if self.keeps_whole() => FP32 * self.parameters,
            _ => (c + FP32) * self.root,
        };
        self.usage(Moment::Reduce, &[(Term::Gathered, self.gathered(0.0)), (Term::Reduced, reduced)])
    }

    /// The roots of second moments: of one tensor on the CPU; a GPU's one kernel keeps none.
    fn step(&self) -> Usage {
        let roots = match self.setting.device {
            Device::Cpu if !self.offloads() => self.roots(),
            Device::Gpu | Device::Cpu => 0.0,
        };
        // The first stages of ZeRO flatten their gradients for the update, where they do not stand so already.
        let flat = self.is_partitioned() && self.setting.precision == Precision::Fp32;
        let reduced = if flat { FP32 * self.parameters / self.axes.shards as f64 } else { 0.0 };
        self.usage(Moment::Step, &[(Term::Reduced, reduced), (Term::Working, FP32 * roots)])
    }
}
