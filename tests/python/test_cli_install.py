"""The binary as the wheel installs it, and as `cargo build` leaves it without Python beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

BINARY = Path(sysconfig.get_path("scripts"), "eagleray")


def run(binary: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the binary with no Python named but the one that it finds itself."""
    variables = {name: value for name, value in os.environ.items() if name != "EAGLERAY_PYTHON"} | environment
    return subprocess.run([str(binary), *words], capture_output=True, text=True, env=variables, check=False)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A valid run.yaml, written by `init`."""
    done = run(BINARY, "init", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stderr
    return tmp_path / "demo" / "run.yaml"


def test_the_wheel_puts_a_native_binary_of_its_own_version_beside_python() -> None:
    assert BINARY.read_bytes()[:4] == b"\x7fELF"
    assert BINARY.parent == Path(sys.executable).parent
    assert run(BINARY, "--version").stdout == f"eagleray {metadata.version('eagleray')}\n"


def test_the_installed_package_is_the_wheel_and_not_the_source_tree() -> None:
    import eagleray
    from eagleray import _core

    assert eagleray.__version__ == _core.__version__ == metadata.version("eagleray")
    installed = Path(sysconfig.get_path("platlib"), "eagleray")
    assert Path(str(_core.__file__)).parent == installed == Path(str(eagleray.__file__)).parent
    assert (installed / "py.typed").exists()
    assert (installed / "_core.pyi").exists()


def test_importing_the_package_and_its_data_touches_neither_torch_nor_ray() -> None:
    code = "import sys, eagleray.data; print(sorted({'torch', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_neither_the_driver_nor_what_it_sends_to_the_controller_imports_torch() -> None:
    code = "import sys, eagleray._ray_train, eagleray.train.driver, eagleray.train.entry; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_binary_needs_no_python_to_check_a_spec(spec: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(BINARY, tmp_path / "eagleray"))
    done = run(alone, "check", str(spec), PATH="")
    assert done.returncode == 0, done.stderr
    assert "is valid" in done.stdout


def test_the_binary_alone_says_what_it_needs_for_a_command_that_wants_python(spec: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(BINARY, tmp_path / "eagleray"))
    done = run(alone, "train", str(spec))
    assert done.returncode == 1
    assert "this command needs the Python package" in done.stderr
    assert "EAGLERAY_PYTHON" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_binary_alone_uses_the_python_that_a_variable_names(spec: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(BINARY, tmp_path / "eagleray"))
    done = run(alone, "train", str(spec), EAGLERAY_PYTHON=str(tmp_path / "no-such-python"))
    assert done.returncode == 1
    assert "no-such-python" in done.stderr
