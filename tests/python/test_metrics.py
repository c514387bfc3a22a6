"""Figures of each step and the sinks they go to, with the clients' own readers; without Ray but for the last."""

from __future__ import annotations

import json
import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from eagleray import _core
from eagleray.train import sinks
from eagleray.train.flops import flops_per_token, mfu, peak_flops
from eagleray.train.measures import memory_bytes
from eagleray.train.model import Llama, sample_losses
from eagleray.train.model_config import ModelConfig
from eagleray.train.sinks import feed, require_clients
from eagleray.train.sinks.feed import Feed, Told
from eagleray.train.sinks.figures import Figures, figures_of
from made_metrics import Attempt, eventually, offline_rows, step_event, wanted
from training import SEQUENCE, Run

SHAPE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 80, "num_layers": 3, "num_heads": 4}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are imported while a test runs, which takes a busy machine longer than an attempt's end may."""
    monkeypatch.setattr(sinks, "CLOSE_SECONDS", 120.0)


def client(name: str) -> Any:
    """The client, or a skip that names it."""
    return pytest.importorskip(name, reason=f"missing tool: {name}")


@pytest.mark.parametrize(("kv_heads", "tied"), [(4, True), (2, False)])
def test_flops_per_token_are_those_that_torch_counts(kv_heads: int, tied: bool) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = ModelConfig(**SHAPE, num_kv_heads=kv_heads, tie_embeddings=tied)
    model, length = Llama(config), 24
    tokens = torch.randint(0, config.vocab_size, (2, length))
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        logits = model(tokens, torch.arange(length).expand(2, length))
        sample_losses(logits, tokens).sum().backward()
    assert counter.get_total_flops() == tokens.numel() * flops_per_token(config, length)


def test_mfu_is_the_share_of_the_peak_and_absent_where_no_peak_is_known() -> None:
    said = {"world": 4, "flops_per_token": 2e9, "peak_flops": peak_flops("NVIDIA H100 80GB HBM3", "bf16")}
    assert mfu(989_000.0, said) == pytest.approx(0.5)
    for device, precision in (("NVIDIA H100 80GB HBM3", "fp32"), ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16")):
        assert peak_flops(device, precision) is None
    assert mfu(989_000.0, said | {"peak_flops": None}) is None
    assert "time/mfu" not in figures_of(step_event(1, 3.0, flops_per_token=2e9)).values  # type: ignore[union-attr]


def test_the_memory_of_a_process_on_a_cpu_grows_with_what_it_touches() -> None:
    before = memory_bytes(torch.device("cpu"))
    held = torch.ones(64 << 20, dtype=torch.uint8)
    after = memory_bytes(torch.device("cpu"))
    assert before is not None and after is not None and after - before > 32 << 20
    del held


def test_figures_of_a_step_are_those_of_its_event_and_rates_over_its_own_time() -> None:
    event = step_event(3, 4.5, again=True, flops_per_token=1000, peak_flops=1e6, figures={"accuracy": 0.25})
    figures = figures_of(event)
    assert figures is not None and figures.step == 3 and figures.again
    assert figures.values == pytest.approx(
        {
            "train/loss": 4.5,
            "train/lr": 0.5,
            "train/grad_norm": 2.0,
            "time/data_wait": 0.1,
            "time/data_wait_share": 0.1,
            "time/tokens_per_second": 512.0,
            "time/mfu": 0.256,
            "memory/bytes": 1 << 20,
            "own/accuracy": 0.25,
        }
    )


def test_tensorboard_holds_steps_and_validations_of_every_attempt(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for steps in ((1, 2), (3,)):
        attempt = Attempt(tmp_path, tensorboard=True)
        attempt.push(*[step_event(step, 5.0 - step) for step in steps])
        attempt.push({"kind": "validation", "t": 1.7e9, "name": "held", "step": steps[-1], "loss": 6.0, "end": 1.7e9})
        attempt.finish("stopped")
    attempt = Attempt(tmp_path, tensorboard=True)
    attempt.push(anomaly(4, "skip"), anomaly(6, "skip"))
    attempt.finish("stopped")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("anomalies/skipped_positions")] == [(4, 8.0), (6, 16.0)]
    assert {each.step: each.value for each in events.Scalars("train/loss")} == {1: 4.0, 2: 3.0, 3: 2.0}
    assert [each.step for each in events.Scalars("validation/held")] == [2, 3]


@pytest.mark.parametrize("place", ["sqlite", "folder", "default"])
def test_mlflow_has_one_run_for_all_attempts_and_marks_a_step_done_again(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client("mlflow")
    client("sqlalchemy")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    store = tmp_path / "store"
    uri = {"sqlite": f"sqlite:///{tmp_path}/own.db", "folder": str(tmp_path / "mlruns"), "default": None}[place]
    for outcome, again, steps in (("failed", False, (1, 2)), ("completed", True, (2, 3))):
        attempt = Attempt(store, mlflow={"experiment": "sea", "tracking_uri": uri})
        attempt.push(*[step_event(step, 5.0 - step, again=again and step == 2) for step in steps])
        attempt.finish(outcome)

    from mlflow import MlflowClient

    reader = MlflowClient(tracking_uri=uri or f"sqlite:///{store}/mlflow.db")
    experiment = reader.get_experiment_by_name("sea")
    (run,) = reader.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("small", "FINISHED")
    assert run.data.params == {"train.steps": "9", "model.preset": "llama-tiny"}
    losses = [(each.step, each.value) for each in reader.get_metric_history(run.info.run_id, "train/loss")]
    assert sorted(losses) == [(1, 4.0), (2, 3.0), (2, 3.0), (3, 2.0)]
    assert [each.step for each in reader.get_metric_history(run.info.run_id, "train/recompute")] == [2]
    os.environ.pop("MLFLOW_ALLOW_FILE_STORE", None)


def test_wandb_offline_has_one_run_for_all_attempts_and_marks_a_step_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client("wandb")
    for name in ("WANDB_DIR", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for outcome, again, steps in (("failed", False, (1, 2)), ("completed", True, (2, 3))):
        attempt = Attempt(tmp_path, wandb={"project": "sea", "mode": "offline"})
        attempt.push(*[step_event(step, 5.0 - step, again=again and step == 2) for step in steps])
        attempt.finish(outcome)
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == 2 and len({path.name for path in files}) == 1
    rows = [row for path in files for row in offline_rows(path)]
    assert [(row["step"], row["train/loss"], row["recompute"]) for row in rows] == [
        (1, 4.0, 0),
        (2, 3.0, 0),
        (2, 3.0, 1),
        (3, 2.0, 0),
    ]
    assert rows[0]["time/tokens_per_second"] == 512.0


def scraped(url: str) -> dict[str, float]:
    """What Prometheus' own parser makes of an endpoint, by name and labels."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): sample.value
            for sample in samples}  # fmt: skip


def test_prometheus_scrapes_the_newest_step_at_the_port_that_the_ledger_names(tmp_path: Path) -> None:
    client("prometheus_client")
    attempt = Attempt(tmp_path, prometheus={"host": "127.0.0.1", "port": 0})
    eventually(lambda: attempt.heard("http://127.0.0.1:"))
    attempt.push(step_event(1, 4.0), step_event(2, 3.0))
    (told,) = [event for event in _events(tmp_path) if event["kind"] == "metrics"]
    assert told["sink"] == "prometheus"
    attempt.push({"kind": "validation", "t": 1.7e9, "name": "held", "step": 2, "loss": 6.0, "end": 1.7e9})
    eventually(lambda: "eagleray_validation_loss held small" in scraped(told["place"]))
    found = scraped(told["place"])
    assert found["eagleray_step small"] == 2.0
    assert found["eagleray_loss small"] == 3.0
    assert found["eagleray_tokens_per_second small"] == 512.0
    assert found["eagleray_memory_bytes small"] == 1 << 20
    assert "eagleray_mfu small" not in found
    attempt.finish("completed")
    with pytest.raises(OSError, match="refused"):
        scraped(told["place"])


def anomaly(step: int, action: str, **more: Any) -> dict[str, Any]:
    positions = [8 * step - 8, 8 * step]
    return {"kind": "anomaly", "t": 1.7e9, "rank": 0, "step": step, "action": action, "positions": positions} | more


def test_what_anomalies_cost_is_counted_over_all_attempts_and_once(tmp_path: Path) -> None:
    client("prometheus_client")
    attempt = Attempt(tmp_path, prometheus={"host": "127.0.0.1", "port": 0})
    skip = anomaly(4, "skip")
    attempt.push(step_event(3, 4.0), skip)
    attempt.finish("failed")
    again = Attempt(tmp_path, told=[skip], prometheus={"host": "127.0.0.1", "port": 0})
    eventually(lambda: again.heard("http://127.0.0.1:"))
    again.push()
    place = [event for event in _events(tmp_path) if event["kind"] == "metrics"][-1]["place"]
    assert scraped(place)["eagleray_skipped_positions_total small"] == 8.0
    # The resume comes to the skip once more; then something new happens.
    again.push(skip, anomaly(9, "rollback", back_to=5, left_out=[40, 96]), anomaly(12, "stop"), step_event(9, 3.0))
    eventually(lambda: scraped(place).get("eagleray_step small") == 9.0)
    found = scraped(place)
    assert found["eagleray_skipped_positions_total small"] == 8.0
    assert found["eagleray_rollbacks_total small"] == 1.0
    assert found["eagleray_left_out_positions_total small"] == 56.0
    again.finish("completed")


def test_a_port_that_is_taken_costs_one_notice_and_is_served_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client("prometheus_client")
    monkeypatch.setattr(feed, "RETRY_SECONDS", (0.05, 0.05))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        attempt = Attempt(tmp_path, prometheus={"host": "127.0.0.1", "port": port})
        attempt.push(step_event(1, 4.0))
        eventually(lambda: attempt.heard("prometheus cannot be written"))
    eventually(lambda: attempt.heard(f":{port}/metrics"))
    eventually(lambda: scraped(f"http://127.0.0.1:{port}/metrics").get("eagleray_loss small") == 4.0)
    assert sum("cannot be written" in notice for notice in attempt.notices) == 1
    attempt.finish("completed")


class Broken:
    """A sink that holds its thread until it is let go, and then fails so many times."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.go = threading.Event()
        self.written: list[int] = []

    def open(self) -> str | None:
        self.go.wait()
        return None

    def write(self, batch: Sequence[Figures]) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise OSError("no space left on device")
        self.written += [figures.step for figures in batch]

    def close(self, outcome: str) -> None:
        self.written.append(-1)


def shown(step: int) -> Figures:
    return Figures(t=0.0, step=step, values={})


def test_a_sink_that_fails_is_told_of_once_and_tried_until_it_has_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "RETRY_SECONDS", (0.01, 0.01))
    told: list[Told] = []
    broken = Broken(failures=5)
    broken.go.set()
    feeding = Feed("broken", broken, told.append)
    for step in range(20):
        feeding.put(shown(step))
    eventually(lambda: len(broken.written) == 20)
    feeding.close("completed")
    assert feeding.join(60.0)
    assert broken.written == [*range(20), -1]
    assert [each.message for each in told] == [
        "metrics: broken cannot be written, and is tried again now and then: OSError: no space left on device"
    ]


def test_a_sink_that_hangs_holds_nobody_up_and_loses_its_oldest_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "QUEUE_MAX", 8)
    told: list[Told] = []
    broken = Broken()
    feeding = Feed("broken", broken, told.append)
    for step in range(100):
        feeding.put(shown(step))
    feeding.close("completed")
    assert not feeding.join(0.0)
    assert [each.message for each in told] == [
        "metrics: broken is more than 8 steps behind; the oldest are left out",
        "metrics: broken did not take the last figures in time",
    ]
    broken.go.set()
    assert feeding.join(60.0)
    assert broken.written == [*range(92, 100), -1]


def test_a_client_that_is_missing_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda _name: None)
    require_clients(wanted(tmp_path, tensorboard=True))
    for key in ("mlflow", "wandb", "prometheus"):
        with pytest.raises(_core.InvalidError, match=rf"`metrics.{key}` needs .*\n.*pip install 'eagleray\[{key}\]'"):
            require_clients(wanted(tmp_path, **{key: {}}))


def test_a_folder_of_a_client_s_name_is_not_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nosuchclient").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sinks._CLIENTS, "wandb", "nosuchclient")
    with pytest.raises(_core.InvalidError, match=r"`metrics\.wandb` needs"):
        require_clients(wanted(tmp_path, wandb={}))


def test_mlflow_without_a_place_is_refused_where_the_store_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    client("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(_core.InvalidError, match=r"s3://bucket/run is no folder"):
        require_clients(wanted("s3://bucket/run", mlflow={}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.acme.example")
    require_clients(wanted("s3://bucket/run", mlflow={}))


def _events(store: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(_core.read_ledger(str(store)))
    return found


@pytest.mark.timeout(600)
def test_a_run_that_goes_on_after_its_end_fills_every_sink_of_its_spec(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    client("mlflow")
    client("wandb")
    for name in ("MLFLOW_TRACKING_URI", "WANDB_DIR", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    metrics = "{mlflow: {}, wandb: {mode: offline}, prometheus: {port: 0}}"
    run = new_run(steps=20, workers=1, metrics=metrics)
    first = run.finish()
    assert "metrics: prometheus at http://127.0.0.1:" in first.text()
    new_run("longer", store=run.store, steps=30, workers=1, metrics=metrics).finish()
    steps = run.steps()
    flops = 6 * (2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 300 * 32) + 12 * 2 * 32 * SEQUENCE
    assert {event["flops_per_token"] for event in steps} == {flops}
    assert all(event["memory_bytes"] > 0 and "peak_flops" not in event for event in steps)
    losses = [(event["step"], event["loss"]) for event in steps]
    assert [step for step, _ in losses] == list(range(1, 31))

    from mlflow import MlflowClient

    reader = MlflowClient(tracking_uri=f"sqlite:///{run.store}/mlflow.db")
    (logged,) = reader.search_runs([reader.get_experiment_by_name("tiny").experiment_id])
    history = reader.get_metric_history(logged.info.run_id, "train/loss")
    assert sorted((each.step, each.value) for each in history) == losses
    files = sorted((run.store / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({path.name for path in files}) == 1
    rows = [row for path in files for row in offline_rows(path) if "train/loss" in row]
    assert [(row["step"], row["train/loss"]) for row in rows] == losses
