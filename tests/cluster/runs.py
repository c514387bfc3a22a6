"""Small runs on the cluster of these tests: their spec, their manifests, the machines that those ask for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster import Cluster, documents, machine_of
from plane import STATE
from training import Corpus, Run, spec_text

MOUNT = "/mnt/shared"
# KubeRay leaves alone what somebody else manages: a test then says itself what has become of it.
SOMEBODY_ELSE = "kueue.x-k8s.io/multikueue"
NAME = "tiny"
# Only what hangs is as slow as this.
COMMAND_SECONDS = 500
# What a head is rendered with, which this machine need not have: nothing here limits a process.
LARGE = {"cpu": "16", "memory": "64Gi"}


def render(text: str, folder: Path, *options: str) -> Path:
    """The manifests of a spec, as the command writes them."""
    spec, manifests = folder / "run.yaml", folder / "manifests"
    spec.write_text(text, encoding="utf-8")
    command = [f"{sys.prefix}/bin/eagleray", "render", str(spec), "-o", str(manifests), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return manifests


def eks(namespace: str, **more: Any) -> dict[str, Any]:
    """`cluster.eks` for machines without an accelerator.

    The smallest instance that is known has one. The run's own additions to the pods take it out again, and leave
    one CPU, which is then what Ray Train gives each worker.
    """
    none = {"nvidia.com/gpu": 0}
    container = {"name": "ray-worker", "resources": {"limits": none, "requests": none}}
    return {
        "namespace": namespace,
        "image": "example/eagleray:1",
        "kuberay": "1.6",
        "groups": [{"name": "steady", "instance": "g5.xlarge", "nodes": 2}],
        "volumes": [{"claim": "shared", "mount": MOUNT}],
        "karpenter": {"role": "nodes", "discovery": "tests", "ami": "al2023@v20261112"},
        "pod": {"spec": {"containers": [container]}},
        "env": {"EAGLERAY_TEST": "cluster"},
        **more,
    }


@dataclass
class Launch:
    """A run that is on its way through the cluster."""

    cluster: Cluster
    spec: Path
    manifests: Path
    shared: Path
    # As whom: the administrator, unless a test says otherwise.
    kubeconfig: Path = field(default=STATE / "admin.conf")

    @property
    def job(self) -> str:
        return f"{NAME}-1"

    @property
    def run(self) -> Run:
        """The run as its store tells it."""
        return Run(store=self.shared / "store", resolved=self.shared / "resolved.json")

    def add_nodes(self, count: int) -> None:
        """The machines that Karpenter would make: one for the head and one that builds, `count` for each group."""
        for pool in documents(self.manifests / "nodes"):
            if pool["kind"] == "NodePool":
                name = pool["metadata"]["name"]
                alone = name.endswith(("-head", "-cpu"))
                for number in range(min(count, 1) if alone else count):
                    self.cluster.add_node(f"{name}-{number}", allocatable=LARGE, **machine_of(pool))

    def add_node(self, group: str, number: int) -> None:
        """One machine more for a group."""
        pools = [pool for pool in documents(self.manifests / "nodes") if pool["kind"] == "NodePool"]
        (pool,) = (pool for pool in pools if pool["metadata"]["name"] == f"{NAME}-{group}")
        self.cluster.add_node(f"{NAME}-{group}-{number}", allocatable=LARGE, **machine_of(pool))

    def command(self, word: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A command on this run's spec, as from a machine that has no Karpenter to ask."""
        own = ["--kubeconfig", str(self.kubeconfig), "--set", "cluster.eks.karpenter=null"]
        # The store is where pods have it; the commands that read it from here are told where that is.
        own += ["--set", f"store={self.shared}/store"] if word == "stop" else []
        command = [f"{sys.prefix}/bin/eagleray", word, str(self.spec), *own, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)

    def apply(self) -> None:
        for part in ("queues", "run", "train"):
            if (self.manifests / part).exists():
                self.cluster.apply_folder(self.manifests / part)


def prepare(
    cluster: Cluster,
    corpus: Corpus,
    shared: Path,
    *options: str,
    on_eks: Mapping[str, Any] | None = None,
    built: Path | None = None,
    machines: int = 2,
    **changes: Any,
) -> Launch:
    """A run of two workers whose text and store lie in the shared folder; its machines are there, it is not applied.

    `built` is a folder with its token datasets, from another run of the same text.
    """
    for file in corpus.root.iterdir():
        if file.is_file():
            shutil.copy2(file, shared)
    if built is not None:
        shutil.copytree(built, shared / "built")
        options = ("--built", *options)
    inside = Corpus(Path(MOUNT))
    spec = yaml.safe_load(spec_text(inside, f"{MOUNT}/store", **changes))
    spec["cluster"]["eks"] = eks(cluster.namespace, **(on_eks or {}))
    manifests = render(yaml.safe_dump(spec, sort_keys=False), shared.parent, *options)
    launch = Launch(cluster, shared.parent / "run.yaml", manifests, shared)
    launch.add_nodes(machines)
    return launch
