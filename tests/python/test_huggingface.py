"""Models of Transformers: the losses that plain Transformers has, under every strategy; and what is exported loads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from eagleray import _core
from eagleray.checkpoint.export import Export, export
from eagleray.train.console import Console
from eagleray.train.datasets import ensure_datasets
from eagleray.train.model_config import HuggingfaceConfig, with_model
from eagleray.train.plan import Plan, plan_from
from ranks import Ranks
from training import SEQUENCE, Corpus, Run, Trained, train_in

pytestmark = pytest.mark.timeout(600)
STEPS = 10
LLAMA = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    # Large, so that a wrong weight is seen in the losses.
    "initializer_range": 0.2,
}
OF_ITS_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    # Windows shorter than a sample.
    "mistral": {"sliding_window": 12, "num_hidden_layers": 4},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    },
}
# Strategy, world, and what else the spec says.
SPREAD: dict[str, list[tuple[str, int, dict[str, str]]]] = {
    "llama": [
        ("ddp", 2, {"recompute": "selective"}),
        ("{dp_replicate: 2, dp_shard: 2}", 4, {}),
        ("zero3", 2, {"recompute": "full"}),
        ("{tp: 2}", 2, {"recompute": "selective"}),
        ("{dp_shard: 2, tp: 2}", 4, {"recompute": "full"}),
        ("{pp: 2}", 2, {"recompute": "full"}),
        ("{pp: 2, dp_shard: 2}", 4, {}),
        ("{cp: 2}", 2, {"recompute": "full"}),
    ],
    "qwen3": [("{tp: 2}", 2, {}), ("{cp: 2, tp: 2}", 4, {}), ("{pp: 2, tp: 2}", 4, {"pipeline": "gpipe"})],
    "mistral": [
        ("{tp: 2}", 2, {}),
        ("{pp: 2}", 2, {}),
        ("{pp: 2, cp: 2}", 4, {}),
        ("{pp: 2, dp_shard: 2}", 4, {"pipeline": "interleaved"}),
    ],
    # Its head is its embedding.
    "gemma3_text": [("ddp", 2, {}), ("{dp_shard: 2, tp: 2}", 4, {}), ("{cp: 2}", 2, {})],
}


@pytest.fixture(scope="module")
def folders(corpus: Corpus, undisturbed: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family, as Transformers writes it, with weights and the corpus' tokenizer."""
    del undisturbed  # It has built the datasets.
    root = tmp_path_factory.mktemp("huggingface")
    for family, own in OF_ITS_OWN.items():
        torch.manual_seed(3)
        said = {"vocab_size": 320, "initializer_range": 0.2} if family == "gpt2" else LLAMA
        config = AutoConfig.for_model(family, **said | own, bos_token_id=0, eos_token_id=0, pad_token_id=0)
        # Gemma shares the embedding by default, Llama does not.
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(root / family)
    return root


def plan_of(run: Run) -> tuple[dict[str, Any], Plan]:
    resolved = with_model(run.spec())
    datasets = ensure_datasets(resolved, Console(), lambda: pytest.fail("the datasets are not built"))
    return resolved, plan_from(resolved, datasets.urls, datasets.vocab_size)


def plain_loss(model: Any, config: dict[str, Any], *, apart: bool = True) -> float:
    """The mean loss of plain Transformers over all that a stream gives; documents `apart`, or in each other's sight."""
    stream: Any = _core.Stream(json.dumps(config))
    losses, tokens = 0.0, 0
    while (batch := stream.next()) is not None:
        inputs, labels, positions = (torch.from_numpy(batch[key]) for key in ("tokens", "labels", "position_ids"))
        with torch.no_grad():
            mask = None if apart else torch.ones_like(inputs)
            logits = model(input_ids=inputs, attention_mask=mask, position_ids=positions, use_cache=False).logits
        losses += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        tokens += labels.numel()
    stream.close()
    return losses / tokens


def exported(run: Run, folder: Path, dtype: str | None = None) -> Any:
    """The model that Transformers loads from what is exported of a run's newest checkpoint."""
    resolved, _ = plan_of(run)
    (run.store / "resolved.json").write_text(json.dumps(resolved), encoding="utf-8")
    newest = json.loads(_core.newest(str(run.store)) or "{}")
    export(Export(store_url=str(run.store), directory=newest["dir"], dtype=dtype), folder)
    return AutoModelForCausalLM.from_pretrained(folder)


def held_out_losses(
    run: Run, model: Any, trained: Trained, *, apart: bool = True, samples: int = 16
) -> tuple[float, float]:
    """What the run said of its held-out text at the end, and what plain Transformers says of it."""
    _, plan = plan_of(run)
    (held,) = plan.validation
    return trained.events("validation")[-1]["loss"], plain_loss(
        model, plan.validation_config(held, samples, 0, 1), apart=apart
    )


@pytest.mark.parametrize("family", list(OF_ITS_OWN))
def test_a_family_has_the_losses_of_plain_transformers_and_loads_there_again(
    family: str, folders: Path, new_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    model = f"{{huggingface: {folders / family}}}"
    one = new_run("one", model=model, workers=1, steps=STEPS)
    alone = train_in(ranks, 1, one)
    before = alone.events("validation")[0]["loss"]
    plan = plan_of(one)[1]
    untrained = AutoModelForCausalLM.from_pretrained(folders / family)
    assert before == pytest.approx(
        plain_loss(untrained, plan.validation_config(plan.validation[0], 16, 0, 1)), rel=1e-6
    )
    assert alone.steps()[-1]["flops_per_token"] > 0
    for strategy, world, more in [("fsdp2", 3, {"recompute": "full"}), *SPREAD.get(family, ())]:
        name = "".join(letter for letter in strategy if letter.isalnum())
        many = new_run(f"{name}-{world}", model=model, workers=world, strategy=strategy, steps=STEPS, **more)
        trained = train_in(ranks, world, many)
        assert trained.digests() == alone.digests()
        assert trained.loss_drift(alone) < 1e-5
        ours, theirs = held_out_losses(many, exported(many, tmp_path / f"out-{name}-{world}"), trained)
        assert ours < before
        assert theirs == pytest.approx(ours, rel=1e-6)


def test_documents_of_a_sample_do_not_see_each_other(folders: Path, new_run: Callable[..., Run]) -> None:
    from eagleray.train.context import Tensors
    from eagleray.train.huggingface import layers, logits

    model = AutoModelForCausalLM.from_pretrained(folders / "llama", attn_implementation="sdpa")
    tokens = torch.randint(0, 320, (2, 24))
    positions = torch.cat((torch.arange(10), torch.arange(14))).expand(2, -1)
    packed = logits(
        model, Tensors(tokens=tokens, labels=tokens, position_ids=positions, counted=tokens.numel(), empty=False)
    )
    torch.testing.assert_close(packed[:, 10:], model(input_ids=tokens[:, 10:]).logits)
    assert list(layers(model)) == ["0", "1"]


def test_a_model_without_weights_starts_the_same_in_every_world(
    folders: Path, new_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    (tmp_path / "bare").mkdir()
    config = json.loads((folders / "gemma3_text" / "config.json").read_text()) | {"initializer_range": 0.02}
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    runs = [
        train_in(
            ranks,
            world,
            new_run(
                f"bare-{world}",
                model=f"{{huggingface: {tmp_path / 'bare'}}}",
                workers=world,
                strategy=strategy,
                steps=STEPS,
            ),
        )
        for world, strategy in ((1, "ddp"), (3, "fsdp2"))
    ]
    assert runs[0].loss_drift(runs[1]) < 1e-5
    # A model that knows nothing yet.
    assert runs[0].steps()[0]["loss"] == pytest.approx(5.77, abs=0.3)


def test_weights_in_s3_are_read_by_rows(folders: Path, new_run: Callable[..., Run], s3: str) -> None:
    from eagleray.train.huggingface import Weights

    store = _core.Store(f"{s3}/huggingface/llama")
    for name in ("config.json", "model.safetensors"):
        store.put(name, (folders / "llama" / name).read_bytes())
    model = plan_of(new_run(model=f"{{huggingface: '{store.url}'}}"))[1].shape
    assert isinstance(model, HuggingfaceConfig)
    wanted = load_file(folders / "llama" / "model.safetensors")
    weights = Weights(model, "model")
    for name, whole in wanted.items():
        some = torch.empty_like(whole[1:7])
        weights.read(name, whole.shape, [range(1, 7)], some)
        assert torch.equal(some, whole[1:7])
        if whole.ndim > 1:
            part = torch.empty_like(whole[1:7, 3:9])
            weights.read(name, whole.shape, [range(1, 7), range(3, 9)], part)
            assert torch.equal(part, whole[1:7, 3:9])


def test_what_is_no_safetensors_file_is_named(folders: Path, new_run: Callable[..., Run], tmp_path: Path) -> None:
    from eagleray.train.huggingface import Weights

    (tmp_path / "config.json").write_text((folders / "llama" / "config.json").read_text())
    whole = (folders / "llama" / "model.safetensors").read_bytes()
    for junk in (b"", b"short", b"\xff" * 64, whole[:100], whole[:-1000]):
        (tmp_path / "model.safetensors").write_bytes(junk)
        model = plan_of(new_run(model=f"{{huggingface: {tmp_path}}}"))[1].shape
        assert isinstance(model, HuggingfaceConfig)
        with pytest.raises(_core.EagleRayError, match=r"model\.safetensors"):
            Weights(model, "model")


def test_the_built_in_model_is_a_llama_elsewhere(
    new_run: Callable[..., Run], undisturbed: Run, ranks: Ranks, tmp_path: Path
) -> None:
    del undisturbed  # It has built the datasets.
    for name, tied in (("apart", "false"), ("tied", "true")):
        shape = f"hidden_size: 32, intermediate_size: 64, num_layers: 2, num_heads: 4, tie_embeddings: {tied}"
        config = f"{{config: {{{shape}}}}}"
        run = new_run(name, model=config, strategy="fsdp2", workers=2, steps=STEPS)
        trained = train_in(ranks, 2, run)
        ours, theirs = held_out_losses(run, exported(run, tmp_path / f"out-{name}"), trained, apart=False)
        assert theirs == pytest.approx(ours, rel=1e-6)
    small = exported(run, tmp_path / "small", dtype="bf16")
    assert small.dtype == torch.bfloat16
    with pytest.raises(_core.InvalidError, match="is there already"):
        exported(run, tmp_path / "small")


def test_the_commands_train_a_folder_export_it_and_generate(
    folders: Path, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = new_run(model=f"{{huggingface: {folders / 'qwen3'}}}", strategy="fsdp2", steps=30, every="30 steps")
    run.finish()
    binary = Path(sys.executable).parent / "eagleray"
    command = [str(binary), "checkpoint", "export", str(run.store), "--to", "huggingface", str(tmp_path / "out")]
    told = json.loads(subprocess.run([*command, "--format", "json"], check=True, capture_output=True, text=True).stdout)
    assert told["folder"] == str(tmp_path / "out")
    assert told["beside"] == ["tokenizer.json", "generation_config.json"]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    inputs = tokenizer("the ray glides over", return_tensors="pt")
    text = tokenizer.decode(model.generate(**inputs, max_new_tokens=8, do_sample=False)[0])
    assert text.startswith("the ray glides over")
    assert len(text) > len("the ray glides over")
    # Another config is another model: the run does not go on with it.
    config = json.loads((folders / "qwen3" / "config.json").read_text())
    (folders / "qwen3" / "config.json").write_text(json.dumps(config | {"rope_parameters": None, "rope_theta": 7.0}))
    refused = run.start()
    assert refused.wait() == 1
    assert "`model.config.rope_theta` was null, is 7.0" in refused.text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "bloom"}, "models of type `bloom` are not available in this build"),
        ({"attention_dropout": 0.5}, "`attention_dropout` is 0.5: dropout is not available"),
        ({"max_position_embeddings": 16}, f"`data.sequence_length` is {SEQUENCE}, and the model"),
        ({"vocab_size": 100}, "is larger than the model's: 300 tokens, the model has 100"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    changed: dict[str, Any], message: str, folders: Path, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    config = json.loads((folders / "llama" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(_core.InvalidError, match=message):
        plan_of(new_run(model=f"{{huggingface: {tmp_path}}}"))


@pytest.mark.parametrize(
    ("family", "strategy", "message"),
    [
        ("gpt2", "{tp: 2}", "`tp` and a model of type `gpt2`: Transformers has no plan"),
        ("gpt2", "{cp: 2}", "`cp` and a model of type `gpt2`: Transformers has no plan"),
        ("gpt2", "{pp: 2}", "`pp` and a model of type `gpt2`: Transformers has no plan"),
        ("gemma3_text", "{pp: 2}", "`pp: 2` and a model whose head is its embedding"),
        ("llama", "{tp: 4}", "`tp` 4 does not divide the model's 2 key heads"),
        ("llama", "{pp: 4}", "`pp` 4 is above the model's 2 layers"),
    ],
)
def test_parts_that_a_model_does_not_allow_are_refused(
    family: str, strategy: str, message: str, folders: Path, new_run: Callable[..., Run]
) -> None:
    model = f"{{huggingface: {folders / family}}}"
    with pytest.raises(_core.InvalidError, match=message):
        plan_of(new_run(model=model, workers=4, strategy=strategy))


@pytest.mark.parametrize("family", list(OF_ITS_OWN))
def test_a_folder_s_parameters_are_counted_exactly(family: str, folders: Path) -> None:
    config = json.loads((folders / family / "config.json").read_text())
    biased = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": not config["tie_word_embeddings"]}
    for said in (config, config | biased, config | {"n_inner": 48, "num_key_value_heads": 1}):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**said))
        shape = json.loads(_core.huggingface_shape(json.dumps(said)))
        setting = {"layout": {"kind": "ddp"}, "world": 1, "sequence_length": SEQUENCE, "micro_batch": 1}
        memory = _core.plan_memory(json.dumps({"model": shape, "setting": setting | {"precision": "fp32"}}))
        assert json.loads(memory)["parameters"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.norm.weight"), "has no weights for `model.norm.weight`"),
        (lambda weights: weights.update(spare=torch.zeros(2)), "that its config.json has no place for: spare"),
        (lambda weights: weights.update({"model.norm.weight": torch.zeros(31)}), r"has the shape \[31\] in"),
    ],
)
def test_weights_that_are_not_the_model_s_are_refused(
    change: Callable[[dict[str, torch.Tensor]], Any],
    message: str,
    folders: Path,
    new_run: Callable[..., Run],
    ranks: Ranks,
    tmp_path: Path,
) -> None:
    weights = load_file(folders / "llama" / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folders / "llama" / "config.json").read_text())
    with pytest.raises(_core.InvalidError, match=message):
        train_in(ranks, 1, new_run(model=f"{{huggingface: {tmp_path}}}", workers=1, steps=STEPS))
