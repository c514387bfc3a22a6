"""Rendered runs on a real KubeRay and a real Kueue: from manifests to trained models, through lost pods."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client import wait_for
from cluster import Cluster, documents
from kubeflow import compiled, run_step
from plane import STATE, ControlPlane
from runs import Launch, prepare
from training import Corpus, Run

STEPS = 60
# Long enough that a test can strike in the middle of it.
LONG = 300
# Longer than a save takes, shorter than the drain of 90 s that is rendered, so that SIGKILL has its say.
GRACE_SECONDS = 20
# Takes the cluster and the name of a pod.
Strike = Callable[[Cluster, str], None]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def undisturbed(
    plane: ControlPlane, kuberay: None, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launch]:
    """A run that nobody touched: one command from its spec to its end, the build of its data before it."""
    cluster = Cluster.make(plane, "undisturbed")
    shared = tmp_path_factory.mktemp("undisturbed") / "shared"
    shared.mkdir()
    cluster.claim("shared", shared)
    launch = prepare(cluster, corpus, shared, steps=STEPS, on_eks={"cpu": {"instance": "m7i.2xlarge", "nodes": 1}})
    done = launch.command("launch", "--wait", "--timeout", "8m")
    if done.returncode != 0:
        print(done.stderr, cluster.told())
    assert done.returncode == 0, done.stderr
    yield launch
    cluster.remove()


def test_one_command_builds_trains_and_leaves_nothing_that_is_paid_for(undisturbed: Launch) -> None:
    cluster, run = undisturbed.cluster, undisturbed.run
    assert cluster.ray_job(undisturbed.job)["status"]["jobId"] == undisturbed.job
    assert cluster.ray_job(f"{undisturbed.job}-build")["status"]["jobStatus"] == "SUCCEEDED"
    assert len(run.digests()) == STEPS and STEPS in run.commits()
    cluster.wait_until_empty()
    again = undisturbed.command("launch")
    assert again.returncode == 1 and "`eagleray resume` goes on as launch 2" in again.stderr


def test_a_step_of_a_pipeline_that_is_tried_again_finds_its_run_complete(undisturbed: Launch, tmp_path: Path) -> None:
    cluster, job = undisturbed.cluster, undisturbed.job
    spec = cluster.client.get(cluster.path("v1", "configmaps", job))["data"]["run.yaml"]
    pipeline = compiled(tmp_path)
    done, output = run_step(pipeline, tmp_path, STATE / "admin.conf", spec=spec, timeout="1m")
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_text(encoding="utf-8"))["launch"] == job
    done, _ = run_step(pipeline, tmp_path, STATE / "admin.conf", spec=f"{spec}# other\n", timeout="1m")
    assert done.returncode == 1 and "has another spec" in done.stderr
    assert not cluster.ray_pods("worker")


@pytest.mark.long
def test_a_run_that_is_stopped_saves_leaves_nothing_and_is_resumed(
    undisturbed: Launch, cluster: Cluster, corpus: Corpus, shared: Path
) -> None:
    built = undisturbed.shared / "built"
    launch = prepare(cluster, corpus, shared, built=built, steps=1_000_000, every="10 steps")
    made = launch.command("launch", "--built")
    assert made.returncode == 0, made.stderr
    wait_for("a save", lambda: commits(cluster, launch))
    stopped = launch.command("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert "the driver is stopped after step" in stopped.stdout
    assert not cluster.client.items(cluster.path("ray.io/v1", "rayjobs"))
    assert not cluster.client.items(cluster.path("ray.io/v1", "rayclusters"))
    assert not cluster.client.items(cluster.path("v1", "pods"))
    last = max(launch.run.commits())
    end = max(STEPS, last + 10)
    resumed = launch.command("resume", "--built", "--wait", "--set", f"train.steps={end}")
    assert resumed.returncode == 0, resumed.stderr + cluster.told()
    assert cluster.ray_job("tiny-2")["status"]["jobStatus"] == "SUCCEEDED"
    assert next(event["step"] for event in launch.run.steps() if event["attempt"] == 2) == last + 1
    assert_same(launch.run, undisturbed.run)


@pytest.mark.long
def test_an_elastic_run_starts_on_its_floor_and_grows_when_a_machine_comes(
    undisturbed: Launch, cluster: Cluster, corpus: Corpus, shared: Path
) -> None:
    launch = prepare(
        cluster,
        corpus,
        shared,
        built=undisturbed.shared / "built",
        machines=1,
        workers={"min": 1, "max": 2},
        steps=1_000_000,
        on_eks={
            "groups": [{"name": "steady", "instance": "g5.xlarge", "nodes": {"min": 1, "max": 2}}],
            "env": {"EAGLERAY_RESIZE_SECONDS": "5"},
        },
    )
    made = launch.command("launch", "--built")
    assert made.returncode == 0, made.stderr
    wait_for("a save", lambda: commits(cluster, launch))
    assert launch.run.events("generation")[-1]["world"] == 1
    wait_for("the driver to ask for more", lambda: len(cluster.ray_pods("worker")) == 2)
    launch.add_node("steady", 1)
    wait_for("a world of two", lambda: launch.run.events("generation")[-1]["world"] == 2)
    stopped = launch.command("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert_same(launch.run, undisturbed.run)


def struck(launch: Launch, role: str, strike: Strike) -> None:
    """Runs a launch to its end, one of whose pods is struck while it trains."""
    cluster = launch.cluster
    launch.apply()
    wait_for("a save", lambda: commits(cluster, launch))
    strike(cluster, cluster.ray_pods(role)[0]["metadata"]["name"])
    cluster.wait_for_job(launch.job)


def delete(cluster: Cluster, pod: str) -> None:
    cluster.client.delete(cluster.path("v1", "pods", pod), gracePeriodSeconds=GRACE_SECONDS)


def kill(cluster: Cluster, pod: str) -> None:
    """Kills the first process of a pod's container, which its kubelet starts again."""
    status = cluster.pod(pod)["status"]["containerStatuses"][0]
    os.kill(int(status["containerID"].removeprefix("process://")), signal.SIGKILL)
    wait_for(f"`{pod}` to start again", lambda: cluster.pod(pod)["status"]["containerStatuses"][0]["restartCount"] == 1)


@pytest.mark.long
def test_a_run_whose_worker_pod_is_deleted_ends_with_equal_digests(
    undisturbed: Launch, cluster: Cluster, corpus: Corpus, shared: Path
) -> None:
    launch = prepare(cluster, corpus, shared, built=undisturbed.shared / "built", steps=LONG)
    struck(launch, "worker", delete)
    assert len(launch.run.events("generation")) > 1, "the run did not notice"
    assert_same(launch.run, undisturbed.run)


@pytest.mark.long
@pytest.mark.parametrize("strike", [delete, kill])
def test_a_run_that_loses_its_head_goes_on_from_its_newest_commit(
    strike: Strike, undisturbed: Launch, cluster: Cluster, corpus: Corpus, shared: Path
) -> None:
    launch = prepare(cluster, corpus, shared, built=undisturbed.shared / "built", steps=LONG)
    struck(launch, "head", strike)
    attempts = {event["attempt"]: event["step"] for event in reversed(launch.run.steps())}
    assert len(attempts) > 1, "the job was not submitted again"
    assert min(step for attempt, step in attempts.items() if attempt > 1) > 10
    assert_same(launch.run, undisturbed.run)


def assert_same(run: Run, undisturbed: Run) -> None:
    """The same samples and tokens at every step that both have done."""
    mine, theirs = run.digests(), undisturbed.digests()
    common = mine.keys() & theirs.keys()
    assert len(common) >= 10
    assert {step: mine[step] for step in common} == {step: theirs[step] for step in common}


def commits(cluster: Cluster, launch: Launch) -> list[int]:
    """The steps that are saved; a job that has failed meanwhile is not waited for."""
    status = cluster.ray_job(launch.job).get("status", {})
    assert status.get("jobDeploymentStatus") != "Failed", status
    run: Run = launch.run
    return run.commits()


@pytest.mark.long
@pytest.mark.usefixtures("kueue")
def test_a_queued_run_waits_for_its_quota_and_then_trains(
    undisturbed: Launch, cluster: Cluster, corpus: Corpus, shared: Path
) -> None:
    built = undisturbed.shared / "built"
    launch = prepare(cluster, corpus, shared, "--kueue", built=built, on_eks={"queue": "llm"}, steps=STEPS)
    cluster.apply_folder(launch.manifests / "queues")
    queue = next(made for made in documents(launch.manifests / "queues") if made["kind"] == "ClusterQueue")
    cluster.client.patch(cluster.client.path_of(queue), {"spec": {"stopPolicy": "Hold"}})
    cluster.apply_folder(launch.manifests / "run")
    cluster.apply_folder(launch.manifests / "train")
    wait_for("the launch to be suspended", functools.partial(is_suspended, cluster, launch.job))
    assert not cluster.client.items(cluster.path("ray.io/v1", "rayclusters"))
    cluster.client.patch(cluster.client.path_of(queue), {"spec": {"stopPolicy": "None"}})
    cluster.wait_for_job(launch.job)
    assert launch.run.commits()[-1] == STEPS
    cluster.wait_until_empty()


def is_suspended(cluster: Cluster, job: str) -> bool:
    found = cluster.ray_job(job)
    return bool(found["spec"].get("suspend") and found.get("status", {}).get("jobDeploymentStatus") == "Suspended")
