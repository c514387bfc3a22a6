"""`./dev`: the commands of this repository."""

from __future__ import annotations

import sys
from collections.abc import Callable

import build
import checks
import ci
import environment
import tests
from place import CLONE, Failed, run, say

HELP = """\
usage: ./dev COMMAND

  quickstart [--short] [--dir DIR]   set-up, then the main job: text to a trained model (about ten minutes)
  test [rust|python|cluster [ARGS]]  set-up, then every test, or those of one runner
  bench NAME [--format json]         a benchmark of benches/; without NAME, the list
  build                              the wheel, installed into the environment of this clone
  python [ARGUMENTS]                 the Python of that environment
  fmt                                formats everything
  lint                               formatting, clippy, ruff, types, tidy, licences
  ci                                 everything, as CI runs it
  clean                              removes the environment of this clone, and those of clones that are gone
  help                               this

The first command sets up an environment in ~/.cache/eagleray (EAGLERAY_CACHE): Ray and a PyTorch with
CUDA, about 5.7 GB on disk, shared by all clones. Needs cargo, Python 3.11 or later, a C compiler."""


def _test(arguments: list[str]) -> None:
    which = arguments[0] if arguments and arguments[0] in tests.RUNNERS else "all"
    if which == "all" and arguments:
        raise Failed("name the runner before its arguments: `./dev test python -k survival`")
    tests.run(which, arguments[1:])


def _quickstart(arguments: list[str]) -> None:
    import quickstart

    quickstart.main(arguments)


def _bench(arguments: list[str]) -> None:
    python = build.install()
    # Held all the while: a build beside a benchmark would be measured with it.
    with build.owned_target():
        run([python, CLONE / "benches" / "run.py", *arguments], environment=build.cargo_environment(), echo=False)


def _python(arguments: list[str]) -> None:
    run([environment.ensure(), *arguments], environment=environment.environment(), echo=False)


def _lint(_: list[str]) -> None:
    for check in (checks.formatted, checks.ruff, checks.clippy, checks.types, checks.tidy, checks.licences):
        check()


COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "quickstart": _quickstart,
    "test": _test,
    "bench": _bench,
    "build": lambda _: build.install(),
    "python": _python,
    "fmt": lambda _: checks.formatted(write=True),
    "lint": _lint,
    "ci": lambda _: ci.run(),
    "clean": lambda _: environment.clean(),
}


def main(words: list[str]) -> int:
    """Runs one command; its exit status."""
    if not words or words[0] in ("help", "--help", "-h"):
        print(HELP)
        return 0
    command = COMMANDS.get(words[0])
    if command is None:
        say(f"error: there is no `./dev {words[0]}`\n  hint: `./dev help` lists what there is")
        return 1
    try:
        command(words[1:])
    except Failed as error:
        say(f"error: {error}")
        return error.code
    except KeyboardInterrupt:
        say("stopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
