"""Looks in on a library at the moment a script imports it, so that a script without it pays for nothing."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

Adapt = Callable[[Any], None]


@contextmanager
def after_import(adapters: Mapping[str, Adapt]) -> Iterator[None]:
    """Within the block, each module named is handed to its adapter once: when it is imported, or now."""
    finder = _Finder(dict(adapters))
    for name in adapters:
        if name in sys.modules:
            finder.adapt(sys.modules[name])
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds a module as everybody would, and has its adapter called when it has been executed."""

    def __init__(self, adapters: dict[str, Adapt]) -> None:
        self._adapters = adapters
        self._finding = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """As the finders behind this one say."""
        if self._finding or fullname not in self._adapters:
            return None
        self._finding = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._finding = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec

    def adapt(self, module: types.ModuleType) -> None:
        """Calls the module's adapter, the first time."""
        if adapter := self._adapters.pop(module.__name__, None):
            adapter(module)


class _Loader(Loader):
    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader, self._finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._finder.adapt(module)
