"""`resume`: time and memory to the first batch, at any position and for any number of samples.

Datasets of 10⁶ and 10⁹ samples of 32 tokens list one real shard of 64 million tokens once and 500 times over:
every read and checksum is real. What grows is the manifest, of which a shard is decoded when it is asked for.

Each measurement is a fresh process that opens a stream at position 0 or 10⁹ and takes one batch; the cases
alternate. Time is from the call that opens the stream to the batch in hand; memory is the peak of the
process, Python and numpy included. The files are in the page cache. `low` and `high` are the 10th and the
90th percentile, `value` is the median. The ratios compare the fastest run of each case: a few milliseconds are
at the mercy of whatever else the machine does, and the cases differ in work, not in luck.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RUNS = 21
SEQUENCE = 32
SHARD_TOKENS = 64_000_000
SAMPLES = (10**6, 10**9)
POSITIONS = (0, 10**9)

# numpy is imported, and has made an array, before the clock starts: its import would hide everything else.
# The peak is that of this program's own memory; `ru_maxrss` keeps that of the process it was forked from.
CHILD = """
import json, sys, time
import numpy
from eagleray import _core
zeros = numpy.zeros((1, 1), dtype=numpy.int64), numpy.zeros(1, dtype=numpy.uint64)
_core.batch_digests(zeros[0], zeros[0], *([zeros[1]] * 4))
began = time.perf_counter()
stream = _core.Stream(sys.argv[1])
batch = stream.next()
seconds = time.perf_counter() - began
assert batch["tokens"].shape == (8, 32) and batch["positions"][0] == json.loads(sys.argv[1])["position"]
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps([seconds * 1e3, int(peak.split()[1]) / 1024]))
stream.close()
"""


def run() -> dict[str, Any]:
    """Figures of all cases, and how far the worst is from the best."""
    with tempfile.TemporaryDirectory(prefix="er-bench-") as folder:
        urls = {samples: _dataset(Path(folder) / str(samples), samples) for samples in SAMPLES}
        cases = [(samples, position) for samples in SAMPLES for position in POSITIONS]
        measured: dict[tuple[int, int], list[tuple[float, float]]] = {case: [] for case in cases}
        for case in cases:
            _measure(urls[case[0]], case[1])
        for _ in range(RUNS):
            for case in cases:
                measured[case].append(_measure(urls[case[0]], case[1]))
    figures = []
    for which, name, unit in ((0, "first_batch_ms", "ms"), (1, "rss_mb", "MiB")):
        best = []
        for (samples, position), runs in measured.items():
            values = sorted(run[which] for run in runs)
            best.append(values[0])
            figures.append(_figure(f"{name}_of_{_power(samples)}_at_{_power(position)}", unit, values))
        ratio = max(best) / min(best)
        figures.append({"name": f"{name}_worst_over_best", "value": ratio, "unit": "ratio", "low": None, "high": None})
    return {"bench": "resume", "figures": figures}


def _dataset(folder: Path, samples: int) -> str:
    from eagleray import _core

    times = -(-samples * SEQUENCE // SHARD_TOKENS)
    return str(_core.write_repeated_dataset(str(folder), SHARD_TOKENS, times))


def _measure(url: str, position: int) -> tuple[float, float]:
    config = {
        "sources": [{"name": "web", "url": url, "weight": 1.0}],
        "sequence_length": SEQUENCE,
        "seed": 17,
        "global_batch": 8,
        "micro_batch": 8,
        "position": position,
        "prefetch_bytes": 1 << 20,
    }
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    made = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(config)], env=environment, check=True, capture_output=True, text=True
    )
    milliseconds, rss = json.loads(made.stdout)
    return milliseconds, rss


def _power(number: int) -> str:
    return "0" if number == 0 else f"1e{len(str(number)) - 1}"


def _figure(name: str, unit: str, values: list[float]) -> dict[str, Any]:
    tenth = len(values) // 10
    median = statistics.median(values)
    return {"name": name, "value": median, "unit": unit, "low": values[tenth], "high": values[-1 - tenth]}


if __name__ == "__main__":
    json.dump(run(), sys.stdout, indent=2)
