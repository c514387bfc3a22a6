"""The Helm chart of the rights, without Helm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from client import Object, read_manifests

CHART = Path(__file__).parents[2] / "charts" / "eagleray"


def chart(namespace: str, *parts: str) -> list[Object]:
    """The objects of the chart's rights and accounts: the little of Helm's language that those two files use."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for part in parts:
        values["rights"][part] = True

    def value(path: str) -> Any:
        found = {"Values": values, "Release": {"Namespace": namespace}}
        for step in path.removeprefix(".").split("."):
            found = found[step]
        return found

    made = []
    for name in ("rbac.yaml", "service-accounts.yaml"):
        lines, open_blocks = [], []
        for line in (CHART / "templates" / name).read_text(encoding="utf-8").splitlines():
            if block := re.fullmatch(r"\s*{{- (?:if|range) (\S+) }}", line):
                # Nobody is named in `users` and `groups`: a range is left out like what is off.
                open_blocks.append(all(open_blocks) and bool(value(block[1])))
            elif re.fullmatch(r"\s*{{- end }}", line):
                open_blocks.pop()
            elif all(open_blocks):
                lines.append(re.sub(r"{{ (\S+)(?: \| quote)? }}", lambda word: str(value(word[1])), line))
        made += read_manifests("\n".join(lines))
    return made
