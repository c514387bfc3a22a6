"""One training, three ways to start it: `eagleray train`, torchrun with a plain script, stock Ray Train with the same.

For the benchmarks that compare them. The model, the tokens, the batch and the optimizer are the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
PEERS = CLONE / "benches" / "peers"
TAG = "EAGLERAY_BENCH_TAG"
LR, SEED = 3e-4, 17
NEVER = "1000000 steps"
# Only a hang is as slow as this.
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained, and by how many."""

    model: Mapping[str, int]
    world: int
    sequence_length: int
    global_batch: int
    micro_batch: int
    precision: str


# The shape of `llama-tiny` with the vocabulary of its quickstart.
SMALL = Setting(
    model={
        "vocab_size": 8192,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_layers": 4,
        "num_heads": 6,
        "num_kv_heads": 2,
    },
    world=2,
    sequence_length=256,
    global_batch=16,
    micro_batch=8,
    precision="fp32",
)


def spec_text(
    folder: Path, corpus: Path, setting: Setting, *, name: str, strategy: str, steps: int, save_every: str
) -> str:
    """The run spec of the contest."""
    model = ", ".join(f"{key}: {value}" for key, value in setting.model.items())
    return f"""\
version: 1
name: contest
seed: {SEED}
store: {folder}/{name}
data:
  tokenizer: {corpus}/tokenizer.json
  sequence_length: {setting.sequence_length}
  sources: {{sea: {{documents: {corpus}/train.jsonl}}}}
  built: {corpus}/built
model: {{config: {{{model}}}}}
train:
  strategy: {strategy}
  global_batch: {setting.global_batch}
  micro_batch: {setting.micro_batch}
  steps: {steps}
  optimizer: {{adamw: {{lr: {LR}}}}}
  precision: {setting.precision}
checkpoint: {{every: {save_every}, keep: {{last: 1}}}}
cluster: {{workers: {setting.world}}}
"""


@dataclass(kw_only=True)
class Contest:
    """Inputs in a folder, and whatever was started with them."""

    folder: Path
    strategy: str
    steps: int
    setting: Setting = SMALL
    started: list[Contender] = field(default_factory=list)

    def prepare(self) -> None:
        """Makes the corpus and builds its dataset, which the others then read as it lies."""
        sys.path.insert(0, str(CLONE / "tests" / "python"))
        from training import make_corpus

        corpus = self.folder / "corpus"
        corpus.mkdir()
        make_corpus(corpus)
        self._spec("build")
        subprocess.run(
            [_binary(), "tokens", "build", str(self.folder / "build.yaml")],
            check=True,
            stdout=sys.stderr,
            env=_environment(self.folder),
        )

    def ours(self, name: str, save_every: str = NEVER) -> Contender:
        """Starts `eagleray train`."""
        spec = self._spec(name, save_every)
        return self._start(name, [_binary(), "train", str(spec)])

    def torchrun(self, name: str) -> Contender:
        """Starts torchrun with the plain script."""
        settings = self._settings(name)
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={self.setting.world}",
        ]
        return self._start(name, [*launcher, str(PEERS / "plain.py"), str(settings)])

    def stock(self, name: str) -> Contender:
        """Starts stock Ray Train with the plain script's function."""
        return self._start(name, [sys.executable, str(PEERS / "stock.py"), str(self._settings(name))])

    def end(self) -> None:
        """Leaves nothing behind."""
        for contender in self.started:
            contender.end()

    def _spec(self, name: str, save_every: str = NEVER) -> Path:
        path = self.folder / f"{name}.yaml"
        corpus = self.folder / "corpus"
        wanted: Any = {"name": name, "strategy": self.strategy, "steps": self.steps, "save_every": save_every}
        text = spec_text(self.folder, corpus, self.setting, **wanted)
        path.write_text(text, encoding="utf-8")
        return path

    def _settings(self, name: str) -> Path:
        (tokens,) = self.folder.glob("corpus/built/*/shards/00000.bin")
        folder = self.folder / name
        folder.mkdir()
        settings = {
            "folder": str(folder),
            "peers": str(PEERS),
            "tokens": str(tokens),
            "model": self.setting.model,
            "strategy": self.strategy,
            "sequence_length": self.setting.sequence_length,
            "global_batch": self.setting.global_batch,
            "precision": self.setting.precision,
            "steps": self.steps,
            "lr": LR,
            "seed": SEED,
            "world": self.setting.world,
        }
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(settings), encoding="utf-8")
        return path

    def _start(self, name: str, command: list[str]) -> Contender:
        output = self.folder / f"{name}.out"
        tag = f"{os.getpid()}-{name}"
        # Ray's sockets want a short path.
        environment = _environment(self.folder) | {TAG: tag, "RAY_TMPDIR": f"{self.folder}/r{len(self.started)}"}
        began = time.time()
        with output.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
        contender = Contender(
            name=name, folder=self.folder / name, process=process, tag=tag, output=output, began=began
        )
        self.started.append(contender)
        return contender


@dataclass(kw_only=True)
class Contender:
    """A training that was started; `began` is when, in seconds since the epoch."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]
    tag: str
    output: Path
    began: float

    def processes(self) -> dict[int, str]:
        """Command lines of its processes, by pid."""
        return dict(tagged(self.tag))

    def workers(self) -> list[int]:
        """The pids of its ranks."""
        if moments := self.moments():
            return [int(told[0]["pid"]) for told in moments.values()]
        return [pid for pid, command in self.processes().items() if "RayTrainWorker" in command]

    def moments(self) -> dict[int, list[Mapping[str, Any]]]:
        """What the ranks of a plain script wrote, by rank: `started`, `joined`, `built`, and each `step`."""
        return {int(path.stem): _lines(path) for path in sorted(self.folder.glob("*.jsonl"))}

    def ledger(self) -> list[Mapping[str, Any]]:
        """The events of a run of ours."""
        from eagleray import _core

        events: list[Mapping[str, Any]] = json.loads(_core.read_ledger(str(self.folder)))
        return events

    def step_ends(self) -> list[float]:
        """When rank 0 ended each step, seconds since the epoch; of ours, as far as its ledger is written."""
        if moments := self.moments():
            return [moment["t"] for moment in moments.get(0, ()) if moment["name"] == "step"]
        return [event["end"] for event in self.ledger() if event["kind"] == "step" and event["rank"] == 0]

    def wait_for_steps(self, count: int) -> None:
        """Waits until so many steps are done."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.step_ends()) < count:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(
                    f"error: `{self.name}` did not get to step {count}:\n{self.output.read_text()[-4000:]}"
                )
            time.sleep(0.2)

    def wait(self) -> None:
        """Waits for the end, which must be a good one."""
        code = self.process.wait(timeout=PATIENCE_SECONDS)
        if code not in (0, 130):
            raise SystemExit(f"error: `{self.name}` ended with status {code}:\n{self.output.read_text()[-4000:]}")

    def signal_workers(self, number: signal.Signals) -> None:
        """A signal for all its ranks."""
        for pid in self.workers():
            os.kill(pid, number)

    def end(self) -> None:
        """Kills what is left of it."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def tagged(tag: str) -> Iterator[tuple[int, str]]:
    """Pids and command lines of what carries the tag."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if f"{TAG}={tag}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def _lines(path: Path) -> list[Mapping[str, Any]]:
    # The last line may be half written.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def _binary() -> str:
    return str(Path(sys.executable).parent / "eagleray")


def _environment(folder: Path) -> dict[str, str]:
    base = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "EAGLERAY_"))}
    return base | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
