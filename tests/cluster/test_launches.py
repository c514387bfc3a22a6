"""Rendered runs on a real KubeRay: from their manifests to trained models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster import Cluster
from plane import ControlPlane
from runs import Launch, prepare
from training import Corpus

STEPS = 60

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
