"""Runs on a real S3 server: claims, commits, reports, as on a folder."""

from __future__ import annotations

import json
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eagleray import _core
from made_run import MadeRun
from test_report_page import STEPS, eagleray, told


def test_a_run_on_s3_is_listed_verified_and_reported(s3: str, tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", steps=STEPS).make()
    url = f"{s3}/team/run"
    store = _core.Store(url)
    for path in made.rglob("*"):
        if path.is_file():
            store.put(path.relative_to(made).as_posix(), path.read_bytes())
    assert [(row["store"], row["checkpoint_step"]) for row in told("runs", f"{s3}/team")["runs"]] == [(url, 500)]
    newest = told("checkpoint", "ls", url)["saves"][-1]["dir"]
    assert [save["step"] for save in told("checkpoint", "verify", url, "--all")["verified"]] == [250, 500]
    assert [save["dir"] for save in told("checkpoint", "verify", url)["verified"]] == [newest]
    assert told("checkpoint", "verify", f"{url}/{newest}")["verified"][0]["step"] == 500
    report = told("report", url)
    local = told("report", made)
    for key in ("digests", "shares", "steps", "validation", "attempts"):
        assert report[key] == local[key]
    assert json.loads(store.get("report/report.json")) == report
    assert store.head("report/report.html")
    assert eagleray("report", f"{s3}/nothing").returncode == 1


def claim(url: str, **changes: object) -> str:
    """`claimed`, or the refusal."""
    info = {"host": platform.node(), "pid": os.getpid()} | changes
    try:
        _core.claim(url, json.dumps(info))
    except _core.ConflictError as error:
        return str(error)
    return "claimed"


def test_of_drivers_that_claim_on_s3_at_once_one_goes_on(s3: str) -> None:
    url = f"{s3}/claims"
    with ThreadPoolExecutor(6) as drivers:
        answers = list(drivers.map(lambda _: claim(url), range(6)))
    assert answers.count("claimed") == 1
    assert all("attempt 1" in answer for answer in answers if answer != "claimed")
    assert claim(url, take_over=True) == "claimed"
    assert not _core.is_current(url, 1) and _core.is_current(url, 2)


def test_a_commit_on_s3_is_put_once_and_never_by_a_superseded_driver(s3: str) -> None:
    url = f"{s3}/commits"
    store = _core.Store(url)
    assert claim(url) == "claimed"
    fields = json.dumps({"engine": "torch.dcp", "step": 10, "world": 1})

    def written() -> str:
        folder = str(_core.next_save(url, 1, 10))
        writer = store.writer(f"{folder}/data")
        writer.write(b"weights")
        size, crc32c = writer.finish()
        files = [{"name": "data", "bytes": size, "crc32c": f"{crc32c:08x}"}]
        _core.write_segment(url, folder, 0, json.dumps({"rank": 0, "files": files}))
        return folder

    first = written()
    _core.commit(url, first, fields)
    with pytest.raises(_core.ConflictError, match="committed already"):
        _core.commit(url, first, fields)
    second = written()
    assert claim(url, take_over=True) == "claimed"
    with pytest.raises(_core.ConflictError, match="attempt 2 has claimed"):
        _core.commit(url, second, fields)
    newest = _core.newest(url)
    assert newest is not None and json.loads(newest)["dir"] == first
    assert _core.verify(url, first) == len(b"weights")
