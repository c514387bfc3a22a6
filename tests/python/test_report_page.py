"""What `report`, `runs` and `checkpoint` make of a run's store, and the report's page in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from made_run import BEGAN, MadeRun

STEPS = 600
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


def eagleray(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The binary beside this Python."""
    binary = Path(sys.executable).parent / "eagleray"
    return subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)


def told(*arguments: str | Path) -> Any:
    done = eagleray(*arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(*arguments: str | Path) -> str:
    done = eagleray(*arguments)
    assert done.returncode == 1
    return done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two attempts; no test changes it but by its report."""
    return MadeRun(tmp_path_factory.mktemp("runs") / "run", steps=STEPS).make()


def test_report_json_holds_what_other_programs_read(run: Path) -> None:
    report = told("report", run)
    assert report == json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    assert (report["name"], report["state"]) == ("made-run", "completed")
    assert (report["steps"], report["steps_planned"]) == (STEPS, STEPS)
    assert report["validation"]["steps"] == [0, 500]
    assert report["validation"] == report["validation_by_name"]["web-ko"], "the first of the spec"
    assert report["train_loss"]["steps"] == list(range(1, STEPS + 1)), "steps done again count once"
    assert report["tokens"] == STEPS * 64 * 512
    assert report["tokens_per_second"] == pytest.approx(64 * 512 / 0.38, rel=0.05)
    assert sum(report["shares"].values()) == pytest.approx(1)
    assert all(report["shares"][cause] > 0 for cause in ("recompute", "idle", "detection", "reform", "load"))
    assert report["shares"]["unattributed"] < 0.02
    assert report["digests"]["steps"] == STEPS
    assert [row["outcome"] for row in report["attempts"]] == ["died", "completed"]
    assert [row["steps_recomputed"] for row in report["attempts"]] == [80, 140]
    assert [saved["step"] for saved in report["checkpoints"]] == [250, 500]


def test_the_report_says_in_a_few_lines_what_happened(run: Path, tmp_path: Path) -> None:
    text = eagleray("report", run, "--output", tmp_path / "elsewhere").stdout
    for line in ("steps        600 of 600", "attempt 2 from step 250, 140 steps done again", "killed by signal 9"):
        assert line in text
    assert (tmp_path / "elsewhere" / "report.html").is_file()


def test_a_copied_run_reads_like_the_first(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    assert told("report", copy)["digests"] == told("report", run)["digests"]
    assert len(told("checkpoint", "verify", copy, "--all")["verified"]) == 2


def test_runs_lists_what_each_run_has_come_to(run: Path) -> None:
    folder = run.parent
    dead = MadeRun(folder / "dead", name="dead-run", steps=STEPS).make(outcome=None)
    for flushed in dead.glob("ledger/*/*"):
        os.utime(flushed, (BEGAN, BEGAN))
    damaged = MadeRun(folder / "damaged", steps=STEPS).make()
    (damaged / "attempts" / "0001.json").write_text("{", encoding="utf-8")
    rows = told("runs", folder)["runs"]
    assert [row.get("state") for row in rows] == [None, "dead", "completed"]
    assert "0001.json" in rows[0]["error"]
    assert [(row["steps"], row["checkpoint_step"]) for row in rows[1:]] == [(STEPS, 500), (STEPS, 500)]
    assert "dead-run" in eagleray("runs", folder).stdout


def test_checkpoints_are_listed_and_a_flipped_byte_is_named(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    saves = told("checkpoint", "ls", copy)["saves"]
    assert [(save["step"], save["attempt"], save["newest"]) for save in saves] == [(250, 1, False), (500, 2, True)]
    save = copy / saves[-1]["dir"]
    assert told("checkpoint", "verify", save)["verified"][0]["step"] == 500
    data = bytearray((save / "__0_0.distcp").read_bytes())
    data[3] ^= 1
    (save / "__0_0.distcp").write_bytes(data)
    message = refused("checkpoint", "verify", copy)
    assert "__0_0.distcp" in message and "expected crc32c" in message and "hint" in message


def test_what_is_not_a_run_is_refused_by_name(tmp_path: Path) -> None:
    for arguments in (("report",), ("checkpoint", "ls")):
        message = refused(*arguments, tmp_path)
        assert f"`{tmp_path}` is not a run's store" in message and "hint" in message
    assert "has no checkpoint" in refused("checkpoint", "verify", tmp_path)
    assert "there is no folder" in refused("runs", tmp_path / "nowhere")


class Page(HTMLParser):
    """The text that a page shows, and what is drawn on it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.text = ""
        self._silent = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._silent = tag in ("script", "style")
        self.outside += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data + "\n"


def drawn(page: Path, profile: Path) -> Page:
    """The page as a browser draws it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser: chromium is not a wheel, so only machines that have it run this test")
    command = [browser, *BROWSER_FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    return Page(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)


def test_the_page_draws_itself_from_one_file(run: Path, tmp_path: Path) -> None:
    assert eagleray("report", run).returncode == 0
    page = drawn(run / "report" / "report.html", tmp_path / "profile")
    assert page.tags.count("svg") == 3, "loss, time and speed are drawn"
    assert page.outside == []
    shown = ("made-run", "completed", "Where the time went", "attempt 2", "recompute", "web-ko", "killed by signal 9")
    for text in (*shown, "step-000000500/0002-0002", "Digests", "2.60.0"):
        assert text in page.text, text
    for wrong in ("NaN", "undefined", "Infinity"):
        assert wrong not in page.text


def test_the_page_of_a_run_without_a_step_says_so(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", name="</script><b>young</b>")
    made.attempt(1, 0, BEGAN)
    resolved = {"spec": {"name": made.name, "train": {"steps": 5}}}
    (made.store / "resolved.json").write_text(json.dumps(resolved), encoding="utf-8")
    assert eagleray("report", made.store).returncode == 0
    page = drawn(made.store / "report" / "report.html", tmp_path / "profile")
    assert made.name in page.text and "No step has been recorded yet." in page.text
    assert "NaN" not in page.text and "dead" in page.text
