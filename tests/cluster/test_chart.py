"""The chart under Helm itself: what it renders is what the test of the rights runs with, and it installs and goes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

import programs
from chart import CHART, chart
from client import Object, read_manifests
from cluster import Cluster
from plane import STATE
from programs import UnreachableError

pytestmark = pytest.mark.long
PARTS = ("elastic", "queue", "nodes", "priority", "leaks", "read", "look")


@pytest.fixture(scope="session")
def helm() -> Path:
    """Helm, built from its modules."""
    try:
        return programs.build(programs.HELM)
    except (UnreachableError, RuntimeError) as error:
        pytest.skip(f"helm cannot be built: {error}")


def run(helm: Path, *words: str) -> str:
    done = subprocess.run([helm, *words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_name(documents: list[Object]) -> dict[tuple[str, str], Object]:
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def switched(*parts: str) -> list[str]:
    return [f"--set=rights.{part}=true" for part in parts]


@pytest.mark.parametrize(
    "parts", [(), PARTS, *((part,) for part in PARTS)], ids=lambda parts: "+".join(parts) or "none"
)
def test_helm_renders_what_the_rights_are_proved_with(helm: Path, parts: tuple[str, ...]) -> None:
    rendered = run(helm, "template", "eagleray", str(CHART), "--namespace=training", *switched(*parts))
    assert by_name(read_manifests(rendered)) == by_name(chart("training", *parts))


def test_the_chart_has_no_faults_and_refuses_keys_that_it_does_not_know(helm: Path) -> None:
    run(helm, "lint", "--strict", str(CHART))
    unknown = subprocess.run(
        [helm, "template", "eagleray", CHART, "--set=rights.leak=true"], capture_output=True, text=True, check=False
    )
    assert unknown.returncode != 0 and "leak" in unknown.stderr


def test_the_chart_installs_changes_and_goes(helm: Path, cluster: Cluster) -> None:
    options = ["--kubeconfig", str(STATE / "admin.conf"), "--namespace", cluster.namespace]
    # A release's objects of the whole cluster are named after it, so that two namespaces may have one each.
    release = "eagleray"
    people = ["--set=users={ana}", "--set=groups={nlp}", "--set=quota.create=true", "--set=quota.hard.pods=10"]
    told = run(helm, "install", release, str(CHART), *options, *people)
    assert "eagleray" in told

    def role() -> dict[str, Any]:
        return cluster.client.get(cluster.path("rbac.authorization.k8s.io/v1", "roles", "eagleray"))

    def verbs(resource: str) -> set[str]:
        return {verb for rule in role()["rules"] if resource in rule["resources"] for verb in rule["verbs"]}

    assert "delete" in verbs("rayjobs") and "delete" not in verbs("rayclusters")
    binding = cluster.client.get(cluster.path("rbac.authorization.k8s.io/v1", "rolebindings", "eagleray"))
    assert {(subject["kind"], subject["name"]) for subject in binding["subjects"]} == {
        ("ServiceAccount", "eagleray-launcher"),
        ("User", "ana"),
        ("Group", "nlp"),
    }
    quota = cluster.client.get(cluster.path("v1", "resourcequotas", "eagleray"))
    assert quota["spec"]["hard"] == {"pods": "10"}
    run(helm, "upgrade", release, str(CHART), *options, *people, *switched(*PARTS))
    assert "delete" in verbs("rayclusters")
    run(helm, "uninstall", release, *options, "--wait")
    left = cluster.client.items(cluster.path("rbac.authorization.k8s.io/v1", "roles"))
    assert not [found for found in left if found["metadata"]["name"].startswith("eagleray")]
