"""What the loop needs of a resolved spec and the built datasets, typed and checked once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eagleray import _core
from eagleray._commit import ENGINE, FILES

from .layout import AXES, Layout
from .model_config import AnyModel, HuggingfaceConfig, model_from

# No script is longer.
SCRIPT_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One built token dataset of the mixture."""

    name: str
    url: str
    weight: float

    def to_json(self) -> dict[str, Any]:
        """The entry of a stream's config."""
        return {"name": self.name, "url": self.url, "weight": self.weight}


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """A held-out dataset: the same `samples` each time, every so many steps."""

    name: str
    url: str
    every_steps: int
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """AdamW and its schedule: linear warm-up, then a cosine down to `final_lr_ratio`."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    warmup_steps: int
    final_lr_ratio: float

    def lr_at(self, step: int, total_steps: int) -> float:
        """Learning rate of step `step`, counted from one."""
        if step <= self.warmup_steps:
            return self.lr * step / max(self.warmup_steps, 1)
        progress = (step - self.warmup_steps) / max(total_steps - self.warmup_steps, 1)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
        return self.lr * (self.final_lr_ratio + (1.0 - self.final_lr_ratio) * cosine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """When a checkpoint is due: by steps, by seconds, or by what saves were measured to cost."""

    kind: str
    steps: int = 0
    seconds: float = 0.0

    # Without measurements: often enough to lose little, seldom enough to cost nothing.
    AUTO_FIRST_SECONDS = 60.0
    AUTO_RANGE_SECONDS = (30.0, 1800.0)
    # One worker of a spot fleet lives about a day; nothing better is known before the run's own ledger is read.
    AUTO_MTBF_SECONDS = 86_400.0

    def due(self, step: int, since_save: float, world: int, stall: float | None, duration: float | None) -> bool:
        """Whether to save after `step`, `since_save` seconds after the last save began (or training did).

        `stall` and `duration` are what the last save cost the step, and took in all.
        """
        if self.kind == "steps":
            return step % self.steps == 0
        return since_save >= self.interval(world, stall, duration)

    def interval(self, world: int, stall: float | None, duration: float | None) -> float:
        """Seconds between saves: max(background time, √(2·δ·MTBF ÷ workers)) for `auto`."""
        if self.kind == "seconds":
            return self.seconds
        if stall is None or duration is None:
            return self.AUTO_FIRST_SECONDS
        low, high = self.AUTO_RANGE_SECONDS
        return min(max(duration, math.sqrt(2.0 * stall * self.AUTO_MTBF_SECONDS / world), low), high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """`train.script`: a file, its arguments, and what it is started as."""

    path: str
    args: tuple[str, ...]
    launcher: str
    accelerate_config: str | None
    # What the driver has read of the files that lie on S3, by key.
    texts: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def from_resolved(cls, script: Mapping[str, Any]) -> Script:
        """The script of a resolved spec."""
        return cls(
            path=script["path"],
            args=tuple(script["args"]),
            launcher=script["launcher"],
            accelerate_config=script.get("accelerate_config"),
        )

    def require_there(self) -> None:
        """Refuses a script that does not lie here, or whose configuration does not."""
        for key, path in self._files():
            if key not in self.texts and not Path(path).is_file():
                raise _core.InvalidError(f"`train.script.{key}`: there is no file `{path}`")

    def fetched(self) -> Script:
        """With what lies on S3 read: all workers of an attempt run the same bytes, and need no key of the bucket."""
        texts: dict[str, bytes] = {}
        for key, path in self._files():
            if not path.startswith("s3://"):
                continue
            folder, _, name = path.rpartition("/")
            store = _core.Store(folder)
            size = store.head(name)
            if size is None:
                raise _core.InvalidError(f"`train.script.{key}`: there is no object `{path}`")
            if size > SCRIPT_BYTES_MAX:
                raise _core.InvalidError(
                    f"`train.script.{key}`: `{path}` has {size} bytes, more than {SCRIPT_BYTES_MAX}: not a script"
                )
            texts[key] = store.get(name)
        return replace(self, texts=texts)

    def placed(self, folder: Path) -> Script:
        """With what the driver has read written into `folder`; what lies elsewhere stays there."""
        paths = dict(self._files())
        for key, text in self.texts.items():
            # Each in a folder of its own: a script's is the first on its path.
            place = folder / key / Path(paths[key]).name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(text)
            paths[key] = str(place)
        return replace(self, path=paths["path"], accelerate_config=paths.get("accelerate_config"), texts={})

    def config_text(self) -> str | None:
        """The configuration of Accelerate, where there is one and this process can read it."""
        if (text := self.texts.get("accelerate_config")) is not None:
            return text.decode()
        path = None if self.accelerate_config is None else Path(self.accelerate_config)
        return path.read_text(encoding="utf-8") if path is not None and path.is_file() else None

    def _files(self) -> list[tuple[str, str]]:
        config = self.accelerate_config
        return [("path", self.path)] + ([] if config is None else [("accelerate_config", config)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, as the loop sees it."""

    name: str
    store: str
    seed: int
    vocab_size: int
    sequence_length: int
    global_batch: int
    micro_batch: int
    steps: int
    layout: Layout
    precision: str
    recompute: str
    pipeline: str
    compile: bool
    offload: str
    clip_grad_norm: float | None
    anomalies: Mapping[str, Any]
    model: AnyModel | None
    function: str | None
    script: Script | None
    deepspeed: Mapping[str, Any] | None
    optimizer: Optimizer
    sources: tuple[Source, ...]
    validation: tuple[Validation, ...]
    cadence: Cadence
    keep: Mapping[str, Any]
    save_async: bool
    hashes: Mapping[str, str]
    program: str

    @property
    def shape(self) -> AnyModel:
        """The model that the built-in loop trains."""
        if self.model is None:
            raise _core.InternalError("a run of its own code has no model of ours")
        return self.model

    @property
    def label(self) -> str:
        """What trains, in a word: the strategy, or the name of the script."""
        return str(self.layout) if self.script is None else Path(self.script.path).name

    @property
    def engine(self) -> str:
        """What writes the run's checkpoints."""
        return ENGINE if self.script is None else FILES

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one global batch."""
        return self.global_batch * self.sequence_length

    def require_device(self, *, gpu: bool) -> None:
        """Refuses workers that lack what the run asks of their device."""
        if self.offload == "cpu" and not gpu:
            raise _core.InvalidError(
                "`train.offload: cpu` on workers without a GPU: all of their state is in the host's memory already; "
                "remove `offload`, or start where Ray sees GPUs"
            )

    def micro_batches(self, readers: int) -> int:
        """Micro batches of a step on each rank: those of the reader with the largest share."""
        return math.ceil(math.ceil(self.global_batch / readers) / self.micro_batch)

    def stream_config(self, reader: int, readers: int, position: int, left_out: int = 0) -> dict[str, Any]:
        """Config of the training stream of one share of the global batch; `left_out` batches are never trained on."""
        return {
            "sources": [source.to_json() for source in self.sources],
            "sequence_length": self.sequence_length,
            "seed": self.seed,
            "global_batch": self.global_batch,
            "micro_batch": self.micro_batch,
            "rank": reader,
            "world": readers,
            "position": position,
            "end_position": (self.steps + left_out) * self.global_batch,
            "prefetch_bytes": prefetch_bytes(self.sequence_length, self.micro_batch),
        }

    def validation_config(self, validation: Validation, samples: int, reader: int, readers: int) -> dict[str, Any]:
        """Config of a reader's share of one validation: positions 0 to `samples` of that dataset's own order."""
        config = self.stream_config(reader, readers, 0)
        source = Source(name=validation.name, url=validation.url, weight=1.0)
        return config | {
            "sources": [source.to_json()],
            "global_batch": min(self.global_batch, samples),
            "end_position": samples,
        }


def prefetch_bytes(sequence_length: int, micro_batch: int) -> int:
    """How far a rank reads ahead: at least 64 micro batches of 4-byte tokens, at least 8 MiB."""
    return max(64 * micro_batch * sequence_length * 4, 8 << 20)


def plan_from(resolved: Mapping[str, Any], datasets: Mapping[str, Mapping[str, str]], vocab_size: int) -> Plan:
    """The plan of a resolved spec; `datasets` holds the built URL of each source, by `train` and `validation`."""
    spec = resolved["spec"]
    data, train, checkpoint = spec["data"] or {"sources": {}}, spec["train"], spec["checkpoint"]
    script = train.get("script")
    if train["steps"] is None and script is None:
        raise _core.InvalidError("the key `steps` is missing in `train`: the run must know its end")
    own = train.get("function") is not None or script is not None
    every = checkpoint["every"]
    if script is not None and data["sources"]:
        _require_even_shares(train["global_batch"], spec["cluster"]["workers"]["max"])
    optimizer, schedule = train["optimizer"], train["schedule"]
    layout = Layout.from_resolved(train["strategy"])
    model = None if own else model_from(resolved, vocab_size)
    if isinstance(model, HuggingfaceConfig) and layout.kind == "mesh":
        axes = {axis: getattr(layout, axis) for axis in AXES}
        _core.require_huggingface_split(json.dumps(model.config), json.dumps(axes))
    if model is not None:
        layout.require_divided(model.vocab_size)
    return Plan(
        name=spec["name"],
        store=spec["store"],
        seed=spec["seed"],
        vocab_size=vocab_size,
        sequence_length=data.get("sequence_length", 0),
        global_batch=train["global_batch"] if data["sources"] else 0,
        micro_batch=train["micro_batch"],
        # A script ends when it returns; steps are what its progress is shown against.
        steps=train["steps"] or 0,
        layout=layout,
        precision=train["precision"],
        recompute=train["recompute"],
        pipeline=train["pipeline"],
        # Left out where they are the default, as in specs from before they were there.
        compile=train.get("compile", False),
        offload=train.get("offload", "none"),
        clip_grad_norm=train.get("clip_grad_norm"),
        anomalies=train["anomalies"],
        model=model,
        function=train.get("function"),
        script=None if script is None else Script.from_resolved(script),
        deepspeed=train.get("deepspeed"),
        optimizer=Optimizer(
            lr=optimizer["lr"],
            betas=(optimizer["betas"][0], optimizer["betas"][1]),
            eps=optimizer["eps"],
            weight_decay=optimizer["weight_decay"],
            warmup_steps=schedule["warmup_steps"],
            final_lr_ratio=schedule["final_lr_ratio"],
        ),
        sources=tuple(
            Source(name=name, url=datasets["train"][name], weight=source["weight"])
            for name, source in data["sources"].items()
        ),
        validation=tuple(
            Validation(
                name=name, url=datasets["validation"][name], every_steps=held["every_steps"], samples=held["samples"]
            )
            for name, held in (data.get("validation") or {}).items()
        ),
        cadence=Cadence(kind=every["kind"], steps=every.get("steps") or 0, seconds=every.get("seconds") or 0.0),
        keep=checkpoint["keep"],
        save_async=checkpoint["async"],
        hashes={key: resolved[key] for key in ("spec_hash", "order_hash", "model_hash")},
        program=resolved["program"],
    )


def _require_even_shares(global_batch: int, workers: int) -> None:
    """A script takes as many samples on each worker."""
    if global_batch % workers:
        raise _core.InvalidError(
            f"`train.global_batch: {global_batch}` over {workers} workers: with `train.script` each worker takes as "
            f"many samples in a step; choose a multiple of {workers}"
        )
