"""Conversations: the ids and the mask that Transformers gives, and a training that learns what the assistant says."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

import own_code
from conftest import make_run
from eagleray import _core
from eagleray.data.build import build
from ranks import Ranks
from training import BATCH, SEQUENCE, Corpus, Run, Trained, train_in

pytestmark = pytest.mark.timeout(600)
STEPS = 20
SPECIAL = ["<|endoftext|>", "<s>", "<|im_start|>", "<|im_end|>", "<|header|>", "<|end_header|>", "<|eot|>"]
# What the assistant says, and the end of its turn, stand between the tags that Transformers makes its mask from.
TEMPLATES = {
    "chatml": """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}{{- message['content'] + '<|im_end|>\\n' }}{%- endgeneration %}
    {%- else %}
{{- message['content'] + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    # A token before all, trimmed texts, tools as JSON in the first turn, methods of Python's strings.
    "headers": """{{- bos_token }}
{%- set ns = namespace(tools=false) %}
{%- if tools is defined and tools %}{% set ns.tools = true %}{% endif %}
{%- for message in messages %}
    {{- '<|header|>' + message.role.upper() + '<|end_header|>\\n\\n' }}
    {%- if loop.first and ns.tools %}{{- tools | tojson(indent=4) + '\\n' }}{%- endif %}
    {%- if message.role == 'assistant' %}
        {%- generation -%}
        {{- message.content.strip() + '<|eot|>' }}
        {%- endgeneration -%}
    {%- else %}
        {{- message.content | trim }}<|eot|>
    {%- endif %}
{% endfor %}
{%- if add_generation_prompt %}{{- '<|header|>ASSISTANT<|end_header|>\\n\\n' }}{% endif %}""",
}
WORDS = 'ray 안녕하세요 glides über sand; 鱼 hides, "quotes" <b> {x} \\n'


@pytest.fixture(scope="module")
def talks(corpus: Corpus, undisturbed: Run, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus of conversations, with a tokenizer that has tokens for turns, and held-out text."""
    del undisturbed  # It has built the datasets.
    root = tmp_path_factory.mktemp("talks")
    tokenizer = json.loads((corpus.root / "tokenizer.json").read_text(encoding="utf-8"))
    first = max(tokenizer["model"]["vocab"].values()) + 1
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] += [
        {"id": first + number, "content": content, **plain} for number, content in enumerate(SPECIAL[1:])
    ]
    (root / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (root / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}}), encoding="utf-8")
    (root / "chat_template.jinja").write_text(TEMPLATES["chatml"], encoding="utf-8")
    shutil.copy(corpus.root / "held.jsonl", root / "held.jsonl")
    draw = random.Random(11)

    def said(low: int, high: int) -> str:
        return " ".join(draw.choices(WORDS.split(" "), k=draw.randint(low, high)))

    lines = []
    for _ in range(400):
        turns = [{"role": "system", "content": said(1, 4)}] if draw.random() < 0.5 else []
        for _ in range(draw.randint(1, 3)):
            turns += [{"role": "user", "content": said(1, 8)}, {"role": "assistant", "content": said(1, 12)}]
        lines.append(json.dumps({"messages": turns}) + "\n")
    (root / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    return Corpus(root)


def run_of(talks: Corpus, folder: Path, file: str = "train.jsonl", **changes: Any) -> Run:
    """A run that learns from conversations, its datasets built."""
    run = make_run(talks, folder, documents=f"{talks.root}/{file}, chat: messages", **changes)
    build(run.spec(), workers=0)
    return run


def dataset_of(run: Run) -> Path:
    return Path(json.loads(_core.plan_build(json.dumps(run.spec()), "sea", "train"))["dataset"])


def documents(dataset: Path) -> list[list[int]]:
    """The stored tokens of each document, without what ends it; masked ones as their complement."""
    stored = np.concatenate([np.fromfile(path, dtype="<i4") for path in sorted(dataset.rglob("*.bin"))])
    ends = np.flatnonzero(stored == ~0)
    return [part.tolist() for part in np.split(stored, ends + 1) if len(part) > 1 for part in [part[:-1]]]


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_ids_and_mask_are_those_of_transformers(name: str, talks: Corpus, tmp_path: Path) -> None:
    records = [json.loads(line) for line in (talks.root / "train.jsonl").read_text(encoding="utf-8").splitlines()][:60]
    if name == "headers":
        for record in records[::2]:
            record["tools"] = [{"type": "function", "function": {"name": "look", "parameters": {"ü": [1, 2.5, None]}}}]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    (tmp_path / "template.jinja").write_text(TEMPLATES[name], encoding="utf-8")
    root = tmp_path / "corpus"
    shutil.copytree(talks.root, root)
    (root / "chat_template.jinja").write_text(TEMPLATES[name], encoding="utf-8")
    shutil.copy(tmp_path / "some.jsonl", root / "some.jsonl")
    found = documents(dataset_of(run_of(Corpus(root), tmp_path / "run", "some.jsonl")))
    oracle: Any = PreTrainedTokenizerFast(tokenizer_file=str(root / "tokenizer.json"), bos_token="<s>")
    expected = []
    for record in records:
        told = oracle.apply_chat_template(
            record["messages"],
            tools=record.get("tools"),
            chat_template=TEMPLATES[name],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        pairs = zip(told["input_ids"], told["assistant_masks"], strict=True)
        expected.append([token if counts else ~token for token, counts in pairs])
    assert sorted(found) == sorted(expected)
    assert any(token >= 0 for token in found[0]) and any(token < 0 for token in found[0])


def plan_of(run: Run) -> Any:
    """The plan of a run whose datasets are built."""
    from eagleray.train.console import Console
    from eagleray.train.datasets import ensure_datasets
    from eagleray.train.plan import plan_from

    datasets = ensure_datasets(run.spec(), Console(), lambda: pytest.fail("the datasets are not built"))
    return plan_from(run.spec(), datasets.urls, datasets.vocab_size)


def plain_loss(run: Run) -> tuple[float, int]:
    """The loss of the untrained model over the first global batch by plain torch, and over how many tokens."""
    from eagleray.train.model import Llama, initialise

    plan = plan_of(run)
    model = Llama(plan.shape)
    initialise(model, plan.seed, lambda parameter, value: parameter.copy_(value))  # type: ignore[arg-type]
    stream: Any = _core.Stream(json.dumps(plan.stream_config(0, 1, 0)))
    losses, counted, samples = 0.0, 0, 0
    while samples < BATCH:
        batch = stream.next()
        tokens, labels, positions = (torch.from_numpy(batch[key]) for key in ("tokens", "labels", "position_ids"))
        samples += len(tokens)
        with torch.no_grad():
            logits = model(tokens, positions)
        losses += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        counted += int((labels >= 0).sum())
    stream.close()
    return losses / counted, counted


def test_the_loss_is_the_mean_over_what_counts_under_every_strategy(
    talks: Corpus, ranks: Ranks, tmp_path: Path
) -> None:
    one = run_of(talks, tmp_path / "one", workers=1, steps=STEPS)
    alone = train_in(ranks, 1, one)
    first = alone.steps()[0]
    loss, counted = plain_loss(one)
    assert 0 < counted < BATCH * SEQUENCE
    assert (first["counted_tokens"], first["tokens"]) == (counted, BATCH * SEQUENCE)
    assert first["loss"] == pytest.approx(loss, rel=1e-6)
    assert alone.steps()[-1]["loss"] < loss - 0.5
    for number, (strategy, world) in enumerate((("ddp", 2), ("fsdp2", 3), ("zero3", 2), ("{pp: 2}", 2))):
        many = run_of(talks, tmp_path / f"many-{number}", strategy=strategy, workers=world, steps=STEPS)
        trained = train_in(ranks, world, many)
        assert trained.digests() == alone.digests()
        assert trained.loss_drift(alone) < 1e-5


def test_a_function_learns_from_what_counts_in_every_world(talks: Corpus, ranks: Ranks, tmp_path: Path) -> None:
    said: dict[str, Any] = {"function": "own_code:talked", "steps": STEPS}
    one = run_of(talks, tmp_path / "one", workers=1, **said)
    plain = own_code.plain_losses(_core.Stream(json.dumps(plan_of(one).stream_config(0, 1, 0))), STEPS, BATCH)
    for number, (strategy, world) in enumerate((("ddp", 1), ("ddp", 2), ("fsdp2", 3))):
        run = run_of(talks, tmp_path / f"own-{number}", strategy=strategy, workers=world, **said)
        trained = train_in(ranks, world, run)
        assert [event["loss"] for event in trained.steps()] == pytest.approx(plain, rel=1e-5), (strategy, world)
        assert 0 < trained.steps()[0]["counted_tokens"] < trained.steps()[0]["tokens"]
    assert plain[-1] < plain[0] - 0.5
    hasty = run_of(talks, tmp_path / "hasty", workers=1, function="own_code:hasty", steps=STEPS, micro_batch=BATCH)
    with pytest.raises(_core.InvalidError, match=r"loop over `step\.batches` to its end"):
        train_in(ranks, 1, hasty)


def test_a_batch_in_which_nothing_counts_teaches_nothing_and_is_no_anomaly(
    talks: Corpus, ranks: Ranks, tmp_path: Path
) -> None:
    long = " ".join(["sand"] * 2000)
    turns = [{"role": "user", "content": long}, {"role": "assistant", "content": "ray"}]
    lines = [json.dumps({"messages": turns, "id": number}) + "\n" for number in range(20)]
    (talks.root / "long.jsonl").write_text("".join(lines), encoding="utf-8")
    trained = [
        train_in(ranks, world, run_of(talks, tmp_path / f"{world}", "long.jsonl", workers=world, steps=STEPS))
        for world in (1, 2)
    ]
    for each in trained:
        silent = [event for event in each.steps() if "loss" not in event]
        assert silent and len(silent) < STEPS
        assert all(event["counted_tokens"] == 0 and event["grad_norm"] == 0.0 for event in silent)
        assert each.events("anomaly") == []
    spoken = [[event["loss"] for event in each.steps() if "loss" in event] for each in trained]
    assert spoken[0] == pytest.approx(spoken[1], rel=1e-5)


def test_conversations_that_crowd_a_block_are_read(talks: Corpus, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    lines = [json.dumps({"messages": turns, "id": number}) + "\n" for number in range(2000)]
    (talks.root / "short.jsonl").write_text("".join(lines), encoding="utf-8")
    run = run_of(talks, tmp_path / "run", "short.jsonl")
    (text,) = {tuple(each) for each in documents(dataset_of(run))}
    config = {"sources": [{"name": "sea", "url": str(dataset_of(run)), "weight": 1.0}], "sequence_length": SEQUENCE}
    config |= {"seed": 1, "global_batch": BATCH, "micro_batch": BATCH, "rank": 0, "world": 1, "position": 0}
    stream: Any = _core.Stream(json.dumps(config | {"end_position": 100 * BATCH, "prefetch_bytes": 1 << 20}))
    period = [token if token >= 0 else ~token for token in text] + [0]
    while (batch := stream.next()) is not None:
        for tokens, labels, positions in zip(batch["tokens"], batch["labels"], batch["position_ids"], strict=True):
            begins = np.flatnonzero(positions == 0)[1:]
            assert (tokens[begins - 1] == 0).all() and (np.diff(begins) == len(period)).all()
            counted = labels >= 0
            assert (labels[:-1][counted[:-1]] == tokens[1:][counted[:-1]]).all()


def refusal(talks: Corpus, folder: Path, lines: list[Any]) -> _core.EagleRayError:
    folder.mkdir()
    name = f"{folder.name}.jsonl"
    (talks.root / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(_core.InvalidError) as refused:
        run_of(talks, folder, name)
    return refused.value


def test_a_record_that_is_no_conversation_is_told_with_its_place(talks: Corpus, tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    sly = {"messages": [{"role": "user", "content": "a<|im_end|>"}, {"role": "assistant", "content": "b"}]}
    error = str(refusal(talks, tmp_path / "sly", [good, sly]))
    assert "1 of 2 records are bad" in error and f"at byte {len(json.dumps(good)) + 1} has a message 1" in error
    assert "`<|im_end|>`" in error
    error = str(refusal(talks, tmp_path / "silent", [{"messages": [{"role": "user", "content": "a"}]}]))
    assert "has no message whose `role` is `assistant`" in error


def test_a_tokenizer_without_a_template_is_refused_with_what_to_name(
    corpus: Corpus, new_run: Callable[..., Run]
) -> None:
    run = new_run(documents=f"{corpus.root}/train.jsonl, chat: messages")
    with pytest.raises(_core.NotFoundError, match=r"has no chat template[\s\S]*data\.chat_template"):
        build(run.spec(), workers=0)


def test_what_was_learned_goes_on_after_a_stop(talks: Corpus, ranks: Ranks, tmp_path: Path) -> None:
    whole = train_in(ranks, 1, run_of(talks, tmp_path / "whole", workers=1, steps=STEPS))
    half = run_of(talks, tmp_path / "half", workers=1, steps=STEPS, every="10 steps")
    train_in(ranks, 1, half)
    shutil.rmtree(half.store / "checkpoints" / f"step-{STEPS:09}")
    resumed: Trained = train_in(ranks, 2, half)
    assert next(event["step"] for event in resumed.steps()) == 11
    wanted = {event["step"]: event["loss"] for event in whole.steps()}
    found = {event["step"]: event["loss"] for event in resumed.steps()}
    assert all(loss == pytest.approx(wanted[step], rel=1e-5) for step, loss in found.items())
