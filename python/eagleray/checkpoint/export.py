"""`python -m eagleray.checkpoint.export`: what `eagleray checkpoint export` replaces itself by.

From a checkpoint to a folder that plain `transformers` loads: config, weights as safetensors, tokenizer. Tensors are
read a file's worth at a time, the optimizer not at all, and the folder appears whole or not at all. Of several saves
the folder gets the mean; of adapters the base with them in it, or the adapters alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagleray import _core, _failure

SHARD_BYTES = 5 * 10**9
# Beside a tokenizer, where the run's is a folder.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
# Families whose embedding is the head's too where their config does not say.
_TIED_BY_DEFAULT = ("gemma3_text", "gpt2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A checkpoint to be exported: the run's store, the save in it, and what its weights become.

    With `more` saves it is the mean of all; `adapter` leaves out the base.
    """

    store_url: str
    directory: str
    dtype: str | None
    more: tuple[str, ...] = ()
    adapter: bool = False

    @property
    def directories(self) -> tuple[str, ...]:
        """All saves."""
        return (self.directory, *self.more)


def export(source: Export, target: Path) -> dict[str, Any]:
    """Writes the folder `target`; what it holds, for people and programs.

    Raises `InvalidError` where `target` is there and not empty, or the run's model has no form in Transformers;
    `CorruptError` where the checkpoint is not as it was committed.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise _core.InvalidError(f"`{target}` is there already; name a folder that is not, or is empty")
    resolved = _resolved(source.store_url)
    model = resolved["spec"]["model"]
    for directory in source.directories:
        _core.verify(source.store_url, directory, (0, 1))
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        told = _write_adapter(made, source, model) if source.adapter else _write(made, source, resolved, model)
        told["beside"] = _copy_beside(made, resolved, model)
        for path in made.iterdir():
            _sync(path)
        _sync(made)
        # mkdtemp's folder is for its owner alone.
        made.chmod(0o755)
        made.rename(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return told | {"folder": str(target), "checkpoint": source.directory, "checkpoints": list(source.directories)}


def _resolved(store_url: str) -> dict[str, Any]:
    store = _core.Store(store_url)
    if store.head("resolved.json") is None:
        raise _core.NotFoundError(f"`{store_url}` is not a run's store: it has no `resolved.json`")
    resolved: dict[str, Any] = json.loads(store.get("resolved.json"))
    if resolved["spec"]["model"] is None:
        raise _core.InvalidError(
            "the run trained code of your own: only that code knows its model, and `eagleray.checkpoint.load` reads it"
        )
    return resolved


def _write(folder: Path, source: Export, resolved: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    from .whole import groups, whole_model

    tensors = whole_model(source.store_url, source.directories, model)
    shapes = dict(tensors.shapes)
    ours = model["kind"] == "llama"
    config = _llama_config(model["config"], resolved, shapes) if ours else dict(model["config"])
    if config.get("tie_word_embeddings", config["model_type"] in _TIED_BY_DEFAULT):
        # Transformers makes the head of the embedding again, as the model did.
        shapes.pop("lm_head.weight", None)
    wanted = _dtype(source)
    width = 4 if wanted is None else wanted.itemsize
    files = list(groups(shapes, width, SHARD_BYTES))
    index: dict[str, str] = {}
    total = 0
    for number, group in enumerate(files, start=1):
        file = "model.safetensors" if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        held = {name: tensor.to(wanted).contiguous() for name, tensor in tensors.read(group).items()}
        _save(held, folder / file)
        total += sum(tensor.nbytes for tensor in held.values())
        index |= dict.fromkeys(held, file)
        if sys.stderr.isatty():
            sys.stderr.write(f"\rwrote {number} of {len(files)} files" + ("\n" if number == len(files) else ""))
    tensors.require_read()
    if len(files) > 1:
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    config["dtype"] = "float32" if wanted is None else str(wanted).removeprefix("torch.")
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return {"tensors": len(shapes), "bytes": total, "files": len(files)}


def _write_adapter(folder: Path, source: Export, model: Mapping[str, Any]) -> dict[str, Any]:
    from .adapter import adapter_tensors, write_adapter_config

    held = adapter_tensors(source.store_url, source.directory, model)
    held = {name: tensor.to(_dtype(source)).contiguous() for name, tensor in held.items()}
    _save(held, folder / "adapter_model.safetensors")
    write_adapter_config(folder, list(held), model)
    return {"tensors": len(held), "bytes": sum(tensor.nbytes for tensor in held.values()), "files": 1}


def _dtype(source: Export) -> Any:
    """What weights become; None where they stay as they are."""
    import torch

    return None if source.dtype is None else {"bf16": torch.bfloat16, "fp32": torch.float32}[source.dtype]


def _llama_config(
    config: Mapping[str, Any], resolved: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """The built-in model is Llama: the same arithmetic under other names."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shapes["model.embed_tokens.weight"][0],
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "num_key_value_heads": config["num_kv_heads"],
        "rope_theta": config["rope_theta"],
        "rms_norm_eps": config["norm_eps"],
        "tie_word_embeddings": config["tie_embeddings"],
        "max_position_embeddings": resolved["spec"]["data"]["sequence_length"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _save(tensors: Mapping[str, Any], path: Path) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise _core.InvalidError("the export needs `pip install 'eagleray[huggingface]'`") from error
    # Transformers reads the format from the header.
    save_file(dict(tensors), str(path), metadata={"format": "pt"})


def _copy_beside(folder: Path, resolved: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """The run's tokenizer, and of the model's folder how to generate; what is there."""
    copied = []
    data = resolved["spec"]["data"] or {}
    if tokenizer := data.get("tokenizer"):
        home, _, name = tokenizer.rpartition("/")
        is_file = name.endswith(".json")
        store = _core.Store(home if is_file else tokenizer)
        for file in (name,) if is_file else _TOKENIZER_FILES:
            if store.head(file) is not None:
                target = "tokenizer.json" if is_file else file
                (folder / target).write_bytes(store.get(file))
                copied.append(target)
    if model["kind"] == "huggingface":
        store = _core.Store(model["path"])
        if store.head("generation_config.json") is not None:
            (folder / "generation_config.json").write_bytes(store.get("generation_config.json"))
            copied.append("generation_config.json")
    return copied


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, exports, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="eagleray checkpoint export", description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--directory", required=True, action="append", help="several for their mean")
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--dtype", choices=("bf16", "fp32"))
    parser.add_argument("--adapter", action="store_true")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    try:
        first, *more = options.directory
        source = Export(
            store_url=options.store,
            directory=first,
            more=tuple(more),
            dtype=options.dtype,
            adapter=options.adapter,
        )
        told = export(source, options.to.absolute())
    except KeyboardInterrupt:
        sys.stderr.write("stopped; nothing was written\n")
        return _failure.EXIT_STOPPED
    except Exception as error:
        return _failure.tell(error, as_json=options.format == "json", verbose=options.verbose)
    if options.format == "json":
        print(json.dumps(told))
    else:
        size = f"{told['bytes'] / 2**20:.1f} MiB"
        what = f"the mean of {len(told['checkpoints'])} checkpoints" if more else told["checkpoint"]
        print(f"exported {what}: {told['tensors']} tensors, {size}, in {told['folder']}")
        loader = "PeftModel.from_pretrained(base, " if options.adapter else "AutoModelForCausalLM.from_pretrained("
        print(f"  load it with `{loader}{told['folder']!r})`")
    return _failure.EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
