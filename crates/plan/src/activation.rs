//! What a token leaves on a device between its forward and its backward pass.
//!
//! The names are those of `docs/memory.md`: `h` hidden, `q` and `k` the widths of queries and of keys,
//! `f` intermediate, `a` heads, `V` vocabulary; `c` bytes of the computation, `r` bytes of the residual
//! stream. Attention keeps no matrix of scores: it is one kernel that computes them again.

use eagleray_spec::types::{Precision, Recompute};

use crate::setting::{Axes, Device, Layout, Setting};
use crate::shape::{Shape, Traits};

/// Statistics of norms and of attention, rotary positions and losses are fp32 whatever the precision.
const FP32: f64 = 4.0;

/// Bytes of a token's id.
const TOKEN_ID: f64 = 8.0;

/// The bytes that one token costs, by what for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerToken {
    /// What a layer keeps under the chosen recomputation.
    pub(crate) layer: f64,
    /// What a layer holds while its own gradients are computed, beyond what it kept.
    pub(crate) working: f64,
    /// What a part keeps beside its layers.
    pub(crate) first: f64,
    /// What the last part keeps before its logits.
    pub(crate) last: f64,
    /// What cross entropy keeps: the logarithms of the probabilities.
    pub(crate) logits: f64,
    /// What cross entropy needs beside that: two gradients of the logits.
    pub(crate) loss: f64,
}

impl PerToken {
    pub(crate) fn new(shape: &Shape, setting: &Setting, axes: &Axes) -> Self {
        let sizes = Sizes::new(shape, setting, axes);
        let (whole, selective, full) = (sizes.none(), sizes.selective(), sizes.full());
        let layer = match setting.recompute {
            Recompute::None => whole,
            Recompute::Selective => selective,
            Recompute::Full => full,
        };
        Self {
            layer,
            working: (whole - layer).max(0.0) + sizes.gradients(),
            first: TOKEN_ID + sizes.positions(shape.head_dim()) + sizes.mask,
            last: TOKEN_ID + sizes.norm() + sizes.c * sizes.h,
            logits: FP32 * sizes.v / sizes.tp,
            loss: 2.0 * FP32 * sizes.v / sizes.tp,
        }
    }
}

struct Sizes {
    h: f64,
    q: f64,
    k: f64,
    f: f64,
    a: f64,
    v: f64,
    c: f64,
    /// Residual stream: autocast leaves it in fp32, FSDP2's cast parameters bring it to the computation's.
    r: f64,
    tp: f64,
    cp: f64,
    autocast: bool,
    cpu: bool,
    kv_heads: f64,
    /// Bytes of a token's row of the mask between documents: none in the built-in model.
    mask: f64,
    traits: Traits,
}

impl Sizes {
    fn new(shape: &Shape, setting: &Setting, axes: &Axes) -> Self {
        let c = setting.compute_bytes();
        let autocast = setting.precision == Precision::Bf16
            && match setting.layout {
                Layout::Ddp => true,
                Layout::Fsdp2 | Layout::Zero1 | Layout::Zero2 | Layout::Zero3 => false,
                Layout::Mesh(_) => axes.readers == 1 && axes.shards == 1,
            };
        Self {
            h: shape.hidden_size as f64,
            q: shape.query_size() as f64,
            k: shape.kv_size() as f64,
            f: shape.intermediate_size as f64,
            a: shape.num_heads as f64,
            v: shape.vocab_size as f64,
            c,
            r: if autocast { FP32 } else { c },
            tp: axes.tp as f64,
            cp: axes.cp as f64,
            autocast,
            cpu: setting.device == Device::Cpu,
            kv_heads: shape.num_kv_heads as f64,
            mask: if shape.traits.transformers { f64::from(setting.sequence_length) } else { 0.0 },
            traits: shape.traits,
        }
    }

    /// A norm: its input and one statistic, `(rh + 4) ÷ tp`; on the CPU its normalised input too. Transformers norms
    /// in steps: the input in fp32 and the normalised input, `(4h + rh + 4) ÷ tp`, of Gemma both in fp32.
    fn norm(&self) -> f64 {
        if self.in_steps() {
            return (self.stepwise(self.h) + FP32) / self.tp;
        }
        if self.traits.norm_biases {
            // One kernel on the CPU too, with two statistics.
            return (self.r * self.h + 2.0 * FP32) / self.tp;
        }
        let normalised = if self.cpu { self.r * self.h } else { 0.0 };
        (self.r * self.h + normalised + FP32) / self.tp
    }

    /// Rotary positions in fp32, or the id of one that is learned.
    fn positions(&self, head_dim: u64) -> f64 {
        if self.traits.positions > 0 { TOKEN_ID } else { 2.0 * FP32 * head_dim as f64 }
    }

    fn in_steps(&self) -> bool {
        self.traits.transformers && !self.traits.norm_biases
    }

    /// What norms in steps keep of their inputs.
    fn stepwise(&self, width: f64) -> f64 {
        let gemma = self.traits.more_norms > 0;
        (FP32 + if gemma { FP32 } else { self.r }) * width
    }

    /// What both norms give, `2ch`: whole on every part of a tensor, gathered for the products that keep it.
    /// Autocast casts it for each of the five products on its own: `5ch`.
    fn normalised(&self) -> f64 {
        (if self.autocast { 5.0 } else { 2.0 }) * self.c * self.h
    }

    /// Nothing computed again: `2(rh + 4)/tp + 2ch + (c(2q + 2k + 4f) + 4a)/tp`. Of Transformers keys and values as
    /// wide as queries, a row of the mask in each layer (`cs`), five wide tensors where there is no gate, and what norms
    /// of queries and keys keep. Under `cp` keys and values are those of all parts.
    fn none(&self) -> f64 {
        let wide = if self.traits.ungated { 5.0 } else { 4.0 };
        let inner = self.c * (2.0 * self.q + self.keys_and_values() + wide * self.f) + FP32 * self.a;
        let of_heads = if self.traits.query_norms {
            self.stepwise(self.q + self.k) + FP32 * (self.a + self.kv_heads)
        } else {
            0.0
        };
        let norms = (2 + self.traits.more_norms) as f64 * self.norm();
        norms + self.normalised() + (inner + of_heads) / self.tp + self.c * self.mask * self.seen()
    }

    /// The width of the keys and values that attention keeps: `2k`, of Transformers as wide as queries. Under `cp` each
    /// token keeps those of all parts, `2k·cp`; Transformers repeats them for each chunk, up to its end, `q(2cp + 1)`.
    /// What both chunks give is put together too, `q`.
    fn keys_and_values(&self) -> f64 {
        match (self.traits.transformers, self.cp > 1.0) {
            (false, false) => 2.0 * self.k,
            (true, false) => 2.0 * self.q,
            (false, true) => 2.0 * self.k * self.cp + self.q,
            (true, true) => self.q * (2.0 * self.cp + 1.0) + self.q,
        }
    }

    /// The share of a sequence that both chunks of a rank see: all of it without `cp`, else `(2cp + 1)/4cp`.
    fn seen(&self) -> f64 {
        if self.cp > 1.0 { (2.0 * self.cp + 1.0) / (4.0 * self.cp) } else { 1.0 }
    }

    /// The layer's input, what attention gives, and every second matrix product: queries, values, the
    /// gate, the way down: `rh/tp + (c(2q + k + f) + 4a)/tp + ch`.
    ///
    /// Products of GPT-2 add as they multiply, and are none of those: `rh/tp + (cq + 4a)/tp`.
    fn selective(&self) -> f64 {
        if self.traits.ungated {
            return (self.r * self.h + self.c * self.q + FP32 * self.a) / self.tp;
        }
        let inner = self.c * (2.0 * self.q + self.k + self.f) + FP32 * self.a;
        (self.r * self.h + inner) / self.tp + self.c * self.h
    }

    /// The layer's input: `rh ÷ tp`.
    fn full(&self) -> f64 {
        self.r * self.h / self.tp
    }

    /// Gradients alive at once in the backward pass of a feed-forward block: of its product, both its
    /// factors and its input, and of the residual stream: `3cf/tp + ch + 2rh/tp`.
    fn gradients(&self) -> f64 {
        (3.0 * self.c * self.f + 2.0 * self.r * self.h) / self.tp + self.c * self.h
    }
}
