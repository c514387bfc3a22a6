"""One bridge on the host, a network namespace for each pod, and a DNS server that knows the Services."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
from collections.abc import Iterable

from client import Client, Object

BRIDGE = "ertest0"
NETWORK = "10.77"
# The API server, etcd and the DNS server listen here: pods reach it, and loopback would be no legal endpoint.
GATEWAY = f"{NETWORK}.0.1"
NAMESPACE_PREFIX = "ertest-"
LINK_PREFIX = "ert"
DOMAIN = "svc.cluster.local"


def run(*command: str) -> str:
    """A command's output; a failure names it with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def make_bridge() -> None:
    """The bridge with its address."""
    taken = [route["dev"] for route in json.loads(run("ip", "-json", "route", "show", f"{GATEWAY}/16") or "[]")]
    if taken:
        raise RuntimeError(f"{NETWORK}.0.0/16 is in use by {', '.join(taken)}: the tests' bridge has it")
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "addr", "add", f"{GATEWAY}/16", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")


def sweep() -> None:
    """Removes the bridge and what hangs on it, of this session or of one that crashed; their processes are gone."""
    for name in _names("netns", NAMESPACE_PREFIX):
        run("ip", "netns", "del", name)
    for name in [*_names("link", LINK_PREFIX), *_names("link", BRIDGE)]:
        # The far end of a link goes with its namespace.
        subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)


def _names(kind: str, prefix: str) -> list[str]:
    listed = run("ip", "-json", kind, "list") if kind == "netns" else run("ip", "-json", "link", "show")
    entries = json.loads(listed) if listed.strip() else []
    return [name for entry in entries if (name := entry.get("name") or entry.get("ifname", "")).startswith(prefix)]


class PodNetwork:
    """The network namespace of a pod, with an address of its own."""

    def __init__(self, uid: str, address: str) -> None:
        self.address = address
        self.namespace = NAMESPACE_PREFIX + uid[:8]
        self._link = LINK_PREFIX + uid[:8]

    def make(self) -> None:
        inside = ("ip", "-n", self.namespace)
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        run("ip", "link", "set", self._link, "master", BRIDGE, "up")
        run(*inside, "addr", "add", f"{self.address}/16", "dev", "eth0")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", GATEWAY)

    def cut(self) -> None:
        """Takes the cable out."""
        run("ip", "link", "set", self._link, "down")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, check=False)


class Names(threading.Thread):
    """A DNS server for `<service>.<namespace>.svc.cluster.local`: the addresses of its endpoints, no cluster IP.

    Nothing here routes a cluster IP, and a headless Service is answered in the same way.
    """

    def __init__(self, client: Client, closing: threading.Event) -> None:
        super().__init__(name="dns", daemon=True)
        self._client, self._closing = client, closing
        self._addresses: dict[str, list[str]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((GATEWAY, 53))
        self._socket.settimeout(0.5)
        threading.Thread(target=self._follow, name="endpoints", daemon=True).start()

    def run(self) -> None:
        with self._socket:
            while not self._closing.is_set():
                try:
                    question, peer = self._socket.recvfrom(2048)
                    self._socket.sendto(answer(question, self._addresses), peer)
                except (TimeoutError, ValueError, OSError):
                    continue

    def _follow(self) -> None:
        for kind, endpoints in self._client.watch("/api/v1/endpoints", self._closing):
            metadata = endpoints["metadata"]
            name = f"{metadata['name']}.{metadata['namespace']}.{DOMAIN}"
            self._addresses[name] = [] if kind == "DELETED" else list(_ready(endpoints))


def _ready(endpoints: Object) -> Iterable[str]:
    for subset in endpoints.get("subsets") or []:
        for address in subset.get("addresses") or []:
            yield address["ip"]


def answer(question: bytes, addresses: dict[str, list[str]]) -> bytes:
    """The answer to one DNS question: A records, or no such name."""
    labels, at = [], 12
    try:
        while size := question[at]:
            labels.append(question[at + 1 : at + 1 + size].decode("ascii"))
            at += 1 + size
        (kind,) = struct.unpack(">H", question[at + 1 : at + 3])
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError("not a question") from error
    found = addresses.get(".".join(labels).lower(), [])
    # A name that exists without a record of the kind, an IPv6 address say, is no error.
    wanted = found if kind == 1 else []
    records = b"".join(b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 1, 4) + socket.inet_aton(ip) for ip in wanted)
    flags = 0x8580 | (0 if found else 3)
    return question[:2] + struct.pack(">HHHHH", flags, 1, len(wanted), 0, 0) + question[12 : at + 5] + records
