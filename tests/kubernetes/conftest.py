"""One control plane for the whole run; who acts in it, and signers that are real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import AGENT, PLAIN, SIGNER, STRANGER, Cluster, Node
from tools.kubernetes.control_plane import ControlPlane

_NODES = tuple(Node(f"worker-{number}") for number in range(8))


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
