"""Adapters beside a frozen base: the losses of plain peft in every world, saves without the base, exports that load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from eagleray import _core
from eagleray.checkpoint.export import Export, export
from eagleray.checkpoint.partial import ModelTensors
from eagleray.train.lora import initial_value
from eagleray.train.plan import Plan
from ranks import Ranks
from test_huggingface import LLAMA, OF_ITS_OWN, held_out_losses, plan_of
from training import BATCH, Corpus, Run, surroundings, train_in

pytestmark = pytest.mark.timeout(600)
STEPS = 10
LR = 2e-2
BINARY = Path(sys.executable).parent / "eagleray"


@pytest.fixture(scope="module")
def bases(corpus: Corpus, undisturbed: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family with weights."""
    del corpus, undisturbed  # They have built the datasets.
    root = tmp_path_factory.mktemp("bases")
    for family, own in OF_ITS_OWN.items():
        torch.manual_seed(3)
        said = {"vocab_size": 320, "initializer_range": 0.2} if family == "gpt2" else LLAMA
        config = AutoConfig.for_model(family, **said | own, bos_token_id=0, eos_token_id=0, pad_token_id=0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(root / family)
    return root


def adapted(base: Path, lora: str = "{rank: 4, alpha: 8}") -> dict[str, Any]:
    """What a run says to train adapters beside `base`."""
    return {"model": f"{{huggingface: {base}, lora: {lora}}}", "steps": STEPS, "lr": LR}


def plain_losses(base: Path, plan: Plan, targets: list[str] | str) -> list[float]:
    """The loss of each step in plain peft and Transformers, from where a run of ours begins."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(initial_value(name.removeprefix("base_model.model."), value.shape, plan.seed))
    said = plan.optimizer
    optimizer = torch.optim.AdamW(trained.values(), betas=said.betas, eps=said.eps, weight_decay=said.weight_decay)
    stream: Any = _core.Stream(json.dumps(plan.stream_config(0, 1, 0)))
    losses = []
    for step in range(1, plan.steps + 1):
        total = 0.0
        for _ in range(BATCH // plan.micro_batch):
            batch = stream.next()
            inputs, labels, positions = (torch.from_numpy(batch[key]) for key in ("tokens", "labels", "position_ids"))
            logits = model(input_ids=inputs, position_ids=positions, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            (loss / plan.tokens_per_step).backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained.values(), plan.clip_grad_norm or 1.0)
        for group in optimizer.param_groups:
            group["lr"] = said.lr_at(step, plan.steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total / plan.tokens_per_step)
    stream.close()
    return losses


def written(run: Run) -> Run:
    """The run with what a driver leaves beside its checkpoints."""
    (run.store / "resolved.json").write_text(json.dumps(plan_of(run)[0]), encoding="utf-8")
    return run


def newest(run: Run) -> str:
    """The folder of a run's newest checkpoint."""
    return str(json.loads(_core.newest(str(run.store)) or "{}")["dir"])


def logits_of(model: Any) -> torch.Tensor:
    """What a model says of some tokens."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(48).view(2, 24)).logits
    return found


def test_every_world_has_the_losses_of_plain_peft(bases: Path, new_run: Callable[..., Run], ranks: Ranks) -> None:
    base = bases / "llama"
    said = adapted(base, "{rank: 4, alpha: 8, targets: [v_proj, q_proj]}")
    spreads: list[tuple[str, int, dict[str, str]]] = [
        ("ddp", 1, {}),
        ("ddp", 2, {"recompute": "full"}),
        ("fsdp2", 2, {"recompute": "selective"}),
        ("fsdp2", 3, {"recompute": "full"}),
        ("{dp_replicate: 2, dp_shard: 2}", 4, {}),
        ("zero1", 2, {}),
        ("zero2", 2, {"recompute": "selective"}),
        ("zero3", 3, {"recompute": "full"}),
    ]
    plain: list[float] = []
    frozen = set()
    for strategy, world, more in spreads:
        run = new_run(f"{strategy[:5]}-{world}", workers=world, strategy=strategy, **said, **more)
        plain = plain or plain_losses(base, plan_of(run)[1], ["q_proj", "v_proj"])
        trained = train_in(ranks, world, run)
        assert [step["loss"] for step in trained.steps()] == pytest.approx(plain, rel=1e-5), (strategy, world)
        commit = json.loads(_core.read_commit(str(run.store), newest(run)))
        frozen.add(commit["metadata"]["values"]["frozen"])
    assert plain[-1] < plain[0]
    # Of the same base in every world, whoever holds which part of it.
    assert len(frozen) == 1


def test_dropout_is_a_matter_of_samples_in_every_world_and_after_a_resume(
    bases: Path, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    said = adapted(bases / "llama", "{rank: 4, alpha: 8, dropout: 0.3}") | {"every": "5 steps"}
    spreads: list[tuple[str, int, dict[str, Any]]] = [
        ("ddp", 1, {"micro_batch": 4}),
        ("ddp", 2, {"recompute": "full"}),
        ("fsdp2", 3, {"recompute": "selective"}),
    ]
    runs = [
        new_run(f"{strategy}-{world}", workers=world, strategy=strategy, **said | more)
        for strategy, world, more in spreads
    ]
    trained = [train_in(ranks, world, run) for run, (_, world, _) in zip(runs, spreads, strict=True)]
    for each in trained[1:]:
        assert each.loss_drift(trained[0]) < 1e-5
        # Held-out texts are measured whole.
        held = [[event["loss"] for event in run.events("validation")] for run in (trained[0], each)]
        assert held[1] == pytest.approx(held[0], rel=1e-5) and len(held[0]) == 2
    plain = train_in(ranks, 1, new_run("plain", workers=1, **adapted(bases / "llama", "{rank: 4, alpha: 8}")))
    assert trained[0].steps()[0]["loss"] == pytest.approx(plain.steps()[0]["loss"], rel=1e-6), (
        "the second factor is zero"
    )
    assert trained[0].loss_drift(plain) > 1e-3
    shutil.rmtree(runs[2].store / "checkpoints" / f"step-{STEPS:09}")
    resumed = train_in(ranks, 2, new_run("on", store=runs[2].store, workers=2, strategy="fsdp2", **said))
    wanted = {step: event["loss"] for step, event in trained[0].history().items() if step > 5}
    assert {step: event["loss"] for step, event in resumed.history().items()} == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("family", list(OF_ITS_OWN))
def test_a_family_trains_adapters_and_what_is_exported_is_what_was_trained(
    family: str, bases: Path, new_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    run = new_run(workers=2, strategy="fsdp2", **adapted(bases / family))
    trained = train_in(ranks, 2, run)
    plain = plain_losses(bases / family, plan_of(run)[1], "all-linear")
    assert [step["loss"] for step in trained.steps()] == pytest.approx(plain, rel=1e-5)
    source = Export(store_url=str(written(run).store), directory=newest(run), dtype=None)
    merged = AutoModelForCausalLM.from_pretrained(export(source, tmp_path / "merged")["folder"])
    ours, theirs = held_out_losses(run, merged, trained)
    assert theirs == pytest.approx(ours, rel=1e-6)
    alone = Export(store_url=str(run.store), directory=newest(run), dtype=None, adapter=True)
    told = export(alone, tmp_path / "adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        path.name for path in (tmp_path / "adapter").iterdir()
    }
    base = AutoModelForCausalLM.from_pretrained(bases / family)
    untrained = logits_of(base)
    beside = PeftModel.from_pretrained(base, told["folder"])
    torch.testing.assert_close(logits_of(merged), logits_of(beside), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits_of(merged), untrained, atol=1e-3)


def test_a_save_holds_adapters_alone_and_any_world_goes_on_from_it(
    bases: Path, new_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    run = new_run(workers=2, strategy="fsdp2", every="5 steps", **adapted(bases / "gemma3_text"))
    through = train_in(ranks, 2, run)
    shapes = ModelTensors(str(run.store), newest(run)).shapes
    assert shapes and all(".lora_A." in name or ".lora_B." in name for name in shapes)
    shutil.rmtree(run.store / "checkpoints" / f"step-{STEPS:09}")
    for strategy, world in (("ddp", 1), ("fsdp2", 3), ("zero3", 2)):
        copied = tmp_path / f"{strategy}-{world}"
        shutil.copytree(run.store, copied)
        again = new_run(
            f"again-{strategy}",
            store=copied,
            workers=world,
            strategy=strategy,
            every="5 steps",
            **adapted(bases / "gemma3_text"),
        )
        rest = train_in(ranks, world, again).history()
        assert sorted(rest) == list(range(6, STEPS + 1))
        for step, event in rest.items():
            assert event["loss"] == pytest.approx(through.history()[step]["loss"], rel=1e-5)


def test_a_run_does_not_go_on_beside_another_base(
    bases: Path, new_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    shutil.copytree(bases / "llama", tmp_path / "base")
    run = new_run("run", workers=1, **adapted(tmp_path / "base"))
    train_in(ranks, 1, run)
    for lora in ("{rank: 2, alpha: 8}", "{rank: 4, alpha: 4}", "{rank: 4, alpha: 8, targets: [q_proj]}"):
        other = new_run("other", store=run.store, workers=1, **adapted(tmp_path / "base", lora) | {"steps": STEPS + 1})
        with pytest.raises(_core.InvalidError, match="is of another model"):
            train_in(ranks, 1, other)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] += 1e-3
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    longer = new_run("longer", store=run.store, workers=1, **adapted(tmp_path / "base") | {"steps": STEPS + 1})
    with pytest.raises(_core.InvalidError, match="are not those that the checkpoint's adapters were trained beside"):
        train_in(ranks, 1, longer)
    with pytest.raises(_core.InvalidError, match="are not those that the adapters were trained beside"):
        export(Export(store_url=str(written(run).store), directory=newest(run), dtype=None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_adapters_have_gradients_and_bf16_trains_them(
    bases: Path, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    for strategy in ("ddp", "fsdp2"):
        run = new_run(strategy, workers=2, strategy=strategy, precision="bf16", **adapted(bases / "qwen3"))
        for with_gradient, adapters in ranks.run(2, _gradients, run.spec(), run.claim()):
            assert with_gradient == adapters
        losses = [step["loss"] for step in train_in(ranks, 2, run).steps()]
        plain = plain_losses(bases / "qwen3", plan_of(run)[1], "all-linear")
        assert losses == pytest.approx(plain, rel=2e-2)


def _gradients(rank: int, world: int, resolved: dict[str, Any], attempt: int) -> tuple[list[str], list[str]]:
    """Names of the parameters that have a gradient after a backward pass, and those of adapters."""
    from eagleray.train.context import Tensors
    from eagleray.train.loop import Loop

    with surroundings(rank, world, resolved, attempt, []) as context:
        loop = Loop(context, None)
        tokens = torch.arange(64).view(2, 32)
        positions = torch.arange(32).expand(2, -1)
        tensors = Tensors(tokens=tokens, labels=tokens, position_ids=positions, counted=tokens.numel(), empty=False)
        loop.spread.forward_backward(tensors, 1.0, last=True)
        loop.stream.close()
        named = dict(loop.spread.model.named_parameters())
        return [name for name, value in named.items() if value.grad is not None], [
            name for name in named if ".lora_" in name
        ]


def require_mean(folder: Path, folders: list[Path]) -> None:
    """That the weights in `folder` are the mean of those in `folders`."""
    mean, *loaded = (load_file(path / "model.safetensors") for path in (folder, *folders))
    assert mean.keys() == loaded[0].keys()
    for name, tensor in mean.items():
        wanted = torch.stack([weights[name].double() for weights in loaded]).mean(dim=0).float()
        torch.testing.assert_close(tensor, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["built-in", "whole", "adapters"])
def test_an_average_is_the_mean_of_what_is_exported(
    kind: str, bases: Path, new_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    model: dict[str, Any] = {
        "built-in": {},
        "whole": {"model": f"{{huggingface: {bases / 'gemma3_text'}}}"},
        "adapters": adapted(bases / "gpt2"),
    }[kind]
    run = new_run(workers=2, strategy="fsdp2", every="4 steps", **{"lr": LR} | model | {"steps": 12})
    train_in(ranks, 2, run)
    written(run)
    assert run.commits() == [4, 8, 12]
    saves = [
        str(next((run.store / "checkpoints" / f"step-{step:09}").iterdir()).relative_to(run.store))
        for step in run.commits()
    ]
    folders = [tmp_path / f"save-{number}" for number in range(len(saves))]
    for save, folder in zip(saves, folders, strict=True):
        export(Export(store_url=str(run.store), directory=save, dtype=None), folder)
    source = Export(store_url=str(run.store), directory=saves[0], more=tuple(saves[1:]), dtype=None)
    require_mean(Path(export(source, tmp_path / "mean")["folder"]), folders)
    AutoModelForCausalLM.from_pretrained(tmp_path / "mean")
    if kind == "adapters":
        return

    def average(*which: str) -> subprocess.CompletedProcess[str]:
        command = [str(BINARY), "checkpoint", "average", str(run.store), *which, "--to", "huggingface"]
        return subprocess.run([*command, str(tmp_path / which[0])], capture_output=True, text=True)

    done = average("--last", "2") if kind == "whole" else average("--steps", "12,4")
    assert done.returncode == 0, done.stderr
    assert "the mean of 2 checkpoints" in done.stdout
    if kind == "whole":
        require_mean(tmp_path / "--last", folders[1:])
        return
    require_mean(tmp_path / "--steps", folders[::2])
    few = average("--last", "4")
    assert few.returncode == 1 and "fewer than 4: 4, 8, 12" in few.stderr
    none = average("--steps", "4,5")
    assert none.returncode == 1 and "has no checkpoint of step 5" in none.stderr
    assert not (tmp_path / "--last").exists()


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ("{targets: [q_prj]}", r"no linear layer .* is named `q_prj`; there are down_proj, gate_proj"),
        ("{targets: [lm_head]}", "is named `lm_head`"),
        ("{targets: [embed_tokens]}", "is named `embed_tokens`"),
    ],
)
def test_a_target_that_is_no_linear_layer_is_refused(
    lora: str, message: str, bases: Path, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    with pytest.raises(_core.InvalidError, match=message):
        train_in(ranks, 1, new_run(workers=1, **adapted(bases / "llama", lora)))


def test_adapters_need_weights_to_stand_beside(bases: Path, new_run: Callable[..., Run], tmp_path: Path) -> None:
    shutil.copy(bases / "llama" / "config.json", tmp_path / "config.json")
    with pytest.raises(_core.InvalidError, match="trains adapters beside weights, and"):
        plan_of(new_run(**adapted(tmp_path)))


def test_the_commands_train_adapters_and_export_them(bases: Path, new_run: Callable[..., Run], tmp_path: Path) -> None:
    run = new_run(strategy="fsdp2", every="5 steps", **adapted(bases / "llama"))
    run.finish()
    command = [str(BINARY), "checkpoint", "export", str(run.store), "--to", "huggingface"]
    subprocess.run([*command, str(tmp_path / "adapter"), "--adapter"], check=True)
    told = subprocess.run([*command, str(tmp_path / "merged"), "--format", "json"], check=True, capture_output=True)
    assert json.loads(told.stdout)["beside"] == ["tokenizer.json", "generation_config.json"]
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases / "llama"), tmp_path / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits_of(merged), logits_of(beside), rtol=1e-4, atol=1e-5)
    whole = new_run("whole", strategy="ddp", workers=1, model=f"{{huggingface: {bases / 'llama'}}}", store=run.store)
    refused = whole.start()
    assert refused.wait() == 1
    assert "`model.lora" in refused.text()
