"""Builds the wheel in release mode and installs it, not editable, into the environment of the clone.

The clones of a user share one target folder, so that the dependencies are compiled once. Cargo knows
a member of the workspace by its path inside the workspace and its files by their times: it would take
another clone's newer artifacts for its own. So the folder has an owner, and a new owner first drops
what cargo believes about the members. Everything that uses the folder holds one lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import environment
from place import CACHE, CLONE, locked, run, say

TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or CACHE / "target").absolute()
WHEEL_DATA = CLONE / "target" / "wheel-data"
WAITING = "waiting for another `./dev` that builds or tests (they share compiled dependencies)"


def cargo_environment() -> dict[str, str]:
    """The variables of cargo: the shared target folder, and a binding that depends on no one Python."""
    inside = environment.environment()
    inside |= {"CARGO_TARGET_DIR": str(TARGET), "PYO3_NO_PYTHON": "1", "PYO3_BUILD_EXTENSION_MODULE": "1"}
    return inside


@contextlib.contextmanager
def owned_target() -> Iterator[None]:
    """Holds the target folder for this clone alone."""
    with locked(f"target-{hashlib.sha256(str(TARGET).encode()).hexdigest()[:8]}", WAITING):
        owner = TARGET / ".eagleray-owner"
        me = f"{CLONE} {CLONE.stat().st_ino}"
        if not owner.exists() or owner.read_text() != me:
            owner.unlink(missing_ok=True)
            for member in [*TARGET.glob("*/.fingerprint/eagleray-*"), *TARGET.glob("*/.fingerprint/xtask-*")]:
                shutil.rmtree(member, ignore_errors=True)
            TARGET.mkdir(parents=True, exist_ok=True)
            owner.write_text(me)
        yield


def cargo(arguments: Sequence[str]) -> None:
    """Runs cargo in the clone, with the target folder held."""
    with owned_target():
        run(["cargo", *arguments], environment=cargo_environment())


def install() -> Path:
    """Builds what changed, installs it where it differs from what is installed, and returns the Python."""
    python = environment.ensure()
    with owned_target():
        wheel = _build()
        try:
            content = _content_hash(wheel)
            stamp = environment.VENV / ".eagleray-wheel"
            if stamp.exists() and stamp.read_text() == content:
                say("the installed wheel is up to date")
            else:
                stamp.unlink(missing_ok=True)
                force = ["--quiet", "--no-deps", "--reinstall-package", "eagleray"]
                command = [str(environment.uv()), "pip", "install", f"--python={python}", *force, str(wheel)]
                run(command, environment=environment.uv_environment())
                stamp.write_text(content)
        finally:
            shutil.rmtree(wheel.parent, ignore_errors=True)
    return python


def _build() -> Path:
    """The wheel: the module, the binary, the Python files."""
    # The module is left to maturin: it passes other flags, so cargo would compile it twice, in turns.
    run(["cargo", "build", "--release", "--locked", "-p", "eagleray-cli"], environment=cargo_environment())
    scripts = WHEEL_DATA / "scripts"
    scripts.mkdir(parents=True, exist_ok=True)
    shutil.copy2(TARGET / "release" / "eagleray", scripts / "eagleray")
    (CACHE / "wheels").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="wheel-", dir=CACHE / "wheels"))
    maturin = environment.VENV / "bin" / "maturin"
    options = ["--release", "--locked", "--quiet", "--auditwheel=skip", f"--out={folder}"]
    run([str(maturin), "build", *options], environment=cargo_environment())
    return next(folder.glob("*.whl"))


def _content_hash(wheel: Path) -> str:
    """A hash of the names and bytes inside; the times in the archive do not count."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            digest.update(f"{entry.filename}\0{entry.file_size}\0".encode())
            digest.update(archive.read(entry))
    return digest.hexdigest()
