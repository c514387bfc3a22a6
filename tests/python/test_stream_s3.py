"""The stream from a real S3 server: the same samples as from a folder, few bytes, faults survived."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eagleray import _core
from eagleray.data import SampleStream
from test_stream import END, make_config, rows


def test_s3_gives_the_samples_of_a_folder_also_when_reads_fail(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = make_config(tmp_path)
    remote = make_config(f"{s3}/stream")
    expected = [rows(batch) for batch in SampleStream(local)]
    stream = SampleStream(remote)
    assert [rows(batch) for batch in stream] == expected
    stats = stream.stats()
    # A sample of 66 bytes lies in one block or two, each with a record; crowded blocks ask the index too.
    assert stats["bytes_read"] < END * (2 * 4096 + 3000) + 100_000
    monkeypatch.setenv("EAGLERAY_STORE_FAULTS", json.dumps({"get_error_every": 7, "match": "shards/"}))
    assert [rows(batch) for batch in SampleStream(remote)] == expected


def test_a_source_that_is_not_there_is_named(s3: str) -> None:
    config = {
        "sources": [{"name": "web", "url": f"{s3}/none", "weight": 1.0}],
        "sequence_length": 8,
        "seed": 1,
    }
    with pytest.raises(_core.NotFoundError, match=r"source `web`.*/none` is not a token dataset"):
        SampleStream(config).next()
