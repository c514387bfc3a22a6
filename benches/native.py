"""Native helper programs of the benchmarks: examples of the crate `tokens`, built in release mode."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {"FASTOKENS_BPE_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def example(name: str) -> Path:
    """Builds an example and returns its path."""
    command = ["cargo", "build", "--release", "--quiet", "--locked", "-p", "eagleray-tokens", "--example", name]
    subprocess.run(command, cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    return target / "release/examples" / name


def run(program: Path | str, *arguments: str) -> dict[str, Any]:
    """Runs a helper in a cold process with one thread; the JSON that it prints last."""
    environment = os.environ | ONE_THREAD
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def figure(name: str, values: list[float], unit: str) -> dict[str, Any]:
    """A figure over runs: the median, with the lowest and the highest."""
    return {"name": name, "value": statistics.median(values), "unit": unit, "low": min(values), "high": max(values)}
