"""Samples by position: a rank's stream of verified batches, without torch and without Ray.

    from eagleray.data import stream

    for batch in stream("run.yaml", rank=0, world=2):
        batch["tokens"]  # int64 [b, sequence_length], batch["labels"] as well

`eagleray.data.ray_train` puts the same stream behind `ray.train.get_dataset_shard`.
"""

from __future__ import annotations

from .stream import Batch, SampleStream, TorchStream, stream, stream_config

__all__ = ["Batch", "SampleStream", "TorchStream", "stream", "stream_config"]
