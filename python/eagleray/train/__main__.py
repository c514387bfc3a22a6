"""`python -m eagleray.train --resolved FILE`: what `eagleray train` replaces itself by."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from eagleray._failure import EXIT_STOPPED


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, trains, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="eagleray train", description=__doc__)
    parser.add_argument("--resolved", required=True, type=Path, help="the resolved spec, as JSON")
    parser.add_argument("--take-over", action="store_true", help="claim the run although another driver is alive")
    parser.add_argument("--built", action="store_true", help="build nothing: refuse to train on data that is not built")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--verbose", action="store_true", help="Ray's logs, and tracebacks")
    options = parser.parse_args(arguments)
    try:
        # torch takes seconds to import, and whoever interrupts meanwhile wants no traceback.
        from .console import Console
        from .driver import run

        console = Console(as_json=options.format == "json", verbose=options.verbose)
        resolved = json.loads(options.resolved.read_text(encoding="utf-8"))
        return run(resolved, take_over=options.take_over, built=options.built, console=console)
    except KeyboardInterrupt:
        sys.stderr.write("stopped before anything began\n")
        return EXIT_STOPPED


if __name__ == "__main__":
    sys.exit(main())
