"""A real control plane with the custom resources, a namespace of it for each test, and operators in that.

The tests of ``test_pods.py`` have a node as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.client import CoreV1Api
from kubernetes.config import new_client_from_config

import libraries
import real_cluster
import real_kubernetes
import services
from clusters import Kube, Operators, eventually, install_crds, namespace
from esper.urza import SqlLibrary


@pytest.fixture(scope="session")
def control_plane() -> str:
    """Path of a kubeconfig."""
    kubeconfig = str(real_kubernetes.control_plane()["kubeconfig"])
    install_crds(kubeconfig)
    return kubeconfig


@pytest.fixture(scope="session")
def cluster() -> str:
    """Path of a kubeconfig of a cluster with a node that takes pods."""
    kubeconfig = str(real_cluster.cluster()["kubeconfig"])
    install_crds(kubeconfig)
    with new_client_from_config(kubeconfig) as api:
        eventually(lambda: _ready(CoreV1Api(api)), patience=120)
    return kubeconfig


def _ready(core: CoreV1Api) -> bool:
    conditions = [each for node in core.list_node().items for each in node.status.conditions]
    return any(each.type == "Ready" and each.status == "True" for each in conditions)


@pytest.fixture
def kube(request: pytest.FixtureRequest) -> Iterator[Kube]:
    wanted = "cluster" if request.path.name == "test_pods.py" else "control_plane"
    with namespace(request.getfixturevalue(wanted)) as made:
        yield made


@pytest.fixture
def operators(kube: Kube, tmp_path: Path) -> Iterator[Operators]:
    made = Operators(kube, tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def library(tmp_path: Path) -> Iterator[SqlLibrary]:
    """An empty library."""
    made = SqlLibrary.open(tmp_path / "library")
    yield made
    made.close()


@pytest.fixture
def told(library: SqlLibrary, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Settings of an operator that may enter things in the library."""
    token = tmp_path / "token"
    token.write_text(services.token("trainer"))
    with services.running(library) as address:
        yield {
            "urza_url": address, "urza_token_file": str(token), "hardware": libraries.HARDWARE,
            "toolchain": libraries.TOOLCHAIN,
        }  # fmt: skip
