"""What a run's ledger adds up to, for the driver's last words; the adding up is the core's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from eagleray import _core

from .console import Console

BINARY_SECONDS_MAX = 120


def told_before(store_url: str) -> tuple[int, list[dict[str, Any]]]:
    """The last step that any attempt took, since what a new one does again is recomputation; and all anomalies."""
    before = json.loads(_core.read_before(store_url))
    return int(before["reached"]), before["anomalies"]


def summary(store_url: str, name: str, outcome: str, step: int) -> dict[str, Any]:
    """The run in a few figures, with where everything lies."""
    account = json.loads(_core.account(store_url))
    base = store_url.rstrip("/")
    newest = _core.newest(store_url)
    kept = ("steps", "validation", "tokens_per_second", "shares", "attempts")
    figures = {key: account[key] for key in kept if key in account}
    return figures | {
        "name": name,
        "outcome": outcome,
        "step": step,
        "checkpoint": None if newest is None else f"{base}/{json.loads(newest)['dir']}",
        "ledger": f"{base}/ledger",
        "report": f"{base}/report/report.html",
    }


def report(store_url: str, console: Console) -> None:
    """Writes the report by the binary beside this Python; without one, says how to write it."""
    binary = _binary()
    if binary is None:
        console.say(
            f"no `eagleray` binary beside {sys.executable}; write the report with `eagleray report {store_url}`"
        )
        return
    done = _ran(binary, "report", store_url, "--format", "json")
    if done.returncode != 0:
        console.say(f"the report was not written: {done.stderr.strip()}")


def grow(console: Console) -> None:
    """Has the cluster of this pod ask for all the workers that it may have."""
    binary = _binary()
    done = None if binary is None else _ran(binary, "grow")
    if done is None or done.returncode != 0:
        why = f"no `eagleray` binary beside {sys.executable}" if done is None else done.stderr.strip()
        console.say(f"the cluster stays at its floor: {why}")
    else:
        console.say(done.stdout.strip())


def _ran(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=BINARY_SECONDS_MAX, check=False)


def _binary() -> str | None:
    beside = Path(sys.executable).parent / "eagleray"
    return str(beside) if beside.is_file() else shutil.which("eagleray")
