"""Whether this machine can hold a cluster; as a script, builds the programs of one ahead of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from programs import ALL, CACHE, UnreachableError, build

TOOLS = ("go", "ip", "openssl", "unshare", "nsenter", "setpriv", "pivot_root")


def missing() -> str | None:
    """Why no cluster can be had on this machine; None where one can."""
    if sys.platform != "linux":
        return "needs Linux: pods are processes in namespaces"
    for tool in TOOLS:
        if shutil.which(tool) is None:
            # No word that fails CI: a machine without it is as good as one without root.
            return f"needs `{tool}`"
    if os.geteuid() != 0:
        return "needs root: network namespaces and overlays"
    return _refused_namespaces()


def _refused_namespaces() -> str | None:
    """Makes what a pod is made of once, in namespaces of its own that vanish with it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / f".cluster-probe-{os.getpid()}"
    script = (
        'mkdir -p "$0"/{u,w,r} && mount --make-rprivate / && '
        'mount -t overlay overlay -o "lowerdir=/,upperdir=$0/u,workdir=$0/w" "$0/r" && '
        "ip link add probe0 type bridge && ip link add probe1 type veth peer name probe2"
    )
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "/bin/bash", "-c", script, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None if done.returncode == 0 else f"needs namespaces, overlays and bridges: {done.stderr.strip()[-200:]}"


def main() -> None:
    """Builds what is missing, or says why nothing needs to be built."""
    if reason := missing():
        print(f"no cluster on this machine: {reason}", file=sys.stderr)
        return
    try:
        for program in ALL:
            build(program)
    except UnreachableError as error:
        print(f"no cluster on this machine: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
