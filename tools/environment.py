"""The Python environment of a clone: made by uv from a shared cache, brought up to date when pyproject changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from place import CACHE, CLONE, Failed, clone_key, locked, run, say

UV_VERSION = "0.13.9"
VENV = CACHE / "venvs" / clone_key()
PYTHON = VENV / "bin" / "python"

SIZE_NOTE = """\
Setting up the Python environment of this clone in {venv}.
Ray, PyTorch and the tools for the tests come from PyPI. The PyTorch there brings CUDA along: about
5.7 GB on disk, once; other clones share the files. A minute near a mirror, more on a slow line."""


def uv() -> Path:
    """The uv binary, fetched as a wheel on first use."""
    folder = CACHE / f"uv-{UV_VERSION}"
    binary = folder / "bin" / "uv"
    if binary.exists():
        return binary
    with locked("uv", "waiting for another clone that fetches uv"):
        if not binary.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=".uv-", dir=CACHE))
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
            try:
                run([*pip, f"--target={made}", f"uv=={UV_VERSION}"])
            except Failed as error:
                shutil.rmtree(made, ignore_errors=True)
                raise Failed(f"{error}\n  hint: `./dev` fetches uv with pip: is `python3 -m pip` there?") from error
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return binary


def uv_environment() -> dict[str, str]:
    """What uv needs to know: the shared cache, and the index and certificates that pip would use."""
    environment = dict(os.environ)
    environment |= {"UV_CACHE_DIR": str(CACHE / "uv-cache"), "UV_LINK_MODE": "hardlink", "UV_PYTHON_DOWNLOADS": "never"}
    environment.pop("VIRTUAL_ENV", None)
    for setting, variable in (
        ("index-url", "UV_DEFAULT_INDEX"),
        ("extra-index-url", "UV_INDEX"),
        ("cert", "SSL_CERT_FILE"),
    ):
        value = _pip_setting(setting)
        if value and variable not in environment:
            environment[variable] = value
    return environment


def ensure() -> Path:
    """Makes the environment or brings it up to date; returns its Python."""
    wanted = _wanted()
    stamp = VENV / ".eagleray-wanted"
    if stamp.exists() and stamp.read_text() == wanted and PYTHON.exists():
        return PYTHON
    with locked(f"venv-{clone_key()}", "waiting for another `./dev` that sets up this environment"):
        if not (stamp.exists() and stamp.read_text() == wanted and PYTHON.exists()):
            say(SIZE_NOTE.format(venv=VENV))
            _make()
            stamp.write_text(wanted)
            (VENV / ".eagleray-clone").write_text(f"{CLONE}\n")
    return PYTHON


def environment() -> dict[str, str]:
    """The variables of a command that runs inside the environment."""
    inside = dict(os.environ)
    inside |= {"VIRTUAL_ENV": str(VENV), "PATH": f"{VENV / 'bin'}:{os.environ.get('PATH', '')}"}
    inside.setdefault("EAGLERAY_INPUTS", str(CACHE / "inputs"))
    # Neither a Python path nor a home of another installation may get in.
    for name in ("PYTHONPATH", "PYTHONHOME", "EAGLERAY_PYTHON"):
        inside.pop(name, None)
    return inside


def apart(group: str, command: Sequence[str | Path]) -> int:
    """Runs a Python program with a group of pyproject's that does not go with the clone's environment; its status.

    Of 2 uv itself has failed, before the program began.
    """
    groups = tomllib.loads((CLONE / "pyproject.toml").read_text())["dependency-groups"]
    wanted = [word for package in groups[group] for word in ("--with", package)]
    python = [str(uv()), "run", "--quiet", "--no-project", f"--python={PYTHON}", *wanted, "python"]
    return subprocess.run([*python, *map(str, command)], env=uv_environment(), check=False).returncode


def clean() -> None:
    """Removes the environment of this clone, and those of clones that are gone."""
    for venv in sorted(VENV.parent.glob("*")):
        name = venv / ".eagleray-clone"
        clone = Path(name.read_text().strip()) if name.exists() else None
        if venv == VENV or (clone is not None and not clone.exists()):
            with locked(f"venv-{venv.name}", "waiting for another `./dev` that sets up this environment"):
                say(f"removing {venv}, the environment of {clone or CLONE}")
                shutil.rmtree(venv)
    shutil.rmtree(CLONE / "target" / "wheel-data", ignore_errors=True)
    say(f"what clones share is left: packages, compiled dependencies and texts in {CACHE}")


def _make() -> None:
    tool, variables = uv(), uv_environment()
    VENV.parent.mkdir(parents=True, exist_ok=True)
    if not PYTHON.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        run([tool, "venv", "--quiet", f"--python={sys.executable}", VENV], environment=variables)
    wanted = ["-r", "pyproject.toml", "--extra", "train", "--group", "dev"]
    run([tool, "pip", "install", f"--python={PYTHON}", *wanted], environment=variables)


def _wanted() -> str:
    """A hash of everything that decides what the environment holds."""
    settings = tomllib.loads((CLONE / "pyproject.toml").read_text())
    project = settings["project"]
    parts = [
        UV_VERSION,
        sys.version,
        project["dependencies"],
        project["optional-dependencies"],
        settings["dependency-groups"],
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _pip_setting(name: str) -> str | None:
    for section in ("global", "install"):
        command = [sys.executable, "-m", "pip", "config", "get", f"{section}.{name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    return os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
