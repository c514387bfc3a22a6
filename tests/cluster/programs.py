"""The programs of a cluster, built from pinned Go modules: `go/<program>` holds a go.mod and a go.sum for each.

They lie in the cache by their version and a hash of what they are built from; only what is missing is built.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

MODULES = Path(__file__).parent / "go"
CACHE = Path(os.environ.get("EAGLERAY_CACHE") or Path.home() / ".cache" / "eagleray")
STAMP = "k8s.io/component-base/version"


class UnreachableError(Exception):
    """The modules are not there, and nobody answers who has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program: its folder in `go`, the module that gives it its version, and what is built there."""

    name: str
    module: str
    package: str

    @property
    def folder(self) -> Path:
        return MODULES / self.name

    @property
    def version(self) -> str:
        """As go.mod pins it."""
        for line in (self.folder / "go.mod").read_text(encoding="utf-8").splitlines():
            words = line.removeprefix("require").split()
            if len(words) >= 2 and words[0] == self.module and words[1].startswith("v"):
                return words[1]
        raise ValueError(f"`{self.folder / 'go.mod'}` does not require `{self.module}`")

    @property
    def binary(self) -> Path:
        """Where it lies once it is built."""
        digest = hashlib.sha256()
        for file in sorted(self.folder.iterdir()):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return CACHE / "tools" / "cluster" / f"{self.name}-{self.version}-{digest.hexdigest()[:8]}"

    def linker_flags(self) -> str:
        """Small, and with the version that it reports: Kueue does not start beside a server without one."""
        flags = "-s -w"
        if self.name == "kubernetes":
            major, minor, _ = self.version.removeprefix("v").split(".")
            named = {"gitVersion": self.version, "gitMajor": major, "gitMinor": minor}
            flags += "".join(f" -X {STAMP}.{name}={value}" for name, value in named.items())
        return flags


KUBERNETES = Program(name="kubernetes", module="k8s.io/kubernetes", package=".")
ETCD = Program(name="etcd", module="go.etcd.io/etcd/server/v3", package="go.etcd.io/etcd/server/v3")
KUBERAY = Program(
    name="kuberay",
    module="github.com/ray-project/kuberay/ray-operator",
    package="github.com/ray-project/kuberay/ray-operator",
)
KUEUE = Program(name="kueue", module="sigs.k8s.io/kueue", package="sigs.k8s.io/kueue/cmd/kueue")
ALL = (ETCD, KUBERNETES, KUBERAY, KUEUE)
# Machines and pods by the thousand that are not there; few want them, who do build it.
KWOK = Program(name="kwok", module="sigs.k8s.io/kwok", package="sigs.k8s.io/kwok/cmd/kwok")
# What people install the chart with.
HELM = Program(name="helm", module="helm.sh/helm/v3", package="helm.sh/helm/v3/cmd/helm")


def build(program: Program) -> Path:
    """The binary, built where it is missing: minutes, once."""
    binary = program.binary
    if binary.exists():
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    with _locked(f"cluster-{program.name}", f"waiting for another clone that builds {program.name}"):
        if not binary.exists():
            _say(f"building {program.name} {program.version} from its Go modules: minutes, once; kept in {binary}")
            made = binary.with_suffix(f".{os.getpid()}")
            try:
                _go(program, "mod", "download")
            except RuntimeError as error:
                raise UnreachableError(f"the Go modules of {program.name} cannot be fetched: {error}") from error
            _go(
                program,
                *("build", "-trimpath", f"-ldflags={program.linker_flags()}", f"-o={made}", program.package),
            )
            made.rename(binary)
    return binary


def module_folder(program: Program) -> Path:
    """Where the source of its module lies, with its manifests: in Go's module cache, fetched where it is missing."""
    told = _go(program, "mod", "download", "-json", f"{program.module}@{program.version}")
    return Path(json.loads(told)["Dir"])


def _go(program: Program, *words: str) -> str:
    # A toolchain of another version is not fetched behind the back of whoever runs this.
    variables = dict(os.environ) | {
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    done = subprocess.run(
        ["go", *words], cwd=program.folder, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"`go {' '.join(words[:2])}` in {program.folder} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def _locked(name: str, waiting: str) -> FileLock:
    folder = CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(waiting)
        lock.acquire()
    return lock


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
