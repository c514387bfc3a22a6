"""Runs of the real driver in tests: a tiny corpus, a tiny model, processes to kill, and the ledger to read."""

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
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagleray import _core
from package import PYTHON
from ranks import Ranks, faults

if TYPE_CHECKING:
    from eagleray.train.context import Context

SEQUENCE = 32
BATCH = 8
SCRIPTS = Path(__file__).parent / "scripts"
# In the environment of every process of a driver, to find them by.
TAG = "EAGLERAY_TEST_TAG"
# Only a hang is as slow as this; every wait below is for a condition.
PATIENCE_SECONDS = 400.0

WORDS = "the ray glides over warm sand and hides from the shark in a cloud of silt while small fish pick at its gills"


@dataclass(frozen=True)
class Corpus:
    """Text, held-out text and a tokenizer in one folder; `built` is shared by every run of the tests."""

    root: Path

    @property
    def built(self) -> Path:
        return self.root / "built"


def make_corpus(root: Path) -> Corpus:
    """A few hundred documents of a small vocabulary, the same every time; its datasets are not built."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    draw = random.Random(7)
    words = WORDS.split()

    def documents(count: int) -> list[str]:
        return [" ".join(draw.choices(words, k=draw.randint(20, 60))) for _ in range(count)]

    training = documents(600)
    for name, texts in (("train", training), ("held", documents(60))):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (root / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training, trainer)
    tokenizer.save(str(root / "tokenizer.json"))
    return Corpus(root)


def spec_text(corpus: Corpus, store: Path | str, **changes: Any) -> str:
    """A run spec; `changes` are the names below."""
    options = {
        "strategy": "ddp",
        "steps": 60,
        "workers": 2,
        "every": "10 steps",
        "seed": 5,
        "lr": 3e-3,
        "hidden_size": 32,
        "layers": 2,
        "precision": "fp32",
        "micro_batch": 2,
        "recompute": "none",
        "pipeline": "1f1b",
        "compile": "false",
        "offload": "none",
        "built": corpus.built,
        "documents": f"{corpus.root}/train.jsonl",
        "max_failures": 5,
        "function": "null",
        "metrics": "{}",
        "model": None,
        "anomalies": "{}",
        "deepspeed": "null",
    } | changes
    shape = (
        f"hidden_size: {options['hidden_size']}, intermediate_size: 64, num_layers: {options['layers']}, "
        "num_heads: 4, num_kv_heads: 2"
    )
    held = (
        "{}"
        if options["function"] != "null"
        else (f"{{held: {{documents: {corpus.root}/held.jsonl, every_steps: 50, samples: 16}}}}")
    )
    return f"""\
version: 1
name: tiny
seed: {options["seed"]}
store: {store}
data:
  tokenizer: {corpus.root}/tokenizer.json
  sequence_length: {SEQUENCE}
  sources:
    sea: {{documents: {options["documents"]}, weight: 1.0}}
  built: {options["built"]}
  validation: {held}
model: {options["model"] or f"{{config: {{{shape}}}}}"}
train:
  strategy: {options["strategy"]}
  global_batch: {BATCH}
  micro_batch: {options["micro_batch"]}
  steps: {options["steps"]}
  optimizer: {{adamw: {{lr: {options["lr"]}, betas: [0.9, 0.95], weight_decay: 0.1}}}}
  schedule: {{cosine: {{warmup_steps: 10, final_lr_ratio: 0.1}}}}
  precision: {options["precision"]}
  recompute: {options["recompute"]}
  pipeline: {options["pipeline"]}
  compile: {options["compile"]}
  offload: {options["offload"]}
  clip_grad_norm: 1.0
  anomalies: {options["anomalies"]}
  max_failures: {options["max_failures"]}
  function: {options["function"]}
  deepspeed: {options["deepspeed"]}
checkpoint:
  every: {options["every"]}
  keep: {{last: 100}}
metrics: {options["metrics"]}
cluster:
  workers: {options["workers"]}
"""


@dataclass
class Driver:
    """One driver process and everything below it."""

    process: subprocess.Popen[str]
    tag: str
    output: Path

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(timeout=PATIENCE_SECONDS)

    def text(self) -> str:
        """What it said so far, on both streams."""
        return self.output.read_text(encoding="utf-8")

    def pids(self, word: bytes) -> list[int]:
        """Processes of this driver whose command line holds `word`."""
        return [pid for pid, command in processes_with(TAG, self.tag) if word in command]

    def workers(self) -> list[int]:
        """Ray Train's workers."""
        return self.pids(b"RayTrainWorker")

    def kill(self) -> None:
        """SIGKILL to the driver alone."""
        self.process.kill()
        self.process.wait(timeout=PATIENCE_SECONDS)

    def end(self) -> None:
        """Leaves nothing behind."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for pid, _ in processes_with(TAG, self.tag):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def processes_with(variable: str, value: str) -> Iterator[tuple[int, bytes]]:
    """Pid and command line of each process with this variable in its environment (and not this one)."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if f"{variable}={value}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name), (entry / "cmdline").read_bytes()


class Account(ABC):
    """What happened in training, told by its events."""

    @abstractmethod
    def all_events(self) -> list[dict[str, Any]]:
        """Every event, in any order."""

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Events of a kind, in order of time."""
        found = sorted(self.all_events(), key=lambda event: event["t"])
        return [event for event in found if kind is None or event["kind"] == kind]

    def steps(self) -> list[dict[str, Any]]:
        """Rank 0's steps, in order of time; steps done twice are there twice."""
        return [event for event in self.events("step") if event["rank"] == 0]

    def history(self) -> dict[int, dict[str, Any]]:
        """The last word on each step."""
        return {event["step"]: event for event in self.steps()}

    def digests(self) -> dict[int, tuple[str, str]]:
        """Order and token digest of each step; a step done twice must have had the same."""
        seen: dict[int, tuple[str, str]] = {}
        for event in self.steps():
            pair = (event["order_digest"], event["token_digest"])
            assert seen.setdefault(event["step"], pair) == pair, f"step {event['step']} was not the same twice"
        return seen

    def loss_drift(self, other: Account) -> float:
        """The largest relative difference to another's loss at the same step; below 1e-5 is five digits."""
        mine, theirs = self.history(), other.history()
        assert mine.keys() == theirs.keys()
        drift: float = max(abs(event["loss"] / theirs[step]["loss"] - 1) for step, event in mine.items())
        return drift

    def data_wait_share(self) -> float:
        """The share of all ranks' steps that went by in wait for data."""
        steps = self.events("step")
        waited = sum(float(event["data_wait"]) for event in steps)
        return waited / sum(float(event["end"]) - float(event["start"]) for event in steps)


@dataclass
class Trained(Account):
    """What the loop told on every rank of a world without Ray."""

    told: list[dict[str, Any]]

    def all_events(self) -> list[dict[str, Any]]:
        return self.told


def train_in(ranks: Ranks, world: int, run: Run, **injected: Any) -> Trained:
    """Trains a run, whose datasets are built, in a world of the pool; `injected` are faults of the stores."""
    return Trained([event for told in ranks.run(world, _train, run.spec(), run.claim(), injected) for event in told])


def _train(
    rank: int, world: int, resolved: dict[str, Any], attempt: int, injected: dict[str, Any]
) -> list[dict[str, Any]]:
    from eagleray.train.loop import train
    from eagleray.train.own import run_function

    told: list[dict[str, Any]] = []
    with (
        faults(**injected) if injected else contextlib.nullcontext(),
        surroundings(rank, world, resolved, attempt, told) as context,
    ):
        if context.plan.function is not None:
            run_function(context, context.plan.function, context.clock.now())
        else:
            train(context, context.clock.now())
    return told


@contextlib.contextmanager
def surroundings(
    rank: int, world: int, resolved: dict[str, Any], attempt: int, told: list[dict[str, Any]]
) -> Iterator[Context]:
    """What the loop works with on a rank of a pool; what it tells is in `told` when the block has ended."""
    import torch

    from eagleray.train.console import Console
    from eagleray.train.datasets import ensure_datasets
    from eagleray.train.ledger import Clock, Reporter
    from eagleray.train.plan import plan_from
    from eagleray.train.worker import surroundings_of

    def push(events: list[dict[str, Any]], _durable: bool) -> dict[str, bool]:
        told.extend(events)
        return {}

    datasets = ensure_datasets(resolved, Console(), _unbuilt)
    reporter = Reporter(push, {"rank": rank, "generation": 0})
    try:
        yield surroundings_of(
            plan_from(resolved, datasets.urls, datasets.vocab_size),
            rank=rank,
            world=world,
            attempt=attempt,
            reached_step=0,
            device=torch.device("cpu"),
            clock=Clock(),
            reporter=reporter,
        )
    finally:
        reporter.close()


def _unbuilt() -> None:
    raise AssertionError("the datasets of this run are not built")


@dataclass
class Run(Account):
    """One run on a local store, with the drivers that worked on it."""

    store: Path
    resolved: Path
    drivers: list[Driver] = field(default_factory=list)

    def spec(self) -> dict[str, Any]:
        """The resolved spec."""
        found: dict[str, Any] = json.loads(self.resolved.read_text(encoding="utf-8"))
        return found

    def claim(self) -> int:
        """Claims an attempt for this process, whoever had it before."""
        claim = {"host": "test", "pid": os.getpid(), "take_over": True}
        return int(json.loads(_core.claim(str(self.store), json.dumps(claim)))["attempt"])

    def start(self, *arguments: str, **environment: str) -> Driver:
        """Starts a driver with the same command as ever."""
        scratch = tempfile.mkdtemp(prefix="er-")
        # No other driver's: by it one is ended, while those of other runs go on.
        tag = Path(scratch).name
        output = Path(scratch) / "output"
        base = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "EAGLERAY_"))}
        search = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(PYTHON)]))
        own = {"RAY_TMPDIR": f"{scratch}/r", TAG: tag, "PYTHONPATH": search}
        with output.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "eagleray.train", "--resolved", str(self.resolved), *arguments],
                env=base | own | environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        driver = Driver(process=process, tag=tag, output=output)
        self.drivers.append(driver)
        return driver

    def finish(self, *arguments: str, **environment: str) -> Driver:
        """Starts a driver and expects it to end well."""
        driver = self.start(*arguments, **environment)
        code = driver.wait()
        assert code == 0, driver.text()
        return driver

    def all_events(self) -> list[dict[str, Any]]:
        """The ledger so far; without what a superseded driver's workers still wrote."""
        found: list[dict[str, Any]] = json.loads(_core.read_ledger(str(self.store)))
        return found

    def commits(self) -> list[int]:
        """Steps with a committed checkpoint."""
        return sorted({int(path.parts[-3].removeprefix("step-")) for path in self.store.glob("checkpoints/*/*/COMMIT")})

    def seconds(self, cause: str) -> float:
        """Rank-seconds of a cause, from spans and steps."""
        spans = sum(event["end"] - event["start"] for event in self.events("span") if event["cause"] == cause)
        return float(spans) + sum(
            event.get(cause) or 0.0 for event in self.events("step") if event.get(cause) is not True
        )

    def end(self) -> None:
        """Ends whatever still runs and removes its scratch."""
        for driver in self.drivers:
            driver.end()
            shutil.rmtree(driver.output.parent, ignore_errors=True)


def wait_until(condition: Callable[[], Any], driver: Driver) -> Any:
    """Waits for the condition, which must come true while the driver lives."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        if result := condition():
            return result
        assert driver.process.poll() is None, f"the driver ended early:\n{driver.text()}"
        assert time.monotonic() < deadline, f"waited in vain:\n{driver.text()}"
        time.sleep(0.05)
