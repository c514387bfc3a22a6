"""A small Llama-style causal language model: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

It is the reference that every strategy is tested against, so it holds no strategy code. Parameters are
drawn by name and seed, never in order of construction: two worlds of any size start from equal weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .model_config import ModelConfig

INIT_STD = 0.02


class Rope(nn.Module):
    """Rotary positions; `position_ids` restart at each document of a packed sample."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.theta = config.rope_theta

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of shape [batch, 1, sequence, head_dim] for positions [batch, sequence]."""
        exponents = torch.arange(0, self.head_dim, 2, device=position_ids.device, dtype=torch.float32) / self.head_dim
        angles = position_ids.to(torch.float32).unsqueeze(-1) * (self.theta**-exponents)
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
        return angles.cos(), angles.sin()


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies rotary positions to [batch, heads, sequence, head_dim], in float32."""
    wide = states.float()
    first, second = wide.chunk(2, dim=-1)
    rotated = wide * cos + torch.cat((-second, first), dim=-1) * sin
    return rotated.to(states.dtype)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, *, grouped: bool) -> Tensor:
    """Each query over the keys up to its own; [batch, heads, sequence, head_dim], of keys and values fewer heads."""
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)


class Attention(nn.Module):
    """Causal grouped-query attention over the whole packed sample."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.num_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, config.hidden_size, bias=False)
        self.grouped = config.num_kv_heads != config.num_heads
        # Who has a part of the sequence puts another in its place.
        self.attend: Callable[..., Tensor] = causal_attention

    def forward(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Maps [batch, sequence, hidden] to the same shape."""
        batch, sequence, _ = states.shape
        heads = [
            projection(states).view(batch, sequence, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        ]
        query, key, value = rotate(heads[0], cos, sin), rotate(heads[1], cos, sin), heads[2]
        mixed = self.attend(query, key, value, grouped=self.grouped)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, sequence, -1))
        return out


class SwiGlu(nn.Module):
    """The gated feed-forward block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Maps [batch, sequence, hidden] to the same shape."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(states)) * self.up_proj(states))
        return out


class Layer(nn.Module):
    """One transformer layer, normalised before each block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = SwiGlu(config)

    def forward(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Maps [batch, sequence, hidden] to the same shape."""
        states = states + self.attention(self.attention_norm(states), cos, sin)
        out: Tensor = states + self.mlp(self.mlp_norm(states))
        return out


class Llama(nn.Module):
    """Tokens and positions to logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rope = Rope(config)
        # By name, so that a model with a part of the layers calls them what the whole one does.
        self.layers = nn.ModuleDict({str(index): Layer(config) for index in range(config.num_layers)})
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        """Shares the embedding with the head where the config says so (again after a move off `meta`)."""
        if self.config.tie_embeddings and self.embedding is not None and self.head is not None:
            self.head.weight = self.embedding.weight

    def keep(self, layers: range, *, first: bool, last: bool) -> None:
        """Drops all layers but these, the embedding unless `first`, the last norm and the head unless `last`.

        What is left maps what the part before gives to what the part after takes.
        """
        for index in range(self.config.num_layers):
            if index not in layers:
                del self.layers[str(index)]
        if not first:
            self.embedding = None
        if not last:
            self.norm = self.head = None

    def forward(self, inputs: Tensor, position_ids: Tensor) -> Tensor:
        """Logits [batch, sequence, vocabulary] for tokens and positions [batch, sequence].

        Of a part of the model: from the hidden states of the part before, to those for the part after.
        """
        cos, sin = self.rope(position_ids)
        states = inputs if self.embedding is None else self.embedding(inputs)
        for layer in self.layers.values():
            states = layer(states, cos, sin)
        if self.head is None:
            return states
        out: Tensor = self.head(self.norm(states))
        return out


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The summed cross entropy of each sample, in float32, for logits [batch, sequence, vocabulary]."""
    flat = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
    return flat.view(labels.shape).sum(dim=1)


def initial_value(name: str, shape: torch.Size, seed: int, num_layers: int) -> Tensor:
    """The starting value of the parameter `name`: a function of seed and name alone, on the CPU."""
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    # Projections into the residual stream are scaled down by depth (GPT-2), so that its variance stays near one.
    into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
    std = INIT_STD / math.sqrt(2 * num_layers) if into_residual else INIT_STD
    return drawn(name, shape, seed, std)


def drawn(name: str, shape: torch.Size, seed: int, std: float) -> Tensor:
    """Normal values around 0 for the parameter `name`: a function of seed and name alone, on the CPU."""
    key = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def initialise(model: Llama, seed: int, place: Callable[[nn.Parameter, Tensor], None]) -> None:
    """Gives every parameter its starting value; `place` stores a whole tensor into a possibly sharded one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            place(parameter, initial_value(name, parameter.shape, seed, model.config.num_layers))


def num_parameters(config: ModelConfig) -> int:
    """Parameters of a model of this shape, the shared embedding counted once."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Llama(config).parameters())
