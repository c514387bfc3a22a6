"""`cli`: how long the native binary takes to start, to check a spec of 500 lines, to plan and to render a run on
1,000 nodes, to lint 500 objects, and to print its help.

Every run is a fresh process; the kinds of run alternate, so that what else the machine does falls on
all alike. Wall time is from just before the process is made to its end; CPU time and peak memory are the process's
own, but that the peak is never below this Python's, whose memory the process begins with.
`low` and `high` are the 10th and the 90th percentile.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNS = 200
SPEC_LINES = 500
LINT_OBJECTS = 500

HEAD = """\
version: 1
name: bench
seed: 17
store: runs/bench
model:
  preset: llama-70b
train:
  global_batch: 1024
  micro_batch: 1
  steps: 100_000
  optimizer:
    adamw:
      lr: 3.0e-4
      weight_decay: 0.1
checkpoint:
  every: 10m
data:
  tokenizer: tokenizer.json
  sequence_length: 8192
  built: built
  sources:
"""

SOURCE = """\
    source-{index:03}:
      # texts of one place, with the share they have
      documents:
        - s3://corpus/source-{index:03}/2025/**/*.jsonl.zst
        - s3://corpus/source-{index:03}/2026/**/*.jsonl.zst
      text: body.text
      filters:
        - length: {{min_chars: 200, max_chars: 1_000_000}}
        - script: {{hangul: {{min: 0.3}}}}
      weight: 0.{index:03}
"""

EKS = """\
version: 1
name: bench
store: s3://bench/run
data:
  tokenizer: s3://bench/tokenizer.json
  sequence_length: 8192
  sources: {text: {documents: s3://bench/corpus/*.jsonl.zst}}
model: {preset: llama-70b}
train: {global_batch: 8192, steps: 100_000, strategy: fsdp2}
cluster:
  workers: 8000
  eks:
    namespace: training
    image: bench:1
    cpu: {instance: m7i.8xlarge, nodes: 64}
    karpenter: {role: node, discovery: bench, ami: al2023@v20261112}
    queue: bench
    labels: {team: bench, model: bench, phase: pretrain}
    groups:
"""


def thousand_nodes() -> str:
    """A spec for EKS with 1,000 nodes in ten groups."""
    zones = ("us-east-2a", "us-east-2b")
    groups = [
        f"      - {{name: g{index}, instance: p5.48xlarge, zone: {zones[index % 2]}, nodes: 100}}\n"
        for index in range(10)
    ]
    return EKS + "".join(groups)


def generated_spec() -> str:
    """A spec that `check` accepts, of at least `SPEC_LINES` lines."""
    text = HEAD
    index = 1
    while text.count("\n") < SPEC_LINES:
        text += SOURCE.format(index=index)
        index += 1
    return text


def many_objects(program: str, spec: Path, folder: Path) -> int:
    """Renders `spec` under one name after the other until there are `LINT_OBJECTS` manifests; how many there are."""
    count = 0
    index = 0
    while count < LINT_OBJECTS:
        index += 1
        target = folder / str(index)
        names = ["--set", f"name=bench-{index}", "--set", f"cluster.eks.queue=bench-{index}"]
        command = [program, "render", str(spec), *names, "--kueue", "-o", str(target)]
        subprocess.run(command, check=True, capture_output=True)
        count += sum(1 for _ in target.rglob("*.yaml"))
    return count


def binary() -> Path:
    """The binary of this environment, else the one on the path."""
    beside = Path(sys.executable).with_name("eagleray")
    found = str(beside) if beside.exists() else shutil.which("eagleray")
    if found is None:
        raise SystemExit("error: there is no `eagleray` beside this Python\n  hint: install the package first")
    return Path(found)


def timed(command: list[str]) -> tuple[float, float, float]:
    """Wall and CPU milliseconds of one process, and its peak memory in MB."""
    silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    start = time.perf_counter()
    child = os.posix_spawn(command[0], command, os.environ, file_actions=silent)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - start
    if status != 0:
        raise SystemExit(f"error: `{' '.join(command)}` ended with status {os.waitstatus_to_exitcode(status)}")
    return wall * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3, usage.ru_maxrss * 1024 / 1e6


def figure(name: str, values: list[float], unit: str = "ms") -> dict[str, Any]:
    """The median with its spread."""
    tenths = statistics.quantiles(values, n=10)
    numbers = {"value": statistics.median(values), "low": tenths[0], "high": tenths[-1]}
    return {"name": name, "unit": unit, **{key: round(number, 2) for key, number in numbers.items()}}


def run() -> dict[str, Any]:
    """Runs the benchmark."""
    program = str(binary())
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "run.yaml")
        spec.write_text(generated_spec(), encoding="utf-8")
        cluster = Path(folder, "eks.yaml")
        cluster.write_text(thousand_nodes(), encoding="utf-8")
        objects = Path(folder, "objects")
        linted = many_objects(program, cluster, objects)
        commands = {
            "help": [program, "--help"],
            "check_500_lines": [program, "check", str(spec)],
            "plan_1000_nodes": [program, "plan", str(cluster)],
            "lint_500_objects": [program, "lint", str(objects)],
            "render_1000_nodes": [program, "render", str(cluster), "--kueue", "-o", str(Path(folder, "manifests"))],
            "true": [shutil.which("true") or "/bin/true"],
        }
        wall: dict[str, list[float]] = {name: [] for name in commands}
        cpu: dict[str, list[float]] = {name: [] for name in commands}
        peak: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, command in commands.items():
                taken = timed(command)
                wall[name].append(taken[0])
                cpu[name].append(taken[1])
                peak[name].append(taken[2])
    figures = [figure(f"{name}_ms", values) for name, values in wall.items()]
    figures += [figure(f"{name}_cpu_ms", values) for name, values in cpu.items()]
    figures += [figure(f"{name}_peak_mb", values, "MB") for name, values in peak.items()]
    figures.append({"name": "linted_objects", "unit": "objects", "value": linted})
    return {"bench": "cli", "figures": figures}


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
