"""The example of a Kubeflow pipeline, compiled by the real SDK, and its step as Kubeflow's launcher would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

CLONE = Path(__file__).resolve().parents[2]
EXAMPLE = CLONE / "examples" / "kubeflow_pipeline.py"
COMPILE = "import sys, environment; sys.exit(environment.apart('kubeflow', sys.argv[1:]))"


def compiled(folder: Path) -> dict[str, Any]:
    """What kfp makes of the example."""
    # Python ends with 2 too, where there is nothing to run.
    assert EXAMPLE.is_file()
    out = folder / "pipeline.yaml"
    command = [sys.executable, "-c", COMPILE, str(EXAMPLE), str(out)]
    tools = os.environ | {"PYTHONPATH": str(CLONE / "tools")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=tools)
    if done.returncode == 2:
        pytest.skip(f"missing tool: kfp, which cannot be installed: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = yaml.safe_load(out.read_text(encoding="utf-8"))
    return made


def run_step(
    pipeline: Mapping[str, Any], folder: Path, kubeconfig: Path, **parameters: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Runs the step's own command with what the launcher fills in; how it ended, and the file of its output."""
    container = pipeline["deploymentSpec"]["executors"]["exec-train"]["container"]
    result = folder / "outputs" / "result"
    filled = {f"{{{{$.inputs.parameters['{name}']}}}}": value for name, value in parameters.items()}
    filled["{{$.outputs.parameters['result'].output_file}}"] = str(result)
    words = [filled.get(word, word) for word in [*container["command"], *container["args"]]]
    assert not any("{{$" in word for word in words), words
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(kubeconfig),
        "TMPDIR": str(folder),
    }
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables, timeout=120)
    return done, result
