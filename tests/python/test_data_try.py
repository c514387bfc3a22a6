"""`eagleray data try` on a real Ray and a real S3 server: what was planted in a corpus is found, with its place."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eagleray import _core
from package import PYTHON
from training import Corpus

EAGLERAY = Path(sys.executable).with_name("eagleray")
KOREAN = "한국어 문장은 이렇게 씁니다. 토크나이저가 다르면 안 됩니다!"


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def tried(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(PYTHON), "RAY_TMPDIR": str(folder / "ray")}
    environment.pop("RAY_ADDRESS", None)
    command = [str(EAGLERAY), "data", "try", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: Ray's sockets lie in it, and pytest's own is too long for them."""
    with tempfile.TemporaryDirectory(prefix="er-", ignore_cleanup_errors=True) as path:
        yield Path(path)


def test_planted_faults_of_a_corpus_on_s3_are_all_found_with_their_places(
    s3: str, corpus: Corpus, folder: Path
) -> None:
    url = f"{s3}/data-try"
    store = _core.Store(url)
    plain = [f"document {number} of the plain object, long enough to have some tokens" for number in range(400)]
    body = lines(*plain[:3], KOREAN)
    body += b'{"text": "cut off\n'  # line 5
    body += b'{"text": "\xff\xfe"}\n'  # line 6
    body += lines("")  # line 7
    body += b'{"body": "no text"}\n'  # line 8
    body += lines(*plain[3:], plain[0])  # the last line is the first document again
    store.put("web/a.jsonl", body)
    packed = lines(*[f"packed document {number}" for number in range(300)])
    store.put("web/b.jsonl.gz", gzip.compress(packed + b"[1]\n"))
    store.put("web/c.txt", b"a file is a document\n" * 40)
    store.put("web/README", b"not text of the corpus")
    tokenizer = str(corpus.root / "tokenizer.json")

    done = tried(folder, url + "/web", "--tokenizer", tokenizer, "--sequence-length", "100", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    slice_, whole = found["slice"], found["whole"]
    assert slice_["whole"] and slice_["corpus"]["objects"] == 3
    assert slice_["corpus"]["unnamed_listed"] == [f"{url}/web/README"]

    bad = {(fault["object"], fault["line"]): fault["reason"] for fault in slice_["bad_listed"]}
    assert {place: reason.split(" ")[:3] for place, reason in bad.items()} == {
        (f"{url}/web/a.jsonl", 5): ["is", "not", "JSON:"],
        (f"{url}/web/a.jsonl", 6): ["is", "not", "UTF-8"],
        (f"{url}/web/a.jsonl", 8): ["has", "no", "field"],
        (f"{url}/web/b.jsonl.gz", 301): ["is", "JSON", "but"],
    }
    assert [(each["object"], each["line"]) for each in slice_["empty_listed"]] == [(f"{url}/web/a.jsonl", 7)]
    [again] = slice_["duplicates_listed"]
    assert again["line"] == 406 and again["reason"] == f"has the text of {url}/web/a.jsonl:1"

    # Counts are those of the engine itself, the end of each document included.
    texts = [*plain, plain[0], KOREAN, *[f"packed document {number}" for number in range(300)]]
    texts.append("a file is a document\n" * 40)
    lengths = sorted(len(ids) + 1 for ids in _core.tokenize(tokenizer, texts))
    assert slice_["documents"] == len(texts) and slice_["tokens"] == sum(lengths)
    ranks = [-(-len(lengths) * percent // 100) for percent in (50, 95, 99, 100)]
    assert slice_["lengths"] == [lengths[rank - 1] for rank in ranks]
    assert slice_["long_share"] == sum(length > 100 for length in lengths) / len(lengths)
    assert slice_["text_bytes"] == sum(len(text.encode()) for text in texts)
    for sample in slice_["samples"]:
        assert sample["pieces"] and sample["text"].startswith(sample["pieces"][0].replace("\\n", "\n"))

    # Everything was read, so the whole is known and not estimated; it took time, measured.
    rates = slice_["rates"]
    assert rates["read_cpu_seconds"] > 0 and rates["tokenise_cpu_seconds"] > 0 and rates["wall_seconds"] > 0
    figures = {figure["key"]: figure for section in whole["sections"] for figure in section["figures"]}
    assert figures["tokens"]["low"] == figures["tokens"]["high"] == sum(lengths)
    assert figures["seconds_100"]["high"] <= figures["seconds_1"]["high"]
    assert "us-east-1" in figures["dollars_10"]["source"] and all(figure["formula"] for figure in figures.values())

    # Without Ray, without a tokenizer, of a part: text for people.
    part = tried(folder, f"{url}/web/*.jsonl*", "--limit", "50", "--cpus", "0", "--explain")
    assert part.returncode == 0, part.stderr
    assert "no tokenizer was given" in part.stdout and "reading, a CPU" in part.stdout
    assert "± t(1)" in part.stdout and "$1.43/h" in part.stdout
    wrong = tried(folder, f"{url}/wbe/*.jsonl", "--tokenizer", tokenizer)
    assert wrong.returncode == 1 and f"`{url}` is there, with `web/`" in wrong.stderr, wrong.stderr
    absent = tried(folder, f"{url}/web", "--tokenizer", str(folder / "none"))
    assert absent.returncode == 1 and "there is no tokenizer" in absent.stderr, absent.stderr
