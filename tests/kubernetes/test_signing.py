"""A Node's agent asks by CertificateSigningRequest, and the signer answers."""

from __future__ import annotations

import pytest

from tests.kubernetes.cluster import Cluster

pytestmark = pytest.mark.kubernetes


def test_a_node_gets_a_certificate_of_its_chassis_id_from_the_published_root(
    cluster: Cluster,
) -> None:
    cluster.signer()
    node = cluster.nodes[0]
    name = cluster.ask(node.identity, node.chassis_id)
    certificate = cluster.certificate(name)
    assert certificate.subject.rfc4514_string() == f"CN={node.chassis_id},O=ovn-ipsec"
    certificate.verify_directly_issued_by(cluster.roots()[0])
