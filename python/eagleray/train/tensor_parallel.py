"""Each tensor of a layer in parts: columns of what goes in, rows of what comes out, and the sequence in between.

The plan is torch's own: `parallelize_module` with column and row styles. Between the blocks each rank has a part of
the sequence (sequence parallel), so that norms and the residual stream are held once, not once a rank.
"""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from .model import Llama


def split_tensors(model: Llama, mesh: DeviceMesh) -> None:
    """Splits what this rank has of a model over `mesh`. Boundaries between stages stay parts of the sequence."""
    in_parts = Shard(1)
    for layer in model.layers.values():
        gathered = {"input_layouts": in_parts, "desired_input_layouts": Replicate()}
        parallelize_module(
            layer,
            mesh,
            {
                "attention_norm": SequenceParallel(),
                # Positions come whole.
                "attention": PrepareModuleInput(
                    input_layouts=(in_parts, None, None), desired_input_layouts=(Replicate(), None, None)
                ),
                "attention.q_proj": ColwiseParallel(),
                "attention.k_proj": ColwiseParallel(),
                "attention.v_proj": ColwiseParallel(),
                "attention.o_proj": RowwiseParallel(output_layouts=in_parts),
                "mlp_norm": SequenceParallel(),
                "mlp": PrepareModuleInput(**gathered),
                "mlp.gate_proj": ColwiseParallel(),
                "mlp.up_proj": ColwiseParallel(),
                "mlp.down_proj": RowwiseParallel(output_layouts=in_parts),
            },
        )
    ends = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=in_parts),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=in_parts, output_layouts=Shard(-1), use_local_output=False),
    }
    present = {name: style for name, style in ends.items() if getattr(model, name) is not None}
    if present:
        parallelize_module(model, mesh, present)
