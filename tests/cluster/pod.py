"""A pod: its network, its volumes, its containers one after the other and then side by side, its end."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
import traceback

import requests

from client import MERGE, Object, Refused
from container import Container, Host, now
from network import PodNetwork
from probes import Probes
from volumes import Invalid, Volumes

# As a kubelet counts, from a tenth of its ten seconds on: the tests wait for it.
BACKOFF_SECONDS = 1.0
BACKOFF_SECONDS_MAX = 60.0
REFRESH_SECONDS = 2.0
POLL_SECONDS = 0.05


class Pod:
    """Runs one pod of a node from the moment it is bound to it."""

    def __init__(self, host: Host, document: Object, node: str, node_address: str, address: str) -> None:
        self._host, self._document, self._node, self._node_address = host, document, node, node_address
        self.metadata, self._spec = document["metadata"], document["spec"]
        self.name, self.uid = str(self.metadata["name"]), str(self.metadata["uid"])
        self.path = f"/api/v1/namespaces/{self.metadata['namespace']}/pods/{self.name}"
        self.network = PodNetwork(self.uid, address)
        document["status"]["podIP"] = address
        self._folder = host.state / "pods" / self.uid
        self._volumes = Volumes(host.client, document, self._folder / "volumes", self._field)
        self._phase, self._reason, self._started_at = "Pending", "", now()
        self._conditions: dict[str, Object] = {}
        self._posting = threading.Lock()
        self._initialised = False
        self._init: list[Container] = []
        self._containers: list[Container] = []
        self._kill_at = float("inf")
        self.stopping, self.finished, self.lost = threading.Event(), threading.Event(), threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"pod {self.name}", daemon=True).start()

    # -- life

    def _run(self) -> None:
        try:
            self._prepare()
            codes = self._live()
            self._phase = "Failed" if any(codes) else "Succeeded"
        except Invalid as error:
            self._phase, self._reason = "Failed", str(error)
        except (Refused, requests.RequestException, OSError, RuntimeError):
            self._phase, self._reason = "Failed", traceback.format_exc(limit=3)
        self._post()
        self.network.remove()
        self._volumes.unmount()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.finished.set()
        if self.stopping.is_set():
            self.forget()

    def _prepare(self) -> None:
        self.network.make()
        self._folder.mkdir(parents=True)
        namespace, folder = self.network.namespace, self._folder
        make = [Container(self._host, self._document, spec, namespace, folder) for spec in self._all_specs()]
        split = len(self._spec.get("initContainers", []))
        self._init, self._containers = make[:split], make[split:]
        self._post()
        self._volumes.make()
        threading.Thread(target=self._refresh, name=f"volumes of {self.name}", daemon=True).start()

    def _all_specs(self) -> list[Object]:
        init = self._spec.get("initContainers", [])
        if any(spec.get("restartPolicy") for spec in init):
            raise Invalid("init containers that go on beside the others are not known here")
        return [*init, *self._spec["containers"]]

    def _live(self) -> list[int]:
        for container in self._init:
            while (code := self._once(container)) != 0 and not self.stopping.is_set():
                if self._policy == "Never":
                    return [code]
                self._wait_to_restart(container, BACKOFF_SECONDS)
        self._initialised = True
        threads = [
            threading.Thread(target=self._keep, args=(container,), name=f"{self.name}/{container.name}", daemon=True)
            for container in self._containers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        states = [container.status["state"] for container in self._containers]
        return [int(state.get("terminated", {}).get("exitCode", 0)) for state in states]

    @property
    def _policy(self) -> str:
        return str(self._spec.get("restartPolicy", "Always"))

    def _keep(self, container: Container) -> None:
        """Runs a container again as its pod's policy says."""
        backoff = BACKOFF_SECONDS
        while not self.stopping.is_set():
            began = time.monotonic()
            try:
                code = self._once(container)
            except (Invalid, Refused, requests.RequestException, OSError) as error:
                # As a kubelet does where a Secret is not there yet: it waits, and tries again.
                container.status["state"] = {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}
                self._post()
                self.stopping.wait(BACKOFF_SECONDS)
                continue
            if self.stopping.is_set() or self._policy == "Never" or (self._policy == "OnFailure" and code == 0):
                return
            if time.monotonic() - began > BACKOFF_SECONDS_MAX:
                backoff = BACKOFF_SECONDS
            self._wait_to_restart(container, backoff)
            backoff = min(2 * backoff, BACKOFF_SECONDS_MAX)

    def _wait_to_restart(self, container: Container, seconds: float) -> None:
        status = container.status
        waiting = {"reason": "CrashLoopBackOff", "message": f"restarts after {seconds:g} s"}
        status |= {
            "lastState": status["state"],
            "state": {"waiting": waiting},
            "restartCount": status["restartCount"] + 1,
        }
        self._post()
        self.stopping.wait(seconds)

    def _once(self, container: Container) -> int:
        """One process of a container, from start to end."""
        process = container.start(self._volumes)
        gone = threading.Event()
        if self._initialised:
            self._phase = "Running"
            Probes(container, self.network.address, gone, self._post).start()
        self._post()
        # Deleted while it came up: nobody else knew whom to tell.
        if self.stopping.is_set():
            container.signal(signal.SIGTERM)
        returncode = process.wait()
        gone.set()
        code = container.ended(returncode)
        if not self.stopping.is_set():
            self._post()
        return code

    def _refresh(self) -> None:
        while not (self.stopping.wait(REFRESH_SECONDS) or self.finished.is_set()):
            try:
                self._volumes.refresh()
            except (Refused, requests.RequestException, KeyError):
                continue

    # -- end

    def stop(self, grace_seconds: float) -> None:
        """Ends it: hooks, SIGTERM, and SIGKILL when the grace is over; a second call may shorten the grace."""
        self._kill_at = min(self._kill_at, time.monotonic() + grace_seconds)
        if not self.stopping.is_set():
            self.stopping.set()
            threading.Thread(target=self._stop, name=f"end of {self.name}", daemon=True).start()

    def _stop(self) -> None:
        for container in self._containers:
            hook = container.spec.get("lifecycle", {}).get("preStop", {}).get("exec")
            if hook and container.pid:
                container.execute(hook["command"], max(1.0, self._kill_at - time.monotonic()))
        every = [*self._init, *self._containers]
        for container in every:
            container.signal(signal.SIGTERM)
        while not self.finished.wait(POLL_SECONDS):
            if time.monotonic() > self._kill_at:
                for container in every:
                    container.signal(signal.SIGKILL)
        self.forget()

    def forget(self) -> None:
        """The object may go: nothing of the pod is left on the node."""
        if not self.lost.is_set() and not self._host.closing.is_set():
            self._host.client.delete(self.path, gracePeriodSeconds=0, preconditions={"uid": self.uid})

    def lose(self) -> None:
        """Its machine is gone: no word to anyone, no packet, no process."""
        self.lost.set()
        self.network.cut()
        self.stop(0)

    # -- what others see

    def _field(self, name: str) -> str:
        """A field of the downward API."""
        found = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", name)
        if found:
            return str(self.metadata.get(found[1], {}).get(found[2], ""))
        fields = {
            "metadata.name": self.name,
            "metadata.namespace": self.metadata["namespace"],
            "metadata.uid": self.uid,
            "spec.nodeName": self._node,
            "spec.serviceAccountName": self._spec.get("serviceAccountName", "default"),
            "status.podIP": self.network.address,
            "status.podIPs": self.network.address,
            "status.hostIP": self._node_address,
        }
        if name not in fields:
            raise Invalid(f"the field `{name}` is not known here")
        return str(fields[name])

    def _post(self) -> None:
        if self.lost.is_set():
            return
        with self._posting:
            ready = bool(
                self._initialised
                and self._phase == "Running"
                and all(container.status["ready"] for container in self._containers)
            )
            wanted = {
                "PodScheduled": True,
                "PodReadyToStartContainers": True,
                "Initialized": self._initialised,
                "ContainersReady": ready,
                "Ready": ready,
            }
            for kind, holds in wanted.items():
                status = "True" if holds else "False"
                if self._conditions.get(kind, {}).get("status") != status:
                    self._conditions[kind] = {"type": kind, "status": status, "lastTransitionTime": now()}
            body = {"metadata": {"uid": self.uid}, "status": self._status()}
            try:
                self._host.client.call("PATCH", f"{self.path}/status", body, MERGE)
            except (Refused, requests.RequestException):
                # Deleted by force, or the server is going down: the next change, or nobody, wants to know.
                return

    def _status(self) -> Object:
        return {
            "phase": self._phase,
            "message": self._reason or None,
            "podIP": self.network.address,
            "podIPs": [{"ip": self.network.address}],
            "hostIP": self._node_address,
            "hostIPs": [{"ip": self._node_address}],
            "startTime": self._started_at,
            "conditions": list(self._conditions.values()),
            "initContainerStatuses": [container.status for container in self._init],
            "containerStatuses": [container.status for container in self._containers],
        }
