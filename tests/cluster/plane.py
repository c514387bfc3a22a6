"""A control plane on this machine: etcd, API server, controller manager, scheduler, as processes of this one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import network
import programs
from client import Client, wait_for
from container import KILLED_WITH_PARENT, Host
from kubelet import Kubelet
from volumes import unmount_below

# One at a time on a machine: the bridge and its addresses are one machine's.
STATE = programs.CACHE / "cluster"
AUDIT = STATE / "audit.log"
API_PORT = 6443
ETCD_PORT = 2379
SERVICE_RANGE = "10.96.0.0/16"
CERTIFICATE_DAYS = "2"
# Seconds until SIGKILL: the API server does not end on SIGTERM while anyone watches.
STOP_SECONDS = 2.0


class ControlPlane:
    """The programs of a control plane and the kubelet of its nodes; the caller holds the lock of the machine."""

    def __init__(self) -> None:
        self.kubernetes, self._etcd = programs.build(programs.KUBERNETES), programs.build(programs.ETCD)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._token = secrets.token_hex(16)
        self.url = f"https://{network.GATEWAY}:{API_PORT}"
        self.client = Client(self.url, self._token, STATE / "pki" / "ca.crt")
        self.host = Host(client=self.client, state=STATE, images={}, api_port=API_PORT)
        self.kubelet: Kubelet | None = None

    def start(self) -> Kubelet:
        sweep()
        for folder in ("pki", "log", "pods"):
            (STATE / folder).mkdir(parents=True)
        STATE.chmod(0o700)
        network.make_bridge()
        self._make_certificates()
        self._make_configuration()
        self._start_etcd()
        self._start_api_server()
        wait_for("the API server", lambda: self.client.get("/readyz"))
        self._start_controllers()
        accounts = "/api/v1/namespaces/default/serviceaccounts/default"
        wait_for("the controller manager", lambda: self.client.find(accounts))
        self.kubelet = Kubelet(self.host, programs.KUBERNETES.version)
        return self.kubelet

    def stop(self) -> None:
        """Pods first, then those who would start them again."""
        if self.kubelet:
            self.kubelet.stop()
        for process in reversed(self._processes):
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in reversed(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.wait()
        sweep()

    def kubectl(self, *words: str) -> str:
        """What kubectl says; for what only it can do, such as kustomize."""
        command = [str(self.kubernetes), "kubectl", *words]
        variables = {**os.environ, "KUBECONFIG": str(STATE / "admin.conf")}
        return subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout

    def logs(self) -> str:
        """The last words of each program."""
        files = sorted((STATE / "log").glob("program-*"))
        return "".join(f"--- {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)

    def start_program(self, name: str, command: Sequence[str | Path]) -> None:
        """A program that goes with the control plane."""
        with (STATE / "log" / f"program-{name}").open("wb") as log:
            process = subprocess.Popen(
                [*KILLED_WITH_PARENT, *map(str, command)],
                cwd=STATE,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)

    def _start_etcd(self) -> None:
        clients, peers = (f"http://{network.GATEWAY}:{port}" for port in (ETCD_PORT, ETCD_PORT + 1))
        options = {
            "data-dir": STATE / "etcd",
            "log-level": "warn",
            "listen-client-urls": clients,
            "advertise-client-urls": clients,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"default={peers}",
        }
        self.start_program("etcd", [self._etcd, "--unsafe-no-fsync", *_flags(options)])

    def _start_api_server(self) -> None:
        options = {
            "etcd-servers": f"http://{network.GATEWAY}:{ETCD_PORT}",
            "bind-address": network.GATEWAY,
            "advertise-address": network.GATEWAY,
            "secure-port": API_PORT,
            "service-cluster-ip-range": SERVICE_RANGE,
            "tls-cert-file": "pki/server.crt",
            "tls-private-key-file": "pki/server.key",
            "token-auth-file": "pki/tokens.csv",
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": "pki/accounts.key",
            "service-account-signing-key-file": "pki/accounts.key",
            "cert-dir": STATE / "pki",
            # Webhooks and API services are reached at their endpoints: there is no kube-proxy.
            "enable-aggregator-routing": "true",
            "requestheader-client-ca-file": "pki/ca.crt",
            "requestheader-allowed-names": "front",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": "pki/front.crt",
            "proxy-client-key-file": "pki/front.key",
            "allow-privileged": "true",
            "audit-policy-file": "pki/audit.yaml",
            "audit-log-path": AUDIT,
        }
        self.start_program("kube-apiserver", [self.kubernetes, "kube-apiserver", *_flags(options)])

    def _start_controllers(self) -> None:
        common = {"kubeconfig": STATE / "admin.conf", "leader-elect": "false", "bind-address": network.GATEWAY}
        manager = common | {
            "service-account-private-key-file": "pki/accounts.key",
            "root-ca-file": "pki/ca.crt",
            "cert-dir": STATE / "pki" / "manager",
            # A node that is ready is seen as ready after a second instead of eight.
            "node-monitor-period": "1s",
        }
        self.start_program("kube-controller-manager", [self.kubernetes, "kube-controller-manager", *_flags(manager)])
        scheduler = common | {"cert-dir": STATE / "pki" / "scheduler"}
        self.start_program("kube-scheduler", [self.kubernetes, "kube-scheduler", *_flags(scheduler)])

    def _make_certificates(self) -> None:
        """One authority, one certificate for the server and one for its front, one key for accounts."""
        pki = STATE / "pki"
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        authority = ("-subj", "/CN=tests", "-keyout", f"{pki}/ca.key", "-out", f"{pki}/ca.crt")
        network.run("openssl", "req", "-x509", *key, "-days", CERTIFICATE_DAYS, *authority)
        names = pki / "names"
        names.write_text(f"subjectAltName=IP:{network.GATEWAY},DNS:kubernetes.default.svc\n")
        for name in ("server", "front"):
            request = ("-subj", f"/CN={name}", "-keyout", f"{pki}/{name}.key", "-out", f"{pki}/{name}.csr")
            network.run("openssl", "req", *key, *request)
            sign = ("-CA", f"{pki}/ca.crt", "-CAkey", f"{pki}/ca.key", "-CAcreateserial", "-days", CERTIFICATE_DAYS)
            files = ("-in", f"{pki}/{name}.csr", "-out", f"{pki}/{name}.crt", "-extfile", str(names))
            network.run("openssl", "x509", "-req", *sign, *files)
        network.run("openssl", "genrsa", "-out", f"{pki}/accounts.key", "2048")

    def _make_configuration(self) -> None:
        (STATE / "pki" / "tokens.csv").write_text(f"{self._token},admin,admin,system:masters\n")
        # What accounts ask for, without what they send or get: what a role must give is told by it.
        rule = "{level: Metadata, userGroups: [system:serviceaccounts], omitStages: [RequestReceived]}"
        (STATE / "pki" / "audit.yaml").write_text(
            f"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{rule}, {{level: None}}]\n"
        )
        server = f"{{server: '{self.url}', certificate-authority: {STATE}/pki/ca.crt}}"
        (STATE / "admin.conf").write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: tests\n"
            f"clusters: [{{name: tests, cluster: {server}}}]\n"
            f"users: [{{name: admin, user: {{token: {self._token}}}}}]\n"
            "contexts: [{name: tests, context: {cluster: tests, user: admin}}]\n"
        )


def _flags(options: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def sweep() -> None:
    """Removes what this or a crashed session left: processes by pid, links, namespaces, mounts, files."""
    for pid in _leftover_pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    network.sweep()
    unmount_below(STATE)
    shutil.rmtree(STATE, ignore_errors=True)


def _leftover_pids() -> list[int]:
    """Processes of a control plane of ours or in a network namespace of ours; not this process or one above it."""
    namespaces = set()
    for name in Path("/run/netns").glob(f"{network.NAMESPACE_PREFIX}*"):
        with contextlib.suppress(OSError):
            namespaces.add(name.stat().st_ino)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            inside = (entry / "ns" / "net").stat().st_ino in namespaces
            # Their working folder is the state: none but the programs of a control plane is started there.
            ours = (entry / "cwd").readlink() == STATE and b"kube-" in (entry / "cmdline").read_bytes()
            etcd = f"--data-dir={STATE}/etcd".encode() in (entry / "cmdline").read_bytes()
            if inside or ours or etcd:
                found.append(int(entry.name))
    return found
