"""Fixtures: one control plane for all tests, a namespace with machines of its own for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import operators
from cluster import Cluster
from plane import ControlPlane
from programs import UnreachableError
from session import one_plane
from training import Corpus, make_corpus


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """The control plane, with one machine for operators; no other session of this machine has one meanwhile."""
    try:
        with one_plane() as plane:
            yield plane
    except UnreachableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kuberay(plane: ControlPlane) -> None:
    """KubeRay's operator, as its manifests install it."""
    operators.install_kuberay(plane)


@pytest.fixture(scope="session")
def kueue(plane: ControlPlane, kuberay: None) -> None:
    """Kueue after KubeRay: it takes on the kinds of jobs that it finds."""
    operators.install_kueue(plane)


@pytest.fixture(scope="session")
def kwok(plane: ControlPlane) -> None:
    """Who keeps machines and pods that are not there."""
    try:
        operators.start_kwok(plane)
    except (UnreachableError, RuntimeError) as error:
        pytest.skip(f"kwok cannot be built: {error}")


@pytest.fixture
def cluster(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A namespace, and machines that go with it; what its pods said is shown where the test failed."""
    cluster = Cluster.make(plane, request.node.originalname)
    yield cluster
    report = getattr(request.node, "report", None)
    if report is not None and report.failed:
        print(cluster.told())
    cluster.remove()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call":
        item.report = report  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The small corpus of the Python tests."""
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder)
    return Corpus(folder)


@pytest.fixture
def shared(cluster: Cluster, tmp_path: Path) -> Path:
    """A folder of the host that pods have by the claim `shared`."""
    folder = tmp_path / "shared"
    folder.mkdir()
    cluster.claim("shared", folder)
    return folder
