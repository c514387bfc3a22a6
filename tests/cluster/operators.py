"""KubeRay and Kueue in the cluster, from the manifests of their own modules, as pods of our nodes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import programs
from client import Client, Object, read_manifests, wait_for
from plane import STATE, ControlPlane

# Before others: what is defined, and where it lives.
FIRST = ("Namespace", "CustomResourceDefinition")
KWOK_LABEL = "tests/kwok"
KWOK_STAGES = ("node/fast", "node/heartbeat-with-lease", "pod/fast")
# Of pods that nobody can reach.
KWOK_ADDRESSES = "10.200.0.0/16"
KWOK_LEASE_SECONDS = 40


def install_kuberay(plane: ControlPlane) -> None:
    """The operator with its definitions and rights, ready."""
    plane.host.images["operator"] = {"/manager": programs.build(programs.KUBERAY)}
    apply_all(plane.client, _default(plane, programs.KUBERAY))
    _wait_until_available(plane.client, "default", "kuberay-operator")


def install_kueue(plane: ControlPlane) -> None:
    """The controller with its definitions, rights and webhooks, ready to take jobs."""
    plane.host.images["kueue"] = {"/manager": programs.build(programs.KUEUE)}
    apply_all(plane.client, _default(plane, programs.KUEUE))
    _wait_until_available(plane.client, "kueue-system", "kueue-controller-manager")
    flavor = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "probe"}}
    # Its webhooks take a moment longer than its readiness: their certificate has to reach them.
    wait_for("the webhooks of Kueue", lambda: plane.client.apply(flavor, dry=True))


def install_definitions(client: Client, files: Iterable[Path]) -> None:
    """Definitions alone, without who acts on them."""
    apply_all(client, [document for file in files for document in read_manifests(file.read_text(encoding="utf-8"))])


def kuberay_definitions() -> list[Path]:
    """The files of what KubeRay defines."""
    return sorted((programs.module_folder(programs.KUBERAY) / "config" / "crd" / "bases").glob("*.yaml"))


def start_kwok(plane: ControlPlane) -> None:
    """Who keeps the machines that carry `KWOK_LABEL` and the pods on them, after the stages of its own module."""
    binary = programs.build(programs.KWOK)
    stages = programs.module_folder(programs.KWOK) / "kustomize" / "stage"
    files = [file for folder in KWOK_STAGES for file in sorted((stages / folder).glob("*.yaml"))]
    told = [file.read_text(encoding="utf-8") for file in files if file.name != "kustomization.yaml"]
    configuration = STATE / "kwok.yaml"
    configuration.write_text("\n---\n".join(told), encoding="utf-8")
    options = {
        "kubeconfig": STATE / "admin.conf",
        "config": configuration,
        "manage-nodes-with-label-selector": f"{KWOK_LABEL}=true",
        "cidr": KWOK_ADDRESSES,
        "node-lease-duration-seconds": KWOK_LEASE_SECONDS,
    }
    plane.start_program("kwok", [binary, *(f"--{name}={value}" for name, value in options.items())])


def _default(plane: ControlPlane, program: programs.Program) -> list[Object]:
    folder = programs.module_folder(program) / "config" / "default"
    documents = read_manifests(plane.kubectl("kustomize", str(folder)))
    for document in documents:
        if document["kind"] == "Deployment":
            for container in document["spec"]["template"]["spec"]["containers"]:
                # As wide as a test is patient, instead of as a small cluster can afford.
                container.pop("resources", None)
    return documents


def apply_all(client: Client, documents: Iterable[Object]) -> None:
    """Definitions first; the rest as soon as they are served."""
    every = list(documents)
    first = [document for document in every if document["kind"] in FIRST]
    for document in first:
        client.apply(document, strict=False)
    for document in first:
        if document["kind"] == "CustomResourceDefinition":
            _wait_until_established(client, document)
    for document in every:
        if document not in first:
            _apply_when_served(client, document)


def _apply_when_served(client: Client, document: Object) -> None:
    name = f"{document['kind']} {document['metadata']['name']}"
    wait_for(f"the server to take {name}", lambda: client.apply(document, strict=False))


def _wait_until_established(client: Client, definition: Object) -> None:
    path = client.path_of(definition)

    def established() -> bool:
        conditions = client.get(path).get("status", {}).get("conditions") or []
        return any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions)

    wait_for(f"the definition {definition['metadata']['name']}", established)


def _wait_until_available(client: Client, namespace: str, deployment: str) -> None:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}"

    def available() -> bool:
        return bool(client.get(path).get("status", {}).get("availableReplicas"))

    wait_for(f"{deployment} to be available", available)
