"""Each sample's sequence in parts: a rank of `cp` has some tokens of every sample, attention alone looks beyond them.

A sequence is cut into `2·cp` chunks, of which rank `r` has the `r`-th from the front and the `r`-th from the end: of
causal attention, whose rows get longer, each rank so has as much as any other. Keys and values of all parts are
gathered before attention, and each chunk's queries see those up to their own; the gradients of what was gathered are
summed up on the way back. So it works on whatever device torch's collectives do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DeviceMesh
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from eagleray import _core

from .context import Tensors
from .layout import Axes
from .model import Llama

# The name in Transformers' table of attention functions.
_INTERFACE = "eagleray_cp"


class _Gather(torch.autograd.Function):
    """The tensors of all ranks of a group, one after another in a new first dim; gradients go back as their sum."""

    @staticmethod
    def forward(context: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:  # type: ignore[override]
        context.group = group
        whole = part.new_empty(group.size(), *part.shape)
        dist.all_gather_into_tensor(whole.view(-1), part.contiguous().view(-1), group=group)
        return whole

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        part = gradient.new_empty(gradient.shape[1:])
        dist.reduce_scatter_tensor(part.view(-1), gradient.contiguous().view(-1), group=context.group)
        return part, None


@dataclass(frozen=True, slots=True, kw_only=True)
class Zigzag:
    """What this rank has of every sequence: two of `2 · parts` chunks."""

    parts: int
    index: int
    group: dist.ProcessGroup

    @classmethod
    def of(cls, axes: Axes, device: torch.device) -> Zigzag:
        """This rank's parts; every rank of the world must ask, for the groups are made."""
        sizes = (dist.get_world_size() // (axes.cp * axes.tp), axes.cp, axes.tp)
        mesh = DeviceMesh(
            device.type, torch.arange(dist.get_world_size()).view(sizes), mesh_dim_names=("others", "cp", "tp")
        )
        return cls(parts=axes.cp, index=mesh.get_local_rank("cp"), group=mesh.get_group("cp"))

    @property
    def chunks(self) -> tuple[int, int]:
        """The chunks of this rank."""
        return self.index, 2 * self.parts - 1 - self.index

    def cut(self, whole: Tensor) -> Tensor:
        """This rank's part of [batch, sequence]."""
        chunks = whole.chunk(2 * self.parts, dim=1)
        return torch.cat([chunks[chunk] for chunk in self.chunks], dim=1)

    def part(self, tensors: Tensors) -> Tensors:
        """This rank's part of a micro batch. Positions, and what is told of its samples, stay those of the whole."""
        return dataclasses.replace(tensors, tokens=self.cut(tensors.tokens), labels=self.cut(tensors.labels))

    def whole(self, losses: Tensor) -> Tensor:
        """The losses of samples, of which each rank has those of its own tokens."""
        summed = losses.detach().clone()
        dist.all_reduce(summed, group=self.group)
        return summed

    def gather(self, *parts: Tensor) -> list[Tensor]:
        """Tensors [batch, heads, part, width] of all ranks as [batch, heads, sequence, width], in order."""
        batch, heads, length, width = parts[0].shape
        halves = torch.stack(parts).view(len(parts), batch, heads, 2, length // 2, width)
        gathered = _Gather.apply(halves, self.group)  # type: ignore[no-untyped-call]
        first, second = gathered.unbind(4)
        # [chunk, which, batch, heads, …]: the first halves from the front, the second from the end.
        chunks = torch.cat((first, second.flip(0)))
        whole = chunks.permute(1, 2, 3, 0, 4, 5).reshape(len(parts), batch, heads, self.parts * length, width)
        return list(whole.unbind(0))

    def rows(self, length: int) -> Iterator[tuple[slice, int]]:
        """For each chunk of this rank: its rows among the `length` of a part, and what of the sequence ends with it."""
        size = length // 2
        for place, chunk in enumerate(self.chunks):
            yield slice(place * size, (place + 1) * size), (chunk + 1) * size

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, grouped: bool) -> Tensor:
        """Causal attention of this rank's queries over all keys: of the built-in model, in place of its own."""
        key, value = self.gather(key, value)
        mixed = []
        for rows, seen in self.rows(query.shape[2]):
            queries = query[:, :, rows]
            mixed.append(
                functional.scaled_dot_product_attention(
                    queries,
                    key[:, :, :seen],
                    value[:, :, :seen],
                    attn_mask=_last_rows(queries.shape[2], seen, query.device),
                    enable_gqa=grouped,
                )
            )
        return torch.cat(mixed, dim=2)

    def mask(self, positions: Tensor, window: int | None) -> Tensor:
        """What this rank's queries see of the sequence, [batch, 1, part, sequence], by the positions of all of it.

        None after them, none beyond `window`, and none of another document: where positions restart, one begins.
        """
        order = torch.arange(positions.shape[1], device=positions.device)
        begins = functional.pad(positions[:, 1:] - positions[:, :-1] != 1, (1, 0))
        document = begins.cumsum(dim=1)
        mine = self.cut(order[None])[0]
        sees = order <= mine[:, None]
        if window is not None:
            sees = sees & (order > mine[:, None] - window)
        return (sees & (document[:, None, :] == self.cut(document)[:, :, None]))[:, None]


def _last_rows(rows: int, columns: int, device: torch.device) -> Tensor:
    """The last `rows` of causal attention over `columns`."""
    if device.type == "cuda":
        # No tensor: kernels of GPUs know these rows as they know the whole.
        return causal_lower_right(rows, columns)  # type: ignore[no-any-return]
    return torch.ones(rows, columns, dtype=torch.bool, device=device).tril(columns - rows)


def gather_keys(model: Llama, zigzag: Zigzag) -> None:
    """Has the attention of every layer look beyond this rank's part of a sequence, whose positions come whole."""
    model.rope.register_forward_pre_hook(lambda _, whole: (zigzag.cut(whole[0]),))
    for layer in model.layers.values():
        attention: Any = layer.attention
        attention.attend = zigzag.attend


def gather_keys_of_transformers(model: Any, zigzag: Zigzag) -> None:
    """The same of a model of Transformers, by its table of attention functions."""
    from transformers import AttentionInterface

    AttentionInterface.register(_INTERFACE, _attend)
    model.config._attn_implementation = _INTERFACE
    for module in model.modules():
        if hasattr(module, "q_proj"):
            module.zigzag = zigzag


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """Attention as Transformers calls it: each chunk of queries by its own function, over what it may see."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    zigzag: Any = module.zigzag
    key, value = zigzag.gather(key, value)
    attend: Callable[..., tuple[Tensor, None]] = sdpa_attention_forward
    mixed = [
        attend(
            module,
            query[:, :, rows],
            key[:, :, :seen],
            value[:, :, :seen],
            attention_mask[:, :, rows, :seen],
            **options,
        )[0]
        for rows, seen in zigzag.rows(query.shape[2])
    ]
    # Transformers' functions give [batch, sequence, heads, width].
    return torch.cat(mixed, dim=1), None


def require_even(sequence_length: int, axes: Axes) -> None:
    """Refuses sequences of which chunks would differ in length."""
    if sequence_length % (2 * axes.cp) != 0:
        raise _core.InvalidError(
            f"`cp` {axes.cp} cuts a sequence into {2 * axes.cp} chunks, and `data.sequence_length` {sequence_length} "
            f"does not divide; make it a multiple of {2 * axes.cp}"
        )
