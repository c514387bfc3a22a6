"""A small pretrained model, trained whole and through adapters, and what it writes then.

The wheel that it comes in has 93 MB, and each run takes a minute: skipped unless `EAGLERAY_SMOLLM2` is set.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eagleray import _core
from eagleray.checkpoint.export import Export, export
from ranks import Ranks
from test_huggingface import held_out_losses, plan_of
from training import BATCH, SEQUENCE, Corpus, Run, spec_text, surroundings, train_in

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "A checkpoint is"
NEW_TOKENS = 20
STEPS = 12
HELD_OUT = 8

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif("EAGLERAY_SMOLLM2" not in os.environ, reason="minutes long: set EAGLERAY_SMOLLM2=1 to run it"),
]


@pytest.fixture(scope="module")
def base() -> Path:
    """The folder of the model."""
    sys.path.insert(0, str(ROOT / "benches"))
    import fetch

    try:
        found: Path = fetch.smollm2()
    except fetch.Missing as missing:
        pytest.skip(f"missing tool: {missing}")
    return found


@pytest.fixture(scope="module")
def text(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The paragraphs of this project's documents, some held out, with the model's tokenizer."""
    root = tmp_path_factory.mktemp("paragraphs")
    pages = sorted(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    paragraphs = [part for page in pages for part in page.split("\n\n") if len(part) > 200]
    random.Random(1).shuffle(paragraphs)
    for name, some in (("held", paragraphs[:40]), ("train", paragraphs[40:])):
        lines = "".join(json.dumps({"text": paragraph}) + "\n" for paragraph in some)
        (root / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (root / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    return Corpus(root)


def make(text: Corpus, folder: Path, model: str, lr: float) -> Run:
    """A run of steps of 128 tokens."""
    folder.mkdir()
    changes = {"model": model, "lr": lr, "steps": STEPS, "every": f"{STEPS} steps", "workers": 1, "micro_batch": 1}
    spec = spec_text(text, folder / "store", strategy="fsdp2", **changes)
    for old, new in (
        (f"sequence_length: {SEQUENCE}", "sequence_length: 128"),
        (f"global_batch: {BATCH}", "global_batch: 1"),
        ("warmup_steps: 10", "warmup_steps: 2"),
        ("samples: 16", f"samples: {HELD_OUT}"),
    ):
        assert old in spec
        spec = spec.replace(old, new)
    (folder / "run.yaml").write_text(spec, encoding="utf-8")
    binary = Path(sys.executable).parent / "eagleray"
    subprocess.run([str(binary), "tokens", "build", str(folder / "run.yaml")], check=True, stdout=subprocess.DEVNULL)
    resolved = folder / "resolved.json"
    resolved.write_text(_core.resolve_spec(str(folder / "run.yaml"), []), encoding="utf-8")
    return Run(store=folder / "store", resolved=resolved)


@pytest.mark.parametrize(("lora", "lr"), [("", 5e-5), (", lora: {rank: 8}", 1e-3)], ids=["whole", "adapters"])
def test_it_learns_and_writes_elsewhere_what_it_writes_here(
    lora: str, lr: float, base: Path, text: Corpus, ranks: Ranks, tmp_path: Path
) -> None:
    run = make(text, tmp_path / "run", f"{{huggingface: {base}{lora}}}", lr)
    trained = train_in(ranks, 1, run)
    before, after = (trained.events("validation")[place]["loss"] for place in (0, -1))
    assert after < before - 0.05
    (run.store / "resolved.json").write_text(json.dumps(plan_of(run)[0]), encoding="utf-8")
    newest = json.loads(_core.newest(str(run.store)) or "{}")["dir"]
    folder = export(Export(store_url=str(run.store), directory=newest, dtype=None), tmp_path / "out")["folder"]
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ours, theirs = held_out_losses(run, model, trained, samples=HELD_OUT)
    assert theirs == pytest.approx(ours, rel=1e-5)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    # Neither stops at an end of text.
    model.generation_config.eos_token_id = None
    written = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0].tolist()
    assert [written] == ranks.run(1, _write, run.spec(), run.claim(), inputs["input_ids"].tolist())


def _write(rank: int, world: int, resolved: dict[str, Any], attempt: int, tokens: list[list[int]]) -> list[int]:
    """The likeliest tokens after `tokens`, one by one, by the model as it is trained."""
    from eagleray.train.context import Tensors, newest_commit
    from eagleray.train.loop import Loop

    with surroundings(rank, world, resolved, attempt, []) as context:
        commit = newest_commit(context)
        assert commit is not None
        loop = Loop(context, commit)
        loop.saver.load(commit)
        loop.stream.close()
        seen = torch.tensor(tokens)
        with torch.no_grad():
            for _ in range(NEW_TOKENS):
                positions = torch.arange(seen.shape[1]).view(1, -1)
                given = Tensors(tokens=seen, labels=seen, position_ids=positions, counted=seen.numel(), empty=False)
                logits = loop.spread.logits(loop.spread.model, given)
                seen = torch.cat((seen, logits[:, -1:].argmax(dim=-1)), dim=1)
        return seen[0].tolist()
