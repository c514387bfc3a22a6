"""The build on a real Ray: killed at any point, with any number of workers, it ends in the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eagleray import _core
from package import PYTHON

KILLS = 6
DEADLINE_SECONDS = 240


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough text for several map tasks and two shards, in plain and compressed objects."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    root = tmp_path_factory.mktemp("build")
    draw = random.Random(3)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz가나다", k=draw.randint(1, 9))) for _ in range(3000)]

    def texts(count: int) -> list[str]:
        return [" ".join(draw.choices(words, k=400)) for _ in range(count)]

    for number in range(4):
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts(11_000))
        (root / f"{number}.jsonl").write_text(lines, encoding="utf-8")
    (root / "one.txt").write_text("a file is a document\n" * 50, encoding="utf-8")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts(200), trainer)
    made.save(str(root / "tokenizer.json"))
    return root


def resolved(corpus: Path, built: Path | str) -> dict[str, Any]:
    documents = [str(corpus / "*.jsonl"), str(corpus / "one.txt")]
    data = {
        "tokenizer": str(corpus / "tokenizer.json"),
        "sequence_length": 128,
        "shuffle_key": "test",
        "text_default": "text",
        "long_documents": "split",
        "bad_records": {"max_fraction": 0.0},
        "built": str(built),
        "sources": {"s": {"kind": "documents", "documents": documents, "weight": 1.0}},
    }
    return {"spec": {"data": data}}


class Builder:
    """A builder process with a Ray of its own, which ends with it."""

    def __init__(self, corpus: Path, built: Path | str, workers: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="er-"))
        spec = self.folder / "resolved.json"
        spec.write_text(json.dumps(resolved(corpus, built)), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": str(PYTHON), "RAY_TMPDIR": str(self.folder / "ray")}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-m", "eagleray.data.build", "--resolved", str(spec), "--format", "json"]
        self.process = subprocess.Popen(
            [*command, "--workers", str(workers)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> str:
        out, err = self.process.communicate(timeout=DEADLINE_SECONDS)
        assert self.process.returncode == 0, f"{out}\n{err}"
        return str(json.loads(out)["datasets"]["s"])

    def end(self) -> None:
        """Kills the process and every process of its Ray, which run in the session it leads."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in _processes_naming(str(self.folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _processes_naming(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                parts = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
                if any(text.encode() in part for part in parts):
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def builder(corpus: Path, built: Path | str, workers: int) -> Iterator[Builder]:
    made = Builder(corpus, built, workers)
    try:
        yield made
    finally:
        made.end()


def objects(dataset: str) -> dict[str, bytes]:
    root = Path(dataset)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process without Ray makes of the corpus."""
    from eagleray.data.build import build

    built = tmp_path_factory.mktemp("reference")
    url = build(resolved(corpus, built), workers=0)["s"]
    assert json.loads(_core.verify_dataset(url))["documents"] == 44_001
    assert json.loads(_core.dataset_info(url))["shards"] > 1
    return objects(url)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_bytes(
    workers: int, corpus: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    with builder(corpus, tmp_path / "built", workers) as running:
        assert objects(running.finish()) == reference
    assert not list((tmp_path / "built/work").rglob("*.run"))


def test_killed_at_random_moments_it_goes_on_and_ends_in_the_same_bytes(
    corpus: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    built = tmp_path / "built"
    draw = random.Random(11)
    for _ in range(KILLS):
        with builder(corpus, built, 2) as running:
            # Wait for a moment of work rather than of starting Ray: some objects more than before.
            before = _count(built)
            until = before + draw.randint(1, 3)
            while _count(built) < until and running.process.poll() is None:
                time.sleep(0.02)
            time.sleep(draw.random() * 0.3)
        if list(built.glob("keys/*")):
            break
    with builder(corpus, built, 1) as running:
        assert objects(running.finish()) == reference


def _count(built: Path) -> int:
    return sum(1 for path in built.glob("work/*/**/*") if path.is_file())


def test_a_worker_that_is_killed_costs_its_task_and_not_the_build(
    corpus: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    built = tmp_path / "built"
    with builder(corpus, built, 2) as running:
        killed = 0
        while killed < 3 and running.process.poll() is None:
            for process in _processes_naming(str(running.folder)):
                with contextlib.suppress(OSError):
                    title = Path(f"/proc/{process}/cmdline").read_bytes()
                    if b"ray::" in title and b"run_step" in title:
                        os.kill(process, signal.SIGKILL)
                        killed += 1
                        break
            time.sleep(0.1)
        assert objects(running.finish()) == reference
    assert killed > 0


def test_two_builders_at_once_end_in_the_same_dataset(
    corpus: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    built = tmp_path / "built"
    with builder(corpus, built, 1) as one, builder(corpus, built, 1) as other:
        first, second = one.finish(), other.finish()
    assert first == second
    assert objects(first) == reference


def test_an_interrupt_ends_the_build_quietly_and_the_same_command_goes_on(
    corpus: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    built = tmp_path / "built"
    with builder(corpus, built, 2) as running:
        while _count(built) < 2 and running.process.poll() is None:
            time.sleep(0.02)
        running.process.send_signal(signal.SIGINT)
        _, err = running.process.communicate(timeout=DEADLINE_SECONDS)
        assert running.process.returncode == 130
        assert "Traceback" not in err
        assert "the same command goes on" in err
    assert not list(built.glob("keys/*"))
    with builder(corpus, built, 2) as running:
        assert objects(running.finish()) == reference


def test_an_error_in_a_worker_comes_back_as_ours_with_its_hint(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for path in corpus.glob("*.json*"):
        (tmp_path / "raw" / path.name).symlink_to(path)
    (tmp_path / "raw/one.txt").write_bytes(b"\xff")
    with builder(tmp_path / "raw", tmp_path / "built", 1) as running:
        out, err = running.process.communicate(timeout=DEADLINE_SECONDS)
    assert running.process.returncode == 1, err
    error = json.loads(out)["error"]
    assert error["kind"] == "invalid"
    assert "1 of 44001 records are bad" in error["message"]
    assert "one.txt` at byte 0 is not UTF-8" in error["message"]
    assert "max_fraction" in error["hint"]
