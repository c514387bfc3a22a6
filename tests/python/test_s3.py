"""The store against a real S3 server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

import seaweed
from eagleray import _core


def test_objects_are_whole_ranged_listed_and_deleted(s3: str) -> None:
    store = _core.Store(f"{s3}/verbs")
    store.put("a/one", b"0123456789")
    assert store.get("a/one") == b"0123456789"
    assert store.get_range("a/one", 2, 3) == b"234"
    assert store.head("a/one") == 10
    assert store.head("a/two") is None
    assert store.list("") == [("a/one", 10)]
    assert store.list_dirs("") == ["a"]
    with pytest.raises(_core.CorruptError, match="too short"):
        store.get_range("a/one", 8, 4)
    store.delete_prefix("")
    with pytest.raises(_core.NotFoundError, match="verbs/a/one"):
        store.get("a/one")


def test_a_conditional_put_is_decided_by_the_server(s3: str) -> None:
    first, second = _core.Store(f"{s3}/claims"), _core.Store(f"{s3}/claims")
    assert first.put_if_absent("0001.json", b"first")
    assert not second.put_if_absent("0001.json", b"second")
    assert second.get("0001.json") == b"first"


def test_a_large_object_goes_up_in_parts_and_keeps_its_checksum(s3: str) -> None:
    store = _core.Store(f"{s3}/large")
    writer = store.writer("object")
    part = os.urandom(5 << 20)
    for _ in range(9):
        writer.write(part)
    assert store.head("object") is None, "nothing is visible before the end"
    size, _ = writer.finish()
    assert size == 9 * len(part)
    assert store.get("object") == part * 9
    aborted = store.writer("aborted")
    aborted.write(part * 4)
    aborted.abort()
    assert store.head("aborted") is None


def test_a_wrong_secret_and_a_missing_bucket_are_named_and_no_secret_is_shown(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This server makes a bucket on the first PUT of an administrator, so a read has to ask.
    with pytest.raises(_core.NotFoundError, match="no such bucket") as missing:
        _core.Store("s3://absent-bucket/run").get("x")
    assert missing.value.hint
    with pytest.raises(_core.NotFoundError, match="no such bucket"):
        _core.Store("s3://absent-bucket/run").head("x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-wrong-secret")
    with pytest.raises(_core.InvalidError, match="access was denied") as denied:
        _core.Store(f"{s3}/run").put("x", b"")
    assert "planted-wrong-secret" not in str(denied.value)


def test_a_process_without_credentials_says_so_in_seconds() -> None:
    # It listens and never answers: what a metadata service out of reach looks like.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment["AWS_METADATA_ENDPOINT"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment["NO_PROXY"] = "127.0.0.1"
        script = "from eagleray import _core; _core.Store('s3://bucket/run').head('x')"
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0
    assert "no S3 credentials were found" in done.stderr


def test_the_store_keeps_its_promises_on_s3_from_rust(server: seaweed.S3Server) -> None:
    """Runs the conformance suite of the crate against the server, where cargo is at hand."""
    cargo = subprocess.run(["which", "cargo"], capture_output=True, check=False)
    if cargo.returncode != 0:
        pytest.skip("missing tool: cargo")
    command = ["cargo", "test", "--release", "-q", "-p", "eagleray-store", "--lib", "s3_conforms"]
    environment = {**os.environ, **server.environment, "EAGLERAY_TEST_S3": f"s3://{seaweed.BUCKET}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, file=sys.stderr)
    assert done.returncode == 0
    assert "1 passed" in done.stdout
