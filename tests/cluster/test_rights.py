"""What the chart gives an account is enough for every command, and none of it is too much."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

import network
from chart import chart
from client import Object, read_manifests, wait_for
from cluster import Cluster
from plane import AUDIT, STATE, ControlPlane
from runs import NAME, SOMEBODY_ELSE, Launch, prepare
from training import Corpus

# Beside launching, watching, stopping and logs: the class of the head of a run that waits in no queue.
PARTS = ("priority",)
TOKEN = "only-for-its-head"

pytestmark = pytest.mark.timeout(600)


def kubeconfig(cluster: Cluster, account: str, folder: Path) -> Path:
    """A configuration that holds nothing but a token of the account."""
    wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    path = cluster.path("v1", "serviceaccounts", account) + "/token"
    token = cluster.client.call("POST", path, wanted)["status"]["token"]
    context = {"cluster": "tests", "user": account, "namespace": cluster.namespace}
    server = {"server": cluster.plane.url, "certificate-authority": str(STATE / "pki" / "ca.crt")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "clusters": [{"name": "tests", "cluster": server}],
        "users": [{"name": account, "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": context}],
    }
    file = folder / "launcher.conf"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


@pytest.fixture
def launch(
    plane: ControlPlane, kuberay: None, cluster: Cluster, corpus: Corpus, shared: Path, tmp_path: Path
) -> Iterator[Launch]:
    """A run for which there is no machine, and the account of the chart to launch it by."""
    more = {"service_account": {"name": "runs"}, "cpu": {"instance": "m7i.2xlarge", "nodes": 1}}
    launch = prepare(cluster, corpus, shared, "--built", machines=0, on_eks=more)
    for document in chart(cluster.namespace, *PARTS):
        cluster.apply(document)
    launch.kubeconfig = kubeconfig(cluster, "eagleray-launcher", tmp_path)
    # The operators' machine is not for heads.
    plane.client.patch("/api/v1/nodes/system", {"spec": {"unschedulable": True}})
    yield launch
    plane.client.patch("/api/v1/nodes/system", {"spec": {"unschedulable": False}})


def asked(namespace: str) -> tuple[set[str], set[str]]:
    """What the account asked the API server for, `verb resource.group`, and what of it was refused."""
    all_of_it, refused = set(), set()
    for line in AUDIT.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        of = event.get("objectRef", {})
        if event["user"]["username"] != f"system:serviceaccount:{namespace}:eagleray-launcher" or not of:
            continue
        resource = "/".join(filter(None, (of["resource"], of.get("subresource"))))
        right = f"{event['verb']} {resource}.{of.get('apiGroup', '')}"
        all_of_it.add(right)
        if event.get("responseStatus", {}).get("code") == 403:
            refused.add(right)
    return all_of_it, refused


def given(documents: list[Object]) -> set[str]:
    """What the roles give, in the same words."""
    rules = [rule for document in documents for rule in document.get("rules", [])]
    return {f"{verb} {rule['resources'][0]}.{rule['apiGroups'][0]}" for rule in rules for verb in rule["verbs"]}


# What a command meets and goes round, each named by it: the chart gives these by keys of their own.
DONE_WITHOUT = {"list nodeclaims.karpenter.sh", "list nodes.", "list workloads.kueue.x-k8s.io"}


def succeeded(launch: Launch, word: str, *options: str) -> str:
    """The output of a command that must succeed."""
    done = launch.command(word, *options)
    assert done.returncode == 0, f"{word}: {done.stdout}{done.stderr}"
    return done.stdout


def leaks(launch: Launch, *options: str) -> subprocess.CompletedProcess[str]:
    """`eagleray runs --leaks`, as the account."""
    command = [f"{sys.prefix}/bin/eagleray", "runs", "--leaks", "--kubeconfig", str(launch.kubeconfig), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@contextlib.contextmanager
def head_of(cluster: Cluster, name: str) -> Iterator[None]:
    """A launch without pods, and in the place of its head a server with the answer of Ray's job API."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            knows = self.headers.get("x-ray-authorization") == f"Bearer {TOKEN}"
            found = self.path == f"/api/jobs/{name}/logs"
            self.send_response(200 if knows and found else 401)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"logs": "step 1\n"}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((network.GATEWAY, 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    labels = {"eagleray/run": NAME, "eagleray/launch": name}
    own = {"namespace": cluster.namespace, "labels": labels}
    spec = {
        "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "ray", "image": "a"}]}}}
    }
    spec |= {"rayVersion": "2.60.0", "authOptions": {"mode": "token"}}
    origin = {"ray.io/originated-from-crd": "RayJob", "ray.io/originated-from-cr-name": name}
    secret = {"auth_token": base64.b64encode(TOKEN.encode()).decode()}
    service, pod, (_, port) = f"{name}-x-head-svc", f"{name}-x-head", server.server_address[:2]
    nowhere = {"schedulingGates": [{"name": "tests/never"}], "containers": [{"name": "ray", "image": "a"}]}
    reference = {"kind": "Pod", "namespace": cluster.namespace, "name": pod}
    address = {"ip": network.GATEWAY, "targetRef": reference}
    for document in (
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {**own, "name": name},
            "spec": {"managedBy": SOMEBODY_ELSE, "entrypoint": "true", "rayClusterSpec": spec},
        },
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {**own, "name": f"{name}-x", "labels": labels | origin},
            "spec": {"managedBy": SOMEBODY_ELSE, **spec},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {**own, "name": f"{name}-x"}, "data": secret},
        # The API server passes nothing on but to addresses of pods.
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": cluster.namespace, "name": pod}, "spec": nowhere},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**own, "name": service},
            "spec": {"ports": [{"port": 8265, "targetPort": port}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {**own, "name": service},
            "subsets": [{"addresses": [address], "ports": [{"port": port}]}],
        },
    ):
        cluster.apply(document)
    where = {"podIP": network.GATEWAY, "podIPs": [{"ip": network.GATEWAY}]}
    cluster.client.patch(cluster.path("v1", "pods", pod) + "/status", {"status": where})
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def becomes(cluster: Cluster, name: str, **status: str) -> None:
    """What KubeRay would write of a launch."""
    cluster.client.patch(cluster.path("ray.io/v1", "rayjobs", name) + "/status", {"status": status})


def test_an_account_of_the_chart_may_do_what_the_commands_do_and_they_need_all_of_it(launch: Launch) -> None:
    cluster, other = launch.cluster, f"{NAME}-9"
    assert "+ RayJob tiny-1" in succeeded(launch, "diff", "--built")
    succeeded(launch, "launch", "--built")
    assert "tiny-1: " in succeeded(launch, "watch", "--once")
    told = json.loads(succeeded(launch, "watch", "--once", "--format", "json"))
    assert told["launch"] == "tiny-1" and told["line"]
    head = wait_for("the head's pod", lambda: cluster.ray_pods("head"))[0]["metadata"]["name"]
    assert head in succeeded(launch, "logs", "--pod", "list")
    # Nothing has begun in it yet; what counts is that it may be asked for.
    assert "forbidden" not in launch.command("logs", "--pod", head).stderr
    wait_for("KubeRay to say so", lambda: "the head of launch `tiny-1` is not ready" in launch.command("logs").stderr)
    # KubeRay has written the launch back by now, in its own words.
    changes = json.loads(succeeded(launch, "diff", "--built", "--format", "json"))["changes"]
    assert changes and not [change for change in changes if change["new"] or change["fields"]]
    assert leaks(launch).returncode == 0
    with head_of(cluster, other):
        becomes(cluster, other, jobDeploymentStatus="Running", jobStatus="RUNNING", rayClusterName=f"{other}-x")
        wait_for("the head's service", lambda: launch.command("logs", "--launch", "9").stdout == "step 1\n", 40)
    becomes(cluster, other, jobDeploymentStatus="Complete", jobStatus="FAILED", endTime="2026-01-01T00:00:00Z")
    found = leaks(launch, "--fix")
    assert found.returncode == 1 and "`rights.leaks` of the chart" in found.stdout, found.stdout
    used, refused = asked(cluster.namespace)
    for document in chart(cluster.namespace, *PARTS, "leaks"):
        cluster.apply(document)
    wait_for("the right", lambda: leaks(launch, "--fix").returncode == 0)
    leaked = cluster.path("ray.io/v1", "rayclusters", f"{other}-x")
    wait_for("the leak to go", lambda: not cluster.client.find(leaked))
    succeeded(launch, "stop")
    assert not cluster.client.find(cluster.path("ray.io/v1", "rayjobs", launch.job))
    used |= asked(cluster.namespace)[0]
    rights = given(chart(cluster.namespace, *PARTS))
    too_much = {"delete rayclusters.ray.io"}
    assert used - rights == DONE_WITHOUT | too_much
    # Events are asked for in the namespace, which the role gives, and of machines in another.
    assert refused == DONE_WITHOUT | {"list events."} | too_much
    # A patch that makes an object is told as a patch; the server wants the right to create it as well.
    unused = rights - used
    assert unused == {right for right in rights if right.startswith("create ")}
    assert all(right.replace("create ", "patch ", 1) in used for right in unused)


def missing(launch: Launch) -> list[Object]:
    """What `eagleray doctor` finds wrong with the account's rights."""
    report = json.loads(launch.command("doctor", "--format", "json").stdout)
    of_rights: list[Object] = [finding for finding in report["findings"] if finding["area"] == "rights"]
    assert of_rights
    return [finding for finding in of_rights if finding["level"] != "ok"]


def without(role: Object) -> Iterator[tuple[str, Object]]:
    """A role less one verb, for each of them, and the words for what it lacks."""
    for number, rule in enumerate(role["rules"]):
        for verb in rule["verbs"]:
            less = copy.deepcopy(role)
            less["rules"][number]["verbs"].remove(verb)
            less["rules"] = [rule for rule in less["rules"] if rule["verbs"]]
            yield f"{verb} {'.'.join(filter(None, (rule['resources'][0], rule['apiGroups'][0])))}", less


def test_doctor_names_each_verb_that_is_missing_and_a_role_that_gives_it(launch: Launch) -> None:
    cluster = launch.cluster
    wait_for("the rights to hold", lambda: not missing(launch))
    remedies: dict[str, tuple[Object, str]] = {}
    for role in chart(cluster.namespace, *PARTS):
        if not role["kind"].endswith("Role"):
            continue
        for lacking, less in without(role):
            cluster.client.apply(less)
            wanted = [lacking]

            def seen(wanted: list[str] = wanted) -> list[Object]:
                found = missing(launch)
                return found if [one["seen"].split(": ")[1] for one in found] == wanted else []

            (finding,) = wait_for(f"doctor to miss {lacking}", seen, 20)
            part = finding["seen"].split(": ")[0].removeprefix("missing for ")
            remedies.setdefault(part, (less, finding["remedy"]))
        cluster.client.apply(role)
    assert set(remedies) == {"launch", "logs", *PARTS}
    for less, remedy in remedies.values():
        cluster.client.apply(less)
        wait_for("the right to be gone", lambda: missing(launch), 20)
        pasted = re.fullmatch(r"kubectl apply -f - <<'EOF'\n(.*)EOF", remedy, re.DOTALL)
        assert pasted
        for document in read_manifests(pasted[1]):
            cluster.apply(document)
        wait_for("the remedy to help", lambda: not missing(launch), 20)
