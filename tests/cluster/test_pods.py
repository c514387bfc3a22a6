"""The kubelet of these tests does with a pod what Kubernetes promises: else nothing here proves anything."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

from client import Object, wait_for
from cluster import Cluster
from kubelet import Node

GRACE_SECONDS = 5


def make_pod(cluster: Cluster, node: Node, name: str, script: str, **more: Any) -> None:
    """A pod of one container that runs a script."""
    container = {"name": "main", "image": "host", "command": ["/bin/bash", "-c", script], **more.pop("container", {})}
    spec = {"nodeName": node.name, "containers": [container], "restartPolicy": "Never", **more}
    metadata = {"name": name, "namespace": cluster.namespace, "labels": {"app": name}}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def ended(cluster: Cluster, name: str) -> Object:
    """The status of its container once its pod is over."""

    def over() -> Any:
        status = cluster.pod(name).get("status", {})
        return status if status.get("phase") in ("Succeeded", "Failed") else None

    found: Object = wait_for(f"{name} to end", over)["containerStatuses"][0]
    return found


def log(cluster: Cluster, name: str) -> str:
    return (cluster.plane.host.logs / f"{cluster.namespace}_{name}_main-0.log").read_text()


def is_up(cluster: Cluster, name: str) -> bool:
    return cluster.pod(name)["status"].get("phase") == "Running" and log(cluster, name) == "up\n"


def test_a_pod_has_its_own_root_volumes_variables_and_exit_code(cluster: Cluster) -> None:
    node = cluster.add_node("a")
    for kind, data in (("ConfigMap", {"data": {"color": "blue"}}), ("Secret", {"stringData": {"word": "hush"}})):
        metadata = {"name": "told", "namespace": cluster.namespace}
        cluster.apply({"apiVersion": "v1", "kind": kind, "metadata": metadata, **data})
    sources: list[Object] = [
        {"serviceAccountToken": {"path": "token"}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]
    mounts = [
        {"name": "scratch", "mountPath": "/var/run/scratch"},
        {"name": "config", "mountPath": "/etc/told", "readOnly": True},
        {"name": "all", "mountPath": "/all"},
    ]
    make_pod(
        cluster,
        node,
        "reader",
        "cat /var/run/scratch/from-init /etc/told/color /all/name; echo; "
        "test -s /all/token && echo token $BASHPID $GREETING; "
        "touch /etc/told/no 2>/dev/null || echo read-only; touch /written; hostname; exit 3",
        initContainers=[
            {
                "name": "before",
                "image": "host",
                "command": ["/bin/bash", "-c", "echo first >/var/run/scratch/from-init"],
                "volumeMounts": mounts[:1],
            }
        ],
        volumes=[
            {"name": "scratch", "emptyDir": {}},
            {"name": "config", "configMap": {"name": "told"}},
            {"name": "all", "projected": {"sources": sources}},
        ],
        container={
            "volumeMounts": mounts,
            "env": [
                {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "told", "key": "word"}}},
                {"name": "AT", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "GREETING", "value": "$(WORD) at $(AT)"},
            ],
        },
    )
    status = ended(cluster, "reader")
    address = cluster.pod("reader")["status"]["podIP"]
    assert status["state"]["terminated"]["exitCode"] == 3
    wanted = ["first", "bluereader", f"token 1 hush at {address}", "read-only", "reader"]
    assert log(cluster, "reader").splitlines() == wanted
    assert not os.path.lexists("/written")


def test_a_deleted_pod_gets_sigterm_its_grace_and_then_sigkill(cluster: Cluster) -> None:
    node = cluster.add_node("a")
    make_pod(cluster, node, "polite", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    make_pod(cluster, node, "deaf", "trap 'echo no' TERM; echo up; while :; do sleep 0.05; done")
    pods = {name: cluster.path("v1", "pods", name) for name in ("polite", "deaf")}
    for name in pods:
        wait_for(f"{name} to be up", functools.partial(is_up, cluster, name))
    began = time.monotonic()
    for path in pods.values():
        cluster.client.delete(path, gracePeriodSeconds=GRACE_SECONDS)
    wait_for("the polite pod to go", lambda: not cluster.client.find(pods["polite"]))
    assert cluster.client.find(pods["deaf"]), "the deaf pod went before its grace was over"
    wait_for("the deaf pod to go", lambda: not cluster.client.find(pods["deaf"]))
    assert time.monotonic() - began >= GRACE_SECONDS
    assert (log(cluster, "polite"), log(cluster, "deaf")) == ("up\nbye\n", "up\nno\n")


def test_containers_are_probed_restarted_and_found_by_the_name_of_their_service(cluster: Cluster) -> None:
    node = cluster.add_node("a")
    # The first process ends badly; the second serves, and is ready only when it says so.
    server = (
        "if mkdir /state/once 2>/dev/null; then exit 7; fi; cd /state; python3 -m http.server 8000 & "
        "sleep 1; touch /state/ready; wait"
    )
    make_pod(
        cluster,
        node,
        "server",
        server,
        restartPolicy="OnFailure",
        volumes=[{"name": "state", "emptyDir": {}}],
        container={
            "volumeMounts": [{"name": "state", "mountPath": "/state"}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8000}, "periodSeconds": 1},
        },
    )
    spec = {"clusterIP": "None", "selector": {"app": "server"}, "ports": [{"port": 8000}]}
    metadata = {"name": "web", "namespace": cluster.namespace}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    ask = "import urllib.request as u; u.urlopen('http://web:8000/ready')"
    look = f'for i in $(seq 100); do python3 -c "{ask}" 2>/dev/null && exit 0; sleep 0.2; done; exit 1'
    make_pod(cluster, node, "client", look, container={"env": [{"name": "no_proxy", "value": "*"}]})
    assert ended(cluster, "client")["state"]["terminated"]["exitCode"] == 0
    status = cluster.pod("server")["status"]["containerStatuses"][0]
    assert status["ready"] and status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 7


def test_a_lost_node_takes_its_processes_along_and_tells_nobody(cluster: Cluster) -> None:
    node = cluster.add_node("a", labels={"pool": "spot"}, taints=[{"key": "spot", "effect": "NoSchedule"}])
    make_pod(cluster, node, "victim", "echo up; sleep 600", tolerations=[{"key": "spot", "operator": "Exists"}])
    wait_for("the pod to be up", lambda: is_up(cluster, "victim"))
    pid = int(cluster.pod("victim")["status"]["containerStatuses"][0]["containerID"].removeprefix("process://"))
    node.lose()
    wait_for("its process to be gone", lambda: not Path(f"/proc/{pid}").exists())
    assert cluster.pod("victim")["status"]["containerStatuses"][0]["ready"]
