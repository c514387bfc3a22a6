//! The parameters of a Llama-style model, and of the part of it that one device computes with.

use eagleray_base::{Error, Result};
use eagleray_spec::VOCABULARY_GUESS;
use eagleray_spec::types::LlamaConfig;
use serde::{Deserialize, Serialize};

/// The most that a number of a shape may be: products of four of them stay exact.
const SIZE_MAX: u64 = 1 << 28;

/// The shape of a model, with nothing left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Shape {
    /// The size of the vocabulary.
    pub vocab_size: u64,
    /// The width of a layer.
    pub hidden_size: u64,
    /// The inner width of its feed-forward part.
    pub intermediate_size: u64,
    /// The layers.
    pub num_layers: u64,
    /// The attention heads of a layer.
    pub num_heads: u64,
    /// The key and value heads of a layer.
    pub num_kv_heads: u64,
    /// Whether the output shares its weights with the embedding.
    #[serde(default)]
    pub tie_embeddings: bool,
    /// What it has otherwise than a Llama.
    #[serde(default, skip_serializing_if = "Traits::are_none")]
    pub traits: Traits,
}

/// What a model of Hugging Face has otherwise than the built-in Llama; what is left out is as there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools, reason = "each is there or not, whatever the others are")]
pub struct Traits {
    /// Whether Transformers computes it: norms in steps, and a mask between the documents of a sample.
    pub transformers: bool,
    /// The width of an attention head, where it is not what all heads have of the width of a layer.
    pub head_dim: Option<u64>,
    /// Whether the feed-forward part is two matrices without a gate.
    pub ungated: bool,
    /// Whether queries and keys are normed, head by head.
    pub query_norms: bool,
    /// The norms of a layer beyond two.
    pub more_norms: u64,
    /// Whether norms have biases.
    pub norm_biases: bool,
    /// The numbers in the biases of a layer's matrices.
    pub layer_biases: u64,
    /// The positions that are learned, each as wide as a layer.
    pub positions: u64,
}

impl Traits {
    fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What of a model one device computes with, before parameters are sharded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its layers.
    pub num_layers: u64,
    /// Those of the largest of its stages.
    pub stage_layers: u64,
    /// Whether it begins with the embedding.
    pub embedding: bool,
    /// Whether it ends with norm and head.
    pub head: bool,
    /// The parts that matrices are cut into.
    pub tp: u64,
}

impl Part {
    /// A model whole.
    pub fn whole(shape: &Shape) -> Self {
        Self::stage(shape, 0, 1, 1)
    }

    /// Stage `stage` of `pp`: layers go out evenly, and the first stages take one more where they do not divide.
    pub fn stage(shape: &Shape, stage: u64, pp: u64, tp: u64) -> Self {
        Self::stages(shape, stage, pp, 1, tp)
    }

    /// The `each` stages of rank `rank` of `pp`: every `pp`-th one, so that the first rank begins and the last ends.
    pub fn stages(shape: &Shape, rank: u64, pp: u64, each: u64, tp: u64) -> Self {
        let (even, rest) = (shape.num_layers / (pp * each), shape.num_layers % (pp * each));
        let larger = (0..each).filter(|turn| turn * pp + rank < rest).count() as u64;
        Self {
            num_layers: each * even + larger,
            stage_layers: even + u64::from(larger > 0),
            embedding: rank == 0,
            head: rank + 1 == pp,
            tp,
        }
    }
}

impl Shape {
    /// The shape of a spec's model; `vocab_size` fills in what the spec leaves to the tokenizer.
    pub fn new(config: &LlamaConfig, vocab_size: Option<u32>) -> Self {
        let vocabulary = config.vocab_size.or(vocab_size).unwrap_or(VOCABULARY_GUESS);
        Self {
            vocab_size: vocabulary.into(),
            hidden_size: config.hidden_size.into(),
            intermediate_size: config.intermediate_size.into(),
            num_layers: config.num_layers.into(),
            num_heads: config.num_heads.into(),
            num_kv_heads: config.num_kv_heads.unwrap_or(config.num_heads).into(),
            tie_embeddings: config.tie_embeddings,
            traits: Traits::default(),
        }
    }

    /// Refuses a shape that is none, or beyond all reckoning.
    ///
    /// # Errors
    /// `Invalid`, naming the field.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_layers", self.num_layers),
            ("num_heads", self.num_heads),
            ("num_kv_heads", self.num_kv_heads),
            ("head_dim", self.traits.head_dim.unwrap_or(1)),
        ];
        match sizes.into_iter().find(|(_, size)| !(1..=SIZE_MAX).contains(size)) {
            Some((name, size)) => {
                Err(Error::invalid(format!("expected `{name}` from 1 to {SIZE_MAX}, found {size}")))
            }
            None => Ok(()),
        }
    }

    /// The shape as a spec has it, for what a spec checks.
    pub(crate) fn config(&self) -> LlamaConfig {
        let narrow = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
        LlamaConfig {
            vocab_size: Some(narrow(self.vocab_size)),
            hidden_size: narrow(self.hidden_size),
            intermediate_size: narrow(self.intermediate_size),
            num_layers: narrow(self.num_layers),
            num_heads: narrow(self.num_heads),
            num_kv_heads: Some(narrow(self.num_kv_heads)),
            rope_theta: 0.0,
            norm_eps: 0.0,
            tie_embeddings: self.tie_embeddings,
        }
    }

    /// Whether its tensors and layers can be dealt out: not those of GPT-2, of which Transformers has no plan.
    pub(crate) fn can_be_split(&self) -> bool {
        !self.traits.ungated
    }

    /// The width of one attention head.
    pub fn head_dim(&self) -> u64 {
        self.traits.head_dim.unwrap_or(self.hidden_size / self.num_heads.max(1))
    }

    /// The width of all query heads: `heads × head_dim`.
    pub fn query_size(&self) -> u64 {
        self.num_heads * self.head_dim()
    }

    /// The width of all key heads, and of all value heads.
    pub fn kv_size(&self) -> u64 {
        self.num_kv_heads * self.head_dim()
    }

    /// The weights of a layer's seven matrices: `h(2q + 2k) + 3hf`; `2hf` without a gate.
    pub fn layer_matrices(&self) -> u128 {
        let h = u128::from(self.hidden_size);
        let inner = if self.traits.ungated { 2 } else { 3 };
        h * u128::from(2 * self.query_size() + 2 * self.kv_size() + inner * self.intermediate_size)
    }

    /// The numbers of one norm over the width of a layer.
    fn norm(&self) -> u128 {
        u128::from(self.hidden_size) * if self.traits.norm_biases { 2 } else { 1 }
    }

    /// A layer with its two norms: `layer_matrices ÷ tp + 2h`, and whatever else has no second dim.
    pub fn layer(&self, tp: u64) -> u128 {
        let Traits { query_norms, more_norms, layer_biases, .. } = self.traits;
        let of_heads = if query_norms { 2 * u128::from(self.head_dim()) } else { 0 };
        let norms = u128::from(2 + more_norms) * self.norm();
        self.layer_matrices().div_ceil(tp.into()) + norms + of_heads + u128::from(layer_biases)
    }

    /// The embedding, or the head: `Vh ÷ tp`.
    pub fn embedding(&self, tp: u64) -> u128 {
        u128::from(self.vocab_size).div_ceil(tp.into()) * u128::from(self.hidden_size)
    }

    /// What is in no layer: the embedding, the last norm and the head, a shared one counted once.
    pub fn root(&self, part: &Part) -> u128 {
        let shared = self.tie_embeddings && part.embedding && part.head;
        let matrices = u128::from(part.embedding) + u128::from(part.head) - u128::from(shared);
        let norm = if part.head { self.norm() } else { 0 };
        let learned = if part.embedding { self.traits.positions } else { 0 };
        matrices * self.embedding(part.tp) + norm + u128::from(learned) * u128::from(self.hidden_size)
    }

    /// The weights of all matrices that multiply: not the embedding, unless the head shares it.
    pub fn multiplied(&self, part: &Part) -> u128 {
        let layers = u128::from(part.num_layers) * self.layer_matrices().div_ceil(part.tp.into());
        layers + if part.head { self.embedding(part.tp) } else { 0 }
    }

    /// Forward and backward pass of a token: `6N + 12·L·q·s`, `N` the weights that multiply; docs/metrics.md.
    pub fn flops_per_token(&self, sequence_length: u32) -> f64 {
        let attention = 12 * self.num_layers * self.query_size() * u64::from(sequence_length);
        6.0 * self.multiplied(&Part::whole(self)) as f64 + attention as f64
    }

    /// The parameters of a part.
    pub fn parameters_of(&self, part: &Part) -> u128 {
        u128::from(part.num_layers) * self.layer(part.tp) + self.root(part)
    }

    /// The parameters of the model.
    pub fn parameters(&self) -> u64 {
        self.parameters_of(&Part::whole(self)).try_into().unwrap_or(u64::MAX)
    }
}
