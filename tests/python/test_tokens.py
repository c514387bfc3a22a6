"""Token datasets: what Megatron reads of them, and what a bad input gets to hear."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eagleray import _core
from eagleray.data.build import build
from package import PYTHON

TEXTS = [f"document {i}: the ray glides over warm sand — 모래 {i * 7919 % 1000}" for i in range(400)]


def build_in_process(resolved: dict[str, Any]) -> dict[str, str]:
    return build(resolved, workers=0)


def write_jsonl(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.save(str(path))
    return path


@pytest.fixture
def resolved(tmp_path: Path, tokenizer: Path) -> Callable[..., dict[str, Any]]:
    """Makes the parts of a resolved run that a build reads; `changes` go into `data`."""

    def make(pattern: str = "raw/*.jsonl", **changes: Any) -> dict[str, Any]:
        data = {
            "tokenizer": str(tokenizer),
            "sequence_length": 64,
            "shuffle_key": "test",
            "text_default": "text",
            "long_documents": "split",
            "bad_records": {"max_fraction": 0.0},
            "built": str(tmp_path / "built"),
            "sources": {"s": {"kind": "documents", "documents": [str(tmp_path / pattern)], "weight": 1.0}},
            "validation": {},
        }
        return {"spec": {"data": data | changes}}

    return make


def test_megatron_core_opens_the_shards_and_reads_the_same_tokens(
    tmp_path: Path, resolved: Callable[..., dict[str, Any]], tokenizer: Path
) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="missing tool: megatron-core")
    from tokenizers import Tokenizer

    write_jsonl(tmp_path / "raw/a.jsonl", TEXTS)
    dataset = Path(build_in_process(resolved())["s"])
    read = indexed.IndexedDataset(str(dataset / "shards/00000"))
    assert len(read) == len(TEXTS)
    assert read.document_indices.tolist() == list(range(len(TEXTS) + 1))
    oracle = Tokenizer.from_file(str(tokenizer))
    expected = sorted([*ids.ids, 0] for ids in oracle.encode_batch(TEXTS))
    assert sorted(read[i].tolist() for i in range(len(read))) == expected
    flat = np.fromfile(dataset / "shards/00000.bin", dtype="<u2")
    assert np.concatenate([read[i] for i in range(len(read))]).tolist() == flat.tolist()


def test_a_wide_vocabulary_is_read_by_megatron_too(tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="missing tool: megatron-core")
    url = _core.write_fixture_dataset(str(tmp_path), [[[1, 100_000, 3], [4]]], vocab_size=128_256, eod_id=9)
    read = indexed.IndexedDataset(f"{url}/shards/00000")
    assert [read[i].tolist() for i in range(len(read))] == [[1, 100_000, 3, 9], [4, 9]]


def test_ids_are_those_of_tokenizers_and_special_tokens_in_text_are_text(tokenizer: Path) -> None:
    from tokenizers import Tokenizer

    oracle = Tokenizer.from_file(str(tokenizer))
    oracle.encode_special_tokens = True
    texts = [*TEXTS[:20], "a<|endoftext|>b", "", "\x00 \u2028 e\u0301 😀👍🏽"]
    assert _core.tokenize(str(tokenizer), texts) == [oracle.encode(text).ids for text in texts]


def put(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / name).write_text(text, encoding="utf-8")

    return write


def bad_utf8(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(b'{"text":"fine"}\n{"text":"\xff"}\n')


def cut_zst(folder: Path) -> None:
    zstandard = pytest.importorskip("compression.zstd") if sys.version_info >= (3, 14) else None
    write_jsonl(folder / "a.jsonl", TEXTS)
    plain = (folder / "a.jsonl").read_bytes()
    (folder / "a.jsonl").unlink()
    packed = zstandard.compress(plain) if zstandard else gzip.compress(plain)
    (folder / f"a.jsonl.{'zst' if zstandard else 'gz'}").write_bytes(packed[:-100])


BAD_INPUTS: dict[str, tuple[Callable[[Path], None], str, type[_core.EagleRayError], str]] = {
    "no such file": (lambda _: None, "raw/a.jsonl", _core.NotFoundError, "does not exist"),
    "nothing matches": (lambda _: None, "raw/*.jsonl", _core.NotFoundError, "no object matches"),
    "empty corpus": (lambda raw: write_jsonl(raw / "a.jsonl", []), "raw/*", _core.InvalidError, "has no document"),
    "not JSON": (
        put("a.jsonl", "hello\n"),
        "raw/*",
        _core.InvalidError,
        "at byte 0 is not JSON",
    ),
    "no text": (
        put("a.jsonl", '{"body":"x"}\n'),
        "raw/*",
        _core.InvalidError,
        "has no field `text`",
    ),
    "text is a number": (
        put("a.jsonl", '{"text":1}\n'),
        "raw/*",
        _core.InvalidError,
        "that is not a string",
    ),
    "invalid UTF-8": (bad_utf8, "raw/*", _core.InvalidError, "at byte 16 is not UTF-8"),
    "cut compressed object": (cut_zst, "raw/*", _core.CorruptError, "is cut off"),
    "unknown ending": (
        put("a.xml", "<a/>"),
        "raw/*",
        _core.InvalidError,
        "names no format",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_a_bad_input_gets_one_message_with_its_place(
    name: str, tmp_path: Path, resolved: Callable[..., dict[str, Any]]
) -> None:
    make, pattern, kind, message = BAD_INPUTS[name]
    make(tmp_path / "raw")
    with pytest.raises(kind, match=message) as caught:
        build_in_process(resolved(pattern))
    assert str(tmp_path / "raw") in str(caught.value) or "source `s`" in str(caught.value)
    assert caught.value.hint
    assert not list((tmp_path / "built").glob("keys/*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a tokenizer.json: it is not JSON"),
        ("[]", "is not a tokenizer.json: it is not an object"),
        ('{"model": {}}', "is not a tokenizer.json: it has no `model.vocab`"),
        ('{"model": {"vocab": {"a": 0}}}', "has no token that ends a document"),
        ('{"model": {"vocab": {"</s>": 0}}}', "is not a tokenizer.json: "),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(
    content: str, message: str, tmp_path: Path, resolved: Callable[..., dict[str, Any]]
) -> None:
    write_jsonl(tmp_path / "raw/a.jsonl", TEXTS)
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(_core.InvalidError) as caught:
        build_in_process(resolved(tokenizer=str(path)))
    assert f"`{path}` {message}" in str(caught.value)


def test_a_dataset_of_another_tokenizer_is_refused(tmp_path: Path, resolved: Callable[..., dict[str, Any]]) -> None:
    url = _core.write_fixture_dataset(str(tmp_path / "other"), [[[1, 2]]])
    sources = {"s": {"kind": "tokens", "tokens": url, "weight": 1.0}}
    with pytest.raises(_core.InvalidError, match="built with another tokenizer"):
        build_in_process(resolved(sources=sources))


def test_a_dataset_built_here_is_a_source_as_it_is(tmp_path: Path, resolved: Callable[..., dict[str, Any]]) -> None:
    write_jsonl(tmp_path / "raw/a.jsonl", TEXTS)
    url = build_in_process(resolved())["s"]
    assert build_in_process(resolved(sources={"t": {"kind": "tokens", "tokens": url, "weight": 1.0}})) == {"t": url}


def test_a_flipped_byte_is_found_by_verify_and_named(tmp_path: Path) -> None:
    url = _core.write_fixture_dataset(str(tmp_path), [[list(range(5000))]])
    shard = Path(url) / "shards/00000.bin"
    content = bytearray(shard.read_bytes())
    content[6000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(_core.CorruptError, match=r"00000\.bin` at byte 4096"):
        _core.verify_dataset(url)


def test_a_full_disk_ends_the_build_with_its_name_and_leaves_nothing_whole(
    tmp_path: Path, resolved: Callable[..., dict[str, Any]]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("missing tool: root, to mount a small disk")
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], check=False)
    if mount.returncode != 0:
        pytest.skip("missing tool: mount, to make a small disk")
    try:
        write_jsonl(tmp_path / "raw/a.jsonl", TEXTS * 20)
        with pytest.raises(_core.ExhaustedError, match="small") as caught:
            build_in_process(resolved(built=str(small)))
        assert "free space" in (caught.value.hint or "")
        assert not list(small.glob("keys/*"))
        assert not list(small.glob("*/manifest"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_line_of_three_gigabytes_is_quarantined_in_bounded_memory(
    tmp_path: Path, resolved: Callable[..., dict[str, Any]]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    # A sparse file: a record, a line of three billion zero bytes, and a record after it.
    with (raw / "a.jsonl").open("wb") as file:
        file.write(b'{"text":"before"}\n')
        file.seek(3_000_000_000, os.SEEK_CUR)
        file.write(b'\n{"text":"after"}\n')
    (tmp_path / "resolved.json").write_text(json.dumps(resolved(bad_records={"max_fraction": 0.5})))
    script = f"""
import json
from pathlib import Path
from eagleray.data.build import build
url = build(json.loads(Path({str(tmp_path / "resolved.json")!r}).read_text()), workers=0)["s"]
counts = json.loads(Path(url, "provenance.json").read_text())["counts"]
assert (counts["documents"], counts["bad"]) == (2, 1), counts
# Not `ru_maxrss`, which begins with what the process that started this one had.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    environment = os.environ | {"PYTHONPATH": str(PYTHON)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_200_000, "kilobytes"


def test_raw_text_and_dataset_may_both_lie_on_s3(
    s3: str, tmp_path: Path, resolved: Callable[..., dict[str, Any]]
) -> None:
    raw = _core.Store(f"{s3}/tokens/raw")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    raw.put("deep/a.jsonl", lines.encode())
    raw.put("deep/b.jsonl.gz", gzip.compress(lines.encode()))
    sources = {"s": {"kind": "documents", "documents": [f"{s3}/tokens/raw/**/*.jsonl*"], "weight": 1.0}}
    built = f"{s3}/tokens/built"
    url = build_in_process(resolved(sources=sources, built=built))["s"]
    assert json.loads(_core.verify_dataset(url))["documents"] == 2 * len(TEXTS)
    assert _core.Store(f"{built}/work").list("") == []
    assert build_in_process(resolved(sources=sources, built=built))["s"] == url
    write_jsonl(tmp_path / "raw/a.jsonl", TEXTS * 2)
    local = build_in_process(resolved())["s"]
    assert Path(local).name == url.rsplit("/", 1)[1], "the hash is of the tokens, wherever they lie"
