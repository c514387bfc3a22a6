"""`build`: from `.jsonl.zst` to a finished dataset on one core, beside its steps done one by one.

The whole build (map, shuffle, reduce, publish) runs in a cold process with one thread; so does each step of the
chain alone: decode zstd, parse JSON, encode, write the shard. Whole and steps alternate, run by run. Rates are MB
of text for each CPU second; `share_of_chain` is the build's rate over that of the steps' CPU times summed.

    python benches/build.py [--runs 7] [--megabytes 100]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import fetch
import native

STEPS = ("decode", "json", "bpe", "write")
RUNS = 7
MEGABYTES = 100

# The build in a process of its own. Planning (finding files, proving the tokenizer) costs the same for any
# corpus, so it is a figure of its own.
WHOLE = """
import json, resource, sys, time
from eagleray import _core
resolved = open(sys.argv[1]).read()
def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
marks = [(cpu(), time.perf_counter())]
plan = _core.plan_build(resolved, "s", "train")
marks.append((cpu(), time.perf_counter()))
tasks = json.loads(plan)
for task in tasks["map"]:
    _core.run_map(json.dumps(task))
marks.append((cpu(), time.perf_counter()))
for task in tasks["reduce"]:
    _core.run_reduce(json.dumps(task))
_core.finish_build(plan)
marks.append((cpu(), time.perf_counter()))
names = ("plan", "map", "reduce")
print(json.dumps({name: {"cpu": b[0] - a[0], "wall": b[1] - a[1]} for name, a, b in zip(names, marks, marks[1:])}))
"""


def run(runs: int = RUNS, megabytes: int = MEGABYTES) -> dict[str, Any]:
    """Measures build and steps with GPT-2's tokenizer on Python code."""
    program = native.example("chain")
    tokenizer = str(fetch.gpt2())
    documents = fetch.texts("code", megabytes * 1_000_000)
    size = sum(len(text.encode()) for text in documents) / 1e6
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        packed = _corpus(folder, documents)
        resolved = folder / "resolved.json"
        resolved.write_text(json.dumps(_resolved(folder, tokenizer)), encoding="utf-8")
        whole: list[dict[str, dict[str, float]]] = []
        steps: dict[str, list[float]] = {step: [] for step in STEPS}
        for _ in range(runs):
            shutil.rmtree(folder / "built", ignore_errors=True)
            whole.append(native.run(sys.executable, "-c", WHOLE, str(resolved)))
            for step in STEPS:
                steps[step].append(native.run(program, step, tokenizer, str(packed))["cpu"])
    seconds = [taken["map"]["cpu"] + taken["reduce"]["cpu"] for taken in whole]
    walls = [taken["map"]["wall"] + taken["reduce"]["wall"] for taken in whole]
    chain = [sum(steps[step][i] for step in STEPS) for i in range(runs)]
    figures = [
        native.figure("mb_per_cpu_s", [size / s for s in seconds], "MB/s"),
        native.figure("mb_per_wall_s", [size / s for s in walls], "MB/s"),
        *(native.figure(f"{step}_mb_per_cpu_s", [size / s for s in steps[step]], "MB/s") for step in STEPS),
        native.figure("chain_mb_per_cpu_s", [size / s for s in chain], "MB/s"),
        native.figure("share_of_chain", [c / s for c, s in zip(chain, seconds, strict=True)], "share"),
        native.figure("plan_cpu_s", [taken["plan"]["cpu"] for taken in whole], "s"),
    ]
    return {"bench": "build", "figures": figures}


def _corpus(folder: Path, documents: list[str]) -> Path:
    """The documents as one `.jsonl.zst`, packed by the program that collects corpora."""
    raw = folder / "raw"
    raw.mkdir()
    for number, text in enumerate(documents):
        (raw / f"{number:06}.txt").write_text(text, encoding="utf-8")
    binary = Path(sys.executable).with_name("eagleray")
    command = [binary, "corpus", "collect", raw, "-o", folder / "corpus", "--suffix", ".txt", "--holdout", "0"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    packed = folder / "all.jsonl.zst"
    # Frames of zstd may follow each other in one object.
    packed.write_bytes(b"".join(path.read_bytes() for path in sorted((folder / "corpus/train").iterdir())))
    return packed


def _resolved(folder: Path, tokenizer: str) -> dict[str, Any]:
    data = {
        "tokenizer": tokenizer,
        "sequence_length": 2048,
        "shuffle_key": "bench",
        "text_default": "text",
        "long_documents": "split",
        "bad_records": {"max_fraction": 0.0},
        "built": str(folder / "built"),
        "sources": {"s": {"kind": "documents", "documents": [str(folder / "all.jsonl.zst")], "weight": 1.0}},
    }
    return {"spec": {"data": data}}


def main() -> None:
    """Runs the benchmark and prints its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES)
    options = parser.parse_args()
    result = run(options.runs, options.megabytes)
    for figure in result["figures"]:
        for key in ("value", "low", "high"):
            figure[key] = round(figure[key], 3)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
