"""A launch on machines that are not there: kwok keeps nodes and pods, this module is KubeRay and the driver."""

from __future__ import annotations

import copy
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from client import Object, wait_for
from cluster import Cluster, documents
from container import now
from operators import KWOK_LABEL
from plane import STATE
from runs import SOMEBODY_ELSE, eks, render
from training import Corpus, spec_text

GROUPS = 10
# What KubeRay calls the group of the head.
HEAD = "headgroup"
# A machine of its own for each pod is a lease of its own every ten seconds, too much for two cores beside the rest.
PODS_PER_NODE = 10
CONNECTIONS = 8
# Ranks that tell of each step in the ledger.
RANKS = 64
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Fleet:
    """A launch that runs, as the API server and the run's store see it."""

    cluster: Cluster
    folder: Path
    pods: int
    replaced: int = 0
    _job: Object = field(default_factory=dict)
    _owner: Object = field(default_factory=dict)
    _groups: dict[str, Object] = field(default_factory=dict)
    _head: Object = field(default_factory=dict)
    _nodes: list[str] = field(default_factory=list)
    _names: list[tuple[str, str, str]] = field(default_factory=list)
    _closing: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _errors: list[BaseException] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def spec(self) -> Path:
        return self.folder / "run.yaml"

    def start(self) -> None:
        """Everything of a launch that trains: nodes, job, cluster, pods that are ready, a ledger that grows."""
        manifests = self._render()
        self.cluster.apply_folder(manifests / "run")
        self._apply_job(manifests)
        self._nodes = [f"{self.cluster.namespace}-{number}" for number in range(-(-self.pods // PODS_PER_NODE))]
        self._many(self._add_node, self._nodes)
        names = list(self._groups)
        self._names = [
            (f"{self._job_name}-{number}", names[number % len(names)], self._nodes[number // PODS_PER_NODE])
            for number in range(self.pods)
        ]
        self._add_pod((f"{self._job_name}-head", HEAD, self._nodes[0]))
        self._many(self._add_pod, self._names)
        wait_for("every pod to be ready", lambda: self._ready() == self.pods, every=2)
        for target in (self._write_ledger, self._replace_pods):
            self._threads.append(threading.Thread(target=self._guarded, args=(target,), daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Ends the changes and takes the machines away; the namespace goes with its test."""
        self.halt()
        self._many(self._remove_node, self._nodes)

    def halt(self) -> None:
        """Ends the changes."""
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self.check()

    def check(self) -> None:
        """Raises what went wrong while pods were replaced."""
        if self._errors:
            raise self._errors[0]

    def watch(self, output: Path, interval: str) -> Watching:
        """`eagleray watch` of this launch, as a process."""
        own = ["--kubeconfig", str(STATE / "admin.conf"), "--set", "cluster.eks.karpenter=null"]
        command = [f"{sys.prefix}/bin/eagleray", "watch", str(self.spec), *own, "--format", "json"]
        with output.open("wb") as told:
            process = subprocess.Popen([*command, "--interval", interval], stdout=told, stderr=subprocess.PIPE)
        return Watching(process, output)

    @property
    def _job_name(self) -> str:
        name: str = self._job["metadata"]["name"]
        return name

    def _render(self) -> Path:
        groups = [
            {"name": f"g{number}", "instance": "g5.xlarge", "nodes": self.pods // GROUPS} for number in range(GROUPS)
        ]
        spec = yaml.safe_load(spec_text(Corpus(self.folder), str(self.store), workers=self.pods))
        spec["train"] |= {"global_batch": self.pods, "micro_batch": 1}
        mount = [{"claim": "shared", "mount": str(self.folder)}]
        spec["cluster"]["eks"] = eks(self.cluster.namespace, groups=groups, volumes=mount)
        return render(yaml.safe_dump(spec, sort_keys=False), self.folder, "--built")

    def _apply_job(self, manifests: Path) -> None:
        (job,) = (made for made in documents(manifests / "train") if made["kind"] == "RayJob")
        job["spec"]["managedBy"] = SOMEBODY_ELSE
        self._job = self.cluster.apply(job)
        cluster = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {
                "name": f"{self._job_name}-fleet",
                "namespace": self.cluster.namespace,
                "labels": job["metadata"].get("labels", {}),
                "ownerReferences": [_owner_of(self._job)],
            },
            "spec": {**copy.deepcopy(job["spec"]["rayClusterSpec"]), "managedBy": SOMEBODY_ELSE},
        }
        made = self.cluster.apply(cluster)
        self._owner = _owner_of(made)
        self._groups = {group["groupName"]: group["template"] for group in made["spec"]["workerGroupSpecs"]}
        self._head = made["spec"]["headGroupSpec"]["template"]
        self._say(made, {"state": "ready", "readyWorkerReplicas": self.pods, "desiredWorkerReplicas": self.pods})
        self._say(
            self._job,
            {
                "jobDeploymentStatus": "Running",
                "jobStatus": "RUNNING",
                "jobId": self._job_name,
                "rayClusterName": made["metadata"]["name"],
                "startTime": now(),
            },
        )

    def _say(self, document: Object, status: Object) -> None:
        self.cluster.client.patch(f"{self.cluster.client.path_of(document)}/status", {"status": status})

    def _add_node(self, name: str) -> None:
        labels = {KWOK_LABEL: "true", "kubernetes.io/hostname": name, "node.kubernetes.io/instance-type": "g5.xlarge"}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        self.cluster.client.call("POST", "/api/v1/nodes", node)

    def _remove_node(self, name: str) -> None:
        self.cluster.client.delete(f"/api/v1/nodes/{name}")

    def _add_pod(self, place: tuple[str, str, str]) -> None:
        name, group, node = place
        is_head = group == HEAD
        template = copy.deepcopy(self._head if is_head else self._groups[group])
        metadata = template.get("metadata", {})
        kind = "head" if is_head else "worker"
        labels = {"ray.io/cluster": self._owner["name"], "ray.io/group": group, "ray.io/node-type": kind}
        metadata |= {
            "name": name,
            "namespace": self.cluster.namespace,
            "labels": metadata.get("labels", {}) | labels,
            "ownerReferences": [self._owner],
        }
        spec = template["spec"] | {"nodeName": node}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.cluster.client.call("POST", self.cluster.path("v1", "pods"), body)

    def _many(self, each: Callable[[Any], None], things: Iterable[Any]) -> None:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for _ in pool.map(each, things):
                pass

    def _ready(self) -> int:
        pods = self.cluster.pods(**{"ray.io/node-type": "worker"})
        return sum(
            any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))
            for pod in pods
        )

    # -- what goes on while it trains

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            self._errors.append(error)

    def _replace_pods(self) -> None:
        """One pod in a hundred each second goes and is made anew, with a warning about its successor."""
        at = 0
        while not self._closing.wait(1.0):
            for _ in range(max(1, self.pods // 100)):
                name, group, node = self._names[at]
                self.cluster.client.delete(self.cluster.path("v1", "pods", name))
                self.replaced += 1
                successor = f"{self._job_name}-{self.pods + self.replaced}"
                self._names[at] = successor, group, node
                self._add_pod(self._names[at])
                self._warn(successor)
                at = (at + 1) % self.pods

    def _warn(self, pod: str) -> None:
        about = {"apiVersion": "v1", "kind": "Pod", "name": pod, "namespace": self.cluster.namespace}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{pod}.", "namespace": self.cluster.namespace},
            "involvedObject": about,
            "type": "Warning",
            "reason": "Unhealthy",
            "message": "Readiness probe failed: command timed out",
            "count": 1,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
        }
        self.cluster.client.call("POST", self.cluster.path("v1", "events"), event)

    def _write_ledger(self) -> None:
        """The account of a run that takes a step each second."""
        from eagleray import _core

        store = str(self.store)
        info = {"host": platform.node(), "pid": os.getpid(), "take_over": False}
        attempt = int(json.loads(_core.claim(store, json.dumps(info)))["attempt"])
        heartbeat = _core.Heartbeat(store, attempt)
        ledger = _core.Ledger(store, attempt, "driver")
        step = 0
        while not self._closing.wait(1.0):
            step += 1
            end = time.time()
            told = {"t": end, "kind": "step", "generation": 0, "step": step, "start": end - 1.0, "end": end}
            told |= {"data_wait": 0.0, "compute": 0.9, "tokens": 1 << 20, "loss": 2.5, "world": self.pods}
            ledger.append(json.dumps([{**told, "rank": rank, "total_steps": 1_000_000} for rank in range(RANKS)]))
            ledger.flush()
        heartbeat.stop()


@dataclass
class Watching:
    """A process of `eagleray watch`."""

    process: subprocess.Popen[bytes]
    output: Path

    def told(self) -> list[Object]:
        """What it has said so far, an object a line."""
        return [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]

    def memory_mb(self) -> float:
        """What it has resident."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE / 1e6

    def cpu_seconds(self) -> float:
        """What it has used."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / TICKS

    def end(self) -> str:
        """Ends it, and returns what it said to people."""
        self.process.terminate()
        return self.process.communicate()[1].decode()


def _owner_of(document: Object) -> Object:
    metadata = document["metadata"]
    named = {name: document[name] for name in ("apiVersion", "kind")}
    return named | {"name": metadata["name"], "uid": metadata["uid"], "controller": True}
