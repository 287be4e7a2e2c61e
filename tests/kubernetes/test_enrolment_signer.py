"""A node enrols with the real signer, at a real API server."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from ovn_ipsec.identity.denylist import DenyList
from ovn_ipsec.identity.generations import Generations
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.enrolling_node import node_of, role

pytestmark = pytest.mark.kubernetes


def test_real_signer_gives_a_node_its_certificate_roots_and_deny_list(
    cluster: Cluster, tmp_path: Path
) -> None:
    who = cluster.nodes[0]
    for body in role("enroller", "create", "list", "watch", "delete", user=who.identity.user):
        cluster.admin.apply(body)
    cluster.signer()
    node = node_of(cluster.plane, tmp_path / "identity", who.name, who.identity)
    node.database.external_ids["system-id"] = who.chassis_id
    assert node.once().in_place
    roots = x509.load_pem_x509_certificates(node.named("ca_cert"))
    assert roots == cluster.roots()
    certificate = x509.load_pem_x509_certificate(node.named("certificate"))
    certificate.verify_directly_issued_by(roots[0])

    generations = Generations(node.directory)
    enrolment = node.opened(generations)
    enrolment.step()
    deny_list = DenyList(node.directory, node.way, enrolment.credentials, node.database)
    deny_list.follow_once()
    generations.close()
    assert x509.load_pem_x509_crl(node.named("ca_crl")).issuer == roots[0].subject

    # One that claims to be another chassis is told why it gets nothing.
    liar = node_of(cluster.plane, tmp_path / "liar", who.name, who.identity)
    liar.database.external_ids["system-id"] = cluster.nodes[1].chassis_id
    decision = liar.once(timeout_s=1)
    assert not decision.in_place and "Denied: OvnIpsecPolicy" in decision.reason
