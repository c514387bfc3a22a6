"""The one control plane of a machine, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock

from machine import missing
from plane import ControlPlane
from programs import ALL, CACHE, UnreachableError, build

SYSTEM = {"cpu": "16", "memory": "32Gi"}


@contextmanager
def one_plane() -> Iterator[ControlPlane]:
    """A control plane with one machine for operators; no other session of this machine has one meanwhile.

    `UnreachableError` says why there is none.
    """
    if reason := missing():
        raise UnreachableError(reason)
    for program in ALL:
        build(program)
    (CACHE / "locks").mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "locks" / "cluster-tests"):
        plane = ControlPlane()
        try:
            plane.start().add("system", allocatable=SYSTEM, labels={"tests/system": "true"})
            yield plane
        except BaseException:
            print(plane.logs())
            raise
        finally:
            plane.stop()
