"""Bad input through the command line, as a user meets it: one message with place and remedy, exit code 1, nothing
left that a later command would take for whole."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eagleray import _core
from training import Corpus, spec_text

BINARY = Path(sys.executable).parent / "eagleray"
WELL = json.dumps({"text": "a ray hides from the shark"}) + "\n"


def write(folder: Path, name: str, content: str | bytes) -> str:
    """Writes a document's object and returns the `documents` of a source."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return f"documents: '{folder}/*'"


def damaged(content: str, folder: Path) -> str:
    """The `tokenizer` key for a file of this content."""
    path = folder / "damaged.json"
    path.write_text(content, encoding="utf-8")
    return str(path)


# Of each: what the source says, and what must be in the message.
SOURCES: dict[str, tuple[Callable[[Path], str], list[str]]] = {
    "no such file": (lambda folder: f"documents: {folder}/none.jsonl", ["none.jsonl", "does not exist"]),
    "no match": (
        lambda folder: write(folder, "a.jsonl", WELL).replace("/*", "/*.txt"),
        ["/*.txt", "no object matches"],
    ),
    "empty corpus": (lambda folder: write(folder, "a.jsonl", ""), ["source `sea` has no document"]),
    "not JSON": (lambda folder: write(folder, "a.jsonl", WELL + "{oops\n"), ["a.jsonl", "at byte 39", "is not JSON"]),
    "no text": (lambda folder: write(folder, "a.jsonl", '{"body": "x"}\n'), ["a.jsonl", "has no field `text`"]),
    "invalid UTF-8": (
        lambda folder: write(folder, "a.jsonl", b'{"text": "\xff"}\n'),
        ["a.jsonl", "at byte 10", "is not UTF-8"],
    ),
    "Korean cut in a character": (
        lambda folder: write(folder, "a.txt", "가오리".encode()[:-1]),
        ["a.txt", "is not UTF-8"],
    ),
    "truncated gzip": (
        lambda folder: write(folder, "a.jsonl.gz", gzip.compress(WELL.encode() * 1000)[:-20]),
        ["a.jsonl.gz", "cut off"],
    ),
    "another tokenizer": (
        lambda folder: f"tokens: {_core.write_fixture_dataset(str(folder), [[[1, 2, 3]]])}",
        ["was built with another tokenizer"],
    ),
}


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BINARY, *words], capture_output=True, text=True, env=os.environ | environment, check=False)


def assert_refused(done: subprocess.CompletedProcess[str], expected: list[str]) -> None:
    assert done.returncode == 1, done.stderr
    assert len(re.findall(r"^error: ", done.stderr, re.M)) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for words in expected:
        assert words in done.stderr, done.stderr


@pytest.fixture
def refused(corpus: Corpus, tmp_path: Path) -> Callable[..., None]:
    """Runs a command on a spec that was changed, and checks how it is refused and that it left nothing."""

    def check(command: list[str], expected: list[str], changes: dict[str, str]) -> None:
        text = spec_text(corpus, tmp_path / "store", built=tmp_path / "built")
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        spec = tmp_path / "run.yaml"
        spec.write_text(text, encoding="utf-8")
        assert_refused(run(*command, spec), expected)
        assert not list((tmp_path / "built").glob("keys/*"))
        assert not list((tmp_path / "store").glob("attempts/*"))

    return check


def source_of(corpus: Corpus) -> str:
    return f"documents: {corpus.root}/train.jsonl"


@pytest.mark.parametrize("name", SOURCES)
def test_a_bad_source_is_refused_by_the_build(
    name: str, refused: Callable[..., None], corpus: Corpus, tmp_path: Path
) -> None:
    source, expected = SOURCES[name]
    refused(["tokens", "build", "--workers=0"], expected, {source_of(corpus): source(tmp_path / "raw")})


@pytest.mark.parametrize(
    ("content", "expected"),
    [("", "is not a tokenizer.json"), ("{}", "is not a tokenizer.json"), ('{"model": 3}', "is not a tokenizer.json")],
)
def test_a_tokenizer_that_is_none_is_refused_by_the_build(
    content: str, expected: str, refused: Callable[..., None], corpus: Corpus, tmp_path: Path
) -> None:
    changes = {f"tokenizer: {corpus.root}/tokenizer.json": f"tokenizer: {damaged(content, tmp_path)}"}
    refused(["tokens", "build", "--workers=0"], ["damaged.json", expected], changes)


def test_weights_that_sum_to_nothing_are_refused_with_their_line(refused: Callable[..., None]) -> None:
    refused(["check"], ["run.yaml:8:", "the weights sum to nothing"], {"weight: 1.0": "weight: 0.0"})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model: {config: {": "model: {config: {vocab_size: 30, "}, ["300 tokens, the model has 30", "leave `model."]),
        ({"sequence_length: 32": "sequence_length: 9000000"}, ["`sea`", "too short"]),
    ],
    ids=["a vocabulary larger than the model's", "a sequence longer than a source"],
)
def test_what_does_not_fit_is_refused_before_anything_is_claimed(
    changes: dict[str, str], expected: list[str], corpus: Corpus, tmp_path: Path
) -> None:
    # Built once, for all runs of the corpus; so that only the training is refused.
    text = spec_text(corpus, tmp_path / "store")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    spec = tmp_path / "run.yaml"
    spec.write_text(text, encoding="utf-8")
    assert run("tokens", "build", "--workers=0", spec).returncode == 0 or "vocab_size" in text
    assert_refused(run("train", spec), expected)
    assert not list((tmp_path / "store").glob("attempts/*"))


def test_a_dataset_of_another_tokenizer_is_refused_by_training(
    refused: Callable[..., None], corpus: Corpus, tmp_path: Path
) -> None:
    source = f"tokens: {_core.write_fixture_dataset(str(tmp_path / 'made'), [[[1, 2, 3] * 50]])}"
    refused(["train"], ["was built with another tokenizer", "tokenizer.json"], {source_of(corpus): source})


def test_a_store_without_credentials_is_refused_with_what_is_missing(corpus: Corpus, tmp_path: Path) -> None:
    spec = tmp_path / "run.yaml"
    spec.write_text(spec_text(corpus, "s3://eagleray-nowhere/run"), encoding="utf-8")
    empty = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"), "")
    done = run("train", spec, **empty, AWS_EC2_METADATA_DISABLED="true", AWS_REGION="us-east-1")
    assert_refused(done, ["credentials"])
