"""Runs a benchmark of this folder by name: `./dev bench NAME [--format json] [-o FILE]`.

A benchmark is a module with `run()`, which returns `{"bench": name, "figures": [{"name", "value", "unit",
"low", "high"}, …]}`. Names of figures are stable: docs/benchmarks.md and whoever compares two versions
refer to them. Interleaving, fresh processes and CPU seconds are the benchmark's own business.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent


def benchmarks() -> dict[str, Path]:
    """The modules of this folder that define `run`, found without importing them."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        names = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        if "run" in names and path.name != "run.py":
            found[path.stem] = path
    return found


def title(path: Path) -> str:
    """The first line of a module's documentation."""
    return (ast.get_docstring(ast.parse(path.read_text())) or path.stem).splitlines()[0]


def measure(path: Path) -> dict[str, Any]:
    """Imports the module and runs it."""
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"error: `{path}` cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    result: dict[str, Any] = module.run()
    return result


def table(result: dict[str, Any]) -> str:
    """The figures for people."""
    header = ("figure", "value", "unit", "low", "high")
    figures = result["figures"]
    rows = [header, *((f["name"], *(shown(f.get(k)) for k in ("value", "unit", "low", "high"))) for f in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = []
    for name, value, unit, low, high in rows:
        numbers = [cell.rjust(widths[column]) for cell, column in ((low, 3), (high, 4))]
        lines.append(
            "  ".join([name.ljust(widths[0]), value.rjust(widths[1]), unit.ljust(widths[2]), *numbers]).rstrip()
        )
    return "\n".join(lines)


def shown(value: float | str | None) -> str:
    """A number with four digits that count."""
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", nargs="?", help="which; without it, the list")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    found = benchmarks()
    if arguments.name is None:
        print("\n".join(f"{name:<12} {title(path)}" for name, path in found.items()))
        return
    if arguments.name not in found:
        raise SystemExit(f"error: no benchmark `{arguments.name}`\n  hint: there are {', '.join(found)}")
    result = measure(found[arguments.name])
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2) if arguments.format == "json" else table(result))


if __name__ == "__main__":
    main()
