"""Nodes: each is registered, keeps its lease, and runs the pods that are bound to it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping

import requests

from client import Object, Refused
from container import Host, now
from network import NETWORK, Names
from pod import Pod

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
LEASE_SECONDS = 40
RENEW_SECONDS = 10.0
# Of a machine that nobody said otherwise about.
ALLOCATABLE = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "50Gi"}
STOP_SECONDS = 20.0


class Node:
    """One machine, as the cluster sees it."""

    def __init__(
        self,
        host: Host,
        index: int,
        name: str,
        *,
        labels: Mapping[str, str],
        taints: Iterable[Object],
        allocatable: Mapping[str, str],
        version: str,
    ) -> None:
        self.name, self.address = name, f"{NETWORK}.{index}.1"
        self._host, self._index, self._version = host, index, version
        self._labels, self._taints = dict(labels), list(taints)
        self._allocatable = ALLOCATABLE | dict(allocatable)
        self._addresses_used = 1
        self._pods: dict[str, Pod] = {}
        self._lost = threading.Event()

    def start(self) -> None:
        self._register()
        for target in (self._renew, self._follow):
            threading.Thread(target=target, name=f"{target.__name__} {self.name}", daemon=True).start()

    @property
    def lost(self) -> bool:
        """Nobody reports for this machine any more."""
        return self._lost.is_set()

    def lose(self) -> None:
        """Takes the machine away, as a cloud does: its pods end at once, and nobody tells the API server."""
        self._lost.set()
        for pod in list(self._pods.values()):
            pod.lose()

    def remove(self) -> None:
        """Ends its pods and takes it out of the cluster."""
        self._lost.set()
        pods = list(self._pods.values())
        for pod in pods:
            pod.stop(0)
        for pod in pods:
            pod.finished.wait(STOP_SECONDS)
        if not self._host.closing.is_set():
            self._host.client.delete(f"/api/v1/nodes/{self.name}")
            self._host.client.delete(f"{LEASES}/{self.name}")

    def _register(self) -> None:
        client = self._host.client
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        metadata = {"name": self.name, "labels": labels | self._labels}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": self._taints}}
        client.call("POST", "/api/v1/nodes", body)
        good = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}
        times = {"lastHeartbeatTime": now(), "lastTransitionTime": now()}
        status = {
            "capacity": self._allocatable,
            "allocatable": self._allocatable,
            "conditions": [{"type": kind, "status": holds, "reason": "Tests", **times} for kind, holds in good.items()],
            "addresses": [{"type": "InternalIP", "address": self.address}, {"type": "Hostname", "address": self.name}],
            "nodeInfo": {
                "kubeletVersion": self._version,
                "osImage": "host",
                "kernelVersion": os.uname().release,
                "containerRuntimeVersion": "process://1",
                "architecture": "amd64",
                "operatingSystem": "linux",
                **dict.fromkeys(("machineID", "systemUUID", "bootID", "kubeProxyVersion"), ""),
            },
        }
        client.patch(f"/api/v1/nodes/{self.name}/status", {"status": status})
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self.name}}
        client.call("POST", LEASES, lease | {"spec": self._lease()})

    def _lease(self) -> Object:
        renewed = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        return {"holderIdentity": self.name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": renewed}

    def _renew(self) -> None:
        while not (self._lost.wait(RENEW_SECONDS) or self._host.closing.is_set()):
            try:
                self._host.client.patch(f"{LEASES}/{self.name}", {"spec": self._lease()})
            except (Refused, requests.RequestException):
                continue

    def _follow(self) -> None:
        watch = self._host.client.watch("/api/v1/pods", self._host.closing, fieldSelector=f"spec.nodeName={self.name}")
        for kind, document in watch:
            if self._lost.is_set() or self._host.closing.is_set():
                return
            self._heard(kind, document)

    def _heard(self, kind: str, document: Object) -> None:
        uid = document["metadata"]["uid"]
        pod = self._pods.get(uid)
        if kind == "DELETED":
            # By force, or at our own word that it has ended.
            if pod:
                self._pods.pop(uid)
                pod.stop(0)
        elif document["metadata"].get("deletionTimestamp"):
            if pod:
                pod.stop(document["metadata"].get("deletionGracePeriodSeconds", 30))
                if pod.finished.is_set():
                    pod.forget()
        elif pod is None and document.get("status", {}).get("phase", "Pending") == "Pending":
            self._addresses_used += 1
            address = f"{NETWORK}.{self._index}.{self._addresses_used}"
            self._pods[uid] = Pod(self._host, document, self.name, self.address, address)
            self._pods[uid].start()


class Kubelet:
    """All nodes of a cluster, and its names."""

    def __init__(self, host: Host, version: str) -> None:
        self._host, self._version = host, version
        self.nodes: dict[str, Node] = {}
        self._made = 0
        Names(host.client, host.closing).start()

    def add(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        taints: Iterable[Object] = (),
        allocatable: Mapping[str, str] | None = None,
    ) -> Node:
        """A new machine joins."""
        self._made += 1
        node = Node(
            self._host,
            self._made,
            name,
            labels=labels or {},
            taints=taints,
            allocatable=allocatable or {},
            version=self._version,
        )
        self.nodes[name] = node
        node.start()
        return node

    def remove(self, name: str) -> None:
        self.nodes.pop(name).remove()

    def stop(self) -> None:
        """Accepts no more pods, then ends those that there are."""
        self._host.closing.set()
        for node in list(self.nodes.values()):
            node.remove()

    def logs(self, namespace: str) -> str:
        """What the pods of a namespace said."""
        files = sorted(self._host.logs.glob(f"{namespace}_*.log"))
        return "".join(f"--- {file.stem}\n{file.read_text(errors='replace')}" for file in files)
