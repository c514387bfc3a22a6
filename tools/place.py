"""Where things lie, how commands are run, and how two clones keep out of each other's way."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CLONE = Path(__file__).resolve().parent.parent
# Everything that is downloaded or built and may be shared between clones or made again.
CACHE = Path(os.environ.get("EAGLERAY_CACHE") or Path.home() / ".cache" / "eagleray")
IN_CI = os.environ.get("CI") == "true"


class Failed(Exception):
    """A step that failed and has said why; `code` is the exit status to end with."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def say(text: str) -> None:
    """What `./dev` itself has to say, apart from what its commands print."""
    print(text, file=sys.stderr, flush=True)


def shown(command: Sequence[str | Path]) -> str:
    """A command as a person would type it in the clone."""
    words = [str(word) for word in command]
    short = [word.removeprefix(f"{CLONE}/") for word in words]
    return " ".join(f"'{word}'" if any(c in word for c in " *$;&|<>()'") else word for word in short)


def run(
    command: Sequence[str | Path],
    *,
    folder: Path = CLONE,
    environment: Mapping[str, str] | None = None,
    echo: bool = True,
) -> None:
    """Runs a command to its end; a failure names it."""
    if echo:
        say(f"$ {shown(command)}")
    done = subprocess.run([str(word) for word in command], cwd=folder, env=dict(environment or os.environ))
    if done.returncode != 0:
        raise Failed(f"`{shown(command)}` ended with status {done.returncode}", abs(done.returncode))


@contextlib.contextmanager
def locked(name: str, waiting: str) -> Iterator[None]:
    """Holds a lock that all clones of this user share; `waiting` is said where another holds it."""
    folder = CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clone_key() -> str:
    """Names this clone in the cache."""
    return hashlib.sha256(str(CLONE).encode()).hexdigest()[:16]
