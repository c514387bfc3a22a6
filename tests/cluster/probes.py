"""Startup, readiness and liveness probes of a container."""

from __future__ import annotations

import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

from client import Object
from container import Container

# No proxy of the environment between a kubelet and its pods.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Probes:
    """Watches one process of a container until `gone`; `changed` is called when its status has."""

    def __init__(self, container: Container, address: str, gone: threading.Event, changed: Callable[[], None]) -> None:
        self._container, self._address, self._gone, self._changed = container, address, gone, changed

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"probes of {self._container.name}", daemon=True).start()

    def _run(self) -> None:
        spec, status = self._container.spec, self._container.status
        if "startupProbe" in spec and not self._started(spec["startupProbe"]):
            return
        status["started"] = True
        status["ready"] = "readinessProbe" not in spec
        self._changed()
        for kind, watch in (("readinessProbe", self._readiness), ("livenessProbe", self._liveness)):
            if kind in spec:
                threading.Thread(target=watch, args=(spec[kind],), name=kind, daemon=True).start()

    def _started(self, probe: Object) -> bool:
        failures = 0
        self._gone.wait(probe.get("initialDelaySeconds", 0))
        while not self._gone.is_set():
            if self.succeeds(probe):
                return True
            failures += 1
            if failures >= probe.get("failureThreshold", 3):
                self._container.signal(signal.SIGKILL)
                return False
            self._gone.wait(probe.get("periodSeconds", 10))
        return False

    def _readiness(self, probe: Object) -> None:
        status, failures = self._container.status, 0
        self._gone.wait(probe.get("initialDelaySeconds", 0))
        while not self._gone.is_set():
            good = self.succeeds(probe)
            failures = 0 if good else failures + 1
            ready = good or (status["ready"] and failures < probe.get("failureThreshold", 3))
            if ready != status["ready"] and not self._gone.is_set():
                status["ready"] = ready
                self._changed()
            self._gone.wait(probe.get("periodSeconds", 10))

    def _liveness(self, probe: Object) -> None:
        failures = 0
        self._gone.wait(probe.get("initialDelaySeconds", 0))
        while not self._gone.is_set():
            failures = 0 if self.succeeds(probe) else failures + 1
            if failures >= probe.get("failureThreshold", 3) and not self._gone.is_set():
                self._container.signal(signal.SIGKILL)
                return
            self._gone.wait(probe.get("periodSeconds", 10))

    def succeeds(self, probe: Object) -> bool:
        """One try."""
        seconds = float(probe.get("timeoutSeconds", 1))
        if "exec" in probe:
            return self._container.execute(probe["exec"]["command"], seconds) == 0
        target: Object = probe.get("httpGet") or probe["tcpSocket"]
        port = self._port(target["port"])
        try:
            if "httpGet" in probe:
                url = f"http://{self._address}:{port}{target.get('path', '/')}"
                with _OPENER.open(url, timeout=seconds) as answer:
                    return bool(answer.status < 400)
            with socket.create_connection((self._address, port), seconds):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def _port(self, port: int | str) -> int:
        if isinstance(port, int):
            return port
        named = [entry["containerPort"] for entry in self._container.spec.get("ports", []) if entry.get("name") == port]
        return int(named[0]) if named else 0
