"""How a command line of ours ends badly: exit codes and the form of an error, as the native binary has them."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

from eagleray import _core

_KINDS = {
    _core.InvalidError: "invalid",
    _core.NotFoundError: "not_found",
    _core.ConflictError: "conflict",
    _core.UnavailableError: "unavailable",
    _core.CorruptError: "corrupt",
    _core.ExhaustedError: "exhausted",
}
EXIT_DONE, EXIT_FAULT, EXIT_UNEXPECTED, EXIT_STOPPED = 0, 1, 2, 130


def is_ours(error: BaseException) -> bool:
    """Whether it was raised on purpose, with a message for the user."""
    return isinstance(error, _core.EagleRayError)


def exit_code(error: BaseException) -> int:
    """1 for what the user can mend, 2 for what nobody expected and for a service that was away."""
    passing = isinstance(error, (_core.InternalError, _core.UnavailableError))
    return EXIT_FAULT if is_ours(error) and not passing else EXIT_UNEXPECTED


def text_of(error: BaseException) -> str:
    """Message and hint; the class too of an error that is not ours."""
    return (str(error) if is_ours(error) else f"{type(error).__name__}: {error}").rstrip()


def described(error: BaseException) -> dict[str, Any]:
    """`{"error": {"kind", "message", "hint"}}`, what `--format json` prints."""
    fields = {
        "kind": next((kind for known, kind in _KINDS.items() if isinstance(error, known)), "internal"),
        "message": getattr(error, "message", None) or text_of(error),
        "hint": getattr(error, "hint", None),
    }
    return {"error": fields}


def tell(error: BaseException, *, as_json: bool, verbose: bool, logs: str | None = None) -> int:
    """Says what went wrong, on stderr and as JSON on stdout where that is asked for; returns the exit code."""
    if verbose:
        traceback.print_exception(error)
    if as_json:
        sys.stdout.write(json.dumps(described(error)) + "\n")
        sys.stdout.flush()
    sys.stderr.write(f"error: {text_of(error)}\n")
    code = exit_code(error)
    if code == EXIT_UNEXPECTED and logs is not None:
        sys.stderr.write(f"logs: {logs}\n")
    if not is_ours(error) and not verbose:
        sys.stderr.write("hint: run again with `--verbose` for the traceback\n")
    sys.stderr.flush()
    return code
