"""Formatting, lints, types, tidy and licences: each a step of `./dev lint` and a stage of CI."""

from __future__ import annotations

import os
from pathlib import Path

import build
import environment
from place import CACHE, CLONE, run

PYTHON_FOLDERS = ["python", "tests/python", "tests/cluster", "tools", "benches"]
CARGO_DENY_VERSION = "0.20.2"


def tool(name: str) -> Path:
    """A tool of the environment."""
    environment.ensure()
    return environment.VENV / "bin" / name


def formatted(write: bool = False) -> None:
    """rustfmt and ruff agree with every file; or make it so."""
    check = [] if write else ["--check"]
    run(["cargo", "fmt", "--all", *(["--", *check] if check else [])])
    run([tool("ruff"), "format", *check, *PYTHON_FOLDERS])


def clippy() -> None:
    """No warning in any target of the workspace."""
    build.cargo(["clippy", "--release", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])


def ruff() -> None:
    """The lints of Python."""
    run([tool("ruff"), "check", *PYTHON_FOLDERS])


def types() -> None:
    """mypy, strict, on the package; and its stub of the native module agrees with the module."""
    run([tool("mypy"), "python/eagleray"], environment=environment.environment())
    python = build.install()
    command = [str(python), "-m", "mypy.stubtest", "eagleray._core"]
    # From the cache, so that what is looked at is the installed package.
    run(command, folder=CACHE, environment=environment.environment())


def tidy() -> None:
    """The rules of the repository that no lint knows."""
    build.cargo(["run", "--release", "--quiet", "--locked", "-p", "xtask", "--", "tidy"])


def licences() -> None:
    """Licences, bans and sources of every dependency."""
    deny = CACHE / "tools" / "bin" / "cargo-deny"
    if not deny.exists():
        _install_cargo_deny()
    run([deny, "--offline", "--locked", "check", "licenses", "bans", "sources"], environment=_with_cargo_home())


def _install_cargo_deny() -> None:
    # It runs for a second: compiled fast rather than to run fast, it takes two minutes instead of ten.
    quick = {"LTO": "off", "OPT_LEVEL": "1", "CODEGEN_UNITS": "16"}
    variables = dict(os.environ) | {f"CARGO_PROFILE_RELEASE_{name}": value for name, value in quick.items()}
    variables["CARGO_TARGET_DIR"] = str(build.TARGET / "tools")
    command = [
        "cargo",
        "install",
        "--quiet",
        "--locked",
        f"cargo-deny@{CARGO_DENY_VERSION}",
        f"--root={CACHE / 'tools'}",
    ]
    run(command, folder=CACHE, environment=variables)


def _with_cargo_home() -> dict[str, str]:
    # cargo-deny asks cargo for the graph of all platforms, whose crates a build never fetches.
    run(["cargo", "fetch", "--quiet", "--locked"], folder=CLONE, echo=False)
    return dict(os.environ)
