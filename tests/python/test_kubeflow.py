"""The step of the Kubeflow pipeline in `examples`: its exit codes and its output, against API servers of a test."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeflow import CLONE, compiled, run_step

# The spec of the tests of `launch --rejoin`, too.
SPEC = (CLONE / "crates" / "cli" / "tests" / "data" / "launched.yaml").read_text(encoding="utf-8")
LABELS = {"eagleray/run": "solar", "eagleray/launch": "solar-1"}
METADATA = {"name": "solar-1", "namespace": "training", "labels": LABELS}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return compiled(tmp_path_factory.mktemp("pipeline"))


def kubeconfig(folder: Path, port: int) -> Path:
    """The configuration that leads to a port of this machine."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "a", "user": {}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


class Complete(BaseHTTPRequestHandler):
    """An API server whose one launch is that of the spec, and is complete."""

    def do_GET(self) -> None:
        job = {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": METADATA,
            "spec": {},
            "status": {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"},
        }
        spec = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": METADATA, "data": {"run.yaml": SPEC}}
        path = self.path.split("?")[0]
        found = job if "/rayjobs" in path else spec
        answer = found if path.endswith("/solar-1") else {"metadata": {}, "items": [found]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def complete() -> Iterator[int]:
    """The port of it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Complete)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_the_step_is_tried_again_and_is_never_answered_from_a_cache(pipeline: dict[str, Any]) -> None:
    (step,) = pipeline["root"]["dag"]["tasks"].values()
    assert step["retryPolicy"]["maxRetryCount"] == 3
    assert not step.get("cachingOptions", {}).get("enableCache", False)
    assert set(pipeline["root"]["outputDefinitions"]["parameters"]) == {"Output"}


def test_a_step_whose_launch_is_complete_succeeds_and_says_what_it_is(
    pipeline: dict[str, Any], complete: int, tmp_path: Path
) -> None:
    done, output = run_step(pipeline, tmp_path, kubeconfig(tmp_path, complete), spec=SPEC, timeout="1m")
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text(encoding="utf-8"))
    assert (result["run"], result["launch"], result["store"]) == ("solar", "solar-1", "/fsx/runs/solar")
    assert len(result["digest"]) == 64


def test_a_step_that_reaches_no_cluster_ends_with_2_and_a_wrong_spec_with_1(
    pipeline: dict[str, Any], tmp_path: Path
) -> None:
    # Nobody listens there.
    config = kubeconfig(tmp_path, 9)
    done, _ = run_step(pipeline, tmp_path, config, spec=SPEC, timeout="1m")
    assert done.returncode == 2 and "does not answer" in done.stderr, done.stderr
    done, _ = run_step(pipeline, tmp_path, config, spec=SPEC.replace("steps:", "stepss:"), timeout="1m")
    assert done.returncode == 1 and "did you mean `steps`?" in done.stderr, done.stderr
