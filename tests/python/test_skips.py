"""A missing tool is a skip on a laptop and a failure in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

IN_A_TEST = "import pytest\ndef test_it(): pytest.skip('{reason}')\ndef test_other(): pass\n"
IN_A_MODULE = "import pytest\npytest.skip('{reason}', allow_module_level=True)\n"


def outcome(folder: Path, body: str, reason: str, ci: str) -> tuple[int, str]:
    """Runs pytest on one file, with the plugin alone."""
    (folder / "test_sample.py").write_text(body.format(reason=reason), encoding="utf-8")
    variables = dict(os.environ) | {"CI": ci, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "pytest", "-p", "skips", "-p", "no:cacheprovider", "-ra", f"--rootdir={folder}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=variables, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("body", [IN_A_TEST, IN_A_MODULE])
def test_in_ci_a_skip_for_a_missing_tool_fails_and_names_the_tool(body: str, tmp_path: Path) -> None:
    status, shown = outcome(tmp_path, body, "missing tool: npm", "true")
    assert status != 0
    assert "missing tool: npm" in shown


@pytest.mark.parametrize(("reason", "ci"), [("missing tool: npm", ""), ("needs a GPU", "true")])
def test_elsewhere_and_for_other_reasons_it_is_a_skip_named_in_the_summary(
    reason: str, ci: str, tmp_path: Path
) -> None:
    status, shown = outcome(tmp_path, IN_A_TEST, reason, ci)
    assert status == 0, shown
    assert "1 passed, 1 skipped" in shown
    assert reason in shown
