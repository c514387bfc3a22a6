"""`./dev quickstart`: the main job on real text, in the commands that a user would type next."""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import build
import environment
import inputs
from place import CLONE, Failed, run, say, shown

RUN = "runs/quickstart"
MARGIN_NATS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much text and how many steps."""

    text: str
    overrides: tuple[str, ...]


FULL = Size(text="48MB", overrides=())
# For CI: two minutes instead of ten, the same commands.
SHORT = Size(
    text="24MB",
    overrides=(
        "train.steps=120",
        "train.schedule.cosine.warmup_steps=10",
        "data.validation.held-out.every_steps=40",
        "data.validation.held-out.samples=64",
        "checkpoint.every=40 steps",
    ),
)


class Steps:
    """Runs the commands of the quickstart in its folder, each once: what is done is remembered there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory = folder / ".done.json"
        self._done: list[str] = json.loads(self._memory.read_text()) if self._memory.exists() else []

    def run(self, *command: str | Path, again: bool = False) -> None:
        """Prints and runs; with `again` also where it was run before, for what goes on by itself."""
        text = shown(command)
        if text in self._done and not again:
            say(f"$ {text}   # done before")
            return
        say(f"\n$ {text}")
        words = [str(word) for word in command]
        status = subprocess.run(words, cwd=self._folder, env=environment.environment()).returncode
        if status != 0:
            raise Failed(f"`{text}` ended with status {status}; `./dev quickstart` goes on from here", abs(status))
        self._done.append(text)
        self._memory.write_text(json.dumps(self._done, indent=1))


def main(words: list[str]) -> None:
    """Parses the arguments and runs the quickstart."""
    parser = argparse.ArgumentParser(prog="./dev quickstart", description=__doc__)
    parser.add_argument("--short", action="store_true", help="less text and fewer steps: about two minutes")
    parser.add_argument("--dir", type=Path, default=CLONE / "quickstart", help="where (default: %(default)s)")
    arguments = parser.parse_args(words)
    folder = arguments.dir.absolute()
    build.install()
    text = inputs.corpus_folder()
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / RUN / "report" / "report.json"
    if (folder / ".complete").exists() and report.exists():
        say(f"\nThe run in {folder} is complete. To start anew: rm -r {folder}")
    else:
        say(f"\nEverything below happens in {folder}. To type it yourself:")
        say(f"  . {environment.VENV / 'bin' / 'activate'} && cd {folder}")
        _commands(Steps(folder), text, SHORT if arguments.short else FULL)
        (folder / ".complete").touch()
    _summary(folder, json.loads(report.read_text()))


def _commands(steps: Steps, text: Path, size: Size) -> None:
    changes = [word for override in size.overrides for word in ("--set", override)]
    suffixes = "--suffix=.py,.yml,.yaml,.md,.rst"
    steps.run("eagleray", "init", ".", "--name", "quickstart")
    limit = f"--max-bytes={size.text}"
    steps.run("eagleray", "corpus", "collect", text, "-o", "corpus", suffixes, "--holdout=0.03", limit)
    train_files = ["corpus/train/*.jsonl.zst", "-o", "tokenizer.json", "--vocab-size=8192"]
    steps.run("eagleray", "tokenizer", "train", *train_files)
    steps.run("eagleray", "check", "run.yaml", *changes)
    steps.run("eagleray", "tokens", "build", "run.yaml", *changes)
    steps.run("eagleray", "train", "run.yaml", *changes, again=True)
    steps.run("eagleray", "report", RUN, again=True)


def _summary(folder: Path, report: dict[str, Any]) -> None:
    losses = report["validation"]["loss"]
    entropy = _unigram_entropy(folder / "built")
    gain = entropy - losses[-1]
    say(f"\nvalidation loss   {losses[0]:.3f} at first, {losses[-1]:.3f} after {report['steps']} steps")
    say(f"unigram entropy   {entropy:.3f} of the tokens trained on: the model is {gain:.3f} nat better")
    for name, path in (
        ("run spec", "run.yaml"),
        ("token datasets", "built"),
        ("checkpoints", f"{RUN}/checkpoints"),
        ("ledger", f"{RUN}/ledger"),
        ("report", f"{RUN}/report/report.html"),
    ):
        say(f"{name:<17} {folder / path}")
    if gain < MARGIN_NATS:
        raise Failed(f"expected a final validation loss at least {MARGIN_NATS} nat below the unigram entropy")


def _unigram_entropy(built: Path) -> float:
    """In nats, of the largest dataset; counted by the environment's Python, which has numpy."""
    command = [str(environment.PYTHON), str(CLONE / "tools" / "unigram.py"), str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        run(command)
    return float(done.stdout)
