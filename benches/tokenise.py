"""`tokenise`: CPU time of our engine against Hugging Face's, tokenizer by tokenizer and text by text.

Every measurement is a cold process with one thread that sees each document once; the two engines alternate. Ids
are compared before anything is timed. Time is that of encoding alone, without loading the tokenizer.

    python benches/tokenise.py [--runs 7] [--megabytes 16]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import fetch
import native

TEXTS = ("prose", "code", "korean", "chinese")
RUNS = 7
MEGABYTES = 16
# A cold process first fills its tables: below this, that is what would be measured.
MEGABYTES_MIN = 3


def run(runs: int = RUNS, megabytes: int = MEGABYTES) -> dict[str, Any]:
    """Measures every cell; a text or tokenizer that cannot be fetched is named under `skipped`."""
    program = native.example("tokenise")
    figures: list[dict[str, Any]] = []
    skipped: list[str] = []
    medians: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        for kind in TEXTS:
            try:
                documents = fetch.texts(kind, megabytes * 1_000_000, at_least=MEGABYTES_MIN * 1_000_000)
            except fetch.Missing as missing:
                skipped.append(f"{kind}: {missing}")
                continue
            files[kind] = Path(folder, f"{kind}.jsonl")
            files[kind].write_text("".join(json.dumps(text) + "\n" for text in documents), encoding="utf-8")
        for tokenizer, fetched in (("gpt2", fetch.gpt2), ("llama3_1", fetch.llama)):
            try:
                path = str(fetched())
            except fetch.Missing as missing:
                skipped.append(f"{tokenizer}: {missing}")
                continue
            for kind, file in files.items():
                figures += _cell(program, tokenizer, path, kind, file, runs)
                medians.append(figures[-1]["value"])
    if medians:
        figures.append(native.figure("ratio_to_hf_median", medians, "times"))
    return {"bench": "tokenise", "figures": figures, "skipped": skipped}


def _cell(program: Path, tokenizer: str, path: str, kind: str, file: Path, runs: int) -> list[dict[str, Any]]:
    engines = ("fastokens", "tokenizers")
    first = {engine: native.run(program, engine, path, str(file)) for engine in engines}
    if first["fastokens"]["ids"] != first["tokenizers"]["ids"]:
        raise SystemExit(f"error: `{tokenizer}` gives other ids on {kind}: the figures would mean nothing")
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    for _ in range(runs):
        for engine in engines:
            seconds[engine].append(native.run(program, engine, path, str(file))["cpu"])
    size = first["fastokens"]["bytes"] / 1e6
    name = f"{tokenizer}_{kind}"
    per_token = first["fastokens"]["bytes"] / first["fastokens"]["tokens"]
    return [
        {"name": f"{name}_mb", "value": size, "unit": "MB", "low": size, "high": size},
        {"name": f"{name}_bytes_per_token", "value": per_token, "unit": "B", "low": per_token, "high": per_token},
        native.figure(f"{name}_mb_per_cpu_s", [size / s for s in seconds["fastokens"]], "MB/s"),
        native.figure(f"{name}_hf_mb_per_cpu_s", [size / s for s in seconds["tokenizers"]], "MB/s"),
        native.figure(
            f"{name}_ratio_to_hf",
            [hf / ours for hf, ours in zip(seconds["tokenizers"], seconds["fastokens"], strict=True)],
            "times",
        ),
    ]


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
