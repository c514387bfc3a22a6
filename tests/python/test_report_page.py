"""The report's page in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from eagleray import _core

BROWSER_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=3000",
)


def write_run(store: str) -> None:
    """Two attempts: the first dies after step 40, the second goes on from step 30 and ends."""
    for attempt, (first, last, begin) in enumerate([(1, 40, 1_795_500_000.0), (31, 80, 1_795_500_100.0)], start=1):
        claim = {"format": "eagleray.claim", "format_version": 1, "attempt": attempt, "host": "h", "pid": 1 << 30}
        claim |= {"claimed_us": int(begin * 1e6), "pid_started": None, "resumed_from": None}
        _core.Store(store).put(f"attempts/{attempt:04}.json", json.dumps(claim).encode())
        ledger = _core.Ledger(store, attempt, "driver")
        common = {"attempt": attempt, "writer": "driver", "generation": 0}
        ledger.append(json.dumps({"t": begin, "kind": "generation", "world": 1, **common}))
        for step in range(first, last + 1):
            start = begin + 2 + (step - first)
            event = {"t": start + 1, "kind": "step", "rank": 0, "step": step, "start": start, "end": start + 1}
            event |= {"data_wait": 0.01, "compute": 0.98, "checkpoint_stall": 0.0, "recompute": step <= 40 and attempt == 2}
            event |= {"loss": 9 - step / 20, "tokens": 4096, "order_digest": f"{step:016x}", "token_digest": "0" * 16}
            ledger.append(json.dumps(event | common))
            if step % 10 == 0:
                held = {"t": start + 1, "kind": "validation", "name": "held-out", "step": step, "loss": 9 - step / 21}
                ledger.append(json.dumps(held | common))
        ledger.flush()
    _core.finish(store, 2, json.dumps({"outcome": "completed", "step": 80}))


@pytest.fixture
def binary() -> str:
    beside = Path(sys.executable).parent / "eagleray"
    return str(beside)


def test_the_page_draws_itself_from_one_file(tmp_path: Path, binary: str) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser: chromium is not a wheel, so only machines that have it run this test")
    store = str(tmp_path / "run")
    write_run(store)
    told = subprocess.run([binary, "report", store], capture_output=True, text=True, check=True).stdout
    assert "80 of" in told and "recompute" in told
    page = tmp_path / "run" / "report" / "report.html"
    command = [browser, *BROWSER_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert dom.count("<svg") == 3, "loss, time and speed are drawn"
    for shown in ("Where the time went", "attempt 2", "recompute", "held-out", "completed"):
        assert shown in dom
    assert "NaN" not in dom.split("</script>")[-1]


def test_report_json_holds_what_other_programs_read(tmp_path: Path, binary: str) -> None:
    store = str(tmp_path / "run")
    write_run(store)
    told = subprocess.run([binary, "report", store, "--format", "json"], capture_output=True, text=True, check=True)
    report = json.loads(told.stdout)
    assert report == json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert report["steps"] == 80
    assert report["validation"]["steps"] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert len(report["validation"]["loss"]) == 8
    assert report["tokens_per_second"] == pytest.approx(4096)
    assert sum(report["shares"].values()) == pytest.approx(1)
    assert report["shares"]["recompute"] > 0 and report["shares"]["idle"] > 0
    assert [row["outcome"] for row in report["attempts"]] == ["unfinished", "completed"]
    assert report["state"] == "completed"


def test_runs_and_reports_name_what_is_not_a_run(tmp_path: Path, binary: str) -> None:
    done = subprocess.run([binary, "report", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not a run's store" in done.stderr and "hint" in done.stderr
    write_run(str(tmp_path / "a"))
    listed = subprocess.run([binary, "runs", str(tmp_path), "--format", "json"], capture_output=True, text=True, check=True)
    assert [(run["state"], run["steps"]) for run in json.loads(listed.stdout)["runs"]] == [("completed", 80)]
