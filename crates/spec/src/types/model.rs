//! What to train.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Location, Targets};

/// What to train: exactly one of `preset`, `config` and `huggingface`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A known shape: `llama-tiny`, `llama-125m`, `llama-1b`, `llama-7b`, `llama-8b`, `llama-13b`, `llama-70b`.
    #[serde(default)]
    pub preset: Option<String>,
    /// A shape of your own.
    #[serde(default)]
    pub config: Option<LlamaConfig>,
    /// A Hugging Face folder: its config, and its weights for fine-tuning.
    #[serde(default)]
    pub huggingface: Option<Location>,
    /// Trains adapters of low rank beside the frozen weights of `huggingface`, and nothing else.
    #[serde(default)]
    pub lora: Option<Lora>,
}

impl Model {
    /// The shape, where the spec itself says it: not for a Hugging Face folder.
    pub fn shape(&self) -> Option<LlamaConfig> {
        self.config.clone().or_else(|| self.preset.as_deref().and_then(preset))
    }
}

/// Adapters of low rank: each target's output gains `alpha / rank · B·A·x`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// The inner width of an adapter.
    pub rank: u32,
    /// An adapter's output is scaled by `alpha / rank`; twice the rank where it is left out.
    pub alpha: Option<f64>,
    /// The share of an adapter's inputs that is dropped in training.
    pub dropout: f64,
    /// The layers with adapters: `all-linear` (all linear layers but the head), or names such as `[q_proj, v_proj]`.
    pub targets: Targets,
}

impl Default for Lora {
    fn default() -> Self {
        Self { rank: 16, alpha: None, dropout: 0.0, targets: Targets::default() }
    }
}

/// The shape of a Llama-style model.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LlamaConfig {
    /// The size of the vocabulary; the tokenizer's where it is left out.
    #[serde(default)]
    pub vocab_size: Option<u32>,
    /// The width of a layer.
    pub hidden_size: u32,
    /// The inner width of its feed-forward part.
    pub intermediate_size: u32,
    /// The layers.
    pub num_layers: u32,
    /// The attention heads of a layer.
    pub num_heads: u32,
    /// The key and value heads of a layer; as many as heads where it is left out.
    #[serde(default)]
    pub num_kv_heads: Option<u32>,
    /// The base of the rotary positions.
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
    /// What the normalisation adds to the variance.
    #[serde(default = "norm_eps")]
    pub norm_eps: f64,
    /// Whether the output shares its weights with the embedding.
    #[serde(default)]
    pub tie_embeddings: bool,
}

fn rope_theta() -> f64 {
    500_000.0
}

fn norm_eps() -> f64 {
    1e-5
}

/// A known shape.
struct Preset {
    name: &'static str,
    /// The published model's; a run has its tokenizer's.
    vocab_size: u32,
    hidden_size: u32,
    intermediate_size: u32,
    num_layers: u32,
    num_heads: u32,
    num_kv_heads: u32,
    tie_embeddings: bool,
}

/// The vocabulary is always the tokenizer's. Sources: Llama 3.2 1B, Llama 2 7B and 13B, Llama 3.1 8B and
/// 70B as published (`config.json`); 125m is GPT-2 small's width, depth and vocabulary; tiny
/// trains on two cores in minutes.
#[rustfmt::skip]
const PRESETS: [Preset; 7] = [
    Preset { name: "llama-tiny", vocab_size: 8192, hidden_size: 192, intermediate_size: 512, num_layers: 4, num_heads: 6, num_kv_heads: 2, tie_embeddings: true },
    Preset { name: "llama-125m", vocab_size: 50_257, hidden_size: 768, intermediate_size: 2048, num_layers: 12, num_heads: 12, num_kv_heads: 12, tie_embeddings: true },
    Preset { name: "llama-1b", vocab_size: 128_256, hidden_size: 2048, intermediate_size: 8192, num_layers: 16, num_heads: 32, num_kv_heads: 8, tie_embeddings: true },
    Preset { name: "llama-7b", vocab_size: 32_000, hidden_size: 4096, intermediate_size: 11_008, num_layers: 32, num_heads: 32, num_kv_heads: 32, tie_embeddings: false },
    Preset { name: "llama-8b", vocab_size: 128_256, hidden_size: 4096, intermediate_size: 14_336, num_layers: 32, num_heads: 32, num_kv_heads: 8, tie_embeddings: false },
    Preset { name: "llama-13b", vocab_size: 32_000, hidden_size: 5120, intermediate_size: 13_824, num_layers: 40, num_heads: 40, num_kv_heads: 40, tie_embeddings: false },
    Preset { name: "llama-70b", vocab_size: 128_256, hidden_size: 8192, intermediate_size: 28_672, num_layers: 80, num_heads: 64, num_kv_heads: 8, tie_embeddings: false },
];

/// The names of the presets.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name)
}

/// The vocabulary of the model that a preset takes its shape from; a run has its tokenizer's.
pub fn published_vocabulary(name: &str) -> Option<u32> {
    PRESETS.iter().find(|preset| preset.name == name).map(|preset| preset.vocab_size)
}

/// The shape of a preset.
pub fn preset(name: &str) -> Option<LlamaConfig> {
    PRESETS.iter().find(|preset| preset.name == name).map(|preset| LlamaConfig {
        vocab_size: None,
        hidden_size: preset.hidden_size,
        intermediate_size: preset.intermediate_size,
        num_layers: preset.num_layers,
        num_heads: preset.num_heads,
        num_kv_heads: Some(preset.num_kv_heads),
        rope_theta: rope_theta(),
        norm_eps: norm_eps(),
        tie_embeddings: preset.tie_embeddings,
    })
}
