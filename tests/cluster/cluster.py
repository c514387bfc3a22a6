"""What a test has of the cluster: a namespace, machines, and a look at what becomes of its objects."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import Client, Object, read_manifests, wait_for
from kubelet import Kubelet, Node
from plane import ControlPlane

_NUMBER = itertools.count(1)
# A RayJob takes half a minute where nothing else runs.
JOB_SECONDS = 280.0


@dataclass
class Cluster:
    """A namespace of the cluster."""

    plane: ControlPlane
    namespace: str
    _nodes: list[str] = field(default_factory=list)
    _others: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, plane: ControlPlane, test: str) -> Cluster:
        words = re.sub("[^a-z0-9]+", "-", test.lower().removeprefix("test_"))[:24].strip("-")
        name = f"{words}-{next(_NUMBER)}"
        plane.client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        wait_for(
            "the namespace's account",
            lambda: plane.client.find(f"/api/v1/namespaces/{name}/serviceaccounts/default"),
        )
        return cls(plane, name)

    @property
    def client(self) -> Client:
        return self.plane.client

    @property
    def kubelet(self) -> Kubelet:
        assert self.plane.kubelet is not None
        return self.plane.kubelet

    def path(self, group: str, plural: str, name: str = "") -> str:
        """Of an object of this namespace; `group` as in `ray.io/v1`, or `v1`."""
        base = "/api/v1" if group == "v1" else f"/apis/{group}"
        return f"{base}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def apply(self, document: Object) -> Any:
        """Applies an object; one without a namespace goes with this test."""
        applied = self.client.apply(document)
        if "namespace" not in applied["metadata"]:
            self._others.append(self.client.path_of(document))
        return applied

    def apply_folder(self, folder: Path) -> list[Object]:
        """Applies every manifest of a folder."""
        return [self.apply(document) for document in documents(folder)]

    def add_node(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        taints: Iterable[Object] = (),
        allocatable: Mapping[str, str] | None = None,
    ) -> Node:
        """A machine that goes with this test."""
        full = f"{self.namespace}-{name}"
        self._nodes.append(full)
        return self.kubelet.add(full, labels=labels, taints=taints, allocatable=allocatable)

    def claim(self, name: str, folder: Path) -> None:
        """A folder of the host as a claim that any number of pods may mount."""
        volume = f"{self.namespace}-{name}"
        size = {"storage": "1Gi"}
        modes = ["ReadWriteMany"]
        spec = {"accessModes": modes, "storageClassName": "", "volumeName": volume, "resources": {"requests": size}}
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": volume},
                "spec": {
                    "accessModes": modes,
                    "capacity": size,
                    "hostPath": {"path": str(folder)},
                    "claimRef": {"namespace": self.namespace, "name": name},
                    "persistentVolumeReclaimPolicy": "Retain",
                },
            }
        )
        self.apply({**claim, "metadata": {"name": name, "namespace": self.namespace}, "spec": spec})

    # -- looking

    def pod(self, name: str) -> Object:
        found: Object = self.client.get(self.path("v1", "pods", name))
        return found

    def pods(self, **labels: str) -> list[Object]:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return self.client.items(self.path("v1", "pods"), labelSelector=selector)

    def ray_pods(self, role: str) -> list[Object]:
        """The pods of a Ray cluster that are `head` or `worker`, and not on their way out."""
        return [
            pod
            for pod in self.client.items(self.path("v1", "pods"), labelSelector=f"ray.io/node-type={role}")
            if "deletionTimestamp" not in pod["metadata"]
        ]

    def ray_job(self, name: str) -> Object:
        found: Object = self.client.get(self.path("ray.io/v1", "rayjobs", name))
        return found

    def wait_for_job(self, name: str) -> Object:
        """The status of a RayJob that has ended; it must have succeeded."""

        def ended() -> Object | None:
            status: Object = self.ray_job(name).get("status", {})
            over = ("Complete", "Failed", "ValidationFailed")
            return status if status.get("jobDeploymentStatus") in over else None

        status: Object = wait_for(f"the job {name} to end", ended, JOB_SECONDS, every=0.5)
        assert status.get("jobStatus") == "SUCCEEDED", json.dumps(status, indent=1)
        return status

    def wait_until_empty(self) -> None:
        """No Ray cluster and none of its pods are left."""
        clusters = self.path("ray.io/v1", "rayclusters")
        wait_for("the Ray clusters to go", lambda: not self.client.items(clusters))
        wait_for("the pods to go", lambda: not self.client.items(self.path("v1", "pods")))

    def told(self) -> str:
        """Everything that may tell why a test failed."""
        parts = []
        for group, plural in (("ray.io/v1", "rayjobs"), ("v1", "pods")):
            if group == "v1" or self.client.find(f"/apis/{group}"):
                parts += [
                    f"{item['metadata']['name']}: {json.dumps(item.get('status'))}"
                    for item in self.client.items(self.path(group, plural))
                ]
        events = self.client.items(self.path("v1", "events"))
        parts += [f"{e['involvedObject'].get('name')}: {e.get('reason')}: {e.get('message')}" for e in events]
        drivers = self.plane.host.state.glob("pods/*/volumes/ray/session_*/logs/job-driver-*.log")
        parts += [f"--- {file.name}\n{file.read_text(errors='replace')[-8000:]}" for file in drivers]
        return "\n".join([*parts, self.kubelet.logs(self.namespace)[-20_000:]])

    def remove(self) -> None:
        """Takes away all that the test made, and waits until it is gone."""
        if self.client.find("/apis/ray.io/v1"):
            for job in self.client.items(self.path("ray.io/v1", "rayjobs")):
                self.client.delete(self.path("ray.io/v1", "rayjobs", job["metadata"]["name"]))
        for pod in self.client.items(self.path("v1", "pods")):
            self.client.delete(self.path("v1", "pods", pod["metadata"]["name"]), gracePeriodSeconds=1)
        self.client.delete(f"/api/v1/namespaces/{self.namespace}")
        for path in reversed(self._others):
            self.client.delete(path)
        wait_for("the namespace to go", self._is_gone)
        for name in self._nodes:
            self.kubelet.remove(name)

    def _is_gone(self) -> bool:
        """No namespace is left; of a lost machine nobody reports that a pod has ended, so those go by force."""
        lost = {name for name in self._nodes if self.kubelet.nodes[name].lost}
        if lost:
            for pod in self.client.items(self.path("v1", "pods")):
                if pod["spec"].get("nodeName") in lost:
                    self.client.delete(self.path("v1", "pods", pod["metadata"]["name"]), gracePeriodSeconds=0)
        return not self.client.find(f"/api/v1/namespaces/{self.namespace}")


def documents(folder: Path) -> list[Object]:
    """The manifests of a folder, its own folders included, in the order of their names."""
    files = sorted(folder.rglob("*.yaml"))
    return [document for file in files for document in read_manifests(file.read_text(encoding="utf-8"))]


def machine_of(pool: Object) -> dict[str, Any]:
    """Labels and taints of a machine that Karpenter would make for a NodePool."""
    template = pool["spec"]["template"]
    labels = dict(template.get("metadata", {}).get("labels", {})) | {"karpenter.sh/nodepool": pool["metadata"]["name"]}
    for requirement in template["spec"]["requirements"]:
        if requirement["operator"] == "In":
            labels[requirement["key"]] = requirement["values"][0]
    return {"labels": labels, "taints": template["spec"].get("taints", [])}
