"""A container as a process: its own PID, mount, UTS and IPC namespaces in the network namespace of its pod.

Its root is an overlay over the host's root, so that the host's programs and the environment under test are
there; what it writes is its own and goes with it. Its command is PID 1. It ends with this process: the kernel
kills it when the thread that started it is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import Client, Object
from network import DOMAIN, GATEWAY
from programs import CACHE
from volumes import Invalid, Volumes, expand

ROOTFS = Path(__file__).with_name("rootfs.sh")
SEARCH = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KILLED_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")


def now() -> str:
    """As Kubernetes writes a time."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass(frozen=True)
class Host:
    """What all pods of a kubelet share."""

    client: Client
    state: Path
    # The last word of an image's name, and what is laid over the host's root for it: path inside → file here.
    images: dict[str, dict[str, Path]]
    api_port: int
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def logs(self) -> Path:
        return self.state / "log"


class Container:
    """One container of a pod, restarted as often as its pod wants."""

    def __init__(self, host: Host, pod: Object, spec: Object, namespace: str, folder: Path) -> None:
        if not spec.get("command"):
            raise Invalid(f"the container `{spec['name']}` has no `command`; images have no entry point here")
        self.host, self.spec, self.name = host, spec, str(spec["name"])
        self._pod, self._namespace, self._folder = pod, namespace, folder
        self.pid: int | None = None
        self.variables: dict[str, str] = {}
        self.status: Object = {
            "name": self.name,
            "image": spec.get("image", ""),
            "imageID": "host",
            "ready": False,
            "started": False,
            "restartCount": 0,
            "state": {"waiting": {"reason": "PodInitializing"}},
        }

    @property
    def log(self) -> Path:
        """What its latest process said."""
        metadata = self._pod["metadata"]
        name = f"{metadata['namespace']}_{metadata['name']}_{self.name}-{self.status['restartCount']}.log"
        return self.host.logs / name

    def start(self, volumes: Volumes) -> subprocess.Popen[bytes]:
        """Starts its process; the thread that does has to stay until the process has ended."""
        self.variables = volumes.environment(self.spec, self._base())
        folder = self._folder / f"{self.name}-{self.status['restartCount']}"
        self._lay_out(folder, volumes)
        words = [*self.spec["command"], *self.spec.get("args", [])]
        command = [expand(word, self.variables) for word in words]
        if self.spec.get("workingDir"):
            command = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.spec["workingDir"], *command]
        # A shell in the parent namespaces waits for the first process: `unshare --fork` would report 1 for a SIGKILL.
        # It says nothing of its own into the log.
        inner = f'exec 3>&2 2>/dev/null; {" ".join(KILLED_WITH_PARENT)} "$@" 2>&3 3>&-; exit $?'
        enter = ["nsenter", f"--net=/run/netns/{self._namespace}"]
        apart = ["unshare", "--pid", "--mount", "--uts", "--ipc", "/bin/bash", "-c", inner, "pause"]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [*KILLED_WITH_PARENT, *enter, *apart, "/bin/bash", str(ROOTFS), str(folder), *command],
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = _first_child(process)
        running = {"running": {"startedAt": now()}}
        self.status |= {"state": running, "containerID": f"process://{self.pid}", "started": False}
        return process

    def ended(self, returncode: int) -> int:
        """Its exit code, as a kubelet tells it."""
        self.pid = None
        code = 128 - returncode if returncode < 0 else returncode
        terminated = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "startedAt": self.status["state"]["running"]["startedAt"],
            "finishedAt": now(),
            "containerID": self.status["containerID"],
        }
        self.status |= {"ready": False, "started": False, "state": {"terminated": terminated}}
        shutil.rmtree(self._folder / f"{self.name}-{self.status['restartCount']}", ignore_errors=True)
        return code

    def signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def execute(self, command: Sequence[str], seconds: float) -> int:
        """Runs a command inside, for so long at most; its exit status, or 124."""
        pid = self.pid
        if pid is None:
            return 1
        process = subprocess.Popen(
            ["nsenter", "--target", str(pid), "--all", "--root", "--wd", *command],
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return 124

    def _base(self) -> dict[str, str]:
        return {
            "PATH": SEARCH,
            "HOME": str(Path.home()),
            "HOSTNAME": self._hostname,
            "LANG": "C.UTF-8",
            # No cluster IP is routed: the server itself.
            "KUBERNETES_SERVICE_HOST": GATEWAY,
            "KUBERNETES_SERVICE_PORT": str(self.host.api_port),
        }

    @property
    def _hostname(self) -> str:
        return str(self._pod["spec"].get("hostname") or self._pod["metadata"]["name"])[:63]

    def _lay_out(self, folder: Path, volumes: Volumes) -> None:
        """What rootfs.sh reads: the upper layer and the mounts."""
        etc, empty = folder / "upper" / "etc", folder / "empty"
        for made in (etc, empty, folder / "tmp"):
            made.mkdir(parents=True)
        metadata = self._pod["metadata"]
        search = f"{metadata['namespace']}.{DOMAIN} {DOMAIN}"
        (etc / "hostname").write_text(f"{self._hostname}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{self._pod['status']['podIP']} {self._hostname}\n")
        (etc / "resolv.conf").write_text(f"nameserver {GATEWAY}\nsearch {search}\noptions ndots:5 timeout:1\n")
        image = self.spec.get("image", "").split("/")[-1].split("@")[0].split(":")[0]
        for inside, file in self.host.images.get(image, {}).items():
            link = folder / "upper" / inside.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
        # The host's own are none of its business; the environment may lie on another file system than the root.
        mounts: list[tuple[Any, Any, str]] = [
            (folder / "tmp", "/tmp", "rw"),
            (empty, "/run/netns", "ro"),
            (empty, self.host.state, "ro"),
        ]
        mounts += [(path, path, "ro") for path in (sys.base_prefix, sys.prefix, CACHE / "tools" / "cluster")]
        for mount in self.spec.get("volumeMounts", []):
            mode = "ro" if mount.get("readOnly") else "rw"
            mounts.append((volumes.path(mount), mount["mountPath"], mode))
        (folder / "mounts").write_text("".join(f"{source}|{target}|{mode}\n" for source, target, mode in mounts))


def _first_child(process: subprocess.Popen[bytes]) -> int | None:
    """PID 1 of the container, as the host counts it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        with contextlib.suppress(OSError):
            if found := children.read_text().split():
                return int(found[0])
        time.sleep(0.005)
    return None
