"""The run spec through the native module: what Python gets to read, and how it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eagleray import _core

SPEC = """\
version: 1
name: small
store: runs/small
data:
  tokenizer: tokenizer.json
  sequence_length: 64
  sources:
    b: {documents: b/*.jsonl, weight: 3}
    a: {documents: a/*.jsonl, weight: 1}
model: {preset: llama-tiny}
train: {global_batch: 8, micro_batch: 2, steps: 10}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


def test_a_spec_resolves_to_absolute_paths_in_the_order_written(spec: Path) -> None:
    resolved = json.loads(_core.resolve_spec(str(spec), ["cluster.workers=2"]))
    assert (resolved["format"], resolved["format_version"]) == ("eagleray.resolved", 1)
    assert resolved["spec"]["store"] == str(spec.parent / "runs/small")
    assert list(resolved["spec"]["data"]["sources"]) == ["b", "a"]
    assert resolved["spec"]["cluster"]["workers"] == {"min": 2, "max": 2}
    assert resolved["overrides"] == ["cluster.workers=2"]


def test_a_wrong_spec_raises_invalid_error_with_place_and_hint(spec: Path) -> None:
    spec.write_text(SPEC.replace("micro_batch", "micro_bach"), encoding="utf-8")
    with pytest.raises(_core.InvalidError) as caught:
        _core.resolve_spec(str(spec))
    assert f"{spec}:11:26: unknown key `micro_bach` in `train`" in str(caught.value)
    assert "did you mean `micro_batch`?" in str(caught.value)
    assert caught.value.kind == "invalid"


def test_a_spec_that_is_not_there_raises_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(_core.NotFoundError, match=r"none\.yaml"):
        _core.resolve_spec(str(tmp_path / "none.yaml"))


def test_differences_name_only_what_a_resume_may_not_change(spec: Path) -> None:
    old = _core.resolve_spec(str(spec))
    assert json.loads(_core.spec_differences(old, _core.resolve_spec(str(spec), ["train.steps=99"]))) == []
    changed = _core.resolve_spec(str(spec), ["seed=4", "model.preset=llama-125m"])
    differences = {
        each["field"]: (each["old"], each["new"]) for each in json.loads(_core.spec_differences(old, changed))
    }
    assert differences["seed"] == (0, 4)
    assert differences["model.config.hidden_size"] == (192, 768)


def test_what_is_not_available_is_refused_by_name_for_the_purpose(spec: Path) -> None:
    resolved = _core.resolve_spec(str(spec), ["train.strategy=zero3", "train.recompute=selective"])
    _core.refuse_unavailable(resolved, "build")
    with pytest.raises(_core.InvalidError, match=r"`train.recompute: selective` with `train.strategy: zero3` is not"):
        _core.refuse_unavailable(resolved, "train")
