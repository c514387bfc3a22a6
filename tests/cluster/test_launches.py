"""Rendered runs on a real KubeRay and a real Kueue: from manifests to trained models, through lost pods."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import wait_for
from cluster import Cluster, documents
from plane import ControlPlane
from runs import Launch, prepare
from training import Corpus, Run

# Long enough that a test can strike in the middle of it.
STEPS = 60
# Longer than a save takes, shorter than the drain of 90 s that is rendered, so that SIGKILL has its say.
GRACE_SECONDS = 20

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def undisturbed(
    plane: ControlPlane, kuberay: None, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launch]:
    """A launch that nobody touched, from its manifests to its end."""
    cluster = Cluster.make(plane, "undisturbed")
    shared = tmp_path_factory.mktemp("undisturbed") / "shared"
    shared.mkdir()
    cluster.claim("shared", shared)
    launch = prepare(cluster, corpus, shared, steps=STEPS)
    launch.apply()
    try:
        cluster.wait_for_job(launch.job)
    except BaseException:
        print(cluster.told())
        raise
    yield launch
    cluster.remove()


def test_a_rendered_run_trains_and_its_cluster_goes(undisturbed: Launch) -> None:
    cluster, run = undisturbed.cluster, undisturbed.run
    assert cluster.ray_job(undisturbed.job)["status"]["jobId"] == undisturbed.job
    assert len(run.digests()) == STEPS and STEPS in run.commits()
    cluster.wait_until_empty()


def test_a_run_whose_worker_pod_is_deleted_ends_with_equal_digests(
    undisturbed: Launch, cluster: Cluster, corpus: Corpus, shared: Path
) -> None:
    launch = prepare(cluster, corpus, shared, steps=STEPS)
    launch.apply()
    wait_for("a save", lambda: commits(cluster, launch))
    victim = cluster.ray_pods("worker")[0]["metadata"]["name"]
    cluster.client.delete(cluster.path("v1", "pods", victim), gracePeriodSeconds=GRACE_SECONDS)
    cluster.wait_for_job(launch.job)
    assert len(launch.run.events("generation")) > 1, "the run did not notice"
    assert launch.run.digests() == undisturbed.run.digests()


def test_a_run_whose_head_pod_is_deleted_goes_on_from_its_newest_commit(
    undisturbed: Launch, cluster: Cluster, corpus: Corpus, shared: Path
) -> None:
    launch = prepare(cluster, corpus, shared, steps=STEPS)
    launch.apply()
    wait_for("a save", lambda: commits(cluster, launch))
    victim = cluster.ray_pods("head")[0]["metadata"]["name"]
    cluster.client.delete(cluster.path("v1", "pods", victim), gracePeriodSeconds=GRACE_SECONDS)
    cluster.wait_for_job(launch.job)
    attempts = {event["attempt"]: event["step"] for event in reversed(launch.run.steps())}
    assert len(attempts) > 1, "the job was not submitted again"
    assert min(step for attempt, step in attempts.items() if attempt > 1) > 10
    assert launch.run.digests() == undisturbed.run.digests()


def commits(cluster: Cluster, launch: Launch) -> list[int]:
    """The steps that are saved; a job that has failed meanwhile is not waited for."""
    status = cluster.ray_job(launch.job).get("status", {})
    assert status.get("jobDeploymentStatus") != "Failed", status
    run: Run = launch.run
    return run.commits()


@pytest.mark.usefixtures("kueue")
def test_a_queued_run_waits_for_its_quota_and_then_trains(cluster: Cluster, corpus: Corpus, shared: Path) -> None:
    launch = prepare(cluster, corpus, shared, "--kueue", on_eks={"queue": "llm"}, steps=60)
    cluster.apply_folder(launch.manifests / "queues")
    queue = next(made for made in documents(launch.manifests / "queues") if made["kind"] == "ClusterQueue")
    cluster.client.patch(cluster.client.path_of(queue), {"spec": {"stopPolicy": "Hold"}})
    cluster.apply_folder(launch.manifests / "run")
    cluster.apply_folder(launch.manifests / "train")
    wait_for("the launch to be suspended", functools.partial(is_suspended, cluster, launch.job))
    assert not cluster.client.items(cluster.path("ray.io/v1", "rayclusters"))
    cluster.client.patch(cluster.client.path_of(queue), {"spec": {"stopPolicy": "None"}})
    cluster.wait_for_job(launch.job)
    assert launch.run.commits()[-1] == 60
    cluster.wait_until_empty()


def is_suspended(cluster: Cluster, job: str) -> bool:
    found = cluster.ray_job(job)
    return bool(found["spec"].get("suspend") and found.get("status", {}).get("jobDeploymentStatus") == "Suspended")
