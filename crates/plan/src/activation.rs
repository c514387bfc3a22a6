//! What a token leaves on a device between its forward and its backward pass.
//!
//! The names are those of `docs/memory.md`: `h` hidden, `q` and `k` the widths of queries and of keys,
//! `f` intermediate, `a` heads, `V` vocabulary; `c` bytes of the computation, `r` bytes of the residual
//! stream. Attention keeps no matrix of scores: it is one kernel that computes them again.

use eagleray_spec::types::{Precision, Recompute};

use crate::setting::{Axes, Device, Layout, Setting};
use crate::shape::Shape;

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
            first: TOKEN_ID + 2.0 * FP32 * shape.head_dim() as f64,
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
    autocast: bool,
    cpu: bool,
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
            autocast,
            cpu: setting.device == Device::Cpu,
        }
    }

    /// A norm: its input and one statistic, `(rh + 4) ÷ tp`; on the CPU its normalised input too.
    fn norm(&self) -> f64 {
        let normalised = if self.cpu { self.r * self.h } else { 0.0 };
        (self.r * self.h + normalised + FP32) / self.tp
    }

    /// What both norms give, `2ch`: whole on every part of a tensor, gathered for the products that keep it.
    /// Autocast casts it for each of the five products on its own: `5ch`.
    fn normalised(&self) -> f64 {
        (if self.autocast { 5.0 } else { 2.0 }) * self.c * self.h
    }

    /// Nothing computed again: `2(rh + 4)/tp + 2ch + (c(2q + 2k + 4f) + 4a)/tp`.
    fn none(&self) -> f64 {
        let inner = self.c * (2.0 * self.q + 2.0 * self.k + 4.0 * self.f) + FP32 * self.a;
        2.0 * self.norm() + self.normalised() + inner / self.tp
    }

    /// The layer's input, what attention gives, and every second matrix product: queries, values, the
    /// gate, the way down: `rh/tp + (c(2q + k + f) + 4a)/tp + ch`.
    fn selective(&self) -> f64 {
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
