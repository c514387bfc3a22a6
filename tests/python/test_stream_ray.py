"""The stream behind Ray Train's own hook: what Ray must keep doing, and a real run of two workers."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eagleray import _core
from package import PYTHON
from test_stream import END, make_config

ray = pytest.importorskip("ray")


def test_configure_gives_every_rank_a_small_shard_that_opens_itself(tmp_path: Path) -> None:
    from eagleray.data.ray_train import StreamDataConfig

    data_config = pickle.loads(pickle.dumps(StreamDataConfig(make_config(tmp_path))))
    shards = data_config.configure(datasets={"train": None}, world_size=2, worker_handles=None, worker_node_ids=None)
    assert len(shards) == 2
    assert len(pickle.dumps(shards[1])) < 4096
    positions = [position for shard in shards for batch in shard["train"] for position in batch["positions"].tolist()]
    assert sorted(positions) == list(range(END))
    later = shards[0]["train"].open(rank=0, world=1, position=200)
    assert next(later)["positions"].tolist() == [200, 201, 202]


def test_ray_still_asks_configure_and_hands_over_what_it_returns() -> None:
    from ray.train import DataConfig
    from ray.train.v2._internal.data_integration.dataset_manager import DatasetManager

    parameters = inspect.signature(DataConfig.configure).parameters
    assert list(parameters)[:5] == ["self", "datasets", "world_size", "worker_handles", "worker_node_ids"]
    source = inspect.getsource(DatasetManager)
    assert "self._data_config.configure(" in source
    assert "_get_unsharded_dataset_iterator" in source


@pytest.fixture
def local_ray() -> Iterator[None]:
    """A Ray of this test, in a folder of its own."""
    folder = tempfile.mkdtemp(prefix="er-s")
    path = os.pathsep.join(filter(None, [str(PYTHON), os.environ.get("PYTHONPATH")]))
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=100_000_000,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=folder,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(280)
def test_two_workers_of_ray_train_share_every_step(local_ray: None, tmp_path: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from eagleray.data.ray_train import StreamDataConfig, streamed

    config = make_config(tmp_path / "data")
    folder = tmp_path / "seen"
    folder.mkdir()

    def train(settings: dict[str, Any]) -> None:
        import json
        from pathlib import Path

        import ray.train

        from eagleray import _core

        context = ray.train.get_context()
        shard = ray.train.get_dataset_shard("train")
        order, positions = 0, []
        for batch in shard:
            names = ("tokens", "labels", "positions", "source", "epoch", "index")
            order += _core.batch_digests(*(batch[name] for name in names))[0]
            positions += batch["positions"].tolist()
        found = {"order": order % 2**64, "positions": positions}
        (Path(settings["folder"]) / f"{context.get_world_rank()}.json").write_text(json.dumps(found))

    trainer = DataParallelTrainer(
        train,
        train_loop_config={"folder": str(folder)},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=str(tmp_path / "results")),
        datasets={"train": streamed},
        dataset_config=StreamDataConfig(config),
    )
    trainer.fit()
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert sorted(found[0]["positions"] + found[1]["positions"]) == list(range(END))
    assert 5 in found[1]["positions"]
    expected = _core.Order(json.dumps(config)).digest(0, END)
    assert (found[0]["order"] + found[1]["order"]) % 2**64 == expected
