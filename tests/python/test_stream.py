"""Streams from Python: equal at every world size, resumable, verified, and small."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eagleray import _core
from eagleray.data import SampleStream, stream_config
from eagleray.data.build import build
from package import PYTHON
from training import Corpus, spec_text

SEQUENCE = 32
END = 203


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two sources of three shards each, and a stream over them."""
    root = tmp_path_factory.mktemp("datasets")
    return make_config(root)


def make_config(root: Path | str) -> dict[str, Any]:
    draw = random.Random(5)
    sources = []
    for name, weight in (("web", 0.7), ("code", 0.3)):
        shards = [
            [[draw.randrange(1, 50_000) for _ in range(draw.randrange(1, 400))] for _ in range(40)] for _ in range(3)
        ]
        sources.append({"name": name, "url": _core.write_fixture_dataset(str(root), shards), "weight": weight})
    return {
        "sources": sources,
        "sequence_length": SEQUENCE,
        "seed": 11,
        "global_batch": 10,
        "micro_batch": 4,
        "end_position": END,
    }


def digests(batch: dict[str, Any]) -> tuple[int, int]:
    names = ("tokens", "labels", "positions", "source", "epoch", "index")
    order, token = _core.batch_digests(*(batch[name] for name in names))
    return int(order), int(token)


def rows(batch: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = ("positions", "source", "epoch", "index", "tokens", "labels", "position_ids")
    return [tuple(batch[name][i].tolist() for name in names) for i in range(len(batch["positions"]))]


def test_worlds_of_one_two_and_three_make_the_same_samples_and_the_digests_of_the_closed_form(
    config: dict[str, Any],
) -> None:
    order = _core.Order(json.dumps(config))
    made: dict[int, tuple[list[Any], dict[int, tuple[int, int]]]] = {}
    for world in (1, 2, 3):
        samples: list[Any] = []
        sums: dict[int, tuple[int, int]] = {}
        for rank in range(world):
            for batch in SampleStream(config | {"rank": rank, "world": world}):
                samples += rows(batch)
                step = batch["step_position"]
                old, new = sums.get(step, (0, 0)), digests(batch)
                sums[step] = ((old[0] + new[0]) % 2**64, (old[1] + new[1]) % 2**64)
        made[world] = (sorted(samples), sums)
    assert made[1] == made[2] == made[3]
    samples, sums = made[1]
    assert [row[0] for row in samples] == list(range(END))
    for step, (found, _) in sums.items():
        assert found == order.digest(step, min(step + 10, END))
    for position in (0, 17, 202):
        name, epoch, index = order.sample(position)
        assert order.position(name, epoch, index) == position


def test_arrays_own_their_memory_and_tensors_share_it(config: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    batch = next(SampleStream(config))
    assert batch["tokens"].shape == (4, SEQUENCE)
    assert batch["tokens"].dtype == batch["labels"].dtype == batch["position_ids"].dtype == np.int64
    assert batch["positions"].dtype == np.uint64
    assert batch["tokens"].flags.c_contiguous
    assert batch["tokens"].flags.writeable
    np.testing.assert_array_equal(batch["tokens"][:, 1:], batch["labels"][:, :-1])
    from eagleray.data.stream import tensors_of

    tensors = tensors_of(batch)
    assert tensors["tokens"].data_ptr() == batch["tokens"].ctypes.data
    assert torch.equal(tensors["tokens"], next(SampleStream(config).torch())["tokens"])


def test_a_rank_short_of_samples_makes_empty_batches_as_often_as_its_peers_make_full_ones(
    config: dict[str, Any],
) -> None:
    tail = config | {"position": 200, "world": 3, "micro_batch": 1}
    shapes = [[batch["tokens"].shape for batch in SampleStream(tail | {"rank": rank})] for rank in range(3)]
    assert shapes == [[(1, SEQUENCE)]] * 3
    tail |= {"position": 202}
    shapes = [[batch["tokens"].shape for batch in SampleStream(tail | {"rank": rank})] for rank in range(3)]
    assert shapes == [[(1, SEQUENCE)], [(0, SEQUENCE)], [(0, SEQUENCE)]]


def test_a_state_is_small_and_goes_on_where_it_was_taken(config: dict[str, Any]) -> None:
    stream = SampleStream(config)
    for _ in range(7):
        next(stream)
    state = stream.state_dict()
    assert len(json.dumps(state)) < 4096
    rest = [rows(batch) for batch in stream]
    resumed = SampleStream(config)
    next(resumed)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    assert [rows(batch) for batch in resumed] == rest
    with pytest.raises(_core.InvalidError, match="`seed`: expected 12, found 11"):
        SampleStream(config | {"seed": 12}).load_state_dict(state)


def test_one_changed_byte_stops_the_stream_with_the_place(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    shard = Path(config["sources"][0]["url"]) / "shards" / "00001.bin"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 4
    shard.write_bytes(content)
    with pytest.raises(_core.CorruptError, match=r"00001\.bin`: block 1 \(bytes 4096 to 8192\)"):
        list(SampleStream(config | {"end_position": 2000}))


def test_batch_digests_refuse_what_are_not_tokens(config: dict[str, Any]) -> None:
    batch = next(SampleStream(config))
    before = digests(batch)
    batch["tokens"][0, 3] += 1
    assert digests(batch)[0] == before[0]
    assert digests(batch)[1] != before[1]
    batch["tokens"][0, 3] = -5
    with pytest.raises(_core.CorruptError, match="no token ids"):
        digests(batch)


def test_a_slow_store_shows_in_the_waits(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGLERAY_STORE_FAULTS", json.dumps({"get_latency_ms": 20, "match": ".bin"}))
    slow = SampleStream(config | {"end_position": 20})
    assert sum(len(batch["positions"]) for batch in slow) == 20
    assert slow.stats()["waits"]["first_byte"] > 0.02


def test_reads_that_fail_are_tried_again(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGLERAY_STORE_FAULTS", json.dumps({"get_error_every": 5, "match": "shards/"}))
    short = config | {"end_position": 20}
    faulty = [rows(batch) for batch in SampleStream(short)]
    monkeypatch.delenv("EAGLERAY_STORE_FAULTS")
    assert faulty == [rows(batch) for batch in SampleStream(short)]


def run_python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(PYTHON), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path} | options
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_package_is_imported_without_torch_and_ray() -> None:
    code = """
        import sys
        import eagleray.data
        assert not {"torch", "ray"} & set(sys.modules), "imported"
    """
    process = run_python(code)
    output, _ = process.communicate()
    assert process.returncode == 0, output


def test_ctrl_c_ends_a_wait_for_a_store_that_does_not_answer(config: dict[str, Any]) -> None:
    code = """
        import sys
        from eagleray import _core
        stream = _core.Stream(sys.argv[1])
        try:
            print("waiting", flush=True)
            stream.next()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    faults = json.dumps({"get_latency_ms": 60_000, "match": "shards/"})
    process = run_python(code, json.dumps(config), EAGLERAY_STORE_FAULTS=faults)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert process.wait() == 0


def test_a_forked_child_is_told_to_open_its_own_stream(config: dict[str, Any]) -> None:
    code = """
        import os, sys
        from eagleray import _core
        stream = _core.Stream(sys.argv[1])
        stream.next()
        child = os.fork()
        if child == 0:
            try:
                stream.next()
            except _core.InvalidError as error:
                own = _core.Stream(sys.argv[1]).next()
                os._exit(0 if "forked" in str(error) and own is not None else 3)
            os._exit(4)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    process = run_python(code, json.dumps(config))
    output, _ = process.communicate()
    assert process.returncode == 0, output


def test_torchrun_gives_rank_and_world(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tmp_path / "run.yaml"
    spec.write_text(spec_text(corpus, tmp_path / "store", built=tmp_path / "built", steps=10), encoding="utf-8")
    with pytest.raises(_core.NotFoundError, match="`sea` is not built"):
        stream_config(spec)
    build(json.loads(_core.resolve_spec(str(spec), [])), workers=0, progress=lambda _line, _last: None)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = stream_config(spec)
    assert (made["rank"], made["world"], made["end_position"]) == (1, 2, 80)
    positions = [batch["positions"].tolist() for batch in SampleStream(made)][:6]
    assert positions == [[4, 5], [6, 7], [12, 13], [14, 15], [20, 21], [22, 23]]
