"""`python -m eagleray.shell prompt|exec RUN`: what `eagleray shell` and `eagleray exec` replace themselves by."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from eagleray import _failure

_ARGUMENT = "--argument="


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, connects, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="eagleray", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prompt", "exec"):
        command = commands.add_parser(name)
        command.add_argument("run", help="the run's store, or its spec")
        command.add_argument("--ranks", help="only these, such as 0,2-5")
        command.add_argument("--format", choices=("text", "json"), default="text")
        command.add_argument("--verbose", action="store_true", help="Ray's logs, and tracebacks")
        if name == "exec":
            command.add_argument("--once-per-node", action="store_true", help="only the lowest rank of each node")
            command.add_argument("--argument", help="of the program, itself included; as often as it has any")
    words = sys.argv[1:] if arguments is None else arguments
    # Not left to argparse: that of Python 3.11 drops a `--`, even one behind `=`.
    program = [word.removeprefix(_ARGUMENT) for word in words if word.startswith(_ARGUMENT)]
    options = parser.parse_args([word for word in words if not word.startswith(_ARGUMENT)])
    if options.command == "exec" and not program:
        parser.error("exec: expected a program")
    try:
        return _prompt(options) if options.command == "prompt" else _exec(options, program)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return _failure.EXIT_STOPPED
    except BrokenPipeError:
        # Whoever read has seen enough; nor is there anyone to tell at the end of this process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _failure.EXIT_STOPPED
    except Exception as error:
        return _failure.tell(error, as_json=options.format == "json", verbose=options.verbose)


def _prompt(options: argparse.Namespace) -> int:
    from .answers import parse_ranks
    from .cluster import connected
    from .place import running_world
    from .prompt import Prompt

    world = running_world(options.run)
    ranks = None if options.ranks is None else parse_ranks(options.ranks, len(world.places))
    with connected(world, ranks=ranks, verbose=options.verbose) as cluster:
        return Prompt(cluster).run()


def _exec(options: argparse.Namespace, program: Sequence[str]) -> int:
    from .answers import parse_ranks
    from .cluster import connected
    from .place import running_world

    world = running_world(options.run)
    size = len(world.places)
    ranks = list(range(size)) if options.ranks is None else parse_ranks(options.ranks, size)
    if options.once_per_node:
        ranks = world.once_per_node(ranks)
    if options.format == "text":
        with connected(world, ranks=ranks, verbose=options.verbose) as cluster:
            return max(cluster.exec(program))
    outputs: dict[int, dict[str, list[str]]] = {rank: {"stdout": [], "stderr": []} for rank in ranks}
    with connected(world, ranks=ranks, verbose=options.verbose) as cluster:
        codes = cluster.exec(program, show=lambda rank, stream, line: outputs[rank][stream].append(line))
    told: list[dict[str, Any]] = [
        {"rank": rank, "node": world.places[rank].node, "code": code, **outputs[rank]}
        for rank, code in zip(ranks, codes, strict=True)
    ]
    sys.stdout.write(json.dumps({"store": world.store, "ranks": told}) + "\n")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
