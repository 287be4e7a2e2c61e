"""One control plane for the whole run; who acts in it, and signers that are real processes.

Nodes that enrol have control planes of their own, where the signer is played.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes import enrolling_node
from tests.kubernetes.cluster import AGENT, PLAIN, SIGNER, STRANGER, Cluster, Node
from tools.kubernetes.control_plane import ControlPlane

_NODES = tuple(Node(f"worker-{number}") for number in range(8))
_numbers = iter(range(1, 1000))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd and kube-apiserver, killed at the end."""
    identities = [SIGNER, AGENT, STRANGER, PLAIN, *(node.identity for node in _NODES)]
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), identities) as plane:
        yield plane


@pytest.fixture
def cluster(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Cluster]:
    """The signer's manifests and some Nodes, and nothing that an earlier test has left."""
    cluster = Cluster(control_plane, tmp_path, _NODES)
    try:
        cluster.clean()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """With the rights of nodes that enrol, and nobody who signs."""
    directory = tmp_path_factory.mktemp("control-plane")
    identities = [enrolling_node.AGENT, enrolling_node.KEEPING]
    with ControlPlane(directory, identities) as running:
        enrolling_node.grant(running)
        yield running


@pytest.fixture
def signer(plane: ControlPlane) -> Iterator[enrolling_node.PlayedSigner]:
    played = enrolling_node.PlayedSigner(plane.client(), f"worker-{next(_numbers)}")
    yield played
    played.stop()


@pytest.fixture
def node(
    plane: ControlPlane, signer: enrolling_node.PlayedSigner, tmp_path: Path
) -> enrolling_node.Node:
    return enrolling_node.node_of(plane, tmp_path / "identity", signer.node)
