"""What `eagleray render` writes is taken by a real API server, with the rules of the real definitions."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path

import pytest

import operators
from client import Client, Object, Refused
from cluster import documents
from plane import ControlPlane
from runs import render

REPOSITORY = Path(__file__).parents[2]
KARPENTER = ("karpenter.sh_nodepools.yaml", "karpenter.k8s.aws_ec2nodeclasses.yaml")


def karpenter_definitions() -> list[Path]:
    """In the folders of `EAGLERAY_CRDS`, or beside the clone; none where they are not there."""
    named = os.environ.get("EAGLERAY_CRDS", "").split(":")
    folders = [*(Path(folder) for folder in named if folder), REPOSITORY.parent / "shared" / "fixtures" / "crds"]
    for folder in folders:
        if all((folder / name).exists() for name in KARPENTER):
            return [folder / name for name in KARPENTER]
    return []


def example() -> str:
    """The run spec of docs/eks.md."""
    blocks = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "eks.md").read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if "karpenter:" in block)


def apply_dry(client: Client, manifests: list[Object]) -> list[str]:
    """Kind and name of each object that the server would take."""
    taken = []
    for document in manifests:
        kept = client.apply(document, dry=True)
        taken.append(f"{kept['kind']} {kept['metadata']['name']}")
    return taken


def admitted(client: Client, policy: Object) -> str:
    """Names of the pods of other namespaces that a policy lets in."""
    names = []
    for rule in policy["spec"]["ingress"]:
        for peer in rule["from"]:
            if "namespaceSelector" in peer:
                expressions = peer["podSelector"]["matchExpressions"]
                wanted = [f"{each['key']} in ({','.join(each['values'])})" for each in expressions]
                pods = client.items("/api/v1/pods", labelSelector=",".join(wanted))
                names += [pod["metadata"]["name"] for pod in pods]
    return " ".join(names)


@pytest.fixture(scope="module")
def namespace(plane: ControlPlane) -> None:
    """The namespace of the example."""
    plane.client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "training"}})


@pytest.fixture(scope="module")
def karpenter(plane: ControlPlane) -> None:
    """Karpenter's definitions; nobody here makes machines."""
    files = karpenter_definitions()
    if not files:
        pytest.skip("needs Karpenter's definitions: `EAGLERAY_CRDS` names the folder that has them")
    operators.install_definitions(plane.client, files)


@pytest.mark.usefixtures("namespace", "kuberay")
def test_the_launches_of_the_example_are_taken(plane: ControlPlane, tmp_path: Path) -> None:
    folder = render(example(), tmp_path)
    manifests = [document for part in ("run", "build", "train") for document in documents(folder / part)]
    taken = apply_dry(plane.client, manifests)
    policy = next(document for document in manifests if document["kind"] == "NetworkPolicy")
    assert "kuberay-operator" in admitted(plane.client, policy)
    assert {"RayJob solar-8b-1", "RayJob solar-8b-1-build", "ConfigMap solar-8b-1"} <= set(taken)


@pytest.mark.usefixtures("namespace", "kueue")
def test_the_queues_and_a_queued_launch_are_taken(plane: ControlPlane, tmp_path: Path) -> None:
    text = example().replace("    image:", "    queue: llm\n    image:")
    folder = render(text, tmp_path, "--kueue")
    parts = ("queues", "run", "build", "train")
    manifests = [document for part in parts for document in documents(folder / part)]
    taken = apply_dry(plane.client, manifests)
    assert {"LocalQueue", "ClusterQueue", "ResourceFlavor", "RayJob"} <= {name.split()[0] for name in taken}


@pytest.mark.usefixtures("namespace", "kueue")
def test_a_cluster_to_work_in_is_taken(plane: ControlPlane, tmp_path: Path) -> None:
    text = example().replace(
        "    image:", '    redis: {address: "rediss://cache.acme.example:6379", secret: ray-redis}\n    image:'
    )
    folder = render(text, tmp_path, "--kind", "cluster")
    taken = apply_dry(plane.client, [each for part in ("run", "cluster") for each in documents(folder / part)])
    assert "RayCluster solar-8b-1-cluster" in taken

    queued = text.replace("    image:", "    queue: llm\n    image:")
    (fixed_folder, scaled_folder) = (tmp_path / "fixed", tmp_path / "scaled")
    fixed_folder.mkdir()
    scaled_folder.mkdir()
    fixed = render(queued.replace("nodes: {min: 0, max: 4}", "nodes: 4"), fixed_folder, "--kind", "cluster")
    (admitted,) = documents(fixed / "cluster")
    assert plane.client.apply(admitted, dry=True)["spec"]["suspend"] is True

    # One that scales is admitted by slices: its pods wait at a gate of Kueue's, by the annotation alone.
    (scaled,) = documents(render(queued, scaled_folder, "--kind", "cluster") / "cluster")
    kept = plane.client.apply(scaled, dry=True)
    assert "elastic-job" in str(kept["spec"]["workerGroupSpecs"][0]["template"]["spec"]["schedulingGates"])
    del scaled["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"]
    with pytest.raises(Refused, match="ElasticJobsViaWorkloadSlices"):
        plane.client.apply(scaled, dry=True)


@pytest.mark.usefixtures("karpenter")
def test_the_nodes_are_taken_and_karpenter_s_rules_are_in_force(plane: ControlPlane, tmp_path: Path) -> None:
    manifests = documents(render(example(), tmp_path) / "nodes")
    taken = apply_dry(plane.client, manifests)
    assert {name.split()[0] for name in taken} == {"NodePool", "EC2NodeClass"}
    pool = next(document for document in manifests if document["kind"] == "NodePool")
    broken = copy.deepcopy(pool)
    # A rule in CEL, no type: it would be taken where rules are not looked at.
    broken["spec"]["template"]["spec"]["requirements"].append({"key": "karpenter.sh/nodepool", "operator": "Exists"})
    with pytest.raises(Refused, match="restricted"):
        plane.client.apply(broken, dry=True)
    unknown = copy.deepcopy(pool)
    unknown["spec"]["expiresAfter"] = "Never"
    with pytest.raises(Refused, match="expiresAfter"):
        plane.client.apply(unknown, dry=True)
