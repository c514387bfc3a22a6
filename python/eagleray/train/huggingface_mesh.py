"""Models of Transformers in parts: tensors cut by Transformers' own plan (`tp`), layers dealt out to stages (`pp`).

The plan says which matrices are cut into columns and which into rows. As in the built-in model each rank has a part of
the sequence between the blocks: norms, which the plan leaves alone, see that part. Masks and rotary positions follow
from the position ids, so every stage makes its own.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from eagleray import _core

from .context_parallel import Zigzag, gather_keys_of_transformers

_IN_PARTS = Shard(1)
_FULL, _SLIDING = "full_attention", "sliding_attention"


def keep(model: Any, layers: range, *, first: bool, last: bool) -> None:
    """Drops all layers but these, the embedding unless `first`, the last norm and the head unless `last`.

    What is left has the names that it has in the whole model.
    """
    base = model.model
    base.layers = nn.ModuleDict({str(index): base.layers[index] for index in layers})
    if not first:
        base.embed_tokens = None
    if not last:
        base.norm = model.lm_head = None


def compute_in_parts(model: Any, zigzag: Zigzag | None) -> None:
    """Has what this rank has of a model take tokens or hidden states, and position ids, and give what comes next."""
    if zigzag is not None:
        gather_keys_of_transformers(model, zigzag)
    model.forward = functools.partial(_forward, model, zigzag)


def _forward(model: Any, zigzag: Zigzag | None, inputs: Tensor, position_ids: Tensor) -> Tensor:
    """As Transformers' own forward passes, which know neither stages nor parts of a sequence."""
    base = model.model
    states: Tensor = inputs if base.embed_tokens is None else base.embed_tokens(inputs)
    kinds = {index: _attention_kind(base.config, int(index)) for index, _ in base.layers.named_children()}
    masks = {kind: _mask(base.config, kind, states, position_ids, zigzag) for kind in set(kinds.values())}
    # Masks speak of the whole sequence, positions of what this rank has of it.
    positions = position_ids if zigzag is None else zigzag.cut(position_ids)
    rotary = {kind: _rotary(base, kind, states, positions) for kind in masks}
    for index, layer in base.layers.named_children():
        kind = kinds[index]
        states = layer(states, attention_mask=masks[kind], position_embeddings=rotary[kind], position_ids=positions)
    if model.lm_head is None:
        return states
    logits: Tensor = model.lm_head(base.norm(states))
    cap = getattr(base.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _attention_kind(config: Any, index: int) -> str:
    """How far a layer sees."""
    if config.model_type == "mistral":
        return _FULL if config.sliding_window is None else _SLIDING
    return str(config.layer_types[index]) if config.model_type in ("qwen3", "gemma3_text") else _FULL


def _mask(config: Any, kind: str, states: Tensor, position_ids: Tensor, zigzag: Zigzag | None) -> Any:
    """What each token sees: none after it, none of another document."""
    if zigzag is not None:
        return zigzag.mask(position_ids, config.sliding_window if kind == _SLIDING else None)
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

    make: Any = create_sliding_window_causal_mask if kind == _SLIDING else create_causal_mask
    # Only its shape, kind and device are asked for; of the sequence this rank may have a part.
    whole = states.new_empty(()).expand(*position_ids.shape, 1)
    return make(
        config=config, inputs_embeds=whole, attention_mask=None, past_key_values=None, position_ids=position_ids
    )


def _rotary(base: Any, kind: str, states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    # Gemma turns layers that see far more slowly.
    of_kind = (kind,) if base.config.model_type == "gemma3_text" else ()
    turned: tuple[Tensor, Tensor] = base.rotary_emb(states, position_ids, *of_kind)
    return turned


def split_tensors(model: Any, mesh: DeviceMesh) -> None:
    """Splits what this rank has of a model over `mesh`; a head that shares the embedding goes on sharing it."""
    tied = (
        model.lm_head is not None
        and model.model.embed_tokens is not None
        and model.lm_head.weight is model.model.embed_tokens.weight
    )
    for name, module in list(model.named_modules()):
        style = _style(name, module, model.tp_plan)
        if style is not None:
            parallelize_module(module, mesh, style)
    if tied:
        # Cutting made two of it, both in rows of the vocabulary.
        model.lm_head.weight = model.model.embed_tokens.weight


def _style(name: str, module: nn.Module, plan: dict[str, str]) -> ParallelStyle | None:
    """How a module is split; None where its parts see to that."""
    said = plan.get(_pattern(name))
    if any(plan.get(_pattern(f"{name}.{child}")) == "colwise" for child, _ in module.named_children()):
        return _GatheredInput()
    if not list(module.parameters(recurse=False)):
        return None
    match said:
        case "colwise":
            return ColwiseParallel()
        case "rowwise":
            return RowwiseParallel(output_layouts=_IN_PARTS)
        case "embedding_rowwise":
            return RowwiseParallel(input_layouts=Replicate(), output_layouts=_IN_PARTS)
        case "colwise_gather_output":
            # Left in parts of the vocabulary, which is how the loss takes them.
            return ColwiseParallel(input_layouts=_IN_PARTS, output_layouts=Shard(-1), use_local_output=False)
        case "replicated_with_grad_allreduce":
            # Each rank norms heads of its own; along which axis they would be put together does not matter.
            return SequenceParallel(use_local_output=True)
        case None if not isinstance(module, nn.Linear | nn.Embedding):
            return SequenceParallel(use_local_output=True)
    raise _core.InvalidError(
        f"`tp` follows Transformers' plan, which says `{said}` of `{name}`: this build does not know that; leave `tp` "
        "out of `train.strategy`"
    )


def _pattern(name: str) -> str:
    """The name as plans have it: `*` for the place of a layer."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


class _GatheredInput(ParallelStyle):
    """Gives a block the whole sequence, of which each rank has a part."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def gather(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
            # Transformers calls attention by names, what follows it without.
            if "hidden_states" in named:
                return inputs, named | {"hidden_states": whole(named["hidden_states"])}
            return (whole(inputs[0]), *inputs[1:]), named

        def whole(part: Tensor) -> Tensor:
            return DTensor.from_local(part, device_mesh, (_IN_PARTS,), run_check=False).redistribute(
                placements=(Replicate(),)
            )

        module.register_forward_pre_hook(gather, with_kwargs=True)
        return module
