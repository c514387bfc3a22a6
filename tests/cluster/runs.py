"""Small runs on the cluster of these tests: their spec, their manifests, the machines that those ask for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster import Cluster, documents, machine_of
from training import Corpus, Run, spec_text

MOUNT = "/mnt/shared"
NAME = "tiny"
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
    manifests: Path
    shared: Path

    @property
    def job(self) -> str:
        return f"{NAME}-1"

    @property
    def run(self) -> Run:
        """The run as its store tells it."""
        return Run(store=self.shared / "store", resolved=self.shared / "resolved.json")

    def add_nodes(self) -> None:
        """The machines that Karpenter would make: one for each head, as many as a group has."""
        for pool in documents(self.manifests / "nodes"):
            if pool["kind"] == "NodePool":
                name = pool["metadata"]["name"]
                count = 1 if name.endswith("-head") else 2
                for number in range(count):
                    self.cluster.add_node(f"{name}-{number}", allocatable=LARGE, **machine_of(pool))

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
    **changes: Any,
) -> Launch:
    """A run of two workers whose text and store lie in the shared folder; its machines are there, it is not applied."""
    for file in corpus.root.iterdir():
        if file.is_file():
            shutil.copy2(file, shared)
    inside = Corpus(Path(MOUNT))
    spec = yaml.safe_load(spec_text(inside, f"{MOUNT}/store", **changes))
    spec["cluster"]["eks"] = eks(cluster.namespace, **(on_eks or {}))
    # The driver builds what is not built: so little text needs no nodes of its own.
    manifests = render(yaml.safe_dump(spec, sort_keys=False), shared.parent, "--built", *options)
    launch = Launch(cluster, manifests, shared)
    launch.add_nodes()
    return launch
